"""The command: `python -m loadtest.benchmark` measures every row in one run and writes what it found."""

from __future__ import annotations

import argparse
import resource
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from loadtest.benchmark import endurance, plan, report, scaling, sections, streaming, table
from loadtest.benchmark.bench import Bench, Section
from loadtest.benchmark.progress import Progress
from loadtest.benchmark.results import Results
from loadtest.generator import GeneratorMissing, build
from loadtest.interrupting import HEARD, interruptible

INTERRUPTED = 130
RUN: Mapping[str, Section] = {
    "rounds": sections.the_rounds,
    "messages": sections.messages,
    "idle": sections.idle,
    "curve": sections.curve,
    "headline": sections.headline,
    "batches": sections.batches,
    "stream": streaming.stream,
    "stall": endurance.stall,
    "memory": endurance.memory,
    "scaling": scaling.scaling,
    "sqlite": sections.sqlite,
}


def parser() -> argparse.ArgumentParser:
    """What may be said on the command line."""
    top = argparse.ArgumentParser(
        prog="python -m loadtest.benchmark",
        description="Measures this service against what it is compared with, in turns, counts afterwards, and writes "
        "results.json, report.html and results.md. Rows and sections: " + ", ".join(plan.NAMES) + ".",
        epilog="Exit status: 0 measured and verified, whatever the targets say; 1 something was lost, or could not be "
        f"measured though it should have been; 2 usage; {INTERRUPTED} interrupted, with what was measured until then.",
    )
    top.add_argument("--quick", action="store_true", help="the first three rows alone, in under three minutes")
    top.add_argument("--rounds", type=_at_least(int, 1), metavar="N", help="of each interleaving (default 5; quick 3)")
    top.add_argument("--seconds", type=_at_least(float, 0.1), metavar="S", help="of each measurement (default 4)")
    top.add_argument("--connections", type=_at_least(int, 1), metavar="N", help="of each measurement (default 256)")
    top.add_argument("--warmup-seconds", type=_at_least(float, 0.1), metavar="S", help="of the durable stack (40)")
    top.add_argument("--memory-seconds", type=_at_least(float, 1), metavar="S", help="of full load (default 600)")
    top.add_argument("--stream-megabytes", type=_at_least(float, 1), metavar="MB", help="through one connection (1000)")
    top.add_argument("--stall-seconds", type=_at_least(float, 1), metavar="S", help="that the store is away (15)")
    top.add_argument("--share", type=_at_least(float, 0.01), metavar="PART", help="of a core, for scaling (0.1)")
    top.add_argument("--only", type=_names, default=(), metavar="NAME,...", help="these rows and sections alone")
    top.add_argument("--skip", type=_names, default=(), metavar="NAME,...", help="not these")
    top.add_argument("--out", type=Path, default=Path("bench"), metavar="DIR", help="for the results (default bench)")
    top.add_argument("--cache", type=Path, default=Path(".cache"), metavar="DIR", help="for what is built and stored")
    return top


def _at_least(kind: type[int | float], least: float) -> Callable[[str], float]:
    def value(text: str) -> float:
        number = kind(text)
        if not number >= least:
            raise argparse.ArgumentTypeError(f"{text} is less than {least}")
        return number

    return value


def _names(text: str) -> tuple[str, ...]:
    return tuple(name for name in text.split(",") if name)


def plan_of(said: argparse.Namespace) -> plan.Plan:
    """The plan that a command line means. Raises ValueError."""
    asked = {
        "rounds": said.rounds,
        "seconds": said.seconds,
        "connections": said.connections,
        "warmup_s": said.warmup_seconds,
        "memory_s": said.memory_seconds,
        "stream_mb": said.stream_megabytes,
        "stall_s": said.stall_seconds,
        "share": said.share,
    }
    begun = plan.quick_plan() if said.quick else plan.Plan()
    begun = replace(begun, **{name: value for name, value in asked.items() if value is not None})
    return plan.make_plan(begun, said.only, said.skip)


def measure(bench: Bench) -> bool:
    """Run the plan's sections; whether each came to its end. One that fails does not keep the others from running."""
    clean = True
    for name in bench.plan.sections:
        with bench.progress.section(name):
            try:
                RUN[name](bench)
            except Exception as error:  # noqa: BLE001 - what was measured before must not be lost with it
                clean = False
                traceback.print_exc()
                bench.found.missing[name] = f"it failed: {error}"
                bench.progress.say(f"{name} failed: {error}")
    return clean


def write(results: Results, out: Path) -> None:
    """The document and its two readable forms."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "results.json").write_text(results.to_json(), encoding="utf-8")
    (out / "report.html").write_text(report.html(results), encoding="utf-8")
    (out / "results.md").write_text(table.markdown(results), encoding="utf-8")


def run(the_plan: plan.Plan, cache: Path, out: Path) -> int:
    """Measure, write and print; the exit status."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, hard), hard))
    cache.mkdir(parents=True, exist_ok=True)
    progress = Progress(the_plan.expected_s(), sys.stderr)
    interrupted, clean = False, False
    with interruptible(), tempfile.TemporaryDirectory(dir=cache, prefix="benchmark-", ignore_cleanup_errors=True) as at:
        bench = Bench(the_plan, cache, Path(at).resolve(), progress)
        try:
            clean = measure(bench)
        except KeyboardInterrupt:
            interrupted = True
            bench.found.missing.setdefault("", "the run was interrupted")
            bench.found.notes.append("The run was interrupted: what follows the last measurement is not there.")
        finally:
            for number in HEARD:
                signal.signal(number, signal.SIG_IGN)  # what is left takes seconds, and nothing may stay behind
            progress.step("stopping everything")
            bench.subjects.close()
            progress.close()
        results = bench.results()
    write(results, out)
    print(table.text(results))
    print(f"{out / 'report.html'}\n{out / 'results.json'}")
    if interrupted:
        return INTERRUPTED
    ours_missing = {"durable", "storeless", "sqlite", "sqlite_cores"} & bench.subjects.missing.keys()
    return 0 if clean and not bench.measurer.wrong and not ours_missing else 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says; the exit status."""
    top = parser()
    said = top.parse_args(arguments)
    try:
        the_plan = plan_of(said)
    except ValueError as error:
        top.error(str(error))
    try:
        build()
    except GeneratorMissing as reason:
        print(reason, file=sys.stderr)
        return 1
    try:
        return run(the_plan, said.cache, said.out)
    except KeyboardInterrupt:
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
