"""Go with PostgreSQL: see go_pgx/main.go and postgres.py."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from loadtest.baselines.installing import fingerprint, installed, output_of, program
from loadtest.baselines.postgres import postgres
from loadtest.baselines.processes import answers, processes
from loadtest.baselines.subject import HERE, Say, Subject

SOURCE = HERE / "go_pgx"
POOL_SIZE = 32
"""Connections. With 2 cores, 256 clients and loads of 2 s, 4 and 8 were clearly slower; 16, 32, 48, 64 and 90 were not to
be told apart on average (within a fifth, either way from one run to the next)."""


def version() -> str:
    """The version of pgx that go.mod names."""
    found = re.search(r"jackc/pgx/v5 v(\S+)", (SOURCE / "go.mod").read_text())
    return found[1] if found else ""


def binary(cache: Path, say: Say) -> Path:
    """The server's program, built from go_pgx/. Raises Missing."""
    go = program("go", also="/usr/local/go/bin")
    sources = [SOURCE / name for name in ("main.go", "go.mod", "go.sum")]

    def make(directory: Path) -> None:
        say(f"building the Go server with pgx {version()}")
        output_of([go, "build", "-trimpath", "-buildvcs=false", "-o", str(directory / "server"), "."], SOURCE)

    return installed(cache, f"go_pgx-{version()}-{fingerprint(sources)}", make) / "server"


@contextmanager
def go_pgx(cache: Path, say: Say = print, pool_size: int = POOL_SIZE) -> Iterator[Subject]:
    """Go's net/http and pgx before a PostgreSQL of its own, one INSERT for each request. Raises Missing."""
    server_binary = binary(cache, say)
    with processes(cache, "go_pgx") as group, postgres(group, say) as database:
        environment = {**os.environ, "DATABASE_URL": database.url, "POOL_SIZE": str(pool_size), "PORT": "0"}
        server = group.start("server", [str(server_binary)], environment)
        port = server.announced_port()
        server.wait_until(answers(port, "/readyz"))
        yield Subject(
            name=f"Go net/http, pgx {version()}, PostgreSQL {database.version}",
            port=port,
            pids={"server": [server.pid], "postgres": [database.process.pid]},
            count=lambda: int(database.value("SELECT count(*) FROM usages")),
            versions={"pgx": version(), "PostgreSQL": database.version},
        )
