"""Bars and strips as inline SVG: functions from numbers to strings, coloured by the page's CSS."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from loadtest.report.axes import Axis, Scale
from loadtest.report.svg import WIDTH, rule, svg, text, x_axis

_LABELS = 272
"""The column of names left of bars and strips."""
_LABEL_CHARACTERS = 37
_RIGHT, _BOTTOM = 20, 44


@dataclass(frozen=True, slots=True)
class Strip:
    """One subject's rounds, each a value with its tip; they have a median."""

    name: str
    under: str
    values: tuple[tuple[float, str], ...]
    median: float


@dataclass(frozen=True, slots=True)
class Bar:
    """One subject's parts, each a width, a colour and a tip, and what is written behind them."""

    name: str
    under: str
    parts: tuple[tuple[float, int, str], ...]
    text: str


def strip_chart(title: str, unit: str, strips: Sequence[Strip]) -> str:
    """Every round as a dot, first round on top: left the values from zero, right how far they are off the median."""
    band, top = _band_height([strip.name for strip in strips]), 26
    bottom = top + band * len(strips)
    values = [value for strip in strips for value, _ in strip.values]
    off = [_off(value, strip.median) for strip in strips for value, _ in strip.values]
    reach = max(2.0, *(abs(each) for each in off)) if off else 2.0
    left = Axis("each round", unit, count=4)
    right = Axis("off its median", "%", low=-reach, high=reach, count=4)
    left_ticks, right_ticks = left.ticks(values), right.ticks(off)
    right_ticks = [tick for tick in right_ticks if -right_ticks[-1] <= tick <= right_ticks[-1]]
    absolute = left.scale(left_ticks, _LABELS + 10, 548)
    relative = right.scale(right_ticks, 608, WIDTH - _RIGHT)
    parts = []
    for axis, ticks, scale in ((left, left_ticks, absolute), (right, right_ticks, relative)):
        parts += [rule("grid", scale(tick), top - 8, scale(tick), bottom) for tick in ticks]
        parts += x_axis(axis, ticks, scale, bottom, scale.start)
    parts.append(rule("zero", relative(0), top - 8, relative(0), bottom))
    for index, strip in enumerate(strips):
        middle = top + band * index + band / 2 - 4
        parts += _name(strip.name, strip.under, middle)
        parts.append(rule("median", absolute(strip.median), middle - 13, absolute(strip.median), middle + 13))
        spread = min(8.0, 22 / max(1, len(strip.values) - 1))
        for turn, (value, tip) in enumerate(strip.values):
            y = middle + (turn - (len(strip.values) - 1) / 2) * spread
            parts += [_dot(absolute(value), y, tip), _dot(relative(_off(value, strip.median)), y, tip)]
    return svg(title, WIDTH, bottom + _BOTTOM, parts)


def stacked_bars(title: str, x: Axis, bars: Sequence[Bar]) -> str:
    """Horizontal bars in parts, each part with its number where it has room, the text behind the bar."""
    band, top = _band_height([bar.name for bar in bars]), 8
    bottom = top + band * len(bars)
    ticks = x.ticks([sum(width for width, _, _ in bar.parts) for bar in bars])
    scale = x.scale(ticks, _LABELS + 10, WIDTH - 130)
    parts = [rule("grid", scale(tick), top, scale(tick), bottom) for tick in ticks[1:]]
    parts += x_axis(x, ticks, scale, bottom, scale.start)
    for index, bar in enumerate(bars):
        middle = top + band * index + band / 2
        parts += _name(bar.name, bar.under, middle)
        sum_so_far = 0.0
        for width, colour, tip in bar.parts:
            left, right = scale(sum_so_far), scale(sum_so_far + width)
            sum_so_far += width
            parts.append(
                f'<rect class="part f{colour}" x="{left:.1f}" y="{middle - 11:.1f}" width="{max(0.0, right - left):.1f}" '
                f'height="22"><title>{escape(tip)}</title></rect>'
            )
            if right - left >= 8 + 8 * len(f"{width:,.0f}"):
                parts.append(text(f"inside i{colour} middle", (left + right) / 2, middle + 4, f"{width:,.0f}"))
        parts.append(text("value", scale(sum_so_far) + 8, middle + 4, bar.text))
    return svg(title, WIDTH, bottom + _BOTTOM, parts)


def target_bar(title: str, value: float, target: float, *, at_least: bool, rounds: Sequence[float] = ()) -> str:
    """A small bar of value ÷ target from 0 to 2 with the target in the middle, the good side shaded, rounds as strokes."""
    width, height, edge = 172, 26, 8
    scale = Scale(logarithmic=False, low=0, high=2, start=edge, end=width - edge)
    over = value / target if target else 0.0
    reached = scale(over)
    good = (scale(1), width - edge) if at_least else (edge, scale(1))
    met = over >= 1 if at_least else over <= 1
    parts = [
        f'<rect class="good" x="{good[0]:.1f}" y="3" width="{good[1] - good[0]:.1f}" height="20"/>',
        f'<rect class="{"met" if met else "unmet"}" x="{edge}" y="9" width="{max(1.0, reached - edge):.1f}" height="8"/>',
    ]
    if over > 2:
        parts.append(
            f'<path class="{"met" if met else "unmet"}" d="M{reached:.1f} 6l7 7l-7 7z"><title>beyond twice the target</title></path>'
        )
    parts += [
        rule("round", scale(each / target), 6, scale(each / target), 20)
        for each in rounds
        if target and 0 <= each / target <= 2
    ]
    parts.append(rule("target", scale(1), 1, scale(1), 25))
    return svg(title, width, height, parts, "small")


def _band_height(names: Sequence[str]) -> int:
    """Room for a name and what is under it, more when a name takes two lines."""
    return 54 if any(len(name) > _LABEL_CHARACTERS for name in names) else 42


def _dot(x: float, y: float, tip: str) -> str:
    return f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="3.4"><title>{escape(tip)}</title></circle>'


def _name(name: str, under: str, middle: float) -> list[str]:
    lines = textwrap.wrap(name, _LABEL_CHARACTERS, max_lines=2, placeholder="…") or [""]
    classes = ["name"] * len(lines) + ["under"]
    lines = [*lines, under] if under else lines
    top = middle + 4 - 7.5 * (len(lines) - 1)
    return [
        text(kind, 0, top + 15 * index, line) for index, (kind, line) in enumerate(zip(classes, lines, strict=False))
    ]


def _off(value: float, median: float) -> float:
    return (value / median - 1) * 100 if median else 0.0
