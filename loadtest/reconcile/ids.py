"""Sets of ids that fit in memory by the ten million: eight bytes for each."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from itertools import pairwise

PARTS = 256
"""Ids are told apart by their last bits first, so that sorting one part at a time needs little memory besides."""


class IdSet:
    """Ids in any order, an id as often as it comes. Look-ups are for after ``seal``."""

    def __init__(self) -> None:
        self._parts = [array("Q") for _ in range(PARTS)]

    def __len__(self) -> int:
        return sum(map(len, self._parts))

    def __iter__(self) -> Iterator[int]:
        for part in self._parts:
            yield from part

    def __contains__(self, id_: int) -> bool:
        part = self._parts[id_ % PARTS]
        index = bisect_left(part, id_)
        return index < len(part) and part[index] == id_

    def add(self, id_: int) -> None:
        """Take in one."""
        self._parts[id_ % PARTS].append(id_)

    def update(self, ids: Iterable[int]) -> None:
        """Take in many."""
        appends = [part.append for part in self._parts]
        for id_ in ids:
            appends[id_ % PARTS](id_)

    def seal(self) -> None:
        """Sort what was taken in."""
        for index, part in enumerate(self._parts):
            self._parts[index] = array("Q", sorted(part))

    def repeated(self) -> Iterator[int]:
        """Every occurrence of an id after its first."""
        for part in self._parts:
            for before, id_ in pairwise(part):
                if before == id_:
                    yield id_
