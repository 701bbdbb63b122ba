"""The contract of a store: what every store promises, whichever it is. Run by test_store_contract.py.

store_reading_contract.py has what it promises of lists, counts, deletes of usages and patients.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import json
import time
import uuid
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import uvloop

from service.errors import StoreError, StoreRefused
from service.store import ID_MAX, KeyedUsage, Put, Store, StoredUsage

RACERS = 50
MINUTE_US = 60_000_000
ACCENTS = '{"patientId": "1",  "medication": "Ærosöl \\ud83d\\ude00 😀\\u0000"}'.encode()


class Clock:
    """The system's clock, which can be put forward to the next minute."""

    def __init__(self) -> None:
        self.ahead_us = 0

    def __call__(self) -> int:
        """µs since the epoch."""
        return time.time_ns() // 1000 + self.ahead_us

    async def next_minute(self) -> None:
        """Pass on to it."""
        self.ahead_us += MINUTE_US - self() % MINUTE_US


class Stores:
    """Opens stores on the same data, as several web instances would, and closes them after the test."""

    def __init__(self, make: Callable[[], Store], clock: Clock) -> None:
        self.make = make
        self.clock = clock
        self._open: list[Store] = []

    async def open(self) -> Store:
        """Another store on the data that all of them share."""
        store = self.make()
        self._open.append(store)
        await store.open()
        return store

    async def close(self) -> None:
        """Close all of them."""
        for store in self._open:
            await store.close()


def on_loop(test: Callable[[Any, Stores], Awaitable[None]]) -> Callable[[Any, Stores], None]:
    """Run a test on an event loop of its own, of the kind that a web instance has."""

    @functools.wraps(test)
    def run(self: Any, stores: Stores) -> None:
        async def main() -> None:
            try:
                await test(self, stores)
            finally:
                await stores.close()

        uvloop.run(main())

    return run


def keyed(key: str, usage: bytes) -> KeyedUsage:
    """A usage under a key."""
    return KeyedUsage(key, hashlib.sha256(usage).digest(), usage)


def new_message() -> tuple[bytes, bytes]:
    """A message that nobody has stored, after its digest."""
    message = f"message {uuid.uuid4()}".encode()
    return hashlib.sha256(message).digest(), message


def uuid7() -> str:
    """A UUIDv7 of now."""
    value = time.time_ns() // 1_000_000 << 80 | uuid.uuid4().int & ((1 << 80) - 1)
    return str(uuid.UUID(int=value & ~(0xF << 76) & ~(0x3 << 62) | 0x7 << 76 | 0x2 << 62))


def usages(results: Iterable[StoredUsage | StoreError | None]) -> list[bytes | None]:
    """The bytes that were read; there must be no error among the results."""
    found: list[bytes | None] = []
    for result in results:
        assert not isinstance(result, StoreError), result
        found.append(None if result is None else result.usage)
    return found


class StoreContract:
    """Needs a fixture ``stores``."""

    delete_rounds = 200

    @on_loop
    async def test_leases_never_overlap(self, stores: Stores) -> None:
        """Ids are leased once for ever, whoever asks at the same time."""
        one, other = await stores.open(), await stores.open()
        firsts = await asyncio.gather(*(store.lease_ids(10) for store in (one, other) for _ in range(8)))
        leased = [id_ for first in firsts for id_ in range(first, first + 10)]
        assert len(set(leased)) == len(leased)
        assert min(leased) >= 1

    @on_loop
    async def test_ids_that_were_returned_are_leased_again(self, stores: Stores) -> None:
        """A clean stop leaves no gap."""
        store = await stores.open()
        first = await store.lease_ids(100)
        await store.return_ids(first + 40, first + 100)
        assert await store.lease_ids(10) == first + 40

    @on_loop
    async def test_ids_stay_a_gap_when_others_leased_since(self, stores: Stores) -> None:
        """What is returned too late is never handed out a second time."""
        store, other = await stores.open(), await stores.open()
        first = await store.lease_ids(100)
        theirs = await other.lease_ids(100)
        await store.return_ids(first + 40, first + 100)
        assert await store.lease_ids(10) >= theirs + 100

    @on_loop
    async def test_ids_end_below_2_to_the_53(self, stores: Stores) -> None:
        """No id is one that a JavaScript client would round; the refusal changes nothing."""
        store = await stores.open()
        before = await store.lease_ids(1)
        try:
            await store.lease_ids(ID_MAX)
        except StoreRefused:
            assert await store.lease_ids(1) == before + 1
        else:
            raise AssertionError("ids beyond 2^53 were leased")

    @on_loop
    async def test_a_usage_is_read_back_as_it_was_sent(self, stores: Stores) -> None:
        """Byte for byte, with the time of its arrival; an id without a usage is None."""
        store = await stores.open()
        first = await store.lease_ids(5)
        started_us = stores.clock()
        sent = [b"{}", ACCENTS, b'{"a":' + b" " * 100_000 + b"1}"]
        assert list(await store.put_usages([(first + 1 + at, usage) for at, usage in enumerate(sent)])) == [None] * 3
        found = await store.get_usages([first + 3, first, first + 2, first + 1, ID_MAX, first + 3])
        assert usages(found) == [sent[2], None, sent[1], sent[0], None, sent[2]]
        assert isinstance(found[0], StoredUsage)
        assert abs(found[0].received_at_us - started_us) < 60_000_000

    @on_loop
    async def test_a_large_group_is_stored_whole(self, stores: Stores) -> None:
        """Over several partitions, with a jump between two leases and more bytes than a batch takes."""
        store = await stores.open()
        first, second = await store.lease_ids(3000), await store.lease_ids(3000)
        ids = [*range(first + 2000, first + 3000), *range(second + 10, second + 1500)]
        group = [(id_, b'{"id": %d, "pad": "%b"}' % (id_, b"x" * 1000)) for id_ in ids]
        assert set(await store.put_usages(group)) == {None}
        assert usages(await store.get_usages(ids)) == [usage for _, usage in group]

    @on_loop
    async def test_what_one_store_wrote_another_reads(self, stores: Stores) -> None:
        """Also after the one that wrote has closed."""
        store = await stores.open()
        first = await store.lease_ids(1)
        await store.put_usages([(first, b'{"n": 1}')])
        await store.close()
        other = await stores.open()
        assert usages(await other.get_usages([first])) == [b'{"n": 1}']

    @on_loop
    async def test_a_key_is_created_once_and_repeats_are_told(self, stores: Stores) -> None:
        """The same body is a duplicate, another a conflict that changes nothing, on whichever instance, at any time."""
        store, other = await stores.open(), await stores.open()
        for key in (uuid7(), uuid7().upper(), str(uuid.uuid4()), f"order {uuid.uuid4()}/€", f"{time.time_ns()}"):
            assert list(await store.put_keyed_usages([keyed(key, ACCENTS)])) == [Put.CREATED]
            for where in (store, other):
                group = [keyed(key, ACCENTS), keyed(key, b'{"other": 1}')]
                assert list(await where.put_keyed_usages(group)) == [Put.DUPLICATE, Put.CONFLICT]
                [found] = await where.get_keyed_usages([key])
                assert not isinstance(found, StoreError)
                assert usages(found) == [ACCENTS]

    @on_loop
    async def test_a_key_that_comes_twice_in_a_group_is_stored_once(self, stores: Stores) -> None:
        """The first of them wins; keys that differ in case are different keys."""
        store = await stores.open()
        key = uuid7()
        group = [keyed(key, b"{}"), keyed(key, b'{"b": 2}'), keyed(key, b"{}"), keyed(f"{key}x", b"{}")]
        group += [keyed(key.upper(), b'{"c": 3}')]
        expected = [Put.CREATED, Put.CONFLICT, Put.DUPLICATE, Put.CREATED, Put.CREATED]
        assert list(await store.put_keyed_usages(group)) == expected
        one, upper, nothing = await store.get_keyed_usages([key, key.upper(), "nobody's key"])
        assert not isinstance(one, StoreError)
        assert not isinstance(upper, StoreError)
        assert (usages(one), usages(upper), nothing) == ([b"{}"], [b'{"c": 3}'], nothing)
        assert not nothing

    @on_loop
    async def test_many_keys_in_one_group_are_all_stored(self, stores: Stores) -> None:
        """UUIDv7s and keys of any kind, side by side."""
        store = await stores.open()
        keys = [uuid7() for _ in range(200)] + [f"key-{uuid.uuid4()}" for _ in range(56)]
        group = [keyed(key, json.dumps({"key": key}).encode()) for key in keys]
        assert set(await store.put_keyed_usages(group)) == {Put.CREATED}
        assert set(await store.put_keyed_usages(group)) == {Put.DUPLICATE}
        for item, found in zip(group, await store.get_keyed_usages(keys), strict=True):
            assert not isinstance(found, StoreError)
            assert usages(found) == [item.usage]

    @on_loop
    async def test_repeats_that_race_leave_one_usage(self, stores: Stores) -> None:
        """The same key and body from several instances at once: each may be told created, and there is one row."""
        several = [await stores.open() for _ in range(3)]
        item = keyed(uuid7(), ACCENTS)
        results = await asyncio.gather(*(several[at % 3].put_keyed_usages([item]) for at in range(RACERS)))
        outcomes = {outcome for [outcome] in results}
        assert outcomes <= {Put.CREATED, Put.DUPLICATE}
        assert Put.CREATED in outcomes
        [found] = await several[0].get_keyed_usages([item.key])
        assert not isinstance(found, StoreError)
        assert usages(found) == [ACCENTS]

    @on_loop
    async def test_bodies_that_race_under_one_key_overwrite_nothing(self, stores: Stores) -> None:
        """Every body that was told created is there, the first received first; every other is not."""
        one, other = await stores.open(), await stores.open()
        for _ in range(20):
            key = uuid7()
            first, second = keyed(key, b'{"from": 1}'), keyed(key, b'{"from": 2}')
            [a], [b] = await asyncio.gather(one.put_keyed_usages([first]), other.put_keyed_usages([second]))
            created = [item.usage for item, put in ((first, a), (second, b)) if put is Put.CREATED]
            assert {a, b} <= {Put.CREATED, Put.CONFLICT}
            [found] = await one.get_keyed_usages([key])
            assert not isinstance(found, StoreError)
            assert sorted(created) == sorted(row.usage for row in found)
            assert [row.received_at_us for row in found] == sorted(row.received_at_us for row in found)

    @on_loop
    async def test_a_message_is_read_back_as_it_was_sent(self, stores: Stores) -> None:
        """Also an empty one, and one of a mebibyte; storing it again is a success."""
        store, other = await stores.open(), await stores.open()
        messages = [b"", b"foo", "\0 é 😀 \r\n".encode(), uuid.uuid4().bytes.hex().encode() * 32_768]
        group = [(hashlib.sha256(message).digest(), message) for message in messages]
        for _ in range(2):
            assert list(await store.put_messages(group)) == [None] * len(group)
        digests = [digest for digest, _ in group]
        assert list(await other.get_messages([*digests, b"\0" * 32, digests[1]])) == [*messages, None, messages[1]]

    @on_loop
    async def test_a_large_group_of_messages_is_stored_and_read(self, stores: Stores) -> None:
        """More than one statement reads or a connection has in flight."""
        store = await stores.open()
        group = [new_message() for _ in range(300)]
        assert set(await store.put_messages(group)) == {None}
        assert list(await store.get_messages([digest for digest, _ in group])) == [message for _, message in group]

    @on_loop
    async def test_a_deleted_message_is_gone(self, stores: Stores) -> None:
        """For every instance; a second DELETE finds nothing, also in the same group, and a later POST brings it back."""
        store, other = await stores.open(), await stores.open()
        digest, message = new_message()
        assert list(await store.delete_messages([digest])) == [False]
        await store.put_messages([(digest, message)])
        assert list(await other.delete_messages([digest, b"\0" * 32, digest])) == [True, False, False]
        assert list(await store.get_messages([digest])) == [None]
        assert list(await store.delete_messages([digest])) == [False]
        await other.put_messages([(digest, message)])
        assert list(await store.get_messages([digest])) == [message]

    @on_loop
    async def test_a_message_posted_after_its_delete_is_never_lost(self, stores: Stores) -> None:
        """POST, DELETE, POST, GET as fast as they go, each on another instance than the one before."""
        one, other = await stores.open(), await stores.open()

        async def rounds(count: int) -> None:
            for _ in range(count):
                digest, message = new_message()
                assert list(await one.put_messages([(digest, message)])) == [None]
                assert list(await other.delete_messages([digest])) == [True]
                assert list(await one.get_messages([digest])) == [None]
                assert list(await one.put_messages([(digest, message)])) == [None]
                assert list(await other.get_messages([digest])) == [message]

        await asyncio.gather(*(rounds(self.delete_rounds // 20) for _ in range(20)))

    @on_loop
    async def test_operations_on_everything_at_once_do_not_disturb_each_other(self, stores: Stores) -> None:
        """Groups of all kinds in flight on one store, each with its own results."""
        store = await stores.open()
        first = await store.lease_ids(400)
        keys = [uuid7() for _ in range(20)]
        messages = [new_message() for _ in range(20)]
        results = await asyncio.gather(
            *(store.put_usages([(first + at * 20 + i, b'{"at": %d}' % at) for i in range(20)]) for at in range(20)),
            *(store.put_keyed_usages([keyed(key, b"{}")]) for key in keys),
            *(store.put_messages([message]) for message in messages),
        )
        assert {result for group in results for result in group} == {None, Put.CREATED}
        found = await asyncio.gather(
            store.get_usages(range(first, first + 400)), store.get_messages([digest for digest, _ in messages])
        )
        assert usages(found[0]) == [b'{"at": %d}' % (at // 20) for at in range(400)]
        assert list(found[1]) == [message for _, message in messages]

    @on_loop
    async def test_a_store_that_is_not_open_refuses_each_item(self, stores: Stores) -> None:
        """Before open and after close; closing twice is safe, and it may be opened again."""
        store = stores.make()
        digest, message = new_message()
        for _ in range(2):
            await store.close()
            await store.close()
            results = [
                *await store.put_usages([(1, b"{}"), (2, b"{}")]),
                *await store.put_keyed_usages([keyed("key", b"{}")]),
                *await store.put_messages([(digest, message)]),
                *await store.get_usages([1]),
                *await store.get_keyed_usages(["key"]),
                *await store.get_messages([digest]),
                *await store.delete_messages([digest]),
            ]
            assert len(results) == 8
            assert {type(result) for result in results} == {StoreRefused}
            try:
                await store.lease_ids(1)
            except StoreRefused:
                pass
            else:
                raise AssertionError("a store that is not open leased ids")
            await store.open()
            assert list(await store.put_messages([(digest, message)])) == [None]
        await store.close()
