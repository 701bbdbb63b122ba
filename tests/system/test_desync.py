"""The request-smuggling corpus against HAProxy and the web instances behind it, and the detector that judges it."""

from __future__ import annotations

import re
import socketserver
import threading
from collections.abc import Iterator

import pytest

from deploy.cluster import RunningCluster
from tests.system.desync import crossed, faults, strike
from tests.system.hostile import attacks

ATTACKS = attacks()


@pytest.mark.parametrize("name", ATTACKS)
def test_no_request_is_smuggled_and_every_client_gets_its_own_answer(base_url: str, name: str) -> None:
    """One answer at most, never a 5xx; a canary behind the attack and canaries of others get their own answers."""
    assert faults(base_url, strike(base_url, ATTACKS[name])) == []


def test_a_web_instance_without_haproxy_is_not_deceived_either(cluster: RunningCluster) -> None:
    """The whole corpus at an instance's own port: the same, so that nothing hangs on what HAProxy happens to refuse."""
    process = cluster.process("web1")
    url = f"http://{process.address}:{process.port}"
    wrong = {name: faults(url, strike(url, attack)) for name, attack in ATTACKS.items()}
    assert {name: found for name, found in wrong.items() if found} == {}


class Gullible(socketserver.StreamRequestHandler):
    """The plant: a server that takes no body for a body, so whatever looks like a request in one is run."""

    def handle(self) -> None:
        """Answer every head with its own request id."""
        lines: list[bytes] = []
        for line in self.rfile:
            lines.append(line)
            if line not in (b"\r\n", b"\n"):
                continue
            head, lines = b"".join(lines), []
            id_ = re.search(rb"X-Request-ID: (\S+)", head)
            answer = b"HTTP/1.1 404 Not Found\r\nX-Request-ID: %b\r\nContent-Length: 0\r\n\r\n"
            self.wfile.write(answer % (id_[1] if id_ else b"none"))


@pytest.fixture
def gullible() -> Iterator[str]:
    """The planted server's address."""
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Gullible) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join(10)


def test_the_detector_notices_a_smuggled_request_and_another_clients_answer(gullible: str) -> None:
    """Run against the plant, it names what happened."""
    found = faults(gullible, strike(gullible, ATTACKS["CL.TE, the length is longer"]))
    assert "the smuggled request was answered" in found
    assert any("answers to one request" in text for text in found)
    assert any(text.startswith("another client was answered 404") for text in crossed(gullible))
