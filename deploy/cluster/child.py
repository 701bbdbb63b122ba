"""One process of the cluster: started with a log of its own, never outliving the supervisor."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from deploy.cluster.plan import Member
from deploy.cluster.state import ProcessState

_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
LOG_TAIL_BYTES = 4_000
GIVES_WAY_AFTER_S = 60.0
"""From its start on: who starts needs the cores, and would not be up in that time among clients who take all of them."""
ASKED_AGAIN_S = 0.25


def dies_with_parent(death_signal: signal.Signals) -> Callable[[], None]:
    """What a child runs before exec so that the kernel signals it when its parent ends, even by kill -9."""
    parent = os.getpid()

    def prepare() -> None:
        if _LIBC is not None:
            _LIBC.prctl(_PR_SET_PDEATHSIG, int(death_signal))
            if os.getppid() != parent:  # it ended before prctl could take effect
                os._exit(1)

    return prepare


async def spawn(
    command: Sequence[str],
    environment: Mapping[str, str],
    cwd: Path,
    log: Path,
    death_signal: signal.Signals = signal.SIGKILL,
) -> asyncio.subprocess.Process:
    """Start a command that appends to its log, in a session of its own so that a terminal's Ctrl-C is not its affair."""
    with log.open("ab") as output:
        return await asyncio.create_subprocess_exec(
            *command,
            env=dict(environment),
            cwd=cwd,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            preexec_fn=dies_with_parent(death_signal),
        )


def give_way(process: asyncio.subprocess.Process, nice: int) -> None:
    """From now on the process, and all in its session, have less of the cores where they are short. As good as it can be had.

    Where the kernel shares the cores among sessions first (autogroup, sched(7)), the nice value of a process counts within
    its session alone, and the session's own is what counts among them; everybody may raise it. In a cgroup that has a share
    of the CPU of its own, as a container has, it changes nothing.
    """
    if process.returncode is None:
        try:
            Path(f"/proc/{process.pid}/autogroup").write_text(str(nice))
        except BlockingIOError:  # who is not root may do so ten times a second, counted over the whole machine
            asyncio.get_running_loop().call_later(ASKED_AGAIN_S, give_way, process, nice)
        except OSError:  # another kernel, or it has ended
            return


async def ended_in_time(process: asyncio.subprocess.Process, timeout_s: float) -> bool:
    """Whether a process ends within the time."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(process.wait(), timeout_s)
    return process.returncode is not None


def tail(log: Path) -> str:
    """The last lines of a log, for a message that has to explain a death."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - LOG_TAIL_BYTES))
            text = file.read().decode(errors="replace")
    except FileNotFoundError:
        return ""
    return "\n".join(f"    {line}" for line in text.splitlines()[-12:])


def how_it_ended(returncode: int) -> str:
    """An exit in words: by a signal, or with a status."""
    if returncode < 0:
        return f"killed by {signal.Signals(-returncode).name}"
    return f"ended with exit status {returncode}"


@dataclass(frozen=True, slots=True)
class Ending:
    """How a kind of process is stopped: signals in turn, each with the longest wait for it to work."""

    steps: tuple[tuple[signal.Signals, float], ...]


class Child:
    """A member of the cluster and the process that plays it at the moment."""

    def __init__(
        self,
        member: Member,
        command: Sequence[str],
        environment: Mapping[str, str],
        cwd: Path,
        log: Path,
        ending: Ending,
        death_signal: signal.Signals = signal.SIGKILL,
        nice: int = 0,
    ) -> None:
        self.member = member
        self.name = member.name
        self.log = log
        self.wanted = False
        """Whether it should be running: an end while it should is a death, otherwise it is as asked."""
        self._start = (tuple(command), dict(environment), cwd, log, death_signal)
        self._ending = ending
        self._nice = nice
        self._process: asyncio.subprocess.Process | None = None

    def __repr__(self) -> str:
        return f"<Child {self.name} pid={self.pid} running={self.running}>"

    @property
    def pid(self) -> int:
        """The last pid; 0 before the first start."""
        return self._process.pid if self._process else 0

    @property
    def running(self) -> bool:
        """Whether its process is there."""
        return self._process is not None and self._process.returncode is None

    def has_died(self) -> bool:
        """Whether it ended without having been asked to."""
        return self.wanted and not self.running

    @property
    def ended(self) -> str:
        """How its last process ended, in words."""
        return how_it_ended(self._process.returncode or 0) if self._process else "was never started"

    async def start(self) -> None:
        """Start it; it counts as wanted from now on."""
        self.wanted = True
        command, environment, cwd, log, death_signal = self._start
        self._process = await spawn(command, environment, cwd, log, death_signal)
        if self._nice:
            asyncio.get_running_loop().call_later(GIVES_WAY_AFTER_S, give_way, self._process, self._nice)

    async def wait(self) -> int:
        """Wait for its end, then sweep what it may have left in its session; the exit status as Popen tells it."""
        if self._process is None:
            return 0
        returncode = await self._process.wait()
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        return returncode

    async def stop(self) -> int:
        """End it in good order, with more force when its time is over; its exit status."""
        self.wanted = False
        for step, timeout_s in self._ending.steps:
            if not self.running or self._process is None:
                break
            self.signal(step)
            await ended_in_time(self._process, timeout_s)
        return await self.kill() if self.running else await self.wait()

    async def kill(self) -> int:
        """End it at once."""
        self.wanted = False
        self.signal(signal.SIGKILL)
        return await self.wait()

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal, when it is there."""
        if self.running and self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)

    def state(self) -> ProcessState:
        """What state.json says of it."""
        member = self.member
        return ProcessState(
            member.role, member.name, member.address, member.port, self.pid, str(self.log), self.running
        )
