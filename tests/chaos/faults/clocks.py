"""The clock of one web instance: an hour ahead, an hour behind, and steps back and forth. It decides nothing, so none shows."""

from __future__ import annotations

import email.utils
import http.client
import json
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from deploy.cluster.state import ProcessState
from tests.chaos.faults import Context, Failures, Fault, Needs, Preparation, Seen, Sees, targets_of
from tests.chaos.faults.faked_clock import RIGHT, library, set_clock

CLOCKS = "clocks"
HOUR_S = 3600.0
TAKES_EFFECT_WITHIN_S = 6.0
OFF_BY_S = 3.0
"""libfaketime looks into its file once a second, and Date has whole seconds."""
ROUNDS = 10
STEPS = ("+40m", "-20m", "+1h", "-1h", "+5s", "-5s")
TIMEOUT_S = 10.0


@contextmanager
def own_clocks(preparation: Preparation) -> Iterator[None]:
    """Every web instance has a clock that can be set; faults of one topology share them."""
    directory = preparation.state_dir / CLOCKS
    if not directory.exists():
        directory.mkdir()
        start = (sys.executable, "-m", "tests.chaos.faults.faked_clock", str(directory))
        preparation.service_command = (*start, *preparation.service_command)
    yield


@dataclass(frozen=True, slots=True)
class Instance:
    """A web instance, asked without HAProxy."""

    process: ProcessState

    def ask(self, method: str, path: str, document: object = None) -> http.client.HTTPResponse:
        """One answer, read to its end."""
        connection = http.client.HTTPConnection(self.process.address, self.process.port, timeout=TIMEOUT_S)
        try:
            connection.request(method, path, None if document is None else json.dumps(document))
            answer = connection.getresponse()
            answer.read()
            return answer
        finally:
            connection.close()

    def off_by_s(self) -> float:
        """Its clock against this one, by the Date of an answer."""
        date = email.utils.parsedate_to_datetime(self.ask("GET", "/livez").headers["date"])
        return date.timestamp() - time.time()


def clock_file(context: Context) -> Path:
    """What sets the target's clock."""
    return context.cluster.state_dir / CLOCKS / str(context.cluster.process(context.target).port)


def shifted(offset: str, seconds: float) -> Callable[[Context], None]:
    """Sets the target's clock, sees that it is, and lets instances with different clocks write after one another."""

    def inject(context: Context) -> None:
        target = Instance(context.cluster.process(context.target))
        set_clock(clock_file(context), offset)
        context.until(lambda: abs(target.off_by_s() - seconds) < OFF_BY_S, TAKES_EFFECT_WITHIN_S, 0.2)
        context.seen["wanted_s"] = seconds
        context.seen["off_by_s"] = round(target.off_by_s(), 1)
        context.seen["wrong"] = out_of_order(context)

    return inject


def step(context: Context) -> None:
    """One step after the other, forth and back; each lasts a little more than libfaketime needs to notice it."""
    context.injections = 0
    for offset in STEPS[:3] if context.quick else STEPS:
        set_clock(clock_file(context), offset)
        context.injections += 1
        if not context.pause(1.3):
            return
    context.seen["wrong"] = out_of_order(context)


def set_right(context: Context) -> None:
    """A step back, or forth, to the time that it is. The answers between two instances are looked at once more."""
    set_clock(clock_file(context), RIGHT)
    if not context.stopping.is_set():
        context.seen["wrong"] = context.seen.get("wrong", []) + out_of_order(context)


def out_of_order(context: Context) -> list[str]:
    """DELETE then POST, and POST then DELETE, by the target and another, each first in turn: what a read finds wrong."""
    web = [Instance(process) for process in context.cluster.processes("web") if process.running]
    web.sort(key=lambda instance: instance.process.name != context.target)
    found = []
    for number in range(ROUNDS):
        one, other = (web[0], web[-1]) if number % 2 else (web[-1], web[0])
        text = uuid.uuid4().hex
        path = f"/messages/{sha256(text.encode()).hexdigest()}"
        for who, method, document, reader, wanted in (
            (one, "POST", {"message": text}, other, 200),
            (other, "DELETE", None, one, 404),
            (one, "POST", {"message": text}, other, 200),
            (other, "DELETE", None, other, 404),
            (other, "POST", {"message": text}, one, 200),
        ):
            told = who.ask(method, "/messages" if document else path, document).status
            seen = reader.ask("GET", path).status
            if told not in (200, 201) or seen != wanted:
                found.append(f"{method} by {who.process.name}: {told}, GET by {reader.process.name}: {seen}")
    return found


def in_order(seen: Seen) -> list[str]:
    """The clock was off, or nothing is shown; and every write took effect in the order in which they were made."""
    found = list(seen.get("wrong", []))
    if abs(seen.get("off_by_s", 0.0) - seen.get("wanted_s", 0.0)) > OFF_BY_S:
        found.append(f"the clock was off by {seen['off_by_s']} s, not {seen['wanted_s']}")
    return found


def _missing() -> str:
    return "" if library() else "libfaketime is not installed"


def _fault(name: str, does: str, inject: Callable[[Context], None], lasts_s: float, *, in_quick: bool = False) -> Fault:
    return Fault(
        name=f"clock-{name}",
        place="clocks",
        does=does,
        inject=inject,
        heal=set_right,
        sees=Sees(failures=Failures.NONE, answered_within_s=5.0),
        needs=Needs(missing=_missing),
        length_s=(2.0, 5.0),
        lasts_s=lasts_s,
        after_s=2.0,
        targets=targets_of("web"),
        in_quick=in_quick,
        prepare=own_clocks,
        check=in_order,
    )


FAULTS = (
    _fault("ahead", "the clock of one web instance an hour ahead, then set right", shifted("+1h", HOUR_S), 6.0),
    _fault("behind", "the clock of one web instance an hour behind, then set right", shifted("-1h", -HOUR_S), 6.0),
    _fault("steps", "the clock of one web instance steps forth and back", step, 10.0, in_quick=True),
)
