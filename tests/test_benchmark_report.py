"""The benchmark's results as JSON, as text, as Markdown and as a page."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from html import escape
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from loadtest.benchmark import report, table
from loadtest.benchmark.results import (
    CurvePoint,
    Headline,
    Latency,
    Machine,
    Measurement,
    MemoryPoint,
    Results,
    Row,
    ScalingPoint,
    StallPoint,
    groups,
    roles,
)
from loadtest.report import axes, charts
from loadtest.report.tables import COLUMNS
from tests.pages import Page

SUBJECTS = (
    ("durable", "Durable POST /api/usages: HAProxy, 2 web instances, Cassandra", 64, 9_800.0),
    ("storeless", "The same stack with the store switched off", 64, 12_100.0),
    ("express", "Express 5.1.0, in memory, one process", 64, 10_900.0),
    ("postgres", "FastAPI and PostgreSQL 15, synchronous_commit on", 64, 2_450.0),
    ("go", "Go net/http with <fsync> & group commit", 64, 31_000.0),
    ("single", "Durable POST /api/usages: HAProxy, 2 web instances, Cassandra", 1, 410.0),
)
CPU = {
    "durable": {"web": 88.0, "haproxy": 24.0, "cassandra": 63.5, "generator": 9.1},
    "storeless": {"web": 71.0, "haproxy": 23.0, "generator": 8.8},
    "express": {"server": 79.0, "generator": 8.6},
    "postgres": {"server": 240.0, "postgres": 110.0, "generator": 10.0},
    "go": {"server": 27.0, "generator": 8.1},
    "single": {"web": 260.0, "haproxy": 61.0, "cassandra": 420.0, "generator": 30.0},
}
NOISE = (0.97, 1.0, 1.045)
WITH_STORE = {"durable", "postgres", "single"}


def measurement(key: str, subject: str, connections: int, rate: float, turn: int) -> Measurement:
    """Ten seconds of a subject, with some noise by its round."""
    rate *= NOISE[turn] * (1 + 0.01 * len(key) * (turn - 1))
    answered = round(rate * 10)
    middle = connections / rate * 1e6
    stored = key in WITH_STORE
    return Measurement(
        key=f"{key}-{turn}",
        subject=subject,
        round=turn,
        connections=connections,
        seconds=10.0,
        per_second=rate,
        acknowledged=answered,
        unknown=2 if key == "durable" and turn == 2 else 0,
        latency_us=Latency(p50=middle * 0.92, p90=middle * 1.4, p99=middle * 2.6, p999=middle * 5.1, max=middle * 9),
        cpu_us_per_request={role: us / NOISE[turn] for role, us in CPU[key].items()},
        stored=answered + (1 if key == "durable" and turn == 2 else 0) if stored else None,
        ids_distinct=True if stored else None,
    )


def curve(subject: str, ceiling: float, least_ms: float) -> list[CurvePoint]:
    """A subject from 1 to 4096 connections: throughput saturates, latency grows."""
    points = []
    for power in range(13):
        connections = 2**power
        rate = ceiling / (1 + ceiling * least_ms / 1000 / connections) * (0.93 if power > 10 else 1)
        p50 = connections / rate * 1000
        points.append(
            CurvePoint(
                subject=subject,
                connections=connections,
                per_second=rate,
                p50_ms=p50,
                p99_ms=p50 * (2.1 + power / 10),
                cpu_us={"web": 90 + 160 / connections, "haproxy": 24 + 30 / connections},
                failures=37 if power == 12 else 0,
            )
        )
    return points


def fake() -> Results:
    """A run in which everything was measured but one row, and one target was missed."""
    return Results(
        when="2026-11-26T08:15:00Z",
        commit="9ff4e70",
        dirty=True,
        machine=Machine(
            cpu="AMD EPYC 7R13 <2 of 48 cores> & friends",
            cores=2,
            memory_gib=7.6,
            kernel="Linux 6.1.0",
            versions={
                "python": "3.11.2",
                "haproxy": "2.6.12",
                "cassandra": "5.0.5",
                "java": "17.0.16",
                "node": "20.19.2",
            },
        ),
        quick=False,
        seconds_total=1_520.4,
        settings={"connections": 64, "BUSYAPI_GROUPS_IN_FLIGHT_MAX": 1, "fsync": True, "CPU pinning": None},
        rows=(
            Row(
                key="durable",
                title="Durable POST ÷ the same stack with the store switched off",
                unit="ratio",
                target=0.7,
                value=0.81,
                rounds=(0.79, 0.81, 0.83),
                detail="9,800 ÷ 12,100 usages/s",
                parts=("durable-0", "storeless-0", "durable-1", "storeless-1"),
            ),
            Row(
                key="express",
                title="Durable POST ÷ Express 5.1.0, in memory, one process",
                unit="ratio",
                target=1.0,
                value=0.8993,
                rounds=(0.88, 0.8993, 0.93),
            ),
            Row(
                key="postgres",
                title="Durable POST ÷ FastAPI and PostgreSQL with one commit a request",
                unit="ratio",
                target=1.5,
                value=4.02,
                rounds=(3.8, 4.02, 4.4),
            ),
            Row(
                key="cpu",
                title="CPU time of a durable POST in the web instance and HAProxy",
                unit="µs",
                target=120.0,
                comparison="<=",
                value=112.4,
                rounds=(110.2, 112.4, 117.9),
                detail="web 88 µs, HAProxy 24 µs",
            ),
            Row(
                key="rate",
                title="Durable POST, two web instances",
                unit="usages/s",
                value=9_812.0,
                rounds=(9_506.0, 9_812.0),
            ),
            Row(
                key="go",
                title="Durable POST ÷ a server in Go that keeps <nothing> & forgets it",
                unit="ratio",
                target=0.25,
                missing="Go 1.26 <amd64> & its proxy were not in reach",
            ),
        ),
        measurements=tuple(
            measurement(key, subject, connections, rate, turn)
            for turn in range(3)
            for key, subject, connections, rate in SUBJECTS
        ),
        curve=(
            *curve("Durable POST /api/usages", 9_900, 2.3),
            *curve("The same stack with the store switched off", 12_300, 0.4),
        ),
        scaling=(
            ScalingPoint(
                instances=1, per_second=6_100, of_linear=1.0, cpu_share={"web": 0.5, "cassandra": 0.2, "haproxy": 0.08}
            ),
            ScalingPoint(
                instances=2,
                per_second=9_800,
                of_linear=0.803,
                cpu_share={"web": 0.57, "cassandra": 0.25, "haproxy": 0.1},
            ),
            ScalingPoint(
                instances=4, per_second=9_650, of_linear=0.395, cpu_share={"web": 0.56}, note="two cores, all busy"
            ),
        ),
        memory=tuple(
            MemoryPoint(
                seconds=float(second),
                rss_mib=(61 + 12 * (1 - math.exp(-second / 60)), 60 + 13 * (1 - math.exp(-second / 80))),
                per_second=9_700 + 260 * math.sin(second / 17),
            )
            for second in range(0, 601, 10)
        ),
        memory_summary={"growth after the first minute": "1.9 MiB"},
        stall=tuple(
            StallPoint(
                seconds=float(second),
                rss_mib=(
                    70 + (22 if 10 <= second < 30 else 6 if second >= 30 else 0),
                    71 + (20 if 10 <= second < 30 else 5),
                ),
                stalled=10 <= second < 30,
                answers_per_second={
                    "201": 0.0 if 10 <= second < 30 else 9_700.0,
                    "503": 14_000.0 if 11 <= second < 30 else 0.0,
                    "504": 120.0 if second in {12, 13} else 0.0,
                },
            )
            for second in range(61)
        ),
        stall_summary={"instances that ended": 0},
        headline=(
            Headline(shape="1 user", busyapi_then=196.0, messages_then=310.5, usages_now=410.0, messages_now=433.0),
            Headline(
                shape="10,000 users",
                busyapi_then=231.2,
                usages_now=9_100.0,
                messages_now=8_950.0,
                note="then: 41 % failures",
            ),
        ),
        notes=("The generator runs on the same two cores & takes its share.",),
    )


def quick() -> Results:
    """A run that has rows and nothing else."""
    return Results(
        when="2026-11-26T08:15:00Z",
        commit="9ff4e70",
        dirty=False,
        machine=fake().machine,
        quick=True,
        seconds_total=41,
        rows=fake().rows,
        missing={"scaling": "one core alone"},
    )


# --- the document


@pytest.mark.parametrize("results", [fake(), quick()], ids=["full", "quick"])
def test_results_come_back_from_json_as_they_went(results: Results):
    """from_json(to_json(r)) == r, for a run that measured everything and for one that measured little."""
    assert Results.from_json(results.to_json()) == results


def test_json_says_of_each_row_whether_its_target_is_met():
    """A reader of results.json need not compare for itself."""
    met = [row["met"] for row in json.loads(fake().to_json())["rows"]]
    assert met == [True, False, True, True, None, None]


def test_a_document_of_another_schema_is_refused_and_named():
    """Old results are never read as if they were new."""
    old = fake().to_json().replace('"schema": 1', '"schema": 7')
    with pytest.raises(ValueError, match="schema 7, not 1"):
        Results.from_json(old)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"schema": 1}', '{"schema": 1, "when": 5}'])
def test_what_is_no_document_is_a_value_error(text: str):
    """A file that was cut short or is something else is told from results."""
    with pytest.raises(ValueError):
        Results.from_json(text)


def test_a_number_that_is_none_does_not_reach_the_file():
    """NaN and infinity are no JSON, so they are refused when written and not when read."""
    row = replace(fake().rows[0], value=math.nan)
    with pytest.raises(ValueError):
        replace(fake(), rows=(row,)).to_json()


@pytest.mark.parametrize(
    ("stored", "unknown", "distinct", "holds"),
    [
        (None, 0, None, None),
        (10, 0, True, True),
        (9, 0, True, False),
        (11, 0, True, False),
        (11, 1, None, True),
        (10, 0, False, False),
        (None, 0, False, False),
    ],
)
def test_a_measurement_holds_when_each_2xx_is_a_row(
    *, stored: int | None, unknown: int, distinct: bool | None, holds: bool | None
):
    """Rows are at least the 2xx and at most those and the unknown; ids are distinct; unchecked is neither yes nor no."""
    one = replace(fake().measurements[0], acknowledged=10, stored=stored, unknown=unknown, ids_distinct=distinct)
    assert one.holds is holds


def test_rounds_of_a_subject_belong_together_by_their_connections():
    """A subject at 1 and at 64 connections is two groups, each with its rounds in order."""
    found = groups(tuple(reversed(fake().measurements)))
    assert len(found) == len(SUBJECTS)
    assert all([each.round for each in group.measurements] == [0, 1, 2] for group in found)


def test_roles_are_in_the_order_in_which_a_request_meets_them_and_the_generator_is_last():
    """A table of CPU time reads the same in every run."""
    assert roles([{"generator": 1, "zeta": 1, "cassandra": 1}, {"web": 1}]) == ["web", "cassandra", "zeta", "generator"]


# --- every form tells everything


def spoken(results: Results) -> dict[str, str]:
    """The three forms without their markup and their line breaks."""
    text = re.sub(r"\s+", " ", table.text(results))
    plain = table.markdown(results).replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
    return {"text": text, "markdown": plain, "page": Page(report.html(results)).text}


@pytest.mark.parametrize("form", ["text", "markdown", "page"])
def test_every_row_is_told_with_its_value_its_target_and_its_spread(form: str):
    """No form leaves out a row or what it was measured to be."""
    results = fake()
    said = spoken(results)[form]
    for row in results.rows:
        words = row.title.split() if form == "text" else [row.title]
        assert all(word in said for word in words)
        for told in (table.quantity(row.value, row.unit, row.target), table.goal(row), table.spread(row)):
            assert told in said


@pytest.mark.parametrize("form", ["text", "markdown", "page"])
def test_a_row_that_is_missing_says_why(form: str):
    """What could not be measured is there with its reason."""
    assert "Go 1.26 <amd64> & its proxy were not in reach" in spoken(fake())[form]


@pytest.mark.parametrize("form", ["text", "markdown", "page"])
def test_checks_and_cpu_and_notes_are_in_every_form(form: str):
    """The count of rows against 2xx, the CPU time by process, the old numbers and the notes are never left out."""
    results = fake()
    said = spoken(results)[form]
    assert "9 of 9 checked measurements" in said
    for told in ("Cassandra", "63.5", "231", "41 % failures", results.notes[0], "not committed", "25 min 20 s"):
        assert told in said


@pytest.mark.parametrize("form", ["text", "markdown", "page"])
def test_a_measurement_that_lost_a_row_is_told(form: str):
    """A 2xx that is no row shows in the summary and in its line."""
    results = fake()
    lost = replace(results.measurements[0], stored=results.measurements[0].acknowledged - 1)
    assert (
        "8 of 9 checked measurements" in spoken(replace(results, measurements=(lost, *results.measurements[1:])))[form]
    )


@pytest.mark.parametrize("form", ["text", "markdown", "page"])
def test_a_run_that_counted_no_rows_says_so(form: str):
    """Nothing checked is not the same as nothing found."""
    assert "nothing was checked against the store" in spoken(quick())[form]


@pytest.mark.parametrize("form", ["text", "markdown", "page"])
def test_a_section_that_was_not_measured_says_so(form: str):
    """A quick run names what it left out instead of leaving a gap."""
    said = spoken(quick())[form]
    assert said.lower().count("not measured: left out of a quick run") == (8 if form == "page" else 3)
    assert ("one core alone" in said) == (form == "page")


def test_no_line_of_the_text_is_wider_than_a_terminal():
    """120 columns hold every line, whatever the titles are."""
    long = replace(fake().rows[0], title="word " * 60 + "x" * 150, detail="and " * 99)
    for results in (fake(), quick(), replace(fake(), rows=(long,))):
        assert max(map(len, table.text(results).splitlines())) <= COLUMNS


def test_a_cell_of_markdown_stays_in_its_cell():
    """A bar or a line break in a title does not break the table."""
    row = replace(fake().rows[0], title="a | b\nc <i>")
    assert "| a \\| b c &lt;i&gt; |" in table.markdown(replace(fake(), rows=(row,)))


def test_rounding_never_moves_a_value_onto_its_target():
    """A target that was just missed does not look met."""
    assert table.quantity(0.79996, "ratio", 0.8) == "0.79996×"
    assert table.quantity(0.8, "ratio", 0.8) == "0.80×"
    assert table.quantity(12_345.6, "usages/s", 10_000) == "12,346 usages/s"


# --- the page


@pytest.mark.parametrize("results", [fake(), quick()], ids=["full", "quick"])
def test_the_page_needs_nothing_from_elsewhere(results: Results):
    """No script, no address, no file: the page works offline."""
    page = Page(report.html(results))
    assert not {"script", "img", "iframe"} & {tag for tag, _ in page.elements}
    references = [
        value for _, attributes in page.elements for name, value in attributes.items() if name in {"src", "href"}
    ]
    assert references == ["data:,"]
    assert not re.search(r"url\(|@import|https?:", report.html(results))


def test_what_is_measured_cannot_become_markup():
    """A subject, a title, a note or a setting with < and & shows as it is."""
    results = fake()
    source = report.html(results)
    for hostile in (results.rows[5].title, SUBJECTS[4][1], results.machine.cpu, results.notes[0]):
        assert escape(hostile) in source
        assert hostile not in source
    Page(report.html(replace(results, commit="\"'><b>", settings={"<b>": "</style><b>"}, when="</title><b>")))


def test_all_numbers_of_the_plots_are_finite():
    """No NaN, infinity or undefined place in any plot."""
    for tag, attributes in Page(report.html(fake())).elements:
        for name in {"x", "y", "cx", "cy", "width", "height", "d", "transform", "viewbox", "viewBox"} & set(attributes):
            if tag in {"svg", "path", "rect", "text", "circle"}:
                assert not re.search(r"nan|inf|none", attributes[name], re.IGNORECASE), (tag, attributes)


def test_every_plot_says_what_it_is():
    """A plot is an image with a name for those who do not see it; legends' swatches are hidden from them."""
    plots = [attributes for tag, attributes in Page(report.html(fake())).elements if tag == "svg"]
    assert len([plot for plot in plots if plot.get("role") == "img"]) >= 10
    assert all((plot.get("role") == "img" and plot.get("aria-label")) or plot.get("aria-hidden") for plot in plots)


def test_a_page_of_odd_numbers_still_stands():
    """Zeros, single points and empty parts make plots, not errors."""
    results = fake()
    nothing = replace(results.measurements[0], per_second=0.0, cpu_us_per_request={"web": 0.0})
    odd = replace(
        results,
        measurements=(nothing,),
        curve=(CurvePoint(subject="s", connections=1, per_second=0, p50_ms=0, p99_ms=0),),
        scaling=(ScalingPoint(instances=1, per_second=0, of_linear=1),),
        memory=(MemoryPoint(seconds=0, rss_mib=(), per_second=0),),
        stall=(StallPoint(seconds=0, rss_mib=(1.0,), stalled=True),),
    )
    Page(report.html(odd))
    table.text(odd)


# --- axes

spans = st.tuples(st.floats(0.001, 1e7), st.floats(1.0, 1e5)).map(lambda pair: (pair[0], pair[0] * pair[1]))


@given(span=spans, negative=st.booleans())
@example(span=(10.0, math.nextafter(10.0, 11)), negative=False)
@example(span=(0.1 + 0.2, 0.3), negative=False)
@example(span=(1e7, 1e7 * (1 + 1e-12)), negative=False)
def test_ticks_of_a_linear_axis_are_even_and_hold_all_values(span: tuple[float, float], *, negative: bool):
    """First tick ≤ least, last tick ≥ greatest, steps of 1, 2 or 5 times a power of ten, and not many of them."""
    low, high = (-span[1], span[0]) if negative else span
    ticks = axes.nice_ticks(low, high)
    slack = 1e-6 * max(abs(low), abs(high), 1e-3)
    assert ticks[0] <= low + slack
    assert ticks[-1] >= high - slack
    assert 2 <= len(ticks) <= 9
    step = ticks[1] - ticks[0]
    assert all(b - a == pytest.approx(step, rel=1e-3) for a, b in pairwise(ticks))
    assert round(step / 10 ** math.floor(math.log10(step * 1.0001)), 3) in {1, 2, 5}


@given(spans)
def test_ticks_of_a_logarithmic_axis_grow_and_hold_all_values(span: tuple[float, float]):
    """Powers of ten with 2 and 5 between, or powers of two, around all values."""
    low, high = span
    for ticks in (axes.decade_ticks(low, high), axes.octave_ticks(low, high)):
        assert ticks[0] <= low * 1.00001
        assert ticks[-1] >= high * 0.99999
        assert 2 <= len(ticks) <= 15
        assert ticks == sorted(set(ticks))
    assert all(math.log2(tick) % 1 == 0 for tick in axes.octave_ticks(low, high))


def test_connections_from_1_to_4096_have_a_tick_each():
    """The thirteen powers of two that are measured are the thirteen ticks."""
    assert axes.octave_ticks(1, 4096) == [2.0**power for power in range(13)]


@given(spans, st.floats(0, 1))
def test_a_scale_keeps_order_and_its_ends(span: tuple[float, float], share: float):
    """The ends of the values are the ends of the pixels, and what lies between lies between."""
    low, high = span[0], span[1] * 1.1
    for logarithmic in (False, True):
        scale = axes.Scale(logarithmic, low, high, 100, 500)
        assert [scale(low), scale(high)] == pytest.approx([100, 500])
        assert 99.999 <= scale(low + share * (high - low)) <= 500.001


def test_a_value_that_a_logarithmic_axis_cannot_show_is_left_out():
    """Zero has no place on a logarithmic axis; its neighbours keep theirs."""
    points = (charts.Point(1, 0, "zero"), charts.Point(2, 10, "ten"))
    log = axes.Axis("latency", "ms", kind="log10", low=None)
    chart = charts.line_chart("a", axes.Axis("n", kind="log2", low=None), log, [charts.Series("s", points, 0)])
    assert "ten" in chart
    assert "zero" not in chart


def test_figures_keep_thousands_apart_and_have_no_needless_decimals():
    """Ticks read as a person writes them."""
    assert [axes.label(value) for value in (0.0, 0.5, 12_000.0, 1e6, -2.0)] == ["0", "0.5", "12,000", "1,000,000", "−2"]
