from __future__ import annotations

import http.client
import http.server
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

import pytest

from tests.chaos.witness import Right, Sample, Witness, between, is_digest, is_stored
from tests.support import ready_instance

pytestmark = pytest.mark.tools

PROBLEM = b'{"code": "overloaded"}'


class Misbehaving(http.server.BaseHTTPRequestHandler):
    """Each write in turn gets one of the answers that a service may never give, or may."""

    protocol_version = "HTTP/1.1"
    answers: tuple[tuple[int, dict[str, str], bytes], ...] = ()
    number = 0

    def do_POST(self) -> None:
        """The next answer."""
        self.rfile.read(int(self.headers["Content-Length"]))
        status, headers, body = type(self).answers[type(self).number % len(type(self).answers)]
        type(self).number += 1
        self._answer(status, headers, body)

    def do_GET(self) -> None:
        """Nothing is found."""
        self._answer(404, {}, b"{}")

    def log_message(self, *_words: object) -> None:
        """Nobody reads it."""

    def _answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


@contextmanager
def service(*answers: tuple[int, dict[str, str], bytes]) -> Iterator[tuple[str, int]]:
    """Where these answers are given."""
    handler = type("Handler", (Misbehaving,), {"answers": answers})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield ("127.0.0.1", server.server_address[1])
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def seen_of(address: tuple[str, int], count: int) -> list[Sample]:
    """What a witness sees, until it has seen so much."""
    witness = Witness(*address, rate_per_s=200)
    witness.start()
    deadline_s = time.monotonic() + 10
    while len(witness.samples) < count and time.monotonic() < deadline_s:
        time.sleep(0.02)
    witness.stop()
    assert len(witness.samples) >= count
    assert witness.troubles == []
    return witness.samples


def test_a_healthy_service_is_seen_to_be_right(tmp_path: Path):
    """Writes are 201, reads find what was acknowledged, nothing is wrong."""
    with ready_instance(tmp_path) as instance:
        samples = seen_of(instance.address, 80)
    assert {sample.status for sample in samples} == {200, 201}
    assert not [sample for sample in samples if sample.wrong]
    posts = {"POST usage", "POST usage with a key", "POST message"}
    assert {sample.name for sample in samples} == {*posts, "GET usage", "GET message"}
    assert {sample.name for sample in samples if sample.write} == posts


def test_what_a_service_may_never_answer_is_noticed():
    """The plants: a 503 without Retry-After, a 500, a usage that was acknowledged and is not found, a message under no digest."""
    created = (201, {"Location": "/api/usages/1"}, b'{"id": 1}')
    with service((503, {}, PROBLEM), (503, {"Retry-After": "2"}, PROBLEM), (500, {}, b"oh"), created) as address:
        samples = seen_of(address, 60)
    wrong = {sample.wrong for sample in samples}
    assert {"", "503 with Retry-After ''", "500 b'oh'", "404 for a usage that was acknowledged"} <= wrong
    assert {sample.wrong for sample in samples if sample.name == "POST message" and sample.status == 201} == {
        "201 b'{\"id\": 1}'"
    }
    assert {sample.text for sample in samples if sample.status == 503} == {"overloaded"}


@pytest.mark.parametrize(
    ("right", "status", "body"),
    [
        (is_stored("usage", {"a": 1}), 200, b'{"usage": {"a": 1}}'),
        (is_stored("message", "x"), 200, b'{"message": "x"}'),
        (is_digest("x"), 201, b'{"digest": "%b"}' % sha256(b"x").hexdigest().encode()),
    ],
)
def test_only_what_was_acknowledged_is_right(right: Right, status: int, body: bytes):
    """Another status, another value, nothing, and no JSON are wrong, in words."""
    nothing = http.client.HTTPMessage()
    assert right(status, nothing, body) == ""
    for other in (body.replace(b"x", b"y").replace(b"1", b"2"), b"{}", b"[]", b"no"):
        assert right(status, nothing, other)
    assert right(404, nothing, body)


def fail(*_words: object) -> None:
    """As a bug of its own would."""
    raise KeyError("x")


def test_a_witness_that_fails_says_so(monkeypatch: pytest.MonkeyPatch):
    """Nothing that it did not see counts as seen: of one request, and of all."""
    with service((201, {}, b"")) as address:
        witness = Witness(*address, rate_per_s=200)
        monkeypatch.setattr(witness, "_talk", fail)
        witness.start()
        time.sleep(0.1)
        witness.stop()
        assert witness.troubles == ["the witness failed: KeyError('x')"]
        other = Witness(*address)
        monkeypatch.setattr(other, "_run", fail)
        other.start()
        other.stop()
    assert other.troubles == ["the witness ended: KeyError('x')"]


def test_nobody_there_is_no_answer_and_nothing_wrong():
    """A refused connection has the status 0; whether it is allowed is for the verdict to say."""
    with service((201, {}, b"")) as address:
        pass
    samples = seen_of(address, 5)
    assert {(sample.status, sample.wrong) for sample in samples} == {(0, "")}


def test_samples_belong_to_the_window_in_which_they_were_sent():
    """From its beginning, before its end."""
    samples = [Sample(at, "x", 201, 1.0, write=True) for at in (1.0, 2.0, 3.0)]
    assert [sample.at_unix_s for sample in between(samples, 2.0, 3.0)] == [2.0]
    assert json.dumps(samples[0].status) == "201"
