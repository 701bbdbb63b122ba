from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from loadtest.journal import Kind
from loadtest.reconcile.result import Finding, Findings, Reconciliation, Tally
from loadtest.reconcile.verdict import Fault as Wrong
from tests.chaos import table
from tests.chaos.__main__ import all_faults
from tests.chaos.events import Event
from tests.chaos.faults import Context, Failures, Fault, Sees
from tests.chaos.topology import Topology
from tests.chaos.verdict import Verdict, counts_of, judge
from tests.chaos.witness import Sample

T = 1_000_000.0


def nothing(_context: Context) -> None:
    """A fault that does nothing."""


def fault(sees: Sees | None = None, **more: Any) -> Fault:
    """A fault with after-effects of 3 s."""
    return Fault(name="f", place="web", does="f", inject=nothing, sees=sees or Sees(), after_s=3.0, **more)


def event(of: Fault, at: float = T, **more: Any) -> Event:
    """Injected at ``at`` within a second, healed from 10 to 11 s later; its after-effects end 14 s later."""
    times = {"began_unix_s": at, "injected_unix_s": at + 1, "healing_unix_s": at + 10, "healed_unix_s": at + 11}
    return Event(fault=of, target="web1", **{**times, **more})


def timeline(**reasons_at: Mapping[str, int]) -> dict[str, Any]:
    """Failures by second after T: ``timeline(s5={"refused: 503 overloaded": 3})``."""
    return {
        "seconds": {
            str(int(T) + int(name[1:])): {"requests": {"POST /x": {"errors": dict(reasons)}}}
            for name, reasons in reasons_at.items()
        },
        "generators": {},
    }


def sample(at_s: float, status: int = 201, took_s: float = 0.01, **more: Any) -> Sample:
    """What the witness saw ``at_s`` after T."""
    return Sample(T + at_s, "POST usage", status, took_s, True, **more)


def reconciliation(**counts: int) -> Reconciliation:
    """100 acknowledged, 5 of them deleted, and so many of each fault; phantoms by what had been said of them."""
    reasons = {
        "phantom": "never sent, and it is there",
        "false_fail": "refused, and it is there",
        "resurrected": "its DELETE was acknowledged, and it is there",
    }
    phantoms = [
        Finding(Kind.USAGE, "j", number, "", "", text)
        for name, text in reasons.items()
        for number in range(counts.get(name, 0))
    ]
    faults = {wrong: Findings(counts.get(wrong.value, 0)) for wrong in Wrong}
    faults[Wrong.PHANTOM] = Findings(len(phantoms), tuple(phantoms))
    tallies = {Kind.MESSAGE: Tally(sent=100, acknowledged=95, deleted=5, unknown=counts.get("unknown", 0))}
    zeros = dict.fromkeys(Kind, 0)
    return Reconciliation("store", 1, tallies, zeros, zeros, faults, (), 0.1)


def verdict(
    *events: Event,
    found: Reconciliation | None = None,
    seen: Mapping[str, Any] | None = None,
    samples: tuple[Sample, ...] = (),
    control: bool = False,
) -> Verdict:
    """The verdict on a topology with one fault."""
    of = tuple({each.fault.name: each.fault for each in events}.values())
    if control:
        of = (fault(control=True),)
    return judge(Topology("t", 1, of), events, found or reconciliation(), seen or timeline(), samples)


def complaints(found: Verdict) -> list[str]:
    """All of them."""
    return [*found.complaints, *(text for row in found.rows for text in row.complaints)]


def test_a_run_in_which_everything_was_right_is_well():
    """Nothing lost, failures within what the fault allows, answers in time."""
    found = verdict(
        event(fault()),
        seen=timeline(s5={"refused: 503 overloaded": 3, "connection broke: Connection reset by peer": 2}),
        samples=(sample(-5), sample(5, 503), sample(6, 0), sample(7, 504, 3.0), sample(12)),
    )
    assert complaints(found) == []
    assert found.ok
    assert (found.rows[0].refused, found.rows[0].unknown, found.rows[0].slowest_s) == (3, 2, 3.0)


@pytest.mark.parametrize("name", ["lost", "phantom", "duplicate", "false_fail", "corrupt", "resurrected"])
def test_each_fault_in_the_store_is_told_apart_and_is_not_well(name: str):
    """One of each sort alone, under its own name."""
    found = verdict(event(fault()), found=reconciliation(**{name: 1}))
    assert not found.ok
    assert found.counts is not None
    assert getattr(found.counts, name) == 1
    assert found.counts.bad == 1


def test_what_is_unknown_is_no_fault():
    """It may be there or not."""
    found = verdict(event(fault()), found=reconciliation(unknown=7))
    assert found.ok
    assert found.counts is not None
    assert (found.counts.acknowledged, found.counts.unknown) == (100, 7)


def test_more_phantoms_than_were_named_stay_phantoms():
    """None is dropped because its reason is not known."""
    named = reconciliation(false_fail=2)
    faults = {**named.faults, Wrong.PHANTOM: Findings(9, named.faults[Wrong.PHANTOM].first)}
    counts = counts_of(Reconciliation("s", 1, named.tallies, named.rows, named.others, faults, (), 0.1))
    assert (counts.false_fail, counts.phantom) == (2, 7)


@pytest.mark.parametrize("second", [-3, 20])
def test_a_failure_outside_of_any_fault_is_a_complaint(second: int):
    """Before the injection, and after the after-effects."""
    seen = {"seconds": {str(int(T) + second): {"requests": {"x": {"errors": {"refused: 503 x": 1}}}}}, "generators": {}}
    found = verdict(event(fault()), seen=seen)
    assert found.complaints == ("1 x refused: 503 x",)
    assert not found.ok


@pytest.mark.parametrize(
    ("failures", "reason"),
    [
        (Failures.NONE, "refused: 503 draining"),
        (Failures.NONE, "connection broke: Connection reset by peer"),
        (Failures.REFUSED, "connection closed before an answer came"),
        (Failures.REFUSED, 'expected 201 {"id": an integer}, got 504 unknown_outcome'),
        (Failures.UNKNOWN, 'expected 201 {"id": an integer}, got 500 internal_error'),
        (Failures.UNKNOWN, 'expected 201 {"id": an integer}, got 200 {"id": 7}'),
        (Failures.UNKNOWN, "expected 404, got 200 message"),
        (Failures.UNKNOWN, "timed out: not an answer in 30 s"),
        (Failures.UNKNOWN, "bytes that nobody asked for: x"),
    ],
)
def test_a_failure_that_a_fault_does_not_allow_is_its_complaint(failures: Failures, reason: str):
    """Strict faults allow none, others what belongs to them, and none a wrong answer."""
    found = verdict(event(fault(Sees(failures=failures))), seen=timeline(s5={reason: 2}))
    assert found.rows[0].complaints == (f"2 x {reason}",)


def test_of_two_faults_at_once_the_more_permissive_decides():
    """A killed instance while Cassandra stands still: what either allows may be seen."""
    strict, loose = fault(Sees(failures=Failures.REFUSED)), fault(Sees(failures=Failures.UNKNOWN))
    seen = timeline(s5={"cannot connect: Connection refused": 1})
    assert verdict(event(strict), event(loose), seen=seen).ok
    assert not verdict(event(strict), seen=seen).ok


@pytest.mark.parametrize(
    "bad",
    [
        sample(5, 504, 15.5),
        sample(5, 503, 2.5),
        sample(5, 503, wrong="503 with Retry-After ''"),
        sample(5, 200, wrong="another usage than was acknowledged: b''"),
        sample(5, 500),
        sample(-20, 503),
        sample(-20, 201, 6.0),
    ],
)
def test_an_answer_that_is_late_or_wrong_is_a_complaint(bad: Sample):
    """Later than its deadline, a 503 late or without Retry-After, a 500, a refusal or a wait without a fault."""
    assert len(complaints(verdict(event(fault()), samples=(bad, sample(12))))) == 1


def test_once_an_outage_has_settled_every_write_is_refused():
    """The status that is promised, and somebody who asked."""
    outage = event(fault(Sees(only=503, settles_s=3.0)))
    assert verdict(outage, samples=(sample(2, 504), sample(5, 503), sample(12))).ok
    assert complaints(verdict(outage, samples=(sample(5, 504), sample(12))))
    assert complaints(verdict(outage, samples=(sample(12),)))


def test_where_reads_are_refused_as_well_each_is():
    """Only where the fault says so: a disk that is full may still be read."""
    read = Sample(T + 6, "GET usage", 200, 0.01, write=False)
    seen = (sample(5, 503), read, sample(12))
    assert verdict(event(fault(Sees(only=503, settles_s=3.0))), samples=seen).ok
    (told,) = complaints(verdict(event(fault(Sees(only=503, reads_too=True, settles_s=3.0))), samples=seen))
    assert told == "GET usage: 200 once it had settled, not 503"


@pytest.mark.parametrize("at_s", [0.5, 5, 10.5, 13])
def test_where_no_request_may_fail_none_may_at_any_time(at_s: float):
    """As the fault begins, while it lasts, as it is healed and for as long as its after-effects last."""
    one = event(fault(Sees(failures=Failures.NONE)))
    assert verdict(one, samples=(sample(at_s), sample(15))).ok
    found = verdict(one, samples=(sample(at_s, 503), sample(15)))
    assert found.rows[0].complaints
    assert found.complaints == ()


def test_each_fault_of_one_node_of_three_lets_no_request_fail():
    """Two are as many as the consistency level counts."""
    of_one_node = [each for each in all_faults() if each.name.startswith("cassandra3-one-")]
    assert len(of_one_node) == 3
    assert {each.sees.failures for each in of_one_node} == {Failures.NONE}


def test_service_comes_back_in_time_or_it_is_a_complaint():
    """From the end of the heal to the first acknowledgement."""
    back = event(fault(Sees(back_within_s=5.0)))
    assert verdict(back, samples=(sample(12, 503), sample(15.5))).ok
    assert complaints(verdict(back, samples=(sample(12, 503), sample(13, 201, 4.0))))
    assert complaints(verdict(back, samples=(sample(12, 503),)))


def test_what_a_fault_measured_is_judged_and_what_it_raised_is_told():
    """Check's complaints, and the text of an exception."""
    checked = fault(check=lambda seen: [f"grew by {seen['grew']}"] if seen["grew"] else [])
    assert verdict(event(checked, seen={"grew": 0})).ok
    assert verdict(event(checked, seen={"grew": 3})).rows[0].complaints == ("grew by 3",)
    assert "heal: OSError" in verdict(event(fault(), error="heal: OSError: x")).rows[0].complaints[0]


def test_the_control_is_well_only_when_something_was_lost():
    """A suite that sees no loss where one must be is not well; what follows from the loss is no complaint of its own."""
    control = event(fault(control=True))
    missed = sample(12, 404, wrong="404 for a usage that was acknowledged")
    lost = verdict(control, found=reconciliation(lost=4, resurrected=1), samples=(missed, sample(13)), control=True)
    assert lost.ok
    assert complaints(lost) == []
    assert not verdict(control, found=reconciliation(), control=True).ok
    assert not verdict(event(fault(control=True), error="heal: x"), found=reconciliation(lost=4), control=True).ok


def test_a_topology_whose_store_was_not_read_is_not_well():
    """Nothing compared is nothing proven; nor is a run that acknowledged nothing."""
    found = judge(Topology("t", 1, (fault(),)), [event(fault())], None, timeline(), [], ["not compared"])
    assert not found.ok
    text = table.text([found], {})
    assert "not compared" in text
    assert "NOT WELL" in text


def test_the_table_names_what_was_not_run():
    """With its reason, and beside what was."""
    text = table.text([verdict(event(fault()), found=reconciliation(lost=2))], {"disk-full": "needs root"})
    assert "disk-full" in text
    assert "not run: needs root" in text
    assert text.endswith("NOT WELL")
    assert "all is well" in table.text([verdict(event(fault()))], {})


def test_the_record_has_a_line_for_each_topology_and_leaves_the_control_out_of_the_sum():
    """Markdown cells in the order of the columns; losses of the control are no losses."""
    control = verdict(event(fault(control=True)), found=reconciliation(lost=4), control=True)
    lines = table.markdown([verdict(event(fault())), control], "2026-01-01", "abc", 7).splitlines()
    assert lines[0] == "| 2026-01-01 | `abc` | 7 | t | 1 | 100 | 0 | 0 | 0 | 0 | 0 | 0 | 0 |"
    assert lines[1].startswith("| 2026-01-01 | `abc` | 7 | t, the control | 1 | 100 | 0 | 4 |")


@pytest.mark.parametrize(
    ("at_s", "took_s", "late"),
    [(5.0, 1.4, False), (5.0, 1.6, True), (8.0, 1.9, True), (8.5, 1.6, False), (10.5, 3.2, True)],
)
def test_a_refusal_may_take_longer_once_healing_has_begun_where_the_fault_says_so(
    at_s: float, took_s: float, late: bool
):
    """Healing begins 10 s after the injection; the bound of before counts for what was answered before that."""
    sees = Sees(refused_within_s=1.5, healing_refused_within_s=3.0)
    found = complaints(verdict(event(fault(sees)), samples=(sample(at_s, 503, took_s), sample(12))))
    assert bool(found) is late
