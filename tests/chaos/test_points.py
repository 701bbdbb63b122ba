from __future__ import annotations

import sqlite3
import sys
from pathlib import Path

import pytest

from tests.chaos.points import ARMED, POINTS
from tests.support import USAGE, ConnectionEnded, ready_instance

pytestmark = pytest.mark.tools

PROGRAM = (sys.executable, "-m", "tests.chaos.points")


@pytest.mark.parametrize("point", POINTS)
def test_an_armed_instance_ends_at_its_point_and_not_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, point: str
):
    """Kill -9 before any answer: before the send nothing is stored, after the store's answer the usage is there."""
    monkeypatch.setenv("CHAOS_POINTS", str(tmp_path))
    with ready_instance(tmp_path, program=PROGRAM) as instance, instance.connect() as connection:
        assert connection.request("POST", "/api/usages", USAGE).status == 201
        (tmp_path / f"0{ARMED}").write_text(point)
        with pytest.raises((ConnectionEnded, OSError)):
            connection.request("POST", "/api/usages", USAGE)
        assert instance.wait() == -9
        path = instance.store_path
    (rows,) = sqlite3.connect(path).execute("SELECT count(*) FROM usages").fetchone()
    assert rows in {"before-send": {1}, "after-send": {1, 2}, "after-ack": {2}}[point]
