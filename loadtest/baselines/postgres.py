"""PostgreSQL for the comparison, with its data in a directory that goes with it.

Settings: fsync and synchronous_commit on, as PostgreSQL has them by itself, so that a commit is on disk before it is
answered; shared_buffers and max_wal_size larger than the small defaults, as PostgreSQL's documentation advises for a
server that writes a lot; all else, commit_delay among it, as it is. It listens on a Unix socket alone.
"""

from __future__ import annotations

import os
import pwd
import re
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from loadtest.baselines.installing import output_of
from loadtest.baselines.processes import Process, Processes
from loadtest.baselines.subject import Missing, Say

DEBIAN_BINARIES = Path("/usr/lib/postgresql")
SETTINGS = {
    "fsync": "on",
    "synchronous_commit": "on",
    "shared_buffers": "512MB",
    "max_wal_size": "4GB",
    "listen_addresses": "",
}


@dataclass(frozen=True)
class Postgres:
    """A server that takes connections."""

    version: str
    process: Process
    url: str
    """For a client on this machine: key=value pairs."""
    psql: Path

    def value(self, query: str) -> str:
        """The one value of a query."""
        return output_of([str(self.psql), self.url, "-XAtc", query], self.process.log.parent, raises=OSError).strip()


def binaries() -> Path:
    """The directory with initdb and postgres, the newest of Debian's or that of PATH. Raises Missing."""
    found = sorted(
        (int(path.parents[1].name), path.parent)
        for path in DEBIAN_BINARIES.glob("*/bin/initdb")
        if path.parents[1].name.isdigit()
    )
    if found:
        return found[-1][1]
    on_path = shutil.which("initdb")
    if on_path is None:
        raise Missing("PostgreSQL's server is not installed (initdb)")
    return Path(on_path).resolve().parent


def owner() -> tuple[int, int] | None:
    """User and group that run it: None for whoever we are, and `postgres` when that is root, as it refuses to be run by root."""
    if os.geteuid() != 0:
        return None
    try:
        entry = pwd.getpwnam("postgres")
    except KeyError as error:
        raise Missing("PostgreSQL does not run as root, and there is no user `postgres`") from error
    return entry.pw_uid, entry.pw_gid


def is_reachable_by_all(directory: Path) -> bool:
    """Whether another user can get to a directory: every one on the way lets all pass."""
    return all(parent.stat().st_mode & 0o001 for parent in directory.resolve().parents)


@contextmanager
def postgres(group: Processes, say: Say) -> Iterator[Postgres]:
    """A new PostgreSQL whose data is in the group's directory. Raises Missing."""
    tools, user = binaries(), owner()
    data = group.directory / "postgres"
    data.mkdir(mode=0o700)
    if user is not None:
        if not is_reachable_by_all(group.directory):
            raise Missing(f"the user `postgres` cannot reach {group.directory.parent}")
        group.directory.chmod(0o711)
        os.chown(data, *user)
    found = re.search(r"\d+(\.\d+)*", output_of([str(tools / "postgres"), "--version"], tools))
    version = found[0] if found else ""
    # A socket's path is at most 107 bytes, which the directory of the data may exceed.
    with tempfile.TemporaryDirectory(prefix="busyapi-") as sockets:
        if user is not None:
            os.chown(sockets, *user)
        say(f"making a PostgreSQL {version} for the comparison")
        command = [str(tools / "initdb"), "-D", str(data), "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-locale"]
        initdb = group.start("initdb", command, os.environ, user=user)
        initdb.wait_until(lambda: initdb.popen.poll() == 0)
        command = [str(tools / "postgres"), "-D", str(data), "-k", sockets]
        for name, value in SETTINGS.items():
            command += ["-c", f"{name}={value}"]
        # SIGQUIT ends it at once, without writing out what is thrown away with it.
        quits = signal.SIGQUIT
        process = group.start("postgres", command, os.environ, user=user, ending=quits, death_signal=quits)
        server = Postgres(version, process, f"host={sockets} user=postgres dbname=postgres", tools / "psql")
        process.wait_until(lambda: is_taking_connections(server))
        try:
            yield server
        finally:
            process.stop()


def is_taking_connections(server: Postgres) -> bool:
    """Whether a query is answered."""
    try:
        return server.value("SELECT 1") == "1"
    except OSError:
        return False
