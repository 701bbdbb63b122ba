"""What is asked of the service under overload, and whether it was kept. Pure."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tests.system.pressure import Probe, Sample, good_per_s, growth_bytes, metrics_share, percentile, seconds_of

OFFERED_SHARE_MIN = 0.8
"""Of the arrivals that were asked for; with fewer it was another test."""

GOODPUT_SHARE_MIN = 0.9
REFUSED_P99_MAX_S = 0.05
RELIEVED_WITHIN_S = 5.0
BACK_WITHIN_S = 5.0
OUTAGE_ANSWER_MAX_S = 1.0
GROWTH_MB_MAX = 200.0
"""6,500 clients have buffers, at HAProxy above all."""
LATE_GROWTH_MB_MAX = 32.0
"""Once all of them are there: flat, but for fragments."""
NORMAL_FACTOR = 3.0
"""A p99 of so many times the normal one, or of 50 ms, counts as normal: seconds differ."""

MB = 1 << 20


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the table: what was looked at, what came, what is asked of it (empty: nothing), whether it is kept."""

    what: str
    came: str
    asked: str = ""
    kept: bool = True


@dataclass(frozen=True, slots=True)
class Storm:
    """Naive clients, how long Cassandra was stopped, and when (monotonic) it went, was started again, and the storm ended."""

    clients: int
    outage_s: float
    down_s: float
    back_s: float
    up_s: float


def judged_overload(
    peak: float,
    factor: float,
    result: dict[str, Any],
    seen: Sequence[Probe],
    samples: Sequence[Sample],
    warmup_s: float,
) -> list[Row]:
    """What became of the open loop of ``factor`` peaks."""
    good = good_per_s(result)
    refused = seconds_of(seen, "write", 503)
    refusals = [probe for probe in seen if probe.outcome.status == 503]
    offered = (result["sent"] + result["unsent"]) / (result["seconds"] + warmup_s)
    reached = result["sent"] / (result["seconds"] + warmup_s)
    p99 = percentile(refused, 0.99)
    growth = growth_bytes(samples) / MB
    late_growth = growth_bytes(samples[len(samples) // 4 :]) / MB
    metrics = metrics_share(samples)
    bad = {status for status in result["by_status"] if status not in ("201", "503")}
    return [
        Row(
            "offered",
            f"{offered:,.0f}/s, of which {reached:,.0f}/s found a connection",
            f">= {OFFERED_SHARE_MIN:.0%}",
            reached >= OFFERED_SHARE_MIN * factor * peak,
        ),
        Row(
            "acknowledged",
            f"{good:,.0f}/s = {good / peak:.0%} of the peak",
            ">= 90 %",
            good >= GOODPUT_SHARE_MIN * peak,
        ),
        Row("refused", f"{result['by_status'].get('503', 0) / result['seconds']:,.0f}/s"),
        Row(
            "other statuses, unknown", f"{sorted(bad)}, {result['unknown']}", "none", not bad and not result["unknown"]
        ),
        Row(
            "refused: p50, p99",
            _ms(refused, 0.5, 0.99),
            f"p99 < {REFUSED_P99_MAX_S * 1e3:.0f} ms",
            p99 < REFUSED_P99_MAX_S,
        ),
        Row("Retry-After", _retry_after(refusals), "1-30 on each", _all_polite(refusals)),
        Row("acknowledged: p50, p99", _ms(seconds_of(seen, "write", 201), 0.5, 0.99)),
        *_answering(seen),
        Row("metrics: 200", f"{metrics:.1%}", ">= 99 %", metrics >= 0.99),
        Row("memory, at most", f"+{growth:.0f} MB", f"< {GROWTH_MB_MAX:.0f} MB", growth < GROWTH_MB_MAX),
        Row(
            "after the first quarter",
            f"+{late_growth:.0f} MB",
            f"< {LATE_GROWTH_MB_MAX:.0f} MB",
            late_growth < LATE_GROWTH_MB_MAX,
        ),
    ]


def _answering(seen: Sequence[Probe]) -> list[Row]:
    rows = []
    for name in ("readyz", "read"):
        asked = [probe for probe in seen if probe.name == name]
        good = seconds_of(seen, name, 200)
        share = len(good) / max(1, len(asked))
        rows.append(Row(f"{name}: 200, p99", f"{share:.1%}, {_ms(good, 0.99)}", ">= 99 %", share >= 0.99))
    return rows


def normal_again_s(seen: Sequence[Probe], relieved_s: float, normal_p99_s: float) -> float:
    """Seconds from the relief to the first second of which nine tenths of the writes are acknowledged as quickly as ever."""
    limit_s = max(NORMAL_FACTOR * normal_p99_s, 0.05)
    for second in range(60):
        window = [p for p in seen if p.name == "write" and second <= p.at_s - relieved_s < second + 1]
        quick = [p for p in window if p.outcome.status == 201 and p.outcome.seconds <= limit_s]
        if window and len(quick) >= 0.9 * len(window):
            return float(second)
    return float("inf")


def rates(samples: Sequence[Sample], code: str) -> list[tuple[float, float]]:
    """Answers of a class a second, with the moment at which each second ended."""
    return [
        (after.at_s, (after.answers.get(code, 0) - before.answers.get(code, 0)) / (after.at_s - before.at_s))
        for before, after in itertools.pairwise(samples)
    ]


def judged_storm(
    peak: float, result: dict[str, Any], seen: Sequence[Probe], samples: Sequence[Sample], storm: Storm
) -> list[Row]:
    """What became of clients that try again at once while Cassandra was gone, and when it was back."""
    settled = [probe for probe in seen if storm.down_s + 4 <= probe.at_s < storm.down_s + storm.outage_s]
    writes = [probe for probe in settled if probe.name == "write"]
    refused = seconds_of(writes, "write", 503)
    slowest = max((probe.outcome.seconds for probe in writes), default=0.0)
    first = next(
        (
            p.at_s - storm.back_s
            for p in seen
            if p.name == "write" and p.at_s > storm.back_s and p.outcome.status == 201
        ),
        1e9,
    )
    # From the second in which it was back: the start of a node takes a while of its own.
    after = [rate for at_s, rate in rates(samples, "2xx") if storm.back_s + RELIEVED_WITHIN_S < at_s <= storm.up_s]
    good = sum(after) / max(1, len(after))
    still = seconds_of(
        [probe for probe in seen if storm.back_s + RELIEVED_WITHIN_S < probe.at_s <= storm.up_s], "write", 503
    )
    growth = growth_bytes(samples) / MB
    others = {status for status in result["by_status"] if status not in ("201", "503", "504")}
    shed = [rate for at_s, rate in rates(samples, "5xx") if storm.down_s + 4 < at_s < storm.down_s + storm.outage_s]
    return [
        Row("naive clients, refused", f"{storm.clients}, {sum(shed) / max(1, len(shed)):,.0f}/s"),
        Row("writes that are refused", f"{len(refused)} of {len(writes)}", "all", len(refused) == len(writes)),
        Row(
            "slowest answer",
            f"{slowest * 1e3:.0f} ms",
            f"<= {OUTAGE_ANSWER_MAX_S:g} s",
            slowest <= OUTAGE_ANSWER_MAX_S + 0.2,
        ),
        Row("refused: p50, p99", _ms(refused, 0.5, 0.99)),
        Row("Retry-After", _retry_after(settled), "1-30 on each", _all_polite(settled)),
        Row("other statuses", f"{sorted(others)}", "none", not others),
        Row(
            "first 201",
            f"{max(0.0, first):.1f} s after its return",
            f"<= {BACK_WITHIN_S:.0f} s",
            first <= BACK_WITHIN_S,
        ),
        Row(
            "acknowledged, 5 s and later",
            f"{good:,.0f}/s = {good / peak:.0%} of the peak",
            ">= 90 %",
            good >= GOODPUT_SHARE_MIN * peak,
        ),
        Row(
            "refused then: p99",
            f"{len(still)}, {_ms(still, 0.99)}",
            f"< {REFUSED_P99_MAX_S * 1e3:.0f} ms",
            percentile(still, 0.99) < REFUSED_P99_MAX_S,
        ),
        Row("memory, at most", f"+{growth:.0f} MB", f"< {GROWTH_MB_MAX:.0f} MB", growth < GROWTH_MB_MAX),
    ]


def _ms(values: Sequence[float], *shares: float) -> str:
    return ", ".join(f"{percentile(values, share) * 1e3:.1f} ms" for share in shares)


def _retry_after(probes: Sequence[Probe]) -> str:
    said = sorted({int(probe.outcome.retry_after or 0) for probe in probes if probe.outcome.status == 503})
    return f"{said[0]}-{said[-1]} s" if said else "nothing was refused"


def _all_polite(probes: Sequence[Probe]) -> bool:
    return all(1 <= int(probe.outcome.retry_after or 0) <= 30 for probe in probes if probe.outcome.status == 503)


def table(title: str, rows: Sequence[Row]) -> str:
    """The rows in columns."""
    lines = [f"{row.what:28}  {row.came:52}  {row.asked:14}  {'' if row.kept else 'NOT KEPT'}".rstrip() for row in rows]
    return "\n".join([f"\n{title}", *lines])
