"""Results as one HTML page that needs nothing else: no script, no font, no file beside it."""

from __future__ import annotations

from html import escape
from pathlib import Path

from loadtest.benchmark import figures
from loadtest.benchmark.results import Results, Row, Scalar, roles
from loadtest.benchmark.table import (
    check_table,
    check_tally,
    cpu_table,
    goal,
    headline_table,
    mark,
    quantity,
    run,
    spread,
    tally,
    where,
    why_missing,
    why_section_missing,
)
from loadtest.report import pieces
from loadtest.report.bars import target_bar
from loadtest.report.tables import Table, duration, number, role_name

_STYLE = Path(__file__).with_name("report.css")
_HOW_TO_READ = """\
A ratio compares two subjects that were measured in turns, A B A B, on the same machine: when the machine slows down, it
slows both. Its value is the median of the rounds; the least and the greatest round say how far to trust it.

A target bar shows value ÷ target from 0 to 2, the target being the line in the middle and the good side shaded. Each
stroke is a round.

Throughput counts answers with a 2xx alone. Afterwards the rows in the store are counted: each 2xx has to be a row. An
unknown is a request without an answer, which may be a row or not.

Where a request is a batch, its usages are what is counted, in throughput, CPU time and verification; latency is the batch's.

CPU time is what the kernel charged a process while it was measured, user and system, divided by the requests answered.
The generator has a column of its own: it is no cost of the service, but it takes part of the same cores.

Latency is the generator's: from the first byte of a request to its answer. Each connection waits for its answer before
its next request, so once the machine is full more connections make latency grow and not throughput."""


def html(results: Results) -> str:
    """The whole report as a page."""
    measured = (
        ("rounds", "Noise", figures.rounds_figure, bool(results.measurements)),
        ("curve", "Load", _load, bool(results.curve)),
        ("cpu", "CPU", _cpu, cpu_table(results) is not None),
        ("scaling", "Scaling", _scaling, bool(results.scaling)),
        ("stream", "One long stream", _stream, bool(results.stream)),
        ("memory", "Memory", _memory, bool(results.memory)),
        ("stall", "A stall of the store", _stall, bool(results.stall)),
        ("headline", "Then and now", lambda it: pieces.table(headline_table(it)), bool(results.headline)),
        ("verification", "Verification", _verification, check_table(results) is not None),
    )
    sections = [pieces.section("targets", "Targets", _targets(results))]
    sections += [
        pieces.section(name, title, body(results) if found else _not_measured(results, name))
        for name, title, body, found in measured
    ]
    sections += [
        pieces.section("notes", "Notes", pieces.bullets(results.notes)),
        pieces.section("reading", "How to read this", pieces.bullets(_HOW_TO_READ.split("\n\n"))),
        pieces.section("facts", "Settings and versions", _facts(results)),
        pieces.section("numbers", "All measurements", _numbers(results)),
    ]
    title = f"BusyAPI benchmark, {results.when}, {results.commit}"
    return pieces.page(title, _STYLE, f"{_header(results)}\n{''.join(sections)}")


def _header(results: Results) -> str:
    quick = '<p class="quick">A quick run: it shows that everything works. Its numbers are not to be quoted.</p>'
    lost = any(each.holds is False for each in results.measurements)
    return (
        f"<header><h1>BusyAPI benchmark</h1>\n<p>{escape(run(results))}</p>\n<p>{escape(where(results.machine))}</p>\n"
        f"{quick if results.quick else ''}"
        f'<p class="verdict{" lost" if lost else ""}">{escape(tally(results))}; {escape(check_tally(results))}.</p></header>'
    )


def _not_measured(results: Results, section: str) -> str:
    reason = why_section_missing(results, section)
    return f'<p class="missing">{escape(reason[0].upper() + reason[1:])}.</p>'


# --- the sections


def _targets(results: Results) -> str:
    head = (
        '<thead><tr><th></th><th>what</th><th class="n">value</th><th class="n">least–greatest round</th>'
        '<th class="n">target</th><th class="bar"><div><span>0</span><span>target</span><span>2×</span></div></th></tr></thead>'
    )
    return f"<table>{head}<tbody>{''.join(map(_target, results.rows))}</tbody></table>"


def _target(row: Row) -> str:
    kind = {True: "yes", False: "no", None: "none"}[row.met]
    words = {True: "met", False: "not met", None: "no target" if row.value is not None else "missing"}[row.met]
    bar = ""
    if row.value is not None and row.target is not None:
        bar = target_bar(
            f"{quantity(row.value, row.unit, row.target)} against {goal(row)}",
            row.value,
            row.target,
            at_least=row.comparison == ">=",
            rounds=row.rounds,
        )
    remark = f"Not measured: {why_missing(row)}" if row.value is None else row.detail
    symbol = mark(row) if row.value is not None else "–"
    value = quantity(row.value, row.unit, row.target) if row.value is not None else mark(row)
    return (
        f'<tr><td class="mark {kind}" title="{words}">{symbol}</td>'
        f"<td>{escape(row.title)}{pieces.small(remark)}</td>"
        f'<td class="n {"none" if row.value is None else "strong"}">{escape(value)}</td>'
        f'<td class="n">{escape(spread(row))}</td><td class="n">{escape(goal(row))}</td><td class="bar">{bar}</td></tr>\n'
    )


def _load(results: Results) -> str:
    columns = roles([point.cpu_us for point in results.curve])
    head = ("connections", "per second", "p50 ms", "p99 ms", *(f"{role_name(role)} µs" for role in columns), "failures")
    tables = []
    for subject in dict.fromkeys(point.subject for point in results.curve):
        rows = tuple(
            (
                number(point.connections),
                number(point.per_second),
                number(point.p50_ms),
                number(point.p99_ms),
                *(number(point.cpu_us.get(role), 1) for role in columns),
                number(point.failures),
            )
            for point in results.curve
            if point.subject == subject
        )
        tables.append(pieces.table(Table(f"{subject}, by connections", head, rows)))
    return figures.throughput_figure(results) + figures.latency_figure(results) + "".join(tables)


def _cpu(results: Results) -> str:
    return figures.cpu_figure(results) + pieces.table(cpu_table(results))


def _scaling(results: Results) -> str:
    columns = roles([point.cpu_share for point in results.scaling])
    head = ("web instances", "per second", "of linear", *map(role_name, columns))
    rows = tuple(
        (
            number(point.instances),
            number(point.per_second),
            f"{point.of_linear:.0%}",
            *(f"{point.cpu_share[role]:.0%}" if role in point.cpu_share else "–" for role in columns),
        )
        for point in results.scaling
    )
    table = Table(
        "Throughput, and the share of all cores that each role takes",
        head,
        rows,
        tuple(point.note for point in results.scaling),
    )
    return figures.scaling_figure(results) + pieces.table(table)


def _memory(results: Results) -> str:
    peak = max((rss for point in results.memory for rss in point.rss_mib), default=None)
    summary: dict[str, Scalar] = {"peak of one instance": f"{number(peak)} MiB", **results.memory_summary}
    return figures.memory_figure(results.memory, "a steady load") + pieces.pairs(summary)


def _stream(results: Results) -> str:
    return figures.memory_figure(results.stream, "one long stream") + pieces.pairs(results.stream_summary)


def _stall(results: Results) -> str:
    peak = max((rss for point in results.stall for rss in point.rss_mib), default=None)
    still = sum(end - start for start, end, _ in figures.stalls(results.stall))
    summary: dict[str, Scalar] = {"stall": duration(still), "peak of one instance": f"{number(peak)} MiB"}
    return figures.stall_figure(results) + pieces.pairs({**summary, **results.stall_summary})


def _verification(results: Results) -> str:
    return f"<p>{escape(check_tally(results))}.</p>{pieces.table(check_table(results))}"


def _facts(results: Results) -> str:
    machine = results.machine
    facts: dict[str, Scalar] = {
        "cpu": machine.cpu,
        "cores": machine.cores,
        "memory": f"{number(machine.memory_gib, 1)} GiB",
        "kernel": machine.kernel,
        **machine.versions,
    }
    return f"<h3>Machine and versions</h3>{pieces.pairs(facts)}<h3>Settings</h3>{pieces.pairs(results.settings)}"


def _numbers(results: Results) -> str:
    head = (
        "subject",
        "round",
        "conn.",
        "s",
        "per second",
        "2xx",
        "failures",
        "unknown",
        "p50 µs",
        "p90",
        "p99",
        "p99.9",
        "max",
    )
    rows = tuple(
        (
            each.subject,
            number(each.round + 1),
            number(each.connections),
            number(each.seconds),
            number(each.per_second),
            number(each.acknowledged),
            number(each.failures),
            number(each.unknown),
            *(number(us) for us in (each.latency_us.p50, each.latency_us.p90, each.latency_us.p99)),
            *(number(us) for us in (each.latency_us.p999, each.latency_us.max)),
        )
        for each in results.measurements
    )
    return pieces.table(Table("", head, rows, tuple(each.note for each in results.measurements)))
