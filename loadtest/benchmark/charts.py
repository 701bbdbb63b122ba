"""Plots as inline SVG: functions from numbers to strings, coloured by the page's CSS, 860 wide."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from loadtest.benchmark.axes import Axis, Scale, label

WIDTH = 860
_LABELS = 272
"""The column of names left of bars and strips."""
_LABEL_CHARACTERS = 37
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 20, 30, 44


@dataclass(frozen=True, slots=True)
class Point:
    """A place on a plot; the tip is what a pointer that rests on it is told."""

    x: float
    y: float
    tip: str = ""
    marked: bool = False
    """Drawn hollow: something about it is not as it should be."""
    text: str = ""
    """Written beside it."""


@dataclass(frozen=True, slots=True)
class Series:
    """A line: colours and markers are numbers from 0, as in the page's CSS."""

    name: str
    points: tuple[Point, ...]
    colour: int
    dashed: bool = False
    markers: bool = True


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


def line_chart(
    title: str,
    x: Axis,
    y: Axis,
    series: Sequence[Series],
    *,
    height: int = 320,
    bands: Sequence[tuple[float, float, str]] = (),
) -> str:
    """Lines over a grid; bands shade spans of x and name them. Points that an axis cannot take are left out."""
    drawn = [[point for point in each.points if x.takes(point.x) and y.takes(point.y)] for each in series]
    x_ticks = x.ticks([point.x for points in drawn for point in points])
    y_ticks = y.ticks([point.y for points in drawn for point in points])
    across = x.scale(x_ticks, _LEFT, WIDTH - _RIGHT)
    up = y.scale(y_ticks, height - _BOTTOM, _TOP)
    parts = [_band(across, band, _TOP, height - _BOTTOM) for band in bands]
    parts += [_rule("grid", _LEFT, up(tick), WIDTH - _RIGHT, up(tick)) for tick in y_ticks[1:]]
    parts += [_text("tick end", _LEFT - 8, up(tick) + 4, label(tick)) for tick in y_ticks]
    parts += [_text("axis", 0, 14, y.title)]
    parts += _x_axis(x, x_ticks, across, height - _BOTTOM, _LEFT)
    parts += [_line(each, points, across, up) for each, points in zip(series, drawn, strict=True)]
    return _svg(title, WIDTH, height, parts)


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
        parts += [_rule("grid", scale(tick), top - 8, scale(tick), bottom) for tick in ticks]
        parts += _x_axis(axis, ticks, scale, bottom, scale.start)
    parts.append(_rule("zero", relative(0), top - 8, relative(0), bottom))
    for index, strip in enumerate(strips):
        middle = top + band * index + band / 2 - 4
        parts += _name(strip.name, strip.under, middle)
        parts.append(_rule("median", absolute(strip.median), middle - 13, absolute(strip.median), middle + 13))
        spread = min(8.0, 22 / max(1, len(strip.values) - 1))
        for turn, (value, tip) in enumerate(strip.values):
            y = middle + (turn - (len(strip.values) - 1) / 2) * spread
            parts += [_dot(absolute(value), y, tip), _dot(relative(_off(value, strip.median)), y, tip)]
    return _svg(title, WIDTH, bottom + _BOTTOM, parts)


def stacked_bars(title: str, x: Axis, bars: Sequence[Bar]) -> str:
    """Horizontal bars in parts, each part with its number where it has room, the text behind the bar."""
    band, top = _band_height([bar.name for bar in bars]), 8
    bottom = top + band * len(bars)
    ticks = x.ticks([sum(width for width, _, _ in bar.parts) for bar in bars])
    scale = x.scale(ticks, _LABELS + 10, WIDTH - 130)
    parts = [_rule("grid", scale(tick), top, scale(tick), bottom) for tick in ticks[1:]]
    parts += _x_axis(x, ticks, scale, bottom, scale.start)
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
                parts.append(_text(f"inside i{colour} middle", (left + right) / 2, middle + 4, f"{width:,.0f}"))
        parts.append(_text("value", scale(sum_so_far) + 8, middle + 4, bar.text))
    return _svg(title, WIDTH, bottom + _BOTTOM, parts)


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
        _rule("round", scale(each / target), 6, scale(each / target), 20)
        for each in rounds
        if target and 0 <= each / target <= 2
    ]
    parts.append(_rule("target", scale(1), 1, scale(1), 25))
    return _svg(title, width, height, parts, "small")


def swatch(series: Series) -> str:
    """The line and marker of a series as a legend shows them."""
    mark = _marker(series.colour, 15, 6, hollow=False, tip="") if series.markers else ""
    dashed = " dashed" if series.dashed else ""
    line = f'<path class="line s{series.colour}{dashed}" d="M1 6H29"/>'
    return f'<svg class="swatch" viewBox="0 0 30 12" width="30" height="12" aria-hidden="true">{line}{mark}</svg>'


def _svg(title: str, width: int, height: float, parts: Sequence[str], kind: str = "plot") -> str:
    return (
        f'<svg class="{kind}" role="img" aria-label="{escape(title)}" viewBox="0 0 {width} {height:.0f}" width="{width}" '
        f'height="{height:.0f}"><title>{escape(title)}</title>{"".join(parts)}</svg>'
    )


def _text(classes: str, x: float, y: float, text: str) -> str:
    return f'<text class="{classes}" x="{x:.1f}" y="{y:.1f}">{escape(text)}</text>'


def _rule(kind: str, x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<path class="{kind}" d="M{x1:.1f} {y1:.1f}L{x2:.1f} {y2:.1f}"/>'


def _x_axis(axis: Axis, ticks: Sequence[float], scale: Scale, y: float, start: float) -> list[str]:
    parts = [_rule("base", start, y, scale.end, y)]
    parts += [_rule("base", scale(tick), y, scale(tick), y + 5) for tick in ticks]
    parts += [_text("tick middle", scale(tick), y + 19, label(tick)) for tick in ticks]
    return [*parts, _text("axis middle", (start + scale.end) / 2, y + 38, axis.title)]


def _band(scale: Scale, band: tuple[float, float, str], top: float, bottom: float) -> str:
    start, end, text = scale(band[0]), scale(band[1]), band[2]
    beside_title = max(start, _LEFT + 150)
    box = f'<rect class="band" x="{start:.1f}" y="{top}" width="{end - start:.1f}" height="{bottom - top}"/>'
    return box + _text("note", beside_title, top - 6, text)


def _line(series: Series, points: Sequence[Point], across: Scale, up: Scale) -> str:
    places = [(across(point.x), up(point.y)) for point in points]
    dashed = " dashed" if series.dashed else ""
    path = "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
    parts = [f'<path class="line s{series.colour}{dashed}" d="M{path}"/>'] if places else []
    for point, (x, y) in zip(points, places, strict=True):
        if series.markers:
            parts.append(_marker(series.colour, x, y, hollow=point.marked, tip=point.tip))
        if point.text:
            right = x > WIDTH - _RIGHT - 140
            parts.append(_text("value end" if right else "value", x - 10 if right else x + 10, y + 18, point.text))
    return "".join(parts)


def _marker(colour: int, x: float, y: float, *, hollow: bool, tip: str) -> str:
    shapes = ("M-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0z", "M-3.5-3.5h7v7h-7z", "M0-4.6l4.6 8h-9.2z", "M0-5l5 5l-5 5l-5-5z")
    shape = shapes[colour % len(shapes)]
    kind = f"hollow s{colour}" if hollow else f"mark f{colour}"
    said = f"<title>{escape(tip)}</title>" if tip else ""
    return f'<path class="{kind}" transform="translate({x:.1f} {y:.1f})" d="{shape}">{said}</path>'


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
        _text(kind, 0, top + 15 * index, line) for index, (kind, line) in enumerate(zip(classes, lines, strict=False))
    ]


def _off(value: float, median: float) -> float:
    return (value / median - 1) * 100 if median else 0.0
