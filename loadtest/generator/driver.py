"""One run of the load generator: what it shall do, and what came of it."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from loadtest.generator.binary import build

Mode = Literal["post", "keyed", "messages", "get", "batch", "batch_lines", "batch_keyed"]


class GeneratorFailed(Exception):
    """The generator gave no result; the text is what it said."""


@dataclass(frozen=True)
class Load:
    """What to send: closed loop over the connections, or ``rps`` arrivals a second whatever the answers."""

    port: int
    connections: int
    """1 to 10,000, all open before the clock starts."""
    seconds: float
    """Length of the measured window; the answers that are still due are awaited for up to 10 s more."""
    mode: Mode = "post"
    warmup_s: float = 0.0
    path: str | None = None
    """/api/usages when it is None, and /api/usages/batch for batches; messages go to /messages."""
    items: int | None = None
    """Of each batch, at most 10,000; 500 when it is None."""
    body: bytes | None = None
    """What is posted, or each item of a batch; a usage when it is None."""
    ids: Path | None = None
    """Where the acknowledged integer ids of the whole run go, as little-endian int64; overwritten. What is posted as usages."""
    rps: int | None = None
    """Open loop: arrivals a second. Latency counts from the intended time then."""
    host: str = "127.0.0.1"
    interval_ms: int = 1000
    """Between two calls of ``on_progress``."""


@dataclass(frozen=True)
class Latency:
    """Microseconds from sending to the whole answer, of requests sent in the window; buckets of 1.6 %."""

    count: int
    mean: float
    p50: int
    p90: int
    p99: int
    p99_9: int
    p99_99: int
    max: int


@dataclass(frozen=True)
class Outcome:
    """What was answered. ``sent == answered + unknown``, and every answer is in ``total_by_status`` once."""

    seconds: float
    """Length of the window as it was; all rates refer to it."""
    requests: int
    """Answers in the window, of any status."""
    per_second: float
    acknowledged: int
    """2xx answers in the window."""
    warmup_acknowledged: int
    """2xx answers before the window."""
    drain_acknowledged: int
    """2xx answers after the window."""
    by_status: Mapping[int, int]
    """Answers in the window."""
    total_by_status: Mapping[int, int]
    """Answers of the whole run, as all counts that follow."""
    answered: int
    sent: int
    unknown: int
    """Requests whose connection ended before their answer did, or which had none 10 s after the window."""
    unsent: int
    """Open loop: arrivals for which no connection was free until the end."""
    duplicates: int
    """Mode keyed: 200 instead of 201. Batches: items that were called duplicates."""
    batch: int
    """Items of each request; 0 where requests are no batches. Those that follow are 0 then too."""
    items: int
    """Usages that were said to be created, in batches that were answered in the window."""
    total_items: int
    """The same of the whole run."""
    items_unknown: int
    """Usages whose result says that they may be stored, or which have none in a batch that may be."""
    rounds: int
    """Mode messages: written, read and deleted."""
    mismatches: int
    """Wrong answers: another status than the mode expects (429 and 5xx apart), a wrong content, or no HTTP.

    A batch's is wrong when it is not a result for each item in order, an item is invalid, or its counts differ from its results."""
    without_id: int
    """Mode post: 201 without an integer id."""
    connections: int
    reconnects: int
    connect_errors: int
    bytes_in: int
    bytes_out: int
    cpu_s: float
    """CPU seconds of the generator itself in the window."""
    started_wall: float
    """Of the window: Unix seconds."""
    ended_wall: float
    started_monotonic: float
    """Of the window: seconds of ``time.monotonic()``."""
    ended_monotonic: float
    latency_us: Latency
    interrupted: bool
    """A signal ended it before its time."""

    @property
    def total_acknowledged(self) -> int:
        """2xx answers of the whole run."""
        return self.warmup_acknowledged + self.acknowledged + self.drain_acknowledged


def run(
    load: Load,
    *,
    on_start: Callable[[], None] | None = None,
    on_end: Callable[[], None] | None = None,
    on_progress: Callable[[float, int], None] | None = None,
) -> Outcome:
    """Put this load on and return what came of it.

    ``on_start`` is called when the window opens, ``on_end`` when it closes (before the outstanding answers are awaited),
    ``on_progress`` for each interval with the seconds since the start and the answers in the interval alone. They are
    called in this thread while the load goes on. Raises GeneratorMissing, GeneratorFailed. The generator never outlives
    this call nor the thread that makes it.
    """
    callbacks = {"start": on_start, "end": on_end}
    with tempfile.TemporaryDirectory() as folder, (Path(folder) / "errors").open("w+") as errors:
        command = [str(build()), *_arguments(load, Path(folder), progress=on_progress is not None)]
        with subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, text=True
        ) as process:
            try:
                result = None
                for line in process.stdout or ():
                    said = json.loads(line)
                    event = said.get("event")
                    if event is None:
                        result = said
                    elif event == "progress" and on_progress is not None:
                        on_progress(said["seconds"], said["requests"])
                    elif callback := callbacks.get(event):
                        callback()
                process.wait()
            finally:
                process.kill()  # nothing to kill when it has ended by itself
        errors.seek(0)
        if process.returncode or result is None:
            raise GeneratorFailed(errors.read().strip() or f"burst ended with status {process.returncode}")
    return _outcome(result)


def _arguments(load: Load, folder: Path, *, progress: bool) -> Iterator[str]:
    values: dict[str, object] = {
        "host": load.host,
        "port": load.port,
        "connections": load.connections,
        "seconds": load.seconds,
        "warmup": load.warmup_s,
        "mode": load.mode,
        "path": load.path,
        "items": load.items,
        "ids": load.ids,
        "rps": load.rps,
        "interval": load.interval_ms,
        "parent": os.getpid(),
    }
    if load.body is not None:
        values["body"] = folder / "body"
        (folder / "body").write_bytes(load.body)
    for name, value in values.items():
        if value is not None:
            yield from (f"--{name}", str(value))
    if progress:
        yield "--progress"


def _outcome(result: dict[str, Any]) -> Outcome:
    values = {field.name: result[field.name] for field in fields(Outcome)}
    for name in ("by_status", "total_by_status"):
        values[name] = {int(status): count for status, count in values[name].items()}
    values["latency_us"] = Latency(**values["latency_us"])
    return Outcome(**values)
