"""Batches through HAProxy to web instances on a real Cassandra."""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from tests.support import Connection, Headers, assert_problem, raw_request

if TYPE_CHECKING:  # at run time it is a plugin, which pytest imports itself
    from tests.cassandra_node import CassandraNode

pytest_plugins = ["tests.cassandra_node"]
pytestmark = [pytest.mark.cassandra, pytest.mark.slow]

BATCH = "/api/usages/batch"
JSON: Headers = [("Content-Type", "application/json")]
LINES: Headers = [("Content-Type", "application/x-ndjson")]
CHUNKED = ("Transfer-Encoding", "chunked")


@pytest.fixture
def proxied(cassandra_node: CassandraNode) -> Iterator[Connection]:
    """A connection to HAProxy."""
    with Connection(address(cassandra_node), timeout_s=60) as connection:
        yield connection


def address(node: CassandraNode) -> tuple[str, int]:
    """Where HAProxy listens."""
    return "127.0.0.1", int(node.cluster.base_url.rpartition(":")[2])


class Talk:
    """A streamed batch, both ways at once."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        connection.send(raw_request("POST", BATCH, None, [*LINES, CHUNKED]))
        self._lines: list[bytes] = []
        self._rest = b""
        self._begun = False

    def send(self, *items: Any) -> None:
        """Items as lines."""
        data = b"".join(json.dumps(item).encode() + b"\n" for item in items)
        self.connection.send(b"%x\r\n%b\r\n" % (len(data), data))

    def finish(self) -> None:
        """The end of the request."""
        self.connection.send(b"0\r\n\r\n")

    def results(self, count: int) -> list[dict[str, Any]]:
        """The next lines of the answer."""
        if not self._begun:
            assert b" 200 " in self.connection._until(b"\r\n\r\n")
            self._begun = True
        while len(self._lines) < count:
            size = int(self.connection._until(b"\r\n"), 16)
            assert size, (self._lines, self._rest)
            *lines, self._rest = (self._rest + self.connection._exactly(size + 2)[:-2]).split(b"\n")
            self._lines += lines
        found, self._lines = self._lines[:count], self._lines[count:]
        return [json.loads(line) for line in found]

    def summary(self) -> dict[str, Any]:
        """The last line's, and the end of the answer."""
        (last,) = self.results(1)
        assert self.connection._until(b"\r\n\r\n") == b"0\r\n\r\n"
        summary: dict[str, Any] = last["summary"]
        return summary


def test_arrays_and_streams_of_any_length_pass_the_balancer(proxied: Connection):
    """A batch is larger than any single body; a stream has no bound, as long as its length is one."""
    usage = {"x": "y" * 1000}
    array = json.dumps([usage] * 5000).encode()
    reply = proxied.request("POST", BATCH, array, JSON)
    assert reply.json()["created"] == 5000
    proxied.send(raw_request("POST", BATCH, None, [*JSON, ("Content-Length", str((16 << 20) + 1))]))
    assert_problem(proxied.read("POST"), 413, "body_too_large")


@pytest.mark.parametrize(
    ("length", "status"), [("1234567890123", 413), ("18446744073709551616", 413), ("0000000000000000018", 413)]
)
def test_absurd_lengths_stay_refused(cassandra_node: CassandraNode, length: str, status: int):
    """What follows a length that is taken for another would be run as a request of its own."""
    with Connection(address(cassandra_node)) as connection:
        connection.send(raw_request("POST", BATCH, None, [*LINES, ("Content-Length", length)]))
        connection.send(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        assert connection.read("POST").status == status
        assert connection.ended()


def test_a_length_of_a_terabyte_is_a_stream_like_any_other(cassandra_node: CassandraNode):
    """Ten digits and more are allowed here alone."""
    with Connection(address(cassandra_node)) as connection:
        connection.send(raw_request("POST", BATCH, None, [*LINES, ("Content-Length", "999999999999")]) + b"{}\n")
        assert b" 200 " in connection._until(b"\r\n\r\n")
        assert b'"line":1,"status":"created"' in connection._until(b"\n\r\n")
    with Connection(address(cassandra_node)) as connection:
        connection.send(raw_request("POST", "/api/usages", None, [*JSON, ("Content-Length", "4294967297")]) + b"{}\n")
        assert connection.read("POST").status == 413


def test_a_stream_outlives_the_time_outs_as_long_as_it_is_not_silent(proxied: Connection):
    """A line every few seconds, for longer than a request may otherwise take: time-outs are per silence."""
    talk = Talk(proxied)
    started_s = time.monotonic()
    count = 0
    while time.monotonic() - started_s < 21:
        talk.send({"n": count})
        assert talk.results(1)[0]["status"] == "created"
        count += 1
        time.sleep(6)
    talk.finish()
    counts = {"created": count, "duplicate": 0, "invalid": 0, "retry": 0, "unknown": 0}
    summary = talk.summary()
    assert summary == {**counts, "ack": summary["ack"], "complete": True}


def test_many_lines_through_one_connection_are_told_and_stored(proxied: Connection):
    """Four thousand under keys, sent twice: created each, then duplicates."""
    token = uuid.uuid4().hex[:12]
    for status in ("created", "duplicate"):
        talk = Talk(proxied)
        items = [{"idempotency_key": f"01900000-0000-7000-8{n:03x}-{token}", "usage": {"n": n}} for n in range(4096)]
        sender = threading.Thread(target=lambda items=items, talk=talk: (talk.send(*items), talk.finish()), daemon=True)
        sender.start()
        assert {result["status"] for result in talk.results(4096)} == {status}
        sender.join(30)
        assert talk.summary()[status] == 4096
