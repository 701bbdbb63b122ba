"""A run of the load test as one HTML page."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from html import escape
from pathlib import Path

from loadtest.report import findings, pieces, plots
from loadtest.report.pieces import Scalar
from loadtest.report.recorded import Run
from loadtest.report.summary import Summary, how_many
from loadtest.report.tables import duration, number

_STYLE = Path(__file__).with_name("run.css")
_HOW_TO_READ = """\
Offered is what was due by the plan, whether or not the generator and the service kept up: each request has an intended
start, planned before. Achieved are the requests whose answer came and was right: status, id, body.

Latency counts from the intended start to the answer, so a request that had to wait because everything before it stood
still shows that wait. Where no rate was offered, each user waits for its answer before its next request: a service that
stands still is then asked less, and its latency looks better than what a client outside would see.

Percentiles are of the answers that were right. Failures are counted apart, with their reason, and what was due and could
not be sent for want of a free connection is counted as never sent.

On the axis of percentiles each step is ten times rarer: at 99.9% stands the latency that one request in a thousand
exceeded.

CPU time is what the kernel charged each process, user and system, divided by the requests answered in the same seconds.
The generator shares the machine where it runs beside the service: its column is no cost of the service.

The reconciliation reads the store itself, not the service: every request was written to a journal before it was sent,
and each row carries the identity of its request."""


def html(run: Run) -> str:
    """The whole report as a page that needs nothing else."""
    summary = Summary(run)
    sections = [
        pieces.section("load", "Load", _load(summary)),
        pieces.section("latency", "Latency", _latency(summary)),
        pieces.section("errors", "Failures", _errors(summary)),
        pieces.section("cpu", "CPU", _cpu(summary)),
        pieces.section("reconciliation", "Reconciliation", _reconciliation(run)),
        pieces.section("figures", "Figures", _figures(summary)),
        pieces.section("facts", "Settings and machine", _facts(run)),
        pieces.section("reading", "How to read this", pieces.bullets(_HOW_TO_READ.split("\n\n"))),
    ]
    title = f"{run.facts.title}, {_when(run)}"
    return pieces.page(title, _STYLE, f"{_header(summary)}\n{_tiles(summary)}\n{''.join(sections)}")


def _header(summary: Summary) -> str:
    run, facts = summary.run, summary.run.facts
    commit = facts.commit + (" with changes that are not committed" if facts.dirty else "")
    lines = [
        ", ".join(part for part in (_when(run), f"commit {commit}" if commit else "", _length(run)) if part),
        ", ".join(part for part in (f"against {facts.host}" if facts.host else "", _machine(run)) if part),
    ]
    if facts.interrupted:
        lines.append("It was interrupted: the figures are of what was measured until then.")
    said = "".join(f'<li class="{each.level}">{escape(each.text)}</li>' for each in summary.verdicts)
    return (
        f"<header><h1>Load test: {escape(facts.title)}</h1>\n"
        + "".join(f"<p>{escape(line)}</p>\n" for line in lines if line)
        + f"<ul>{said}</ul></header>"
    )


def _tiles(summary: Summary) -> str:
    window = summary.headline
    offered, kept = window.offered_per_s, window.kept_up
    of_offered = (
        "no rate was offered"
        if offered is None or kept is None
        else f"of {number(offered, 0)}/s offered, {min(kept, 1.0):.1%}"
    )
    tiles = [_tile("Achieved", number(window.achieved_per_s, 0), "/s", of_offered)]
    everything = summary.whole.requests
    tiles.append(
        _tile("Failed", number(everything.failed), "", f"of {everything.count:,} requests", _sign(everything.failed))
    )
    tiles += [
        _store_tile(summary.run, "lost", "acknowledged and not stored"),
        _store_tile(summary.run, "duplicate", "stored twice"),
    ]
    tiles += [
        _tile(f"p{each:g}", number(window.latency_ms(each)), "ms", f"1 in {1 / (1 - each / 100):,.0f} took longer")
        for each in (50.0, 99.0, 99.9, 99.99)
    ]
    where = f"Rate and percentiles are of {window.name}; failures, lost and duplicate of the whole run."
    note = f"<p>{escape(where)}</p>" if summary.peak is not None else ""
    return f'<div class="tiles">{"".join(tiles)}</div>{note}'


def _store_tile(run: Run, name: str, meaning: str) -> str:
    if run.reconciliation is None:
        return _tile(name.capitalize(), "–", "", "not reconciled")
    count = how_many(run.reconciliation.get(name))
    return _tile(name.capitalize(), number(count), "", meaning, _sign(count))


def _tile(what: str, much: str, unit: str, of: str, kind: str = "") -> str:
    unit_said = f"<i>{escape(unit)}</i>" if unit and much != "–" else ""
    return (
        f'<div class="tile {kind}"><div class="what">{escape(what)}</div>'
        f'<div class="much">{escape(much)}{unit_said}</div><div class="of">{escape(of)}</div></div>'
    )


def _sign(bad: int) -> str:
    return "bad" if bad else "good"


def _figures(summary: Summary) -> str:
    if not summary.run.moments:
        return _missing("Nothing was measured.")
    return "".join(
        pieces.table(each(summary)) for each in (findings.figures_table, findings.phases_table, findings.requests_table)
    )


def _load(summary: Summary) -> str:
    if not summary.run.moments:
        return _missing("No second of load was recorded.")
    users = plots.users_figure(summary) if any(moment.users for moment in summary.run.moments) else ""
    return plots.throughput_figure(summary) + users


def _latency(summary: Summary) -> str:
    if not summary.whole.requests.latency:
        return _missing("No request was answered as it should be.")
    return plots.latency_figure(summary) + plots.spectrum_figure(summary)


def _errors(summary: Summary) -> str:
    table = findings.errors_table(summary)
    if table is None:
        return "<p>No request failed.</p>"
    return plots.errors_figure(summary) + pieces.table(table)


def _cpu(summary: Summary) -> str:
    table = findings.cpu_table(summary)
    if table is None:
        return _missing("CPU times were not sampled.")
    return plots.cpu_figure(summary) + pieces.table(table)


def _reconciliation(run: Run) -> str:
    if run.reconciliation is None:
        why = "there is no journal of it" if run.facts.store else "no store was named"
        return _missing(f"Not reconciled: {why}.")
    table = pieces.table(findings.reconciliation_table(run.reconciliation, run.warm_up))
    listed = [line for found in (run.reconciliation, run.warm_up) if found for line in findings.examples(found)]
    return table + (f'<h3>The first of them</h3><div class="bad-ones">{pieces.bullets(listed)}</div>' if listed else "")


def _facts(run: Run) -> str:
    facts = run.facts
    machine: dict[str, Scalar] = {
        "cpu": facts.cpu or None,
        "cores": facts.cores or None,
        "memory": f"{number(facts.memory_gib, 1)} GiB" if facts.memory_gib else None,
        "kernel": facts.kernel or None,
        **facts.versions,
    }
    asked: dict[str, Scalar] = {"host": facts.host or None, "store": facts.store or None, **facts.options}
    notes = f"<h3>Notes</h3>{pieces.bullets(run.notes)}" if run.notes else ""
    return f"<h3>Settings</h3>{pieces.pairs(asked)}<h3>Machine and versions</h3>{pieces.pairs(machine)}{notes}"


def _missing(text: str) -> str:
    return f'<p class="missing">{escape(text)}</p>'


def _when(run: Run) -> str:
    if not run.facts.began_unix_s:
        return ""
    at = dt.datetime.fromtimestamp(run.facts.began_unix_s, dt.UTC)
    return f"{at:%Y-%m-%d %H:%M} UTC"


def _length(run: Run) -> str:
    return duration(run.last_s) if run.last_s else ""


def _machine(run: Run) -> str:
    facts = run.facts
    known: Sequence[str] = (
        facts.cpu,
        f"{facts.cores} cores" if facts.cores else "",
        f"{number(facts.memory_gib, 1)} GiB" if facts.memory_gib else "",
        facts.kernel,
    )
    return ", ".join(part for part in known if part)
