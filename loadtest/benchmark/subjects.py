"""Starts and stops what is measured: this service in its forms, and the servers that it is compared with."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from deploy.cluster import ClusterError, Options, RunningCluster, plan, start_cluster
from loadtest.baselines import DidNotStart, Missing, Subject, express, go_pgx, plain_fastapi, rqlite
from loadtest.baselines.installing import program
from loadtest.baselines.processes import answers, port_picker, processes
from loadtest.baselines.run_fastapi import load_balancer
from loadtest.baselines.subject import ROOT, Say
from loadtest.benchmark.counting import CassandraKeyed, CassandraUsages, Counted, Keyspace, SeenIds, SqliteUsages, Store
from loadtest.benchmark.cpu import Roles

WEB = 2
CLUSTER_ENVIRONMENT = {"BUSYAPI_DRAIN_DELAY_S": "0"}
"""Web instances come and go only while there is no load, so none has to be served while HAProxy learns of it."""


@dataclass(frozen=True)
class Running:
    """A server that is ready, and all that measuring it takes."""

    name: str
    port: int
    pids: Callable[[], Roles]
    path: str = "/api/usages"
    body: bytes | None = None
    status: int = 201
    """Of a success."""
    store: Store | None = None
    keyed_store: Store | None = None
    ids: SeenIds | None = field(default_factory=SeenIds)
    """None where ids are not unique beyond one process."""
    versions: Mapping[str, str] = field(default_factory=dict)
    cluster: RunningCluster | None = None
    web_ports: Sequence[int] = ()
    """Of this service's web instances, past HAProxy: for their metrics."""

    @property
    def keyspace(self) -> Keyspace:
        """Of the cluster."""
        if self.cluster is None:
            raise ClusterError(f"{self.name} has no Cassandra of its own")
        cassandra = self.cluster.state["cassandra"]
        return Keyspace(cassandra["hosts"][0], cassandra["port"], cassandra["keyspace"])


Starter = Callable[[], AbstractContextManager[Running]]


class Subjects:
    """Servers by key: each is started once it is needed, and stopped when it is not."""

    def __init__(self, cache: Path, scratch: Path, say: Say) -> None:
        self.missing: dict[str, str] = {}
        """Why one could not be started."""
        self.versions: dict[str, str] = {}
        self._running: dict[str, tuple[Running, ExitStack]] = {}
        self._say = say
        self._starters: Mapping[str, Starter] = {
            "durable": lambda: durable(scratch),
            "storeless": lambda: storeless(scratch),
            "sqlite": lambda: sqlite(scratch, 1),
            "sqlite_cores": lambda: sqlite(scratch, os.cpu_count() or 1),
            "express": lambda: baseline(express(cache, say=say)),
            "go_pgx": lambda: baseline(go_pgx(cache, say=say)),
            "plain_fastapi": self._plain,
            "rqlite": lambda: baseline(rqlite(cache, say=say)),
        }

    def get(self, key: str) -> Running | None:
        """The server, started when it does not run; None when it cannot be had, and ``missing`` says why."""
        if key in self._running:
            return self._running[key][0]
        if key in self.missing:
            return None
        self._say(f"starting {key}")
        stack = ExitStack()
        try:
            running = stack.enter_context(self._starters[key]())
        except (Missing, DidNotStart, ClusterError) as reason:
            self.missing[key] = str(reason)
            self._say(f"{key} is missing: {reason}")
            return None
        self._running[key] = (running, stack)
        self.versions.update(running.versions)
        return running

    def roles(self) -> list[Roles]:
        """The processes of all that runs."""
        return [running.pids() for running, _ in self._running.values()]

    def stop(self, *keys: str) -> None:
        """Stop these, where they run."""
        for key in keys:
            if key in self._running:
                self._say(f"stopping {key}")
                self._running.pop(key)[1].close()

    def close(self) -> None:
        """Stop all, the last started first, whatever happens to one of them."""
        with ExitStack() as stack:
            for key in list(self._running):
                stack.callback(self.stop, key)

    @contextmanager
    def _plain(self) -> Iterator[Running]:
        running = self.get("durable")
        if running is None:
            raise Missing(f"it needs Cassandra: {self.missing['durable']}")
        where = running.keyspace
        with baseline(plain_fastapi(where.host, where.port, WEB, self._say), running.pids) as plain:
            yield plain


@contextmanager
def durable(scratch: Path) -> Iterator[Running]:
    """The whole topology as `make cluster` runs it, with an empty Cassandra."""
    options = Options(web=WEB, port=0, fresh=True, discard=True, state_dir=scratch / "cluster", env=CLUSTER_ENVIRONMENT)
    with start_cluster(options) as cluster:

        def pids() -> Roles:
            found: dict[str, list[int]] = {"web": [], "haproxy": [], "cassandra": []}
            for process in cluster.processes():
                if process.running:
                    found[process.role].append(process.pid)
            return found

        running = Running(
            name=f"Durable: HAProxy, {WEB} web instances, Cassandra",
            port=int(cluster.base_url.rpartition(":")[2]),
            pids=pids,
            cluster=cluster,
            web_ports=[process.port for process in cluster.processes("web")],
        )
        usages, keyed = CassandraUsages(running.keyspace), CassandraKeyed(running.keyspace)
        yield replace(running, store=usages, keyed_store=keyed)


@contextmanager
def storeless(scratch: Path) -> Iterator[Running]:
    """The same web instances behind the same HAProxy, with their store switched off."""
    haproxy = program("haproxy", also="/usr/sbin:/usr/local/sbin")
    picker = port_picker()
    with processes(scratch, "storeless") as group:
        members = [
            plan.Member("web", name, plan.LOOPBACK, picker.free(), plan.unix_socket(group.directory, name))
            for name in (f"web{number}" for number in range(1, WEB + 1))
        ]
        command = [sys.executable, "-m", "loadtest.benchmark.storeless"]
        environment = {**os.environ, **CLUSTER_ENVIRONMENT}
        instances = [
            group.start(member.name, command, plan.web_environment(environment, member), cwd=ROOT) for member in members
        ]
        for member, instance in zip(members, instances, strict=True):
            instance.wait_until(answers(member.port, "/readyz"))
        balancer, port = load_balancer(group, haproxy, members, picker)
        roles = {"web": [instance.pid for instance in instances], "haproxy": [balancer.pid]}
        yield Running(
            name="The same with the store switched off",
            port=port,
            pids=lambda: roles,
            ids=None,
            web_ports=[member.port for member in members],
        )


@contextmanager
def sqlite(scratch: Path, workers: int) -> Iterator[Running]:
    """The service on one SQLite file, alone, as `make run` has it."""
    port = port_picker().free()
    with processes(scratch, "sqlite") as group:
        file = group.directory / "busyapi.sqlite3"
        environment = {
            **os.environ,
            **CLUSTER_ENVIRONMENT,
            "BUSYAPI_STORE": f"sqlite:///{file}",
            "BUSYAPI_LISTEN_PORT": str(port),
            "BUSYAPI_WORKERS": str(workers),
        }
        server = group.start("server", [sys.executable, "-m", "service", "serve"], environment, cwd=ROOT)
        server.wait_until(answers(port, "/readyz"))
        yield Running(
            name=f"SQLite store, {'one process' if workers == 1 else f'{workers} processes'}, no HAProxy",
            port=port,
            pids=lambda: {"web": [server.pid]},
            store=SqliteUsages(file),
        )


@contextmanager
def baseline(subject: AbstractContextManager[Subject], more: Callable[[], Roles] | None = None) -> Iterator[Running]:
    """A server to compare with. ``more`` are processes of others that work for it: their Cassandra is its Cassandra."""
    with subject as it:

        def pids() -> Roles:
            own = dict(it.pids)
            return own | {"cassandra": more()["cassandra"]} if more is not None else own

        yield Running(
            name=it.name,
            port=it.port,
            pids=pids,
            path=it.path,
            body=it.body,
            status=it.request_status,
            store=Counted(it.count) if it.count is not None else None,
            ids=SeenIds() if it.request_status == 201 else None,
            versions=it.versions,
        )
