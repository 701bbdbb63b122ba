"""HAProxy: reloaded under clients, killed and started again."""

from __future__ import annotations

import signal
import urllib.request
from pathlib import Path

from tests.chaos.faults import Context, Failures, Fault, Sees

NAME = "haproxy"
RELOADS, RELOADS_QUICK = 20, 5
RELOAD_WITHIN_S = 10.0
BETWEEN_S = 0.5
ASK_TIMEOUT_S = 2.0


def kill(context: Context) -> None:
    """End the master and its worker at once."""
    context.pause(context.random.random())
    context.cluster.kill(NAME)


def start(context: Context) -> None:
    """Start it where it was; it uses the web instances on return."""
    if not context.cluster.process(NAME).running:
        context.cluster.start(NAME)


def reload(context: Context) -> None:
    """SIGUSR2 to the master, as often as there are rounds, each time waiting until another worker has taken over."""
    context.injections = 0
    for _ in range(RELOADS_QUICK if context.quick else RELOADS):
        if context.stopping.is_set():
            return
        reload_once(context)
        context.injections += 1
        context.pause(BETWEEN_S)


def reload_once(context: Context) -> None:
    """One reload, seen through."""
    before = worker_pid(context)
    context.cluster.signal(NAME, signal.SIGUSR2)
    if not context.until(lambda: worker_pid(context) not in (before, 0), RELOAD_WITHIN_S):
        raise RuntimeError(f"no new worker within {RELOAD_WITHIN_S:g} s")


def worker_pid(context: Context) -> int:
    """The pid of whoever answers for HAProxy at the moment, 0 when nobody does."""
    try:
        with urllib.request.urlopen(f"{context.cluster.stats_url}/;csv", timeout=ASK_TIMEOUT_S):
            pass
    except OSError:
        return 0
    master = context.cluster.process(NAME).pid
    children = Path(f"/proc/{master}/task/{master}/children")
    try:
        # The youngest is the one that answers; those before it finish what they have.
        return max((int(pid) for pid in children.read_text().split()), default=0)
    except OSError:
        return 0


FAULTS = (
    Fault(
        name="haproxy-reload",
        place="haproxy",
        does=f"HAProxy reloaded {RELOADS} times at full rate: no request fails",
        inject=reload,
        sees=Sees(failures=Failures.NONE, answered_within_s=5.0),
        lasts_s=RELOADS * 1.0,
        rounds=RELOADS,
        after_s=2.0,
        full_rate=True,
    ),
    Fault(
        name="haproxy-kill",
        place="haproxy",
        does="kill -9 of HAProxy, started again",
        inject=kill,
        heal=start,
        sees=Sees(answered_within_s=15.0),
        length_s=(0.0, 2.0),
        lasts_s=3.0,
        after_s=4.0,
        takes=frozenset({"haproxy"}),
        weight=2,
    ),
)
