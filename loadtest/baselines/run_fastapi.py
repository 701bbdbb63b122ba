"""The plain FastAPI service behind the project's own HAProxy: see fastapi_plain/."""

from __future__ import annotations

import importlib.metadata
import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from deploy.cluster import plan, probes
from loadtest.baselines.installing import output_of, program
from loadtest.baselines.processes import Process, Processes, answers, http_request, port_picker, processes
from loadtest.baselines.subject import ROOT, Say, Subject

MODULE = "loadtest.baselines.fastapi_plain"
UVICORN = ("--loop", "uvloop", "--http", "httptools", "--no-access-log", "--log-level", "warning")


def web_command(port: int) -> list[str]:
    """One web instance."""
    where = ["--host", plan.LOOPBACK, "--port", str(port)]
    return [sys.executable, "-m", "uvicorn", f"{MODULE}.app:app", *where, *UVICORN]


@contextmanager
def plain_fastapi(cassandra_host: str, cassandra_port: int, web: int = 2, say: Say = print) -> Iterator[Subject]:
    """The plain service on a Cassandra that is there already, in its keyspace `plain`, which stays. Raises Missing."""
    haproxy = program("haproxy", also="/usr/sbin:/usr/local/sbin")
    environment = {**os.environ, "CASSANDRA_HOST": cassandra_host, "CASSANDRA_PORT": str(cassandra_port)}
    say("making the tables of the plain service")
    output_of([sys.executable, "-m", MODULE, "setup"], ROOT, environment)
    picker = port_picker()
    with tempfile.TemporaryDirectory() as place, processes(Path(place), "fastapi") as group:
        members = [plan.Member("web", f"web{number}", plan.LOOPBACK, picker.free()) for number in range(1, web + 1)]
        instances = [
            group.start(member.name, web_command(member.port), {**environment, "INSTANCE": str(number)}, cwd=ROOT)
            for number, member in enumerate(members)
        ]
        for member, instance in zip(members, instances, strict=True):
            instance.wait_until(answers(member.port, "/readyz"))
        balancer, port = load_balancer(group, haproxy, members, picker)
        versions = {name: importlib.metadata.version(name) for name in ("fastapi", "uvicorn", "cassandra-driver")}
        yield Subject(
            name=f"FastAPI {versions['fastapi']}, a statement for each request, Cassandra",
            port=port,
            pids={"web": [instance.pid for instance in instances], "haproxy": [balancer.pid]},
            count=lambda: int(output_of([sys.executable, "-m", MODULE, "count"], ROOT, environment, raises=OSError)),
            versions=versions,
        )


def load_balancer(
    group: Processes, haproxy: str, members: list[plan.Member], picker: plan.PortPicker
) -> tuple[Process, int]:
    """The project's HAProxy before the members, once all of them are up; and its port."""
    port, stats = picker.free(), picker.free()
    web_list = group.directory / "haproxy-web.cfg"
    web_list.write_text(plan.web_list(members))
    options = plan.Options(web=len(members))
    environment = plan.haproxy_environment(os.environ, options, port, 0, stats)
    command = [haproxy, "-W", "-db", "-f", str(ROOT / "haproxy" / "haproxy.cfg"), "-f", str(web_list)]
    # The master takes its workers along when it is told to end; killed, it would leave them.
    process = group.start("haproxy", command, environment, cwd=ROOT, death_signal=signal.SIGTERM)
    names = {member.name for member in members}
    process.wait_until(lambda: probes.parse_statistics(http_request(stats, "GET", "/;csv")[1]).up == names)
    process.wait_until(answers(port, "/readyz"))
    return process, port
