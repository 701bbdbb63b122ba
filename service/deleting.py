"""Removing usages: one by its id, or all that is stored under a client's key."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from service import parsing
from service.errors import Problem
from service.group_commit import GroupCommit, Limits
from service.http import JSON, Request, Response
from service.query import parameters
from service.store import ID_MAX, Store

Observe = Callable[[str, int, float], None]


class Deleting:
    """The handlers for deletes, with the group commits that they feed."""

    def __init__(self, store: Store, limits: Limits, observe: Observe) -> None:
        self._by_id = GroupCommit("usage_deletes", store.delete_usages, limits, observe)
        self._by_key = GroupCommit("keyed_usage_deletes", store.delete_keyed_usages, limits, observe)
        self.groups = (self._by_id, self._by_key)

    async def delete(self, request: Request, text: str) -> Response:
        """Remove a usage by its integer id; once this has answered, no read, list or count has it."""
        parameters(request, ())
        id_ = parsing.usage_id(text)
        if id_ is None or id_ > ID_MAX or not await self._by_id.submit(id_, 8):
            raise Problem(404, "not_found", "There is no such usage.")
        return Response(200, b'{"usage_deleted": %d}' % id_, [JSON])

    async def delete_by_key(self, request: Request, key: str) -> Response:
        """Remove what is stored under a client's key; a POST under the key is a new usage then."""
        parameters(request, ())
        is_key = parsing.is_idempotency_key(key.encode("utf-8", "replace"))
        if not is_key or not await self._by_key.submit(key, len(key)):
            raise Problem(404, "not_found", "There is no usage under this key.")
        return Response(200, b'{"usage_deleted": %b}' % msgspec.json.encode(key), [JSON])
