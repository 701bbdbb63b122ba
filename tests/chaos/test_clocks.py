"""The clock of one web instance, fault by fault, before a real Cassandra."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from tests.chaos.faults import Context, clocks, faked_clock
from tests.chaos.rehearsal import Rehearsal, rehearsing, statuses
from tests.support import ROOT

pytestmark = [pytest.mark.cassandra, pytest.mark.slow, pytest.mark.timeout(240)]

FAULTS = {fault.name: fault for fault in clocks.FAULTS}


@pytest.fixture(scope="module")
def rehearsal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rehearsal]:
    """One topology with clocks that can be set."""
    with rehearsing(clocks.FAULTS, tmp_path_factory.mktemp("clocks")) as running:
        yield running


@pytest.mark.parametrize("name", FAULTS)
def test_a_wrong_clock_shows_nowhere(rehearsal: Rehearsal, name: str):
    """The clock is wrong, no request fails, and DELETE and POST take effect in the order in which they were made."""
    during = rehearsal.perform(FAULTS[name], 1.0, "web2")
    assert statuses(during, write=True) == {201}
    assert statuses(during, write=False) == {200}
    *steps, last = rehearsal.events[-1].seen["steps"]
    assert len(steps) == (3 if name == "clock-steps" else 1)
    assert all(abs(each["off_by_s"]) > 1000 for each in steps)
    assert abs(last["off_by_s"]) < clocks.OFF_BY_S


def test_nothing_was_lost_or_brought_back_by_any_of_them(rehearsal: Rehearsal):
    """Of all usages and messages that the load wrote and removed meanwhile."""
    verdict = rehearsal.end()
    assert verdict.ok, verdict
    assert verdict.counts is not None
    assert verdict.counts.acknowledged > 1_000


def test_threads_go_on_that_sleep_while_the_clock_is_set(tmp_path: Path):
    """The driver's scheduler sleeps between two looks; were it gone, a lost connection would be made anew much later."""
    code = (
        "import sys, time; from pathlib import Path; from tests.chaos.faults.faked_clock import set_clock\n"
        "for offset in ('+0', '+1h', '-1h'):\n"
        "    set_clock(Path(sys.argv[1]), offset); began = time.monotonic(); time.sleep(2.2)\n"
        "    print(2.1 < time.monotonic() - began < 60, round((time.time() - float(sys.argv[2])) / 3600))\n"
    )
    command = [sys.executable, "-m", "tests.chaos.faults.faked_clock", str(tmp_path), sys.executable, "-c", code]
    done = subprocess.run(
        [*command, str(tmp_path / "1"), str(time.time()), "serve"],
        cwd=ROOT,
        env={**os.environ, "BUSYAPI_LISTEN_PORT": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.splitlines() == ["True 0", "True 1", "True -1"], done.stderr


@pytest.mark.parametrize("stopping", [False, True])
def test_a_clock_is_set_right_whatever_the_instance_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stopping: bool
):
    """Else all faults after it would have a wrong clock as well."""

    def fail(*_words: object) -> None:
        raise TimeoutError("timed out")

    file = tmp_path / "1"
    file.write_text("+1h\n")
    monkeypatch.setattr(clocks, "clock_file", lambda _context: file)
    monkeypatch.setattr(clocks, "across", fail)
    context = cast(Context, SimpleNamespace(stopping=SimpleNamespace(is_set=lambda: stopping), seen={}))
    with contextlib.nullcontext() if stopping else pytest.raises(TimeoutError):
        clocks.set_right(context)
    assert file.read_text().strip() == faked_clock.RIGHT


def test_writes_out_of_order_are_told():
    """What the fault has seen is judged by it: a clock that was not off shows nothing, a write without effect is wrong."""
    good = {"wanted_s": 3600.0, "off_by_s": 3599.2}
    assert clocks.in_order({"steps": [good], "wrong": []}) == []
    assert clocks.in_order({"steps": [good, {"wanted_s": -3600.0, "off_by_s": 0.1}], "wrong": []}) == [
        "the clock was off by 0.1 s, not -3600.0"
    ]
    assert clocks.in_order({"wrong": ["POST by web1: 201, GET by web2: 404"]}) == [
        "POST by web1: 201, GET by web2: 404"
    ]
