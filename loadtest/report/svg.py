"""What every plot is drawn of: the image, texts, rules and the axis below; coloured by the page's CSS."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from loadtest.report.axes import Axis, Scale

WIDTH = 860
"""Of a plot, in pixels."""


def svg(title: str, width: int, height: float, parts: Sequence[str], kind: str = "plot") -> str:
    """An image with a name for those who do not see it."""
    return (
        f'<svg class="{kind}" role="img" aria-label="{escape(title)}" viewBox="0 0 {width} {height:.0f}" width="{width}" '
        f'height="{height:.0f}"><title>{escape(title)}</title>{"".join(parts)}</svg>'
    )


def text(classes: str, x: float, y: float, words: str) -> str:
    """Words at a place."""
    return f'<text class="{classes}" x="{x:.1f}" y="{y:.1f}">{escape(words)}</text>'


def rule(kind: str, x1: float, y1: float, x2: float, y2: float) -> str:
    """A straight line."""
    return f'<path class="{kind}" d="M{x1:.1f} {y1:.1f}L{x2:.1f} {y2:.1f}"/>'


def x_axis(axis: Axis, ticks: Sequence[float], scale: Scale, y: float, start: float) -> list[str]:
    """The axis below a plot with its ticks and its title."""
    parts = [rule("base", start, y, scale.end, y)]
    parts += [rule("base", scale(tick), y, scale(tick), y + 5) for tick in ticks]
    parts += [text("tick middle", scale(tick), y + 19, axis.spell(tick)) for tick in ticks]
    return [*parts, text("axis middle", (start + scale.end) / 2, y + 38, axis.title)]
