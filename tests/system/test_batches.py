"""Batches through HAProxy: each item told rightly, also while Cassandra is away, and what every answer says it is worth."""

from __future__ import annotations

import contextlib
import itertools
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

from deploy.cluster import RunningCluster
from tests.system.batches import BATCH, LINES_TYPE, BatchStream, count, export, keyed, now, post_batch
from tests.system.tables import rows_with, wait_until_readable
from tests.system.whole_store import ACK, kill_store, start_store
from tests.system.wire import JSON_TYPE, Answer, call, post_usage

BACK_WITHIN_S = 120
ACK_WITHIN_S = 30
"""After a node was started anew: until it was asked how it keeps its commit log."""


class Told(NamedTuple):
    """An item, and what was said of it."""

    key: str | None
    usage: bytes
    result: dict[str, Any]


class Sender:
    """Items that nobody else sends, over one stream as long as it lasts, and all that was said of them."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.batch = BatchStream(url)
        self.token = uuid.uuid4().hex
        self.told: list[Told] = []
        self._numbers = itertools.count()

    def usage(self) -> bytes:
        """A text that comes once."""
        return b'{"patientId": "%b", "number": %d}' % (self.token.encode(), next(self._numbers))

    def key(self) -> str:
        """A key that comes once."""
        return f"{self.token}/{next(self._numbers)}"

    def send(self, *items: tuple[str | None, bytes]) -> list[dict[str, Any]]:
        """Send items as lines; the result of each."""
        lines = [text for _, text in map(self._text, items)]
        results = self._results(lines)
        if not results:
            # What is acknowledged after a failure may be worth less than the stream's header says, so it was ended, and
            # says so. These were not stored then.
            self.batch.close()
            self.batch = BatchStream(self.url)
            results = self._results(lines)
        return self._note(items, results)

    def post(self, *items: tuple[str | None, bytes]) -> dict[str, Any]:
        """Send items as an array of their own; the whole answer."""
        answer = post_batch(self.url, [text for _, text in map(self._text, items)])
        assert answer.status == 200, answer.body
        document: dict[str, Any] = answer.json()
        self._note(items, document["results"])
        return document

    def texts(self, *statuses: str, keyed_ones: bool) -> Counter[tuple[int | str | None, bytes]]:
        """The usages of these statuses, with what they are found under: the id that was told, or the key."""
        return Counter(
            (told.result.get("id") if told.key is None else told.key, told.usage)
            for told in self.told
            if told.result["status"] in statuses and (told.key is not None) is keyed_ones
        )

    def _results(self, lines: list[bytes]) -> list[dict[str, Any]]:
        """A result of each line; none of any when the stream was ended."""
        with contextlib.suppress(OSError):  # why it takes no more is read below
            self.batch.send(lines)
        results: list[dict[str, Any]] = []
        while len(results) < len(lines):
            (document,) = self.batch.results(1)
            if "summary" in document:
                assert (results, document["error"]["code"]) == ([], "ack_changed"), document
                assert document["summary"]["complete"] is False
                return []
            results.append(document)
        return results

    @staticmethod
    def _text(item: tuple[str | None, bytes]) -> tuple[str | None, bytes]:
        key, usage = item
        return key, usage if key is None else keyed(key, usage)

    def _note(self, items: tuple[tuple[str | None, bytes], ...], results: list[dict[str, Any]]) -> list[dict[str, Any]]:
        for (key, usage), result in zip(items, results, strict=True):
            self.told.append(Told(key, usage, result))
            if key is not None and result["status"] in ("created", "duplicate"):
                assert result["id"] == key
        return results


def statuses(results: list[dict[str, Any]]) -> list[str]:
    """In order."""
    return [result["status"] for result in results]


def test_each_item_is_told_what_became_of_it_and_the_tables_agree(whole_cluster: RunningCluster, cql: Any) -> None:
    """Created, duplicate and invalid; while Cassandra is dead retry, and created when it is sent again.

    Then every row of both tables is looked at: what was said to be created is there once, under the id or key that was
    told, and of the rest there is nothing but what is unknown.
    """
    url = whole_cluster.base_url
    since = now(url)
    sender = Sender(url)
    key, usage = sender.key(), sender.usage()
    assert_told_while_all_is_well(sender, key, usage)
    kill_store(whole_cluster)
    away = told_while_away(sender, key, usage)
    start_store(whole_cluster, wait=False)
    keep_asking(sender)
    # A retry was certainly not stored; of what is unknown there may be one already.
    for told in away:
        if told.key is None:
            continue
        (result,) = sender.send((told.key, told.usage))
        possible = {"created"} if told.result["status"] == "retry" else {"created", "duplicate"}
        assert result["status"] in (possible if told.key != key else {"duplicate"}), (told, result)
    sender.batch.finish()
    assert sender.batch.last()["summary"]["complete"] is True
    sender.batch.close()
    whole_cluster.wait_until_ready()
    wait_until_readable(cql)
    plain_rows, keyed_rows = rows_with(cql, sender.token)
    assert_rows(Counter(plain_rows), sender, keyed_ones=False)
    assert_rows(Counter(keyed_rows), sender, keyed_ones=True)
    listed = [row for row in export(url, from_=since) if sender.token.encode() in row.usage]
    assert Counter((row.id, row.usage) for row in listed) == Counter(plain_rows) + Counter(keyed_rows)
    assert count(url, from_=since)["total"] == len(export(url, from_=since))


def assert_told_while_all_is_well(sender: Sender, key: str, usage: bytes) -> None:
    """One of each kind that needs no failure, in order, with the line it stood on."""
    results = sender.send(
        (None, sender.usage()),
        (key, usage),
        (key, usage),
        (key, sender.usage()),
        (None, b'{"medication": 1, "of": "%b"}' % sender.token.encode()),
        (None, b'{"broken": "%b"' % sender.token.encode()),
        (None, sender.usage()),
    )
    assert statuses(results) == ["created", "created", "duplicate", "invalid", "invalid", "invalid", "created"]
    assert [result["line"] for result in results] == [1, 2, 3, 4, 5, 6, 7]
    assert [result["code"] for result in results[3:6]] == ["idempotency_key_reused", "invalid_field", "invalid_json"]
    assert [result.get("field") for result in results[3:6]] == ["idempotency_key", "medication", None]


def told_while_away(sender: Sender, key: str, usage: bytes) -> list[Told]:
    """What was said of items that came while Cassandra was dead: in the stream, and in an array."""
    before = len(sender.told)
    for _ in range(3):
        results = sender.send((None, sender.usage()), (sender.key(), sender.usage()), (key, usage), (None, b"7"))
        assert set(statuses(results[:3])) <= {"retry", "unknown"}
        assert results[3]["status"] == "invalid"
        assert all(result["detail"] and result["code"] for result in results)
    # By now the service knows that nobody is there.
    answer = sender.post((sender.key(), sender.usage()), (None, b"7"), (None, sender.usage()))
    assert statuses(answer["results"]) == ["retry", "invalid", "retry"]
    counts = {name: answer[name] for name in [*answer][:5]}
    assert counts == {"created": 0, "duplicate": 0, "invalid": 1, "retry": 2, "unknown": 0}
    assert answer["retry_after_s"] >= 1
    return [told for told in sender.told[before:] if told.result["status"] != "invalid"]


def keep_asking(sender: Sender) -> None:
    """A line now and then, on the same stream, until one is stored."""
    deadline_s = time.monotonic() + BACK_WITHIN_S
    while statuses(sender.send((None, sender.usage()))) != ["created"]:
        assert time.monotonic() < deadline_s, sender.told[-1]
        time.sleep(0.5)


def assert_rows(rows: Counter[Any], sender: Sender, *, keyed_ones: bool) -> None:
    """The rows are those that were created, and beside them at most what is unknown."""
    created = sender.texts("created", keyed_ones=keyed_ones)
    assert created - rows == Counter(), "lost"
    unknown = {usage for _, usage in sender.texts("unknown", keyed_ones=keyed_ones)}
    beside = rows - created
    assert max(beside.values(), default=1) == 1
    assert {usage for _, usage in beside} <= unknown, "stored though refused"


def test_every_write_of_usages_says_what_it_is_worth(base_url: str) -> None:
    """A commit log that is fsynced in batches, one copy or a quorum of three: so says each 2xx of a write, and no refusal."""
    deadline_s = time.monotonic() + ACK_WITHIN_S
    while post_usage(base_url, b"{}").header("ack") != ACK and time.monotonic() < deadline_s:
        time.sleep(0.2)
    for name, answer, status in writes(base_url):
        assert (answer.status, answer.header("ack")) == (status, ACK if status < 300 else None), name


def writes(url: str) -> Iterator[tuple[str, Answer, int]]:
    """A write of each kind, its answer, and the status that it has to have."""
    key = ("Idempotency-Key", uuid.uuid4().hex)
    long_way = ("Expect-Nothing", "1")  # headers that are not plain take the other way through the service
    for ways in ([], [long_way]):
        plain = post_usage(url, b"{}", *ways)
        yield "plain", plain, 201
        yield "DELETE by id", call(url, "DELETE", f"/api/usages/{plain.json()['id']}", headers=ways), 200
        yield "DELETE again", call(url, "DELETE", f"/api/usages/{plain.json()['id']}", headers=ways), 404
        yield "invalid", post_usage(url, b'{"medication": 1}', *ways), 422
    yield "keyed", post_usage(url, b"{}", key), 201
    yield "a duplicate", post_usage(url, b"{}", key), 200
    yield "another body", post_usage(url, b'{"x": 1}', key), 422
    yield "DELETE by key", call(url, "DELETE", f"/api/usages/keys/{key[1]}"), 200
    yield "an array", post_batch(url, [b"{}", b"{}"]), 200
    yield "strict", post_batch(url, [b"{}"], query="?strict=true"), 200
    yield "strict, refused", post_batch(url, [b"{}", b"7"], query="?strict=true"), 422
    lines = call(url, "POST", BATCH, b"{}\n{}\n", headers=[LINES_TYPE])
    assert b'"ack":"%b"' % ACK.encode() in lines.body.splitlines()[-1]
    yield "lines", lines, 200
    yield "not an array", call(url, "POST", BATCH, b"{}", headers=[JSON_TYPE]), 400
