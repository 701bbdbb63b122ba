"""What the OpenAPI document is put together from."""

from __future__ import annotations

from typing import Any


def ref(name: str) -> dict[str, str]:
    """A schema by its name."""
    return {"$ref": f"#/components/schemas/{name}"}


def json_content(schema: dict[str, Any]) -> dict[str, Any]:
    """A body of JSON."""
    return {"application/json": {"schema": schema}}


def ok(description: str, properties: dict[str, Any] | None = None, **headers: str) -> dict[str, Any]:
    """An answer: its members, all of which are there, and its headers; ``_`` stands for ``-`` in their names."""
    answer: dict[str, Any] = {"description": description}
    if properties is not None:
        answer["content"] = json_content({"type": "object", "required": list(properties), "properties": properties})
    if headers:
        answer["headers"] = {
            name.replace("_", "-"): {"description": text, "schema": {"type": "string"}}
            for name, text in headers.items()
        }
    return answer


PROBLEMS = {
    "400": "Not JSON, not an object, or a header that is no HTTP",
    "404": "Not there",
    "413": "Larger than this resource takes",
    "415": "Not application/json, or compressed",
    "422": "A field of the wrong type or value; `field` names it",
    "503": "Certainly not stored; Retry-After says when to try again",
    "504": "The store did not answer in time: unknown",
}


ACK = "What this answer is worth: `fsync`, `memory` or `unknown`, and how many replicas have it"


def problems(*statuses: str) -> dict[str, Any]:
    """The answers that are errors."""
    return {
        status: {
            "description": PROBLEMS[status],
            "content": {"application/problem+json": {"schema": ref("Problem")}},
            **({"headers": {"Retry-After": {"schema": {"type": "integer"}}}} if status == "503" else {}),
        }
        for status in statuses
    }


def parameter(name: str, where: str, schema: dict[str, Any], description: str) -> dict[str, Any]:
    """A parameter of a path, a query or a header."""
    return {"name": name, "in": where, "required": where == "path", "schema": schema, "description": description}
