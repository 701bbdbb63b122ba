"""The disk of the Cassandra node: full, slow, standing still, without power. It is a file system of its own, in a file.

Commit log and data are on it together, as they are in docker-compose.yml.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.chaos.faults import WAITED_REFUSED_WITHIN_S, Context, Fault, Needs, Preparation, Seen, Sees, targets_of
from tests.chaos.faults.cassandra import PERIODIC
from tests.chaos.faults.volume import PROGRAMS, Volume, missing, mounted

NODE = "cassandra1"
IMAGE = "disk.img"
SIZE_BYTES = 4 << 30
"""More than the commit log may take; the image takes what is written."""
DIES_WITHIN_S = 20.0
STARTS_WITHIN_S = 20.0
SLOW_S, BETWEEN_S = 0.25, 0.03
"""The disk stands still and goes on in turn, so that nearly every fsync takes up to SLOW_S and a little."""
ANSWERED_WITHIN_S = 6.0
"""``queue_wait_max_s`` and ``store_timeout_s`` are 3.3 s together; the rest is the clients' turn on a busy machine."""


def volume_of(state_dir: Path) -> Volume:
    """The disk of a cluster's node."""
    return Volume(state_dir / IMAGE, state_dir / "cassandra" / NODE)


@contextmanager
def own_disk(preparation: Preparation) -> Iterator[None]:
    """The node's files are on a volume of their own; faults of one topology share it."""
    volume = volume_of(preparation.state_dir)
    if volume.image.exists():
        yield
        return
    with mounted(volume.image, volume.directory, SIZE_BYTES):
        yield


@contextmanager
def own_disk_rarely_synced(preparation: Preparation) -> Iterator[None]:
    """The same, with Cassandra's default, which answers long before it syncs."""
    preparation.cassandra |= PERIODIC
    with own_disk(preparation):
        yield


def fill(context: Context) -> None:
    """No space is left. The node ends, as it shall; started on the full disk, as by what supervises it, it ends again."""
    cluster, volume = context.cluster, volume_of(context.cluster.state_dir)
    volume.fill()
    context.seen["died"] = context.until(lambda: not cluster.process(NODE).running, DIES_WITHIN_S)
    if context.seen["died"]:
        volume.fill()
        cluster.start(NODE, wait=False)
        context.until(lambda: not cluster.process(NODE).running, STARTS_WITHIN_S)
        cluster.kill(NODE)


def give_space(context: Context) -> None:
    """There is space again, and it is started."""
    volume_of(context.cluster.state_dir).empty()
    _start(context)


def died(seen: Seen) -> list[str]:
    """A node that cannot write may not stay as if it could."""
    return [] if seen.get("died") else [f"the node did not end within {DIES_WITHIN_S:g} s of its disk being full"]


def slow(context: Context) -> None:
    """From now on an fsync takes its time."""
    volume, over = volume_of(context.cluster.state_dir), threading.Event()

    def run() -> None:
        while not over.wait(BETWEEN_S):
            volume.freeze()
            over.wait(SLOW_S)
            volume.thaw()

    thread = threading.Thread(target=run, name="slow disk", daemon=True)
    thread.start()
    context.kept["slow"] = over, thread


def no_longer_slow(context: Context) -> None:
    """As quick as it was."""
    if "slow" in context.kept:
        over, thread = context.kept.pop("slow")
        over.set()
        thread.join()
    volume_of(context.cluster.state_dir).thaw()


def stand_still(context: Context) -> None:
    """Nothing that is written or synced comes to an end."""
    volume_of(context.cluster.state_dir).freeze()


def go_on(context: Context) -> None:
    """What waited goes on."""
    volume_of(context.cluster.state_dir).thaw()


def cut_power(context: Context) -> None:
    """At a random moment: what was not synced by then is gone, and so is the node."""
    volume = volume_of(context.cluster.state_dir)
    # Its configuration was not written by the node, and is not what may be lost.
    for file in (volume.directory / "conf").iterdir():
        _sync(file)
    context.pause(context.random.random())
    context.kept["cut"] = True
    # The node goes first, by microseconds: a file system that stops beneath a process that goes on may call an fsync done
    # that it has dropped, and no power cut lets anybody hear of it.
    context.cluster.signal(NODE, signal.SIGKILL)
    volume.cut()
    context.cluster.kill(NODE)


def return_power(context: Context) -> None:
    """The file system repairs itself, the node replays what was synced."""
    if context.kept.pop("cut", False):
        volume = volume_of(context.cluster.state_dir)
        volume.unmount()
        volume.mount()
    _start(context)


def _start(context: Context) -> None:
    if not context.cluster.process(NODE).running:
        context.cluster.start(NODE)


def _sync(file: Path) -> None:
    opened = os.open(file, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


_NEEDS = Needs(root=True, tools=PROGRAMS, missing=missing)
_TAKES = frozenset({"disk", "cassandra"})
_GONE = Sees(answered_within_s=ANSWERED_WITHIN_S, refused_within_s=WAITED_REFUSED_WITHIN_S)
_OF_CASSANDRA = targets_of("cassandra")

FAULTS = (
    Fault(
        name="disk-full",
        place="disk",
        does="no space is left where the commit log is: no write is acknowledged, then all are refused; back with the space",
        inject=fill,
        heal=give_space,
        sees=Sees(only=503, answered_within_s=ANSWERED_WITHIN_S, refused_within_s=WAITED_REFUSED_WITHIN_S),
        needs=_NEEDS,
        length_s=(4.0, 6.0),
        lasts_s=30.0,
        after_s=6.0,
        takes=_TAKES,
        targets=_OF_CASSANDRA,
        in_quick=False,
        prepare=own_disk,
        check=died,
    ),
    Fault(
        name="disk-slow",
        place="disk",
        does=f"each fsync takes up to {SLOW_S:g} s",
        inject=slow,
        heal=no_longer_slow,
        sees=_GONE,
        needs=_NEEDS,
        length_s=(4.0, 8.0),
        lasts_s=0.5,
        after_s=4.0,
        takes=_TAKES,
        targets=_OF_CASSANDRA,
        in_quick=False,
        prepare=own_disk,
    ),
    Fault(
        name="disk-still",
        place="disk",
        does="the disk stands still: what was sent is unknown, what comes is refused, and nothing more",
        inject=stand_still,
        heal=go_on,
        sees=_GONE,
        needs=_NEEDS,
        length_s=(4.0, 6.0),
        lasts_s=0.5,
        after_s=6.0,
        takes=_TAKES,
        targets=_OF_CASSANDRA,
        in_quick=False,
        prepare=own_disk,
    ),
    Fault(
        name="disk-power-cut",
        place="disk",
        does="a power cut: all that was not synced is gone, the node is started on what is left",
        inject=cut_power,
        heal=return_power,
        sees=_GONE,
        needs=_NEEDS,
        lasts_s=16.0,
        after_s=6.0,
        takes=_TAKES,
        targets=_OF_CASSANDRA,
        weight=2,
        full_rate=True,
        in_quick=False,
        prepare=own_disk,
    ),
    Fault(
        name="disk-power-cut-periodic",
        place="disk",
        does="the control: a power cut with commitlog_sync: periodic, which must lose what was acknowledged",
        inject=cut_power,
        heal=return_power,
        sees=_GONE,
        needs=Needs(root=True, tools=PROGRAMS, missing=missing, alone=True),
        lasts_s=16.0,
        after_s=6.0,
        targets=_OF_CASSANDRA,
        control=True,
        in_quick=False,
        prepare=own_disk_rarely_synced,
    ),
)
