"""A Unix socket beside the port, for a balancer on the same machine."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import (
    LONG,
    ROOT,
    USAGE,
    Connection,
    Headers,
    WebInstance,
    assert_problem,
    clean_environ,
    eventually,
    raw_request,
    ready_instance,
)

pytestmark = pytest.mark.slow

JSON: Headers = [("Content-Type", "application/json")]
LONG_WAY: Headers = [*JSON, LONG]
ways = pytest.mark.parametrize("headers", [JSON, LONG_WAY], ids=["short", "long"])


class UnixConnection(Connection):
    """A connection over a Unix socket."""

    def __init__(self, path: Path) -> None:
        self.address = ("localhost", 80)
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(20)
        try:
            self.socket.connect(str(path))
        except OSError:
            self.socket.close()
            raise
        self.interim = []
        self._buffer = bytearray()


def serve(tmp_path: Path, path: Path, **settings: object) -> subprocess.CompletedProcess[str]:
    """``python -m service serve`` with this Unix socket, which is expected to end by itself."""
    environ = clean_environ(
        store=f"sqlite:///{tmp_path}/other.sqlite3", listen_port=0, listen_unix=path, log_format="json", **settings
    )
    return subprocess.run(
        [sys.executable, "-m", "service", "serve"],
        cwd=ROOT,
        env=environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the socket of the shared instance."""
    return tmp_path_factory.mktemp("unix") / "web.sock"


@pytest.fixture(scope="module")
def both(path: Path) -> Iterator[WebInstance]:
    """An instance that listens on the socket and on a port."""
    with ready_instance(path.parent, listen_unix=path) as running:
        yield running


@ways
def test_it_answers_on_the_socket_as_on_the_port(both: WebInstance, path: Path, headers: Headers):
    """The same routes, refusals and keep-alive, and one service: what was stored over one is read over the other."""
    with UnixConnection(path) as local, both.connect() as remote:
        for one, other in ((local, remote), (remote, local)):
            id_ = one.request("POST", "/api/usages", USAGE, headers).json()["id"]
            assert other.request("GET", f"/api/usages/{id_}", None, headers[1:]).json()["usage"]["patientId"] == "100"
            digest = one.request("POST", "/messages", b'{"message": "m"}', headers).json()["digest"]
            assert other.request("GET", f"/messages/{digest}").json() == {"message": "m"}
            assert_problem(one.request("POST", "/api/usages", b"[]", headers), 400, "not_an_object")
            assert_problem(one.request("GET", "/nowhere"), 404, "not_found")
            assert one.request("GET", "/readyz").status == 200
            raw = b"POST /api/usages HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}"
            one.send(raw * 3)
            assert [one.read().status for _ in range(3)] == [201] * 3
    with UnixConnection(path) as local:
        local.send(b"nonsense\r\n\r\n")
        assert_problem(local.read(), 400, "bad_request")
        assert local.ended()


def test_a_socket_that_another_instance_listens_on_is_not_taken(both: WebInstance, path: Path, tmp_path: Path):
    """The second ends, with an exit status that says so and a line that names the path; the first serves on."""
    result = serve(tmp_path, path)
    assert str(path) in result.stdout + result.stderr
    assert "Traceback" not in result.stderr
    with UnixConnection(path) as connection:
        assert connection.request("POST", "/api/usages", USAGE, JSON).status == 201
    assert both.request("GET", "/readyz").status == 200
    assert result.returncode not in (0, -signal.SIGKILL)


def test_what_is_no_socket_is_not_replaced(tmp_path: Path):
    """A file that somebody keeps there stays as it was, and the instance ends with an error that names it."""
    file = tmp_path / "precious"
    file.write_text("precious")
    result = serve(tmp_path, file)
    assert str(file) in result.stdout + result.stderr
    assert "Traceback" not in result.stderr
    assert file.read_text() == "precious"
    assert result.returncode != 0


def test_a_path_that_cannot_be_is_an_error_that_names_it(tmp_path: Path):
    """In a directory that is not there; too long for a socket."""
    for path in (tmp_path / "nowhere" / "web.sock", tmp_path / ("x" * 200)):
        result = serve(tmp_path, path)
        assert str(path) in result.stdout + result.stderr
        assert "Traceback" not in result.stderr
        assert result.returncode != 0


def test_a_socket_left_behind_is_replaced_and_one_that_is_done_with_is_gone(tmp_path: Path):
    """Kill -9 leaves the file, and the next start takes its place; SIGTERM leaves nothing."""
    path = tmp_path / "web.sock"
    with ready_instance(tmp_path, listen_unix=path) as instance:
        with UnixConnection(path) as connection:
            assert connection.request("POST", "/api/usages", USAGE, JSON).status == 201
        instance.signal(signal.SIGKILL)
        instance.wait()
    assert path.is_socket()
    with ready_instance(tmp_path, listen_unix=path) as instance:
        with UnixConnection(path) as connection:
            assert connection.request("POST", "/api/usages", USAGE, JSON).json()["id"] > 1
            idle = UnixConnection(path)
            assert instance.stop() == 0
            assert connection.ended()
            assert idle.ended()
            idle.close()
        assert not os.path.lexists(path)


def test_a_socket_is_served_until_the_drain_is_over(tmp_path: Path):
    """Unready but serving, with Connection: close, as on the port."""
    path = tmp_path / "web.sock"
    with ready_instance(tmp_path, listen_unix=path, drain_delay_s=60) as instance:
        with UnixConnection(path) as connection:
            assert connection.request("GET", "/readyz").status == 200
            instance.signal(signal.SIGTERM)
            while True:
                with contextlib.closing(UnixConnection(path)) as other:
                    if other.request("GET", "/readyz").status == 503:
                        break
            reply = connection.request("POST", "/api/usages", USAGE, JSON)
            assert (reply.status, reply.header("connection")) == (201, "close")
        assert instance.stop() == 0
        assert not os.path.lexists(path)


def test_who_ends_late_does_not_take_the_socket_of_who_came_after(tmp_path: Path):
    """The old instance listens no more but still waits for its store; the new one has taken the path by then."""
    path = tmp_path / "web.sock"
    patience: dict[str, Any] = {"queue_wait_max_s": 60, "store_timeout_s": 60, "sqlite_busy_timeout_s": 60}
    with (
        ready_instance(tmp_path, listen_unix=path, drain_timeout_s=60, **patience) as old,
        contextlib.closing(sqlite3.connect(old.store_path, isolation_level=None)) as database,
        UnixConnection(path) as waiting,
    ):
        database.execute("BEGIN IMMEDIATE")
        waiting.send(raw_request("POST", "/api/usages", USAGE, JSON))
        eventually(lambda: old.metric("busyapi_requests_in_flight") == 2)
        old.signal(signal.SIGTERM)
        eventually(lambda: not listens(path))
        with ready_instance(tmp_path, store=tmp_path / "new.sqlite3", listen_unix=path):
            database.execute("ROLLBACK")
            assert waiting.read().status == 201
            assert old.wait() == 0
            with UnixConnection(path) as connection:
                assert connection.request("POST", "/api/usages", USAGE, JSON).status == 201


def listens(path: Path) -> bool:
    """Whether somebody takes connections there."""
    with contextlib.suppress(OSError), UnixConnection(path):
        return True
    return False


def test_with_several_workers_it_is_one_line_and_a_failing_exit_status(tmp_path: Path):
    """A socket has one owner; which settings contradict each other is said before anything is opened."""
    result = serve(tmp_path, tmp_path / "web.sock", workers=2)
    assert result.returncode not in (0, -signal.SIGKILL)
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert "BUSYAPI_LISTEN_UNIX" in line
    assert "BUSYAPI_WORKERS" in line
    assert list(tmp_path.iterdir()) == []
