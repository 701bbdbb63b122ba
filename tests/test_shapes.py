"""The shapes' decisions, without Locust: the rate at each moment, the search for the knee, the ladder, the words at the end."""

from __future__ import annotations

import argparse
import itertools
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.ladder import FILES_RESERVED, Ladder, fitting
from loadtest.options import add_options, levels
from loadtest.rates import Bursts, Curve, Ramp, burst_rate, bursts_of, ramp_of, ramp_rate, soak_of
from loadtest.step_search import PRECISION, STEPS_MAX, Limits, StepSearch, judged_window, search_of
from loadtest.timeline import Timeline
from loadtest.window import Totals, line, shortfall, totals

LIMITS = Limits(p99_s=0.25, failed_share=0.001)


def options(*words: str) -> argparse.Namespace:
    """Our options as the command line has them, Locust's three that we give defaults left out."""
    parser = argparse.ArgumentParser()
    add_options(parser)
    return parser.parse_args(words)


def test_ramp_to_16k_rises_in_a_line_and_holds():
    """0 at the start, half of the peak half-way, the peak from the end of the ramp to the end of the hold, then 0."""
    assert [ramp_rate(t_s, 16_000, 30, 60) for t_s in (-1, 0, 15, 30, 89.9, 90, 1e9)] == [
        0,
        0,
        8_000,
        16_000,
        16_000,
        0,
        0,
    ]
    assert ramp_rate(0, 100, 0, 1) == 100


def test_a_burst_reaches_its_peak_within_a_second_and_comes_again():
    """Idle, the rise, the peak, idle again; after the last one nothing."""
    rates = [burst_rate(t_s, 16_000, 5, 4, 2) for t_s in (0, 4.9, 5.25, 6, 9.9, 10, 14.9, 15.5, 16, 19.9, 20)]
    assert rates == [0, 0, 4_000, 16_000, 16_000, 0, 0, 8_000, 16_000, 16_000, 0]


@pytest.mark.parametrize("curve", [Ramp(100, 3, 7), Bursts(100, 2, 1, 3), Bursts(100, 0, 0, 1)])
@given(t_s=st.floats(-10, 50))
def test_a_curve_stays_between_nothing_and_its_peak_and_ends(curve: Curve, t_s: float):
    """Never below 0 nor above the peak; 0 outside of its time; its phases cover it without a gap."""
    rate = curve.rate(t_s)
    assert 0 <= rate <= 100
    if not 0 <= t_s < curve.duration_s:
        assert rate == 0
    phases = curve.phases()
    assert phases[0].begins_s == 0
    assert phases[-1].ends_s == curve.duration_s
    assert all(one.ends_s == other.begins_s for one, other in itertools.pairwise(phases))


def test_the_defaults_are_a_million_a_minute():
    """ramp-to-16k offers 16,000 a second for a whole minute, and burst the same within a second."""
    ramp, bursts = ramp_of(options()), bursts_of(options())
    assert ramp.rate(30) * 60 == ramp.rate(91) * 60 == 960_000
    assert ramp.hold_s >= 61
    assert bursts.rate(bursts.idle_s + 1) == 16_000


def test_soak_takes_rate_or_half_the_peak_for_run_time_or_an_hour():
    """--rate and --run-time are heard; without them 8,000/s for an hour, after a gentle start."""
    asked = SimpleNamespace(**vars(options("--rate", "500")), run_time=20)
    assert (soak_of(asked).rate(19), soak_of(asked).duration_s) == (500, 20)
    assert (soak_of(options()).rate(100), soak_of(options()).duration_s) == (8_000, 3_600)


@pytest.mark.parametrize(
    "words",
    [
        "--peak 0",
        "--peak nan",
        "--rate -1",
        "--bursts 0",
        "--replays 2",
        "--ladder 1,x",
        "--ladder ,",
        "--shape zigzag",
    ],
)
def test_an_option_that_makes_no_sense_is_refused(words: str):
    """The command line is wrong, and says so."""
    with pytest.raises(SystemExit):
        options(*words.split())


@pytest.mark.parametrize(
    ("read", "name", "value"),
    [(ramp_of, "peak", 0.0), (bursts_of, "bursts", 0), (search_of, "step_s", 1.0), (ramp_of, "hold_s", float("nan"))],
)
def test_what_the_web_ui_lets_through_is_refused_by_name(read: Any, name: str, value: float):
    """Its form checks nothing; the shape does, and names the option."""
    values = vars(options())
    values[name] = value
    with pytest.raises(ValueError, match=f"--{name.replace('_', '-')}"):
        read(SimpleNamespace(**values))


def test_the_web_ui_can_say_every_option_that_it_shows():
    """Its form writes a_1 where the option is a1, and drops a default of None's type: neither may be shown."""
    parser = argparse.ArgumentParser()
    add_options(parser)
    shown = [action for action in parser._actions if getattr(action, "include_in_web_ui", False)]
    assert len(shown) > 10
    for action in shown:
        assert not any(letter.isdigit() for letter in action.dest)
        assert action.default is not None


def showing(p99_s: float, *, failed: int = 0, unsent: int = 0, answered: int = 10_000) -> Totals:
    """A step's outcome."""
    return Totals(
        seconds=10,
        offered=10_000,
        unsent=unsent,
        answered=answered,
        begun=answered,
        failed=failed,
        p99_s=p99_s,
        reasons=(("status 503", failed),) if failed else (),
    )


def search_against(knee: float, start: float = 2_000) -> StepSearch:
    """Run a search against a service that is good up to a rate and slow above it."""
    search = StepSearch(start, LIMITS)
    while not search.done:
        search = search.after(showing(0.01 if search.rate <= knee else 3.0))
    return search


@given(knee=st.floats(10, 1e6), start=st.floats(1, 1e5))
def test_the_search_finds_the_knee_wherever_it_lies(knee: float, start: float):
    """The last good step is at most the knee and within the precision of it, in a bounded number of steps."""
    search = search_against(knee, start)
    good = search.last_good
    assert good is not None
    assert good.rate <= knee <= good.rate * (1 + PRECISION)
    assert len(search.steps) <= STEPS_MAX


def test_a_search_above_the_knee_comes_down():
    """The first step may be far too much."""
    good = search_against(100, 50_000).last_good
    assert good is not None
    assert good.rate <= 100


def test_a_service_that_never_answers_has_no_good_step():
    """The search gives up, and says why."""
    search = StepSearch(1_000, LIMITS)
    while not search.done:
        search = search.after(Totals(seconds=10, offered=10_000))
    assert search.last_good is None
    assert "nothing was answered" in search.verdict()


@pytest.mark.parametrize(
    ("outcome", "fault"),
    [
        (showing(0.25), None),
        (showing(0.2501), "p99 was 250 ms"),
        (showing(0.01, failed=10), None),
        (showing(0.01, failed=11), "0.1% failed or were never sent"),
        (showing(0.01, unsent=500), "5.0% failed or were never sent"),
        (showing(0.01, answered=0), "nothing was answered"),
        (showing(0.01, answered=9_800), None),
        (showing(0.01, answered=9_799), "only 98.0% of the rate was achieved"),
    ],
)
def test_a_step_is_bad_when_it_is_slow_fails_is_not_sent_or_piles_up(outcome: Totals, fault: str | None):
    """At a limit it is still good; beyond, the fault is named."""
    assert LIMITS.fault(outcome) == fault


def test_the_verdict_names_the_last_good_step_and_the_first_bad_one():
    """Both with their figures."""
    verdict = search_against(3_000).verdict()
    assert verdict.startswith("The last good step was 3,000/s: good (p99 10.0 ms)")
    assert "the first bad one was 3," in verdict
    assert "p99 was 3,000 ms" in verdict


def test_a_step_is_judged_without_its_beginning_and_what_is_not_reported_yet():
    """The first quarter and the last two seconds do not count."""
    assert judged_window(1_000, 1_020) == (1_005, 1_018)


def test_the_ladder_climbs_level_by_level():
    """Each level for its time, then the end; figures are taken from each level's second half."""
    climbed = Ladder((1, 10, 100), 10)
    assert [climbed.level(t_s) for t_s in (0, 9.9, 10, 29.9, 30)] == [1, 1, 10, 100, None]
    assert climbed.windows() == [(1, 5, 10), (10, 15, 20), (100, 25, 30)]


def test_levels_that_open_files_do_not_allow_are_cut_down_and_named():
    """10,000 users at 5,000 files: the ladder ends where one process, or two, come to."""
    assert fitting([1, 1_000], 20_000, 1) == ([1, 1_000], [])
    kept, said = fitting([1, 10_000], 5_000, 1)
    assert kept == [1, 5_000 - FILES_RESERVED]
    assert "10,000 users do not fit" in said[0]
    assert fitting([10_000], 20_000 // 2 + FILES_RESERVED, 1)[0] == [10_000]
    assert fitting([10_000], 5_000 + FILES_RESERVED, 2) == ([10_000], [])


def test_levels_are_read_from_text():
    """Spaces do not matter."""
    assert levels("1, 10,100") == [1, 10, 100]
    with pytest.raises(ValueError, match="--ladder"):
        levels("1,0")


def recorded() -> Timeline:
    """Ten seconds of 100/s offered: 95 answered, 2 failed, 3 unsent; one process that took 0.95 of a core."""
    timeline = Timeline()
    for second in range(1_000, 1_010):
        timeline.offered(second, 100)
        timeline.unsent(second, 3)
        for _ in range(95):
            timeline.success("POST /api/usages", second, 0.010, 10)
        for _ in range(2):
            timeline.failure("POST /api/usages", second, "status 503", 0.001)
        timeline.generator("a", second, 0.95)
        timeline.generator("b", second, 0.10)
    return timeline


def test_a_window_sums_the_seconds_whose_middle_lies_in_it():
    """Any window of a second has one; failures have no part in the latency."""
    found = totals(recorded().as_dict(), 1_000.6, 1_009.4)
    assert (found.seconds, found.offered, found.unsent, found.begun, found.failed) == (8, 800, 24, 760, 16)
    assert found.p99_s == pytest.approx(0.010, rel=0.01)
    assert found.cpu_s == pytest.approx(8 * 1.05)
    assert found.busiest_share == pytest.approx(0.95)
    assert found.reasons == (("status 503", 16),)


def test_an_empty_window_is_no_error():
    """A test that was stopped at once has its line too."""
    found = totals(Timeline().as_dict())
    assert found == Totals()
    assert "achieved 0" in line(found)
    assert shortfall(found) is None


def test_a_user_of_several_requests_counts_once_for_each_arrival():
    """POST, GET and DELETE of one message are one arrival that was answered."""
    timeline = Timeline()
    timeline.offered(5, 1)
    for name in ("POST /messages", "GET /messages/[digest]", "DELETE /messages/[digest]"):
        timeline.success(name, 5, 0.001)
    found = totals(timeline.as_dict())
    assert (found.answered, found.begun, found.missed) == (3, 1, False)


def test_a_missed_target_is_said_with_its_likely_limit():
    """A busy generator is named as the limit; one with time left is not."""
    busy = totals(recorded().as_dict())
    assert "offered 1,000 (100/s); achieved 950 (95/s); never sent 30" in line(busy)
    assert "The generator itself is the likely limit: its busiest process used 95%" in str(shortfall(busy))
    idle = Totals(seconds=10, offered=1_000, begun=900, answered=900, unsent=100, busiest_share=0.4)
    assert "The generator had time left (40% of a core" in str(shortfall(idle))
    failing = Totals(seconds=1, offered=100, begun=50, answered=50, failed=50, reasons=(("status 503", 50),))
    assert "Most of it failed: status 503." in str(shortfall(failing))


def test_a_target_that_was_met_is_not_said_to_be_missed():
    """99 of 100 are enough: the last arrivals of a test may be on their way."""
    assert shortfall(Totals(seconds=1, offered=100, begun=99, answered=99)) is None
    assert shortfall(Totals(seconds=1, offered=0, begun=50, answered=50)) is None
