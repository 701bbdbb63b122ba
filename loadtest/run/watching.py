"""What is said while the load runs: the last whole second of the timeline that Locust writes every few seconds."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from loadtest.timeline import percentile

FILE_BYTES_MAX = 32 * 1024 * 1024
"""A longer timeline is not read again and again for a line on the terminal."""


class Watch:
    """Reads the timeline again when it was written anew."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._seen: tuple[int, int] | None = None
        self._line = ""

    def line(self) -> str:
        """The newest figures in words; empty while there are none."""
        with contextlib.suppress(OSError, ValueError):
            found = self._file.stat()
            version = (found.st_mtime_ns, found.st_size)
            if version != self._seen and found.st_size <= FILE_BYTES_MAX:
                self._seen = version
                self._line = said(json.loads(self._file.read_bytes()))
        return self._line


def said(timeline: Mapping[str, Any]) -> str:
    """The last second that is over, and the failures so far."""
    seconds = timeline.get("seconds", {})
    over = sorted(seconds, key=int)[-2:-1]
    if not over:
        return ""
    second = seconds[over[0]]
    latency: dict[int, int] = {}
    answered = 0
    for requests in second["requests"].values():
        answered += requests["count"] - sum(requests["errors"].values())
        for bucket, count in requests["latency"].items():
            latency[int(bucket)] = latency.get(int(bucket), 0) + count
    failed = sum(
        count
        for each in seconds.values()
        for requests in each["requests"].values()
        for count in requests["errors"].values()
    )
    p99_us = percentile(latency, 99)
    parts = [f"{second['offered']:,}/s offered"] if second["offered"] else []
    parts.append(f"{answered:,}/s answered")
    parts += [f"p99 {p99_us / 1000:,.1f} ms"] if p99_us is not None else []
    return ", ".join([*parts, f"{failed:,} failed"])
