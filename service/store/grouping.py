"""How a group is cut into statements. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

Key = TypeVar("Key")

COUNT_MAX = 65_535
"""What the native protocol's BATCH counts its statements with."""


def group_by(keys: Iterable[Key]) -> dict[Key, list[int]]:
    """The indexes of each key, in order."""
    groups: dict[Key, list[int]] = {}
    for index, key in enumerate(keys):
        groups.setdefault(key, []).append(index)
    return groups


def split(
    indexes: Sequence[int], sizes: Sequence[int], bytes_max: int, count_max: int = COUNT_MAX
) -> Iterator[list[int]]:
    """Parts of at most ``count_max`` that come to at most ``bytes_max``, or are one item; ``sizes`` has one for every index."""
    part: list[int] = []
    bytes_ = 0
    for index in indexes:
        if part and (bytes_ + sizes[index] > bytes_max or len(part) >= count_max):
            yield part
            part, bytes_ = [], 0
        part.append(index)
        bytes_ += sizes[index]
    if part:
        yield part
