"""Sums up a part of a timeline, and says in words whether what was offered was achieved, and what stood in the way."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from loadtest.timeline import percentile

ACHIEVED_SHARE_LEAST = 0.99
"""Less than this part of what was offered is a missed target."""
BUSY_SHARE = 0.9
"""A generator process that used this part of a core may be the bottleneck itself."""


@dataclass(frozen=True)
class Totals:
    """Of the seconds of a window. Latencies count from the intended start where a rate was offered, in seconds."""

    seconds: int = 0
    offered: int = 0
    unsent: int = 0
    answered: int = 0
    """Requests that were answered as they should be."""
    begun: int = 0
    """Arrivals answered well: a user that makes several requests for each arrival counts once, by its POST."""
    failed: int = 0
    p50_s: float | None = None
    p99_s: float | None = None
    p999_s: float | None = None
    reasons: tuple[tuple[str, int], ...] = ()
    """Of failures, the most frequent first."""
    cpu_s: float = 0.0
    """Of all generator processes."""
    busiest_share: float = 0.0
    """Part of a core that the busiest generator process used."""

    @property
    def offered_per_s(self) -> float:
        """On average."""
        return self.offered / max(self.seconds, 1)

    @property
    def achieved_per_s(self) -> float:
        """Arrivals answered well per second, on average."""
        return self.begun / max(self.seconds, 1)

    @property
    def missed(self) -> bool:
        """Whether a rate was offered and not achieved."""
        return self.offered > 0 and self.begun < ACHIEVED_SHARE_LEAST * self.offered

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "reasons": dict(self.reasons), "missed": self.missed}


def totals(timeline: Mapping[str, Any], from_unix_s: float = -math.inf, to_unix_s: float = math.inf) -> Totals:
    """The sums of the seconds whose middle lies in the window, of a timeline as its ``as_dict`` has it."""
    within = {
        text: second for text, second in timeline["seconds"].items() if from_unix_s <= int(text) + 0.5 < to_unix_s
    }
    latency: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    answered = begun = 0
    for second in within.values():
        for name, requests in second["requests"].items():
            well = requests["count"] - sum(requests["errors"].values())
            answered += well
            begun += well if name.startswith("POST ") else 0
            latency.update(requests["latency"])
            reasons.update(requests["errors"])
    cpu = [_within(seconds, from_unix_s, to_unix_s) for seconds in timeline["generators"].values()]
    p50_us, p99_us, p999_us = (percentile(latency, p) for p in (50, 99, 99.9))
    return Totals(
        seconds=len(within),
        offered=sum(second["offered"] for second in within.values()),
        unsent=sum(second["unsent"] for second in within.values()),
        answered=answered,
        begun=begun,
        failed=reasons.total(),
        p50_s=_seconds(p50_us),
        p99_s=_seconds(p99_us),
        p999_s=_seconds(p999_us),
        reasons=tuple(reasons.most_common()),
        cpu_s=sum(used_s for used_s, _ in cpu),
        busiest_share=max((used_s / max(seconds, 1) for used_s, seconds in cpu), default=0.0),
    )


def line(found: Totals) -> str:
    """One line: offered, achieved, unsent, latency, failures and the generator's own CPU."""
    answers = found.answered + found.failed
    cpu_us = f"{found.cpu_s / answers * 1e6:.1f} µs" if answers else "–"
    words = []
    if found.offered:
        words.append(f"offered {found.offered:,} ({found.offered_per_s:,.0f}/s)")
    words += [
        f"achieved {found.begun:,} ({found.achieved_per_s:,.0f}/s)",
        *([f"never sent {found.unsent:,}"] if found.offered else []),
        f"p50 {_ms(found.p50_s)}, p99 {_ms(found.p99_s)}, p99.9 {_ms(found.p999_s)}"
        + (" from the intended start" if found.offered else ""),
        f"failures {found.failed:,}" + (f" ({found.reasons[0][0]})" if found.reasons else ""),
        f"generator {cpu_us} of CPU a request, busiest process {found.busiest_share:.0%} of a core",
    ]
    return "; ".join(words)


def shortfall(found: Totals) -> str | None:
    """What to say when the target was missed: by how much, and what the likely limit was. None when it was met."""
    if not found.missed:
        return None
    missed = f"Target missed: {found.achieved_per_s:,.0f}/s of {found.offered_per_s:,.0f}/s offered. "
    if found.busiest_share >= BUSY_SHARE:
        return missed + (
            f"The generator itself is the likely limit: its busiest process used {found.busiest_share:.0%} of a core. "
            "Add workers, or move them to other machines."
        )
    if found.failed > found.unsent:
        return missed + f"Most of it failed: {found.reasons[0][0]}."
    return missed + (
        f"The generator had time left ({found.busiest_share:.0%} of a core in its busiest process), so the likely limit is "
        "the service, the machine it shares, or too few connections for its latency."
    )


def _within(seconds: Mapping[str, float], from_unix_s: float, to_unix_s: float) -> tuple[float, int]:
    used = [cpu_s for text, cpu_s in seconds.items() if from_unix_s <= int(text) + 0.5 < to_unix_s]
    return sum(used), len(used)


def _seconds(us: int | None) -> float | None:
    return None if us is None else us / 1e6


def _ms(value_s: float | None) -> str:
    return "–" if value_s is None else f"{value_s * 1e3:,.1f} ms"
