"""Open loop: when requests are due, whatever becomes of those before, and which user takes each."""

from __future__ import annotations

import contextlib
import random
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import gevent

from loadtest.timeline import Timeline

GRID_S = 0.001
"""Starts lie on this grid; it is also how often the generator looks for them."""
WAITING_MAX = 100_000
"""Arrivals that wait for an idle user, unless told otherwise."""


class Schedule:
    """The planned starts of an open loop, as a pure function of time, rate and seed.

    Instants are seconds of any steady clock; planned ones are whole multiples of ``GRID_S``. A call of ``due`` that comes
    late, because the generator stood still, hands out every start since the call before with the instant it was planned for.
    """

    def __init__(self, *, poisson: bool = False, seed: int | None = None) -> None:
        self.rate_per_s = 0.0
        self._poisson = poisson
        self._random = random.Random(seed)
        self._step = 0
        self._carry = 0.0

    def change(self, rate_per_s: float, now_s: float) -> None:
        """Plan at another rate from the next step of the grid on; what is due before must have been taken."""
        if not self.rate_per_s:
            self._step = max(int(now_s / GRID_S), self._step)
            self._carry = 0.0
        self.rate_per_s = rate_per_s
        if self._poisson and rate_per_s:
            # Gaps of a Poisson process have no memory: the one under way is drawn anew at the new rate.
            self._carry = self._random.expovariate(rate_per_s * GRID_S)

    def due(self, now_s: float) -> Iterator[tuple[float, int]]:
        """Instants, in order, and how many starts were planned for each, since the last call and not after ``now_s``."""
        last = int(now_s / GRID_S)
        if not self.rate_per_s:
            self._step = max(last, self._step)
            return
        per_step = self.rate_per_s * GRID_S
        while self._step < last:
            self._step += 1
            count = self._random_count(per_step) if self._poisson else self._constant_count(per_step)
            if count:
                yield self._step * GRID_S, count

    def _constant_count(self, per_step: float) -> int:
        self._carry += per_step
        count = int(self._carry + 1e-9)
        self._carry -= count
        return count

    def _random_count(self, per_step: float) -> int:
        """``_carry`` is how many steps lie between the start of this one and the next start."""
        count = 0
        while self._carry <= 1.0:
            count += 1
            self._carry += self._random.expovariate(per_step)
        self._carry -= 1.0
        return count


class Arrivals:
    """Hands the planned starts of this process to its idle users; those for which there is none wait, bounded.

    ``rate_per_s`` is None in a closed loop, where users start whenever they like. 0 is an open loop in which nothing is due.
    ``offered``, ``started`` and ``unsent`` count since it was made: offered = started + unsent + ``waiting``.
    Instants that it hands out are those of ``clock``, in seconds.
    """

    def __init__(
        self,
        timeline: Timeline,
        *,
        poisson: bool = False,
        waiting_max: int = WAITING_MAX,
        seed: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.open = False
        self.running = False
        self.offered = 0
        self.started = 0
        self.unsent = 0
        self.poisson = poisson
        self.waiting_max = waiting_max
        self._timeline = timeline
        self._schedule = Schedule(poisson=poisson, seed=seed)
        self._seed = seed
        self._clock = clock
        self._backlog: deque[float] = deque()
        self._idle: deque[Any] = deque()
        self._hub = gevent.get_hub()
        self._timer = self._hub.loop.timer(GRID_S, GRID_S)

    @property
    def rate_per_s(self) -> float | None:
        """Starts per second that are planned; may be set at any time, from any greenlet, and is kept until the next test."""
        return self._schedule.rate_per_s if self.open else None

    @rate_per_s.setter
    def rate_per_s(self, rate_per_s: float | None) -> None:
        now_s = self._clock()
        self._collect(now_s)
        self._schedule.change(rate_per_s or 0.0, now_s)
        self.open = rate_per_s is not None
        self._set_timer()
        if not self.open:
            self._give_up(len(self._backlog), now_s)
            # A user is only ever switched to from the hub: whoever sets the rate must not be left in the middle of it.
            self._hub.loop.run_callback(self._release)

    @property
    def waiting(self) -> int:
        """Arrivals that are due and wait for an idle user."""
        return len(self._backlog)

    def start(self, *, poisson: bool, waiting_max: int) -> None:
        """A test begins: plan from now on, at the rate that was or will be set."""
        rate_per_s = self._schedule.rate_per_s
        self.poisson, self.waiting_max = poisson, waiting_max
        self._schedule = Schedule(poisson=poisson, seed=self._seed)
        self._schedule.change(rate_per_s, self._clock())
        self.running = True
        self._set_timer()

    def stop(self) -> None:
        """The test is about to end: what waits is counted as unsent, idle users stay where they are."""
        if self.running:
            now_s = self._clock()
            self._collect(now_s)
            self._give_up(len(self._backlog), now_s)
            self.running = False
            self._set_timer()

    def wait(self) -> float:
        """The intended start of the caller's next request, once one is due; the caller is a user's greenlet."""
        if self._backlog:
            self.started += 1
            return self._backlog.popleft()
        me = gevent.getcurrent()
        self._idle.append(me)
        try:
            return float(self._hub.switch())
        except BaseException:
            with contextlib.suppress(ValueError):
                self._idle.remove(me)
            raise

    def tick(self) -> None:
        """Hand out what has become due; only the hub calls this."""
        self._collect(self._clock())
        idle, backlog = self._idle, self._backlog
        while idle and backlog:
            self.started += 1
            idle.popleft().switch(backlog.popleft())

    def _collect(self, now_s: float) -> None:
        if not (self.running and self.open):
            return
        unix_s = time.time() - now_s
        for instant_s, count in self._schedule.due(now_s):
            self.offered += count
            self._timeline.offered(instant_s + unix_s, count)
            self._backlog.extend([instant_s] * count)
        # The bound is for those that no idle user is about to take.
        self._give_up(len(self._backlog) - len(self._idle) - self.waiting_max, now_s)

    def _give_up(self, count: int, now_s: float) -> None:
        """Count the latest of those that wait as never sent."""
        if count > 0:
            for _ in range(count):
                self._backlog.pop()
            self.unsent += count
            self._timeline.unsent(time.time() - self._clock() + now_s, count)

    def _release(self) -> None:
        while self._idle and not self.open:
            self._idle.popleft().switch(self._clock())

    def _set_timer(self) -> None:
        if self.running and self.open and not self._timer.active:
            self._timer.start(self.tick)
        elif not (self.running and self.open):
            self._timer.stop()
