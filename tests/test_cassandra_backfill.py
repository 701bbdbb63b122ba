"""The backfill of the directory: repeatable, in small pages, and through a cluster that times out now and then."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from cassandra import InvalidRequest, OperationTimedOut
from service.__main__ import main
from service.errors import StoreRefused
from service.settings import read_settings
from service.store import cassandra_backfill, cassandra_schema
from service.store.cassandra_backfill import PAGE_BYTES_MAX
from service.store.cassandra_schema import SchemaRun
from service.store.places import MINUTE_US

MINUTE = 30_000_000
ROWS = 40
PAGE = 4


class Driver:
    """A session of the driver's: one usage a minute in each table; statements fail as ``errors`` says."""

    def __init__(self) -> None:
        self.errors: Iterator[Exception | None] = iter(())
        self.pages: list[tuple[str, int]] = []
        self.written: Counter[tuple[str, tuple[Any, ...]]] = Counter()
        self.lock_is_ours = True

    def execute(self, statement: Any, values: Any = None, timeout: float = 0, paging_state: Any = None) -> Any:
        """A page of a table, or a renewal of the lock."""
        del values, timeout
        text = statement.query_string
        error = next(self.errors, None)
        if error is not None:
            raise error
        if "schema_lock" in text:
            applied, self.lock_is_ours = self.lock_is_ours or text.startswith("INSERT"), True
            return [(applied, "somebody")]
        first = paging_state or 0
        self.pages.append((text.split(".")[-1], first))
        assert statement.fetch_size == PAGE
        rows = [
            (number if "block" in text else f"key-{number}", (MINUTE + number) * MINUTE_US)
            for number in range(first, min(first + PAGE, ROWS))
        ]
        return SimpleNamespace(current_rows=rows, paging_state=first + PAGE if first + PAGE < ROWS else None)

    def prepare(self, text: str) -> str:
        """Its text."""
        return text

    def write(self, _driver: Any, text: str, rows: list[Any], **_: Any) -> None:
        """What execute_concurrent_with_args is asked for."""
        error = next(self.errors, None)
        if error is not None:
            raise error
        self.written.update((text.split()[2].rsplit(".", maxsplit=1)[-1], tuple(row)) for row in rows)


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Driver:
    """One that the backfill writes to."""
    driver = Driver()
    monkeypatch.setattr(cassandra_backfill, "execute_concurrent_with_args", driver.write)
    monkeypatch.setattr(cassandra_schema, "POLL_INTERVAL_S", 0)
    return driver


def run(driver: Driver, test: Callable[[SchemaRun], Any], wait_s: float = 60) -> list[str]:
    """The test with a run of the schema step on that driver; the lines that it reports."""
    lines: list[str] = []

    async def blocking(work: Callable[[Any], Any]) -> Any:
        await asyncio.sleep(0)
        return work(driver)

    async def step() -> None:
        settings = read_settings(
            {"BUSYAPI_STORE": "cassandra://h/k", "BUSYAPI_USAGE_BYTES_MAX": str(PAGE_BYTES_MAX // PAGE)}
        )
        each = SchemaRun(settings, wait_s, lines.append)
        each._session = SimpleNamespace(run_blocking=blocking)  # type: ignore[assignment]
        await test(each)

    asyncio.run(step())
    return lines


def test_a_page_that_times_out_is_read_again_and_not_all_that_was_before_it(driver: Driver):
    """A table of millions is never read through at one go by a cluster that is busy."""
    driver.errors = iter([None, None, *[OperationTimedOut("slow"), None, None] * 100])
    lines = run(driver, lambda each: each._backfill())
    assert lines[-1] == f"directory: made for {2 * ROWS} usages, which are counted anew"
    assert max(Counter(driver.pages).values()) == 1
    assert len(driver.pages) == 2 * ROWS / PAGE
    written = Counter(table for table, _ in driver.written)
    assert written["usage_directory"] == 2 * ROWS
    assert written["usage_minutes"] >= ROWS


def test_it_may_be_done_again(driver: Driver):
    """The same rows are written, and nothing else."""
    run(driver, lambda each: each._backfill())
    once = driver.written.copy()
    run(driver, lambda each: each._backfill())
    assert driver.written == once + once


def test_the_wait_is_counted_from_the_last_progress(driver: Driver):
    """However long all of it takes; where nothing goes on any more it ends, and says why."""
    slow = OperationTimedOut("slow")

    async def succeed(each: SchemaRun) -> None:
        each._deadline_s = 0  # what came before it has taken all the time there was
        await each._backfill()

    async def give_up(each: SchemaRun) -> None:
        with pytest.raises(StoreRefused, match=r"gave up waiting: .*slow"):
            await each._backfill()

    driver.errors = iter([None, slow])
    run(driver, succeed)
    driver.pages.clear()
    driver.errors = itertools.chain([None, None], itertools.repeat(slow))
    run(driver, give_up, wait_s=-1)
    assert len(driver.pages) == 1


def test_a_statement_that_is_wrong_is_not_tried_again(driver: Driver):
    """Nor is the reason kept to itself."""
    driver.errors = iter([InvalidRequest("no such table")])

    async def test(each: SchemaRun) -> None:
        each._renewed_s = asyncio.get_running_loop().time()
        with pytest.raises(StoreRefused, match="no such table"):
            await each._backfill()

    run(driver, test)


def test_a_lock_that_ran_out_while_the_cluster_was_away_is_taken_again(driver: Driver):
    """It lasts less long than a run waits."""
    driver.lock_is_ours = False
    run(driver, lambda each: each._renew())
    assert driver.lock_is_ours


@pytest.mark.parametrize("asked", [False, True])
@pytest.mark.parametrize("version_is_new", [False, True])
def test_the_schema_step_does_it_once_where_it_is_asked_for_or_due(
    *, asked: bool, version_is_new: bool, monkeypatch: pytest.MonkeyPatch
):
    """With the version that brings the directory, and with ``--backfill``."""
    done: list[bool] = []

    async def nothing(*_: Any) -> None:
        """Stands for the other steps."""

    async def backfill(*_: Any) -> int:
        done.append(True)
        return 0

    async def step() -> None:
        each = SchemaRun(read_settings({"BUSYAPI_STORE": "cassandra://h/k"}), 1, lambda _: None)
        each._session = SimpleNamespace(close=nothing)  # type: ignore[assignment]

        async def apply(_files: Any) -> None:
            if version_is_new:
                await each._backfill()

        for name in ("_connect", "_make_keyspace", "_lock", "_unlock", "_set_replication", "_renew"):
            monkeypatch.setattr(each, name, nothing)
        monkeypatch.setattr(each, "_apply", apply)
        await each.run(backfill=asked)

    monkeypatch.setattr(cassandra_schema, "backfill", backfill)
    asyncio.run(step())
    assert len(done) == (asked or version_is_new)


@pytest.mark.parametrize("asked", [False, True])
def test_the_command_line_hands_the_wish_on(*, asked: bool, monkeypatch: pytest.MonkeyPatch):
    """``python -m service schema --backfill``."""
    got: list[bool] = []

    async def apply_schema(*_: Any, backfill: bool, **__: Any) -> None:
        got.append(backfill)

    monkeypatch.setattr(cassandra_schema, "apply_schema", apply_schema)
    monkeypatch.setattr("service.__main__.set_up_logs", lambda *_: None)
    monkeypatch.setenv("BUSYAPI_STORE", "cassandra://h/k")
    assert main(["schema", *(["--backfill"] if asked else [])]) == 0
    assert got == [asked]
