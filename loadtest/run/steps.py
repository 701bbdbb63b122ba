"""The steps of a load test, each from files to files: warm up, load, reconcile, report."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from deploy.cluster import probes
from deploy.cluster.client import ROOT
from loadtest.baselines.processes import port_picker
from loadtest.benchmark.progress import Progress
from loadtest.report import written
from loadtest.report.recorded import CPU, GENERATOR, RECONCILE, TIMELINE, WARM_UP, Run, read_run
from loadtest.report.summary import Summary
from loadtest.run import locusts
from loadtest.run.asked import Asked, warm_up_command
from loadtest.run.locusts import Locust, LocustError, Locusts
from loadtest.run.sampling import Sampler
from loadtest.run.topology import Target
from loadtest.run.watching import Watch

RECONCILED = (0, 1)
"""Exit statuses of the reconciliation that mean it was done."""


@dataclass
class LoadTest:
    """One run, its directory, and what went otherwise than it should on the way."""

    asked: Asked
    directory: Path
    progress: Progress
    notes: list[str] = field(default_factory=list)
    failed: bool = False
    """Something could not be done, or is wrong in the warm-up: what a report of figures alone would not show."""

    def warm_up(self, target: Target) -> None:
        """A load before the one that counts, with journals of its own. Raises LocustError when it could not be."""
        directory = self.directory / WARM_UP
        (directory / "journals").mkdir(parents=True)
        words = warm_up_command(self.asked, target.host, directory)
        self._during(Locusts([Locust("the warm-up", words, directory / "locust.log")]), "warming up", directory)

    def load(self, target: Target, ui_port: int) -> None:
        """The load, until it has ended or Ctrl-C; its CPU times. Raises LocustError."""
        processes = locusts.start(self.asked, target.host, self.directory, ui_port, port_picker().free())
        sampler = Sampler(lambda: {GENERATOR: processes.pids, **target.pids()})
        try:
            with sampler:
                self._during(
                    processes, "loading" if self.asked.by_itself else "press start in the browser", self.directory
                )
        finally:
            processes.stop()
            sampler.write(self.directory / CPU)

    def reconcile(self, target: Target, directory: Path) -> None:
        """Compare the journals of a directory with the store; what is wrong there is in its reconcile.json."""
        what = "the warm-up" if directory.name == WARM_UP else "the load"
        self.progress.say(f"comparing what {what} was told with what is stored")
        self.progress.close()
        command = [sys.executable, "-m", "loadtest.reconcile", str(directory / "journals")]
        command += ["--store", target.store, "--json", str(directory / RECONCILE)]
        status = subprocess.run(command, cwd=ROOT, check=False).returncode
        if status not in RECONCILED:
            self.trouble(f"The reconciliation of {what} could not be done: exit status {status}.")

    def report(self) -> Run:
        """Write the report of what is there."""
        run = read_run(self.directory)
        written.write(run, self.directory)
        return run

    def trouble(self, text: str) -> None:
        """Something that did not work: said at once, in the report, and in the exit status."""
        self.failed = True
        self.notes.append(text)
        self.progress.say(text)

    def _during(self, processes: Locusts, what: str, directory: Path) -> None:
        """Show what it does until it has ended."""
        watch = Watch(directory / TIMELINE)
        self.progress.step(what)

        def tick() -> None:
            self.progress.tick(", ".join(part for part in (what, watch.line()) if part))

        try:
            processes.wait(tick)
        finally:
            processes.stop()


def well(run: Run) -> bool:
    """Whether nothing failed, nothing acknowledged is missing, and anything was measured at all. Rates do not count."""
    return Summary(run).nothing_wrong


def ui_port_of(asked: Asked) -> int:
    """The port for the web UI, a free one for 0. Raises LocustError when it is taken."""
    if asked.headless:
        return 0
    if not asked.ui_port:
        return port_picker().free()
    if not probes.is_free([asked.ui_host], asked.ui_port):
        raise LocustError(
            f"port {asked.ui_port} for the web UI is taken on {asked.ui_host}; --ui-port 0 takes a free one"
        )
    return asked.ui_port
