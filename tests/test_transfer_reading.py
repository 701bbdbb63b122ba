"""Files into lines for the batch endpoint: keys, NDJSON, CSV, what is refused and why."""

from __future__ import annotations

import collections
import io
import json
import random
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.store.keyed import bucket
from service.transfer import reading, source
from service.transfer.errors import WrongUse
from service.transfer.exporting import read_row
from service.transfer.keys import FIRST_WINDOW, WINDOW_MS, Keys, key_of_row
from service.transfer.reading import CsvReader, Item, Line, NdjsonReader, Refused, numbered_lines
from service.transfer.wire import target
from service.transfer.writing import csv_rows

KEYS = Keys("usages.ndjson")


def items(data: bytes, kind: type[NdjsonReader | CsvReader] = NdjsonReader, *, exported: bool = False) -> list[Item]:
    """What is made of a file with these bytes."""
    lines = numbered_lines(io.BufferedReader(io.BytesIO(data)), lambda _: None)
    return [item for batch in kind("f", KEYS, exported=exported).batches(lines) for item in batch]


def sent(item: Item) -> Any:
    """What goes over the wire for a line."""
    assert isinstance(item, Line), item
    assert item.wire.endswith(b"\n")
    assert item.wire.count(b"\n") == 1
    return json.loads(item.wire)


def refused(item: Item) -> tuple[int, str]:
    """Number and code of a line that is not sent."""
    assert isinstance(item, Refused), item
    return item.number, item.code


# --- keys


def test_a_key_is_a_function_of_name_number_and_bytes():
    """The second run of an import gives the same keys; anything else another."""
    key = KEYS.key(7, b"{}")
    assert Keys("usages.ndjson").key(7, b"{}") == key
    others = [Keys("other").key(7, b"{}"), KEYS.key(8, b"{}"), KEYS.key(7, b"{ }"), KEYS.key(7, b"")]
    assert key not in others
    assert len(set(others)) == 4


def test_the_keys_of_a_release_stay_those_of_the_next():
    """An import that was interrupted may be finished by a later version."""
    assert KEYS.key(1, b'{"patientId": "100"}') == "b8fe1d54-06da-7df5-a27b-6a0af82a61a9"
    assert KEYS.key(12_345, b"{}") == "b8fe1d55-e90a-7ac2-8250-aaa04353540f"


@given(st.text(), st.integers(1, 10**12), st.binary())
def test_a_key_has_the_shape_of_a_uuidv7(name: str, number: int, line: bytes):
    """The store gives such keys partitions that they share; and it lies behind every clock's."""
    key = Keys(name).key(number, line)
    parsed = uuid.UUID(key)
    assert (parsed.version, parsed.variant, str(parsed)) == (7, uuid.RFC_4122, key)
    assert bucket(key) != key
    assert parsed.int >> 80 > 9_999_999_999_000


def test_about_a_thousand_lines_share_ten_seconds():
    """Partitions of some 250 rows, of which a group of neighbours meets four."""
    buckets = collections.Counter(bucket(KEYS.key(number, b"%d" % number)) for number in range(1, 100_001))
    assert max(buckets.values()) < 400
    assert 400 <= len(buckets) <= 408
    assert len({bucket(KEYS.key(number, b"%d" % number)) for number in range(1, 257)}) == 4


# --- lines


@given(st.lists(st.binary(max_size=30)), st.integers(1, 40), st.booleans())
def test_lines_are_cut_as_split_does_whatever_is_read_at_once(parts: list[bytes], size: int, ended: bool):
    """Numbers from one on, no line lost at a border of reads."""
    data = b"\n".join(parts) + (b"\n" if ended else b"")

    class Slow(io.BufferedReader):
        def read1(self, _: int = -1, /) -> bytes:
            return super().read1(size)

    read: list[int] = []
    lines = [line for group in numbered_lines(Slow(io.BytesIO(data)), read.append) for line in group]
    expected = data.removeprefix(reading.BOM).split(b"\n") if size >= 3 else data.split(b"\n")
    if expected[-1] == b"":
        expected.pop()
    assert lines == list(enumerate(expected, 1))
    assert sum(read) == len(data)


def test_a_line_that_is_too_long_is_not_held_and_its_neighbours_are_read(monkeypatch: pytest.MonkeyPatch):
    """A file without newlines costs no more memory than a line may have."""
    monkeypatch.setattr(reading, "LINE_BYTES_MAX", 1000)
    monkeypatch.setattr(reading, "READ_BYTES", 64)
    found = items(b'{"a": 1}\n' + b"x" * 5000 + b'\n{"b": 2}\n' + b"y" * 5000)
    assert [sent(item)["usage"] for item in (found[0], found[2])] == [{"a": 1}, {"b": 2}]
    assert [refused(item) for item in (found[1], found[3])] == [(2, "body_too_large"), (4, "body_too_large")]


# --- NDJSON


def test_each_object_goes_with_a_key_and_its_own_bytes():
    """Byte for byte: numbers, spaces and escapes are the client's."""
    usage = b'{"patientId" : 1e400, "medication":"\\ud800\\u00e9", "x": 12345678901234567890123}'
    (item,) = items(usage)
    assert isinstance(item, Line)
    assert item.wire == b'{"idempotency_key": "%b", "usage": %b}\n' % (KEYS.key(1, usage).encode(), usage)


def test_empty_lines_are_skipped_and_count():
    """A number is that of the line in the file, as an editor shows it."""
    found = items(b'\n{"a": 1}\r\n  \n\t{"a": 1} \n')
    assert [item.number for item in found] == [2, 4]
    assert sent(found[0])["idempotency_key"] == KEYS.key(2, b'{"a": 1}')


def test_a_byte_order_mark_is_no_part_of_the_first_line():
    """Some editors put one there."""
    assert sent(items(b'\xef\xbb\xbf{"a": 1}')[0])["usage"] == {"a": 1}


def test_a_line_that_brings_a_key_goes_as_it_is():
    """What is wrong with such an envelope the service says."""
    line = b'{"idempotency_key": "order-1", "usage": {"patientId": 5}, "more": 1}'
    (item,) = items(line)
    assert isinstance(item, Line)
    assert item.wire == line + b"\n"


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (b"{", "invalid_json"),
        (b'{"a": 1} {"b": 2}', "invalid_json"),
        (b'{"a": 1}, "usage": {"b": 2}', "invalid_json"),
        (b'{}}, {"idempotency_key": "k", "usage": {}', "invalid_json"),
        (b"[" * 100_000, "invalid_json"),
        (b"[1]", "not_an_object"),
        (b'"text"', "not_an_object"),
        (b"5", "not_an_object"),
    ],
)
def test_what_is_no_json_object_is_refused_here(line: bytes, code: str):
    """It must not be put into an envelope, which it could break out of."""
    found = items(b'{"a": 1}\n' + line + b"\n{}")
    assert refused(found[1]) == (2, code)
    assert len(found) == 3


def test_a_key_in_quotes_of_an_export_is_kept_and_an_id_is_not():
    """Ids are given by the service that stores; keys are the client's."""
    lines = [
        b'{"id": "order-1", "received_at": "T", "usage": {"a": 1}}',
        b'{"id": 5, "received_at": "T", "usage": { }}',
    ]
    found = items(b"\n".join(lines), exported=True)
    assert [sent(item)["idempotency_key"] for item in found] == ["order-1", key_of_row(5, "T")]
    assert isinstance(found[1], Line)
    assert b'"usage": { }}' in found[1].wire
    assert refused(items(b'{"patientId": 1}', exported=True)[0]) == (1, "not_exported")


UNUSUAL = [b"\\ud800", b"1e999"]
"""What JSON has and the fast decoder does not take, as members of a usage."""


def usages_of(value: bytes) -> bytes:
    """A usage with such a member."""
    return b'{"a": "%b"}' % value if value.startswith(b"\\") else b'{"a": %b}' % value


@pytest.mark.parametrize("value", UNUSUAL, ids=["surrogate", "number"])
def test_an_envelope_that_the_fast_decoder_does_not_take_keeps_its_key(value: bytes):
    """In another envelope the client's key would be lost, and its envelope stored as the usage."""
    line = b'{"idempotency_key":"K","usage":%b}' % usages_of(value)
    (item,) = items(line)
    assert isinstance(item, Line)
    assert item.wire == line + b"\n"


@pytest.mark.parametrize("value", UNUSUAL, ids=["surrogate", "number"])
@pytest.mark.parametrize("id_", [b'"K"', b"5"])
def test_whatever_an_export_writes_an_import_takes(value: bytes, id_: bytes):
    """The service took such a usage, and lists it as it is."""
    usage = usages_of(value)
    line = b'{"id": %b, "received_at": "T", "usage": %b}' % (id_, usage)
    (item,) = items(line, exported=True)
    assert isinstance(item, Line)
    key = "K" if id_ == b'"K"' else key_of_row(5, "T")
    assert item.wire == b'{"idempotency_key": "%b", "usage": %b}\n' % (key.encode(), usage)


@pytest.mark.parametrize(
    "line",
    [
        b'{"id": 5, "usage": {}}',
        b'{"id": 1.5, "received_at": "T", "usage": {}}',
        b'{"id": 5, "received_at": "T"}',
        b'{"id": 5, "received_at": "T", "usage": {"a": "\\ud800"}, "more": {}}',
    ],
)
def test_what_no_export_wrote_is_refused(line: bytes):
    """It is JSON, so it must be told apart by its members; none may be taken along into an envelope."""
    (item,) = items(line, exported=True)
    assert isinstance(item, Refused)


def test_overlapping_exports_give_a_usage_one_key():
    """By its id and time, whatever file and line it stands in, and as which format; a usage of another time has another."""
    rows = [
        b'{"id": %d, "received_at": "2026-11-23T09:11:5%d.000001Z", "usage": {"a": 1}}' % (id_, id_)
        for id_ in (4, 5, 6)
    ]

    def keys(lines: list[bytes], name: str) -> list[str]:
        found = [NdjsonReader("f", Keys(name), exported=True).item(number, line) for number, line in enumerate(lines)]
        return [sent(item)["idempotency_key"] for item in found if item is not None]

    written: list[bytes] = []
    write = csv_rows(written.append)
    for line in rows:
        write(read_row(line), line)
    as_csv = [sent(item)["idempotency_key"] for item in items(b"".join(written), CsvReader, exported=True)]
    assert keys(rows, "all.ndjson") == as_csv
    assert keys(rows[1:], "later.ndjson") == as_csv[1:]
    assert len({*as_csv, *keys([rows[0].replace(b"T09", b"T10")], "x")}) == 4


@given(st.integers(1, 2**53))
def test_keys_of_exported_ids_have_the_shape_of_a_uuidv7(id_: int):
    """Behind every clock's, whatever the id, and neighbours share their partitions."""
    parsed = uuid.UUID(key_of_row(id_, "T"))
    assert (parsed.version, parsed.variant) == (7, uuid.RFC_4122)
    assert parsed.int >> 80 >= FIRST_WINDOW * WINDOW_MS


# --- CSV


def test_a_csv_row_is_an_object_of_its_columns():
    """Cells are strings, empty ones are left out, quotes may hold commas and newlines; a number is the row's first line."""
    data = 'patientId,medication,note\r\n100,Albuterol,\r\n"1,2","é ""x""","two\nlines"\n\n007,x,y'.encode()
    found = items(data, CsvReader)
    assert [(item.number, sent(item)["usage"]) for item in found] == [
        (2, {"patientId": "100", "medication": "Albuterol"}),
        (3, {"patientId": "1,2", "medication": 'é "x"', "note": "two\nlines"}),
        (6, {"patientId": "007", "medication": "x", "note": "y"}),
    ]
    assert sent(found[0])["idempotency_key"] == KEYS.key(2, b"100,Albuterol,\r")


def test_a_csv_column_may_bring_keys():
    """Where it is empty the row gets one of its own."""
    found = items(b"idempotency_key,a\nk-1,x\n,y\n", CsvReader)
    assert [sent(item)["usage"] for item in found] == [{"a": "x"}, {"a": "y"}]
    assert [sent(item)["idempotency_key"] for item in found] == ["k-1", KEYS.key(3, b",y")]


def test_a_csv_row_that_does_not_fit_is_refused_and_the_next_is_read():
    """Too few cells, too many, what is no CSV, what is no UTF-8."""
    found = items(b'a,b\n1\n1,2,3\n"x"y,2\n\xff,2\n1,2\n"open,2\n3,4', CsvReader)
    assert [refused(item) for item in (*found[:4], found[5])] == [
        (2, "csv_columns"),
        (3, "csv_columns"),
        (4, "invalid_csv"),
        (5, "invalid_csv"),
        (7, "invalid_csv"),
    ]
    assert sent(found[4])["usage"] == {"a": "1", "b": "2"}
    assert isinstance(found[5], Refused)
    assert "line 8" in found[5].detail


def test_a_csv_of_malformed_rows_alone_is_handed_on_in_batches():
    """However many there are, they are not gathered."""
    lines = numbered_lines(io.BufferedReader(io.BytesIO(b"a,b\n" + b'"x"y,2\n' * 3000)), lambda _: None)
    sizes = [len(batch) for batch in CsvReader("f", KEYS).batches(lines)]
    assert sum(sizes) == 3000
    assert max(sizes) <= reading.BATCH_LINES


@pytest.mark.parametrize("row", [b",T,{}", b"5,,{}", b'"""",T,{}', b"12345678901234567,T,{}"])
def test_a_csv_row_without_id_and_time_is_no_exports(row: bytes):
    """A key made of less would not be the same in every export."""
    (item,) = items(b"id,received_at,usage\n" + row, CsvReader, exported=True)
    assert refused(item) == (2, "not_exported")


@pytest.mark.parametrize("header", [b"a,a", b"a,,b", b'a,"b', b"\xff,a"])
def test_a_csv_header_that_cannot_be_used_stops_before_anything_is_sent(header: bytes):
    """Every row would come out wrong."""
    with pytest.raises(WrongUse):
        items(header + b"\n1,2\n", CsvReader)


def test_an_exported_csv_comes_back_with_the_same_keys_and_bytes():
    """Keys of digits, in quotes, with commas; bodies with newlines between their members."""
    ids: list[int | str] = [5, "order-1", "77", '"q"', "a,b"]
    written: list[bytes] = []
    write = csv_rows(written.append)
    for id_ in ids:
        line = (
            b'{"id": %b, "received_at": "T", "usage": {"patientId": 1,  "medication": "a,\\"b"}}'
            % json.dumps(id_).encode()
        )
        write(read_row(line), line)
    found = items(b"".join(written), CsvReader, exported=True)
    assert [sent(item)["idempotency_key"] for item in found[1:]] == ids[1:]
    assert sent(found[0])["idempotency_key"] == key_of_row(5, "T")
    assert all(isinstance(item, Line) and b'{"patientId": 1,  "medication": "a,\\"b"}' in item.wire for item in found)
    assert written[1] == b'5,T,1,,"a,""b","{""patientId"": 1,  ""medication"": ""a,\\""b""}"\r\n'


@given(st.lists(st.dictionaries(st.sampled_from("abc"), st.text(max_size=5)), max_size=20))
def test_any_csv_that_python_writes_is_read_as_it_was_meant(rows: list[dict[str, str]]):
    """Quotes, commas, newlines and odd characters within cells."""
    import csv

    text = io.StringIO()
    writer = csv.DictWriter(text, ["a", "b", "c"])
    writer.writeheader()
    writer.writerows(rows)
    data = text.getvalue().encode("utf-8", "surrogatepass")
    found = items(data, CsvReader)
    meant = [{name: cell for name, cell in row.items() if cell} for row in rows]
    assert [sent(item)["usage"] for item in found] == meant


# --- files


def test_two_files_of_one_name_are_refused(tmp_path: Path):
    """A line that both have would get one key, and be stored once."""
    for folder in ("jan", "feb"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "data.csv").write_text("a\n1\n")
    paths = [str(tmp_path / folder / "data.csv") for folder in ("jan", "feb")]
    with pytest.raises(WrongUse, match=r"data\.csv"):
        source.files(paths, None, None)
    (found,) = source.files(paths[:1], None, None)
    assert (found.name, found.csv, found.size) == ("data.csv", True, 4)
    assert not source.files(paths[:1], None, "ndjson")[0].csv


@pytest.mark.parametrize(
    ("paths", "name"), [(["-"], None), (["not there"], None), (["a", "b"], "n"), (["/"], None)], ids=str
)
def test_inputs_that_cannot_be_used_are_told_before_anything_is_sent(paths: Iterable[str], name: str | None):
    """Standard input needs a name, a file must be there, one name is for one file."""
    with pytest.raises(WrongUse):
        source.files([*paths], name, None)


@pytest.mark.parametrize(
    ("url", "authority"),
    [
        ("http://127.0.0.1:8080", "127.0.0.1:8080"),
        ("https://host/", "host"),
        ("http://[::1]:99/prefix/", "[::1]:99"),
        ("http://host:443", "host:443"),
    ],
)
def test_a_url_names_where_the_service_is(url: str, authority: str):
    """Ports of the scheme are left out, as a Host header should."""
    assert target(url).authority == authority


@pytest.mark.parametrize(
    "url", ["", "host:8080", "ftp://host", "http://", "http://host:x", "http://h?q", "http://u@h", "http://h:99999"]
)
def test_a_url_that_is_none_is_told(url: str):
    """One line, before anything is sent."""
    with pytest.raises(WrongUse):
        target(url)


def test_batches_are_small_enough_to_be_sent_one_by_one():
    """However many lines a read brings."""
    data = b'{"a": 1}\n' * 3000
    lines = numbered_lines(io.BufferedReader(io.BytesIO(data)), lambda _: None)
    sizes = [len(batch) for batch in NdjsonReader("f", KEYS).batches(lines)]
    assert sum(sizes) == 3000
    assert max(sizes) <= reading.BATCH_LINES


def test_keys_do_not_meet():
    """A million lines of a few names have a million keys."""
    chance = random.Random(1)
    seen = {Keys(f"n{chance.randrange(5)}").key(number, b"x") for number in range(20_000)}
    assert len(seen) == 20_000
