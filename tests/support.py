"""What the fast tests stand on: a real web instance as a process, and HTTP/1.1 over a raw socket."""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import psutil

ROOT = Path(__file__).resolve().parent.parent
START_TIMEOUT_S = 40.0
STOP_TIMEOUT_S = 30.0
SERVICE = (sys.executable, "-m", "service")
REPLY_TIMEOUT_S = 20.0

USAGE = b'{"patientId": "100", "timestamp": "Tue Nov 01 2016 09:11:51 GMT-0500 (CDT)", "medication": "Albuterol"}'

Headers = Sequence[tuple[str, str]]
LONG = ("Connection", "TE")
"""A header that means nothing to the service, but closes the short way to its request."""
Address = tuple[str, int]


@dataclasses.dataclass(frozen=True)
class Reply:
    """A response as it came over the wire."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes

    def header(self, name: str) -> str | None:
        """The one value of a header, None when it is not there; it must not be there twice."""
        values = [value for key, value in self.headers if key == name.lower()]
        assert len(values) <= 1, f"{name} was sent {len(values)} times"
        return values[0] if values else None

    def json(self) -> Any:
        """The body, which must be JSON."""
        return json.loads(self.body)


class ConnectionEnded(Exception):
    """The server closed where an answer was due."""


class Connection:
    """One TCP connection that sends exactly the bytes it is given."""

    def __init__(self, address: Address, timeout_s: float = REPLY_TIMEOUT_S) -> None:
        self.address = address
        self.socket = socket.create_connection(address, timeout=timeout_s)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.interim: list[int] = []
        self._buffer = bytearray()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Leave; the server sees the end of the stream."""
        self.socket.close()

    def send(self, data: bytes) -> None:
        """Put bytes on the wire."""
        self.socket.sendall(data)

    def request(self, method: str, target: str, body: bytes | None = None, headers: Headers = ()) -> Reply:
        """Send a whole request and read its answer."""
        self.send(raw_request(method, target, body, headers, host=f"{self.address[0]}:{self.address[1]}"))
        return self.read(method)

    def read(self, method: str = "GET") -> Reply:
        """The next final answer; interim ones (1xx) are noted in ``interim``."""
        while True:
            head = self._until(b"\r\n\r\n").decode("latin-1")
            status_line, *lines = head.removesuffix("\r\n\r\n").split("\r\n")
            version, status_text = status_line.split(" ")[:2]
            assert version == "HTTP/1.1"
            status = int(status_text)
            if status >= 200:
                break
            self.interim.append(status)
        headers = [(name.lower(), value.strip()) for name, _, value in (line.partition(":") for line in lines)]
        return Reply(status, headers, self._body(method, status, dict(headers)))

    def ended(self, timeout_s: float = REPLY_TIMEOUT_S) -> bool:
        """Whether the server closes, with nothing more to say, before the time is up."""
        self.socket.settimeout(timeout_s)
        try:
            return not self._buffer and self.socket.recv(1) == b""
        except ConnectionResetError:
            return True
        except TimeoutError:
            return False

    def silent(self, wait_s: float = 0.2) -> bool:
        """Whether nothing has been received that was not read yet."""
        return not self._buffer and not select.select([self.socket], [], [], wait_s)[0]

    def _body(self, method: str, status: int, headers: dict[str, str]) -> bytes:
        if method == "HEAD" or status in (204, 304):
            return b""
        if headers.get("transfer-encoding") == "chunked":
            parts = []
            while size := int(self._until(b"\r\n"), 16):
                parts.append(self._exactly(size + 2)[:-2])
            self._until(b"\r\n")
            return b"".join(parts)
        return self._exactly(int(headers["content-length"]))

    def _until(self, mark: bytes) -> bytes:
        while mark not in self._buffer:
            self._more()
        found, _, self._buffer = self._buffer.partition(mark)
        return bytes(found) + mark

    def _exactly(self, size: int) -> bytes:
        while len(self._buffer) < size:
            self._more()
        found, self._buffer = self._buffer[:size], self._buffer[size:]
        return bytes(found)

    def _more(self) -> None:
        data = self.socket.recv(1 << 20)
        if not data:
            raise ConnectionEnded(f"closed after {bytes(self._buffer[:200])!r}")
        self._buffer += data


def raw_request(
    method: str, target: str, body: bytes | None = None, headers: Headers = (), host: str | None = "test"
) -> bytes:
    """A request as bytes; Content-Length is added for a body, Host unless it is None."""
    lines = [f"{method} {target} HTTP/1.1"]
    if host is not None:
        lines.append(f"Host: {host}")
    lines += [f"{name}: {value}" for name, value in headers]
    if body is not None:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + (body or b"")


def chunked(body: bytes, size: int = 1000) -> bytes:
    """A body in chunks of ``size`` bytes."""
    chunks = (body[start : start + size] for start in range(0, len(body), size))
    return b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"


@dataclasses.dataclass
class WebInstance:
    """A running ``python -m service serve``."""

    process: subprocess.Popen[bytes]
    address: Address
    log_path: Path
    store_path: Path

    def connect(self, timeout_s: float = REPLY_TIMEOUT_S) -> Connection:
        """A connection of its own."""
        return Connection(self.address, timeout_s)

    def request(self, method: str, target: str, body: bytes | None = None, headers: Headers = ()) -> Reply:
        """One request over one connection."""
        with self.connect() as connection:
            return connection.request(method, target, body, headers)

    def post_usage(self, body: bytes = USAGE, headers: Headers = ()) -> Reply:
        """POST /api/usages with a JSON content type."""
        return self.request("POST", "/api/usages", body, [("Content-Type", "application/json"), *headers])

    def metric(self, name: str, **labels: str) -> float:
        """The value of a metric now, 0 when it was never counted."""
        wanted = {f'{key}="{value}"' for key, value in labels.items()}
        total = 0.0
        for line in self.request("GET", "/metrics").body.decode().splitlines():
            key, _, value = line.rpartition(" ")
            if key.partition("{")[0] == name and all(label in key for label in wanted):
                total += float(value)
        return total

    def lines(self) -> list[dict[str, Any]]:
        """What it has logged until now, whole lines alone."""
        whole, _, _ = self.log_path.read_bytes().rpartition(b"\n")
        return [json.loads(line) for line in whole.splitlines()]

    def logged(self, message: str, **fields: object) -> list[dict[str, Any]]:
        """The log lines with this message and these fields."""
        return [line for line in self.lines() if line["message"] == message and fields.items() <= line.items()]

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process alone."""
        self.process.send_signal(number)

    def wait(self, timeout_s: float = STOP_TIMEOUT_S) -> int:
        """The exit status, once it has ended."""
        return self.process.wait(timeout_s)

    def stop(self) -> int:
        """SIGTERM and the exit status."""
        self.signal(signal.SIGTERM)
        return self.wait()


@contextlib.contextmanager
def web_instance(
    directory: Path,
    *arguments: str,
    store: Path | None = None,
    program: Sequence[str] = SERVICE,
    **settings: object,
) -> Iterator[WebInstance]:
    """A web instance on a free port with SQLite in ``directory``, ready; ended, with its workers, in any case.

    Its log must then hold no traceback: whatever a test does to it, it shall not be a bug.
    """
    store_path = store or directory / "store.sqlite3"
    log_path = directory / f"instance-{time.monotonic_ns()}.log"
    environ = clean_environ(store=f"sqlite:///{store_path}", listen_port=0, drain_delay_s=0, log_format="json")
    environ["TMPDIR"] = str(directory)  # what a killed process leaves behind goes with the test
    environ.update({f"BUSYAPI_{name.upper()}": str(value) for name, value in settings.items()})
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            [*program, "serve", *arguments],
            cwd=ROOT,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            preexec_fn=die_with_parent,  # noqa: PLW1509 - one system call, no lock is taken
        )
    instance = WebInstance(process, ("127.0.0.1", 0), log_path, store_path)
    try:
        eventually(lambda: process.poll() is not None or instance.logged("listening"), START_TIMEOUT_S)
        assert process.poll() is None, log_path.read_text()
        url = str(instance.logged("listening")[0]["url"])
        instance.address = ("127.0.0.1", int(url.rpartition(":")[2]))
        yield instance
    finally:
        end(process)
    assert not [line for line in instance.lines() if "traceback" in line]


@contextlib.contextmanager
def ready_instance(
    directory: Path,
    *arguments: str,
    store: Path | None = None,
    program: Sequence[str] = SERVICE,
    workers: int = 1,
    **settings: object,
) -> Iterator[WebInstance]:
    """A web instance that has said ready, by each of its workers."""
    with web_instance(directory, *arguments, store=store, program=program, workers=workers, **settings) as instance:
        eventually(lambda: len(instance.logged("ready")) >= workers, START_TIMEOUT_S)
        yield instance


def clean_environ(**settings: object) -> dict[str, str]:
    """The environment with these settings and no others."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("BUSYAPI_")}
    environ.update({f"BUSYAPI_{name.upper()}": str(value) for name, value in settings.items()})
    return environ


def end(process: subprocess.Popen[bytes]) -> None:
    """End a process and its children by their ids, politely first."""
    children: list[Any] = []
    if process.poll() is None:
        with contextlib.suppress(psutil.NoSuchProcess):
            children = psutil.Process(process.pid).children(recursive=True)
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(STOP_TIMEOUT_S)
            raise
        finally:
            for child in children:
                with contextlib.suppress(psutil.NoSuchProcess):
                    child.kill()


def die_with_parent() -> None:
    """Linux ends this process when the test run is killed."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def eventually(check: Any, timeout_s: float = 20.0, interval_s: float = 0.02) -> Any:
    """The first true value of ``check()``; fails when none comes in time."""
    end_s = time.monotonic() + timeout_s
    while True:
        value = check()
        if value:
            return value
        assert time.monotonic() < end_s, "this did not become true in time"
        time.sleep(interval_s)


def in_threads(count: int, work: Any) -> list[Any]:
    """``work(index)`` in ``count`` threads at once; their results in order, or the first exception."""
    results: list[Any] = [None] * count
    errors: list[BaseException] = []

    def run(index: int) -> None:
        try:
            results[index] = work(index)
        except BaseException as error:  # noqa: BLE001 - handed to the test's own thread
            errors.append(error)

    threads = [threading.Thread(target=run, args=(index,), daemon=True) for index in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    if errors:
        raise errors[0]
    assert not any(thread.is_alive() for thread in threads), "a thread hangs"
    return results


def assert_problem(reply: Reply, status: int, code: str, field: str | None = None) -> dict[str, Any]:
    """The reply is a problem document with these members, and every member that a problem has."""
    assert reply.status == status, reply
    assert reply.header("content-type") == "application/problem+json"
    assert reply.header("x-request-id")
    if reply.body:
        document: dict[str, Any] = reply.json()
        assert document["code"] == code, document
        assert document["status"] == status
        assert document["type"] == "about:blank"
        assert document["title"]
        assert document["detail"]
        assert document["request_id"] == reply.header("x-request-id")
        assert document.get("field") == field, document
    else:
        document = {}
    retry_after = reply.header("retry-after")
    if status in (429, 503):
        assert retry_after is not None
        assert retry_after.isdecimal()
        assert int(retry_after) >= 1
    else:
        assert retry_after is None
    return document
