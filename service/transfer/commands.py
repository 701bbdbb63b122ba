"""The commands import and export: arguments in, an exit status out."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import signal
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TextIO

from service.transfer.errors import GaveUp, WrongUse
from service.transfer.exporting import Export
from service.transfer.importing import Import
from service.transfer.progress import Progress
from service.transfer.reading import Refused
from service.transfer.retrying import Patience
from service.transfer.source import STDIN, Ahead, File, batches, files
from service.transfer.wire import Target, target
from service.transfer.writing import Output, csv_rows, ndjson

DONE, SOME_REFUSED, WRONG_USE, GAVE_UP, INTERRUPTED = 0, 1, 2, 3, 130
URL = "http://127.0.0.1:8080"
GIVE_UP_S = 300.0

IMPORT = """Send the usages of files to the service, each line once.

NDJSON: a JSON object a line, or {"idempotency_key": K, "usage": {...}} to bring a key along. CSV: a header row, then a
usage a row; a column idempotency_key is the key. Every other line gets a key made of the file's name, the line's number
and its bytes: run the same command again after an interruption, and what is stored already is not stored twice."""
IMPORT_EPILOG = """exit status: 0 all lines are stored, 1 some were refused, 2 a wrong argument (nothing was sent), 3 gave up,
130 interrupted."""
EXPORT = """Write the usages of a span of time to a file, in the order in which they were received.

The file is there once it is whole: until then it has another name. NDJSON has the service's own lines; CSV the columns
id, received_at, patientId, timestamp, medication and usage, the last the whole usage. import --exported reads both."""
EXPORT_EPILOG = "exit status: 0 the file is whole, 2 a wrong argument, 3 gave up, 130 interrupted."


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare import and export, as commands that read no setting of the service."""
    raw = argparse.RawDescriptionHelpFormatter
    one = commands.add_parser(
        "import",
        help="send usages from NDJSON or CSV files to a running service; may be repeated",
        description=IMPORT,
        epilog=IMPORT_EPILOG,
        formatter_class=raw,
    )
    one.add_argument("files", nargs="+", metavar="FILE", help="a file, or - for standard input")
    _common(one)
    one.add_argument("--format", choices=("ndjson", "csv"), help="in place of what the file's name ends in")
    one.add_argument("--name", help="what keys are made of, in place of the file's name")
    one.add_argument("--exported", action="store_true", help="the files were written by export")
    one.add_argument("--refused", metavar="FILE", help="where refused lines go, as NDJSON, in place of standard error")
    one.set_defaults(client=run_import)

    other = commands.add_parser(
        "export",
        help="write the usages of a running service to a file",
        description=EXPORT,
        epilog=EXPORT_EPILOG,
        formatter_class=raw,
    )
    _common(other)
    other.add_argument("--from", dest="from_", metavar="TIME", help="RFC 3339, inclusive (default: the beginning)")
    other.add_argument("--to", dest="until", metavar="TIME", help="RFC 3339, exclusive (default: now)")
    other.add_argument("--format", choices=("ndjson", "csv"), default="ndjson", help="default ndjson")
    other.add_argument("--output", metavar="FILE", default=STDIN, help="default: standard output")
    other.set_defaults(client=run_export)


def _common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--url", default=URL, help=f"where the service is (default {URL})")
    parser.add_argument(
        "--give-up",
        type=float,
        default=GIVE_UP_S,
        metavar="S",
        help=f"seconds without any success after which to give up (default {GIVE_UP_S:g})",
    )


def run_import(options: argparse.Namespace) -> int:
    """Import; the exit status."""
    try:
        inputs = files(options.files, options.name, options.format)
        with _refused_lines(options.refused) as refused:
            return asyncio.run(_import(options, inputs, refused))
    except WrongUse as error:
        return _fail(error, WRONG_USE)
    except GaveUp as error:
        return _fail(error, GAVE_UP)
    except KeyboardInterrupt:
        return INTERRUPTED


def _refused_lines(path: str | None) -> contextlib.AbstractContextManager[TextIO | None]:
    if path is None:
        return contextlib.nullcontext(None)
    try:
        return Path(path).open("w", encoding="utf-8")
    except OSError as error:
        raise WrongUse(f"{path}: {error.strerror}") from None


async def _import(options: argparse.Namespace, inputs: list[File], refused_lines: TextIO | None) -> int:
    size = sum(each.size for each in inputs) if all(each.size for each in inputs) else 0
    seen = 0

    def read(count: int) -> None:
        nonlocal seen
        seen += count

    def state() -> tuple[int, float | None, str]:
        counts = run.counts
        words = f"; {counts.created:,} created, {counts.duplicate:,} duplicate, {counts.refused:,} refused"
        return counts.settled, min(seen / size, 1.0) if size else None, words

    def refuse(refused: Refused) -> None:
        if refused_lines is None:
            field = f" ({refused.field})" if refused.field else ""
            progress.note(f"{refused.file}:{refused.number}: {refused.code}{field}: {refused.detail}")
            return
        fields = {name: getattr(refused, name) for name in ("file", "number", "code", "field", "detail")}
        print(
            json.dumps({"line" if name == "number" else name: value for name, value in fields.items()}),
            file=refused_lines,
        )

    progress = Progress(sys.stderr, state)
    source = Ahead(batches(inputs, read, exported=options.exported))
    patience = Patience(options.give_up, time.monotonic)
    run = Import(target(options.url), source, patience, refuse, progress.note)
    _on_interrupt(run.stop, progress)
    gave_up: GaveUp | None = None
    async with _shown(progress):
        try:
            await run.run()
        except GaveUp as error:
            gave_up = error
    print(_summary(run, progress.elapsed_s), flush=True)
    if gave_up is not None or run.stop.is_set():
        print(_resume(options, run), file=sys.stderr)
    if gave_up is not None:
        raise gave_up
    if run.stop.is_set():
        return INTERRUPTED
    return SOME_REFUSED if run.counts.refused else DONE


@contextlib.asynccontextmanager
async def _shown(progress: Progress) -> AsyncIterator[None]:
    showing = asyncio.ensure_future(progress.run())
    try:
        yield
    finally:
        showing.cancel()
        await asyncio.gather(showing, return_exceptions=True)


def _summary(run: Import, elapsed_s: float) -> str:
    counts = run.counts
    rate = counts.settled / max(elapsed_s, 1e-3)
    worth = f"; acknowledged: {run.ack}" if run.ack else ""
    return (
        f"{counts.settled:,} lines in {elapsed_s:.1f} s ({rate:,.0f}/s): {counts.created:,} created, "
        f"{counts.duplicate:,} duplicate, {counts.refused:,} refused{worth}"
    )


def _resume(options: argparse.Namespace, run: Import) -> str:
    unknown = (
        f" Of {run.unsettled:,} lines that were sent it is not known whether they are stored." if run.unsettled else ""
    )
    again = "Send the same input" if STDIN in options.files else "Run the same command"
    return f"busyapi: not all was imported.{unknown} {again} again to finish: nothing is stored twice."


def _on_interrupt(stop: asyncio.Event, progress: Progress) -> None:
    """The first Ctrl-C ends in good order, a second one at once."""
    loop = asyncio.get_running_loop()

    def interrupted() -> None:
        stop.set()
        loop.remove_signal_handler(signal.SIGINT)
        progress.note("busyapi: waiting for what was sent; Ctrl-C again ends at once")

    loop.add_signal_handler(signal.SIGINT, interrupted)


def run_export(options: argparse.Namespace) -> int:
    """Export; the exit status."""
    path = None if options.output == STDIN else Path(options.output)
    try:
        to = target(options.url)
        output = Output(path, sys.stdout.buffer)
        try:
            asyncio.run(_export(options, to, output))
            output.commit()
        finally:
            output.discard()
    except WrongUse as error:
        return _fail(error, WRONG_USE)
    except GaveUp as error:
        return _fail(error, GAVE_UP)
    except KeyboardInterrupt:
        return INTERRUPTED
    return DONE


async def _export(options: argparse.Namespace, to: Target, output: Output) -> None:
    def state() -> tuple[int, float | None, str]:
        return run.rows, min(run.rows / run.expected, 1.0) if run.expected else None, ""

    write = (csv_rows if options.format == "csv" else ndjson)(output.write)
    progress = Progress(sys.stderr, state)
    patience = Patience(options.give_up, time.monotonic)
    run = Export(to, options.from_, options.until, patience, write, progress.note)
    async with _shown(progress):
        await run.run()
    print(f"{run.rows:,} usages in {progress.elapsed_s:.1f} s", file=sys.stderr)


def _fail(error: Exception, status: int) -> int:
    print(f"busyapi: {error}", file=sys.stderr)
    return status
