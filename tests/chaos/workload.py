"""The load: Locust as anyone runs it, open loop at a share of the measured peak, journals synced before each send."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.cluster.child import tail
from loadtest.run.locusts import Locust
from loadtest.timeline import Timeline
from loadtest.window import totals

USERS = ("UsageUser", "KeyedUsageUser", "MessageUser")
TIMELINE = "timeline.json"
CONNECTIONS = 192
"""Divided evenly among the three; so many that waits of a second do not leave arrivals without a user at this rate."""
PEAK_CONNECTIONS = 128
"""Of the closed loop by which the peak is measured: beyond it, waiting rises and throughput does not."""
EXTRA_CONNECTIONS = 48
"""Of the closed loop that comes on top of the load for a fault at full rate."""
KEPT_MESSAGES = 0.3
"""Of the messages: these are not deleted, so that one that is lost shows. Of the others it shows whether one is back."""
PEAK_SHARE = 0.35
"""Of the measured peak; at least 0.3 is asked for, and what is measured varies from minute to minute."""
SPAWN_RATE = 100
TIMEOUT_S = 16.0
"""A second more than any fault allows an answer to take: no client gives up before HAProxy and web instances do, and a request that waits for
longer is a failure that no fault allows."""
STOP_TIMEOUT_S = 60.0
START_TIMEOUT_S = 30.0
POLL_S = 0.1


class WorkloadError(Exception):
    """The load could not be made; the text says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What to send. ``rate_per_s`` None is a closed loop, as fast as it is answered; ``run_time_s`` None is until stopped."""

    host: str
    rate_per_s: float | None
    connections: int
    run_time_s: float | None = None
    users: tuple[str, ...] = USERS
    sync: bool = True


def command(load: Load, directory: Path) -> list[str]:
    """The words after ``locust -f loadtest/locustfile.py``."""
    words = ["--headless", "--only-summary", "--host", load.host]
    words += ["--users", str(load.connections), "--spawn-rate", str(SPAWN_RATE)]
    words += ["--timeout-s", f"{TIMEOUT_S:g}", "--stop-timeout", f"{TIMEOUT_S:g}"]
    # Nobody stays away, whatever a 503 says: what a fault does to those who come is what is looked at.
    words += ["--retry-after-max-s", "0"]
    words += ["--journal", str(directory / "journals"), "--timeline", str(directory / TIMELINE)]
    words += ["--keep-messages", f"{KEPT_MESSAGES:g}"]
    words += ["--journal-sync"] if load.sync else []
    words += [] if load.rate_per_s is None else ["--rate", f"{load.rate_per_s:.10g}"]
    words += [] if load.run_time_s is None else ["--run-time", f"{max(1, round(load.run_time_s))}s"]
    return [*words, *load.users]


class Workload:
    """One Locust process in a directory of its own: ``journals/``, ``timeline.json``, ``locust.log``."""

    def __init__(self, load: Load, directory: Path) -> None:
        self.directory = directory
        directory.mkdir(parents=True)
        self._locust = Locust("the load", command(load, directory), directory / "locust.log")

    @property
    def pid(self) -> int:
        """Its pid."""
        return self._locust.pid

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self._locust.running

    def wait_for_traffic(self) -> None:
        """Return once it has begun to send. Raises WorkloadError."""
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while not any((self.directory / "journals").glob("*.journal")):
            self.check()
            if time.monotonic() > deadline_s:
                raise WorkloadError(f"the load did not begin within {START_TIMEOUT_S:g} s:\n{tail(self._locust.log)}")
            time.sleep(POLL_S)

    def check(self) -> None:
        """Raises WorkloadError when it has ended, which it does not do by itself unless it has a run time."""
        if not self.running:
            raise WorkloadError(self._locust.why())

    def wait(self, timeout_s: float) -> None:
        """Return when it has ended by itself. Raises WorkloadError."""
        if not self._locust.ends_within(timeout_s):
            self.stop()
            raise WorkloadError(f"the load did not end within {timeout_s:g} s:\n{tail(self._locust.log)}")
        if not self._locust.ended_well():
            raise WorkloadError(self._locust.why())

    def stop(self) -> None:
        """End it: what is in flight is answered, journals are closed. Killed when it takes too long; journals survive that."""
        self._locust.stop(STOP_TIMEOUT_S)

    def end(self) -> None:
        """As ``stop``; raises WorkloadError when it had ended before, did not end in order, or told nothing of what it did."""
        ran = self.running
        self.stop()
        if not ran or not self._locust.ended_well():
            raise WorkloadError(self._locust.why())
        if not (self.directory / TIMELINE).exists():
            raise WorkloadError(f"the load left no {TIMELINE}:\n{tail(self._locust.log)}")

    def timeline(self) -> dict[str, Any]:
        """What happened in each second; empty when nothing was written."""
        return read_timeline(self.directory)


def read_timeline(directory: Path) -> dict[str, Any]:
    """The timeline in a directory, an empty one when there is none."""
    try:
        found: dict[str, Any] = json.loads((directory / TIMELINE).read_text())
    except FileNotFoundError:
        return Timeline().as_dict()
    return found


def merged(timelines: list[Mapping[str, Any]]) -> dict[str, Any]:
    """Several loads as one."""
    whole = Timeline()
    for timeline in timelines:
        whole.merge(timeline)
    return whole.as_dict()


def measure_peak(host: str, directory: Path, seconds: float, *, sync: bool = True) -> float:
    """Arrivals answered well per second in a closed loop, in the second half of so many seconds. Raises WorkloadError."""
    load = Load(host=host, rate_per_s=None, connections=PEAK_CONNECTIONS, run_time_s=seconds, sync=sync)
    began_s = time.time()
    workload = Workload(load, directory)
    try:
        workload.wait(seconds + STOP_TIMEOUT_S)
    finally:
        workload.stop()
    timeline = workload.timeline()
    seen = sorted(int(second) for second, counts in timeline["seconds"].items() if counts["requests"])
    if len(seen) < 3:
        raise WorkloadError(f"the peak could not be measured in {time.time() - began_s:.0f} s")
    middle = seen[len(seen) // 2]
    return totals(timeline, middle, seen[-1]).achieved_per_s
