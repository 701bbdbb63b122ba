"""Ties offering, record and shapes to a Locust process, whatever its part: alone, master or worker."""

from __future__ import annotations

import logging
import math
import resource
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gevent
from locust import runners
from locust.env import Environment
from locust.runners import MasterRunner, WorkerRunner

from loadtest.offering import INTERVAL_S, MESSAGE, LocalOffer, MasterOffer, Offering, Rate
from loadtest.options import SHAPES, USERS
from loadtest.record import Record
from loadtest.shapes import Shape
from loadtest.users import UsageUser, process_of
from loadtest.window import line, shortfall

REPORT_INTERVAL_S = 1.0
"""Of a worker to the master; Locust's own default of 3 s is coarse beside shapes that change within one."""
LAST_REPORTS_TIMEOUT_S = 3.0
"""Longest wait of the master, beyond ``--stop-timeout``, for what the workers counted last."""
DELTA = "busyapi_timeline"
LAST = "busyapi_last"
FINISH = "busyapi-finish"

logger = logging.getLogger(__name__)


def direct(environment: Environment) -> None:
    """Prepare this process; called once, when Locust has made the environment and its runner."""
    _allow_open_files()
    runner = environment.runner
    if isinstance(runner, WorkerRunner):
        Worker(environment, runner)
        return
    _choose(environment)
    if isinstance(runner, MasterRunner):
        _hear_ctrl_c()
        master = MasterOffer(runner)
        director = MasterDirector(environment, Offering(master))
        environment.events.worker_connect.add_listener(
            lambda client_id, **_: master.newcomer(client_id) if director.offering.open_loop else None
        )
    else:
        process = process_of(environment)

        def tell(rate: Rate) -> None:
            process.arrivals.rate_per_s = rate

        Director(environment, Offering(LocalOffer(tell)), lambda record: record.add(process.timeline.take()))


def _hear_ctrl_c() -> None:
    """Have Ctrl-C end the greenlet that waits for the end, the one that calls this, whichever runs when it comes.

    Locust's own listener to workers takes it for another's affair and goes on, so one that came while it ran was lost.
    What a shell started in the background stays deaf to it.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        return
    gevent.signal_handler(signal.SIGINT, gevent.kill, gevent.getcurrent(), KeyboardInterrupt)


class Worker:
    """Takes its share of the rate from the master, and reports what it counted."""

    def __init__(self, environment: Environment, runner: WorkerRunner) -> None:
        # Workers read this module's variable each time.
        runners.WORKER_REPORT_INTERVAL = REPORT_INTERVAL_S
        options = environment.parsed_options
        # The master sends its options along, but files are where this process says they are, when it does.
        own = {name: getattr(options, name) for name in ("journal", "ca") if getattr(options, name, "")}
        environment.events.test_start.add_listener(lambda **_: vars(options).update(own))
        self._process = process_of(environment)
        self._environment = environment
        self._runner = runner
        # Which of them run is the master's decision, and a person's at its web UI.
        available: Mapping[str, Any] = environment.available_user_classes or {}
        environment.user_classes = list(available.values())
        runner.register_message(MESSAGE, self._offer)
        # Concurrent: the greenlet that hears the master must go on while requests in flight are answered.
        runner.register_message(FINISH, lambda **_: runner.stop(), concurrent=True)
        environment.events.report_to_master.add_listener(self._report)
        environment.events.test_stop.add_listener(self._last_report)
        # Fired in reverse: before Locust says good-bye to the master.
        environment.events.quitting.add_listener(lambda **_: runner.stop())

    def _offer(self, msg: Any, **_: Any) -> None:
        self._process.arrivals.rate_per_s = msg.data["rate"]

    def _report(self, data: dict[str, Any], **_: Any) -> None:
        self._process.flush()
        data[DELTA] = self._process.timeline.take()

    def _last_report(self, **_: Any) -> None:
        """All that is left, before the master hears that this worker has stopped."""
        data: dict[str, Any] = {LAST: True}
        self._environment.events.report_to_master.fire(client_id=self._runner.client_id, data=data)
        self._runner.send_message("stats", data)


class Director:
    """Of the process that decides, a master or one that is alone: runs the offering, keeps the record, says the result."""

    def __init__(self, environment: Environment, offering: Offering, collect: Callable[[Record], None]) -> None:
        options = environment.parsed_options
        path = getattr(options, "timeline", "")
        self.environment = environment
        self.offering = offering
        self.record = Record(Path(path) if path else None)
        self._collect = collect
        self._running = False
        self._users_there = False
        events = environment.events
        events.test_start.add_listener(self._begin)
        events.test_stopping.add_listener(lambda **_: self.offering.stop())
        events.test_stop.add_listener(self._end)
        # Fired in reverse: before anything is taken down.
        events.quitting.add_listener(lambda **_: self.end())
        for shape in (environment.available_shape_classes or {}).values():
            if isinstance(shape, Shape):
                shape.record = self.record
                shape.users_unless_said = getattr(options, "num_users", None) or USERS
        gevent.spawn(self.record.keep, lambda: self._collect(self.record))

    @property
    def _runner(self) -> Any:
        return self.environment.runner

    @property
    def _shape(self) -> Shape | None:
        shape = self.environment.shape_class
        return shape if isinstance(shape, Shape) else None

    def end(self) -> None:
        """Stop the test when one runs; on return its result has been said and written."""
        self._runner.stop()

    def await_last_reports(self) -> None:
        """Return when all that was counted can be collected."""

    def _begin(self, **_: Any) -> None:
        shape = self._shape
        self.record.begin(type(shape).__name__ if shape else "")
        self._running = True
        self._users_there = False
        options = self.environment.parsed_options
        rate = float(getattr(options, "rate", 0.0) or 0.0)
        if shape is not None:
            shape.reset_time()
            self.record.notes += shape.warnings()
            self.offering.start(shape.rate if shape.open_loop else None)
        else:
            self.offering.start((lambda: rate * self._part_of_users()) if rate else None)

    def _part_of_users(self) -> float:
        """While the first users are being started, the rate rises with their number; it does not fall with it."""
        wanted = self._runner.target_user_count
        part = min(self._runner.user_count / wanted, 1.0) if wanted else 0.0
        self._users_there = self._users_there or part == 1.0
        return 1.0 if self._users_there else part

    def _end(self, **_: Any) -> None:
        if not self._running:
            return
        self._running = False
        self.await_last_reports()
        self._collect(self.record)
        test = self.record.test
        began, ended = test["began_unix_s"], time.time()
        # Whole seconds: the first and the last count with all that is in them.
        totals = self.record.totals(int(began), int(ended) + 1)
        test["ended_unix_s"] = ended
        test["totals"] = totals.as_dict()
        said = [line(totals)]
        if shape := self._shape:
            test["phases"] = [
                {
                    "name": phase.name,
                    "from_unix_s": began + phase.begins_s,
                    "to_unix_s": min(began + phase.ends_s, ended),
                }
                for phase in shape.phases()
                if began + phase.begins_s < ended
            ]
            said += shape.ended()
            said += self._held(test["phases"])
        if words := shortfall(totals):
            said.append(words)
        for sentence in said:
            logger.info(sentence)
        self.record.notes += said
        self.record.write()

    def _held(self, phases: list[dict[str, Any]]) -> list[str]:
        """What a plateau achieved in its whole seconds, without the way up to it."""
        said = []
        for phase in phases:
            # The rate follows the curve within INTERVAL_S.
            from_unix_s, to_unix_s = math.ceil(phase["from_unix_s"] + INTERVAL_S), math.floor(phase["to_unix_s"])
            if phase["name"] == "hold" and from_unix_s < to_unix_s:
                held = self.record.totals(from_unix_s, to_unix_s)
                self.record.test["held"] = held.as_dict()
                said.append(f"Held for {held.seconds} s: {line(held)}")
        return said


class MasterDirector(Director):
    """A master's: its workers count, and tell it every second."""

    def __init__(self, environment: Environment, offering: Offering) -> None:
        super().__init__(environment, offering, lambda _: None)
        self._reporting: set[str] = set()
        self._quitting = False
        environment.events.worker_report.add_listener(self._report)
        environment.events.test_stopping.add_listener(self._finish)
        quit_at_once = self._runner.quit

        def quit_in_order() -> None:
            self._quitting = True
            quit_at_once()

        self._runner.quit = quit_in_order

    def end(self) -> None:
        """Let the workers finish; Locust tells them to quit afterwards."""
        self._quitting = True
        self._runner.stop(send_stop_to_client=False)

    def await_last_reports(self) -> None:
        """Wait, within bounds, for the last report of each worker that took part."""
        deadline = time.monotonic() + self.environment.stop_timeout + LAST_REPORTS_TIMEOUT_S
        while self._awaited() and time.monotonic() < deadline:
            gevent.sleep(0.02)
        if late := self._awaited():
            logger.warning("%d worker(s) did not report at the end", len(late))
        self._reporting.clear()

    def _awaited(self) -> set[str]:
        """Workers that are there and have not reported for the last time."""
        clients = self._runner.clients
        return self._reporting & {worker.id for worker in [*clients.ready, *clients.spawning, *clients.running]}

    def _finish(self, **_: Any) -> None:
        """Let the workers answer what is in flight, when Locust would have them quit at once and their counts be lost."""
        # Of a test that ends within its first second some have not reported yet.
        self._reporting |= {worker.id for worker in [*self._runner.clients.spawning, *self._runner.clients.running]}
        if self._quitting:
            self._runner.send_message(FINISH)

    def _report(self, client_id: str, data: dict[str, Any]) -> None:
        if DELTA not in data:
            return
        self.record.add(data[DELTA])
        if data.get(LAST):
            self._reporting.discard(client_id)
        elif data.get("user_count"):
            self._reporting.add(client_id)


def _choose(environment: Environment) -> None:
    """Choose what was asked for: usages when no user class was named, and no shape, where Locust would take the first.

    Without ``--shape`` the web UI lets a person pick one, and which of the named user classes, or of all, to run.
    """
    options = environment.parsed_options
    named = getattr(options, "user_classes", None)
    if named:
        available: Mapping[str, Any] = environment.available_user_classes or {}
        environment.available_user_classes = {name: each for name, each in available.items() if name in named}
    else:
        environment.user_classes = [UsageUser]
    name = getattr(options, "shape", "")
    shapes = environment.available_shape_classes or {}
    environment.shape_class = shapes[SHAPES[name]] if name else None
    if environment.shape_class is not None:
        environment.shape_class.runner = environment.runner
    if environment.web_ui is not None and not name:
        environment.web_ui.userclass_picker_is_active = True


def _allow_open_files() -> None:
    """Let this process have as many connections as the system lets it."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
