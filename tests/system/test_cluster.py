"""The cluster tool itself: what it leaves running, what it restarts, what it keeps."""

from __future__ import annotations

import json
import os
import signal
import time
import urllib.request
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from deploy.cluster import ClusterError, Options, RunningCluster, start_cluster

WITHIN_S = 20
GIVES_WAY_WITHIN_S = 75
"""A minute after the start of a node, and a little."""


def eventually(what: Callable[[], bool], within_s: float = WITHIN_S) -> bool:
    """Whether something becomes true within the time."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        if what():
            return True
        time.sleep(0.05)
    return False


def post_usage(cluster: RunningCluster) -> int:
    """Store a usage; its id."""
    request = urllib.request.Request(f"{cluster.base_url}/api/usages", data=b'{"medication": "Albuterol"}')
    request.add_header("Content-Type", "application/json")
    with urllib.request.urlopen(request, timeout=10) as answer:
        return int(json.load(answer)["id"])


def has_usage(cluster: RunningCluster, usage_id: int) -> bool:
    """Whether the usage can be read."""
    with urllib.request.urlopen(f"{cluster.base_url}/api/usages/{usage_id}", timeout=10) as answer:
        return bool(answer.status == 200)


def descendants(cluster: RunningCluster) -> list[psutil.Process]:
    """The supervisor and everything under it."""
    supervisor = psutil.Process(cluster.state["pid"])
    return [supervisor, *supervisor.children(recursive=True)]


@pytest.mark.timeout(400)
def test_a_cluster_outlives_its_processes_and_nothing_outlives_a_cluster(tmp_path: Path):
    """With RESTART=1 a killed instance comes back; kill -9 of the tool leaves no process; the next start has the data."""
    options = Options(web=1, cassandra_nodes=1, port=0, state_dir=tmp_path, restart=True, cassandra_heap="512M")
    with start_cluster(options) as cluster:
        usage_id = post_usage(cluster)

        killed = cluster.process("web1")
        cluster.signal("web1", signal.SIGKILL)
        assert eventually(lambda: cluster.process("web1").running and cluster.process("web1").pid != killed.pid)
        cluster.wait_until_ready()
        assert has_usage(cluster, usage_id)
        assert f"web1 (pid {killed.pid}) killed by SIGKILL" in (tmp_path / "cluster.log").read_text()

        with pytest.raises(ClusterError, match="a cluster runs in"):
            start_cluster(replace(options, web=2))
        assert has_usage(cluster, usage_id)

        there = descendants(cluster)
        assert len(there) >= 5  # the tool, Cassandra, a web instance, HAProxy's master and worker
        os.kill(cluster.state["pid"], signal.SIGKILL)
        _, alive = psutil.wait_procs(there, timeout=WITHIN_S)
        assert alive == []

    with start_cluster(options) as cluster:
        assert has_usage(cluster, usage_id)
        assert post_usage(cluster) > usage_id
        there = descendants(cluster)
    assert cluster.close() == 0
    assert not any(process.is_running() for process in there)
    assert not (tmp_path / "state.json").exists()


@pytest.mark.one_node
def test_cassandra_leaves_the_cores_to_haproxy_and_web_instances_where_they_are_short(cluster: RunningCluster):
    """A minute after its start: until then it needs them. A tenth of the weight of each other session."""

    def weight(role: str) -> set[str]:
        groups = [Path(f"/proc/{process.pid}/autogroup") for process in cluster.processes(role)]
        return {group.read_text().strip().partition(" ")[2] for group in groups if group.exists()}

    sessions_have_weights = Path("/proc/self/autogroup").exists()
    assert eventually(
        lambda: weight("cassandra") == ({"nice 10"} if sessions_have_weights else set()), GIVES_WAY_WITHIN_S
    )
    assert weight("haproxy") == weight("web") == ({"nice 0"} if sessions_have_weights else set())


def test_a_process_that_dies_is_reported_and_stays_dead_while_the_others_go_on(whole_cluster: RunningCluster):
    """Without RESTART the state says that it does not run, and the service answers through the rest."""
    before = whole_cluster.process("web2")
    whole_cluster.signal("web2", signal.SIGKILL)
    assert eventually(lambda: not whole_cluster.process("web2").running)
    usage_id = post_usage(whole_cluster)
    assert has_usage(whole_cluster, usage_id)
    assert whole_cluster.process("web2").pid == before.pid
    assert (
        f"web2 (pid {before.pid}) killed by SIGKILL; it stays dead"
        in (whole_cluster.state_dir / "cluster.log").read_text()
    )

    whole_cluster.start("web2")
    after = whole_cluster.process("web2")
    assert (after.address, after.port) == (before.address, before.port)
    assert after.pid != before.pid


@pytest.mark.one_node
def test_the_state_file_names_every_process(cluster: RunningCluster):
    """state.json has what a script needs: addresses, ports, pids and logs, HAProxy's pid its master's."""
    state = cluster.state
    processes = {entry["name"]: entry for entry in state["processes"]}
    assert {name for name, entry in processes.items() if entry["role"] == "web"} == {"web1", "web2", "web3"}
    assert state["base_url"] == f"http://127.0.0.1:{processes['haproxy']['port']}"
    assert state["cassandra"] == {
        "hosts": ["127.0.0.1"],
        "port": processes["cassandra1"]["port"],
        "keyspace": "busyapi",
    }
    for entry in processes.values():
        assert psutil.Process(entry["pid"]).ppid() == state["pid"]
        assert Path(entry["log"]).is_file()


@pytest.mark.one_node
def test_a_nodes_log_goes_on_after_its_start(cluster: RunningCluster):
    """What Cassandra says of slow syncs, collections and dropped messages is there: it does not close its output, as a daemon does."""
    (log,) = (Path(entry["log"]) for entry in cluster.state["processes"] if entry["role"] == "cassandra")
    assert "Startup complete" in log.read_text()


@pytest.mark.one_node
def test_actions_on_a_process_that_is_not_there_say_which_are(cluster: RunningCluster):
    """A wrong name is answered with the right ones."""
    with pytest.raises(ClusterError, match="there is no process web9; there are cassandra1, web1"):
        cluster.stop("web9")
    with pytest.raises(ClusterError, match="web1 runs already"):
        cluster.start("web1")
