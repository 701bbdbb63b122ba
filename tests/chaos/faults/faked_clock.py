"""Runs a command with a clock that a file sets: libfaketime, before the web instance that it becomes.

    python -m tests.chaos.faults.faked_clock DIRECTORY COMMAND...

The file is DIRECTORY/<port of the web instance>; what it holds, such as +1h, is added to the time of day. The steady clock is
left as it is, as no step of a real clock moves that one either.

``time.sleep`` is another one there (``slept/sitecustomize.py``): libfaketime makes an error of Python's own, whose deadline is
absolute, and threads that sleep would end by it, among them the one by which the driver connects anew.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

LIBRARIES = (
    "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1",
    "/usr/lib/aarch64-linux-gnu/faketime/libfaketimeMT.so.1",
    "/usr/lib64/faketime/libfaketimeMT.so.1",
    "/usr/lib/faketime/libfaketimeMT.so.1",
)
RIGHT = "+0"
SLEPT = Path(__file__).parent / "slept"


def library() -> str | None:
    """Where libfaketime is, None when it is not installed."""
    return next((path for path in LIBRARIES if Path(path).exists()), None)


def set_clock(file: Path, offset: str) -> None:
    """From now on, within a second, the instance's clock is off by so much."""
    unfinished = file.with_suffix(".new")
    unfinished.write_text(f"{offset}\n")
    unfinished.replace(file)


def main() -> None:
    """Become the command."""
    directory, command = Path(sys.argv[1]), sys.argv[2:]
    found = library()
    if found is None:
        raise SystemExit("libfaketime is not installed")
    environment = dict(os.environ)
    port = environment.get("BUSYAPI_LISTEN_PORT")
    if port and command[-1] == "serve":
        file = directory / port
        set_clock(file, RIGHT)
        environment |= {
            "LD_PRELOAD": found,
            "PYTHONPATH": os.pathsep.join(filter(None, (str(SLEPT), environment.get("PYTHONPATH")))),
            "FAKETIME_TIMESTAMP_FILE": str(file),
            "FAKETIME_CACHE_DURATION": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "DONT_FAKE_MONOTONIC": "1",
        }
    os.execvpe(command[0], command, environment)


if __name__ == "__main__":
    main()
