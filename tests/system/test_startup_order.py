"""Starting before what one needs: everything waits, says so once, and becomes ready by itself; nothing crash-loops."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import psutil
import pytest

from deploy.cluster import RunningCluster
from tests.system.test_shedding import ROOT, free_port, haproxy_before, wait_for_nobody
from tests.system.wire import Closed, assert_problem, call, post_usage

READY_WITHIN_S = 30.0
SCHEMA_WITHIN_S = 120.0
LINES_MAX = 5
"""Lines at warning level and above that one process may log while it waits: one for each reason, not one for each try."""


def store_of(cluster: RunningCluster, keyspace: str) -> str:
    """A keyspace on the cluster's node, as the settings name it."""
    cassandra = cluster.state["cassandra"]
    return f"cassandra://{cassandra['hosts'][0]}:{cassandra['port']}/{keyspace}"


@contextlib.contextmanager
def service(command: str, log: Path, environment: Mapping[str, str], *words: str) -> Iterator[subprocess.Popen[bytes]]:
    """``python -m service COMMAND``; ended with the test, however that goes."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("BUSYAPI_")}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "service", command, *words],
            cwd=ROOT,
            env={**inherited, **environment},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(10)


class Web:
    """A web instance of a test's own: where it listens, and its processes."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, log: Path) -> None:
        self.process = process
        self.url = f"http://127.0.0.1:{port}"
        self._log = log

    def pids(self) -> set[int]:
        """Its process and its workers."""
        own = psutil.Process(self.process.pid)
        return {own.pid, *(child.pid for child in own.children(recursive=True))}

    def complaints(self) -> list[str]:
        """What it has logged at warning level and above, requests that it refused apart."""
        lines = [json.loads(line) for line in self._log.read_text().splitlines() if line.startswith("{")]
        return [
            line["message"]
            for line in lines
            if line["level"] in ("warning", "error", "critical") and "request_id" not in line
        ]


@contextlib.contextmanager
def web_instance(store: str, directory: Path, workers: int = 1) -> Iterator[Web]:
    """One that is told of this store, on a free port."""
    port = free_port()
    environment = {
        "BUSYAPI_STORE": store,
        "BUSYAPI_LISTEN_PORT": str(port),
        "BUSYAPI_WORKERS": str(workers),
        "BUSYAPI_DRAIN_DELAY_S": "0",
        "BUSYAPI_LOG_FORMAT": "json",
    }
    log = directory / f"web-{port}.log"
    with service("serve", log, environment) as process:
        yield Web(process, port, log)


def eventually(what: Callable[[], bool], within_s: float = READY_WITHIN_S) -> None:
    """Until something becomes true; a connection that is refused meanwhile is no failure."""
    deadline_s = time.monotonic() + within_s
    while True:
        with contextlib.suppress(ConnectionError, Closed):
            if what():
                return
        assert time.monotonic() < deadline_s, f"not within {within_s:g} s"
        time.sleep(0.1)


def waits_well(web: Web) -> None:
    """It is alive, unready, refuses with a 503 that says when to come back, and is the same process a while later."""
    eventually(lambda: call(web.url, "GET", "/livez").status == 200)
    there = web.pids()
    until_s = time.monotonic() + 4
    while time.monotonic() < until_s:
        assert_problem(call(web.url, "GET", "/readyz"), 503, "not_ready")
        assert_problem(post_usage(web.url, b"{}"), 503)
        assert_problem(call(web.url, "GET", "/api/usages/1"), 503)
        time.sleep(0.5)
    assert web.pids() == there
    assert 1 <= len(web.complaints()) <= LINES_MAX * len(there), web.complaints()


def apply_schema(
    store: str, directory: Path, *words: str
) -> contextlib.AbstractContextManager[subprocess.Popen[bytes]]:
    """``python -m service schema`` for this store."""
    return service("schema", directory / f"schema-{uuid.uuid4().hex}.log", {"BUSYAPI_STORE": store}, *words)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_web_instance_before_its_schema_waits_and_becomes_ready_by_itself(
    cluster: RunningCluster, tmp_path: Path, workers: int
) -> None:
    """The keyspace is not there: alive and unready, 503, no restart, few lines in the log; with the schema it serves."""
    store = store_of(cluster, f"before_{uuid.uuid4().hex}")
    with web_instance(store, tmp_path, workers) as web:
        waits_well(web)
        there = web.pids()
        with apply_schema(store, tmp_path) as schema:
            assert schema.wait(SCHEMA_WITHIN_S) == 0
        eventually(lambda: call(web.url, "GET", "/readyz").status == 200)
        eventually(lambda: post_usage(web.url, b"{}").status == 201)
        assert web.pids() == there


def test_a_web_instance_before_its_tables_waits_and_becomes_ready_by_itself(
    cluster: RunningCluster, tmp_path: Path, cql: object
) -> None:
    """The keyspace is there and empty, as amid the schema step: the same."""
    keyspace = f"empty_{uuid.uuid4().hex}"
    replication = "{'class': 'SimpleStrategy', 'replication_factor': 1}"
    cql.execute(f"CREATE KEYSPACE {keyspace} WITH replication = {replication}")  # type: ignore[attr-defined]
    store = store_of(cluster, keyspace)
    with web_instance(store, tmp_path) as web:
        waits_well(web)
        with apply_schema(store, tmp_path) as schema:
            assert schema.wait(SCHEMA_WITHIN_S) == 0
        eventually(lambda: post_usage(web.url, b"{}").status == 201)


def test_everything_at_once_ends_well(cluster: RunningCluster, tmp_path: Path) -> None:
    """HAProxy, two web instances and the schema step twice, all started in one moment on a new keyspace: 201, exits 0."""
    store = store_of(cluster, f"once_{uuid.uuid4().hex}")
    with contextlib.ExitStack() as parts:
        first, second = (parts.enter_context(web_instance(store, tmp_path)) for _ in range(2))
        steps = [parts.enter_context(apply_schema(store, tmp_path)) for _ in range(2)]
        url = parts.enter_context(haproxy_before(first.url.removeprefix("http://"), tmp_path))
        assert [step.wait(SCHEMA_WITHIN_S) for step in steps] == [0, 0]
        for where in (url, first.url, second.url):
            eventually(lambda where=where: post_usage(where, b"{}").status == 201)  # type: ignore[misc]


@pytest.mark.one_node
def test_the_order_upside_down(whole_cluster: RunningCluster, tmp_path: Path) -> None:
    """HAProxy, then a web instance, then the schema step, and Cassandra last, after a while: each waits for the next."""
    store = store_of(whole_cluster, f"last_{uuid.uuid4().hex}")
    whole_cluster.stop("cassandra1")
    with contextlib.ExitStack() as parts:
        port = free_port()
        with haproxy_before(f"127.0.0.1:{port}", tmp_path) as alone:
            wait_for_nobody(alone)
            assert_problem(post_usage(alone, b"{}"), 503, "no_instance_available")
        web = parts.enter_context(web_instance(store, tmp_path))
        url = parts.enter_context(haproxy_before(web.url.removeprefix("http://"), tmp_path))
        step = parts.enter_context(apply_schema(store, tmp_path, "--wait", str(int(SCHEMA_WITHIN_S))))
        waits_well(web)
        assert_problem(post_usage(url, b"{}"), 503)
        there = web.pids()
        assert step.poll() is None
        whole_cluster.start("cassandra1")
        assert step.wait(SCHEMA_WITHIN_S) == 0
        eventually(lambda: post_usage(url, b"{}").status == 201)
        assert web.pids() == there
