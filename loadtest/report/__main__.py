"""The command: `python -m loadtest.report DIR` writes the report of a run's directory anew."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from loadtest.report import written
from loadtest.report.recorded import read_run


def main(arguments: Sequence[str] | None = None) -> int:
    """Write report.html, results.json and timeline.csv, and print the table; the exit status."""
    top = argparse.ArgumentParser(prog="python -m loadtest.report", description=__doc__)
    top.add_argument("directory", type=Path, metavar="DIR", help="of a run: loadtest/runs/…")
    directory: Path = top.parse_args(arguments).directory
    if not directory.is_dir():
        top.error(f"{directory} is no directory")
    try:
        run = read_run(directory)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    written.write(run, directory)
    print(written.text(run))
    print(directory / written.REPORT)
    return 0


if __name__ == "__main__":
    sys.exit(main())
