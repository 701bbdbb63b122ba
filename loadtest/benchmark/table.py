"""Results as a text table for a terminal of 120 columns, and as Markdown."""

from __future__ import annotations

import textwrap

from loadtest.benchmark.results import GENERATOR, Group, Headline, Machine, Results, Row, groups, roles, total_cpu_us
from loadtest.report.tables import COLUMNS, NONE, Table, as_text, duration, number, role_name

# --- numbers in words


def quantity(value: float | None, unit: str, target: float | None = None) -> str:
    """A number with its unit, in so many digits that rounding does not move it to or across its target."""
    if value is None:
        return NONE
    digits = _digits(value, unit)
    while target is not None and value != target and digits < 6 and round(value, digits) == round(target, digits):
        digits += 1
    return number(value, digits) + _suffix(unit)


def goal(row: Row) -> str:
    """A row's target as `≥ 0.9×`."""
    if row.target is None:
        return NONE
    sign = "≥" if row.comparison == ">=" else "≤"
    return f"{sign} {row.target:,.10g}{_suffix(row.unit)}"


def spread(row: Row) -> str:
    """The least and the greatest round of a row as `0.91–0.95 (3)`."""
    if not row.rounds:
        return NONE
    digits = _digits(max(row.rounds), row.unit)
    return f"{number(min(row.rounds), digits)}–{number(max(row.rounds), digits)} ({len(row.rounds)})"


def mark(row: Row) -> str:
    """✓ met, ✗ not met, `missing`, or a dash for a row without a target."""
    if row.value is None:
        return "missing"
    return NONE if row.met is None else _sign(holds=row.met)


def why_missing(row: Row) -> str:
    """Why a row has no value."""
    return row.missing or "no reason was written down"


def tally(results: Results) -> str:
    """How many targets are met, how many are not, and how many rows are missing."""
    targets = [row.met for row in results.rows if row.met is not None]
    missing = sum(row.value is None for row in results.rows)
    said = f"{targets.count(True)} of {len(targets)} measured targets met"
    return f"{said}, {missing} not measured" if missing else said


def check_tally(results: Results) -> str:
    """How many of the measurements whose rows or ids were counted hold."""
    checked = [each.holds for each in results.measurements if each.holds is not None]
    if not checked:
        return "nothing was checked against the store"
    return f"{checked.count(True)} of {len(checked)} checked measurements have a row for each 2xx and no id twice"


def where(machine: Machine) -> str:
    """The machine in one line."""
    return f"{machine.cpu}, {machine.cores} cores, {number(machine.memory_gib, 1)} GiB, {machine.kernel}"


def run(results: Results) -> str:
    """When, which commit and how long, in one line."""
    commit = results.commit + (" with changes that are not committed" if results.dirty else "")
    quick = ", a quick run: no numbers to quote" if results.quick else ""
    return f"{when(results)}, commit {commit}, {duration(results.seconds_total)}{quick}"


def when(results: Results) -> str:
    """The time of the run to the minute."""
    return f"{results.when[:16].replace('T', ' ')} UTC"


def group_name(group: Group) -> str:
    """A subject with its connections."""
    return f"{group.subject}, {connections(group.connections)}"


def connections(count: int) -> str:
    """`1 connection`, `64 connections`."""
    return f"{count:,} connection{'' if count == 1 else 's'}"


# --- tables that the terminal, Markdown and the page share


def target_table(results: Results) -> Table:
    """Every row with its value, spread, target and whether it is met; the remark says why one is missing."""
    rows = tuple(
        (row.title, quantity(row.value, row.unit, row.target), spread(row), goal(row), mark(row))
        for row in results.rows
    )
    remarks = tuple(f"missing: {why_missing(row)}" if row.value is None else row.detail for row in results.rows)
    return Table("Targets", ("what", "value", "least–greatest round", "target", "met"), rows, remarks)


def cpu_table(results: Results) -> Table | None:
    """µs of CPU per request by process, the median of the rounds; None when nobody measured it."""
    shown = [group for group in groups(results.measurements) if group.cpu_us]
    if not shown:
        return None
    columns = roles([group.cpu_us for group in shown])
    served = [role for role in columns if role != GENERATOR]
    behind = [role for role in columns if role == GENERATOR]
    rows = tuple(
        (
            group_name(group),
            *(number(group.cpu_us.get(role), 1) for role in served),
            number(total_cpu_us(group.cpu_us), 1),
            *(number(group.cpu_us.get(role), 1) for role in behind),
        )
        for group in shown
    )
    return Table(
        "CPU time in µs per request, by process",
        ("subject", *map(role_name, served), "sum", *map(role_name, behind)),
        rows,
    )


def check_table(results: Results) -> Table | None:
    """2xx answers against rows in the store, and whether ids are distinct; None when nobody counted."""
    shown = [group for group in groups(results.measurements) if group.checked]
    if not shown:
        return None
    head = ("subject", "rounds", "2xx", "rows", "unknown", "failures", "ids distinct", "holds")
    return Table("Answers against the store", head, tuple(_check(group) for group in shown))


def headline_table(results: Results) -> Table | None:
    """The old services beside this one, in requests per second; None without numbers."""
    if not results.headline:
        return None
    head = ("shape", "BusyAPI then", "usages now", "messages then", "messages now")
    rows = tuple(_headline(each) for each in results.headline)
    return Table("Requests per second, then and now", head, rows, tuple(each.note for each in results.headline))


# --- the two texts


def text(results: Results) -> str:
    """The whole for a terminal, no line longer than 120 columns."""
    blocks = [f"{run(results)}\n{where(results.machine)}", f"{tally(results)}; {check_tally(results)}"]
    blocks += [as_text(each) if isinstance(each, Table) else each for each in _tables(results)]
    blocks += ["\n".join(f"- {note}" for note in results.notes)] if results.notes else []
    lines = [_wrap(line) for block in blocks for line in [*block.splitlines(), ""]]
    return "\n".join(lines).rstrip() + "\n"


def markdown(results: Results) -> str:
    """The same as Markdown, for a README."""
    blocks = [
        f"{_escape(run(results))}; {_escape(where(results.machine))}.",
        f"{tally(results)}; {check_tally(results)}.",
    ]
    blocks += [_as_markdown(each) if isinstance(each, Table) else _escape(each) for each in _tables(results)]
    blocks += ["\n".join(f"- {_escape(note)}" for note in results.notes)] if results.notes else []
    return "\n\n".join(blocks) + "\n"


def why_section_missing(results: Results, section: str) -> str:
    """Why a section is not there, in words."""
    reason = results.missing.get(section) or ("left out of a quick run" if results.quick else "")
    return f"not measured: {reason}" if reason else "not measured"


def _tables(results: Results) -> list[Table | str]:
    """The tables, or in the place of one that is not there why it is not."""
    found = (("cpu", cpu_table), ("verification", check_table), ("headline", headline_table))
    rest = [table(results) or f"{section}: {why_section_missing(results, section)}" for section, table in found]
    return [target_table(results), *rest]


def _wrap(line: str) -> str:
    return line if len(line) <= COLUMNS else "\n".join(textwrap.wrap(line, COLUMNS, subsequent_indent="    "))


def _as_markdown(table: Table) -> str:
    said = any(table.remarks)
    lines = [[*table.head, *(["note"] if said else [])]]
    lines += [[*row, *([table.remarks[index]] if said else [])] for index, row in enumerate(table.rows)]
    cells = [[_escape(cell) for cell in line] for line in lines]
    cells.insert(1, ["---", *["---:"] * (len(table.head) - 1), *(["---"] if said else [])])
    return f"{table.title}:\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in cells)


def _escape(cell: str) -> str:
    for found, written in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("\\", "\\\\"), ("|", "\\|"), ("\n", " ")):
        cell = cell.replace(found, written)
    return cell


def _check(group: Group) -> tuple[str, ...]:
    checked = group.checked
    rows = [each.stored for each in checked if each.stored is not None]
    ids = [each.ids_distinct for each in checked if each.ids_distinct is not None]
    return (
        group_name(group),
        f"{len(checked)} of {len(group.measurements)}",
        number(sum(each.acknowledged for each in checked)),
        number(sum(rows)) if rows else NONE,
        number(sum(each.unknown for each in checked)),
        number(sum(each.failures for each in checked)),
        _sign(holds=all(ids)) if ids else NONE,
        _sign(holds=bool(group.holds)),
    )


def _headline(each: Headline) -> tuple[str, ...]:
    numbers = (each.busyapi_then, each.usages_now, each.messages_then, each.messages_now)
    return (each.shape, *(number(value) for value in numbers))


def _digits(value: float, unit: str) -> int:
    if unit == "ratio":
        return 1 if abs(value) >= 100 else 2
    return 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2


def _suffix(unit: str) -> str:
    return "×" if unit == "ratio" else f" {unit}" if unit else ""


def _sign(*, holds: bool) -> str:
    return "✓" if holds else "✗"
