from __future__ import annotations

import contextlib
import json
import socket
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from service.settings import declared, variable
from tests.support import ROOT, clean_environ


def command(*arguments: str, **settings: object) -> subprocess.CompletedProcess[str]:
    """``python -m service`` with these arguments and settings, to its end."""
    return subprocess.run(
        [sys.executable, "-m", "service", *arguments],
        cwd=ROOT,
        env=clean_environ(**settings),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_help_lists_the_commands_and_every_setting_with_its_default():
    """What an operator can type and set, without opening a file."""
    result = command("--help")
    assert result.returncode == 0
    assert all(name in result.stdout for name in ("serve", "schema", "check", "import", "export"))
    for field in declared():
        assert f"{variable(field)} (default {field.metadata['default'] or 'empty'})" in result.stdout


@pytest.mark.parametrize("name", ["check", "import", "export"])
def test_a_command_says_what_its_exit_status_means(name: str):
    """Scripts depend on it."""
    result = command(name, "--help")
    assert result.returncode == 0
    assert "exit status: 0" in result.stdout


@pytest.mark.parametrize("arguments", [[], ["sevre"], ["serve", "--workers"], ["check", "extra"]])
def test_a_wrong_argument_is_exit_2_and_says_how_it_is_used(arguments: list[str]):
    """The usual manners of a command line."""
    result = command(*arguments)
    assert result.returncode == 2
    assert "usage:" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("name", ["serve", "schema", "check"])
def test_a_wrong_setting_is_exit_2_and_one_line_that_names_it(name: str):
    """Before anything is opened or listened on."""
    result = command(name, queue_wait_max_s="soon")
    assert result.returncode == 2
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert "BUSYAPI_QUEUE_WAIT_MAX_S" in line
    assert "soon" in line


def test_a_wrong_argument_of_serve_names_its_setting():
    """--port is BUSYAPI_LISTEN_PORT by another name, with the same bounds."""
    result = command("serve", "--port", "99999")
    assert result.returncode == 2
    assert "BUSYAPI_LISTEN_PORT" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_a_setting_nobody_knows_is_a_warning_that_guesses_what_was_meant(tmp_path: Path):
    """Probably misspelt; worth a line, not worth a stop."""
    result = command("check", store=f"sqlite:///{tmp_path}/store.sqlite3", worker="2")
    assert result.returncode == 0
    (line,) = (json.loads(line) for line in result.stderr.splitlines())
    assert (line["level"], line["message"], line["name"]) == ("warning", "unknown setting", "BUSYAPI_WORKER")
    assert line["did_you_mean"] == "BUSYAPI_WORKERS"


def test_check_says_by_its_exit_status_whether_the_store_can_be_used(tmp_path: Path):
    """0 and what it found, or 1 and why not."""
    good = command("check", store=f"sqlite:///{tmp_path}/new/store.sqlite3")
    assert (good.returncode, good.stderr) == (0, "")
    assert "reachable" in good.stdout
    assert "acknowledgement: fsync; replicas=1" in good.stdout
    (tmp_path / "file").write_text("")
    bad = command("check", store=f"sqlite:///{tmp_path}/file/store.sqlite3")
    assert bad.returncode == 1
    assert str(tmp_path) in bad.stderr
    assert "Traceback" not in bad.stderr
    (tmp_path / "text").write_text("this is no database, but long enough to look like one " * 100)
    assert command("check", store=f"sqlite:///{tmp_path}/text").returncode == 1


def test_a_file_of_a_newer_schema_is_left_alone(tmp_path: Path):
    """An old service does not write into what it does not know."""
    path = tmp_path / "store.sqlite3"
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA user_version = 99")
    result = command("check", store=f"sqlite:///{path}")
    assert result.returncode == 1
    assert "99" in result.stderr


def test_schema_makes_the_tables_and_may_be_repeated(tmp_path: Path):
    """Safe to run twice, also at once from several places."""
    url = f"sqlite:///{tmp_path}/store.sqlite3"
    environ = clean_environ(store=url)
    arguments = [sys.executable, "-m", "service", "schema"]
    running = [
        subprocess.Popen(arguments, cwd=ROOT, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for _ in range(3)
    ]
    try:
        for process in running:
            _, errors = process.communicate(timeout=60)
            assert (process.returncode, errors) == (0, b"")
    finally:
        for process in running:
            if process.poll() is None:
                process.kill()
                process.wait(10)
    assert command("schema", store=url).returncode == 0
    with contextlib.closing(sqlite3.connect(tmp_path / "store.sqlite3")) as database:
        tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        assert tables >= {"usages", "keyed_usages", "messages", "id_ranges"}
        assert database.execute("SELECT * FROM id_ranges").fetchall() == [("usages", 1)]


def test_an_address_that_is_taken_is_exit_1_and_one_line(tmp_path: Path):
    """Which address, and what is wrong with it."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = command("serve", store=f"sqlite:///{tmp_path}/store.sqlite3", listen_port=port)
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert f"127.0.0.1:{port}" in line


def test_an_address_that_is_none_is_exit_1_and_one_line(tmp_path: Path):
    """A host that cannot be found stops the start in the same way."""
    result = command("serve", store=f"sqlite:///{tmp_path}/store.sqlite3", listen_host="256.0.0.1", listen_port=0)
    assert result.returncode == 1
    assert len(result.stderr.splitlines()) == 1
