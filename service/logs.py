"""Structured logs: JSON lines, or the same fields readable on a terminal.

A line carries ``fields`` (passed as ``extra={"fields": {...}}``) beside its message.
Bodies of requests never appear in them.
"""

from __future__ import annotations

import logging
import sys
from datetime import UTC, datetime
from typing import Any

import msgspec

TEXT_MAX = 500
"""Longest single value in a line: what a client sends can not make a line long."""


def set_up_logs(log_format: str, level: str) -> None:
    """Send every logger's lines to standard error in one format."""
    as_text = log_format == "text" or (log_format == "auto" and sys.stderr.isatty())
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(TextFormatter() if as_text else JsonFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    # The driver reports each lost connection at length, with tracebacks; the store says the same in a line.
    logging.getLogger("cassandra").setLevel(logging.CRITICAL)
    logging.getLogger("uvicorn.error").setLevel(max(logging.WARNING, root.level))
    logging.getLogger("asyncio").setLevel(max(logging.WARNING, root.level))


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, then the fields."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _clip(record.getMessage()),
        }
        line.update(_fields(record))
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return msgspec.json.encode(line).decode("utf-8", "replace")


class TextFormatter(logging.Formatter):
    """For eyes: clock, level, message, key=value."""

    def format(self, record: logging.LogRecord) -> str:
        clock = datetime.fromtimestamp(record.created, UTC).astimezone().strftime("%H:%M:%S")
        fields = " ".join(f"{name}={value!r}" for name, value in _fields(record).items())
        text = f"{clock} {record.levelname.lower():7} {_clip(record.getMessage())} {fields}".rstrip()
        return f"{text}\n{self.formatException(record.exc_info)}" if record.exc_info else text


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    fields: dict[str, Any] = getattr(record, "fields", {})
    return {name: _clip(value) if isinstance(value, str) else value for name, value in fields.items()}


def _clip(text: str) -> str:
    text = text if len(text) <= TEXT_MAX else f"{text[:TEXT_MAX]}… ({len(text)} characters)"
    return text.encode("utf-8", "backslashreplace").decode()
