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
from service.timespan import parse_rfc3339
from tests.chaos.faults import Context, Failures, Fault, Needs, Preparation, Seen, Sees, targets_of
from tests.chaos.faults.faked_clock import RIGHT, library, set_clock

CLOCKS = "clocks"
TAKES_EFFECT_WITHIN_S = 6.0
OFF_BY_S = 3.0
"""libfaketime looks into its file once a second, and Date has whole seconds."""
ROUNDS = 10
OFFSETS_S = {"+40m": 2400.0, "-20m": -1200.0, "+1h": 3600.0, "-1h": -3600.0, "+15s": 15.0, "-15s": -15.0}
"""As libfaketime writes them; the steps of one injection are made in this order."""
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
class Answer:
    """Of a web instance."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes


@dataclass(frozen=True, slots=True)
class Instance:
    """A web instance, asked without HAProxy."""

    process: ProcessState

    def ask(self, method: str, path: str, document: object = None) -> Answer:
        """One answer, read to its end."""
        connection = http.client.HTTPConnection(self.process.address, self.process.port, timeout=TIMEOUT_S)
        try:
            connection.request(method, path, None if document is None else json.dumps(document))
            answer = connection.getresponse()
            return Answer(answer.status, answer.headers, answer.read())
        finally:
            connection.close()

    def off_by_s(self) -> float:
        """Its clock against this one, by the Date of an answer."""
        date = email.utils.parsedate_to_datetime(self.ask("GET", "/livez").headers["date"])
        return date.timestamp() - time.time()


def clock_file(context: Context) -> Path:
    """What sets the target's clock."""
    return context.cluster.state_dir / CLOCKS / str(context.cluster.process(context.target).port)


def shifted(offset: str) -> Callable[[Context], None]:
    """Sets the target's clock, sees that it is, and lets instances with different clocks write after one another."""

    def inject(context: Context) -> None:
        across(context, offset)
        context.seen["wrong"] += out_of_order(context)

    return inject


def step(context: Context) -> None:
    """One step after the other, forth and back."""
    context.injections = 0
    for offset in list(OFFSETS_S)[:3] if context.quick else OFFSETS_S:
        across(context, offset)
        context.injections += 1
        if not context.pause(0.2):
            return
    context.seen["wrong"] += out_of_order(context)


def set_right(context: Context) -> None:
    """A step back, or forth, to the time that it is. The answers between two instances are looked at once more."""
    try:
        if not context.stopping.is_set():
            across(context, RIGHT)
            context.seen["wrong"] += out_of_order(context)
    finally:
        set_clock(clock_file(context), RIGHT)


def across(context: Context, offset: str) -> None:
    """Set the target's clock, which deletes a message before and stores it again after, and receives a usage then.

    ``seen["steps"]`` has what the clock was to be off by and what it was, ``seen["wrong"]`` what a reader found.
    """
    target, reader = pair(context)
    text = uuid.uuid4().hex
    path = f"/messages/{sha256(text.encode()).hexdigest()}"
    told = [target.ask("POST", "/messages", {"message": text}).status, target.ask("DELETE", path).status]
    set_clock(clock_file(context), offset)
    wanted_s = OFFSETS_S.get(offset, 0.0)
    context.until(lambda: abs(target.off_by_s() - wanted_s) < OFF_BY_S, TAKES_EFFECT_WITHIN_S, 0.2)
    steps = context.seen.setdefault("steps", [])
    steps.append({"wanted_s": wanted_s, "off_by_s": round(target.off_by_s(), 1)})
    told += [target.ask("POST", "/messages", {"message": text}).status, reader.ask("GET", path).status]
    wrong = context.seen.setdefault("wrong", [])
    if told != [201, 200, 201, 200]:
        wrong.append(f"POST, DELETE, {offset}, POST by {target.process.name}, GET by {reader.process.name}: {told}")
    wrong += received_when_it_was(target, reader)


def received_when_it_was(target: Instance, reader: Instance) -> list[str]:
    """A usage that the target takes in has the time that it is."""
    before_s = time.time()
    stored = target.ask("POST", "/api/usages", {})
    if stored.status != 201:
        return [f"POST of a usage by {target.process.name}: {stored.status}"]
    after_s = time.time()
    received = json.loads(reader.ask("GET", stored.headers["location"]).body)["received_at"]
    received_s = (parse_rfc3339(received) or 0) / 1e6
    if before_s - OFF_BY_S < received_s < after_s + OFF_BY_S:
        return []
    return [f"a usage was received at {received}, {received_s - after_s:.0f} s off"]


def pair(context: Context) -> tuple[Instance, Instance]:
    """The target, and another web instance."""
    web = [Instance(process) for process in context.cluster.processes("web") if process.running]
    web.sort(key=lambda instance: instance.process.name != context.target)
    return web[0], web[-1]


def out_of_order(context: Context) -> list[str]:
    """DELETE then POST, and POST then DELETE, by the target and another, each first in turn: what a read finds wrong."""
    target, another = pair(context)
    found = []
    for number in range(ROUNDS):
        one, other = (target, another) if number % 2 else (another, target)
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
    """The clock was off, each time, or nothing is shown; and every write took effect in the order in which they were made."""
    return [
        *seen.get("wrong", []),
        *(
            f"the clock was off by {each['off_by_s']} s, not {each['wanted_s']}"
            for each in seen.get("steps", [])
            if abs(each["off_by_s"] - each["wanted_s"]) > OFF_BY_S
        ),
    ]


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
    _fault("ahead", "the clock of one web instance an hour ahead, then set right", shifted("+1h"), 6.0),
    _fault("behind", "the clock of one web instance an hour behind, then set right", shifted("-1h"), 6.0),
    _fault("steps", "the clock of one web instance steps forth and back", step, 10.0, in_quick=True),
)
