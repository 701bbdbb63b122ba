"""One topology from its start to its verdict: peak, load and witness, faults, quiet, comparison with the store."""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from deploy.cluster import ClusterError, RunningCluster
from loadtest.journal import JournalError
from loadtest.reconcile import Reconciliation, reconcile
from loadtest.reconcile.sources import StoreUnreadable
from tests.chaos import counted, evidence
from tests.chaos import topology as topologies
from tests.chaos.events import Event
from tests.chaos.injecting import Injector
from tests.chaos.schedule import Injection
from tests.chaos.topology import Topology
from tests.chaos.verdict import Verdict, judge
from tests.chaos.witness import Sample, Witness
from tests.chaos.workload import (
    CONNECTIONS,
    PEAK_SHARE,
    Load,
    Workload,
    WorkloadError,
    measure_peak,
    merged,
    read_timeline,
)

PEAK_S, PEAK_QUICK_S = 45.0, 8.0
LEAD_S = 4.0
"""The load runs so long before the schedule begins: all its users are there."""
QUIET_S = 2.0
"""Undisturbed load after the last fault."""
SETTLE_S = 4.0
"""From the last answer to the comparison: store_timeout_s and more, in which what is unknown may still be written."""
LIST_MAX = 10_000
"""Faults of one sort that are named, so that they can be told apart."""


@dataclass(kw_only=True)
class Outcome:
    """What a topology's run has come to so far; ``verdict`` is made of it whenever it is asked for."""

    topology: Topology
    peak_per_s: float = 0.0
    rate_per_s: float = 0.0
    answered_per_s: float = 0.0
    events: list[Event] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    timeline: dict[str, Any] = field(default_factory=lambda: merged([]))
    found: Reconciliation | None = None
    troubles: list[str] = field(default_factory=list)
    interrupted: bool = False

    @property
    def verdict(self) -> Verdict:
        """As it stands."""
        return judge(self.topology, self.events, self.found, self.timeline, self.samples, self.troubles)

    def as_dict(self) -> dict[str, Any]:
        """For the record."""
        verdict = self.verdict
        return {
            "topology": self.topology.name,
            "peak_per_s": round(self.peak_per_s, 1),
            "rate_per_s": round(self.rate_per_s, 1),
            "answered_per_s": round(self.answered_per_s, 1),
            "interrupted": self.interrupted,
            "ok": verdict.ok,
            "verdict": asdict(verdict),
            "events": [event.as_dict() for event in self.events],
            "reconciliation": self.found.as_dict() if self.found else None,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Runner:
    """How topologies are run. ``section`` is told what begins, ``tick`` is called while it lasts."""

    directory: Path
    say: Callable[[str], None]
    section: Callable[[str], None]
    tick: Callable[[], None]
    quick: bool
    sync: bool
    heap: str = ""

    def run(self, topology: Topology, injections: Sequence[Injection]) -> Outcome:
        """Do all of it. Ctrl-C ends the load early; what was sent until then is compared with the store all the same."""
        outcome = Outcome(topology=topology)
        place = self.directory / topology.name.replace(" ", "-")
        place.mkdir(parents=True)
        (place / "schedule.txt").write_text("".join(f"{injection}\n" for injection in injections))
        try:
            self.section(f"{topology.name}: starting")
            with topologies.running(topology, place / "cluster", self.heap) as cluster:
                try:
                    self._load(outcome, injections, cluster, place)
                finally:
                    self._compare(outcome, cluster, place)
        except ClusterError as error:
            outcome.troubles.append(f"the cluster: {error}")
        except KeyboardInterrupt:
            outcome.interrupted = True
        finally:
            shutil.rmtree(place / "cluster" / "cassandra", ignore_errors=True)
            (place / "outcome.json").write_text(json.dumps(outcome.as_dict(), indent=1) + "\n")
            (place / "witness.jsonl").write_text("".join(json.dumps(asdict(each)) + "\n" for each in outcome.samples))
        return outcome

    def _load(self, outcome: Outcome, injections: Sequence[Injection], cluster: RunningCluster, place: Path) -> None:
        address = urlsplit(cluster.base_url)
        witness = Witness(address.hostname or "", address.port or 80)
        injector = Injector(cluster, place / "injections", self.say, quick=self.quick, sync=self.sync)
        load: Workload | None = None
        began_unix_s = math.inf
        try:
            self.section(f"{outcome.topology.name}: measuring the peak")
            peak_s = PEAK_QUICK_S if self.quick else PEAK_S
            outcome.peak_per_s = measure_peak(cluster.base_url, place / "load" / "peak", peak_s, sync=self.sync)
            outcome.rate_per_s = outcome.peak_per_s * PEAK_SHARE
            self.say(f"peak {outcome.peak_per_s:,.0f} arrivals/s; the load is {outcome.rate_per_s:,.0f}/s")
            asked = Load(host=cluster.base_url, rate_per_s=outcome.rate_per_s, connections=CONNECTIONS, sync=self.sync)
            load = Workload(asked, place / "load" / "open-loop")
            load.wait_for_traffic()
            self._pause(LEAD_S, load)
            witness.start()
            self.section(f"{outcome.topology.name}: faults")
            began_unix_s = time.time()
            injector.run(injections, lambda: self._watch(load))
            self._pause(QUIET_S, load)
        except KeyboardInterrupt:
            outcome.interrupted = True
        except WorkloadError as error:
            outcome.troubles.append(str(error))
        finally:
            self.section(f"{outcome.topology.name}: ending")
            ended_unix_s = time.time()
            witness.stop()
            outcome.troubles += witness.troubles
            outcome.events = injector.events
            outcome.samples = witness.samples
            if load is not None:
                self._end(load, outcome, began_unix_s, ended_unix_s)
            directories = [place / "load" / "open-loop", *injector.extra]
            outcome.timeline = merged([read_timeline(directory) for directory in directories])

    def _end(self, load: Workload, outcome: Outcome, began_unix_s: float, ended_unix_s: float) -> None:
        """End the load, and see whether it and the witness were there all the time."""
        try:
            load.end()
        except WorkloadError as error:
            outcome.troubles.append(str(error))
        if outcome.interrupted or outcome.troubles:
            return
        outcome.answered_per_s = evidence.answered_per_s(load.timeline(), began_unix_s, ended_unix_s)
        self.say(
            f"the load was {outcome.answered_per_s:,.0f}/s, {outcome.answered_per_s / outcome.peak_per_s:.0%} of the peak"
        )
        outcome.troubles += evidence.of_load(outcome.answered_per_s, outcome.peak_per_s)
        outcome.troubles += evidence.of_witness(outcome.events, outcome.samples)

    def _compare(self, outcome: Outcome, cluster: RunningCluster, place: Path) -> None:
        self.section(f"{outcome.topology.name}: comparing with the store")
        try:
            topologies.make_whole(cluster)
            time.sleep(SETTLE_S)
            outcome.found = reconcile(place, topologies.store_url(cluster), lambda *_: self.tick(), list_max=LIST_MAX)
        except (ClusterError, JournalError, StoreUnreadable) as error:
            outcome.troubles.append(f"not compared with the store: {error}")
        else:
            self._count(outcome, cluster)

    def _count(self, outcome: Outcome, cluster: RunningCluster) -> None:
        if outcome.topology.control:
            return  # what is lost there may have been counted before
        self.section(f"{outcome.topology.name}: comparing counts with an export")
        try:
            exported, wrong = counted.compared(cluster.base_url)
        except (AssertionError, OSError, HTTPException) as error:
            outcome.troubles.append(f"counts were not compared with an export: {error}")
        else:
            outcome.troubles += [f"count: {text}" for text in wrong[: counted.SHOWN_MAX]]
            if outcome.found is not None:
                late = evidence.may_come_to_light(outcome.found, outcome.samples, outcome.topology.nodes)
                outcome.troubles += evidence.of_listing(exported, outcome.found, late)
            told = f"{len(wrong)} counts say otherwise" if wrong else "every count of every window agrees"
            self.say(f"{exported:,} usages exported; {told}")

    def _watch(self, load: Workload) -> None:
        load.check()
        self.tick()

    def _pause(self, seconds: float, load: Workload) -> None:
        ends_s = time.monotonic() + seconds
        while time.monotonic() < ends_s:
            self._watch(load)
            time.sleep(0.1)
