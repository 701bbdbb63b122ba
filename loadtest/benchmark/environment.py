"""Where a run takes place: machine, versions, and the state of the repository."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence

import psutil

from deploy.cluster.jars import cassandra_version, find_java
from loadtest.baselines.subject import ROOT
from loadtest.benchmark.results import Machine

PACKAGES = ("fastapi", "uvicorn", "uvloop", "httptools", "msgspec", "cassandra-driver")
COMMANDS: Mapping[str, tuple[str, ...]] = {
    "HAProxy": ("haproxy", "-v"),
    "Node": ("node", "--version"),
    "Go": ("go", "version"),
    "wrk": ("wrk", "--version"),
    "C compiler": ("cc", "--version"),
}
ALSO = "/usr/sbin:/usr/local/sbin:/usr/local/go/bin"
VERSION = re.compile(r"\d+\.\d+(?:[.\w-]*\w)?")


def machine(versions: Mapping[str, str]) -> Machine:
    """The machine that this runs on, with these versions beside those that can be asked for."""
    return Machine(
        cpu=cpu_model(),
        cores=os.cpu_count() or 1,
        memory_gib=round(psutil.virtual_memory().total / 1024**3, 1),
        kernel=f"{platform.system()} {platform.release()}",
        versions={**software(), **versions},
    )


def software() -> dict[str, str]:
    """Versions by the name of the software; what is not there is left out."""
    found = {"Python": platform.python_version()}
    for package in PACKAGES:
        found[package] = importlib.metadata.version(package)
    found["Cassandra"] = cassandra_version((ROOT / "cassandra" / "pom.xml").read_text())
    commands = dict(COMMANDS)
    java = find_java(os.environ)
    if java is not None:
        commands["Java"] = (java, "-version")
    for name, command in commands.items():
        version = version_in(output(command))
        if version:
            found[name] = version
    return found


def commit() -> tuple[str, bool]:
    """The commit that is checked out, and whether files differ from it; an empty name without a repository."""
    name = output(("git", "-C", str(ROOT), "rev-parse", "--short=12", "HEAD")).strip()
    if not re.fullmatch("[0-9a-f]{7,40}", name):  # what git says where there is no repository
        return "", False
    return name, bool(output(("git", "-C", str(ROOT), "status", "--porcelain")).strip())


def cpu_model() -> str:
    """The processor's name."""
    found = re.search(r"^Model name:\s*(.+)$", output(("lscpu",)), re.MULTILINE)
    return found[1].strip() if found else platform.processor() or platform.machine()


def version_in(text: str) -> str:
    """The first version number in what a program says of itself."""
    found = VERSION.search(text)
    return found[0] if found else ""


def output(command: Sequence[str]) -> str:
    """What a command prints, errors too; nothing where it cannot be run."""
    program = shutil.which(command[0], path=f"{os.environ.get('PATH', '')}:{ALSO}")
    if program is None:
        return ""
    try:
        done = subprocess.run([program, *command[1:]], capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout + done.stderr
