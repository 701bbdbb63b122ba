"""Parts of a page that needs nothing else: no script, no font, no file beside it. All text is escaped here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from loadtest.report.charts import Series, swatch
from loadtest.report.tables import Table

Scalar = str | int | float | bool | None
COLOURS = 6
"""The page's CSS has so many colours, and grey as the one after them."""
GREY = COLOURS
_SHARED_STYLE = Path(__file__).with_name("shared.css")
_ROLE_COLOURS = {"web": 0, "haproxy": 1, "cassandra": 2, "server": 3, "postgres": 5, "generator": GREY}


def page(title: str, style: Path, body: str) -> str:
    """A whole page from the inside of its main part, which is markup already."""
    styles = "".join(each.read_text(encoding="utf-8") for each in (_SHARED_STYLE, style))
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; img-src data:\">\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n<link rel="icon" href="data:,">\n'
        f"<title>{escape(title)}</title>\n<style>\n{styles}</style>\n</head>\n<body>\n<main>\n"
        f"{body}</main>\n</body>\n</html>\n"
    )


def section(name: str, title: str, body: str) -> str:
    """A part under a heading; the name is its class."""
    return f'<section class="{name}"><h2>{escape(title)}</h2>\n{body}</section>\n'


def figure(caption: str, charts: str, legend: str = "") -> str:
    """Plots under a caption and a legend."""
    keys = f'<div class="legend">{legend}</div>' if legend else ""
    return f"<figure><figcaption>{escape(caption)}</figcaption>{keys}{charts}</figure>"


def line_legend(series: Sequence[Series]) -> str:
    """The names of lines beside their swatches."""
    return "".join(f"<span>{swatch(each)}{escape(each.name)}</span>" for each in series)


def chip_legend(names: Sequence[tuple[str, int]]) -> str:
    """Names beside squares of their colours."""
    return "".join(f'<span><i class="chip b{colour}"></i>{escape(name)}</span>' for name, colour in names)


def role_colour(role: str) -> int:
    """The colour of a role, the same in every plot; roles that are not known share one."""
    return _ROLE_COLOURS.get(role, 4)


def table(content: Table | None) -> str:
    """A table; nothing for None."""
    if content is None:
        return ""
    caption = f"<caption>{escape(content.title)}</caption>" if content.title else ""
    head = "".join(
        f'<th class="{"n" if index else "t"}">{escape(cell)}</th>' for index, cell in enumerate(content.head)
    )
    remarks = content.remarks or ("",) * len(content.rows)
    body = "".join(_row(row, remark) for row, remark in zip(content.rows, remarks, strict=True))
    return f'<div class="wide"><table>{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def small(text: str) -> str:
    """A remark below something; nothing for an empty one."""
    return f"<small>{escape(text)}</small>" if text else ""


def pairs(content: Mapping[str, Scalar]) -> str:
    """Names and their values in columns."""
    if not content:
        return "<p>None.</p>"
    items = (f"<div><dt>{escape(name)}</dt><dd>{escape(_said(value))}</dd></div>" for name, value in content.items())
    return f"<dl>{''.join(items)}</dl>"


def bullets(items: Sequence[str]) -> str:
    """A list of sentences."""
    if not items:
        return "<p>None.</p>"
    return f"<ul>{''.join(f'<li>{escape(item)}</li>' for item in items)}</ul>"


def _row(row: Sequence[str], remark: str) -> str:
    first, *others = row
    cells = "".join(f'<td class="n">{escape(cell)}</td>' for cell in others)
    return f"<tr><td>{escape(first)}{small(remark)}</td>{cells}</tr>\n"


def _said(value: Scalar) -> str:
    if value is None or isinstance(value, bool):
        return {None: "–", True: "yes", False: "no"}[value]
    return value if isinstance(value, str) else f"{value:,.10g}"
