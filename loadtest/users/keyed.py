"""A user that posts usages under idempotency keys, some of them again."""

from __future__ import annotations

import random
import time

from locust.env import Environment

from loadtest.journal import Kind, State, Usages, key
from loadtest.users.burst import BurstUser
from loadtest.users.checks import document_of, not_acknowledged
from loadtest.users.connection import NoAnswer
from loadtest.users.usage import PATH

REPLAYED_FROM = 65_536
"""A replay repeats one of so many latest keys of the process."""


class KeyedUsageUser(BurstUser):
    """Posts one usage in each step, under a new UUIDv7 or, in a share of them (``--replays``), under an earlier one.

    A new one must be told 201. A replay, with the same body, must be told that it is a duplicate (200) when the first had
    been acknowledged before, and 201 when each attempt before had been refused; when neither is known, one is as good as the other.
    """

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        self._first = self.process.endpoint("POST", PATH)
        self._replay = self.process.endpoint("POST", f"{PATH} (replay)")
        self._journal = journal = self.process.journal(Kind.KEYED)
        self._usages = self.process.shared(("keyed usages", journal), lambda: Usages(journal.token))
        self._share = self.process.settings.replays
        lines = self.target.head("POST", PATH, 0, "Idempotency-Key: @\r\n").replace(b"%", b"%%")
        self._format = lines.replace(b"Key: @", b"Key: %b").replace(b"Length: 0", b"Length: %d") + b"%b"

    def step(self, started_s: float) -> None:
        """One usage under a key."""
        journal = self._journal
        endpoint = self._first
        alone = True
        accepted: tuple[int, ...] = (201,)
        if journal.used and random.random() < self._share:
            endpoint = self._replay
            seq = random.randrange(max(journal.used - REPLAYED_FROM, 0), journal.used)
            before = journal.state(seq)
            alone = before == State.REFUSED
            accepted = (200,) if before == State.ACKNOWLEDGED else (201,) if alone else (200, 201)
            journal.again(seq)
        else:
            seq = journal.intent(int(time.time() * 1000))
        text = key(journal.token, seq, journal.at_ms(seq))
        body = self._usages.body(seq)
        try:
            answer = self.exchange(endpoint, self._format % (text.encode(), len(body), body), started_s)
        except NoAnswer as error:
            journal.outcome(seq, State.UNKNOWN if error.sent else State.REFUSED)
            return
        if alone and journal.state(seq) != State.SENT:
            # It was replayed before its answer came, and whichever was first is told 201.
            accepted = (200, 201)
        if _fits(answer.status, answer.body, text):
            journal.outcome(seq, State.ACKNOWLEDGED)
            if answer.status in accepted:
                endpoint.success(started_s, len(answer.body))
                return
        elif answer.status not in (200, 201):
            journal.outcome(seq, not_acknowledged(answer.status))
        else:
            journal.outcome(seq, State.UNKNOWN)
        expected = "200 duplicate" if accepted == (200,) else '201 {"id": the key}'
        self.failed(endpoint, answer, started_s, expected)


def _fits(status: int, body: bytes, text: str) -> bool:
    """Whether this answer acknowledges that key."""
    if status == 201:
        return body == b'{"id": "%b"}' % text.encode() or document_of(body) == {"id": text}
    if status == 200:
        wanted = b'{"id": "%b", "duplicate": true}' % text.encode()
        return body == wanted or document_of(body) == {"id": text, "duplicate": True}
    return False
