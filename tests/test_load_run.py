"""A whole load test as `make load` does it: against a service on SQLite, ended by Ctrl-C, and with all that may go wrong."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import urllib.parse
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psutil
import pytest

from loadtest.run.asked import Asked, asked_of, leading_command, load_command, seconds_of, warm_up_command
from loadtest.run.watching import said
from loadtest.timeline import Timeline
from tests.support import ROOT, clean_environ, end, eventually, ready_instance

pytestmark = pytest.mark.tools

RUN_TIMEOUT_S = 60.0


class Service:
    """A service on SQLite and the file behind it."""

    def __init__(self, host: str, file: Path) -> None:
        self.host = host
        self.file = file

    @property
    def store(self) -> str:
        """As the reconciliation takes it."""
        return f"sqlite:///{self.file}"

    @property
    def rows(self) -> int:
        """Usages that it holds."""
        with contextlib.closing(sqlite3.connect(self.file)) as connection:
            count: int = connection.execute("SELECT count(*) FROM usages").fetchone()[0]
            return count


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One that all tests here load; each reads but the rows of its own journals."""
    directory = tmp_path_factory.mktemp("loaded")
    file = directory / "loaded.sqlite3"
    with ready_instance(directory, store=file) as instance:
        yield Service("http://{}:{}".format(*instance.address), file)


@contextlib.contextmanager
def load_test(out: Path, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """A load test as a process, with what it prints."""
    command = [sys.executable, "-m", "loadtest.run", "--out", str(out), "--users", "8", *arguments]
    process = subprocess.Popen(command, cwd=ROOT, env=clean_environ(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        yield process
    finally:
        end(process)
        assert process.stdout is not None
        process.stdout.close()


def whole(out: Path, *arguments: str) -> tuple[int, str]:
    """A load test that ends by itself: exit status and what it printed."""
    with load_test(out, *arguments) as process:
        return ended(process)


def ended(process: subprocess.Popen[bytes]) -> tuple[int, str]:
    """Its exit status and what it printed, once it has ended."""
    printed, _ = process.communicate(timeout=RUN_TIMEOUT_S)
    return process.returncode, printed.decode()


def directory_of(out: Path) -> Path:
    """The one run that there was."""
    found = list(out.iterdir())
    assert len(found) == 1
    return found[0]


def results(out: Path) -> dict[str, Any]:
    """What it came to."""
    found: dict[str, Any] = json.loads((directory_of(out) / "results.json").read_text())
    return found


def descendants(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """All that it started."""
    found: list[psutil.Process] = psutil.Process(process.pid).children(recursive=True)
    return found


def assert_all_gone(processes: list[psutil.Process]) -> None:
    """None outlives the run."""
    eventually(lambda: not [each for each in processes if each.is_running() and each.status() != psutil.STATUS_ZOMBIE])


# --- whole runs


def test_a_run_is_loaded_reconciled_and_reported(service: Service, tmp_path: Path):
    """Exit 0; what was offered was answered, each is in the store, and every form of the report is there."""
    status, printed = whole(
        tmp_path, "--headless", "--host", service.host, "--store", service.store, "--rate", "200", "--run-time", "3s"
    )
    assert status == 0, printed
    found = results(tmp_path)
    window = found["windows"][0]
    assert window["answered"] > 100
    assert window["failed"] == 0
    assert found["reconciliation"]["ok"]
    assert found["reconciliation"]["acknowledged"] == window["answered"]
    assert window["cpu_us_per_request"]["generator"] > 0
    files = {file.name for file in directory_of(tmp_path).iterdir()}
    assert files >= {
        "report.html",
        "timeline.csv",
        "timeline.json",
        "cpu.json",
        "reconcile.json",
        "run.json",
        "journals",
    }
    assert "that were acknowledged are in the store: 0 lost" in printed
    assert str(directory_of(tmp_path) / "report.html") in printed


@pytest.mark.slow
def test_workers_and_a_warm_up_have_journals_of_their_own(service: Service, tmp_path: Path):
    """Two workers, two journals; the warm-up is reconciled too, and counts in no figure."""
    status, printed = whole(
        *(tmp_path, "--headless", "--host", service.host, "--store", service.store, "--workers", "2"),
        *("--warm-up-s", "1", "--rate", "200", "--run-time", "3s"),
    )
    assert status == 0, printed
    found = results(tmp_path)
    assert len(list(directory_of(tmp_path).glob("journals/*.journal"))) == 2
    assert found["warm_up"]["ok"]
    assert found["warm_up"]["acknowledged"] > 0
    assert found["reconciliation"]["acknowledged"] == found["windows"][0]["answered"]
    assert len(found["generators"]) == 2


@pytest.mark.slow
def test_ctrl_c_ends_it_in_order_and_what_was_sent_is_reconciled(service: Service, tmp_path: Path):
    """Exit 130 when all was well until then; the report says that it was interrupted, and nothing stays behind."""
    before = service.rows
    with load_test(
        tmp_path, "--headless", "--host", service.host, "--store", service.store, "--rate", "200", "--workers", "1"
    ) as process:
        eventually(lambda: service.rows > before, RUN_TIMEOUT_S)
        started = descendants(process)
        process.send_signal(signal.SIGINT)
        status, printed = ended(process)
        assert status == 130, printed
        assert_all_gone(started)
    found = results(tmp_path)
    assert found["facts"]["interrupted"]
    assert found["reconciliation"]["ok"]
    assert found["reconciliation"]["acknowledged"] == found["windows"][0]["answered"] > 0


@pytest.mark.slow
def test_a_person_starts_it_in_the_browser_and_ends_it_with_ctrl_c(service: Service, tmp_path: Path):
    """The address is printed; Ctrl-C is how such a test ends, so all well is exit 0."""
    before = service.rows
    with load_test(tmp_path, "--host", service.host, "--store", service.store, "--ui-port", "0") as process:
        assert process.stdout is not None
        port = next(
            int(found[1]) for line in process.stdout if (found := re.search(rb"web UI: http://127.0.0.1:(\d+)", line))
        )
        eventually(lambda: swarmed(port), RUN_TIMEOUT_S)
        eventually(lambda: service.rows > before, RUN_TIMEOUT_S)
        process.send_signal(signal.SIGINT)
        status, printed = ended(process)
        assert status == 0, printed
    assert results(tmp_path)["reconciliation"]["acknowledged"] > 0
    assert not results(tmp_path)["facts"]["interrupted"]


def swarmed(port: int) -> bool:
    """Press start, as the page does; False while nobody listens yet."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    form = urllib.parse.urlencode({"user_count": 2, "spawn_rate": 10, "rate": 50, "user_classes": "UsageUser"})
    try:
        connection.request("POST", "/swarm", form, {"Content-Type": "application/x-www-form-urlencoded"})
        return bool(json.loads(connection.getresponse().read())["success"])
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


# --- what may go wrong


def test_a_store_that_does_not_hold_what_was_acknowledged_is_exit_1(service: Service, tmp_path: Path):
    """Planted: it is compared with a copy of the store from before the load, and every one is lost."""
    with sqlite3.connect(service.file) as origin, sqlite3.connect(tmp_path / "before.sqlite3") as copy:
        origin.backup(copy)
    out = tmp_path / "runs"
    status, printed = whole(
        *(out, "--headless", "--host", service.host, "--store", f"sqlite:///{tmp_path / 'before.sqlite3'}"),
        *("--rate", "100", "--run-time", "2s"),
    )
    assert status == 1, printed
    found = results(out)
    assert found["reconciliation"]["lost"]["count"] == found["windows"][0]["answered"] > 0
    assert "The store does not hold what was acknowledged" in printed


def test_a_store_that_cannot_be_read_is_exit_1_and_the_report_is_there(service: Service, tmp_path: Path):
    """Not reconciled is not the same as nothing lost."""
    out = tmp_path / "runs"
    arguments = ("--headless", "--host", service.host, "--rate", "100", "--run-time", "2s")
    status, printed = whole(out, *arguments, "--store", f"sqlite:///{tmp_path / 'nowhere.sqlite3'}")
    assert status == 1, printed
    assert "could not be done" in printed
    assert results(out)["reconciliation"] is None
    assert (directory_of(out) / "report.html").exists()


class Broken(BaseHTTPRequestHandler):
    """Says 201 to every POST, without an id."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        """Answer wrongly."""
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(201)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_: object) -> None:
        """Nothing."""


def test_answers_that_are_wrong_are_exit_1_and_without_a_store_nothing_is_compared(tmp_path: Path):
    """A 201 without an id is a failed check, with what came instead in the report."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Broken)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        host = f"http://127.0.0.1:{server.server_address[1]}"
        status, printed = whole(tmp_path, "--headless", "--host", host, "--rate", "50", "--run-time", "2s")
    finally:
        server.shutdown()
        server.server_close()
    assert status == 1, printed
    found = results(tmp_path)
    assert found["windows"][0]["failed"] > 0
    assert found["windows"][0]["answered"] == 0
    assert found["reconciliation"] is None
    assert "was not compared with a store" in printed


@pytest.mark.slow
def test_a_worker_that_is_killed_ends_the_run_and_its_journal_is_reconciled_all_the_same(
    service: Service, tmp_path: Path
):
    """Exit 1 with who it was and how it ended; what it had sent is compared with the store."""
    before = service.rows
    with load_test(
        tmp_path, "--headless", "--host", service.host, "--store", service.store, "--rate", "200", "--workers", "1"
    ) as process:
        eventually(lambda: service.rows > before, RUN_TIMEOUT_S)
        started = descendants(process)
        next(each for each in started if "--worker" in each.cmdline()).kill()
        status, printed = ended(process)
        assert_all_gone(started)
    assert status == 1, printed
    assert "locust worker 1 killed by SIGKILL" in printed
    found = results(tmp_path)
    assert found["reconciliation"]["acknowledged"] > 0
    assert not found["reconciliation"]["lost"]["count"]


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["--shape", "ramp"], 2, "there is no shape ramp; there are ramp-to-16k, burst"),
        (["--store", "sqlite:///x"], 2, "--store goes with --host"),
        (["--host", "example.org"], 2, "--host is a URL"),
        (["--run-time", "soon"], 2, "--run-time is a time such as"),
        (["--workers", "-1"], 2, "--workers is from 0 to 256"),
        (["--rate", "0"], 2, "--rate and --users are above 0"),
        (["--headless", "--no-such-thing"], 1, "--no-such-thing"),
        (["--headless", "--user", "NoUser"], 1, "NoUser"),
    ],
)
def test_a_wrong_usage_is_told_before_anything_starts(arguments: list[str], status: int, words: str, tmp_path: Path):
    """Its own options, and those that are Locust's, are read before a topology is started for them."""
    ended, printed = whole(tmp_path, *arguments)
    assert ended == status
    assert words in printed
    assert "starting" not in printed


def test_a_port_that_is_taken_is_told_before_anything_starts(tmp_path: Path):
    """The web UI's, with what to do about it."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        status, printed = whole(tmp_path, "--host", "http://127.0.0.1:1", "--ui-port", str(port))
    assert status == 1
    assert f"port {port} for the web UI is taken on 127.0.0.1; --ui-port 0 takes a free one" in printed


# --- what Locust is told


def test_what_was_asked_for_reaches_locust(tmp_path: Path):
    """Shape, rate, users, run time and all that is not known here; where to write to; and the user classes last."""
    asked = asked_of(
        ["--shape", "burst", "--users", "64", "--run-time", "1m", "--user", "UsageUser,MessageUser", "--peak", "9000"]
    )
    words = " ".join(load_command(asked, "http://h", tmp_path))
    assert words == (
        f"--host http://h --journal {tmp_path}/journals --shape burst --run-time 1m --users 64 --peak 9000 UsageUser MessageUser"
    )
    assert asked.options()["peak"] == "9000"
    assert asked.options()["web instances"] == 2


def test_a_shape_starts_by_itself_and_without_one_a_person_does(tmp_path: Path):
    """With the web UI in both cases, unless there shall be none."""
    shape, person, none = Asked(shape="burst"), Asked(), Asked(headless=True)
    assert "--autostart" in leading_command(shape, tmp_path, 8089)
    assert "--autostart" not in leading_command(person, tmp_path, 8089)
    assert "--headless" in leading_command(none, tmp_path, 0)
    assert "--web-port" not in leading_command(none, tmp_path, 0)


@pytest.mark.parametrize(
    ("arguments", "warm_up_s"),
    [
        (["--shape", "burst"], 40),
        (["--headless"], 40),
        ([], 0),
        (["--shape", "burst", "--host", "http://h"], 0),
        (["--shape", "burst", "--host", "http://h", "--warm-up-s", "5"], 5),
        (["--shape", "burst", "--warm-up-s", "0"], 0),
    ],
)
def test_a_topology_that_was_started_for_a_load_is_warmed_first(arguments: list[str], warm_up_s: float):
    """A JVM that still compiles is not what is to be measured; what ran already is left alone."""
    assert asked_of(arguments).warm_up_s == warm_up_s


def test_the_warm_up_is_a_closed_loop_with_a_journal_of_its_own(tmp_path: Path):
    """No shape and no rate; TLS as the load has it."""
    asked = asked_of(["--shape", "burst", "--rate", "5", "--insecure", "--host", "https://h", "--warm-up-s", "7"])
    words = " ".join(warm_up_command(asked, asked.host, tmp_path))
    assert f"--run-time 7s --users 256 --spawn-rate 100 --journal {tmp_path}/journals" in words
    assert "--insecure" in words
    assert "--shape" not in words
    assert "--rate" not in words


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("90s", 90), ("20m", 1_200), ("1h30m", 5_400), ("", 0), ("soon", 0), ("1d", 0)]
)
def test_a_run_time_is_read_as_locust_reads_it(text: str, seconds: float):
    """Hours, minutes, seconds, the last without a letter."""
    assert seconds_of(text) == seconds


def test_the_line_that_is_shown_is_of_the_last_second_that_is_over():
    """The newest one has hardly begun, and would look like a stall."""
    timeline = Timeline()
    assert not said(timeline.as_dict())
    for second, count in ((1, 10), (2, 20), (3, 1)):
        timeline.offered(second, count)
        for _ in range(count):
            timeline.success("POST /api/usages", second, 0.002)
    timeline.failure("POST /api/usages", 1, "503")
    assert said(timeline.as_dict()) == "20/s offered, 20/s answered, p99 2.0 ms, 1 failed"


def test_make_passes_on_what_is_said_to_it_and_not_what_the_shell_has():
    """USER and HOST are variables of many a shell."""
    assert shutil.which("make")

    def told(*arguments: str) -> str:
        # What make tells a make below it is not for this one: the tests may themselves be run by make.
        inherited = {name: value for name, value in clean_environ().items() if not name.startswith("MAKE")}
        environment = {**inherited, "USER": "somebody", "HOST": "machine", "PORT": "1"}
        done = subprocess.run(
            ["make", "-n", "--no-print-directory", "load", *arguments],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        return " ".join(done.stdout.split("loadtest.run", 1)[1].replace("\\\n", " ").split())

    assert told() == "--web '2'"
    assert told("SHAPE=burst", "HEADLESS=1", "USER=MessageUser", "HOST=http://h", "STORE=sqlite:///f") == (
        "--web '2' --shape 'burst' --store 'sqlite:///f' --headless --user 'MessageUser' --host 'http://h'"
    )
    assert (
        told("PORT=8088", "WORKERS=2", "RATE=5", "ARGS=--peak 9")
        == "--web '2' --rate '5' --workers '2' --port '8088' --peak 9"
    )
