"""The offered rate on its way: shares of workers, what each is told and when, and real Locust processes that keep to it."""

from __future__ import annotations

import contextlib
import json
import math
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gevent
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.offering import Offering, Rate, shares
from loadtest.rates import divide
from loadtest.window import Totals, totals
from tests.support import ROOT, WebInstance, die_with_parent, end, eventually, ready_instance

pytestmark = pytest.mark.tools

RUN_TIMEOUT_S = 60


@dataclass
class Node:
    """A worker as the master knows it."""

    id: str
    user_count: int = 1


@given(rate=st.floats(0, 1e7), count=st.integers(1, 64))
def test_shares_add_up_to_the_rate_exactly_and_differ_by_little(rate: float, count: int):
    """Nothing is lost to rounding, no worker has more than two a second more than another, none less than nothing."""
    divided = divide(rate, count)
    assert len(divided) == count
    assert math.fsum(divided) == rate
    assert max(divided) - min(divided) < 2
    assert min(divided) >= 0


def test_a_rate_does_not_divide_over_nobody():
    """There must be a worker."""
    with pytest.raises(ValueError, match="0"):
        divide(10, 0)


def test_while_users_are_distributed_every_worker_has_its_share():
    """Nobody knows yet who gets users."""
    told = shares(16_001, [Node("a", 0), Node("b", 9)], settled=False)
    assert told == {"a": 8_001, "b": 8_000}


def test_once_users_are_distributed_a_worker_without_any_gets_no_rate():
    """Fewer users than workers: what it was given would never be sent."""
    told = shares(100, [Node("a", 3), Node("b", 0), Node("c", 3)], settled=True)
    assert told == {"a": 50, "b": 0, "c": 50}


def test_in_a_closed_loop_every_worker_is_told_so():
    """None is no rate to divide."""
    assert shares(None, [Node("a"), Node("b", 0)], settled=True) == {"a": None, "b": None}
    assert shares(100, [], settled=True) == {}


def listened_to(source: Callable[[], Rate] | None, count: int) -> list[Rate]:
    """What an offering tells at first, until there is so much of it, and when it is stopped."""
    told: list[Rate] = []
    offering = Offering(told.append)
    offering.start(source)
    with gevent.Timeout(10):
        while len(told) < count:
            gevent.sleep(0.01)
    offering.stop()
    offering.stop()
    return told


def test_users_are_held_back_before_they_start_and_when_the_test_ends():
    """An open loop offers nothing until its clock runs, then what it decides, then nothing, said once."""
    rates = iter([5.0, 7.0])
    assert listened_to(lambda: next(rates), 3) == [0.0, 5.0, 7.0, 0.0]


def test_a_closed_loop_is_said_once():
    """There is nothing to decide, and its users are stopped by Locust."""
    assert listened_to(None, 1) == [None]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebInstance]:
    """One web instance on SQLite."""
    with ready_instance(tmp_path_factory.mktemp("service")) as instance:
        yield instance


@contextlib.contextmanager
def locust(directory: Path, name: str, *words: str) -> Iterator[subprocess.Popen[bytes]]:
    """A Locust process with our locustfile; ended in any case."""
    command = [sys.executable, "-m", "locust", "-f", str(ROOT / "loadtest" / "locustfile.py"), *words]
    with (directory / f"{name}.log").open("wb") as log:
        # Not in the repository's directory: the locustfile finds its package wherever it was started.
        process = subprocess.Popen(
            command,
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            preexec_fn=die_with_parent,  # noqa: PLW1509 - one system call, no lock is taken
        )
    try:
        yield process
    finally:
        end(process)


@contextlib.contextmanager
def distributed(directory: Path, service: WebInstance, *words: str) -> Iterator[subprocess.Popen[bytes]]:
    """A headless master with two workers; the master's process."""
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = str(held.getsockname()[1])
    leading = [
        "--headless",
        "--master",
        "--master-bind-host=127.0.0.1",
        f"--master-bind-port={port}",
        "--expect-workers=2",
    ]
    with contextlib.ExitStack() as processes:
        master = processes.enter_context(locust(directory, "master", *leading, *said(directory, service), *words))
        for number in (1, 2):
            worker = ["--worker", "--master-host=127.0.0.1", f"--master-port={port}"]
            processes.enter_context(locust(directory, f"worker{number}", *worker))
        yield master


def said(directory: Path, service: WebInstance) -> list[str]:
    """What every leading process is told."""
    host = f"http://127.0.0.1:{service.address[1]}"
    return [
        "--only-summary",
        "--host",
        host,
        "--journal",
        str(directory / "journals"),
        "--timeline",
        str(directory / "timeline.json"),
    ]


def recorded(directory: Path) -> tuple[dict[str, Any], Totals]:
    """The timeline's file, and the sums of all of it."""
    timeline: dict[str, Any] = json.loads((directory / "timeline.json").read_text())
    return timeline, totals(timeline)


def logged(directory: Path, name: str = "alone") -> str:
    """What a process said."""
    return (directory / f"{name}.log").read_text()


def test_one_process_offers_the_curve_of_its_shape(service: WebInstance, tmp_path: Path):
    """A ramp to 400/s in 1 s, held for 2 s: 1,000 arrivals, each sent and answered, and the result is said."""
    shape = ["--headless", "--shape=ramp-to-16k", "--peak=400", "--ramp-s=1", "--hold-s=2", "--users=16"]
    with locust(tmp_path, "alone", *shape, *said(tmp_path, service)) as process:
        assert process.wait(RUN_TIMEOUT_S) == 0, logged(tmp_path)
    timeline, found = recorded(tmp_path)
    assert found.offered == pytest.approx(1_000, rel=0.2)
    assert found.begun + found.unsent == found.offered
    assert not found.reasons
    assert [test["shape"] for test in timeline["tests"]] == ["RampTo16k"]
    assert [phase["name"] for phase in timeline["tests"][0]["phases"]] == ["ramp", "hold"]
    assert f"offered {found.offered:,}" in timeline["notes"][0]
    assert timeline["notes"][0] in logged(tmp_path)


def test_two_workers_share_the_rate_and_everything_they_counted_arrives(service: WebInstance, tmp_path: Path):
    """300/s for a few seconds over two: each sends half, into a journal of its own, and the sums agree to the last one."""
    with distributed(tmp_path, service, "--rate=300", "--users=16", "--run-time=4s") as master:
        assert master.wait(RUN_TIMEOUT_S) == 0, logged(tmp_path, "master")
        # Journals are cut to their length when the workers end.
        eventually(lambda: all("Shutting down" in logged(tmp_path, f"worker{number}") for number in (1, 2)), 30)
    timeline, found = recorded(tmp_path)
    assert len(timeline["generators"]) == 2
    assert found.begun + found.unsent == found.offered > 300
    sizes = sorted(path.stat().st_size for path in (tmp_path / "journals").iterdir())
    assert len(sizes) == 2
    assert sizes[1] < 1.5 * sizes[0]
    assert service.metric("busyapi_requests_total", method="POST", status="201") >= found.answered


def test_ctrl_c_of_a_master_loses_no_count(service: WebInstance, tmp_path: Path):
    """Its workers finish what is in flight and report it before the result is said."""
    before = service.metric("busyapi_requests_total", method="POST", status="201")
    with distributed(tmp_path, service, "--users=16") as master:
        eventually(lambda: "Sending spawn jobs" in logged(tmp_path, "master"), 30)
        eventually(lambda: service.metric("busyapi_requests_total", method="POST", status="201") > before + 500, 30)
        master.send_signal(signal.SIGINT)
        master.wait(RUN_TIMEOUT_S)
        answered = service.metric("busyapi_requests_total", method="POST", status="201") - before
    _, found = recorded(tmp_path)
    assert found.answered == answered, logged(tmp_path, "master")
    assert not found.reasons


INTERRUPTED_AMID_A_REPORT = f"""
import os, signal, sys
sys.path.insert(0, {str(ROOT)!r})
from locust import events
from loadtest.locustfile import *

@events.init.add_listener
def _(environment, **_):
    receive = environment.runner.server.recv_from_client
    came = []

    def received():
        client, message = receive()
        if environment.runner.state == "running" and not came:
            came.append(message)
            os.kill(os.getpid(), signal.SIGINT)
        return client, message

    environment.runner.server.recv_from_client = received
"""


def test_ctrl_c_that_comes_while_a_master_hears_a_worker_is_not_lost(service: WebInstance, tmp_path: Path):
    """Locust's listener to workers lets a KeyboardInterrupt pass; this test would run for minutes."""
    (tmp_path / "interrupted.py").write_text(INTERRUPTED_AMID_A_REPORT)
    with distributed(tmp_path, service, "--users=4", "-f", str(tmp_path / "interrupted.py")) as master:
        master.wait(RUN_TIMEOUT_S)
    assert "Shutting down" in logged(tmp_path, "master")
    _, found = recorded(tmp_path)
    assert found.answered
    assert not found.reasons


def test_a_shape_with_options_that_do_not_fit_does_not_start(service: WebInstance, tmp_path: Path):
    """The process ends at once and says which option it is; nothing is sent."""
    shape = ["--headless", "--shape=step", "--step-s=1"]
    with locust(tmp_path, "alone", *shape, *said(tmp_path, service)) as process:
        process.wait(RUN_TIMEOUT_S)
    assert "Step does not start: --step-s is 1, and must be at least 5" in logged(tmp_path)
    assert not (tmp_path / "timeline.json").exists()


def test_the_search_for_the_knee_reports_the_last_good_step(service: WebInstance, tmp_path: Path):
    """A single step within its limits is the last good one; a step out of reach of any service is none."""
    shape = ["--headless", "--shape=step", "--step-from=20", "--step-s=5", "--run-time=7s", "--latency-limit-ms=5000"]
    with locust(tmp_path, "alone", *shape, *said(tmp_path, service)) as process:
        assert process.wait(RUN_TIMEOUT_S) == 0, logged(tmp_path)
    timeline, _ = recorded(tmp_path)
    assert timeline["tests"][0]["last_good_rate"] == 20
    assert any(note.startswith("The last good step was 20/s") for note in timeline["notes"])


def test_the_ladder_has_a_line_for_each_level(service: WebInstance, tmp_path: Path):
    """Closed loop, three levels: more users send more, nothing is offered, each level's figures are told."""
    shape = ["--headless", "--shape=ab-ladder", "--ladder=1,4,8", "--level-s=3"]
    with locust(tmp_path, "alone", *shape, *said(tmp_path, service)) as process:
        assert process.wait(RUN_TIMEOUT_S) == 0, logged(tmp_path)
    timeline, found = recorded(tmp_path)
    assert found.offered == 0
    levels = timeline["tests"][0]["levels"]
    assert [level["users"] for level in levels] == [1, 4, 8]
    assert all(level["answered"] > 0 for level in levels)
    assert any(note.startswith("8 users: ") for note in timeline["notes"])
