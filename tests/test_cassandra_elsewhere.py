"""A statement that one node refuses for reasons of its own goes to another: the session over a scripted driver."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from cassandra.protocol import OverloadedErrorMessage, ResultMessage

from cassandra import Unavailable
from service.errors import StoreRefused
from service.store.cassandra_bind import EXECUTE, Frame
from service.store.cassandra_session import CassandraSession
from service.store.loop_connection import LoopConnection

ROWS = [("stored",)]
SHUTTING_DOWN = OverloadedErrorMessage(0x1001, "Server is shutting down", None)


class Nodes:
    """What the driver shows of a cluster whose nodes all have a connection; those that are named refuse."""

    def __init__(self, *names: str, refusing: frozenset[str], refusal: Exception = SHUTTING_DOWN) -> None:
        self.asked: list[str] = []
        self._refusing = refusing
        self._refusal = refusal
        self._pools = [self._pool(name) for name in names]
        policy = SimpleNamespace(make_query_plan=lambda _keyspace, _frame: names)
        self.profile_manager = SimpleNamespace(default=SimpleNamespace(load_balancing_policy=policy))

    def _pool(self, name: str) -> Any:
        def send_msg(_frame: Frame, _id: int, answered: Any, result_metadata: Any) -> None:  # noqa: ARG001
            answered(self._answer(name))

        return SimpleNamespace(
            host=name,
            open_count=1,
            is_shutdown=False,
            borrow_connection=lambda timeout: (SimpleNamespace(send_msg=send_msg), timeout),
            return_connection=lambda _connection: None,
        )

    def _answer(self, name: str) -> Any:
        self.asked.append(name)
        if name in self._refusing:
            return self._refusal
        result = ResultMessage(2)
        result.parsed_rows = ROWS
        return result

    def get_pools(self) -> list[Any]:
        """Of all nodes."""
        return self._pools

    def execute_async(self, _statement: object, timeout: float, host: str) -> Any:  # noqa: ARG002
        """The driver's own way, to the host that was named."""
        answer = self._answer(host)
        failed = answer is self._refusal

        def add_callbacks(answered: Any, refused: Any) -> None:
            refused(answer) if failed else answered(answer.parsed_rows)

        return SimpleNamespace(add_callbacks=add_callbacks, attempted_hosts=[], coordinator_host=host)


class _Frame(Frame):
    """One whose statement the scripted driver does not look at."""

    def statement(self) -> Any:
        return None


async def execute(nodes: Nodes, *, idempotent: bool) -> Any:
    """One statement of one partition."""
    loop = asyncio.get_running_loop()
    session = CassandraSession(nodes, nodes, LoopConnection.bound_to(loop), "dc1")
    prepared = SimpleNamespace(
        routing_key_indexes=None, result_metadata=None, query_id=b"", is_idempotent=True, column_metadata=[]
    )
    frame = _Frame(EXECUTE, b"", prepared, "busyapi", [[]])
    return await session.execute(frame, loop.time() + 5, idempotent=idempotent)


@pytest.mark.parametrize("idempotent", [True, False])
def test_what_a_node_that_shuts_down_refuses_another_takes(idempotent: bool):
    """Nothing was written by the first, so a statement that must not be repeated goes on as well."""
    nodes = Nodes("a", "b", "c", refusing=frozenset({"a"}))
    assert asyncio.run(execute(nodes, idempotent=idempotent)) == ROWS
    assert nodes.asked[0] == "a"
    assert len(nodes.asked) == 2


@pytest.mark.parametrize("names", [("a",), ("a", "b"), ("a", "b", "c")])
def test_it_stays_refused_where_nobody_is_left_or_two_have_refused(names: tuple[str, ...]):
    """Refused for sure; two nodes are asked at most, and none of them twice."""
    nodes = Nodes(*names, refusing=frozenset(names))
    with pytest.raises(StoreRefused, match="shutting down"):
        asyncio.run(execute(nodes, idempotent=True))
    assert len(nodes.asked) == len(set(nodes.asked)) == min(len(names), 2)


def test_what_a_node_refuses_for_the_cluster_is_not_asked_of_another():
    """Too few replicas are too few whoever is asked; asking again is load."""
    unavailable = Unavailable("too few", consistency=6, required_replicas=2, alive_replicas=1)
    nodes = Nodes("a", "b", "c", refusing=frozenset({"a"}), refusal=unavailable)
    with pytest.raises(StoreRefused, match="Unavailable"):
        asyncio.run(execute(nodes, idempotent=True))
    assert nodes.asked == ["a"]
