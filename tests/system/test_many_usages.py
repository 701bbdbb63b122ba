"""Many usages at once through three web instances: ids, keys, and what is in Cassandra's tables afterwards."""

from __future__ import annotations

import json
import uuid
from collections import Counter
from typing import Any

import pytest

from deploy.cluster import RunningCluster
from tests.system.tables import usages_by_id, usages_by_key
from tests.system.traffic import Call, Outcome, send_all
from tests.system.wire import call, post_usage

USAGES = 10_000
RACERS = 50
ROUNDS = 5


def instance_urls(cluster: RunningCluster) -> list[str]:
    """The addresses of the web instances themselves."""
    return [f"http://{process.address}:{process.port}" for process in cluster.processes("web") if process.running]


def keyed_posts(key: str, bodies: list[bytes]) -> list[Call]:
    """A POST of each body under the one key."""
    return [("POST", "/api/usages", body, (("Idempotency-Key", key),)) for body in bodies]


def test_ten_thousand_usages_have_as_many_ids_and_are_all_read_back(base_url: str, cql: Any) -> None:
    """10,000 at once through three instances: distinct ids, each read back by id, each in Cassandra's own table."""
    run_id = uuid.uuid4().hex.encode()
    bodies = [b'{"patientId": "%b", "number": %d}' % (run_id, number) for number in range(USAGES)]
    posts: list[Call] = [("POST", "/api/usages", body, ()) for body in bodies]
    posted = send_all([base_url], posts, connections=96, time_limit_s=90)
    assert Counter(outcome.status for outcome in posted) == {201: USAGES}
    ids: list[int] = [json.loads(outcome.body)["id"] for outcome in posted]
    sent = dict(zip(ids, bodies, strict=True))
    assert len(sent) == USAGES
    assert all(1 <= id_ < 2**53 for id_ in ids)

    gets: list[Call] = [("GET", f"/api/usages/{id_}", None, ()) for id_ in ids]
    read = send_all([base_url], gets, connections=96, time_limit_s=90)
    wrong = [
        (id_, outcome)
        for id_, outcome in zip(ids, read, strict=True)
        if outcome.status != 200 or not outcome.body.endswith(b'"usage": ' + sent[id_] + b"}")
    ]
    assert wrong == []
    assert usages_by_id(cql, ids) == sent


def test_every_instance_takes_its_share(cluster: RunningCluster) -> None:
    """The load is spread: of 600 usages, no instance's id range is left out."""
    starts = {}
    for url in instance_urls(cluster):
        starts[url] = post_usage(url, b"{}").json()["id"]
    assert len(starts) == 3
    posts: list[Call] = [("POST", "/api/usages", b"{}", ())] * 600
    posted = send_all([cluster.base_url], posts, connections=24, time_limit_s=60)
    shares = Counter(
        min(starts.values(), key=lambda start: abs(json.loads(each.body)["id"] - start)) for each in posted
    )
    assert len(shares) == 3, shares
    assert min(shares.values()) >= 60, shares


def test_ids_rise_on_every_instance(cluster: RunningCluster) -> None:
    """A client that stays with one instance sees its ids rise."""
    for url in instance_urls(cluster):
        ids = [post_usage(url, b"{}").json()["id"] for _ in range(20)]
        assert ids == sorted(set(ids)), url


@pytest.mark.parametrize("kind", ["uuid", "uuid7", "text"])
def test_one_key_posted_fifty_times_at_once_leaves_one_usage(cluster: RunningCluster, cql: Any, kind: str) -> None:
    """Racing repeats are told 201 or 200, all the same id, and there is one row; a later repeat is a duplicate."""
    for number in range(ROUNDS):
        key = {
            "uuid": str(uuid.uuid4()),
            "uuid7": f"019{uuid.uuid4().hex[:5]}-{uuid.uuid4().hex[:4]}-7abc-8{uuid.uuid4().hex[:3]}-{uuid.uuid4().hex[:12]}",
            "text": f"order {number} of {uuid.uuid4().hex}".replace(" ", "/"),
        }[kind]
        body = b'{"patientId": "%b"}' % uuid.uuid4().hex.encode()
        urls = [cluster.base_url, *instance_urls(cluster)] if number % 2 else [cluster.base_url]
        outcomes = send_all(urls, keyed_posts(key, [body] * RACERS), connections=RACERS, time_limit_s=60)
        assert {outcome.status for outcome in outcomes} <= {200, 201}
        assert {json.loads(outcome.body)["id"] for outcome in outcomes} == {key}
        assert any(outcome.status == 201 for outcome in outcomes)
        assert usages_by_key(cql, key) == [body]
        for url in instance_urls(cluster):
            again = post_usage(url, body, ("Idempotency-Key", key))
            assert (again.status, again.json()) == (200, {"id": key, "duplicate": True})
        assert usages_by_key(cql, key) == [body]


def test_two_bodies_that_race_under_one_key_are_both_shown_or_one_is_refused(cluster: RunningCluster, cql: Any) -> None:
    """Whatever was acknowledged is in the table and in the read; whatever was refused is in neither."""
    for _ in range(20):
        key = uuid.uuid4().hex
        bodies = [b'{"patientId": "%d-%b"}' % (number, key.encode()) for number in range(2)]
        posts = keyed_posts(key, [bodies[number % 2] for number in range(12)])
        outcomes = send_all(instance_urls(cluster), posts, connections=12, time_limit_s=60)
        told = told_about(bodies, outcomes)
        assert all(statuses <= {200, 201, 422} for statuses in told.values()), told
        stored = {body for body, statuses in told.items() if statuses & {200, 201}}
        assert stored
        assert stored == set(usages_by_key(cql, key)), told
        first = call(cluster.base_url, "GET", f"/api/usages/keys/{key}").json()
        shown = [first, *first.get("conflicts", [])]
        assert len(shown) == len(stored)
        assert {json.dumps(each["usage"]).encode() for each in shown} == stored
        assert [each["received_at"] for each in shown] == sorted(each["received_at"] for each in shown)
        # However it went: what is stored is a duplicate from now on, what is not is refused.
        for body in bodies:
            later = post_usage(cluster.base_url, body, ("Idempotency-Key", key)).status
            assert later == (200 if body in stored else 422)


def told_about(bodies: list[bytes], outcomes: list[Outcome]) -> dict[bytes, set[int]]:
    """The statuses that each body's posts were given; the posts took turns."""
    return {body: {outcome.status for outcome in outcomes[number::2]} for number, body in enumerate(bodies)}
