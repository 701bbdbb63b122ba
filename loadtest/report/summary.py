"""What a run comes to: figures of the whole and of its highest rate, and what is to be said of them. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from loadtest.report.recorded import GENERATOR, CpuSample, Moment, Phase, Requests, Run, binned, joined
from loadtest.report.tables import number
from loadtest.timeline import percentile
from loadtest.window import ACHIEVED_SHARE_LEAST, BUSY_SHARE

BINS_MAX = 600
"""Of a run's time where it is drawn: a longer run has moments of several seconds each."""
PERCENTILES = (50.0, 90.0, 99.0, 99.9, 99.99)
PEAK_SHARE = 0.99
"""Seconds that offered at least this part of the most that one offered are those of the highest rate."""
OTHERS_SHARE = 0.2
"""Of all cores: what processes that belong to no role used is worth a word from here on."""
OTHERS_FROM = "web"
"""Where this role is sampled, all that is loaded runs here, and the rest of the machine's CPU time is others'."""
MUST_BE_NOTHING = ("lost", "phantom", "duplicate", "corrupt")
Level = Literal["good", "bad", "plain"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """A sentence about a run, and whether it is good news."""

    level: Level
    text: str


@dataclass(frozen=True, slots=True)
class Window:
    """Some seconds of a run with the CPU time used in them: seconds by role over the `cpu_span_s` that were sampled."""

    name: str
    moment: Moment
    requests: Requests
    cpu_s: Mapping[str, float]
    cpu_span_s: float
    machine_s: float
    cpu_answered: int
    """Requests that were answered in the seconds that were sampled."""
    generator_share: float | None
    """Of a core, by the busiest generating process; None when none told."""

    @property
    def seconds(self) -> int:
        """How many."""
        return self.moment.seconds

    @property
    def offered_per_s(self) -> float | None:
        """None where no rate was offered."""
        return self.moment.offered / self.seconds if self.moment.offered and self.seconds else None

    @property
    def achieved_per_s(self) -> float:
        """Answered as they should be: of what was offered where a rate was offered, else of all requests."""
        answered = self.moment.begun if self.moment.offered else self.requests.answered
        return answered / self.seconds if self.seconds else 0.0

    @property
    def kept_up(self) -> float | None:
        """The part of what was offered that was achieved; None where no rate was offered."""
        return self.moment.begun / self.moment.offered if self.moment.offered else None

    def latency_ms(self, per_cent: float) -> float | None:
        """A percentile of those answered, from the intended start where a rate was offered; None without any."""
        found = percentile(self.requests.latency, per_cent)
        return None if found is None else found / 1000

    def cpu_us(self, role: str) -> float | None:
        """CPU time of a role for each request answered, in µs."""
        if role not in self.cpu_s or not self.cpu_answered:
            return None
        return self.cpu_s[role] / self.cpu_answered * 1e6

    def cores(self, role: str) -> float | None:
        """How many cores a role used."""
        return self.cpu_s[role] / self.cpu_span_s if role in self.cpu_s and self.cpu_span_s else None


@dataclass(frozen=True, eq=False)
class Summary:
    """A run with what is made of it, each made once."""

    run: Run

    @cached_property
    def whole(self) -> Window:
        """All seconds of a run, from the first to the last, idle ones included."""
        run = self.run
        sums = joined([*([run.earlier] if run.earlier else []), *run.moments])
        seconds = run.last_s + (run.earlier.seconds if run.earlier else 0)
        spanned = Moment(0, seconds, sums.offered, sums.unsent, sums.users, sums.requests)
        return _window("the whole run", run, spanned, lambda _: True)

    @cached_property
    def peak(self) -> Window | None:
        """The seconds at the highest rate that was offered, when they are not the whole run.

        Of a search for the highest rate, those of the last good step: the steps above it were to go wrong.
        """
        run = self.run
        if (best := next((phase for phase in run.phases if phase.best), None)) is not None:
            return self._phase(best, f"the last good step, {best.name}")
        most = max((moment.offered for moment in run.moments), default=0)
        if not most:
            return None
        # Arrivals of a Poisson process scatter by the root of their number.
        scatter = 4 / math.sqrt(most) if run.facts.options.get("arrivals") == "poisson" else 0.0
        least = most * min(PEAK_SHARE, 1 - scatter)
        chosen = [moment for moment in run.moments if moment.offered >= least]
        if len(chosen) == len(run.moments):
            return None
        seconds = {moment.start_s for moment in chosen}
        name = f"the {len(chosen):,} s at the highest rate"
        return _window(name, run, joined(chosen), lambda second: second in seconds)

    @property
    def headline(self) -> Window:
        """The window that the figures on top are of."""
        return self.peak or self.whole

    @property
    def windows(self) -> tuple[Window, ...]:
        """Both, the whole first."""
        return (self.whole,) if self.peak is None else (self.whole, self.peak)

    @cached_property
    def phases(self) -> list[Window]:
        """The phases of the load, each with the seconds that lie wholly within it; those without any are left out."""
        return [found for phase in self.run.phases if (found := self._phase(phase)) is not None]

    def _phase(self, phase: Phase, name: str = "") -> Window | None:
        def holds(second: int) -> bool:
            return phase.from_s <= second and second + 1 <= phase.to_s

        chosen = [moment for moment in self.run.moments if holds(moment.start_s)]
        return _window(name or phase.name, self.run, joined(chosen), holds) if chosen else None

    @cached_property
    def moments(self) -> list[Moment]:
        """The run's time in few enough parts to be drawn."""
        return binned(self.run, BINS_MAX)

    @cached_property
    def verdicts(self) -> list[Verdict]:
        """What there is to say: rate, failures, what the store holds."""
        if not self.run.moments:
            return [Verdict("bad", "Nothing was measured."), *_store_verdicts(self.run)]
        said = [_rate_verdict(self), *_others_verdict(self), _failure_verdict(self.whole)]
        return [*said, *_store_verdicts(self.run)]

    @property
    def nothing_wrong(self) -> bool:
        """Whether something was measured, nothing of it failed, and the store holds what was acknowledged."""
        found = (self.run.reconciliation or {}, self.run.warm_up or {})
        stored_well = not any(wrong(each) or each.get("torn") for each in found)
        compared = self.run.reconciliation is not None or not self.run.facts.store
        return bool(self.run.moments) and not self.whole.requests.failed and compared and stored_well


def roles(run: Run) -> list[str]:
    """The roles whose CPU time was sampled, in the order in which a request meets them."""
    order = (GENERATOR, "haproxy", "web", "cassandra")
    seen = dict.fromkeys(role for sample in run.cpu for role in sample.cpu_s)
    return sorted(seen, key=lambda role: (order.index(role) if role in order else len(order), role))


def wrong(reconciliation: Mapping[str, Any]) -> dict[str, int]:
    """What must be nothing and is not, by its name."""
    found = {name: how_many(reconciliation.get(name)) for name in MUST_BE_NOTHING}
    return {name: count for name, count in found.items() if count}


def how_many(value: object) -> int:
    """A count, or the length of a list of findings."""
    if isinstance(value, bool) or value is None:
        return int(bool(value))
    if isinstance(value, int):
        return value
    if isinstance(value, Mapping):
        return int(value.get("count", len(value)))
    return len(value) if isinstance(value, (list, tuple)) else 0


def _rate_verdict(summary: Summary) -> Verdict:
    window = summary.headline
    achieved, offered, kept = window.achieved_per_s, window.offered_per_s, window.kept_up
    over = f"over {window.seconds:,} s" if summary.peak is None else f"in {window.name}"
    if offered is None or kept is None:
        return Verdict("plain", f"{number(achieved, 0)} requests/s were answered {over}; no rate was offered.")
    if any(phase.best for phase in summary.run.phases):
        said = f"{number(achieved, 0)} requests/s were answered in {window.name} offered; what was above went wrong."
        return Verdict("good", said)
    if kept >= 1 and not window.moment.unsent:
        return Verdict("good", f"All of the {number(offered, 0)} requests/s that were offered were answered {over}.")
    said = f"{number(achieved, 0)} of {number(offered, 0)} requests/s offered were answered {over}"
    if kept >= ACHIEVED_SHARE_LEAST:
        return Verdict("good", f"{said}.")
    return Verdict("bad", f"Target missed: {said} ({kept:.1%}). {_limit(summary.run, window)}")


def _limit(run: Run, window: Window) -> str:
    """The likely reason why less was achieved than offered."""
    own = window.generator_share
    if own is not None and own >= BUSY_SHARE:
        return f"The generator used {own:.0%} of a core: it is likely the limit itself; more workers may help."
    cores = run.facts.cores
    share = window.machine_s / (window.cpu_span_s * cores) if window.cpu_span_s and cores else None
    said = f"The generator used {own:.0%} of a core and is not the limit" if own is not None else ""
    if share is not None and share >= BUSY_SHARE:
        return f"{said or 'The limit'}{'; ' if said else ': '}all {cores} cores of this machine were {share:.0%} used."
    return f"{said or 'The generator is not known to be the limit'}: the service, or the way to it, answered no faster."


def _others_verdict(summary: Summary) -> list[Verdict]:
    window, cores = summary.headline, summary.run.facts.cores
    if OTHERS_FROM not in window.cpu_s or not window.cpu_span_s or not cores:
        return []
    others = (window.machine_s - sum(window.cpu_s.values())) / (window.cpu_span_s * cores)
    if others < OTHERS_SHARE:
        return []
    what = "processes that have no part in it, and work of the kernel that it charges to none"
    return [Verdict("plain", f"{others:.0%} of this machine's CPU time went elsewhere: to {what}.")]


def _failure_verdict(window: Window) -> Verdict:
    count, failed = window.requests.count, window.requests.failed
    unsent = f"; {window.moment.unsent:,} that were due were never sent" if window.moment.unsent else ""
    level: Level = "bad" if failed else "good"
    return Verdict(level, f"{failed:,} of {count:,} requests failed{unsent}.")


def _store_verdicts(run: Run) -> list[Verdict]:
    if run.reconciliation is None:
        level: Level = "bad" if run.facts.store else "plain"
        return [Verdict(level, "What was acknowledged was not compared with a store.")]
    found = []
    for what, each in (("", run.reconciliation), (" of the warm-up", run.warm_up)):
        if each is None:
            continue
        bad = wrong(each)
        if torn := how_many(each.get("torn")):
            found.append(
                Verdict("bad", f"{torn:,} journals{what} are not whole: what they do not tell was not compared.")
            )
        if bad:
            said = ", ".join(f"{count:,} {name}" for name, count in bad.items())
            found.append(Verdict("bad", f"The store does not hold what was acknowledged{what}: {said}."))
        elif not what:
            found.append(Verdict("good", f"{_all_there(each)}: 0 lost, phantom, duplicate, corrupt."))
    return found


def _all_there(reconciliation: Mapping[str, Any]) -> str:
    stored, deleted = how_many(reconciliation.get("acknowledged")), how_many(reconciliation.get("deleted"))
    if not deleted:
        return f"All {stored:,} that were acknowledged are in the store"
    gone = f"the {deleted:,} that were deleted are not in the store"
    return f"All {stored:,} that were acknowledged are there, and {gone}" if stored else gone.capitalize()


def _window(name: str, run: Run, moment: Moment, holds: Callable[[int], bool]) -> Window:
    used: dict[str, float] = {}
    there = {each.start_s: each for each in run.moments}
    samples: list[CpuSample] = [each for each in run.cpu if each.start_s in there and holds(each.start_s)]
    for sample in samples:
        for role, cpu_s in sample.cpu_s.items():
            used[role] = used.get(role, 0.0) + cpu_s
    own = [
        [cpu_s for second, cpu_s in each.items() if second in there and holds(second)]
        for each in run.generators.values()
    ]
    shares = [sum(each) / len(each) for each in own if each]
    return Window(
        name=name,
        moment=moment,
        requests=moment.all,
        cpu_s=used,
        cpu_span_s=sum(sample.took_s for sample in samples),
        machine_s=sum(sample.machine_s for sample in samples),
        generator_share=max(shares, default=None),
        cpu_answered=sum(there[second].all.answered for second in {sample.start_s for sample in samples}),
    )
