from __future__ import annotations

import statistics
from collections.abc import Iterator
from contextlib import contextmanager

import gevent
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

with pytest.MonkeyPatch.context() as patch:
    # Locust would put gevent under the sockets and threads of all other tests of this process.
    patch.setenv("LOCUST_SKIP_MONKEY_PATCH", "1")
    from loadtest.timeline import Timeline
    from loadtest.users.arrivals import GRID_S, Arrivals, Schedule


ROUNDING_S = 1e-9


def planned(schedule: Schedule, *calls_s: float) -> list[float]:
    """Every start, one by one, that calls at these instants hand out."""
    return [instant_s for now_s in calls_s for instant_s, count in schedule.due(now_s) for _ in range(count)]


def on_grid(instant_s: float) -> bool:
    """Whether it is a whole multiple of the grid's step."""
    return abs(instant_s / GRID_S - round(instant_s / GRID_S)) < 1e-6


@given(st.floats(0.5, 50_000), st.floats(0, 1e6))
@example(1.0, 1.3)
def test_constant_arrivals_are_even_and_exact(rate_per_s: float, begin_s: float):
    """After any time t, rate x t starts were planned, to within one, each on the grid."""
    schedule = Schedule()
    schedule.change(rate_per_s, begin_s)
    instants = planned(schedule, *(begin_s + step / 10 for step in range(1, 11)))
    assert abs(len(instants) - rate_per_s) <= 1 + rate_per_s * GRID_S
    assert instants == sorted(instants)
    assert all(on_grid(instant_s) for instant_s in instants)
    # A multiple of the step and a sum of tenths may differ in their last bit: 1.3 + 1 is 2.3, and the step's multiple a little more.
    last_s = begin_s + 1 + ROUNDING_S
    assert all(begin_s < instant_s + GRID_S + ROUNDING_S and instant_s <= last_s for instant_s in instants)


def test_poisson_arrivals_have_a_poisson_processs_spread():
    """Counts of equal windows have the mean of the rate, and a variance that is as large as their mean."""
    schedule = Schedule(poisson=True, seed=1)
    schedule.change(2_000.0, 0.0)
    counts = [len(planned(schedule, window / 100)) for window in range(1, 5_001)]
    assert statistics.mean(counts) == pytest.approx(20, rel=0.03)
    assert statistics.variance(counts) == pytest.approx(20, rel=0.1)
    even = Schedule()
    even.change(2_000.0, 0.0)
    counts = [len(planned(even, window / 100)) for window in range(1, 501)]
    assert statistics.variance(counts) < 1


def test_a_seed_gives_the_same_arrivals_again_and_another_gives_others():
    """So a run can be repeated."""
    runs = []
    for seed in (7, 7, 8):
        schedule = Schedule(poisson=True, seed=seed)
        schedule.change(500.0, 3.0)
        runs.append(planned(schedule, 4.0))
    assert runs[0] == runs[1] != runs[2]


@pytest.mark.parametrize("poisson", [False, True])
def test_a_rate_that_changes_is_followed_from_the_next_step_on(poisson: bool):
    """Up, down, to nothing and back, without a start lost or invented at the seams."""
    schedule = Schedule(poisson=poisson, seed=3)
    counts = []
    for second, rate_per_s in enumerate((1_000.0, 10_000.0, 0.0, 1.0, 5_000.0)):
        schedule.change(rate_per_s, float(second))
        instants = planned(schedule, second + 0.3, second + 1.0)
        assert all(second < instant_s + 1e-9 <= second + 1 + 1e-6 for instant_s in instants)
        counts.append(len(instants))
    for count, expected in zip(counts, (1_000, 10_000, 0, 1, 5_000), strict=True):
        assert count == pytest.approx(expected, abs=5 * expected**0.5 if poisson else 2)


@pytest.mark.parametrize("poisson", [False, True])
def test_a_generator_that_stood_still_hands_out_what_was_planned_meanwhile(poisson: bool):
    """One late call plans exactly what a thousand calls in time would have, with the instants that were intended."""
    punctual, late = Schedule(poisson=poisson, seed=9), Schedule(poisson=poisson, seed=9)
    punctual.change(3_000.0, 0.0)
    late.change(3_000.0, 0.0)
    in_time = planned(punctual, *(step / 1000 for step in range(1, 2_001)))
    at_once = planned(late, 2.0)
    assert at_once == in_time
    assert min(at_once) < 0.1


def test_nothing_is_planned_for_the_time_before_a_rate_was_set():
    """An idle hour does not become a burst."""
    schedule = Schedule()
    assert planned(schedule, 5.0) == []
    schedule.change(1_000.0, 3_600.0)
    assert planned(schedule, 3_600.01) == [pytest.approx(3_600 + step / 1000) for step in range(1, 11)]


class Clock:
    """A steady clock that a test moves; called, it tells its seconds."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        """The time."""
        return self.now_s


@contextmanager
def arrivals_with_users(
    users: int, waiting_max: int = 1_000
) -> Iterator[tuple[Arrivals, Clock, list[float], Timeline]]:
    """Arrivals by a clock of the test, and greenlets that note the intended starts they are given."""
    clock, timeline, started = Clock(), Timeline(), list[float]()
    arrivals = Arrivals(timeline, clock=clock)
    arrivals.start(poisson=False, waiting_max=waiting_max)
    arrivals.rate_per_s = 0.0

    def user() -> None:
        while True:
            started.append(arrivals.wait())

    greenlets = [gevent.spawn(user) for _ in range(users)]
    gevent.sleep(0)
    try:
        yield arrivals, clock, started, timeline
    finally:
        gevent.killall(greenlets)
        arrivals.stop()
        arrivals.rate_per_s = None


def sums(timeline: Timeline) -> tuple[int, int]:
    """Offered and unsent of all seconds."""
    seconds = timeline.as_dict()["seconds"].values()
    return sum(second["offered"] for second in seconds), sum(second["unsent"] for second in seconds)


def test_idle_users_take_what_is_due_with_its_intended_start():
    """In the order of the plan; whoever is idle longest comes first, and nobody starts unasked."""
    with arrivals_with_users(4) as (arrivals, clock, started, timeline):
        arrivals.rate_per_s = 1_000.0
        gevent.sleep(0.01)
        assert started == []
        clock.now_s += 0.01
        gevent.sleep(0.02)
        assert started == [pytest.approx(100 + step / 1000) for step in range(1, 11)]
        assert (arrivals.offered, arrivals.started, arrivals.unsent, arrivals.waiting) == (10, 10, 0, 0)
        assert sums(timeline) == (10, 0)


def test_what_no_user_takes_waits_and_what_does_not_fit_is_counted_as_unsent():
    """Offered = started + unsent + waiting at any time; the bound holds however late the generator is."""
    with arrivals_with_users(0, waiting_max=50) as (arrivals, clock, started, timeline):
        arrivals.rate_per_s = 1_000.0
        clock.now_s += 2.0
        gevent.sleep(0.02)
        assert (arrivals.offered, arrivals.started, arrivals.unsent, arrivals.waiting) == (2_000, 0, 1_950, 50)
        started.append(arrivals.wait())
        assert started == [pytest.approx(100.001)]
        assert arrivals.waiting == 49
        arrivals.stop()
        assert (arrivals.offered, arrivals.started, arrivals.unsent, arrivals.waiting) == (2_000, 1, 1_999, 0)
        assert sums(timeline) == (2_000, 1_999)


def test_a_test_that_stops_leaves_idle_users_where_they_are():
    """Between the last arrival and its end no user goes on as fast as it can."""
    with arrivals_with_users(3) as (arrivals, clock, started, _):
        arrivals.rate_per_s = 100.0
        arrivals.stop()
        clock.now_s += 1.0
        gevent.sleep(0.01)
        assert started == []
        assert arrivals.open


def test_users_go_on_by_themselves_when_the_loop_is_closed():
    """Each idle user starts at once, now; what waited is unsent."""
    clock, timeline = Clock(), Timeline()
    arrivals = Arrivals(timeline, clock=clock)
    arrivals.start(poisson=False, waiting_max=10)
    arrivals.rate_per_s = 1.0
    users = [gevent.spawn(arrivals.wait) for _ in range(3)]
    gevent.sleep(0)
    arrivals.rate_per_s = None
    gevent.joinall(users, timeout=5)
    assert [user.value for user in users] == [100.0] * 3
    assert not arrivals.open


def test_a_user_that_is_killed_while_it_waits_takes_no_arrival_with_it():
    """The next one due goes to somebody who is there."""
    with arrivals_with_users(1) as (arrivals, clock, started, _):
        other = gevent.spawn(arrivals.wait)
        gevent.sleep(0)
        other.kill()
        arrivals.rate_per_s = 1_000.0
        clock.now_s += 0.004
        gevent.sleep(0.02)
        assert len(started) == 4
        assert (arrivals.offered, arrivals.started, arrivals.waiting) == (4, 4, 0)


def test_a_rate_set_before_the_test_starts_is_offered_from_its_start():
    """Nothing is due before it, and nothing is remembered of the time before."""
    clock, timeline = Clock(), Timeline()
    arrivals = Arrivals(timeline, clock=clock)
    arrivals.rate_per_s = 1_000.0
    clock.now_s += 5.0
    gevent.sleep(0.01)
    assert arrivals.offered == 0
    arrivals.start(poisson=False, waiting_max=1_000)
    clock.now_s += 0.1001
    gevent.sleep(0.02)
    arrivals.stop()
    assert arrivals.offered == 100
