"""Cassandra's jars from Maven Central, kept in a cache that runs share, and the Java to run them on."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import platform
import re
import shutil
import subprocess
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path

from deploy.cluster.cassandra import java_major
from deploy.cluster.child import ended_in_time, spawn
from deploy.cluster.errors import ClusterError

JAVA_MAJOR = 17
DOWNLOAD_TIMEOUT_S = 900
OTHERS = re.compile(r"-(osx|windows|linux)-(x86_64|aarch_64|riscv64)\.jar$")


def cassandra_version(pom: str) -> str:
    """The version that the pom names."""
    found = re.search(r"<cassandra\.version>([^<]+)</cassandra\.version>", pom)
    if not found:
        raise ClusterError("cassandra/pom.xml has no <cassandra.version>")
    return found[1]


def is_for(jar: str, system: str, machine: str) -> bool:
    """Whether a jar is of use here: for all platforms, or for this one."""
    found = OTHERS.search(jar)
    if not found:
        return True
    here = {"Linux": "linux", "Darwin": "osx"}.get(system, "")
    return found[1] == here and found[2] == {"arm64": "aarch_64", "aarch64": "aarch_64"}.get(machine, machine)


def cache_directory(root: Path, environment: Mapping[str, str]) -> Path:
    """Where downloads are kept: CASSANDRA_CACHE_DIR, or .cache in the repository."""
    return Path(environment.get("CASSANDRA_CACHE_DIR") or root / ".cache").resolve()


def find_java(environment: Mapping[str, str]) -> str | None:
    """A Java 17: JAVA_HOME's, the one on PATH, or one of the system's; None when there is none."""
    homes = [environment.get("JAVA_HOME", ""), *sorted(map(str, Path("/usr/lib/jvm").glob("*17*")))]
    candidates = [f"{home}/bin/java" for home in homes if home]
    on_path = shutil.which("java", path=environment.get("PATH"))
    if on_path:
        candidates.insert(1 if homes[0] else 0, on_path)
    for java in candidates:
        if Path(java).is_file() and _major(java) == JAVA_MAJOR:
            return java
    return None


def _major(java: str) -> int | None:
    try:
        answer = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return java_major(answer.stderr + answer.stdout)


async def cassandra_jars(root: Path, say: Callable[[str], None]) -> Path:
    """The directory of Cassandra's jars; downloaded when they are not there yet.

    It appears whole or not at all: an interrupted download leaves nothing that a later run takes for complete,
    and of two runs at once one downloads and the other waits.
    """
    pom = root / "cassandra" / "pom.xml"
    version = cassandra_version(pom.read_text())
    home = cache_directory(root, os.environ) / f"cassandra-{version}"
    if (home / "lib").is_dir():
        return home / "lib"
    home.parent.mkdir(parents=True, exist_ok=True)
    async with _locked(home.with_name(f"{home.name}.lock"), say):
        if not (home / "lib").is_dir():
            await _download(pom, home, say)
    return home / "lib"


async def _download(pom: Path, home: Path, say: Callable[[str], None]) -> None:
    if not shutil.which("mvn"):
        raise ClusterError(
            "Cassandra is not downloaded yet, and Maven (mvn) is missing: `make system-packages` installs it"
        )
    unfinished, log = (home.with_name(f"{home.name}.{kind}") for kind in ("unfinished", "log"))
    shutil.rmtree(unfinished, ignore_errors=True)
    log.unlink(missing_ok=True)
    say(f"downloading {home.name} from Maven Central (about 70 MB, once; log: {log})")
    command = ["mvn", "-B", "-ntp", "-f", str(pom), "dependency:copy-dependencies"]
    command += [f"-DoutputDirectory={unfinished}/lib", "-DincludeScope=runtime"]
    process = await spawn(command, os.environ, pom.parent, log)
    try:
        async with asyncio.timeout(DOWNLOAD_TIMEOUT_S):
            while not await ended_in_time(process, 10):
                say(f"downloading: {len(list(unfinished.glob('lib/*.jar')))} jars in place")
    except TimeoutError:
        raise ClusterError(f"the download of Cassandra took over {DOWNLOAD_TIMEOUT_S} s; see {log}") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode != 0 or not list(unfinished.glob("lib/cassandra-all-*.jar")):
        raise ClusterError(f"Maven could not download Cassandra (exit status {process.returncode}); see {log}")
    for jar in unfinished.glob("lib/*.jar"):
        if not is_for(jar.name, platform.system(), platform.machine()):
            jar.unlink()
    shutil.rmtree(home, ignore_errors=True)
    unfinished.replace(home)


@contextlib.asynccontextmanager
async def _locked(path: Path, say: Callable[[str], None]) -> AsyncIterator[None]:
    with path.open("a") as lock:
        told = False
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not told:
                    say("another run is downloading Cassandra; waiting for it")
                told = True
                await asyncio.sleep(0.5)
        yield
