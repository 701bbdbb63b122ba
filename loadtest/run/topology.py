"""What is loaded: a topology that is started here as `make cluster` starts it, or one that is there already."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from deploy.cluster import Options, start_cluster
from loadtest.benchmark.cpu import Roles
from loadtest.run.asked import Asked

ENVIRONMENT = {"BUSYAPI_DRAIN_DELAY_S": "0"}
"""The web instances end once there is no load, so none has to be served while HAProxy learns of it."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where the load goes. An empty store is not reconciled; pids are of those processes whose CPU time can be read."""

    host: str
    store: str
    pids: Callable[[], Roles]


def given(asked: Asked) -> Target:
    """The target that was named; its processes are not known."""
    return Target(asked.host, asked.store, dict)


@contextmanager
def started(asked: Asked) -> Iterator[Target]:
    """HAProxy, web instances and an empty Cassandra, with their data until the end. Raises ClusterError."""
    asked.cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=asked.cache.resolve(), prefix="load-", ignore_cleanup_errors=True) as place:
        state_dir = Path(place) / "cluster"
        options = Options(
            web=asked.web, port=asked.port, fresh=True, discard=True, state_dir=state_dir, env=ENVIRONMENT
        )
        with start_cluster(options) as cluster:

            def pids() -> Roles:
                found: dict[str, list[int]] = {"haproxy": [], "web": [], "cassandra": []}
                for process in cluster.processes():
                    if process.running:
                        found.setdefault(process.role, []).append(process.pid)
                return found

            cassandra = cluster.state["cassandra"]
            store = f"cassandra://{cassandra['hosts'][0]}:{cassandra['port']}/{cassandra['keyspace']}"
            yield Target(cluster.base_url, store, pids)
