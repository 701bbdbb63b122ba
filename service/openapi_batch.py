"""OpenAPI for batches of usages."""

from __future__ import annotations

from typing import Any

from service.openapi_parts import ACK, ok, parameter, problems, ref

_USAGE = {"patientId": "100", "timestamp": "Tue Nov 01 2016 09:11:51 GMT-0500 (CDT)", "medication": "Albuterol"}
_KEYED = {"idempotency_key": "0190163d-8694-739b-aea5-966c26f8ad91", "usage": _USAGE}
_LINES = "application/x-ndjson"
_COUNT = {"type": "integer", "minimum": 0}
_COUNTS = {
    "created": {**_COUNT, "description": "On disk, each once"},
    "duplicate": {**_COUNT, "description": "Stored before under the same key with the same bytes"},
    "invalid": {**_COUNT, "description": "No repeat makes them better"},
    "retry": {**_COUNT, "description": "Certainly not stored: send them again, after `retry_after_s`"},
    "unknown": {**_COUNT, "description": "May or may not be stored: a repeat under the same key is safe"},
    "retry_after_s": {"type": "integer", "minimum": 1, "description": "Only when there is something to retry"},
}
_REQUIRED = [name for name in _COUNTS if name != "retry_after_s"]

SCHEMAS: dict[str, Any] = {
    "BatchResult": {
        "type": "object",
        "required": ["status"],
        "properties": {
            "status": {"enum": ["created", "duplicate", "invalid", "retry", "unknown"]},
            "id": {"type": ["integer", "string"], "description": "Of what is stored: the id, or the item's key"},
            "code": {"type": "string", "description": "Why not; the codes are those of the single POST"},
            "field": {"type": "string"},
            "detail": {"type": "string"},
            "line": {"type": "integer", "minimum": 1, "description": "Of a stream: the line that the item stood on"},
        },
    },
    "BatchAnswer": {
        "type": "object",
        "required": [*_REQUIRED, "results"],
        "properties": {
            **_COUNTS,
            "results": {"type": "array", "description": "One for each item, in order", "items": ref("BatchResult")},
        },
        "example": {
            "created": 1,
            "duplicate": 0,
            "invalid": 1,
            "retry": 0,
            "unknown": 0,
            "results": [
                {"status": "created", "id": 22954},
                {
                    "status": "invalid",
                    "code": "invalid_field",
                    "field": "medication",
                    "detail": "medication must be a string.",
                },
            ],
        },
    },
}

_LINES_EXAMPLE = (
    '{"line":1,"status":"created","id":22954}\n'
    '{"line":2,"status":"duplicate","id":"0190163d-8694-739b-aea5-966c26f8ad91"}\n'
    '{"summary":{"created":1,"duplicate":1,"invalid":0,"retry":0,"unknown":0,"ack":"fsync; replicas=2/3","complete":true}}\n'
)

_DESCRIPTION = """\
An item is a usage, or `{"idempotency_key": K, "usage": …}`, which is a usage under a key of its own. Each gets its own \
result, in order; what is invalid keeps nothing else from being stored, unless `strict=true`. `created` is sent after the \
write is on disk on every replica that the consistency level counts.

An array (`application/json`) is held whole, and so bounded in items and bytes. Lines (`application/x-ndjson`) are a \
stream of any length: results come as they commit, each with the number of its line, and the last line is the `summary`. \
Read while you send: a client that does not read its results is not read from either. Without `"complete": true` in the \
last line the stream broke off: lines that have no result are to be sent again. The `Ack` header is that of the first \
result; when acknowledgements come to be worth less, the stream ends with code `ack_changed`, and the summary's `ack` says \
what they are worth then.

Either may be compressed (`Content-Encoding: gzip` or `zstd`)."""

POST: dict[str, Any] = {
    "operationId": "post_batch",
    "tags": ["usages"],
    "summary": "Store many usages",
    "description": _DESCRIPTION,
    "parameters": [
        parameter(
            "strict",
            "query",
            {"type": "string", "enum": ["true", "false"], "default": "false"},
            "When an item is invalid nothing is stored: 422 with the `errors`. The batch is then held whole.",
        ),
    ],
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {"type": "array", "items": {}, "description": "Of usages, with or without keys"},
                "example": [_USAGE, _KEYED],
            },
            _LINES: {
                "schema": {"type": "string", "description": "A usage a line, with or without a key"},
                "example": '{"patientId":"100"}\n{"idempotency_key":"order-1","usage":{"patientId":"101"}}\n',
            },
        },
    },
    "responses": {
        "200": {
            **ok("A result for each item", Ack=ACK),
            "content": {
                "application/json": {"schema": ref("BatchAnswer")},
                _LINES: {"schema": {"type": "string"}, "example": _LINES_EXAMPLE},
            },
        },
        **problems("400", "413", "415", "422", "503", "504"),
    },
}
