"""Which session a link goes on with after an outage: the one that it had, wherever that comes back."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable
from typing import Any, cast

import pytest

from service.errors import StoreRefused
from service.settings import read_settings
from service.store import cassandra_link
from service.store.cassandra_link import CassandraLink
from service.store.cassandra_session import CassandraSession

HERE, ELSEWHERE = "10.0.0.1:9042", "10.0.0.2:9042"
SETTINGS = read_settings({"BUSYAPI_STORE": f"cassandra://{HERE}/k", "BUSYAPI_STORE_TIMEOUT_S": "0.1"})


WITHIN_S = 5.0
"""What takes longer waits for what it is not to wait for."""


class Session:
    """What the link asks of a session; ``done`` is what was done with it, in order."""

    def __init__(self, *addresses: str, alive: bool = False) -> None:
        self.alive = alive
        self.done: list[str] = []
        self.preparing: Callable[[], Awaitable[None]] | None = None
        self._addresses = frozenset(addresses)

    def addresses(self) -> frozenset[str]:
        """Of the nodes."""
        return self._addresses

    async def prepare(self, _keyspace: str, _statements: object) -> None:
        """Prepare."""
        self.done.append("prepare")
        if self.preparing is not None:
            await self.preparing()

    async def close(self) -> None:
        """Close."""
        self.done.append("close")


@pytest.fixture
def old(monkeypatch: pytest.MonkeyPatch) -> Session:
    """A session without a connection; nobody waits for it for long."""
    monkeypatch.setattr(cassandra_link, "COMES_BACK_WITHIN_S", 0.3)
    monkeypatch.setattr(cassandra_link, "LOOK_INTERVAL_S", 0.01)
    return Session(HERE)


def reopened(monkeypatch: pytest.MonkeyPatch, old: Session, spare: Session | StoreRefused) -> Any:
    """The session that the link has when it has looked for another than ``old`` and found ``spare``."""

    async def connect(_settings: object) -> CassandraSession:
        if isinstance(spare, StoreRefused):
            raise spare
        return cast(CassandraSession, spare)

    monkeypatch.setattr(CassandraSession, "connect", connect)
    link = CassandraLink(SETTINGS, {"name": "text"})
    link._session = cast(CassandraSession, old)
    asyncio.run(asyncio.wait_for(link._reopen(cast(CassandraSession, old)), WITHIN_S))
    return link.session


def test_a_session_that_comes_back_by_itself_is_kept_and_nothing_is_prepared_anew(
    monkeypatch: pytest.MonkeyPatch, old: Session
):
    """A node that has just started has other things to do than to prepare all statements of all instances."""

    class ComesBack(Session):
        looks = 0

        @property
        def alive(self) -> bool:
            """From the tenth look on."""
            self.looks += 1
            return self.looks > 10

        @alive.setter
        def alive(self, _value: bool) -> None: ...

    back, spare = ComesBack(HERE), Session(HERE, alive=True)
    assert reopened(monkeypatch, back, spare) is back
    assert spare.done == ["close"]
    assert back.done == []
    assert old.done == []


def test_one_that_does_not_come_back_is_replaced(monkeypatch: pytest.MonkeyPatch, old: Session):
    """Although the node is where it was: after a while another session is prepared and taken, and the old one closed."""
    spare = Session(HERE, alive=True)
    assert reopened(monkeypatch, old, spare) is spare
    assert spare.done == ["prepare"]
    assert old.done == ["close"]


def test_nodes_at_other_addresses_are_taken_at_once(monkeypatch: pytest.MonkeyPatch, old: Session):
    """The driver would never look for them there."""
    monkeypatch.setattr(cassandra_link, "COMES_BACK_WITHIN_S", 60)
    spare = Session(HERE, ELSEWHERE, alive=True)
    assert reopened(monkeypatch, old, spare) is spare
    assert old.done == ["close"]


def test_one_that_comes_back_while_another_is_prepared_is_kept(monkeypatch: pytest.MonkeyPatch, old: Session):
    """What it has in flight goes on."""

    async def comes_back() -> None:
        old.alive = True

    spare = Session(ELSEWHERE, alive=True)
    spare.preparing = comes_back
    assert reopened(monkeypatch, old, spare) is old
    assert spare.done == ["prepare", "close"]
    assert old.done == []


def test_while_nobody_answers_or_statements_cannot_be_prepared_all_stays_as_it_is(
    monkeypatch: pytest.MonkeyPatch, old: Session
):
    """And nothing stays open."""

    async def refused() -> None:
        raise StoreRefused("no keyspace")

    spare = Session(ELSEWHERE, alive=True)
    spare.preparing = refused
    assert reopened(monkeypatch, old, StoreRefused("nobody")) is old
    assert reopened(monkeypatch, old, spare) is old
    assert spare.done == ["prepare", "close"]
    assert old.done == []


@pytest.mark.parametrize("amid", ["waiting", "preparing", "taken"])
def test_one_that_is_not_kept_is_closed_when_the_service_ends(monkeypatch: pytest.MonkeyPatch, old: Session, amid: str):
    """Wherever the watch is: the link has one session, and closes that itself."""
    monkeypatch.setattr(cassandra_link, "COMES_BACK_WITHIN_S", 60 if amid == "waiting" else 0.0)
    spare = Session(HERE, alive=True)

    async def for_long() -> None:
        await asyncio.sleep(60)

    async def connect(_settings: object) -> CassandraSession:
        return cast(CassandraSession, spare)

    async def cancelled() -> Any:
        link = CassandraLink(settings, {})
        link._session = cast(CassandraSession, old)
        reopening = asyncio.create_task(link._reopen(cast(CassandraSession, old)))
        await asyncio.sleep(0.1)
        reopening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reopening
        return link.session

    monkeypatch.setattr(CassandraSession, "connect", connect)
    settings = dataclasses.replace(SETTINGS, store_timeout_s=60.0)
    if amid == "preparing":
        spare.preparing = for_long
    kept, other = (spare, old) if amid == "taken" else (old, spare)
    assert asyncio.run(cancelled()) is kept
    assert "close" not in kept.done
    assert other.done[-1] == "close"
