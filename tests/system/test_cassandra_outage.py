"""Cassandra stops, hangs, and comes back; the web instances go on without a restart."""

from __future__ import annotations

import hashlib
import json
import signal
import time
import uuid
from typing import Any

import pytest

from deploy.cluster import RunningCluster
from tests.system.tables import assert_promises_kept, usages_by_key, wait_until_readable
from tests.system.test_shedding import wait_for_nobody
from tests.system.traffic import Call, Traffic, send_all
from tests.system.wire import JSON_TYPE, assert_problem, call, post_message, post_usage

pytestmark = [pytest.mark.usefixtures("whole_cluster"), pytest.mark.one_node]

ANSWER_WITHIN_S = 1.0
SLACK_S = 1.0
"""What the client itself and a shared machine may add."""

BACK_WITHIN_S = 30


def instance_urls(cluster: RunningCluster) -> list[str]:
    """The addresses of the web instances themselves."""
    return [f"http://{process.address}:{process.port}" for process in cluster.processes("web") if process.running]


def pids(cluster: RunningCluster) -> dict[str, int]:
    """Who runs: to show that nobody was restarted."""
    return {process.name: process.pid for process in cluster.processes("web")}


def wait_for_201(url: str, within_s: float = BACK_WITHIN_S) -> None:
    """Until a usage is acknowledged again; before that only 503 and 504 may come."""
    deadline_s = time.monotonic() + within_s
    while (status := post_usage(url, b"{}").status) != 201:
        assert status in (503, 504)
        assert time.monotonic() < deadline_s, f"{url} still answers {status} after {within_s:g} s"
        time.sleep(0.1)


def path_of(message: str) -> str:
    """Where a message is read."""
    return f"/messages/{hashlib.sha256(message.encode()).hexdigest()}"


@pytest.fixture
def stored(cluster: RunningCluster) -> dict[str, str]:
    """Paths of what was stored before the outage."""
    key, message = uuid.uuid4().hex, f"before {uuid.uuid4().hex}"
    usage = post_usage(cluster.base_url, b'{"when": "before"}')
    assert post_usage(cluster.base_url, b'{"when": "before"}', ("Idempotency-Key", key)).status == 201
    assert post_message(cluster.base_url, message).status == 201
    return {
        "usage": f"/api/usages/{usage.json()['id']}",
        "key": f"/api/usages/keys/{key}",
        "message": path_of(message),
    }


def test_without_cassandra_every_answer_is_503_within_a_second_and_service_resumes_by_itself(
    cluster: RunningCluster, cql: Any, stored: dict[str, str]
) -> None:
    """Kill -9 of the only node under traffic: 503 with Retry-After, ready all the while; 201 again without a restart.

    What was acknowledged before, and after, is in the table; what was refused is not.
    """
    there = pids(cluster)
    key, message = uuid.uuid4().hex, f"refused {uuid.uuid4().hex}"
    calls: list[tuple[str, str, bytes | None, list[tuple[str, str]]]] = [
        ("POST", "/api/usages", b"{}", [JSON_TYPE]),
        ("POST", "/api/usages", b"{}", [JSON_TYPE, ("Idempotency-Key", key)]),
        ("GET", stored["usage"], None, []),
        ("GET", stored["key"], None, []),
        ("POST", "/messages", json.dumps({"message": message}).encode(), [JSON_TYPE]),
        ("GET", stored["message"], None, []),
        ("DELETE", stored["message"], None, []),
    ]
    with Traffic(cluster.base_url, pause_s=0.01) as traffic:
        traffic.flow(500)
        cluster.kill("cassandra1")
        traffic.flow(50, status=503)
        for url in (cluster.base_url, *instance_urls(cluster), cluster.base_url):
            for method, path, body, headers in calls:
                started_s = time.monotonic()
                answer = call(url, method, path, body, headers=headers)
                seconds = time.monotonic() - started_s
                assert_problem(answer, 503)
                assert seconds < ANSWER_WITHIN_S + SLACK_S, (method, path, seconds)
            assert_serves_without_a_store(url)
        cluster.start("cassandra1")
        for url in (cluster.base_url, *instance_urls(cluster)):
            wait_for_201(url)
        traffic.flow(200, status=201)
    assert pids(cluster) == there
    for path in stored.values():
        assert call(cluster.base_url, "GET", path).status == 200, path
    # A 503 is a promise: certainly not stored.
    assert call(cluster.base_url, "GET", f"/api/usages/keys/{key}").status == 404
    assert call(cluster.base_url, "GET", path_of(message)).status == 404
    assert post_usage(cluster.base_url, b"{}", ("Idempotency-Key", key)).status == 201
    ledger = traffic.ledger
    assert set(ledger.statuses) <= {200, 201, 503, 504}, (ledger.statuses, ledger.errors)
    assert ledger.slowest_s < 8
    wait_until_readable(cql)
    assert_promises_kept(cql, ledger)


def assert_serves_without_a_store(url: str) -> None:
    """Health, documents, and refusals that need no store are as ever."""
    for path in ("/readyz", "/livez", "/openapi.json"):
        assert call(url, "GET", path).status == 200
    assert post_usage(url, b"nonsense").status == 400
    assert post_usage(url, b'{"medication": 5}').status == 422
    assert call(url, "GET", "/messages/short").status == 404


def test_a_hanging_cassandra_is_answered_for_in_time_and_loses_nothing(cluster: RunningCluster, cql: Any) -> None:
    """SIGSTOP for six seconds: 503 or 504 in bounded time, readyz 200; SIGCONT: 201, and what was promised is kept."""
    there = pids(cluster)
    with Traffic(cluster.base_url, pause_s=0.01) as traffic:
        traffic.flow(500)
        cluster.signal("cassandra1", signal.SIGSTOP)
        try:
            stopped_s = time.monotonic()
            while time.monotonic() < stopped_s + 6:
                assert call(cluster.base_url, "GET", "/readyz").status == 200
                time.sleep(0.2)
        finally:
            cluster.signal("cassandra1", signal.SIGCONT)
        traffic.flow(200, status=201, time_limit_s=BACK_WITHIN_S)
    ledger = traffic.ledger
    assert set(ledger.statuses) <= {200, 201, 503, 504}, (ledger.statuses, ledger.errors)
    assert ledger.statuses[503] + ledger.statuses[504] > 0
    assert ledger.slowest_s < 8
    assert pids(cluster) == there
    wait_until_readable(cql)
    assert_promises_kept(cql, ledger)


def test_an_unknown_answer_is_safe_to_repeat_under_its_key(cluster: RunningCluster, cql: Any) -> None:
    """Keyed POSTs into a hanging Cassandra are unknown or refused; repeated until acknowledged, each is one usage."""
    usages = {uuid.uuid4().hex: b'{"number": %d}' % number for number in range(20)}
    posts: list[Call] = [("POST", "/api/usages", body, (("Idempotency-Key", key),)) for key, body in usages.items()]
    cluster.signal("cassandra1", signal.SIGSTOP)
    try:
        first = send_all([cluster.base_url], posts, connections=len(posts), time_limit_s=20)
    finally:
        cluster.signal("cassandra1", signal.SIGCONT)
    assert {outcome.status for outcome in first} <= {503, 504}
    for key, body in usages.items():
        deadline_s = time.monotonic() + BACK_WITHIN_S
        while post_usage(cluster.base_url, body, ("Idempotency-Key", key)).status not in (200, 201):
            assert time.monotonic() < deadline_s
            time.sleep(0.1)
    wait_until_readable(cql)
    for key, body in usages.items():
        assert usages_by_key(cql, key) == [body]


def test_the_parts_may_be_started_in_any_order(cluster: RunningCluster) -> None:
    """HAProxy first, then web instances without a Cassandra, then Cassandra: each waits for the next, none dies."""
    web = [process.name for process in cluster.processes("web")]
    for name in ("haproxy", *web):
        cluster.kill(name)
    cluster.stop("cassandra1")

    cluster.start("haproxy", wait=False)
    wait_for_nobody(cluster.base_url)
    assert_problem(post_usage(cluster.base_url, b"{}"), 503, "no_instance_available")

    for name in web:
        cluster.start(name, wait=False)
    for url in instance_urls(cluster):
        wait_for_status(url, "/livez", 200)
        # It has had no store session yet, so it may take no traffic.
        assert_problem(call(url, "GET", "/readyz"), 503, "not_ready")
        assert_problem(post_usage(url, b"{}"), 503)
    assert_problem(post_usage(cluster.base_url, b"{}"), 503)

    cluster.start("cassandra1")
    cluster.wait_until_ready()
    assert post_usage(cluster.base_url, b"{}").status == 201
    assert all(process.running for process in cluster.processes())


def wait_for_status(url: str, path: str, status: int, within_s: float = 15) -> None:
    """Until this answer comes; nothing may listen yet."""
    deadline_s = time.monotonic() + within_s
    while True:
        try:
            if call(url, "GET", path).status == status:
                return
        except ConnectionError:
            pass
        assert time.monotonic() < deadline_s, f"{url}{path} did not answer {status} in time"
        time.sleep(0.1)
