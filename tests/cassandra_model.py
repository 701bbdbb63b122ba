"""The tables of Cassandra's read model in memory, behind the statements of the store, with a clock that tests set.

Cells have timestamps and the highest wins, a tombstone in a tie, as in Cassandra. A test may make writes fail, with or
without their effect, and hold them up.
"""

from __future__ import annotations

import asyncio
import struct
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from service.errors import StoreError, StoreRefused, StoreUnknown
from service.store.cassandra_link import CassandraLink
from service.store.cassandra_usages import UsageTables
from service.store.counting import Counting
from service.store.deleting import Deleting
from service.store.directory import Directory
from service.store.keyed import bucket as bucket_of
from service.store.listing import Listing
from service.store.minutes import Minutes
from service.store.times import Times

START_US = 1_800_000_000_000_000
"""The beginning of a minute."""


class SetClock:
    """The cluster's time, as a test sets it."""

    def __init__(self, now_us: int = START_US) -> None:
        self.at_us = now_us
        self._last_us = 0

    async def open(self) -> None:
        """Nothing to learn."""

    async def close(self) -> None:
        """Nothing to stop."""

    def now_us(self) -> int:
        """Strictly rising."""
        self._last_us = max(self.at_us, self._last_us + 1)
        return self._last_us

    def least_us(self) -> int:
        """Exactly the time, which goes on a little with each look, as clocks do."""
        self.at_us += 1
        return self.at_us


def number(value: bytes) -> int:
    """A bigint or an int."""
    return int.from_bytes(value, "big", signed=True)


def items(value: bytes) -> list[bytes]:
    """The values of a CQL list."""
    (count,) = struct.unpack_from(">i", value)
    at, found = 4, []
    for _ in range(count):
        (length,) = struct.unpack_from(">i", value, at)
        found.append(value[at + 4 : at + 4 + length])
        at += 4 + length
    return found


@dataclass
class Tables:
    """What several stores share."""

    clock: SetClock
    page: int = 2000
    days: set[int] = field(default_factory=set)
    minutes: set[int] = field(default_factory=set)
    counts: dict[int, tuple[int, int, int | None]] = field(default_factory=dict)
    """By minute: timestamp, 1 for a tombstone, which wins a tie, and the count."""
    places: set[tuple[int, int, str]] = field(default_factory=set)
    writers: dict[tuple[int, bytes], bool] = field(default_factory=dict)
    created: dict[tuple[int, bytes], int] = field(default_factory=dict)
    entered: dict[tuple[int, bytes], int] = field(default_factory=dict)
    """When a writer was last written."""
    rows: dict[tuple[Any, ...], tuple[int, int, bytes | None]] = field(default_factory=dict)
    """Usages by (partition, rest of the key): timestamp, 1 for a tombstone, text."""
    log: list[str] = field(default_factory=list)

    def cell(self, key: tuple[Any, ...], new: tuple[int, int, bytes | None]) -> None:
        """Write a usage, or its tombstone."""
        old = self.rows.get(key)
        if old is None or new[:2] > old[:2]:
            self.rows[key] = new

    def seal(self, minute: int, new: tuple[int, int, int | None]) -> None:
        """Write a count, or its tombstone."""
        old = self.counts.get(minute)
        if old is None or new[:2] > old[:2]:
            self.counts[minute] = new

    def partition(self, partition: Any) -> list[tuple[Any, ...]]:
        """Rows of one, in order: the rest of the key, text and time."""
        return sorted(
            (*key[1:], text, at_us)
            for key, (at_us, _, text) in self.rows.items()
            if key[0] == partition and text is not None
        )

    def sealed(self, minute: int) -> int | None:
        """The minute's seal."""
        return self.counts.get(minute, (0, 0, None))[2]


Fail = Callable[[str, Sequence[Any]], StoreError | None]


class FakeLink:
    """Stands for a CassandraLink. ``fail`` may answer for a write: refused has no effect, unknown has when ``landing`` says so."""

    clock_skew_max_s = 0.0

    def __init__(self, tables: Tables) -> None:
        self.tables = tables
        self.fail: Fail = lambda _name, _rows: None
        self.landing = True
        self.gate: asyncio.Event | None = None
        self.gated = ""
        self.read_at_once: dict[str, int] = {}
        """The most rows that a node had to read at once for a statement of that name."""
        self.reading: Counter[str] = Counter()
        self.side_by_side: Counter[str] = Counter()
        """The most statements of that name that were under way at once."""
        self.deadlines: list[tuple[str, float]] = []
        """Of each statement, until when it may take."""

    def deadline_s(self) -> float:
        """Of an operation that begins now: far away, so that a test on a busy machine meets it only where it means to."""
        return asyncio.get_running_loop().time() + 60

    async def write(
        self,
        name: str,
        rows: Sequence[Sequence[Any]],
        deadline_s: float,
        *,
        shared: Sequence[bytes] = (),
        timestamp_us: int | None = None,
        optional: bool = False,
    ) -> StoreError | None:
        """Apply a statement."""
        del optional
        self.deadlines.append((name, deadline_s))
        await asyncio.sleep(0)
        if name == self.gated and self.gate is not None:
            await self.gate.wait()
        error = self.fail(name, rows)
        self.tables.log.append(name)
        if error is None or (isinstance(error, StoreUnknown) and self.landing):
            for row in rows:
                self._apply(name, [*shared, *row], timestamp_us or self.tables.clock.at_us)
        return error

    async def read(self, name: str, values: Sequence[bytes], deadline_s: float) -> Any:
        """Rows, or an error."""
        self.deadlines.append((name, deadline_s))
        self.reading[name] += 1
        self.side_by_side[name] = max(self.side_by_side[name], self.reading[name])
        await asyncio.sleep(0)
        self.reading[name] -= 1
        error = self.fail(name, [values])
        self.tables.log.append(name)
        return StoreRefused(str(error)) if error else self._select(name, values)

    async def rows(self, name: str, values: Sequence[bytes], *, page_rows: int | None = None) -> Any:
        """Rows."""
        found = await self.read(name, values, 0)
        if isinstance(found, StoreError):
            raise found
        read = min(found[0][0], page_rows or found[0][0]) if name.startswith("count_") else len(found)
        self.read_at_once[name] = max(read, self.read_at_once.get(name, 0))
        return found

    def _apply(self, name: str, values: Sequence[Any], at_us: int) -> None:
        tables = self.tables
        if name == "insert_day":
            tables.days.add(number(values[0]))
        elif name == "insert_minute":
            tables.minutes.add(number(values[1]))
        elif name == "insert_place":
            tables.places.add((number(values[0]), number(values[1]), values[2].decode()))
        elif name in {"insert_writer", "settle_deleter", "settle_writer"}:
            writer = (number(values[-2]), values[-1])
            if at_us >= tables.entered.get(writer, 0):
                tables.writers[writer] = name != "insert_writer"
                tables.entered[writer] = at_us
            if name == "settle_writer":
                tables.created[writer] = number(values[0])
        elif name == "seal_minute":
            tables.seal(number(values[2]), (at_us, 0, number(values[0])))
        elif name == "void_minute":
            tables.seal(number(values[1]), (at_us, 1, None))
        elif name == "insert_usage":
            tables.cell((number(values[0]), number(values[1])), (at_us, 0, values[2]))
        elif name == "delete_usage":
            tables.cell((number(values[0]), number(values[1])), (at_us, 1, None))
        elif name == "insert_keyed":
            tables.cell((values[0].decode(), values[1].decode(), values[2]), (at_us, 0, values[3]))
        elif name == "delete_keyed":
            tables.cell((values[0].decode(), values[1].decode(), values[2]), (at_us, 1, None))
        else:
            raise AssertionError(name)

    def _select(self, name: str, values: Sequence[bytes]) -> Sequence[tuple[Any, ...]]:
        tables, page = self.tables, self.tables.page
        if name == "select_days":
            first, last = map(number, values)
            return [(day,) for day in sorted(tables.days) if first <= day <= last][:page]
        if name == "select_minutes":
            day, first, last = map(number, values)
            found = [minute for minute in sorted(tables.minutes) if minute // 1440 == day and first <= minute <= last]
            return [(minute, tables.sealed(minute)) for minute in found]
        if name == "select_places":
            minute, since_us, after = number(values[0]), number(values[1]), values[2].decode()
            found_places = sorted(row[1:] for row in tables.places if row[0] == minute)
            return [row for row in found_places if row > (since_us, after)][:page]
        if name == "select_writers":
            found_writers = sorted(key for key in tables.writers if key[0] == number(values[0]) and key[1] > values[1])
            return [
                (uuid.UUID(bytes=key[1]), tables.writers[key], tables.created.get(key), tables.entered[key])
                for key in found_writers
            ][:page]
        partition: Any = number(values[0]) if name in {"count_block", "times_of_block", "select_usages"} else None
        if partition is None and not name.endswith("_of_keys"):
            partition = values[0].decode()
        if name.startswith("count_"):
            times = [row[-1] for row in tables.partition(partition)]
            return [(len(times), min(times, default=None), max(times, default=None))]
        if name == "times_of_block":
            rows = [row for row in tables.partition(partition) if row[0] > number(values[1])]
            return [(id_, at_us) for id_, _, at_us in rows][: number(values[2])]
        if name == "times_of_bucket":
            after_key = (values[1].decode(), values[2])
            rows = [row for row in tables.partition(partition) if row[:2] > after_key]
            return [(key, digest, at_us) for key, digest, _, at_us in rows][: number(values[3])]
        if name == "select_usages":
            ids = set(map(number, items(values[1])))
            return [(id_, text.decode(), at_us) for id_, text, at_us in tables.partition(partition) if id_ in ids]
        keyed = self._keyed(name, partition, values)
        if name in {"select_digests", "times_of_keys"}:
            return [(key, digest, at_us) for key, digest, _, at_us in keyed]
        return [(key, digest, text.decode(), at_us) for key, digest, text, at_us in keyed]

    def _keyed(self, name: str, partition: Any, values: Sequence[bytes]) -> list[tuple[Any, ...]]:
        if name.endswith("_of_keys"):
            buckets = [value.decode() for value in items(values[0])]
            return [row for each in buckets for row in self.tables.partition(each)]
        keys = {value.decode() for value in items(values[1])}
        assert {bucket_of(key) for key in keys} == {partition}
        return [row for row in self.tables.partition(partition) if row[0] in keys]


class ModelStore:
    """What a CassandraStore is made of, on these tables."""

    def __init__(self, tables: Tables, usage_bytes_max: int = 102_400) -> None:
        self.link = FakeLink(tables)
        link = cast(CassandraLink, self.link)
        self.directory = Directory(link, tables.clock)
        minutes = Minutes(link)
        self.usages = UsageTables(link, tables.clock, self.directory, patient_index=False)
        times = Times(link, usage_bytes_max)
        self.listing = Listing(link, minutes, times, usage_bytes_max)
        self.counting = Counting(link, tables.clock, minutes, times)
        self.deleting = Deleting(link, tables.clock, self.directory)
