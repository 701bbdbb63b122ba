"""OpenAPI for lists, counts and deletes of usages."""

from __future__ import annotations

from typing import Any

from service.openapi_parts import ACK, json_content, ok, parameter, problems, ref

_TIME = {"type": "string", "format": "date-time"}
_LISTED_EXAMPLE = {
    "id": 22954,
    "received_at": "2026-11-23T09:11:51.123456Z",
    "usage": {"patientId": "100", "medication": "Albuterol"},
}

SCHEMAS: dict[str, Any] = {
    "ListedUsage": {
        "type": "object",
        "required": ["id", "received_at", "usage"],
        "properties": {"id": {"type": ["integer", "string"]}, "received_at": _TIME, "usage": ref("Usage")},
        "example": _LISTED_EXAMPLE,
    },
    "UsagePage": {
        "type": "object",
        "required": ["usages", "next"],
        "properties": {
            "usages": {"type": "array", "items": ref("ListedUsage")},
            "next": {
                "type": ["string", "null"],
                "description": "The cursor of the next page; null at the end. A page may be short and still have a next.",
            },
        },
        "example": {"usages": [_LISTED_EXAMPLE], "next": None},
    },
    "UsageCount": {
        "type": "object",
        "required": ["from", "to", "total"],
        "properties": {
            "from": _TIME,
            "to": _TIME,
            "total": {"type": "integer", "minimum": 0},
            "windows": {
                "type": "array",
                "description": "Aligned in UTC, with those that have none; from and to cut the first and the last.",
                "items": {
                    "type": "object",
                    "required": ["from", "count"],
                    "properties": {"from": _TIME, "count": {"type": "integer", "minimum": 0}},
                },
            },
        },
        "example": {
            "from": "2026-11-23T09:00:00.000000Z",
            "to": "2026-11-23T11:00:00.000000Z",
            "total": 3,
            "windows": [
                {"from": "2026-11-23T09:00:00.000000Z", "count": 2},
                {"from": "2026-11-23T10:00:00.000000Z", "count": 1},
            ],
        },
    },
}


def _query(name: str, schema: dict[str, Any], description: str) -> dict[str, Any]:
    return parameter(name, "query", schema, description)


_FROM = _query("from", {**_TIME, "example": "2026-11-23T00:00:00Z"}, "Received then or later; the first usage's time")
_TO = _query("to", {**_TIME, "example": "2026-11-24T00:00:00Z"}, "Received before; now")

LIST: dict[str, Any] = {
    "operationId": "list_usages",
    "tags": ["usages"],
    "summary": "Usages in the order in which they were received",
    "description": (
        "A page and the cursor of the next. With `Accept: application/x-ndjson` a stream of all of them, a usage a line, "
        "of which `limit` is the total; a stream that breaks off lacks its last chunk. Nothing that was acknowledged "
        "before the first page is missed while others write, and nothing comes twice."
    ),
    "parameters": [
        _FROM,
        _TO,
        _query("limit", {"type": "integer", "minimum": 1, "maximum": 1000, "default": 100}, "Most usages of a page"),
        _query("cursor", {"type": "string"}, "`next` of the page before, in place of from and to"),
        _query(
            "patientId",
            {"type": "string", "minLength": 1, "maxLength": 128, "example": "100"},
            "Usages of this patient, as number or string; with limit and cursor alone, where the index is switched on",
        ),
    ],
    "responses": {
        "200": {
            "description": "A page, or all of them",
            "headers": {"Link": {"description": 'The next page, `rel="next"`', "schema": {"type": "string"}}},
            "content": {
                **json_content(ref("UsagePage")),
                "application/x-ndjson": {
                    "schema": {"type": "string", "description": "A ListedUsage in JSON on each line"},
                },
            },
        },
        **problems("400", "503", "504"),
    },
}

COUNT: dict[str, Any] = {
    "operationId": "count_usages",
    "tags": ["usages"],
    "summary": "How many usages were received",
    "description": "Exact: a replay or a retry never counts twice, and what was deleted does not count.",
    "parameters": [
        _FROM,
        _TO,
        _query("window", {"type": "string", "enum": ["minute", "hour", "day"]}, "Counts by window beside the total"),
    ],
    "responses": {
        "200": {"description": "The count", "content": json_content(ref("UsageCount"))},
        **problems("400", "503", "504"),
    },
}


def _delete(operation: str, summary: str, where: dict[str, Any], shown: str) -> dict[str, Any]:
    return {
        "operationId": operation,
        "tags": ["usages"],
        "summary": summary,
        "description": "Once it has answered, no read, list or count has it.",
        "parameters": [where],
        "responses": {
            "200": ok("Removed", {"usage_deleted": {"type": shown}}, Ack=ACK),
            **problems("400", "404", "503", "504"),
        },
    }


DELETE = _delete(
    "delete_usage",
    "Remove a usage by its id",
    parameter("id", "path", {"type": "string", "example": "22954"}, "An integer id"),
    "integer",
)
DELETE_BY_KEY = _delete(
    "delete_usage_by_key",
    "Remove what is stored under a client's key; a POST under it is a new usage then",
    parameter("key", "path", {"type": "string", "example": "order-1"}, "Percent-encoded"),
    "string",
)
