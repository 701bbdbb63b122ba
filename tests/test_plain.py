"""Requests read without a parser, against the parser: what is taken is what httptools would have read."""

from __future__ import annotations

import string
from typing import Any

import httptools
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from service.plain import HEAD_BYTES_MAX, LINES_KNOWN_MAX, NOT_PLAIN, VARYING, Plain, PlainReader
from tests.support import LONG, Headers, raw_request

BODY = b'{"patientId": "100"}'
DIGEST = b"0123456789abcdefABCDEF" + b"0" * 42


class Parsed:
    """What httptools makes of the first packet of a connection, as uvicorn asks it."""

    def __init__(self, data: bytes) -> None:
        self.begun = 0
        self.whole = 0
        self.target = b""
        self.fields: list[tuple[bytes, bytes]] = []
        self.body = b""
        self.error: Exception | None = None
        self.keep_alive: bool | None = None
        self.parser: Any = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self.feed(data)

    def feed(self, data: bytes) -> None:
        """More bytes of the same connection."""
        try:
            self.parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self.error = error

    def on_message_begin(self) -> None:
        """One more request."""
        self.begun += 1

    def on_url(self, part: bytes) -> None:
        """A piece of its target."""
        self.target += part

    def on_header(self, name: bytes, value: bytes) -> None:
        """One field."""
        self.fields.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """What uvicorn asks here."""
        self.keep_alive = self.parser.should_keep_alive()

    def on_body(self, part: bytes) -> None:
        """A piece of its body."""
        self.body += part

    def on_message_complete(self) -> None:
        """The request is whole."""
        self.whole += 1


def assert_read_as_the_parser_does(plain: Plain, data: bytes) -> None:
    """The same request, whole, nothing wrong with it, and the parser stands where the next one begins."""
    parsed = Parsed(data)
    assert parsed.error is None
    assert (parsed.begun, parsed.whole, parsed.keep_alive) == (1, 1, True)
    assert parsed.parser.get_http_version() == "1.1"
    assert not parsed.parser.should_upgrade()
    assert plain.method.encode() == parsed.parser.get_method()
    assert plain.path.encode() == parsed.target
    assert len(parsed.fields) == len(plain.headers)
    assert plain.headers == dict(parsed.fields)
    assert plain.body == parsed.body
    parsed.target = b""
    parsed.feed(b"GET /next HTTP/1.1\r\nHost: x\r\n\r\n")
    assert (parsed.error, parsed.begun, parsed.whole, parsed.target) == (None, 2, 2, b"/next")


# --- requests near to what is taken

POSTS = [b"POST /api/usages HTTP/1.1", b"POST /messages HTTP/1.1"]
BODILESS = [
    b"GET /messages/%b HTTP/1.1" % DIGEST,
    b"DELETE /messages/%b HTTP/1.1" % DIGEST,
    b"GET /api/usages/1234567890123456 HTTP/1.1",
    b"DELETE /api/usages/1 HTTP/1.1",
]
OTHER_LINES = [
    b"POST /api/usages HTTP/1.0",
    b"POST /api/usages HTTP/2.0",
    b"GET /api/usages/1 HTTP/1.0",
    b"DELETE /messages/%b HTTP/1.0" % DIGEST,
    b"POST /api/usages",
    b"POST  /api/usages HTTP/1.1",
    b"post /api/usages HTTP/1.1",
    b"HEAD /messages/%b HTTP/1.1" % DIGEST,
    b"POST /api/usages?x=1 HTTP/1.1",
    b"POST /api/%75sages HTTP/1.1",
    b"POST http://a.example/api/usages HTTP/1.1",
    b"POST /api/usages HTTP/1.1 ",
    b"GET /messages/%b0 HTTP/1.1" % DIGEST,
    b"GET /api/usages/12345678901234567 HTTP/1.1",
    b"PRI * HTTP/2.0",
]
FIELDS = [
    b"Content-Type: application/json",
    b"content-type: text/plain",
    b"User-Agent: curl/8.1 (x; y)",
    b"Accept: */*",
    b"X-Empty:",
    b"X-Tab: a\tb",
    b"X-Before: \t a",
    b"!#$%&'*+.^_`|~-0: !",
    b"X-Request-ID: 1",
    b"Idempotency-Key: k",
    b"Keep-Alive: timeout=5",
    b"Connection: keep-alive",
    b"HTTP2-Settings: AAMAAABk",
    b"TE: trailers",
]
OTHER_FIELDS = [
    b"X-Behind: a ",
    b"X-Behind-Tab: a \t",
    b"X: a\r\n folded",
    b" X: folded",
    b"X: a\rb",
    b"X: a\nb",
    b"X: a\x00b",
    b"X: a\x7fb",
    b"X: \xc3\xa9",
    b"X\xe9: a",
    b"X (y): a",
    b": a",
    b"no colon",
    b"Host: b",
    b"Content-Length: 20",
    b"Content-Length : 20",
    b"Transfer-Encoding: chunked",
    b"Transfer-Encoding: identity",
    b"Connection: close",
    b"Connection: keep-alive, TE",
    b"Connection: keep-alive\t",
    b"Proxy-Connection: close",
    b"Proxy-Connection: keep-alive",
    b"Upgrade: h2c",
    b"Expect: 100-continue",
    b"Trailer: X",
    b"Content-Encoding: gzip",
]
HOSTS = [b"Host: a.example", b"host:a", b"HOST:\ta:80", b"Host:"]
OTHER_HOSTS = [b"Host : a", b"Host: \xe9", b"Hos: a", b"Host: a "]
LENGTHS = ["{}", "0{}", "000000{}"]
OTHER_LENGTHS = ["+{}", "-{}", " {}", "{} ", "{},{}", "0x{}", "{}.0", "", "١", "9" * 20, "0" * 20 + "{}"]
OTHER_ENDS = [b"\n", b"\r", b"\r\n\r\n", b"\r\n ", b"\r\r\n"]
BODIES = [BODY, b"{}", b"", b"\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n", b"x" * 5000]
PARTS = ["line", "host", "field", "length", "off by one", "no length", "no host", "body", "end", "long"]


@st.composite
def near_requests(draw: st.DrawFn) -> bytes:
    """A request that is plain but for two of its parts at most."""
    wrong = draw(st.sets(st.sampled_from(PARTS), max_size=2))
    line = draw(st.sampled_from(OTHER_LINES if "line" in wrong else [*POSTS * 2, *BODILESS]))
    body = draw(st.sampled_from(BODIES)) if (line in BODILESS) == ("body" in wrong) else b""
    fields = draw(st.lists(st.sampled_from(FIELDS), max_size=3, unique=True))
    if "field" in wrong:
        fields.append(draw(st.sampled_from(OTHER_FIELDS)))
    if "long" in wrong:
        fields.append(b"X-Long: " + b"x" * draw(st.integers(HEAD_BYTES_MAX - 200, HEAD_BYTES_MAX)))
    if "no host" not in wrong:
        fields.append(draw(st.sampled_from(OTHER_HOSTS if "host" in wrong else HOSTS)))
    if "no length" not in wrong:
        length = len(body) + (draw(st.sampled_from([-1, 1])) if "off by one" in wrong else 0)
        written = draw(st.sampled_from(OTHER_LENGTHS if "length" in wrong else LENGTHS))
        fields.append(f"Content-Length: {written.replace('{}', str(length))}".encode())
    lines = [line, *draw(st.permutations(fields)), b""]
    ends = [b"\r\n"] * len(lines)
    if "end" in wrong:
        ends[draw(st.integers(0, len(lines) - 1))] = draw(st.sampled_from(OTHER_ENDS))
    return b"".join(part + end for part, end in zip(lines, ends, strict=True)) + body


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """Such a request with some bytes put in, taken out or changed, or with another one behind it."""
    data = bytearray(draw(near_requests()))
    for _ in range(draw(st.integers(0, 3))):
        start = draw(st.integers(0, len(data)))
        data[start : start + draw(st.integers(0, 2))] = draw(
            st.sampled_from([b"", b"\r", b"\n", b"\x00", b" ", b":", b"\r\n", b"\xff", b"0"]) | st.binary(max_size=2)
        )
    return bytes(data) + (draw(near_requests()) if draw(st.integers(0, 9)) == 0 else b"")


def plain_request(*fields: bytes, line: bytes = b"POST /api/usages HTTP/1.1", body: bytes = BODY) -> bytes:
    """A request of these lines and no others, with its body behind them."""
    return b"\r\n".join([line, *fields, b"", body])


HOST, LENGTH = b"Host: a.example", b"Content-Length: %d" % len(BODY)
TRAILING = plain_request(HOST, b"X-Behind: a \t", LENGTH)


@settings(max_examples=600)
@given(st.binary(max_size=300) | near_requests() | mutated())
@example(TRAILING)
@example(plain_request(HOST, b"Proxy-Connection: close", LENGTH))
def test_whatever_bytes_come_what_is_taken_is_what_the_parser_reads(data: bytes):
    """It never raises; a request that it takes is the same, header for header and byte for byte, to httptools."""
    plain = PlainReader().read(data)
    if plain is not None:
        assert_read_as_the_parser_does(plain, data)


tokens = st.text(string.ascii_letters + string.digits + "!#$%&'*+.^_`|~-", min_size=1, max_size=12)
values = st.from_regex(r"([!-~]([ \t!-~]{0,20}[!-~])?)?", fullmatch=True)
unknown_names = tokens.filter(
    lambda name: name.lower().encode() not in NOT_PLAIN | {b"host", b"content-length", b"proxy-connection"}
)


@given(
    st.dictionaries(unknown_names, values, max_size=8),
    st.sampled_from(["", " ", "\t", "  \t"]),
    st.binary(max_size=300),
    st.randoms(use_true_random=False),
)
def test_every_plain_post_is_taken(fields: dict[str, str], space: str, body: bytes, random: Any):
    """Any headers that mean nothing here, in any order and case: the short way is open to ordinary clients."""
    fields = {name.lower(): value for name, value in fields.items()} | {"host": "x", "content-length": str(len(body))}
    lines = [f"{random.choice((name, name.title()))}:{space}{value}".encode() for name, value in fields.items()]
    random.shuffle(lines)
    data = plain_request(*lines, body=body)
    expected = {name.encode(): value.encode() for name, value in fields.items()}
    assert PlainReader().read(data) == Plain("POST", "/api/usages", expected, body)
    assert_read_as_the_parser_does(Plain("POST", "/api/usages", expected, body), data)


TAKEN = {
    "a usage": (plain_request(HOST, LENGTH), "POST", "/api/usages"),
    "a message": (plain_request(HOST, LENGTH, line=b"POST /messages HTTP/1.1"), "POST", "/messages"),
    "an empty body": (plain_request(HOST, b"Content-Length: 0", body=b""), "POST", "/api/usages"),
    "a body that looks like a head": (
        plain_request(HOST, b"Content-Length: 8", body=b"\r\n\r\n\r\n\r\n"),
        "POST",
        "/api/usages",
    ),
    "leading zeros": (plain_request(HOST, b"Content-Length: 00000%d" % len(BODY)), "POST", "/api/usages"),
    "names in any case": (plain_request(b"HOST: x", b"cOnTeNt-LeNgTh:%d" % len(BODY)), "POST", "/api/usages"),
    "a key": (plain_request(HOST, b"Idempotency-Key: k", LENGTH), "POST", "/api/usages"),
    "a keep-alive": (plain_request(HOST, b"Connection: Keep-Alive", LENGTH), "POST", "/api/usages"),
    "an empty value": (plain_request(HOST, b"X:", LENGTH), "POST", "/api/usages"),
    "a message's read": (
        plain_request(HOST, line=b"GET /messages/%b HTTP/1.1" % DIGEST, body=b""),
        "GET",
        f"/messages/{DIGEST.decode()}",
    ),
    "a message's end": (
        plain_request(HOST, line=b"DELETE /messages/%b HTTP/1.1" % DIGEST, body=b""),
        "DELETE",
        f"/messages/{DIGEST.decode()}",
    ),
    "a usage's read": (
        plain_request(HOST, line=b"GET /api/usages/9007199254740991 HTTP/1.1", body=b""),
        "GET",
        "/api/usages/9007199254740991",
    ),
    "a read that says that it has no body": (
        plain_request(HOST, b"Content-Length: 0", line=b"GET /api/usages/1 HTTP/1.1", body=b""),
        "GET",
        "/api/usages/1",
    ),
    "a head as long as may be": (
        plain_request(
            HOST, LENGTH, b"X: %b" % (b"x" * (HEAD_BYTES_MAX - len(plain_request(HOST, LENGTH, b"X: ", body=b""))))
        ),
        "POST",
        "/api/usages",
    ),
    "a body longer than a head": (
        plain_request(HOST, b"Content-Length: 100000", body=b"x" * 100_000),
        "POST",
        "/api/usages",
    ),
}


@pytest.mark.parametrize(("data", "method", "path"), TAKEN.values(), ids=TAKEN.keys())
def test_a_plain_request_is_taken_as_the_parser_reads_it(data: bytes, method: str, path: str):
    """The hot routes, as their clients ask for them."""
    plain = PlainReader().read(data)
    assert plain is not None
    assert (plain.method, plain.path) == (method, path)
    assert_read_as_the_parser_does(plain, data)


CHUNKED = b"14\r\n%b\r\n0\r\n\r\n" % BODY

NOT_TAKEN = {
    "nothing": b"",
    "a TLS hello": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "half a head": plain_request(HOST, LENGTH)[:40],
    "a head without its body": plain_request(HOST, LENGTH, body=b""),
    "a byte of the body missing": plain_request(HOST, LENGTH)[:-1],
    "a byte too many": plain_request(HOST, LENGTH) + b" ",
    "a line end too many": plain_request(HOST, LENGTH) + b"\r\n",
    "an empty line in front": b"\r\n" + plain_request(HOST, LENGTH),
    "a length one too small": plain_request(HOST, b"Content-Length: %d" % (len(BODY) - 1)),
    "a length one too large": plain_request(HOST, b"Content-Length: %d" % (len(BODY) + 1)),
    "two requests": plain_request(HOST, LENGTH) * 2,
    "two requests without bodies": plain_request(HOST, line=b"GET /api/usages/1 HTTP/1.1", body=b"") * 2,
    "a bare LF behind a header": plain_request(HOST, LENGTH).replace(b"example\r\n", b"example\n"),
    "bare LFs everywhere": plain_request(HOST, LENGTH).replace(b"\r\n", b"\n"),
    "a bare LF in a value": plain_request(HOST, b"X: a\nContent-Length: 1", LENGTH),
    "a bare CR in a value": plain_request(HOST, b"X: a\rb", LENGTH),
    "a bare CR behind a header": plain_request(HOST, LENGTH).replace(b"example\r\n", b"example\r"),
    "two CRs before an LF": plain_request(HOST, LENGTH).replace(b"example\r\n", b"example\r\r\n"),
    "a folded line": plain_request(HOST, b"X: a\r\n b", LENGTH),
    "a line folded by a tab": plain_request(HOST, b"X: a\r\n\tContent-Length: 1", LENGTH),
    "a first header that starts with a space": plain_request(b" X: a", HOST, LENGTH),
    "a NUL in a value": plain_request(HOST, b"X: a\x00b", LENGTH),
    "a NUL in a name": plain_request(HOST, b"X\x00: a", LENGTH),
    "a DEL in a value": plain_request(HOST, b"X: \x7f", LENGTH),
    "an escape in a value": plain_request(HOST, b"X: \x1b[0m", LENGTH),
    "a space before the colon": plain_request(b"Host : a", LENGTH),
    "a tab before the colon": plain_request(HOST, b"Content-Length\t: 20", LENGTH),
    "no name": plain_request(HOST, b": a", LENGTH),
    "no colon": plain_request(HOST, b"x", LENGTH),
    "a space in a name": plain_request(HOST, b"X Y: a", LENGTH),
    "a name that is no token": plain_request(HOST, b"X(y): a", LENGTH),
    "non-ASCII in a value": plain_request(HOST, "X: é".encode(), LENGTH),
    "non-ASCII in a name": plain_request(HOST, "É: a".encode(), LENGTH),
    "a header twice": plain_request(HOST, b"X: a", b"X: a", LENGTH),
    "a header twice in two cases": plain_request(HOST, b"X: a", b"x: b", LENGTH),
    "two hosts": plain_request(HOST, HOST, LENGTH),
    "two keys": plain_request(HOST, b"Idempotency-Key: k", b"Idempotency-Key: k", LENGTH),
    "two lengths that agree": plain_request(HOST, LENGTH, LENGTH),
    "two lengths that do not": plain_request(HOST, LENGTH, b"Content-Length: 1"),
    "two lengths in one line": plain_request(HOST, b"Content-Length: 20, 20"),
    "no length": plain_request(HOST),
    "no length and no body": plain_request(HOST, body=b""),
    "an empty length": plain_request(HOST, b"Content-Length:", body=b""),
    "a length with a plus": plain_request(HOST, b"Content-Length: +20"),
    "a length with a minus": plain_request(HOST, b"Content-Length: -20"),
    "a length of minus zero": plain_request(HOST, b"Content-Length: -0", body=b""),
    "a length with an underscore": plain_request(HOST, b"Content-Length: 2_0"),
    "a hexadecimal length": plain_request(HOST, b"Content-Length: 0x14"),
    "a length with a point": plain_request(HOST, b"Content-Length: 20.0"),
    "a length in Arabic digits": plain_request(HOST, "Content-Length: ٢٠".encode()),
    "a length of many digits": plain_request(HOST, b"Content-Length: %b20" % (b"0" * 20)),
    "a length beyond 64 bits": plain_request(HOST, b"Content-Length: 18446744073709551636"),
    "chunks": plain_request(HOST, b"Transfer-Encoding: chunked", body=CHUNKED),
    "chunks and a length": plain_request(
        HOST, b"Transfer-Encoding: chunked", b"Content-Length: %d" % len(CHUNKED), body=CHUNKED
    ),
    "a transfer coding in another case": plain_request(HOST, b"TRANSFER-ENCODING: gzip", LENGTH),
    "a content coding": plain_request(HOST, b"Content-Encoding: gzip", LENGTH),
    "a close": plain_request(HOST, b"Connection: close", LENGTH),
    "a keep-alive among others": plain_request(HOST, b"Connection: keep-alive, TE", LENGTH),
    "a keep-alive and an upgrade": plain_request(HOST, b"Connection: keep-alive, Upgrade", b"Upgrade: h2c", LENGTH),
    "a keep-alive and a close": plain_request(HOST, b"Connection: keep-alive", b"Connection: close", LENGTH),
    "a close as proxies were told": plain_request(HOST, b"Proxy-Connection: close", LENGTH),
    "an upgrade": plain_request(HOST, b"Connection: Upgrade", b"Upgrade: h2c", LENGTH),
    "an upgrade without a connection": plain_request(HOST, b"Upgrade: websocket", LENGTH),
    "an expectation": plain_request(HOST, b"Expect: 100-continue", LENGTH),
    "a trailer": plain_request(HOST, b"Trailer: X", LENGTH),
    "no host": plain_request(LENGTH),
    "HTTP/1.0": plain_request(HOST, LENGTH, line=b"POST /api/usages HTTP/1.0"),
    "a read in HTTP/1.0": plain_request(HOST, line=b"GET /api/usages/1 HTTP/1.0", body=b""),
    "HTTP/1.2": plain_request(HOST, LENGTH, line=b"POST /api/usages HTTP/1.2"),
    "HTTP/2": plain_request(HOST, LENGTH, line=b"POST /api/usages HTTP/2"),
    "HTTP/0.9": b"GET /api/usages/1\r\n\r\n",
    "http": plain_request(HOST, LENGTH, line=b"POST /api/usages http/1.1"),
    "a method in lower case": plain_request(HOST, LENGTH, line=b"post /api/usages HTTP/1.1"),
    "another method": plain_request(HOST, LENGTH, line=b"PUT /api/usages HTTP/1.1"),
    "a HEAD": plain_request(HOST, line=b"HEAD /api/usages/1 HTTP/1.1", body=b""),
    "an absolute target": plain_request(HOST, LENGTH, line=b"POST http://a.example/api/usages HTTP/1.1"),
    "a query": plain_request(HOST, LENGTH, line=b"POST /api/usages?x=1 HTTP/1.1"),
    "an empty query": plain_request(HOST, LENGTH, line=b"POST /api/usages? HTTP/1.1"),
    "a fragment": plain_request(HOST, LENGTH, line=b"POST /api/usages#x HTTP/1.1"),
    "a percent-encoding": plain_request(HOST, LENGTH, line=b"POST /api/%75sages HTTP/1.1"),
    "a percent-encoded id": plain_request(HOST, line=b"GET /api/usages/%31 HTTP/1.1", body=b""),
    "a trailing slash": plain_request(HOST, LENGTH, line=b"POST /api/usages/ HTTP/1.1"),
    "a path in another case": plain_request(HOST, LENGTH, line=b"POST /API/usages HTTP/1.1"),
    "non-ASCII in the target": plain_request(HOST, line=b"GET /api/usages/\xd9\xa1 HTTP/1.1", body=b""),
    "two spaces in the request line": plain_request(HOST, LENGTH, line=b"POST  /api/usages HTTP/1.1"),
    "a tab in the request line": plain_request(HOST, LENGTH, line=b"POST\t/api/usages HTTP/1.1"),
    "a space behind the request line": plain_request(HOST, LENGTH, line=b"POST /api/usages HTTP/1.1 "),
    "a space before the request line": plain_request(HOST, LENGTH, line=b" POST /api/usages HTTP/1.1"),
    "another route": plain_request(HOST, line=b"GET /livez HTTP/1.1", body=b""),
    "an id of 17 digits": plain_request(HOST, line=b"GET /api/usages/12345678901234567 HTTP/1.1", body=b""),
    "a usage by its key": plain_request(HOST, line=b"GET /api/usages/keys/k HTTP/1.1", body=b""),
    "a digest of 63 digits": plain_request(HOST, line=b"GET /messages/%b HTTP/1.1" % DIGEST[1:], body=b""),
    "a digest of 65 digits": plain_request(HOST, line=b"GET /messages/%b0 HTTP/1.1" % DIGEST, body=b""),
    "a digest with a line end": plain_request(HOST, line=b"GET /messages/%b\n HTTP/1.1" % DIGEST, body=b""),
    "a read with a body": plain_request(HOST, LENGTH, line=b"GET /api/usages/1 HTTP/1.1"),
    "a read with an unannounced body": plain_request(HOST, line=b"GET /api/usages/1 HTTP/1.1"),
    "a DELETE with a body": plain_request(HOST, LENGTH, line=b"DELETE /messages/%b HTTP/1.1" % DIGEST),
    "a head that is too long": plain_request(
        HOST, LENGTH, b"X: %b" % (b"x" * (HEAD_BYTES_MAX - len(plain_request(HOST, LENGTH, b"X: ", body=b"")) + 1))
    ),
    "a value with a space behind it": plain_request(HOST, b"X: a ", LENGTH),
    "a length with a tab behind it": plain_request(HOST, b"Content-Length: %d\t" % len(BODY)),
}


@pytest.mark.parametrize("data", NOT_TAKEN.values(), ids=NOT_TAKEN.keys())
def test_whatever_needs_a_second_thought_is_left_to_the_parser(data: bytes):
    """Also by a reader that has just read the same lines in a plain request."""
    reader = PlainReader()
    assert reader.read(data) is None
    for taken, _, _ in TAKEN.values():
        assert reader.read(taken) is not None
    assert reader.read(data) is None


@settings(max_examples=60)
@given(st.lists(near_requests() | mutated() | st.sampled_from([*NOT_TAKEN.values(), TAKEN["a usage"][0]]), max_size=8))
def test_a_remembered_line_never_changes_an_answer(requests: list[bytes]):
    """One reader gives, each time and whatever it has read in between, what a new reader would give."""
    reader = PlainReader()
    alone = [PlainReader().read(data) for data in requests]
    assert [reader.read(data) for data in requests] == alone
    assert [reader.read(data) for data in reversed(requests)] == alone[::-1]
    assert [reader.read(data) for data in requests for _ in range(2)] == [plain for plain in alone for _ in range(2)]


@pytest.mark.parametrize("headers", [[], [("Content-Type", "application/json")]])
def test_the_tests_of_both_ways_take_both(headers: Headers):
    """What the other tests send to go the short way is plain, and with LONG it is not."""
    assert PlainReader().read(raw_request("POST", "/api/usages", BODY, headers)) is not None
    assert PlainReader().read(raw_request("POST", "/api/usages", BODY, [*headers, LONG])) is None


def test_lines_that_are_nearly_the_same_are_not_taken_for_each_other():
    """A case, a space, a tab, one character more or less: each line is its own, however often all were read."""
    lines = {
        **{
            b"X-Line: " + value: (b"x-line", value)
            for value in (b"", b"a", b"A", b"ab", b"a b", b"a  b", b"a\tb", b"AB")
        },
        b"x-line: ab": (b"x-line", b"ab"),
        b"X-Line:a": (b"x-line", b"a"),
        b"X-Line: :a": (b"x-line", b":a"),
        b"X-Line2: a": (b"x-line2", b"a"),
        b"X-Lin: e: a": (b"x-lin", b"e: a"),
    }
    reader = PlainReader()
    for line, (name, value) in [*lines.items(), *reversed(lines.items()), *lines.items()]:
        plain = reader.read(plain_request(HOST, line, LENGTH))
        assert plain is not None
        assert plain.headers == {b"host": b"a.example", name: value, b"content-length": b"20"}


def test_two_reads_share_nothing_that_could_be_changed():
    """Whoever changes the headers of one request changes no other's."""
    reader = PlainReader()
    first = reader.read(plain_request(HOST, LENGTH))
    assert first is not None
    expected = dict(first.headers)
    first.headers.clear()
    second = reader.read(plain_request(HOST, LENGTH))
    assert second is not None
    assert second.headers == expected


def test_the_memory_of_lines_is_bounded_and_reading_goes_on():
    """Any number of different lines: at most LINES_KNOWN_MAX are remembered, each shorter than a head may be."""
    reader = PlainReader()
    for number in range(3 * LINES_KNOWN_MAX + 10):
        data = plain_request(HOST, b"X-%d: %d" % (number % 7, number), LENGTH)
        plain = reader.read(data)
        assert plain is not None
        assert plain.headers[b"x-%d" % (number % 7)] == b"%d" % number
        assert 0 < len(reader._known) <= LINES_KNOWN_MAX
    assert all(len(line) < HEAD_BYTES_MAX for line in reader._known)


def test_lines_that_do_not_come_twice_crowd_out_no_others():
    """Request ids and keys are read and not remembered, nor is what was not plain."""
    reader = PlainReader()
    reader.read(plain_request(HOST, LENGTH))
    before = dict(reader._known)
    for number in range(50):
        fields = [b"%b: %d" % (name.title(), number) for name in sorted(VARYING)]
        plain = reader.read(plain_request(HOST, *fields, LENGTH))
        assert plain is not None
        assert plain.headers.keys() >= VARYING
        reader.read(plain_request(HOST, b"Expect: %d" % number, LENGTH))
        reader.read(plain_request(HOST, b"X : %d" % number, LENGTH))
    assert reader._known == before
