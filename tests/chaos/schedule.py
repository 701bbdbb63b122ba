"""Which fault happens when, to whom and for how long: a function of a seed, and of what there is to choose from. Pure."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tests.chaos.faults import Failures, Fault

FIRST_S = 3.0
"""The load runs undisturbed so long, so that the verdict has something to compare with."""
GAP_S = (0.5, 2.5)
"""Between the after-effects of one and the next, least and most."""
OVERLAP_SHARE = 0.5
"""Of those that may happen during another one, so many do."""


@dataclass(frozen=True, slots=True)
class Injection:
    """One fault as planned.

    It begins ``delay_s`` after the one before it began (``during``), or after the after-effects of all before are over.
    ``at_s`` is when that will be, in seconds from the start of the load, if everything takes as long as is planned for.
    """

    number: int
    fault: Fault
    target: str
    length_s: float
    seed: int
    during: bool
    delay_s: float
    at_s: float

    @property
    def ends_s(self) -> float:
        """When its after-effects are over, if everything takes as long as is planned for."""
        return self.at_s + self.fault.lasts_s + self.length_s + self.fault.after_s

    def __str__(self) -> str:
        words = [f"{self.at_s:7.1f} s  {self.fault.name}"]
        words += [self.target] if self.target else []
        words += [f"for {self.length_s:.1f} s"] if self.length_s else []
        return " ".join(words)


def may_overlap(one: Fault, other: Fault) -> bool:
    """Whether what both promise still holds when they happen at once.

    They must take different things: a killed web instance while Cassandra stands still is wanted, two Cassandra nodes down
    is another fault than one. One that promises more than another could leave of it, as that no request fails, or that every
    one is refused, overlaps with none.
    """
    if _is_strict(one) or _is_strict(other):
        return False
    return bool(one.takes) and bool(other.takes) and not one.takes & other.takes


def _is_strict(fault: Fault) -> bool:
    sees = fault.sees
    return sees.failures is Failures.NONE or sees.only != 0


def problems(faults: Iterable[Fault]) -> list[str]:
    """What is wrong with a set of faults, in words: two of one name, or a length that is none."""
    found, names = [], set[str]()
    for fault in faults:
        if fault.name in names:
            found.append(f"there are two faults {fault.name}")
        names.add(fault.name)
        if not 0 <= fault.length_s[0] <= fault.length_s[1]:
            found.append(f"{fault.name} has a length from {fault.length_s[0]} to {fault.length_s[1]} s")
    return found


def schedule(seed: int, faults: Sequence[Fault], processes: Sequence[str], seconds: float) -> tuple[Injection, ...]:
    """A schedule of about so many seconds, in which every fault comes once before any comes again.

    When the faults need more time than there is, each comes once all the same. Raises ValueError when one has no target
    among the processes.
    """
    draw = random.Random(seed)
    for fault in faults:
        if not _targets(fault, processes):
            raise ValueError(f"{fault.name} has no target among {', '.join(processes)}")
    found: list[Injection] = []
    to_come = list(faults)
    draw.shuffle(to_come)
    while to_come or (faults and _end(found) < seconds):
        fault = to_come.pop() if to_come else draw.choices(faults, [fault.weight for fault in faults])[0]
        found.append(_placed(fault, found, processes, draw))
        if not to_come and _end(found) > seconds and len(found) > len(faults):
            found.pop()
            break
    return tuple(found)


def _placed(fault: Fault, before: Sequence[Injection], processes: Sequence[str], draw: random.Random) -> Injection:
    """The next injection: after those before it, or while the last of them lasts."""
    target = draw.choice(_targets(fault, processes))
    length_s = round(draw.uniform(*fault.length_s), 3)
    gap_s = draw.uniform(*GAP_S)
    wanted, share, seed = draw.random() < OVERLAP_SHARE, draw.random(), draw.getrandbits(32)
    during, delay_s, at_s = False, FIRST_S, FIRST_S
    if before:
        last = before[-1]
        running = [other for other in before if other.ends_s > last.at_s]
        during = wanted and all(may_overlap(fault, other.fault) for other in running)
        delay_s = share * (last.fault.lasts_s + last.length_s) if during else gap_s
        at_s = delay_s + (last.at_s if during else _end(before))
    number = len(before) + 1
    return Injection(number, fault, target, length_s, seed, during, round(delay_s, 3), round(at_s, 3))


def _targets(fault: Fault, processes: Sequence[str]) -> Sequence[str]:
    """Those that it may be drawn from."""
    return [""] if fault.targets is None else fault.targets(processes)


def _end(injections: Sequence[Injection]) -> float:
    return max((injection.ends_s for injection in injections), default=0.0)
