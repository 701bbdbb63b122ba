"""Holds processes to a fixed share of one core, by the kernel's CPU controller."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

V1 = Path("/sys/fs/cgroup/cpu")
V2 = Path("/sys/fs/cgroup")
PERIOD_US = 10_000
"""Short, so that a process that has used up its share waits milliseconds and not a tenth of a second."""

QUOTA_US_MIN = 1_000
"""The least that the kernel takes."""


class NoShares(Exception):
    """The kernel's CPU controller cannot be used here, with the reason in one line."""


class Shares(ABC):
    """Groups of one process each."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._names: list[str] = []

    def hold(self, name: str, pid: int, share: float) -> None:
        """Hold a process and all its threads to this share of a core. Raises NoShares."""
        if name in self._names:
            return
        self._names.append(name)
        try:
            self._hold(f"busyapi-{os.getpid()}-{name}", pid, share)
        except (OSError, subprocess.SubprocessError) as error:
            raise NoShares(f"{self._what} cannot hold a process to a share of a core: {error}") from error

    @abstractmethod
    def _hold(self, name: str, pid: int, share: float) -> None: ...

    @abstractmethod
    def release(self) -> None:
        """Let all go again."""


class Directories(Shares):
    """Groups that are directories, of version 1 (with ``cpu.cfs_quota_us``) or of version 2 (with ``cpu.max``)."""

    def __init__(self, root: Path, *, second: bool) -> None:
        super().__init__(f"the CPU controller in {root}")
        self._root = root
        self._groups: list[Path] = []
        self._second = second

    def _hold(self, name: str, pid: int, share: float) -> None:
        group = self._root / name
        group.mkdir()
        self._groups.append(group)
        quota_us = max(QUOTA_US_MIN, round(share * PERIOD_US))
        period_us = round(quota_us / share)
        if self._second:
            (group / "cpu.max").write_text(f"{quota_us} {period_us}")
        else:
            (group / "cpu.cfs_period_us").write_text(str(period_us))
            (group / "cpu.cfs_quota_us").write_text(str(quota_us))
        (group / "cgroup.procs").write_text(str(pid))

    def release(self) -> None:
        """Put the processes back where they came from and remove the groups."""
        for group in self._groups:
            with contextlib.suppress(OSError):
                for pid in (group / "cgroup.procs").read_text().split():
                    with contextlib.suppress(OSError):  # it has ended
                        (self._root / "cgroup.procs").write_text(pid)
                group.rmdir()
        self._groups.clear()


class Systemd(Shares):
    """Scopes that systemd makes, for those who may not make groups themselves."""

    def __init__(self, busctl: str) -> None:
        super().__init__("systemd")
        self._bus = [busctl] if os.geteuid() == 0 else [busctl, "--user"]

    def _hold(self, name: str, pid: int, share: float) -> None:
        subprocess.run(
            [*self._bus, *scope_request(name, pid, share)], check=True, capture_output=True, text=True, timeout=10
        )

    def release(self) -> None:
        """A scope ends with its process, and the processes here end soon."""


def scope_request(name: str, pid: int, share: float) -> list[str]:
    """Busctl's words for a scope that adopts a process and gives it so many µs of CPU time a second."""
    manager = ["org.freedesktop.systemd1", "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager"]
    properties = ["3", "PIDs", "au", "1", str(pid)]
    properties += ["CPUQuotaPerSecUSec", "t", str(round(share * 1_000_000))]
    properties += ["CPUQuotaPeriodUSec", "t", str(PERIOD_US)]
    return ["call", *manager, "StartTransientUnit", "ssa(sv)a(sa(sv))", f"{name}.scope", "fail", *properties, "0"]


@contextmanager
def shares(first: Path = V1, second: Path = V2) -> Iterator[Shares]:
    """Whatever works here: version 1, version 2, systemd. Raises NoShares."""
    if os.access(first / "cgroup.procs", os.W_OK):
        found: Shares = Directories(first, second=False)
    elif _has_cpu_controller(second) and os.access(second, os.W_OK):
        found = Directories(second, second=True)
    elif busctl := shutil.which("busctl"):
        found = Systemd(busctl)
    else:
        raise NoShares("there is no CPU controller of the kernel's that we may use, and no systemd")
    try:
        yield found
    finally:
        found.release()


def _has_cpu_controller(root: Path) -> bool:
    try:
        return "cpu" in (root / "cgroup.subtree_control").read_text().split()
    except OSError:
        return False
