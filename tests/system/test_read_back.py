"""Lists, counts and deletes of usages through HAProxy while others write, after faults, and once minutes are sealed."""

from __future__ import annotations

import contextlib
import itertools
import time
import uuid
from collections import Counter
from typing import Any
from urllib.parse import quote

import pytest

from deploy.cluster import RunningCluster
from tests.system.background import Background
from tests.system.batches import Row, count, export, keyed, now, pages, post_batch
from tests.system.tables import assert_promises_kept, wait_until_readable
from tests.system.traffic import Traffic
from tests.system.whole_store import kill_store, start_store
from tests.system.wire import Closed, assert_problem, call, post_usage

BACK_WITHIN_S = 120
SEALED_WITHIN_S = 210.0
"""A minute, and the ten seconds after which it is counted for good."""


def instance_urls(cluster: RunningCluster) -> list[str]:
    """The addresses of the web instances themselves."""
    return [f"http://{process.address}:{process.port}" for process in cluster.processes("web") if process.running]


class KeyedWriter(Background):
    """Small batches of usages under keys, one after the other, until the ``with`` ends."""

    def __init__(self, url: str) -> None:
        self.token = uuid.uuid4().hex
        self.told: list[tuple[str, bytes, str]] = []
        """Key, usage, and what the last answer said of it; ``unknown`` without one."""
        self._url = url
        super().__init__("keyed writer")

    def acknowledged(self) -> set[bytes]:
        """The usages that were said to be stored so far."""
        return {usage for _, usage, status in [*self.told] if status in ("created", "duplicate")}

    def _run(self) -> None:
        for number in itertools.count():
            if self._stopping.is_set():
                return
            some = [
                (
                    f"{self.token}/{number}/{n}",
                    b'{"patientId": "%b", "number": %d}' % (self.token.encode(), 20 * number + n),
                )
                for n in range(20)
            ]
            told = ["unknown"] * len(some)
            with contextlib.suppress(Closed, OSError):
                answer = post_batch(self._url, [keyed(key, usage) for key, usage in some])
                if answer.status == 200:
                    told = [result["status"] for result in answer.json()["results"]]
                elif answer.status == 503:
                    told = ["retry"] * len(some)
            self.told += [(key, usage, status) for (key, usage), status in zip(some, told, strict=True)]
            time.sleep(0.02)


def test_paging_while_others_write_misses_nothing_older_than_its_first_page_and_repeats_nothing(base_url: str) -> None:
    """Usages with and without keys come in over all instances, and pages are asked for of all instances.

    What was acknowledged before the first page was asked for is on one of the pages, in the order received; so is it in a
    stream.
    """
    since = now(base_url)
    with Traffic(base_url, pause_s=0.01) as traffic, KeyedWriter(base_url) as writer:
        traffic.flow(1_000, time_limit_s=120)
        before = {*traffic.ledger.acknowledged.copy().values(), *writer.acknowledged()}
        shown = [row for page in pages(base_url, 47, from_=since) for row in page]
        assert_whole_and_in_order(shown, before)
        before = {*traffic.ledger.acknowledged.copy().values(), *writer.acknowledged()}
        assert_whole_and_in_order(export(base_url, from_=since), before)
    assert set(traffic.ledger.statuses) <= {200, 201, 503, 504}, traffic.ledger.errors
    assert traffic.ledger.misread == []


def assert_whole_and_in_order(rows: list[Row], at_least: set[bytes]) -> None:
    """No usage twice, each in its place, and all of these among them."""
    assert [row.received_at for row in rows] == sorted(row.received_at for row in rows)
    assert [id_ for id_, times in Counter(row.id for row in rows).items() if times > 1] == []
    assert at_least - {row.usage for row in rows} == set()


def test_counts_equal_exports_in_every_window_after_faults(whole_cluster: RunningCluster, cql: Any) -> None:
    """A web instance and then Cassandra are killed under writes: what was acknowledged is exported, and counted, once.

    Every instance says the same, of the whole and of parts that cut minutes; the tables agree.
    """
    url = whole_cluster.base_url
    since = now(url)
    with Traffic(url, pause_s=0.01, time_limit_s=280) as traffic, KeyedWriter(url) as writer:
        traffic.flow(300)
        whole_cluster.kill("web2")
        traffic.flow(300)
        whole_cluster.start("web2", wait=False)
        kill_store(whole_cluster)
        traffic.flow(30, status=503)
        start_store(whole_cluster)
        traffic.flow(300, status=201, time_limit_s=BACK_WITHIN_S)
    whole_cluster.wait_until_ready()
    wait_until_readable(cql)
    ledger = traffic.ledger
    assert_promises_kept(cql, ledger)
    rows = export(url, from_=since)
    texts = Counter(row.usage for row in rows)
    assert max(texts.values()) == 1
    assert {*ledger.acknowledged.values(), *writer.acknowledged()} - texts.keys() == set(), (
        "acknowledged, and not listed"
    )
    refused = {usage for _, usage, status in writer.told if status == "retry"} | set(ledger.refused)
    assert refused & texts.keys() == set(), "refused, and listed"
    end = time_of(int(time.time()) // 60 + 2)
    cuts = [since, rows[len(rows) // 3].received_at, rows[2 * len(rows) // 3].received_at, end]
    for each in instance_urls(whole_cluster):
        assert [row.id for row in export(each, from_=since)] == [row.id for row in rows]
        for from_, to in itertools.combinations(cuts, 2):
            inside = [row for row in rows if from_ <= row.received_at < to]
            assert_counted(each, inside, from_, to)


WINDOW_LENGTH = {"minute": len("2026-11-23T09:11"), "hour": len("2026-11-23T09"), "day": len("2026-11-23")}
"""So much of a time names its window."""


def assert_counted(url: str, rows: list[Row], from_: str, to: str) -> None:
    """The count of each window, and of all, is that of the rows."""
    assert count(url, from_=from_, to=to)["total"] == len(rows)
    for window, length in WINDOW_LENGTH.items():
        counted = count(url, window, from_=from_, to=to)
        assert counted["total"] == len(rows)
        found = {each["from"][:length]: each["count"] for each in counted["windows"] if each["count"]}
        assert found == Counter(row.received_at[:length] for row in rows), window


def test_a_deleted_usage_is_in_no_read_list_or_count_and_its_key_is_free(cluster: RunningCluster) -> None:
    """Deleted through HAProxy, gone from each instance; a POST under the key is a new usage."""
    since = now(cluster.base_url)
    key = f"deleted/{uuid.uuid4().hex}"
    under_key = ("Idempotency-Key", key)
    ids = [post_usage(cluster.base_url, b'{"n": %d}' % n).json()["id"] for n in range(3)]
    assert post_usage(cluster.base_url, b'{"n": 3}', under_key).status == 201
    assert_shown(cluster, since, {*ids, key})
    for id_, path in ((ids[1], f"/api/usages/{ids[1]}"), (key, f"/api/usages/keys/{key}")):
        answer = call(cluster.base_url, "DELETE", path)
        assert (answer.status, answer.json()) == (200, {"usage_deleted": id_})
        assert_problem(call(cluster.base_url, "DELETE", path), 404)
        for url in instance_urls(cluster):
            assert_problem(call(url, "GET", path), 404)
    assert_shown(cluster, since, {ids[0], ids[2]})
    assert post_usage(cluster.base_url, b'{"n": 4}', under_key).status == 201  # another body: nothing of before is left
    assert post_usage(cluster.base_url, b'{"n": 4}', under_key).json() == {"id": key, "duplicate": True}
    assert_shown(cluster, since, {ids[0], ids[2], key})


def assert_shown(cluster: RunningCluster, since: str, ids: set[int | str]) -> None:
    """Each instance lists, exports and counts these, and the marker before them."""
    for url in instance_urls(cluster):
        listed = [row.id for page in pages(url, 2, from_=since) for row in page]
        assert {*listed[1:]} == ids
        assert len(listed) == len(ids) + 1
        assert [row.id for row in export(url, from_=since)] == listed
        assert count(url, from_=since)["total"] == len(listed)


@pytest.mark.timeout(300)
def test_a_minute_that_was_counted_for_good_is_still_that_of_its_usages(cluster: RunningCluster, cql: Any) -> None:
    """Sealed minutes say what an export does; a DELETE in one of them shows in the count at once."""
    day, minute = sealed_minute(cql, cluster.base_url)
    from_, to = time_of(minute), time_of(minute + 1)
    rows = export(cluster.base_url, from_=from_, to=to)
    assert len(rows) == sealed(cql, day)[minute]
    assert_counted(cluster.base_url, rows, from_, to)
    # What is counted for good is what is told: a wrong number in the table would show.
    cql.execute("UPDATE usage_minutes SET count = %s WHERE day = %s AND minute = %s", [len(rows) + 1000, day, minute])
    assert count(cluster.base_url, from_=from_, to=to)["total"] == len(rows) + 1000
    gone = rows[len(rows) // 2]
    name = gone.id if isinstance(gone.id, int) else f"keys/{quote(gone.id, safe='')}"
    assert call(cluster.base_url, "DELETE", f"/api/usages/{name}").status == 200
    for url in instance_urls(cluster):
        assert_counted(url, [row for row in rows if row.id != gone.id], from_, to)


def sealed(cql: Any, day: int) -> dict[int, int]:
    """The minutes of a day that are counted for good, by the table."""
    rows = cql.execute("SELECT minute, count FROM usage_minutes WHERE day = %s", [day])
    return {row.minute: row.count for row in rows if row.count is not None}


def sealed_minute(cql: Any, url: str) -> tuple[int, int]:
    """The last minute that is counted for good and has a few usages, once there is one.

    Those in which an instance was killed stay open for hours, so usages are posted meanwhile.
    """
    deadline_s = time.monotonic() + SEALED_WITHIN_S
    while True:
        for day in sorted(
            (row.day for row in cql.execute("SELECT day FROM usage_days WHERE name = 'usages'")), reverse=True
        ):
            minutes = [minute for minute, number in sealed(cql, day).items() if 3 <= number <= 50_000]
            if minutes:
                return day, max(minutes)
        assert time.monotonic() < deadline_s, "no minute was sealed"
        post_usage(url, b"{}")
        time.sleep(1)


def time_of(minute: int) -> str:
    """RFC 3339 of a minute since the epoch."""
    return time.strftime("%Y-%m-%dT%H:%M:00Z", time.gmtime(minute * 60))
