"""What an item of a batch is, and how a batch is cut: pure, so held to the single POST's own rules."""

from __future__ import annotations

import hashlib
import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service import batch_items, parsing
from service.batch_body import EMPTY_LINES_MAX, Lines
from service.batch_items import COMMAS_AT_ONCE, SLICE_ITEMS_MAX, array, cut, read_item
from service.errors import Problem
from service.store import KeyedUsage

BYTES_MAX = 1000
SLICE_BYTES_MAX = 1 << 20
KEY = '{"idempotency_key": "k", "usage": {"patientId": "100"}}'

values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
fields = st.dictionaries(st.sampled_from(["patientId", "timestamp", "medication", "x"]), values, max_size=4)
bodies = st.one_of(
    st.binary(max_size=30),
    st.builds(
        lambda value, spaced: json.dumps(value, indent=spaced).encode(), values | fields, st.sampled_from([None, 1])
    ),
    st.sampled_from(
        [
            b'{"a": "\\ud800"}',
            b'{"a": 1e999}',
            b'{"a": 123456789012345678901234567890}',
            b'{"a": "\xff"}',
            b'{"\xff": 1}',
            b'{"a": "\x01"}',
            b'{"a": NaN}',
            b'{"a": 1, "a": 2}',
            b"\xef\xbb\xbf{}",
            b'{"a": "\\x"}',
            b'{"a": 01}',
        ]
    ),
)


def problem(item: bytes) -> Problem:
    """What is wrong with it."""
    with pytest.raises(Problem) as caught:
        read_item(item, BYTES_MAX)
    return caught.value


def single(body: bytes) -> str:
    """What the single POST says of a body: its code, or that it is fine."""
    try:
        parsing.check_usage(body)
    except Problem as error:
        return error.code
    return "fine"


@given(bodies)
def test_an_item_is_what_the_single_post_takes(body: bytes):
    """The same bytes are taken, and the same refused for the same reason."""
    expected = single(body)
    if expected == "fine":
        assert read_item(body, BYTES_MAX) == body
    else:
        assert problem(body).code == expected


@given(st.lists(bodies, max_size=5))
def test_an_array_keeps_the_items_own_bytes(items: list[bytes]):
    """Whatever a client writes between the brackets; what the single POST takes breaks no array."""
    good = [item.strip() for item in items if single(item) == "fine"]
    assert list(array(b"[" + b" ,\n".join(good) + b"]", 10)) == good


@given(bodies)
def test_an_array_with_anything_in_it_is_read_or_refused(item: bytes):
    """Nothing that a client sends is a bug."""
    try:
        items = list(array(b"[" + item + b"]", 100))
    except Problem:
        return
    for slice_ in cut(items, BYTES_MAX, SLICE_BYTES_MAX):
        assert len(slice_.tails) == len(slice_.plain) + len(slice_.keyed) + len(slice_.errors)


@given(
    values.map(lambda value: {"usage": value, "idempotency_key": "k"})
    | fields.map(lambda f: {"idempotency_key": "k", "usage": f})
)
def test_a_usage_in_an_envelope_is_what_the_single_post_takes(envelope: Any):
    """Under a key as without one."""
    item = json.dumps(envelope).encode()
    usage = json.dumps(envelope["usage"]).encode()
    if single(usage) == "fine":
        assert read_item(item, BYTES_MAX) == KeyedUsage("k", hashlib.sha256(usage).digest(), usage)
    else:
        assert problem(item).code == single(usage)


def test_lone_surrogates_are_taken_in_an_envelope_too():
    """As the single POST takes them; the decoder does not, but sees letters in their place."""
    for usage in (b'{"a": "\\ud800", "b": "\\\\ud800"}', b'{"\\uDFFF": "\\ud83d\\ude00"}'):
        before = usage.replace(b"ud800", b"ud801").replace(b"uDFFF", b"uDFFE")
        for item in (
            b'{"idempotency_key": "k", "usage": %b}' % usage,
            b'{"usage": {"x": %b, "y": "\\udc00"}, "usage" : %b, "idempotency_key": "k"}' % (before, usage),
        ):
            assert read_item(item, BYTES_MAX) == KeyedUsage("k", hashlib.sha256(usage).digest(), usage)


def test_the_stored_text_is_the_clients_own_bytes():
    """White space and escapes inside, the second of two members of one name, whatever the order."""
    usage = b'{ "patientId" :"\\u0031",\n"x": 1.0e0 }'
    found = read_item(b'{"usage":1, "usage": %b , "\\u0069dempotency_key": "a\\u0062"}' % usage, BYTES_MAX)
    assert found == KeyedUsage("ab", hashlib.sha256(usage).digest(), usage)


@pytest.mark.parametrize(
    ("item", "code", "field"),
    [
        ('{"idempotency_key": "k"}', "invalid_field", "usage"),
        ('{"idempotency_key": "k", "usage": {}, "patientId": "100"}', "invalid_field", "patientId"),
        ('{"idempotency_key": "k", "usage": {}, "patientId": 1.5}', "invalid_field", "patientId"),
        ('{"idempotency_key": "k", "usage": {}, "\\ud800": 1}', "invalid_field", "?"),
        ('{"idempotency_key": "k", "usage": []}', "not_an_object", "usage"),
        ('{"idempotency_key": "k", "usage": {"medication": 1}}', "invalid_field", "medication"),
        ('{"idempotency_key": "", "usage": {}}', "idempotency_key_invalid", "idempotency_key"),
        ('{"idempotency_key": "..", "usage": {}}', "idempotency_key_invalid", "idempotency_key"),
        ('{"idempotency_key": "a b", "usage": {}}', "idempotency_key_invalid", "idempotency_key"),
        ('{"idempotency_key": "\\ud800", "usage": {}}', "idempotency_key_invalid", "idempotency_key"),
        ('{"idempotency_key": 1, "usage": {}}', "idempotency_key_invalid", "idempotency_key"),
        ('{"idempotency_key": "%s", "usage": {}}' % ("k" * 256), "idempotency_key_invalid", "idempotency_key"),
        ('{"usage": 1, "idempotency_key": null}', "idempotency_key_invalid", "idempotency_key"),
        ("[]", "not_an_object", None),
        ("1", "not_an_object", None),
        ("{", "invalid_json", None),
        ("{} {}", "invalid_json", None),
        ('{"timestamp": []}', "invalid_field", "timestamp"),
    ],
)
def test_what_is_wrong_with_an_item_is_named(item: str, code: str, field: str | None):
    """By code, and where a member is at fault by its name."""
    found = problem(item.encode())
    assert (found.code, found.field) == (code, field)


@pytest.mark.parametrize(
    "envelope", [b"%b", b'{"idempotency_key": "k", "usage": %b}', b'{"usage": "\\ud800", "usage": %b}']
)
def test_an_item_that_is_nested_too_deeply_is_invalid_whatever_its_depth(envelope: bytes):
    """At no depth is it a bug: it is taken, or the single POST's own words are said of it alone."""
    codes = []
    for depth in range(900, 1010):
        item = envelope % (b'{"a": %b%b}' % (b"[" * depth, b"]" * depth))
        (slice_,) = cut([b"{}", item, KEY.encode()], 1 << 20, SLICE_BYTES_MAX)
        assert [at for at, _ in slice_.errors] in ([], [1])
        codes += [problem.code for _, problem in slice_.errors]
    assert set(codes) == {"invalid_json"}
    assert 1 < len(codes) < 110


def test_a_bug_at_one_item_is_told_of_it_and_the_others_go_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    """Some of a batch may be stored already: an exception that took all along would leave nobody knowing which."""

    def check(item: bytes) -> dict[str, Any]:
        if item == b"[]":
            raise RuntimeError("planted")
        return {}

    monkeypatch.setattr(parsing, "check_usage", check)
    (slice_,) = cut([b"{}", b"[]", b"{}"], BYTES_MAX, SLICE_BYTES_MAX)
    ((at, found),) = slice_.errors
    assert (at, found.code, slice_.plain_at) == (1, "internal_error", [0, 2])
    assert "planted" in caplog.text


def test_a_name_that_an_answer_repeats_is_not_endless():
    """What a client made up comes back cut short."""
    found = problem(b'{"idempotency_key": "k", "usage": {}, "%b": 1}' % (b"x" * 900))
    assert found.field == "x" * batch_items.NAME_LENGTH_MAX


def test_the_bound_on_a_usage_is_on_its_own_bytes():
    """With or without a key around it; an item that is larger than any envelope is not even read."""
    largest = b'{"x": "%b"}' % (b"y" * (BYTES_MAX - 9))
    assert len(largest) == BYTES_MAX
    assert read_item(largest, BYTES_MAX) == largest
    keyed = read_item(b'{"idempotency_key": "k", "usage": %b}' % largest, BYTES_MAX)
    assert isinstance(keyed, KeyedUsage)
    for item in (largest + b" ", b'{"idempotency_key": "k", "usage": {"z": %b}}' % largest, b"x" * 10_000):
        assert problem(item).code == "body_too_large"


@pytest.mark.parametrize("body", [b"{}", b'"x"', b"null", b"1"])
def test_json_that_is_no_array_is_said_to_be_none(body: bytes):
    """It is a 400 of its own code."""
    with pytest.raises(Problem) as caught:
        array(body, 10)
    assert (caught.value.status, caught.value.code) == (400, "not_an_array")


@pytest.mark.parametrize(
    "body", [b"", b"[", b"[1", b"[1,]", b"[1] 2", b"\xef\xbb\xbf[]", b"[" * 100_000, b'["\xff\\x"]']
)
def test_what_is_no_json_is_refused_whole(body: bytes):
    """A batch that breaks off in its last item stores nothing of the others."""
    with pytest.raises(Problem) as caught:
        array(body, 10)
    assert (caught.value.status, caught.value.code) == (400, "invalid_json")


@pytest.mark.parametrize("filler", [b"", b'{"a":[' + b",".join([b"1"] * COMMAS_AT_ONCE) + b"]}"])
def test_the_bound_on_items_is_exact(filler: bytes):
    """As many as allowed are taken and one more is refused, however many commas the items have themselves."""
    items = [b"{}"] * 6 + [filler or b"{}"]
    assert list(array(b"[%b]" % b",".join(items), 7)) == items
    with pytest.raises(Problem) as caught:
        array(b"[%b,{}]" % b",".join(items), 7)
    assert (caught.value.status, caught.value.code) == (413, "batch_too_long")
    assert "7" in caught.value.detail


def test_an_array_that_is_bounded_is_read_like_any_other(monkeypatch: pytest.MonkeyPatch):
    """Empty, short, broken, or no array at all."""
    monkeypatch.setattr(batch_items, "COMMAS_AT_ONCE", -1)
    assert list(array(b"[]", 3)) == []
    assert list(array(b" [ 1 , {} ] ", 3)) == [b"1", b"{}"]
    for body, code in [(b"[1,2", "invalid_json"), (b"{}", "not_an_array"), (b"[1,2,3,4]", "batch_too_long")]:
        with pytest.raises(Problem) as caught:
            array(body, 3)
        assert caught.value.code == code


def test_lines_keep_their_numbers_and_empty_ones_count_for_nothing():
    """CRLF, white space around a usage and empty lines between: the numbers are those of the file."""
    lines = [b'{"a":1}\r', b"", b" \t\r", b' {"b":2} ', KEY.encode(), b"x"]
    (slice_,) = cut(lines, BYTES_MAX, SLICE_BYTES_MAX, itertools.count(1))
    assert slice_.numbers == [1, 4, 5, 6]
    assert (slice_.plain, slice_.plain_at) == ([b'{"a":1}', b'{"b":2}'], [0, 1])
    assert ([item.key for item in slice_.keyed], slice_.keyed_at) == (["k"], [2])
    assert [at for at, _ in slice_.errors] == [3]
    assert slice_.tails[:3] == [b"", b"", b""]
    assert b'"code":"invalid_json"' in slice_.tails[3]


@pytest.mark.parametrize("empty", [b"\n", b"\r\n", b" \t\n"])
def test_empty_lines_are_bounded_over_the_whole_of_a_stream(empty: bytes):
    """Whatever white space they are of, in however many pieces; as many as are allowed are passed over."""
    lines = Lines(BYTES_MAX)
    for _ in range(10):
        lines.feed(empty * (EMPTY_LINES_MAX // 10))
    lines.feed(b'{"a": 1}\n' * 100)
    with pytest.raises(Problem) as caught:
        lines.feed(empty)
    assert caught.value.status == 413


def test_a_vertical_tab_is_no_white_space():
    """What JSON does not take around a value is not taken off it."""
    (slice_,) = cut([b"{}\x0b", b"\x0c"], BYTES_MAX, SLICE_BYTES_MAX, itertools.count(1))
    assert slice_.counts.invalid == 2


@given(st.lists(st.integers(0, 3000), max_size=700), st.integers(2000, 20_000))
def test_slices_are_bounded_and_lose_nothing(sizes: list[int], bytes_max: int):
    """In items and in bytes, save that one item may be larger; in order, each item once."""
    items = [b'{"n":%d,"x":"%b"}' % (n, b"y" * size) for n, size in enumerate(sizes)]
    slices = list(cut(items, 10_000, bytes_max))
    assert [usage for slice_ in slices for usage in slice_.plain] == items
    for slice_ in slices:
        assert 1 <= len(slice_) <= SLICE_ITEMS_MAX
        assert slice_.size - (len(slice_.plain[-1]) + batch_items.ITEM_OVERHEAD_BYTES) < bytes_max
