"""Messages: stored under the sha256 of their UTF-8 bytes, read and removed by it."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
from collections.abc import Callable

import msgspec

from service import parsing
from service.errors import Problem
from service.group_commit import GroupCommit, Limits
from service.http import JSON, Header, Request, Response
from service.store import Store

Observe = Callable[[str, int, float], None]

JSON_PER_UTF8 = 6
"""A byte of the message may be six in the body: an escaped control character is one byte in UTF-8."""
READ_GROUP_SIZE_MAX = 64
"""Messages of one read: what it brings is not known before, and may be message_bytes_max each."""
ENVELOPE_BYTES_MAX = 65536
"""What else a message's body may hold: the field's name, white space, fields that are ignored."""


class Messages:
    """The handlers for messages, with the group commits that they feed."""

    def __init__(
        self, store: Store, limits: Limits, message_bytes_max: int, cache_control: str, observe: Observe
    ) -> None:
        self._bytes_max = message_bytes_max
        self._body_bytes_max = message_bytes_max * JSON_PER_UTF8 + ENVELOPE_BYTES_MAX
        self._cache_control: Header = (b"cache-control", cache_control.encode())
        self._puts = GroupCommit("messages", store.put_messages, limits, observe)
        reads = dataclasses.replace(limits, group_size_max=min(limits.group_size_max, READ_GROUP_SIZE_MAX))
        self._reads = GroupCommit("message_reads", store.get_messages, reads, observe)
        self._deletes = GroupCommit("message_deletes", store.delete_messages, limits, observe)
        self.groups = (self._puts, self._reads, self._deletes)

    async def post(self, request: Request, _: str) -> Response:
        """Store a message: 201 with its digest once it is on disk, also when it was there already."""
        text = parsing.message_text(await request.body(self._body_bytes_max), self._bytes_max)
        digest = hashlib.sha256(text).digest()
        await self._puts.submit((digest, text), len(text) + 32)
        hex_digest = digest.hex().encode()
        return Response(201, b'{"digest": "%b"}' % hex_digest, [JSON, (b"location", b"/messages/" + hex_digest)])

    async def get(self, request: Request, text: str) -> Response:
        """The message, or 304 when the client has it."""
        digest = parsing.message_digest(text)
        message = None if digest is None else await self._reads.submit(digest, 32)
        if digest is None or message is None:
            raise _not_found()
        etag = b'"sha256:%b"' % digest.hex().encode()
        headers = [(b"etag", etag), self._cache_control]
        if etag_matches(request.values(b"if-none-match"), etag):
            return Response(304, b"", headers)
        body = b'{"message": %b}' % msgspec.json.encode(message.decode("utf-8"))
        repr_digest = b"sha-256=:%b:" % base64.b64encode(hashlib.sha256(body).digest())
        return Response(200, body, [JSON, (b"repr-digest", repr_digest), *headers])

    async def delete(self, _: Request, text: str) -> Response:
        """Remove the message; once this has answered, only a later POST brings it back."""
        digest = parsing.message_digest(text)
        if digest is None or not await self._deletes.submit(digest, 32):
            raise _not_found()
        return Response(200, b'{"message_deleted": "%b"}' % digest.hex().encode(), [JSON])


def etag_matches(if_none_match: list[bytes], etag: bytes) -> bool:
    """Weak comparison (RFC 9110, 13.1.2): the tag is in the list, or the list is ``*``."""
    tags = [tag.strip().removeprefix(b"W/") for value in if_none_match for tag in value.split(b",")]
    return etag in tags or tags == [b"*"]


def _not_found() -> Problem:
    # Both old names: the original's text has the first, its implementation the second.
    text = "Message not found"
    return Problem(404, "message_not_found", text, extra={"err_msg": text, "err_message": text})
