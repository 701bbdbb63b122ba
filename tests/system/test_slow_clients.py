"""Clients that send too slowly, at HAProxy and behind it."""

from __future__ import annotations

import time
from collections.abc import Callable

from tests.system.wire import Answer, Closed, Wire, assert_problem

SLOW_CLIENT_LIMIT_S = 30


SLOW: dict[str, tuple[Callable[[bytes], bytes], bytes]] = {
    "headers that stop": (lambda host: b"POST /api/usages HTTP/1.1\r\nHost: %b\r\nX-Slow: " % host, b""),
    "headers that drip": (lambda host: b"POST /api/usages HTTP/1.1\r\nHost: %b\r\nX-Slow: " % host, b"s"),
    "a body that stops": (
        lambda host: b"POST /api/usages HTTP/1.1\r\nHost: %b\r\nContent-Length: 5000\r\n\r\n{" % host,
        b"",
    ),
    "a body that drips": (
        lambda host: b"POST /api/usages HTTP/1.1\r\nHost: %b\r\nContent-Length: 5000\r\n\r\n{" % host,
        b" ",
    ),
    "chunks that stop": (
        lambda host: b"POST /api/usages HTTP/1.1\r\nHost: %b\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n" % host,
        b"",
    ),
    "chunks that drip": (
        lambda host: b"POST /api/usages HTTP/1.1\r\nHost: %b\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n" % host,
        b"1\r\n \r\n",
    ),
    "a large body that drips": (
        lambda host: (
            b"POST /messages HTTP/1.1\r\nHost: %b\r\nContent-Length: 900000\r\n\r\n" % host
            + b'{"message": "'
            + b"m" * 40_000
        ),
        b"m",
    ),
}


def test_slow_clients_are_cut_with_a_408(base_url: str) -> None:
    """Headers or a body that stop, or come a byte at a time, hold a connection for a bounded time, then get a 408.

    All of them at once: each would otherwise wait through the same time limit.
    """
    wires = {name: Wire(base_url) for name in SLOW}
    answers: dict[str, Answer | None] = {}
    try:
        for name, wire in wires.items():
            wire.send(SLOW[name][0](wire.host.encode()))
        deadline_s = time.monotonic() + SLOW_CLIENT_LIMIT_S
        while len(answers) < len(wires) and time.monotonic() < deadline_s:
            for name, wire in wires.items():
                if name in answers:
                    continue
                if wire.readable(0.05):
                    answers[name] = wire.last_words()
                elif SLOW[name][1]:
                    try:
                        wire.send(SLOW[name][1])
                    except Closed:
                        answers[name] = None
            time.sleep(0.2)
    finally:
        for wire in wires.values():
            wire.close()
    assert answers.keys() == SLOW.keys(), f"still open after {SLOW_CLIENT_LIMIT_S} s: {SLOW.keys() - answers.keys()}"
    for name, answer in answers.items():
        assert answer is not None, f"{name}: closed without an answer"
        assert_problem(answer, 408, "request_timeout")
