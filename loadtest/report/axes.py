"""Where the ticks of an axis go, and how values become pixels."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

Kind = Literal["linear", "log2", "log10"]
_DECADES_WITH_STEPS = 2.2
_OCTAVES_MAX = 14
_CLOCK_STEPS_S = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14_400, 21_600, 43_200, 86_400)
_CLOCK_TICKS_MAX = 60
_SPAN_MIN = 1e-9
"""Of the values themselves: ends that differ by less are one value, as no step between them would be a round number."""


def nice_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Evenly spaced round numbers, about `count`, the first at or below `low` and the last at or above `high`."""
    size = max(abs(low), abs(high))
    if not high - low > size * _SPAN_MIN:
        around = max(1.0, size / 10)
        low, high = (low - around, high + around) if size else (0.0, 1.0)
    rough = (high - low) / max(1, count)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999_999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    digits = max(0, -math.floor(math.log10(step)))
    return [round(index * step, digits) for index in range(first, last + 1)]


def decade_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten around a positive span; between the ends of a long one powers of ten alone."""
    low, high = min(low, high), max(low, high)
    first, last = math.floor(math.log10(low) + 1e-9), math.ceil(math.log10(high) - 1e-9)
    steps = [factor * 10.0**power for power in range(first, last + 2) for factor in (1, 2, 5)]
    start = max(index for index, step in enumerate(steps) if step <= low * 1.000_001)
    end = min(index for index, step in enumerate(steps) if step >= high * 0.999_999)
    end = max(end, start + 1)
    inside = steps[start + 1 : end]
    if math.log10(high / low) > _DECADES_WITH_STEPS:
        inside = [10.0**power for power in range(first, last + 1) if steps[start] < 10.0**power < steps[end]]
    return [steps[start], *inside, steps[end]]


def octave_ticks(low: float, high: float) -> list[float]:
    """Powers of two around a positive span, every second or third one where there are many."""
    low, high = min(low, high), max(low, high)
    first, last = math.floor(math.log2(low) + 1e-9), math.ceil(math.log2(high) - 1e-9)
    last = max(last, first + 1)
    stride = math.ceil((last - first + 1) / _OCTAVES_MAX)
    last += -(last - first) % stride
    return [2.0**power for power in range(first, last + 1, stride)]


def label(value: float) -> str:
    """A tick in figures: thousands apart, no needless decimals."""
    return f"{value:,.10g}".replace("-", "−")


def time_axis(first_s: float, last_s: float, count: int = 10) -> Axis:
    """An axis of a run's time from the second it began, with ticks that a clock would have, spelt as `1:30`."""
    span = max(1.0, last_s - first_s)
    step = next((step for step in _CLOCK_STEPS_S if span / step <= count), _CLOCK_STEPS_S[-1])
    ticks = [first_s + step * index for index in range(min(math.ceil(span / step - 1e-9), _CLOCK_TICKS_MAX) + 1)]
    return Axis("since the start", "h:mm:ss" if ticks[-1] >= 3600 else "m:ss", fixed=tuple(ticks), spell=clock)


def clock(seconds: float) -> str:
    """Seconds as `1:30`, and `2:01:30` from an hour on."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


@dataclass(frozen=True, slots=True)
class Axis:
    """What an axis shows: its quantity, unit and kind; a linear one starts at zero unless told where."""

    quantity: str
    unit: str = ""
    kind: Kind = "linear"
    low: float | None = 0.0
    high: float | None = None
    count: int = 5
    fixed: tuple[float, ...] = ()
    """The ticks, where they are not to be found from the values."""
    spell: Callable[[float], str] = label
    """A tick in words."""

    @property
    def title(self) -> str:
        """The quantity with its unit."""
        return f"{self.quantity} ({self.unit})" if self.unit else self.quantity

    def takes(self, value: float) -> bool:
        """Whether a value has a place on it: finite, and positive where it is logarithmic."""
        return math.isfinite(value) and (self.kind == "linear" or value > 0)

    def ticks(self, values: Sequence[float]) -> list[float]:
        """Ticks around all the values it takes."""
        if self.fixed:
            return list(self.fixed)
        taken = [value for value in values if self.takes(value)]
        ends = [*taken, *(end for end in (self.low, self.high) if end is not None and self.takes(end))] or [1.0]
        if self.kind == "log2":
            return octave_ticks(min(ends), max(ends))
        if self.kind == "log10":
            return decade_ticks(min(ends), max(ends))
        return nice_ticks(min(ends), max(ends), self.count)

    def scale(self, ticks: Sequence[float], start: float, end: float) -> Scale:
        """From values between the outer ticks to pixels between start and end."""
        return Scale(self.kind != "linear", ticks[0], ticks[-1], start, end)


@dataclass(frozen=True, slots=True)
class Scale:
    """A map from low..high to pixels, linear or logarithmic."""

    logarithmic: bool
    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """The pixel of a value; values beyond the ends land on the ends."""
        low, high = self.low, self.high
        value = min(max(value, low), high)
        if self.logarithmic:
            low, high, value = math.log(low), math.log(high), math.log(value)
        return self.start + (value - low) / (high - low) * (self.end - self.start)
