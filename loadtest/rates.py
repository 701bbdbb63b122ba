"""The rate that each open-loop shape offers at each moment, and how a rate divides over several processes. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

RISE_S = 1.0
"""A burst goes from nothing to its peak in this time."""
SOAK_RAMP_S = 10.0
"""A soak begins gently."""
SOAK_S = 3_600.0
"""Of a soak whose run time nobody set."""
PROCESSES_MAX = 10_000


@dataclass(frozen=True)
class Phase:
    """A named part of a shape, in seconds from its start."""

    name: str
    begins_s: float
    ends_s: float


class Curve(Protocol):
    """Arrivals per second as a function of the time since the start."""

    @property
    def duration_s(self) -> float:
        """When it is over."""

    def rate(self, t_s: float) -> float:
        """Arrivals per second at this moment; 0 before the start and after the end."""

    def phases(self) -> list[Phase]:
        """Its parts, in order."""


def ramp_rate(t_s: float, peak: float, ramp_s: float, hold_s: float) -> float:
    """From 0 in a straight line to ``peak`` within ``ramp_s``, held for ``hold_s``, then 0."""
    if t_s < 0 or t_s >= ramp_s + hold_s:
        return 0.0
    return peak if t_s >= ramp_s else peak * t_s / ramp_s


def burst_rate(t_s: float, peak: float, idle_s: float, burst_s: float, times: int) -> float:
    """Nothing for ``idle_s``, then within RISE_S to ``peak``, which holds for ``burst_s`` more; ``times`` times."""
    cycle_s = idle_s + RISE_S + burst_s
    if t_s < 0 or t_s >= times * cycle_s:
        return 0.0
    into_s = t_s % cycle_s - idle_s
    return peak * min(max(into_s, 0.0) / RISE_S, 1.0)


@dataclass(frozen=True)
class Ramp:
    """``ramp-to-16k`` (and with a short ramp, ``soak``)."""

    peak: float
    ramp_s: float
    hold_s: float

    @property
    def duration_s(self) -> float:
        """Ramp and plateau."""
        return self.ramp_s + self.hold_s

    def rate(self, t_s: float) -> float:
        """See ramp_rate."""
        return ramp_rate(t_s, self.peak, self.ramp_s, self.hold_s)

    def phases(self) -> list[Phase]:
        """The ramp, and what is held."""
        return [Phase("ramp", 0.0, self.ramp_s), Phase("hold", self.ramp_s, self.duration_s)]


@dataclass(frozen=True)
class Bursts:
    """``burst``."""

    peak: float
    idle_s: float
    burst_s: float
    times: int

    @property
    def duration_s(self) -> float:
        """All bursts with the quiet before each."""
        return self.times * (self.idle_s + RISE_S + self.burst_s)

    def rate(self, t_s: float) -> float:
        """See burst_rate."""
        return burst_rate(t_s, self.peak, self.idle_s, self.burst_s, self.times)

    def phases(self) -> list[Phase]:
        """Each idle time and each burst, counted from 1."""
        found = []
        for number in range(self.times):
            begins_s = number * (self.idle_s + RISE_S + self.burst_s)
            rises_s = begins_s + self.idle_s
            found.append(Phase(f"idle {number + 1}", begins_s, rises_s))
            found.append(Phase(f"burst {number + 1}", rises_s, rises_s + RISE_S + self.burst_s))
        return found


def at_least(value: float, least: float, name: str) -> float:
    """The value; raises ValueError, naming the option, when it is less or no number."""
    if not value >= least:
        raise ValueError(f"--{name} is {value:g}, and must be at least {least:g}")
    return value


def ramp_of(options: Any) -> Ramp:
    """``ramp-to-16k`` as the options have it. Raises ValueError."""
    return Ramp(
        at_least(options.peak, 1, "peak"), at_least(options.ramp_s, 0, "ramp-s"), at_least(options.hold_s, 1, "hold-s")
    )


def bursts_of(options: Any) -> Bursts:
    """``burst`` as the options have it. Raises ValueError."""
    times = int(at_least(options.bursts, 1, "bursts"))
    idle_s = at_least(options.idle_s, 0, "idle-s")
    return Bursts(at_least(options.peak, 1, "peak"), idle_s, at_least(options.burst_s, 0, "burst-s"), times)


def soak_of(options: Any) -> Ramp:
    """``soak``: ``--rate``, or half of the peak, for ``--run-time``, or an hour. Raises ValueError."""
    rate = options.rate or at_least(options.peak, 1, "peak") / 2
    duration_s = float(getattr(options, "run_time", None) or SOAK_S)
    ramp_s = min(SOAK_RAMP_S, duration_s / 4)
    return Ramp(at_least(rate, 0, "rate"), ramp_s, duration_s - ramp_s)


def divide(rate: float, shares: int) -> list[float]:
    """Nearly equal shares of a rate ≥ 0 that add up to it exactly; all but the first are whole numbers."""
    if not 0 < shares <= PROCESSES_MAX:
        raise ValueError(f"a rate divides over 1 to {PROCESSES_MAX} processes, not {shares}")
    whole, over = divmod(int(rate), shares)
    # The last ones take less, so that the first has at least as much as any other also with the fraction.
    others = [float(whole + (number < over)) for number in range(1, shares)]
    return [rate - sum(others), *others]
