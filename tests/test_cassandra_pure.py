"""The decisions of the Cassandra store, which need no Cassandra."""

from __future__ import annotations

import re
import struct
import uuid
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from cassandra.cluster import NoHostAvailable
from cassandra.connection import ConnectionShutdown
from cassandra.cqltypes import BytesType, lookup_casstype
from cassandra.protocol import (
    BatchMessage,
    ColumnMetadata,
    ErrorMessage,
    ExecuteMessage,
    IsBootstrappingErrorMessage,
    OverloadedErrorMessage,
    ProtocolHandler,
    ServerError,
)
from cassandra.query import UNSET_VALUE, BatchStatement, BatchType, PreparedStatement
from hypothesis import given
from hypothesis import strategies as st

from cassandra import ConsistencyLevel, OperationTimedOut, Unavailable, WriteFailure, WriteTimeout
from service.errors import StoreRefused, StoreUnknown
from service.store import KeyedUsage, Put
from service.store.cassandra_bind import Frame, batch, bigint, execute, list_of
from service.store.cassandra_outcome import Outcome, attempt_timeout_s, may_try_again, outcome_of, verdict
from service.store.cassandra_schema import SchemaFile, read_schema, replication_of, split_statements, to_apply
from service.store.cassandra_statements import PAGE, STATEMENTS
from service.store.grouping import group_by, split
from service.store.keyed import bucket, decide, settle

WRITTEN, REFUSED, UNKNOWN = Outcome


def item(key: str, usage: str) -> KeyedUsage:
    """A usage whose digest is as good as any."""
    return KeyedUsage(key, usage.encode().ljust(32), usage.encode())


def uuid7(milliseconds: int, rest: int) -> str:
    """The UUIDv7 of a time, with 74 random bits from ``rest``."""
    value = milliseconds << 80 | 7 << 76 | (rest >> 62 & 0xFFF) << 64 | 2 << 62 | rest & ((1 << 62) - 1)
    return str(uuid.UUID(int=value))


# --- outcomes


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (None, WRITTEN),
        (NoHostAvailable("none", {}), REFUSED),
        (Unavailable("too few replicas"), REFUSED),
        (OverloadedErrorMessage(0x1001, "overloaded", None), REFUSED),
        (IsBootstrappingErrorMessage(0x1002, "bootstrapping", None), REFUSED),
        (WriteTimeout("slow replica", write_type=0), UNKNOWN),
        (WriteFailure("a replica failed"), UNKNOWN),
        (OperationTimedOut(), UNKNOWN),
        (ConnectionShutdown("reset"), UNKNOWN),
        (ServerError(0x0000, "it says", None), UNKNOWN),
        (ErrorMessage(0x9999, "new in a later version", None), UNKNOWN),
        (TimeoutError(), UNKNOWN),
        (KeyError("a bug in the driver"), UNKNOWN),
    ],
)
def test_only_an_error_that_proves_it_is_a_refusal(error: Exception | None, outcome: Outcome):
    """Unknown is never called failed: what is not known to have been turned down may be written."""
    assert outcome_of(error) is outcome


@given(st.lists(st.sampled_from(Outcome), min_size=1, max_size=4))
def test_the_verdict_over_attempts_never_takes_back_an_unknown(attempts: list[Outcome]):
    """Written wins; else one unknown attempt makes it unknown, whatever the later ones were refused for."""
    outcome = verdict(attempts)
    assert (outcome is WRITTEN) == (WRITTEN in attempts)
    assert (outcome is REFUSED) == (set(attempts) == {REFUSED})


def test_an_unknown_outcome_is_tried_again_once_and_only_of_an_idempotent_statement():
    """A light-weight transaction is never repeated as it stands, and time limits hold."""
    assert may_try_again([UNKNOWN], idempotent=True, elsewhere=False, remaining_s=1)
    assert not may_try_again([UNKNOWN], idempotent=False, elsewhere=True, remaining_s=1)
    assert not may_try_again([UNKNOWN, UNKNOWN], idempotent=True, elsewhere=True, remaining_s=1)
    assert not may_try_again([UNKNOWN], idempotent=True, elsewhere=True, remaining_s=0.01)


def test_a_refusal_stands_unless_it_was_one_node_s_and_another_is_left():
    """Nothing was written, so a statement that is not idempotent may go elsewhere too; once, and while there is time."""
    for idempotent in (True, False):
        assert not may_try_again([REFUSED], idempotent=idempotent, elsewhere=False, remaining_s=1)
        assert may_try_again([REFUSED], idempotent=idempotent, elsewhere=True, remaining_s=1)
        assert not may_try_again([REFUSED], idempotent=idempotent, elsewhere=True, remaining_s=0.01)
        assert not may_try_again([UNKNOWN, REFUSED], idempotent=idempotent, elsewhere=True, remaining_s=1)


def test_the_first_attempt_leaves_time_for_another_node():
    """A node that hangs costs its share of the time, not all of it; the last attempt has what is left."""
    assert attempt_timeout_s([], remaining_s=2.5, other_hosts=True) == pytest.approx(1.5)
    assert attempt_timeout_s([], remaining_s=2.5, other_hosts=False) == 2.5
    assert attempt_timeout_s([UNKNOWN], remaining_s=1.0, other_hosts=True) == 1.0


# --- keys


@given(st.integers(0, (1 << 48) - 10_001), st.integers(0, (1 << 74) - 1), st.integers(0, (1 << 74) - 1))
def test_uuid7s_of_ten_seconds_fall_into_four_buckets(milliseconds: int, rest: int, other: int):
    """Keys made together are stored together: their time decides, and two of their random bits."""
    start = milliseconds - milliseconds % 10_000
    buckets = {
        bucket(uuid7(start + offset % 10_000, rest + offset & (1 << 74) - 1)) for offset in range(0, 10_000, 1111)
    }
    assert {name.split(".")[0] for name in buckets} == {str(start // 10_000)}
    assert bucket(uuid7(milliseconds, rest)).split(".")[1] == str(rest & 3)
    assert (bucket(uuid7(milliseconds, rest)) == bucket(uuid7(milliseconds, other))) == (rest & 3 == other & 3)


def test_a_uuid7_has_one_bucket_however_it_is_written():
    """Upper and lower case of one UUID go the same way (they are different keys all the same)."""
    key = uuid7(1_700_000_000_123, 0xABCDEF)
    assert bucket(key) == bucket(key.upper()) != key


@pytest.mark.parametrize(
    "key",
    [
        "order-17",
        "12345",
        "9b2f3d0c-5a51-4c7e-9d36-2f6a1c0e8b47",
        uuid7(1, 2).replace("-", ""),
        f"{uuid7(1, 2)}0",
        f" {uuid7(1, 2)[1:]}",
        f"+{uuid7(1, 2)[1:]}",
        uuid7(1, 2)[:19] + "c" + uuid7(1, 2)[20:],
        f"{{{uuid7(1, 2)[1:-1]}}}",
    ],
)
def test_any_other_key_is_a_bucket_of_its_own(key: str):
    """Also one that only looks like a UUIDv7."""
    assert bucket(key) == key


def test_a_repeat_is_told_from_a_conflict():
    """By the digests that are stored under the key: also the second body of a race is a duplicate when it is repeated."""
    existing = {"raced": {item("", "a").digest, item("", "b").digest}}
    group = [item("raced", "a"), item("raced", "b"), item("raced", "c"), item("new", "a")]
    assert [each.put for each in decide(group, existing)] == [Put.DUPLICATE, Put.DUPLICATE, Put.CONFLICT, Put.CREATED]


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("123")), max_size=12),
    st.dictionaries(st.sampled_from("abc"), st.sets(st.sampled_from("123"), min_size=1)),
)
def test_a_group_comes_to_what_its_items_come_to_one_by_one(pairs: list[tuple[str, str]], stored: dict[str, set[str]]):
    """The same answers and the same rows as if every item had been a group of its own, in order."""
    group = [item(key, usage) for key, usage in pairs]
    rows = {key: {item(key, usage).digest for usage in usages} for key, usages in stored.items()}
    verdicts = decide(group, rows)
    assert settle(verdicts, [None] * len(group)) == [each.put for each in verdicts]
    for each, verdict_ in zip(group, verdicts, strict=True):
        alone = decide([each], rows)[0].put
        assert verdict_.put is alone
        if alone is Put.CREATED:
            rows.setdefault(each.key, set()).add(each.digest)


def test_a_repeat_in_the_group_shares_the_fate_of_the_first():
    """No duplicate of something that is not there: refused as the first was refused, unknown as it is unknown."""
    verdicts = decide([item("k", "a"), item("k", "a"), item("k", "b"), item("other", "a")], {})
    refused = settle(verdicts, [StoreRefused("down"), None, None, None])
    assert [type(result) for result in refused] == [StoreRefused, StoreRefused, StoreRefused, Put]
    unknown = settle(verdicts, [StoreUnknown("slow"), None, None, None])
    assert [type(result) for result in unknown] == [StoreUnknown, StoreUnknown, StoreRefused, Put]
    assert len({id(result) for result in unknown[:2]}) == 2


# --- groups and values


@given(st.lists(st.integers(0, 5)))
def test_grouping_keeps_every_index_once_and_in_order(keys: list[int]):
    """Nothing is lost between a group and its statements."""
    groups = group_by(keys)
    assert sorted(index for indexes in groups.values() for index in indexes) == list(range(len(keys)))
    for key, indexes in groups.items():
        assert indexes == sorted(indexes)
        assert {keys[index] for index in indexes} == {key}


@given(st.lists(st.integers(0, 20)), st.integers(1, 30))
def test_parts_stay_within_the_bound_or_are_one_item(sizes: list[int], bytes_max: int):
    """A batch never exceeds what cassandra.yaml lets through; an item that is larger goes alone."""
    parts = list(split(range(len(sizes)), sizes, bytes_max))
    assert [index for part in parts for index in part] == list(range(len(sizes)))
    for part in parts:
        assert len(part) == 1 or sum(sizes[index] for index in part) <= bytes_max


@given(st.lists(st.integers(-(1 << 63), (1 << 63) - 1)))
def test_values_are_bound_as_the_driver_would_bind_them(numbers: list[int]):
    """The bytes of the native protocol, made without the driver's column types."""
    assert list_of([bigint(number) for number in numbers]) == lookup_casstype("ListType(LongType)").serialize(
        numbers, 5
    )
    assert bigint(7) == struct.pack(">q", 7)


# --- frames

PROTOCOL_VERSION = 5
LOCAL_QUORUM, LOCAL_SERIAL = ConsistencyLevel.LOCAL_QUORUM, ConsistencyLevel.LOCAL_SERIAL

ids = st.binary(min_size=1, max_size=20)
keys = st.binary(min_size=1, max_size=40)
others = st.binary(max_size=40) | st.sampled_from([b"", b"x" * 70_000])


@st.composite
def prepared_statements(draw: st.DrawFn) -> Any:
    """The driver's own prepared statement over up to five blobs, of which one may be the partition's key, or two."""
    columns = [ColumnMetadata("ks", "t", f"c{index}", BytesType) for index in range(draw(st.integers(0, 5)))]
    key = draw(st.lists(st.integers(0, len(columns) - 1), max_size=2, unique=True)) if columns else []
    metadata: Any = draw(st.sampled_from([None, []]))
    return PreparedStatement(columns, draw(ids), key or None, "a query", None, PROTOCOL_VERSION, metadata, draw(ids))


def rows_for(prepared: Any) -> st.SearchStrategy[list[bytes]]:
    """Values for each of its columns; a partition's key is never empty."""
    key = prepared.routing_key_indexes or ()
    columns = range(len(prepared.column_metadata))
    return st.tuples(*(keys if index in key else others for index in columns)).map(list)


def bytes_of(message: Any) -> bytes:
    """A message as the driver's encoder writes it, header and all."""
    encoded: bytes = ProtocolHandler.encode_message(message, 7, PROTOCOL_VERSION, None, False)
    return encoded


def has_one_key(prepared: Any) -> bool:
    """Whether the partition's key is one of the bound values, as in all of our statements that have a key."""
    return len(prepared.routing_key_indexes or ()) == 1


def assert_same_way(frame: Frame, statement: Any) -> None:
    """A load-balancing policy sends the frame, and the driver its statement, where it would send this one."""
    assert frame.keyspace == frame.statement().keyspace
    assert frame.statement().routing_key == statement.routing_key or not has_one_key(frame.prepared)
    assert frame.routing_key == (statement.routing_key if has_one_key(frame.prepared) else None)


timestamps = st.none() | st.integers(0, (1 << 63) - 1)


@given(st.data(), prepared_statements(), timestamps, st.none() | st.integers(1, (1 << 31) - 1))
def test_a_statement_is_sent_as_the_driver_would_send_it(
    data: st.DataObject, prepared: Any, timestamp_us: int | None, page_rows: int | None
):
    """EXECUTE byte for byte, and for the driver's own way a statement with the same values."""
    values = data.draw(rows_for(prepared))
    bound = prepared.bind(values)
    frame = execute(prepared, "ks", values, timestamp_us, page_rows)
    assert frame.timestamp_us == timestamp_us
    assert bytes_of(frame) == bytes_of(
        ExecuteMessage(
            prepared.query_id,
            bound.values,
            LOCAL_QUORUM,
            LOCAL_SERIAL,
            page_rows,
            timestamp=timestamp_us,
            skip_meta=bool(prepared.result_metadata),
            result_metadata_id=prepared.result_metadata_id,
        )
    )
    statement = frame.statement()
    assert statement.prepared_statement is prepared
    assert page_rows is None or statement.fetch_size == page_rows
    assert statement.values == bound.values == values
    if values:
        assert statement.keyspace == bound.keyspace
        assert_same_way(frame, bound)


@given(st.data(), prepared_statements().filter(lambda prepared: prepared.column_metadata), timestamps)
def test_a_batch_is_sent_as_the_driver_would_send_it(data: st.DataObject, prepared: Any, timestamp_us: int | None):
    """BATCH byte for byte, whatever first values its rows share; for the driver's own way the same rows."""
    rows = data.draw(st.lists(rows_for(prepared), min_size=1, max_size=5))
    common = data.draw(st.integers(0, len(rows[0])))
    shared = rows[0][:common]
    rows = [[*shared, *row[common:]] for row in rows]
    theirs = BatchStatement(batch_type=BatchType.UNLOGGED)
    for row in rows:
        theirs.add(prepared, row)
    frame = batch(prepared, "ks", [row[common:] for row in rows], shared, timestamp_us)
    queries = theirs._statements_and_parameters
    assert bytes_of(frame) == bytes_of(BatchMessage(BatchType.UNLOGGED, queries, LOCAL_QUORUM, timestamp=timestamp_us))
    assert frame.timestamp_us == timestamp_us
    statement = frame.statement()
    assert statement.batch_type is BatchType.UNLOGGED
    assert statement._statements_and_parameters == queries
    assert_same_way(frame, theirs)


def test_a_value_that_is_left_out_is_not_sent_as_null():
    """A null would be a tombstone of its own; the driver's own way says it as the frame does."""
    prepared = PreparedStatement(
        [ColumnMetadata("ks", "t", name, BytesType) for name in "ab"], b"q", [0], "", None, 5, None, b"m"
    )
    rows = [(b"1", None), (b"1", b"2")]
    frame = batch(prepared, "ks", rows, optional=True)
    queries = [(True, b"q", [b"1", UNSET_VALUE]), (True, b"q", [b"1", b"2"])]
    assert bytes_of(frame) == bytes_of(BatchMessage(BatchType.UNLOGGED, queries, LOCAL_QUORUM))
    assert frame.statement()._statements_and_parameters == queries
    one = execute(prepared, "ks", rows[0])
    assert one.statement().values == [b"1", UNSET_VALUE]
    assert one.body.count(b"\xff\xff\xff\xfe") == 1


def test_rows_may_come_as_tuples():
    """A frame holds on to nothing of its caller's that the driver could not send."""
    prepared = PreparedStatement(
        [ColumnMetadata("ks", "t", name, BytesType) for name in "ab"], b"q", [0], "", None, 5, None, b"m"
    )
    assert bytes_of(batch(prepared, "ks", [(b"1", b"2")])) == bytes_of(batch(prepared, "ks", [[b"1", b"2"]]))
    assert execute(prepared, "ks", (b"1", b"2")).statement().values == [b"1", b"2"]


def test_a_batch_knows_whether_it_is_one_mutation():
    """Rows of one partition are; those of several are sent one after the other by the coordinator."""

    class Prepared:
        query_id = result_metadata_id = b"id"
        routing_key_indexes = (0,)

    assert batch(Prepared, "k", [[b"1", b"{}"], [b"2", b"{}"]], [b"block"]).one_partition
    assert batch(Prepared, "k", [[b"digest", b"text"]]).one_partition
    assert not batch(Prepared, "k", [[b"digest", b"text"], [b"other", b"text"]]).one_partition


def test_what_proves_nothing_written_for_one_partition_may_not_for_several():
    """The coordinator may have sent the first mutations before it finds too few replicas for a later one."""
    for error in (Unavailable("too few replicas"), OverloadedErrorMessage(0x1001, "overloaded", None)):
        assert outcome_of(error) is REFUSED
        assert outcome_of(error, one_partition=False) is UNKNOWN
    assert outcome_of(NoHostAvailable("none", {}), one_partition=False) is REFUSED
    assert outcome_of(None, one_partition=False) is WRITTEN


# --- schema


def test_the_schema_files_are_numbered_and_hold_repeatable_statements():
    """A run that was cut short is simply run again."""
    files = read_schema()
    assert [file.version for file in files] == list(range(1, len(files) + 1))
    for statement in (statement for file in files for statement in file.statements):
        assert "IF NOT EXISTS" in statement or "IF EXISTS" in statement, statement


def test_every_table_is_read_past_a_still_replica_after_a_time_that_needs_no_reads_before():
    """By the last word on each; a percentile of no reads is half of read_request_timeout."""
    last: dict[str, str] = {}
    for statement in (statement for file in read_schema() for statement in file.statements):
        if created := re.search(r"CREATE TABLE IF NOT EXISTS (\w+)", statement):
            last[created[1]] = "99p"
        elif altered := re.search(r"ALTER TABLE IF EXISTS (\w+) WITH speculative_retry = '(.+)'", statement):
            last[altered[1]] = altered[2]
    assert len(last) == 8
    assert set(last.values()) == {"50ms"}


def test_reads_that_go_on_by_key_have_the_limit_that_their_readers_know():
    """A shorter answer than PAGE is the last one."""
    limits = re.findall(r"LIMIT (\d+)", " ".join(STATEMENTS.values()))
    assert len(limits) == 3
    assert set(limits) == {str(PAGE)}


def test_a_gap_in_the_numbers_is_refused(tmp_path: Path):
    """A file that was lost is missed."""
    (tmp_path / "002_more.cql").write_text("CREATE TABLE IF NOT EXISTS a (b int PRIMARY KEY);")
    with pytest.raises(StoreRefused, match="numbered"):
        read_schema(tmp_path)


def test_statements_end_at_semicolons_and_comments_do_not_count():
    """A comment may hold a semicolon."""
    assert split_statements("-- a; b\nCREATE x; -- c\nCREATE y\n  (z);\n\n") == ("CREATE x", "CREATE y\n  (z)")


def test_a_file_that_was_changed_after_it_was_applied_is_an_error():
    """Applied versions are history: what is new goes into a new file."""
    one, two = (SchemaFile(version, f"00{version}_x.cql", f"sum{version}", ()) for version in (1, 2))
    assert to_apply([one, two], {1: ("001_x.cql", "sum1")}) == [two]
    assert to_apply([one], {1: ("001_x.cql", "sum1"), 2: ("002_later.cql", "sum9")}) == []
    with pytest.raises(StoreRefused, match=r"001_x\.cql was changed"):
        to_apply([one], {1: ("001_x.cql", "another")})


def test_replication_changes_in_the_local_data_centre_alone():
    """Other data centres keep their replicas, and a simple strategy becomes one that knows data centres."""
    current = {"class": "org.apache.cassandra.locator.NetworkTopologyStrategy", "dc1": "1", "dc2": "3"}
    assert replication_of(current, "dc1", 3) == {"class": "NetworkTopologyStrategy", "dc1": "3", "dc2": "3"}
    simple = {"class": "org.apache.cassandra.locator.SimpleStrategy", "replication_factor": "1"}
    assert (
        replication_of(simple, "dc1", 1)
        == replication_of(None, "dc1", 1)
        == {
            "class": "NetworkTopologyStrategy",
            "dc1": "1",
        }
    )


def test_buckets_spread_evenly():
    """Random keys fill the four parts alike."""
    counts = Counter(bucket(uuid7(5_000, uuid.uuid4().int & (1 << 74) - 1)) for _ in range(4000))
    assert len(counts) == 4
    assert min(counts.values()) > 800
