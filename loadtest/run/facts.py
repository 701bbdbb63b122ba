"""The facts of a run for its report: what was asked for, when, and on what machine."""

from __future__ import annotations

import importlib.metadata
import time
from dataclasses import replace
from pathlib import Path

from loadtest.benchmark import environment
from loadtest.report.recorded import FACTS, Facts
from loadtest.run.asked import Asked

DIRECTORIES_MAX = 1_000
"""Runs of one name that may begin within one second."""


def facts_of(asked: Asked, host: str, store: str) -> Facts:
    """All that is known before the load begins."""
    commit, dirty = environment.commit()
    machine = environment.machine({"Locust": importlib.metadata.version("locust")})
    return Facts(
        title=asked.title,
        began_unix_s=time.time(),
        host=host,
        store=store,
        commit=commit,
        dirty=dirty,
        cpu=machine.cpu,
        cores=machine.cores,
        memory_gib=machine.memory_gib,
        kernel=machine.kernel,
        options=asked.options(),
        versions=machine.versions,
    )


def write_facts(facts: Facts, directory: Path, *, interrupted: bool = False, notes: tuple[str, ...] = ()) -> None:
    """Into the run's directory."""
    (directory / FACTS).write_text(replace(facts, interrupted=interrupted, notes=notes).to_json(), encoding="utf-8")


def new_directory(asked: Asked) -> Path:
    """A directory that is this run's alone, named by the time and the shape. Raises OSError."""
    asked.out.mkdir(parents=True, exist_ok=True)
    stem = f"{time.strftime('%Y%m%d-%H%M%S')}-{asked.title.replace(' ', '-')}"
    for number in range(1, DIRECTORIES_MAX + 1):
        directory = asked.out.resolve() / (stem if number == 1 else f"{stem}-{number}")
        try:
            directory.mkdir()
        except FileExistsError:
            continue
        (directory / "journals").mkdir()
        return directory
    raise FileExistsError(f"{asked.out} holds {DIRECTORIES_MAX:,} runs of this second")
