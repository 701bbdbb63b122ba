from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest

from deploy.cluster import RunningCluster
from tests.chaos.faults import Context, Fault
from tests.chaos.injecting import Injector
from tests.chaos.schedule import Injection

pytestmark = pytest.mark.tools

NOBODY = cast(RunningCluster, None)
"""These faults touch no cluster."""


class Seen:
    """What happened, in order."""

    def __init__(self) -> None:
        self.words: list[str] = []

    def action(self, word: str, seconds: float = 0.0) -> Callable[[Context], None]:
        """Note the word, and take so long."""

        def act(context: Context) -> None:
            self.words.append(word)
            context.pause(seconds)

        return act


def injection(number: int, fault: Fault, *, during: bool = False, length_s: float = 0.0) -> Injection:
    """One that begins as soon as it may."""
    return Injection(number, fault, "web1", length_s, number, during, 0.0, 0.0)


def injector(tmp_path: Path) -> Injector:
    """An injector without a cluster."""
    return Injector(NOBODY, tmp_path, lambda _: None, quick=True, sync=False)


def of(seen: Seen, name: str, takes: str = "", inject_s: float = 0.0) -> Fault:
    """A fault that notes its inject and heal."""
    return Fault(
        name=name,
        place="web",
        does=name,
        inject=seen.action(f"inject {name}", inject_s),
        heal=seen.action(f"heal {name}"),
        after_s=0.0,
        takes=frozenset(takes.split()),
    )


def test_faults_that_may_not_meet_never_do_however_long_they_take(tmp_path: Path):
    """The second was planned during the first, takes the same, and waits for its end."""
    seen = Seen()
    first, second = of(seen, "a", "web", 0.3), of(seen, "b", "web")
    injector(tmp_path).run([injection(1, first), injection(2, second, during=True)], lambda: None)
    assert seen.words == ["inject a", "heal a", "inject b", "heal b"]


def test_faults_that_may_meet_do(tmp_path: Path):
    """The second, of another place, begins while the first lasts."""
    seen = Seen()
    first, second = of(seen, "a", "web"), of(seen, "b", "cassandra")
    running = injector(tmp_path)
    running.run([injection(1, first, length_s=1.0), injection(2, second, during=True)], lambda: None)
    # Each has a thread of its own, so which of the two comes first is nobody's promise.
    assert sorted(seen.words[:2]) == ["inject a", "inject b"]
    assert seen.words[2:] == ["heal b", "heal a"]
    one, other = sorted(running.events, key=lambda event: event.fault.name)
    assert one.began_unix_s <= other.healed_unix_s <= one.healed_unix_s


def test_a_fault_that_could_not_be_injected_is_healed_and_told(tmp_path: Path):
    """And those after it go on."""
    seen = Seen()

    def fail(_context: Context) -> None:
        raise RuntimeError("no such process")

    broken = Fault(name="broken", place="web", does="x", inject=fail, heal=seen.action("heal broken"), after_s=0.0)
    running = injector(tmp_path)
    running.run([injection(1, broken), injection(2, of(seen, "a"))], lambda: None)
    assert seen.words == ["heal broken", "inject a", "heal a"]
    assert running.events[0].error == "inject: RuntimeError: no such process"
    assert running.events[1].error == ""


def test_ctrl_c_heals_what_was_injected_and_begins_nothing_more(tmp_path: Path):
    """A long fault returns early, is healed, and its event says that it was interrupted."""
    seen = Seen()
    pressed_s = time.monotonic() + 0.5

    def tick() -> None:
        if time.monotonic() > pressed_s:
            raise KeyboardInterrupt

    running = injector(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        running.run([injection(1, of(seen, "a"), length_s=60.0), injection(2, of(seen, "b"))], tick)
    assert seen.words == ["inject a", "heal a"]
    assert [event.interrupted for event in running.events] == [True]
    assert not [thread for thread in threading.enumerate() if " a " in thread.name]


def test_the_same_seed_draws_the_same_within_a_fault(tmp_path: Path):
    """Whatever a fault draws comes from the schedule."""
    drawn: list[float] = []
    fault = Fault(name="a", place="web", does="a", inject=lambda each: drawn.append(each.random.random()), after_s=0.0)
    injector(tmp_path / "one").run([injection(1, fault)], lambda: None)
    injector(tmp_path / "two").run([injection(1, fault)], lambda: None)
    assert drawn[0] == drawn[1]
