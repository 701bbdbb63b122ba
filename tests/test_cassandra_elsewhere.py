"""A statement that one node refuses for reasons of its own, or does not answer, goes to another: the session over a scripted driver."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Collection
from types import SimpleNamespace
from typing import Any

import pytest
from cassandra.connection import ConnectionShutdown
from cassandra.pool import NoConnectionsAvailable
from cassandra.protocol import OverloadedErrorMessage, PreparedQueryNotFound, ResultMessage

from cassandra import Unavailable, WriteTimeout
from service.errors import StoreRefused, StoreUnknown
from service.store.cassandra_bind import EXECUTE, Frame
from service.store.cassandra_session import STATEMENTS_IN_FLIGHT_MAX, CassandraSession
from service.store.cassandra_statements import PATIENT_STATEMENTS, STATEMENTS, TAKE_LONG
from service.store.hedging import SLOW_FOR_S, SlowNodes
from service.store.loop_connection import LoopConnection

ROWS = [("stored",)]
SHUTTING_DOWN = OverloadedErrorMessage(0x1001, "Server is shutting down", None)


class Node(str):
    """A host: its name, with what the log says of it."""

    __slots__ = ()

    @property
    def endpoint(self) -> str:
        """Its address."""
        return str(self)


class Nodes:
    """What the driver shows of a cluster whose nodes all have a connection; those that are named refuse, or stand still."""

    def __init__(
        self,
        *names: str,
        refusing: frozenset[str] = frozenset(),
        silent: Collection[str] = (),
        untold: Collection[str] = (),
        refusal: Exception = SHUTTING_DOWN,
        busy: Collection[str] = (),
    ) -> None:
        self.asked: list[str] = []
        self.silent = set(silent)
        self.untold = set(untold)
        self.busy = busy
        self.unanswered: list[Callable[[Any], None]] = []
        self.borrowed = 0
        self._refusing = refusing
        self._refusal = refusal
        self._pools = [self._pool(name) for name in names]
        policy = SimpleNamespace(make_query_plan=lambda _keyspace, _frame: map(Node, names))
        self.profile_manager = SimpleNamespace(default=SimpleNamespace(load_balancing_policy=policy))

    def _pool(self, name: str) -> Any:
        def send_msg(_frame: Frame, _id: int, answered: Any, result_metadata: Any) -> None:  # noqa: ARG001
            if name in self.silent:
                self.asked.append(name)
                self.unanswered.append(answered)
            else:
                answered(self.answer(name))

        def borrow(timeout: float) -> tuple[Any, float]:
            if name in self.busy:
                raise NoConnectionsAvailable
            self.borrowed += 1
            return SimpleNamespace(send_msg=send_msg, _requests={}), timeout

        def give_back(_connection: Any) -> None:
            self.borrowed -= 1

        return SimpleNamespace(
            host=Node(name),
            open_count=1,
            is_shutdown=False,
            borrow_connection=borrow,
            return_connection=give_back,
        )

    def answer(self, name: str) -> Any:
        """What this node says."""
        self.asked.append(name)
        if name in self.untold:
            return PreparedQueryNotFound(0x2500, "unknown", b"")
        if name in self._refusing:
            return self._refusal
        result = ResultMessage(2)
        result.parsed_rows = ROWS
        return result

    def get_pools(self) -> list[Any]:
        """Of all nodes."""
        return self._pools

    def execute_async(self, _statement: object, timeout: float, host: str) -> Any:  # noqa: ARG002
        """The driver's own way, to the host that was named; it prepares there what is not known."""
        self.untold.discard(host)
        answer = self.answer(host)
        failed = answer is self._refusal

        def add_callbacks(answered: Any, refused: Any) -> None:
            refused(answer) if failed else answered(answer.parsed_rows)

        return SimpleNamespace(add_callbacks=add_callbacks, attempted_hosts=[], coordinator_host=host)


class _Frame(Frame):
    """One whose statement the scripted driver does not look at."""

    def statement(self) -> Any:
        return None


def session_over(nodes: Nodes, hedge_after_s: float = 1.0) -> CassandraSession:
    """On the running loop."""
    return CassandraSession(nodes, nodes, LoopConnection.bound_to(asyncio.get_running_loop()), "dc1", hedge_after_s)


async def execute_on(
    session: CassandraSession, *, idempotent: bool = True, takes_long: bool = False, timeout_s: float = 5.0
) -> Any:
    """One statement of one partition."""
    prepared = SimpleNamespace(
        routing_key_indexes=None, result_metadata=None, query_id=b"", is_idempotent=True, column_metadata=[]
    )
    frame = _Frame(EXECUTE, b"", prepared, "busyapi", [[]])
    deadline_s = asyncio.get_running_loop().time() + timeout_s
    return await session.execute(frame, deadline_s, idempotent=idempotent, takes_long=takes_long)


async def execute(nodes: Nodes, *, idempotent: bool) -> Any:
    """One statement of one partition, on a session of its own."""
    return await execute_on(session_over(nodes), idempotent=idempotent)


@pytest.mark.parametrize("idempotent", [True, False])
def test_what_a_node_that_shuts_down_refuses_another_takes(idempotent: bool):
    """Nothing was written by the first, so a statement that must not be repeated goes on as well."""
    nodes = Nodes("a", "b", "c", refusing=frozenset({"a"}))
    assert asyncio.run(execute(nodes, idempotent=idempotent)) == ROWS
    assert nodes.asked[0] == "a"
    assert len(nodes.asked) == 2


def test_whose_time_is_up_does_not_wait_behind_those_who_came_to_a_silent_store_later():
    """The second step of a write may be behind the first ones of others, which have more time left than it."""

    async def test() -> None:
        nodes = Nodes("a", silent=["a"])
        session = session_over(nodes)
        others = [asyncio.create_task(execute_on(session)) for _ in range(STATEMENTS_IN_FLIGHT_MAX)]
        await asked(nodes, STATEMENTS_IN_FLIGHT_MAX)
        with pytest.raises(StoreRefused, match="no time was left"):
            await asyncio.wait_for(execute_on(session, timeout_s=0.01), 4)
        behind = asyncio.create_task(execute_on(session))
        await asyncio.sleep(0)
        assert len(nodes.asked) == STATEMENTS_IN_FLIGHT_MAX
        nodes.silent.clear()
        for answered in nodes.unanswered:
            answered(nodes.answer("a"))
        assert await asyncio.gather(*others, behind) == [ROWS] * (STATEMENTS_IN_FLIGHT_MAX + 1)

    asyncio.run(test())


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


HEDGE_AFTER_S = 0.02


async def asked(nodes: Nodes, count: int) -> None:
    """Wait until so many statements have reached a node."""
    for _ in range(2000):
        if len(nodes.asked) >= count:
            return
        await asyncio.sleep(0.001)
    raise AssertionError(f"{len(nodes.asked)} of {count} were sent")


async def hedged(nodes: Nodes, statements: int = 1) -> list[Any]:
    """Statements one after the other over one session."""
    session = session_over(nodes, HEDGE_AFTER_S)
    return [await execute_on(session) for _ in range(statements)]


def test_what_a_node_does_not_answer_another_is_asked_as_well():
    """Long before the time limit; each node once."""
    nodes = Nodes("a", "b", "c", silent=["a"])
    assert asyncio.run(hedged(nodes)) == [ROWS]
    assert nodes.asked == ["a", "b"]


def test_a_node_that_kept_a_statement_waiting_is_asked_last_for_a_while():
    """One statement waits for it, not each third one."""
    nodes = Nodes("a", "b", "c", silent=["a"])
    assert asyncio.run(hedged(nodes, 4)) == [ROWS] * 4
    assert nodes.asked == ["a", "b", "b", "b", "b"]


@pytest.mark.parametrize("how", [{"idempotent": False}, {"takes_long": True}])
def test_what_may_run_only_once_or_takes_long_is_not_hedged_and_its_node_is_not_slow_for_it(how: dict[str, bool]):
    """A light-weight transaction, a count: sent to one node, and the next statement goes to the same."""
    nodes = Nodes("a", "b", "c", silent=["a"])

    async def run() -> None:
        session = session_over(nodes, HEDGE_AFTER_S)
        waiting = asyncio.create_task(execute_on(session, **how))
        await asyncio.sleep(5 * HEDGE_AFTER_S)
        assert nodes.asked == ["a"]
        nodes.silent.clear()
        assert await execute_on(session) == ROWS
        nodes.unanswered[0](nodes.answer("a"))
        assert await waiting == ROWS

    asyncio.run(run())
    assert nodes.asked == ["a", "a", "a"]


def test_all_that_waits_for_a_node_is_hedged_at_once():
    """However much it is: the two others have answered nothing late."""
    nodes = Nodes("a", "b", "c", silent=["a"])

    async def run() -> None:
        session = session_over(nodes, HEDGE_AFTER_S)
        assert await asyncio.gather(*(execute_on(session) for _ in range(128))) == [ROWS] * 128
        assert nodes.asked == ["a"] * 128 + ["b"] * 128
        assert nodes.borrowed == 128, "what the silent node has not answered"
        for answered in nodes.unanswered:
            answered(nodes.answer("a"))
        assert nodes.borrowed == 0

    asyncio.run(run())


@pytest.mark.parametrize(("untold", "refusing"), [("b", ""), ("", "b")])
def test_a_hedge_that_fails_is_followed_by_one_to_the_next_node(untold: str, refusing: str):
    """One that does not know the statement, or shuts down."""
    nodes = Nodes("a", "b", "c", silent=["a"], untold=untold, refusing=frozenset(refusing))

    async def run() -> None:
        async with asyncio.timeout(30):  # and not when the first has had its time
            assert await execute_on(session_over(nodes, HEDGE_AFTER_S), timeout_s=1000) == ROWS

    asyncio.run(run())
    assert nodes.asked == ["a", "b", "c"]


def test_a_node_that_answers_its_trial_in_time_is_asked_as_before():
    """Not only when it has been left alone for another two seconds."""
    nodes = Nodes("a", "b", "c")

    async def run() -> None:
        session = session_over(nodes)
        session._slow.kept_waiting("a", asyncio.get_running_loop().time() - SLOW_FOR_S - 1)
        for _ in range(3):
            assert await execute_on(session) == ROWS

    asyncio.run(run())
    assert nodes.asked == ["a", "a", "a"]


def test_a_node_that_does_not_know_a_statement_is_told_it_though_others_do():
    """By the driver's own way, to that very node: else it would be asked in vain for as long as there is another."""
    nodes = Nodes("a", "b", "c", untold=["a"])
    assert asyncio.run(hedged(nodes, 2)) == [ROWS] * 2
    assert nodes.asked == ["a", "a", "a"]


def test_a_failure_in_the_very_turn_of_an_answer_disturbs_nobody():
    """In whichever order the two are looked at."""
    heard: list[Any] = []

    async def run() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _loop, context: heard.append(context))
        for _ in range(20):
            nodes = Nodes("a", "b", silent=["a", "b"])
            asking = asyncio.create_task(execute_on(session_over(nodes, HEDGE_AFTER_S / 4)))
            await asked(nodes, 2)
            nodes.unanswered[0](SHUTTING_DOWN)
            nodes.unanswered[1](nodes.answer("b"))
            assert await asking == ROWS
            del asking, nodes
            gc.collect()

    asyncio.run(run())
    assert not heard


def test_the_slow_nodes_late_answer_counts_when_it_comes_first():
    """Both are asked and neither is given up: the first answer is the answer, and the other disturbs nobody."""
    nodes = Nodes("a", "b", "c", silent=["a", "b"])

    async def run() -> None:
        asking = asyncio.create_task(execute_on(session_over(nodes, HEDGE_AFTER_S)))
        await asked(nodes, 2)
        slow, other = nodes.unanswered
        slow(nodes.answer("a"))
        assert await asking == ROWS
        other(nodes.answer("b"))
        await asyncio.sleep(0)

    asyncio.run(run())


@pytest.mark.parametrize("first_to_fail", [0, 1])
def test_a_hedge_that_fails_leaves_the_other_attempt_to_answer(first_to_fail: int):
    """Whichever of the two it is."""
    nodes = Nodes("a", "b", silent=["a", "b"])

    async def run() -> None:
        asking = asyncio.create_task(execute_on(session_over(nodes, HEDGE_AFTER_S)))
        await asked(nodes, 2)
        nodes.unanswered[first_to_fail](SHUTTING_DOWN)
        await asyncio.sleep(0.005)
        assert not asking.done()
        nodes.unanswered[1 - first_to_fail](nodes.answer("a"))
        assert await asking == ROWS

    asyncio.run(run())


@pytest.mark.parametrize("untold", ["", "b"])
def test_what_a_killed_node_leaves_unanswered_does_not_wait_for_a_slow_one_after_it(untold: str):
    """The second attempt is hedged as the first is; a node that has to be told the statement first is told it."""
    nodes = Nodes("a", "b", "c", silent=["a", "b"] if not untold else ["a"], untold=untold)

    async def run() -> None:
        session = session_over(nodes, HEDGE_AFTER_S)
        session._hedge_after_s = 1000.0
        asking = asyncio.create_task(execute_on(session, timeout_s=3000))
        await asked(nodes, 1)
        session._hedge_after_s = HEDGE_AFTER_S
        nodes.unanswered[0](ConnectionShutdown("reset by peer"))
        async with asyncio.timeout(30):
            assert await asking == ROWS

    asyncio.run(run())
    assert nodes.asked == (["a", "b", "c"] if not untold else ["a", "b", "b"])


def test_what_a_killed_node_leaves_unanswered_goes_past_a_slow_one():
    """Slow as one of three; that the killed one is out does not make it one of two, of which it would be asked in turn."""
    nodes = Nodes("a", "b", "c", silent=["a"])

    async def run() -> None:
        session = session_over(nodes)
        asking = asyncio.create_task(execute_on(session))
        await asked(nodes, 1)
        session._slow.kept_waiting("b", asyncio.get_running_loop().time())
        nodes.unanswered[0](ConnectionShutdown("reset by peer"))
        assert await asking == ROWS

    asyncio.run(run())
    assert nodes.asked == ["a", "c"]


@pytest.mark.parametrize("idempotent", [True, False])
def test_a_node_whose_connections_are_all_in_use_is_passed_over(idempotent: bool):
    """Nothing was sent to it."""
    nodes = Nodes("a", "b", "c", busy=["a"])
    assert asyncio.run(execute(nodes, idempotent=idempotent)) == ROWS
    assert nodes.asked == ["b"]


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_when_both_fail_what_one_may_have_written_stays_unknown(order: tuple[int, int]):
    """A refusal, before or after it, does not make a write that timed out a refused one."""
    late = WriteTimeout("late", write_type=0, consistency=6, required_responses=2, received_responses=1)
    nodes = Nodes("a", "b", silent=["a", "b"], refusing=frozenset({"a", "b"}))

    async def run() -> None:
        # No time is left for a third.
        asking = asyncio.create_task(execute_on(session_over(nodes, HEDGE_AFTER_S), timeout_s=0.11))
        await asked(nodes, 2)
        for answered, error in zip(order, (late, SHUTTING_DOWN), strict=True):
            nodes.unanswered[answered](error)
            await asyncio.sleep(0.001)
        with pytest.raises(StoreUnknown):
            await asking

    asyncio.run(run())


def test_where_every_node_is_slow_hedges_end_with_their_budget():
    """What is slow because there is too much to do does not get twice as much to do: sixteen at once, a tenth after that."""
    nodes = Nodes("a", "b", "c", silent=["a", "b", "c"])

    async def run() -> None:
        session = session_over(nodes, HEDGE_AFTER_S)
        waiting = []
        for known_to_be_slow in range(3):
            nodes.asked.clear()
            waiting += [asyncio.create_task(execute_on(session)) for _ in range(40)]
            await asyncio.sleep(10 * HEDGE_AFTER_S)
            if known_to_be_slow < 2:
                assert len(nodes.asked) == 80
        assert 40 + 16 <= len(nodes.asked) <= 40 + 16 + 4
        assert nodes.asked[:40] == ["a"] * 40, "as planned, not all to the one that is left"
        for answered in list(nodes.unanswered):
            answered(nodes.answer("a"))
        assert await asyncio.gather(*waiting) == [ROWS] * 120

    asyncio.run(run())


def test_who_stops_waiting_leaves_nothing_behind(recwarn: pytest.WarningsRecorder):
    """A statement that is cancelled before or after its hedge, with answers that come all the same."""
    nodes = Nodes("a", "b", silent=["a", "b"])
    heard: list[Any] = []

    async def run() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _loop, context: heard.append(context))
        session = session_over(nodes, HEDGE_AFTER_S)
        for wanted in (1, 3):
            asking = asyncio.create_task(execute_on(session))
            await asked(nodes, wanted)
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking
        for answered in nodes.unanswered:
            answered(SHUTTING_DOWN)
        nodes.unanswered.clear()
        gc.collect()
        await asyncio.sleep(0.01)
        gc.collect()

    asyncio.run(run())
    assert not heard
    assert not recwarn.list


def test_a_slow_node_is_tried_again_by_one_statement_after_a_while():
    """It stays last for two seconds after it last kept a statement waiting; in time once, and it is as good as the others."""
    slow = SlowNodes()
    assert slow.order(iter("abc"), 10.0) == ["a", "b", "c"]
    assert slow.kept_waiting("a", 10.0)
    assert slow.order(iter("abc"), 10.0) == ["b", "c", "a"]
    assert slow.order(iter("cab"), 10.0) == ["c", "b", "a"]
    assert not slow.kept_waiting("a", 11.0)
    tried_s = 11.0 + SLOW_FOR_S
    assert slow.order(iter("abc"), tried_s - 0.01) == ["b", "c", "a"]
    assert slow.order(iter("bac"), tried_s) == ["b", "c", "a"]
    assert slow.order(iter("abc"), tried_s) == ["a", "b", "c"]
    assert slow.order(iter("abc"), tried_s) == ["b", "c", "a"]
    assert not slow.kept_waiting("a", tried_s + 0.25)
    assert slow.order(iter("abc"), tried_s + SLOW_FOR_S) == ["b", "c", "a"]
    slow.answered("a")
    assert slow.order(iter("abc"), tried_s) == ["a", "b", "c"]
    assert slow.kept_waiting("a", 30.0)


def test_where_half_of_the_nodes_are_slow_they_are_asked_as_planned():
    """It is too much to do, or the network; the rest would only become slow as well."""
    slow = SlowNodes()
    slow.kept_waiting("a", 10.0)
    assert slow.order(iter("ab"), 10.0) == ["a", "b"]
    assert slow.order(iter("abc"), 10.0) == ["b", "c", "a"]
    slow.kept_waiting("b", 10.0)
    assert slow.order(iter("abc"), 10.0) == ["a", "b", "c"]
    assert slow.order(iter("abcde"), 10.0) == ["c", "d", "e", "a", "b"]


def test_a_tenth_of_the_statements_may_be_hedged_to_slow_nodes_once_what_was_saved_is_spent():
    """And no more is saved than sixteen; to a node that is not slow, all of them."""
    slow = SlowNodes()
    slow.kept_waiting("b", 10.0)
    assert [slow.may_hedge("b") for _ in range(17)] == [True] * 16 + [False]
    for _ in range(25):
        slow.order("abc", 10.0)
    assert [slow.may_hedge("b") for _ in range(3)] == [True, True, False]
    for _ in range(1000):
        slow.order("abc", 10.0)
    assert [slow.may_hedge("b") for _ in range(17)] == [True] * 16 + [False]
    assert all(slow.may_hedge("a") for _ in range(1000))


def test_what_reads_many_rows_takes_long_and_what_a_write_waits_for_does_not():
    """Of the store's own statements."""
    statements = {**PATIENT_STATEMENTS, **STATEMENTS}
    assert {name for name, text in statements.items() if "COUNT(" in text or "LIMIT ?" in text} < TAKE_LONG
    assert not {name for name in TAKE_LONG if not statements[name].startswith("SELECT")}
    assert not TAKE_LONG & {
        "select_digests",
        "select_usages",
        "select_keyed",
        "select_messages",
        "select_written",
        "select_clock",
    }
