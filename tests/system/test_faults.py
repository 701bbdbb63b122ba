"""Web instances come, go and die under traffic; what was acknowledged is in Cassandra."""

from __future__ import annotations

import signal
import time
from typing import Any

import pytest

from deploy.cluster import RunningCluster
from tests.system.tables import Audit, assert_promises_kept, audit
from tests.system.traffic import UNKNOWN, Traffic, send_all
from tests.system.wire import assert_problem, call, post_usage

pytestmark = pytest.mark.usefixtures("whole_cluster")


def assert_no_failure(traffic: Traffic) -> None:
    """Every request was answered, with 201 or 200."""
    ledger = traffic.ledger
    assert set(ledger.statuses) <= {200, 201}, (ledger.statuses, ledger.errors)
    assert ledger.misread == []


def answered(cluster: RunningCluster, name: str) -> int:
    """How many requests HAProxy saw a web instance answer with 2xx."""
    metrics = call(cluster.stats_url, "GET", "/metrics").body.decode()
    for line in metrics.splitlines():
        if line.startswith("haproxy_server_http_responses_total{") and f'server="{name}",code="2xx"' in line:
            return int(line.rpartition(" ")[2])
    raise AssertionError(f"HAProxy does not know {name}")


def test_scaling_up_and_down_under_traffic_fails_no_request(cluster: RunningCluster, cql: Any) -> None:
    """3 web instances, then 5, then 2, while clients post and read: the new ones take their share, every answer is 201 or 200."""
    with Traffic(cluster.base_url) as traffic:
        traffic.flow()
        assert len(cluster.scale(5)) == 5
        traffic.flow(400)
        for newcomer in ("web4", "web5"):
            assert answered(cluster, newcomer) > 40, newcomer
        assert len(cluster.scale(2)) == 2
        traffic.flow(400)
    assert_no_failure(traffic)
    assert_promises_kept(cql, traffic.ledger)


def test_sigterm_of_an_instance_under_traffic_fails_no_request(cluster: RunningCluster, cql: Any) -> None:
    """It drains and exits with 0, the others take over; started again it takes its share. Each of the three in turn."""
    with Traffic(cluster.base_url) as traffic:
        for process in cluster.processes("web"):
            traffic.flow()
            assert cluster.stop(process.name) == 0
            traffic.flow()
            cluster.start(process.name)
    assert_no_failure(traffic)
    assert_promises_kept(cql, traffic.ledger)


def test_kill_9_of_an_instance_under_traffic_loses_nothing_acknowledged(cluster: RunningCluster, cql: Any) -> None:
    """Clients of the dead see resets or 502, which are unknown; all that was acknowledged is in Cassandra's table."""
    with Traffic(cluster.base_url, pause_s=0) as traffic:
        for name in ("web1", "web3"):
            traffic.flow(300)
            cluster.kill(name)
            traffic.flow(300)
            cluster.start(name)
    ledger = traffic.ledger
    assert_promises_kept(cql, ledger)
    # 503 would say "certainly not stored" of what was sent to the dead; two instances were there for all the rest.
    assert set(ledger.statuses) <= {200, 201, 502, UNKNOWN}, (ledger.statuses, ledger.errors)
    assert len(ledger.acknowledged) > 500
    assert ledger.statuses[502] + ledger.statuses[UNKNOWN] <= 2 * 12 * 2


def test_the_comparison_notices_a_lost_an_altered_and_a_smuggled_row(cluster: RunningCluster, cql: Any) -> None:
    """The plant: a row deleted, one altered and one stored though refused, by hand, are each reported."""
    with Traffic(cluster.base_url) as traffic:
        traffic.flow(100)
    ledger = traffic.ledger
    assert_promises_kept(cql, ledger)
    lost, altered = list(ledger.acknowledged)[:2]
    kept = ledger.acknowledged[altered]
    refused = b'{"patientId": "refused"}'
    cql.execute("DELETE FROM usages WHERE block = %s AND id = %s", [lost // 1024, lost])
    cql.execute("UPDATE usages SET usage = '{}' WHERE block = %s AND id = %s", [altered // 1024, altered])
    cql.execute("INSERT INTO usages (block, id, usage) VALUES (0, 0, %s)", [refused.decode()])
    try:
        ledger.refused.append(refused)
        assert audit(cql, ledger) == Audit(lost=[lost], altered=[altered], stored_though_refused=[refused])
        with pytest.raises(AssertionError):
            assert_promises_kept(cql, ledger)
    finally:
        cql.execute("DELETE FROM usages WHERE block = 0 AND id = 0")
        cql.execute(
            "UPDATE usages SET usage = %s WHERE block = %s AND id = %s", [kept.decode(), altered // 1024, altered]
        )


def test_a_hanging_instance_is_left_out_and_taken_back(cluster: RunningCluster, cql: Any) -> None:
    """SIGSTOP: what it had is answered in bounded time and never with a false "not stored"; then it serves again."""
    with Traffic(cluster.base_url) as traffic:
        traffic.flow()
        cluster.signal("web2", signal.SIGSTOP)
        try:
            traffic.flow(1, status=504)
            # Checked out by now: every new request is served by the others.
            for _ in range(30):
                assert post_usage(cluster.base_url, b"{}").status == 201
        finally:
            cluster.signal("web2", signal.SIGCONT)
        cluster.wait_until_ready()
        traffic.flow(200)
    ledger = traffic.ledger
    assert_promises_kept(cql, ledger)
    assert ledger.errors["gateway_timeout"] > 0
    # 503: what waited in its queue past the deadline is refused once it goes on.
    assert ledger.statuses.keys() <= {200, 201, 502, 503, 504, UNKNOWN}, ledger.statuses
    assert ledger.statuses.total() - ledger.statuses[200] - ledger.statuses[201] <= 24, ledger.statuses
    assert ledger.slowest_s < 15


def test_with_no_instance_left_the_answer_is_503_and_service_returns_with_the_first(cluster: RunningCluster) -> None:
    """All stopped: HAProxy answers 503 with Retry-After at once, also for health; one started: 201 again."""
    names = [process.name for process in cluster.processes("web")]
    for name in names:
        cluster.signal(name, signal.SIGKILL)
    deadline_s = time.monotonic() + 10
    while call(cluster.base_url, "GET", "/readyz").status != 503:
        assert time.monotonic() < deadline_s
        time.sleep(0.1)
    time.sleep(2)
    for method, path, body in (
        ("GET", "/readyz", None),
        ("GET", "/livez", None),
        ("POST", "/api/usages", b"{}"),
        ("POST", "/messages", b'{"message": "x"}'),
        ("GET", "/api/usages/1", None),
        ("DELETE", f"/messages/{'a' * 64}", None),
    ):
        started_s = time.monotonic()
        answer = call(cluster.base_url, method, path, body, headers=[("X-Request-ID", "nobody-there")])
        assert assert_problem(answer, 503, "no_instance_available")["request_id"] == "nobody-there"
        assert time.monotonic() - started_s < 2
    # What is hidden stays hidden, and what is too large stays too large.
    assert call(cluster.base_url, "GET", "/metrics").status == 404
    cluster.start(names[0])
    assert post_usage(cluster.base_url, b"{}").status == 201


def test_haproxy_restarted_finds_the_instances_and_they_find_their_clients(cluster: RunningCluster, cql: Any) -> None:
    """HAProxy stopped and started again: the public address answers as before, and nothing acknowledged is lost."""
    with Traffic(cluster.base_url) as traffic:
        traffic.flow()
        cluster.stop("haproxy")
        cluster.start("haproxy")
        traffic.flow(200)
    assert_promises_kept(cql, traffic.ledger)
    assert traffic.ledger.statuses.keys() <= {200, 201, UNKNOWN}, traffic.ledger.statuses


def test_a_thousand_clients_at_once_are_all_answered(base_url: str) -> None:
    """More connections than requests at work: each gets its 201."""
    posts = [("POST", "/api/usages", b'{"number": %d}' % number, ()) for number in range(2_000)]
    outcomes = send_all([base_url], posts, connections=1_000, time_limit_s=60)
    assert {outcome.status for outcome in outcomes} == {201}
