"""The command: `python -m loadtest.run` does a whole load test, and `make load` is that."""

from __future__ import annotations

import contextlib
import resource
import sys
import time
from collections.abc import Sequence
from dataclasses import replace

from deploy.cluster import ClusterError
from loadtest.benchmark.progress import Progress
from loadtest.interrupting import interruptible
from loadtest.report import written
from loadtest.report.recorded import WARM_UP
from loadtest.run import locusts
from loadtest.run.asked import Asked, asked_of
from loadtest.run.facts import facts_of, new_directory, write_facts
from loadtest.run.locusts import LocustError
from loadtest.run.steps import LoadTest, ui_port_of, well
from loadtest.run.topology import Target, given, started

INTERRUPTED = 130
START_S, RECONCILE_S = 45.0, 30.0
"""About how long these take, for the estimate that is shown."""


def perform(asked: Asked, test: LoadTest, target: Target, ui_port: int) -> bool:
    """Warm up, load, reconcile; whether it was interrupted. What was sent is reconciled whatever happened."""
    interrupted = False
    facts = facts_of(asked, target.host, target.store)
    write_facts(facts, test.directory)
    try:
        if asked.warm_up_s:
            with test.progress.section("warm-up"):
                test.warm_up(target)
        facts = replace(facts, began_unix_s=time.time())
        if not asked.headless:
            test.progress.say(f"the web UI: http://{asked.ui_host}:{ui_port}")
        with test.progress.section("load"):
            test.load(target, ui_port)
    except KeyboardInterrupt:
        interrupted = True
    except LocustError as error:
        test.trouble(str(error))
    try:
        if target.store:
            with test.progress.section("reconcile"):
                for directory in (test.directory / WARM_UP, test.directory):
                    if any((directory / "journals").glob("*")):
                        test.reconcile(target, directory)
    except KeyboardInterrupt:
        test.trouble("The reconciliation was interrupted.")
    write_facts(facts, test.directory, interrupted=interrupted and asked.by_itself, notes=tuple(test.notes))
    return interrupted


def run(asked: Asked) -> int:
    """The whole of it; the exit status."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, hard), hard))
    ui_port = ui_port_of(asked)
    locusts.check(asked)
    directory = new_directory(asked)
    expected = {
        "start": 0.0 if asked.host else START_S,
        "warm-up": asked.warm_up_s,
        "load": asked.expected_s,
        "reconcile": RECONCILE_S,
    }
    progress = Progress(expected, sys.stderr)
    test = LoadTest(asked, directory, progress)
    with contextlib.ExitStack() as stack:
        if asked.host:
            target = given(asked)
        else:
            with progress.section("start"):
                progress.step("starting HAProxy, web instances and Cassandra")
                target = stack.enter_context(started(asked))
        progress.say(f"loading {target.host}")
        interrupted = perform(asked, test, target, ui_port)
        progress.step("stopping everything")
    progress.close()
    result = test.report()
    print(written.text(result))
    print(directory / written.REPORT)
    if test.failed or not well(result):
        return 1
    return INTERRUPTED if interrupted and asked.by_itself else 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says; the exit status."""
    asked = asked_of(arguments)
    with interruptible():
        try:
            return run(asked)
        except (LocustError, ClusterError, OSError) as error:
            print(error, file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
