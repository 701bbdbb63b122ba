"""The timeline of the whole run, kept by the master or the only process, and the file that it is written to."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gevent

from loadtest.timeline import Timeline
from loadtest.window import Totals, totals

COLLECT_INTERVAL_S = 1.0
WRITE_INTERVAL_S = 5.0
WRITE_SHARE_MAX = 0.01
"""Of the process's time that may go into writing: a long run's file is written less often."""


class Record:
    """Merges deltas, takes notes, writes both. ``path`` None: nothing is written.

    The file is JSON: the timeline's members, ``notes``, a list of sentences, and ``tests``, a list of what is known of each
    test: ``{"shape", "began_unix_s", "ended_unix_s", "phases", "totals", …}``.
    """

    def __init__(self, path: Path | None) -> None:
        self.timeline = Timeline()
        self.notes: list[str] = []
        self.tests: list[dict[str, Any]] = []
        self._path = path
        self._written_at = -WRITE_INTERVAL_S
        self._write_took_s = 0.0

    @property
    def test(self) -> dict[str, Any]:
        """The notes of the test that runs, or ran last."""
        if not self.tests:
            self.begin("")
        return self.tests[-1]

    def begin(self, shape: str) -> None:
        """A test starts now."""
        self.tests.append({"shape": shape, "began_unix_s": time.time()})

    def add(self, delta: Mapping[str, Any]) -> None:
        """Merge what a process counted."""
        self.timeline.merge(delta)

    def totals(self, from_unix_s: float, to_unix_s: float) -> Totals:
        """The sums of a window."""
        return totals(self.timeline.as_dict(), from_unix_s, to_unix_s)

    def write(self) -> None:
        """Replace the file; a reader sees the old one or the new one, whole."""
        if self._path is None:
            return
        began = time.monotonic()
        self._path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = self._path.with_name(f"{self._path.name}.new")
        unfinished.write_text(self.timeline.as_json(notes=self.notes, tests=self.tests))
        unfinished.replace(self._path)
        self._written_at = time.monotonic()
        self._write_took_s = self._written_at - began

    def keep(self, collect: Callable[[], None]) -> None:
        """Collect each second and write every few, for ever; to be run as a greenlet."""
        while True:
            gevent.sleep(COLLECT_INTERVAL_S)
            collect()
            due_after_s = max(WRITE_INTERVAL_S, self._write_took_s / WRITE_SHARE_MAX)
            if self.tests and time.monotonic() - self._written_at >= due_after_s:
                self.write()
