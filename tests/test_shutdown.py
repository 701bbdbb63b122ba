from __future__ import annotations

import contextlib
import signal
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import (
    LONG,
    ConnectionEnded,
    Headers,
    WebInstance,
    assert_problem,
    eventually,
    raw_request,
    ready_instance,
)

pytestmark = pytest.mark.slow

JSON: Headers = [("Content-Type", "application/json")]
GONE = (ConnectionEnded, ConnectionError, TimeoutError)


class Load:
    """Clients that post as fast as they are answered, and remember each usage that was acknowledged."""

    def __init__(self, instance: WebInstance, clients: int = 6) -> None:
        self.instance = instance
        self.acknowledged: dict[int, str] = {}
        self.keys: dict[str, str] = {}
        self.refused: list[int] = []
        self.cut_off = 0
        self.stopping = threading.Event()
        self._threads = [
            threading.Thread(target=self._client, args=(number,), daemon=True) for number in range(clients)
        ]

    @contextlib.contextmanager
    def running(self) -> Iterator[Load]:
        """Load while this lasts; some of it is acknowledged before."""
        for thread in self._threads:
            thread.start()
        try:
            eventually(lambda: len(self.acknowledged) > 100)
            yield self
        finally:
            self.stopping.set()
            for thread in self._threads:
                thread.join(30)
        assert not any(thread.is_alive() for thread in self._threads)

    def _client(self, number: int) -> None:
        count = 0
        while not self.stopping.is_set():
            try:
                connection = self.instance.connect()
            except OSError:
                return
            with connection:
                close = False
                while not close and not self.stopping.is_set():
                    count += 1
                    body = f'{{"patientId": "{number}-{count}"}}'
                    key = [("Idempotency-Key", f"{number}-{count}")] if number % 2 else []
                    try:
                        reply = connection.request("POST", "/api/usages", body.encode(), [*JSON, *key])
                    except GONE:
                        self.cut_off += 1
                        return
                    close = reply.header("connection") == "close"
                    if reply.status != 201:
                        self.refused.append(reply.status)
                    elif key:
                        self.keys[key[0][1]] = body
                    else:
                        self.acknowledged[reply.json()["id"]] = body

    def assert_nothing_lost(self) -> None:
        """The file, opened anew, holds every usage that was acknowledged, as it was sent, and is in order."""
        with contextlib.closing(sqlite3.connect(self.instance.store_path)) as database:
            assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            usages = dict(database.execute("SELECT id, usage FROM usages"))
            keyed = dict(database.execute("SELECT key, usage FROM keyed_usages"))
        assert self.acknowledged.items() <= usages.items()
        assert self.keys.items() <= keyed.items()


def test_sigterm_drains_and_loses_nothing(tmp_path: Path):
    """Unready but serving, with Connection: close; then the socket closes, exit 0; no client saw an error."""
    with ready_instance(tmp_path, drain_delay_s=2.5) as instance:
        load = Load(instance)
        with load.running():
            idle = instance.connect()
            idle.request("GET", "/livez")
            instance.signal(signal.SIGTERM)
            eventually(lambda: instance.request("GET", "/readyz").status == 503, interval_s=0.005)
            reply = instance.request("GET", "/readyz")
            assert_problem(reply, 503, "not_ready")
            assert reply.header("connection") == "close"
            assert instance.request("GET", "/livez").status == 200
            posted = instance.post_usage()
            assert (posted.status, posted.header("connection")) == (201, "close")
            load.stopping.set()
        assert instance.wait() == 0
        assert idle.ended()
        idle.close()
        assert (load.refused, load.cut_off) == ([], 0)
        load.assert_nothing_lost()
        life = [line["message"] for line in instance.lines() if "request_id" not in line]
        assert life == ["ready", "listening", "draining", "closed"]
    with ready_instance(tmp_path) as again:
        assert again.post_usage().json()["id"] == max(load.acknowledged | {posted.json()["id"]: ""}) + 1


@pytest.mark.parametrize("signals", [[signal.SIGINT], [signal.SIGTERM, signal.SIGTERM]], ids=["Ctrl-C", "twice"])
def test_ctrl_c_or_a_second_signal_does_not_wait_for_a_balancer(tmp_path: Path, signals: list[signal.Signals]):
    """Drained and exit 0 all the same, only without the delay."""
    with ready_instance(tmp_path, drain_delay_s=300) as instance:
        load = Load(instance)
        with load.running():
            for number in signals:
                instance.signal(number)
                eventually(lambda: instance.logged("draining"))
                time.sleep(0.05)
            assert instance.wait() == 0
        load.assert_nothing_lost()
        assert instance.logged("closed")


def test_requests_in_flight_are_answered_before_the_end(tmp_path: Path):
    """The listening socket is closed, the store is slow: the clients still get their 201, on both ways."""
    with ready_instance(tmp_path, sqlite_busy_timeout_s=20, queue_wait_max_s=20, store_timeout_s=20) as instance:
        with contextlib.closing(sqlite3.connect(instance.store_path, isolation_level=None)) as database:
            database.execute("BEGIN IMMEDIATE")
            with instance.connect() as short, instance.connect() as long:
                short.send(raw_request("POST", "/api/usages", b'{"x": "short"}', JSON))
                long.send(raw_request("POST", "/api/usages", b'{"x": "long"}', [*JSON, LONG]))
                eventually(lambda: instance.metric("busyapi_requests_in_flight") == 3)
                instance.signal(signal.SIGTERM)
                eventually(lambda: refuses_connections(instance))
                database.execute("ROLLBACK")
                assert short.read().status == long.read().status == 201
        assert instance.wait() == 0
        with contextlib.closing(sqlite3.connect(instance.store_path)) as database:
            assert database.execute("SELECT count(*) FROM usages").fetchone() == (2,)


def refuses_connections(instance: WebInstance) -> bool:
    """Whether nobody listens any more."""
    try:
        instance.connect().close()
    except OSError:
        return True
    return False


def test_a_store_that_hangs_does_not_keep_the_process_for_ever(tmp_path: Path):
    """drain_timeout_s bounds the wait: what waits then is refused or cut off, never acknowledged."""
    limits: dict[str, Any] = {"queue_wait_max_s": 60, "sqlite_busy_timeout_s": 60, "store_timeout_s": 60}
    with (
        ready_instance(tmp_path, drain_timeout_s=0.5, **limits) as instance,
        contextlib.closing(sqlite3.connect(instance.store_path, isolation_level=None)) as database,
    ):
        database.execute("BEGIN IMMEDIATE")
        connections = [instance.connect() for _ in range(3)]
        for connection in connections:
            connection.send(raw_request("POST", "/api/usages", b"{}", JSON))
        eventually(lambda: instance.metric("busyapi_requests_in_flight") == 4)
        instance.signal(signal.SIGTERM)
        instance.wait(20)
        for connection in connections:
            with contextlib.suppress(*GONE):
                assert connection.read().status in (503, 500, 504)
            connection.close()


def test_kill_9_under_load_loses_nothing_that_was_acknowledged(tmp_path: Path):
    """Every 2xx was on disk before it was sent; the next start goes on with greater ids, the same keys and messages."""
    with ready_instance(tmp_path) as instance:
        kept, deleted = (
            instance.request("POST", "/messages", b'{"message": "%b"}' % text).json()["digest"]
            for text in (b"kept", b"gone")
        )
        load = Load(instance, 8)
        with load.running():
            eventually(lambda: len(load.acknowledged) > 300)
            assert instance.request("DELETE", f"/messages/{deleted}").status == 200
            instance.signal(signal.SIGKILL)
            assert instance.wait() == -signal.SIGKILL
        assert load.refused == []
        load.assert_nothing_lost()
    with ready_instance(tmp_path) as again, again.connect() as connection:
        assert again.post_usage().json()["id"] > max(load.acknowledged)
        for id_, body in list(load.acknowledged.items())[-20:]:
            assert connection.request("GET", f"/api/usages/{id_}").body.endswith(body.encode() + b"}")
        key, body = next(iter(load.keys.items()))
        repeat = again.post_usage(body.encode(), [("Idempotency-Key", key)])
        assert (repeat.status, repeat.json()) == (200, {"id": key, "duplicate": True})
        assert again.request("GET", f"/messages/{kept}").json() == {"message": "kept"}
        assert again.request("GET", f"/messages/{deleted}").status == 404
