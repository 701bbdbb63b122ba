from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from loadtest.journal import Kind
from tests.chaos import evidence
from tests.chaos.faults.web import ended_by_kernel, taken_out
from tests.chaos.test_verdict import event, fault, reconciliation, sample
from tests.chaos.witness import RATE_PER_S
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
    """And the other way round."""
    found = reconciliation()
    rows = {Kind.USAGE: 7, Kind.KEYED: 3, Kind.MESSAGE: 99}
    found = type(found)(**{**{name: getattr(found, name) for name in found.__dataclass_fields__}, "rows": rows})
    assert evidence.of_listing(10, found) == []
    assert evidence.of_listing(9, found) == ["9 usages are listed, 10 are stored"]
    assert evidence.of_listing(11, found) == ["11 usages are listed, 10 are stored"]


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


@pytest.mark.parametrize("missing", ["process", "timeline"])
def test_a_load_that_was_not_there_to_the_end_is_no_evidence(instance: WebInstance, tmp_path: Path, missing: str):
    """Killed before it was to end, or without a word of what it did: an error, and not a run without failures."""
    workload = Workload(load(instance), tmp_path / "load")
    try:
        workload.wait_for_traffic()
        if missing == "process":
            os.kill(workload.pid, signal.SIGKILL)
            eventually(lambda: not workload.running)
        else:
            (tmp_path / "load" / "timeline.json").mkdir()  # nothing can be written there
    finally:
        with pytest.raises(WorkloadError):
            workload.end()


def test_some_messages_of_the_load_are_kept():
    """Of a message that is deleted nothing can be lost."""
    assert 0.2 <= KEPT_MESSAGES <= 0.5


def test_an_instance_that_stands_still_has_to_be_taken_out():
    """Once the checks had time for it."""
    assert taken_out({"stood_s": 20.0, "used": 1, "instances": 2}) == []
    assert taken_out({"stood_s": 2.0, "used": 2, "instances": 2}) == []
    assert taken_out({"stood_s": 20.0, "used": 2, "instances": 2})
    assert taken_out({}) == []


def test_a_memory_limit_that_was_not_met_shows_nothing():
    """The kernel has to end the instance."""
    assert ended_by_kernel({"ended_by_kernel": True}) == ended_by_kernel({}) == []
    assert ended_by_kernel({"ended_by_kernel": False})
