from __future__ import annotations

import array
import contextlib
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import psutil
import pytest

from loadtest.generator import GeneratorFailed, GeneratorMissing, Load, Mode, binary, build, run
from tests.support import USAGE, WebInstance, eventually

pytestmark = pytest.mark.tools

SECONDS = 0.25

Request = tuple[str, str, dict[str, str], bytes]
"""Method, target, headers by lower-case name, body."""
Pieces = Iterator[bytes | None]
"""What is sent in answer, each piece by itself; None closes the connection."""


class Server:
    """Answers over raw sockets as a test scripts it, a thread to each connection, and remembers what it was asked."""

    def __init__(self, answer: Callable[[Request], Pieces]) -> None:
        self.answer = answer
        self.requests: list[Request] = []
        self.peers: set[int] = set()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.port: int = self._listener.getsockname()[1]
        self._sockets: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        for each in (self._listener, *self._sockets):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
        for thread in self._threads:
            thread.join(10)
        assert not any(thread.is_alive() for thread in self._threads)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, peer = self._listener.accept()
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._sockets.append(connection)
                self.peers.add(peer[1])
                self._threads.append(threading.Thread(target=self._serve, args=(connection,), daemon=True))
                self._threads[-1].start()

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError, ValueError), connection, connection.makefile("rb") as stream:
            while line := stream.readline():
                method, target, _ = line.decode().split(" ")
                headers = {}
                while (line := stream.readline()) != b"\r\n":
                    name, _, value = line.decode().partition(":")
                    headers[name.lower()] = value.strip()
                request = (method, target, headers, stream.read(int(headers.get("content-length", 0))))
                self.requests.append(request)
                for piece in self.answer(request):
                    if piece is None:
                        connection.shutdown(socket.SHUT_RDWR)
                        return
                    connection.sendall(piece)


class Ids:
    """Hands out ids from 1 on, each once."""

    def __init__(self) -> None:
        self.given: list[int] = []
        self._lock = threading.Lock()

    def next(self) -> int:
        """A new one."""
        with self._lock:
            self.given.append(len(self.given) + 1)
            return self.given[-1]


def answer(status: int, body: bytes = b"", *headers: str) -> bytes:
    """An answer as most servers write it."""
    lines = [f"HTTP/1.1 {status} Words", *headers, f"Content-Length: {len(body)}", "", ""]
    return "\r\n".join(lines).encode() + body


def created(_: Request) -> Pieces:
    """Every usage is stored, always under the same id."""
    yield answer(201, b'{"id": 1}')


def program(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The program itself, to its end."""
    return subprocess.run([str(build()), *arguments], capture_output=True, text=True, timeout=30, check=False)


def read_ids(path: Path) -> list[int]:
    """The file of ids as Python reads it."""
    ids = array.array("q", path.read_bytes())
    if sys.byteorder == "big":
        ids.byteswap()
    return ids.tolist()


STYLES = {
    "plain": "HTTP/1.1 201 Created\r\nContent-Length: {size}\r\n\r\n{body}",
    "lower case": "HTTP/1.1 201 \r\ndate: x\r\nconnection: keep-alive\r\ncontent-length:{size}\r\n\r\n{body}",
    "upper case and blanks": "HTTP/1.1 201 OK\r\nCONTENT-LENGTH: \t {size}  \r\nCONNECTION: Keep-Alive\r\n\r\n{body}",
    "bare line feeds": "HTTP/1.1 201 OK\nContent-Length: {size}\n\n{body}",
    "long headers": "HTTP/1.1 201 OK\r\nCookie-Like: " + 3000 * "x" + "\r\nContent-Length: {size}\r\n\r\n{body}",
    "interim answers": "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"
    "HTTP/1.1 201 OK\r\nContent-Length: {size}\r\n\r\n{body}",
    "chunked": "HTTP/1.1 201 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    "3;name=value\r\n{start}\r\n{rest_size:X}\r\n{rest}\r\n0\r\n\r\n",
    "chunked with trailers": "HTTP/1.1 201 OK\r\ntransfer-encoding: Chunked\r\n\r\n"
    "{size:x}\r\n{body}\r\n000\r\nContent-Length: 7\r\nX: y\r\n\r\n",
    "close": "HTTP/1.1 201 OK\r\nConnection: close\r\nContent-Length: {size}\r\n\r\n{body}",
    "HTTP/1.0": "HTTP/1.0 201 OK\r\n\r\n{body}",
    "until the end": "HTTP/1.1 201 OK\r\nContent-Type: application/json\r\n\r\n{body}",
}
CLOSING = {"close", "HTTP/1.0", "until the end"}


@pytest.mark.parametrize("split", [False, True], ids=["whole", "byte by byte"])
@pytest.mark.parametrize("style", STYLES)
def test_an_answer_is_understood_however_it_is_written_and_split(style: str, split: bool, tmp_path: Path):
    """Each id that a server acknowledged is counted once and is in the file of ids, whatever the form of its answers."""
    ids = Ids()

    def pieces(_: Request) -> Pieces:
        body = f'{{"id":{ids.next()}, "more": "{600 * "m"}"}}'
        size = {"size": len(body), "start": body[:3], "rest": body[3:], "rest_size": len(body) - 3}
        data = STYLES[style].format(body=body, **size).encode()
        if split:  # the beginning and the end; in between there is nothing to get wrong
            for at in range(60):
                yield data[at : at + 1]
                time.sleep(0.0002)
            data = data[60:]
            yield data[:-20]
            data = data[-20:]
        for at in range(0, len(data), 1 if split else len(data)):
            yield data[at : at + 1] if split else data
            if split:
                time.sleep(0.0002)
        if style in CLOSING:
            yield None

    with Server(pieces) as server:
        outcome = run(Load(server.port, 3, SECONDS, ids=tmp_path / "ids"))
    assert outcome.total_by_status == {201: len(ids.given)}
    assert sorted(read_ids(tmp_path / "ids")) == ids.given
    assert (outcome.unknown, outcome.mismatches, outcome.without_id) == (0, 0, 0)
    assert outcome.sent == outcome.answered == outcome.total_acknowledged == len(server.requests) > 3
    assert (outcome.reconnects > 0) is (style in CLOSING)


def test_a_request_is_the_one_that_was_asked_for():
    """Method, path, Host, content type and body are as the caller says; the default body is the usual usage."""
    with Server(created) as server:
        run(Load(server.port, 1, 0.05))
        method, target, headers, body = server.requests[0]
        assert (method, target, body) == ("POST", "/api/usages", USAGE)
        assert headers["host"] == f"127.0.0.1:{server.port}"
        assert headers["content-type"] == "application/json"
        assert "idempotency-key" not in headers

        server.requests.clear()
        large = b'{"large": "' + 3_000_000 * b"x" + b'"}'  # more than a socket takes at once
        outcome = run(Load(server.port, 2, 0.05, path="/other?a=b", body=large))
        assert {request[:2] for request in server.requests} == {("POST", "/other?a=b")}
        assert {request[3] for request in server.requests} == {large}
        assert outcome.total_by_status == {201: len(server.requests)}


def test_every_keyed_request_has_a_fresh_uuid7():
    """Keys are distinct RFC 9562 UUIDs of version 7 that carry the time of their request; 200 counts as a duplicate."""
    numbers = Ids()

    def pieces(request: Request) -> Pieces:
        body = json.dumps({"id": request[2]["idempotency-key"]}).encode()
        yield answer(201 if numbers.next() % 2 else 200, body)

    began = time.time()
    with Server(pieces) as server:
        outcome = run(Load(server.port, 4, SECONDS, mode="keyed"))
    keys = [request[2]["idempotency-key"] for request in server.requests]
    assert len(set(keys)) == len(keys) > 4
    for key in keys:
        parsed = uuid.UUID(key)
        assert (str(parsed), parsed.version, parsed.variant) == (key, 7, uuid.RFC_4122)
        assert began - 1 <= (parsed.int >> 80) / 1000 <= time.time() + 1
    assert outcome.total_by_status[201] == (len(keys) + 1) // 2
    assert outcome.duplicates == len(keys) // 2
    assert outcome.mismatches == 0


def test_an_answer_under_another_key_is_a_mismatch():
    """A keyed usage that is acknowledged as another one is a wrong answer."""
    with Server(lambda _: iter([answer(201, f'{{"id": "{uuid.uuid4()}"}}'.encode())])) as server:
        outcome = run(Load(server.port, 2, 0.05, mode="keyed"))
    assert outcome.mismatches == outcome.answered == len(server.requests)


class Messages:
    """A message service that is right, or wrong in one way."""

    def __init__(self, wrong: str = "") -> None:
        self.wrong = wrong
        self.texts: dict[str, str] = {}

    def __call__(self, request: Request) -> Pieces:
        """Its answer."""
        method, target, _, body = request
        digest = target.removeprefix("/messages/")
        if method == "POST":
            text = json.loads(body)["message"]
            assert len(text) == 20
            assert text.isalnum()
            digest = hashlib.sha256(("?" if self.wrong == "digest" else text).encode()).hexdigest()
            self.texts[digest] = text
            yield answer(201, json.dumps({"digest": digest}).encode())
        elif digest not in self.texts or self.wrong == f"lost before {method}":
            yield answer(404, b'{"error": "unknown"}')
        elif method == "GET":
            text = "another" if self.wrong == "text" else self.texts[digest]
            yield answer(200, json.dumps({"message": text}, separators=(",", ":")).encode())
        else:
            del self.texts[digest]
            yield answer(200, json.dumps({"message_deleted": digest}).encode())


def test_a_message_is_written_read_and_deleted_in_rounds():
    """Each connection goes through whole rounds; the digests agree with hashlib's; at most the last round is not done."""
    messages = Messages()
    with Server(messages) as server:
        outcome = run(Load(server.port, 3, SECONDS, mode="messages"))
    methods = [request[0] for request in server.requests]
    assert outcome.mismatches == outcome.unknown == 0
    assert outcome.rounds == methods.count("DELETE") > 0
    assert outcome.total_by_status == {201: methods.count("POST"), 200: methods.count("GET") + methods.count("DELETE")}
    assert len(messages.texts) <= 3


@pytest.mark.parametrize("wrong", ["digest", "text", "lost before GET", "lost before DELETE"])
def test_a_wrong_answer_about_a_message_is_a_mismatch(wrong: str):
    """A digest of something else, another text, a message that was acknowledged and is gone: each is counted."""
    with Server(Messages(wrong)) as server:
        outcome = run(Load(server.port, 2, 0.1, mode="messages"))
    assert outcome.mismatches > 0
    assert outcome.rounds == 0


def test_get_expects_200_and_takes_bodies_of_any_size():
    """A GET of a megabyte is one answer; any other status than 200 is a mismatch."""
    with Server(lambda request: iter([answer(200 if request[1] == "/big" else 404, 1_000_000 * b"x")])) as server:
        outcome = run(Load(server.port, 2, SECONDS, mode="get", path="/big"))
        assert outcome.mismatches == 0
        assert outcome.total_by_status == {200: len(server.requests)}
        assert outcome.bytes_in > len(server.requests) * 1_000_000
        server.requests.clear()
        outcome = run(Load(server.port, 2, 0.05, mode="get", path="/small"))
        assert outcome.mismatches == outcome.total_by_status[404] == len(server.requests)


def test_a_refusal_is_counted_by_its_status_and_the_connection_stays():
    """503 is no mismatch, nothing is repeated in its place, and its connection goes on after a short pause."""
    numbers = Ids()
    with Server(lambda _: iter([answer(201 if numbers.next() % 2 else 503, b'{"id": 5}')])) as server:
        outcome = run(Load(server.port, 3, SECONDS))
        assert len(server.peers) == 3
    assert outcome.total_by_status[503] == len(server.requests) // 2
    assert outcome.total_acknowledged == outcome.total_by_status[201] == (len(server.requests) + 1) // 2
    assert outcome.mismatches == outcome.reconnects == 0


def test_a_wrong_status_is_a_mismatch():
    """Where 201 is due, 202 and 422 are wrong answers."""
    numbers = Ids()
    with Server(lambda _: iter([answer(202 if numbers.next() % 2 else 422, b'{"id": 5}')])) as server:
        outcome = run(Load(server.port, 1, 0.05))
    assert outcome.mismatches == outcome.answered == len(server.requests)


@pytest.mark.parametrize(
    "beginning",
    [b"", b"HTT", b"HTTP/1.1 201 OK\r\nContent-Len", b'HTTP/1.1 201 OK\r\nContent-Length: 9\r\n\r\n{"id"'],
)
def test_a_request_that_was_cut_off_is_unknown_and_its_connection_is_replaced(beginning: bytes):
    """Whether it was stored nobody can say, so it is neither an answer nor an acknowledgement."""
    numbers = Ids()

    def pieces(_: Request) -> Pieces:
        if numbers.next() % 5:
            yield answer(201, b'{"id": 5}')
        else:
            yield beginning
            yield None

    with Server(pieces) as server:
        outcome = run(Load(server.port, 2, SECONDS))
    assert outcome.unknown == len(server.requests) // 5
    assert outcome.total_by_status == {201: len(server.requests) - outcome.unknown}
    assert outcome.sent == outcome.answered + outcome.unknown
    assert 0 < outcome.reconnects <= outcome.unknown


def test_what_is_no_http_is_a_mismatch_and_unknown():
    """Such an answer acknowledges nothing."""
    with Server(lambda _: iter([b"SSH-2.0-OpenSSH_9.2\r\n"])) as server:
        outcome = run(Load(server.port, 1, 0.1))
    assert outcome.mismatches == outcome.unknown == outcome.sent > 0
    assert outcome.total_by_status == {}


def test_a_second_answer_to_one_request_is_a_mismatch_and_answers_no_other():
    """The connection is given up, so that no later request takes that answer for its own."""
    with Server(lambda _: iter([answer(201, b'{"id": 5}') + answer(201, b'{"id": 6}')])) as server:
        outcome = run(Load(server.port, 1, 0.1))
    assert outcome.answered == outcome.mismatches == len(server.requests)


def test_what_is_due_when_the_time_is_over_is_awaited_and_counted():
    """The totals agree with the server's own count, warm-up, window and drain each by themselves."""
    late, over = threading.Event(), threading.Event()
    seen_late = Ids()
    held: list[Request] = []

    def pieces(request: Request) -> Pieces:
        if late.is_set() and seen_late.next() > 6:  # so that one at least was sent in the window
            held.append(request)
            over.wait(5)
            time.sleep(0.2)
        yield answer(201, b'{"id": 5}')

    with Server(pieces) as server:
        outcome = run(Load(server.port, 6, 0.5, warmup_s=0.2), on_start=late.set, on_end=over.set)
    assert outcome.drain_acknowledged == len(held) == 6
    assert outcome.warmup_acknowledged > 0
    assert outcome.acknowledged == outcome.requests == outcome.by_status[201]
    assert outcome.total_acknowledged == outcome.sent == len(server.requests)
    assert outcome.unknown == 0
    assert outcome.latency_us.max >= 200_000


def test_callers_learn_when_the_window_opens_and_closes_and_of_each_interval():
    """The intervals add up to all answers of the window, between the start and the end."""
    events: list[str] = []
    intervals: list[tuple[float, int]] = []

    def progress(seconds: float, requests: int) -> None:
        events.append("progress")
        intervals.append((seconds, requests))

    before = time.monotonic()
    with Server(created) as server:
        outcome = run(
            Load(server.port, 2, 0.3, warmup_s=0.1, interval_ms=50),
            on_start=lambda: events.append("start"),
            on_end=lambda: events.append("end"),
            on_progress=progress,
        )
    assert events[0] == "start"
    assert events[-1] == "end"
    assert set(events[1:-1]) == {"progress"}
    assert sum(requests for _, requests in intervals) == outcome.requests
    assert [seconds for seconds, _ in intervals] == sorted(seconds for seconds, _ in intervals)
    assert before < outcome.started_monotonic < outcome.ended_monotonic < time.monotonic()
    assert outcome.ended_monotonic - outcome.started_monotonic == pytest.approx(outcome.seconds, abs=1e-6)
    assert outcome.per_second == pytest.approx(outcome.requests / outcome.seconds, rel=1e-3)
    latency = outcome.latency_us
    assert 0 < latency.p50 <= latency.p90 <= latency.p99 <= latency.p99_9 <= latency.p99_99 <= latency.max


def test_an_open_loop_counts_its_arrivals_whatever_the_answers():
    """Arrivals that find no free connection wait, that wait is in their latency, and what is never sent is told."""

    def slow(_: Request) -> Pieces:
        time.sleep(0.05)
        yield answer(201, b'{"id": 5}')

    with Server(slow) as server:
        outcome = run(Load(server.port, 1, 0.4, rps=100))
    assert outcome.sent + outcome.unsent >= 40
    assert outcome.unsent > 0
    assert outcome.total_by_status == {201: len(server.requests)}
    assert outcome.latency_us.max >= 90_000  # the second arrival at the latest waited for the first one's answer

    with Server(created) as server:
        outcome = run(Load(server.port, 8, 0.4, rps=200))
    assert outcome.sent + outcome.unsent >= 80
    assert outcome.answered == len(server.requests)


def test_with_a_tick_it_looks_so_often_only_and_counts_the_same():
    """An answer is noted at the next tick at the earliest; each arrival is sent once, or counted as not sent."""
    with Server(created) as server:
        words = f"--port {server.port} --connections 64 --seconds 0.4 --rps 200 --tick 100000"
        outcome = json.loads(program(*words.split()).stdout.splitlines()[-1])
    assert outcome["sent"] + outcome["unsent"] >= 80
    assert outcome["answered"] == outcome["sent"] == len(server.requests)
    assert outcome["latency_us"]["p50"] >= 95_000  # the histogram's buckets are 1.6 % wide


def test_every_connection_is_used():
    """Hundreds of connections are open and each carries requests."""
    with Server(created) as server:
        outcome = run(Load(server.port, 300, SECONDS))
        assert len(server.peers) == 300
    assert outcome.total_by_status == {201: len(server.requests)}
    assert outcome.connections == 300
    assert outcome.connect_errors == outcome.reconnects == 0


def test_a_201_without_an_integer_id_is_told():
    """It is an acknowledgement all the same."""
    with Server(lambda _: iter([answer(201, b'{"id": "5f2"}')])) as server:
        outcome = run(Load(server.port, 1, 0.05))
    assert outcome.without_id == outcome.total_acknowledged == len(server.requests)
    assert outcome.mismatches == 0


@contextlib.contextmanager
def started(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """The program itself, killed afterwards if it is still there."""
    with subprocess.Popen([str(build()), *arguments], stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def wait_for_start(process: subprocess.Popen[str]) -> None:
    """Until the window is open."""
    assert process.stdout is not None
    assert json.loads(process.stdout.readline()) == {"event": "start"}


def result_of(process: subprocess.Popen[str]) -> dict[str, Any]:
    """The last line, after an end in good order."""
    output, _ = process.communicate(timeout=20)
    assert process.returncode == 0
    result: dict[str, Any] = json.loads(output.splitlines()[-1])
    return result


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_load_and_the_result_is_exact_all_the_same(number: signal.Signals):
    """As if the time were over."""
    with (
        Server(created) as server,
        started("--port", str(server.port), "--connections", "3", "--seconds", "60") as process,
    ):
        wait_for_start(process)
        eventually(lambda: len(server.requests) > 10)
        process.send_signal(number)
        result = result_of(process)
    assert result["interrupted"] is True
    assert result["total_by_status"] == {"201": len(server.requests)}
    assert result["sent"] == len(server.requests)


def test_what_is_never_answered_is_unknown():
    """A second signal waits for nothing any more."""
    silent: Callable[[Request], Pieces] = lambda _: iter([])  # noqa: E731 # typed, and as short as it can be
    with (
        Server(silent) as server,
        started("--port", str(server.port), "--connections", "3", "--seconds", "60") as process,
    ):
        wait_for_start(process)
        eventually(lambda: len(server.requests) == 3)
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGTERM)
        result = result_of(process)
    assert (result["sent"], result["answered"], result["unknown"]) == (3, 0, 3)


def test_the_generator_ends_with_whoever_started_it(tmp_path: Path):
    """A callback that raises, or a parent that is killed, leaves no load behind."""

    def fail() -> None:
        raise KeyboardInterrupt

    others = psutil.Process().children()  # what other tests share
    with Server(created) as server:
        with pytest.raises(KeyboardInterrupt):
            run(Load(server.port, 1, 60), on_start=fail)
        assert psutil.Process().children() == others

        code = f"from loadtest.generator import *; run(Load({server.port}, 1, 60))"
        # What a killed parent leaves behind goes with the test.
        environment = {**os.environ, "TMPDIR": str(tmp_path)}
        with subprocess.Popen([sys.executable, "-c", code], env=environment) as parent:
            eventually(lambda: psutil.Process(parent.pid).children())
            child = psutil.Process(parent.pid).children()[0]
            server.requests.clear()
            eventually(lambda: server.requests)
            parent.kill()
        eventually(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "--port, --connections and --seconds are needed"),
        (["--port", "80", "--seconds", "1"], "--connections"),
        (["--port"], "--port needs a value"),
        (["--port", "http"], "--port is a whole number from 1 to 65535, not http"),
        (["--connections", "10001"], "from 1 to 10000, not 10001"),
        (["--connections", "1.5"], "whole number"),
        (["--seconds", "0"], "--seconds"),
        (["--seconds", "nan"], "--seconds"),
        (["--tick", "0"], "--tick is a whole number from 1"),
        (["--mode", "put"], "--mode is post, keyed, messages, get, batch, batch_lines or batch_keyed, not put"),
        (["--prot", "80"], "there is no option --prot"),
        (["--port", "80", "more"], "more is no option"),
        (["--port", "80", "--connections", "1", "--seconds", "1", "--path", "x"], "--path"),
        (["--port", "80", "--connections", "1", "--seconds", "1", "--body", "/none/such"], "cannot read /none/such"),
        (["--port", "80", "--connections", "1", "--seconds", "1", "--mode", "get", "--ids", "x"], "--ids"),
        (["--port", "80", "--connections", "1", "--seconds", "1", "--host", "1.2.3.4.5"], "--host 1.2.3.4.5"),
    ],
)
def test_a_wrong_argument_is_exit_2_and_one_line(arguments: list[str], says: str):
    """The line names the argument; nothing is sent."""
    result = program(*arguments)
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.startswith("burst: ")
    assert result.stderr.count("\n") == 1
    assert says in result.stderr


def test_help_lists_every_option():
    """What one can type, without opening a file."""
    result = program("--help")
    assert result.returncode == 0
    names = "host port connections seconds warmup mode items path body ids rps tick progress interval parent"
    assert all(f"--{name}" in result.stdout for name in names.split())


def test_too_many_connections_for_the_limit_of_descriptors_says_how_many_are_possible():
    """It is said before anything is sent."""
    limited = 'ulimit -n 50 && exec "$0" --port 9 --seconds 1 --connections'
    result = subprocess.run(
        ["sh", "-c", f"{limited} 100", str(build())], capture_output=True, text=True, timeout=30, check=False
    )
    assert result.returncode == 1
    assert result.stderr.startswith("burst: 100 connections are too many")
    assert result.stderr.endswith("allows 34\n")


def test_where_nobody_listens_the_failure_is_told():
    """The text says who was asked for and what happened."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(GeneratorFailed, match=f"cannot connect to 127.0.0.1 port {port}: Connection refused"):
        run(Load(port, 1, 1))


def test_an_unwritable_file_of_ids_fails_before_the_load(tmp_path: Path):
    """No load whose result could not be kept."""
    with Server(created) as server:
        with pytest.raises(GeneratorFailed, match="cannot write"):
            run(Load(server.port, 1, 1, ids=tmp_path / "none" / "ids"))
        assert server.requests == []


def test_the_program_is_built_once_for_each_state_of_its_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A second build needs no compiler; without one the first says what is missing."""
    monkeypatch.setattr(binary, "CACHE", tmp_path / "cache")
    path = os.environ["PATH"]
    monkeypatch.setenv("PATH", "")
    with pytest.raises(GeneratorMissing, match="needs a C compiler"):
        build()
    monkeypatch.setenv("PATH", path)
    program = build()
    monkeypatch.setenv("PATH", "")
    assert build() == program
    assert [file.name for file in (tmp_path / "cache").iterdir()] == [program.name]


def test_the_source_has_no_warnings(tmp_path: Path):
    """-Wall and -Wextra find nothing."""
    source = Path(binary.__file__).with_name("burst.c")
    flags = ["-std=c11", "-O2", "-Wall", "-Wextra", "-Werror"]
    subprocess.run(["cc", *flags, "-o", str(tmp_path / "burst"), str(source)], check=True)


@pytest.mark.parametrize("mode", ["post", "keyed", "messages"])
def test_the_service_answers_every_kind_of_load_rightly(mode: Mode, instance: WebInstance, tmp_path: Path):
    """The generator and the service mean the same by a usage, a key, a digest and an id."""
    ids = tmp_path / "ids" if mode == "post" else None
    outcome = run(Load(instance.address[1], 4, SECONDS, mode=mode, ids=ids))
    assert (outcome.mismatches, outcome.unknown, outcome.duplicates, outcome.without_id) == (0, 0, 0, 0)
    assert set(outcome.total_by_status) <= {200, 201}
    assert outcome.total_acknowledged == outcome.sent > 0
    if ids is not None:
        assert len(set(read_ids(ids))) == outcome.total_acknowledged
