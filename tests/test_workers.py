from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
from pathlib import Path

import psutil
import pytest

from tests.support import USAGE, WebInstance, eventually, in_threads, ready_instance, web_instance

pytestmark = pytest.mark.slow

JSON = [("Content-Type", "application/json")]
LEASE = 131_072


def workers_of(instance: WebInstance) -> list[psutil.Process]:
    """The living worker processes."""
    return [
        child for child in psutil.Process(instance.process.pid).children() if child.status() != psutil.STATUS_ZOMBIE
    ]


def post_many(instances: list[WebInstance], clients: int = 8, count: int = 20) -> list[int]:
    """Ids of usages posted over many connections, each connection's rising."""

    def client(number: int) -> list[int]:
        with instances[number % len(instances)].connect() as connection:
            replies = [connection.request("POST", "/api/usages", USAGE, JSON) for _ in range(count)]
        assert {reply.status for reply in replies} == {201}
        ids = [reply.json()["id"] for reply in replies]
        assert ids == sorted(ids)
        return ids

    return [id_ for ids in in_threads(clients, client) for id_ in ids]


def stored_ids(path: Path) -> set[int]:
    """The ids of all usages in the file."""
    with contextlib.closing(sqlite3.connect(path)) as database:
        return {id_ for (id_,) in database.execute("SELECT id FROM usages")}


def test_two_workers_share_port_and_file_and_one_may_die(tmp_path: Path):
    """Distinct ids out of two leases; metrics add up; a worker that is killed is started again; SIGTERM ends all, exit 0."""
    with ready_instance(tmp_path, workers=2) as instance:
        ids = post_many([instance])
        while len({id_ // LEASE for id_ in ids}) < 2:  # the kernel gave every connection to one worker
            ids += post_many([instance])
        assert len(set(ids)) == len(ids)
        assert set(ids) == stored_ids(instance.store_path)
        # The worker that is asked counts at once, the other within a second.
        eventually(lambda: instance.metric("busyapi_requests_total", route="/api/usages", status="201") == len(ids))
        assert instance.metric("busyapi_ready") == 1

        victim = workers_of(instance)[0]
        os.kill(victim.pid, signal.SIGKILL)
        eventually(lambda: instance.logged("a worker died", pid=victim.pid))
        eventually(lambda: len(instance.logged("ready")) == 3)
        assert len(workers_of(instance)) == 2
        more = post_many([instance])
        assert not set(more) & set(ids)
        assert set(ids) | set(more) == stored_ids(instance.store_path)
        # Two workers live, each with most of one lease: the dead one's gauges are gone, its counts are not.
        eventually(lambda: instance.metric("busyapi_requests_in_flight") == 1)
        assert 1.9 * LEASE < instance.metric("busyapi_ids_remaining") < 2.1 * LEASE
        in_all = len(ids) + len(more)
        eventually(lambda: instance.metric("busyapi_requests_total", route="/api/usages", status="201") == in_all)
        assert instance.metric("busyapi_ready") == 1

        children = workers_of(instance)
        assert instance.stop() == 0
        assert not [child for child in children if child.is_running()]
        assert len(instance.logged("closed")) == 2


def test_workers_end_when_their_parent_is_killed(tmp_path: Path):
    """Nobody is left behind to hold the port: they drain by themselves."""
    with ready_instance(tmp_path, workers=2) as instance:
        children = workers_of(instance)
        ids = post_many([instance], 4, 5)
        instance.signal(signal.SIGKILL)
        instance.wait()
        _, alive = psutil.wait_procs(children, timeout=30)
        for child in alive:
            child.kill()
        assert not alive
        assert len(instance.logged("closed")) == 2
        assert set(ids) == stored_ids(instance.store_path)


def test_a_signal_while_workers_start_is_not_lost(tmp_path: Path):
    """SIGTERM as soon as the first worker says that it listens: all end, whatever they were doing."""
    with web_instance(tmp_path, workers=2) as instance:
        children = workers_of(instance)
        instance.signal(signal.SIGTERM)
        try:
            instance.wait(15)
        finally:
            for child in children:
                with contextlib.suppress(psutil.NoSuchProcess):
                    child.kill()


def test_two_processes_on_one_file_share_keys_and_no_ids(tmp_path: Path):
    """Separate services, one file: ids are distinct, a key is one usage whoever took it, and each reads the other's."""
    with ready_instance(tmp_path) as first, ready_instance(tmp_path, store=first.store_path) as second:
        ids = post_many([first, second])
        assert len(set(ids)) == len(ids)
        assert set(ids) == stored_ids(first.store_path)
        keyed = [instance.post_usage(USAGE, [("Idempotency-Key", "shared")]) for instance in (first, second)]
        assert [reply.status for reply in keyed] == [201, 200]
        for instance in (first, second):
            assert instance.request("GET", f"/api/usages/{ids[0]}").status == 200
            assert instance.request("GET", f"/api/usages/{ids[1]}").status == 200
        digest = first.request("POST", "/messages", b'{"message": "m"}').json()["digest"]
        assert second.request("DELETE", f"/messages/{digest}").status == 200
        assert first.request("GET", f"/messages/{digest}").status == 404
