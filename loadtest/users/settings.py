"""What the command line, or the form of the web UI, says about users; every setting has a default."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

ARRIVALS = ("constant", "poisson")


@dataclasses.dataclass(frozen=True, slots=True)
class UserSettings:
    """Settings of all users of a process; the names are those of the options in ``environment.parsed_options``."""

    journal: Path | None = None
    """Directory of the journals; None keeps none."""
    journal_sync: bool = False
    """Whether what is about to be sent is on disk (fsync) before it is."""
    arrivals: str = "constant"
    """How starts of an open loop are spread: ``constant`` or ``poisson``."""
    backlog_max: int = 100_000
    """Arrivals that may wait for an idle user; more are counted as unsent."""
    timeout_s: float = 10.0
    """Longest wait for an answer, from sending to its last byte."""
    connect_timeout_s: float = 5.0
    """Longest wait for a connection, TLS included."""
    retry_after_max_s: float = 30.0
    """Longest pause of a user that was told to come again later, whatever it was told."""
    replays: float = 0.1
    """Share of keyed usages that repeat an earlier key of this process, 0–1."""
    verify_gone: float = 0.1
    """Share of deleted messages that are asked for once more, which must be a 404, 0–1."""
    keep_messages: float = 0.0
    """Share of messages that are not deleted, 0–1: of one that was, a reconciliation can tell that it is gone, not that it was there."""
    insecure: bool = False
    """Whether any certificate is taken when the host says https."""
    ca: Path | None = None
    """A file of certificates to trust instead of the system's."""


def settings_of(options: object) -> UserSettings:
    """The settings in parsed options; an option that is missing, None or empty has its default.

    Raises ValueError, naming the option, for a value that does not fit.
    """
    values: dict[str, Any] = {}
    for field in dataclasses.fields(UserSettings):
        value = getattr(options, field.name, None)
        if value in (None, ""):
            continue
        try:
            values[field.name] = _READ[field.name](value)
        except (TypeError, ValueError) as error:
            raise ValueError(f"--{field.name.replace('_', '-')}: {error}") from error
    return UserSettings(**values)


def _arrivals(value: Any) -> str:
    if value not in ARRIVALS:
        raise ValueError(f"{value!r} is none of {', '.join(ARRIVALS)}")
    return str(value)


def _above_0(value: Any) -> float:
    number = float(value)
    if not 0 < number < math.inf:
        raise ValueError(f"{number} is not above 0")
    return number


def _not_below_0(value: Any) -> float:
    number = float(value)
    if not 0 <= number < math.inf:
        raise ValueError(f"{number} is below 0")
    return number


def _share(value: Any) -> float:
    number = float(value)
    if not 0 <= number <= 1:
        raise ValueError(f"{number} is not between 0 and 1")
    return number


def _flag(value: Any) -> bool:
    return value.lower() in ("1", "true", "on", "yes") if isinstance(value, str) else bool(value)


_READ: dict[str, Callable[[Any], object]] = {
    "journal": Path,
    "journal_sync": _flag,
    "arrivals": _arrivals,
    "backlog_max": lambda value: int(_above_0(value)),
    "timeout_s": _above_0,
    "connect_timeout_s": _above_0,
    "retry_after_max_s": _not_below_0,
    "replays": _share,
    "verify_gone": _share,
    "keep_messages": _share,
    "insecure": _flag,
    "ca": Path,
}
