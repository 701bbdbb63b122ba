from __future__ import annotations

import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

with pytest.MonkeyPatch.context() as patch:
    # Locust would put gevent under the sockets and threads of all other tests of this process.
    patch.setenv("LOCUST_SKIP_MONKEY_PATCH", "1")
    from loadtest.users.http1 import Answer, AnswerReader, BadAnswer
    from loadtest.users.layout import LEARNED_MAX, ROOM_BYTES_MAX, ROOM_SPARE_BYTES, Layouts, pattern_of

USAGE = (
    b"HTTP/1.1 201 Created\r\ndate: Thu, 26 Nov 2026 11:08:48 GMT\r\ncontent-type: application/json\r\n"
    b"location: /api/usages/131073\r\ncontent-length: 14\r\nx-request-id: accc8ca3-bcc4-49ca\r\n\r\n"
    b'{"id": 131073}'
)
CHUNKED = (
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    b'5;name="a;b";x\r\nhello\r\n001 \r\n \r\nA\r\n0123456789\r\n0\r\nDigest: x\r\nEmpty:\r\n\r\n'
)
PLAIN = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"
INTERIM = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n"

Read = tuple[int, bytes, bool]


def read(data: bytes, *methods: str, step: int = 0, ends: bool = False) -> list[Read]:
    """Status, body and whether it closes, of every answer in ``data``, fed in pieces of ``step`` bytes."""
    reader = AnswerReader()
    for method in methods:
        reader.expect(method)
    answers: list[Answer] = []
    for start in range(0, len(data), step or len(data)):
        answers += reader.feed(data[start : start + (step or len(data))])
    if ends and (last := reader.end()) is not None:
        answers.append(last)
    assert not reader.begun
    return [(answer.status, answer.body, answer.closes) for answer in answers]


@pytest.mark.parametrize("step", [0, 1, 2, 3, 7, 50])
def test_answers_are_the_same_however_they_are_split_and_joined(step: int):
    """Pipelined answers of every framing, in one piece, byte by byte, and in between."""
    data = USAGE + CHUNKED + INTERIM + PLAIN + CHUNKED + b"HTTP/1.1 304 Not Modified\r\ncontent-length: 9\r\n\r\n"
    data += b"HTTP/1.1 204 No Content\r\n\r\n" + PLAIN.replace(b"length: 0", b"length: 99") + USAGE
    assert read(data, "POST", "GET", "POST", "GET", "GET", "DELETE", "HEAD", "POST", step=step) == [
        (201, b'{"id": 131073}', False),
        (200, b"hello 0123456789", False),
        (200, b"", False),
        (200, b"hello 0123456789", False),
        (304, b"", False),
        (204, b"", False),
        (200, b"", False),
        (201, b'{"id": 131073}', False),
    ]


@given(st.lists(st.integers(0, len(USAGE + CHUNKED + PLAIN)), max_size=8))
def test_no_split_makes_a_difference(cuts: list[int]):
    """At any bytes, with empty pieces too."""
    data = USAGE + CHUNKED + PLAIN
    reader = AnswerReader()
    for _ in range(3):
        reader.expect("GET")
    answers: list[Answer] = []
    edges = [0, *sorted(cuts), len(data)]
    for start, end in itertools.pairwise(edges):
        answers += reader.feed(data[start:end])
    assert [answer.body for answer in answers] == [b'{"id": 131073}', b"hello 0123456789", b""]


def test_headers_are_found_whatever_their_case():
    """The first one of a name; white space around the value is not part of it."""
    reader = AnswerReader()
    reader.expect("GET")
    (answer,) = reader.feed(b"HTTP/1.1 503 x\r\nRETRY-after: \t7 \r\nretry-AFTER: 8\r\ncOnTent-LENGTH:2\r\n\r\nno")
    assert (answer.header("Retry-After"), answer.header("content-length"), answer.header("etag")) == ("7", "2", None)
    assert (answer.status, answer.body) == (503, b"no")


@pytest.mark.parametrize(
    ("head", "closes"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2", False),
        (b"HTTP/1.1 200\r\nContent-Length: 2", False),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2, 2", False),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2", False),
        (b"HTTP/1.1 200 OK\r\nConnection: Close\r\nContent-Length: 2", True),
        (b"HTTP/1.1 200 OK\r\nConnection: x, close\r\nContent-Length: 2", True),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 2", True),
        (b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2", False),
    ],
)
def test_whether_a_connection_stays_is_read_from_the_answer(head: bytes, closes: bool):
    """HTTP/1.1 stays unless it says close, HTTP/1.0 closes unless it says keep-alive."""
    assert read(head + b"\r\n\r\nok", "GET") == [(200, b"ok", closes)]


def test_a_body_without_a_length_ends_with_the_connection():
    """And only then is it whole."""
    assert read(b"HTTP/1.1 200 OK\r\n\r\nall of it", "GET", step=4, ends=True) == [(200, b"all of it", True)]


@pytest.mark.parametrize(
    ("data", "named"),
    [
        (b"SSH-2.0-OpenSSH\r\n", "no HTTP/1 answer"),
        (b"HTTP/2 200\r\n\r\n", "status line|no HTTP/1 answer"),
        (b"HTTP/1.1 20 OK\r\n\r\n", "status line"),
        (b"HTTP/1.1 2000 OK\r\n\r\n", "status line"),
        (b"HTTP/1.1  200 OK\r\n\r\n", "status line"),
        (b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n", "header line"),
        (b"HTTP/1.1 200 OK\r\na : 1\r\n\r\n", "header line"),
        (b"HTTP/1.1 200 OK\r\na: 1\r\n folded\r\n\r\n", "header line"),
        (b"HTTP/1.1 200 OK\r\na: 1\nb: 2\r\n\r\n", "header line"),
        (b"HTTP/1.1 200 OK\r\na: \0\r\n\r\n", "header line"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", "Content-Length"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1_0\r\n\r\n", "Content-Length"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", "Content-Length"),
        (b"HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\n", "Content-Length"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", "framing"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n", "framing"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n", "chunk size"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0x1\r\n", "chunk size"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\r\n", "chunk size"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nabc\r\n", "longer than its size"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nbad trailer\r\n\r\n", "header line"),
        (b"HTTP/1.1 101 Switching Protocols\r\n\r\n", "upgrade"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" * 40, "too many interim"),
        (PLAIN + b"HTTP/1.1 200 again\r\n\r\n", "nobody asked for"),
        (b"HTTP/1.1 200 OK\r\nx: " + b"a" * 70_000, "head of more than"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 999999999\r\n\r\n", "body of more than"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nFFFFFFFFF\r\n", "body of more than"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;" + b"x" * 5_000, "a line of more than"),
        (b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * (17 << 20), "body of more than"),
    ],
    ids=lambda value: value[:60] if isinstance(value, bytes) else "",
)
def test_what_is_no_answer_is_refused_and_named(data: bytes, named: str):
    """In one piece and in small ones; never understood in two ways."""
    for step in (0, 1) if len(data) < 1_000 else (0, 4_096):
        with pytest.raises(BadAnswer, match=named):
            read(data, "GET", step=step)


@pytest.mark.parametrize("cut", range(1, len(USAGE)))
def test_an_answer_that_is_cut_off_is_none(cut: int):
    """Wherever the connection ends in it."""
    reader = AnswerReader()
    reader.expect("POST")
    assert reader.feed(USAGE[:cut]) == []
    assert reader.begun
    with pytest.raises(BadAnswer, match="in the middle"):
        reader.end()


def learned(data: bytes) -> Layouts:
    """Layouts that have seen this answer."""
    layouts = Layouts()
    reader = AnswerReader()
    reader.expect("POST")
    layouts.learn(reader.feed(data)[0])
    return layouts


def test_an_answer_that_looks_like_the_one_before_is_read_the_short_way():
    """Other values, another length; not another order, another name, a piece, or more than one answer."""
    layouts = learned(USAGE)
    other = USAGE.replace(b"131073", b"7").replace(b"length: 14", b"length: 9").replace(b"11:08:48", b"00:00:00")
    found = layouts.read(other)
    assert found is not None
    assert (found.status, found.body, found.closes) == (201, b'{"id": 7}', False)
    assert found.header("Location") == "/api/usages/7"
    for strange in (other[:-1], other + b"H", other.replace(b"date", b"Date"), other.replace(b"201", b"200"), b""):
        assert layouts.read(strange) is None


@pytest.mark.parametrize(
    "data",
    [
        CHUNKED,
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 304 Not Modified\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 0, 0\r\n\r\n",
    ],
)
def test_answers_whose_end_is_not_told_by_one_length_are_always_read_the_long_way(data: bytes):
    """No pattern is made of them."""
    assert learned(data).matchers == {}


def test_a_server_whose_answers_never_look_alike_makes_no_end_of_patterns():
    """Making one costs more than it saves then."""
    layouts = Layouts()
    for number in range(LEARNED_MAX + 10):
        layouts.learn(Answer(200, b"HTTP/1.1 %d OK\r\ncontent-length: 0\r\n" % (200 + number), b""))
    assert len(layouts.matchers) == LEARNED_MAX


def test_room_is_made_for_the_longest_answer_that_was_seen_and_for_one_that_did_not_fit():
    """More than an answer needs costs every request; too little costs the next ones the long way, until it is enough."""
    layouts = learned(USAGE)
    assert len(USAGE) < layouts.room_bytes <= len(USAGE) + ROOM_SPARE_BYTES
    layouts.learn(Answer(200, b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n", b"x" * 1000))
    longer = layouts.room_bytes
    assert longer > 1000
    layouts.learn(Answer(404, b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n", b""))
    assert layouts.room_bytes == longer
    layouts.widen()
    assert layouts.room_bytes == 2 * longer
    for _ in range(10):
        layouts.widen()
    assert layouts.room_bytes == ROOM_BYTES_MAX


FIRST = st.sampled_from(
    (USAGE, PLAIN, b"HTTP/1.1 200 OK\r\nConnection: keep-alive\r\nContent-Length: 3\r\nx:y\r\n\r\nabc")
)
CHANGES = st.lists(
    st.tuples(
        st.integers(0, 250),
        st.integers(0, 3),
        st.sampled_from(
            (
                b"",
                b"\r\n",
                b"\n",
                b"0",
                b"1",
                b":",
                b" ",
                b"\0",
                b"Connection: close\r\n",
                b"Transfer-Encoding: chunked\r\n",
            )
        ),
    ),
    max_size=3,
)


def disagreements(layouts: Layouts, data: bytes) -> str | None:
    """How the short way understands these bytes otherwise than the long way; None when it does not, or declines."""
    found = layouts.read(data)
    if found is None:
        return None
    try:
        (reader := AnswerReader()).expect("POST")
        answers = reader.feed(data)
    except BadAnswer as error:
        return f"the long way refuses: {error}"
    if len(answers) != 1 or reader.begun:
        return f"the long way reads {len(answers)} answers"
    same = [getattr(answers[0], name) == getattr(found, name) for name in ("status", "head", "body", "closes")]
    return None if all(same) else "they differ"


@given(FIRST, CHANGES)
def test_the_short_way_never_understands_an_answer_otherwise(data: bytes, changes: list[tuple[int, int, bytes]]):
    """Whatever is changed in, or put into, an answer: the same reading, or none."""
    layouts = learned(data)
    for at, removed, put in changes:
        data = data[:at] + put + data[at + removed :]
    assert disagreements(layouts, data) is None


def test_a_short_way_that_takes_too_much_is_noticed():
    """The comparison above is worth something: patterns with a plain ``.*`` for values are caught by it."""
    pattern = pattern_of(USAGE[: USAGE.index(b"\r\n\r\n") + 2])
    assert pattern is not None
    layouts = Layouts()
    layouts.matchers[USAGE[:12]] = 201, re.compile(pattern.replace(rb"[^\r\n\0]*", rb".*"), re.DOTALL).match
    assert disagreements(layouts, USAGE) is None
    assert (
        disagreements(layouts, USAGE.replace(b"x-request-id:", b"x-request-id: 1\r\nConnection: close\r\ny:"))
        is not None
    )
