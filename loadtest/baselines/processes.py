"""Starts the processes of a server, waits until they are ready, and ends them whatever happens."""

from __future__ import annotations

import contextlib
import http.client
import os
import random
import re
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from deploy.cluster import plan, probes
from deploy.cluster.child import dies_with_parent, how_it_ended, tail
from loadtest.baselines.subject import DidNotStart

READY_TIMEOUT_S = 30.0
POLL_INTERVAL_S = 0.05
STOP_TIMEOUT_S = 5.0
LISTENING = re.compile(r"^listening (\d+)$", re.MULTILINE)


@dataclass
class Process:
    """A process, its log, and the signal that ends it in good order."""

    name: str
    popen: subprocess.Popen[bytes]
    log: Path
    ending: signal.Signals

    @property
    def pid(self) -> int:
        """Its pid."""
        return self.popen.pid

    def wait_until(self, ready: Callable[[], bool], timeout_s: float = READY_TIMEOUT_S) -> None:
        """Ask until it is ready. Raises DidNotStart with the end of its log when it ends first or takes too long."""
        deadline_s = time.monotonic() + timeout_s
        while not ready():
            returncode = self.popen.poll()
            if returncode is not None:
                raise DidNotStart(f"{self.name} {how_it_ended(returncode)}:\n{tail(self.log)}")
            if time.monotonic() > deadline_s:
                raise DidNotStart(f"{self.name} was not ready within {timeout_s:.0f} s:\n{tail(self.log)}")
            time.sleep(POLL_INTERVAL_S)

    def announced_port(self) -> int:
        """The port of the line "listening PORT" that it prints once it accepts connections."""
        self.wait_until(lambda: LISTENING.search(self.log.read_text(errors="replace")) is not None)
        found = LISTENING.search(self.log.read_text(errors="replace"))
        return int(found[1]) if found else 0

    def stop(self) -> None:
        """End it and all that it left in its session."""
        if self.popen.poll() is None:
            self.popen.send_signal(self.ending)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.popen.wait(STOP_TIMEOUT_S)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.popen.pid, signal.SIGKILL)
        self.popen.wait()


class Processes:
    """The processes of one server and the directory for their data and logs; both go with it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._processes: list[Process] = []

    def start(
        self,
        name: str,
        command: Sequence[str],
        environment: Mapping[str, str],
        *,
        user: tuple[int, int] | None = None,
        cwd: Path | None = None,
        ending: signal.Signals = signal.SIGTERM,
        death_signal: signal.Signals = signal.SIGKILL,
    ) -> Process:
        """Start a command, as another user and group if they are given. ``death_signal`` is what it gets should we be killed."""
        log = self.directory / f"{name}.log"
        with log.open("ab") as output:
            popen = subprocess.Popen(
                command,
                env=dict(environment),
                cwd=cwd or self.directory,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                user=user[0] if user else None,
                group=user[1] if user else None,
                extra_groups=[] if user else None,
                preexec_fn=dies_with_parent(death_signal),  # noqa: PLW1509  # it makes two system calls, no more
            )
        process = Process(name, popen, log, ending)
        self._processes.append(process)
        return process

    def stop(self) -> None:
        """End all, the last started first."""
        with contextlib.ExitStack() as stack:
            for process in self._processes:
                stack.callback(process.stop)


@contextlib.contextmanager
def processes(cache: Path, name: str) -> Iterator[Processes]:
    """Processes with a new directory in the cache, so that their data is on the disk that the cache is on."""
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache.resolve(), prefix=f"{name}-data-", ignore_cleanup_errors=True) as place:
        group = Processes(Path(place))
        try:
            yield group
        finally:
            group.stop()


def port_picker() -> plan.PortPicker:
    """Hands out free ports, in no order that another would pick too."""
    return plan.PortPicker(probes.is_free, random.sample(plan.PORTS, len(plan.PORTS)))


def http_request(port: int, method: str, path: str, body: bytes | None = None) -> tuple[int, str]:
    """Status and body of one request to 127.0.0.1; (0, "") when there is no answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        headers = {"Content-Type": "application/json"} if body is not None else {}
        connection.request(method, path, body, headers)
        response = connection.getresponse()
        return response.status, response.read().decode(errors="replace")
    except (OSError, http.client.HTTPException):
        return 0, ""
    finally:
        connection.close()


def answers(port: int, path: str) -> Callable[[], bool]:
    """A probe: whether GET of the path is a 200."""
    return lambda: http_request(port, "GET", path)[0] == 200
