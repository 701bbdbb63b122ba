"""One measurement: wait for quiet, put the load on, read CPU times over the window, count afterwards."""

from __future__ import annotations

import os
import time
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from loadtest.benchmark import counting, cpu
from loadtest.benchmark.counting import SeenIds, Sent, Store
from loadtest.benchmark.progress import Progress
from loadtest.benchmark.results import GENERATOR, Latency, Measurement
from loadtest.benchmark.subjects import Running, Subjects
from loadtest.benchmark.targets import BATCH_ITEMS
from loadtest.generator import Load, Mode, Outcome, run
from loadtest.report.tables import number

UNKNOWN = frozenset({500, 502, 504})
"""Answers that leave open whether anything was stored."""
BATCHES: Mapping[Mode, Mode] = {"batch": "post", "batch_lines": "post", "batch_keyed": "keyed"}
"""Loads of many usages in a request, and the load of one whose rows theirs are like."""
OTHERS_SHARE = 0.10
"""Of all cores: what is used by processes that belong to no measurement is worth a note from here on."""


@dataclass(frozen=True, slots=True)
class Case:
    """What is measured under one key: a server, the kind of load, and where its rows are counted."""

    key: str
    name: str
    running: Running
    mode: Mode = "post"

    @property
    def store(self) -> Store | None:
        """Where the rows of this kind of load are; messages are gone when it ends."""
        return {"post": self.running.store, "keyed": self.running.keyed_store}.get(self._rows)

    @property
    def ids(self) -> SeenIds | None:
        """The ids that were seen, where there are some."""
        return self.running.ids if self._rows == "post" else None

    @property
    def items(self) -> int | None:
        """Usages of each request, where it is a batch."""
        return BATCH_ITEMS if self.mode in BATCHES else None

    @property
    def _rows(self) -> Mode:
        return BATCHES.get(self.mode, self.mode)


@dataclass(frozen=True, slots=True)
class Measured:
    """What came of a load, and what was counted."""

    measurement: Measurement
    outcome: Outcome
    wrong: tuple[str, ...]
    """What is not as it must be: rows lost or too many, ids twice, wrong answers."""


@dataclass(frozen=True, slots=True)
class Counted:
    """What the store has of a load."""

    stored: int | None
    distinct: bool | None
    """Whether each id is one usage's alone."""
    lost: int


class Measurer:
    """Measures cases one at a time, while all others are idle."""

    def __init__(self, subjects: Subjects, progress: Progress, scratch: Path, settle_s: float) -> None:
        self.wrong: list[str] = []
        """All that was wrong in any load so far."""
        self._loads = self._rows = self._ids = 0
        self._subjects = subjects
        self._progress = progress
        self._scratch = scratch
        self._settle_s = settle_s

    def measure(
        self,
        case: Case,
        key: str,
        turn: int,
        connections: int,
        seconds: float,
        *,
        settle_s: float | None = None,
        fully: bool = False,
        on_start: Callable[[], None] | None = None,
        on_progress: Callable[[float, int], None] | None = None,
    ) -> Measured:
        """The load and what was counted after it; ``fully`` looks for each acknowledged id in the store."""
        cpu.wait_until_quiet(self._subjects.roles())
        ids = self._scratch / "ids" if case.ids is not None else None
        load = Load(
            port=case.running.port,
            connections=connections,
            seconds=seconds,
            mode=case.mode,
            warmup_s=self._settle_s if settle_s is None else settle_s,
            path=None if case.items else case.running.path,
            items=case.items,
            body=case.running.body,
            ids=ids,
        )
        readings: list[cpu.Reading] = []
        machine: list[float] = []

        def read() -> None:
            readings.append(cpu.read(case.running.pids()))
            machine.append(cpu.machine_s())

        def started() -> None:
            read()
            if on_start is not None:
                on_start()

        began = time.time()
        outcome = run(load, on_start=started, on_end=read, on_progress=on_progress)
        sent = Sent(counting.read_ids(ids) if ids is not None else array("q"), began, time.time())
        counted = self.count(case, sent, fully=fully)
        measurement = measurement_of(
            outcome,
            key=key,
            subject=case.name,
            turn=turn,
            used=cpu.used(*readings),
            machine_s=machine[1] - machine[0],
            stored=counted.stored,
            distinct=counted.distinct,
        )
        wrong = self.complain(key, wrongs(measurement, outcome, counted.lost, case.running.status))
        return Measured(measurement, outcome, wrong)

    def count(self, case: Case, sent: Sent, *, fully: bool) -> Counted:
        """Look into the store after a load; ``fully`` for each acknowledged id."""
        stored = case.store.added(sent) if case.store is not None else None
        repeated = case.ids.repeated(sent.ids) if case.ids is not None else None
        self._loads += 1
        self._rows += stored or 0
        self._ids += len(sent.ids)
        lost = case.store.lost(sent) if fully and case.store is not None else 0
        return Counted(stored, None if repeated is None else repeated == 0, lost)

    def complain(self, key: str, wrong: Sequence[str]) -> tuple[str, ...]:
        """Say and keep what is wrong with a measurement."""
        found = tuple(f"{key}: {what}" for what in wrong)
        self.wrong += found
        for each in found:
            self._progress.say(f"WRONG: {each}")
        return found

    def summary(self) -> list[str]:
        """What was counted after all loads together, and each thing that was wrong."""
        counted = (
            f"Counted after each of {self._loads:,} loads, warm-ups, curves and all: {self._rows:,} rows and "
            f"{self._ids:,} ids, {number(len(self.wrong)) if self.wrong else 'nothing'} wrong."
        )
        return [*(f"WRONG: {each}" for each in self.wrong), *([counted] if self._loads else [])]


def measurement_of(
    outcome: Outcome,
    *,
    key: str,
    subject: str,
    turn: int,
    used: Mapping[str, float],
    machine_s: float,
    stored: int | None,
    distinct: bool | None,
) -> Measurement:
    """A run of the generator, the CPU seconds used in its window by role and by all the machine, and what was counted."""
    others = (machine_s - sum(used.values()) - outcome.cpu_s) / (outcome.seconds * (os.cpu_count() or 1))
    if outcome.batch:
        sent, acknowledged, total, unknown = (
            outcome.sent * outcome.batch,
            outcome.items,
            outcome.total_items,
            outcome.items_unknown,
        )
    else:
        sent, acknowledged, total = outcome.sent, outcome.acknowledged, outcome.total_acknowledged
        unknown = outcome.unknown + sum(outcome.total_by_status.get(status, 0) for status in UNKNOWN)
    answers = max(1, acknowledged)
    failures = sent - total - unknown
    latency = outcome.latency_us
    return Measurement(
        key=key,
        subject=subject,
        round=turn,
        connections=outcome.connections,
        seconds=outcome.seconds,
        per_second=acknowledged / outcome.seconds,
        acknowledged=total,
        failures=failures,
        unknown=unknown,
        latency_us=Latency(p50=latency.p50, p90=latency.p90, p99=latency.p99, p999=latency.p99_9, max=latency.max),
        cpu_us_per_request={role: seconds / answers * 1e6 for role, seconds in used.items()}
        | {GENERATOR: outcome.cpu_s / answers * 1e6},
        stored=stored,
        ids_distinct=distinct,
        note=", ".join(
            [f"{count:,} × {status}" for status, count in refusals(outcome).items()]
            + ([f"{failures:,} usages refused"] if outcome.batch and failures else [])
            + ([f"others took {others:.0%} of the machine"] if others > OTHERS_SHARE else [])
        ),
    )


def refusals(outcome: Outcome) -> dict[int, int]:
    """Answers that are no 2xx, by status."""
    return {status: count for status, count in sorted(outcome.total_by_status.items()) if not 200 <= status < 300}


def wrongs(measurement: Measurement, outcome: Outcome, lost: int, status: int) -> list[str]:
    """What must never be, in words: rows lost or too many, an id twice, another answer than was due."""
    found = wrong_rows(measurement, lost)
    if outcome.duplicates:
        found.append(f"{outcome.duplicates:,} new keys were called repeated")
    if status == 201:  # the only success that the generator knows of a POST
        if outcome.mismatches:
            found.append(f"{outcome.mismatches:,} answers were not those that were due")
        if outcome.without_id:
            found.append(f"{outcome.without_id:,} answers had no id")
    return found


def wrong_rows(measurement: Measurement, lost: int) -> list[str]:
    """What must never be of rows and ids."""
    found = []
    if measurement.stored is not None:
        most = measurement.acknowledged + measurement.unknown
        if not measurement.acknowledged <= measurement.stored <= most:
            found.append(
                f"{measurement.acknowledged:,} were acknowledged and {measurement.unknown:,} are unknown, "
                f"but {measurement.stored:,} are stored"
            )
    if measurement.ids_distinct is False:
        found.append("an id was given twice")
    if lost:
        found.append(f"{lost:,} acknowledged ids are not in the store")
    return found
