"""The user class that the others are made from: requests as bytes over one connection, counted at little cost."""

from __future__ import annotations

import random
import time
from typing import Any

import gevent
from locust import User
from locust.env import Environment
from locust.exception import StopTest, StopUser
from locust.user.task import LOCUST_STATE_RUNNING, LOCUST_STATE_STOPPING, LOCUST_STATE_WAITING

from loadtest.journal import JournalFull
from loadtest.users.checks import REFUSALS, reason_of, retry_after_s
from loadtest.users.connection import Connection, NoAnswer
from loadtest.users.http1 import Answer
from loadtest.users.process import process_of
from loadtest.users.recorder import Endpoint

RECONNECT_FIRST_S = 0.05
RECONNECT_DOUBLED_MAX = 4
"""A user that cannot connect stays away so long, doubled each time so often, and spread: it does not spin."""


class BurstUser(User):
    """Override ``step``, which makes one request or several; it is called over and over until the user is stopped.

    A subclass with tasks of its own is run by Locust as any user; its tasks call ``next_start``, ``exchange`` and
    ``failed``. In a closed loop the next step begins when the last has ended (after ``wait_time``, where a subclass sets one);
    in an open loop when the next arrival is due.

    A user that is stopped gently finishes its step; one that is killed closes its connection, and what was in flight is
    unknown. All of a user runs in its own greenlet.
    """

    abstract = True

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        self.process = process_of(environment)
        settings = self.process.settings
        try:
            self.target = self.process.target(self.host or "")
        except (ValueError, OSError) as error:
            raise StopTest(str(error)) from error
        self.connection = Connection(
            self.target,
            self.process.sweeper,
            self.process.poller,
            timeout_s=settings.timeout_s,
            connect_timeout_s=settings.connect_timeout_s,
        )
        self._arrivals = self.process.arrivals
        self.pause_s = 0.0

    def __init_subclass__(cls, **arguments: Any) -> None:
        super().__init_subclass__(**arguments)
        own = [task for task in cls.tasks if task is not BurstUser._steps]
        cls.tasks = own or [BurstUser._steps]

    def step(self, started_s: float) -> None:
        """Make a request, check its answer, count it; its response time is counted from ``started_s`` (steady clock)."""
        raise NotImplementedError

    def on_stop(self) -> None:
        """Close the connection; a subclass that overrides it calls it."""
        self.connection.close()

    def next_start(self) -> float:
        """When the next request is to start, in seconds of the steady clock: now, or the planned instant of an open loop.

        Waits until then, and before that as long as the service asked this user to stay away. Raises Locust's StopUser once
        the user is to stop.
        """
        if self._state == LOCUST_STATE_STOPPING:
            raise StopUser
        if self.pause_s:
            self._rest()
        if self._arrivals.open:
            self._state = LOCUST_STATE_WAITING
            started_s = self._arrivals.wait()
            self._state = LOCUST_STATE_RUNNING
            return started_s
        return time.monotonic()

    def exchange(self, endpoint: Endpoint, request: bytes, started_s: float) -> Answer:
        """The answer to a whole request. When there is none it is counted as failed, and NoAnswer is raised."""
        try:
            return self.connection.exchange(endpoint.method, request, endpoint.layouts)
        except NoAnswer as error:
            self.unanswered(endpoint, error, started_s)
            raise

    def unanswered(self, endpoint: Endpoint, error: NoAnswer, started_s: float) -> None:
        """Count a request that got no answer; one that cannot connect stays away for a while."""
        endpoint.failure(started_s, str(error))
        if not error.sent:
            doubled = min(self.connection.failed_opens, RECONNECT_DOUBLED_MAX)
            self.pause_s = RECONNECT_FIRST_S * 2**doubled * random.uniform(0.5, 1.0)

    def failed(self, endpoint: Endpoint, answer: Answer, started_s: float, expected: str) -> None:
        """Count an answer that is not what was expected; after a 429 or 503 the next step starts when it says."""
        endpoint.failure(started_s, reason_of(answer, expected), len(answer.body))
        if answer.status in REFUSALS:
            self.pause_s = retry_after_s(answer, self.process.settings.retry_after_max_s)

    def _steps(self) -> None:
        """The one task of a user without tasks: steps without end, so that Locust's own loop costs nothing per request."""
        once = type(self).wait_time is not BurstUser.wait_time
        next_start, step, arrivals, clock = self.next_start, self.step, self._arrivals, time.monotonic
        try:
            while True:
                if arrivals.open or self.pause_s or self._state == LOCUST_STATE_STOPPING:
                    step(next_start())
                else:
                    step(clock())
                if once:
                    return
        except JournalFull as error:
            self.process.give_up(f"No request can be written down any more: {error}")
            raise StopUser from error

    def _rest(self) -> None:
        """Stay away; a user that is stopped meanwhile is stopped at once."""
        pause_s, self.pause_s = self.pause_s, 0.0
        self._state = LOCUST_STATE_WAITING
        gevent.sleep(pause_s)
        self._state = LOCUST_STATE_RUNNING
