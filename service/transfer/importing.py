"""The import: lines over one stream after another, until each is stored or refused.

Every line is sent under a key, so one whose fate is not known is simply sent again. A stream ends when all is sent, or
when something goes wrong: a result says retry or unknown, the connection breaks, the instance drains. What has no result
by then waits for the next stream, which begins with it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from service.transfer.errors import Broken
from service.transfer.reading import Line, Refused
from service.transfer.retrying import Patience
from service.transfer.source import Ahead
from service.transfer.stream import PAUSE_MAX_S, PAUSE_S, Counts, Stream
from service.transfer.wire import Target


@dataclass
class Import:
    """One run. ``refuse`` is told of each line that is not stored and why; ``note`` of what a user should know."""

    to: Target
    source: Ahead
    patience: Patience
    refuse: Callable[[Refused], None]
    note: Callable[[str], None]
    counts: Counts = field(default_factory=Counts)
    ack: str = ""
    """What the service says its acknowledgements are worth."""
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    """Set it, and the import ends in good order: nothing more is sent, what was sent is awaited."""
    pause_s: float = PAUSE_S
    """After each piece of a long line."""
    _pending: deque[Line] = field(default_factory=deque)

    async def run(self) -> None:
        """Import all. Raises GaveUp; returns early, with what is settled counted, once ``stop`` is set."""
        done = False
        while not done and not self.stop.is_set():
            # A connection is opened once there is something to send on it.
            if not self._pending:
                lines = await self.next_lines()
                if lines is None:
                    return
                self._pending.extend(lines)
                continue
            settled = self.counts.settled
            stream = Stream(self, self._pending)
            try:
                done = await stream.run()
            except Broken as error:
                if not stream.unsettled():
                    continue  # it was cut while there was nothing to send
                if self.counts.settled > settled:
                    self.patience.worked()
                    self.pause_s = PAUSE_S
                else:
                    self.pause_s = min(self.pause_s * 2, PAUSE_MAX_S)
                delay_s = self.patience.delay_s(error)
                if not error.soon:
                    self.note(f"{error}; trying again in {delay_s:.1f} s")
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self.stop.wait(), delay_s)
            finally:
                self._pending = stream.unsettled()

    @property
    def unsettled(self) -> int:
        """Lines that were read and sent, and are not known to be stored."""
        return len(self._pending)

    async def next_lines(self, *others: asyncio.Future[Any]) -> list[Line] | None:
        """Lines to send, those that cannot be sent told of; None at the end, or when ``stop`` or one of the others comes first."""
        reading = asyncio.ensure_future(self.source.next())
        stopping = asyncio.ensure_future(self.stop.wait())
        await asyncio.wait({reading, stopping, *others}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if not reading.done():
            reading.cancel()  # nothing is lost: a batch that comes now stays in the queue
        await asyncio.gather(reading, stopping, return_exceptions=True)
        if reading.cancelled() or (batch := reading.result()) is None:
            return None
        for item in batch:
            if isinstance(item, Refused):
                self.refused(item)
        return [item for item in batch if isinstance(item, Line)]

    def refused(self, refused: Refused) -> None:
        """Count it and tell of it."""
        self.counts.refused += 1
        self.refuse(refused)
