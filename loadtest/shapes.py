"""The shapes as Locust's LoadTestShapes: how many users run, and what rate is offered, at each moment of a test.

Four of them are open loops: they hold as many connections as there are users (``-u``), and offer a rate. What rate, when
and what follows from it, is decided by pure functions: rates.py, step_search.py, ladder.py.
"""

from __future__ import annotations

import logging
import math
import time
from typing import Any, ClassVar

from locust import LoadTestShape

from loadtest.ladder import Ladder, ladder_of
from loadtest.offering import Rate
from loadtest.options import SPAWN_RATE, USERS
from loadtest.rates import Curve, Phase, bursts_of, ramp_of, soak_of
from loadtest.record import Record
from loadtest.step_search import StepSearch, judged_window, search_of

Tick = tuple[int, float] | None

SPAWN_S_MAX = 3.0
"""Users of a shape are there within this time, however many."""
QUIET_S = 1.0
"""After a curve, for arrivals that still wait for a user: so that they are sent and not given up."""
RECOVER_S = 3.0
"""Quiet after a bad step, for what had piled up."""

logger = logging.getLogger(__name__)


class Shape(LoadTestShape):
    """What all of them share. ``record`` is given to it by who directs the test."""

    abstract = True
    use_common_options: ClassVar[bool] = True
    open_loop: ClassVar[bool] = True
    record: Record
    users_unless_said = USERS
    """Where the web UI, whose form has no number of users beside a shape that is picked, says 0."""
    _refused = False

    def reset_time(self) -> None:
        """A test begins; Locust calls this before the first tick, and once more when its users are about to start."""
        self.start_time = time.perf_counter()
        self._refused = False
        try:
            self.begin(self.options)
        except ValueError as error:
            self._refused = True
            logger.error("%s does not start: %s", type(self).__name__, error)  # noqa: TRY400 - a person's mistake

    def begin(self, options: Any) -> None:
        """Read the options, start anew. Raises ValueError, naming the option, for one that does not fit."""
        raise NotImplementedError

    def rate(self) -> Rate:
        """Arrivals per second at this moment."""
        raise NotImplementedError

    def phases(self) -> list[Phase]:
        """Parts of the test, as far as it has come."""
        return []

    def warnings(self) -> list[str]:
        """What there is to say when the test starts."""
        return []

    def ended(self) -> list[str]:
        """What there is to say when the test has ended."""
        return []

    @property
    def options(self) -> Any:
        """Of this test."""
        assert self.runner is not None
        return self.runner.environment.parsed_options

    @property
    def elapsed_s(self) -> float:
        """Since the test began."""
        return time.perf_counter() - self.start_time

    @property
    def over(self) -> bool:
        """Whether ``--run-time`` has passed, or the options did not fit."""
        return self._refused or self.elapsed_s >= float(self.options.run_time or math.inf)

    def users(self, count: int) -> Tick:
        """So many users, soon; 0: as many as were asked for."""
        count = count or self.users_unless_said
        return count, max(SPAWN_RATE, count / SPAWN_S_MAX)


class CurveShape(Shape):
    """An open loop along a curve of the time."""

    abstract = True
    _curve: Curve

    def rate(self) -> Rate:
        """Of the curve."""
        return self._curve.rate(self.elapsed_s)

    def phases(self) -> list[Phase]:
        """Of the curve."""
        return self._curve.phases()

    def tick(self) -> Tick:
        """All connections, until a moment after the curve ends."""
        if self.over or self.elapsed_s >= self._curve.duration_s + QUIET_S:
            return None
        return self.users(self.options.num_users)


class RampTo16k(CurveShape):
    """From nothing to 16,000 usages a second (``--peak``) within ``--ramp-s``, held for ``--hold-s``."""

    def begin(self, options: Any) -> None:
        """Read the curve."""
        self._curve = ramp_of(options)


class Burst(CurveShape):
    """Idle, then 16,000 a second (``--peak``) within a second; ``--bursts`` times."""

    def begin(self, options: Any) -> None:
        """Read the curve."""
        self._curve = bursts_of(options)


class Soak(CurveShape):
    """One steady rate for a long time: ``--rate``, or half of ``--peak``, for ``--run-time`` or an hour."""

    def begin(self, options: Any) -> None:
        """Read the curve."""
        self._curve = soak_of(options)


class Step(Shape):
    """Finds the knee: raises the rate until p99 or failures pass a limit, and reports the last good step."""

    def begin(self, options: Any) -> None:
        """Start the search from ``--step-from``."""
        self._search: StepSearch = search_of(options)
        self._step_began_s = 0.0
        self._phases: list[Phase] = []

    def rate(self) -> Rate:
        """Of the step; nothing while the service recovers from a bad one."""
        return self._search.rate if self.elapsed_s >= self._step_began_s else 0.0

    def phases(self) -> list[Phase]:
        """The steps that have ended."""
        return self._phases

    def tick(self) -> Tick:
        """All connections, until the knee is found."""
        if self.over:
            return None
        now_s = self.elapsed_s
        if now_s >= self._step_began_s + self.options.step_s:
            self._judge(now_s)
        if self._search.done:
            return None
        return self.users(self.options.num_users)

    def ended(self) -> list[str]:
        """The last good step."""
        self.record.test["steps"] = [
            {"rate": step.rate, "fault": step.fault, **step.totals.as_dict()} for step in self._search.steps
        ]
        good = self._search.last_good
        self.record.test["last_good_rate"] = good and good.rate
        return [self._search.verdict()]

    def _judge(self, now_s: float) -> None:
        began_unix_s = time.time() - (now_s - self._step_began_s)
        totals = self.record.totals(*judged_window(began_unix_s, time.time()))
        self._phases.append(Phase(f"{self._search.rate:,.0f}/s", self._step_began_s, now_s))
        self._search = self._search.after(totals)
        judged = self._search.steps[-1]
        logger.info("Step %s", judged)
        self._step_began_s = now_s + (RECOVER_S if judged.fault else 0.0)


class AbLadder(Shape):
    """1, 10, 100, 1,000, 10,000 users (``--ladder``), each as fast as it is answered: a closed loop, as ab makes it."""

    open_loop = False

    def begin(self, options: Any) -> None:
        """Cut the ladder to what the open files of the generators allow."""
        processes = max(getattr(self.runner, "worker_count", 1), 1)
        self._ladder: Ladder = ladder_of(options, processes)

    def warnings(self) -> list[str]:
        """Which levels do not fit."""
        return list(self._ladder.warnings)

    def rate(self) -> Rate:
        """None: it offers nothing."""
        return None

    def phases(self) -> list[Phase]:
        """The levels."""
        return self._ladder.phases()

    def tick(self) -> Tick:
        """The users of the level."""
        if self.over or (level := self._ladder.level(self.elapsed_s)) is None:
            return None
        return self.users(level)

    def ended(self) -> list[str]:
        """A line for each level."""
        began_unix_s = self.record.test["began_unix_s"]
        found = [
            (users, self.record.totals(began_unix_s + from_s, began_unix_s + to_s))
            for users, from_s, to_s in self._ladder.windows()
        ]
        self.record.test["levels"] = [{"users": users, **totals.as_dict()} for users, totals in found]
        return [self._ladder.line(users, totals) for users, totals in found if totals.seconds]
