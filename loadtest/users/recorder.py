"""Counting requests at the price of a list's append: aggregated in bulk, for the timeline and for Locust's statistics."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

from locust import stats as locust_stats
from locust.env import Environment

from loadtest.timeline import OTHER_REASONS, REASONS_MAX, Timeline, bucket_of_us
from loadtest.users.layout import Layouts

MEMO_MAX = 1 << 18
"""Different latencies, in whole µs, whose bucket is remembered."""


def rounded_ms(latency_us: int) -> int:
    """What Locust's histogram makes of a latency, by its own function, which a user may have replaced."""
    return locust_stats.bucket_response_time(latency_us / 1000)


class _Buckets(dict[int, int]):
    """Latency in µs → bucket of the timeline; looked up by ``map`` without a line of Python once it is known."""

    def __missing__(self, us: int) -> int:
        if len(self) >= MEMO_MAX:
            self.clear()
        bucket = self[us] = bucket_of_us(us)
        return bucket


class _Rounded(dict[int, int]):
    """Latency in µs → what Locust rounds it to, in ms, by its own function."""

    def __missing__(self, us: int) -> int:
        if len(self) >= MEMO_MAX:
            self.clear()
        rounded = self[us] = rounded_ms(us)
        return rounded


_BUCKETS = _Buckets()
_ROUNDED = _Rounded()


class Endpoint:
    """A request's name, and what was counted of it since the last flush; ``name`` is "METHOD path"."""

    __slots__ = ("_add", "bytes", "latencies_us", "layouts", "method", "name", "path", "recorder")

    def __init__(self, recorder: Recorder, method: str, path: str) -> None:
        self.recorder = recorder
        self.method = method
        self.path = path
        self.name = f"{method} {path}"
        self.latencies_us: list[int] = []
        self.layouts = Layouts()
        self.bytes = 0
        self._add = self.latencies_us.append

    def success(self, started_s: float, length: int) -> None:
        """Count a request that was answered just now with ``length`` bytes of body; ``started_s`` is of the steady clock."""
        now_s = time.monotonic()
        recorder = self.recorder
        if now_s >= recorder.ends_s:
            recorder.flush()
        self._add(int((now_s - started_s) * 1e6))
        self.bytes += length
        if recorder.watched:
            recorder.fire(self, now_s - started_s, length, None)

    def failure(self, started_s: float, reason: str, length: int = 0) -> None:
        """Count a request that failed just now, for a reason that is read by people and kept short."""
        self.recorder.failure(self, time.monotonic() - started_s, reason, length)


class RequestFailed(Exception):
    """What Locust is told as the exception of a failed request; it shows the reason alone."""

    def __repr__(self) -> str:
        return str(self)


class Recorder:
    """All endpoints of a process: feeds the timeline, and Locust as if each request had been an event.

    Statistics are fed when ``flush`` is called, and at the latest at the end of each second. When anybody but Locust itself
    listens to ``events.request``, every request fires it, and Locust counts by itself.
    """

    def __init__(self, environment: Environment, timeline: Timeline) -> None:
        self.ends_s = 0.0
        self.watched = False
        self._environment = environment
        self._timeline = timeline
        self._endpoints: dict[tuple[str, str], Endpoint] = {}
        self._since_unix_s = 0.0
        self._second = 0
        self._reasons: set[str] = set()
        self._begin_second()

    def endpoint(self, method: str, path: str) -> Endpoint:
        """The endpoint of this name, the same one every time."""
        found = self._endpoints.get((method, path))
        if found is None:
            found = self._endpoints[method, path] = Endpoint(self, method, path)
        return found

    def flush(self) -> None:
        """Pass on what was counted since the last time."""
        for endpoint in self._endpoints.values():
            if endpoint.latencies_us:
                self._pass_on(endpoint)
        self._begin_second()
        listeners = self._environment.events.request._handlers  # noqa: SLF001 - there is no other way to ask
        self.watched = any(not _is_locusts(listener) for listener in listeners)

    def failure(self, endpoint: Endpoint, latency_s: float, reason: str, length: int) -> None:
        """Count one failure; different reasons are bounded, as Locust keeps every one for ever."""
        if reason not in self._reasons:
            if len(self._reasons) >= REASONS_MAX:
                reason = OTHER_REASONS
            self._reasons.add(reason)
        self._timeline.failure(endpoint.name, time.time(), reason, latency_s)
        self.fire(endpoint, latency_s, length, RequestFailed(reason))

    def fire(self, endpoint: Endpoint, latency_s: float, length: int, exception: Exception | None) -> None:
        """Tell everybody who listens to requests of this one."""
        self._environment.events.request.fire(
            request_type=endpoint.method,
            name=endpoint.path,
            response_time=latency_s * 1000,
            response_length=length,
            exception=exception,
            context={},
        )

    def forget(self) -> None:
        """A test begins: what was counted and not yet passed on belongs to none."""
        for endpoint in self._endpoints.values():
            endpoint.latencies_us.clear()
            endpoint.bytes = 0
        self._reasons.clear()
        self.flush()

    def _begin_second(self) -> None:
        unix_s = time.time()
        self._since_unix_s = unix_s
        self._second = int(unix_s)
        self.ends_s = time.monotonic() + self._second + 1 - unix_s

    def _pass_on(self, endpoint: Endpoint) -> None:
        latencies_us = endpoint.latencies_us[:]
        length, endpoint.bytes = endpoint.bytes, 0
        endpoint.latencies_us.clear()
        self._timeline.successes(endpoint.name, self._second, Counter(map(_BUCKETS.__getitem__, latencies_us)), length)
        if not self.watched:
            rounded = Counter(map(_ROUNDED.__getitem__, latencies_us))
            stats = self._environment.stats
            if (endpoint.path, endpoint.method) not in stats.entries:
                # Locust takes the moment at which it learns of a name for that of its first request.
                stats.entries[endpoint.path, endpoint.method].start_time = self._since_unix_s
            feed(stats, endpoint.method, endpoint.path, self._second, latencies_us, rounded, length)


def feed(
    stats: Any, method: str, name: str, second: int, latencies_us: list[int], rounded: Counter[int], length: int
) -> None:
    """Add requests to Locust's statistics as ``RequestStats.log_request`` would have, one by one, in that second."""
    total_ms = sum(latencies_us) / 1000
    least_ms = min(latencies_us) / 1000
    most_ms = max(latencies_us) / 1000
    last_s = max(time.time(), float(second)) if int(time.time()) == second else second + 0.999
    for entry in (stats.total, stats.entries[name, method]):
        if (
            entry.use_response_times_cache
            and entry.last_request_timestamp
            and second > int(entry.last_request_timestamp)
        ):
            entry._cache_response_times(second - 1)  # noqa: SLF001 - what log() does at this point
        entry.num_requests += len(latencies_us)
        entry.num_reqs_per_sec[second] += len(latencies_us)
        entry.last_request_timestamp = max(last_s, entry.last_request_timestamp or 0.0)
        entry.total_response_time += total_ms
        entry.min_response_time = (
            least_ms if entry.min_response_time is None else min(entry.min_response_time, least_ms)
        )
        entry.max_response_time = max(entry.max_response_time, most_ms)
        for rounded_ms, count in rounded.items():
            entry.response_times[rounded_ms] += count
        entry.total_content_length += length


def _is_locusts(listener: Any) -> bool:
    """Whether this is the listener by which Locust itself counts."""
    return getattr(listener, "__module__", "") == "locust.runners"
