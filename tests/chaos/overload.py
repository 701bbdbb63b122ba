"""``python -m tests.chaos.overload``: far more arrivals than the service can store, and clients that all come back at once.

Three times the peak in an open loop for two minutes, then Cassandra stopped for a minute under naive clients that try
again ten milliseconds after each refusal. It prints a table of what became of them, and exits with 1 when a promise was
not kept: goodput, refusals, health and reads, memory, and how soon all is as before.

The store is made what bounds the rate, as a cluster over a network does: its commit log is synced every 20 ms and groups
are small. Else two cores that HAProxy, instances, Cassandra and generator share are the bound, every refusal takes from
the writes what it costs, and the figure says how the cores were shared out; ``--bound none`` measures that.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from deploy.cluster import Options, RunningCluster, start_cluster
from tests.chaos.overload_rows import (
    RELIEVED_WITHIN_S,
    Row,
    Storm,
    judged_overload,
    judged_storm,
    normal_again_s,
    table,
)
from tests.chaos.topology import configure
from tests.system.pressure import Generator, Probes, Samples, good_per_s, percentile, run, seconds_of

PEAK_CONNECTIONS = 256
PEAK_S = 8.0
NORMAL_SHARE = 0.5
"""Of the peak: the load under which what is normal is measured."""

NORMAL_S = 10.0
FACTOR = 3.0
CONNECTIONS = 6_500
"""Below the number from which HAProxy lets go of idle clients."""

SYNC_WINDOW = {"commitlog_sync": "group", "commitlog_sync_group_window": "20ms"}
GROUP_SIZE_MAX = "64"
"""With a sync every 20 ms that is some 6,000 usages a second from two web instances: a fifth of what the cores could do."""

STORM_CONNECTIONS = 2_000
BEFORE_S = 8.0
BACK_S = 60.0
"""So long after the outage the storm goes on: until the node has given way to the others again (``make cluster``), and beyond."""

BOOT_S = 60.0
"""The node's start may take so long among clients who take the cores: half a minute here."""

ANSWERS_AFTER_S = 1.0
"""The generator ends so long, about, after its window: what is probed then is no longer under overload."""


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
    under = [sample for sample in samples.seen if sample.at_s < until_s]
    rows = judged_overload(peak, factor, result, seen, under, warmup_s)
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
            cluster.base_url, connections=STORM_CONNECTIONS, seconds=BEFORE_S + outage_s + BOOT_S + BACK_S, warmup_s=1
        ) as generator,
    ):
        time.sleep(BEFORE_S)
        cluster.kill("cassandra1")
        down_s = time.monotonic()
        time.sleep(outage_s)
        cluster.start("cassandra1")
        back_s = time.monotonic()
        time.sleep(BACK_S)
        up_s = time.monotonic()
        result = generator.result()
    return judged_storm(
        peak, result, probes.seen, samples.seen, Storm(STORM_CONNECTIONS, outage_s, down_s, back_s, up_s)
    )


def say(text: str) -> None:
    """A line, or a table, for the person in front."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


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
        "--bound",
        choices=("store", "none"),
        default="store",
        help="what bounds the rate: a slow store, or the cores (store)",
    )
    parser.add_argument(
        "--env", action="append", default=[], metavar="NAME=VALUE", help="for HAProxy and web instances"
    )
    parser.add_argument("--json", type=Path, help="the rows, for a record")
    asked = parser.parse_args(words)
    environment = dict(item.split("=", 1) for item in asked.env)
    if asked.bound == "store":
        environment = {"BUSYAPI_GROUP_SIZE_MAX": GROUP_SIZE_MAX} | environment
    say(f"{platform.node()}, {platform.machine()}; bound by {asked.bound}; {asked.env or 'default settings'}")
    tables: dict[str, list[Row]] = {}
    with tempfile.TemporaryDirectory(prefix="overload-") as directory:
        options = Options(
            web=asked.web, cassandra_nodes=1, port=0, state_dir=Path(directory), discard=True, env=environment
        )
        with start_cluster(options) as cluster:
            if asked.bound == "store":
                configure(cluster, SYNC_WINDOW)
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
