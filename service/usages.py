"""Usages: POST /api/usages and the reads by id and by key."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from urllib.parse import quote

import msgspec

from service import parsing
from service.errors import Problem, StoreError
from service.group_commit import GroupCommit, Limits, Sink
from service.http import JSON, Request, Response
from service.ids import IdAllocator
from service.store import ID_MAX, KeyedUsage, Put, Results, Store, StoredUsage
from service.timespan import rfc3339

Observe = Callable[[str, int, float], None]


class Usages:
    """The handlers for usages, with the group commits that they feed."""

    def __init__(self, store: Store, ids: IdAllocator, limits: Limits, usage_bytes_max: int, observe: Observe) -> None:
        self._store = store
        self._ids = ids
        self._bytes_max = usage_bytes_max
        # A group without ids waits as in the queue: nothing of it is sent.
        self._ids_wait_max_s = limits.queue_wait_max_s
        self._by_id = GroupCommit("usages", self._put, limits, observe)
        self._by_key = GroupCommit("keyed_usages", store.put_keyed_usages, limits, observe)
        self._reads = GroupCommit("usage_reads", store.get_usages, limits, observe)
        self._key_reads = GroupCommit("keyed_usage_reads", store.get_keyed_usages, limits, observe)
        self.groups = (self._by_id, self._by_key, self._reads, self._key_reads)

    async def post(self, request: Request, _: str) -> Response:
        """Store one usage: 201 with its id once it is on disk."""
        headers = request.headers
        if headers.get(b"content-type") != b"application/json" or b"content-encoding" in headers:
            parsing.check_json_type(request.values(b"content-type"), headers.get(b"content-encoding"))
        key = None
        if b"idempotency-key" in headers:
            key = parsing.idempotency_key(request.values(b"idempotency-key"))
        body = await request.body(self._bytes_max)
        parsing.check_usage(body)
        if key is not None:
            return await self._post_keyed(key, body)
        id_ = b"%d" % await self._by_id.submit(body, len(body))
        return Response(201, b'{"id": %b}' % id_, [JSON, (b"location", b"/api/usages/%b" % id_)])

    def submit_to(self, sink: Sink[int], body: bytes) -> None:
        """Queue a usage that was checked; the sink gets its id. Raises QueueFull or Closing."""
        self._by_id.submit_to(sink, body, len(body))

    async def get(self, _: Request, text: str) -> Response:
        """One usage by its integer id."""
        id_ = parsing.usage_id(text)
        stored = None
        if id_ is not None and id_ <= ID_MAX:
            stored = await self._reads.submit(id_, 8)
        if stored is None:
            raise Problem(404, "not_found", "There is no such usage.")
        return Response(200, _document(text.encode(), [stored]), [JSON])

    async def get_by_key(self, _: Request, key: str) -> Response:
        """The usage of a client's key; conflicts beside it when two bodies raced under the key."""
        stored: Sequence[StoredUsage] = ()
        if parsing.is_idempotency_key(key.encode("utf-8", "replace")):
            stored = await self._key_reads.submit(key, len(key))
        if not stored:
            raise Problem(404, "not_found", "There is no usage under this key.")
        return Response(200, _document(msgspec.json.encode(key), stored), [JSON])

    async def _post_keyed(self, key: str, body: bytes) -> Response:
        item = KeyedUsage(key, hashlib.sha256(body).digest(), body)
        put = await self._by_key.submit(item, len(key) + len(body))
        if put is Put.CONFLICT:
            raise Problem(
                422,
                "idempotency_key_reused",
                "This Idempotency-Key has been used with another body; that one stays as it was.",
                field="Idempotency-Key",
            )
        location = (b"location", b"/api/usages/keys/" + quote(key, safe="").encode())
        if put is Put.DUPLICATE:
            return Response(200, b'{"id": %b, "duplicate": true}' % msgspec.json.encode(key), [JSON, location])
        return Response(201, b'{"id": %b}' % msgspec.json.encode(key), [JSON, location])

    async def _put(self, bodies: Sequence[bytes]) -> Results[int]:
        try:
            ids = await self._ids.take(len(bodies), self._ids_wait_max_s)
        except StoreError as error:
            return [error] * len(bodies)
        results = await self._store.put_usages(list(zip(ids, bodies, strict=True)))
        return [id_ if error is None else error for id_, error in zip(ids, results, strict=True)]


def _document(id_: bytes, stored: Sequence[StoredUsage]) -> bytes:
    """The first received, then the others; the usages' own bytes go in as they are, they are JSON."""
    first, *others = (b'"received_at": "%b", "usage": %b' % (rfc3339(row.received_at_us), row.usage) for row in stored)
    conflicts = b', "conflicts": [%b]' % b", ".join(b"{%b}" % row for row in others) if others else b""
    return b'{"id": %b, %b%b}' % (id_, first, conflicts)
