"""Faults one by one, as a test calls them, under a load of its own, judged as a run is."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from deploy.cluster import RunningCluster
from loadtest.reconcile import reconcile
from tests.chaos import counted, evidence
from tests.chaos import topology as topologies
from tests.chaos.events import Event
from tests.chaos.faults import Context, Fault
from tests.chaos.topology import Topology
from tests.chaos.verdict import Verdict, judge
from tests.chaos.witness import Sample, Witness, between
from tests.chaos.workload import Load, Workload, merged

RATE_PER_S = 300.0
CONNECTIONS = 48
"""Few, and few arrivals: what is looked at is what becomes of them, not how many there can be."""
SETTLE_S = 4.0
BACK_TIMEOUT_S = 30.0
AFTER_S = 1.2
"""Undisturbed before the next."""
LISTED_MAX = 10_000


class Rehearsal:
    """A running topology with load and witness; ``events`` are the faults that were performed."""

    def __init__(self, topology: Topology, cluster: RunningCluster, directory: Path) -> None:
        self.cluster = cluster
        self.events: list[Event] = []
        self.directory = directory
        self._topology = topology
        self._witnessing = False
        address = urlsplit(cluster.base_url)
        self.witness = Witness(address.hostname or "", address.port or 80)
        asked = Load(host=cluster.base_url, rate_per_s=RATE_PER_S, connections=CONNECTIONS, sync=False)
        self._load = Workload(asked, directory / "load")

    def start(self) -> None:
        """Return when traffic flows."""
        self._load.wait_for_traffic()
        self.witness.start()
        self._witnessing = True
        self._wait_for_write(time.time())

    def perform(self, fault: Fault, length_s: float, target: str = "") -> list[Sample]:
        """Inject it, let it last, heal it, wait until writes are acknowledged; what the witness sent while it lasted.

        Raises AssertionError for what this fault may not show.
        """
        directory = self.directory / f"{len(self.events):02d}-{fault.name}"
        directory.mkdir()
        context = Context(
            cluster=self.cluster, target=target, directory=directory, random=random.Random(1), say=print, quick=True
        )
        began = time.time()
        try:
            fault.inject(context)
            injected = time.time()
            time.sleep(length_s)
        finally:
            healing = time.time()
            fault.heal(context)
        healed = time.time()
        event = Event(
            fault=fault,
            target=target,
            began_unix_s=began,
            injected_unix_s=injected,
            healing_unix_s=healing,
            healed_unix_s=healed,
            seen=context.seen,
        )
        self.events.append(event)
        self._wait_for_write(healed)
        time.sleep(AFTER_S)
        samples = between(list(self.witness.samples), began, time.time())
        (row,) = judge(self._topology, [event], None, merged([]), samples).rows
        # Of the control, reads are told 404 of what it lost, as they must be.
        assert fault.control or not row.complaints, "\n".join(row.complaints)
        return between(samples, injected, healing)

    def end(self) -> Verdict:
        """End the load, compare all that was acknowledged with the store, and judge the whole."""
        self._load.end()
        self.stop()
        troubles = [*self.witness.troubles, *evidence.of_witness(self.events, self.witness.samples)]
        topologies.make_whole(self.cluster)
        time.sleep(SETTLE_S)
        found = reconcile(self.directory / "load", topologies.store_url(self.cluster), list_max=LISTED_MAX)
        if not self._topology.control:
            exported, wrong = counted.compared(self.cluster.base_url)
            troubles += [*wrong, *evidence.of_listing(exported, found, 0)]
        return judge(self._topology, self.events, found, self._load.timeline(), self.witness.samples, troubles)

    def stop(self) -> None:
        """End what still runs, whatever has happened."""
        self._load.stop()
        if self._witnessing:
            self._witnessing = False
            self.witness.stop()

    def _wait_for_write(self, from_unix_s: float) -> None:
        deadline_s = time.monotonic() + BACK_TIMEOUT_S
        while not any(
            sample.write and sample.status == 201
            for sample in reversed(self.witness.samples)
            if sample.at_unix_s >= from_unix_s
        ):
            self._load.check()
            assert time.monotonic() < deadline_s, f"no write was acknowledged within {BACK_TIMEOUT_S:g} s"
            time.sleep(0.05)


@contextmanager
def rehearsing(faults: Sequence[Fault], directory: Path) -> Iterator[Rehearsal]:
    """One topology with all that these faults need, under load; everything ends with the block."""
    topology = Topology("rehearsal", faults[0].needs.nodes, tuple(faults))
    with topologies.running(topology, directory / "cluster", "512M") as cluster:
        rehearsal = Rehearsal(topology, cluster, directory)
        try:
            rehearsal.start()
            yield rehearsal
        finally:
            rehearsal.stop()


def statuses(samples: Sequence[Sample], *, write: bool) -> set[int]:
    """What was answered to writes, or to reads; 0 is no answer."""
    return {sample.status for sample in samples if sample.write is write}
