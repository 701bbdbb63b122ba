"""Toxiproxy: a TCP proxy that does to a connection what a network may do. Installed once, steered over its HTTP interface."""

from __future__ import annotations

import http.client
import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.cluster import plan, probes
from deploy.cluster.child import dies_with_parent, tail
from deploy.cluster.client import ROOT
from deploy.cluster.state import write_json
from loadtest.baselines.installing import installed, output_of, program
from loadtest.baselines.subject import Missing

VERSION = "2.12.0"
MODULE = f"github.com/Shopify/toxiproxy/v2/cmd/server@v{VERSION}"
FILE = "toxiproxy.json"
"""In the state directory of a cluster that has one: where it is steered."""
NAME = "cassandra"
START_TIMEOUT_S = 20.0
ASK_TIMEOUT_S = 10.0
UPSTREAM, DOWNSTREAM = "upstream", "downstream"
"""Towards Cassandra, and back."""


class ProxyError(Exception):
    """Toxiproxy did not do what it was asked to."""


def server() -> Path:
    """Its program, from the Go module proxy. Raises Missing."""
    go = program("go", also="/usr/local/go/bin")

    def make(directory: Path) -> None:
        output_of([go, "install", "-trimpath", MODULE], directory, {**os.environ, "GOBIN": str(directory)})

    return installed(ROOT / ".cache", f"toxiproxy-{VERSION}", make) / "server"


def missing() -> str:
    """Why there can be none here, empty when there can."""
    try:
        server()
    except Missing as error:
        return str(error)
    return ""


@dataclass(frozen=True, slots=True)
class Proxy:
    """The one proxy of a Toxiproxy, by the port of its interface."""

    port: int

    @classmethod
    def of(cls, state_dir: Path) -> Proxy:
        """That of a cluster, by its state directory."""
        return cls(json.loads((state_dir / FILE).read_text())["port"])

    def enable(self, *, enabled: bool) -> None:
        """Let connections through, or end those that there are and take no more."""
        self._ask("POST", f"/proxies/{NAME}", {"enabled": enabled})

    def poison(self, kind: str, stream: str, **attributes: int) -> None:
        """Add a toxic to all connections, those that there are and those to come."""
        toxic = {"name": f"{kind}-{stream}", "type": kind, "stream": stream, "attributes": attributes}
        self._ask("POST", f"/proxies/{NAME}/toxics", toxic)

    def reset(self) -> None:
        """Everything gets through again, unchanged."""
        self._ask("POST", "/reset", {})

    def create(self, listen: str, upstream: str) -> None:
        """Begin to listen."""
        self._ask("POST", "/proxies", {"name": NAME, "listen": listen, "upstream": upstream, "enabled": True})

    def answers(self) -> bool:
        """Whether it can be steered."""
        try:
            self._ask("GET", "/version")
        except OSError:
            return False
        return True

    def _ask(self, method: str, path: str, document: dict[str, Any] | None = None) -> None:
        connection = http.client.HTTPConnection(plan.LOOPBACK, self.port, timeout=ASK_TIMEOUT_S)
        try:
            connection.request(method, path, None if document is None else json.dumps(document))
            answer = connection.getresponse()
            text = answer.read().decode(errors="replace")
        finally:
            connection.close()
        if answer.status >= 300:
            raise ProxyError(f"{method} {path}: {answer.status} {text}")


@contextmanager
def before_cassandra(state_dir: Path, cql_port: int) -> Iterator[int]:
    """A Toxiproxy before the node on that port; the port to use in its place. Raises Missing, ProxyError."""
    candidates = list(plan.PORTS)
    random.shuffle(candidates)
    picker = plan.PortPicker(probes.is_free, candidates)
    proxy, listen = Proxy(picker.free()), picker.free()
    log = state_dir / "toxiproxy.log"
    with log.open("ab") as output:
        process = subprocess.Popen(
            [str(server()), "-host", plan.LOOPBACK, "-port", str(proxy.port)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            env={**os.environ, "LOG_LEVEL": "error"},
            preexec_fn=dies_with_parent(signal.SIGKILL),  # noqa: PLW1509 - one system call, no locks
        )
    try:
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while not proxy.answers():
            if process.poll() is not None or time.monotonic() > deadline_s:
                raise ProxyError(f"Toxiproxy did not start:\n{tail(log)}")
            time.sleep(0.05)
        proxy.create(f"{plan.LOOPBACK}:{listen}", f"{plan.LOOPBACK}:{cql_port}")
        write_json(state_dir / FILE, {"port": proxy.port, "listen": listen})
        yield listen
    finally:
        process.kill()
        process.wait()
        (state_dir / FILE).unlink(missing_ok=True)
