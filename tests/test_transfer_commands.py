"""``python -m service import`` and ``export`` against a real web instance."""

from __future__ import annotations

import collections
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import ROOT, WebInstance, clean_environ, eventually, ready_instance

pytestmark = pytest.mark.tools

TIMEOUT_S = 60


def command(*arguments: str, stdin: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
    """``python -m service`` with these arguments, to its end."""
    return subprocess.run(
        [sys.executable, "-m", "service", *arguments],
        cwd=ROOT,
        env=clean_environ(),
        input=b"" if stdin is None else stdin,
        capture_output=True,
        timeout=TIMEOUT_S,
        check=False,
    )


def url(instance: WebInstance) -> str:
    """Where it is."""
    return f"http://{instance.address[0]}:{instance.address[1]}"


@pytest.fixture
def own(tmp_path: Path) -> Iterator[WebInstance]:
    """A web instance with nothing in it."""
    with ready_instance(tmp_path / "own") as running:
        yield running


@pytest.fixture(autouse=True)
def _directory(tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()


def usages(count: int) -> list[bytes]:
    """Different usages, some of them with unusual bytes."""
    odd = [
        b'{"x" :  1e3}',
        '{"medication": "é\\u00e9"}'.encode(),
        b'{"a": {"b": [1, 2.50, null]}}',
        b'{"n": 123456789012345678901}',
    ]
    return odd + [b'{"patientId": %d, "medication": "Albuterol"}' % number for number in range(count - len(odd))]


def exported(instance: WebInstance) -> list[dict[str, Any]]:
    """Every row, as an export prints it."""
    result = command("export", "--url", url(instance))
    assert result.returncode == 0, result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]


def texts(instance: WebInstance) -> collections.Counter[bytes]:
    """The stored texts, byte for byte, by how often they are there."""
    lines = command("export", "--url", url(instance)).stdout.splitlines()
    return collections.Counter(line.partition(b'"usage": ')[2][:-1] for line in lines)


def test_what_is_imported_is_exported_again_byte_for_byte_and_once(own: WebInstance, tmp_path: Path):
    """As a set equal; a second run stores nothing and says so; the count agrees."""
    path = tmp_path / "usages.ndjson"
    path.write_bytes(b"\n".join(usages(3000)))
    result = command("import", str(path), "--url", url(own))
    assert (result.returncode, result.stderr) == (0, b"")
    assert b"3,000 created, 0 duplicate, 0 refused; acknowledged: fsync; replicas=1" in result.stdout
    again = command("import", str(path), "--url", url(own))
    assert again.returncode == 0
    assert b"0 created, 3,000 duplicate" in again.stdout
    assert texts(own) == collections.Counter(usages(3000))
    assert own.request("GET", "/api/usages/count").json()["total"] == 3000


def test_refused_lines_are_told_with_their_reasons_and_the_others_are_stored(own: WebInstance, tmp_path: Path):
    """On standard error, or in a file; exit 1."""
    path = tmp_path / "some.ndjson"
    path.write_bytes(
        b'{"patientId": "1"}\nno json\n{"patientId": 1.5}\n\n{"idempotency_key": "", "usage": {}}\n{"x": "\xff"}\n'
        b'{"patientId": "2"}\n'
    )
    result = command("import", str(path), "--url", url(own))
    assert result.returncode == 1
    assert b"2 created, 0 duplicate, 4 refused" in result.stdout
    told = [line.split(": ")[:2] for line in result.stderr.decode().splitlines()]
    assert told == [
        [f"{path}:2", "invalid_json"],
        [f"{path}:3", "invalid_field (patientId)"],
        [f"{path}:5", "idempotency_key_invalid (idempotency_key)"],
        [f"{path}:6", "invalid_json"],
    ]
    refused = tmp_path / "refused.ndjson"
    result = command("import", str(path), "--url", url(own), "--refused", str(refused))
    assert (result.returncode, result.stderr) == (1, b"")
    lines = [json.loads(line) for line in refused.read_text().splitlines()]
    assert [(line["line"], line["code"], line["field"]) for line in lines] == [
        (2, "invalid_json", None),
        (3, "invalid_field", "patientId"),
        (5, "idempotency_key_invalid", "idempotency_key"),
        (6, "invalid_json", None),
    ]
    assert all(line["file"] == str(path) and line["detail"] for line in lines)


def test_a_line_far_beyond_what_the_service_takes_is_refused_alone(own: WebInstance, tmp_path: Path):
    """Whether it is a little too long or so long that the stream ends of it."""
    path = tmp_path / "long.ndjson"
    small = b'{"n": 1}\n'
    parts = [
        small * 100,
        b'{"x": "%b"}\n' % (b"x" * 103_000),
        small * 100,
        b'{"x": "%b"}\n' % (b"x" * 2_000_000),
        small * 100,
    ]
    path.write_bytes(b"".join(parts))
    result = command("import", str(path), "--url", url(own))
    assert result.returncode == 1, result
    assert b"300 created, 0 duplicate, 2 refused" in result.stdout
    assert [line.split(": ")[:2] for line in result.stderr.decode().splitlines()] == [
        [f"{path}:101", "body_too_large"],
        [f"{path}:202", "body_too_large"],
    ]


def test_keys_in_lines_are_kept(own: WebInstance, tmp_path: Path):
    """They are found under them; another body under the same key is refused."""
    path = tmp_path / "keyed.ndjson"
    path.write_bytes(
        b'{"idempotency_key": "order-1", "usage": {"a": 1}}\n{"idempotency_key": "order-1", "usage": {"a": 2}}\n'
    )
    result = command("import", str(path), "--url", url(own))
    assert result.returncode == 1
    assert b"idempotency_key_reused" in result.stderr
    assert own.request("GET", "/api/usages/keys/order-1").json()["usage"] == {"a": 1}


def test_a_csv_goes_in_and_out(own: WebInstance, tmp_path: Path):
    """In as objects of strings; out with the whole usage beside the fields that are known; and back in as it was."""
    path = tmp_path / "some.csv"
    path.write_text('patientId,medication\n100,Albuterol\n200,"a ""b"", c"\n')
    assert command("import", str(path), "--url", url(own)).returncode == 0
    out = tmp_path / "out.csv"
    result = command("export", "--url", url(own), "--format", "csv", "--output", str(out))
    assert (result.returncode, result.stdout) == (0, b"")
    header, first, second = out.read_text().splitlines()
    assert header == "id,received_at,patientId,timestamp,medication,usage"
    assert first.endswith(',100,,Albuterol,"{""patientId"":""100"",""medication"":""Albuterol""}"')
    assert second.partition("Z,")[2].startswith('200,,"a ""b"", c",')
    before = exported(own)
    again = command("import", str(out), "--exported", "--url", url(own))
    assert b"0 created, 2 duplicate" in again.stdout
    assert exported(own) == before


def test_standard_input_is_a_file_with_a_name(own: WebInstance):
    """The same name again is the same import."""
    for words in (b"2 created, 0 duplicate", b"0 created, 2 duplicate"):
        result = command("import", "-", "--name", "pipe", "--url", url(own), stdin=b'{"a": 1}\n{"a": 1}\n')
        assert result.returncode == 0, result.stderr
        assert words in result.stdout


def test_lines_of_a_pipe_are_stored_as_they_come(own: WebInstance):
    """Not only when the pipe ends; and Ctrl-C ends a run that waits for more."""
    arguments = [sys.executable, "-m", "service", "import", "-", "--name", "live", "--url", url(own)]
    process = subprocess.Popen(
        arguments, cwd=ROOT, env=clean_environ(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdin is not None
    try:
        for count in (1, 2):
            process.stdin.write(b'{"n": %d}\n' % count)
            process.stdin.flush()
            eventually(lambda count=count: own.request("GET", "/api/usages/count").json()["total"] == count)
        process.send_signal(signal.SIGINT)
        process.wait(TIMEOUT_S)
    finally:
        process.kill()
        out, errors = process.communicate()
    assert process.returncode == 130
    assert b"2 created" in out
    assert b"again to finish" in errors
    assert b"Traceback" not in errors


@pytest.mark.parametrize(
    "arguments",
    [
        ["import"],
        ["import", "not there"],
        ["import", "-"],
        ["import", "/dev/null", "--url", "nonsense"],
        ["import", "/dev/null", "--format", "xml"],
        ["export", "--output", "/not there/file"],
        ["export", "--url", "ftp://host"],
    ],
)
def test_a_wrong_argument_is_exit_2_and_nothing_is_sent(arguments: list[str]):
    """And a line that says what is wrong."""
    result = command(*arguments)
    assert result.returncode == 2
    assert result.stderr
    assert b"Traceback" not in result.stderr


def test_a_wrong_time_is_exit_2_in_the_services_words(instance: WebInstance, tmp_path: Path):
    """No file is left."""
    result = command("export", "--url", url(instance), "--from", "yesterday", "--output", str(tmp_path / "out"))
    assert result.returncode == 2
    assert b"from" in result.stderr
    assert not list(tmp_path.glob("*out*"))


def test_a_service_that_is_away_is_exit_3_and_says_how_to_go_on(tmp_path: Path):
    """After the patience that it was given."""
    path = tmp_path / "one.ndjson"
    path.write_text("{}\n")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        nobody = f"http://127.0.0.1:{taken.getsockname()[1]}"
    for arguments in (["import", str(path)], ["export", "--output", str(tmp_path / "out")]):
        result = command(*arguments, "--url", nobody, "--give-up", "0.2")
        assert result.returncode == 3
        assert b"cannot connect" in result.stderr
        assert b"Traceback" not in result.stderr
    assert not list(tmp_path.glob("*out*"))


def test_settings_of_the_service_are_no_business_of_its_clients(own: WebInstance):
    """A wrong one does not stop an export."""
    result = subprocess.run(
        [sys.executable, "-m", "service", "export", "--url", url(own)],
        cwd=ROOT,
        env=clean_environ(workers="many"),
        capture_output=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert (result.returncode, result.stdout) == (0, b"")


@pytest.mark.slow
def test_an_import_whose_instance_is_killed_is_finished_by_a_second_run(tmp_path: Path):
    """No loss, no duplicate; between the two the first waits, and goes on by itself if the service is back."""
    path = tmp_path / "many.ndjson"
    lines = usages(60_000)
    path.write_bytes(b"\n".join(lines))
    store = tmp_path / "own" / "store.sqlite3"
    arguments = [sys.executable, "-m", "service", "import", str(path), "--give-up", "0.5"]
    with ready_instance(tmp_path / "own", store=store) as first:
        process = subprocess.Popen(
            [*arguments, "--url", url(first)],
            cwd=ROOT,
            env=clean_environ(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        eventually(lambda: first.request("GET", "/api/usages/count").json()["total"] > 3000)
        first.signal(signal.SIGKILL)
        out, errors = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 3, (out, errors)
    assert b"again to finish" in errors
    with ready_instance(tmp_path / "own", store=store) as second:
        result = command("import", str(path), "--url", url(second))
        assert result.returncode == 0, result
        assert texts(second) == collections.Counter(lines)


@pytest.mark.slow
def test_an_import_outlives_the_restart_of_its_service(tmp_path: Path):
    """By itself, with its own retries: to the user it is a pause."""
    path = tmp_path / "many.ndjson"
    lines = usages(60_000)
    path.write_bytes(b"\n".join(lines))
    store = tmp_path / "own" / "store.sqlite3"
    with ready_instance(tmp_path / "own", store=store) as first:
        port = first.address[1]
        process = subprocess.Popen(
            [sys.executable, "-m", "service", "import", str(path), "--url", url(first)],
            cwd=ROOT,
            env=clean_environ(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        eventually(lambda: first.request("GET", "/api/usages/count").json()["total"] > 3000)
        first.signal(signal.SIGKILL)
        first.wait()
    with ready_instance(tmp_path / "own", store=store, listen_port=port) as second:
        out, errors = process.communicate(timeout=TIMEOUT_S)
        assert process.returncode == 0, (out, errors)
        assert texts(second) == collections.Counter(lines)


class Cutting:
    """A proxy that cuts each of its first connections after so many bytes of the answer."""

    def __init__(self, to: tuple[str, int], cuts: list[int]) -> None:
        self._to = to
        self._cuts = cuts
        self.done = 0
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            self._serve(client)

    def _serve(self, client: socket.socket) -> None:
        with client, socket.create_connection(self._to) as server:
            request = client.recv(65536)
            server.sendall(request)
            left = self._cuts.pop(0) if self._cuts and b"/count" not in request else None
            while data := server.recv(65536):
                client.sendall(data[:left])
                if left is not None:
                    left -= len(data)
                    if left <= 0:
                        self.done += 1
                        return

    def close(self) -> None:
        """Listen no more."""
        self._listening.close()


def test_an_export_over_a_connection_that_is_cut_is_whole(own: WebInstance, tmp_path: Path):
    """Rows of one transaction have one time; none is written twice, none left out."""
    path = tmp_path / "usages.ndjson"
    lines = usages(4000)
    path.write_bytes(b"\n".join(lines))
    assert command("import", str(path), "--url", url(own)).returncode == 0
    proxy = Cutting(own.address, [50_000, 200_000, 1, 100_000])
    try:
        result = command("export", "--url", f"http://127.0.0.1:{proxy.port}", "--output", str(tmp_path / "out"))
    finally:
        proxy.close()
    assert result.returncode == 0, result
    assert proxy.done == 4
    assert (tmp_path / "out").read_bytes() == command("export", "--url", url(own)).stdout
    assert len((tmp_path / "out").read_bytes().splitlines()) == len(lines)


def test_progress_is_shown_on_a_terminal_alone(own: WebInstance, tmp_path: Path):
    """Elsewhere standard error stays empty, as other tests see."""
    import os
    import pty

    path = tmp_path / "usages.ndjson"
    path.write_bytes(b"\n".join(usages(20_000)))
    main, side = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "service", "import", str(path), "--url", url(own)],
        cwd=ROOT,
        env={**clean_environ(), "COLUMNS": "120"},
        stdout=subprocess.PIPE,
        stderr=side,
    )
    os.close(side)
    shown = b""
    end_s = time.monotonic() + TIMEOUT_S
    while time.monotonic() < end_s:
        try:
            data = os.read(main, 65536)
        except OSError:
            break
        if not data:
            break
        shown += data
    os.close(main)
    process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0
    assert b"\r[" in shown
    assert b"created" in shown
    assert shown.endswith(b"\x1b[K")
