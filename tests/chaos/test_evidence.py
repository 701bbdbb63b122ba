from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from loadtest.journal import Kind
from loadtest.reconcile.result import Tally
from tests.chaos import evidence
from tests.chaos.faults.web import ended_by_kernel, taken_out
from tests.chaos.test_verdict import T, event, fault, reconciliation, sample
from tests.chaos.witness import RATE_PER_S, Sample
from tests.chaos.workload import KEPT_MESSAGES, Load, Workload, WorkloadError
from tests.support import WebInstance, eventually

pytestmark = pytest.mark.tools


def second(**counts: int) -> dict[str, Any]:
    """Answers of a second, by name, some of each with an error."""
    names = {"posts": "POST /x", "replays": "POST /x (replay)", "gets": "GET /x"}
    return {"requests": {names[name]: {"count": count, "errors": {"x": 1}} for name, count in counts.items()}}


def test_a_load_counts_by_the_arrivals_that_were_answered_well_or_not():
    """Its POSTs in the window, whatever was said to them."""
    seconds = {"10": second(posts=100), "11": second(posts=50, replays=30, gets=500), "12": second(posts=900)}
    assert evidence.answered_per_s({"seconds": seconds}, 10, 12) == 90
    assert evidence.answered_per_s({"seconds": {}}, 10, 12) == 0


def test_a_load_below_its_share_of_the_peak_proves_too_little():
    """Three tenths are enough."""
    assert evidence.of_load(300, 1000) == []
    assert evidence.of_load(299, 1000) == ["the load was 299/s, less than 30% of the peak of 1,000/s"]


def test_a_fault_that_the_witness_did_not_watch_is_named():
    """A quarter of what it asks otherwise is enough; of what was interrupted nothing is asked."""
    one = event(fault())
    lasts_s = one.until_unix_s - one.from_unix_s
    few = int(RATE_PER_S * lasts_s / 4) - 2
    samples = [sample(number / 100) for number in range(few)]
    (told,) = evidence.of_witness([one], samples)
    assert told.startswith(f"f: the witness asked {few} times")
    assert evidence.of_witness([one], [*samples, *samples]) == []
    assert evidence.of_witness([event(fault(), interrupted=True)], []) == []


def test_what_is_stored_and_not_listed_is_told():
    """And the other way round, where nothing may have come to light in between."""
    found = reconciliation()
    rows = {Kind.USAGE: 7, Kind.KEYED: 3, Kind.MESSAGE: 99}
    found = dataclasses.replace(found, rows=rows)
    assert evidence.of_listing(10, found, 0) == []
    assert evidence.of_listing(9, found, 0) == ["9 usages are listed, 10 are stored"]
    assert evidence.of_listing(11, found, 0) == ["11 usages are listed, 10 are stored"]
    assert evidence.of_listing(11, found, 1) == []
    assert evidence.of_listing(9, found, 1)
    assert evidence.of_listing(12, found, 1)


def test_of_several_replicas_what_is_unknown_may_come_to_light():
    """As many as were found not to be stored, and usages of the witness that no journal has."""
    tallies = {Kind.USAGE: Tally(unknown_not_stored=3), Kind.MESSAGE: Tally(unknown_not_stored=9)}
    found = dataclasses.replace(reconciliation(), tallies=tallies)
    message = Sample(T, "POST message", 504, 3.0, write=True)
    samples = [sample(1), sample(2, 503), sample(3, 504), sample(4, 0), message]
    assert evidence.may_come_to_light(found, samples, nodes=3) == 5
    assert evidence.may_come_to_light(found, samples, nodes=1) == 0


def load(instance: WebInstance) -> Load:
    """A little of everything."""
    host = "http://{}:{}".format(*instance.address)
    return Load(host=host, rate_per_s=100.0, connections=9, sync=False)


def test_a_load_that_ends_in_order_says_nothing(instance: WebInstance, tmp_path: Path):
    """It leaves a timeline."""
    workload = Workload(load(instance), tmp_path / "load")
    workload.wait_for_traffic()
    workload.end()
    assert (tmp_path / "load" / "timeline.json").exists()


def test_a_load_that_was_killed_is_no_evidence(instance: WebInstance, tmp_path: Path):
    """It ended before it was to: an error, and not a run without failures."""
    workload = Workload(load(instance), tmp_path / "load")
    try:
        workload.wait_for_traffic()
        os.kill(workload.pid, signal.SIGKILL)
        eventually(lambda: not workload.running)
    finally:
        with pytest.raises(WorkloadError, match="SIGKILL"):
            workload.end()


@pytest.mark.parametrize(
    ("ran", "well", "told"),
    [(True, True, True), (True, True, False), (True, False, True), (False, True, True)],
    ids=["all is well", "no timeline", "ended badly", "ended before"],
)
def test_a_load_ends_well_when_it_ran_ended_in_order_and_told_what_it_did(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ran: bool, well: bool, told: bool
):
    """Of these three none may be missing."""
    log = tmp_path / "locust.log"
    log.touch()
    locust = SimpleNamespace(running=ran, ended_well=lambda: well, stop=lambda _: None, why=lambda: "why", log=log)
    monkeypatch.setattr("tests.chaos.workload.Locust", lambda *_: locust)
    workload = Workload(Load(host="http://x", rate_per_s=1.0, connections=1), tmp_path / "load")
    if told:
        (tmp_path / "load" / "timeline.json").write_text("{}")
    with contextlib.nullcontext() if ran and well and told else pytest.raises(WorkloadError):
        workload.end()


def test_some_messages_of_the_load_are_kept():
    """Of a message that is deleted nothing can be lost."""
    assert 0.2 <= KEPT_MESSAGES <= 0.5


def test_an_instance_that_stands_still_has_to_be_taken_out():
    """Once the checks had time for it."""
    assert taken_out({"stood_s": 20.0, "taken_for": "down"}) == []
    assert taken_out({"stood_s": 20.0, "taken_for": "new"}) == []
    assert taken_out({"stood_s": 2.0, "taken_for": "up"}) == []
    assert taken_out({"stood_s": 20.0, "taken_for": "up"}) == [
        "HAProxy took it for up when it had stood still for 20 s"
    ]
    assert taken_out({"stood_s": 20.0, "taken_for": "?"})
    assert taken_out({}) == []


def test_a_memory_limit_that_was_not_met_shows_nothing():
    """The kernel has to end the instance."""
    assert ended_by_kernel({"ended_by_kernel": True}) == ended_by_kernel({}) == []
    assert ended_by_kernel({"ended_by_kernel": False})
