"""The service with points at which it ends itself by ``kill -9``, when it is told to: ``python -m tests.chaos.points serve``.

It looks for a file ``<port>.armed`` in the directory that ``CHAOS_POINTS`` names, once for each group of an operation; the
file holds the point's name and the operation's. Everything else is the service itself.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

from service import __main__ as command
from service import instance
from service.settings import Settings
from service.store import KeyedUsage, Put, Results, Store, open_store

ARMED = ".armed"
POINTS = {
    "before-send": "when it has a group and has sent nothing of it",
    "after-send": "when it has sent a group and has no answer from the store",
    "after-ack": "when the store has the group and no client was told",
}
OPERATIONS = {
    "put_usages": "insert_usage",
    "put_keyed_usages": "insert_keyed",
    "put_messages": "insert_message",
    "delete_messages": "delete_message",
}
"""Of whose groups: each promises another thing, and each way to the store is another. With the statement by which Cassandra
gets it, as some look first, and name in the directory what they are about to write."""
SENT_AFTER_S = 0.000_5
"""What was handed over is on its way to the store after so long; its fsync alone takes longer."""

Item = TypeVar("Item")
Done = TypeVar("Done")


class Pointed:
    """A store that hands everything on, and looks whether it is to end at each point of a group."""

    def __init__(self, store: Store, armed: Path) -> None:
        self._store = store
        self._armed = armed
        link = getattr(store, "_link", None)
        self._by_statement = link is not None
        if link is not None:
            link.write = self._sending(link.write)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def put_usages(self, group: Sequence[tuple[int, bytes]]) -> Results[None]:
        """As the store does it, unless this is the end; so are the others."""
        return await self._write("put_usages", self._store.put_usages, group)

    async def put_keyed_usages(self, group: Sequence[KeyedUsage]) -> Results[Put]:
        """See put_usages."""
        return await self._write("put_keyed_usages", self._store.put_keyed_usages, group)

    async def put_messages(self, group: Sequence[tuple[bytes, bytes]]) -> Results[None]:
        """See put_usages."""
        return await self._write("put_messages", self._store.put_messages, group)

    async def delete_messages(self, digests: Sequence[bytes]) -> Results[bool]:
        """See put_usages."""
        return await self._write("delete_messages", self._store.delete_messages, digests)

    async def _write(
        self, operation: str, write: Callable[[Sequence[Item]], Awaitable[Results[Done]]], group: Sequence[Item]
    ) -> Results[Done]:
        point = self._point(operation)
        if point == "before-send":
            os.kill(os.getpid(), signal.SIGKILL)
        if point == "after-send" and not self._by_statement:
            _end_soon()
        results = await write(group)
        if point == "after-ack":
            os.kill(os.getpid(), signal.SIGKILL)
        return results

    def _sending(self, write: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        operations = {statement: operation for operation, statement in OPERATIONS.items()}

        async def sending(statement: str, *words: Any, **more: Any) -> Any:
            if statement in operations and self._point(operations[statement]) == "after-send":
                _end_soon()
            return await write(statement, *words, **more)

        return sending

    def _point(self, operation: str) -> str:
        try:
            point, _, armed = self._armed.read_text().partition(" ")
        except FileNotFoundError:
            return ""
        return point if armed == operation else ""


def _end_soon() -> None:
    asyncio.get_running_loop().call_later(SENT_AFTER_S, os.kill, os.getpid(), signal.SIGKILL)


def arm(directory: Path, port: int, point: str, operation: str) -> Path:
    """Have the instance on this port end at this point of its next group; the file that says so, to be taken away."""
    armed = directory / f"{port}{ARMED}"
    unfinished = armed.with_suffix(".new")
    unfinished.write_text(f"{point} {operation}")
    unfinished.replace(armed)
    return armed


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
