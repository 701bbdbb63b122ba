"""Numbers in words, and tables that a terminal and a page share."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

COLUMNS = 120
"""Of a terminal."""
NONE = "–"
"""Stands where there is no value."""
_GAP = "  "


@dataclass(frozen=True, slots=True)
class Table:
    """Cells under a head, the first column in words and the others in numbers, and a remark on each row."""

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    remarks: tuple[str, ...] = ()


def number(value: float | None, digits: int | None = None) -> str:
    """A number with thousands apart, a float with about three figures that count; a dash for None."""
    if value is None:
        return NONE
    if digits is None:
        digits = 0 if isinstance(value, int) or abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    return f"{value:,.{digits}f}".replace("-", "−")


def duration(seconds: float) -> str:
    """Seconds as `25 min 20 s`."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def role_name(role: str) -> str:
    """A role as its software is written."""
    return {"haproxy": "HAProxy", "cassandra": "Cassandra", "postgres": "PostgreSQL"}.get(role, role)


def as_text(table: Table) -> str:
    """A table for a terminal, the first column wrapped so that the whole is at most 120 wide where the others allow."""
    widths = [max(len(row[index]) for row in (table.head, *table.rows)) for index in range(len(table.head))]
    others = sum(widths[1:]) + len(_GAP) * (len(widths) - 1)
    widths[0] = max(16, min(widths[0], COLUMNS - others))
    lines = [table.title, _text_row(table.head, widths), "─" * min(COLUMNS, widths[0] + others)]
    for index, row in enumerate(table.rows):
        first, *more = textwrap.wrap(row[0], widths[0]) or [""]
        lines += [_text_row((first, *row[1:]), widths), *more]
        remark = table.remarks[index] if table.remarks else ""
        lines += textwrap.wrap(remark, COLUMNS, initial_indent="    ", subsequent_indent="    ")
    return "\n".join(lines)


def _text_row(row: Sequence[str], widths: Sequence[int]) -> str:
    first, *others = row
    return _GAP.join([first.ljust(widths[0]), *map(str.rjust, others, widths[1:])]).rstrip()
