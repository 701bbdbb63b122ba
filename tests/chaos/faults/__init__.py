"""What a fault is: what it does, what it needs, what users may see meanwhile and for how long afterwards.

Each module here is a place (web, cassandra, haproxy, network, disk, clocks, clients) and has ``FAULTS``, a tuple of them.
"""

from __future__ import annotations

import enum
import os
import random
import shutil
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deploy.cluster import RunningCluster
from deploy.cluster.plan import CassandraPorts
from service.settings import read_settings

_SERVICE = read_settings({})
TURN_S = 0.7
"""What a client, HAProxy and an instance may wait for their turn on a busy machine that all of them share."""
WAITED_REFUSED_WITHIN_S = round(_SERVICE.queue_wait_max_s + _SERVICE.store_timeout_s + TURN_S, 3)
"""A 503 for what waited in vain: first in a queue, then, as a read or as a write of which nothing was sent yet, for a store that
is there and does not answer. Each of the two has its bound in the service's settings. HAProxy's own queue (800 ms) comes before them
only when an instance has 1,000 requests at work (WEB_MAXCONN), more than these loads have connections."""

Seen = Mapping[str, Any]
"""What a fault measured, by name: what its ``inject`` and ``heal`` put into ``Context.seen``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """What must be there for a fault. ``tools`` are programs on PATH; ``missing`` looks for anything else."""

    nodes: int = 1
    """Cassandra nodes of the topology that it is for: 1 or 3."""
    alone: bool = False
    """It has a topology to itself, in which no other fault happens: for one that changes what is promised."""
    root: bool = False
    tools: tuple[str, ...] = ()
    missing: Callable[[], str] = lambda: ""
    """Why it cannot be done on this machine, empty when it can; called once, before anything starts."""

    def reason(self) -> str:
        """Why it cannot be done here, empty when it can."""
        if self.root and os.geteuid() != 0:
            return "needs root"
        absent = [tool for tool in self.tools if not shutil.which(tool, path=f"{os.environ.get('PATH', '')}:/usr/sbin")]
        return f"needs {', '.join(absent)}" if absent else self.missing()


class Failures(enum.IntEnum):
    """What may become of requests while a fault lasts; each allows all before it. A wrong answer is never allowed."""

    NONE = 0
    REFUSED = 1  # 503 with Retry-After: certainly not stored
    UNKNOWN = 2  # also 502, 504, a reset, a connection that cannot be made


@dataclass(frozen=True, slots=True, kw_only=True)
class Sees:
    """What users may see from the injection until the after-effects are over. Times count from the sending of a request."""

    failures: Failures = Failures.UNKNOWN
    answered_within_s: float = 15.0
    """No answer, and no end of a connection, later than this."""
    refused_within_s: float = 2.0
    """No 503 later than this."""
    healing_refused_within_s: float | None = None
    """No 503 later than this where healing had begun before the answer: what was gone may be there again, and cold. It is there a little
    later than that; when exactly is not looked at. None: as before."""
    back_within_s: float = 10.0
    """From the end of ``heal`` to the first write that is acknowledged."""
    settles_s: float = 3.0
    """So long after ``inject`` the next one begins to count, and it does until ``heal`` begins."""
    only: int = 0
    """The one status that every write gets once it has settled; 0: any that is allowed."""
    reads_too: bool = False
    """Whether ``only`` is what every read gets as well."""


@dataclass(kw_only=True)
class Preparation:
    """The topology before it starts; what a fault's ``prepare`` changes here, the cluster starts with.

    Of several faults in one topology each changes it in turn; who sets what another has set already, wraps it.
    """

    state_dir: Path
    """There already, empty. A node's files will be in ``state_dir / "cassandra" / "cassandra1" / ("commitlog", "data", …)``."""
    ports: CassandraPorts
    """Where Cassandra will listen: chosen and saved, so a proxy can be put before it."""
    env: dict[str, str] = field(default_factory=dict)
    """For the web instances and the schema step, on top of everything else: BUSYAPI_STORE may lead to a proxy."""
    service_command: tuple[str, ...] = ()
    """In place of ``python -m service``; it is called with ``serve`` and ``schema``."""
    cassandra: dict[str, str] = field(default_factory=dict)
    """Top-level keys of every node's cassandra.yaml."""


@dataclass(kw_only=True)
class Context:
    """One injection. ``inject`` and ``heal`` of one injection are called with the same one, in a thread of their own."""

    cluster: RunningCluster
    target: str
    """The process that the schedule chose, such as "web2"; empty for a fault without targets."""
    directory: Path
    """Scratch of this injection alone; kept with the run."""
    random: random.Random
    """Seeded by the schedule; for whatever the fault draws."""
    say: Callable[[str], None]
    """A line for the person in front and the run's log."""
    quick: bool = False
    """A short run: a fault of many rounds does a few."""
    stopping: threading.Event = field(default_factory=threading.Event)
    """Set on Ctrl-C: a long inject returns soon, and heal is called."""
    kept: dict[str, Any] = field(default_factory=dict)
    """What inject leaves for heal."""
    seen: dict[str, Any] = field(default_factory=dict)
    """What was measured, plain JSON; ``Fault.check`` judges it, the record shows it."""
    injections: int = 1
    """How many this is; a fault of 20 rounds sets it to 20. Many clients that do the same at once are one."""

    def pause(self, seconds: float) -> bool:
        """Wait; whether to go on (False once the run is being stopped)."""
        return not self.stopping.wait(seconds)

    def until(self, true: Callable[[], bool], timeout_s: float, poll_s: float = 0.05) -> bool:
        """Whether it becomes true in time, whether or not the run is being stopped: heal waits with it too."""
        deadline_s = time.monotonic() + timeout_s
        while not true():
            if time.monotonic() > deadline_s:
                return False
            time.sleep(poll_s)
        return True


def _nothing(_context: Context) -> None:
    """The fault is over by itself."""


def _well(_seen: Seen) -> Sequence[str]:
    return ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One kind of fault.

    ``inject`` returns when the fault is there (one of many rounds: when they are done), ``heal`` when it has taken back what
    it did and the process is ready again. ``heal`` is called for every injection, also when ``inject`` raised or was
    interrupted half way, and may be called twice. An exception of either fails the run, with its text.
    """

    name: str
    """Unique; what ONLY= takes, such as "web-kill"."""
    place: str
    does: str
    """A sentence without a full stop, for the table."""
    inject: Callable[[Context], None]
    heal: Callable[[Context], None] = _nothing
    sees: Sees = Sees()
    needs: Needs = Needs()
    length_s: tuple[float, float] = (0.0, 0.0)
    """Least and most time between inject and heal; drawn from the seed."""
    lasts_s: float = 5.0
    """About how long inject and heal themselves take, for planning."""
    after_s: float = 3.0
    """Its after-effects last so long after heal; users may see until then what they may see during it."""
    takes: frozenset[str] = frozenset()
    """What is gone or cannot be relied on meanwhile ("web", "cassandra", "network", …): two that take the same never overlap.
    Empty: it overlaps with nothing at all, as one that promises that no request fails must."""
    targets: Callable[[Sequence[str]], Sequence[str]] | None = None
    """Of the names of all processes ("web1", "web2", "cassandra1", "haproxy"), those that may be its target; None: it has no target."""
    weight: int = 1
    """How often it comes compared with others, once every kind has come."""
    rounds: int = 1
    """As how many injections it counts, for planning; a long fault counts what it did in ``Context.injections``."""
    full_rate: bool = False
    """Clients in a closed loop, as fast as they are answered, come on top of the load while it lasts."""
    in_quick: bool = True
    """Whether it is part of ``make chaos-quick``, by which it must be done in about 15 s."""
    prepare: Callable[[Preparation], AbstractContextManager[None]] | None = None
    """Entered before the topology starts and left after it has ended, when the fault is in its schedule at all."""
    check: Callable[[Seen], Sequence[str]] = _well
    """What is wrong with what was seen, in words; empty: nothing. Pure."""
    control: bool = False
    """The positive control: here something acknowledged must be lost, or the suite is too weak to see a loss."""


def targets_of(role: str) -> Callable[[Sequence[str]], Sequence[str]]:
    """All processes of a role."""
    return lambda names: [name for name in names if name.startswith(role)]
