"""Makes what a server needs, once, in a directory of the cache, and tells why when it cannot be made."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from deploy.cluster.child import dies_with_parent
from loadtest.baselines.subject import Missing

TIMEOUT_S = 900.0


def program(name: str, *, also: str = "") -> str:
    """The path of a program on PATH or in ``also``. Raises Missing."""
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:{also}")
    if found is None:
        raise Missing(f"{name} is not installed")
    return found


def output_of(
    command: list[str],
    cwd: Path,
    environment: Mapping[str, str] | None = None,
    raises: type[Exception] = Missing,
) -> str:
    """What a command prints. Raises Missing, or what it is told, with the last line of its errors when it fails."""
    shown = f"{Path(command[0]).name} {' '.join(command[1:3])}".strip()
    try:
        done = subprocess.run(
            command,
            cwd=cwd,
            env=None if environment is None else dict(environment),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=TIMEOUT_S,
            check=False,
            preexec_fn=dies_with_parent(signal.SIGKILL),
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise raises(f"`{shown}` failed: {error}") from error
    if done.returncode:
        lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        raise raises(f"`{shown}` failed: {lines[-1].strip() if lines else f'exit status {done.returncode}'}")
    return done.stdout


def fingerprint(files: Iterable[Path]) -> str:
    """Eight hexadecimal digits that change when a file does."""
    digest = hashlib.sha256()
    for file in sorted(files):
        digest.update(f"{file.name}\0{file.stat().st_size}\0".encode() + file.read_bytes())
    return digest.hexdigest()[:8]


def installed(cache: Path, name: str, make: Callable[[Path], None]) -> Path:
    """The directory ``name`` of the cache, filled by ``make`` when it is not there; it appears whole or not at all."""
    target = cache.resolve() / name
    if target.is_dir():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{name}-") as place:
        unfinished = Path(place) / "unfinished"
        unfinished.mkdir()
        make(unfinished)
        try:
            unfinished.rename(target)
        except OSError:
            if not target.is_dir():  # else somebody else made it in the meantime
                raise
    return target
