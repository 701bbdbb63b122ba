"""The load generator's binary: compiled once for each state of its source, into .cache/."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import tempfile
from pathlib import Path

_HERE = Path(__file__).resolve().parent
_SOURCES = (_HERE / "burst.c", _HERE / "parts.h", _HERE / "items.h")
_FLAGS = ("-std=c11", "-O2", "-Wall", "-Wextra")
CACHE = _HERE.parent.parent / ".cache" / "generator"


class GeneratorMissing(Exception):
    """The load generator cannot be built here; the text says why and what to do."""


def build() -> Path:
    """The program, compiled when there is none of this source yet. Raises GeneratorMissing without a C compiler."""
    digest = hashlib.sha256(" ".join(_FLAGS).encode())
    for source in _SOURCES:
        digest.update(source.read_bytes())
    program = CACHE / f"burst-{digest.hexdigest()[:16]}"
    if program.exists():
        return program
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise GeneratorMissing("The load generator needs a C compiler (cc or gcc): apt-get install gcc libc6-dev")
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as folder:
        made = Path(folder) / "burst"
        command = [compiler, *_FLAGS, "-o", str(made), str(_SOURCES[0])]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode:
            raise GeneratorMissing(f"The load generator does not compile here:\n{result.stderr.strip()}")
        made.replace(program)  # whole or not there, also when two build it at once
    return program
