"""Plots as inline SVG: functions from numbers to strings, coloured by the page's CSS, 860 wide."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from loadtest.report.axes import Axis, Scale
from loadtest.report.svg import WIDTH, rule, svg, text, x_axis

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
    area: str = ""
    """`soft` tints what is below the line, `solid` fills it: draw the highest first."""


@dataclass(frozen=True, slots=True)
class Tip:
    """What a pointer that rests anywhere on a span of x is told."""

    start: float
    end: float
    text: str


def line_chart(
    title: str,
    x: Axis,
    y: Axis,
    series: Sequence[Series],
    *,
    height: int = 320,
    bands: Sequence[tuple[float, float, str]] = (),
    tips: Sequence[Tip] = (),
    level: tuple[float, str] | None = None,
) -> str:
    """Lines over a grid; bands shade spans of x and name them, a level is a dashed rule across with its name.

    Points that an axis cannot take are left out; one that is not a number breaks its line.
    """
    drawn = [[point for point in each.points if x.takes(point.x) and y.takes(point.y)] for each in series]
    x_ticks = x.ticks([point.x for points in drawn for point in points])
    y_ticks = y.ticks([*(point.y for points in drawn for point in points), *([level[0]] if level else [])])
    across = x.scale(x_ticks, _LEFT, WIDTH - _RIGHT)
    up = y.scale(y_ticks, height - _BOTTOM, _TOP)
    parts = [_band(across, band, _TOP, height - _BOTTOM) for band in bands]
    parts += [rule("grid", _LEFT, up(tick), WIDTH - _RIGHT, up(tick)) for tick in y_ticks[1:]]
    parts += [text("tick end", _LEFT - 8, up(tick) + 4, y.spell(tick)) for tick in y_ticks]
    parts += [text("axis", 0, 14, y.title)]
    parts += x_axis(x, x_ticks, across, height - _BOTTOM, _LEFT)
    parts += [_area(each, x, y, across, up) for each in series if each.area]
    if level is not None:
        parts.append(rule("level", _LEFT, up(level[0]), WIDTH - _RIGHT, up(level[0])))
        parts.append(text("note end", WIDTH - _RIGHT, up(level[0]) - 6, level[1]))
    parts += [_line(each, x, y, across, up) for each in series]
    parts += [_tip(each, across, _TOP, height - _BOTTOM) for each in tips]
    return svg(title, WIDTH, height, parts)


def swatch(series: Series) -> str:
    """The line and marker of a series as a legend shows them."""
    mark = _marker(series.colour, 15, 6, hollow=False, tip="") if series.markers else ""
    dashed = " dashed" if series.dashed else ""
    line = f'<path class="line s{series.colour}{dashed}" d="M1 6H29"/>'
    return f'<svg class="swatch" viewBox="0 0 30 12" width="30" height="12" aria-hidden="true">{line}{mark}</svg>'


def _band(scale: Scale, band: tuple[float, float, str], top: float, bottom: float) -> str:
    start, end, words = scale(band[0]), scale(band[1]), band[2]
    beside_title = max(start, _LEFT + 150)
    box = f'<rect class="band" x="{start:.1f}" y="{top}" width="{end - start:.1f}" height="{bottom - top}"/>'
    return box + text("note", beside_title, top - 6, words)


def _tip(tip: Tip, scale: Scale, top: float, bottom: float) -> str:
    start, end = scale(tip.start), scale(tip.end)
    return (
        f'<rect class="tip" x="{start:.1f}" y="{top}" width="{max(0.5, end - start):.1f}" height="{bottom - top}">'
        f"<title>{escape(tip.text)}</title></rect>"
    )


def _strokes(series: Series, x: Axis, y: Axis) -> list[list[Point]]:
    """The points that can be drawn, apart where one between them is not a number."""
    strokes: list[list[Point]] = [[]]
    for point in series.points:
        if math.isnan(point.y):
            strokes.append([])
        elif x.takes(point.x) and y.takes(point.y):
            strokes[-1].append(point)
    return [stroke for stroke in strokes if stroke]


def _area(series: Series, x: Axis, y: Axis, across: Scale, up: Scale) -> str:
    shapes = ""
    for stroke in _strokes(series, x, y):
        path = "L".join(f"{across(point.x):.1f} {up(point.y):.1f}" for point in stroke)
        shapes += f"M{across(stroke[0].x):.1f} {up.start:.1f}L{path}L{across(stroke[-1].x):.1f} {up.start:.1f}Z"
    return f'<path class="{series.area} f{series.colour}" d="{shapes}"/>' if shapes else ""


def _line(series: Series, x: Axis, y: Axis, across: Scale, up: Scale) -> str:
    dashed = " dashed" if series.dashed else ""
    strokes = _strokes(series, x, y)
    # A stroke of one point goes nowhere and shows as a dot, as lines have round ends.
    path = "".join(
        "M" + "L".join(f"{across(point.x):.1f} {up(point.y):.1f}" for point in stroke) + "h0" * (len(stroke) == 1)
        for stroke in strokes
    )
    parts = [f'<path class="line s{series.colour}{dashed}" d="{path}"/>'] if path and series.area != "solid" else []
    for point in (point for stroke in strokes for point in stroke):
        at, height = across(point.x), up(point.y)
        if series.markers:
            parts.append(_marker(series.colour, at, height, hollow=point.marked, tip=point.tip))
        if point.text:
            right = at > WIDTH - _RIGHT - 140
            parts.append(
                text("value end" if right else "value", at - 10 if right else at + 10, height + 18, point.text)
            )
    return "".join(parts)


def _marker(colour: int, x: float, y: float, *, hollow: bool, tip: str) -> str:
    shapes = ("M-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0z", "M-3.5-3.5h7v7h-7z", "M0-4.6l4.6 8h-9.2z", "M0-5l5 5l-5 5l-5-5z")
    shape = shapes[colour % len(shapes)]
    kind = f"hollow s{colour}" if hollow else f"mark f{colour}"
    said = f"<title>{escape(tip)}</title>" if tip else ""
    return f'<path class="{kind}" transform="translate({x:.1f} {y:.1f})" d="{shape}">{said}</path>'
