"""What the users of one process share, and its life: from a test's start to the end of the process."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Callable, Hashable
from typing import Any, TypeVar, cast

import gevent
from locust.env import Environment
from locust.runners import MasterRunner

from loadtest.journal import Journal, Kind, open_journal
from loadtest.journal.sync import SyncedJournal
from loadtest.timeline import Timeline
from loadtest.users.arrivals import Arrivals
from loadtest.users.connection import SWEEP_S, Sweeper
from loadtest.users.poller import Poller
from loadtest.users.recorder import Endpoint, Recorder
from loadtest.users.settings import UserSettings, settings_of
from loadtest.users.target import Target

logger = logging.getLogger(__name__)
T = TypeVar("T")
_ATTRIBUTE = "_loadtest_process"


class Process:
    """Journals, arrivals, timeline, counting and time-outs of this process; ``process_of`` makes the one of an environment.

    ``timeline`` is this process's own (``take`` hands out its deltas), ``arrivals.rate_per_s`` is the rate that it offers.
    """

    def __init__(self, environment: Environment) -> None:
        self.environment = environment
        self.settings = settings_of(environment.parsed_options)
        self.running = False
        self.name = f"{socket.gethostname()}:{os.getpid()}"
        self.timeline = Timeline()
        self.arrivals = Arrivals(self.timeline)
        self.recorder = Recorder(environment, self.timeline)
        self.sweeper = Sweeper()
        self.poller = Poller()
        self._journals: dict[Kind, Journal] = {}
        self._shared: dict[Hashable, object] = {}
        self._targets: dict[str, Target] = {}
        self._housekeeping = gevent.get_hub().loop.timer(SWEEP_S, SWEEP_S)
        self._cpu_s = 0.0
        self._cpu_second = 0
        events = environment.events
        events.test_start.add_listener(self._on_test_start)
        events.test_stopping.add_listener(self._on_test_stopping)
        events.test_stop.add_listener(self._on_test_stop)
        events.quitting.add_listener(self._on_quitting)

    def journal(self, kind: Kind) -> Journal:
        """The journal of a kind of this process; opened at its first use, closed when the process ends."""
        found = self._journals.get(kind)
        if found is None:
            found = self._journals[kind] = open_journal(self.settings.journal, kind, of=_class_of(self.settings))
        return found

    def target(self, url: str) -> Target:
        """Where a host's URL leads, the same object for all users; raises ValueError for what is no such URL."""
        found = self._targets.get(url)
        if found is None:
            found = self._targets[url] = Target.of(url, insecure=self.settings.insecure, ca=self.settings.ca)
        return found

    def endpoint(self, method: str, path: str) -> Endpoint:
        """What requests of this name are counted under; the same object every time."""
        return self.recorder.endpoint(method, path)

    def shared(self, name: Hashable, make: Callable[[], T]) -> T:
        """What ``make`` gave at the first call with this name: for what all users of a class have in common."""
        if name not in self._shared:
            self._shared[name] = make()
        return cast(T, self._shared[name])

    def flush(self) -> None:
        """Bring the timeline and Locust's statistics up to date."""
        self.recorder.flush()

    def start(self) -> None:
        """A test begins."""
        self.running = True
        self.settings = settings_of(self.environment.parsed_options)
        self._targets.clear()
        self._shared.clear()
        self.recorder.forget()
        self.sweeper.now_s = time.monotonic()
        self.arrivals.start(poisson=self.settings.arrivals == "poisson", waiting_max=self.settings.backlog_max)
        self._cpu_s = time.process_time()
        self._cpu_second = int(time.time())
        if not self._housekeeping.active:
            self._housekeeping.start(self._housekeep)

    def stop(self) -> None:
        """The test is over and its users are gone; what they did is counted."""
        if not self.running:
            return
        self.running = False
        self.arrivals.stop()
        self.arrivals.rate_per_s = None
        self.flush()
        self._count_process(self._cpu_second)
        self._housekeeping.stop()

    def give_up(self, why: str) -> None:
        """Say why nothing more can be sent and end the test, with an exit status that tells."""
        if self.running:
            self.running = False
            logger.error(why)
            self.environment.process_exit_code = 1
            if self.environment.runner is not None:
                # Stopping waits for the users, and this may be one of them.
                gevent.spawn(self.environment.runner.quit)

    def close(self) -> None:
        """Close the journals; nothing is sent any more."""
        self.stop()
        for journal in self._journals.values():
            journal.close()
        self._journals.clear()

    def _housekeep(self) -> None:
        self.poller.keep_watching()
        self.sweeper.sweep()
        now_unix_s = time.time()
        self.flush()
        if int(now_unix_s) != self._cpu_second:
            self._count_process(self._cpu_second)
            self._cpu_second = int(now_unix_s)

    def _count_process(self, second: int) -> None:
        cpu_s = time.process_time()
        self.timeline.generator(self.name, second, cpu_s - self._cpu_s)
        self._cpu_s = cpu_s
        if self.environment.runner is not None:
            self.timeline.users(second, self.environment.runner.user_count)

    def _on_test_start(self, **_: Any) -> None:
        if not isinstance(self.environment.runner, MasterRunner):
            self.start()

    def _on_test_stopping(self, **_: Any) -> None:
        self.arrivals.stop()

    def _on_test_stop(self, **_: Any) -> None:
        if not isinstance(self.environment.runner, MasterRunner):
            self.stop()

    def _on_quitting(self, **_: Any) -> None:
        self.close()


def _class_of(settings: UserSettings) -> type[Journal]:
    return SyncedJournal if settings.journal_sync else Journal


def process_of(environment: Environment) -> Process:
    """The one of this environment, made at the first call, which must be before a test starts or by its first user."""
    found = getattr(environment, _ATTRIBUTE, None)
    if found is None:
        found = Process(environment)
        setattr(environment, _ATTRIBUTE, found)
        if environment.runner is not None and environment.runner.state in ("spawning", "running"):
            found.start()
    assert isinstance(found, Process)
    return found
