"""Load generators beside the whole stack, in turns: wrk, the benchmark's own, and Locust with its checks and journals.

All post the same usages, those that ``UsageUser`` draws: a longer body costs everybody behind the generator more. wrk has
a thousand of them and the benchmark's own generator, which sends one over and over, one of the mean length.

``python -m loadtest.benchmark.generators`` starts the durable stack, warms it, lets each generator drive it in a closed
loop, round after round, and prints requests per second, the generator's own CPU, and Locust as a part of wrk in the same round. Locust's
journals are reconciled with the store at the end. Exit status: 0 measured and all well, 1 not.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import secrets
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from deploy.cluster import ClusterError
from loadtest.baselines.subject import ROOT
from loadtest.benchmark import cpu
from loadtest.benchmark.subjects import Running, durable, storeless
from loadtest.benchmark.wrk import RATE
from loadtest.generator import Load, run
from loadtest.journal.bodies import Usages
from loadtest.reconcile import reconcile
from loadtest.report.tables import number

ROUNDS, SECONDS, CONNECTIONS, WARM_UP_S = 5, 8, 256, 40
BODIES = 1000
SPAWN_S = 3
"""Seconds at either end of a run of Locust that do not count: users come and go in them."""


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


def drive_wrk(running: Running, seconds: int, scratch: Path) -> tuple[float, float, float]:
    """By wrk, with one thread."""
    script = scratch / "post.lua"
    script.write_bytes(wrk_script(bodies()))
    url = f"http://127.0.0.1:{running.port}{running.path}"
    command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "-s", str(script), url]
    before = _children_s()
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 60, check=True)
    rate = float(RATE.findall(done.stdout)[0])
    return rate * seconds, rate, (_children_s() - before) / (rate * seconds) * 1e6


def drive_burst(running: Running, seconds: int, _scratch: Path) -> tuple[float, float, float]:
    """By the benchmark's own generator."""
    usages = sorted(bodies(), key=len)
    mean = sum(map(len, usages)) / len(usages)
    usage = min(usages, key=lambda each: abs(len(each) - mean))
    outcome = run(Load(running.port, CONNECTIONS, seconds, body=usage))
    return outcome.answered, outcome.per_second, outcome.cpu_s / outcome.requests * 1e6


def drive_locust(running: Running, seconds: int, scratch: Path) -> tuple[float, float, float]:
    """By one process of Locust: UsageUser, every answer checked, every request in a journal."""
    timeline = scratch / "timeline.json"
    command = [sys.executable, "-m", "locust", "-f", "loadtest/locustfile.py", "--headless", "--only-summary"]
    command += ["--host", f"http://127.0.0.1:{running.port}", "--users", str(CONNECTIONS), "--spawn-rate", "1000"]
    command += ["--run-time", f"{seconds + 2 * SPAWN_S}s", "--timeline", str(timeline), "--loglevel", "ERROR"]
    command += ["--journal", str(scratch / f"journals-{running.port}"), "UsageUser"]
    subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=seconds + 120, check=True)
    told = json.loads(timeline.read_text())
    counted = {
        int(second): sum(name["count"] for name in found["requests"].values())
        for second, found in told["seconds"].items()
    }
    within = sorted(second for second, count in counted.items() if count)[SPAWN_S:-SPAWN_S]
    requests = sum(counted[second] for second in within)
    own_s = sum(used.get(str(second), 0.0) for used in told["generators"].values() for second in within)
    return sum(counted.values()), requests / len(within), own_s / requests * 1e6


# Each gives all requests that it made, its rate, and its own CPU in µs per request.
GENERATORS: dict[str, Callable[[Running, int, Path], tuple[float, float, float]]] = {
    "wrk": drive_wrk,
    "burst": drive_burst,
    "Locust": drive_locust,
}


def in_turns(running: Running, rounds: int, seconds: int, scratch: Path) -> list[Drive]:
    """Each generator in each round, on a quiet machine; says each as it comes.

    Every other round goes backwards: what a store has to tidy up after one load it may do under the next.
    """
    drives = []
    for turn in range(rounds):
        for name in list(GENERATORS)[:: -1 if turn % 2 else 1]:
            if name == "wrk" and shutil.which("wrk") is None:
                continue
            cpu.wait_until_quiet([running.pids()])
            drives.append(_drive(name, turn, running, seconds, scratch))
            last = drives[-1]
            print(
                f"round {turn + 1} of {rounds}: {name} {number(last.per_second, 0)}/s, {last.cpu_us:.1f} µs",
                file=sys.stderr,
            )
    return drives


def _drive(name: str, turn: int, running: Running, seconds: int, scratch: Path) -> Drive:
    before = cpu.read(running.pids())
    requests, per_second, cpu_us = GENERATORS[name](running, seconds, scratch)
    service = cpu.used(before, cpu.read(running.pids()))
    return Drive(name, turn, per_second, cpu_us, {role: used_s / requests * 1e6 for role, used_s in service.items()})


def summary(title: str, drives: Sequence[Drive]) -> str:
    """Medians, and Locust as a part of wrk in the same round."""
    lines = [title]
    for name in GENERATORS:
        own = [drive for drive in drives if drive.generator == name]
        if own:
            rate, used = (statistics.median(getattr(drive, what) for drive in own) for what in ("per_second", "cpu_us"))
            roles = {role: statistics.median(drive.service_us[role] for drive in own) for role in own[0].service_us}
            service = ", ".join(f"{role} {used_us:.1f}" for role, used_us in roles.items())
            lines.append(f"  {name:8}{number(rate, 0):>9}/s  {used:5.1f} µs of its own CPU a request; {service}")
    by_turn = {(drive.generator, drive.turn): drive.per_second for drive in drives}
    parts = [by_turn["Locust", turn] / rate for (name, turn), rate in by_turn.items() if name == "wrk"]
    if parts:
        lines.append(
            f"  Locust ÷ wrk: {statistics.median(parts):.2f} ({min(parts):.2f}–{max(parts):.2f}, {len(parts)} rounds)"
        )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.benchmark.generators", description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS, metavar="N")
    parser.add_argument("--seconds", type=int, default=SECONDS, metavar="S", help="of each turn")
    parser.add_argument("--out", type=Path, default=Path("bench"), metavar="DIR")
    parser.add_argument("--cache", type=Path, default=Path(".cache"), metavar="DIR")
    said = parser.parse_args(arguments)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, hard), hard))
    said.cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=said.cache, prefix="generators-", ignore_cleanup_errors=True) as at:
        scratch = Path(at).resolve()
        try:
            with durable(scratch) as whole, storeless(scratch) as hollow:
                print(f"warming up for {WARM_UP_S} s", file=sys.stderr)
                for running, warm_up_s in ((whole, WARM_UP_S), (hollow, WARM_UP_S // 8)):
                    run(Load(running.port, CONNECTIONS, warm_up_s))
                drives = {
                    "the whole stack, durable": in_turns(whole, said.rounds, said.seconds, scratch),
                    "the stack without a store": in_turns(hollow, said.rounds, said.seconds, scratch),
                }
                where = whole.keyspace
                store = f"cassandra://{where.host}:{where.port}/{where.name}"
                counted = reconcile(scratch / f"journals-{whole.port}", store)
        except (ClusterError, OSError, subprocess.SubprocessError) as reason:
            print(getattr(reason, "stderr", None) or reason, file=sys.stderr)
            return 1
    said.out.mkdir(parents=True, exist_ok=True)
    document = {title: [asdict(drive) for drive in each] for title, each in drives.items()}
    (said.out / "generators.json").write_text(
        json.dumps(document | {"reconciliation": counted.as_dict()}, indent=1) + "\n"
    )
    print("\n".join(summary(title, each) for title, each in drives.items()))
    print(counted)
    return 0 if counted.ok else 1


def _children_s() -> float:
    return sum(os.times()[2:4])


if __name__ == "__main__":
    sys.exit(main())
