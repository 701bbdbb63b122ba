from __future__ import annotations

import argparse
import hashlib
import socket
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gevent
import pytest

from deploy.cluster.tls import make_certificate
from tests.support import WebInstance, chunked

pytestmark = pytest.mark.tools

with pytest.MonkeyPatch.context() as patch:
    # Locust would put gevent under the sockets and threads of all other tests of this process.
    patch.setenv("LOCUST_SKIP_MONKEY_PATCH", "1")
    from locust import User, task
    from locust.env import Environment
    from locust.stats import RequestStats

    from loadtest.journal import Journal, Kind, State, open_journal, read_journals
    from loadtest.reconcile import reconcile
    from loadtest.users import BurstUser, KeyedUsageUser, MessageUser, Process, UsageUser, process_of
    from loadtest.users import recorder as recording
    from loadtest.users.checks import usage_id
    from loadtest.users.settings import settings_of

Piece = bytes | float | None
Script = Callable[[int], "list[Piece]"]
"""What is answered to the request of this number: bytes are sent, a number is waited for in seconds, None closes."""

TAKEN = b'HTTP/1.1 201 Created\r\nlocation: /api/usages/%d\r\ncontent-length: %d\r\n\r\n{"id": %d}'


def taken(usage: int) -> bytes:
    """The answer to a usage that was stored."""
    return TAKEN % (usage, len(str(usage)) + 8, usage)


class Scripted:
    """A server in threads that answers by a script and remembers what it was asked."""

    def __init__(self, script: Script, context: ssl.SSLContext | None = None) -> None:
        self.script = script
        self.requests: list[bytes] = []
        self.asked_at: list[float] = []
        self.connections: list[socket.socket] = []
        self._context = context
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        scheme = "https" if context else "http"
        self.url = f"{scheme}://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Close everything."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.hang_up()

    def hang_up(self) -> None:
        """Close every connection."""
        for connection in self.connections:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            if self._context is not None:
                connection = self._context.wrap_socket(connection, server_side=True)
            self.connections.append(connection)
            with connection:
                while request := _request(connection):
                    with self._lock:
                        number = len(self.requests)
                        self.requests.append(request)
                        self.asked_at.append(time.monotonic())
                    for piece in self.script(number):
                        if piece is None:
                            return
                        if isinstance(piece, float):
                            time.sleep(piece)
                        else:
                            connection.sendall(piece)
        except OSError:
            return


def _request(connection: socket.socket) -> bytes:
    data = b""
    while b"\r\n\r\n" not in data:
        more = connection.recv(65536)
        if not more:
            return b""
        data += more
    head, _, body = data.partition(b"\r\n\r\n")
    length = next((int(line[15:]) for line in head.split(b"\r\n") if line.startswith(b"Content-Length:")), 0)
    while len(body) < length:
        body += connection.recv(65536)
    return head + b"\r\n\r\n" + body


@contextmanager
def scripted(script: Script, context: ssl.SSLContext | None = None) -> Iterator[Scripted]:
    """A server that goes by this script."""
    server = Scripted(script, context)
    try:
        yield server
    finally:
        server.close()


def until(check: Callable[[], Any], timeout_s: float = 20.0) -> Any:
    """The first true value of ``check()``, while users run."""
    end_s = time.monotonic() + timeout_s
    while not (value := check()):
        assert time.monotonic() < end_s, "this did not become true in time"
        gevent.sleep(0.01)
    return value


def until_asked(server: Scripted, times: int) -> None:
    """Until so many requests have come."""
    until(lambda: len(server.requests) >= times)


@contextmanager
def load(user: type[User], host: str, users: int = 1, **options: object) -> Iterator[tuple[Environment, Process]]:
    """A test that runs with so many users of a class; stopped gently at the end, when it is not stopped before."""
    environment = Environment(
        user_classes=[user], host=host, stop_timeout=5, parsed_options=argparse.Namespace(headless=True, **options)
    )
    process = process_of(environment)
    runner = environment.create_local_runner()
    try:
        runner.start(users, spawn_rate=100)
        until(lambda: runner.user_count == users or runner.state == "stopped")
        yield environment, process
    finally:
        runner.quit()
        environment.events.quitting.fire(environment=environment)


def failures(environment: Environment) -> list[str]:
    """The reasons that the UI shows."""
    return [str(error.error) for error in environment.stats.errors.values()]


def states(directory: Path) -> Counter[State]:
    """What the only journal of a directory says, by state."""
    (journal,) = read_journals(directory)
    return Counter(State(state) for state in journal.states)


@pytest.mark.parametrize("user", [UsageUser, KeyedUsageUser, MessageUser])
def test_the_service_does_what_each_user_expects(user: type[BurstUser], instance: WebInstance, tmp_path: Path):
    """Hundreds of requests, replays and lookups of deleted messages among them, without a failed check; none is lost."""
    host = f"http://127.0.0.1:{instance.address[1]}"
    with load(user, host, users=8, journal=tmp_path, replays=0.3, verify_gone=0.5) as (environment, process):
        until(lambda: environment.stats.num_requests >= 600)
    assert failures(environment) == []
    names = {f"{method} {name}" for name, method in environment.stats.entries}
    assert (
        names
        == {
            UsageUser: {"POST /api/usages"},
            KeyedUsageUser: {"POST /api/usages", "POST /api/usages (replay)"},
            MessageUser: {
                "POST /messages",
                "GET /messages/{digest}",
                "DELETE /messages/{digest}",
                "GET /messages/{digest} (deleted)",
            },
        }[user]
    )
    told = states(tmp_path)
    assert set(told) == {State.DELETED if user is MessageUser else State.ACKNOWLEDGED}
    counted = process.timeline.take()["seconds"].values()
    total = sum(requests["count"] for second in counted for requests in second["requests"].values())
    assert total == environment.stats.num_requests >= told.total()
    found = reconcile(tmp_path, f"sqlite:///{instance.store_path}")
    assert found.ok, found.as_dict()


@pytest.mark.parametrize("kept", [0.0, 0.5, 1.0])
def test_messages_that_are_kept_are_there_in_the_end(instance: WebInstance, tmp_path: Path, kept: float):
    """A share of them is not deleted: acknowledged in the journal, and the store is asked for each."""
    host = f"http://127.0.0.1:{instance.address[1]}"
    with load(MessageUser, host, users=8, journal=tmp_path, keep_messages=kept) as (environment, _):
        until(lambda: environment.stats.num_requests >= 600)
    assert failures(environment) == []
    wanted = {State.DELETED: kept < 1, State.ACKNOWLEDGED: kept > 0}
    assert set(states(tmp_path)) == {state for state, there in wanted.items() if there}
    found = reconcile(tmp_path, f"sqlite:///{instance.store_path}")
    assert found.ok, found.as_dict()
    assert bool(found.total.stored) is (kept > 0)


def test_users_go_on_after_an_interrupt_that_stopped_their_watcher(instance: WebInstance, tmp_path: Path):
    """As gevent does with that of a callback which raises: it is started again within a moment."""
    host = f"http://127.0.0.1:{instance.address[1]}"
    with load(UsageUser, host, users=4, journal=tmp_path) as (environment, process):
        until(lambda: environment.stats.num_requests > 0)
        process.poller._watcher.stop()
        before = environment.stats.num_requests
        until(lambda: environment.stats.num_requests > before + 100)
    assert failures(environment) == []


PROBLEM = b'HTTP/1.1 422 x\r\ncontent-type: application/problem+json\r\ncontent-length: 44\r\n\r\n{"code": "field_invalid", "request_id": "7"}'


@pytest.mark.parametrize(
    ("answer", "reason", "state"),
    [
        ([taken(1).replace(b"201", b"200")], 'expected 201 {"id": an integer}, got 200 {"id": 1}', State.UNKNOWN),
        ([taken(0)], 'got 201 {"id": 0}', State.UNKNOWN),
        ([taken(2**53)], 'got 201 {"id": …}', State.UNKNOWN),
        ([taken(7).replace(b"usages/7", b"usages/8")], "a Location that ends in its id", State.ACKNOWLEDGED),
        ([taken(7).replace(b"location", b"elsewhere")], "a Location that ends in its id", State.ACKNOWLEDGED),
        ([PROBLEM], "got 422 field_invalid", State.REFUSED),
        ([b"HTTP/1.1 500 x\r\ncontent-length: 4\r\n\r\noh\xff!"], "got 500 oh\\xff!", State.UNKNOWN),
        ([b"HTTP/1.1 504 x\r\ncontent-length: 0\r\n\r\n"], "got 504", State.UNKNOWN),
        ([b"HTTP/1.1 200 x\r\ncontent-length: 1000\r\n\r\n" + b"x" * 1000], "x" * 99, State.UNKNOWN),
        ([b"220 mail ready\r\n"], "no HTTP/1 answer", State.UNKNOWN),
        ([None], "connection closed before an answer came", State.UNKNOWN),
        ([taken(1)[:30], None], "closed in the middle of an answer", State.UNKNOWN),
        ([taken(1)[:-3], None], "closed in the middle of an answer", State.UNKNOWN),
        ([taken(1) + taken(2)], "bytes that nobody asked for", State.UNKNOWN),
        ([b"HTTP/1.1 201 x\r\ncontent-length: 1x\r\n\r\n"], "Content-Length", State.UNKNOWN),
        ([5.0], "timed out: not an answer in 0.3 s", State.UNKNOWN),
        ([taken(1)[:-3], 5.0], "timed out: not a whole answer in 0.3 s", State.UNKNOWN),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_odd_answer_is_a_failure_that_says_so(answer: list[Piece], reason: str, state: State, tmp_path: Path):
    """In the UI, the timeline and the journal; the request is not sent again, and the next one is well."""
    with (
        scripted(lambda number: answer if number == 1 else [taken(number + 1)]) as server,
        load(UsageUser, server.url, journal=tmp_path, timeout_s=0.3) as (environment, process),
    ):
        until_asked(server, 5)
    (told,) = failures(environment)
    assert reason in told
    assert len(told) <= 200
    assert environment.stats.num_failures == 1
    errors = Counter[str]()
    for second in process.timeline.take()["seconds"].values():
        for requests in second["requests"].values():
            errors.update(requests["errors"])
    assert errors == {told: 1}
    assert len({request.partition(b"\r\n\r\n")[2] for request in server.requests}) == len(server.requests)
    (journal,) = read_journals(tmp_path)
    assert journal.states[1] == state
    assert set(journal.states[:1] + journal.states[2:]) == {State.ACKNOWLEDGED}


@pytest.mark.parametrize(
    "pieces",
    [
        [b"HTTP/1.1 100 Continue\r\n\r\n", taken(7)],
        [taken(7)[:20], 0.02, taken(7)[20:-4], 0.02, taken(7)[-4:]],
        [
            b"HTTP/1.1 201 x\r\nLOCATION: /api/usages/7\r\nTransfer-Encoding: chunked\r\n\r\n",
            0.02,
            chunked(b'{"id":7}', 3),
        ],
        [b'HTTP/1.1 201 x\r\nLocation:/api/usages/7\r\n\r\n{"id": 7}', None],
        [b"HTTP/1.0 201 x\r\nlocation: /api/usages/7\r\ncontent-length: 9\r\n\r\n" + b'{"id": 7}', None],
        [taken(7).replace(b"content", b"connection: close\r\ncontent"), None],
    ],
)
def test_any_right_answer_is_taken_however_it_comes(pieces: list[Piece], tmp_path: Path):
    """Interim answers, pieces, chunks, and bodies that end with their connection, which is then opened anew."""
    with scripted(lambda _: pieces) as server, load(UsageUser, server.url, journal=tmp_path) as (environment, _):
        until_asked(server, 4)
    assert failures(environment) == []
    assert set(states(tmp_path)) == {State.ACKNOWLEDGED}
    if None in pieces:
        assert len(server.connections) >= 4


def test_a_connection_that_was_closed_while_idle_is_opened_again_without_a_failure(tmp_path: Path):
    """Nothing was sent on it, so nothing is unknown."""
    with (
        scripted(lambda number: [taken(number + 1)]) as server,
        load(UsageUser, server.url, journal=tmp_path) as (environment, process),
    ):
        process.arrivals.rate_per_s = 0.0
        for _ in range(3):
            asked = len(server.requests)
            process.arrivals.rate_per_s = 200.0
            until_asked(server, asked + 4)
            process.arrivals.rate_per_s = 0.0
            gevent.sleep(0.05)
            server.hang_up()
            gevent.sleep(0.05)
    assert failures(environment) == []
    assert len(server.connections) >= 3
    assert set(states(tmp_path)) == {State.ACKNOWLEDGED}


def test_a_user_that_is_told_to_come_later_comes_later(tmp_path: Path):
    """503 and 429 are failures of their own kind, stored nothing, and Retry-After is kept, up to the bound."""
    busy = b'HTTP/1.1 503 x\r\nretry-after: 1\r\ncontent-length: 22\r\n\r\n{"code": "queue_full"}'
    limited = b"HTTP/1.1 429 x\r\nretry-after: 3600\r\ncontent-length: 0\r\n\r\n"
    answers = {1: busy, 2: limited}
    with (
        scripted(lambda number: [answers.get(number, taken(number + 1))]) as server,
        load(UsageUser, server.url, journal=tmp_path, retry_after_max_s=1.5) as (environment, _),
    ):
        until_asked(server, 5)
    assert sorted(failures(environment)) == ["refused: 429", "refused: 503 queue_full"]
    assert server.asked_at[2] - server.asked_at[1] >= 1.0
    assert server.asked_at[3] - server.asked_at[2] >= 1.5
    (journal,) = read_journals(tmp_path)
    assert list(journal.states[:4]) == [State.ACKNOWLEDGED, State.REFUSED, State.REFUSED, State.ACKNOWLEDGED]


def test_a_host_that_is_not_there_is_said_and_not_hammered(tmp_path: Path):
    """Refused connections are failures of requests that certainly were not stored; users wait longer each time."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with load(UsageUser, f"http://127.0.0.1:{port}", journal=tmp_path) as (environment, _):
        gevent.sleep(0.5)
        tries = environment.stats.num_failures
    assert failures(environment) == ["cannot connect: Connection refused"]
    assert 1 <= tries <= 10
    found = states(tmp_path)
    assert found[State.SENT] <= 1, "the last one may have been under way when the user was stopped"
    assert found.keys() <= {State.REFUSED, State.SENT}
    assert found[State.REFUSED] >= tries


def test_a_generator_that_stood_still_does_not_take_it_for_the_services_time_out(tmp_path: Path):
    """Whoever waits is given the whole time once more when the sweep comes late; an answer in time is an answer."""
    with (
        scripted(lambda number: [0.05, taken(number + 1)]) as server,
        load(UsageUser, server.url, users=3, journal=tmp_path, timeout_s=3.0) as (environment, _),
    ):
        until_asked(server, 6)
        time.sleep(4.0)
        asked = len(server.requests)
        until_asked(server, asked + 6)
    assert failures(environment) == []
    assert set(states(tmp_path)) == {State.ACKNOWLEDGED}


def test_https_is_verified_unless_told_otherwise(tmp_path: Path):
    """A self-signed certificate is refused, and taken when it is trusted or none is asked for."""
    pem = make_certificate(tmp_path / "tls")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    with (
        scripted(lambda number: [taken(number + 1)], context) as server,
        load(UsageUser, server.url, journal=tmp_path / "refused") as (environment, _),
    ):
        until(lambda: failures(environment))
        assert ["self-signed certificate" in reason for reason in failures(environment)] == [True]
        assert server.requests == []
        for options in ({"insecure": True}, {"ca": tmp_path / "tls" / "certificate.pem"}):
            asked = len(server.requests)
            directory = tmp_path / f"{asked}"
            with load(UsageUser, server.url, journal=directory, **options) as (trusting, _):
                until_asked(server, asked + 20)
            assert failures(trusting) == []
            assert set(states(directory)) == {State.ACKNOWLEDGED}
        assert len(server.connections) == 2


def test_long_answers_and_a_close_come_through_tls(tmp_path: Path):
    """More than one TLS record, a connection that is closed while idle, and one that is cut."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(make_certificate(tmp_path / "tls"))
    long = taken(5).replace(b"location", b"x: " + b"y" * 40_000 + b"\r\nlocation")
    script: dict[int, list[Piece]] = {
        1: [long],
        2: [taken(6).replace(b"content", b"connection: close\r\ncontent"), None],
        3: [None],
    }
    with (
        scripted(lambda number: script.get(number, [taken(number + 1)]), context) as server,
        load(UsageUser, server.url, journal=tmp_path / "j", insecure=True) as (environment, _),
    ):
        until_asked(server, 6)
    assert failures(environment) == ["connection closed before an answer came"]
    assert len(server.connections) == 3


def test_a_user_that_is_stopped_gently_awaits_its_answer(tmp_path: Path):
    """And one that is killed leaves an unknown behind, as nobody heard what became of it."""
    for stop_timeout_s, state in ((5, State.ACKNOWLEDGED), (0, State.SENT)):
        directory = tmp_path / f"{stop_timeout_s}"
        with (
            scripted(lambda number: [0.3, taken(number + 1)]) as server,
            load(UsageUser, server.url, journal=directory) as (environment, _),
        ):
            environment.stop_timeout = stop_timeout_s
            until_asked(server, 1)
            assert environment.runner is not None
            environment.runner.stop()
        assert len(server.requests) == 1
        assert failures(environment) == []
        assert states(directory) == {state: 1}


def test_an_open_loop_counts_from_the_intended_start(tmp_path: Path):
    """One user, a server that stands still for half a second: those that waited behind have waited, and the numbers show it."""
    with (
        scripted(lambda number: [0.5, taken(1)] if number == 5 else [taken(number + 1)]) as server,
        load(UsageUser, server.url, journal=tmp_path) as (environment, process),
    ):
        process.arrivals.rate_per_s = 100.0
        until(lambda: process.arrivals.started >= 80)
        process.arrivals.rate_per_s = 0.0
        until(lambda: process.arrivals.waiting == 0)
    entry = environment.stats.get("/api/usages", "POST")
    late = sum(count for rounded_ms, count in entry.response_times.items() if rounded_ms >= 100)
    assert late >= 30
    offered = sum(second["offered"] for second in process.timeline.take()["seconds"].values())
    assert offered == process.arrivals.offered == process.arrivals.started + process.arrivals.unsent


def test_a_users_own_tasks_run_by_locusts_rules(instance: WebInstance):
    """A subclass with @task has those tasks alone, and wait_time between them."""
    ran: list[str] = []

    class Own(BurstUser):
        abstract = False

        @task
        def health(self) -> None:
            endpoint = self.process.endpoint("GET", "/livez")
            started_s = self.next_start()
            answer = self.exchange(endpoint, self.target.head("GET", "/livez"), started_s)
            endpoint.success(started_s, len(answer.body))
            ran.append(answer.header("content-type") or "")

    with load(Own, f"http://127.0.0.1:{instance.address[1]}") as (environment, _):
        until(lambda: len(ran) >= 3)
    assert len(Own.tasks) == 1
    assert environment.stats.get("/livez", "GET").num_requests >= 3
    assert failures(environment) == []


def test_wait_time_keeps_its_meaning():
    """A closed loop with pauses: one step, then a wait."""
    with scripted(lambda number: [taken(number + 1)]) as server:

        class Slow(UsageUser):
            abstract = False

            def wait_time(self) -> float:
                return 0.2

        with load(Slow, server.url) as (environment, _):
            until_asked(server, 3)
        assert failures(environment) == []
        assert all(late - early >= 0.2 for early, late in zip(server.asked_at, server.asked_at[1:], strict=False))


def everything(stats: RequestStats) -> list[dict[str, object]]:
    """All that a statistic counts, of the total and of each name, but for when it began."""
    entries = [stats.total, *(stats.entries[key] for key in sorted(stats.entries))]
    found = []
    for entry in entries:
        counts = dict(entry.serialize())
        del counts["start_time"], counts["last_request_timestamp"]
        counts["total_response_time"] = round(float(entry.total_response_time), 3)
        found.append(counts)
    return found


LATENCIES_US = (
    1,
    400,
    499,
    500,
    501,
    1_499,
    1_500,
    99_499,
    99_500,
    104_999,
    105_000,
    999_999,
    1_000_000,
    12_345_678,
    3,
)


@pytest.mark.parametrize("planted", [False, True])
def test_statistics_fed_in_bulk_are_those_that_locust_would_have_counted(
    planted: bool, monkeypatch: pytest.MonkeyPatch
):
    """To the last histogram bucket, over several seconds and names; a bulk feed that rounds otherwise is noticed."""
    one_by_one, in_bulk = RequestStats(), RequestStats()
    for second in (1_000, 1_001, 1_003):
        monkeypatch.setattr(time, "time", lambda second=second: second + 0.5)
        for name in ("/a", "/b"):
            latencies_us = [latency_us + second for latency_us in LATENCIES_US]
            for latency_us in latencies_us:
                one_by_one.log_request("GET", name, latency_us / 1000, 10)  # type: ignore[arg-type]  # it takes floats
            rounded = Counter(
                int(latency_us / 1000) if planted else recording.rounded_ms(latency_us) for latency_us in latencies_us
            )
            recording.feed(in_bulk, "GET", name, second, latencies_us, rounded, 10 * len(latencies_us))
    assert (everything(in_bulk) == everything(one_by_one)) is not planted
    assert in_bulk.last_request_timestamp == one_by_one.last_request_timestamp
    cached: list[dict[int, Any]] = [stats.total.response_times_cache or {} for stats in (in_bulk, one_by_one)]
    assert (cached[0][1_000] == cached[1][1_000]) is not planted


def test_whoever_listens_to_requests_hears_of_each():
    """As with any Locust user; and Locust counts each once."""
    heard: list[dict[str, Any]] = []
    with (
        scripted(lambda number: [taken(number + 1) if number % 5 else taken(0)]) as server,
        load(UsageUser, server.url) as (environment, _),
    ):
        until(lambda: environment.stats.num_requests)
        environment.events.request.add_listener(lambda **about: heard.append(about))
        gevent.sleep(0.3)
        begin = (len(heard), environment.stats.num_requests, environment.stats.num_failures)
        until(lambda: len(heard) >= begin[0] + 100)
        assert len(heard) - begin[0] == environment.stats.num_requests - begin[1]
    named = {(about["request_type"], about["name"]) for about in heard}
    assert named == {("POST", "/api/usages")}
    assert {type(about["exception"]) for about in heard} >= {type(None), recording.RequestFailed}
    assert all(about["response_time"] > 0 and about["response_length"] >= 9 for about in heard)


@pytest.mark.parametrize(
    ("user", "number", "answer", "reason"),
    [
        (
            KeyedUsageUser,
            0,
            b'HTTP/1.1 201 x\r\ncontent-length: 12\r\n\r\n{"id": "no"}',
            'expected 201 {"id": the key}, got 201 {"id": "no"}',
        ),
        (
            MessageUser,
            0,
            b'HTTP/1.1 201 x\r\ncontent-length: 16\r\n\r\n{"digest": "no"}',
            'expected 201 {"digest": its sha256}',
        ),
        (
            MessageUser,
            1,
            b'HTTP/1.1 200 x\r\ncontent-length: 17\r\n\r\n{"message": "no"}',
            "expected 200 and the text that was sent, got 200 {",
        ),
        (
            MessageUser,
            2,
            b"HTTP/1.1 404 x\r\ncontent-length: 0\r\n\r\n",
            "expected 200 and its digest, got 404",
        ),
        (MessageUser, 3, b"HTTP/1.1 200 x\r\ncontent-length: 0\r\n\r\n", "expected 404, got 200"),
    ],
)
def test_a_wrong_answer_to_any_request_is_noticed(user: type[BurstUser], number: int, answer: bytes, reason: str):
    """Keys, digests, texts, and messages that are gone or not."""

    def well(at: int) -> list[Piece]:
        head, _, body = server.requests[at].partition(b"\r\n\r\n")
        method, path = head.split(b" ")[:2]
        if at == number:
            return [answer]
        if path == b"/messages":
            text = body.split(b'"')[3]
            digest = hashlib.sha256(text).hexdigest().encode()
            texts[digest] = text
            told, status = b'{"digest": "%b"}' % digest, b"201"
        elif path == b"/api/usages":
            key = head.split(b"Idempotency-Key: ")[1].split(b"\r\n")[0]
            told, status = b'{"id": "%b"}' % key, b"201"
        elif method == b"DELETE":
            told, status = b'{"message_deleted": "%b"}' % path[10:], b"200"
            del texts[path[10:]]
        elif path[10:] in texts:
            told, status = b'{"message": "%b"}' % texts[path[10:]], b"200"
        else:
            told, status = b"", b"404"
        return [b"HTTP/1.1 %b x\r\ncontent-length: %d\r\n\r\n%b" % (status, len(told), told)]

    texts: dict[bytes, bytes] = {}
    with scripted(well) as server, load(user, server.url, replays=0, verify_gone=1) as (environment, _):
        until(lambda: len(server.requests) > 8)
    (told,) = failures(environment)
    assert told.startswith(reason)


def test_a_replay_that_made_a_second_usage_is_a_failure(tmp_path: Path):
    """201 to a key that had been acknowledged is what a service that writes twice would say."""

    def twice(at: int) -> list[Piece]:
        key = server.requests[at].split(b"Idempotency-Key: ")[1].split(b"\r\n")[0]
        return [b'HTTP/1.1 201 x\r\ncontent-length: %d\r\n\r\n{"id": "%b"}' % (len(key) + 10, key)]

    with scripted(twice) as server, load(KeyedUsageUser, server.url, replays=0.5, journal=tmp_path) as (environment, _):
        until(lambda: environment.stats.num_failures >= 5)
    (told,) = failures(environment)
    assert told == 'expected 200 duplicate, got 201 {"id": "…"}'
    assert environment.stats.get("/api/usages", "POST").num_failures == 0


def test_a_replay_of_what_was_refused_that_is_told_it_is_a_duplicate_is_a_failure(tmp_path: Path):
    """The 503 had said that it is not stored."""

    def stored_all_the_same(at: int) -> list[Piece]:
        key = server.requests[at].split(b"Idempotency-Key: ")[1].split(b"\r\n")[0]
        if not any(key in before for before in server.requests[:at]):
            return [b"HTTP/1.1 503 x\r\nretry-after: 0\r\ncontent-length: 0\r\n\r\n"]
        told = b'{"id": "%b", "duplicate": true}' % key
        return [b"HTTP/1.1 200 x\r\ncontent-length: %d\r\n\r\n%b" % (len(told), told)]

    with (
        scripted(stored_all_the_same) as server,
        load(KeyedUsageUser, server.url, replays=0.5, journal=tmp_path) as (environment, _),
    ):
        until(lambda: environment.stats.get("/api/usages (replay)", "POST").num_failures >= 1)
    assert any(told.startswith('expected 201 {"id": the key}, got 200') for told in failures(environment))


def test_of_two_replays_at_once_of_what_was_refused_either_may_be_the_one_that_stores_it(tmp_path: Path):
    """The earlier is told that it is a duplicate when the later has overtaken it."""

    def overtaken(at: int) -> list[Piece]:
        key = server.requests[at].split(b"Idempotency-Key: ")[1].split(b"\r\n")[0]
        if at == 0:
            return [b"HTTP/1.1 503 x\r\nretry-after: 0\r\ncontent-length: 0\r\n\r\n"]
        if at == 2:
            stored.set()
            return [b'HTTP/1.1 201 x\r\ncontent-length: %d\r\n\r\n{"id": "%b"}' % (len(key) + 10, key)]
        if at == 1:
            stored.wait(10)
        told = b'{"id": "%b", "duplicate": true}' % key
        return [b"HTTP/1.1 200 x\r\ncontent-length: %d\r\n\r\n%b" % (len(told), told)]

    stored = threading.Event()
    with (
        scripted(overtaken) as server,
        load(KeyedUsageUser, server.url, replays=1, journal=tmp_path) as (environment, _),
    ):
        until_asked(server, 2)
        other = KeyedUsageUser(environment)
        other.step(time.monotonic())
        other.on_stop()
        until_asked(server, 4)
    (told,) = failures(environment)
    assert told.startswith("refused: 503")
    assert states(tmp_path) == {State.ACKNOWLEDGED: 1}


@pytest.mark.parametrize("sync", [False, True])
def test_a_journal_that_is_full_ends_the_test(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sync: bool):
    """What cannot be written down is not sent, whether or not the journal is synced before each send."""

    def open_small(directory: Path, kind: Kind, of: type[Journal]) -> Journal:
        return open_journal(directory, kind, capacity=20, of=of)

    monkeypatch.setattr("loadtest.users.process.open_journal", open_small)

    with (
        scripted(lambda number: [taken(number + 1)]) as server,
        load(UsageUser, server.url, users=2, journal=tmp_path, journal_sync=sync) as (environment, _),
    ):
        until(lambda: environment.runner is not None and environment.runner.state == "stopped")
    assert len(server.requests) == 20
    assert environment.process_exit_code == 1
    assert states(tmp_path) == {State.ACKNOWLEDGED: 20}


def test_settings_have_defaults_and_name_what_is_wrong():
    """A plain environment has no options at all; the web UI's form has texts."""
    assert settings_of(None) == settings_of(argparse.Namespace(journal="", timeout_s=None))
    assert settings_of(argparse.Namespace(timeout_s="2.5", insecure="true", replays=1)).timeout_s == 2.5
    for wrong in ({"timeout_s": 0}, {"replays": 1.5}, {"arrivals": "sometimes"}, {"backlog_max": "many"}):
        with pytest.raises(ValueError, match=f"--{next(iter(wrong)).replace('_', '-')}: "):
            settings_of(argparse.Namespace(**wrong))


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"id": 22954}', 22954),
        (b'{"id":22954}', 22954),
        (b'{ "id" : 5 }\n', 5),
        (b'{"id": 9007199254740991}', 2**53 - 1),
        (b'{"id": 9007199254740992}', None),
        (b'{"id": 0}', None),
        (b'{"id": -1}', None),
        (b'{"id": 1.0}', None),
        (b'{"id": true}', None),
        (b'{"id": "1"}', None),
        (b'{"id": 01}', None),
        (b'{"id": 1, "more": 2}', None),
        (b"[1]", None),
        (b"", None),
        (b"\xff", None),
    ],
)
def test_an_id_is_a_positive_integer_that_javascript_can_hold(body: bytes, expected: int | None):
    """And nothing else is one."""
    assert usage_id(body) == expected
