"""The life of a web instance: opens the store, becomes ready, drains, closes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random

from service import metrics
from service.admission import Admission, retry_after_s
from service.batch import Batches
from service.counting import Counting
from service.deleting import Deleting
from service.durability import Acks
from service.errors import StoreError
from service.group_commit import Limits
from service.ids import IdAllocator
from service.messages import Messages
from service.reading import Reading, ReadLimit
from service.settings import Settings
from service.store import Store, open_store
from service.usages import Usages

log = logging.getLogger(__name__)

OPEN_BACKOFF_MIN_S = 0.1
OPEN_BACKOFF_MAX_S = 2.0
SAMPLE_INTERVAL_S = 1.0
STORE_CLOSE_TIMEOUT_S = 5.0


class Instance:
    """Everything that one process serves with. Built inside its event loop."""

    def __init__(self, settings: Settings, store: Store | None = None) -> None:
        self.settings = settings
        self.store = store or open_store(settings)
        self.acks = Acks(self.store, replicated=settings.store.scheme != "sqlite")
        self.ids = IdAllocator(self.store.lease_ids, self.store.return_ids, settings.id_lease_size)
        self.admission = Admission(
            settings.requests_in_flight_max, settings.body_bytes_in_flight_max, settings.body_timeout_s
        )
        limits = Limits(
            group_size_max=settings.group_size_max,
            group_bytes_max=settings.group_bytes_max,
            groups_in_flight_max=settings.groups_in_flight_max,
            queue_size_max=settings.queue_size_max,
            queue_bytes_max=settings.queue_bytes_max,
            queue_wait_max_s=settings.queue_wait_max_s,
            gather_max_s=settings.gather_max_s,
        )
        self.usages = Usages(self.store, self.ids, limits, settings.usage_bytes_max, metrics.observe_group)
        self.messages = Messages(
            self.store, limits, settings.message_bytes_max, settings.message_cache_control, metrics.observe_group
        )
        self.deleting = Deleting(self.store, limits, metrics.observe_group)
        read_limit = ReadLimit(settings.reads_in_flight_max)
        self.reading = Reading(self.store, settings, read_limit, ReadLimit(settings.reads_in_flight_max))
        self.counting = Counting(self.store, settings, read_limit)
        self.batches = Batches(
            self.store, self.ids, limits, settings, self.retry_after_s, self.acks, metrics.observe_group
        )
        usage_groups = (*self.usages.groups, *self.batches.groups, *self.deleting.groups)
        self.groups = (*usage_groups, *self.messages.groups)
        self.had_session = False
        self._session = asyncio.Event()
        self.draining = False
        self._tasks: list[asyncio.Task[None]] = []

    def __repr__(self) -> str:
        state = "draining" if self.draining else "ready" if self.ready else "unready"
        return f"<Instance {state}: {self.admission!r}, {', '.join(map(repr, self.groups))}>"

    @property
    def ready(self) -> bool:
        """May take traffic: has had a store session and is not draining.

        It stays ready while the store is away: its own 503 says when to try again, and a balancer
        that finds every instance unready could not.
        """
        return self.had_session and not self.draining

    def start(self) -> None:
        """Begin to open the store; until that is done, requests get a 503."""
        self._tasks = [asyncio.create_task(self._open()), asyncio.create_task(self._sample())]

    def retry_after_s(self) -> int:
        """When a refused client should come back, from the group with the longest wait."""
        return retry_after_s(max(group.expected_wait_s() for group in self.groups), random.random())

    async def wait_for_session(self, time_limit_s: float) -> None:
        """Return once there has been a store session, or the time is over."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._session.wait(), time_limit_s)

    def drain(self) -> None:
        """From now on unready, though still serving."""
        if not self.draining:
            self.draining = True
            self.sample()
            log.info("draining", extra={"fields": {"requests": self.admission.requests}})

    async def close(self) -> None:
        """Drain every group commit, give unused ids back, close the store. Bounded by drain_timeout_s and a little."""
        self.drain()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(group.close(self.settings.drain_timeout_s) for group in self.groups))
        try:
            await asyncio.wait_for(self.ids.close(), min(STORE_CLOSE_TIMEOUT_S, self.settings.drain_timeout_s))
        except TimeoutError:
            log.info("unused ids stay a gap", extra={"fields": {"ids": repr(self.ids)}})
        try:
            await asyncio.wait_for(self.store.close(), STORE_CLOSE_TIMEOUT_S)
        except TimeoutError:
            log.warning("the store did not close in time")
        self.sample()
        log.info("closed")

    def sample(self) -> None:
        """Bring the metrics up to date."""
        self.acks.refresh()
        metrics.ANSWERS.flush()
        metrics.READY.set(self.ready)
        metrics.REQUESTS_IN_FLIGHT.set(self.admission.requests)
        metrics.IDS_REMAINING.set(self.ids.remaining)
        for group in self.groups:
            metrics.QUEUE_ITEMS.labels(group.name).set(group.waiting)
            metrics.QUEUE_BYTES.labels(group.name).set(group.waiting_bytes)

    async def _open(self) -> None:
        backoff_s = OPEN_BACKOFF_MIN_S
        reported = ""
        while True:
            try:
                await self.store.open()
                await self.ids.fill()
                break
            except StoreError as error:
                if str(error) != reported:
                    reported = str(error)
                    log.warning("no store yet", extra={"fields": {"store": repr(self.store), "error": reported}})
            except Exception:
                log.exception("the store could not be opened")
            await asyncio.sleep(backoff_s * random.uniform(0.75, 1.25))
            backoff_s = min(backoff_s * 2, OPEN_BACKOFF_MAX_S)
        self.acks.started()
        self.had_session = True
        self._session.set()
        self.sample()
        log.info("ready", extra={"fields": {"store": repr(self.store)}})

    async def _sample(self) -> None:
        while True:
            self.sample()
            await asyncio.sleep(SAMPLE_INTERVAL_S)
