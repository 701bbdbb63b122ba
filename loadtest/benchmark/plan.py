"""What a run will measure: rows and their targets, which measurements they are made of, and how long it takes. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

Kind = Literal["rate", "cpu", "p50", "scaling"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A row to be: which case of which section it takes, and for a ratio which other case it divides by."""

    key: str
    title: str
    target: float
    section: str
    case: str
    over: str | None = None
    kind: Kind = "rate"
    role: str = ""
    """Of kind cpu: whose CPU time."""
    instances: int = 0
    """Of kind scaling: how many web instances are compared with one."""

    @property
    def cases(self) -> tuple[str, ...]:
        """The cases it needs."""
        return (self.case,) if self.over is None else (self.case, self.over)


TARGETS = (
    Target(
        key="storeless",
        title="Durable POST /api/usages ÷ the same stack with the store switched off",
        target=0.70,
        section="rounds",
        case="durable",
        over="storeless",
    ),
    Target(
        key="express",
        title="Durable POST ÷ Express 5 in memory, one process, no balancer",
        target=2.5,
        section="rounds",
        case="durable",
        over="express",
    ),
    Target(
        key="go_pgx",
        title="Durable POST ÷ Go net/http + pgx, one INSERT per request, PostgreSQL, synchronous_commit=on, no balancer",
        target=1.7,
        section="rounds",
        case="durable",
        over="go_pgx",
    ),
    Target(
        key="plain_fastapi",
        title="Durable POST ÷ plain FastAPI + pydantic + one execute_async per request, same topology",
        target=10,
        section="rounds",
        case="durable",
        over="plain_fastapi",
    ),
    Target(
        key="cpu_web",
        title="CPU per acknowledged usage: web instances",
        target=30,
        section="rounds",
        case="durable",
        kind="cpu",
        role="web",
    ),
    Target(
        key="cpu_haproxy",
        title="CPU per acknowledged usage: HAProxy",
        target=15,
        section="rounds",
        case="durable",
        kind="cpu",
        role="haproxy",
    ),
    Target(
        key="cpu_cassandra",
        title="CPU per acknowledged usage: Cassandra",
        target=12,
        section="rounds",
        case="durable",
        kind="cpu",
        role="cassandra",
    ),
    Target(
        key="idle",
        title="Idle: p50 of one client in sequence ÷ p50 of a single unbatched driver write",
        target=1.3,
        section="idle",
        case="client",
        over="driver",
        kind="p50",
    ),
    Target(
        key="keyed",
        title="Usages with a UUIDv7 Idempotency-Key ÷ without a key",
        target=0.4,
        section="rounds",
        case="keyed",
        over="durable",
    ),
    Target(
        key="sqlite",
        title="SQLite store, one process, no HAProxy, fsync per group ÷ Express 5 in memory, one process",
        target=2.5,
        section="sqlite",
        case="sqlite",
        over="express",
    ),
    Target(
        key="sqlite_rqlite",
        title="SQLite store, as many processes as cores, no HAProxy ÷ rqlite's own group commit",
        target=1.0,
        section="sqlite",
        case="sqlite_cores",
        over="rqlite",
    ),
    Target(
        key="messages",
        title="Messages, POST → GET → DELETE of random 20 characters ÷ plain FastAPI, one row per request",
        target=3,
        section="messages",
        case="messages",
        over="messages_plain",
    ),
    Target(
        key="scaling_2",
        title="1 → 2 web instances, each held to a fixed CPU share: part of linear",
        target=0.9,
        section="scaling",
        case="web2",
        over="web1",
        kind="scaling",
        instances=2,
    ),
    Target(
        key="scaling_4",
        title="1 → 4 web instances, each held to a fixed CPU share: part of linear",
        target=0.9,
        section="scaling",
        case="web4",
        over="web1",
        kind="scaling",
        instances=4,
    ),
)

SECTIONS = ("rounds", "messages", "idle", "curve", "headline", "scaling", "stall", "memory", "sqlite")
"""In the order in which they run: what shares servers is together, what leaves Cassandra busy for minutes is last."""
CASES: Mapping[str, tuple[str, ...]] = {
    "rounds": ("durable", "storeless", "express", "go_pgx", "plain_fastapi", "keyed"),
    "messages": ("messages", "messages_plain"),
    "idle": ("client", "driver"),
    "curve": ("durable", "storeless"),
    "headline": ("durable", "messages"),
    "stall": ("durable",),
    "memory": ("durable",),
    "scaling": ("web1", "web2", "web4"),
    "sqlite": ("sqlite", "express", "sqlite_cores", "rqlite"),
}
"""The cases of each section, in the order in which a round goes through them."""
QUICK_ROWS = ("storeless", "express", "go_pgx")
NAMES = tuple(target.key for target in TARGETS) + tuple(s for s in SECTIONS if s not in {t.key for t in TARGETS})

CURVE_CONNECTIONS = tuple(2**power for power in range(13))
HEADLINE_CONNECTIONS = (1, 10, 100, 1_000, 10_000)

# Seconds, for the estimate alone: what goes with each measurement, with a section's start and with its end.
AROUND_S = 2.5
START_S: Mapping[str, float] = {"rounds": 15, "messages": 12, "idle": 6, "curve": 8, "scaling": 10, "sqlite": 25}
SCALE_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How long, how often and what. Times in seconds."""

    quick: bool = False
    rounds: int = 5
    seconds: float = 4.0
    """Of each measurement."""
    connections: int = 256
    warmup_s: float = 40.0
    """Of load on the durable stack before anything counts: Cassandra's JIT needs it. Others have an eighth of it."""
    settle_s: float = 0.5
    """Of load before each window."""
    memory_s: float = 600.0
    stall_s: float = 15.0
    share: float = 0.10
    """Of a core, that each web instance is held to where scaling is measured."""
    rows: tuple[str, ...] = tuple(target.key for target in TARGETS)
    sections: tuple[str, ...] = SECTIONS
    shown: tuple[str, ...] = tuple(target.key for target in TARGETS)
    """Rows in the table, those that are not measured too."""

    def targets(self) -> list[Target]:
        """The rows of the table."""
        return [target for target in TARGETS if target.key in self.shown]

    def cases(self, section: str) -> tuple[str, ...]:
        """What a section measures: what the rows need, and all of it where the section has none."""
        needed = {case for target in TARGETS if target.key in self.rows for case in _needs(target, section)}
        return tuple(case for case in CASES[section] if case in needed or section not in ROW_SECTIONS)

    @property
    def other_warmup_s(self) -> float:
        """Of load on everything but the durable stack."""
        return self.warmup_s / 8

    @property
    def curve_s(self) -> float:
        """Of each point of a curve."""
        return min(3.0, self.seconds)

    def expected_s(self) -> dict[str, float]:
        """How long each section will take, about."""
        each = self.seconds + self.settle_s + AROUND_S
        expected = {}
        for section in self.sections:
            cases = self.cases(section)
            took = self.rounds * len(cases) * each
            if section == "rounds":
                took += self.warmup_s + (len(cases) - 1) * (self.other_warmup_s + 4)
            elif section == "curve":
                took = len(cases) * len(CURVE_CONNECTIONS) * (each - self.seconds + self.curve_s)
            elif section == "headline":
                took = len(cases) * len(HEADLINE_CONNECTIONS) * each
            elif section == "stall":
                took = self.stall_s * 2.5 + 10
            elif section == "memory":
                took = self.memory_s + 30
            elif section == "scaling":
                took = self.scaling_rounds * len(cases) * (each + SCALE_S)
            elif section == "sqlite":
                took += len(cases) * self.other_warmup_s
            if section != "rounds" and "rounds" not in self.sections and section == self.sections[0]:
                took += self.warmup_s + START_S["rounds"]
            expected[section] = took + START_S.get(section, 2.0)
        return expected

    @property
    def scaling_rounds(self) -> int:
        """Rounds of 1, 2, 4 web instances."""
        return min(3, self.rounds)


ROW_SECTIONS = frozenset(target.section for target in TARGETS)


def _needs(target: Target, section: str) -> tuple[str, ...]:
    return target.cases if target.section == section else ()


def make_plan(plan: Plan, only: Sequence[str] = (), skip: Collection[str] = ()) -> Plan:
    """The plan cut down to some rows and sections. Raises ValueError that names what does not exist."""
    unknown = sorted({*only, *skip} - set(NAMES))
    if unknown:
        raise ValueError(f"there is no row or section {', '.join(unknown)}; there are {', '.join(NAMES)}")
    rows = plan.rows
    sections: set[str] = set(plan.sections)
    if only:
        whole = {name for name in only if name in SECTIONS and name not in {target.key for target in TARGETS}}
        rows = tuple(t.key for t in TARGETS if t.key in only or t.section in whole or t.section in only)
        sections = {target.section for target in TARGETS if target.key in rows} | (set(only) & set(SECTIONS))
    rows = tuple(t.key for t in TARGETS if t.key in rows and t.key not in skip and t.section not in skip)
    sections -= set(skip)
    sections -= {s for s in ROW_SECTIONS if not any(t.section == s and t.key in rows for t in TARGETS)}
    return replace(plan, rows=rows, sections=tuple(section for section in SECTIONS if section in sections))


def quick_plan() -> Plan:
    """The first three rows in under three minutes."""
    return Plan(
        quick=True, rounds=3, seconds=5.0, warmup_s=40.0, rows=QUICK_ROWS, shown=QUICK_ROWS, sections=("rounds",)
    )
