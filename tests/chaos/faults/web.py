"""Web instances: killed at any moment and at named points, restarted in turn, standing still, out of memory."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from deploy.cluster.probes import haproxy_view
from tests.chaos.faults import Context, Failures, Fault, Needs, Preparation, Seen, Sees, targets_of
from tests.chaos.points import OPERATIONS, POINTS, arm

ROUNDS, ROUNDS_QUICK = 20, 1
HAPROXY_SERVER_TIMEOUT_S = 10.0
"""What an instance had when it stopped is answered by HAProxy after so long: its ``timeout server``."""
OUT_WITHIN_S = 8.0
"""Two checks in a row that fail, each every half second and after two seconds at most, and a turn of HAProxy's on a busy machine."""
POINT_WITHIN_S = 45.0
"""A DELETE is sent of what was acknowledged, so none comes while Cassandra is away, which another fault may have seen to."""
LIMIT_ABOVE_BYTES = 24 << 20
"""What an instance may take on top of what it has, before the kernel ends it."""
FILL_CONNECTIONS = 64
FILL_BYTES = 1_000_000
FILL_TIMEOUT_S = 10.0
GROUPS = (Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup"))
"""Where the kernel's memory controller is, of version 1 and of version 2."""


def kill(context: Context) -> None:
    """End it at once; it may be amid anything."""
    context.pause(context.random.random())
    context.cluster.kill(context.target)


def start(context: Context) -> None:
    """Start it where it was; ready on return."""
    if not context.cluster.process(context.target).running:
        context.cluster.start(context.target)


@contextlib.contextmanager
def with_points(preparation: Preparation) -> Iterator[None]:
    """Web instances that can be told to end at a named point of a write; without being told they are as ever."""
    directory = preparation.state_dir / "points"
    directory.mkdir(exist_ok=True)
    preparation.env["CHAOS_POINTS"] = str(directory)
    *before, last = preparation.service_command
    preparation.service_command = (*before, "tests.chaos.points" if last == "service" else last)
    yield


def at_point(point: str) -> Fault:
    """``kill -9`` of an instance by itself, when a group has come to this point: of usages, with keys or without, or of messages."""

    def inject(context: Context) -> None:
        process = context.cluster.process(context.target)
        context.seen["operation"] = operation = context.random.choice(list(OPERATIONS))
        context.kept["armed"] = arm(context.cluster.state_dir / "points", process.port, point, operation)
        if not context.until(lambda: not context.cluster.process(context.target).running, POINT_WITHIN_S):
            raise RuntimeError(f"it did not come to {point} of {operation} within {POINT_WITHIN_S:g} s")

    def heal(context: Context) -> None:
        if "armed" in context.kept:
            context.kept["armed"].unlink(missing_ok=True)
        start(context)

    return Fault(
        name=f"web-kill-{point}",
        place="web",
        does=f"kill -9 of a web instance {POINTS[point]}",
        inject=inject,
        heal=heal,
        sees=Sees(answered_within_s=HAPROXY_SERVER_TIMEOUT_S + 2),
        length_s=(0.5, 2.0),
        lasts_s=4.0,
        takes=frozenset({"web"}),
        targets=targets_of("web"),
        prepare=with_points,
        in_quick=point == "after-send",
    )


def rolling(context: Context) -> None:
    """SIGTERM to each instance in turn, the next once the one before serves again; as often as there are rounds."""
    rounds = ROUNDS_QUICK if context.quick else ROUNDS
    names = [process.name for process in context.cluster.processes("web")]
    context.injections = 0
    statuses = set()
    for _ in range(rounds):
        for name in names:
            if context.stopping.is_set():
                return
            statuses.add(context.cluster.stop(name))
            context.cluster.start(name)
            context.injections += 1
    context.seen["exit_statuses"] = sorted(statuses)


def all_started(context: Context) -> None:
    """Whoever does not run is started."""
    for process in context.cluster.processes("web"):
        if not process.running:
            context.cluster.start(process.name)


def exited_well(seen: Seen) -> list[str]:
    """Each ended by itself with 0."""
    statuses = seen.get("exit_statuses", [0])
    return [] if statuses == [0] else [f"exit statuses {statuses}, not 0"]


def stop_still(context: Context) -> None:
    """SIGSTOP: its connections stay open, and nothing is answered."""
    context.kept["haproxy"] = context.cluster.process("haproxy").pid
    context.cluster.signal(context.target, signal.SIGSTOP)
    context.kept["stopped_s"] = time.monotonic()


def go_on(context: Context) -> None:
    """SIGCONT, and HAProxy uses it again. What HAProxy took it for until then is noted."""
    with contextlib.suppress(Exception):
        if "stopped_s" in context.kept:
            context.seen |= {"stood_s": round(time.monotonic() - context.kept.pop("stopped_s"), 1), "taken_for": "?"}
            context.seen["taken_for"] = _taken_for(context)
    with contextlib.suppress(Exception):
        context.cluster.signal(context.target, signal.SIGCONT)
    context.cluster.wait_until_ready()


def _taken_for(context: Context) -> str:
    """What the target is to HAProxy: "up" or "down"; "?" when it does not say, "new" when it was started in the meantime."""
    haproxy = context.cluster.process("haproxy")
    if not haproxy.running or haproxy.pid != context.kept["haproxy"]:
        return "new"  # it takes every server for up at first
    address = urlsplit(context.cluster.stats_url)
    view = asyncio.run(haproxy_view(address.hostname or "", address.port or 80))
    if context.target not in view.known:
        return "?"
    return "up" if context.target in view.up else "down"


def taken_out(seen: Seen) -> list[str]:
    """Who stands still for long enough is not asked any more."""
    if seen.get("stood_s", 0.0) < OUT_WITHIN_S or seen["taken_for"] in ("down", "new"):
        return []
    return [f"HAProxy took it for {seen['taken_for']} when it had stood still for {seen['stood_s']:g} s"]


def ended_by_kernel(seen: Seen) -> list[str]:
    """The limit was met, or nothing is shown."""
    return (
        [] if seen.get("ended_by_kernel", True) else ["the kernel did not end the instance: its limit was not reached"]
    )


def memory_controller() -> Path | None:
    """The directory in which a group with a limit can be made."""
    for root in GROUPS:
        limit = "memory.limit_in_bytes" if root.name == "memory" else "memory.max"
        try:
            probe = root / f"busyapi-probe-{os.getpid()}"
            probe.mkdir()
        except OSError:
            continue
        try:
            if (probe / limit).exists():
                return root
        finally:
            probe.rmdir()
    return None


def no_controller() -> str:
    """Why memory cannot be limited here."""
    return "" if memory_controller() else "the kernel's memory controller cannot be used here"


def limit_memory(context: Context) -> None:
    """Little memory above what it has, and then many large bodies at once, straight to its port."""
    root = memory_controller()
    if root is None:
        raise RuntimeError(no_controller())
    process = context.cluster.process(context.target)
    group = root / f"busyapi-{process.pid}"
    group.mkdir()
    context.kept["group"] = group
    rss_bytes = _rss_bytes(process.pid)
    if root.name == "memory":
        (group / "memory.limit_in_bytes").write_text(str(LIMIT_ABOVE_BYTES))
    else:
        # Pages that were taken before stay with the group that took them, in both versions.
        (group / "memory.max").write_text(str(LIMIT_ABOVE_BYTES))
    (group / "cgroup.procs").write_text(str(process.pid))
    _fill(context, process.address, process.port)
    context.seen["rss_before_bytes"] = rss_bytes
    context.seen["ended_by_kernel"] = not context.cluster.process(context.target).running


def lift_limit(context: Context) -> None:
    """The group goes, the instance is started where it was ended."""
    start(context)
    group: Path | None = context.kept.get("group")
    if group is not None and group.exists():
        for pid in (group / "cgroup.procs").read_text().split():
            (group.parent / "cgroup.procs").write_text(pid)
        context.until(lambda: not (group / "cgroup.procs").read_text(), 5)
        group.rmdir()


def _fill(context: Context, address: str, port: int) -> None:
    """Bodies of a megabyte on many connections, all but their last byte, then the end of all."""
    head = f"POST /messages HTTP/1.1\r\nHost: x\r\nContent-Length: {FILL_BYTES + 14}\r\n\r\n".encode()
    body = head + b'{"message": "' + b"x" * (FILL_BYTES - 1)

    def send() -> None:
        with contextlib.suppress(OSError), socket.create_connection((address, port), FILL_TIMEOUT_S) as connection:
            connection.settimeout(FILL_TIMEOUT_S)
            connection.sendall(body)
            held.wait(FILL_TIMEOUT_S)

    held = threading.Event()
    threads = [threading.Thread(target=send) for _ in range(FILL_CONNECTIONS)]
    for thread in threads:
        thread.start()
    context.until(lambda: not context.cluster.process(context.target).running, FILL_TIMEOUT_S / 2)
    held.set()
    for thread in threads:
        thread.join()
    time.sleep(0.2)


def _rss_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


FAULTS = (
    Fault(
        name="web-kill",
        place="web",
        does="kill -9 of a web instance at any moment, started again",
        inject=kill,
        heal=start,
        sees=Sees(answered_within_s=HAPROXY_SERVER_TIMEOUT_S + 2),
        length_s=(0.2, 3.0),
        lasts_s=3.0,
        takes=frozenset({"web"}),
        targets=targets_of("web"),
        weight=4,
    ),
    *(at_point(point) for point in POINTS),
    Fault(
        name="web-rolling",
        place="web",
        does=f"SIGTERM to every web instance in turn at full rate, {ROUNDS} rounds: no request fails",
        inject=rolling,
        heal=all_started,
        sees=Sees(failures=Failures.NONE, answered_within_s=5.0),
        lasts_s=ROUNDS * 2 * 5.5,
        rounds=ROUNDS * 2,
        full_rate=True,
        check=exited_well,
    ),
    Fault(
        name="web-stop",
        place="web",
        does="SIGSTOP of a web instance for 1 to 30 s: HAProxy takes it out",
        inject=stop_still,
        heal=go_on,
        sees=Sees(answered_within_s=HAPROXY_SERVER_TIMEOUT_S + 3, refused_within_s=HAPROXY_SERVER_TIMEOUT_S),
        length_s=(1.0, 30.0),
        lasts_s=2.0,
        after_s=HAPROXY_SERVER_TIMEOUT_S + 1,
        takes=frozenset({"web"}),
        targets=targets_of("web"),
        check=taken_out,
        in_quick=False,
    ),
    Fault(
        name="web-memory",
        place="web",
        does="a web instance at its memory limit, which the kernel enforces",
        inject=limit_memory,
        heal=lift_limit,
        sees=Sees(answered_within_s=HAPROXY_SERVER_TIMEOUT_S + 2),
        needs=Needs(root=True, missing=no_controller),
        length_s=(0.5, 2.0),
        lasts_s=10.0,
        takes=frozenset({"web"}),
        targets=targets_of("web"),
        check=ended_by_kernel,
        in_quick=False,
    ),
)
