"""One run: what is there to measure with, and all that has been found so far."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from loadtest.benchmark import environment, rows
from loadtest.benchmark.measuring import Case, Measurer
from loadtest.benchmark.plan import CASES, SECTIONS, Plan
from loadtest.benchmark.progress import Progress
from loadtest.benchmark.results import (
    CurvePoint,
    Headline,
    Measurement,
    MemoryPoint,
    Results,
    Scalar,
    StallPoint,
)
from loadtest.benchmark.subjects import Subjects
from loadtest.benchmark.targets import BATCH_ITEMS
from loadtest.generator import Mode
from loadtest.report.tables import number

SUBJECT_OF = {
    "keyed": "durable",
    "messages": "durable",
    "messages_plain": "plain_fastapi",
    "client": "durable",
    "batch": "durable",
    "batch_lines": "durable",
    "batch_keyed": "durable",
    "stream": "durable",
}
"""The server of a case that has another name."""
MODES: dict[str, Mode] = {
    "keyed": "keyed",
    "messages": "messages",
    "messages_plain": "messages",
    "batch": "batch",
    "batch_lines": "batch_lines",
    "batch_keyed": "batch_keyed",
}
NAMES = {
    "keyed": "Durable, with a UUIDv7 Idempotency-Key",
    "messages": "Messages: HAProxy, 2 web instances, Cassandra",
    "messages_plain": "Messages, plain FastAPI, a statement for each request",
    "batch": f"A usage of an array of {BATCH_ITEMS}, durable",
    "batch_lines": f"A usage of {BATCH_ITEMS} as NDJSON, durable",
    "batch_keyed": f"A usage of an array of {BATCH_ITEMS}, each with a UUIDv7 key, durable",
    "stream": "A usage of one long NDJSON stream, durable",
}


@dataclass
class Found:
    """All that was measured so far."""

    measurements: list[Measurement] = field(default_factory=list)
    curve: list[CurvePoint] = field(default_factory=list)
    memory: list[MemoryPoint] = field(default_factory=list)
    memory_summary: dict[str, Scalar] = field(default_factory=dict)
    stream: list[MemoryPoint] = field(default_factory=list)
    stream_summary: dict[str, Scalar] = field(default_factory=dict)
    stall: list[StallPoint] = field(default_factory=list)
    stall_summary: dict[str, Scalar] = field(default_factory=dict)
    headline: list[Headline] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)
    """Reasons, as :data:`rows.Missing` has them."""
    notes: list[str] = field(default_factory=list)


class Bench:
    """The servers, the measuring and the findings of a run."""

    def __init__(self, plan: Plan, cache: Path, scratch: Path, progress: Progress) -> None:
        self.plan = plan
        self.progress = progress
        self.scratch = scratch
        self.found = Found()
        self.subjects = Subjects(cache, scratch, progress.step)
        self.measurer = Measurer(self.subjects, progress, scratch, plan.settle_s)
        self._began = time.monotonic()
        self._when = datetime.now(UTC)
        self._warm: set[tuple[str, Mode]] = set()
        for section in SECTIONS:
            if section not in plan.sections and not plan.quick:
                self.found.missing[section] = rows.NOT_ASKED
            left_out = set(CASES[section]) - set(plan.cases(section))
            self.found.missing |= {f"{section}/{case}": rows.NOT_ASKED for case in left_out}

    def case(self, section: str, key: str, name: str = "") -> Case | None:
        """A case with its server running and warm; None where it cannot be had, which is noted."""
        subject = SUBJECT_OF.get(key, key)
        running = self.subjects.get(subject)
        if running is None:
            self.found.missing[f"{section}/{key}"] = self.subjects.missing[subject]
            return None
        case = Case(key, name or NAMES.get(key, running.name), running, MODES.get(key, "post"))
        for mode in dict.fromkeys(("post", case.mode)):
            if (subject, mode) not in self._warm:
                self._warm_up(Case(key, running.name, running, mode), subject)
                self._warm.add((subject, mode))
        return case

    def _warm_up(self, case: Case, subject: str) -> None:
        what = f"warming up {case.name}, {case.mode}"
        self.progress.step(what)
        self.measurer.measure(
            case,
            f"warm-up/{subject}/{case.mode}",
            0,
            self.connections(case),
            self.plan.warmup_s if (subject, case.mode) == ("durable", "post") else self.plan.other_warmup_s,
            on_progress=lambda _, answers: self.progress.tick(f"{what}: {answers:,}/s"),
        )

    def connections(self, case: Case) -> int:
        """Of a load of this kind."""
        return self.plan.batch_connections if case.items else self.plan.connections

    def stop(self, *subjects: str) -> None:
        """Stop servers; they will be cold when they come back."""
        self.subjects.stop(*subjects)
        self._warm = {(subject, mode) for subject, mode in self._warm if subject not in subjects}

    def interleave(self, section: str, cases: list[Case], rounds: int, seconds: float) -> None:
        """Measure the cases in turns, A B A B, and keep each measurement."""
        for turn in range(rounds):
            for case in cases:
                self.progress.step(f"{section}, round {turn + 1} of {rounds}: {case.name}")
                measured = self.measurer.measure(
                    case, rows.key(section, case.key, turn), turn, self.connections(case), seconds, fully=turn == 0
                )
                self.keep(measured.measurement, section, turn)

    def keep(self, found: Measurement, section: str, turn: int) -> None:
        """Put a measurement into the results and say what it was."""
        self.found.measurements.append(found)
        self.progress.say(f"{section} {turn + 1}: {said(found)}")

    def results(self) -> Results:
        """The document of all that was found so far."""
        plan, found = self.plan, self.found
        commit, dirty = environment.commit()
        machine = environment.machine(self.subjects.versions)
        measurements = tuple(found.measurements)
        return Results(
            when=self._when.isoformat(timespec="seconds"),
            commit=commit,
            dirty=dirty,
            machine=machine,
            quick=plan.quick,
            seconds_total=round(time.monotonic() - self._began, 1),
            settings={
                "rounds": plan.rounds,
                "seconds of each measurement": plan.seconds,
                "connections": plan.connections,
                "connections, and usages of each batch": f"{plan.batch_connections}, {BATCH_ITEMS}",
                "web instances": 2,
                "Cassandra nodes": 1,
                "seconds of warm-up of the durable stack": plan.warmup_s,
                "seconds of load before each window": plan.settle_s,
                "share of a core of a web instance (scaling)": plan.share,
            },
            rows=tuple(rows.row(target, measurements, found.missing) for target in plan.targets()),
            measurements=measurements,
            curve=tuple(found.curve),
            scaling=tuple(rows.scaling_points(measurements, machine.cores)),
            memory=tuple(found.memory),
            memory_summary=found.memory_summary,
            stream=tuple(found.stream),
            stream_summary=found.stream_summary,
            stall=tuple(found.stall),
            stall_summary=found.stall_summary,
            headline=tuple(found.headline),
            missing={name: why for name, why in found.missing.items() if name in SECTIONS},
            notes=(*self.measurer.summary(), *found.notes),
        )


Section = Callable[[Bench], None]


def said(found: Measurement) -> str:
    """A measurement in one line."""
    stored = "" if found.stored is None else f", {number(found.acknowledged)} 2xx and {number(found.stored)} rows"
    failed = f", {found.note}" if found.note else ""
    middle = number(found.latency_us.p50 / 1000, 2)
    return f"{number(found.per_second, 0)}/s, p50 {middle} ms{stored}{failed}: {found.subject}"
