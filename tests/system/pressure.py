"""Overload from outside: arrivals of the load generator, probes beside them, and what the processes hold meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import psutil

from deploy.cluster import RunningCluster
from deploy.cluster.client import ROOT
from tests.system.background import Background
from tests.system.traffic import Call, Connection, Outcome
from tests.system.wire import Closed, call, post_usage

ANSWERS_DUE_S = 30.0
"""What the generator may take beyond its window: opening its connections, and the answers that are still due."""

TICK_US = 1_000
"""At 19,000 arrivals a second the generator takes half a core when it looks at each by itself, and a fifth with this: of two cores
that it shares with what it measures.
"""

PROBES_PER_S = 10.0
"""Of each kind, at random but never more than 0.2 s apart: in even steps they would always meet the same moment between two
syncs of the store. Few enough to weigh nothing.
"""

KEPT_S = 10.0
"""A connection that has been idle for longer is not used again: HAProxy closes it after 20 s, perhaps just then."""

SAMPLE_S = 1.0
METRICS_WITHIN_S = 2.0
"""Later is no answer: who scrapes has given up by then, and a sample would be too late for its second."""


class Generator:
    """``python -m loadtest.generator`` in the background; ended with the ``with``, however that goes."""

    def __init__(
        self, url: str, *, connections: int, seconds: float, rps: float | None = None, warmup_s: float = 0.0
    ) -> None:
        words = ["--port", str(urlsplit(url).port), "--connections", str(connections), "--seconds", str(seconds)]
        words += ["--warmup", str(warmup_s)]
        words += [] if rps is None else ["--rps", str(round(rps)), "--tick", str(TICK_US)]
        self._time_limit_s = seconds + warmup_s + ANSWERS_DUE_S
        self._process = subprocess.Popen(
            [sys.executable, "-m", "loadtest.generator", *words],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()

    def running(self) -> bool:
        """Whether it has not ended yet."""
        return self._process.poll() is None

    def result(self) -> dict[str, Any]:
        """What came of it, once it has ended by itself."""
        out, errors = self._process.communicate(timeout=self._time_limit_s)
        assert self._process.returncode == 0, errors
        result: dict[str, Any] = json.loads(out.splitlines()[-1])
        return result


def run(
    url: str, *, connections: int, seconds: float, rps: float | None = None, warmup_s: float = 0.0
) -> dict[str, Any]:
    """Put this load on; what came of it."""
    with Generator(url, connections=connections, seconds=seconds, rps=rps, warmup_s=warmup_s) as generator:
        return generator.result()


def good_per_s(result: dict[str, Any]) -> float:
    """Acknowledged writes a second."""
    return float(result["acknowledged"] / result["seconds"])


@dataclass(frozen=True, slots=True)
class Probe:
    """One answer to a probe: what was asked, when (monotonic), and what came."""

    name: str
    at_s: float
    outcome: Outcome


class Probes(Background):
    """Writes, reads and health, each PROBES_PER_S times a second whatever the answers, until the ``with`` ends."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.seen: list[Probe] = []
        id_ = post_usage(url, b'{"patientId": "probe"}').json()["id"]
        self._calls: dict[str, Call] = {
            "write": ("POST", "/api/usages", b'{"patientId": "probe"}', ()),
            "read": ("GET", f"/api/usages/{id_}", None, ()),
            "readyz": ("GET", "/readyz", None, ()),
        }
        super().__init__("probes")

    def _run(self) -> None:
        asyncio.run(self._probe())

    async def _probe(self) -> None:
        idle: list[tuple[Connection, float]] = []
        async with asyncio.TaskGroup() as asked:
            while not self._stopping.is_set():
                for name in self._calls:
                    asked.create_task(self._ask(name, idle))
                await asyncio.sleep(random.uniform(0.0, 2 / PROBES_PER_S))
        for connection, _ in idle:
            connection.close()

    async def _ask(self, name: str, idle: list[tuple[Connection, float]]) -> None:
        at_s = time.monotonic()
        connection, since_s = idle.pop() if idle else (Connection(self._url), at_s)
        if at_s - since_s > KEPT_S:
            connection.close()
        self.seen.append(Probe(name, at_s, await connection.exchange(self._calls[name])))
        idle.append((connection, time.monotonic()))


def seconds_of(seen: Sequence[Probe], name: str, *statuses: int) -> list[float]:
    """How long the answers of these statuses took, in rising order."""
    return sorted(probe.outcome.seconds for probe in seen if probe.name == name and probe.outcome.status in statuses)


def percentile(values: Sequence[float], share: float) -> float:
    """Of values in rising order; 0 of none."""
    return values[min(len(values) - 1, int(len(values) * share))] if values else 0.0


@dataclass
class Sample:
    """The processes at one moment: resident bytes by name, answers so far by class as HAProxy counts them.

    ``metrics`` has the status of each web instance's own ``/metrics``, 0 for none.
    """

    at_s: float
    rss_bytes: dict[str, int] = field(default_factory=dict)
    answers: dict[str, int] = field(default_factory=dict)
    metrics: dict[str, int] = field(default_factory=dict)


class Samples(Background):
    """Looks at HAProxy and the web instances once a second until the ``with`` ends."""

    def __init__(self, cluster: RunningCluster) -> None:
        self._cluster = cluster
        self.seen: list[Sample] = []
        super().__init__("samples")

    def _run(self) -> None:
        members = _members(self._cluster)
        while True:
            try:
                self.seen.append(_sample(self._cluster, members))
            except OSError:  # one of them is gone, or was when it was asked
                members = _members(self._cluster)
            if self._stopping.wait(SAMPLE_S):
                return


def _members(cluster: RunningCluster) -> dict[str, list[int]]:
    """The pids of HAProxy and the web instances. A look through all processes of the machine, so not one for each sample:
    it holds the interpreter, which the probes need as well, for tens of milliseconds.
    """
    running = [process for process in cluster.processes() if process.role != "cassandra" and process.running]
    found: dict[str, list[int]] = {}
    for process in running:
        with contextlib.suppress(psutil.NoSuchProcess):
            own = psutil.Process(process.pid)
            found[process.name] = [each.pid for each in (own, *own.children(recursive=True))]
    return found


def _sample(cluster: RunningCluster, members: dict[str, list[int]]) -> Sample:
    """The processes now."""
    page = os.sysconf("SC_PAGE_SIZE")
    found = Sample(time.monotonic())
    for name, pids in members.items():
        found.rss_bytes[name] = sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in pids) * page
    text = call(cluster.stats_url, "GET", "/metrics").body.decode()
    for line in text.splitlines():
        if line.startswith('haproxy_backend_http_responses_total{proxy="web",'):
            found.answers[line.split('code="')[1][:3]] = int(line.rpartition(" ")[2])
    for process in cluster.processes("web"):
        found.metrics[process.name] = 0
        with contextlib.suppress(OSError, Closed):
            url = f"http://{process.address}:{process.port}"
            found.metrics[process.name] = call(url, "GET", "/metrics", timeout_s=METRICS_WITHIN_S).status
    return found


def metrics_share(samples: Sequence[Sample]) -> float:
    """The part of the questions for ``/metrics`` that was answered with a 200."""
    statuses = [status for sample in samples for status in sample.metrics.values()]
    return statuses.count(200) / max(1, len(statuses))


def growth_bytes(samples: Sequence[Sample]) -> int:
    """How much more the process that grew most held at its most than in the first sample."""
    first = samples[0].rss_bytes
    return max(each.rss_bytes.get(name, 0) - held for each in samples for name, held in first.items())
