"""Which journal's which request: in a body as text, in a key and in a message folded into what looks random.

Keys and messages are permutations of (journal, number), so that whoever finds one in a store can tell whose it is
without a table of all that were sent.
"""

from __future__ import annotations

from loadtest.journal.format import CAPACITY_MAX

SEQ_BITS = 34
TOKEN_BITS = 64
TAG_BITS = 40
"""So much of the token is in a key. That two processes of a run share it, one in 10^12, is found when journals are read."""
KEY_BITS = TAG_BITS + SEQ_BITS  # what a UUIDv7 has beside its time
MESSAGE_BITS = 118
"""Of a message's 119: the token, the number, and zeros by which other texts of its length are told apart."""
MESSAGE_LENGTH = 20
ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
MS_MAX = (1 << 48) - 1

_PAIRS = tuple(first + second for first in ALPHABET for second in ALPHABET)
_VALUES = {pair: value for value, pair in enumerate(_PAIRS)}
_FORWARD = (0xD6E8FEB86659FD93A5A3564E27F88655, 0x9E3779B97F4A7C15F39CC0605CEDC835)
"""Odd, so that multiplying by them, modulo a power of two, can be undone."""
_SEQ_MASK = (1 << SEQ_BITS) - 1

if CAPACITY_MAX > 1 << SEQ_BITS:
    raise AssertionError("a journal has more numbers than keys and messages have room for")


def identity(token: int, seq: int) -> str:
    """What a body carries: 16 hexadecimal digits, a hyphen, at least ten decimal ones."""
    return f"{token:016x}-{seq:010d}"


def tag(token: int) -> int:
    """The part of a token that its keys carry."""
    return token >> (TOKEN_BITS - TAG_BITS)


def key(token: int, seq: int, at_ms: int) -> str:
    """The UUIDv7 (RFC 9562) of a keyed usage; ``at_ms`` is in milliseconds since the epoch."""
    mixed = _mix(tag(token) << SEQ_BITS | seq, KEY_BITS)
    number = (at_ms & MS_MAX) << 80 | 7 << 76 | mixed >> 62 << 64 | 2 << 62 | mixed & (1 << 62) - 1
    digits = f"{number:032x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def read_key(text: str) -> tuple[int, int, int] | None:
    """(tag, seq, at_ms) of a key, None for what is no UUIDv7 in lower case. Any other client's gives random numbers."""
    digits = text.replace("-", "")
    if len(text) != 36 or len(digits) != 32 or not set(digits) <= set("0123456789abcdef"):
        return None
    number = int(digits, 16)
    if number >> 76 & 15 != 7 or number >> 62 & 3 != 2:
        return None
    mixed = _unmix((number >> 64 & 0xFFF) << 62 | number & (1 << 62) - 1, KEY_BITS)
    return mixed >> SEQ_BITS, mixed & _SEQ_MASK, number >> 80


def message(token: int, seq: int) -> str:
    """The text of a message: 20 characters of [0-9A-Za-z]."""
    mixed = _mix(token << SEQ_BITS | seq, MESSAGE_BITS)
    pairs = []
    for _ in range(MESSAGE_LENGTH // 2):
        mixed, pair = divmod(mixed, len(_PAIRS))
        pairs.append(_PAIRS[pair])
    return "".join(pairs)


def read_message(text: str) -> tuple[int, int] | None:
    """(token, seq) of a message, None when no journal can have it."""
    if len(text) != MESSAGE_LENGTH:
        return None
    mixed = 0
    for start in range(MESSAGE_LENGTH - 2, -1, -2):
        value = _VALUES.get(text[start : start + 2])
        if value is None:
            return None
        mixed = mixed * len(_PAIRS) + value
    if mixed >> MESSAGE_BITS:
        return None
    number = _unmix(mixed, MESSAGE_BITS)
    if number >> TOKEN_BITS + SEQ_BITS:
        return None
    return number >> SEQ_BITS, number & _SEQ_MASK


def _mix(number: int, bits: int) -> int:
    """A permutation of the numbers of so many (an even number of) bits."""
    mask = (1 << bits) - 1
    half = bits >> 1
    for factor in _FORWARD:
        number = number * factor & mask
        number ^= number >> half
    return number


def _unmix(number: int, bits: int) -> int:
    """What was mixed."""
    mask = (1 << bits) - 1
    half = bits >> 1
    for factor in reversed(_FORWARD):
        number ^= number >> half  # undoes itself, as it shifts by half
        number = number * _inverse(factor, bits) & mask
    return number


_inverses: dict[tuple[int, int], int] = {}


def _inverse(factor: int, bits: int) -> int:
    found = _inverses.get((factor, bits))
    if found is None:
        found = _inverses[factor, bits] = pow(factor, -1, 1 << bits)
    return found
