"""CPU time and memory of processes and all their descendants."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence

import psutil

MIB = 1024 * 1024
Roles = Mapping[str, Sequence[int]]
"""Role to the processes that play it; their descendants play it too."""
Reading = Mapping[str, Mapping[int, float]]
"""Role to pid to CPU seconds so far, user and system."""


def families(roots: Iterable[int]) -> dict[int, list[psutil.Process]]:
    """Each process that runs with all its descendants that there are now."""
    processes = {process.pid: process for process in psutil.process_iter(["ppid"])}
    children: dict[int, list[int]] = {}
    for process in processes.values():
        children.setdefault(process.info["ppid"], []).append(process.pid)
    found: dict[int, list[psutil.Process]] = {}
    for root in roots:
        family = [root]
        for pid in family:  # it grows as we go
            family += children.get(pid, ())
        found[root] = [processes[pid] for pid in family if pid in processes]
    return found


def read(roles: Roles) -> Reading:
    """What each process has used so far."""
    found = families(pid for pids in roles.values() for pid in pids)
    return {
        role: {process.pid: _seconds(process) for pid in pids for process in found[pid]} for role, pids in roles.items()
    }


def used(before: Reading, after: Reading) -> dict[str, float]:
    """CPU seconds by role between two readings; a process that came in between counts from its start."""
    return {
        role: sum(seconds - before.get(role, {}).get(pid, 0.0) for pid, seconds in processes.items())
        for role, processes in after.items()
    }


def machine_s() -> float:
    """CPU seconds that all of this machine has used so far, what the hypervisor took from it included."""
    times = psutil.cpu_times()
    idle = times.idle + getattr(times, "iowait", 0.0) + getattr(times, "guest", 0.0) + getattr(times, "guest_nice", 0.0)
    return float(sum(times) - idle)


def wait_until_quiet(
    roles: Sequence[Roles], share: float = 0.08, interval_s: float = 0.5, timeout_s: float = 20.0
) -> float:
    """Return once all these processes together use less than this share of one core; the share that it was at last."""
    deadline = time.monotonic() + timeout_s
    while True:
        before, began = [read(each) for each in roles], time.monotonic()
        time.sleep(interval_s)
        after, took = [read(each) for each in roles], time.monotonic() - began
        busy = sum(sum(used(first, second).values()) for first, second in zip(before, after, strict=True)) / took
        if busy < share or time.monotonic() > deadline:
            return busy


def rss_mib(pids: Sequence[int]) -> tuple[float, ...]:
    """Resident memory of each process with its descendants, in MiB; 0 for one that has gone."""
    found = families(pids)
    return tuple(sum(_rss(process) for process in found[pid]) / MIB for pid in pids)


def _seconds(process: psutil.Process) -> float:
    return _or_zero(lambda: float(sum(process.cpu_times()[:2])))


def _rss(process: psutil.Process) -> float:
    return _or_zero(lambda: float(process.memory_info().rss))


def _or_zero(ask: Callable[[], float]) -> float:
    try:
        return ask()
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return 0.0
