"""Clients that misbehave, through HAProxy: they cost themselves their answers, and nobody else anything."""

from __future__ import annotations

import contextlib
import resource
import socket
import struct
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psutil
import pytest

from deploy.cluster import RunningCluster
from tests.system.desync import crossed
from tests.system.tables import usages_by_key
from tests.system.wire import (
    JSON_TYPE,
    Closed,
    Wire,
    assert_problem,
    call,
    post_message,
    post_usage,
    request_bytes,
)

USAGE = b'{"patientId": "100"}'
DESCRIPTORS = 12_000
IDLE = 10_000
SERVED_WITHIN_S = 2.0
SILENT_LIMIT_S = 5.0
"""Who has opened a connection and said nothing is cut after so long (haproxy.cfg: inspect-delay)."""
CUT_WITHIN_S = 30.0
TEN_GIGABYTES = 10 * 2**30
GROWTH_BYTES_MAX = 64 << 20


@pytest.fixture
def descriptors() -> Iterator[None]:
    """Room for very many connections in this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert hard == resource.RLIM_INFINITY or hard >= DESCRIPTORS, f"ulimit -Hn is {hard}; this needs {DESCRIPTORS}"
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, DESCRIPTORS), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def connect(url: str) -> socket.socket:
    """A bare connection."""
    host, _, port = url.removeprefix("http://").partition(":")
    return socket.create_connection((host, int(port)), timeout=CUT_WITHIN_S)


def reset(sock: socket.socket) -> None:
    """Close with a reset: whatever is on its way is dropped."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def served_within_s(url: str) -> float:
    """How long a new client waits for its 201."""
    began_s = time.monotonic()
    assert post_usage(url, USAGE).status == 201
    return time.monotonic() - began_s


def eventually(what: Callable[[], bool], within_s: float) -> None:
    """Until something becomes true."""
    deadline_s = time.monotonic() + within_s
    while not what():
        assert time.monotonic() < deadline_s, f"not within {within_s:g} s"
        time.sleep(0.1)


def metric(cluster: RunningCluster, name: str) -> float:
    """A metric without labels, added up over the web instances."""
    total = 0.0
    for process in cluster.processes("web"):
        text = call(f"http://{process.address}:{process.port}", "GET", "/metrics").body.decode()
        total += sum(float(line.split(" ")[1]) for line in text.splitlines() if line.startswith(f"{name} "))
    return total


def memory_bytes(cluster: RunningCluster) -> int:
    """What HAProxy and the web instances hold."""
    processes = [psutil.Process(process.pid) for process in cluster.processes() if process.role != "cassandra"]
    family = [member for process in processes for member in (process, *process.children(recursive=True))]
    return sum(member.memory_info().rss for member in family)


@pytest.mark.usefixtures("descriptors")
def test_ten_thousand_idle_clients_keep_nobody_out(base_url: str) -> None:
    """Each has had an answer and stays. Beyond what HAProxy keeps they are let go; a new client is served at once.

    Ten thousand places for clients would not do: the next ten thousand come. When places become few, no client keeps
    one that has its answer.
    """
    ask = b"GET /livez HTTP/1.1\r\nHost: idle\r\n\r\n"
    waits_s = []
    with contextlib.ExitStack() as open_ones:
        for number in range(IDLE):
            sock = open_ones.enter_context(connect(base_url))
            sock.sendall(ask)
            assert sock.recv(4096).startswith(b"HTTP/1.1 200 ")
            if number % 1_000 == 999:
                waits_s.append(served_within_s(base_url))
        waits_s += [served_within_s(base_url) for _ in range(20)]
    assert max(waits_s) < SERVED_WITHIN_S, waits_s


@pytest.mark.usefixtures("descriptors")
def test_ten_thousand_silent_clients_keep_nobody_out_for_long(base_url: str) -> None:
    """Connections that never say anything are cut after five seconds; who came behind them is served then."""
    with contextlib.ExitStack() as open_ones:
        silent = [open_ones.enter_context(connect(base_url)) for _ in range(IDLE)]
        assert served_within_s(base_url) < SILENT_LIMIT_S + SERVED_WITHIN_S
        eventually(lambda: served_within_s(base_url) < SERVED_WITHIN_S, SILENT_LIMIT_S + SERVED_WITHIN_S)
        silent[0].settimeout(CUT_WITHIN_S)
        assert silent[0].recv(1) == b""


def test_slow_clients_in_number_hold_no_place_that_others_need(base_url: str, cluster: RunningCluster) -> None:
    """Three hundred with half a head, as many with half a body: others are served at once, and no instance sees any of them."""
    halves = (
        b"POST /api/usages HTTP/1.1\r\nHost: slow\r\nX-Slow: ",
        b"POST /api/usages HTTP/1.1\r\nHost: slow\r\nContent-Length: 5000\r\n\r\n{",
    )
    with contextlib.ExitStack() as open_ones:
        for half in halves * 300:
            open_ones.enter_context(connect(base_url)).sendall(half)
        for _ in range(20):
            assert served_within_s(base_url) < SERVED_WITHIN_S
        assert metric(cluster, "busyapi_requests_in_flight") <= len(cluster.processes("web")) + 5


def test_slow_readers_hold_their_own_connections_alone(base_url: str) -> None:
    """Fifty ask for a megabyte each, again and again, and read nothing: others are served, and they are cut in the end."""
    digest = post_message(base_url, "slow " + "m" * 1_000_000).json()["digest"]
    with contextlib.ExitStack() as open_ones:
        slow = [open_ones.enter_context(Wire(base_url, timeout_s=CUT_WITHIN_S)) for _ in range(50)]
        for wire in slow:
            wire.send(request_bytes("GET", f"/messages/{digest}", wire.host) * 16)
        for _ in range(50):
            assert served_within_s(base_url) < SERVED_WITHIN_S
        time.sleep(12)  # HAProxy's "timeout client" is 10 s
        for wire in slow:
            assert len(wire.rest()) < 16 * 1_000_000


def test_a_client_that_has_said_all_and_closes_its_half_gets_its_answer(base_url: str) -> None:
    """shutdown(SHUT_WR) behind a whole request: 201, then the connection ends.

    Of several in one go HAProxy answers the first and runs no other: those that got no answer are not stored.
    """
    keys = [uuid.uuid4().hex for _ in range(5)]
    with Wire(base_url) as wire:
        for key in keys:
            wire.request("POST", "/api/usages", [JSON_TYPE, ("Idempotency-Key", key)], USAGE)
        wire._socket.shutdown(socket.SHUT_WR)
        received = wire.rest()
    assert received.startswith(b"HTTP/1.1 201 Created\r\n")
    for key in keys:
        stored = call(base_url, "GET", f"/api/usages/keys/{key}").status == 200
        assert stored == (b'{"id": "%b"}' % key.encode() in received)


def test_a_client_that_closes_its_half_amid_a_request_stores_nothing(base_url: str) -> None:
    """Behind half a head, half a body, half a chunk: it ends, with a problem or with nothing; nothing is stored."""
    for tail in (
        b"Content-Le",
        b"Content-Length: 50\r\n\r\n" + USAGE,
        b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n" % (len(USAGE), USAGE),
    ):
        key = uuid.uuid4().hex
        with Wire(base_url) as wire:
            wire.send(b"POST /api/usages HTTP/1.1\r\nHost: half\r\nIdempotency-Key: %b\r\n" % key.encode() + tail)
            wire._socket.shutdown(socket.SHUT_WR)
            answer = wire.last_words()
            if answer is not None:
                assert answer.status in (400, 408)
                assert_problem(answer, answer.status)
            assert wire.rest() == b""
        assert call(base_url, "GET", f"/api/usages/keys/{key}").status == 404


def test_clients_that_reset_leave_nothing_behind(base_url: str, cluster: RunningCluster) -> None:
    """A thousand send a whole usage and reset at once: no request stays at work, nobody gets another's answer."""
    for _ in range(1_000):
        sock = connect(base_url)
        sock.sendall(request_bytes("POST", "/api/usages", "reset", [JSON_TYPE], USAGE))
        reset(sock)
    assert crossed(base_url) == []
    web = len(cluster.processes("web"))
    # Each scrape counts itself, and HAProxy's checks come and go.
    eventually(lambda: metric(cluster, "busyapi_requests_in_flight") <= 2 * web, 10)
    assert served_within_s(base_url) < SERVED_WITHIN_S


def test_replays_of_one_key_while_answers_are_dropped_are_one_usage(
    base_url: str, cluster: RunningCluster, cql: Any
) -> None:
    """Forty at once under each of twenty keys, over HAProxy and every instance, half of whom reset before their answer.

    Whoever was answered was told 201 or 200; there is one row for each key, and a replay afterwards is a duplicate.
    """
    urls = [base_url, *(f"http://{process.address}:{process.port}" for process in cluster.processes("web"))]
    bodies = {str(uuid.uuid4()): b'{"patientId": "%d"}' % number for number in range(20)}

    def client(number: int) -> set[int]:
        statuses = set()
        for key, body in bodies.items():
            raw = request_bytes("POST", "/api/usages", "replay", [JSON_TYPE, ("Idempotency-Key", key)], body)
            gate.wait()
            if number % 2:
                sock = connect(urls[number // 2 % len(urls)])
                sock.sendall(raw)
                time.sleep((number % 7) / 1_000)
                reset(sock)
            else:
                with Wire(urls[number // 2 % len(urls)]) as wire:
                    wire.send(raw)
                    statuses.add(wire.answer().status)
        return statuses

    gate = threading.Barrier(40, timeout=60)
    with ThreadPoolExecutor(40) as clients:
        statuses = set().union(*clients.map(client, range(40)))
    assert statuses <= {200, 201}
    for key, body in bodies.items():
        assert post_usage(base_url, body, ("Idempotency-Key", key)).json() == {"id": key, "duplicate": True}
        read = call(base_url, "GET", f"/api/usages/keys/{key}").json()
        assert "conflicts" not in read
        assert usages_by_key(cql, key) == [body]


@pytest.mark.parametrize("path", ["/api/usages", "/messages"])
def test_ten_gigabytes_are_refused_before_they_come(base_url: str, cluster: RunningCluster, path: str) -> None:
    """By length or as one chunk, from fifty clients: 413 or a close, memory stays, at HAProxy and at an instance itself."""
    before = memory_bytes(cluster)
    instance = cluster.process("web1")
    direct = f"http://{instance.address}:{instance.port}"
    part = b"x" * 1_000_000
    for url in [base_url] * 25 + [direct] * 25:
        for framing in (
            b"Content-Length: %d\r\n\r\n" % TEN_GIGABYTES,
            b"Transfer-Encoding: chunked\r\n\r\n%x\r\n" % TEN_GIGABYTES,
        ):
            with Wire(url, timeout_s=CUT_WITHIN_S) as wire:
                answer = None
                with contextlib.suppress(Closed):
                    wire.send(b"POST %b HTTP/1.1\r\nHost: big\r\n" % path.encode() + framing)
                    for _ in range(10):
                        wire.send(part)
                        if wire.readable(0):
                            break
                answer = wire.last_words()
                if answer is not None:
                    assert_problem(answer, 413, "body_too_large")
    assert served_within_s(base_url) < SERVED_WITHIN_S
    assert memory_bytes(cluster) - before < GROWTH_BYTES_MAX
