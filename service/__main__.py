"""The command line: serve, schema, check; import and export, which are clients."""

from __future__ import annotations

import argparse
import asyncio
import difflib
import logging
import os
import socket
import sys
from typing import TYPE_CHECKING

from service import __version__
from service.errors import StoreError
from service.logs import set_up_logs
from service.settings import SettingError, Settings, declared, read_settings, unknown, variable
from service.transfer.commands import add_commands

if TYPE_CHECKING:
    from service.store import Store

log = logging.getLogger("service")

EXIT_FAILED = 1
EXIT_WRONG_SETTING = 2


def main(arguments: list[str] | None = None) -> int:
    """Run one command; the exit status: 0, 1 when it failed, 2 when a setting or an argument is wrong."""
    options = parser().parse_args(arguments)
    if "client" in options:
        return int(options.client(options))  # of no setting's business: what it speaks to has its own
    given = {name: value for name, value in vars(options).items() if name.startswith("BUSYAPI_") and value is not None}
    try:
        settings = read_settings({**os.environ, **given})
    except SettingError as error:
        print(f"busyapi: {error}", file=sys.stderr)
        return EXIT_WRONG_SETTING
    set_up_logs(settings.log_format, settings.log_level)
    known = [variable(field) for field in declared()]
    for name in unknown(os.environ):
        likely = difflib.get_close_matches(name, known, n=1)
        log.warning("unknown setting", extra={"fields": {"name": name, "did_you_mean": likely[0] if likely else None}})
    try:
        return int(options.command(settings, options))
    except KeyboardInterrupt:
        return 130


def parser() -> argparse.ArgumentParser:
    """The arguments; the settings come from the environment."""
    names = "\n".join(f"  {variable(field)} (default {field.metadata['default'] or 'empty'!s})" for field in declared())
    top = argparse.ArgumentParser(
        prog="python -m service",
        description="BusyAPI: an ingest API that acknowledges an event only once it is on disk.",
        epilog=f"environment variables (README.md has their meaning, units and bounds):\n{names}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"busyapi {__version__}")
    commands = top.add_subparsers(title="commands", required=True, metavar="COMMAND")

    serve = commands.add_parser("serve", help="run a web instance until SIGTERM or Ctrl-C")
    serve.add_argument("--host", dest="BUSYAPI_LISTEN_HOST", metavar="ADDRESS", help="in place of BUSYAPI_LISTEN_HOST")
    serve.add_argument("--port", dest="BUSYAPI_LISTEN_PORT", metavar="PORT", help="in place of BUSYAPI_LISTEN_PORT")
    serve.add_argument("--workers", dest="BUSYAPI_WORKERS", metavar="N", help="in place of BUSYAPI_WORKERS")
    serve.set_defaults(command=run_serve)

    schema = commands.add_parser(
        "schema", help="create or update the store's tables; safe to repeat, and from several places"
    )
    schema.add_argument("--wait", type=float, default=60.0, metavar="S", help="wait so long for the store (default 60)")
    schema.add_argument(
        "--backfill",
        action="store_true",
        help="Cassandra: also list and count what instances of a release without the directory stored; at any time, again",
    )
    schema.set_defaults(command=run_schema)

    check = commands.add_parser(
        "check",
        help="what is an acknowledgement worth? Settings, store, schema, nodes; the exit status tells",
        description="Ask the store and each of its nodes what an acknowledged write is worth, and what to mend.",
        epilog="exit status: 0 an acknowledged write is fsynced, and all is in place; 1 it is not; 2 a wrong setting.",
    )
    check.set_defaults(command=run_check)
    add_commands(commands)
    return top


def run_serve(settings: Settings, _: argparse.Namespace) -> int:
    """Listen, say where, and serve."""
    from service.workers import run_workers

    if settings.listen_unix and settings.workers > 1:
        print("busyapi: BUSYAPI_LISTEN_UNIX is for one process, and BUSYAPI_WORKERS asks for more", file=sys.stderr)
        return EXIT_FAILED
    sockets: list[socket.socket] = []
    try:
        for _worker in range(settings.workers):
            sockets.append(_listen(settings, sockets))
    except OSError as error:
        print(
            f"busyapi: cannot listen on {settings.listen_host}:{settings.listen_port}: {error.strerror}",
            file=sys.stderr,
        )
        return EXIT_FAILED
    if settings.workers > 1:
        return run_workers(sockets, lambda bound, parent_gone: _serve(settings, bound, parent_gone))
    _serve(settings, sockets[0], None)
    return 0


def _listen(settings: Settings, bound: list[socket.socket]) -> socket.socket:
    from service.listening import listen

    port = bound[0].getsockname()[1] if bound else settings.listen_port
    return listen(settings.listen_host, port, shared=settings.workers > 1)


def _serve(settings: Settings, bound: socket.socket, parent_gone: int | None) -> None:
    from service.server import serve

    serve(settings, bound, parent_gone)


def run_schema(settings: Settings, options: argparse.Namespace) -> int:
    """Apply the schema, one line a step."""
    try:
        if settings.store.scheme == "cassandra":
            from service.store.cassandra_schema import apply_schema

            asyncio.run(apply_schema(settings, wait_s=options.wait, report=print, backfill=options.backfill))
        else:
            asyncio.run(_open_and_close(settings))
            print(f"{settings.store}: the schema is in place")
    except StoreError as error:
        print(f"busyapi: {error}", file=sys.stderr)
        return EXIT_FAILED
    return 0


def run_check(settings: Settings, _: argparse.Namespace) -> int:
    """Settings were read already; look at the store."""
    from service.check import check

    print("settings: right")
    try:
        findings = asyncio.run(check(settings))
    except StoreError as error:
        print(f"store {settings.store}: {error}", file=sys.stderr)
        return EXIT_FAILED
    print(f"store {settings.store}: reachable, schema in place")
    for line in findings.lines:
        print(line)
    for line in findings.warnings:
        print(f"warning: {line}", file=sys.stderr)
    for line in findings.faults:
        print(f"busyapi: {line}", file=sys.stderr)
    return EXIT_FAILED if findings.faults else 0


async def _open_and_close(settings: Settings) -> None:
    from service.store import open_store

    store: Store = open_store(settings)
    try:
        await store.open()
    finally:
        await store.close()


if __name__ == "__main__":
    sys.exit(main())
