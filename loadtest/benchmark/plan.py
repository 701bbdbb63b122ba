"""What a run will measure: which measurements the rows are made of, and how long it takes. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from loadtest.benchmark.targets import TARGETS, Target

SECTIONS = (
    "rounds",
    "messages",
    "idle",
    "curve",
    "headline",
    "scaling",
    "batches",
    "stream",
    "stall",
    "memory",
    "sqlite",
)
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
    "batches": ("durable", "batch", "batch_lines", "batch_keyed"),
    "stream": ("stream",),
    "sqlite": ("sqlite", "express", "sqlite_cores", "rqlite"),
}
"""The cases of each section, in the order in which a round goes through them."""
QUICK_ROWS = ("storeless", "express", "go_pgx")
NAMES = tuple(target.key for target in TARGETS) + tuple(s for s in SECTIONS if s not in {t.key for t in TARGETS})

CURVE_CONNECTIONS = tuple(2**power for power in range(13))
HEADLINE_CONNECTIONS = (1, 10, 100, 1_000, 10_000)

# Seconds, for the estimate alone: what goes with each measurement, with a section's start and with its end.
AROUND_S = 2.5
START_S: Mapping[str, float] = {
    "rounds": 15,
    "messages": 12,
    "idle": 6,
    "curve": 8,
    "scaling": 10,
    "batches": 17,
    "sqlite": 25,
}
SCALE_S = 5.0
STREAM_MB_PER_S = 25.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How long, how often and what. Times in seconds."""

    quick: bool = False
    rounds: int = 5
    seconds: float = 4.0
    """Of each measurement."""
    connections: int = 256
    batch_connections: int = 16
    """Of batches: 8,000 usages under way. More wait for a place in the queue, as the store is busy with these."""
    stream_mb: float = 1_000.0
    """Megabytes through one connection."""
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
            elif section == "stream":
                took = self.stream_mb / STREAM_MB_PER_S + 20
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
