"""The verdicts as text, and as the lines of the record in README.md. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from tests.chaos.verdict import SHOWN_MAX, Counts, Verdict

COLUMNS = (
    "injections", "acknowledged", "unknown", "lost", "phantom", "duplicate", "false-fail", "corrupt", "resurrected",
)  # fmt: skip
FAULT_WIDTH = 30


def text(verdicts: Sequence[Verdict], not_run: Mapping[str, str]) -> str:
    """The whole result: a line for each fault, what is wrong with it, the counts for each topology and together."""
    lines = []
    for verdict in verdicts:
        lines += ["", f"{verdict.topology}{' (the control: something must be lost)' if verdict.control else ''}"]
        lines.append(f"  {'fault':<{FAULT_WIDTH}} {'times':>6} {'refused':>9} {'unknown':>9} {'slowest':>9}")
        for row in verdict.rows:
            wrong = "" if not row.complaints else f"  {len(row.complaints)} complaint(s)"
            lines.append(
                f"  {row.fault:<{FAULT_WIDTH}} {row.injections:>6} {row.refused:>9,} {row.unknown:>9,}"
                f" {row.slowest_s:>7.2f} s{wrong}"
            )
            lines += _complaints(row.complaints)
        lines += _complaints(verdict.complaints)
    lines += (
        ["", *(f"  {name:<{FAULT_WIDTH}} not run: {reason}" for name, reason in not_run.items())] if not_run else []
    )
    lines += ["", f"  {'':<{FAULT_WIDTH}} " + " ".join(f"{name:>12}" for name in COLUMNS)]
    for verdict in verdicts:
        lines.append(f"  {verdict.topology:<{FAULT_WIDTH}} " + " ".join(f"{cell:>12}" for cell in cells(verdict)))
    kept = [verdict for verdict in verdicts if not verdict.control]
    if len(kept) > 1:
        lines.append(
            f"  {'together, the control left out':<{FAULT_WIDTH}} " + " ".join(f"{c:>12}" for c in together(kept))
        )
    lines += ["", "all is well" if verdicts and all(verdict.ok for verdict in verdicts) else "NOT WELL"]
    return "\n".join(lines)


def cells(verdict: Verdict) -> list[str]:
    """A topology's figures, in the order of COLUMNS; a dash for what could not be compared."""
    return [f"{verdict.injections:,}", *_figures(verdict.counts)]


def together(verdicts: Iterable[Verdict]) -> list[str]:
    """The sums, in the order of COLUMNS."""
    listed = list(verdicts)
    if any(verdict.counts is None for verdict in listed):
        return [f"{sum(verdict.injections for verdict in listed):,}", *_figures(None)]
    columns = zip(*(_numbers(verdict.counts) for verdict in listed if verdict.counts), strict=True)
    return [f"{sum(verdict.injections for verdict in listed):,}", *(f"{sum(column):,}" for column in columns)]


def markdown(verdicts: Sequence[Verdict], date: str, commit: str, seed: int) -> str:
    """Lines for the table of the record."""
    lines = []
    for verdict in verdicts:
        name = f"{verdict.topology}{', the control' if verdict.control else ''}"
        lines.append(f"| {date} | `{commit}` | {seed} | {name} | " + " | ".join(cells(verdict)) + " |")
    return "\n".join(lines) + "\n"


def _figures(counts: Counts | None) -> list[str]:
    return ["–"] * (len(COLUMNS) - 1) if counts is None else [f"{number:,}" for number in _numbers(counts)]


def _numbers(counts: Counts) -> list[int]:
    return [
        counts.acknowledged,
        counts.unknown,
        counts.lost,
        counts.phantom,
        counts.duplicate,
        counts.false_fail,
        counts.corrupt,
        counts.resurrected,
    ]


def _complaints(complaints: Sequence[str]) -> list[str]:
    """The first of them, equal ones once with how often."""
    counted: dict[str, int] = {}
    for complaint in complaints:
        counted[complaint] = counted.get(complaint, 0) + 1
    shown = [f"      {complaint}{f' ({number} times)' if number > 1 else ''}" for complaint, number in counted.items()]
    left = len(shown) - SHOWN_MAX
    return [*shown[:SHOWN_MAX], *([f"      and {left} more"] if left > 0 else [])]
