"""A clock that jumps and a commit function that ends when a test says so: group commit without waiting or luck."""

from __future__ import annotations

import asyncio
import dataclasses
import selectors
import types
import unittest.mock
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any

from service.errors import StoreError
from service.group_commit import GroupCommit, Limits

LIMITS = Limits(
    group_size_max=4,
    group_bytes_max=100,
    groups_in_flight_max=1,
    queue_size_max=10,
    queue_bytes_max=300,
    queue_wait_max_s=1.0,
)


class _JumpingSelector(selectors.DefaultSelector):
    loop: JumpingLoop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        assert timeout is not None, "everything waits and nothing will ever happen"
        self.loop.now_s += max(timeout, 0.0)
        return super().select(0)


class JumpingLoop(asyncio.SelectorEventLoop):
    """An event loop that does not sleep: when nothing is left to do its clock jumps to the next timer."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        selector = _JumpingSelector()
        selector.loop = self
        super().__init__(selector)

    def time(self) -> float:
        """The clock that only ever jumps."""
        return self.now_s


def run(main: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine on a loop whose clock jumps, and a flight's duration is measured by that clock."""
    loop = JumpingLoop()
    clock = types.SimpleNamespace(perf_counter=loop.time)
    with unittest.mock.patch("service.group_commit.time", clock), asyncio.Runner(loop_factory=lambda: loop) as runner:
        return runner.run(main)


async def turns(count: int = 6) -> None:
    """Let whatever can happen now happen."""
    for _ in range(count):
        await asyncio.sleep(0)


@dataclasses.dataclass
class Flight:
    """One group as the commit function got it."""

    items: list[int]
    outcome: asyncio.Future[Any]

    def succeed(self) -> None:
        """Every item was stored."""
        self.outcome.set_result(stored(self.items))

    def end(self, errors: Mapping[int, StoreError]) -> None:
        """These items failed, each with its own error, the others were stored."""
        self.outcome.set_result([errors.get(item, f"stored {item}") for item in self.items])


def stored(items: Sequence[int]) -> list[str | StoreError]:
    """What a commit function returns for these items: each its own result."""
    return [f"stored {item}" for item in items]


class ControlledCommit:
    """A commit function whose groups stay in flight until the test ends them."""

    def __init__(self) -> None:
        self.flights: list[Flight] = []

    async def __call__(self, items: Sequence[int]) -> Sequence[str | StoreError]:
        """Put a group in flight."""
        flight = Flight(list(items), asyncio.get_running_loop().create_future())
        self.flights.append(flight)
        result: Sequence[str | StoreError] = await flight.outcome
        return result

    @property
    def open_flights(self) -> list[Flight]:
        """Those that have not ended."""
        return [flight for flight in self.flights if not flight.outcome.done()]

    @property
    def sent(self) -> list[int]:
        """All items of all groups, in order."""
        return [item for flight in self.flights for item in flight.items]


Observed = list[tuple[str, int, float]]


def group_commit(
    commit: Callable[..., Any],
    kind: type[GroupCommit[int, str]] = GroupCommit[int, str],
    observed: Observed | None = None,
    **changes: Any,
) -> GroupCommit[int, str]:
    """A group commit with small limits, some of them changed."""
    log: Observed = [] if observed is None else observed
    limits = dataclasses.replace(LIMITS, **changes)
    return kind("test", commit, limits, lambda name, items, seconds: log.append((name, items, seconds)))
