"""The report of a load test's run: what it makes of recorded data, of hostile names, and of runs that lack something."""

from __future__ import annotations

import csv
import io
import json
import math
import random
import re
from dataclasses import replace
from functools import cache
from html import escape
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.report import axes, charts, page, plots, written
from loadtest.report.__main__ import main
from loadtest.report.recorded import Facts, Requests, Run, binned, joined, read_run, run_of
from loadtest.report.summary import Summary, wrong
from loadtest.timeline import Timeline, us_of_bucket
from tests.pages import assert_sound

BEGAN = 1_790_000_000
RATE = 1_600
NAME = "POST /api/usages"
CLEAN = {
    "sent": 1_000,
    "acknowledged": 990,
    "refused": 4,
    "unknown": 6,
    "unknown_stored": 5,
    "unknown_not_stored": 1,
    "stored": 995,
    "others": 0,
    "lost": [],
    "phantom": [],
    "duplicate": [],
    "corrupt": [],
}


def facts(**other: Any) -> Facts:
    """What was asked for and where, unless told otherwise."""
    values: dict[str, Any] = {
        "title": "ramp-to-16k",
        "began_unix_s": float(BEGAN),
        "host": "http://127.0.0.1:8080",
        "store": "cassandra://127.0.0.1:9042/busyapi",
        "commit": "0123456789ab",
        "cpu": "A processor",
        "cores": 2,
        "memory_gib": 23.5,
        "kernel": "Linux 6.1.0",
        "options": {"shape": "ramp-to-16k", "users": 256, "arrivals": "constant"},
        "versions": {"Locust": "2.47.0", "HAProxy": "3.0.11"},
        **other,
    }
    return Facts(**values)


def ramp_rate(second: int) -> int:
    """Up for 10 s, then 20 s at the top."""
    return round(RATE * min(1.0, (second + 0.5) / 10))


@cache
def recorded_timeline(*, scale: int = 1, stall: bool = False, failing: bool = False) -> str:
    """JSON of thirty seconds of a ramp, each answer some milliseconds long, as the generator's timeline writes it."""
    chance = random.Random(7)
    timeline = Timeline()
    for second in range(30):
        due = ramp_rate(second) * scale
        timeline.offered(BEGAN + second, due)
        timeline.users(BEGAN + second, 256)
        timeline.generator("4711", BEGAN + second, 0.3 + due / 40_000 / scale)
        answered = 0 if stall and second in {20, 21} else due
        for _ in range(answered):
            latency_s = chance.lognormvariate(math.log(0.004), 0.5)
            if stall and second == 22:
                latency_s += chance.uniform(0, 2)
            timeline.success(NAME, BEGAN + second, latency_s, 14)
        if failing and second in {15, 16}:
            for _ in range(40):
                timeline.failure(NAME, BEGAN + second, "503: queue full, retry after 1 s", 0.001)
            timeline.failure(NAME, BEGAN + second, "no answer within 5 s", 5.0)
            timeline.unsent(BEGAN + second, 3)
    return timeline.as_json(notes=["the last good step was 1,500/s"])


def recorded_cpu() -> dict[str, Any]:
    """A sample a second, as the runner writes them."""
    samples = []
    for second in range(32):
        load = min(1.0, (second + 0.5) / 10) if second < 30 else 0.0
        used = {"generator": 0.3 * load, "haproxy": 0.4 * load, "web": 0.5 * load, "cassandra": 0.35 * load + 0.02}
        samples.append(
            {"at_unix_s": BEGAN + second + 0.98, "took_s": 1.0, "cpu_s": used, "machine_s": sum(used.values()) + 0.05}
        )
    return {"samples": samples}


def a_run(**other: Any) -> Run:
    """A ramp that went well, unless told otherwise."""
    parts: dict[str, Any] = {
        "timeline": json.loads(recorded_timeline()),
        "cpu": recorded_cpu(),
        "reconciliation": CLEAN,
        "warm_up": None,
        "facts": facts(),
        **other,
    }
    return run_of(parts.pop("facts"), **parts)


def short(*seconds: dict[str, Any], **more: Any) -> dict[str, Any]:
    """A timeline of these seconds, one after the other."""
    return {"seconds": {str(BEGAN + index): each for index, each in enumerate(seconds)}, "generators": {}, **more}


def second(
    offered: int = 0, name: str = NAME, count: int = 0, latency_us: int = 1_000, **errors: int
) -> dict[str, Any]:
    """A second with so many answers, all equally fast, and failures besides."""
    timeline = Timeline()
    for _ in range(count):
        timeline.success(name, BEGAN, latency_us / 1e6, 10)
    for reason, times in errors.items():
        for _ in range(times):
            timeline.failure(name, BEGAN, reason)
    timeline.offered(BEGAN, offered)
    found: dict[str, Any] = timeline.as_dict()["seconds"][str(BEGAN)]
    return found


# --- figures


def test_the_figures_on_top_are_of_the_seconds_at_the_highest_rate():
    """A ramp's climb does not water down what was held at its top; the whole run stands beside it."""
    summary = Summary(a_run())
    assert summary.peak is not None
    assert (summary.peak.seconds, summary.peak.offered_per_s, summary.peak.achieved_per_s) == (20, RATE, RATE)
    assert summary.whole.seconds == 30
    assert summary.whole.requests.answered == sum(ramp_rate(each) for each in range(30))
    assert summary.headline is summary.peak


def test_a_run_at_one_rate_has_no_second_set_of_figures():
    """The highest rate was all there was."""
    assert Summary(a_run(timeline=short(second(5, count=5), second(5, count=5)))).peak is None


def test_seconds_of_random_arrivals_belong_to_one_rate_though_they_differ():
    """A Poisson process of 1,600 a second has seconds of 1,520 and of 1,680; a constant rate has not."""
    seconds = [second(offered, count=1) for offered in (10, 1_560, 1_640, 1_600, 1_530)]
    poisson = a_run(timeline=short(*seconds), facts=facts(options={"arrivals": "poisson"}))
    peak = Summary(poisson).peak
    assert peak is not None
    assert peak.seconds == 4
    constant = Summary(a_run(timeline=short(*seconds))).peak
    assert constant is not None
    assert constant.seconds == 1


def test_percentiles_are_those_of_all_seconds_together():
    """Not the mean of each second's percentile: the slowest hundredth may be all in one second."""
    run = a_run(timeline=short(second(count=980, latency_us=1_000), second(count=20, latency_us=500_000)))
    window = Summary(run).whole
    assert window.latency_ms(50) == pytest.approx(1, rel=0.01)
    assert window.latency_ms(99) == pytest.approx(500, rel=0.01)


def test_an_arrival_that_takes_several_requests_is_achieved_once():
    """A user that posts, reads and deletes for each arrival has not achieved three times what was offered."""
    one = second(10, name="POST /messages", count=9)
    one["requests"] |= second(name="GET /messages/{digest}", count=9)["requests"]
    window = Summary(a_run(timeline=short(one))).whole
    assert (window.requests.answered, window.achieved_per_s, window.kept_up) == (18, 9.0, 0.9)


def test_without_a_rate_every_answer_counts():
    """A closed loop achieves what it answers."""
    window = Summary(a_run(timeline=short(second(name="GET /x", count=7)))).whole
    assert (window.achieved_per_s, window.offered_per_s, window.kept_up) == (7.0, None, None)


def test_cpu_of_a_request_is_of_the_seconds_that_were_sampled_alone():
    """A second that nobody sampled adds neither time nor requests, and idle time after the load is not charged."""
    samples = [{"at_unix_s": BEGAN + 0.9, "took_s": 1.0, "cpu_s": {"web": 0.5}, "machine_s": 0.6}]
    samples.append({"at_unix_s": BEGAN + 9.9, "took_s": 1.0, "cpu_s": {"web": 9.0}, "machine_s": 9.0})
    run = a_run(timeline=short(second(count=100), second(count=900)), cpu={"samples": samples})
    window = Summary(run).whole
    assert window.cpu_us("web") == pytest.approx(5_000)
    assert window.cores("web") == pytest.approx(0.5)
    assert window.cpu_us("cassandra") is None


def test_phases_have_the_figures_of_the_seconds_that_lie_wholly_within():
    """What belongs half to one phase and half to the next belongs to neither."""
    phase = {"name": "hold", "from_unix_s": BEGAN + 0.5, "to_unix_s": BEGAN + 3.5}
    timeline = short(*(second(count=number) for number in (1, 10, 100, 1_000)), tests=[{"phases": [phase, phase]}])
    found = Summary(a_run(timeline=timeline)).phases
    assert [(each.name, each.seconds, each.requests.answered) for each in found] == [("hold", 2, 110)] * 2
    assert "By phase" in page.html(a_run(timeline=timeline))


# --- what is said


def said(run: Run) -> str:
    """All that is said of a run, good news with a plus before it, bad news with a minus."""
    signs = {"good": "+", "bad": "-", "plain": "."}
    return "\n".join(f"{signs[each.level]}{each.text}" for each in Summary(run).verdicts)


def test_a_run_that_kept_up_says_so():
    """Rate, failures and store, in numbers."""
    assert said(a_run()).splitlines() == [
        "+All of the 1,600 requests/s that were offered were answered in the 20 s at the highest rate.",
        "+0 of 40,000 requests failed.",
        "+All 990 that were acknowledged are in the store: 0 lost, phantom, duplicate, corrupt.",
    ]


@pytest.mark.parametrize(
    ("own_s", "machine_s", "words"),
    [
        (0.95, 1.0, "The generator used 95% of a core: it is likely the limit itself"),
        (0.4, 1.95, "all 2 cores of this machine were 98% used"),
        (0.4, 1.0, "The generator used 40% of a core and is not the limit: the service"),
    ],
)
def test_a_target_that_was_missed_is_said_with_what_the_limit_may_have_been(own_s: float, machine_s: float, words: str):
    """The generator's own core, the machine, or the service."""
    sample = {"at_unix_s": BEGAN + 0.9, "took_s": 1.0, "cpu_s": {"web": 0.5}, "machine_s": machine_s}
    timeline = short(second(100, count=90), generators={"1": {str(BEGAN): own_s}})
    text = said(a_run(timeline=timeline, cpu={"samples": [sample]}))
    assert "-Target missed: 90 of 100 requests/s offered were answered over 1 s (90.0%)." in text
    assert words in text


@pytest.mark.parametrize("name", ["lost", "phantom", "duplicate", "corrupt"])
@pytest.mark.parametrize("where", ["reconciliation", "warm_up"])
def test_whatever_the_store_has_wrong_is_said_and_is_not_well(name: str, where: str):
    """In the load or in its warm-up, as a number or as a list of findings."""
    finding = {"kind": "usage", "journal": "usage-1.journal", "seq": 5, "place": "77", "reason": "not <there>"}
    run = a_run(**{where: {**CLEAN, name: {"count": 2, "first": [finding]}}})
    assert f"2 {name}." in said(run)
    assert not Summary(run).nothing_wrong
    assert "usage 5 of usage-1.journal, at 77: not &lt;there&gt;" in page.html(run)
    assert "✗ 2" in assert_sound(page.html(run)).text


def test_a_torn_journal_is_not_well():
    """What it does not tell was not compared."""
    run = a_run(reconciliation={**CLEAN, "torn": ["usage-1.journal: cut short"]})
    assert "1 journals are not whole" in said(run)
    assert not Summary(run).nothing_wrong


def test_only_a_run_in_which_nothing_failed_is_well():
    """A failure is none the less one because the rate was reached; a rate that was missed is no failure."""
    assert Summary(a_run()).nothing_wrong
    assert Summary(a_run(timeline=short(second(100, count=50)))).nothing_wrong
    assert not Summary(a_run(timeline=short(second(2, count=1, refused=1)))).nothing_wrong
    assert not Summary(a_run(timeline={})).nothing_wrong


def test_a_store_that_was_named_and_not_compared_is_not_well():
    """Nothing that is known to be lost is not nothing lost; without a store there is nothing to compare with."""
    words = "What was acknowledged was not compared with a store."
    named = a_run(reconciliation=None)
    assert f"-{words}" in said(named)
    assert not Summary(named).nothing_wrong
    nameless = a_run(reconciliation=None, facts=facts(store=""))
    assert f".{words}" in said(nameless)
    assert Summary(nameless).nothing_wrong


def test_a_search_for_the_highest_rate_is_judged_by_its_last_good_step():
    """The steps above it were to go wrong: that is how it was found, and no target was missed."""
    steps: list[dict[str, Any]] = [
        {"rate": 100.0, "fault": None},
        {"rate": 200.0, "fault": None},
        {"rate": 400.0, "fault": "p99 was 300 ms"},
    ]
    phases = [
        {"name": f"{step['rate']:.0f}/s", "from_unix_s": BEGAN + index, "to_unix_s": BEGAN + index + 1}
        for index, step in enumerate(steps)
    ]
    test = {"phases": phases, "steps": steps, "last_good_rate": 200.0}
    run = a_run(timeline=short(second(100, count=100), second(200, count=199), second(400, count=90), tests=[test]))
    assert "+199 requests/s were answered in the last good step, 200/s offered" in said(run)
    assert Summary(run).headline.offered_per_s == 200
    hopeless = {"phases": phases, "steps": [{**step, "fault": "503"} for step in steps], "last_good_rate": None}
    run = a_run(timeline=short(second(100, count=10), second(200, count=9), tests=[hopeless]))
    assert "Target missed" in said(run)


def test_messages_that_were_deleted_are_said_to_be_gone():
    """Nothing acknowledged is left of them, and that is as it should be."""
    gone = {**CLEAN, "acknowledged": 0, "deleted": 7}
    assert "+The 7 that were deleted are not in the store: 0 lost" in said(a_run(reconciliation=gone))
    some = {**CLEAN, "acknowledged": 3, "deleted": 7}
    assert "+All 3 that were acknowledged are there, and the 7 that were deleted are not in the store" in said(
        a_run(reconciliation=some)
    )


def test_what_others_took_of_the_machine_is_said():
    """A figure that others' work has spoilt is known to be one; where the loaded processes are elsewhere nobody knows."""
    sample = {"at_unix_s": BEGAN + 0.9, "took_s": 1.0, "cpu_s": {"generator": 0.2, "web": 0.3}, "machine_s": 1.5}
    timeline = short(second(5, count=5))
    words = "50% of this machine's CPU time went elsewhere"
    assert words in said(a_run(timeline=timeline, cpu={"samples": [sample]}))
    words = "of this machine's CPU time went elsewhere"
    assert words not in said(a_run(timeline=timeline, cpu={"samples": [{**sample, "machine_s": 0.6}]}))
    alone = {**sample, "cpu_s": {"generator": 0.2}}
    assert words not in said(a_run(timeline=timeline, cpu={"samples": [alone]}))


# --- the page and the files


def every_kind() -> dict[str, Run]:
    """Runs that have all, and runs that lack something."""
    failing = json.loads(recorded_timeline(stall=True, failing=True))
    apart = short(second(5, count=5))
    apart["seconds"][str(BEGAN + 7_205)] = second(5, count=5)
    return {
        "full": a_run(timeline=failing, warm_up=CLEAN),
        "nothing": run_of(Facts(title=""), timeline={}, cpu={}),
        "one second": a_run(timeline=short(second(1, count=1)), cpu={}, reconciliation=None),
        "failures alone": a_run(timeline=short(second(3, nothing=3)), cpu={"samples": []}),
        "idle": a_run(timeline=short(second(0))),
        "two hours apart": a_run(timeline=apart),
        "long": a_run(timeline={**apart, "earlier": second(9, count=9)}),
        "interrupted": a_run(facts=facts(interrupted=True, notes=("the reconciliation was interrupted",))),
    }


@pytest.mark.parametrize("kind", every_kind())
def test_every_run_has_a_page_that_needs_nothing_from_elsewhere(kind: str):
    """All there is, no data, one second, failures alone, a gap of hours: a page, and no place in it that is no number."""
    run = every_kind()[kind]
    found = assert_sound(page.html(run))
    assert f"Load test: {run.facts.title}" in found.text
    plots_found = [attributes for tag, attributes in found.elements if tag == "svg"]
    assert all(each.get("aria-label") or each.get("aria-hidden") for each in plots_found)
    assert written.text(run)


def test_the_page_tells_all_that_was_measured():
    """Rate, percentiles, failures with their reason, CPU by process, the reconciliation, machine, settings and notes."""
    run = every_kind()["full"]
    text = assert_sound(page.html(run)).text
    summary = Summary(run)
    for told in (
        "p99.99",
        "503: queue full, retry after 1 s",
        "HAProxy",
        "Cassandra",
        "unknown stored",
        "0123456789ab",
    ):
        assert told in text
    for told in (
        "A processor",
        "2.47.0",
        "the last good step was 1,500/s",
        "never sent",
        f"{summary.whole.requests.count:,}",
    ):
        assert told in text


def test_a_hostile_name_stays_a_name():
    """Whatever a server, a host or a journal calls itself is text on the page."""
    hostile = "</style><script>alert(1)</script>&\"'"
    one = second(1, name=f"POST {hostile}", count=1, **{hostile: 1})
    one["requests"][f"POST {hostile}"]["errors"] = {hostile: 1}
    run = a_run(
        timeline=short(
            one,
            notes=[hostile],
            tests=[{"phases": [{"name": hostile, "from_unix_s": BEGAN, "to_unix_s": BEGAN + 1}] * 2}],
        ),
        cpu={"samples": [{"at_unix_s": BEGAN + 0.9, "took_s": 1.0, "cpu_s": {hostile: 0.5}, "machine_s": 1.0}]},
        facts=facts(title=hostile, host=hostile, options={hostile: hostile}, versions={hostile: hostile}),
        reconciliation={**CLEAN, "lost": [hostile], "torn": [hostile]},
    )
    source = page.html(run)
    assert hostile not in source
    assert escape(hostile) in source
    assert_sound(source)


def test_a_long_run_is_drawn_in_a_bounded_number_of_parts():
    """Four hours make no larger plots than ten minutes, and nothing of them is left out."""
    seconds = {str(BEGAN + index): second(2, count=2) for index in range(0, 14_400, 7)}
    run = a_run(timeline={"seconds": seconds, "generators": {}})
    summary = Summary(run)
    assert len(summary.moments) <= 600
    assert sum(each.all.answered for each in summary.moments) == summary.whole.requests.answered == 2 * len(seconds)


def test_a_second_in_which_nothing_was_answered_breaks_the_lines_of_latency():
    """A gap is a gap and not a line across it; requests per second are zero there."""
    run = every_kind()["full"]
    chart = plots.latency_figure(Summary(run))
    drawn = [line for line in re.findall(r'class="line s\d" d="([^"]*)"', chart) if line != "M1 6H29"]
    assert len(drawn) == 5
    assert all(line.count("M") == 2 for line in drawn)


def test_the_csv_has_a_row_for_each_second_quiet_ones_too():
    """From the first to the last, each in the columns of the head."""
    timeline = short(second(5, count=4, refused=1))
    timeline["seconds"][str(BEGAN + 3)] = second(7, count=7, latency_us=2_000)
    rows = list(csv.DictReader(io.StringIO(written.timeline_csv(a_run(timeline=timeline)))))
    assert [row["offered"] for row in rows] == ["5", "0", "0", "7"]
    assert [row["achieved"] for row in rows] == ["4", "0", "0", "7"]
    assert (rows[0]["failed"], rows[1]["p50_ms"]) == ("1", "")
    assert float(rows[3]["p50_ms"]) == pytest.approx(2, rel=0.01)
    assert float(rows[0]["web_cores"]) == pytest.approx(0.025)


@pytest.mark.parametrize("kind", every_kind())
def test_the_json_holds_every_second_and_every_figure(kind: str):
    """It reads back, with numbers that JSON has."""
    run = every_kind()[kind]
    found = json.loads(written.results_json(run), parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
    assert [each["second"] for each in found["seconds"]] == [each.start_s for each in run.moments]
    assert found["windows"][0]["answered"] == Summary(run).whole.requests.answered
    assert found["reconciliation"] == run.reconciliation


def test_a_directory_becomes_a_report(tmp_path: Path):
    """From the files of a run to its three forms, as often as one likes."""
    (tmp_path / "run.json").write_text(facts().to_json())
    (tmp_path / "timeline.json").write_text(recorded_timeline())
    (tmp_path / "cpu.json").write_text(json.dumps(recorded_cpu()))
    (tmp_path / "reconcile.json").write_text(json.dumps(CLEAN))
    assert main([str(tmp_path)]) == 0
    assert main([str(tmp_path)]) == 0
    assert page.html(a_run()) == (tmp_path / "report.html").read_text()
    assert read_run(tmp_path).facts == facts()


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("run.json", '{"title": 5}'),
        ("timeline.json", '{"seconds": {"17'),
        ("timeline.json", "[]"),
        ("timeline.json", '{"seconds": {"x": {}}}'),
        ("timeline.json", '{"seconds": {"1": {"requests": {"GET /": {}}}}}'),
        ("cpu.json", '{"samples": [{}]}'),
    ],
)
def test_a_file_that_is_broken_is_named_and_exit_1(
    file: str, text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """A file that was cut short is not a run without data."""
    (tmp_path / file).write_text(text)
    assert main([str(tmp_path)]) == 1
    assert file.removesuffix(".json").split("_")[0] in capsys.readouterr().err.lower().replace("cpu times", "cpu")


# --- sums and distributions

parts = st.builds(
    lambda latency, errors, length: Requests(sum(latency.values()), sum(errors.values()), length, latency, errors),
    st.dictionaries(st.integers(0, 5_000), st.integers(1, 1_000), max_size=20),
    st.dictionaries(st.sampled_from(["a", "b", "c"]), st.integers(1, 9)),
    st.integers(0, 10**9),
)


@given(st.lists(parts, max_size=5))
def test_the_distribution_by_percentile_rises_to_the_slowest(found: list[Requests]):
    """Never falling, beginning at the fastest or above, ending at the slowest of all, where its percentile is."""
    timeline = {"seconds": {str(BEGAN): second(0)}, "generators": {}}
    run = a_run(timeline=timeline)
    moment = replace(run.moments[0], requests={str(index): each for index, each in enumerate(found)})
    window = Summary(replace(run, moments=(moment,))).whole
    if not window.requests.latency:
        return
    points, reached = plots.spectrum(window)
    heights = [point.y for point in points]
    latencies = [(us_of_bucket(bucket), count) for bucket, count in window.requests.latency.items()]
    assert heights == sorted(heights)
    if window.requests.answered <= 10**6:
        assert heights[-1] == window.latency_ms(100)
    for point in points:
        assert point.x <= reached
        no_slower = sum(count for us, count in latencies if us <= point.y * 1000 + 0.5)
        assert no_slower >= window.requests.answered * (1 - 1 / point.x) * (1 - 1e-6)


@given(st.lists(st.tuples(st.integers(0, 5_000), st.integers(0, 50)), max_size=30), st.integers(1, 700))
def test_bins_hold_all_there_is(content: list[tuple[int, int]], bins_max: int):
    """Whatever their width, offered arrivals are all in them, and they follow each other without a gap."""
    seconds = {str(BEGAN + at): second(offered) for at, offered in [(0, 1), *content]}
    run = a_run(timeline={"seconds": seconds, "generators": {}})
    bins = binned(run, bins_max)
    assert len(bins) <= bins_max
    assert sum(each.offered for each in bins) == joined(run.moments).offered
    assert all(later.start_s == earlier.start_s + earlier.seconds for earlier, later in pairwise(bins))


@given(st.floats(0, 1e7), st.floats(1, 1e7))
def test_an_axis_of_time_has_few_ticks_of_a_clock(first: float, span: float):
    """Around the whole run, as many as fit."""
    ticks = axes.time_axis(first, first + span).ticks([])
    assert ticks[0] == first
    assert len(ticks) <= 61
    assert ticks[-1] >= first + min(span, 86_400 * 60) - 1e-6 * first
    assert axes.time_axis(0, 90).spell(90) == "1:30"
    assert [axes.clock(each) for each in (0, 90, 3_600, 7_290)] == ["0:00", "1:30", "1:00:00", "2:01:30"]


def test_one_reading_of_nothing_is_a_dot():
    """A line of one point shows."""
    series = charts.Series("s", (charts.Point(1, 2),), 0, markers=False)
    assert re.search(r'd="M[\d.]+ [\d.]+h0"', charts.line_chart("t", axes.Axis("x"), axes.Axis("y"), [series]))


def test_what_must_be_nothing_is_counted_in_every_form():
    """A number, a list, or a count with the first of them."""
    assert wrong({"lost": 2, "phantom": ["x"], "duplicate": {"count": 3, "first": []}, "corrupt": []}) == {
        "lost": 2,
        "phantom": 1,
        "duplicate": 3,
    }
