"""Cassandra: one node killed, stopped, standing still; of three nodes one, two, and each in turn; and the control that must lose."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

from deploy.cluster import RunningCluster
from tests.chaos.faults import (
    WAITED_REFUSED_WITHIN_S,
    Context,
    Failures,
    Fault,
    Needs,
    Preparation,
    Seen,
    Sees,
    targets_of,
)

OUTAGE_S = 60.0
PAUSE_S = 10.0
ANSWER_WITHIN_S = 1.0
PAUSED_ANSWER_WITHIN_S = 6.0
"""What was sent when it stopped waits for ``store_timeout_s``, 2.5 s, and for the clients' own turn on a busy machine."""
BACK_WITHIN_S = 5.0
GROWTH_BYTES_MAX = 24 << 20
"""Of a web instance's memory within an outage, once queues and connections have their size; it is flat but for fragments."""
SETTLED_AFTER_S = 5.0
SAMPLE_S = 0.5
WARM_AFTER_S = 15.0
"""A node that has come back is cold, and gets the hints of what it missed: that long it is no help when another goes."""
ONE_AWAY = Sees(failures=Failures.NONE, answered_within_s=PAUSED_ANSWER_WITHIN_S)
"""Neither as it goes, nor while it is away, nor when it is back and cold: what it does not answer is asked of another."""
CONVICTED_AFTER_S = 25.0
"""So long a node takes to be sure that another is gone; until then it sends it writes, which time out: 504."""
PERIODIC = {"commitlog_sync": "periodic", "commitlog_sync_period": "10000ms"}


def kill(context: Context) -> None:
    """End it at once."""
    context.pause(context.random.random())
    context.cluster.kill(context.target)


def stop(context: Context) -> None:
    """SIGTERM, and wait for its end."""
    context.cluster.stop(context.target)


def start(context: Context) -> None:
    """Start it on its data; it answers on return."""
    if not context.cluster.process(context.target).running:
        context.cluster.start(context.target)


def begin_outage(context: Context) -> None:
    """Stop the only node, and watch the web instances' memory from then on."""
    context.cluster.stop(context.target)
    context.kept["watch"] = _Watch(context.cluster)


def end_outage(context: Context) -> None:
    """Start it again."""
    watch: _Watch | None = context.kept.pop("watch", None)
    if watch is not None:
        watch.end()
        context.seen["rss_bytes"] = watch.rss_bytes
    start(context)


class _Watch:
    """Samples the web instances' memory in a thread of its own, until it is ended."""

    def __init__(self, cluster: RunningCluster) -> None:
        self._pids = {process.name: process.pid for process in cluster.processes("web") if process.running}
        self.rss_bytes: dict[str, list[int]] = {name: [] for name in self._pids}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="memory", daemon=True)
        self._thread.start()

    def end(self) -> None:
        """No more samples."""
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ended.wait(SAMPLE_S):
            for name, pid in self._pids.items():
                with contextlib.suppress(OSError):
                    self.rss_bytes[name].append(_rss_bytes(pid))


def memory_is_flat(seen: Seen) -> list[str]:
    """After the first seconds it does not grow."""
    found = []
    for name, values in seen.get("rss_bytes", {}).items():
        settled = values[round(SETTLED_AFTER_S / SAMPLE_S) :]
        if settled and max(settled) - settled[0] > GROWTH_BYTES_MAX:
            found.append(f"{name} grew by {(max(settled) - settled[0]) >> 20} MiB during the outage")
    return found


def stop_still(context: Context) -> None:
    """SIGSTOP, as a long collection of garbage would."""
    context.cluster.signal(context.target, signal.SIGSTOP)


def go_on(context: Context) -> None:
    """SIGCONT."""
    with contextlib.suppress(Exception):
        context.cluster.signal(context.target, signal.SIGCONT)


@contextlib.contextmanager
def periodic(preparation: Preparation) -> Iterator[None]:
    """Cassandra's default: it answers before the commit log is written, and writes it every ten seconds."""
    preparation.cassandra |= PERIODIC
    yield


def stop_two(context: Context) -> None:
    """End the target and one other, both at once."""
    others = [node.name for node in context.cluster.processes("cassandra") if node.name != context.target]
    context.kept["names"] = names = [context.target, context.random.choice(others)]
    for name in names:
        context.cluster.kill(name)


def all_started(context: Context) -> None:
    """Start each that does not run."""
    for node in context.cluster.processes("cassandra"):
        if not node.running:
            context.cluster.start(node.name)


def restart_in_turn(context: Context) -> None:
    """SIGTERM to each node in turn, the next once the one before knows all others again."""
    context.injections = 0
    for node in context.cluster.processes("cassandra"):
        if context.stopping.is_set():
            return
        context.cluster.stop(node.name)
        context.cluster.start(node.name)
        context.injections += 1
        context.pause(3.0)


def _rss_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


FAULTS = (
    Fault(
        name="cassandra-kill",
        place="cassandra",
        does="kill -9 of the only Cassandra node at full rate, started again on its commit log",
        inject=kill,
        heal=start,
        sees=Sees(answered_within_s=PAUSED_ANSWER_WITHIN_S, refused_within_s=WAITED_REFUSED_WITHIN_S),
        length_s=(0.0, 3.0),
        lasts_s=14.0,
        after_s=5.0,
        takes=frozenset({"cassandra"}),
        targets=targets_of("cassandra"),
        weight=2,
        full_rate=True,
    ),
    Fault(
        name="cassandra-outage",
        place="cassandra",
        does=f"Cassandra gone for {OUTAGE_S:g} s: until it is started every answer a 503 within a second, memory flat, back within {BACK_WITHIN_S:g} s",
        inject=begin_outage,
        heal=end_outage,
        sees=Sees(
            only=503,
            reads_too=True,
            answered_within_s=PAUSED_ANSWER_WITHIN_S,
            refused_within_s=ANSWER_WITHIN_S,
            healing_refused_within_s=WAITED_REFUSED_WITHIN_S,
            back_within_s=BACK_WITHIN_S,
        ),
        length_s=(OUTAGE_S, OUTAGE_S),
        lasts_s=16.0,
        after_s=5.0,
        targets=targets_of("cassandra"),
        check=memory_is_flat,
        in_quick=False,
    ),
    Fault(
        name="cassandra-stop",
        place="cassandra",
        does=f"SIGSTOP of the only Cassandra node for {PAUSE_S:g} s, as a long collection of garbage",
        inject=stop_still,
        heal=go_on,
        sees=Sees(
            answered_within_s=PAUSED_ANSWER_WITHIN_S,
            refused_within_s=WAITED_REFUSED_WITHIN_S,
            back_within_s=BACK_WITHIN_S,
        ),
        length_s=(PAUSE_S, PAUSE_S),
        lasts_s=0.5,
        after_s=6.0,
        takes=frozenset({"cassandra"}),
        targets=targets_of("cassandra"),
        weight=2,
    ),
    Fault(
        name="cassandra-kill-periodic",
        place="cassandra",
        does="the control: kill -9 with commitlog_sync: periodic, which must lose what was acknowledged",
        inject=kill,
        heal=start,
        sees=Sees(answered_within_s=PAUSED_ANSWER_WITHIN_S, refused_within_s=WAITED_REFUSED_WITHIN_S),
        needs=Needs(alone=True),
        lasts_s=12.0,
        after_s=5.0,
        targets=targets_of("cassandra"),
        prepare=periodic,
        control=True,
        in_quick=False,
    ),
    Fault(
        name="cassandra3-one-down",
        place="cassandra",
        does="one of three Cassandra nodes stopped, and started again: no request fails",
        inject=stop,
        heal=start,
        sees=ONE_AWAY,
        needs=Needs(nodes=3),
        length_s=(8.0, 12.0),
        lasts_s=20.0,
        after_s=WARM_AFTER_S,
        targets=targets_of("cassandra"),
        weight=2,
        in_quick=False,
    ),
    Fault(
        name="cassandra3-one-killed",
        place="cassandra",
        does="kill -9 of one of three Cassandra nodes, started again: no request fails",
        inject=kill,
        heal=start,
        sees=ONE_AWAY,
        needs=Needs(nodes=3),
        length_s=(6.0, 9.0),
        lasts_s=16.0,
        after_s=WARM_AFTER_S,
        targets=targets_of("cassandra"),
        weight=2,
        in_quick=False,
    ),
    Fault(
        name="cassandra3-one-still",
        place="cassandra",
        does=f"SIGSTOP of one of three Cassandra nodes for {PAUSE_S:g} s: others are asked, and no request fails",
        inject=stop_still,
        heal=go_on,
        sees=ONE_AWAY,
        needs=Needs(nodes=3),
        length_s=(PAUSE_S, PAUSE_S),
        lasts_s=0.5,
        after_s=5.0,
        targets=targets_of("cassandra"),
        weight=2,
        in_quick=False,
    ),
    Fault(
        name="cassandra3-two-down",
        place="cassandra",
        does="two of three Cassandra nodes down: every write and read is refused with a 503",
        inject=stop_two,
        heal=all_started,
        sees=Sees(
            only=503,
            reads_too=True,
            settles_s=CONVICTED_AFTER_S,
            answered_within_s=PAUSED_ANSWER_WITHIN_S,
            refused_within_s=WAITED_REFUSED_WITHIN_S,
        ),
        needs=Needs(nodes=3),
        length_s=(CONVICTED_AFTER_S + 5, CONVICTED_AFTER_S + 10),
        lasts_s=40.0,
        after_s=5.0,
        targets=targets_of("cassandra"),
        in_quick=False,
    ),
    Fault(
        name="cassandra3-rolling",
        place="cassandra",
        does="the three Cassandra nodes restarted in turn under load",
        inject=restart_in_turn,
        heal=all_started,
        sees=Sees(answered_within_s=PAUSED_ANSWER_WITHIN_S),
        needs=Needs(nodes=3),
        lasts_s=100.0,
        rounds=3,
        after_s=5.0,
        in_quick=False,
    ),
)
