"""Express, in memory: see express/server.js."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from loadtest.baselines.installing import fingerprint, installed, output_of, program
from loadtest.baselines.processes import answers, processes
from loadtest.baselines.subject import HERE, Say, Subject

SOURCE = HERE / "express"
PACKAGE = SOURCE / "package.json"
LOCK = SOURCE / "package-lock.json"


def version() -> str:
    """The version of Express that package.json names."""
    return str(json.loads(PACKAGE.read_text())["dependencies"]["express"])


def packages(cache: Path, say: Say) -> Path:
    """The node_modules of the lock file. Raises Missing."""
    npm = program("npm")

    def make(directory: Path) -> None:
        say(f"installing Express {version()} with npm")
        for file in (PACKAGE, LOCK):
            shutil.copy(file, directory)
        output_of([npm, "ci", "--omit=dev", "--ignore-scripts", "--no-audit", "--no-fund"], directory)

    return installed(cache, f"express-{version()}-{fingerprint([PACKAGE, LOCK])}", make) / "node_modules"


@contextmanager
def express(cache: Path, workers: int = 1, say: Say = print) -> Iterator[Subject]:
    """Express 5 with its usages in memory, in one process or in several that share the port. Raises Missing."""
    node = program("node")
    node_version = output_of([node, "--version"], SOURCE).strip().removeprefix("v")
    environment = {
        **os.environ,
        "NODE_ENV": "production",
        "NODE_PATH": str(packages(cache, say)),
        "PORT": "0",
        "WORKERS": str(workers),
    }
    with processes(cache, "express") as group:
        server = group.start("server", [node, str(SOURCE / "server.js")], environment)
        port = server.announced_port()
        server.wait_until(answers(port, "/readyz"))
        how = "one process" if workers == 1 else f"{workers} processes"
        yield Subject(
            name=f"Express {version()}, in memory, {how}",
            port=port,
            pids={"server": [server.pid]},
            versions={"Express": version(), "Node": node_version},
        )
