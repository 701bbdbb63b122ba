"""OpenAPI for the hot routes, by hand: they are no FastAPI routes. A test holds the two together."""

from __future__ import annotations

from typing import Any

from service import openapi_batch, openapi_reading
from service.openapi_parts import ACK
from service.openapi_parts import json_content as _json
from service.openapi_parts import ok as _ok
from service.openapi_parts import parameter as _parameter
from service.openapi_parts import problems as _problems
from service.openapi_parts import ref as _ref

USAGE_EXAMPLE = {
    "patientId": "100",
    "timestamp": "Tue Nov 01 2016 09:11:51 GMT-0500 (CDT)",
    "medication": "Albuterol",
}
DIGEST_EXAMPLE = "2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae"

SCHEMAS: dict[str, Any] = {
    "Usage": {
        "type": "object",
        "description": "Any JSON object. The fields below are checked when they are present; what else comes is stored.",
        "properties": {
            "patientId": {
                "anyOf": [{"type": "string", "minLength": 1, "maxLength": 128}, {"type": "integer"}],
            },
            "timestamp": {"type": ["string", "number"]},
            "medication": {"type": "string"},
        },
        "additionalProperties": True,
        "example": USAGE_EXAMPLE,
    },
    "StoredUsage": {
        "type": "object",
        "required": ["id", "received_at", "usage"],
        "properties": {
            "id": {"type": ["integer", "string"]},
            "received_at": {"type": "string", "format": "date-time"},
            "usage": {"$ref": "#/components/schemas/Usage"},
            "conflicts": {
                "type": "array",
                "description": "Other bodies that raced under the same key.",
                "items": {
                    "type": "object",
                    "required": ["received_at", "usage"],
                    "properties": {
                        "received_at": {"type": "string", "format": "date-time"},
                        "usage": {"$ref": "#/components/schemas/Usage"},
                    },
                },
            },
        },
    },
    **openapi_batch.SCHEMAS,
    **openapi_reading.SCHEMAS,
    "Message": {
        "type": "object",
        "required": ["message"],
        "properties": {"message": {"type": "string"}},
        "additionalProperties": True,
        "example": {"message": "foo"},
    },
    "Problem": {
        "type": "object",
        "description": "An RFC 9457 problem document.",
        "required": ["type", "title", "status", "detail", "code", "request_id"],
        "properties": {
            "type": {"type": "string"},
            "title": {"type": "string"},
            "status": {"type": "integer"},
            "detail": {"type": "string"},
            "code": {"type": "string", "description": "Stable, snake_case."},
            "request_id": {"type": "string"},
            "field": {"type": "string", "description": "The field or header at fault."},
        },
        "additionalProperties": True,
    },
}


_DIGEST = _parameter("digest", "path", {"type": "string", "example": DIGEST_EXAMPLE}, "sha256 of the message, in hex")
_STORED = {"description": "The usage", "content": _json(_ref("StoredUsage"))}

HOT_PATHS: dict[str, Any] = {
    "/api/usages": {
        "get": openapi_reading.LIST,
        "post": {
            "operationId": "post_usage",
            "tags": ["usages"],
            "summary": "Store one usage",
            "description": "The 2xx is sent after the write is on disk on every replica that the consistency level counts.",
            "parameters": [
                _parameter(
                    "Idempotency-Key",
                    "header",
                    {"type": "string", "minLength": 1, "maxLength": 255, "pattern": r"^(?!\.{1,2}$)[!-~]+$"},
                    "A repeat under the same key with the same body stores nothing new; a UUIDv7 is the cheapest.",
                )
            ],
            "requestBody": {"required": True, "content": _json(_ref("Usage"))},
            "responses": {
                "201": _ok("Stored", {"id": {"type": ["integer", "string"]}}, Location="Where to read it", Ack=ACK),
                "200": _ok(
                    "Stored before, under the same key with the same body",
                    {"id": {"type": "string"}, "duplicate": {"const": True}},
                    Location="Where to read it",
                    Ack=ACK,
                ),
                **_problems("400", "413", "415", "422", "503", "504"),
            },
        },
    },
    "/api/usages/batch": {"post": openapi_batch.POST},
    "/api/usages/count": {"get": openapi_reading.COUNT},
    "/api/usages/{id}": {
        "delete": openapi_reading.DELETE,
        "get": {
            "operationId": "get_usage",
            "tags": ["usages"],
            "summary": "Read a usage by its id",
            "parameters": [_parameter("id", "path", {"type": "string", "example": "22954"}, "An integer id")],
            "responses": {"200": _STORED, **_problems("400", "404", "503", "504")},
        },
    },
    "/api/usages/keys/{key}": {
        "delete": openapi_reading.DELETE_BY_KEY,
        "get": {
            "operationId": "get_usage_by_key",
            "tags": ["usages"],
            "summary": "Read a usage by the client's key",
            "parameters": [_parameter("key", "path", {"type": "string", "example": "order-1"}, "Percent-encoded")],
            "responses": {"200": _STORED, **_problems("400", "404", "503", "504")},
        },
    },
    "/messages": {
        "post": {
            "operationId": "post_message",
            "tags": ["messages"],
            "summary": "Store a message under its sha256",
            "requestBody": {"required": True, "content": _json(_ref("Message"))},
            "responses": {
                "201": _ok("Stored, or there already", {"digest": {"type": "string"}}, Location="Where to read it"),
                **_problems("400", "413", "422", "503", "504"),
            },
        }
    },
    "/messages/{digest}": {
        "get": {
            "operationId": "get_message",
            "tags": ["messages"],
            "summary": "Read a message",
            "parameters": [
                _DIGEST,
                _parameter("If-None-Match", "header", {"type": "string"}, "An ETag that the client has"),
            ],
            "responses": {
                "200": _ok(
                    "The message",
                    {"message": {"type": "string"}},
                    ETag="`sha256:` and the digest",
                    Repr_Digest="RFC 9530, of this body",
                    Cache_Control="A setting",
                ),
                "304": {"description": "The client has it"},
                **_problems("400", "404", "503", "504"),
            },
        },
        "delete": {
            "operationId": "delete_message",
            "tags": ["messages"],
            "summary": "Remove a message",
            "parameters": [_DIGEST],
            "responses": {
                "200": _ok("Removed", {"message_deleted": {"type": "string"}}),
                **_problems("400", "404", "503", "504"),
            },
        },
    },
}
