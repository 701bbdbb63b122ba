"""What a benchmark learns of a server that it is to compare with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]

Say = Callable[[str], None]
"""Takes one line about what is being done."""


class Missing(Exception):
    """The server cannot be had on this machine, with the reason in one line. Nothing was left behind."""


class DidNotStart(Exception):
    """A server that is there ended or was not ready in time, with the end of its log."""


@dataclass(frozen=True)
class Subject:
    """A server that is running and ready, on 127.0.0.1."""

    name: str
    """For the table: what it is, its version, where it keeps usages."""
    port: int
    pids: Mapping[str, Sequence[int]]
    """Role to the processes started in it; their children count too."""
    path: str = "/api/usages"
    body: bytes | None = None
    """What to post; None is the usual usage."""
    request_status: int = 201
    """The status of a success."""
    count: Callable[[], int] | None = None
    """How many usages its store has now, where it has a store. May take seconds."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Program or package to the version that runs."""
