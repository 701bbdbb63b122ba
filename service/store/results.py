"""What the parts of a group have in common: an error for each item, and work side by side."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, TypeVar

from service.errors import StoreError

Item = TypeVar("Item")
Value = TypeVar("Value")


def copy_of(error: StoreError) -> StoreError:
    """An exception for one item alone: one that many futures raise gathers all their tracebacks."""
    return type(error)(str(error))


def spread(error: StoreError | None, indexes: Iterable[int], results: list[Any]) -> None:
    """What befell a statement is the result of each item in it."""
    if error is not None:
        for index in indexes:
            results[index] = copy_of(error)


async def run_all(work: Iterable[Awaitable[None]]) -> None:
    """Run all at once, which the session bounds; a single one without a task of its own."""
    awaitables = list(work)
    if len(awaitables) == 1:
        await awaitables[0]
    else:
        await asyncio.gather(*awaitables)


async def map_bounded(work: Callable[[Item], Awaitable[Value]], items: Sequence[Item], at_once: int) -> list[Value]:
    """``work`` of each item, in order, at most ``at_once`` side by side. The first error ends all of it, and is raised."""
    results: list[Any] = [None] * len(items)
    todo = iter(enumerate(items))

    async def worker() -> None:
        for index, item in todo:
            results[index] = await work(item)

    workers = [asyncio.ensure_future(worker()) for _ in range(min(at_once, len(items)))]
    try:
        await asyncio.gather(*workers)
    finally:
        for each in workers:
            each.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
    return results
