"""The clusters of a run: which faults share one, and how one is started with what its faults need."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from deploy.cluster import Options, RunningCluster, plan, probes, start_cluster, state
from deploy.cluster.cassandra import with_settings
from tests.chaos.faults import Fault, Preparation

WEB = 2


@dataclass(frozen=True, slots=True)
class Topology:
    """A cluster of so many nodes, and the faults that happen in it."""

    name: str
    nodes: int
    faults: tuple[Fault, ...]

    @property
    def control(self) -> bool:
        """Whether something must be lost in it."""
        return any(fault.control for fault in self.faults)


def topologies(faults: Sequence[Fault], nodes: int | None = None) -> list[Topology]:
    """What to start, in order: one for all that share one node, one for those that share three, one for each that is alone.

    ``nodes`` leaves out those of another number. Pure.
    """
    found = []
    for count in sorted({fault.needs.nodes for fault in faults}):
        of_count = [fault for fault in faults if fault.needs.nodes == count]
        shared = tuple(fault for fault in of_count if not fault.needs.alone)
        name = "one node" if count == 1 else f"{count} nodes"
        found += [Topology(name, count, shared)] if shared else []
        found += [Topology(fault.name, count, (fault,)) for fault in of_count if fault.needs.alone]
    return [topology for topology in found if nodes in (None, topology.nodes)]


def process_names(nodes: int) -> list[str]:
    """The processes of a cluster, before there is one: a schedule is made without starting anything."""
    web = [f"web{number}" for number in range(1, WEB + 1)]
    return [*web, *(f"cassandra{number}" for number in range(1, nodes + 1)), "haproxy"]


@contextmanager
def running(topology: Topology, state_dir: Path, heap: str = "") -> Iterator[RunningCluster]:
    """The cluster, ready; stopped at the end, then what its faults prepared is taken back. Raises ClusterError."""
    state_dir = state_dir.resolve()
    state_dir.mkdir(parents=True)
    preparation = Preparation(state_dir=state_dir, ports=_ports(topology.nodes), service_command=plan.SERVICE)
    state.save_ports(state_dir, preparation.ports)
    with ExitStack() as stack:
        for fault in topology.faults:
            if fault.prepare is not None:
                stack.enter_context(fault.prepare(preparation))
        options = Options(
            web=WEB,
            cassandra_nodes=topology.nodes,
            port=0,
            state_dir=state_dir,
            discard=True,
            cassandra_heap=heap,
            env=preparation.env,
            service_command=preparation.service_command,
        )
        cluster = stack.enter_context(start_cluster(options))
        if preparation.cassandra:
            configure(cluster, preparation.cassandra)
        yield cluster


def store_url(cluster: RunningCluster) -> str:
    """The store as the reconciliation opens it: Cassandra itself, whatever the web instances were given to go through."""
    cassandra = cluster.state["cassandra"]
    hosts = ",".join(f"{host}:{cassandra['port']}" for host in cassandra["hosts"])
    return f"cassandra://{hosts}/{cassandra['keyspace']}"


def make_whole(cluster: RunningCluster) -> None:
    """Start what is down, and wait until all of it is ready."""
    for role in ("cassandra", "web", "haproxy"):
        for process in cluster.processes(role):
            if not process.running:
                cluster.start(process.name, wait=role == "cassandra")
    cluster.wait_until_ready()


def configure(cluster: RunningCluster, settings: dict[str, str]) -> None:
    """Change the nodes' cassandra.yaml, and start each anew."""
    for process in cluster.processes("cassandra"):
        file = cluster.state_dir / "cassandra" / process.name / "conf" / "cassandra.yaml"
        file.write_text(with_settings(file.read_text(), settings, ()))
        cluster.stop(process.name)
        cluster.start(process.name)
    cluster.wait_until_ready()


def _ports(nodes: int) -> plan.CassandraPorts:
    candidates = list(plan.PORTS)
    random.shuffle(candidates)
    return plan.PortPicker(probes.is_free, candidates).cassandra(nodes, None)
