"""The plots of a run of the load test: what was offered and achieved, latencies, errors, CPU, users."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

from loadtest.report.axes import Axis, clock, time_axis
from loadtest.report.charts import Point, Series, Tip, line_chart
from loadtest.report.pieces import GREY, chip_legend, figure, line_legend, role_colour
from loadtest.report.recorded import Moment, Run
from loadtest.report.summary import BINS_MAX, OTHERS_FROM, PERCENTILES, Summary, Window, roles
from loadtest.report.tables import number, role_name
from loadtest.timeline import percentile, us_of_bucket

REASONS_MAX = 5
"""Reasons of failures with a line of their own; the others are one line."""
OTHER = "other reasons"
MACHINE = "all that this machine ran"
OFFERED, ACHIEVED, FAILED, UNSENT = "offered", "achieved", "failed", "never sent"
NOTABLE_SHARE = 0.01
"""Of the most that a moment was offered: fewer that were never sent would be a line along the axis."""
_RED, _ORANGE = 3, 1
_LATENCY_COLOURS = {50.0: 2, 90.0: 4, 99.0: 0, 99.9: 5, 100.0: GREY}
_SPECTRUM_STEPS = 24
"""Points of the latency distribution between two powers of ten of 1/(1−p)."""
_NINES_MAX = 6


def throughput_figure(summary: Summary) -> str:
    """What was offered each second, and what was achieved of it; failures and what was never sent, where there are any."""
    run, moments = summary.run, summary.moments
    lines = [_series(ACHIEVED, moments, partial(_achieved, run), 0, area="soft")]
    if run.open_loop:
        lines.append(_series(OFFERED, moments, lambda it: it.offered / it.seconds, GREY, dashed=True))
    if any(moment.all.failed for moment in moments):
        lines.append(_series(FAILED, moments, lambda it: it.all.failed / it.seconds, _RED))
    most = max((moment.offered for moment in moments), default=0)
    if any(moment.unsent > NOTABLE_SHARE * most for moment in moments):
        lines.append(_series(UNSENT, moments, lambda it: it.unsent / it.seconds, _ORANGE))
    tips = [Tip(it.start_s, it.start_s + it.seconds, _told(run, it)) for it in moments]
    chart = line_chart("Requests per second over time", _time(run), Axis("requests", "per second"), lines, tips=tips)
    caption = (
        "Offered and achieved" if run.open_loop else "Achieved; no rate was offered, each user waited for its answer"
    )
    return figure(caption, chart, line_legend(lines))


def latency_figure(summary: Summary) -> str:
    """Percentiles of the latency in each second."""
    run, moments = summary.run, summary.moments
    lines = [
        _series(_percent(each), moments, partial(_ms, per_cent=each), colour)
        for each, colour in reversed(_LATENCY_COLOURS.items())
    ]
    tips = [Tip(it.start_s, it.start_s + it.seconds, _latencies_told(it)) for it in moments if it.all.answered]
    axis = Axis("latency", "ms", kind="log10", low=None)
    chart = line_chart("Latency percentiles over time", _time(run), axis, lines, height=340, tips=tips)
    return figure(f"Latency over time{_from_when(run)}, logarithmic", chart, line_legend(lines))


def spectrum_figure(summary: Summary) -> str:
    """Latency by percentile: of the whole run, and of its highest rate."""
    run = summary.run
    lines, most = [], 1.0
    for window in summary.windows:
        if window.requests.latency:
            points, reached = spectrum(window)
            most = max(most, reached)
            lone = len(summary.windows) == 1 or window is summary.peak
            lines.append(Series(window.name, points, 0 if lone else GREY, dashed=not lone, markers=False))
    nines = min(_NINES_MAX, max(2, math.ceil(math.log10(most) - 1e-9)))
    ticks = (1.0, 2.0, *(10.0**power for power in range(1, nines + 1)))
    across = Axis("share of the answers that took no longer", kind="log10", low=None, fixed=ticks, spell=_share)
    chart = line_chart("Latency by percentile", across, Axis("latency", "ms"), lines, height=340)
    return figure(f"Latency by percentile{_from_when(run)}", chart, line_legend(lines))


def spectrum(window: Window) -> tuple[tuple[Point, ...], float]:
    """Latency in ms over 1/(1−p), and how far it goes: to one request of them all, the slowest, or one in a million."""
    counts = sorted(window.requests.latency.items())
    total = sum(count for _, count in counts)
    reached = min(10.0**_NINES_MAX, max(2.0, float(total)))
    steps = math.ceil(math.log10(reached) * _SPECTRUM_STEPS)
    points, index, seen = [], 0, counts[0][1]
    for step in range(steps + 1):
        over = min(reached, 10 ** (step / _SPECTRUM_STEPS))
        slowest = step == steps and total <= reached
        wanted = total if slowest else max(1.0, total * (1 - 1 / over) * (1 - 1e-9))
        while seen < wanted and index + 1 < len(counts):
            index += 1
            seen += counts[index][1]
        points.append(Point(over, us_of_bucket(counts[index][0]) / 1000))
    return tuple(points), reached


def errors_figure(summary: Summary) -> str:
    """Failures each second by their reason, the most frequent apart."""
    run, moments = summary.run, summary.moments
    totals = sorted(summary.whole.requests.errors.items(), key=lambda pair: -pair[1])
    named = [reason for reason, _ in totals[:REASONS_MAX]]
    kinds = [(reason, partial(_per_second_of, reasons=frozenset((reason,)))) for reason in named]
    if len(totals) > REASONS_MAX:
        rest = frozenset(reason for reason, _ in totals[REASONS_MAX:])
        kinds.append((OTHER, partial(_per_second_of, reasons=rest)))
    colours = (3, 1, 0, 5, 2, GREY)
    lines = [_series(_short(name), moments, value, colours[index]) for index, (name, value) in enumerate(kinds)]
    chart = line_chart("Failures per second over time", _time(run), Axis("failures", "per second"), lines, height=240)
    return figure("Failures by reason", chart, line_legend(lines))


def cpu_figure(summary: Summary) -> str:
    """Cores that each role used over time, one on the other."""
    run = summary.run
    shown, cores = roles(run), run.facts.cores
    bins = _cpu_bins(run)
    stacked = [
        _line(role_name(role), [(at, sum(used.get(each, 0.0) for each in shown[: top + 1])) for at, _, used in bins],
              role_colour(role), area="solid")
        for top, role in enumerate(shown)
    ]  # fmt: skip
    machine = [(at, min(used[MACHINE], cores or math.inf)) for at, _, used in bins]
    rest = [_line(MACHINE, machine, GREY, dashed=True)] if OTHERS_FROM in shown else []
    tips = [Tip(at - width / 2, at + width / 2, _cores_told(at - width / 2, shown, used)) for at, width, used in bins]
    level = (float(cores), f"all {cores} cores of this machine") if cores else None
    lines = [*reversed(stacked), *rest]
    chart = line_chart(
        "CPU by process over time", _time(run), Axis("cores used"), lines, height=260, tips=tips, level=level
    )
    chips = chip_legend([(role_name(role), role_colour(role)) for role in shown])
    return figure("CPU time by process", chart, chips + line_legend(rest))


def users_figure(summary: Summary) -> str:
    """How many users, each with a connection, there were."""
    run, moments = summary.run, summary.moments
    lines = [_series("users", moments, lambda it: it.users or math.nan, 2, area="soft")]
    chart = line_chart("Users over time", _time(run), Axis("users"), lines, height=170)
    return figure("Users, each with a connection", chart)


def _series(
    name: str,
    moments: Iterable[Moment],
    value: Callable[[Moment], float],
    colour: int,
    *,
    dashed: bool = False,
    area: str = "",
) -> Series:
    points = [(moment.start_s + moment.seconds / 2, value(moment)) for moment in moments]
    return _line(name, points, colour, dashed=dashed, area=area)


def _line(
    name: str, points: Sequence[tuple[float, float]], colour: int, *, dashed: bool = False, area: str = ""
) -> Series:
    return Series(name, tuple(Point(x, y) for x, y in points), colour, dashed=dashed, markers=False, area=area)


def _cpu_bins(run: Run) -> list[tuple[float, int, dict[str, float]]]:
    """The middle and the width of each bin of the run's time that was sampled, and the cores used by role."""
    width = max(1, math.ceil(run.last_s / BINS_MAX))
    sums: dict[int, tuple[float, dict[str, float]]] = {}
    for sample in run.cpu:
        if 0 <= sample.start_s < run.last_s:
            took_s, used = sums.get(sample.start_s // width, (0.0, {}))
            for role, cpu_s in (*sample.cpu_s.items(), (MACHINE, sample.machine_s)):
                used[role] = used.get(role, 0.0) + cpu_s
            sums[sample.start_s // width] = (took_s + sample.took_s, used)
    return [
        ((index + 0.5) * width, width, {role: cpu_s / took_s for role, cpu_s in used.items()})
        for index, (took_s, used) in sorted(sums.items())
        if took_s > 0
    ]


def _time(run: Run) -> Axis:
    return time_axis(0, run.last_s)


def _ms(moment: Moment, per_cent: float) -> float:
    found = percentile(moment.all.latency, per_cent)
    return math.nan if found is None else found / 1000


def _achieved(run: Run, moment: Moment) -> float:
    return (moment.begun if run.open_loop else moment.all.answered) / moment.seconds


def _per_second_of(moment: Moment, reasons: frozenset[str]) -> float:
    return sum(count for reason, count in moment.all.errors.items() if reason in reasons) / moment.seconds


def _told(run: Run, moment: Moment) -> str:
    said = [f"{clock(moment.start_s)}"]
    if run.open_loop:
        said.append(f"offered {number(moment.offered / moment.seconds, 0)}/s")
    said.append(f"achieved {number(_achieved(run, moment), 0)}/s")
    if moment.all.failed:
        said.append(f"failed {moment.all.failed:,}")
    if moment.unsent:
        said.append(f"never sent {moment.unsent:,}")
    return ", ".join(said)


def _cores_told(second: float, shown: Sequence[str], used: Mapping[str, float]) -> str:
    cores = (f"{role_name(role)} {number(used.get(role), 2)}" for role in shown)
    return f"{clock(second)}: {', '.join(cores)}"


def _latencies_told(moment: Moment) -> str:
    shown = [*PERCENTILES[:-1], 100.0]
    return f"{clock(moment.start_s)}: " + ", ".join(f"{_percent(p)} {number(_ms(moment, p))} ms" for p in shown)


def _percent(per_cent: float) -> str:
    return "max" if per_cent >= 100 else f"p{per_cent:g}"


def _share(over: float) -> str:
    """1/(1−p) as the percentage p."""
    return f"{100 * (1 - 1 / over):.10g}%"


def _from_when(run: Run) -> str:
    return ", from the intended start" if run.open_loop else ""


def _short(words: str, most: int = 90) -> str:
    return words if len(words) <= most else f"{words[: most - 1]}…"
