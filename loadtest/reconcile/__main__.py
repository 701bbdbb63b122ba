"""``python -m loadtest.reconcile DIR --store URL``: journals against the store, on the command line."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from loadtest.journal import JournalError
from loadtest.reconcile.reconciling import LIST_MAX, reconcile
from loadtest.reconcile.sources import StoreUnreadable
from service.settings import SettingError

BAR = 24
DRAW_INTERVAL_S = 0.1
SAY_INTERVAL_S = 30.0
"""Without a terminal, what lasts says so this often."""


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status: 0 when all is well, 1 when anything is lost, phantom, duplicate, corrupt or torn, 2 when it cannot tell."""
    options = _parser().parse_args(arguments)
    bar = Bar(sys.stderr)
    try:
        result = reconcile(options.directory, options.store, bar.show, options.list)
        bar.erase()
        if options.json is not None:
            options.json.write_text(json.dumps(result.as_dict(), indent=1) + "\n")
    except (JournalError, StoreUnreadable, SettingError, OSError) as error:
        bar.erase()
        print(f"cannot reconcile: {error}", file=sys.stderr)
        return 2
    print(result)
    return 0 if result.ok else 1


class Bar:
    """How far it is: a bar on a terminal, else a line now and then."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._terminal = out.isatty()
        self._next_s = 0.0 if self._terminal else time.monotonic() + SAY_INTERVAL_S

    def show(self, share: float, text: str) -> None:
        """What is being done; ``share`` from 0 to 1."""
        now_s = time.monotonic()
        if now_s < self._next_s:
            return
        self._next_s = now_s + (DRAW_INTERVAL_S if self._terminal else SAY_INTERVAL_S)
        if self._terminal:
            filled = round(share * BAR)
            line = f"{'█' * filled}{'░' * (BAR - filled)} {share:4.0%}  {text}"
            self._out.write("\r\x1b[K" + line[: shutil.get_terminal_size().columns - 1])
        else:
            self._out.write(f"{share:4.0%}  {text}\n")
        self._out.flush()

    def erase(self) -> None:
        """Leave the terminal as it was."""
        if self._terminal:
            self._out.write("\r\x1b[K")
            self._out.flush()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m loadtest.reconcile",
        description="Compare what a load test was told with what is in the store.",
        epilog="Exit status: 0 all is well; 1 something is lost, phantom, duplicate or corrupt, or a journal is torn;"
        " 2 wrong usage, or journals or store cannot be read.",
    )
    parser.add_argument("directory", type=Path, metavar="DIR", help="where the journals are, at any depth")
    parser.add_argument(
        "--store",
        required=True,
        metavar="URL",
        help="sqlite:///PATH or cassandra://HOST:PORT/KEYSPACE, read directly and never written to",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result there as well")
    parser.add_argument(
        "--list", type=int, default=LIST_MAX, metavar="N", help="name so many faults of each sort (default %(default)s)"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
