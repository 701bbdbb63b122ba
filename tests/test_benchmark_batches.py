"""The benchmark's rows for batches and for one long stream: its parts that need no load."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.benchmark import measuring, report, rows, streaming, table
from loadtest.benchmark.bench import MODES, NAMES, SUBJECT_OF
from loadtest.benchmark.measuring import Case
from loadtest.benchmark.plan import CASES
from loadtest.benchmark.results import Latency, MemoryPoint, Results
from loadtest.benchmark.streaming import Answer, Delays
from loadtest.benchmark.subjects import Running
from loadtest.benchmark.targets import BATCH_ITEMS
from service.parsing import check_usage
from tests.test_benchmark import TARGETS, measured, of, outcome
from tests.test_benchmark_report import fake
from tests.test_generator import Pieces, Request, Server, answer

COUNTS = {"created": 2, "duplicate": 0, "invalid": 0, "retry": 0, "unknown": 0, "ack": "fsync; replicas=1"}


def lines(*documents: dict[str, Any]) -> bytes:
    """What the service would write."""
    return b"".join(json.dumps(document, separators=(",", ":")).encode() + b"\n" for document in documents)


def created(line: int, id_: int) -> dict[str, Any]:
    """The result of a line that is stored."""
    return {"line": line, "status": "created", "id": id_}


TWO = lines(created(1, 7), created(2, 8), {"summary": COUNTS | {"complete": True}})


# --- rows


def test_usages_a_second_are_a_row_with_an_absolute_target():
    """The median of the rounds; it is met from the target on."""
    latency = Latency(p50=130_000.0, p90=0.0, p99=0.0, p999=0.0, max=0.0)
    found = [measured("batches", "batch", turn, rate, latency_us=latency) for turn, rate in enumerate((5e4, 6e4, 9e4))]
    row = rows.row(TARGETS["batch"], found, {})
    assert (row.value, row.unit, row.comparison, row.target, row.met) == (60_000.0, "usages/s", ">=", 60_000, True)
    assert row.detail == "half of the batches were answered within 130 ms"
    assert rows.row(TARGETS["batch"], found[:1], {}).met is False


def test_what_promises_nothing_is_neither_met_nor_missed():
    """A row without a target is shown and not counted."""
    found = [measured("batches", "batch", 0, 80_000.0), measured("batches", "durable", 0, 20_000.0)]
    row = rows.row(TARGETS["batch_single"], found, {})
    assert (row.value, row.unit, row.met) == (4.0, "ratio", None)
    results = replace(fake(), rows=(row,))
    assert table.tally(results) == "0 of 0 measured targets met"
    assert "4.00×" in table.text(results)


def test_cpu_of_a_batch_is_that_of_a_usage():
    """µs of a role, with the rate that they were measured at."""
    found = [measured("batches", "batch", 0, 80_000.0, cpu_us_per_request={"web": 3.5, "haproxy": 0.3})]
    web = rows.row(TARGETS["batch_cpu_web"], found, {})
    assert (web.value, web.unit, web.comparison, web.detail) == (3.5, "µs", "<=", "at 80,000/s")
    assert rows.row(TARGETS["batch_cpu_haproxy"], found, {}).value == 0.3


def test_growth_of_memory_is_met_below_its_target():
    """MiB of the instance that grew most."""
    row = rows.row(TARGETS["stream_memory"], [measured("stream", "stream", 0, 9.0, memory_growth_mib=5.25)], {})
    assert (row.value, row.unit, row.met, row.detail) == (5.25, "MiB", True, "at 9/s")
    grown = measured("stream", "stream", 0, 9.0, memory_growth_mib=16.5)
    assert rows.row(TARGETS["stream_memory"], [grown], {}).met is False


def test_a_case_of_batches_is_of_the_durable_stack_and_counts_its_rows():
    """It has a name of its own, goes to the batches' path, and its rows are where those of single POSTs are."""
    usages, keyed = object(), object()
    running = Running("s", 1, dict, store=usages, keyed_store=keyed)  # type: ignore[arg-type] # only handed on
    for key in CASES["batches"][1:]:
        assert SUBJECT_OF[key] == "durable"
        assert str(BATCH_ITEMS) in NAMES[key]
        case = Case(key, NAMES[key], running, MODES[key])
        assert case.items == BATCH_ITEMS
        assert case.store is (keyed if key == "batch_keyed" else usages)
        assert case.ids is (None if key == "batch_keyed" else running.ids)
    assert Case("durable", "", running).items is None


# --- measurements


def batches(**other: object) -> Any:
    """What the generator says of ten batches of ten usages, of which one batch was answered after the window."""
    values: dict[str, object] = {
        "sent": 10,
        "acknowledged": 9,
        "drain_acknowledged": 1,
        "total_by_status": {200: 10},
        "batch": 10,
        "items": 90,
        "total_items": 100,
        **other,
    }
    return outcome(**values)


def test_a_batch_counts_as_its_usages():
    """Rate, CPU time, acknowledgements: none of them is of requests."""
    found = of(batches(), stored=100, distinct=True)
    assert (found.per_second, found.acknowledged, found.failures, found.unknown) == (90.0, 100, 0, 0)
    assert found.cpu_us_per_request["web"] == pytest.approx(0.002 / 90 * 1e6)
    assert measuring.wrongs(found, batches(), 0, 201) == []


@pytest.mark.parametrize(
    ("other", "stored", "failures", "unknown", "wrong"),
    [
        ({"total_items": 95}, 95, 5, 0, 0),
        ({"total_items": 95, "items_unknown": 5}, 98, 0, 5, 0),
        ({"total_items": 95}, 100, 5, 0, 1),
        ({"total_items": 100}, 99, 0, 0, 1),
        ({"mismatches": 1}, 100, 0, 0, 1),
        ({"duplicates": 1}, 100, 0, 0, 1),
        ({"total_items": 90, "items_unknown": 10, "unknown": 1, "total_by_status": {200: 9}}, 90, 0, 10, 0),
    ],
)
def test_what_batches_lost_or_invented_is_said(
    other: dict[str, object], stored: int, failures: int, unknown: int, wrong: int
):
    """A 200 acknowledges what its results say, no more and no less."""
    found = of(batches(**other), stored=stored, distinct=True)
    assert (found.failures, found.unknown) == (failures, unknown)
    assert found.note == (f"{failures} usages refused" if failures else "")
    assert len(measuring.wrongs(found, batches(**other), 0, 201)) == wrong


# --- one long stream


@given(st.lists(st.integers(0, len(TWO)), max_size=6))
def test_a_streams_answer_is_understood_however_it_is_split(cuts: list[int]):
    """Ids in order, a result for each line, and counts that agree."""
    found = Answer()
    places = [0, *sorted(cuts), len(TWO)]
    for start, end in pairwise(places):
        found.feed(TWO[start:end])
    assert (found.results, list(found.ids), found.summary) == (2, [7, 8], COUNTS | {"complete": True})
    assert found.wrong(2) == []


@pytest.mark.parametrize(
    ("documents", "says"),
    [
        ([created(1, 7), created(2, 8)], "the answer has no last line"),
        (
            [created(2, 7), created(1, 8), {"summary": COUNTS | {"complete": True}}],
            "2 results were not those of the line",
        ),
        ([created(1, 7), {"summary": COUNTS | {"complete": True}}], "the last line counts"),
        ([created(1, 7), {"summary": COUNTS | {"created": 1, "complete": True}}], "2 lines have 1 results"),
        (
            [created(1, 7), {"error": {"code": "draining"}, "summary": COUNTS | {"created": 1, "complete": False}}],
            "the stream ended early: {'code': 'draining'}",
        ),
    ],
)
def test_a_streams_answer_that_is_not_whole_says_what_is_wrong(documents: list[dict[str, Any]], says: str):
    """Results and counts are held against each other and against what was sent."""
    found = Answer()
    found.feed(lines(*documents))
    assert any(each.startswith(says) for each in found.wrong(2)), found.wrong(2)


def test_what_is_no_line_of_an_answer_is_an_error():
    """It is not passed over."""
    with pytest.raises(msgspec.MsgspecError):
        Answer().feed(b'{"line":1,\n')


def test_a_line_is_a_usage_of_the_size_that_is_said():
    """A thousand of them are a megabyte, and the service takes them."""
    line = streaming.usage_line()
    assert (len(line), line.count(b"\n"), line[-1:]) == (streaming.LINE_BYTES, 1, b"\n")
    assert check_usage(line)["medication"] == "Albuterol"


def test_a_delay_is_from_giving_the_last_of_some_lines_to_its_result():
    """Each time that lines are given has one, when all of them have their results."""
    delays = Delays()
    delays.give(64, 1.0)
    delays.give(128, 1.5)
    delays.take(63, 2.0)
    assert delays.us == []
    delays.take(127, 2.0)
    delays.take(128, 2.25)
    delays.take(128, 9.0)
    assert delays.us == [1_000_000, 750_000]


def test_growth_is_of_the_instance_that_grew_most_above_its_beginning():
    """What it gave back again counts too."""
    points = [
        MemoryPoint(seconds=0.0, rss_mib=(50.0, 60.0), per_second=0.0),
        MemoryPoint(seconds=1.0, rss_mib=(50.5, 66.5), per_second=10.0),
        MemoryPoint(seconds=2.0, rss_mib=(51.0, 61.0), per_second=10.0),
    ]
    assert streaming.growth(points) == 6.5
    found = streaming.summary(points, 1_000_000, measured("stream", "stream", 0, 10.0, stored=5))
    assert found["megabytes"] == 1_000
    assert (found["MiB before it"], found["MiB at most"]) == ("50.0, 60.0", "51.0, 66.5")


def _stream_answers(count: int) -> bytes:
    results = [created(number, number) for number in range(1, count + 1)]
    body = lines(*results, {"summary": COUNTS | {"created": count, "complete": True}})
    return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)


def test_all_lines_are_sent_as_one_request_and_every_result_is_read():
    """As NDJSON with its length."""
    found, delays, reads = Answer(), Delays(), threading.Semaphore(0)
    with Server(lambda _: iter([_stream_answers(200)])) as server:
        streaming.post_lines(server.port, 200, found, delays, reads.release)
    ((method, target, headers, body),) = server.requests
    assert (method, target, headers["content-type"]) == ("POST", "/api/usages/batch", "application/x-ndjson")
    assert body == streaming.usage_line() * 200
    assert found.wrong(200) == []
    assert len(delays.us) == -(-200 // streaming.LINES_AT_ONCE)
    assert reads.acquire(blocking=False)


def _refused(_: Request) -> Pieces:
    yield answer(503, b'{"code": "overloaded"}')


def _cut_off(_: Request) -> Pieces:
    yield _stream_answers(200)[:-40]
    yield None


@pytest.mark.parametrize(("answers", "says"), [(_refused, "503: .*overloaded"), (_cut_off, "IncompleteRead")])
def test_a_stream_that_breaks_off_is_an_error(answers: Callable[[Request], Pieces], says: str):
    """With what was answered in its place, or that it is not whole."""
    with Server(answers) as server, pytest.raises(Exception, match=says):
        streaming.post_lines(server.port, 200, Answer(), Delays(), lambda: None)


def test_a_stream_has_a_section_of_the_page():
    """Its memory is plotted, and what it was is told; without one the page says so."""
    points = tuple(MemoryPoint(seconds=float(at), rss_mib=(55.0, 58.0), per_second=30_000.0) for at in range(30))
    results: Results = replace(fake(), stream=points, stream_summary={"MiB at most": "55.0, 58.0"})
    page = report.html(results)
    assert "Resident memory under one long stream" in page
    assert "55.0, 58.0" in page
    assert Results.from_json(results.to_json()) == results
    assert "Resident memory under one long stream" not in report.html(fake())
