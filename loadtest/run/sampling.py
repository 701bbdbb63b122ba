"""CPU time by role, read once a second while the load runs."""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from deploy.cluster import ClusterError
from loadtest.benchmark import cpu

INTERVAL_S = 1.0
SAMPLES_MAX = 14_400
"""Four hours of them, as many as the timeline has seconds; the oldest go first."""


@dataclass(frozen=True, slots=True)
class _Reading:
    """CPU seconds so far, by role and of the whole machine."""

    used: cpu.Reading
    machine_s: float
    at_unix_s: float


class Sampler:
    """A thread that reads what each role has used, at the end of each second of the wall clock."""

    def __init__(self, roles: Callable[[], cpu.Roles]) -> None:
        self._roles = roles
        self._samples: deque[dict[str, Any]] = deque(maxlen=SAMPLES_MAX)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="cpu", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    def write(self, file: Path) -> None:
        """``{"samples": [{"at_unix_s", "took_s", "cpu_s": {role: seconds}, "machine_s"}]}``."""
        file.write_text(json.dumps({"samples": list(self._samples)}) + "\n", encoding="utf-8")

    def _run(self) -> None:
        before = self._read()
        while not self._over.wait(INTERVAL_S - time.time() % INTERVAL_S):
            after = self._read()
            if before is not None and after is not None and after.at_unix_s > before.at_unix_s:
                self._samples.append(_sample(before, after))
            before = after

    def _read(self) -> _Reading | None:
        """None when the topology's state could not be read: it may be changing just now, and that is one sample."""
        try:
            roles = self._roles()
        except (OSError, ValueError, ClusterError):
            return None
        return _Reading(cpu.read(roles), cpu.machine_s(), time.time())


def _sample(before: _Reading, after: _Reading) -> dict[str, Any]:
    return {
        "at_unix_s": after.at_unix_s,
        "took_s": after.at_unix_s - before.at_unix_s,
        "cpu_s": {role: round(cpu_s, 4) for role, cpu_s in cpu.used(before.used, after.used).items()},
        "machine_s": round(after.machine_s - before.machine_s, 4),
    }
