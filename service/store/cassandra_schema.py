"""The schema: keyspace and versioned CQL files, applied by ``python -m service schema``.

Safe to run twice and from several places at once: a row with a time to live, taken by a light-weight transaction, lets
one run at a time through, and what was applied is recorded with the checksum of its file.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from cassandra.query import SimpleStatement

from cassandra import OperationTimedOut, RequestValidationException
from service.errors import StoreRefused
from service.settings import Settings
from service.store.cassandra_backfill import backfill
from service.store.cassandra_connect import UNREACHABLE, describe
from service.store.cassandra_session import CassandraSession

SCHEMA_DIRECTORY = Path(__file__).resolve().parents[2] / "cassandra" / "schema"
PATIENT_INDEX = SCHEMA_DIRECTORY / "optional" / "patient_index.cql"
"""What a setting asks for is no version: it can be repeated, and is applied each time while the setting is on."""
DIRECTORY_VERSION = 2
"""Brings a directory of usages: those that are there already are entered in it before the version counts as applied."""
STATEMENT_TIMEOUT_S = 20.0
LOCK_TTL_S = 45  # renewed before each statement: longer than one and the agreement on it may take
POLL_INTERVAL_S = 0.5
REPORT_INTERVAL_S = 5.0
TABLE_IDS = uuid.UUID("7d0c1c5e-58f1-4f0b-9c53-0f2a4a6f5e11")

T = TypeVar("T")
Report = Callable[[str], object]
Values: TypeAlias = tuple[Any, ...] | None

# In the braces goes the quoted keyspace.
LOCK_TABLE = "CREATE TABLE IF NOT EXISTS {}.schema_lock (name text PRIMARY KEY, owner text) WITH id = {}"
TAKE_LOCK = "INSERT INTO {}.schema_lock (name, owner) VALUES ('schema', %s) IF NOT EXISTS USING TTL %s"
RENEW_LOCK = "UPDATE {}.schema_lock USING TTL %s SET owner = %s WHERE name = 'schema' IF owner = %s"
DROP_LOCK = "DELETE FROM {}.schema_lock WHERE name = 'schema' IF owner = %s"
VERSIONS_TABLE = (
    "CREATE TABLE IF NOT EXISTS {}.schema_versions"
    " (version int PRIMARY KEY, name text, checksum text, applied_at timestamp)"
)
SELECT_VERSIONS = "SELECT version, name, checksum FROM {}.schema_versions"
INSERT_VERSION = (
    "INSERT INTO {}.schema_versions (version, name, checksum, applied_at) VALUES (%s, %s, %s, to_timestamp(now()))"
)
SELECT_REPLICATION = "SELECT replication FROM system_schema.keyspaces WHERE keyspace_name = %s"


@dataclass(frozen=True, slots=True)
class SchemaFile:
    """One version: ``NNN_name.cql``."""

    version: int
    name: str
    checksum: str
    statements: tuple[str, ...]


def split_statements(text: str) -> tuple[str, ...]:
    """The statements of a CQL file: ``--`` starts a comment, ``;`` ends a statement, wherever they stand."""
    without_comments = re.sub(r"--[^\n]*", "", text)
    return tuple(part.strip() for part in without_comments.split(";") if part.strip())


def read_schema(directory: Path = SCHEMA_DIRECTORY) -> list[SchemaFile]:
    """The versions in order. They are 1, 2, 3 ... with nothing missing."""
    files = []
    for path in sorted(directory.glob("*.cql")):
        data = path.read_bytes()
        number = path.name.split("_", 1)[0]
        checksum = hashlib.sha256(data).hexdigest()
        files.append(SchemaFile(int(number), path.name, checksum, split_statements(data.decode())))
    if [file.version for file in files] != list(range(1, len(files) + 1)) or not files:
        raise StoreRefused(f"the schema files in {directory} are not numbered 001, 002 ...")
    return files


def to_apply(files: Sequence[SchemaFile], applied: dict[int, tuple[str, str]]) -> list[SchemaFile]:
    """The versions that are not applied yet. Raises StoreRefused when an applied one is not the file of its number."""
    for file in files:
        if file.version in applied and applied[file.version][1] != file.checksum:
            raise StoreRefused(
                f"{file.name} was changed after it was applied (as {applied[file.version][0]}); put changes in a new file"
            )
    return [file for file in files if file.version not in applied]


def replication_of(current: dict[str, str] | None, local_dc: str, factor: int) -> dict[str, str]:
    """What the keyspace's replication ought to be; other data centres keep theirs."""
    wanted = {"class": "NetworkTopologyStrategy", local_dc: str(factor)}
    if current and current.get("class", "").endswith("NetworkTopologyStrategy"):
        wanted = {**current, "class": "NetworkTopologyStrategy", local_dc: str(factor)}
    return wanted


async def apply_schema(settings: Settings, *, wait_s: float, report: Report, backfill: bool = False) -> None:
    """Bring keyspace and tables up to date, and the directory if asked to. Raises StoreRefused ``wait_s`` after the last progress."""
    await SchemaRun(settings, wait_s, report).run(backfill=backfill)


class SchemaRun:
    """One run of ``apply_schema``."""

    def __init__(self, settings: Settings, wait_s: float, report: Report) -> None:
        self._settings = settings
        self._keyspace = f'"{settings.store.keyspace}"'
        self._report = report
        self._owner = str(uuid.uuid4())
        self._wait_s, self._deadline_s = wait_s, asyncio.get_running_loop().time() + wait_s
        self._reported = ("", 0.0)
        self._renewed_s, self._filled = 0.0, False
        self._session: CassandraSession

    async def run(self, *, backfill: bool = False) -> None:
        """Connect, make the keyspace, and under the lock do what is left to do, and the backfill where it is asked for."""
        files = read_schema()
        await self._connect()
        try:
            await self._make_keyspace()
            await self._lock()
            try:
                await self._set_replication()
                await self._apply(files)
                await self._apply_optional()
                if backfill and not self._filled:
                    await self._backfill()
            finally:
                await self._unlock()
        finally:
            await self._session.close()

    async def _connect(self) -> None:
        """Wait until as many nodes are there as there shall be replicas."""
        factor = self._settings.cassandra_replication_factor
        while True:
            try:
                self._session = await CassandraSession.connect(self._settings)
            except StoreRefused as error:
                await self._wait(str(error))
                continue
            nodes = self._session.local_hosts()
            if nodes >= factor:
                self._report(f"connected to {self._settings.store} ({nodes} nodes in {self._session.local_dc})")
                return
            await self._session.close()
            await self._wait(f"replication {factor} needs as many nodes, and Cassandra knows of {nodes}")

    async def _make_keyspace(self) -> None:
        """The keyspace and the lock's table, which are made without the lock and so must come out the same from anyone."""
        replication = replication_of(None, self._session.local_dc, self._settings.cassandra_replication_factor)
        table_id = uuid.uuid5(TABLE_IDS, self._settings.store.keyspace)
        while True:
            try:
                if await self._replication() is None:
                    await self._execute(
                        f"CREATE KEYSPACE IF NOT EXISTS {self._keyspace} WITH replication = {replication}"
                    )
                    self._report(f"keyspace {self._settings.store.keyspace}: made, {replication}")
                # Two nodes that make a table at once agree on it only if its id is given.
                await self._execute(LOCK_TABLE.format(self._keyspace, table_id))
                return
            except UNREACHABLE as error:
                await self._wait(describe(error))

    async def _lock(self) -> None:
        while True:
            try:
                rows = await self._execute(TAKE_LOCK.format(self._keyspace), (self._owner, LOCK_TTL_S))
                # Not applied, yet ours: an attempt before this one got through after all.
                if rows[0][0] or self._owner in rows[0]:
                    return
                reason = "another run is changing the schema"
            except UNREACHABLE as error:
                reason = describe(error)
            await self._wait(reason)

    async def _renew(self) -> None:
        rows = await self._checked(RENEW_LOCK.format(self._keyspace), (LOCK_TTL_S, self._owner, self._owner))
        if not rows[0][0]:  # it ran out while Cassandra was away; what another run did meanwhile may be done again
            rows = await self._checked(TAKE_LOCK.format(self._keyspace), (self._owner, LOCK_TTL_S))
            if not rows[0][0] and self._owner not in rows[0]:
                raise StoreRefused("another run took over the lock on the schema; run this again")
        self._renewed_s = asyncio.get_running_loop().time()

    async def _progress(self) -> None:
        """Something long goes on: the wait is counted from here, and the lock is held."""
        now_s = asyncio.get_running_loop().time()
        self._deadline_s = now_s + self._wait_s
        if now_s - self._renewed_s >= LOCK_TTL_S / 4:
            await self._renew()

    async def _unlock(self) -> None:
        try:
            await self._execute(DROP_LOCK.format(self._keyspace), (self._owner,))
        except UNREACHABLE as error:
            self._report(f"the lock on the schema goes by itself in {LOCK_TTL_S} s ({describe(error)})")

    async def _set_replication(self) -> None:
        current = await self._replication()
        wanted = replication_of(current, self._session.local_dc, self._settings.cassandra_replication_factor)
        if current is None or {**current, "class": current["class"].rsplit(".", 1)[-1]} == wanted:
            self._report(f"replication: {wanted}, in place")
            return
        await self._renew()
        await self._checked(f"ALTER KEYSPACE {self._keyspace} WITH replication = {wanted}")
        self._report(f"replication: changed from {current} to {wanted}")
        keyspace = self._settings.store.keyspace
        self._report(f"run `nodetool repair --full {keyspace}` on every node: rows move only by it")

    async def _apply(self, files: Sequence[SchemaFile]) -> None:
        await self._renew()
        await self._checked(VERSIONS_TABLE.format(self._keyspace))
        rows = await self._checked(SELECT_VERSIONS.format(self._keyspace))
        pending = to_apply(files, {version: (name, checksum) for version, name, checksum in rows})
        for file in files:
            if file not in pending:
                self._report(f"{file.name}: in place")
                continue
            await self._apply_statements(file.statements)
            if file.version == DIRECTORY_VERSION:
                await self._backfill()
            record = (file.version, file.name, file.checksum)
            await self._checked(INSERT_VERSION.format(self._keyspace), record)
            self._report(f"{file.name}: applied, {len(file.statements)} statements")
        unknown = sorted({row[0] for row in rows} - {file.version for file in files})
        if unknown:
            self._report(f"versions {unknown} were applied by a later release; this one works with what it knows")

    async def _backfill(self) -> None:
        await self._progress()

        async def run(work: Callable[[Any], Any]) -> Any:
            return await self._repeat(lambda: self._session.run_blocking(work), "the backfill")

        count = await backfill(run, self._keyspace, self._settings.usage_bytes_max, self._progress)
        self._filled = True
        if count:
            self._report(f"directory: made for {count} usages, which are counted anew")

    async def _apply_optional(self) -> None:
        if self._settings.patient_index == "on":
            await self._apply_statements(split_statements(PATIENT_INDEX.read_text()))
            self._report("patient index: in place; usages that were stored while it was off are not in it")

    async def _apply_statements(self, statements: Sequence[str]) -> None:
        for statement in statements:
            await self._renew()
            # Table names in the files stand alone; the keyspace goes beside the statement.
            await self._checked(statement, keyspace=self._settings.store.keyspace)

    async def _replication(self) -> dict[str, str] | None:
        rows = await self._execute(SELECT_REPLICATION, (self._settings.store.keyspace,))
        return dict(rows[0][0]) if rows else None

    async def _checked(self, text: str, values: Values = None, keyspace: str | None = None) -> list[tuple[Any, ...]]:
        return await self._repeat(lambda: self._execute(text, values, keyspace), " ".join(text.split())[:200])

    async def _repeat(self, step: Callable[[], Awaitable[T]], what: str) -> T:
        """Every step here can be repeated, so it is, until the time is up or Cassandra says that it is wrong."""
        while True:
            try:
                return await step()
            except RequestValidationException as error:
                raise StoreRefused(f"{describe(error)} in: {what}") from error
            except UNREACHABLE as error:
                await self._wait(describe(error))

    async def _execute(self, text: str, values: Values = None, keyspace: str | None = None) -> list[tuple[Any, ...]]:
        """Run one statement; after a change of the schema, wait until all nodes that are up agree on it."""
        statement = SimpleStatement(text, keyspace=keyspace)

        def work(session: Any) -> list[tuple[Any, ...]]:
            rows = list(session.execute(statement, values, timeout=STATEMENT_TIMEOUT_S))
            if text.startswith(("CREATE", "ALTER", "DROP")):
                agreed = session.cluster.control_connection.wait_for_schema_agreement(wait_time=STATEMENT_TIMEOUT_S)
                if not agreed:
                    raise OperationTimedOut("the nodes do not agree on the schema yet")
            return rows

        return await self._session.run_blocking(work)

    async def _wait(self, reason: str) -> None:
        """Between two attempts. Says why, now and then; raises StoreRefused when the time is up."""
        now_s = asyncio.get_running_loop().time()
        if now_s > self._deadline_s:
            raise StoreRefused(f"gave up waiting: {reason}")
        if reason != self._reported[0] or now_s - self._reported[1] >= REPORT_INTERVAL_S:
            self._reported = (reason, now_s)
            self._report(f"waiting: {reason}")
        await asyncio.sleep(POLL_INTERVAL_S)
