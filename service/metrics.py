"""The metrics, each declared once, with its meaning. README's table is held against them by a test.

With several worker processes the counts are added up through prometheus_client's
multiprocess directory, which :mod:`service.workers` sets before this module is imported.
"""

from __future__ import annotations

import os
from bisect import bisect_left

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
    multiprocess,
)

REGISTRY = CollectorRegistry()

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
ITEMS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 4096)

REQUESTS = Counter(
    "busyapi_requests",
    "Requests answered, by route, method and status.",
    ["route", "method", "status"],
    registry=REGISTRY,
)
REQUEST_SECONDS = Histogram(
    "busyapi_request_seconds",
    "From the request's head to its answer, by route.",
    ["route"],
    buckets=SECONDS,
    registry=REGISTRY,
)
REQUESTS_IN_FLIGHT = Gauge(
    "busyapi_requests_in_flight", "Requests at work now.", multiprocess_mode="livesum", registry=REGISTRY
)
GROUP_ITEMS = Histogram(
    "busyapi_group_items", "Items of one group commit, by group.", ["group"], buckets=ITEMS, registry=REGISTRY
)
GROUP_SECONDS = Histogram(
    "busyapi_group_seconds",
    "From sending a group to its results, by group.",
    ["group"],
    buckets=SECONDS,
    registry=REGISTRY,
)
QUEUE_ITEMS = Gauge(
    "busyapi_queue_items",
    "Items that wait for a group, by group.",
    ["group"],
    multiprocess_mode="livesum",
    registry=REGISTRY,
)
QUEUE_BYTES = Gauge(
    "busyapi_queue_bytes",
    "Bytes that wait for a group, by group.",
    ["group"],
    multiprocess_mode="livesum",
    registry=REGISTRY,
)
REFUSED = Counter(
    "busyapi_refused", "Requests that were answered with a problem, by code.", ["code"], registry=REGISTRY
)
BATCH_ITEMS = Counter("busyapi_batch_items", "Items of batches, by what became of them.", ["result"], registry=REGISTRY)
IDS_REMAINING = Gauge(
    "busyapi_ids_remaining", "Leased ids not handed out yet.", multiprocess_mode="livesum", registry=REGISTRY
)
READY = Gauge("busyapi_ready", "1 when this instance may take traffic.", multiprocess_mode="livemin", registry=REGISTRY)

if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
    ProcessCollector(registry=REGISTRY)
    PlatformCollector(registry=REGISTRY)


METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"))
"""Whatever else a client invents as a method is counted as one: labels must not grow without bound."""


class Answers:
    """Counts answers in REQUESTS and REQUEST_SECONDS, many at a time: one by one it was 2 % of the CPU of a request."""

    PENDING_MAX = 4096

    def __init__(self) -> None:
        self._pending: dict[tuple[str, str, int], list[float]] = {}

    def count(self, route: str, method: str, status: int, seconds: float) -> None:
        """One answer; the metrics show it after the next flush, which comes by itself every PENDING_MAX answers."""
        key = (route, method if method in METHODS else "other", status)
        pending = self._pending.get(key)
        if pending is None:
            pending = self._pending[key] = []
        pending.append(seconds)
        if len(pending) >= self.PENDING_MAX:
            self.flush()

    def flush(self) -> None:
        """Bring both metrics up to date."""
        for (route, method, status), pending in self._pending.items():
            if not pending:
                continue
            REQUESTS.labels(route, method, status).inc(len(pending))
            observe_all(REQUEST_SECONDS.labels(route), pending)
            pending.clear()


ANSWERS = Answers()


def observe_all(histogram: Histogram, amounts: list[float]) -> None:
    """As ``histogram.observe(amount)`` for each: the client library has no way to observe several at once."""
    bounds, buckets = histogram._upper_bounds, histogram._buckets  # noqa: SLF001 - a test holds this to observe()
    counts = [0] * len(bounds)
    for amount in amounts:
        counts[bisect_left(bounds, amount)] += 1
    histogram._sum.inc(sum(amounts))  # noqa: SLF001 - see above
    for bucket, count in zip(buckets, counts, strict=True):
        if count:
            bucket.inc(count)


def observe_group(name: str, items: int, seconds: float) -> None:
    """Count one group commit."""
    GROUP_ITEMS.labels(name).observe(items)
    GROUP_SECONDS.labels(name).observe(seconds)


def exposition() -> bytes:
    """All metrics of all worker processes in Prometheus's text format."""
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        registry = CollectorRegistry()
        multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return generate_latest(registry)
    return generate_latest(REGISTRY)
