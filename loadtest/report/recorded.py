"""What a run of the load test left in its directory, read back: its facts, its timeline, CPU times, the reconciliation."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec

from loadtest.report.pieces import Scalar

FACTS, TIMELINE, CPU, RECONCILE = "run.json", "timeline.json", "cpu.json", "reconcile.json"
WARM_UP = "warm-up"
"""The directory, in a run's, of what warmed it up."""
BEGINNING = "POST "
"""What each user does first for an arrival."""
GENERATOR = "generator"
"""The role of the processes that make the load: their CPU time is no cost of the service."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What was asked for, when and where. Times are Unix seconds, an empty store was not reconciled."""

    title: str
    began_unix_s: float = 0.0
    host: str = ""
    store: str = ""
    interrupted: bool = False
    commit: str = ""
    dirty: bool = False
    cpu: str = ""
    cores: int = 0
    memory_gib: float = 0.0
    kernel: str = ""
    options: dict[str, Scalar] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def to_json(self) -> str:
        """For its file."""
        return json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n"


@dataclass(frozen=True, slots=True)
class Requests:
    """Those of one name within some time: answered as they should be, or failed, each with its reason.

    Latencies are those of the answered alone: µs by bucket of the timeline.
    """

    answered: int = 0
    failed: int = 0
    bytes: int = 0
    latency: Mapping[int, int] = field(default_factory=dict)
    errors: Mapping[str, int] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """All of them."""
        return self.answered + self.failed


@dataclass(frozen=True)
class Moment:
    """What happened in some seconds that follow each other, from the run's second `start_s` on. Users are their mean."""

    start_s: int
    seconds: int
    offered: int
    unsent: int
    users: float
    requests: Mapping[str, Requests]

    @property
    def begun(self) -> int:
        """Arrivals that were answered: a user that makes several requests for each counts once, by its POST."""
        return sum(each.answered for name, each in self.requests.items() if name.startswith(BEGINNING))

    @cached_property
    def all(self) -> Requests:
        """The requests of all names together."""
        return together(self.requests.values())


@dataclass(frozen=True, slots=True)
class Phase:
    """A named part of the load, in seconds since the run's first."""

    name: str
    from_s: float
    to_s: float
    best: bool = False
    """Of a search for the highest rate: the last good one."""


@dataclass(frozen=True, slots=True)
class CpuSample:
    """CPU seconds by role in the `took_s` seconds around the run's second `start_s`."""

    start_s: int
    took_s: float
    cpu_s: Mapping[str, float]
    machine_s: float


@dataclass(frozen=True)
class Run:
    """All of a run. A run that measured nothing has no moments; one that was not reconciled has no reconciliation."""

    facts: Facts
    moments: tuple[Moment, ...] = ()
    """A second each; those in which nothing happened are not there."""
    earlier: Moment | None = None
    """The sum of what happened before the first of them, when the run was too long to keep each second."""
    cpu: tuple[CpuSample, ...] = ()
    generators: Mapping[str, Mapping[int, float]] = field(default_factory=dict)
    """CPU seconds of each generating process by second of the run."""
    reconciliation: Mapping[str, Any] | None = None
    warm_up: Mapping[str, Any] | None = None
    phases: tuple[Phase, ...] = ()
    notes: tuple[str, ...] = ()
    """The facts', and those that were made while the load ran."""

    @property
    def open_loop(self) -> bool:
        """Whether a rate was offered; otherwise each user waited for its answer before its next request."""
        return any(moment.offered for moment in self.moments)

    @property
    def last_s(self) -> int:
        """The second after the last in which anything happened."""
        return self.moments[-1].start_s + 1 if self.moments else 0


def read_run(directory: Path) -> Run:
    """A run by its directory. A file that is not there is a part that is missing; ValueError names one that is broken."""
    facts_text = _text(directory / FACTS)
    try:
        facts = msgspec.json.decode(facts_text, type=Facts) if facts_text else Facts(title=directory.name)
    except msgspec.MsgspecError as error:
        raise ValueError(f"{directory / FACTS}: {error}") from None
    return run_of(
        facts,
        timeline=_json(directory / TIMELINE),
        cpu=_json(directory / CPU),
        reconciliation=_json(directory / RECONCILE) or None,
        warm_up=_json(directory / WARM_UP / RECONCILE) or None,
    )


def run_of(
    facts: Facts,
    *,
    timeline: Mapping[str, Any],
    cpu: Mapping[str, Any],
    reconciliation: Mapping[str, Any] | None = None,
    warm_up: Mapping[str, Any] | None = None,
) -> Run:
    """A run from the contents of its files. Raises ValueError for contents that are not of their shape."""
    try:
        seconds = {int(second): content for second, content in timeline.get("seconds", {}).items()}
        first = min(seconds, default=0)
        moments = tuple(_moment(second - first, 1, seconds[second]) for second in sorted(seconds))
        before_s = max(0, first - math.floor(facts.began_unix_s)) if facts.began_unix_s else 0
        earlier = _moment(-before_s, before_s, timeline["earlier"]) if "earlier" in timeline else None
        generators = {
            process: {int(second) - first: float(cpu_s) for second, cpu_s in used.items()}
            for process, used in timeline.get("generators", {}).items()
        }
        phases = tuple(phase for test in timeline.get("tests", ()) for phase in _phases(test, first))
        samples = tuple(_sample(each, first) for each in cpu.get("samples", ()))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"the timeline or the CPU times are not of their shape: {error!r}") from None
    said = tuple(str(note) for note in timeline.get("notes", ()))
    return Run(facts, moments, earlier, samples, generators, reconciliation, warm_up, phases, (*facts.notes, *said))


def together(parts: Iterable[Requests]) -> Requests:
    """The sum of several."""
    answered = failed = length = 0
    latency: dict[int, int] = {}
    errors: dict[str, int] = {}
    for part in parts:
        answered, failed, length = answered + part.answered, failed + part.failed, length + part.bytes
        for bucket, count in part.latency.items():
            latency[bucket] = latency.get(bucket, 0) + count
        for reason, count in part.errors.items():
            errors[reason] = errors.get(reason, 0) + count
    return Requests(answered, failed, length, latency, errors)


def joined(moments: Sequence[Moment]) -> Moment:
    """The sum of some moments, as long as they were together; users are the mean of those seconds that know of some."""
    names = dict.fromkeys(name for moment in moments for name in moment.requests)
    with_users = [moment.users for moment in moments if moment.users]
    return Moment(
        start_s=moments[0].start_s if moments else 0,
        seconds=sum(moment.seconds for moment in moments),
        offered=sum(moment.offered for moment in moments),
        unsent=sum(moment.unsent for moment in moments),
        users=sum(with_users) / len(with_users) if with_users else 0.0,
        requests={
            name: together(moment.requests[name] for moment in moments if name in moment.requests) for name in names
        },
    )


def binned(run: Run, bins_max: int) -> list[Moment]:
    """The run from its first second to its last in moments of equal length, at most so many; a quiet one is empty."""
    width = max(1, math.ceil(run.last_s / bins_max))
    found: dict[int, list[Moment]] = {}
    for moment in run.moments:
        found.setdefault(moment.start_s // width, []).append(moment)
    bins = []
    for index in range(math.ceil(run.last_s / width)):
        content = joined(found.get(index, ()))
        bins.append(Moment(index * width, width, content.offered, content.unsent, content.users, content.requests))
    return bins


def _phases(test: Mapping[str, Any], first: int) -> list[Phase]:
    """Of one test; a search for the highest rate has a step for each, in the same order."""
    steps, best = test.get("steps", ()), test.get("last_good_rate")
    good = [index for index, step in enumerate(steps) if best and step["rate"] == best and not step["fault"]]
    return [
        Phase(str(each["name"]), each["from_unix_s"] - first, each["to_unix_s"] - first, index in good[-1:])
        for index, each in enumerate(test.get("phases", ()))
    ]


def _moment(start_s: int, seconds: int, content: Mapping[str, Any]) -> Moment:
    return Moment(
        start_s=start_s,
        seconds=seconds,
        offered=int(content.get("offered", 0)),
        unsent=int(content.get("unsent", 0)),
        users=float(content.get("users", 0)),
        requests={str(name): _requests(each) for name, each in content.get("requests", {}).items()},
    )


def _requests(content: Mapping[str, Any]) -> Requests:
    errors = {str(reason): int(count) for reason, count in content.get("errors", {}).items()}
    failed = sum(errors.values())
    return Requests(
        answered=int(content["count"]) - failed,
        failed=failed,
        bytes=int(content.get("bytes", 0)),
        latency={int(bucket): int(count) for bucket, count in content.get("latency", {}).items()},
        errors=errors,
    )


def _sample(content: Mapping[str, Any], first: int) -> CpuSample:
    ended, took_s = float(content["at_unix_s"]), float(content["took_s"])
    used = {str(role): float(cpu_s) for role, cpu_s in content["cpu_s"].items()}
    return CpuSample(math.floor(ended - took_s / 2) - first, took_s, used, float(content.get("machine_s", 0.0)))


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""


def _json(file: Path) -> dict[str, Any]:
    text = _text(file)
    try:
        content = json.loads(text or "{}")
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{file}: it holds no JSON object")  # noqa: TRY004 - broken contents are one kind of error
    return content
