"""Locust as a person starts it: processes with the repository's locustfile, their record, and the reconciliation after."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.cluster import RunningCluster
from tests.support import die_with_parent, end

ROOT = Path(__file__).parents[2]
RUN_TIMEOUT_S = 90
RECONCILE_TIMEOUT_S = 120


def free_port() -> int:
    """One that nothing listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def store_of(cluster: RunningCluster) -> str:
    """The cluster's store as a URL."""
    cassandra = cluster.state["cassandra"]
    return f"cassandra://{cassandra['hosts'][0]}:{cassandra['port']}/{cassandra['keyspace']}"


@dataclass(frozen=True)
class Load:
    """A load test that writes into a directory of its own."""

    directory: Path
    base_url: str

    @property
    def said(self) -> list[str]:
        """What the leading process is told of where to send, and where to write."""
        return [
            f"--host={self.base_url}",
            f"--journal={self.directory / 'journals'}",
            f"--timeline={self.directory / 'timeline.json'}",
            "--only-summary",
        ]

    @contextlib.contextmanager
    def locust(self, name: str, *words: str) -> Iterator[subprocess.Popen[bytes]]:
        """One Locust process, ended in any case."""
        self.directory.mkdir(parents=True, exist_ok=True)
        with (self.directory / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "locust", "-f", "loadtest/locustfile.py", *words],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=die_with_parent,  # noqa: PLW1509 - one system call, no lock is taken
            )
        try:
            yield process
        finally:
            end(process)

    @contextlib.contextmanager
    def alone(self, *words: str) -> Iterator[list[subprocess.Popen[bytes]]]:
        """A headless process that makes the load by itself."""
        with self.locust("alone", "--headless", *self.said, *words) as process:
            yield [process]

    @contextlib.contextmanager
    def distributed(self, workers: int, *words: str) -> Iterator[list[subprocess.Popen[bytes]]]:
        """A headless master and its workers, the master first."""
        port = free_port()
        master = ["--headless", "--master", "--master-bind-host=127.0.0.1", f"--master-bind-port={port}"]
        with contextlib.ExitStack() as processes:
            leading = self.locust("master", *master, f"--expect-workers={workers}", *self.said, *words)
            running = [processes.enter_context(leading)]
            for number in range(1, workers + 1):
                worker = ["--worker", "--master-host=127.0.0.1", f"--master-port={port}"]
                running.append(processes.enter_context(self.locust(f"worker{number}", *worker)))
            yield running

    def run(self, *words: str, workers: int = 0) -> None:
        """Run to the end, which must come, without a failed request."""
        running = self.distributed(workers, *words) if workers else self.alone(*words)
        with running as processes:
            assert processes[0].wait(RUN_TIMEOUT_S) == 0, self.log()

    def log(self) -> str:
        """What its processes said."""
        return "\n".join(f"{path.name}:\n{path.read_text()}" for path in sorted(self.directory.rglob("*.log")))

    @property
    def timeline(self) -> dict[str, Any]:
        """What it recorded."""
        timeline: dict[str, Any] = json.loads((self.directory / "timeline.json").read_text())
        return timeline

    @property
    def totals(self) -> dict[str, Any]:
        """The sums of its last test."""
        totals: dict[str, Any] = self.timeline["tests"][-1]["totals"]
        return totals

    def reconciled(self, store: str) -> dict[str, Any]:
        """The reconciliation of its journals with the store. Fails when anything is lost, phantom, duplicate or corrupt."""
        report = self.directory / "reconcile.json"
        done = subprocess.run(
            [sys.executable, "-m", "loadtest.reconcile", str(self.directory), "--store", store, "--json", str(report)],
            cwd=ROOT,
            text=True,
            capture_output=True,
            timeout=RECONCILE_TIMEOUT_S,
            check=False,
        )
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}\n{self.log()}"
        found: dict[str, Any] = json.loads(report.read_text())
        return found


@dataclass(frozen=True)
class Together:
    """Load tests that ran side by side, by their names, and what the store has of all of them."""

    loads: dict[str, Load]
    found: dict[str, Any]

    @classmethod
    def run(cls, cluster: RunningCluster, directory: Path, words: dict[str, list[str]]) -> Together:
        """Run all to their ends, which must come, without a failed request, and compare with the store once."""
        loads = {name: Load(directory / name, cluster.base_url) for name in words}
        with contextlib.ExitStack() as running:
            processes = [running.enter_context(load.alone(*words[name])) for name, load in loads.items()]
            for (process,), load in zip(processes, loads.values(), strict=True):
                assert process.wait(RUN_TIMEOUT_S) == 0, load.log()
        return cls(loads, Load(directory, cluster.base_url).reconciled(store_of(cluster)))
