"""Finds the knee: the highest rate that a service takes within limits. A pure state machine, fed with each step's outcome."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from loadtest.rates import at_least
from loadtest.window import Totals

GROWTH = 1.5
"""From one good step to the next, until the first bad one."""
PRECISION = 0.05
"""The search ends when the last good step and the first bad one lie this close together."""
ANSWERED_LEAST = 0.98
"""Of what was offered, or a queue grows that only has not reached p99 yet. What is in flight at both ends is within it."""
STEPS_MAX = 50
LEAST_RATE = 1.0
STEP_S_LEAST = 5.0
REPORTED_AFTER_S = 2.0
"""By then all processes have told what happened in a second."""


@dataclass(frozen=True)
class Limits:
    """What a step may show and still be good."""

    p99_s: float
    failed_share: float
    """Of what was offered: failures and arrivals that were never sent."""

    def fault(self, totals: Totals) -> str | None:
        """Why a step is bad, in words; None when it is good."""
        if not totals.answered:
            return "nothing was answered"
        bad_share = (totals.failed + totals.unsent) / max(totals.offered, totals.answered + totals.failed, 1)
        if bad_share > self.failed_share:
            return f"{bad_share:.1%} failed or were never sent"
        if totals.begun < ANSWERED_LEAST * totals.offered:
            return f"only {totals.begun / totals.offered:.1%} of the rate was achieved"
        if totals.p99_s is not None and totals.p99_s > self.p99_s:
            return f"p99 was {totals.p99_s * 1e3:,.0f} ms"
        return None


@dataclass(frozen=True)
class Step:
    """One step that was judged."""

    rate: float
    totals: Totals
    fault: str | None

    def __str__(self) -> str:
        p99 = "–" if self.totals.p99_s is None else f"{self.totals.p99_s * 1e3:,.1f} ms"
        return f"{self.rate:,.0f}/s: {self.fault or 'good'} (p99 {p99})"


@dataclass(frozen=True)
class StepSearch:
    """Raises the rate by half until a step is bad, then halves the distance between the last good and the first bad."""

    rate: float
    limits: Limits
    steps: tuple[Step, ...] = ()
    good: float = 0.0
    bad: float | None = None

    @property
    def done(self) -> bool:
        """Whether the knee is known well enough, or cannot be found."""
        if len(self.steps) >= STEPS_MAX or self.rate < LEAST_RATE:
            return True
        return self.bad is not None and self.good > 0 and self.bad - self.good <= PRECISION * self.good

    @property
    def last_good(self) -> Step | None:
        """The good step of the highest rate."""
        return max((step for step in self.steps if step.fault is None), key=lambda step: step.rate, default=None)

    def after(self, totals: Totals) -> StepSearch:
        """The search after the step at ``rate`` showed this."""
        step = Step(self.rate, totals, self.limits.fault(totals))
        good = self.rate if step.fault is None else self.good
        bad = self.rate if step.fault is not None else self.bad
        following = good * GROWTH if bad is None else (good + bad) / 2
        return replace(self, rate=following, steps=(*self.steps, step), good=good, bad=bad)

    def verdict(self) -> str:
        """One sentence for a person."""
        if self.last_good is None:
            return "No step was good" + (f": {self.steps[0]}" if self.steps else ".")
        above = min((step for step in self.steps if step.fault is not None), key=lambda step: step.rate, default=None)
        known = f"the first bad one was {above}" if above else "no bad step was reached"
        return f"The last good step was {self.last_good}; {known}."


def search_of(options: Any) -> StepSearch:
    """``step`` as the options have it. Raises ValueError."""
    at_least(options.step_s, STEP_S_LEAST, "step-s")
    limits = Limits(
        at_least(options.latency_limit_ms, 0, "latency-limit-ms") / 1e3,
        at_least(options.failed_limit, 0, "failed-limit"),
    )
    return StepSearch(at_least(options.step_from, LEAST_RATE, "step-from"), limits)


def judged_window(from_unix_s: float, to_unix_s: float) -> tuple[float, float]:
    """The part of a step that is judged: not its first quarter, and not what workers have not reported yet."""
    return from_unix_s + (to_unix_s - from_unix_s) / 4, to_unix_s - REPORTED_AFTER_S
