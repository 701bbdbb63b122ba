"""The items of a batch: usages, usages under keys of their own, and what is neither. Pure.

A batch is cut into slices, in order: what is to be stored of a slice goes to the store together.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import logging
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import msgspec

from service import parsing
from service.batch_results import Counts, invalid
from service.errors import Problem
from service.store import KeyedUsage

log = logging.getLogger(__name__)

KEY, USAGE = "idempotency_key", "usage"
ENVELOPE_BYTES_MAX = 4096
"""What an item may hold beside its usage: a key, of which each character may be six bytes in JSON, names, white space."""
NAME_LENGTH_MAX = 64
"""Characters of a client's own field name that an answer repeats."""
SLICE_ITEMS_MAX = 256
"""Items of one slice: about a millisecond of the loop's time, after which others have their turn."""
SLICE_BYTES_MAX = 1 << 19
"""Bytes of one slice, its last item aside."""
ITEM_OVERHEAD_BYTES = 1024
"""What an item is taken to cost beside its text, so that a million tiny ones are not taken for nothing."""
COMMAS_AT_ONCE = 200_000
"""With no more commas than this, an array is decoded without counting its items first: they fit in some 12 MB."""


class _Envelope(msgspec.Struct, forbid_unknown_fields=True):
    idempotency_key: str
    usage: msgspec.Raw


_envelope = msgspec.json.Decoder(_Envelope).decode
_array = msgspec.json.Decoder(list[msgspec.Raw]).decode
_begins = re.compile(rb"[ \t\r\n]*\[").match
_separator = re.compile(rb"[ \t\r\n,]*").match
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F][0-9a-fA-F]{2}")
_LETTER = rb"\\u0041"


@functools.cache
def _bounded(items_max: int) -> Callable[[bytes], list[msgspec.Raw]]:
    """As ``_array``, but it ends at the first item too many: of millions a list would be fifty times the body.

    A list's length is checked once it is whole, an array-like struct's with each item.
    """
    fields = [(f"f{number}", msgspec.Raw, msgspec.Raw()) for number in range(items_max)]
    items = msgspec.defstruct("_Items", fields, array_like=True, forbid_unknown_fields=True, gc=False)
    decode = msgspec.json.Decoder(items).decode
    return lambda body: [item for item in msgspec.structs.astuple(decode(body)) if item]


class Slice:
    """Some items in a row: what is to be stored of them, and what is known of each.

    ``tails`` has the members of each item's result as JSON, empty until the store has answered. ``numbers`` are the
    lines that the items stood on; an array has none. ``size`` is in bytes, ITEM_OVERHEAD_BYTES for each item included.
    """

    __slots__ = (
        "counts",
        "errors",
        "keyed",
        "keyed_at",
        "numbers",
        "plain",
        "plain_at",
        "size",
        "tails",
        "waiting",
    )

    def __init__(self) -> None:
        self.numbers: list[int] = []
        self.tails: list[bytes] = []
        self.plain: list[bytes] = []
        self.plain_at: list[int] = []
        self.keyed: list[KeyedUsage] = []
        self.keyed_at: list[int] = []
        self.errors: list[tuple[int, Problem]] = []
        self.size = 0
        self.counts = Counts()
        self.waiting: list[asyncio.Future[Any]] = []

    def __len__(self) -> int:
        return len(self.tails)


def array(body: bytes, items_max: int) -> Iterator[bytes]:
    """The items of a JSON array, as their own bytes. Raises Problem 400, or 413 when there are more than ``items_max``."""
    try:
        return map(bytes, _items(body, items_max))
    except msgspec.ValidationError:
        if _begins(body):
            raise too_many(items_max) from None
        raise Problem(400, "not_an_array", "The body is JSON, but not an array.") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        lenient = _SURROGATE.sub(_LETTER, body)
        if lenient == body:
            raise Problem(400, "invalid_json", "The body is not a valid JSON array. Nothing was stored.") from None
    # The decoder takes no lone surrogates, which the single POST does, so it is shown letters in their place.
    return _at_their_places(array(lenient, items_max), lenient, body)


def _items(body: bytes, items_max: int) -> list[msgspec.Raw]:
    decode = _array if body.count(b",") <= COMMAS_AT_ONCE else _bounded(items_max)
    items = decode(body)
    if len(items) > items_max:
        raise too_many(items_max)
    return items


def _at_their_places(items: Iterable[bytes], lenient: bytes, body: bytes) -> Iterator[bytes]:
    """What stands in ``body`` where the items stand in ``lenient``, which is as long."""
    at = lenient.index(b"[") + 1
    for item in items:
        separator = _separator(lenient, at)
        at = separator.end() if separator else at
        yield body[at : at + len(item)]
        at += len(item)


def too_many(items_max: int) -> Problem:
    """The 413 for a batch that is held whole and has too many items."""
    return Problem(413, "batch_too_long", f"The batch has more than {items_max} items. Nothing was stored.")


def cut(
    items: Iterable[bytes], usage_bytes_max: int, bytes_max: int, numbers: Iterator[int] | None = None
) -> Iterator[Slice]:
    """Slices of the items, in order. With ``numbers``, which has one for each, the items are lines: empty ones count for nothing."""
    slice_ = Slice()
    for item in items:
        text = item
        if numbers is not None:
            number = next(numbers)
            text = item.strip(b" \t\r")
            if not text:
                continue
            slice_.numbers.append(number)
        _take(slice_, text, usage_bytes_max)
        if len(slice_) >= SLICE_ITEMS_MAX or slice_.size >= bytes_max:
            yield slice_
            slice_ = Slice()
    if len(slice_):
        yield slice_


def _take(slice_: Slice, item: bytes, usage_bytes_max: int) -> None:
    at = len(slice_.tails)
    slice_.size += len(item) + ITEM_OVERHEAD_BYTES
    try:
        usage = read_item(item, usage_bytes_max)
    except Exception as error:
        # One item's trouble must not take the others along: some of them may be stored already.
        if isinstance(error, Problem):
            problem = error
        else:
            log.exception("a bug")
            problem = Problem(500, "internal_error", "The service failed at this item. It was not stored.")
        slice_.tails.append(invalid(problem))
        slice_.counts.invalid += 1
        slice_.errors.append((at, problem))
        return
    slice_.tails.append(b"")
    if isinstance(usage, KeyedUsage):
        slice_.keyed.append(usage)
        slice_.keyed_at.append(at)
    else:
        slice_.plain.append(usage)
        slice_.plain_at.append(at)


def read_item(item: bytes, usage_bytes_max: int) -> bytes | KeyedUsage:
    """The usage that an item is, or the one that it brings along with a key. Raises Problem naming what is wrong."""
    if len(item) > usage_bytes_max + ENVELOPE_BYTES_MAX:
        raise _too_large(usage_bytes_max)
    try:
        document = parsing.check_usage(item)
    except Problem:
        # A usage with a wrong field; or an envelope with one too many, which is better said by its own words.
        document = parsing.json_object(item)
        if KEY not in document:
            raise
    if KEY in document:
        return _enveloped(item, document, usage_bytes_max)
    if len(item) > usage_bytes_max:
        raise _too_large(usage_bytes_max)
    return item


def _enveloped(item: bytes, document: dict[str, Any], usage_bytes_max: int) -> KeyedUsage:
    for name in document:
        if name not in (KEY, USAGE):
            raise Problem(
                422,
                "invalid_field",
                f"An item with an {KEY} has its {USAGE} beside it and nothing else.",
                field=_shown(name),
            )
    if USAGE not in document:
        raise Problem(422, "invalid_field", f"There is no {USAGE} beside the {KEY}.", field=USAGE)
    key = document[KEY]
    encoded = key.encode("utf-8", "surrogatepass") if type(key) is str else b""
    if not parsing.is_idempotency_key(encoded):
        raise Problem(
            422,
            "idempotency_key_invalid",
            f"An {KEY} is a string of 1 to {parsing.KEY_LENGTH_MAX} visible ASCII characters, neither '.' nor '..'.",
            field=KEY,
        )
    usage = _usage_of(item)
    if len(usage) > usage_bytes_max:
        raise _too_large(usage_bytes_max)
    if type(document[USAGE]) is not dict:
        raise Problem(400, "not_an_object", f"The {USAGE} is not an object.", field=USAGE)
    parsing.check_usage(usage)
    return KeyedUsage(key, hashlib.sha256(usage).digest(), usage)


def _usage_of(envelope: bytes) -> bytes:
    """The client's own bytes of the usage in an envelope that was found to have one."""
    try:
        try:
            return bytes(_envelope(envelope).usage)
        except (msgspec.DecodeError, UnicodeDecodeError):
            # Lone surrogates, as in an array. Of two members of one name the last counts, which here is the last such text.
            lenient = _SURROGATE.sub(_LETTER, envelope)
            usage = bytes(_envelope(lenient).usage)
            at = lenient.rindex(usage)
            return envelope[at : at + len(usage)]
    except RecursionError:
        # A little deeper than what the checks before this one followed.
        raise Problem(400, "invalid_json", f"The {USAGE} is nested too deeply.", field=USAGE) from None


def _too_large(usage_bytes_max: int) -> Problem:
    return Problem(413, "body_too_large", f"The usage is larger than {usage_bytes_max} bytes.")


def _shown(name: str) -> str:
    """A name that a client made up, as an answer may repeat it: not endless, and without lone surrogates."""
    return name[:NAME_LENGTH_MAX].encode("utf-8", "replace").decode()
