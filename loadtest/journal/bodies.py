"""The usages that a load test sends: each a function of the journal's token and the request's number."""

from __future__ import annotations

import json
import random
import re
from bisect import bisect_left
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import TypeVar

T = TypeVar("T")

POOL_SIZE = 4096  # a power of two
PATIENT_BITS = 16
NUMBER_SHARE = 0.1
NOTE_SHARE = 0.03
NOTE_CHARACTERS_MAX = 400
DAY_S = 86_400
HOURS = (1, 1, 1, 1, 2, 4, 8, 10, 8, 6, 5, 5, 6, 5, 5, 5, 6, 7, 8, 8, 9, 9, 5, 2)
MEDICATIONS = {
    "Albuterol": 55,
    "Levalbuterol": 8,
    "Fluticasone": 12,
    "Fluticasone/Salmeterol": 9,
    "Budesonide/Formoterol": 9,
    "Tiotropium": 4,
    "Ipratropium": 2,
    "Salbutamol (Ventolin®)": 1,
}
DAYS = ("Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat")
NOTE_WORDS = ("after", "exercise", "woke", "up", "cough", "wheezing", "pollen", "kalt", "dépôt", "2 puffs", "≥ 3", "—")

MARK = b'"loadtest": "'
END = b'"}'
IDENTITY_BYTES = 27
"""Of a body's last 29; ten digits hold the number, and CAPACITY_MAX has no more."""
SEARCHED = re.compile(rb'"loadtest"\s*:\s*"([0-9a-f]{16})-([0-9]{10})"')


class Usages:
    """The bodies of one journal; ``body(seq)`` is the same wherever and whenever it is asked.

    A body is the example of the original's README, ``{"patientId": "100", "timestamp": "Tue Nov 01 2016 09:11:51
    GMT-0500 (CDT)", "medication": "Albuterol"}``, with values drawn anew and one more field, ``loadtest``, that says whose
    it is. 4,096 of them, drawn with the token as seed, are sent in turn:

    - patientId: one of 65,535, evenly on a scale of powers of two, so that some patients come often and most seldom; a string,
      and in a tenth of the bodies a number, as that README has both.
    - timestamp: JavaScript's ``Date.toString()`` in US Central time, as in the example, of the week that begins with it;
      the hour by a day's course, with its peaks after waking and before sleeping.
    - medication: inhalers of a rescue and controller programme, more than half of them the example's own; what each
      weighs is an assumption, as no distribution was ever published. One in a hundred has a name that is not ASCII.
    - note: in 3 of 100 bodies, free text of up to 400 characters, not all ASCII. So bodies have 141 to about 700 bytes,
      154 on average.
    """

    def __init__(self, token: int) -> None:
        # Of Random only random() gives the same numbers in every release of Python.
        draw = random.Random(token).random
        self._starts = [_start(draw, token) for _ in range(POOL_SIZE)]

    def body(self, seq: int) -> bytes:
        """The bytes of a usage: JSON in UTF-8."""
        return b'%b%010d"}' % (self._starts[seq & POOL_SIZE - 1], seq)

    def requests(self, head: Callable[[int], bytes]) -> Callable[[int], bytes]:
        """``request(seq)``, a whole request in one piece; ``head`` gives what stands before a body of so many bytes."""
        length = len(b"%010d" % 0 + END)
        starts = [head(len(start) + length) + start for start in self._starts]

        def request(seq: int) -> bytes:
            return b'%b%010d"}' % (starts[seq & POOL_SIZE - 1], seq)

        return request


def find_identity(body: bytes) -> tuple[bytes, int] | None:
    """(token in hexadecimal digits, seq) that a stored usage carries, also one that was altered; None without any."""
    if body[-29 - len(MARK) : -29] == MARK and body.endswith(END):
        digits = body[-12:-2]
        if digits.isdigit():
            return body[-29:-13], int(digits)
    if MARK[:-3] not in body:
        return None
    found = SEARCHED.search(body)
    return (found[1], int(found[2])) if found else None


def _start(draw: Callable[[], float], token: int) -> bytes:
    # By powers of two: a logarithm's last bit differs between machines.
    least = 1 << int(PATIENT_BITS * draw())
    patient = least + int(least * draw())
    usage: dict[str, str | int] = {
        "patientId": patient if draw() < NUMBER_SHARE else str(patient),
        "timestamp": _timestamp(draw),
        "medication": _weighted(draw, tuple(MEDICATIONS), tuple(MEDICATIONS.values())),
    }
    if draw() < NOTE_SHARE:
        usage["note"] = _note(draw)
    text = json.dumps(usage, ensure_ascii=False).encode()
    return text[:-1] + b", " + MARK + b"%016x-" % token


def _timestamp(draw: Callable[[], float]) -> str:
    day = 1 + int(7 * draw())
    # Daylight saving time ended on 6 November 2016, at 2 in the morning.
    hour = _weighted(draw, range(24), HOURS)
    zone = "GMT-0500 (CDT)" if (day, hour) < (6, 2) else "GMT-0600 (CST)"
    second = int(3600 * draw())
    return f"{DAYS[(day + 1) % 7]} Nov {day:02d} 2016 {hour:02d}:{second // 60:02d}:{second % 60:02d} {zone}"


def _note(draw: Callable[[], float]) -> str:
    length = 1 + int(NOTE_CHARACTERS_MAX * draw())
    words: list[str] = []
    while sum(map(len, words)) + len(words) <= length:
        words.append(NOTE_WORDS[int(len(NOTE_WORDS) * draw())])
    return " ".join(words)[:length].strip()


def _weighted(draw: Callable[[], float], items: Sequence[T], weights: Sequence[int]) -> T:
    sums = list(accumulate(weights))
    return items[bisect_left(sums, draw() * sums[-1])]
