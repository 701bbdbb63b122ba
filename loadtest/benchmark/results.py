"""What one run of the benchmark found: frozen dataclasses that go to JSON and come back equal."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Literal

import msgspec

SCHEMA = 1
"""The version of the document; a reader refuses every other."""

Scalar = str | int | float | bool | None
GENERATOR = "generator"
"""The role of the load generator: its CPU time is shown, but is no cost of what it measures."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """Where it ran: memory in GiB, versions by the name of the software."""

    cpu: str
    cores: int
    memory_gib: float
    kernel: str
    versions: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """Percentiles of the time from a request's first byte out to its answer, in µs."""

    p50: float
    p90: float
    p99: float
    p999: float
    max: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One subject under load for some seconds, in one round of the interleaving; the key is its own alone.

    Where requests are batches, all but the latency counts their usages, and a 2xx is a usage that was said to be created. CPU is in µs per request by role: web, haproxy, cassandra, server, postgres, generator.
    """

    key: str
    subject: str
    round: int
    connections: int
    seconds: float
    per_second: float
    acknowledged: int
    """Requests answered with a 2xx."""
    failures: int = 0
    """Requests answered with anything else."""
    unknown: int = 0
    """Requests without an answer, which may have been stored all the same."""
    latency_us: Latency
    cpu_us_per_request: dict[str, float] = field(default_factory=dict)
    stored: int | None = None
    """Rows found in the store afterwards; None where nobody counted or there is no store."""
    ids_distinct: bool | None = None
    memory_growth_mib: float | None = None
    """Of the web instance that grew most, where that was looked at."""
    note: str = ""

    @property
    def holds(self) -> bool | None:
        """Whether each 2xx is a row, and each id is one request's alone; None when neither was checked."""
        if self.stored is None and self.ids_distinct is None:
            return None
        counted = self.stored is None or self.acknowledged <= self.stored <= self.acknowledged + self.unknown
        return counted and self.ids_distinct is not False


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One number that was promised a target: the median of its rounds, and where it comes from."""

    key: str
    title: str
    unit: str
    """`ratio`, `µs`, `usages/s`, or any other that is written behind a number."""
    target: float | None = None
    comparison: Literal[">=", "<="] = ">="
    value: float | None = None
    """The median of `rounds` where there are any."""
    rounds: tuple[float, ...] = ()
    """The same number from each round of the interleaving alone, first round first."""
    missing: str | None = None
    """Why it could not be measured."""
    detail: str = ""
    parts: tuple[str, ...] = ()
    """Keys of the measurements it was made of."""

    @property
    def met(self) -> bool | None:
        """Whether the value reaches the target; None where one of them is not there."""
        if self.value is None or self.target is None:
            return None
        return self.value >= self.target if self.comparison == ">=" else self.value <= self.target


@dataclass(frozen=True, slots=True, kw_only=True)
class CurvePoint:
    """A subject at a number of connections: latencies in ms, CPU in µs per request by role."""

    subject: str
    connections: int
    per_second: float
    p50_ms: float
    p99_ms: float
    cpu_us: dict[str, float] = field(default_factory=dict)
    failures: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ScalingPoint:
    """The throughput of so many web instances; `of_linear` is 1 where n of them do n times the work of one."""

    instances: int
    per_second: float
    of_linear: float
    cpu_share: dict[str, float] = field(default_factory=dict)
    """By role, the share of all the machine's cores: 0 to 1."""
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPoint:
    """Resident memory of each web instance in MiB, so many seconds into a steady load."""

    seconds: float
    rss_mib: tuple[float, ...]
    per_second: float


@dataclass(frozen=True, slots=True, kw_only=True)
class StallPoint:
    """The same around a stall of the store, with the answers per second by status."""

    seconds: float
    rss_mib: tuple[float, ...]
    stalled: bool
    answers_per_second: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Headline:
    """Requests per second of the two old services and of this one, under one shape of load."""

    shape: str
    busyapi_then: float | None = None
    messages_then: float | None = None
    usages_now: float | None = None
    messages_now: float | None = None
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """A whole run: when (ISO 8601, UTC), of which commit, on what, and all it found."""

    when: str
    commit: str
    dirty: bool
    machine: Machine
    quick: bool
    seconds_total: float
    settings: dict[str, Scalar] = field(default_factory=dict)
    rows: tuple[Row, ...] = ()
    measurements: tuple[Measurement, ...] = ()
    curve: tuple[CurvePoint, ...] = ()
    scaling: tuple[ScalingPoint, ...] = ()
    memory: tuple[MemoryPoint, ...] = ()
    memory_summary: dict[str, Scalar] = field(default_factory=dict)
    stream: tuple[MemoryPoint, ...] = ()
    stream_summary: dict[str, Scalar] = field(default_factory=dict)
    stall: tuple[StallPoint, ...] = ()
    stall_summary: dict[str, Scalar] = field(default_factory=dict)
    headline: tuple[Headline, ...] = ()
    missing: dict[str, str] = field(default_factory=dict)
    """Why a section was not measured: rounds, curve, cpu, scaling, stream, memory, stall, headline or verification."""
    notes: tuple[str, ...] = ()
    schema: int = SCHEMA

    def to_json(self) -> str:
        """The document as indented JSON, each row with `met` for those who read it elsewhere; no NaN or infinity."""
        document = msgspec.to_builtins(self)
        for row, written in zip(self.rows, document["rows"], strict=True):
            written["met"] = row.met
        return json.dumps(document, ensure_ascii=False, allow_nan=False, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> Results:
        """The document that `to_json` wrote; a ValueError says what is wrong with any other."""
        document = json.loads(text)
        found = document.get("schema") if isinstance(document, dict) else None
        if found != SCHEMA:
            raise ValueError(f"these results have schema {found}, not {SCHEMA}: measure again")
        try:
            return msgspec.convert(document, cls)
        except msgspec.ValidationError as error:
            raise ValueError(f"these are no results: {error}") from error


@dataclass(frozen=True, slots=True)
class Group:
    """All rounds of one subject at one number of connections."""

    subject: str
    connections: int
    measurements: tuple[Measurement, ...]

    @property
    def per_second(self) -> float:
        """The median of the rounds."""
        return median(each.per_second for each in self.measurements)

    @property
    def cpu_us(self) -> dict[str, float]:
        """µs per request by role: the median of the rounds that have the role."""
        rounds = [each.cpu_us_per_request for each in self.measurements]
        return {role: median(us[role] for us in rounds if role in us) for role in roles(rounds)}

    @property
    def checked(self) -> tuple[Measurement, ...]:
        """The rounds whose rows or ids were counted afterwards."""
        return tuple(each for each in self.measurements if each.holds is not None)

    @property
    def holds(self) -> bool | None:
        """Whether every checked round holds; None when none was checked."""
        return all(each.holds for each in self.checked) if self.checked else None


def groups(measurements: Sequence[Measurement]) -> list[Group]:
    """Measurements by subject and connections, in the order of their first appearance; rounds in order."""
    found: dict[tuple[str, int], list[Measurement]] = {}
    for each in measurements:
        found.setdefault((each.subject, each.connections), []).append(each)
    return [
        Group(subject, connections, tuple(sorted(members, key=lambda member: member.round)))
        for (subject, connections), members in found.items()
    ]


def roles(uses: Sequence[dict[str, float]]) -> list[str]:
    """Every role that occurs, in the order in which a request meets them; the generator last."""
    order = ("web", "server", "haproxy", "cassandra", "postgres")
    found = {role for use in uses for role in use}
    return sorted(found, key=lambda role: (role == GENERATOR, order.index(role) if role in order else len(order), role))


def total_cpu_us(use: dict[str, float]) -> float:
    """µs per request of everything but the generator."""
    return sum(us for role, us in use.items() if role != GENERATOR)
