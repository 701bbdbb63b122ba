"""The cluster from outside, for tests and benchmarks: start one, look at it, stop and start its processes."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from deploy.cluster.child import dies_with_parent, tail
from deploy.cluster.control import ask
from deploy.cluster.errors import ClusterError
from deploy.cluster.plan import SERVICE, Options
from deploy.cluster.state import STATE, ProcessState, read_state

ROOT = Path(__file__).resolve().parents[2]
START_TIMEOUT_S = 600.0
STOP_TIMEOUT_S = 120.0
ASK_TIMEOUT_S = 240.0


class RunningCluster:
    """A cluster that runs, by its state directory. One that was started here is stopped by close()."""

    def __init__(self, state_dir: Path, supervisor: subprocess.Popen[bytes] | None = None) -> None:
        self.state_dir = state_dir.resolve()
        self._supervisor = supervisor
        state = self.state
        self.base_url: str = state["base_url"]
        self.https_url: str | None = state["https_url"]
        self.stats_url: str = state["stats_url"]

    def __repr__(self) -> str:
        return f"<RunningCluster {self.base_url} in {self.state_dir}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @property
    def state(self) -> dict[str, Any]:
        """state.json as it is now."""
        return read_state(self.state_dir)

    def processes(self, role: str | None = None) -> list[ProcessState]:
        """The processes of a role, or all."""
        processes = [ProcessState(**entry) for entry in self.state["processes"]]
        return [process for process in processes if role in (None, process.role)]

    def process(self, name: str) -> ProcessState:
        """One process by its name."""
        for process in self.processes():
            if process.name == name:
                return process
        raise ClusterError(f"there is no process {name}")

    def scale(self, web: int) -> list[str]:
        """Change the number of web instances; on return new ones take traffic and removed ones have drained."""
        names: list[str] = self._ask({"do": "scale", "web": web})
        return names

    def stop(self, name: str) -> int:
        """Stop a process in good order and wait for its end; its exit status."""
        status: int = self._ask({"do": "stop", "name": name})
        return status

    def kill(self, name: str) -> None:
        """Kill a process and wait until it is gone."""
        self._ask({"do": "kill", "name": name})

    def start(self, name: str, *, wait: bool = True) -> None:
        """Start a process that ended, with the name and port it had; returns when it is ready."""
        self._ask({"do": "start", "name": name, "wait": wait})

    def wait_until_ready(self) -> None:
        """Return when every process that runs is ready and HAProxy uses all running web instances."""
        self._ask({"do": "wait"})

    def signal(self, name: str, number: signal.Signals) -> None:
        """Send a process a signal, behind the cluster's back."""
        process = self.process(name)
        if not process.running:
            raise ClusterError(f"{name} does not run")
        os.kill(process.pid, number)

    def log(self, name: str) -> str:
        """What a process has logged in this run."""
        return Path(self.process(name).log).read_text(errors="replace")

    def close(self) -> int:
        """Stop the cluster when it was started here and wait for its end; its exit status."""
        if self._supervisor is None:
            return 0
        return _end(self._supervisor)

    def _ask(self, request: dict[str, Any]) -> Any:
        return ask(self.state_dir, request, ASK_TIMEOUT_S)


def start_cluster(options: Options, timeout_s: float = START_TIMEOUT_S) -> RunningCluster:
    """Start a cluster as a process of its own and return when it is ready. Raises ClusterError with its last words.

    Call it from a thread that lives as long as the cluster shall: the kernel stops the cluster with that thread.
    """
    state_dir = options.state_dir.resolve()
    state_dir.mkdir(parents=True, exist_ok=True)
    log = state_dir / "cluster.log"
    with log.open("ab") as output:
        supervisor = subprocess.Popen(
            [sys.executable, "-m", "deploy.cluster", *arguments(options)],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            preexec_fn=dies_with_parent(signal.SIGTERM),  # noqa: PLW1509 - one system call, no locks
        )
    deadline = time.monotonic() + timeout_s
    try:
        while not _is_of(state_dir, supervisor.pid):
            if supervisor.poll() is not None:
                raise ClusterError(f"the cluster did not start:\n{tail(log)}")
            if time.monotonic() > deadline:
                raise ClusterError(f"the cluster was not ready within {timeout_s:g} s:\n{tail(log)}")
            time.sleep(0.1)
    except BaseException:
        _end(supervisor)
        raise
    return RunningCluster(state_dir, supervisor)


def arguments(options: Options) -> list[str]:
    """The command line that says the same as the options."""
    words = ["--web", str(options.web), "--cassandra-nodes", str(options.cassandra_nodes), "--port", str(options.port)]
    words += ["--state-dir", str(options.state_dir.resolve())]
    if options.certificate is not None:
        words += ["--certificate", str(options.certificate.resolve()), "--https-port", str(options.https_port)]
    if options.cassandra_heap:
        words += ["--cassandra-heap", options.cassandra_heap]
    words += ["--restart"] * options.restart + ["--fresh"] * options.fresh + ["--discard"] * options.discard
    if options.service_command != SERVICE:
        words += ["--service-command", shlex.join(options.service_command)]
    for name, value in options.env.items():
        words += ["--env", f"{name}={value}"]
    return words


def _is_of(state_dir: Path, pid: int) -> bool:
    return (state_dir / STATE).exists() and bool(read_state(state_dir)["pid"] == pid)


def _end(supervisor: subprocess.Popen[bytes]) -> int:
    """Ask a supervisor to stop; then, when it takes too long, to hurry; then kill it, which takes its children along."""
    for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGKILL):
        if supervisor.poll() is None:
            supervisor.send_signal(number)
            try:
                supervisor.wait(STOP_TIMEOUT_S if number is signal.SIGTERM else 10)
            except subprocess.TimeoutExpired:
                continue
    return supervisor.wait(10)
