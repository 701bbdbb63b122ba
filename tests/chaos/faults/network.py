"""The network between web instances and Cassandra: cut, half open, reset, slow, narrow; each way.

The web instances are given Toxiproxy's address as their store. With one node that is enough: the driver takes the address
by which it reached a node for that node's, whatever the node says of itself, and learns others from its peers alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from deploy.cluster import plan
from tests.chaos.faults import WAITED_REFUSED_WITHIN_S, Context, Failures, Fault, Needs, Preparation, Sees
from tests.chaos.faults.toxiproxy import DOWNSTREAM, FILE, UPSTREAM, Proxy, before_cassandra, missing

STORE = "BUSYAPI_STORE"
LATENCY_MS = 150
JITTER_MS = 100
NARROW_KB_PER_S = {UPSTREAM: 64, DOWNSTREAM: 1}
"""Groups of usages go one way, short answers the other."""
ANSWERED_WITHIN_S = 6.0
"""``queue_wait_max_s`` and ``store_timeout_s`` are 3.3 s together; the rest is the clients' turn on a busy machine."""
BACK_WITHIN_S = 6.0
"""One attempt to connect may be under way when the network is back: it ends after 2 s, and the next is 0.5 s later."""


@contextmanager
def proxied(preparation: Preparation) -> Iterator[None]:
    """All web instances reach Cassandra through one Toxiproxy; faults of one topology share it."""
    if (preparation.state_dir / FILE).exists():
        yield
        return
    with before_cassandra(preparation.state_dir, preparation.ports.cql) as port:
        preparation.env[STORE] = f"cassandra://{plan.LOOPBACK}:{port}/{plan.KEYSPACE}"
        yield


def cut(context: Context) -> None:
    """Connections end, and no new one can be made."""
    Proxy.of(context.cluster.state_dir).enable(enabled=False)


def poisoned(kind: str, stream: str, **attributes: int) -> Callable[[Context], None]:
    """Adds the toxic."""

    def inject(context: Context) -> None:
        Proxy.of(context.cluster.state_dir).poison(kind, stream, **attributes)

    return inject


def heal(context: Context) -> None:
    """Everything gets through again."""
    Proxy.of(context.cluster.state_dir).reset()


def _fault(name: str, does: str, inject: Callable[[Context], None], sees: Sees, *, in_quick: bool = False) -> Fault:
    return Fault(
        name=f"network-{name}",
        place="network",
        does=does,
        inject=inject,
        heal=heal,
        sees=sees,
        needs=Needs(missing=missing),
        length_s=(3.0, 8.0),
        lasts_s=0.5,
        after_s=7.0,
        takes=frozenset({"network", "cassandra"}),
        in_quick=in_quick,
        prepare=proxied,
    )


_GONE = Sees(answered_within_s=ANSWERED_WITHIN_S, refused_within_s=WAITED_REFUSED_WITHIN_S, back_within_s=BACK_WITHIN_S)
_SLOW = Sees(
    failures=Failures.UNKNOWN,
    answered_within_s=ANSWERED_WITHIN_S,
    refused_within_s=WAITED_REFUSED_WITHIN_S,
    back_within_s=BACK_WITHIN_S,
)
_WAYS = {UPSTREAM: "towards Cassandra", DOWNSTREAM: "from Cassandra"}

FAULTS = (
    _fault("cut", "the connections to Cassandra end and none can be made", cut, _GONE, in_quick=True),
    *(
        _fault(
            f"half-open-{stream}",
            f"connections stay open and nothing arrives any more, {way}",
            poisoned("timeout", stream, timeout=0),
            _GONE,
        )
        for stream, way in _WAYS.items()
    ),
    *(
        _fault(
            f"reset-{stream}",
            f"connections are reset when something is sent {way}",
            poisoned("reset_peer", stream, timeout=0),
            _GONE,
        )
        for stream, way in _WAYS.items()
    ),
    *(
        _fault(
            f"latency-{stream}",
            f"{LATENCY_MS} ms and up to {JITTER_MS} ms more {way}",
            poisoned("latency", stream, latency=LATENCY_MS, jitter=JITTER_MS),
            _SLOW,
        )
        for stream, way in _WAYS.items()
    ),
    *(
        _fault(
            f"bandwidth-{stream}",
            f"{NARROW_KB_PER_S[stream]} kB/s {way}",
            poisoned("bandwidth", stream, rate=NARROW_KB_PER_S[stream]),
            _SLOW,
        )
        for stream, way in _WAYS.items()
    ),
)
