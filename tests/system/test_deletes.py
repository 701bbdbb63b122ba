"""DELETE, POST and GET of one message over different web instances."""

from __future__ import annotations

import hashlib
import itertools
import json
import uuid

from deploy.cluster import RunningCluster
from tests.system.traffic import Call, send_all
from tests.system.wire import call, post_message

ROUNDS = 5


def test_what_was_deleted_is_gone_and_what_was_posted_is_there_over_all_instances(cluster: RunningCluster) -> None:
    """POST, DELETE, GET, POST, GET, each on another instance in every order: each sees what was done before it."""
    urls = [f"http://{process.address}:{process.port}" for process in cluster.processes("web")]
    assert len(urls) == 3
    message = f"moved about {uuid.uuid4().hex}"
    path = f"/messages/{hashlib.sha256(message.encode()).hexdigest()}"
    for _, (one, two, three) in itertools.product(range(ROUNDS), itertools.permutations(urls)):
        assert post_message(one, message).status == 201
        assert call(two, "DELETE", path).status == 200
        assert call(three, "GET", path).status == 404
        assert call(one, "DELETE", path).status == 404
        assert post_message(three, message).status == 201
        assert call(one, "GET", path).json() == {"message": message}
        assert call(two, "GET", path).status == 200


def test_many_messages_are_deleted_and_posted_again_through_haproxy(base_url: str) -> None:
    """A hundred messages in step: posted, deleted, gone, posted again, there; twice, over all instances."""
    messages = [f"message {number} of {uuid.uuid4().hex}" for number in range(100)]
    paths = [f"/messages/{hashlib.sha256(message.encode()).hexdigest()}" for message in messages]
    posts: list[Call] = [("POST", "/messages", json.dumps({"message": message}).encode(), ()) for message in messages]
    for _ in range(2):
        for calls, status in (
            (posts, 201),
            ([("DELETE", path, None, ()) for path in paths], 200),
            ([("GET", path, None, ()) for path in paths], 404),
            ([("DELETE", path, None, ()) for path in paths], 404),
            (posts, 201),
            ([("GET", path, None, ()) for path in paths], 200),
        ):
            outcomes = send_all([base_url], calls, connections=20, time_limit_s=60)
            assert {outcome.status for outcome in outcomes} == {status}, calls[0][0]


def test_a_message_deleted_under_its_readers_is_found_again_only_after_a_post(base_url: str) -> None:
    """Twenty deletes of one message at once: it is gone for everyone, and one POST brings it back for everyone."""
    message = f"contended {uuid.uuid4().hex}"
    path = f"/messages/{hashlib.sha256(message.encode()).hexdigest()}"
    deletes: list[Call] = [("DELETE", path, None, ())] * 20
    gets: list[Call] = [("GET", path, None, ())] * 20
    for _ in range(4):
        assert post_message(base_url, message).status == 201
        assert {outcome.status for outcome in send_all([base_url], gets, connections=20, time_limit_s=30)} == {200}
        deleted = send_all([base_url], deletes, connections=20, time_limit_s=30)
        assert {outcome.status for outcome in deleted} <= {200, 404}
        assert any(outcome.status == 200 for outcome in deleted)
        assert {outcome.status for outcome in send_all([base_url], gets, connections=20, time_limit_s=30)} == {404}
