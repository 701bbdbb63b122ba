"""The cluster that the system tests run against: HAProxy with HTTPS, three web instances, a real Cassandra.

``make test-system TEST_CASSANDRA_NODES=3 ARGS="-k 'batches or read_back'"`` has three nodes, and three copies of each row. Tests of what
users see when the only node is gone are for one node.
"""

from __future__ import annotations

import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deploy.cluster import Options, RunningCluster, make_certificate, start_cluster
from tests.system.whole_store import NODES

WEB = 3
HERE = Path(__file__).parent
TEST_TIMEOUT_S = 300
"""The first test waits for the whole cluster as well."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Everything in this folder is a system test and has time for a cluster; where there are three nodes, no test of one is run."""
    of_one = [item for item in items if NODES != 1 and item.get_closest_marker("one_node")]
    config.hook.pytest_deselected(items=of_one)
    items[:] = [item for item in items if item not in of_one]
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.system)
            if item.get_closest_marker("timeout") is None:
                item.add_marker(pytest.mark.timeout(TEST_TIMEOUT_S))


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate with its key, for localhost and 127.0.0.1."""
    return make_certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory, certificate: Path) -> Iterator[RunningCluster]:
    """The cluster that all system tests share. A test that stops a part of it uses whole_cluster."""
    state_dir = tmp_path_factory.mktemp("cluster")
    options = Options(
        web=WEB, cassandra_nodes=NODES, port=0, certificate=certificate, state_dir=state_dir, cassandra_heap="512M"
    )
    with start_cluster(options) as running:
        yield running
        assert running.close() == 0, (state_dir / "cluster.log").read_text()
    shutil.rmtree(state_dir / "cassandra")


@pytest.fixture
def whole_cluster(cluster: RunningCluster) -> Iterator[RunningCluster]:
    """The cluster for a test that stops parts of it: made whole again afterwards, whatever the test did."""
    yield cluster
    for process in cluster.processes():
        if not process.running:
            cluster.start(process.name, wait=process.role == "cassandra")
    if len(cluster.processes("web")) != WEB:
        cluster.scale(WEB)
    cluster.wait_until_ready()


@pytest.fixture(scope="session")
def base_url(cluster: RunningCluster) -> str:
    """The public address: HAProxy's."""
    return cluster.base_url


@pytest.fixture(scope="session")
def cql(cluster: RunningCluster) -> Iterator[Any]:
    """A session on the cluster's keyspace, to read the tables directly: what is acknowledged is there for it, of several copies too."""
    from cassandra.cluster import EXEC_PROFILE_DEFAULT, Cluster, ExecutionProfile

    from cassandra import ConsistencyLevel

    cassandra = cluster.state["cassandra"]
    no_delay = [(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)]
    driver = Cluster(
        cassandra["hosts"],
        port=cassandra["port"],
        sockopts=no_delay,
        protocol_version=5,
        execution_profiles={EXEC_PROFILE_DEFAULT: ExecutionProfile(consistency_level=ConsistencyLevel.QUORUM)},
    )
    try:
        yield driver.connect(cassandra["keyspace"])
    finally:
        driver.shutdown()
