"""Lines of files as what the batch endpoint takes: NDJSON or CSV in, envelopes out. Nothing here waits for the network."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, TypeAlias

import msgspec

from service.transfer.errors import GaveUp, WrongUse
from service.transfer.exporting import read_row
from service.transfer.keys import Keys, key_of_row

READ_BYTES = 1 << 18
LINE_BYTES_MAX = 9 << 20
"""Longest line that is sent: above the largest setting of a usage's bytes, which the service judges itself."""
BATCH_LINES = 500
BATCH_BYTES = 1 << 20
"""What is handed on at a time; a single line may be longer."""
ID_DIGITS_MAX = 16
BOM = b"\xef\xbb\xbf"
BLANK = b" \t\r"

_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a file, and what is sent for it (with its newline)."""

    file: str
    number: int
    wire: bytes


@dataclass(frozen=True, slots=True)
class Refused:
    """A line that was not stored, and why."""

    file: str
    number: int
    code: str
    detail: str
    field: str | None = None


Item: TypeAlias = Line | Refused
Numbered: TypeAlias = tuple[int, bytes | None]
"""A line's number and its bytes without the newline; None for one that is too long to be held."""


def numbered_lines(file: BinaryIO, read: Callable[[int], object]) -> Iterator[list[Numbered]]:
    """The file's lines, as many at a time as one read brings. ``read`` is told of the bytes that were read."""
    number, rest, too_long = 0, b"", False
    while block := file.read1(READ_BYTES):  # type: ignore[attr-defined]  # a BufferedReader has it
        read(len(block))
        if not number and not rest and not too_long:
            block = block.removeprefix(BOM)
        first, *others = block.split(b"\n")
        lines: list[Numbered] = []
        for part in others:
            number += 1
            lines.append((number, None if too_long or len(rest) + len(first) > LINE_BYTES_MAX else rest + first))
            rest, first, too_long = b"", part, False
        rest += first
        if len(rest) > LINE_BYTES_MAX:
            rest, too_long = b"", True
        if lines:
            yield lines
    if rest or too_long:
        yield [(number + 1, None if too_long else rest)]


class NdjsonReader:
    """One JSON object a line. Empty lines are skipped, and count as lines."""

    def __init__(self, file: str, keys: Keys, *, exported: bool = False) -> None:
        self._file = file
        self._keys = keys
        self._exported = exported

    def batches(self, lines: Iterable[Sequence[Numbered]]) -> Iterator[list[Item]]:
        """What is sent for the lines, or why one is not."""
        for group in lines:
            items = [item for number, text in group if (item := self.item(number, text)) is not None]
            for start in range(0, len(items), BATCH_LINES):
                yield items[start : start + BATCH_LINES]

    def item(self, number: int, text: bytes | None) -> Item | None:
        """One line. A usage gets a key; an object that brings ``idempotency_key`` goes as it is, and keeps its own."""
        if text is None:
            return too_long(self._file, number)
        text = text.strip(BLANK)
        if not text:
            return None
        members = members_of(text)
        if isinstance(members, tuple):
            return Refused(self._file, number, *members)
        if self._exported:
            return self._from_export(number, text)
        if "idempotency_key" in members:
            return Line(self._file, number, text + b"\n")
        return Line(self._file, number, envelope(self._keys.key(number, text), text))

    def _from_export(self, number: int, text: bytes) -> Item:
        """A line that ``export`` wrote: the usage under the key that it had, or one of its id and time."""
        try:
            row = read_row(text)
        except GaveUp:
            detail = "The line has no id, received_at and usage, so no export wrote it."
            return Refused(self._file, number, "not_exported", detail)
        usage = bytes(row.usage)
        if isinstance(reason := members_of(usage), tuple):
            return Refused(self._file, number, *reason)
        key = row.id if isinstance(row.id, str) else key_of_row(row.id, row.received_at)
        return Line(self._file, number, envelope(key, usage))


class CsvReader:
    """A header row, then a row for each usage: a cell is a string under its column's name, an empty one is left out.

    A column ``idempotency_key`` is the row's key. Of an export's columns the usage and the id are taken.
    """

    def __init__(self, file: str, keys: Keys, *, exported: bool = False) -> None:
        self._file = file
        self._keys = keys
        self._exported = exported
        self._taken: list[bytes] = []
        self._first = 0

    def batches(self, lines: Iterable[Sequence[Numbered]]) -> Iterator[list[Item]]:
        """What is sent for the rows, or why one is not. Raises WrongUse when the header row cannot be used."""
        csv.field_size_limit(LINE_BYTES_MAX)
        rows = csv.reader(self._feed(lines), strict=True)
        header: list[str] | None = None
        items: list[Item] = []
        size = 0
        while True:
            size += sum(map(len, self._taken))
            self._taken.clear()
            try:
                row = next(rows)
            except StopIteration:
                break
            except (csv.Error, UnicodeDecodeError, _TooLong) as error:
                if header is None:
                    raise WrongUse(f"{self._file}: the header row is no CSV: {error}") from None
                items.append(self._malformed(error))
            else:
                if header is None:
                    header = self._checked(row)
                elif row:
                    items.append(self._item(header, row))
            if len(items) >= BATCH_LINES or size >= BATCH_BYTES:
                yield items
                items, size = [], 0
        yield items

    def _feed(self, lines: Iterable[Sequence[Numbered]]) -> Iterator[str]:
        """Lines for the csv module, with note of which it has taken for a row."""
        return _Feed(self._note, (line for group in lines for line in group))

    def _note(self, number: int, text: bytes) -> None:
        if not self._taken:
            self._first = number
        self._taken.append(text)

    def _checked(self, header: list[str]) -> list[str]:
        names = [name.strip() for name in header]
        if not all(names) or len(set(names)) < len(names):
            raise WrongUse(f"{self._file}: the header row has an empty name, or one twice")
        if self._exported and not {"id", "received_at", "usage"} <= set(names):
            raise WrongUse(f"{self._file}: an export has the columns id, received_at and usage")
        return names

    def _item(self, header: list[str], row: list[str]) -> Item:
        if len(row) != len(header):
            detail = f"The row has {len(row)} cells and the header {len(header)}."
            return Refused(self._file, self._first, "csv_columns", detail)
        cells = {name: cell for name, cell in zip(header, row, strict=True) if cell}
        if self._exported:
            text = cells.get("usage", "").replace("\n", " ").replace("\r", " ").encode()
            if isinstance(reason := members_of(text), tuple):
                return Refused(self._file, self._first, *reason)
            key = key_of_cells(cells.get("id", ""), cells.get("received_at", ""))
            if key is None:
                detail = "The row has no id and received_at, so no export wrote it."
                return Refused(self._file, self._first, "not_exported", detail)
            return Line(self._file, self._first, envelope(key, text))
        key = cells.pop("idempotency_key", "") or self._keys.key(self._first, b"\n".join(self._taken))
        usage = json.dumps(cells, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")
        return Line(self._file, self._first, envelope(key, usage))

    def _malformed(self, error: Exception) -> Refused:
        if isinstance(error, _TooLong):
            return too_long(self._file, self._first if self._taken else error.number)
        until = self._first + len(self._taken) - 1
        where = f" (it goes on to line {until})" if until > self._first else ""
        return Refused(self._file, self._first, "invalid_csv", f"The row is no CSV: {error}{where}.")


class _TooLong(Exception):
    def __init__(self, number: int) -> None:
        super().__init__("a line is too long")
        self.number = number


class _Feed:
    """An iterator that goes on behind a line that it raised for, which a generator does not."""

    def __init__(self, note: Callable[[int, bytes], object], lines: Iterator[Numbered]) -> None:
        self._note = note
        self._lines = lines

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        number, text = next(self._lines)
        if text is None:
            raise _TooLong(number)
        self._note(number, text)
        return text.decode("utf-8") + "\n"


def cell_of_id(id_: int | str) -> str:
    """An id as a CSV cell. A key that could be taken for a number, or for one of these, is written as JSON."""
    return json.dumps(id_) if isinstance(id_, str) and (id_.isdecimal() or id_.startswith('"')) else str(id_)


def key_of_cells(cell: str, received_at: str) -> str | None:
    """The key that such a cell holds, or that of a number and its time; None for what no export writes."""
    if cell.isdecimal():
        return key_of_row(int(cell), received_at) if received_at and len(cell) <= ID_DIGITS_MAX else None
    if not cell.startswith('"'):
        return cell or None
    try:
        return str(json.loads(cell))
    except ValueError:
        return None


def envelope(key: str, usage: bytes) -> bytes:
    """A usage with its key, as one line."""
    return b'{"idempotency_key": %b, "usage": %b}\n' % (msgspec.json.encode(key), usage)


def members_of(text: bytes) -> Mapping[str, Any] | tuple[str, str]:
    """The members of a JSON object by name, however unusual they are; code and detail when this is none."""
    try:
        return _members(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass  # it may be JSON all the same: a lone surrogate, a number beyond a float
    try:
        value = json.loads(text.decode("utf-8"), parse_int=len)
    except (ValueError, RecursionError):
        return "invalid_json", "The line is not valid JSON."
    return value if type(value) is dict else ("not_an_object", "The line is JSON, but not an object.")


def too_long(file: str, number: int) -> Refused:
    """A line beyond what is sent at all."""
    return Refused(file, number, "body_too_large", f"The line is longer than {LINE_BYTES_MAX} bytes.")
