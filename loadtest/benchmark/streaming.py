"""One long NDJSON stream through one connection: each line's result is read and counted, and what the instances hold is watched."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from array import array
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from typing import Any

import msgspec

from loadtest.benchmark import cpu, rows
from loadtest.benchmark.bench import Bench
from loadtest.benchmark.counting import Sent
from loadtest.benchmark.idle import percentile
from loadtest.benchmark.measuring import wrong_rows
from loadtest.benchmark.results import GENERATOR, Latency, Measurement, MemoryPoint, Scalar

MEGABYTE = 1_000_000
LINE_BYTES = 1_000
LINES_AT_ONCE = 64
"""So many lines are given to the socket at a time."""
SAMPLE_S = 1.0
STATUSES = ("created", "duplicate", "invalid", "retry", "unknown")
READ_BYTES = 65_536
TIMEOUT_S = 60.0
USAGE = '{"patientId": "100", "timestamp": "Tue Nov 01 2016 09:11:51 GMT-0500 (CDT)", "medication": "Albuterol", "note": ""}'


class Line(msgspec.Struct):
    """A line of the answer: a result, or the last."""

    line: int = 0
    status: str = ""
    id: int = 0
    summary: dict[str, Any] | None = None
    error: dict[str, Any] | None = None


_decode_lines = msgspec.json.Decoder(Line).decode_lines


@dataclass
class Answer:
    """What the lines of an answer said so far."""

    results: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    ids: array[int] = field(default_factory=lambda: array("q"))
    """Of what was created, in order."""
    misplaced: int = 0
    """Results of another line than was due."""
    summary: dict[str, Any] | None = None
    error: dict[str, Any] | None = None
    _rest: bytes = b""

    def feed(self, piece: bytes) -> None:
        """Take what has come. Raises msgspec.MsgspecError for what is no line of an answer."""
        whole, newline, rest = piece.rpartition(b"\n")
        if not newline:
            self._rest += rest
            return
        for line in _decode_lines(self._rest + whole):
            if line.summary is not None or line.error is not None:
                self.summary, self.error = line.summary, line.error
                continue
            self.results += 1
            self.misplaced += line.line != self.results
            self.statuses[line.status] += 1
            if line.status == "created":
                self.ids.append(line.id)
        self._rest = rest

    def wrong(self, lines: int) -> list[str]:
        """What is not as it must be, in words, of an answer to so many lines that came to its end."""
        found = []
        if self.misplaced:
            found.append(f"{self.misplaced:,} results were not those of the line that was due")
        if self.summary is None:
            return [*found, "the answer has no last line"]
        counts = {status: self.summary.get(status) for status in STATUSES}
        if Counter(counts) != self.statuses:
            found.append(f"the last line counts {counts}, the results are {dict(self.statuses)}")
        if self.summary.get("complete") is not True:
            found.append(f"the stream ended early: {self.error}")
        elif self.results != lines:
            found.append(f"{lines:,} lines have {self.results:,} results")
        return found


class Delays:
    """From giving a line to the socket to its result, in µs: one for each time that lines are given."""

    def __init__(self) -> None:
        self._given: list[tuple[int, float]] = []
        self._next = 0
        self.us: list[int] = []

    def give(self, lines: int, now_s: float) -> None:
        """So many lines were given by now, all in all."""
        self._given.append((lines, now_s))

    def take(self, results: int, now_s: float) -> None:
        """So many have their results."""
        end = bisect_right(self._given, results, lo=self._next, key=lambda given: given[0])
        self.us += [round((now_s - given_s) * 1e6) for _, given_s in self._given[self._next : end]]
        self._next = end


def usage_line(size: int = LINE_BYTES) -> bytes:
    """A usage of so many bytes, the end of its line included."""
    missing = size - len(USAGE) - 1
    return (USAGE[:-2] + "x" * missing + USAGE[-2:] + "\n").encode()


def post_lines(port: int, lines: int, answer: Answer, delays: Delays, on_read: Callable[[], None]) -> None:
    """Send so many lines as one request and read its answer meanwhile. Raises OSError, HTTPException, MsgspecError."""
    line = usage_line()
    connection = HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
    with contextlib.closing(connection):
        connection.putrequest("POST", "/api/usages/batch")
        connection.putheader("Content-Type", "application/x-ndjson")
        connection.putheader("Content-Length", str(lines * len(line)))
        connection.endheaders()
        sender = threading.Thread(target=_send, args=(connection.sock, line, lines, delays), name="sender", daemon=True)
        sender.start()
        try:
            response = connection.getresponse()
            if response.status != 200:
                raise HTTPException(f"{response.status}: {response.read(READ_BYTES).decode(errors='replace')}")
            while piece := response.read1(READ_BYTES):
                answer.feed(piece)
                delays.take(answer.results, time.monotonic())
                on_read()
        finally:
            with contextlib.suppress(OSError, AttributeError):  # a sender that waits is told that it is over
                connection.sock.shutdown(socket.SHUT_RDWR)
            sender.join()


def _send(to: socket.socket, line: bytes, lines: int, delays: Delays) -> None:
    given = 0
    with contextlib.suppress(OSError):  # whoever reads the answer sees why
        while given < lines:
            count = min(LINES_AT_ONCE, lines - given)
            given += count
            delays.give(given, time.monotonic())
            to.sendall(line * count)


def stream(bench: Bench) -> None:
    """A gigabyte through one connection to a fresh web instance."""
    case = bench.case("stream", "stream")
    if case is None or case.running.cluster is None:
        bench.found.missing["stream"] = bench.found.missing.get("stream/stream", "there is no cluster")
        return
    bench.progress.step("stream: restarting the web instances")
    cluster = case.running.cluster
    for process in cluster.processes("web"):  # memory that one has kept from earlier loads would hide growth
        cluster.stop(process.name)
        cluster.start(process.name)
    cluster.wait_until_ready()
    cpu.wait_until_quiet(bench.subjects.roles())
    web = list(case.running.pids()["web"])
    lines = max(1, round(bench.plan.stream_mb * MEGABYTE / LINE_BYTES))
    answer, delays, points = Answer(), Delays(), bench.found.stream
    points.append(MemoryPoint(seconds=0.0, rss_mib=cpu.rss_mib(web), per_second=0.0))
    began, began_s = time.time(), time.monotonic()
    seen = 0

    def sample() -> None:
        nonlocal seen
        seconds = time.monotonic() - began_s
        passed = seconds - points[-1].seconds
        if passed >= SAMPLE_S or answer.summary is not None:
            rate = (answer.results - seen) / passed if passed >= SAMPLE_S / 2 else points[-1].per_second
            points.append(MemoryPoint(seconds=seconds, rss_mib=cpu.rss_mib(web), per_second=rate))
            seen = answer.results
            part = answer.results / lines
            bench.progress.tick(f"stream, {part:.0%}: {' '.join(f'{rss:.1f}' for rss in points[-1].rss_mib)} MiB")

    bench.progress.step(f"stream: {lines:,} lines of {LINE_BYTES:,} bytes through one connection")
    before, own_before = cpu.read(case.running.pids()), time.process_time()
    broken = ""
    try:
        post_lines(case.running.port, lines, answer, delays, sample)
    except (OSError, HTTPException, msgspec.MsgspecError) as error:
        broken = f"the stream broke off: {error!r}"
    seconds, own_s = time.monotonic() - began_s, time.process_time() - own_before
    used = cpu.used(before, cpu.read(case.running.pids()))
    bench.progress.step("stream: counting rows")
    counted = bench.measurer.count(case, Sent(answer.ids, began, time.time()), fully=True)
    created, told = answer.statuses["created"], max(1, answer.results)
    certain = created + answer.statuses["retry"] + answer.statuses["invalid"]
    sorted_us = sorted(delays.us) or [0]
    key = rows.key("stream", "stream", 0)
    measurement = Measurement(
        key=key,
        subject=case.name,
        round=0,
        connections=1,
        seconds=seconds,
        per_second=created / seconds,
        acknowledged=created,
        failures=certain - created,
        unknown=lines - certain if broken else answer.statuses["unknown"],
        latency_us=Latency(
            p50=percentile(sorted_us, 0.5),
            p90=percentile(sorted_us, 0.9),
            p99=percentile(sorted_us, 0.99),
            p999=percentile(sorted_us, 0.999),
            max=sorted_us[-1],
        ),
        cpu_us_per_request={role: spent / told * 1e6 for role, spent in (used | {GENERATOR: own_s}).items()},
        stored=counted.stored,
        ids_distinct=counted.distinct,
        memory_growth_mib=growth(points),
        note=broken or (f"{certain - created:,} usages refused" if certain > created else ""),
    )
    bench.measurer.complain(key, wrong_rows(measurement, counted.lost) + ([broken] if broken else answer.wrong(lines)))
    bench.found.stream_summary.update(summary(points, lines, measurement))
    bench.keep(measurement, "stream", 0)
    bench.progress.say(f"stream: {bench.found.stream_summary}")


def growth(points: Sequence[MemoryPoint]) -> float:
    """MiB by which the instance that grew most was ever above what it had at first."""
    first = points[0].rss_mib
    return max(rss - first[index] for point in points for index, rss in enumerate(point.rss_mib))


def summary(points: Sequence[MemoryPoint], lines: int, measurement: Measurement) -> dict[str, Scalar]:
    """What the stream was, and what each instance held before it, at most, and at its end."""
    largest = [max(point.rss_mib[index] for point in points) for index in range(len(points[0].rss_mib))]
    return {
        "megabytes": round(lines * LINE_BYTES / MEGABYTE),
        "lines": lines,
        "usages/s": round(measurement.per_second),
        "MiB before it": _each(points[0].rss_mib),
        "MiB at most": _each(largest),
        "MiB at its end": _each(points[-1].rss_mib),
        "usages stored": measurement.stored,
    }


def _each(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.1f}" for value in values)
