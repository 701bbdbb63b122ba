from __future__ import annotations

import itertools
import json
import re
import sys
from pathlib import Path

import pytest

from loadtest.baselines import DidNotStart, Missing, Subject, processes, run_express, run_fastapi, run_go, run_rqlite
from loadtest.baselines.fastapi_plain.__main__ import token_ranges
from loadtest.baselines.installing import fingerprint, installed, output_of, program
from loadtest.baselines.processes import answers, http_request
from loadtest.baselines.subject import HERE

EXACT = re.compile(r"\d+\.\d+\.\d+")

SERVER = """
import http.server
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
print("listening", server.server_port, flush=True)
server.serve_forever()
"""


def test_a_subject_is_asked_like_the_service_unless_it_says_otherwise():
    """The usual usage, posted to the usual path, answered by 201."""
    subject = Subject("name", 1, {})
    assert (subject.path, subject.body, subject.request_status, subject.count) == ("/api/usages", None, 201, None)


def test_express_and_its_packages_are_pinned():
    """Every package of the lock has one version and a checksum, and the lock names no place to get them from."""
    assert EXACT.fullmatch(run_express.version())
    lock = json.loads(run_express.LOCK.read_text())
    assert lock["packages"][""]["dependencies"] == {"express": run_express.version()}
    assert lock["packages"]["node_modules/express"]["version"] == run_express.version()
    for name, package in lock["packages"].items():
        if name:
            assert EXACT.match(package["version"]), name
            assert package["integrity"], name
            assert "resolved" not in package, name


def test_pgx_is_pinned_and_its_checksum_known():
    """go.mod names one version, and go.sum has it."""
    assert EXACT.fullmatch(run_go.version())
    sums = (run_go.SOURCE / "go.sum").read_text()
    assert f"github.com/jackc/pgx/v5 v{run_go.version()} h1:" in sums


@pytest.mark.parametrize("name", ["express/server.js", "go_pgx/main.go", "fastapi_plain/app.py"])
def test_each_server_says_how_it_is_started(name: str):
    """What it is, why these settings, and how it is started stand at its top."""
    head = "\n".join((HERE / name).read_text().splitlines()[:12])
    assert "Settings" in head
    assert "Started" in head


def test_the_count_of_the_plain_service_covers_the_ring_once():
    """Ranges of tokens follow one another without a gap, from the first token to the last."""
    ranges = token_ranges()
    assert ranges[0][0] == -(2**63)
    assert ranges[-1][1] == 2**63 - 1
    assert all(first == last + 1 for (_, last), (first, _) in itertools.pairwise(ranges))


def test_the_plain_service_runs_uvicorn_as_it_recommends():
    """uvloop, httptools, no access log."""
    command = " ".join(run_fastapi.web_command(1234))
    assert "--port 1234 --loop uvloop --http httptools --no-access-log" in command


def test_rqlite_is_asked_to_queue_and_to_wait():
    """A 200 comes after the commit, and the body is a statement with the usage as its parameter."""
    assert run_rqlite.PATH == "/db/execute?queue&wait"
    ((statement, usage),) = json.loads(run_rqlite.BODY)
    assert statement.startswith("INSERT INTO usages")
    assert json.loads(usage)["patientId"] == "100"
    assert run_rqlite.count_of('{"results":[{"columns":["count(*)"],"types":["integer"],"values":[[7]]}]}') == 7


def test_what_cannot_be_installed_leaves_nothing_behind(tmp_path: Path):
    """A failed command is Missing with its last line, and the cache stays as it was."""

    def make(directory: Path) -> None:
        (directory / "half").touch()
        output_of([sys.executable, "-c", "import sys; sys.exit('no such package')"], directory)

    with pytest.raises(Missing, match="no such package"):
        installed(tmp_path, "thing", make)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(Missing, match="no-such-program is not installed"):
        program("no-such-program")


def test_what_is_installed_is_not_made_again(tmp_path: Path):
    """The second time finds the first one's directory."""
    made: list[Path] = []
    for _ in range(2):
        assert installed(tmp_path, "thing", made.append) == tmp_path / "thing"
    assert len(made) == 1


def test_a_fingerprint_changes_with_the_text(tmp_path: Path):
    """A changed source is built anew."""
    file = tmp_path / "source"
    file.write_text("one")
    before = fingerprint([file])
    file.write_text("two")
    assert fingerprint([file]) != before


def test_processes_end_with_the_context_whatever_happens(tmp_path: Path):
    """A server that was ready is gone after an error, and so is its data."""
    port = 0
    with pytest.raises(ZeroDivisionError), processes.processes(tmp_path, "thing") as group:  # noqa: PT012
        server = group.start("server", [sys.executable, "-c", SERVER], {})
        port = server.announced_port()
        assert answers(port, "/")()
        raise ZeroDivisionError
    assert http_request(port, "GET", "/") == (0, "")
    assert list(tmp_path.iterdir()) == []


def test_a_process_that_ends_too_soon_says_why(tmp_path: Path):
    """The end of its log is in the error."""
    with pytest.raises(DidNotStart, match="out of luck"), processes.processes(tmp_path, "thing") as group:
        group.start("server", [sys.executable, "-c", "import sys; sys.exit('out of luck')"], {}).announced_port()
