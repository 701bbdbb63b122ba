"""The state directory: what the cluster says of itself in state.json, and who holds the directory."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from deploy.cluster.errors import ClusterError
from deploy.cluster.plan import KEYSPACE, CassandraPorts

STATE = "state.json"
CONTROL = "control.sock"


@dataclass(frozen=True, slots=True)
class ProcessState:
    """A process as state.json tells of it. One that ended keeps its last pid, with ``running`` false."""

    role: str
    name: str
    address: str
    port: int
    pid: int
    log: str
    running: bool


def write_json(path: Path, document: dict[str, Any]) -> None:
    """Replace a file whole: a reader sees the old text or the new one, never a part."""
    unfinished = path.with_name(f"{path.name}.{os.getpid()}")
    unfinished.write_text(json.dumps(document, indent=2) + "\n")
    unfinished.replace(path)


def read_state(state_dir: Path) -> dict[str, Any]:
    """state.json of a running cluster. Raises ClusterError when there is none."""
    try:
        document: dict[str, Any] = json.loads((state_dir / STATE).read_text())
    except FileNotFoundError:
        raise ClusterError(f"no cluster runs in {state_dir} (there is no {STATE})") from None
    return document


def saved_ports(state_dir: Path) -> CassandraPorts | None:
    """The Cassandra ports of the data in the directory; None when there is no data."""
    try:
        return CassandraPorts(**json.loads(_ports_file(state_dir).read_text()))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def save_ports(state_dir: Path, ports: CassandraPorts) -> None:
    """Remember the ports beside the data, for the next start on it."""
    _ports_file(state_dir).parent.mkdir(parents=True, exist_ok=True)
    write_json(_ports_file(state_dir), asdict(ports))


def _ports_file(state_dir: Path) -> Path:
    return state_dir / "cassandra" / "ports.json"


@contextlib.contextmanager
def held(state_dir: Path) -> Iterator[None]:
    """Hold the directory for one cluster; what a dead one left of its state is cleared. Raises ClusterError if held.

    The kernel lets go of the lock however its holder ends, so a lock that can be had means nobody runs.
    """
    state_dir.mkdir(parents=True, exist_ok=True)
    with (state_dir / "lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ClusterError(f"a cluster runs in {state_dir} already: stop it or take another --state-dir") from None
        _clear(state_dir)
        try:
            yield
        finally:
            _clear(state_dir)


def _clear(state_dir: Path) -> None:
    for name in (STATE, CONTROL):
        (state_dir / name).unlink(missing_ok=True)


def document(
    urls: dict[str, str | None], nodes: list[str], cql_port: int, processes: list[ProcessState]
) -> dict[str, Any]:
    """The content of state.json."""
    return {
        **urls,
        "pid": os.getpid(),
        "cassandra": {"hosts": nodes, "port": cql_port, "keyspace": KEYSPACE},
        "processes": [asdict(process) for process in processes],
    }


@contextlib.contextmanager
def short_path(path: Path) -> Iterator[str]:
    """Another name of a socket, short enough for the kernel's 108 bytes wherever the state directory is."""
    if len(os.fsencode(path)) < 100 or not Path("/proc/self/fd").is_dir():
        yield str(path)
        return
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)
