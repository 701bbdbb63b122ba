"""Clients that misbehave while others go about their business: none of it may cost another request anything."""

from __future__ import annotations

import contextlib
import json
import resource
import socket
import struct
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

from tests.chaos.faults import Context, Failures, Fault, Needs, Seen, Sees
from tests.system.desync import faults, strike
from tests.system.hostile import attacks

CLIENTS_MAX = 9_000
CLIENTS_MIN = 500
DESCRIPTORS_LEFT = 2_000
"""Of this process, for everything else."""
ANSWER_TIMEOUT_S = 30.0
REPLAYS, REPLAYERS = 60, 16
SLOW_EACH = 150
HELD_S = 6.0
BIG_BYTES = 10 * 2**30
NOTHING_FAILS = Sees(failures=Failures.NONE, answered_within_s=5.0)


def connect(url: str) -> socket.socket:
    """A bare connection."""
    parts = urlsplit(url)
    sock = socket.create_connection((parts.hostname or "", parts.port or 80), timeout=ANSWER_TIMEOUT_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def urls(context: Context) -> list[str]:
    """HAProxy, and every web instance itself."""
    web = [process for process in context.cluster.processes("web") if process.running]
    return [context.cluster.base_url, *(f"http://{process.address}:{process.port}" for process in web)]


def keyed(key: str, body: bytes) -> bytes:
    """A whole POST under a key."""
    head = f"POST /api/usages HTTP/1.1\r\nHost: chaos\r\nContent-Type: application/json\r\nIdempotency-Key: {key}\r\n"
    return head.encode() + b"Content-Length: %d\r\n\r\n" % len(body) + body


def replay(context: Context) -> None:
    """Many clients send each of many keys at once, over HAProxy and every instance; half reset before their answer."""
    addresses = urls(context)
    usages = {str(uuid.uuid4()): b'{"replay": "%s"}' % uuid.uuid4().hex.encode() for _ in range(REPLAYS)}
    delays_s = [context.random.random() / 50 for _ in range(REPLAYERS)]

    def client(number: int) -> set[int]:
        statuses = set()
        for key, body in usages.items():
            if context.stopping.is_set():
                break
            with connect(addresses[number // 2 % len(addresses)]) as sock:
                sock.sendall(keyed(key, body))
                if number % 2:
                    time.sleep(delays_s[number])
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                else:
                    statuses.add(int(sock.recv(4096)[9:12] or b"0"))
        return statuses

    with ThreadPoolExecutor(REPLAYERS) as clients:
        context.seen["statuses"] = sorted(set().union(*clients.map(client, range(REPLAYERS))))
    wrong = []
    for key, body in usages.items():
        with urllib.request.urlopen(f"{addresses[0]}/api/usages/keys/{key}", timeout=ANSWER_TIMEOUT_S) as answer:
            found = json.load(answer)
        if "conflicts" in found or found["usage"] != json.loads(body):
            wrong.append(key)
    context.seen["wrong"] = wrong


def replayed_well(seen: Seen) -> list[str]:
    """Everyone who was answered was told 201 or 200, and each key has its one usage."""
    statuses = [status for status in seen.get("statuses", ()) if status not in (200, 201)]
    said = [f"replays were answered {statuses}"] if statuses else []
    return said + [f"the key {key} has another usage, or several" for key in seen.get("wrong", ())]


def room() -> int:
    """So many connections as descriptors allow, up to CLIENTS_MAX."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = hard if hard != resource.RLIM_INFINITY else soft + CLIENTS_MAX + DESCRIPTORS_LEFT
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, limit), hard))
    return min(CLIENTS_MAX, resource.getrlimit(resource.RLIMIT_NOFILE)[0] - DESCRIPTORS_LEFT)


def too_few() -> str:
    """Why many clients cannot be had here."""
    return "" if room() >= CLIENTS_MIN else f"needs {CLIENTS_MIN + DESCRIPTORS_LEFT} descriptors"


@contextlib.contextmanager
def held(context: Context) -> Iterator[list[socket.socket]]:
    """Where an injection puts connections that are all closed with it."""
    sockets: list[socket.socket] = []
    try:
        yield sockets
    finally:
        for sock in sockets:
            sock.close()
        context.kept.clear()


def idle(context: Context) -> None:
    """As many clients as can be, each answered once, that then stay and say nothing."""
    ask = b"GET /livez HTTP/1.1\r\nHost: idle\r\n\r\n"
    with held(context) as sockets:
        for _ in range(room() if not context.quick else CLIENTS_MIN):
            if context.stopping.is_set():
                return
            sockets.append(connect(context.cluster.base_url))
            sockets[-1].sendall(ask)
            sockets[-1].recv(4096)
        context.seen["clients"] = len(sockets)
        context.pause(HELD_S)


def slow(context: Context) -> None:
    """Half heads, half bodies, half chunks, readers that do not read, halves that are closed; all held for a while."""
    head = b"POST /api/usages HTTP/1.1\r\nHost: slow\r\n"
    with held(context) as sockets:
        for _ in range(SLOW_EACH if not context.quick else SLOW_EACH // 5):
            for half in (
                head + b"X-Slow: ",
                head + b"Content-Length: 5000\r\n\r\n{",
                head + b"Transfer-Encoding: chunked\r\n\r\n5\r\n{",
                b"GET /openapi.json HTTP/1.1\r\nHost: slow\r\n\r\n" * 40,
            ):
                sockets.append(connect(context.cluster.base_url))
                sockets[-1].sendall(half)
            sockets[-1].shutdown(socket.SHUT_WR)
        context.seen["clients"] = len(sockets)
        context.pause(HELD_S)


def leave(context: Context) -> None:
    """Whole usages whose client resets before it is answered, one after the other."""
    count = 0
    deadline_s = time.monotonic() + HELD_S
    while time.monotonic() < deadline_s and not context.stopping.is_set():
        with connect(context.cluster.base_url) as sock:
            # What it stored is nobody's in the comparison: it is no usage of a journal.
            sock.sendall(keyed(str(uuid.uuid4()), b'{"left": true}'))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        count += 1
        context.pause(0.005)
    context.seen["clients"] = count


def big(context: Context) -> None:
    """Ten gigabytes declared, by length and as a chunk, at HAProxy and at every instance."""
    wrong = []
    for url in urls(context):
        for framing in (b"Content-Length: %d", b"Transfer-Encoding: chunked\r\n\r\n%x"):
            with connect(url) as sock, contextlib.suppress(ConnectionError):
                sock.sendall(b"POST /messages HTTP/1.1\r\nHost: big\r\n" + framing % BIG_BYTES + b"\r\n\r\n")
                for _ in range(10):
                    sock.sendall(b"x" * 1_000_000)
                status = sock.recv(4096)[:12]
                if status and status not in (b"HTTP/1.1 413", b"HTTP/1.1 400"):
                    wrong.append(f"{BIG_BYTES} bytes were answered {status!r}")
    context.seen["wrong"] = wrong


def smuggle(context: Context) -> None:
    """The whole corpus of request smuggling, in an order of the seed's, with a canary behind each."""
    corpus = list(attacks().items())
    context.random.shuffle(corpus)
    wrong = []
    for name, attack in corpus[: len(corpus) // 8 if context.quick else len(corpus)]:
        if context.stopping.is_set():
            break
        found = faults(context.cluster.base_url, strike(context.cluster.base_url, attack))
        wrong += [f"{name}: {text}" for text in found]
    context.seen["wrong"] = wrong


def nothing_wrong(seen: Seen) -> list[str]:
    """What was found while it lasted."""
    return list(seen.get("wrong", ()))


def _fault(name: str, does: str, inject: Callable[[Context], None], lasts_s: float, **more: object) -> Fault:
    return Fault(
        name=f"clients-{name}",
        place="clients",
        does=does,
        inject=inject,
        sees=NOTHING_FAILS,
        lasts_s=lasts_s,
        after_s=2.0,
        **more,  # type: ignore[arg-type]
    )


FAULTS = (
    _fault(
        "replays",
        "one key sent by many clients over all instances at once, half of whom reset before their answer",
        replay,
        8.0,
        check=replayed_well,
    ),
    _fault(
        "idle",
        "thousands of clients that stay and say nothing",
        idle,
        15.0,
        needs=Needs(missing=too_few),
        in_quick=False,
    ),
    _fault(
        "slow",
        "half heads, half bodies, half chunks, readers that do not read, closed halves",
        slow,
        HELD_S + 2,
        in_quick=False,
    ),
    _fault("leave", "clients that reset before they are answered", leave, HELD_S + 1),
    _fault("big", "bodies of ten gigabytes declared", big, 3.0, check=nothing_wrong, in_quick=False),
    _fault(
        "smuggling", "the request-smuggling corpus, a canary behind each attack", smuggle, 25.0, check=nothing_wrong
    ),
)
