"""What lasts: minutes of full load, and a store that stands still under load."""

from __future__ import annotations

import csv
import re
import signal
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import mean

from deploy.cluster import RunningCluster
from loadtest.benchmark import cpu
from loadtest.benchmark.bench import Bench
from loadtest.benchmark.measuring import refusals
from loadtest.benchmark.results import MemoryPoint, Scalar, StallPoint

SAMPLE_S = 5
STALL_CONNECTIONS = 1_000
BEFORE_S = 8.0
AFTER_FACTOR = 1.5
"""The load goes on after the stall for so many times its length."""
POLL_S = 0.1
POSTS = re.compile(r'^busyapi_requests_total\{(?=.*method="POST").*status="(\d+)".*\} ([\d.e+]+)$', re.MULTILINE)


def memory(bench: Bench) -> None:
    """Resident memory of each web instance under full load."""
    case = bench.case("memory", "durable")
    if case is None:
        bench.found.missing["memory"] = bench.found.missing["memory/durable"]
        return
    web = list(case.running.pids()["web"])
    points = bench.found.memory
    answers: list[int] = []
    every = max(1, min(SAMPLE_S, round(bench.plan.memory_s / 20)))

    def sample(seconds: float, requests: int) -> None:
        answers.append(requests)
        if len(answers) % every == 0:
            rate = sum(answers[-every:]) / every
            points.append(MemoryPoint(seconds=seconds, rss_mib=cpu.rss_mib(web), per_second=rate))
            rss = " ".join(f"{value:.1f}" for value in points[-1].rss_mib)
            bench.progress.tick(f"memory, {seconds:.0f} s: {rss} MiB at {rate:,.0f}/s")

    bench.progress.step(f"memory: {bench.plan.memory_s:.0f} s of full load")
    measured = bench.measurer.measure(
        case, "memory/durable/0", 0, bench.plan.connections, bench.plan.memory_s, on_progress=sample
    )
    bench.found.memory_summary.update(memory_summary(points, bench.plan.memory_s))
    bench.found.memory_summary["usages stored"] = measured.measurement.stored
    bench.progress.say(f"memory: {bench.found.memory_summary}")


def memory_summary(points: Sequence[MemoryPoint], seconds: float) -> dict[str, Scalar]:
    """Resident memory a tenth into the load and at its end, and its slope over the last four fifths; per instance."""
    late = [point for point in points if point.seconds >= seconds / 5]
    if len(late) < 2:
        return {}
    early = next(point for point in points if point.seconds >= seconds / 10)
    slopes = [
        slope([(point.seconds / 60, point.rss_mib[index]) for point in late]) for index in range(len(late[0].rss_mib))
    ]
    return {
        f"MiB after {early.seconds:.0f} s": _each(early.rss_mib, 1),
        f"MiB after {points[-1].seconds:.0f} s": _each(points[-1].rss_mib, 1),
        f"MiB a minute over the last {seconds * 0.8:.0f} s": _each(slopes, 3),
        "usages/s": round(mean(point.per_second for point in points)),
    }


def slope(values: Sequence[tuple[float, float]]) -> float:
    """Of the straight line that fits best."""
    middle_x, middle_y = mean(x for x, _ in values), mean(y for _, y in values)
    spread = sum((x - middle_x) ** 2 for x, _ in values)
    return sum((x - middle_x) * (y - middle_y) for x, y in values) / spread if spread else 0.0


@dataclass
class Watch:
    """Looks at the answers and the memory of a cluster from a thread of its own, many times a second."""

    cluster: RunningCluster
    points: list[StallPoint] = field(default_factory=list)
    stalled: bool = False
    resumed: float | None = None
    first_success_s: float | None = None
    """From the end of the stall to the first 201 after it."""
    began: float = 0.0
    _stop: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        """Until told to stop."""
        self.began = time.monotonic()
        ports = [process.port for process in self.cluster.processes("web")]
        pids = [process.pid for process in self.cluster.processes("web")]
        last, last_at = self._answers(ports), time.monotonic()
        at_end: int | None = None
        while not self._stop.wait(POLL_S):
            now, answers = time.monotonic(), self._answers(ports)
            if self.resumed is not None and self.first_success_s is None:
                if at_end is None:
                    at_end = answers["201"]
                elif answers["201"] > at_end:
                    self.first_success_s = now - self.resumed
            if now - last_at >= 1.0:
                rates = {status: (answers[status] - last[status]) / (now - last_at) for status in answers}
                self.points.append(
                    StallPoint(
                        seconds=now - self.began,
                        rss_mib=cpu.rss_mib(pids),
                        stalled=self.stalled,
                        answers_per_second={status: rate for status, rate in rates.items() if rate > 0},
                    )
                )
                last, last_at = answers, now

    def stop(self) -> None:
        """End the thread's loop."""
        self._stop.set()

    def _answers(self, ports: Sequence[int]) -> Counter[str]:
        found: Counter[str] = Counter()
        for port in ports:
            found.update(by_status(_get(f"http://127.0.0.1:{port}/metrics")))
        own = sum(count for status, count in found.items() if status.startswith("5"))
        found["5xx of HAProxy"] = max(0, errors_in(_get(f"{self.cluster.stats_url}/;csv")) - own)
        return found


def stall(bench: Bench) -> None:
    """The store stands still for a while under load, and goes on."""
    case = bench.case("stall", "durable")
    if case is None or case.running.cluster is None:
        bench.found.missing["stall"] = bench.found.missing.get("stall/durable", "there is no cluster")
        return
    cluster, stall_s = case.running.cluster, bench.plan.stall_s
    node = cluster.processes("cassandra")[0].name
    seconds = BEFORE_S + stall_s * (1 + AFTER_FACTOR)
    watch = Watch(cluster)
    watcher = threading.Thread(target=watch.run, name="watch")

    def on_progress(at: float, _requests: int) -> None:
        if not watch.stalled and watch.resumed is None and at >= BEFORE_S:
            bench.progress.say(f"stall: {node} stands still for {stall_s:.0f} s")
            cluster.signal(node, signal.SIGSTOP)
            watch.stalled = True
        elif watch.stalled and at >= BEFORE_S + stall_s:
            cluster.signal(node, signal.SIGCONT)
            watch.resumed, watch.stalled = time.monotonic(), False
            bench.progress.say(f"stall: {node} goes on")

    bench.progress.step(f"stall: {seconds:.0f} s of load")
    try:
        measured = bench.measurer.measure(
            case,
            "stall/durable/0",
            0,
            STALL_CONNECTIONS,
            seconds,
            on_start=watcher.start,
            on_progress=on_progress,
        )
    finally:
        if watch.stalled:
            cluster.signal(node, signal.SIGCONT)
        watch.stop()
        if watcher.is_alive():
            watcher.join()
    bench.found.stall.extend(watch.points)
    found = measured.measurement
    before = [max(point.rss_mib) for point in watch.points if point.seconds < BEFORE_S]
    bench.found.stall_summary.update(
        {
            "connections": STALL_CONNECTIONS,
            "MiB of the larger instance before the stall": round(max(before, default=0.0), 1),
            "seconds from its end to the first 201": None
            if watch.first_success_s is None
            else round(watch.first_success_s, 2),
            "2xx": found.acknowledged,
            "unknown (500, 502, 504, no answer)": found.unknown,
            "rows": found.stored,
            **{f"answers {status}": count for status, count in refusals(measured.outcome).items()},
        }
    )
    bench.progress.say(f"stall: {bench.found.stall_summary}")


def by_status(metrics: str) -> Mapping[str, int]:
    """Answers to POSTs by status in a web instance's metrics."""
    found: Counter[str] = Counter()
    for status, count in POSTS.findall(metrics):
        found[status] += int(float(count))
    return found


def errors_in(statistics: str) -> int:
    """Answers with a 5xx of the backend `web` in HAProxy's statistics, its own and the web instances'."""
    for line in csv.DictReader(statistics.removeprefix("# ").splitlines()):
        if line.get("pxname") == "web" and line.get("svname") == "BACKEND":
            return int(line.get("hrsp_5xx") or 0)
    return 0


def _get(url: str) -> str:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return str(answer.read().decode(errors="replace"))
    except OSError:
        return ""


def _each(values: Sequence[float], digits: int) -> str:
    return ", ".join(f"{value:.{digits}f}" for value in values)
