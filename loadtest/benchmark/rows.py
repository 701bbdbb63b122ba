"""Measurements to rows: ratios round by round and their medians. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median

from loadtest.benchmark.plan import CASES
from loadtest.benchmark.results import GENERATOR, Measurement, Row, ScalingPoint
from loadtest.benchmark.targets import Kind, Target
from loadtest.report.tables import number

NOT_ASKED = "it was not asked for"
UNITS: Mapping[Kind, str] = {"cpu": "µs", "per_second": "usages/s", "memory": "MiB"}
"""Of all that is no ratio."""
Missing = Mapping[str, str]
"""Reasons: of a case as `section/case`, of a whole section by its name, of everything else by the empty text."""


def key(section: str, case: str, turn: int) -> str:
    """The key of a measurement."""
    return f"{section}/{case}/{turn}"


def rounds_of(measurements: Sequence[Measurement], section: str, case: str) -> dict[int, Measurement]:
    """The measurements of one case of a section by their round."""
    return {each.round: each for each in measurements if each.key == key(section, case, each.round)}


def row(target: Target, measurements: Sequence[Measurement], missing: Missing) -> Row:
    """One row, from the rounds in which all that it needs was measured."""
    above = rounds_of(measurements, target.section, target.case)
    below = rounds_of(measurements, target.section, target.over) if target.over is not None else {}
    turns = sorted(above if target.over is None else above.keys() & below.keys())
    rounds = tuple(_value(target, above[turn], below.get(turn)) for turn in turns)
    return Row(
        key=target.key,
        title=target.title,
        unit=UNITS.get(target.kind, "ratio"),
        target=target.target,
        comparison="<=" if target.kind in {"cpu", "p50", "memory"} else ">=",
        value=median(rounds) if rounds else None,
        rounds=rounds,
        missing=None if rounds else reason(target, above, missing),
        detail=_detail(target, above, below),
        parts=tuple(each[turn].key for turn in turns for each in (above, below) if turn in each),
    )


def reason(target: Target, above: Mapping[int, Measurement], missing: Missing) -> str:
    """Why a row could not be measured; what was measured of it all the same is said too."""
    names = [f"{target.section}/{case}" for case in target.cases] + [target.section, ""]
    why = next((missing[name] for name in names if name in missing), "it was not measured")
    return f"{why} ({said(target, above)} by itself)" if above and why != NOT_ASKED else why


def said(target: Target, turns: Mapping[int, Measurement]) -> str:
    """What was measured of a case, in words: the median of its rounds."""
    values = list(turns.values())
    if target.kind == "p50":
        return f"{number(median(each.latency_us.p50 for each in values))} µs"
    return f"{number(median(each.per_second for each in values), 0)}/s"


def scaling_points(measurements: Sequence[Measurement], cores: int) -> list[ScalingPoint]:
    """Medians of the rounds of 1, 2, 4 … web instances; linear is what one does in the same round."""
    points = []
    one = rounds_of(measurements, "scaling", "web1")
    for case in CASES["scaling"]:
        turns = rounds_of(measurements, "scaling", case)
        instances = int(case.removeprefix("web"))
        both = turns.keys() & one.keys()
        if not both:
            continue
        values = list(turns.values())
        points.append(
            ScalingPoint(
                instances=instances,
                per_second=median(each.per_second for each in values),
                of_linear=median(_of_linear(turns[turn], one[turn], instances) for turn in both),
                cpu_share={role: median(_share(each, role, cores) for each in values) for role in _roles(values)},
                note="; ".join(sorted({each.note for each in values if each.note})),
            )
        )
    return points


def _value(target: Target, above: Measurement, below: Measurement | None) -> float:
    if target.kind == "cpu":
        return above.cpu_us_per_request[target.role]
    if target.kind == "memory":
        return above.memory_growth_mib or 0.0
    if below is None:
        return above.per_second
    if target.kind == "p50":
        return above.latency_us.p50 / below.latency_us.p50
    if target.kind == "scaling":
        return _of_linear(above, below, target.instances)
    return above.per_second / below.per_second


def _detail(target: Target, above: Mapping[int, Measurement], below: Mapping[int, Measurement]) -> str:
    if not above:
        return ""
    if target.kind in {"cpu", "memory"}:
        return f"at {said(target, above)}"
    if target.kind == "per_second":
        middle = median(each.latency_us.p50 for each in above.values()) / 1000
        return f"half of the batches were answered within {number(middle)} ms"
    if not below:
        return ""
    times = f" × {target.instances}" if target.kind == "scaling" else ""
    return f"{said(target, above)} ÷ {said(target, below)}{times}"


def _of_linear(many: Measurement, one: Measurement, instances: int) -> float:
    return many.per_second / (one.per_second * instances)


def _share(each: Measurement, role: str, cores: int) -> float:
    return each.cpu_us_per_request.get(role, 0.0) / 1e6 * each.per_second / cores


def _roles(values: Sequence[Measurement]) -> list[str]:
    return sorted(
        {role for each in values for role in each.cpu_us_per_request}, key=lambda role: (role == GENERATOR, role)
    )
