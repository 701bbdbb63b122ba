"""A bug of the group commit, around the real one."""

from __future__ import annotations

import asyncio

from service import messages, usages
from service.errors import QueueFull
from service.group_commit import GroupCommit, Item, Result, Sink

REFUSE_EVERY = 50


class RefusesAfterEnqueue(GroupCommit[Item, Result]):
    """Says that its queue is full when the item is in it already; one in REFUSE_EVERY."""

    _items = 0

    def submit_to(self, sink: Sink[Result], item: Item, size: int) -> None:
        """Queue it, and now and then deny it."""
        self._items += 1
        if self._items % REFUSE_EVERY == 0 and "reads" not in self.name:
            super().submit_to(asyncio.get_running_loop().create_future(), item, size)
            raise QueueFull(f"{self.name}: {self.waiting} items wait")
        super().submit_to(sink, item, size)


def plant_refusals() -> None:
    """All group commits that are made from now on are such."""
    usages.GroupCommit = RefusesAfterEnqueue  # type: ignore[attr-defined]
    messages.GroupCommit = RefusesAfterEnqueue  # type: ignore[attr-defined]
