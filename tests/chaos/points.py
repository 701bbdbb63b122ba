"""The service with points at which it ends itself by ``kill -9``, when it is told to: ``python -m tests.chaos.points serve``.

It looks for a file ``<port>.armed`` in the directory that ``CHAOS_POINTS`` names, once for each group of usages; the file
holds the point's name. Everything else is the service itself.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

from service import __main__ as command
from service import instance
from service.settings import Settings
from service.store import Results, Store, open_store

ARMED = ".armed"
POINTS = {
    "before-send": "when it has a group and has sent nothing of it",
    "after-send": "when it has sent a group and has no answer from the store",
    "after-ack": "when the store has the group and no client was told",
}
SENT_AFTER_S = 0.000_5
"""A group is on its way to the store after so long; its fsync alone takes longer."""


class Pointed:
    """A store that hands everything on, and looks whether it is to end at each point of a group of usages."""

    def __init__(self, store: Store, armed: Path) -> None:
        self._store = store
        self._armed = armed

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def put_usages(self, group: Sequence[tuple[int, bytes]]) -> Results[None]:
        """As the store does it, unless this is the end."""
        point = self._point()
        if point == "before-send":
            os.kill(os.getpid(), signal.SIGKILL)
        if point == "after-send":
            asyncio.get_running_loop().call_later(SENT_AFTER_S, os.kill, os.getpid(), signal.SIGKILL)
        results = await self._store.put_usages(group)
        if point == "after-ack":
            os.kill(os.getpid(), signal.SIGKILL)
        return results

    def _point(self) -> str:
        try:
            return self._armed.read_text()
        except FileNotFoundError:
            return ""


def pointed(opening: Callable[[Settings], Store], directory: Path) -> Callable[[Settings], Store]:
    """``opening`` with points in what it opens."""

    def opened(settings: Settings) -> Store:
        return cast(Store, Pointed(opening(settings), directory / f"{settings.listen_port}{ARMED}"))

    return opened


def main() -> int:
    """What ``python -m service`` does."""
    vars(instance)["open_store"] = pointed(open_store, Path(os.environ["CHAOS_POINTS"]))
    return command.main(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
