"""What holds for every resource: problem documents, request ids, methods, paths, and what is not public."""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Callable

import pytest

from deploy.cluster import RunningCluster
from tests.system.wire import JSON_TYPE, Answer, Wire, assert_problem, call, post_usage

REFUSALS: dict[str, Callable[[str, tuple[str, str]], Answer]] = {
    "not JSON": lambda url, header: post_usage(url, b"nonsense", header),
    "a wrong field": lambda url, header: post_usage(url, b'{"medication": 5}', header),
    "too large": lambda url, header: post_usage(url, b" " * 102_401, header),
    "no such path": lambda url, header: call(url, "GET", "/nowhere", headers=[header]),
    "not public": lambda url, header: call(url, "GET", "/metrics", headers=[header]),
    "no such method": lambda url, header: call(url, "PUT", "/messages", b"", headers=[header]),
    "no such message": lambda url, header: call(url, "GET", f"/messages/{'a' * 64}", headers=[header]),
    "absurd length": lambda url, header: call(
        url, "POST", "/api/usages", headers=[JSON_TYPE, ("Content-Length", "1" + "0" * 17), header]
    ),
}


@pytest.mark.parametrize("refusal", REFUSALS)
def test_a_request_id_goes_through_into_every_refusal(base_url: str, refusal: str) -> None:
    """The client's own id is in the header and in the problem document, whoever refused: HAProxy or a web instance."""
    request_id = f"r-{uuid.uuid4().hex}"
    answer = REFUSALS[refusal](base_url, ("X-Request-ID", request_id))
    assert assert_problem(answer, answer.status)["request_id"] == request_id
    assert 400 <= answer.status < 500


@pytest.mark.parametrize("request_id", ["1", "!~", "r" * 128, "a,b;c=d/e"])
def test_a_request_id_of_visible_characters_is_taken(base_url: str, request_id: str) -> None:
    """1-128 visible ASCII characters come back as they were, on success too."""
    answer = call(base_url, "GET", "/livez", headers=[("X-Request-ID", request_id)])
    assert answer.status == 200
    assert answer.header("x-request-id") == request_id


@pytest.mark.parametrize("request_id", [None, "", "r" * 129, "two words", "tab\tinside", "\xe4", "del\x7f"])
def test_any_other_request_id_is_replaced(base_url: str, request_id: str | None) -> None:
    """Absent, too long or with other characters: one is made, visible and new each time."""
    headers = [] if request_id is None else [("X-Request-ID", request_id)]
    made = [call(base_url, "GET", "/livez", headers=headers).header("x-request-id") for _ in range(2)]
    assert made[0] != made[1]
    for id_ in made:
        assert id_ is not None
        assert re.fullmatch(r"[!-~]{1,128}", id_)
        assert id_ != request_id


def test_a_refusal_leaves_one_line_with_its_request_id_and_never_the_body(cluster: RunningCluster) -> None:
    """An operator finds what a client reports by its id; what the client sent is not in the logs."""
    request_id, secret = f"r-{uuid.uuid4().hex}", f"s-{uuid.uuid4().hex}"
    body = b'{"patientId": "%b", "medication": 5}' % secret.encode()
    assert_problem(post_usage(cluster.base_url, body, ("X-Request-ID", request_id)), 422)
    names = [process.name for process in cluster.processes("web")]
    deadline_s = time.monotonic() + 5
    lines: list[str] = []
    while not lines and time.monotonic() < deadline_s:
        lines = [line for name in names for line in cluster.log(name).splitlines() if request_id in line]
    assert len(lines) == 1
    assert "invalid_field" in lines[0]
    assert all(secret not in cluster.log(name) for name in names)


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/api",
        "/api/usages/",
        "/api/usages/1/",
        "/api/usages/keys",
        "/api/usages/keys/",
        "/messages/",
        f"/messages/{'a' * 64}/",
        "/livez/",
        "/readyz/",
        "/docs/",
        "/API/usages",
        "/Messages",
        "//messages",
        "/api//usages",
        "/favicon.ico",
        "/%",
        "/%zz",
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_an_unknown_path_is_not_found(base_url: str, method: str, path: str) -> None:
    """404 as a problem, a trailing slash included, whatever the method."""
    answer = call(base_url, method, path, b"{}" if method == "POST" else None)
    if "%" in path and answer.status == 400:
        assert_problem(answer, 400)
        return
    if path == "/api/usages/keys" and method == "POST":
        # The template /api/usages/{id} covers this path, and takes no POST.
        assert_problem(answer, 405)
        return
    assert_problem(answer, 404)


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/api/usages", {"GET", "HEAD", "POST"}),
        ("/api/usages/1", {"GET", "HEAD", "DELETE"}),
        ("/api/usages/keys/k", {"GET", "HEAD", "DELETE"}),
        ("/api/usages/batch", {"POST"}),
        ("/api/usages/count", {"GET", "HEAD"}),
        ("/messages", {"POST"}),
        (f"/messages/{'a' * 64}", {"GET", "HEAD", "DELETE"}),
        ("/livez", {"GET", "HEAD"}),
        ("/readyz", {"GET", "HEAD"}),
        ("/openapi.json", {"GET", "HEAD"}),
        ("/docs", {"GET", "HEAD"}),
    ],
)
def test_a_wrong_method_is_told_which_ones_are_allowed(base_url: str, path: str, allowed: set[str]) -> None:
    """405 with Allow, as a problem; OPTIONS included."""
    for method in {"GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"} - allowed:
        answer = call(base_url, method, path, b"{}" if method in ("POST", "PUT", "PATCH") else None)
        assert_problem(answer, 405, "method_not_allowed")
        allow = answer.header("allow")
        assert allow is not None, method
        assert {name.strip() for name in allow.split(",")} == allowed, method


@pytest.mark.parametrize("method", ["BREW", "get", "G", "M-SEARCH", "CONNECT"])
def test_an_invented_or_odd_method_is_refused(base_url: str, method: str) -> None:
    """As a problem, 405 or 400: what no resource takes is refused by whoever reads it first."""
    for path in ("/api/usages", "/messages", "/livez"):
        answer = call(base_url, method, path)
        assert_problem(answer, answer.status)
        assert answer.status in (400, 405)


def test_every_get_answers_head(base_url: str) -> None:
    """The same status without a body, on a connection that goes on."""
    id_ = post_usage(base_url, b"{}").json()["id"]
    with Wire(base_url) as wire:
        for path in (f"/api/usages/{id_}", "/livez", "/readyz", "/openapi.json", "/docs"):
            get, head = wire.exchange("GET", path), wire.exchange("HEAD", path)
            assert get.status == head.status == 200, path
            assert head.header("content-length") == get.header("content-length"), path


def test_health_and_documents_are_public(base_url: str) -> None:
    """livez, readyz, OpenAPI with the hot routes in it, and its page."""
    for path in ("/livez", "/readyz", "/docs"):
        assert call(base_url, "GET", path).status == 200
    document = call(base_url, "GET", "/openapi.json").json()
    assert document["openapi"].startswith("3.")
    assert document["paths"].keys() >= {
        "/api/usages",
        "/api/usages/{id}",
        "/api/usages/keys/{key}",
        "/messages",
        "/messages/{digest}",
        "/livez",
        "/readyz",
    }
    assert "/metrics" not in document["paths"]


HIDDEN = [
    "/metrics",
    "/metrics?",
    "/metrics?name=process_cpu_seconds_total",
    "/metrics/",
    "/metrics//",
    "/metrics;x",
    "/metrics%00",
    "/metrics%2f",
    "/metrics%3fx",
    "/metrics%20",
    "/METRICS",
    "/Metrics",
    "/%6detrics",
    "/%6Detrics",
    "/%4DETRICS",
    "/%6d%65%74%72%69%63%73",
    "/%256detrics",
    "//metrics",
    "///metrics",
    "/./metrics",
    "/%2e/metrics",
    "/%2fmetrics",
    "%2fmetrics",
    "/x/../metrics",
    "/x/%2e%2e/metrics",
    "/../metrics",
    "/messages/../metrics",
    "/metrics#x",
    "/metrics#",
    "/\\metrics",
    "/stats",
    "/stats;csv",
    "/;csv",
    "/haproxy?stats",
    "/haproxy?stats;csv",
    "/haproxy/stats",
    "/admin?stats",
    "/admin",
    "http://localhost/metrics",
    "http://localhost/%6detrics",
    "http://localhost:80//metrics",
]


@pytest.mark.parametrize("target", HIDDEN)
def test_metrics_and_statistics_are_not_public(base_url: str, target: str) -> None:
    """No spelling of the path reaches the web instances' metrics or HAProxy's: 404, or 400 for what is no path."""
    for method in ("GET", "HEAD", "POST", "BREW"):
        with Wire(base_url) as wire:
            answer = wire.exchange(method, target, body=b"" if method == "POST" else None)
            assert answer.status in (400, 404), (method, answer.status)
            if method == "HEAD":
                continue
            assert_problem(answer, answer.status)
            assert b"_total" not in answer.body
            assert b"# HELP" not in answer.body


def test_metrics_are_hidden_whatever_the_host_and_forwarding_headers_say(base_url: str) -> None:
    """Headers that rewrite a path elsewhere rewrite none here."""
    for header in (
        ("X-Original-URL", "/metrics"),
        ("X-Rewrite-URL", "/metrics"),
        ("X-Forwarded-Prefix", "/metrics"),
        ("X-Forwarded-For", "127.0.0.1"),
        ("X-HTTP-Method-Override", "GET"),
    ):
        assert_problem(call(base_url, "GET", "/metrics", headers=[header]), 404)
        assert call(base_url, "GET", "/livez", headers=[header]).json() == {"status": "alive"}


def test_haproxys_statistics_are_on_an_address_of_their_own(cluster: RunningCluster) -> None:
    """The operator's port has the page and the metrics of HAProxy; it is not the public one."""
    page = call(cluster.stats_url, "GET", "/")
    assert page.status == 200
    metrics = call(cluster.stats_url, "GET", "/metrics")
    assert metrics.status == 200
    assert b"haproxy_server_status" in metrics.body
