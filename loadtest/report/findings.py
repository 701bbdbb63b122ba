"""The tables of a run of the load test, for the page and the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from loadtest.report.recorded import GENERATOR, Requests
from loadtest.report.summary import MUST_BE_NOTHING, PERCENTILES, Summary, Window, how_many, roles
from loadtest.report.tables import NONE, Table, number, role_name
from loadtest.timeline import percentile

REASONS_MAX = 50
"""Rows of the table of failures; the rest is one row."""
RECONCILED = (
    ("sent", "intended and written to a journal before the first byte went out"),
    ("acknowledged", "answered with a 2xx, and not deleted since"),
    ("refused", "answered so that it is certainly not stored: 4xx, 503"),
    ("unknown", "no answer, or one that leaves it open"),
    ("unknown_stored", "of the unknown, found in the store"),
    ("unknown_not_stored", "of the unknown, not found"),
    ("deleted", "messages whose DELETE was acknowledged"),
    ("stored", "rows in the store that carry the identity of this run"),
    ("others", "rows in the store that are of nobody in this run"),
    ("lost", "acknowledged and not there"),
    ("phantom", "there, though refused, deleted or never sent"),
    ("duplicate", "one request stored twice, or one id given twice"),
    ("corrupt", "stored with other bytes than were sent"),
)


def figures_table(summary: Summary) -> Table:
    """The figures of the whole run and of its highest rate, a column each."""
    windows = summary.windows
    percents = [(f"{'p'}{each:g}", [_ms(window.latency_ms(each)) for window in windows]) for each in PERCENTILES]
    rows = [
        ("seconds", [number(window.seconds) for window in windows]),
        ("offered per second", [_rate(window.offered_per_s) for window in windows]),
        ("achieved per second", [_rate(window.achieved_per_s) for window in windows]),
        ("answered as they should be", [number(window.requests.answered) for window in windows]),
        ("failed", [number(window.requests.failed) for window in windows]),
        ("due and never sent", [number(window.moment.unsent) for window in windows]),
        *percents,
        ("slowest", [_ms(window.latency_ms(100)) for window in windows]),
        ("generator, busiest process", [_part(window.generator_share) for window in windows]),
    ]
    cells = tuple((name, *values) for name, values in rows)
    return Table("", ("", *(window.name for window in windows)), cells)


def requests_table(summary: Summary) -> Table:
    """Each kind of request in the whole run."""
    head = ("request", "answered", "failed", "p50 ms", "p90 ms", "p99 ms", "p99.9 ms", "max ms", "bytes each")
    by_name = summary.whole.moment.requests
    return Table("By kind of request", head, tuple(_request(name, by_name[name]) for name in sorted(by_name)))


def errors_table(summary: Summary) -> Table | None:
    """Each reason of a failure and how often it was; None where nothing failed."""
    found = sorted(summary.whole.requests.errors.items(), key=lambda pair: (-pair[1], pair[0]))
    if not found:
        return None
    rows = [(reason, number(count)) for reason, count in found[:REASONS_MAX]]
    rest = found[REASONS_MAX:]
    if rest:
        rows.append((f"{len(rest):,} other reasons", number(sum(count for _, count in rest))))
    return Table("Failures by reason", ("reason", "times"), tuple(rows))


def cpu_table(summary: Summary) -> Table | None:
    """µs of CPU for each request answered, and cores used, by role; None where nobody sampled."""
    shown = roles(summary.run)
    if not shown or not any(window.cpu_span_s for window in summary.windows):
        return None
    served = [role for role in shown if role != GENERATOR]
    head = ("", *map(role_name, served), *(["service"] if len(served) > 1 else []), *({GENERATOR} & set(shown)))
    rows = []
    for window in summary.windows:
        rows.append((f"µs per request, {window.name}", *_across(served, shown, window, per_request=True)))
        rows.append((f"cores used, {window.name}", *_across(served, shown, window, per_request=False)))
    return Table("CPU time, kernel included", head, tuple(rows))


def reconciliation_table(found: Mapping[str, Any], warm_up: Mapping[str, Any] | None = None) -> Table:
    """What was sent against what is stored, of the load and of the warm-up before it; each line says what it means."""
    columns = [found, *([warm_up] if warm_up is not None else [])]
    known = dict(RECONCILED)
    order = [name for name in known if any(name in each for each in columns)]
    rows = tuple((name.replace("_", " "), *(_reconciled(each, name) for each in columns)) for name in order)
    head = ("", "the load", "its warm-up")[: len(columns) + 1]
    return Table("", head, rows, tuple(known[name] for name in order))


def _reconciled(found: Mapping[str, Any], name: str) -> str:
    if name not in found:
        return NONE
    count = how_many(found[name])
    return f"{'✗' if count else '✓'} {count:,}" if name in MUST_BE_NOTHING else number(count)


def examples(found: Mapping[str, Any]) -> list[str]:
    """The first of what must not be, and what is wrong with journals, as the reconciliation names them."""
    listed = []
    for name in MUST_BE_NOTHING:
        fault = found.get(name)
        first = fault.get("first", ()) if isinstance(fault, Mapping) else fault
        listed += [
            f"{name}: {_finding(one)}" for one in (first if isinstance(first, (list, tuple)) else ())[:REASONS_MAX]
        ]
    return [*listed, *(f"torn: {each}" for each in found.get("torn") or ())]


def phases_table(summary: Summary) -> Table | None:
    """Each phase of the shape; None where it has but one."""
    if len(summary.phases) < 2:
        return None
    head = ("phase", "s", "users", "offered/s", "achieved/s", "failed", "never sent", "p50 ms", "p99 ms", "p99.9 ms")
    return Table("By phase", head, tuple(map(_phase, summary.phases)))


def _phase(window: Window) -> tuple[str, ...]:
    return (
        window.name,
        number(window.seconds),
        number(round(window.moment.users)),
        _rate(window.offered_per_s),
        _rate(window.achieved_per_s),
        number(window.requests.failed),
        number(window.moment.unsent),
        *(number(window.latency_ms(each)) for each in (50.0, 99.0, 99.9)),
    )


def _finding(one: object) -> str:
    if not isinstance(one, Mapping):
        return str(one)
    return f"{one.get('kind')} {one.get('seq')} of {one.get('journal')}, at {one.get('place')}: {one.get('reason')}"


def _across(served: list[str], shown: list[str], window: Window, *, per_request: bool) -> tuple[str, ...]:
    def value(role: str) -> float | None:
        return window.cpu_us(role) if per_request else window.cores(role)

    digits = 1 if per_request else 2
    known = [found for role in served if (found := value(role)) is not None]
    cells = [number(value(role), digits) for role in served]
    if len(served) > 1:
        cells.append(number(sum(known), digits) if known else NONE)
    if GENERATOR in shown:
        cells.append(number(value(GENERATOR), digits))
    return tuple(cells)


def _request(name: str, requests: Requests) -> tuple[str, ...]:
    spread = (percentile(requests.latency, each) for each in (50, 90, 99, 99.9, 100))
    each_bytes = requests.bytes / requests.answered if requests.answered else None
    return (
        name,
        number(requests.answered),
        number(requests.failed),
        *(number(None if us is None else us / 1000) for us in spread),
        number(each_bytes, 0),
    )


def _ms(value: float | None) -> str:
    return NONE if value is None else f"{number(value)} ms"


def _rate(value: float | None) -> str:
    return number(value, 0 if value is None or value >= 100 else 1)


def _part(value: float | None) -> str:
    return NONE if value is None else f"{value:.0%} of a core"
