"""Carries a schedule out against a running cluster: each injection in a thread of its own, none beside one it may not meet."""

from __future__ import annotations

import math
import random
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from deploy.cluster import RunningCluster
from tests.chaos.events import Event
from tests.chaos.faults import Context
from tests.chaos.schedule import Injection, may_overlap
from tests.chaos.workload import EXTRA_CONNECTIONS, Load, Workload

POLL_S = 0.1
FULL_RATE_LEAD_S = 3.0
"""The extra clients of a fault at full rate are all there after so long."""


class Injector:
    """``events`` holds what has happened so far; ``extra`` the directories of extra load."""

    def __init__(
        self, cluster: RunningCluster, directory: Path, say: Callable[[str], None], *, quick: bool, sync: bool
    ) -> None:
        self.events: list[Event] = []
        self.extra: list[Path] = []
        self._cluster = cluster
        self._directory = directory
        self._say = say
        self._quick = quick
        self._sync = sync
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._began: dict[int, float] = {}
        """By number, on the steady clock; 0 is the schedule itself."""
        self._over: dict[int, float] = {}
        """Of those that were begun: when their after-effects are over, on the steady clock; infinite while they last."""

    def run(self, injections: Sequence[Injection], tick: Callable[[], None]) -> None:
        """Return when all are over, after-effects included. ``tick`` is called again and again; what it raises ends the run.

        Whatever ends it, every fault that was begun is healed before it returns.
        """
        threads: list[threading.Thread] = []
        self._began[0] = time.monotonic()
        try:
            for index, injection in enumerate(injections):
                while not self._is_due(injection, injections[:index]):
                    tick()
                    time.sleep(POLL_S)
                self._began[injection.number] = time.monotonic()
                self._over[injection.number] = math.inf
                thread = threading.Thread(target=self._perform, args=(injection,), name=str(injection))
                thread.start()
                threads.append(thread)
            while time.monotonic() < max(self._over.values(), default=0.0):
                tick()
                time.sleep(POLL_S)
        except BaseException:
            self._stopping.set()
            raise
        finally:
            for thread in threads:
                thread.join()
            self.events.sort(key=lambda event: event.began_unix_s)

    def _is_due(self, injection: Injection, before: Sequence[Injection]) -> bool:
        """Whether it is its turn: what was planned apart stays apart, however long things take."""
        now_s = time.monotonic()
        running = [other for other in before if self._over[other.number] > now_s]
        if injection.during and all(may_overlap(injection.fault, other.fault) for other in running):
            return now_s >= self._began[injection.number - 1] + injection.delay_s
        over_s = max(self._over.values(), default=self._began[0])
        return now_s >= over_s + (0.0 if injection.during else injection.delay_s)

    def _perform(self, injection: Injection) -> None:
        fault = injection.fault
        directory = self._directory / f"{injection.number:03d}-{fault.name}"
        directory.mkdir(parents=True)
        context = Context(
            cluster=self._cluster,
            target=injection.target,
            directory=directory,
            random=random.Random(injection.seed),
            say=self._say,
            quick=self._quick,
            stopping=self._stopping,
        )
        errors: list[str] = []
        extra: list[Workload] = []

        def attempt(what: str, action: Callable[[Context], object]) -> float:
            try:
                action(context)
            except Exception as error:  # noqa: BLE001 - whatever it is, it goes into the verdict and others go on
                errors.append(f"{what}: {type(error).__name__}: {error}")
                (directory / "error.txt").write_text(traceback.format_exc())
            return time.time()

        if fault.full_rate:
            attempt("full rate", lambda _: self._full_rate(directory, extra))
        self._say(f"{fault.name} {injection.target}".rstrip() + f": {fault.does}")
        began = time.time()
        injected = began if errors else attempt("inject", fault.inject)
        if not errors:
            context.pause(injection.length_s)
        healing = time.time()
        healed = attempt("heal", fault.heal)
        interrupted = self._stopping.is_set()
        for load in extra:
            attempt("full rate", lambda _, load=load: load.end())  # type: ignore[misc]
        event = Event(
            fault=fault,
            target=injection.target,
            began_unix_s=began,
            injected_unix_s=injected,
            healing_unix_s=healing,
            healed_unix_s=healed,
            injections=context.injections,
            seen=context.seen,
            error="; ".join(errors),
            interrupted=interrupted,
        )
        with self._lock:
            self.events.append(event)
        after_s = 0.0 if interrupted else fault.after_s
        self._over[injection.number] = time.monotonic() + after_s
        if errors:
            self._say(f"{fault.name} {injection.target}: {event.error}")

    def _full_rate(self, directory: Path, extra: list[Workload]) -> None:
        load = Load(host=self._cluster.base_url, rate_per_s=None, connections=EXTRA_CONNECTIONS, sync=self._sync)
        with self._lock:
            self.extra.append(directory / "load")
        workload = Workload(load, directory / "load")
        extra.append(workload)
        workload.wait_for_traffic()
        self._stopping.wait(FULL_RATE_LEAD_S)
