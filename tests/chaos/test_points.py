from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import sys
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from service.store.cassandra_statements import STATEMENTS
from tests.chaos.points import ARMED, OPERATIONS, POINTS, Pointed, arm
from tests.support import USAGE, Connection, ConnectionEnded, ready_instance

pytestmark = pytest.mark.tools

PROGRAM = (sys.executable, "-m", "tests.chaos.points")


ROWS = {
    "put_usages": "SELECT count(*) FROM usages",
    "put_keyed_usages": "SELECT count(*) FROM keyed_usages",
    "put_messages": "SELECT count(*) FROM messages",
    "delete_messages": "SELECT 2 - count(*) FROM messages",
}
"""How many were written, one of them before the instance was armed; of two messages that were there, how many are deleted."""


def ask(connection: Connection, operation: str, number: int) -> int:
    """One request of this operation, one of its own for each number; the status."""
    text = f"message {number}"
    if operation == "put_messages":
        return connection.request("POST", "/messages", json.dumps({"message": text}).encode()).status
    if operation == "delete_messages":
        return connection.request("DELETE", f"/messages/{sha256(text.encode()).hexdigest()}").status
    headers = [("Idempotency-Key", f"key-{number}")] if operation == "put_keyed_usages" else []
    return connection.request("POST", "/api/usages", USAGE, headers).status


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("point", POINTS)
def test_an_armed_instance_ends_at_its_point_and_not_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, point: str, operation: str
):
    """Kill -9 before any answer: before the send nothing is written, after the store's answer it is; others pass the point."""
    monkeypatch.setenv("CHAOS_POINTS", str(tmp_path))
    with ready_instance(tmp_path, program=PROGRAM) as instance, instance.connect() as connection:
        if operation == "delete_messages":
            assert [ask(connection, "put_messages", number) for number in range(2)] == [201, 201]
        assert ask(connection, operation, 0) in {200, 201}
        arm(tmp_path, 0, point, operation)
        other = "put_keyed_usages" if operation == "put_usages" else "put_usages"
        assert ask(connection, other, 7) == 201
        with pytest.raises((ConnectionEnded, OSError)):
            ask(connection, operation, 1)
        assert instance.wait() == -9
        path = instance.store_path
    (rows,) = sqlite3.connect(path).execute(ROWS[operation]).fetchone()
    assert rows in {"before-send": {1}, "after-send": {1, 2}, "after-ack": {2}}[point]


def test_with_cassandra_after_the_send_is_after_the_send_of_the_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Not while it is looked what is there already: until then nothing of the group has left."""
    happened: list[str] = []
    monkeypatch.setattr(os, "kill", lambda _pid, _signal: happened.append("kill"))

    async def write(statement: str, *_words: object) -> None:
        happened.append(statement)
        await asyncio.sleep(0.05)

    class Looks:
        _link = SimpleNamespace(write=write)

        async def put_keyed_usages(self, _group: object) -> list[None]:
            await asyncio.sleep(0.05)
            happened.append("looked")
            await self._link.write("insert_directory")
            await self._link.write("insert_keyed")
            return []

    async def put() -> None:
        store = Pointed(cast(Any, Looks()), tmp_path / f"0{ARMED}")
        arm(tmp_path, 0, "after-send", "put_keyed_usages")
        await store.put_keyed_usages([])

    asyncio.run(put())
    assert happened == ["looked", "insert_directory", "insert_keyed", "kill"]


def test_each_statement_that_a_point_waits_for_is_one_of_the_store_s():
    """One that is renamed there would never come."""
    assert set(OPERATIONS.values()) <= set(STATEMENTS)
