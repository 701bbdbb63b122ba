"""Many usages in and out again: streamed through one connection, and from files by the commands, also amid a failure.

``STREAMED_USAGES=1000000 make test-system ARGS="-k streamed"`` sends a million in place of a hundred thousand.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from deploy.cluster import RunningCluster
from deploy.cluster.client import ROOT
from tests.system.batches import count, export, keyed, now, stream
from tests.system.wire import Closed

STATUSES = ("created", "duplicate", "invalid", "retry", "unknown")
STREAMED = int(os.environ.get("STREAMED_USAGES", "100000"))
STREAM_TIMEOUT_S = 60 + STREAMED / 5_000
IMPORTED = 60_000
IMPORT_TIMEOUT_S = 180


def uuid7(number: int, token: str) -> str:
    """A key of the cheapest kind, of some thousand in the same ten seconds."""
    at_ms = 1_760_000_000_000 + number
    return f"{at_ms >> 16:08x}-{at_ms & 0xFFFF:04x}-7{number & 0xFFF:03x}-8{number % 4096:03x}-{token[:12]}"


def items(token: str) -> Iterator[tuple[str | None, bytes]]:
    """Usages with a text of their own each: half of them under keys."""
    for number in range(STREAMED):
        usage = b'{"patientId": "%b", "number": %d}' % (token.encode(), number)
        yield (uuid7(number, token) if number % 2 else None), usage


def test_usages_streamed_through_one_connection_come_out_again_as_they_went_in(base_url: str) -> None:
    """A result for each, an export of just what was stored, and the summary, the count and the export say one number."""
    token = uuid.uuid4().hex
    since = now(base_url)
    lines = (usage if key is None else keyed(key, usage) for key, usage in items(token))
    results, last = stream(base_url, lines, STREAM_TIMEOUT_S)
    assert len(results) == STREAMED
    assert last["summary"]["complete"] is True
    told = Counter(result["status"] for result in results)
    assert told == {name: number for name, number in last["summary"].items() if name in STATUSES and number}
    # On a machine that is short of everything some are late, and are to be sent again.
    assert told["created"] >= 0.5 * STREAMED, last
    rows = [row for row in export(base_url, STREAM_TIMEOUT_S, from_=since) if token.encode() in row.usage]
    assert [row.received_at for row in rows] == sorted(row.received_at for row in rows)
    stored = {row.id: row.usage for row in rows}
    assert len(stored) == len(rows)
    both = [*zip(results, (usage for _, usage in items(token)), strict=True)]
    created = {result["id"]: usage for result, usage in both if result["status"] == "created"}
    unknown = {usage for result, usage in both if result["status"] == "unknown"}
    assert len(created) == told["created"]
    assert created.items() <= stored.items()
    assert {usage for id_, usage in stored.items() if id_ not in created} <= unknown
    assert count(base_url, from_=since)["total"] == len(rows) + 1  # the marker


# --- the commands


def command(*arguments: str) -> subprocess.Popen[str]:
    """``python -m service``, as a user starts it."""
    return subprocess.Popen(
        [sys.executable, "-m", "service", *arguments],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_an_import_that_was_killed_amid_a_failure_is_finished_by_the_next_one(
    whole_cluster: RunningCluster, tmp_path: Path
) -> None:
    """Web instances are killed midway, in the end all, and then the import; run again it ends, and each line is stored once.

    So says its summary, and the export of the very same time, by the command too.
    """
    url, token = whole_cluster.base_url, uuid.uuid4().hex
    since = now(url)
    file = tmp_path / "usages.ndjson"
    sent = [b'{"patientId": "%b", "number": %d}' % (token.encode(), number) for number in range(IMPORTED)]
    file.write_bytes(b"\n".join(sent) + b"\n")

    first = command("import", str(file), "--url", url)
    try:
        # Whichever has the stream: one after the other, until there is none, and what was on its way has no answer.
        for share, name in ((0.1, "web1"), (0.2, "web2"), (0.3, "web3")):
            wait_until_stored(url, since, share * IMPORTED, first)
            whole_cluster.kill(name)
        assert first.poll() is None, "it was over before it was killed: the file is too short"
    finally:
        first.kill()
        first.communicate()
    for process in whole_cluster.processes("web"):
        whole_cluster.start(process.name, wait=False)
    whole_cluster.wait_until_ready()
    assert 0 < count(url, from_=since)["total"] < IMPORTED

    second = command("import", str(file), "--url", url)
    out, errors = second.communicate(timeout=IMPORT_TIMEOUT_S)
    assert second.returncode == 0, errors
    assert f"{IMPORTED:,} lines" in out
    assert " 0 refused" in out
    assert "acknowledged: fsync" in out
    duplicates = int(out.split(" created, ")[1].split(" duplicate")[0].replace(",", ""))
    assert duplicates >= 0.3 * IMPORTED, out

    rows = [row for row in export(url, from_=since) if token.encode() in row.usage]
    assert Counter(row.usage for row in rows) == Counter(sent)
    assert count(url, from_=since)["total"] == IMPORTED + 1
    assert exported(url, since, tmp_path / "out.ndjson", token) == sorted(sent)


def wait_until_stored(url: str, since: str, usages: float, importing: subprocess.Popen[str]) -> None:
    """Until so many are. An instance that was killed may take the question along."""
    deadline_s = time.monotonic() + IMPORT_TIMEOUT_S
    while True:
        with contextlib.suppress(AssertionError, Closed):
            if count(url, from_=since)["total"] >= usages:
                return
        assert importing.poll() is None, importing.communicate()
        assert time.monotonic() < deadline_s, "the import is too slow"
        time.sleep(0.05)


def exported(url: str, since: str, file: Path, token: str) -> list[bytes]:
    """The usages of the test as the command exports them."""
    out = command("export", "--url", url, "--from", since, "--output", str(file))
    _, errors = out.communicate(timeout=IMPORT_TIMEOUT_S)
    assert out.returncode == 0, errors
    documents: list[dict[str, Any]] = [json.loads(line) for line in file.read_bytes().splitlines()]
    own = (document["usage"] for document in documents if document["usage"].get("patientId") == token)
    return sorted(json.dumps(usage).encode() for usage in own)
