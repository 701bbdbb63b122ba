"""What the overload's table calls kept, and what not."""

from __future__ import annotations

from typing import Any

import pytest

from tests.chaos.overload_rows import Storm, judged_overload, judged_storm, normal_again_s
from tests.system.pressure import Probe, Sample
from tests.system.traffic import Outcome

PEAK = 1000.0
MB = 1 << 20


def probes(name: str, status: int, seconds: float, *, at_s: float = 0.0, retry_after: str | None = None) -> list[Probe]:
    """A hundred of them, a tenth of a second apart."""
    return [Probe(name, at_s + n / 10, Outcome(status, b"", seconds, retry_after)) for n in range(100)]


def judge(**changes: Any) -> dict[str, bool]:
    """An overload that keeps everything but for these changes: which rows are kept."""
    told: dict[str, Any] = {"refused_s": 0.01, "retry_after": "2", "acknowledged": 9_500, "unknown": 0, "ready": 200}
    told |= {"status": "503", "sent": 30_000, "grown": 10 * MB, "late": 0, "metrics": 200} | changes
    result = {
        "sent": told["sent"],
        "unsent": 30_000 - told["sent"],
        "seconds": 10.0,
        "acknowledged": told["acknowledged"],
        "by_status": {"201": told["acknowledged"], told["status"]: 20_000},
        "unknown": told["unknown"],
    }
    seen = [
        *probes("write", 503, told["refused_s"], retry_after=told["retry_after"]),
        *probes("readyz", told["ready"], 0.01, retry_after="2"),
        *probes("read", 200, 0.01),
    ]
    held = [0, told["grown"], told["grown"], told["grown"] + told["late"]]
    metrics = {"web1": told["metrics"]}
    samples = [Sample(float(n), {"web1": MB + each}, {}, metrics) for n, each in enumerate(held)]
    rows = judged_overload(PEAK, 3.0, result, seen, samples, 0.0)
    return {row.what: row.kept for row in rows}


def test_an_overload_in_which_all_is_kept_is_called_that():
    """The rows with something to ask are all kept."""
    assert all(judge().values())


@pytest.mark.parametrize(
    ("changes", "broken"),
    [
        ({"acknowledged": 8_900}, "acknowledged"),
        ({"refused_s": 0.06}, "refused: p50, p99"),
        ({"retry_after": None}, "Retry-After"),
        ({"retry_after": "31"}, "Retry-After"),
        ({"unknown": 1}, "other statuses, unknown"),
        ({"status": "504"}, "other statuses, unknown"),
        ({"ready": 503}, "readyz: 200, p99"),
        ({"sent": 20_000}, "offered"),
        ({"grown": 300 * MB}, "memory, at most"),
        ({"late": 40 * MB}, "after the first quarter"),
        ({"metrics": 0}, "metrics: 200"),
    ],
)
def test_each_promise_that_is_broken_is_named(changes: dict[str, Any], broken: str):
    """One change, one row that is not kept."""
    assert [what for what, kept in judge(**changes).items() if not kept] == [broken]


def test_it_is_as_before_once_nine_tenths_of_a_second_s_writes_are_quick():
    """Slow or refused ones put it off; without any it never is."""
    slow = [probe for probe in probes("write", 201, 1.0) if probe.at_s < 3]
    quick = [probe for probe in probes("write", 201, 0.01) if probe.at_s >= 3]
    assert normal_again_s([*slow, *quick], 0.0, 0.01) == 3
    assert normal_again_s([*slow], 0.0, 0.01) == float("inf")


def storm(
    *, status: int = 503, back_after_s: float = 2.0, rate: float = 950.0, still_s: float = 0.04
) -> dict[str, bool]:
    """An outage from second 10 to 70 under naive clients: which rows are kept."""
    writes = [Probe("write", 10 + n / 10, Outcome(status, b"", 0.1, "5")) for n in range(600)]
    writes += [Probe("write", 70 + back_after_s, Outcome(201, b"", 0.1))]
    writes += [Probe("write", 76.0, Outcome(503, b"", still_s, "5")), Probe("write", 74.0, Outcome(503, b"", 0.1, "5"))]
    samples = [Sample(float(second), {"web1": MB}, {"2xx": round(rate * second)}) for second in range(100)]
    rows = judged_storm(PEAK, {"by_status": {"201": 1, "503": 1}}, writes, samples, Storm(2000, 60.0, 10.0, 70.0, 90.0))
    return {row.what: row.kept for row in rows}


def test_a_storm_is_judged_by_what_is_refused_and_by_how_soon_it_is_over():
    """All writes are refused meanwhile, the first is back within seconds, and goodput with it."""
    assert all(storm().values())
    assert not storm(status=504)["writes that are refused"]
    assert not storm(back_after_s=6.0)["first 201"]
    assert not storm(rate=800.0)["acknowledged, 5 s and later"]
    assert not storm(still_s=0.06)["refused then: p99"]
