"""The command-line options of the locustfile; those that a person may change between two tests show in the web UI's form.

The web UI keeps the type of an option's default, so no default that it shows is None.
"""

from __future__ import annotations

import argparse
import math
from typing import Any

SHAPES = {
    "ramp-to-16k": "RampTo16k",
    "burst": "Burst",
    "step": "Step",
    "soak": "Soak",
    "ab-ladder": "AbLadder",
}
"""The shapes by the names that ``--shape`` takes, and their classes, by whose names the web UI lists them."""

USERS = 256
SPAWN_RATE = 100.0
"""Users per second; Locust warns above it."""
STOP_TIMEOUT_S = 5
"""A request in flight when the test stops has so long to be answered, or nobody knows whether it was stored."""


def positive(text: str) -> float:
    """A finite number > 0."""
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return value


def not_negative(text: str) -> float:
    """A finite number ≥ 0."""
    value = float(text)
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is below 0")
    return value


def share(text: str) -> float:
    """A number from 0 to 1."""
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return value


def counted(text: str) -> int:
    """An integer ≥ 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is below 1")
    return value


def levels(text: str) -> list[int]:
    """Numbers of users, as "1,10,100". Raises ValueError when there is none, or one is no integer ≥ 1."""
    found = [int(word) for word in text.split(",") if word.strip()]
    if not found or min(found) < 1:
        raise ValueError(f"--ladder takes numbers of users such as 1,10,100, not {text!r}")
    return found


def ladder(text: str) -> str:
    """The same text, when ``levels`` can read it."""
    try:
        levels(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def add_options(parser: Any) -> None:
    """Add them to Locust's own, and give Locust's the defaults that suit connections rather than people."""
    parser.set_defaults(num_users=USERS, spawn_rate=SPAWN_RATE, stop_timeout=str(STOP_TIMEOUT_S))
    _add_load(parser.add_argument_group("The load (busyapi)"))
    _add_shapes(parser.add_argument_group("Shapes (busyapi)"))
    _add_users(parser.add_argument_group("Requests and records (busyapi)"))


def _add(group: Any, name: str, help_text: str, default: object, *, shown: bool = True, **more: Any) -> None:
    """Add an option; ``shown``: in the web UI's form as well, which Locust offers for options outside of groups alone."""
    if isinstance(default, bool):
        more["action"] = "store_true"
    else:
        more.setdefault("metavar", "N" if isinstance(default, int | float) else None)
        help_text += f" (default {default})" if default != "" else ""
    action = group.add_argument(f"--{name}", default=default, help=help_text, **more)
    action.include_in_web_ui = shown
    action.is_secret = action.is_required = action.is_multiple = False


def _add_load(group: Any) -> None:
    text = "Run one of the shapes, which the web UI then starts; without it the web UI lets you choose one"
    _add(group, "shape", text, "", choices=["", *SHAPES], shown=False)
    text = (
        "Offer so many arrivals per second, over all processes, however slow the answers are (open loop). "
        "0: each user sends its next request when it has its answer (closed loop)"
    )
    _add(group, "rate", text, 0.0, type=not_negative)
    text = "How arrivals are spaced: evenly, or at random like those of independent people"
    _add(group, "arrivals", text, "constant", choices=["constant", "poisson"])
    text = "Arrivals of a process that may wait for an idle user; more are never sent, and counted as such"
    _add(group, "backlog-max", text, 100_000, type=counted, shown=False)


def _add_shapes(group: Any) -> None:
    text = "Highest rate of ramp-to-16k and burst, per second; soak holds half of it unless --rate is given"
    _add(group, "peak", text, 16_000.0, type=positive)
    _add(group, "ramp-s", "ramp-to-16k: seconds from 0 to the peak", 30.0, type=not_negative)
    # Sixty whole seconds of the clock lie within.
    _add(group, "hold-s", "ramp-to-16k: seconds at the peak", 62.0, type=positive)
    _add(group, "bursts", "burst: how many", 6, type=counted)
    _add(group, "idle-s", "burst: quiet seconds before each", 5.0, type=not_negative)
    _add(group, "burst-s", "burst: seconds at the peak, which takes one second to reach", 5.0, type=not_negative)
    _add(group, "step-from", "step: the first rate, per second", 2_000.0, type=positive)
    _add(group, "step-s", "step: seconds of each, at least 5", 15.0, type=positive)
    _add(group, "latency-limit-ms", "step: a p99 above it, in ms, is too slow", 250.0, type=positive)
    _add(group, "failed-limit", "step: a greater share of failures and unsent is too much", 0.001, type=share)
    _add(group, "ladder", "ab-ladder: numbers of users", "1,10,100,1000,10000", type=ladder)
    _add(group, "level-s", "ab-ladder: seconds of each", 15.0, type=positive)


def _add_users(group: Any) -> None:
    _add(group, "timeout-s", "Longest wait for an answer, in seconds", 10.0, type=positive)
    _add(group, "connect-timeout-s", "Longest wait for a connection, in seconds", 5.0, type=positive, shown=False)
    text = "Longest pause, in seconds, of a user that was told to come again later"
    _add(group, "retry-after-max-s", text, 30.0, type=not_negative)
    _add(group, "replays", "KeyedUsageUser: share of requests that repeat an earlier key", 0.1, type=share)
    _add(group, "verify-gone", "MessageUser: share of deleted messages that are asked for once more", 0.1, type=share)
    text = "MessageUser: share of messages that are not deleted, so that a loss of them would show"
    _add(group, "keep-messages", text, 0.0, type=share, shown=False)
    _add(group, "insecure", "https: take any certificate", default=False)
    _add(group, "ca", "https: trust the certificates in this PEM file", "", metavar="FILE", shown=False)
    text = "Write down in this directory what is sent and what became of it, for `python -m loadtest.reconcile`"
    _add(group, "journal", text, "", metavar="DIR", shown=False)
    text = "Have the journal on disk (fsync) before each send, so that it outlives this machine's end as well"
    _add(group, "journal-sync", text, default=False, shown=False)
    text = "Write into this file what happened in each second (the master does, or the only process)"
    _add(group, "timeline", text, "", metavar="FILE", shown=False)
