"""The command: `python -m tests.chaos` is `make chaos`; faults under load, then the proof, and the exit status."""

from __future__ import annotations

import argparse
import importlib
import json
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from deploy.cluster.client import ROOT
from loadtest.benchmark.progress import Progress
from loadtest.interrupting import interruptible
from tests.chaos import table
from tests.chaos.faults import Fault
from tests.chaos.running import Outcome, Runner
from tests.chaos.schedule import Injection, problems, schedule
from tests.chaos.topology import Topology, process_names, topologies

PLACES = ("web", "cassandra", "haproxy", "network", "disk", "clocks", "clients")
MINUTES = 60.0
SEED = 1
OVERHEAD_S = 90.0
"""A topology's start, peak, end and comparison, about."""
QUICK_EACH_S = 13.0
"""A fault of the quick run, with what is around it, about."""
INTERRUPTED = 130
NODES = (1, 3)


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A run as it was asked for."""

    seed: int = SEED
    minutes: float = MINUTES
    nodes: int | None = None
    only: tuple[str, ...] = ()
    quick: bool = False
    sync: bool = True
    heap: str = ""
    out: Path = ROOT / ".cache" / "chaos"


def all_faults() -> list[Fault]:
    """Every fault of every place, in order."""
    modules = (importlib.import_module(f"tests.chaos.faults.{place}") for place in PLACES)
    return [fault for module in modules for fault in module.FAULTS]


def parser() -> argparse.ArgumentParser:
    """What may be said on the command line."""
    top = argparse.ArgumentParser(
        prog="make chaos (python -m tests.chaos)",
        description="Faults from a seeded schedule against HAProxy, web instances and a real Cassandra under load; then every "
        "row is read from Cassandra and compared with what was acknowledged. The seed and the commit replay a run.",
        epilog="Exit status: 0 nothing lost, and users saw nothing that they may not; 1 otherwise; 2 usage; 130 Ctrl-C, after "
        "which what there is is compared and printed all the same.",
    )
    top.add_argument("--seed", type=int, default=SEED, help=f"of the schedule (default {SEED})")
    top.add_argument(
        "--minutes",
        type=float,
        default=MINUTES,
        help=f"of faults, about; every kind comes once at least (default {MINUTES:g})",
    )
    top.add_argument(
        "--cassandra-nodes", type=int, choices=NODES, help="only topologies of so many nodes (default: both)"
    )
    top.add_argument(
        "--only", default="", metavar="FAULT,…", help="only these, or all of a place such as web; see --list"
    )
    top.add_argument("--quick", action="store_true", help="the short ones, each once, in less than five minutes")
    top.add_argument("--no-sync", action="store_true", help="journals are not synced before each send")
    top.add_argument(
        "--cassandra-heap", default="", metavar="SIZE", help="Java heap of a node (default: make cluster's)"
    )
    top.add_argument("--out", type=Path, default=Asked().out, metavar="DIR", help="for the runs (default .cache/chaos)")
    top.add_argument("--list", action="store_true", help="list the faults and end")
    return top


def asked_of(said: argparse.Namespace) -> Asked:
    """What a command line means."""
    return Asked(
        seed=said.seed,
        minutes=said.minutes,
        nodes=said.cassandra_nodes,
        only=tuple(name for name in said.only.split(",") if name),
        quick=said.quick,
        sync=not said.no_sync,
        heap=said.cassandra_heap,
        out=said.out,
    )


def chosen(faults: Sequence[Fault], asked: Asked) -> list[Fault]:
    """Those that were asked for. Raises ValueError for a name that is neither a fault's nor a place's."""
    known = {name for fault in faults for name in (fault.name, fault.place)}
    unknown = [name for name in asked.only if name not in known]
    if unknown:
        raise ValueError(f"there is no fault {', '.join(unknown)}; --list lists them")
    if asked.only:
        return [fault for fault in faults if fault.name in asked.only or fault.place in asked.only]
    return [fault for fault in faults if fault.in_quick or not asked.quick]


def planned(faults: Sequence[Fault], asked: Asked) -> list[tuple[Topology, tuple[Injection, ...]]]:
    """Each topology with its schedule. The minutes go to those that several faults share, by how long one round takes."""
    found = topologies(faults, asked.nodes)
    rounds_s = {topology.name: sum(_expected_s(fault) for fault in topology.faults) for topology in found}
    shared_s = sum(rounds_s[topology.name] for topology in found if not topology.faults[0].needs.alone)
    plans = []
    for topology in found:
        alone = topology.faults[0].needs.alone or asked.quick
        seconds = 0.0 if alone else asked.minutes * 60 * rounds_s[topology.name] / shared_s
        injections = schedule(asked.seed, topology.faults, process_names(topology.nodes), seconds)
        plans.append((topology, injections))
    return plans


def _expected_s(fault: Fault) -> float:
    return fault.lasts_s + sum(fault.length_s) / 2 + fault.after_s + 1.5


def run(asked: Asked, faults: Sequence[Fault]) -> int:
    """All topologies one after the other; the exit status."""
    not_run = {fault.name: reason for fault in faults if (reason := fault.needs.reason())}
    plans = planned([fault for fault in faults if fault.name not in not_run], asked)
    if not plans:
        sys.stderr.write("chaos: none of these faults can be done here\n")
        return 2
    directory = asked.out.resolve() / f"{time.strftime('%Y%m%d-%H%M%S')}-seed{asked.seed}"
    directory.mkdir(parents=True)
    expected = {
        topology.name: OVERHEAD_S
        + (len(injections) * QUICK_EACH_S if asked.quick else max(each.ends_s for each in injections))
        for topology, injections in plans
    }
    progress = Progress(expected, sys.stderr)
    current = [""]

    def section(text: str) -> None:
        current[0] = text
        progress.step(text)

    runner = Runner(
        directory=directory,
        say=progress.say,
        section=section,
        tick=lambda: progress.tick(current[0]),
        quick=asked.quick,
        sync=asked.sync,
        heap=asked.heap,
    )
    progress.say(
        f"seed {asked.seed}, {sum(len(injections) for _, injections in plans)} injections planned; {directory}"
    )
    outcomes: list[Outcome] = []
    for topology, injections in plans:
        with progress.section(topology.name):
            outcomes.append(runner.run(topology, injections))
        if outcomes[-1].interrupted:
            break
    progress.close()
    return finish(asked, outcomes, not_run, directory)


def finish(asked: Asked, outcomes: Sequence[Outcome], not_run: dict[str, str], directory: Path) -> int:
    """Print and write down what it came to; the exit status."""
    verdicts = [outcome.verdict for outcome in outcomes]
    result = table.text(verdicts, not_run)
    commit = commit_of()
    date = time.strftime("%Y-%m-%d")
    record = {
        "date": date,
        "commit": commit,
        "seed": asked.seed,
        "minutes": asked.minutes,
        "quick": asked.quick,
        "only": list(asked.only),
        "machine": f"{platform.machine()}, Linux {platform.release()}, Python {platform.python_version()}",
        "not_run": not_run,
        "outcomes": [outcome.as_dict() for outcome in outcomes],
    }
    (directory / "record.json").write_text(json.dumps(record, indent=1) + "\n")
    (directory / "table.txt").write_text(f"seed {asked.seed}, commit {commit}\n{result}\n")
    (directory / "record.md").write_text(table.markdown(verdicts, date, commit, asked.seed))
    sys.stdout.write(f"{result}\nseed {asked.seed}, commit {commit}; everything else is in {directory}\n")
    if any(outcome.interrupted for outcome in outcomes):
        return INTERRUPTED
    return 0 if verdicts and all(verdict.ok for verdict in verdicts) else 1


def commit_of() -> str:
    """The commit that is checked out, with a plus when files differ from it."""
    commit = _git("rev-parse", "--short=10", "HEAD")
    return (commit or "unknown") + ("+" if _git("status", "--porcelain") else "")


def _git(*words: str) -> str:
    done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says; the exit status."""
    said = parser().parse_args(arguments)
    faults = all_faults()
    wrong = problems(faults)
    if wrong:
        sys.stderr.write("".join(f"chaos: {text}\n" for text in wrong))
        return 2
    if said.list:
        for fault in faults:
            reason = fault.needs.reason()
            sys.stdout.write(f"{fault.name:<28} {fault.does}{f' (not here: {reason})' if reason else ''}\n")
        return 0
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, hard), hard))
    try:
        asked = asked_of(said)
        faults = chosen(faults, asked)
    except ValueError as error:
        sys.stderr.write(f"chaos: {error}\n")
        return 2
    with interruptible():
        return run(asked, faults)


if __name__ == "__main__":
    sys.exit(main())
