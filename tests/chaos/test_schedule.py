from __future__ import annotations

import itertools

import pytest

from tests.chaos.__main__ import Asked, all_faults, chosen, planned
from tests.chaos.faults import WAITED_REFUSED_WITHIN_S, Context, Failures, Fault, Needs, Sees, targets_of
from tests.chaos.faults.cassandra import ANSWER_WITHIN_S
from tests.chaos.schedule import Injection, may_overlap, problems, schedule
from tests.chaos.topology import process_names, topologies

NAMES = process_names(1)


def nothing(_context: Context) -> None:
    """A fault that does nothing."""


def fault(name: str, takes: str = "", **more: object) -> Fault:
    """A fault of no consequence."""
    base = Fault(name=name, place="web", does="nothing", inject=nothing, takes=frozenset(takes.split()))
    return dataclass_with(base, **more)


def dataclass_with(base: Fault, **more: object) -> Fault:
    """The same with other values."""
    import dataclasses

    return dataclasses.replace(base, **more)  # type: ignore[arg-type]


SOME = (
    fault("kill", "web", targets=targets_of("web"), length_s=(1.0, 3.0), lasts_s=2.0),
    fault("pause", "cassandra", targets=targets_of("cassandra"), length_s=(5.0, 10.0)),
    fault("cut", "network", length_s=(1.0, 4.0)),
    fault("rolling", sees=Sees(failures=Failures.NONE), lasts_s=20.0),
)


def together(injections: tuple[Injection, ...]) -> list[tuple[Injection, Injection]]:
    """Pairs that happen at once, as planned."""
    pairs = itertools.combinations(injections, 2)
    return [(one, other) for one, other in pairs if one.at_s < other.ends_s and other.at_s < one.ends_s]


def test_the_same_seed_gives_the_same_schedule_and_another_seed_another():
    """The seed replays a run: faults, order, targets, lengths, delays."""
    assert schedule(7, SOME, NAMES, 600) == schedule(7, SOME, NAMES, 600)
    assert schedule(7, SOME, NAMES, 600) != schedule(8, SOME, NAMES, 600)


@pytest.mark.parametrize("seed", range(50))
def test_every_kind_comes_up_before_any_comes_again(seed: int):
    """Also when the time is too short for all of them."""
    short = schedule(seed, SOME, NAMES, 0)
    assert sorted(injection.fault.name for injection in short) == sorted(each.name for each in SOME)
    long = schedule(seed, SOME, NAMES, 1_200)
    assert {injection.fault.name for injection in long[: len(SOME)]} == {each.name for each in SOME}
    assert long[-1].ends_s > 600
    assert all(injection.ends_s <= 1_200 for injection in long)


@pytest.mark.parametrize("seed", range(50))
def test_no_two_that_break_each_others_promise_are_planned_at_once(seed: int):
    """Two of the same place never, one that promises that no request fails with none."""
    for one, other in together(schedule(seed, SOME, NAMES, 1_200)):
        assert may_overlap(one.fault, other.fault)


def test_a_web_instance_is_killed_while_cassandra_stands_still():
    """What is wanted of overlaps comes up."""
    pairs = {frozenset({one.fault.name, other.fault.name}) for one, other in together(schedule(1, SOME, NAMES, 3_600))}
    assert frozenset({"kill", "pause"}) in pairs


def test_targets_and_lengths_are_those_that_the_fault_allows():
    """A process of its role, a length between least and most."""
    for injection in schedule(3, SOME, NAMES, 1_200):
        assert injection.target in (injection.fault.targets(NAMES) if injection.fault.targets else [""])
        assert injection.fault.length_s[0] <= injection.length_s <= injection.fault.length_s[1]
    targets = {injection.target for injection in schedule(3, SOME, NAMES, 3_600) if injection.fault.name == "kill"}
    assert targets == {"web1", "web2"}


def test_a_fault_without_a_target_among_the_processes_is_an_error():
    """It is not left out in silence."""
    nowhere = fault("nowhere", "cache", targets=targets_of("redis"))
    with pytest.raises(ValueError, match="nowhere has no target"):
        schedule(1, [nowhere], [], 10)


def test_a_fault_that_promises_much_overlaps_with_none_whatever_it_takes():
    """Another could break what it promises, and the blame would be its own."""
    killed = fault("kill", "web")
    for sees in (Sees(failures=Failures.NONE), Sees(only=503)):
        assert not may_overlap(fault("strict", "cassandra", sees=sees), killed)
    assert may_overlap(fault("loose", "cassandra"), killed)
    assert not may_overlap(fault("another", "web"), killed)
    assert not may_overlap(fault("takes nothing"), killed)


def test_two_of_one_name_and_a_length_that_is_none_are_problems():
    """The plants: each is told."""
    assert problems([*SOME, SOME[0]]) == ["there are two faults kill"]
    assert problems([fault("odd", length_s=(3.0, 1.0))]) == ["odd has a length from 3.0 to 1.0 s"]
    assert problems(SOME) == []


def test_the_suites_own_faults_are_in_order():
    """Every one says what it does, fits together with the others, and has a target in its topology."""
    faults = all_faults()
    assert problems(faults) == []
    for each in faults:
        assert each.does
        schedule(1, [each], process_names(each.needs.nodes), 0)


def test_faults_share_a_topology_unless_one_is_alone_or_has_another_number_of_nodes():
    """The control has a cluster to itself."""
    alone = fault("alone", needs=Needs(alone=True))
    three = fault("three", needs=Needs(nodes=3))
    found = topologies([*SOME, alone, three])
    assert [(each.name, len(each.faults)) for each in found] == [("one node", 4), ("alone", 1), ("3 nodes", 1)]
    assert [each.name for each in topologies([*SOME, alone, three], nodes=3)] == ["3 nodes"]


def test_what_is_asked_for_is_chosen_by_fault_or_by_place():
    """An unknown name is an error, not an empty run."""
    faults = all_faults()
    assert [each.name for each in chosen(faults, Asked(only=("web-kill",)))] == ["web-kill"]
    assert {each.place for each in chosen(faults, Asked(only=("web", "haproxy")))} == {"web", "haproxy"}
    with pytest.raises(ValueError, match="no fault web-kil;"):
        chosen(faults, Asked(only=("web-kil",)))


def test_the_quick_run_has_each_of_its_faults_once():
    """It is over in time because nothing comes twice."""
    faults = chosen(all_faults(), Asked(quick=True))
    for topology, injections in planned(faults, Asked(quick=True)):
        assert sorted(each.fault.name for each in injections) == sorted(each.name for each in topology.faults)


def test_a_run_of_the_default_length_has_200_injections():
    """Rounds of restarts and reloads counted each, as the record does."""
    plans = planned(all_faults(), Asked())
    assert sum(each.fault.rounds for _, injections in plans for each in injections) >= 200


def test_no_fault_of_the_store_lets_a_refusal_come_later_than_queue_and_store_may_take():
    """The bounds of the service's own settings, and a turn on a busy machine."""
    of_the_store = [each for each in all_faults() if each.place in ("cassandra", "network", "disk")]
    assert len(of_the_store) > 10
    assert {each.sees.refused_within_s for each in of_the_store} <= {
        Sees().refused_within_s,
        ANSWER_WITHIN_S,
        WAITED_REFUSED_WITHIN_S,
    }
    assert max(each.sees.refused_within_s for each in of_the_store) == WAITED_REFUSED_WITHIN_S
    healing = {each.sees.healing_refused_within_s for each in of_the_store}
    assert healing == {None, WAITED_REFUSED_WITHIN_S}
    (outage,) = [each for each in of_the_store if each.name == "cassandra-outage"]
    assert outage.sees.refused_within_s == ANSWER_WITHIN_S
