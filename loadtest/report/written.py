"""A run of the load test as files: the page, everything as JSON, a row for each second as CSV, and a text for a terminal."""

from __future__ import annotations

import csv
import io
import json
import textwrap
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from loadtest.report import findings, page
from loadtest.report.recorded import Moment, Requests, Run
from loadtest.report.summary import PERCENTILES, Summary, Window, roles
from loadtest.report.tables import COLUMNS, as_text
from loadtest.timeline import percentile

SCHEMA = 1
"""The version of results.json."""
REPORT, RESULTS, TIMELINE_CSV = "report.html", "results.json", "timeline.csv"


def write(run: Run, directory: Path) -> None:
    """The page, the JSON and the CSV, into a directory that is there."""
    (directory / REPORT).write_text(page.html(run), encoding="utf-8")
    (directory / RESULTS).write_text(results_json(run), encoding="utf-8")
    (directory / TIMELINE_CSV).write_text(timeline_csv(run), encoding="utf-8")


def results_json(run: Run) -> str:
    """Facts, figures of each window, every second, CPU times and the reconciliations. Rates per second, latencies in ms."""
    summary = Summary(run)
    content = {
        "schema": SCHEMA,
        "facts": asdict(run.facts),
        "notes": run.notes,
        "verdicts": [asdict(each) for each in summary.verdicts],
        "windows": [_window(each, roles(run)) for each in summary.windows],
        "phases": [_window(each, roles(run)) for each in summary.phases],
        "requests": {name: _requests(each) for name, each in summary.whole.moment.requests.items()},
        "latency_buckets": {str(bucket): count for bucket, count in sorted(summary.whole.requests.latency.items())},
        "seconds": [_second(each) for each in run.moments],
        "cpu": [asdict(each) for each in run.cpu],
        "generators": run.generators,
        "reconciliation": run.reconciliation,
        "warm_up": run.warm_up,
    }
    return json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def timeline_csv(run: Run) -> str:
    """A row for each second from the first to the last, quiet ones too; latencies in ms, CPU in cores by role."""
    shown = roles(run)
    cores: dict[int, dict[str, float]] = {}
    for sample in run.cpu:
        cores[sample.start_s] = {
            role: cpu_s / sample.took_s for role, cpu_s in sample.cpu_s.items() if sample.took_s > 0
        }
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(
        [
            *("second", "offered", "achieved", "answered", "failed", "unsent", "users"),
            *(f"p{each:g}_ms" for each in PERCENTILES),
            "max_ms",
            *(f"{role}_cores" for role in shown),
        ]
    )
    moments = {moment.start_s: moment for moment in run.moments}
    for second in range(run.last_s):
        moment = moments.get(second, Moment(second, 1, 0, 0, 0.0, {}))
        used = cores.get(second, {})
        writer.writerow(
            [
                *(
                    second,
                    moment.offered,
                    moment.begun if run.open_loop else moment.all.answered,
                    moment.all.answered,
                    moment.all.failed,
                    moment.unsent,
                    round(moment.users),
                ),
                *(_ms(moment.all, each) for each in (*PERCENTILES, 100.0)),
                *(round(used[role], 4) if role in used else "" for role in shown),
            ]
        )
    return out.getvalue()


def text(run: Run) -> str:
    """What a terminal is told at the end: what there is to say, the figures, CPU by process, failures."""
    summary = Summary(run)
    signs = {"good": "✓", "bad": "✗", "plain": "·"}
    said = [_wrapped(f"{signs[each.level]} {each.text}") for each in summary.verdicts]
    blocks = ["\n".join(said)]
    if run.moments:
        tables = (
            findings.figures_table(summary),
            findings.phases_table(summary),
            findings.cpu_table(summary),
            findings.errors_table(summary),
        )
        blocks += [as_text(each).strip("\n") for each in tables if each is not None]
    return "\n\n".join(blocks) + "\n"


def _wrapped(line: str) -> str:
    return "\n".join(textwrap.wrap(line, COLUMNS, subsequent_indent="  "))


def _window(window: Window, shown: Sequence[str]) -> dict[str, Any]:
    return {
        "name": window.name,
        "seconds": window.seconds,
        "offered_per_s": window.offered_per_s,
        "achieved_per_s": window.achieved_per_s,
        "unsent": window.moment.unsent,
        **_requests(window.requests),
        "cpu_us_per_request": {role: window.cpu_us(role) for role in shown},
        "cores": {role: window.cores(role) for role in shown},
        "generator_share_of_a_core": window.generator_share,
    }


def _requests(requests: Requests) -> dict[str, Any]:
    return {
        "answered": requests.answered,
        "failed": requests.failed,
        "bytes": requests.bytes,
        "latency_ms": {f"p{each:g}": _ms(requests, each) for each in PERCENTILES} | {"max": _ms(requests, 100.0)},
        "errors": dict(requests.errors),
    }


def _second(moment: Moment) -> dict[str, Any]:
    return {
        "second": moment.start_s,
        "offered": moment.offered,
        "unsent": moment.unsent,
        "users": moment.users,
        "requests": {name: _requests(each) for name, each in moment.requests.items()},
    }


def _ms(requests: Requests, per_cent: float) -> float | None:
    found = percentile(requests.latency, per_cent)
    return None if found is None else found / 1000
