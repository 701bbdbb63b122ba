"""The rate that is offered: decided in one place, the master or the only process, and told to each worker as its share.

The shares are told anew several times a second, so that a worker that joins, leaves or missed a message has the right one
a moment later, and nothing needs to be acknowledged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Protocol

import gevent

from loadtest.rates import divide

MESSAGE = "busyapi-offer"
INTERVAL_S = 0.25
"""Between two decisions."""

Rate = float | None
"""Arrivals per second; 0.0 keeps every user idle, None lets each send as fast as it is answered (closed loop)."""


class Worker(Protocol):
    """What Locust's master knows of a worker."""

    id: str

    @property
    def user_count(self) -> int:
        """Users that it runs."""


def shares(rate: Rate, workers: Iterable[Worker], *, settled: bool) -> dict[str, Rate]:
    """Each worker's share of the rate, by its id; the shares add up to the rate exactly.

    When the users have been distributed (``settled``), a worker that got none gets no rate: nobody would send it.
    """
    listed = list(workers)
    if rate is None or not listed:
        return {worker.id: rate for worker in listed}
    able = [worker for worker in listed if worker.user_count] if settled else listed
    able = able or listed
    told: dict[str, Rate] = {worker.id: 0.0 for worker in listed}
    told.update(zip((worker.id for worker in able), divide(rate, len(able)), strict=True))
    return told


class LocalOffer:
    """Of a process that makes the load alone."""

    def __init__(self, tell: Callable[[Rate], None]) -> None:
        self._tell = tell

    def __call__(self, rate: Rate) -> None:
        """From now on, offer this."""
        self._tell(rate)


class MasterOffer:
    """Of a master, to its workers."""

    def __init__(self, runner: Any) -> None:
        self._runner = runner

    def __call__(self, rate: Rate) -> None:
        """From now on, offer this, all workers together."""
        clients = self._runner.clients
        workers = [*clients.ready, *clients.spawning, *clients.running]
        settled = self._runner.state == "running"
        for worker_id, share in shares(rate, workers, settled=settled).items():
            self._runner.send_message(MESSAGE, {"rate": share}, client_id=worker_id)

    def newcomer(self, worker_id: str) -> None:
        """Keep a worker idle that has just connected, until it has been given its share."""
        self._runner.send_message(MESSAGE, {"rate": 0.0}, client_id=worker_id)


class Offering:
    """Asks again and again what is to be offered, and tells it."""

    def __init__(self, offer: Callable[[Rate], None]) -> None:
        self._offer = offer
        self._source: Callable[[], Rate] | None = None
        self._greenlet: gevent.Greenlet | None = None

    @property
    def open_loop(self) -> bool:
        """Whether a test runs that offers a rate."""
        return self._source is not None

    def start(self, source: Callable[[], Rate] | None) -> None:
        """Offer what ``source`` says, from now on; None: closed loop.

        It has been told once when this returns, so before any user starts.
        """
        self.stop()
        self._source = source
        # Nothing yet: the source's clock may not have been set back to 0.
        self._offer(None if source is None else 0.0)
        if source is not None:
            self._greenlet = gevent.spawn(self._run, source)

    def stop(self) -> None:
        """Offer nothing more; users of a closed loop go on until they are stopped."""
        if self._greenlet is not None:
            self._greenlet.kill()
            self._greenlet = None
        if self._source is not None:
            self._source = None
            self._offer(0.0)

    def _run(self, source: Callable[[], Rate]) -> None:
        while True:
            gevent.sleep(INTERVAL_S)
            self._offer(source())
