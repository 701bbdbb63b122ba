"""The command: `python -m deploy.cluster` runs a cluster in the foreground; scale, stop, start, kill steer one."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import shlex
import signal
import sys
from pathlib import Path

from deploy.cluster import state
from deploy.cluster.client import ROOT
from deploy.cluster.control import ask, served
from deploy.cluster.errors import ClusterError
from deploy.cluster.jars import cassandra_jars
from deploy.cluster.plan import SERVICE, Options
from deploy.cluster.supervisor import Supervisor
from deploy.cluster.tls import make_certificate

ASK_TIMEOUT_S = 240.0


def parser() -> argparse.ArgumentParser:
    """What may be said on the command line."""
    top = argparse.ArgumentParser(
        prog="python -m deploy.cluster",
        description="HAProxy, web instances and a real Cassandra on loopback, in the foreground, until Ctrl-C. "
        "Data stays in the state directory from run to run.",
        epilog="Exit status: 0 stopped as asked; 1 it could not start, or something had to be killed to stop it; 2 usage.",
    )
    top.add_argument("--web", type=int, default=2, metavar="N", help="web instances (default 2)")
    top.add_argument(
        "--cassandra-nodes", type=int, default=1, metavar="N", help="nodes on 127.0.0.1 and up (default 1)"
    )
    top.add_argument("--port", type=int, default=8080, help="public HTTP port, 0 is a free one (default 8080)")
    top.add_argument("--https", action="store_true", help="HTTPS too, with a self-signed certificate made for it")
    top.add_argument("--certificate", type=Path, metavar="PEM", help="HTTPS too, with this certificate and key")
    top.add_argument("--https-port", type=int, default=0, metavar="PORT", help="public HTTPS port, 0 is a free one")
    top.add_argument("--restart", action="store_true", help="start a process again that dies")
    top.add_argument("--fresh", action="store_true", help="begin without the data of earlier runs: it is deleted")
    top.add_argument(
        "--discard",
        action="store_true",
        help="nobody wants the data afterwards: at the end everything is killed at once",
    )
    top.add_argument("--state-dir", type=Path, default=Path(".cluster"), metavar="DIR", help="(default .cluster)")
    top.add_argument("--cassandra-heap", default="", metavar="SIZE", help="Java heap of a node, such as 1G")
    top.add_argument(
        "--env", action="append", default=[], type=_assignment, metavar="NAME=VALUE", help="set for the web instances"
    )
    top.add_argument(
        "--service-command",
        type=shlex.split,
        default=list(SERVICE),
        metavar="WORDS",
        help="what runs in place of `python -m service`, given `serve` or `schema`",
    )
    actions = top.add_subparsers(dest="do", title="instead: steer the cluster that runs in the state directory")
    actions.add_parser("fetch", help="download Cassandra into the cache, and nothing else")
    actions.add_parser("scale", help="change the number of web instances").add_argument("count", type=int)
    for name, what in (("stop", "stop a process in good order"), ("start", "start it again"), ("kill", "kill it")):
        actions.add_parser(name, help=what).add_argument("name", help="such as web1, cassandra1, haproxy")
    return top


def _assignment(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    return name, value


def options_of(said: argparse.Namespace) -> Options:
    """The options that a command line means."""
    certificate: Path | None = said.certificate
    if certificate is not None and not certificate.is_file():
        raise ClusterError(f"there is no certificate {certificate}")
    if certificate is None and said.https:
        certificate = make_certificate(said.state_dir / "tls")
    return Options(
        web=said.web,
        cassandra_nodes=said.cassandra_nodes,
        port=said.port,
        https_port=said.https_port,
        certificate=certificate,
        restart=said.restart,
        fresh=said.fresh,
        discard=said.discard,
        state_dir=said.state_dir,
        cassandra_heap=said.cassandra_heap,
        env=dict(said.env),
        service_command=tuple(said.service_command),
    )


def ready_text(supervisor: Supervisor) -> str:
    """The addresses, for the person in front."""
    url = supervisor.url
    lines = ["", f"  API         {url['base_url']}    docs {url['base_url']}/docs"]
    lines += [f"  HTTPS       {url['https_url']}"] if url["https_url"] else []
    lines += [f"  HAProxy     {url['stats_url']}    (stats)"]
    for child in supervisor.children.values():
        lines.append(f"  {child.name:11} {child.member.address}:{child.member.port}    pid {child.pid}    {child.log}")
    lines += [f"  state       {supervisor.launcher.state_dir / state.STATE}", "", "Ctrl-C stops everything.", ""]
    return "\n".join(lines)


async def run(options: Options) -> int:
    """Run a cluster until a signal asks to stop; the exit status."""
    supervisor = Supervisor(options, ROOT, os.environ)
    stop_asked = asyncio.Event()

    def on_signal() -> None:
        if stop_asked.is_set():
            supervisor.hurry()
        stop_asked.set()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN or number is not signal.SIGHUP:  # nohup keeps its meaning
            asyncio.get_running_loop().add_signal_handler(number, on_signal)
    status = 0
    try:
        if await _start(supervisor, stop_asked):
            print(ready_text(supervisor), flush=True)
            async with served(supervisor, supervisor.launcher.state_dir):
                await stop_asked.wait()
    except ClusterError as error:
        print(f"cluster: {error}", file=sys.stderr, flush=True)
        status = 1
    finally:
        clean = await supervisor.stop()
    if supervisor.children:
        supervisor.say("stopped" if clean else "stopped; not everything ended by itself")
    return status if clean else 1


async def _start(supervisor: Supervisor, stop_asked: asyncio.Event) -> bool:
    """Start everything unless asked to stop meanwhile; whether it is up."""
    start = asyncio.create_task(supervisor.start())
    asked = asyncio.create_task(stop_asked.wait())
    await asyncio.wait({start, asked}, return_when=asyncio.FIRST_COMPLETED)
    asked.cancel()
    if start.done():
        await start
        return True
    start.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await start
    return False


def main() -> int:
    """Do what the command line says; the exit status."""
    said = parser().parse_args()
    try:
        if said.do == "fetch":
            asyncio.run(cassandra_jars(ROOT, print))
            return 0
        if said.do == "scale":
            print(" ".join(ask(said.state_dir, {"do": "scale", "web": said.count}, ASK_TIMEOUT_S)))
            return 0
        if said.do:
            print(ask(said.state_dir, {"do": said.do, "name": said.name}, ASK_TIMEOUT_S))
            return 0
        said.state_dir.mkdir(parents=True, exist_ok=True)
        with state.held(said.state_dir.resolve()):
            return asyncio.run(run(options_of(said)))
    except (ClusterError, OSError) as error:
        print(f"cluster: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
