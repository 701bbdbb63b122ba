"""What is being done, how long it has taken and about how long it will: a bar on a terminal, otherwise lines."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TextIO

BAR = 24
QUIET_S = 30.0
"""Without a terminal, what lasts says so at most this often."""


class Progress:
    """Counts down sections of an expected length; the estimate follows what they took."""

    def __init__(
        self, expected_s: Mapping[str, float], out: TextIO, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._expected = dict(expected_s)
        self._out = out
        self._clock = clock
        self._began = clock()
        self._section = ""
        self._section_began = self._began
        self._said_at = self._began
        self._terminal = out.isatty()
        self._drawn = False

    @property
    def elapsed_s(self) -> float:
        """Since the start."""
        return self._clock() - self._began

    @property
    def total_s(self) -> float:
        """About how long it will have taken: what it took, the rest of this section, and the sections to come."""
        rest = sum(self._expected.values())
        if self._section in self._expected:
            in_it = self._clock() - self._section_began
            rest -= min(in_it, self._expected[self._section])
        return self.elapsed_s + rest

    @contextmanager
    def section(self, name: str) -> Iterator[None]:
        """While a section runs."""
        self._section, self._section_began = name, self._clock()
        try:
            yield
        finally:
            self._expected.pop(name, None)
            self._section = ""

    def step(self, text: str) -> None:
        """Something begins that takes seconds."""
        self._show(text, line=not self._terminal)

    def tick(self, text: str) -> None:
        """It goes on."""
        self._show(text, line=not self._terminal and self._clock() - self._said_at >= QUIET_S)

    def say(self, text: str) -> None:
        """A result, or a remark, that stays."""
        self._erase()
        self._out.write(f"{self._times()}  {text}\n")
        self._out.flush()
        self._said_at = self._clock()

    def close(self) -> None:
        """Leave the terminal as it was."""
        self._erase()
        self._out.flush()

    def _times(self) -> str:
        return f"{clock_time(self.elapsed_s)} of about {clock_time(self.total_s)}"

    def _show(self, text: str, *, line: bool) -> None:
        if line:
            self.say(text)
        elif self._terminal:
            part = min(1.0, self.elapsed_s / max(1e-9, self.total_s))
            filled = round(part * BAR)
            shown = f"{'█' * filled}{'░' * (BAR - filled)} {part:4.0%}  {self._times()}  {text}"
            self._out.write("\r\x1b[K" + shown[: shutil.get_terminal_size().columns - 1])
            self._out.flush()
            self._drawn = True

    def _erase(self) -> None:
        if self._drawn:
            self._out.write("\r\x1b[K")
            self._drawn = False


def clock_time(seconds: float) -> str:
    """Seconds as `12:34`."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"
