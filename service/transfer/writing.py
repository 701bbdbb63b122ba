"""The file of an export: written beside its place, and put there once it is whole and on disk."""

from __future__ import annotations

import csv
import io
import json
import os
import secrets
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from service.transfer.errors import GaveUp, WrongUse
from service.transfer.exporting import Row
from service.transfer.reading import cell_of_id

COLUMNS = ("id", "received_at", "patientId", "timestamp", "medication", "usage")
"""Of a CSV: the fields that are known, as cells, and the whole usage as its own text."""


class Output:
    """A file that appears under its name by :meth:`commit` alone. ``None`` writes to ``stdout`` as it comes."""

    def __init__(self, path: Path | None, stdout: BinaryIO) -> None:
        self._path = path
        self._temporary: Path | None = None
        self._file = stdout
        if path is not None:
            self._temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
            try:
                self._file = self._temporary.open("xb")
            except OSError as error:
                raise WrongUse(f"{path}: {error.strerror}") from None

    def write(self, data: bytes) -> None:
        """Append. Raises GaveUp when the disk takes no more, or nobody reads."""
        try:
            self._file.write(data)
        except OSError as error:
            raise GaveUp(f"{self._path or 'standard output'}: {error.strerror}") from None

    def commit(self) -> None:
        """All is written: on disk, and under its name. Raises GaveUp."""
        try:
            self._file.flush()
            if self._temporary is not None and self._path is not None:
                os.fsync(self._file.fileno())
                self._file.close()
                self._temporary.replace(self._path)
                self._temporary = None
                _sync_directory(self._path.parent)
        except OSError as error:
            raise GaveUp(f"{self._path or 'standard output'}: {error.strerror}") from None

    def discard(self) -> None:
        """Leave nothing behind of what was not committed."""
        if self._temporary is not None:
            with suppress(OSError):
                self._file.close()
            with suppress(OSError):
                self._temporary.unlink()


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def ndjson(write: Callable[[bytes], None]) -> Callable[[Row, bytes], None]:
    """Rows as the service lists them, one JSON object a line."""
    return lambda _, line: write(line + b"\n")


def csv_rows(write: Callable[[bytes], None]) -> Callable[[Row, bytes], None]:
    """Rows as CSV (RFC 4180, UTF-8), behind a header row."""
    text = io.StringIO()
    writer = csv.writer(text)

    def put(cells: list[str]) -> None:
        writer.writerow(cells)
        write(text.getvalue().encode("utf-8", "backslashreplace"))
        text.seek(0)
        text.truncate()

    put([*COLUMNS])

    def write_row(row: Row, _: bytes) -> None:
        usage = bytes(row.usage).decode()
        fields = _fields(usage)
        known = [_cell(fields.get(name)) for name in COLUMNS[2:5]]
        put([cell_of_id(row.id), row.received_at, *known, usage])

    return write_row


def _fields(usage: str) -> Mapping[str, Any]:
    try:
        value = json.loads(usage, parse_int=str, parse_float=str)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _cell(value: Any) -> str:
    """A field's value; a number as its own text."""
    return value if isinstance(value, str) else "" if value is None else json.dumps(value)
