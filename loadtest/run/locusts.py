"""The Locust processes of a run: started with a log each, ended in order, never outliving the run."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from deploy.cluster.child import dies_with_parent, how_it_ended, tail
from deploy.cluster.client import ROOT
from loadtest.run.asked import LOOPBACK, Asked, leading_command, load_command, locust

POLL_INTERVAL_S = 0.2
STOP_TIMEOUT_S = 30.0
"""Users finish the request they are at, and workers report once more; then it is killed. Journals survive that."""
CHECK_TIMEOUT_S = 60.0
FAILED = 1
"""Locust's exit status when some request failed: what became of those is in the timeline."""


class LocustError(Exception):
    """Locust did not do what it was to do; the text is for the person who asked."""


class Locust:
    """One process of it, in a session of its own so that a terminal's Ctrl-C is not its affair."""

    def __init__(self, name: str, words: Sequence[str], log: Path) -> None:
        self.name = name
        self.log = log
        with log.open("ab") as output:
            self._popen = subprocess.Popen(
                [*locust(), *words],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                preexec_fn=dies_with_parent(signal.SIGTERM),  # noqa: PLW1509 - two system calls, no locks
            )

    @property
    def pid(self) -> int:
        """Its pid."""
        return self._popen.pid

    @property
    def running(self) -> bool:
        """Whether it has not ended yet."""
        return self._popen.poll() is None

    def ends_within(self, timeout_s: float) -> bool:
        """Wait for its end, at most so long; whether it came."""
        try:
            self._popen.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return False
        return True

    def ended_well(self) -> bool:
        """Whether it ended as it does when a test is over, with failed requests or without."""
        return self._popen.poll() in (0, FAILED)

    def why(self) -> str:
        """How it ended, with its last words."""
        return f"{self.name} {how_it_ended(self._popen.wait())}:\n{tail(self.log)}"

    def stop(self, timeout_s: float = STOP_TIMEOUT_S) -> None:
        """End it in order, and when it takes too long or Ctrl-C is pressed again, at once."""
        try:
            if self.running:
                self._popen.send_signal(signal.SIGTERM)
                self._popen.wait(timeout_s)
        except (subprocess.TimeoutExpired, KeyboardInterrupt):
            self._popen.kill()
        self._popen.wait()


class Locusts:
    """All processes of one load: one alone, or a master first and its workers."""

    def __init__(self, processes: Sequence[Locust]) -> None:
        self._processes = list(processes)

    @property
    def pids(self) -> list[int]:
        """Of those that run."""
        return [process.pid for process in self._processes if process.running]

    def wait(self, tick: Callable[[], None]) -> None:
        """Return when the load has ended by itself. Raises LocustError when a process ended otherwise."""
        leader, *workers = self._processes
        while leader.running:
            broken = [each for each in workers if not each.running and not each.ended_well()]
            if broken:
                raise LocustError(broken[0].why())
            tick()
            time.sleep(POLL_INTERVAL_S)
        if not leader.ended_well():
            raise LocustError(leader.why())

    def stop(self) -> None:
        """End the leader, which tells its workers, then whoever is left."""
        for process in self._processes:
            process.stop()


def check(asked: Asked) -> None:
    """Let Locust read the command line that it will be given. Raises LocustError with what it has to say against it."""
    words = [*load_command(asked, "http://127.0.0.1:1", asked.out), "--list"]
    done = subprocess.run(
        [*locust(), *words], cwd=ROOT, capture_output=True, text=True, timeout=CHECK_TIMEOUT_S, check=False
    )
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise LocustError("\n".join(said[-3:]))
    there = [line.strip() for line in done.stdout.splitlines() if line.startswith(" ")]
    unknown = [name for name in asked.user_classes if name not in there]
    if unknown:
        raise LocustError(f"there is no user class {', '.join(unknown)}; there are {', '.join(there)}")


def start(asked: Asked, host: str, directory: Path, ui_port: int, master_port: int) -> Locusts:
    """Start the load; the caller stops it."""
    shared = load_command(asked, host, directory)
    leading = leading_command(asked, directory, ui_port)
    if not asked.workers:
        return Locusts([Locust("locust", [*leading, *shared], directory / "locust.log")])
    master = ["--master", "--master-bind-host", LOOPBACK, "--master-bind-port", str(master_port)]
    if asked.by_itself:
        master += ["--expect-workers", str(asked.workers), "--expect-workers-max-wait", str(round(STOP_TIMEOUT_S))]
    worker = ["--worker", "--master-host", LOOPBACK, "--master-port", str(master_port)]
    processes = [Locust("locust master", [*leading, *master, *shared], directory / "locust.log")]
    try:
        for number in range(1, asked.workers + 1):
            log = directory / f"locust-worker-{number}.log"
            processes.append(Locust(f"locust worker {number}", [*worker, *shared], log))
    except BaseException:
        Locusts(processes).stop()
        raise
    return Locusts(processes)
