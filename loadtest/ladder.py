"""The ladder of users that the original project's log climbed with ab: which levels fit, when each runs, what to say. Pure."""

from __future__ import annotations

import resource
from dataclasses import dataclass
from typing import Any

from loadtest.options import levels
from loadtest.rates import Phase, at_least
from loadtest.window import Totals

FILES_RESERVED = 200
"""Of the open files that a process may have: what it needs beside its connections."""
SETTLED_SHARE = 0.5
"""The figures of a level are those of its second half."""


@dataclass(frozen=True)
class Ladder:
    """Numbers of users, each for ``level_s``."""

    levels: tuple[int, ...]
    level_s: float
    warnings: tuple[str, ...] = ()

    def level(self, t_s: float) -> int | None:
        """The number of users at this time; None when the ladder has been climbed."""
        number = int(t_s / self.level_s)
        return self.levels[number] if number < len(self.levels) else None

    def phases(self) -> list[Phase]:
        """Each level."""
        return [
            Phase(f"{users:,} users", number * self.level_s, (number + 1) * self.level_s)
            for number, users in enumerate(self.levels)
        ]

    def windows(self) -> list[tuple[int, float, float]]:
        """Each level's users, and the seconds from and to which its figures are taken."""
        return [
            (users, phase.begins_s + self.level_s * SETTLED_SHARE, phase.ends_s)
            for users, phase in zip(self.levels, self.phases(), strict=True)
        ]

    def line(self, users: int, totals: Totals) -> str:
        """A level in words."""
        text = f"{users:,} users: {totals.answered / max(totals.seconds, 1):,.0f} requests/s"
        if totals.p50_s is not None and totals.p99_s is not None:
            text += f", p50 {totals.p50_s * 1e3:,.1f} ms, p99 {totals.p99_s * 1e3:,.1f} ms"
        text += f", {totals.failed:,} failures"
        return text + (f", most often: {totals.reasons[0][0]}" if totals.reasons else "")


def fitting(wanted: list[int], files_max: int, processes: int) -> tuple[list[int], list[str]]:
    """The levels that the open files of the processes allow; a level beyond is cut down to what they do, and said to be."""
    most = max(files_max - FILES_RESERVED, 1) * processes
    kept = [users for users in wanted if users <= most]
    beyond = [users for users in wanted if users > most]
    if not beyond:
        return kept, []
    why = (
        f"{', '.join(f'{users:,}' for users in beyond)} users do not fit: {processes} process(es) may open {files_max:,} "
        f"files each (ulimit -n). The ladder ends at {most:,} users; with more workers it goes higher."
    )
    return [*kept, most], [why]


def ladder_of(options: Any, processes: int) -> Ladder:
    """``ab-ladder`` as the options have it, for this number of generating processes. Raises ValueError."""
    level_s = at_least(options.level_s, 1, "level-s")
    files_max, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    kept, warnings = fitting(levels(options.ladder), files_max, processes)
    return Ladder(tuple(kept), level_s, tuple(warnings))
