"""Load generators beside the whole stack, in turns of seconds: wrk, and Locust with its checks and journals.

Both post the same usages, those that ``UsageUser`` draws: a longer body costs everybody behind the generator more. Both run all
the time, each with connections of its own, and are let drive in turns (SIGCONT, SIGSTOP): this machine's speed changes
within ten seconds by more than what is to be told apart. What is counted are the service's own counts of answers.

``python -m loadtest.benchmark.generators`` starts the durable stack, warms it, lets both drive it in a closed
loop, round after round, and prints requests per second, the generator's own CPU, and Locust as a part of wrk in the same round. Locust's
journals are reconciled with the store at the end. Exit status: 0 measured and all well, 1 not, 130 Ctrl-C.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import resource
import secrets
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from deploy.cluster import ClusterError
from deploy.cluster.child import dies_with_parent
from loadtest.baselines.subject import ROOT
from loadtest.benchmark import cpu
from loadtest.benchmark.subjects import Running, durable, storeless
from loadtest.generator import Load, run
from loadtest.interrupting import interruptible
from loadtest.journal import JournalError
from loadtest.journal.bodies import Usages
from loadtest.reconcile import Reconciliation, reconcile
from loadtest.reconcile.sources import StoreUnreadable
from loadtest.report.tables import number

ROUNDS, SECONDS, CONNECTIONS, WARM_UP_S = 30, 3.0, 256, 40
BODIES = 1000
SETTLE_S = 0.5
"""A turn's beginning, which does not count: answers lie there that nobody took."""
START_TIMEOUT_S, END_TIMEOUT_S = 30.0, 60.0
INTERRUPTED = 130
SECONDS_MAX = 8.0
"""A generator stands for two turns at most, and HAProxy closes what was idle for 20 s."""
_STORED = re.compile(r'^busyapi_requests_total{[^}]*status="201"[^}]*} ([0-9.e+]+)$', re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Drive:
    """What one generator drove in one turn: requests/s, its own CPU and the service's, in µs per request."""

    generator: str
    turn: int
    per_second: float
    cpu_us: float
    service_us: dict[str, float]


def bodies() -> list[bytes]:
    """Usages as a journal's requests have them, of a token of their own."""
    usages = Usages(secrets.randbits(64))
    return [usages.body(number) for number in range(BODIES)]


def wrk_script(usages: Sequence[bytes]) -> bytes:
    """What has wrk post these in turn: they are requests before it begins, so that this costs it little."""
    texts = b",\n".join(b"[==[%b]==]" % usage for usage in usages)
    return (
        b"""\
local bodies = {
%b
}
local requests, at = {}, 0
wrk.headers["Content-Type"] = "application/json"
function init()
  for number, body in ipairs(bodies) do requests[number] = wrk.format("POST", nil, nil, body) end
end
function request()
  at = at %% #requests + 1
  return requests[at]
end
"""
        % texts
    )


def commands(running: Running, connections: int, scratch: Path) -> dict[str, list[str]]:
    """The generators' command lines: both send without an end."""
    script = scratch / "post.lua"
    script.write_bytes(wrk_script(bodies()))
    host = f"http://127.0.0.1:{running.port}"
    locust = [sys.executable, "-m", "locust", "-f", "loadtest/locustfile.py", "--headless", "--only-summary"]
    locust += ["--host", host, "--users", str(connections), "--spawn-rate", "1000", "--loglevel", "ERROR"]
    locust += ["--journal", str(scratch / f"journals-{running.port}"), "UsageUser"]
    wrk = ["wrk", "-t1", f"-c{connections}", "-d1h", "-s", str(script), f"{host}{running.path}"]
    return {"wrk": wrk, "Locust": locust}


class Generator:
    """A generator that runs, and drives only while it is let."""

    def __init__(self, name: str, process: subprocess.Popen[bytes]) -> None:
        self.name = name
        self.process = process

    def go(self) -> None:
        """Drive."""
        self.process.send_signal(signal.SIGCONT)

    def stand(self) -> None:
        """Drive no more. Raises OSError when it has ended, as it must not."""
        if self.process.poll() is not None:
            raise OSError(f"{self.name} ended with exit status {self.process.returncode}")
        self.process.send_signal(signal.SIGSTOP)


@contextlib.contextmanager
def started(name: str, command: Sequence[str], running: Running, log: Path) -> Iterator[Generator]:
    """A generator that has made its connections and stands; in the end it is asked to finish, and waited for."""
    before = stored(running)
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,  # Ctrl-C is for who started both
            preexec_fn=dies_with_parent(signal.SIGKILL),  # noqa: PLW1509 - one system call, no locks
        )
    generator = Generator(name, process)
    try:
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while stored(running) - before < 10_000:
            if process.poll() is not None or time.monotonic() > deadline_s:
                raise OSError(f"{name} does not drive:\n{log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.2)
        generator.stand()
        yield generator
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            process.send_signal(signal.SIGCONT)
            try:
                process.wait(END_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def stored(running: Running) -> float:
    """How many usages the web instances have stored so far, by their own count of 201s."""
    total = 0.0
    for port in running.web_ports:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            total += sum(map(float, _STORED.findall(answer.read().decode())))
    return total


def in_turns(running: Running, rounds: int, connections: int, seconds: float, scratch: Path) -> list[Drive]:
    """Each generator in each round, every other round the other one first; says each round as it comes."""
    drives = []
    with contextlib.ExitStack() as stack:
        generators = [
            stack.enter_context(started(name, command, running, scratch / f"{name}-{running.port}.log"))
            for name, command in commands(running, connections, scratch).items()
        ]
        for turn in range(rounds):
            in_turn = generators[:: -1 if turn % 2 else 1]
            found = [_drive(generator, turn, running, seconds) for generator in in_turn]
            drives += found
            said = ", ".join(f"{each.generator} {number(each.per_second, 0)}/s {each.cpu_us:.1f} µs" for each in found)
            print(f"round {turn + 1} of {rounds}: {said}", file=sys.stderr)
    return drives


def _drive(generator: Generator, turn: int, running: Running, seconds: float) -> Drive:
    roles = {**running.pids(), generator.name: [generator.process.pid]}
    generator.go()
    time.sleep(SETTLE_S)
    cpu_before, count_before, began_s = cpu.read(roles), stored(running), time.monotonic()
    time.sleep(seconds)
    count, took_s, cpu_after = stored(running) - count_before, time.monotonic() - began_s, cpu.read(roles)
    generator.stand()
    if not count:
        raise OSError(f"{generator.name} stored nothing in {took_s:.1f} s")
    used_us = {role: used_s / count * 1e6 for role, used_s in cpu.used(cpu_before, cpu_after).items()}
    own_us = used_us.pop(generator.name)
    return Drive(generator.name, turn, count / took_s, own_us, used_us)


def summary(title: str, drives: Sequence[Drive]) -> str:
    """Medians, and Locust as a part of wrk in the same round."""
    lines = [title]
    for name in dict.fromkeys(drive.generator for drive in drives):
        own = [drive for drive in drives if drive.generator == name]
        rate, used = (statistics.median(getattr(drive, what) for drive in own) for what in ("per_second", "cpu_us"))
        roles = {role: statistics.median(drive.service_us[role] for drive in own) for role in own[0].service_us}
        service = ", ".join(f"{role} {used_us:.1f}" for role, used_us in roles.items())
        lines.append(f"  {name:8}{number(rate, 0):>9}/s  {used:5.1f} µs of its own CPU a request; {service}")
    by_turn = {(drive.generator, drive.turn): drive.per_second for drive in drives}
    parts = [by_turn["Locust", turn] / rate for (name, turn), rate in by_turn.items() if name == "wrk"]
    if len(parts) > 1:
        low, _, high = statistics.quantiles(parts, n=4)
        lines.append(
            f"  Locust ÷ wrk: {statistics.median(parts):.3f} (half of {len(parts)} rounds: {low:.2f}–{high:.2f}; "
            f"least and most: {min(parts):.2f}, {max(parts):.2f})"
        )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.benchmark.generators", description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS, metavar="N")
    parser.add_argument("--connections", type=int, default=CONNECTIONS, metavar="N", help="Locust's users as well")
    parser.add_argument("--seconds", type=float, default=SECONDS, metavar="S", help="of each turn")
    parser.add_argument("--out", type=Path, default=Path("bench"), metavar="DIR")
    parser.add_argument("--cache", type=Path, default=Path(".cache"), metavar="DIR")
    said = parser.parse_args(arguments)
    if not 0 < said.seconds <= SECONDS_MAX:
        parser.error(f"--seconds is above 0 and at most {SECONDS_MAX:g}")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, hard), hard))
    said.cache.mkdir(parents=True, exist_ok=True)
    said.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=said.cache, prefix="generators-", ignore_cleanup_errors=True) as at:
        try:
            with interruptible():
                counted = measured(said, Path(at).resolve())
        except (ClusterError, OSError, JournalError, StoreUnreadable) as reason:
            print(reason, file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            return INTERRUPTED
    print(counted)
    return 0 if counted.ok else 1


def measured(said: argparse.Namespace, scratch: Path) -> Reconciliation:
    """Measure, print and write down what came of it, and compare Locust's journals with the store."""
    with durable(scratch) as whole, storeless(scratch) as hollow:
        print(f"warming up for {WARM_UP_S} s", file=sys.stderr)
        document: dict[str, object] = {}
        for running, warm_up_s in ((whole, WARM_UP_S), (hollow, WARM_UP_S // 8)):
            run(Load(running.port, said.connections, warm_up_s))
        for title, running in (("the whole stack, durable", whole), ("the stack without a store", hollow)):
            drives = in_turns(running, said.rounds, said.connections, said.seconds, scratch)
            print(summary(title, drives), flush=True)
            document[title] = [asdict(drive) for drive in drives]
            (said.out / "generators.json").write_text(json.dumps(document, indent=1) + "\n")
        where = whole.keyspace
        counted = reconcile(scratch / f"journals-{whole.port}", f"cassandra://{where.host}:{where.port}/{where.name}")
    (said.out / "generators.json").write_text(
        json.dumps(document | {"reconciliation": counted.as_dict()}, indent=1) + "\n"
    )
    return counted


if __name__ == "__main__":
    sys.exit(main())
