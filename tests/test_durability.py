"""What an acknowledgement says of itself: the words, what they are made of, and that they keep up with the cluster."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import logging
from collections.abc import Collection
from typing import Any, cast

import pytest

from service import protocol
from service.durability import Acks, acknowledgement, is_worse
from service.store import Durability, Store
from service.store import cassandra_durability as watching
from service.store.cassandra_durability import DurabilityWatch
from service.store.durability import (
    NOTHING_KNOWN,
    KeyspaceState,
    NodeState,
    durability,
    keyspace_state,
    quorum,
    restarted,
)
from tests.support import LONG, USAGE, WebInstance

BATCH = NodeState("batch", "die", "10.0.0.1", 7000, 100)
PERIODIC = dataclasses.replace(BATCH, commitlog_sync="periodic")
THREE = KeyspaceState(3, durable_writes=True)
SYNCED = Durability(synced=True, acknowledging=2, replicas=3)
JSON = ("Content-Type", "application/json")


@pytest.mark.parametrize(
    ("known", "replicated", "value"),
    [
        (Durability(synced=True, acknowledging=1, replicas=1), False, "fsync; replicas=1"),
        (Durability(synced=True, acknowledging=1, replicas=1), True, "fsync; replicas=1/1"),
        (SYNCED, True, "fsync; replicas=2/3"),
        (Durability(synced=False, acknowledging=2, replicas=3), True, "memory; replicas=2/3"),
        (Durability(synced=None, acknowledging=2, replicas=3), True, "unknown; replicas=2/3"),
        (NOTHING_KNOWN, True, "unknown"),
    ],
)
def test_the_header_names_what_an_answer_is_worth(known: Durability, replicated: bool, value: str):
    """A word for where it is, and how many of the copies had it."""
    assert acknowledgement(known, replicated=replicated) == value


def test_an_answer_is_worse_when_it_is_less_on_disk_or_on_fewer_replicas():
    """On disk, perhaps, not; copies that are not acknowledged count for nothing."""
    words = [dataclasses.replace(SYNCED, synced=synced) for synced in (False, None, True)]
    for (low, one), (high, other) in itertools.product(enumerate(words), repeat=2):
        assert is_worse(one, other) == (low < high)
    assert is_worse(dataclasses.replace(SYNCED, acknowledging=1), SYNCED)
    assert not is_worse(dataclasses.replace(SYNCED, acknowledging=3, replicas=5), SYNCED)
    assert is_worse(NOTHING_KNOWN, SYNCED)


@pytest.mark.parametrize(
    ("keyspace", "nodes", "synced"),
    [
        (THREE, [BATCH, BATCH, BATCH], True),
        (THREE, [BATCH, dataclasses.replace(BATCH, commitlog_sync="group")], True),
        (THREE, [BATCH, PERIODIC, BATCH], False),
        (THREE, [BATCH, PERIODIC, None], False),
        (THREE, [BATCH, None, BATCH], None),
        (THREE, [], None),
        (THREE, [BATCH, dataclasses.replace(BATCH, commitlog_sync="")], False),
        (THREE, [BATCH, dataclasses.replace(BATCH, commit_failure_policy="ignore")], False),
        (KeyspaceState(3, durable_writes=False), [BATCH, BATCH, BATCH], False),
    ],
)
def test_an_answer_is_worth_as_much_as_the_least_of_the_nodes(
    keyspace: KeyspaceState, nodes: Collection[NodeState | None], synced: bool | None
):
    """Any of them may be a replica; a commit log that is periodic, not heeded or not used at all is no fsync."""
    assert durability(keyspace, nodes) == Durability(synced=synced, acknowledging=2, replicas=3)


def test_without_the_replication_nothing_is_known():
    """How many copies there are is no guess."""
    assert durability(None, [BATCH]) == NOTHING_KNOWN


@pytest.mark.parametrize(
    ("replication", "replicas"),
    [
        ({"dc1": "3"}, 3),
        ({"dc1": "1", "dc2": "5"}, 1),
        ({"dc1": "3/1"}, 3),
        ({"replication_factor": "2"}, 2),
        ({"dc2": "3"}, 0),
    ],
)
def test_the_copies_are_those_of_the_local_data_centre(replication: dict[str, str], replicas: int):
    """LOCAL_QUORUM counts no others."""
    assert keyspace_state(replication, "dc1", durable_writes=True).replicas == replicas


def test_a_quorum_is_more_than_half():
    """Of one copy one, of two two, of three two."""
    assert [quorum(copies) for copies in range(6)] == [0, 1, 2, 2, 3, 3]


def test_a_node_has_started_again_when_its_peers_say_so_or_do_not_know_it():
    """Gossip's generation is the time of its start."""
    assert not restarted(BATCH, {("10.0.0.1", 7000): 100, ("10.0.0.2", 7000): 7})
    assert restarted(BATCH, {("10.0.0.1", 7000): 101})
    assert restarted(BATCH, {("10.0.0.1", 7001): 100})
    assert restarted(BATCH, {})


class Told:
    """A store that says what it is told to say."""

    def __init__(self, now: Durability) -> None:
        self.now = now

    def durability(self) -> Durability:
        """What a test has set."""
        return self.now


def acks(now: Durability) -> tuple[Acks, Told]:
    """The header of a store, and the store."""
    store = Told(now)
    return Acks(cast(Store, store), replicated=True), store


def test_a_start_without_fsync_is_a_warning_and_one_with_it_is_silent(caplog: pytest.LogCaptureFixture):
    """An operator reads it where the service says that it is ready."""
    caplog.set_level(logging.DEBUG)
    good, _ = acks(SYNCED)
    good.started()
    assert caplog.records == []
    for synced in (False, None):
        caplog.clear()
        bad, _ = acks(dataclasses.replace(SYNCED, synced=synced))
        bad.started()
        (line,) = caplog.records
        assert line.levelname == "WARNING"


def test_a_change_changes_the_header_and_is_logged_once(caplog: pytest.LogCaptureFixture):
    """For the worse a warning, for the better a line."""
    caplog.set_level(logging.INFO)
    header, store = acks(SYNCED)
    for synced, level, word in ((False, "WARNING", b"memory"), (True, "INFO", b"fsync")):
        caplog.clear()
        store.now = dataclasses.replace(SYNCED, synced=synced)
        header.refresh()
        header.refresh()
        assert [line.levelname for line in caplog.records] == [level]
        assert header.header == (b"ack", word + b"; replicas=2/3")
        assert header.line == b"ack: %b; replicas=2/3\r\n" % word


def test_the_short_way_says_what_is_true_when_the_date_changes():
    """Its bytes are made once a second, and from what the store says then."""
    header, store = acks(SYNCED)
    serving = cast(Any, type("Serving", (), {"instance": type("Instance", (), {"acks": header})}))
    date = [(b"date", b"now")]
    assert protocol._heads(date, serving)[1:] == (b"date: now\r\n", b"date: now\r\nack: fsync; replicas=2/3\r\n")
    store.now = dataclasses.replace(SYNCED, synced=False)
    assert b"ack: memory" in protocol._heads(list(date), serving)[2]


@pytest.mark.parametrize("way", [[], [LONG]], ids=["short", "long"])
def test_every_2xx_for_a_write_of_usages_carries_it(instance: WebInstance, way: list[tuple[str, str]]):
    """Created, duplicate, batch, deleted: on SQLite each is fsynced, in one copy."""
    key = ("Idempotency-Key", f"ack-{len(way)}")
    with instance.connect() as connection:
        created = connection.request("POST", "/api/usages", USAGE, [JSON, *way])
        keyed = connection.request("POST", "/api/usages", USAGE, [JSON, key, *way])
        duplicate = connection.request("POST", "/api/usages", USAGE, [JSON, key, *way])
        array = connection.request("POST", "/api/usages/batch", b"[%b]" % USAGE, [JSON, *way])
        lines = connection.request("POST", "/api/usages/batch", USAGE, [("Content-Type", "application/x-ndjson"), *way])
        deleted = connection.request("DELETE", f"/api/usages/{created.json()['id']}", None, way)
    replies = [created, keyed, duplicate, array, lines, deleted]
    assert [reply.status for reply in replies] == [201, 201, 200, 200, 200, 200]
    assert {reply.header("ack") for reply in replies} == {"fsync; replicas=1"}


@pytest.mark.parametrize("way", [[], [LONG]], ids=["short", "long"])
def test_what_acknowledges_no_write_of_a_usage_has_none(instance: WebInstance, way: list[tuple[str, str]]):
    """Refusals and reads are worth nothing on a disk."""
    with instance.connect() as connection:
        replies = [
            connection.request("POST", "/api/usages", b"{", [JSON, *way]),
            connection.request("POST", "/api/usages", b'{"patientId": 1.5}', [JSON, *way]),
            connection.request("DELETE", "/api/usages/999999999", None, way),
            connection.request("GET", "/api/usages", None, way),
            connection.request("GET", "/livez", None, way),
        ]
    assert [reply.status for reply in replies] == [400, 422, 404, 200, 200]
    assert {reply.header("ack") for reply in replies} == {None}


def test_openapi_names_it(instance: WebInstance):
    """With each answer that carries it."""
    paths = instance.request("GET", "/openapi.json").json()["paths"]
    for status in ("200", "201"):
        assert "Ack" in paths["/api/usages"]["post"]["responses"][status]["headers"]


# --- the watch over a cluster, whose answers are made here


class Cluster:
    """Nodes by name: whether there is a connection, and what each says. Stands for a session too."""

    def __init__(self) -> None:
        self.connected = {"a": True, "b": True, "c": True}
        self.says: dict[str, NodeState | None] = {
            name: dataclasses.replace(BATCH, address=name) for name in self.connected
        }
        self.keyspace: KeyspaceState | None = THREE
        self.generations = {(name, 7000): 100 for name in self.connected}
        self.asked: list[str] = []

    def nodes(self) -> dict[str, bool]:
        """As a session has them."""
        return dict(self.connected)

    async def ask_nodes(self, _: Any, nodes: Collection[str]) -> dict[str, NodeState | None]:
        """In place of the watch's own."""
        assert all(self.connected[node] for node in nodes)
        self.asked += sorted(nodes)
        return {node: self.says[node] for node in nodes}

    async def read_keyspace(self, *_: Any) -> KeyspaceState | None:
        """In place of the watch's own."""
        return self.keyspace

    async def read_generations(self, _: Any) -> dict[tuple[str, int], int]:
        """In place of the watch's own."""
        return dict(self.generations)


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    """Three nodes that all fsync."""
    made = Cluster()
    for name in ("ask_nodes", "read_keyspace", "read_generations"):
        monkeypatch.setattr(watching, name, getattr(made, name))
    return made


class Looks:
    """A watch that looks when it is told to."""

    def __init__(self, cluster: Cluster) -> None:
        self.session: Any = cluster
        self.watch = DurabilityWatch(lambda: self.session, "k")

    def __call__(self) -> bool | None:
        """Look, and say whether an answer means fsync."""

        async def look() -> None:
            await self.watch._look()

        asyncio.run(look())
        return self.watch.now.synced


def test_before_the_first_look_nothing_is_known(cluster: Cluster):
    """And without a session nothing changes."""
    look = Looks(cluster)
    look.session = None
    assert look() is None
    assert look.watch.now == NOTHING_KNOWN


def test_the_first_look_waits_a_moment_for_the_connections_to_all_nodes(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
):
    """A session is there with its first one, and the first answers should not be unknown for that."""
    looks: list[int] = []

    def nodes() -> dict[str, bool]:
        looks.append(len(looks))
        return {"a": True, "b": len(looks) > 1, "c": len(looks) > 3}

    monkeypatch.setattr(cluster, "nodes", nodes)
    cluster.connected = {"a": True, "b": True, "c": True}
    watch = DurabilityWatch(lambda: cast(Any, cluster), "k")

    async def main() -> None:
        await watch.open()
        await watch.close()

    asyncio.run(main())
    assert watch.now == SYNCED


def test_each_node_is_asked_once(cluster: Cluster):
    """Then it is known until it goes away, or a minute is over."""
    look = Looks(cluster)
    assert look() is True
    assert look() is True
    assert cluster.asked == ["a", "b", "c"]
    look.watch._asked_at_s -= watching.ASK_INTERVAL_S + 1
    cluster.says["b"] = PERIODIC
    assert look() is False
    assert cluster.asked == ["a", "b", "c"] * 2


def test_a_node_that_does_not_answer_is_asked_again_and_is_unknown_until_it_does(cluster: Cluster):
    """What could not be asked is not taken for fsync."""
    look = Looks(cluster)
    said, cluster.says["b"] = cluster.says["b"], None
    assert look() is None
    cluster.asked.clear()
    assert look() is None
    cluster.says["b"] = said
    assert look() is True
    assert cluster.asked == ["b", "b"]


def test_a_node_that_joins_is_unknown_until_it_was_asked(cluster: Cluster):
    """Its first answer may be counted before there is a connection to it."""
    look = Looks(cluster)
    assert look() is True
    cluster.connected["d"] = False
    assert look() is None
    cluster.connected["d"] = True
    cluster.says["d"] = dataclasses.replace(BATCH, address="d")
    assert look() is True


def test_a_node_that_is_away_keeps_its_word_until_it_starts_again(cluster: Cluster):
    """Two of three fsync while the third is dead; what comes back may be configured otherwise."""
    look = Looks(cluster)
    assert look() is True
    cluster.connected["c"] = False
    assert look() is True
    cluster.generations["c", 7000] = 200
    assert look() is None
    cluster.connected["c"] = True
    cluster.says["c"] = dataclasses.replace(PERIODIC, generation=200)
    assert look() is False


def test_a_node_that_is_back_is_asked_at_once(cluster: Cluster):
    """Whatever its peers told of it."""
    look = Looks(cluster)
    look()
    cluster.connected["c"] = False
    look()
    cluster.asked.clear()
    cluster.connected["c"] = True
    cluster.says["c"] = PERIODIC
    assert look() is False
    assert cluster.asked == ["c"]


def test_when_all_are_away_nothing_is_known_of_what_comes_back(cluster: Cluster):
    """A single node that is restarted answers the first write before it can be asked."""
    look = Looks(cluster)
    look()
    cluster.connected = dict.fromkeys(cluster.connected, False)
    assert look() is None


def test_a_new_session_asks_all_anew(cluster: Cluster):
    """What happened between two sessions nobody has seen."""
    look = Looks(cluster)
    look()
    other = Cluster()
    other.says = cluster.says = dict.fromkeys(other.says, PERIODIC)
    look.session = other
    assert look() is False


def test_a_replication_that_cannot_be_read_stays_as_it_was(cluster: Cluster):
    """The keyspace's copies do not change because a read fails."""
    look = Looks(cluster)
    look()
    look.watch._asked_at_s -= watching.ASK_INTERVAL_S + 1
    cluster.keyspace = None
    assert look() is True
    assert look.watch.now.replicas == 3


def test_a_bug_in_the_looking_makes_it_unknown_and_is_logged(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    """What is said must not stand still, and the store is of use all the same."""
    look = Looks(cluster)
    look()
    monkeypatch.setattr(cluster, "nodes", lambda: 1 / 0)
    assert look() is None
    assert "ZeroDivisionError" in caplog.text
