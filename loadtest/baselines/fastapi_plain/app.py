"""The plain service: each request is validated by pydantic and makes one statement of its own.

Started as ``python -m uvicorn loadtest.baselines.fastapi_plain.app:app --port 8001 --no-access-log`` once
``python -m loadtest.baselines.fastapi_plain setup`` has made the tables. uvicorn takes uvloop and httptools when they are
there, and one process for each web instance behind HAProxy is what its documentation and FastAPI's recommend. Settings:
those of :mod:`session`, and INSTANCE (0 to 15), which keeps the ids of several processes apart.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import FastAPI, HTTPException, Request
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from loadtest.baselines.fastapi_plain.session import KEYSPACE, connect

ID_EPOCH_S = 1_735_689_600  # 2025-01-01
INSTANCE_SHIFT = 49  # microseconds of 17 years below it, 16 instances above it: an id is below 2^53


class Usage(BaseModel):
    """A usage: three known fields, checked when they are there, and whatever else the client sends."""

    model_config = ConfigDict(extra="allow")

    patient_id: Annotated[str, StringConstraints(min_length=1, max_length=128)] | int | None = Field(
        default=None, alias="patientId"
    )
    timestamp: str | float | int | None = None
    medication: str | None = None


class UsageCreated(BaseModel):
    """The id of a usage that was stored."""

    id: int


class Message(BaseModel):
    """A message, as sent and as read."""

    message: str


class MessageCreated(BaseModel):
    """The digest under which a message is read."""

    digest: str


class MessageDeleted(BaseModel):
    """The digest of a message that was deleted."""

    message_deleted: str


class Store:
    """Prepared statements, and the way from the driver's thread back to the event loop."""

    def __init__(self) -> None:
        self.cluster, self._session = connect()
        self.insert_usage = self._session.prepare(f"INSERT INTO {KEYSPACE}.usages (id, usage) VALUES (?, ?)")
        self.insert_message = self._session.prepare(f"INSERT INTO {KEYSPACE}.messages (digest, message) VALUES (?, ?)")
        self.select_message = self._session.prepare(f"SELECT message FROM {KEYSPACE}.messages WHERE digest = ?")
        self.delete_message = self._session.prepare(f"DELETE FROM {KEYSPACE}.messages WHERE digest = ?")

    async def execute(self, statement: Any, values: tuple[Any, ...]) -> list[Any]:
        """The rows that a statement returns, once Cassandra has answered."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[list[Any]] = loop.create_future()

        def answered(rows: list[Any] | None) -> None:
            loop.call_soon_threadsafe(resolve, rows or [])

        def failed(error: Exception) -> None:
            loop.call_soon_threadsafe(reject, error)

        def resolve(rows: list[Any]) -> None:
            if not future.done():
                future.set_result(rows)

        def reject(error: Exception) -> None:
            if not future.done():
                future.set_exception(error)

        self._session.execute_async(statement, values).add_callbacks(answered, failed)
        return await future


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Open the session, and number ids from now on so that a restart repeats none."""
    app.state.store = store = Store()
    first = int(os.environ.get("INSTANCE", "0")) << INSTANCE_SHIFT
    app.state.ids = itertools.count(first + int((time.time() - ID_EPOCH_S) * 1_000_000))
    yield
    store.cluster.shutdown()


app = FastAPI(title="The plain service", lifespan=lifespan)


@app.get("/readyz")
async def ready() -> dict[str, str]:
    """The service answers once its session is open."""
    return {}


@app.post("/api/usages", status_code=201)
async def create_usage(usage: Usage, request: Request) -> UsageCreated:
    """Store a usage."""
    state = request.app.state
    number = next(state.ids)
    text = usage.model_dump_json(by_alias=True, exclude_unset=True)
    await state.store.execute(state.store.insert_usage, (number, text))
    return UsageCreated(id=number)


@app.post("/messages", status_code=201)
async def create_message(message: Message, request: Request) -> MessageCreated:
    """Store a message under the sha256 of its UTF-8."""
    store: Store = request.app.state.store
    digest = hashlib.sha256(message.message.encode()).hexdigest()
    await store.execute(store.insert_message, (digest, message.message))
    return MessageCreated(digest=digest)


@app.get("/messages/{digest}")
async def read_message(digest: str, request: Request) -> Message:
    """Read a message."""
    store: Store = request.app.state.store
    rows = await store.execute(store.select_message, (digest.lower(),))
    if not rows:
        raise HTTPException(404, "Message not found")
    return Message(message=rows[0].message)


@app.delete("/messages/{digest}")
async def delete_message(digest: str, request: Request) -> MessageDeleted:
    """Delete a message."""
    store: Store = request.app.state.store
    await store.execute(store.delete_message, (digest.lower(),))
    return MessageDeleted(message_deleted=digest.lower())
