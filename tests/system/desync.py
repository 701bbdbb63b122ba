"""A detector of desyncs: whose answer is whose, once an attack has gone over a connection."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from tests.system.hostile import USAGE, Attack, Parts
from tests.system.wire import JSON_TYPE, Answer, Closed, Wire, assert_problem, call, request_bytes

QUIET_S = 0.4
"""Who has said nothing for so long waits for more of the request; a wrong answer would have come with the others."""

OTHERS = 3
"""Canaries on other connections, which share HAProxy's connections to the web instances."""


@dataclass(frozen=True)
class Seen:
    """What came back on the attack's own connection, and the ids of the three requests that were in it."""

    answers: Sequence[Answer]
    attack_id: str
    inner_id: str
    canary_id: str
    inner_key: str

    @property
    def ids(self) -> list[str | None]:
        """The answers' request ids, in order."""
        return [answer.header("x-request-id") for answer in self.answers]


def strike(url: str, attack: Attack) -> Seen:
    """Send an attack with a canary right behind it, and take every answer until the canary's, the close, or quiet."""
    attack_id, inner_id, canary_id, key = (
        f"{name}-{uuid.uuid4().hex}" for name in ("attack", "inner", "canary", "key")
    )
    answers: list[Answer] = []
    with Wire(url) as wire:
        host = wire.host.encode()
        headers = [JSON_TYPE, ("Idempotency-Key", key), ("X-Request-ID", inner_id)]
        inner = request_bytes("POST", "/api/usages", wire.host, headers, USAGE)
        canary = request_bytes("GET", f"/{canary_id}", wire.host, [("X-Request-ID", canary_id)])
        with contextlib.suppress(Closed):  # it may have been answered all the same
            wire.send(attack(Parts(host, b"X-Request-ID: %b\r\n" % attack_id.encode(), inner)) + canary)
        while wire.readable(QUIET_S):
            answer = wire.last_words()
            if answer is None:
                break
            if answer.status >= 200:
                answers.append(answer)
            if answer.header("x-request-id") == canary_id:
                break
    return Seen(answers, attack_id, inner_id, canary_id, key)


def faults(url: str, seen: Seen) -> list[str]:
    """What is wrong with it, in words: nothing, when every request got its own answer and the smuggled one was not run."""
    wrong = []
    for answer in seen.answers:
        if answer.status >= 500:
            wrong.append(f"answered {answer.status} {answer.body[:200]!r}")
        elif answer.status >= 400:
            try:
                assert_problem(answer, answer.status)
            except (AssertionError, ValueError) as error:
                wrong.append(f"no problem document: {error!r}")
    if seen.inner_id in seen.ids:
        wrong.append("the smuggled request was answered")
    own = [id_ for id_ in seen.ids if id_ != seen.canary_id]
    if len(own) > 1:
        wrong.append(f"{len(own)} answers to one request: {[answer.status for answer in seen.answers]}")
    if seen.canary_id in seen.ids and seen.answers[-1].status != 404:
        wrong.append(f"the canary was answered {seen.answers[-1].status}")
    if call(url, "GET", f"/api/usages/keys/{seen.inner_key}").status != 404:
        wrong.append("the smuggled request was run")
    return wrong + crossed(url)


def crossed(url: str) -> list[str]:
    """What is wrong with the answers of other clients, each of which asks for something that is its alone."""
    wrong = []
    for number in range(OTHERS):
        id_, own = f"other-{uuid.uuid4().hex}", b'{"medication": %d}' % number
        with Wire(url) as wire:
            read = wire.exchange("GET", f"/{id_}", [("X-Request-ID", id_)])
            written = wire.exchange("POST", "/api/usages", [JSON_TYPE, ("X-Request-ID", f"{id_}-2")], own)
        for answer, expected, status in ((read, id_, 404), (written, f"{id_}-2", 422)):
            if (answer.header("x-request-id"), answer.status) != (expected, status):
                wrong.append(f"another client was answered {answer.status} as {answer.header('x-request-id')}")
    return wrong
