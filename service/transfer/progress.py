"""What a transfer shows: a line that is written over on a terminal, nothing elsewhere, and a summary at the end."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import time
from collections import deque
from collections.abc import Callable
from typing import TextIO

REFRESH_S = 0.2
RATE_OVER = 25
"""Refreshes over which the rate is taken: five seconds."""
BAR_WIDTH = 20


class Progress:
    """Shows what ``state`` says: lines until now, the share that is done (None when that is not known), and further words."""

    def __init__(self, stream: TextIO, state: Callable[[], tuple[int, float | None, str]]) -> None:
        self._stream = stream
        self._state = state
        self._started_s = time.monotonic()
        self._seen: deque[tuple[float, int]] = deque([(self._started_s, 0)], maxlen=RATE_OVER)
        self._shown = False

    async def run(self) -> None:
        """Show it until cancelled; returns at once where there is no terminal."""
        if not self._stream.isatty():
            return
        try:
            while True:
                await asyncio.sleep(REFRESH_S)
                self._show(self.line(time.monotonic()))
        finally:
            self.clear()

    def line(self, now_s: float) -> str:
        """The line of now: a bar, lines, lines a second, and the state's words."""
        lines, share, words = self._state()
        self._seen.append((now_s, lines))
        since_s, before = self._seen[0]
        rate = (lines - before) / max(now_s - since_s, 1e-3)
        bar = "" if share is None else f"[{'=' * int(share * BAR_WIDTH):{BAR_WIDTH}}] {share:4.0%} "
        return f"{bar}{lines:,} lines, {rate:,.0f}/s{words}"

    def note(self, text: str) -> None:
        """A line that stays."""
        self.clear()
        print(text, file=self._stream, flush=True)

    def clear(self) -> None:
        """Take away what is shown."""
        if self._shown:
            self._shown = False
            self._write("\r\x1b[K")

    @property
    def elapsed_s(self) -> float:
        """Since the beginning."""
        return time.monotonic() - self._started_s

    def _show(self, line: str) -> None:
        self._shown = True
        self._write(f"\r{line[: shutil.get_terminal_size().columns - 1]}\x1b[K")

    def _write(self, text: str) -> None:
        with contextlib.suppress(OSError):
            self._stream.write(text)
            self._stream.flush()
