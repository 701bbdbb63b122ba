"""The store protocol, and how a store is opened from its URL.

Every operation takes a group and returns one result per item, in order: the
value, or the :class:`~service.errors.StoreError` that befell this item alone.
No operation raises for a failure of the store; what it raises is a bug.
A write's success is returned only after it is fsynced (on every replica that
the consistency level counts). ``StoreRefused`` promises that nothing was
written; when in doubt it is ``StoreUnknown``.
"""

from __future__ import annotations

import enum
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeAlias, TypeVar

from service.errors import StoreError

if TYPE_CHECKING:
    from service.settings import Settings

T = TypeVar("T")
Results: TypeAlias = Sequence[T | StoreError]

ID_MAX = 2**53 - 1
"""JavaScript clients hold no larger integer exactly."""


class Put(enum.Enum):
    """What became of a usage that came with a client's key."""

    CREATED = "created"
    DUPLICATE = "duplicate"  # the same key with the same body is there already
    CONFLICT = "conflict"  # the same key with another body is there; nothing was written


@dataclass(frozen=True, slots=True)
class KeyedUsage:
    """A usage under a client's key; ``digest`` is sha256 of ``usage``'s bytes (32 bytes)."""

    key: str
    digest: bytes
    usage: bytes


@dataclass(frozen=True, slots=True)
class StoredUsage:
    """A usage as it was sent (UTF-8 JSON) and when the store took it (µs since the epoch)."""

    usage: bytes
    received_at_us: int


Position: TypeAlias = tuple[int, int, str, bytes]
"""Where a usage stands in a listing: when it was received (µs), its id (0 when it has a key), its key, its digest."""


@dataclass(frozen=True, slots=True)
class ListedUsage:
    """A usage of a listing. ``id`` is its integer id or the client's key; ``digest`` is empty for an integer id."""

    id: int | str
    digest: bytes
    usage: bytes
    received_at_us: int

    @property
    def position(self) -> Position:
        """What a listing is ordered by, and where its next page goes on."""
        if isinstance(self.id, int):
            return (self.received_at_us, self.id, "", b"")
        return (self.received_at_us, 0, self.id, self.digest)


@dataclass(frozen=True, slots=True)
class Durability:
    """What an acknowledgement of this store is worth now."""

    synced: bool | None
    """Fsynced before the answer on each replica counted; None while a node could not be asked."""
    acknowledging: int
    """Replicas that have it when the answer is sent."""
    replicas: int
    """Copies in all."""


class Store(Protocol):
    """Durable rows for usages and messages: SQLite or Cassandra."""

    async def open(self) -> None:
        """Connect and make ready. Raises StoreRefused when the store is out of reach; may be called again."""

    async def close(self) -> None:
        """Let go of every connection and thread. Safe at any time, also twice."""

    async def lease_ids(self, count: int) -> int:
        """Take ``count`` consecutive ids for this instance alone, for ever; the first one. Raises StoreError."""

    async def return_ids(self, first: int, end: int) -> None:
        """Give back the unused ids [first, end) if nobody leased since; else they stay a gap. Raises StoreError."""

    async def put_usages(self, group: Sequence[tuple[int, bytes]]) -> Results[None]:
        """Store (id, usage) rows; the ids are consecutive save for at most a jump between two leases."""

    async def put_keyed_usages(self, group: Sequence[KeyedUsage]) -> Results[Put]:
        """Store usages under their keys; a key may occur more than once in the group, the first of them wins."""

    async def get_usages(self, ids: Sequence[int]) -> Results[StoredUsage | None]:
        """Look usages up by id; None where there is none."""

    async def get_keyed_usages(self, keys: Sequence[str]) -> Results[Sequence[StoredUsage]]:
        """All usages stored under each key, first received first; more than one only after a race."""

    def read_usages(self, after: Position, until_us: int, page: int) -> AsyncIterator[Sequence[ListedUsage]]:
        """All usages behind ``after`` that were received before ``until_us``, in order of position, ``page`` or fewer at a time.

        What was acknowledged before the call is in it, each once. Iterating raises StoreRefused when the store fails.
        """

    async def count_usages(self, from_us: int, until_us: int) -> Mapping[int, int]:
        """How many usages were received in [from_us, until_us), by minute (minutes since the epoch; those with none may be missing).

        Exact: each stored usage counts once, however often it was sent. Raises StoreRefused.
        """

    async def read_patient(self, patient_id: str, after: bytes, limit: int) -> tuple[Sequence[ListedUsage], bytes]:
        """Usages of a patient, at most ``limit``, in an order that stays, and where the next page starts (empty: nowhere).

        ``after`` is empty or what the page before returned. Raises StoreRefused, also when the index is off.
        """

    async def delete_usages(self, ids: Sequence[int]) -> Results[bool]:
        """Remove usages by id; False where there was none. Once answered, no read shows and no count counts them."""

    async def delete_keyed_usages(self, keys: Sequence[str]) -> Results[bool]:
        """Remove all that is stored under each key; False where there was nothing. A later put under the key is a new usage."""

    def now_us(self) -> int:
        """The store's clock, µs since the epoch: what was acknowledged before is older, by any instance, give or take a second."""

    def durability(self) -> Durability:
        """What an acknowledgement is worth, as far as is known now. Costs nothing."""

    async def put_messages(self, group: Sequence[tuple[bytes, bytes]]) -> Results[None]:
        """Store (digest, UTF-8 message); storing one that is there already is a success."""

    async def get_messages(self, digests: Sequence[bytes]) -> Results[bytes | None]:
        """Look messages up by digest (32 bytes); None where there is none."""

    async def delete_messages(self, digests: Sequence[bytes]) -> Results[bool]:
        """Remove messages; False where there was none. Once answered, only a later put brings one back."""


def open_store(settings: Settings) -> Store:
    """The store that ``settings.store`` names, not yet opened.

    Each store is imported only when it is used: SQLite needs no driver.
    """
    if settings.store.scheme == "cassandra":
        from service.store.cassandra import CassandraStore

        return CassandraStore(settings)
    from service.store.sqlite import SqliteStore

    return SqliteStore(settings)
