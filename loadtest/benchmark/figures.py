"""The plots of a run: results to charts, and the colours that roles and subjects have in all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from loadtest.benchmark.results import (
    GENERATOR,
    CurvePoint,
    MemoryPoint,
    Results,
    StallPoint,
    groups,
    roles,
    total_cpu_us,
)
from loadtest.benchmark.table import connections
from loadtest.report.axes import Axis
from loadtest.report.bars import Bar, Strip, stacked_bars, strip_chart
from loadtest.report.charts import Point, Series, line_chart
from loadtest.report.pieces import COLOURS, GREY, chip_legend, figure, line_legend, role_colour
from loadtest.report.tables import number, role_name

_STILL = "the store stands still"
_SECONDS = Axis("since the start", "s", count=10)


def rounds_figure(results: Results) -> str:
    """Every round of every subject as a dot."""
    strips = [
        Strip(
            group.subject,
            connections(group.connections),
            tuple(
                (each.per_second, f"round {each.round + 1}: {number(each.per_second)}/s") for each in group.measurements
            ),
            group.per_second,
        )
        for group in groups(results.measurements)
    ]
    return figure(
        "Each round of the interleaving", strip_chart("Throughput of each round by subject", "per second", strips)
    )


def cpu_figure(results: Results) -> str:
    """Where the CPU time of a request goes, by process; the generator's is not part of a bar."""
    shown = [group for group in groups(results.measurements) if group.cpu_us]
    served = [role for role in roles([group.cpu_us for group in shown]) if role != GENERATOR]
    bars = [
        Bar(
            group.subject,
            connections(group.connections),
            tuple(
                (group.cpu_us[role], role_colour(role), f"{role_name(role)}: {number(group.cpu_us[role], 1)} µs")
                for role in served
                if role in group.cpu_us
            ),
            f"{number(total_cpu_us(group.cpu_us), 1)} µs",
        )
        for group in shown
    ]
    legend = chip_legend([(role_name(role), role_colour(role)) for role in served])
    chart = stacked_bars("CPU time per request by process", Axis("CPU time of a request", "µs"), bars)
    return figure("CPU time of a request, by process", chart, legend)


def throughput_figure(results: Results) -> str:
    """Throughput against connections."""
    lines = _curves(results.curve, lambda point: point.per_second, lambda point: f"{number(point.per_second)}/s")
    axes = (Axis("connections", kind="log2", low=None), Axis("answers with a 2xx", "per second"))
    chart = line_chart("Throughput against connections", *axes, lines)
    return figure(f"Throughput against connections{_hollow(results.curve)}", chart, line_legend(lines))


def latency_figure(results: Results) -> str:
    """The median and the 99th percentile of the latency against connections."""
    lines: list[Series] = []
    median = _curves(results.curve, lambda point: point.p50_ms, lambda point: f"p50 {number(point.p50_ms)} ms", "p50")
    high = _curves(results.curve, lambda point: point.p99_ms, lambda point: f"p99 {number(point.p99_ms)} ms", "p99")
    for pair in zip(median, high, strict=True):
        lines += pair
    axes = (Axis("connections", kind="log2", low=None), Axis("latency", "ms", kind="log10", low=None))
    chart = line_chart("Latency against connections", *axes, lines, height=380)
    return figure(
        f"Latency against connections, both axes logarithmic{_hollow(results.curve)}", chart, line_legend(lines)
    )


def scaling_figure(results: Results) -> str:
    """Throughput of 1, 2, 4 … web instances beside what n times the first would be."""
    points = sorted(results.scaling, key=lambda point: point.instances)
    base = points[0].per_second / points[0].instances
    linear = (Point(0, 0), Point(points[-1].instances, base * points[-1].instances))
    measured = tuple(
        Point(
            each.instances,
            each.per_second,
            f"{each.instances} instances: {number(each.per_second)}/s",
            text=f"{number(each.per_second)}/s" + (f", {each.of_linear:.0%} of linear" if index else ""),
        )
        for index, each in enumerate(points)
    )
    lines = [Series("linear", linear, GREY, dashed=True, markers=False), Series("measured", measured, 0)]
    axes = (Axis("web instances"), Axis("answers with a 2xx", "per second"))
    return figure(
        "Throughput of more web instances", line_chart("Scaling of web instances", *axes, lines), line_legend(lines)
    )


def memory_figure(points: Sequence[MemoryPoint], what: str) -> str:
    """Resident memory of each web instance under ``what``, and the load."""
    load = tuple(Point(each.seconds, each.per_second) for each in points)
    rate = [Series("answers with a 2xx", load, GREY, markers=False)]
    lines = _resident(points)
    memory = line_chart(
        "Resident memory over time", _SECONDS, Axis("resident memory of each", "MiB"), lines, height=260
    )
    answers = line_chart(
        "Throughput over time", _SECONDS, Axis("answers with a 2xx", "per second", count=3), rate, height=170
    )
    return figure(f"Resident memory under {what}", memory + answers, line_legend(lines))


def stall_figure(results: Results) -> str:
    """Resident memory, and the answers by status, while the store stands still for a while."""
    bands = stalls(results.stall)
    lines = _resident(results.stall)
    statuses = sorted({status for each in results.stall for status in each.answers_per_second})
    rates = [
        Series(
            status,
            tuple(Point(each.seconds, each.answers_per_second.get(status, 0.0)) for each in results.stall),
            (2, 1, 3, 5, 4)[index % 5],
            dashed=index > 0,
            markers=False,
        )
        for index, status in enumerate(statuses)
    ]
    axis = Axis("resident memory of each", "MiB")
    memory = line_chart("Resident memory around a stall", _SECONDS, axis, lines, height=260, bands=bands)
    axis = Axis("answers", "per second", count=3)
    answers = line_chart("Answers around a stall, by status", _SECONDS, axis, rates, height=210, bands=bands)
    still = figure("Resident memory while the store stands still", memory, line_legend(lines))
    return still + figure("Answers while the store stands still, by status", answers, line_legend(rates))


def stalls(points: Sequence[StallPoint]) -> list[tuple[float, float, str]]:
    """The spans of seconds in which the store stood still, named."""
    spans: list[tuple[float, float, str]] = []
    start: float | None = None
    for point in points:
        if point.stalled and start is None:
            start = point.seconds
        elif not point.stalled and start is not None:
            spans.append((start, point.seconds, _STILL))
            start = None
    return spans if start is None else [*spans, (start, points[-1].seconds, _STILL)]


def _curves(
    points: Sequence[CurvePoint],
    value: Callable[[CurvePoint], float],
    said: Callable[[CurvePoint], str],
    which: str = "",
) -> list[Series]:
    subjects = list(dict.fromkeys(point.subject for point in points))
    return [
        Series(
            f"{subject}, {which}" if which else subject,
            tuple(
                Point(
                    each.connections,
                    value(each),
                    f"{connections(each.connections)}: {said(each)}{_failed(each)}",
                    each.failures > 0,
                )
                for each in sorted(points, key=lambda point: point.connections)
                if each.subject == subject
            ),
            index % COLOURS,
            dashed=which == "p99",
        )
        for index, subject in enumerate(subjects)
    ]


def _hollow(points: Sequence[CurvePoint]) -> str:
    return "; hollow where some answers were no 2xx" if any(point.failures for point in points) else ""


def _failed(point: CurvePoint) -> str:
    return f", {point.failures:,} failures" if point.failures else ""


def _resident(points: Sequence[MemoryPoint] | Sequence[StallPoint]) -> list[Series]:
    instances = max((len(each.rss_mib) for each in points), default=0)
    return [
        Series(
            f"web instance {index + 1}",
            tuple(Point(each.seconds, each.rss_mib[index]) for each in points if index < len(each.rss_mib)),
            (0, 1, 2, 5)[index % 4],
            markers=False,
        )
        for index in range(instances)
    ]
