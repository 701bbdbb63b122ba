"""One epoll for all connections of a load generator: who is called, and when what they send leaves."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator

import gevent
import pytest

with pytest.MonkeyPatch.context() as patch:
    # Locust would put gevent under the sockets and threads of all other tests of this process.
    patch.setenv("LOCUST_SKIP_MONKEY_PATCH", "1")
    from loadtest.users.connection import Connection, NoAnswer, Sweeper
    from loadtest.users.layout import Layouts
    from loadtest.users.poller import Poller
    from loadtest.users.target import Target

pytestmark = pytest.mark.tools


@contextlib.contextmanager
def pairs(count: int) -> Iterator[list[tuple[socket.socket, socket.socket]]]:
    """Connected sockets, ours first; none of ours blocks."""
    with contextlib.ExitStack() as stack:
        found = []
        for _ in range(count):
            ours, theirs = socket.socketpair()
            stack.enter_context(ours)
            stack.enter_context(theirs)
            ours.setblocking(False)
            found.append((ours, theirs))
        yield found


def noting(left: list[bytes], ours: socket.socket | None = None) -> Callable[[bytes], int]:
    """A function that sends all of it, and notes what."""

    def send(request: bytes) -> int:
        left.append(request)
        return ours.send(request) if ours else len(request)

    return send


class Noted:
    """Remembers what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[int, OSError | None]] = []

    def __call__(self, sent: int, error: OSError | None) -> None:
        """Not all of it left."""
        self.told.append((sent, error))


def look(until: Callable[[], bool]) -> None:
    """Let the hub run until something is so."""
    with gevent.Timeout(10):
        while not until():
            gevent.sleep(0.005)


def test_what_is_sent_in_a_look_leaves_when_everybody_was_called():
    """Not one by one: the other side is woken once."""
    poller = Poller()
    called: list[bytes] = []
    left: list[bytes] = []

    def answer_to(ours: socket.socket) -> Callable[[], None]:
        def call() -> None:
            assert left == []
            called.append(ours.recv(10))
            assert poller.outgoing is not None
            poller.outgoing.append((noting(left, ours), b"again", Noted()))

        return call

    with pairs(3) as sockets:
        for ours, _ in sockets:
            poller.add(ours.fileno(), answer_to(ours))
        for number, (_, theirs) in enumerate(sockets):
            theirs.send(b"%d" % number)
        assert poller.outgoing is None
        look(lambda: len(left) == 3)
        assert sorted(called) == [b"0", b"1", b"2"]
        assert left == [b"again"] * 3
        assert [theirs.recv(10) for _, theirs in sockets] == [b"again"] * 3
        assert poller.outgoing is None
        for ours, _ in sockets:
            poller.remove(ours.fileno())


def test_who_could_not_send_is_told_how_much_left_and_why():
    """A kernel without room takes a part or nothing, a broken connection nothing; the others' requests leave all the same."""
    poller = Poller()
    full, part, broken, well = Noted(), Noted(), Noted(), Noted()
    left: list[bytes] = []

    def raising(error: OSError) -> Callable[[bytes], int]:
        def send(_: bytes) -> int:
            raise error

        return send

    with pairs(1) as [(ours, theirs)]:

        def call() -> None:
            ours.recv(10)
            assert poller.outgoing is not None
            poller.outgoing.extend(
                [
                    (raising(BlockingIOError()), b"x" * 9, full),
                    (lambda _: 4, b"x" * 9, part),
                    (raising(BrokenPipeError()), b"x" * 9, broken),
                    (noting(left), b"all", well),
                ]
            )

        poller.add(ours.fileno(), call)
        theirs.send(b"1")
        look(lambda: bool(left))
        poller.remove(ours.fileno())
    assert [(sent, type(error)) for sent, error in full.told] == [(0, BlockingIOError)]
    assert part.told == [(4, None)]
    assert [(sent, type(error)) for sent, error in broken.told] == [(0, BrokenPipeError)]
    assert well.told == []
    assert left == [b"all"]


def test_one_that_fails_takes_nobody_elses_request_along(capfd: pytest.CaptureFixture[str]):
    """What was to be sent leaves, who was not called yet is called, and the next look finds everybody there."""
    poller = Poller()
    left: list[bytes] = []
    failing = [True]

    def call(ours: socket.socket) -> Callable[[], None]:
        def send_or_fail() -> None:
            ours.recv(10)
            assert poller.outgoing is not None
            poller.outgoing.append((noting(left), b"x", Noted()))
            if failing.pop() if failing else False:
                raise RuntimeError("planted")

        return send_or_fail

    with pairs(3) as sockets:
        for ours, _ in sockets:
            poller.add(ours.fileno(), call(ours))
        for _, theirs in sockets:
            theirs.send(b"1")
        look(lambda: len(left) == 3)
        for _, theirs in sockets:
            theirs.send(b"2")
        look(lambda: len(left) == 6)
        for ours, _ in sockets:
            poller.remove(ours.fileno())
    assert "planted" in capfd.readouterr().err


def test_ctrl_c_amid_a_look_is_heard_and_the_look_goes_on():
    """Who waits in the main greenlet gets it, as from any callback; what was answered meanwhile is read and sent."""
    poller = Poller()
    left: list[bytes] = []
    interrupts = [KeyboardInterrupt()]

    def call(ours: socket.socket) -> Callable[[], None]:
        def send_or_interrupt() -> None:
            ours.recv(10)
            assert poller.outgoing is not None
            poller.outgoing.append((noting(left), b"x", Noted()))
            if interrupts:
                raise interrupts.pop()

        return send_or_interrupt

    with pairs(3) as sockets:
        for ours, _ in sockets:
            poller.add(ours.fileno(), call(ours))
        for _, theirs in sockets:
            theirs.send(b"1")
        with pytest.raises(KeyboardInterrupt):
            look(lambda: False)
        look(lambda: len(left) == 3)
        for ours, _ in sockets:
            poller.remove(ours.fileno())


def test_an_interrupt_as_a_look_begins_stops_it_no_longer_than_until_it_is_looked_after():
    """Gevent stops the watcher then, and nothing that was queued leaves any more; what comes later is read."""
    poller = Poller()
    left: list[bytes] = []

    def call() -> None:
        ours.recv(10)
        assert poller.outgoing is not None
        poller.outgoing.append((noting(left), b"x", Noted()))

    with pairs(1) as [(ours, theirs)]:
        poller.add(ours.fileno(), call)
        poller._watcher.stop()
        poller.outgoing = deque()
        theirs.send(b"1")
        gevent.sleep(0.02)
        assert left == []
        poller.keep_watching()
        assert vars(poller)["outgoing"] is None
        look(lambda: left == [b"x"])
        poller.keep_watching()
        poller.remove(ours.fileno())
    poller.keep_watching()


@contextlib.contextmanager
def served(serve: Callable[[socket.socket], None], poller: Poller | None = None) -> Iterator[Connection]:
    """A connection to a server that treats the one that is made so, in a thread; it has ended with the block."""

    def accept(listener: socket.socket) -> None:
        peer, _ = listener.accept()
        with peer:
            serve(peer)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = threading.Thread(target=accept, args=(listener,), daemon=True)
        server.start()
        target = Target.of(f"http://127.0.0.1:{listener.getsockname()[1]}", insecure=False, ca=None)
        connection = Connection(target, Sweeper(), poller or Poller(), timeout_s=30, connect_timeout_s=30)
        yield connection
        connection.close()
        server.join(10)


LARGE = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 8000000\r\n\r\n" + b"x" * 8_000_000
ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


def test_a_request_that_the_kernel_has_no_room_for_leaves_in_pieces():
    """The first outside of a look, the next ones as the answer to the one before is read: each arrives whole."""
    whole: list[int] = []

    def serve(peer: socket.socket) -> None:
        for _ in range(3):
            size = 0
            while size < len(LARGE):
                size += len(peer.recv(1 << 16))
            whole.append(size)
            peer.sendall(ANSWER)
        peer.recv(1)  # until the other side closes

    with served(serve) as connection:

        def exchange() -> list[int]:
            return [connection.exchange("POST", LARGE, Layouts()).status for _ in range(3)]

        assert gevent.spawn(exchange).get(timeout=60) == [200] * 3
    assert whole == [len(LARGE)] * 3


def test_a_request_for_a_connection_that_is_gone_was_not_sent():
    """The server resets it with its answer: the next request finds that out as it is to leave, and says that it did not."""
    answered, gone = threading.Event(), threading.Event()

    def serve(peer: socket.socket) -> None:
        peer.recv(1 << 16)
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        peer.sendall(ANSWER)
        answered.wait(10)
        peer.close()
        gone.set()

    with served(serve) as connection:

        def exchange() -> NoAnswer | None:
            assert connection.exchange("POST", b"GET / HTTP/1.1\r\n\r\n", Layouts()).status == 200
            answered.set()
            gone.wait(10)
            try:
                connection.exchange("POST", b"GET / HTTP/1.1\r\n\r\n", Layouts())
            except NoAnswer as error:
                return error
            return None

        error = gevent.spawn(exchange).get(timeout=60)
        assert error is not None
        assert not error.sent
        assert "before the request left" in str(error)
        assert not connection.is_open


def test_what_the_answers_of_one_look_bring_about_leaves_after_all_of_them():
    """Of two connections whose answers lie there together both are read before either sends again."""
    poller, order, asked = Poller(), [], threading.Barrier(2)

    def serve(peer: socket.socket) -> None:
        peer.recv(1 << 16)
        asked.wait(10)
        peer.sendall(ANSWER)
        there.release()
        peer.recv(1 << 16)
        peer.sendall(ANSWER)
        peer.recv(1)

    there = threading.Semaphore(0)
    with served(serve, poller) as one, served(serve, poller) as other:

        def exchange(connection: Connection) -> None:
            connection.exchange("POST", b"GET / HTTP/1.1\r\n\r\n", Layouts())
            order.append("answered")
            send = connection._send

            def noted(request: bytes) -> int:
                order.append("sent")
                return send(request)

            connection._send = noted
            connection.exchange("POST", b"GET / HTTP/1.1\r\n\r\n", Layouts())

        users = [gevent.spawn(exchange, connection) for connection in (one, other)]
        gevent.sleep(0)

        def both_there() -> None:
            # The hub stands still here, so that it finds both answers in one look.
            for _ in range(2):
                there.acquire(timeout=10)
            time.sleep(0.05)

        deadline_s = time.monotonic() + 10
        while not (one.is_open and other.is_open) and time.monotonic() < deadline_s:
            gevent.sleep(0)
        both_there()
        gevent.joinall(users, timeout=30, raise_error=True)
    assert order == ["answered", "answered", "sent", "sent"]


def test_what_did_not_leave_before_a_close_is_no_matter_of_the_next_request():
    """A request that was told not to have left when its connection was closed says nothing of the one after it."""

    def serve(peer: socket.socket) -> None:
        peer.recv(1 << 16)
        peer.sendall(ANSWER)
        peer.recv(1)

    with served(serve) as connection:
        connection._left = 0, BrokenPipeError()
        connection.close()
        answer = gevent.spawn(connection.exchange, "POST", b"GET / HTTP/1.1\r\n\r\n", Layouts()).get(timeout=60)
        assert answer.status == 200


def test_who_was_taken_away_is_not_called_any_more():
    """Also by another one in the same look, and the poller begins anew after its last one."""
    poller, called = Poller(), []
    with pairs(2) as sockets:
        numbers = [ours.fileno() for ours, _ in sockets]

        def take_away_the_other(own: int) -> Callable[[], None]:
            def call() -> None:
                called.append(own)
                for number in numbers:
                    poller.remove(number)

            return call

        for _ in range(2):
            called.clear()
            for number in numbers:
                poller.add(number, take_away_the_other(number))
            for _, theirs in sockets:
                theirs.send(b"1")
            look(lambda: bool(called))
            gevent.sleep(0.02)
            assert len(called) == 1
