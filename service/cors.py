"""Cross-origin requests (the Fetch standard's CORS protocol): off unless ``cors_origins`` names origins."""

from __future__ import annotations

from service.errors import Problem
from service.http import Header, Response

METHODS = b"GET, HEAD, POST, DELETE"
REQUEST_HEADERS = b"content-type, idempotency-key, if-none-match, x-request-id"
EXPOSED_HEADERS = b"location, x-request-id, retry-after, etag, repr-digest"
MAX_AGE_S = 600

VARY: Header = (b"vary", b"origin")


def is_preflight(method: str, headers: dict[bytes, bytes]) -> bool:
    """Whether a browser asks for permission ahead of its request."""
    return method == "OPTIONS" and b"origin" in headers and b"access-control-request-method" in headers


def preflight(origins: tuple[str, ...], headers: dict[bytes, bytes]) -> Response:
    """The permission. Raises Problem 403 for an origin that has none."""
    if not _allowed(origins, headers[b"origin"]):
        raise Problem(403, "origin_not_allowed", "Requests from this origin are not allowed.", field="Origin")
    return Response(
        204,
        b"",
        [
            (b"access-control-allow-methods", METHODS),
            (b"access-control-allow-headers", REQUEST_HEADERS),
            (b"access-control-max-age", b"%d" % MAX_AGE_S),
        ],
    )


def answer_headers(origins: tuple[str, ...], headers: dict[bytes, bytes]) -> list[Header]:
    """What every answer carries, errors too, so that a script of an allowed origin may read it."""
    origin = headers.get(b"origin")
    if origin is None or not _allowed(origins, origin):
        return [VARY]
    return [VARY, (b"access-control-allow-origin", origin), (b"access-control-expose-headers", EXPOSED_HEADERS)]


def _allowed(origins: tuple[str, ...], origin: bytes) -> bool:
    return "*" in origins or origin.decode("latin-1") in origins
