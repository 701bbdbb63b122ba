from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import pytest

from service import metrics
from service.app import Application, create_app
from service.openapi import HOT_PATHS
from service.settings import read_settings
from tests.support import (
    LONG,
    ROOT,
    USAGE,
    Connection,
    WebInstance,
    assert_problem,
    eventually,
    ready_instance,
    web_instance,
)

JSON = [("Content-Type", "application/json")]
METHODS = {"get", "post", "put", "patch", "delete", "options", "head"}


# --- health


def test_a_ready_instance_says_so(connection: Connection):
    """Alive and ready, each a small JSON document."""
    assert connection.request("GET", "/livez").json() == {"status": "alive"}
    assert connection.request("GET", "/readyz").json() == {"status": "ready"}


def test_an_instance_without_a_store_is_alive_and_not_ready_and_refuses(tmp_path: Path):
    """It starts unready; a write is a 503, certainly not stored; when the store comes it becomes ready by itself."""
    blocked = tmp_path / "blocked"
    blocked.write_text("a file where the directory should be")
    with web_instance(tmp_path, store=blocked / "store.sqlite3") as instance, instance.connect() as connection:
        assert connection.request("GET", "/livez").status == 200
        assert_problem(connection.request("GET", "/readyz"), 503, "not_ready")
        assert_problem(connection.request("POST", "/api/usages", USAGE, JSON), 503, "store_unavailable")
        assert_problem(connection.request("GET", "/messages/" + "a" * 64), 503, "store_unavailable")
        assert instance.metric("busyapi_ready") == 0
        blocked.unlink()
        eventually(lambda: instance.request("GET", "/readyz").status == 200)
        assert connection.request("POST", "/api/usages", USAGE, JSON).status == 201
        assert len(instance.logged("no store yet")) == 1


# --- metrics


def test_metrics_count_what_was_answered_by_route_method_and_status(tmp_path: Path):
    """The short way and the long way, successes and refusals, groups and their items."""
    with ready_instance(tmp_path) as instance, instance.connect() as connection:
        for headers in (JSON, [*JSON, LONG]):
            for body in (USAGE, USAGE, b"["):
                connection.request("POST", "/api/usages", body, headers)
        connection.request("POST", "/messages", b'{"message": "foo"}')
        connection.request("GET", "/api/usages/1")
        connection.request("GET", "/api/usages/2")
        connection.request("GET", "/wp-login.php")
        connection.request("PROPFIND", "/livez")

        def requests(route: str, method: str, status: int) -> float:
            return instance.metric("busyapi_requests_total", route=route, method=method, status=str(status))

        assert requests("/api/usages", "POST", 201) == 4
        assert requests("/api/usages", "POST", 400) == 2
        assert requests("/messages", "POST", 201) == 1
        assert requests("/api/usages/{id}", "GET", 200) == 2
        assert requests("unknown", "GET", 404) == 1
        assert requests("/livez", "other", 405) == 1
        assert instance.metric("busyapi_refused_total", code="invalid_json") == 2
        assert instance.metric("busyapi_request_seconds_count", route="/api/usages") == 6
        assert instance.metric("busyapi_group_items_sum", group="usages") == 4
        assert instance.metric("busyapi_group_seconds_count", group="usages") == 4
        assert instance.metric("busyapi_requests_in_flight") == 1
        assert instance.metric("busyapi_queue_items") == 0
        assert instance.metric("busyapi_queue_bytes") == 0
        assert instance.metric("busyapi_ready") == 1
        assert instance.metric("busyapi_ids_remaining") > 100_000


def test_metrics_do_not_grow_with_what_clients_invent(instance: WebInstance):
    """Paths, methods and codes come from a fixed list: a label is never a client's text."""
    for number in range(20):
        instance.request("GET", f"/invented-{number}")
        instance.request("GET", f"/api/usages/keys/invented-{number}")
    text = instance.request("GET", "/metrics").body.decode()
    assert "invented" not in text


def test_metrics_are_prometheus_text(connection: Connection):
    """Content type, HELP and TYPE of each metric."""
    reply = connection.request("GET", "/metrics")
    assert (reply.header("content-type") or "").startswith("text/plain; version=")
    text = reply.body.decode()
    for metric in metrics.REGISTRY.collect():
        assert f"# HELP {metric.name}" in text


def test_the_readme_lists_every_metric_with_its_meaning_and_nothing_else():
    """The table is the declarations, in their order."""
    rows = re.findall(r"^\| `(busyapi_\w+)` \| (.*?) \|$", (ROOT / "README.md").read_text(), re.MULTILINE)
    declared = [
        (metric.name + ("_total" if metric.type == "counter" else ""), metric.documentation)
        for metric in metrics.REGISTRY.collect()
        if metric.name.startswith("busyapi_")
    ]
    assert rows == declared


# --- OpenAPI and its page


def test_openapi_and_the_routes_are_the_same(tmp_path: Path):
    """Every hot route is documented with all its methods, and nothing is documented that is not there."""

    async def hot_routes() -> set[tuple[str, str]]:
        app = create_app(read_settings({"BUSYAPI_STORE": f"sqlite:///{tmp_path}/store.sqlite3"}))
        assert isinstance(app, Application)
        app.start()
        routes = {(r.template, method) for r in app.hot.resources for method in r.methods if method != "HEAD"}
        await app.instance.close()
        return routes

    documented = {(path, method.upper()) for path, item in HOT_PATHS.items() for method in METHODS & item.keys()}
    assert documented == asyncio.run(hot_routes())


def test_the_openapi_document_names_every_public_route(connection: Connection):
    """Hot and cold, each operation with an id of its own and a description of each answer."""
    reply = connection.request("GET", "/openapi.json")
    assert reply.header("content-type") == "application/json"
    document = reply.json()
    assert set(document["paths"]) == {*HOT_PATHS, "/livez", "/readyz"}
    operations = [item[method] for item in document["paths"].values() for method in METHODS & item.keys()]
    ids = [operation["operationId"] for operation in operations]
    assert len(set(ids)) == len(ids)
    assert all(operation["summary"] and operation["responses"] for operation in operations)
    references = set(re.findall(r'"#/components/schemas/(\w+)"', json.dumps(document)))
    assert references <= set(document["components"]["schemas"])


def test_the_docs_page_needs_nothing_from_elsewhere(connection: Connection):
    """A page whose scripts and styles the service sends itself: it works without the internet."""
    reply = connection.request("GET", "/docs")
    assert reply.status == 200
    assert (reply.header("content-type") or "").startswith("text/html")
    page = reply.body.decode()
    assert "/openapi.json" in page
    sources = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert sources
    for source in sources:
        if not source.startswith("data:"):
            assert source.startswith("/")
            assert connection.request("GET", source).status == 200


# --- logs


@pytest.fixture(scope="module")
def log_after_traffic(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The log lines of an instance that had successes, refusals and a failure, by request id."""
    with ready_instance(tmp_path_factory.mktemp("logs")) as instance, instance.connect() as connection:
        for way, headers in (("s", JSON), ("l", [*JSON, LONG])):
            for name, body in (
                ("ok", b'{"medication": "secret"}'),
                ("bad", b'{"medication": ["secret"]}'),
                ("json", b"secret"),
            ):
                connection.request("POST", "/api/usages", body, [*headers, ("X-Request-ID", f"{way}-{name}")])
        connection.request("POST", "/messages", b'{"message": "secret"}', [("X-Request-ID", "m-ok")])
        connection.request("POST", "/messages", b'{"message": ["secret"]}', [("X-Request-ID", "m-bad")])
        connection.request("GET", "/%0A%22" + "x" * 3000, None, [("X-Request-ID", "long")])
        connection.request("GET", "/nowhere?token=secret", None, [("X-Request-ID", "query")])
        with instance.connect() as broken:
            broken.send(b"secret nonsense\r\n\r\n")
            broken.read()
        instance.stop()
        yield instance


def test_every_refusal_is_one_line_with_its_request_id(log_after_traffic: WebInstance):
    """Status, code, method, path and how long it took; and what is not HTTP at all has a line too."""
    lines = {line["request_id"]: line for line in log_after_traffic.lines() if "request_id" in line}
    refused = [line for line in log_after_traffic.lines() if line["message"] == "refused"]
    assert len(refused) == len({line["request_id"] for line in refused}) == 8
    for way in "sl":
        line = lines[f"{way}-bad"]
        assert (line["level"], line["status"], line["code"], line["field"]) == (
            "info",
            422,
            "invalid_field",
            "medication",
        )
        assert (line["method"], line["path"]) == ("POST", "/api/usages")
        assert line["duration_ms"] >= 0
        assert lines[f"{way}-json"]["code"] == "invalid_json"


def test_a_success_is_no_line(log_after_traffic: WebInstance):
    """The log of a busy service is about what went wrong."""
    ids = {line.get("request_id") for line in log_after_traffic.lines()}
    assert not ids & {"s-ok", "l-ok", "m-ok"}


def test_no_body_is_ever_logged(log_after_traffic: WebInstance):
    """Neither of a usage nor of a message, taken or refused; no query either, it may hold a token."""
    assert "secret" not in log_after_traffic.log_path.read_text()


def test_every_line_is_one_json_object_with_time_level_logger_and_message(log_after_traffic: WebInstance):
    """Whatever a client sends, a line stays a line and stays short."""
    for raw in log_after_traffic.log_path.read_bytes().splitlines():
        line = json.loads(raw)
        assert {"time", "level", "logger", "message"} <= line.keys()
        assert len(raw) < 2000


def test_its_life_is_in_the_log(log_after_traffic: WebInstance):
    """Where it listens, when it was ready, when it drained and closed."""
    messages = [line["message"] for line in log_after_traffic.lines() if "request_id" not in line]
    assert messages == ["ready", "listening", "draining", "closed"]
