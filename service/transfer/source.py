"""The files of an import, read by a thread a little ahead of what is sent."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from service.transfer.errors import GaveUp, WrongUse
from service.transfer.keys import Keys
from service.transfer.reading import CsvReader, Item, NdjsonReader, numbered_lines

BATCHES_AHEAD = 4
STDIN = "-"


@dataclass(frozen=True, slots=True)
class File:
    """One input: where it is, what its lines' keys are made of, and its bytes (0 when that cannot be told)."""

    path: str
    name: str
    size: int
    csv: bool


def files(paths: Sequence[str], name: str | None, form: str | None) -> list[File]:
    """The inputs, looked at before anything is sent. Raises WrongUse."""
    if name is not None and len(paths) > 1:
        raise WrongUse("--name is for one FILE")
    found = []
    for path in paths:
        if path == STDIN:
            if name is None:
                raise WrongUse("standard input has no name to make keys of: say --name, the same in each run")
            found.append(File(path, name, 0, form == "csv"))
            continue
        try:
            with Path(path).open("rb") as file:
                status = os.fstat(file.fileno())
        except OSError as error:
            raise WrongUse(f"{path}: {error.strerror}") from None
        is_csv = form == "csv" if form else Path(path).suffix.lower() == ".csv"
        found.append(File(path, name or Path(path).name, status.st_size, is_csv))
    names = [file.name for file in found]
    for twice in {each for each in names if names.count(each) > 1}:
        text = f"two files are named {twice}, and keys are made of names: a line that both have would be stored once"
        raise WrongUse(f"{text}; import them one by one, each with a --name")
    return found


def batches(inputs: Sequence[File], read: Callable[[int], object], *, exported: bool) -> Iterator[list[Item]]:
    """What is sent for each line of each file, in order. Raises WrongUse, and GaveUp when a file cannot be read on."""
    for each in inputs:
        with _opened(each) as file:
            reader = (CsvReader if each.csv else NdjsonReader)(each.path, Keys(each.name), exported=exported)
            try:
                yield from reader.batches(numbered_lines(file, read))
            except OSError as error:
                raise GaveUp(f"{each.path}: {error.strerror}") from None


def _opened(each: File) -> contextlib.AbstractContextManager[BinaryIO]:
    if each.path == STDIN:
        # A reader of its own: the thread that waits on it may be left behind, and Python looks after its own at the end.
        return open(sys.stdin.fileno(), "rb", closefd=False)
    try:
        return Path(each.path).open("rb")
    except OSError as error:
        raise GaveUp(f"{each.path}: {error.strerror}") from None


class Ahead:
    """Runs an iterator in a thread that may be left behind: one that waits for a terminal never ends by itself."""

    def __init__(self, items: Iterator[list[Item]]) -> None:
        self._items = items
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[list[Item] | Exception | None] = asyncio.Queue()
        self._room = threading.Semaphore(BATCHES_AHEAD)
        threading.Thread(target=self._run, name="reader", daemon=True).start()

    async def next(self) -> list[Item] | None:
        """The next batch; None at the end, and from then on. Raises what reading raised."""
        found = await self._queue.get()
        if isinstance(found, list):
            self._room.release()
            return found
        self._queue.put_nowait(found)
        if found is not None:
            raise found
        return None

    def _run(self) -> None:
        end: Exception | None = None
        try:
            for batch in self._items:
                self._room.acquire()
                self._put(batch)
        except Exception as error:  # noqa: BLE001 - it is raised where the batch is awaited
            end = error
        self._put(end)

    def _put(self, found: list[Item] | Exception | None) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
            self._loop.call_soon_threadsafe(self._queue.put_nowait, found)
