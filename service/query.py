"""What stands behind the ? of a request: strict, each parameter once, none that the resource does not know."""

from __future__ import annotations

from collections.abc import Collection
from urllib.parse import parse_qsl

from service.errors import Problem
from service.http import Request, WholeRequest

PARAMETERS_MAX = 16


def parameters(request: Request, known: Collection[str]) -> dict[str, str]:
    """The parameters by name. Raises Problem 400 naming one that is unknown, comes twice or is not UTF-8."""
    raw = b"" if isinstance(request, WholeRequest) else request.scope.get("query_string", b"")
    if not raw:
        return {}
    try:
        pairs = parse_qsl(raw.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=PARAMETERS_MAX)
    except ValueError:
        raise Problem(400, "invalid_parameter", "The query is not readable, or has too many parameters.") from None
    found: dict[str, str] = {}
    for name, value in pairs:
        if name not in known:
            takes = f"it takes {', '.join(sorted(known))}" if known else "it takes none"
            raise Problem(
                400, "unknown_parameter", f"This resource has no parameter {name[:64]!r}; {takes}.", field=name[:64]
            )
        if name in found:
            raise invalid(name, f"{name} comes more than once.")
        found[name] = value
    return found


def whole_number(name: str, text: str, low: int, high: int) -> int:
    """A number of ASCII digits without leading zeros, within bounds. Raises Problem 400 naming the parameter."""
    if not (text.isascii() and text.isdigit() and len(text) <= 16 and text[0] != "0" and low <= int(text) <= high):
        raise invalid(name, f"{name} must be a whole number from {low} to {high}.")
    return int(text)


def invalid(name: str, detail: str) -> Problem:
    """The 400 for a parameter's value."""
    return Problem(400, "invalid_parameter", detail, field=name)
