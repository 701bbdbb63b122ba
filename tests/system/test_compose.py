"""docker-compose.yml itself: build, three web instances, five, two, while traffic flows."""

from __future__ import annotations

import csv
import hashlib
import http.client
import io
import json
import os
import shutil
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.system.traffic import Traffic

ROOT = Path(__file__).parents[2]
STANDINS = Path(os.environ.get("BUSYAPI_STANDINS", ROOT / "../shared/standins/build-images"))
"""Makes images of the base images' names (and starts dockerd) on a machine that reaches no image registry."""
BASE_IMAGES = ("python:3.13-slim", "haproxy:3.2", "cassandra:5.0")

COMMAND_TIMEOUT_S = 600
"""A first build downloads; everything else takes seconds."""
CHANGE_TIMEOUT_S = 60
"""What a change of the project may take to show at HAProxy."""

pytestmark = [pytest.mark.compose, pytest.mark.timeout(1200)]


def run(*command: str, env: dict[str, str] | None = None, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run a command to its end; its output is in the failure's message."""
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=env,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=COMMAND_TIMEOUT_S,
        check=False,
    )
    if check and done.returncode != 0:
        pytest.fail(f"{' '.join(command)}: exit {done.returncode}\n{done.stdout[-4000:]}", pytrace=False)
    return done


def succeeds(*command: str) -> bool:
    """Whether a command is there and ends well."""
    return shutil.which(command[0]) is not None and run(*command, check=False).returncode == 0


def missing_images() -> list[str]:
    """The base images that this machine neither has nor can pull."""
    return [
        image
        for image in BASE_IMAGES
        if not succeeds("docker", "image", "inspect", image) and not succeeds("docker", "pull", "--quiet", image)
    ]


@pytest.fixture(scope="module")
def docker() -> None:
    """A Docker engine that answers and has the base images. Fails, and never skips, where there is none."""
    if succeeds("docker", "info") and not missing_images():
        return
    if STANDINS.is_file():
        run(str(STANDINS))
    if not succeeds("docker", "info"):
        pytest.fail("Docker does not answer: install docker and docker-compose, and start its daemon", pytrace=False)
    if missing := missing_images():
        pytest.fail(f"no image registry in reach, and the machine lacks {', '.join(missing)}", pytrace=False)


@pytest.fixture(scope="module")
def compose_command(docker: None) -> tuple[str, ...]:  # noqa: ARG001 - it must be there first
    """Compose v2 as Docker's plugin, or docker-compose."""
    for command in (("docker", "compose"), ("docker-compose",)):
        if succeeds(*command, "version"):
            return command
    pytest.fail("neither `docker compose` nor docker-compose is installed", pytrace=False)


def free_ports(count: int) -> list[int]:
    """Ports that nothing listens on, all different."""
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports: list[int] = [listener.getsockname()[1] for listener in held]
    for listener in held:
        listener.close()
    return ports


class Project:
    """A running compose project of this repository."""

    def __init__(self, command: tuple[str, ...]) -> None:
        self.http_port, https_port, self.stats_port, self.locust_port = free_ports(4)
        # The same name each time, so that images and leftovers are found again; another checkout has another.
        name = f"busyapi-test-{hashlib.sha256(str(ROOT).encode()).hexdigest()[:8]}"
        self._command = (*command, "--project-name", name)
        self._env = {
            **{key: value for key, value in os.environ.items() if not key.startswith("BUSYAPI_")},
            "PUBLIC_HTTP_PORT": str(self.http_port),
            "PUBLIC_HTTPS_PORT": str(https_port),
            "STATS_PORT": str(self.stats_port),
            "LOCUST_PORT": str(self.locust_port),
            # New containers take the machine's CPU from those that serve. That they answer late is not what is tested.
            "BUSYAPI_QUEUE_WAIT_MAX_S": "5",
            "BUSYAPI_STORE_TIMEOUT_S": "4",
            # Nobody else gossips on this network: without the waits a node serves in 10 s rather than 70.
            "CASSANDRA_JVM_EXTRA_OPTS": "-Dcassandra.ring_delay_ms=1 -Dcassandra.skip_wait_for_gossip_to_settle=0",
        }

    def __call__(self, *arguments: str, check: bool = True) -> str:
        """Run one compose command."""
        return run(*self._command, *arguments, env=self._env, check=check).stdout

    def form(self, path: str, **fields: str) -> dict[str, Any]:
        """What Locust's web UI answers to a form."""
        url = f"http://127.0.0.1:{self.locust_port}{path}"
        with urllib.request.urlopen(url, urllib.parse.urlencode(fields).encode(), timeout=60) as response:
            answer: dict[str, Any] = json.load(response)
        return answer

    def load(self) -> dict[str, Any]:
        """How far Locust is; nothing while its web UI does not answer."""
        try:
            return self.request("GET", "/stats/requests", port=self.locust_port)[1]
        except (OSError, http.client.HTTPException):
            return {}

    @property
    def base_url(self) -> str:
        """The public address: HAProxy's."""
        return f"http://127.0.0.1:{self.http_port}"

    def request(self, method: str, path: str, body: object = None, port: int = 0) -> tuple[int, dict[str, Any]]:
        """One request; its status and its JSON, or as {"text": …} what is none."""
        connection = http.client.HTTPConnection("127.0.0.1", port or self.http_port, timeout=15)
        try:
            headers = {"Content-Type": "application/json"} if body is not None else {}
            connection.request(method, path, json.dumps(body) if body is not None else None, headers)
            response = connection.getresponse()
            text = response.read().decode()
            is_json = "json" in response.headers.get("Content-Type", "")
            return response.status, json.loads(text) if is_json else {"text": text}
        finally:
            connection.close()

    def ready(self) -> bool:
        """Whether HAProxy has an instance that takes traffic."""
        try:
            return self.request("GET", "/readyz")[0] == 200
        except (OSError, http.client.HTTPException):
            return False

    def instances_up(self) -> int:
        """How many web instances get traffic, as HAProxy's own table has it."""
        table = self.request("GET", "/;csv", port=self.stats_port)[1]["text"].removeprefix("# ")
        rows = list(csv.DictReader(io.StringIO(table)))
        return sum(row["pxname"] == "web" and row["type"] == "2" and row["status"] == "UP" for row in rows)

    def wait_until(self, condition: Callable[[], bool], what: str) -> None:
        """Poll until it is so. Fails, with the project's last words, when it is not in time."""
        deadline_s = time.monotonic() + CHANGE_TIMEOUT_S
        while not condition():
            assert time.monotonic() < deadline_s, f"not within {CHANGE_TIMEOUT_S} s: {what}\n{self.logs()}"
            time.sleep(0.2)

    def scale(self, web: int) -> None:
        """Run so many web instances; returns when HAProxy sends requests to each of them and to no other."""
        self("scale", f"web={web}")
        self.wait_until(lambda: self.instances_up() == web, f"{web} web instances are up")

    def down(self) -> None:
        """Remove all of it, the load test included."""
        self("--profile", "loadtest", "down", "--volumes", "--remove-orphans")

    def logs(self) -> str:
        """The last lines of every container."""
        return self("logs", "--no-color", "--tail", "40", check=False)


@pytest.fixture(scope="module")
def project(compose_command: tuple[str, ...]) -> Iterator[Project]:
    """The project, brought up with three web instances from images built here, and taken down whatever happens."""
    project = Project(compose_command)
    try:
        project.down()
        project("up", "--detach", "--build", "--scale", "web=3")
        project.wait_until(project.ready, "a web instance is ready")
        project.wait_until(lambda: project.instances_up() == 3, "three web instances are up")
        yield project
    finally:
        project.down()


def test_the_compose_project_serves_and_scales_to_five_and_to_two_while_traffic_flows(project: Project) -> None:
    """What is posted is read back, and scaling up or down shows no client an error."""
    usage = {"patientId": "100", "timestamp": "Tue Nov 01 2016 09:11:51 GMT-0500 (CDT)", "medication": "Albuterol"}
    status, answer = project.request("POST", "/api/usages", usage)
    assert status == 201, answer
    status, stored = project.request("GET", f"/api/usages/{answer['id']}")
    assert (status, stored["usage"]) == (200, usage)

    with Traffic(project.base_url, connections=6, pause_s=0.05) as traffic:
        traffic.flow()
        project.scale(5)
        traffic.flow()
        project.scale(2)
        traffic.flow()

    ledger = traffic.ledger
    assert set(ledger.statuses) == {200, 201}, f"{ledger.statuses} {ledger.errors}\n{project.logs()}"
    assert not ledger.misread
    assert project.request("GET", f"/api/usages/{answer['id']}")[1]["usage"] == usage


def test_metrics_are_not_public(project: Project) -> None:
    """/metrics is a 404 on the public port, and HAProxy's own are on the operators'."""
    status, problem = project.request("GET", "/metrics")
    assert (status, problem["code"]) == (404, "not_found")
    status, metrics = project.request("GET", "/metrics", port=project.stats_port)
    assert status == 200
    assert "haproxy_process_uptime_seconds" in metrics["text"]


def test_the_load_test_is_a_profile_of_its_own(project: Project) -> None:
    """Not there without it. With it: four workers share a rate, it is stopped in the web UI, and nothing was lost."""
    assert "locust" not in project("ps")
    profile = ("--profile", "loadtest")
    project(*profile, "up", "--detach", "--build", "--no-recreate", "--scale", "locust-worker=4", "locust-worker")
    project.wait_until(lambda: len(project.load().get("workers", ())) == 4, "four workers are ready")
    started = project.form("/swarm", user_count="8", spawn_rate="8", rate="100", user_classes="UsageUser")
    assert started["success"], started
    project.wait_until(lambda: sum(row["num_requests"] for row in project.load()["stats"]) > 500, "it runs")
    project.form("/stop")
    assert not project.load()["errors"], project.logs()
    project(*profile, "stop", "locust-master", "locust-worker")
    command = ("python", "-m", "loadtest.reconcile", "/runs/journals", "--store", "cassandra://cassandra/busyapi")
    printed = project(*profile, "run", "--rm", "-T", "locust-master", *command)
    project(*profile, "rm", "--force", "locust-master", "locust-worker")
    assert "in 4 journals" in printed, printed
    assert "all is well" in printed, printed
