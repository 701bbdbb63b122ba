from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import ROOT, end, eventually

MINUTES_MAX = 5
START_WITHIN_S = 90.0


@pytest.mark.cassandra
@pytest.mark.slow
@pytest.mark.timeout(MINUTES_MAX * 60 + 60)
def test_nothing_is_lost_in_the_quick_run(tmp_path: Path):
    """Make chaos-quick: each short fault once, a fixed seed, and every count that must be 0 is 0."""
    command = [sys.executable, "-m", "tests.chaos", "--quick", "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=MINUTES_MAX * 60, check=False)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    (record,) = (json.loads(path.read_text()) for path in tmp_path.glob("*/record.json"))
    assert record["not_run"] == {}
    for outcome in record["outcomes"]:
        counts = outcome["verdict"]["counts"]
        assert counts["acknowledged"] > 1_000
        assert {name for name, count in counts.items() if count} <= {"acknowledged", "refused", "unknown"}


@pytest.mark.cassandra
@pytest.mark.slow
@pytest.mark.timeout(240)
def test_ctrl_c_heals_and_compares_what_was_sent_until_then(tmp_path: Path):
    """In the middle of a fault: the store is read all the same, the table printed, and the exit status tells."""
    command = [sys.executable, "-m", "tests.chaos", "--quick", "--only", "web-stop", "--out", str(tmp_path)]
    log = tmp_path / "stderr.txt"
    with log.open("wb") as stderr:
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=stderr)
    try:
        eventually(lambda: "web-stop web" in log.read_text() or process.poll() is not None, START_WITHIN_S)
        process.send_signal(signal.SIGINT)
        table = process.communicate(timeout=START_WITHIN_S)[0].decode()
    finally:
        end(process)
    assert process.returncode == 130, f"{table}\n{log.read_text()}"
    assert "web-stop" in table
    (record,) = (json.loads(path.read_text()) for path in tmp_path.glob("*/record.json"))
    (outcome,) = record["outcomes"]
    assert outcome["interrupted"]
    assert outcome["events"][0]["interrupted"]
    assert outcome["verdict"]["counts"]["acknowledged"] > 100
    assert outcome["verdict"]["counts"]["lost"] == 0


def test_a_wrong_name_is_a_usage_error():
    """With its reason, before anything starts."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.chaos", "--only", "web-kil"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "there is no fault web-kil" in done.stderr
