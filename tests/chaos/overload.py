"""``python -m tests.chaos.overload``: far more arrivals than the service can store, and clients that all come back at once.

Three times the peak in an open loop for two minutes, then Cassandra stopped for a minute under naive clients that try
again ten milliseconds after each refusal. It prints a table of what became of them, and exits with 1 when a promise was
not kept: goodput, refusals, health and reads, memory, and how soon all is as before.
"""

from __future__ import annotations

import argparse
import itertools
import json
import platform
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.cluster import Options, RunningCluster, start_cluster
from tests.system.pressure import (
    Generator,
    Probe,
    Probes,
    Sample,
    Samples,
    good_per_s,
    growth_bytes,
    percentile,
    run,
    seconds_of,
)

PEAK_CONNECTIONS = 256
PEAK_S = 8.0
NORMAL_SHARE = 0.5
"""Of the peak: the load under which what is normal is measured."""

NORMAL_S = 10.0
FACTOR = 3.0
CONNECTIONS = 6_500
"""Below the number from which HAProxy lets go of idle clients."""

STORM_CONNECTIONS = 2_000
BACK_S = 20.0
"""So long after the outage the storm goes on."""

GOODPUT_SHARE_MIN = 0.9
REFUSED_P99_MAX_S = 0.05
RELIEVED_WITHIN_S = 5.0
BACK_WITHIN_S = 5.0
OUTAGE_ANSWER_MAX_S = 1.0
GROWTH_MB_MAX = 200.0
NORMAL_FACTOR = 3.0
"""A p99 of so many times the normal one, or of 50 ms, counts as normal: seconds differ."""

ANSWERS_AFTER_S = 1.0
"""The generator ends so long, about, after its window: what is probed then is no longer under overload."""

MB = 1 << 20


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the table: what was looked at, what came, what is asked of it (empty: nothing), whether it is kept."""

    what: str
    came: str
    asked: str = ""
    kept: bool = True


def judged_overload(
    peak: float, result: dict[str, Any], seen: Sequence[Probe], samples: Sequence[Sample], warmup_s: float
) -> list[Row]:
    """What became of the open loop."""
    good = good_per_s(result)
    refused = seconds_of(seen, "write", 503)
    refusals = [probe for probe in seen if probe.outcome.status == 503]
    offered = (result["sent"] + result["unsent"]) / (result["seconds"] + warmup_s)
    reached = result["sent"] / (result["seconds"] + warmup_s)
    p99 = percentile(refused, 0.99)
    growth = growth_bytes(samples) / MB
    bad = {status for status in result["by_status"] if status not in ("201", "503")}
    return [
        Row("offered", f"{offered:,.0f}/s, of which {reached:,.0f}/s found a connection"),
        Row(
            "acknowledged",
            f"{good:,.0f}/s = {good / peak:.0%} of the peak",
            ">= 90 %",
            good >= GOODPUT_SHARE_MIN * peak,
        ),
        Row("refused", f"{result['by_status'].get('503', 0) / result['seconds']:,.0f}/s"),
        Row(
            "other statuses, unknown", f"{sorted(bad)}, {result['unknown']}", "none", not bad and not result["unknown"]
        ),
        Row(
            "refused: p50, p99",
            _ms(refused, 0.5, 0.99),
            f"p99 < {REFUSED_P99_MAX_S * 1e3:.0f} ms",
            p99 < REFUSED_P99_MAX_S,
        ),
        Row("Retry-After", _retry_after(refusals), "1-30 on each", _all_polite(refusals)),
        Row("acknowledged: p50, p99", _ms(seconds_of(seen, "write", 201), 0.5, 0.99)),
        *_answering(seen),
        Row("memory, at most", f"+{growth:.0f} MB", f"< {GROWTH_MB_MAX:.0f} MB", growth < GROWTH_MB_MAX),
    ]


def _answering(seen: Sequence[Probe]) -> list[Row]:
    rows = []
    for name in ("readyz", "read"):
        asked = [probe for probe in seen if probe.name == name]
        good = seconds_of(seen, name, 200)
        share = len(good) / max(1, len(asked))
        rows.append(Row(f"{name}: 200, p99", f"{share:.1%}, {_ms(good, 0.99)}", ">= 99 %", share >= 0.99))
    return rows


def normal_again_s(seen: Sequence[Probe], relieved_s: float, normal_p99_s: float) -> float:
    """Seconds from the relief to the first second of which nine tenths of the writes are acknowledged as quickly as ever."""
    limit_s = max(NORMAL_FACTOR * normal_p99_s, 0.05)
    for second in range(60):
        window = [p for p in seen if p.name == "write" and second <= p.at_s - relieved_s < second + 1]
        quick = [p for p in window if p.outcome.status == 201 and p.outcome.seconds <= limit_s]
        if window and len(quick) >= 0.9 * len(window):
            return float(second)
    return float("inf")


def rates(samples: Sequence[Sample], code: str) -> list[tuple[float, float]]:
    """Answers of a class a second, with the moment at which each second ended."""
    return [
        (after.at_s, (after.answers.get(code, 0) - before.answers.get(code, 0)) / (after.at_s - before.at_s))
        for before, after in itertools.pairwise(samples)
    ]


def overloaded(cluster: RunningCluster, peak: float, normal_p99_s: float, seconds: float, factor: float) -> list[Row]:
    """The open loop, and the relief behind it."""
    warmup_s = 3.0
    with Samples(cluster) as samples, Probes(cluster.base_url) as probes:
        with Generator(
            cluster.base_url, connections=CONNECTIONS, seconds=seconds, rps=factor * peak, warmup_s=warmup_s
        ) as generator:
            result = generator.result()
        relieved_s = time.monotonic()
        until_s = relieved_s - ANSWERS_AFTER_S
        seen = [probe for probe in probes.seen if probe.at_s < until_s]
        time.sleep(RELIEVED_WITHIN_S + 5)
    rows = judged_overload(peak, result, seen, samples.seen, warmup_s)
    after_s = normal_again_s(probes.seen, relieved_s, normal_p99_s)
    return [
        *rows,
        Row("as before", f"{after_s:.0f} s after", f"<= {RELIEVED_WITHIN_S:.0f} s", after_s <= RELIEVED_WITHIN_S),
    ]


def stormed(cluster: RunningCluster, peak: float, outage_s: float) -> list[Row]:
    """Cassandra stopped under clients that try again at once, and back while they still do."""
    with (
        Samples(cluster) as samples,
        Probes(cluster.base_url) as probes,
        Generator(
            cluster.base_url, connections=STORM_CONNECTIONS, seconds=outage_s + BACK_S + 45, warmup_s=1
        ) as generator,
    ):
        time.sleep(8)
        cluster.kill("cassandra1")
        down_s = time.monotonic()
        time.sleep(outage_s)
        cluster.start("cassandra1")
        back_s = time.monotonic()
        time.sleep(BACK_S)
        up_s = time.monotonic()
        result = generator.result()
    settled = [probe for probe in probes.seen if down_s + 4 <= probe.at_s < down_s + outage_s]
    writes = [probe for probe in settled if probe.name == "write"]
    refused = seconds_of(writes, "write", 503)
    slowest = max((probe.outcome.seconds for probe in writes), default=0.0)
    first = next(
        (p.at_s - back_s for p in probes.seen if p.name == "write" and p.at_s > back_s and p.outcome.status == 201), 1e9
    )
    # From the second in which it was back: the start of a node takes a while of its own.
    after = [rate for at_s, rate in rates(samples.seen, "2xx") if back_s + RELIEVED_WITHIN_S < at_s <= up_s]
    good = sum(after) / max(1, len(after))
    growth = growth_bytes(samples.seen) / MB
    others = {status for status in result["by_status"] if status not in ("201", "503", "504")}
    shed = [rate for at_s, rate in rates(samples.seen, "5xx") if down_s + 4 < at_s < down_s + outage_s]
    return [
        Row("naive clients, refused", f"{STORM_CONNECTIONS}, {sum(shed) / max(1, len(shed)):,.0f}/s"),
        Row("writes that are refused", f"{len(refused)} of {len(writes)}", "all", len(refused) == len(writes)),
        Row(
            "slowest answer",
            f"{slowest * 1e3:.0f} ms",
            f"<= {OUTAGE_ANSWER_MAX_S:g} s",
            slowest <= OUTAGE_ANSWER_MAX_S + 0.2,
        ),
        Row("Retry-After", _retry_after(settled), "1-30 on each", _all_polite(settled)),
        Row("other statuses", f"{sorted(others)}", "none", not others),
        Row(
            "first 201",
            f"{max(0.0, first):.1f} s after its return",
            f"<= {BACK_WITHIN_S:.0f} s",
            first <= BACK_WITHIN_S,
        ),
        Row(
            "acknowledged, 5 s and later",
            f"{good:,.0f}/s = {good / peak:.0%} of the peak",
            ">= 90 %",
            good >= GOODPUT_SHARE_MIN * peak,
        ),
        Row("memory, at most", f"+{growth:.0f} MB", f"< {GROWTH_MB_MAX:.0f} MB", growth < GROWTH_MB_MAX),
    ]


def _ms(values: Sequence[float], *shares: float) -> str:
    return ", ".join(f"{percentile(values, share) * 1e3:.1f} ms" for share in shares)


def _retry_after(probes: Sequence[Probe]) -> str:
    said = sorted({int(probe.outcome.retry_after or 0) for probe in probes if probe.outcome.status == 503})
    return f"{said[0]}-{said[-1]} s" if said else "nothing was refused"


def _all_polite(probes: Sequence[Probe]) -> bool:
    return all(1 <= int(probe.outcome.retry_after or 0) <= 30 for probe in probes if probe.outcome.status == 503)


def say(text: str) -> None:
    """A line, or a table, for the person in front."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def table(title: str, rows: Sequence[Row]) -> str:
    """The rows in columns."""
    lines = [f"{row.what:28}  {row.came:52}  {row.asked:14}  {'' if row.kept else 'NOT KEPT'}".rstrip() for row in rows]
    return "\n".join([f"\n{title}", *lines])


def main(words: Sequence[str] | None = None) -> int:
    """Run it; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.overload", description=__doc__)
    parser.add_argument("--seconds", type=float, default=120.0, help="length of the overload (120)")
    parser.add_argument("--factor", type=float, default=FACTOR, help="arrivals, in peaks (3)")
    parser.add_argument(
        "--outage-s", type=float, default=60.0, help="how long Cassandra is stopped; 0 leaves it out (60)"
    )
    parser.add_argument("--web", type=int, default=2, help="web instances (2)")
    parser.add_argument(
        "--env", action="append", default=[], metavar="NAME=VALUE", help="for HAProxy and web instances"
    )
    parser.add_argument("--json", type=Path, help="the rows, for a record")
    asked = parser.parse_args(words)
    environment = dict(item.split("=", 1) for item in asked.env)
    say(f"{platform.node()}, {platform.machine()}; {asked.env or 'default settings'}")
    tables: dict[str, list[Row]] = {}
    with tempfile.TemporaryDirectory(prefix="overload-") as directory:
        options = Options(web=asked.web, cassandra_nodes=1, port=0, state_dir=Path(directory), env=environment)
        with start_cluster(options) as cluster:
            run(cluster.base_url, connections=PEAK_CONNECTIONS, seconds=PEAK_S, warmup_s=30)
            peaks = [
                good_per_s(run(cluster.base_url, connections=n, seconds=PEAK_S, warmup_s=2)) for n in (256, 512, 2_000)
            ]
            peak = max(peaks)
            with Probes(cluster.base_url) as normal:
                run(cluster.base_url, connections=PEAK_CONNECTIONS, seconds=NORMAL_S, rps=NORMAL_SHARE * peak)
            normal_p99_s = percentile(seconds_of(normal.seen, "write", 201), 0.99)
            tables["Before"] = [
                Row("peak", " ".join(f"{each:,.0f}/s" for each in peaks) + " with 256, 512, 2,000 connections"),
                Row("normal p99", f"{normal_p99_s * 1e3:.1f} ms at {NORMAL_SHARE:.0%} of the peak"),
            ]
            say(table("Before", tables["Before"]))
            title = f"{asked.factor:g} x the peak for {asked.seconds:g} s"
            tables[title] = overloaded(cluster, peak, normal_p99_s, asked.seconds, asked.factor)
            say(table(title, tables[title]))
            if asked.outage_s:
                title = f"Cassandra stopped for {asked.outage_s:g} s under naive clients"
                tables[title] = stormed(cluster, peak, asked.outage_s)
                say(table(title, tables[title]))
    if asked.json:
        asked.json.write_text(
            json.dumps(
                {title: [[r.what, r.came, r.asked, r.kept] for r in rows] for title, rows in tables.items()}, indent=1
            )
        )
    return int(not all(row.kept for rows in tables.values() for row in rows))


if __name__ == "__main__":
    sys.exit(main())
