"""The rows of the table, with what each is promised. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["rate", "cpu", "p50", "scaling", "per_second", "memory"]
"""A ratio of rates; µs of a role; a ratio of latencies; a part of linear; an absolute rate; MiB of growth."""
BATCH_ITEMS = 500
"""Usages of each batch."""
BATCH_OVER = f"HAProxy, 2 web instances, Cassandra, batches of {BATCH_ITEMS}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A row to be: which case of which section it takes, and for a ratio which other case it divides by."""

    key: str
    title: str
    section: str
    case: str
    target: float | None = None
    """None where the number is shown and none is promised."""
    over: str | None = None
    kind: Kind = "rate"
    role: str = ""
    """Of kind cpu: whose CPU time."""
    instances: int = 0
    """Of kind scaling: how many web instances are compared with one."""

    @property
    def cases(self) -> tuple[str, ...]:
        """The cases it needs."""
        return (self.case,) if self.over is None else (self.case, self.over)


TARGETS = (
    Target(
        key="storeless",
        title="Durable POST /api/usages ÷ the same stack with the store switched off",
        target=0.70,
        section="rounds",
        case="durable",
        over="storeless",
    ),
    Target(
        key="express",
        title="Durable POST ÷ Express 5 in memory, one process, no balancer",
        target=2.5,
        section="rounds",
        case="durable",
        over="express",
    ),
    Target(
        key="go_pgx",
        title="Durable POST ÷ Go net/http + pgx, one INSERT per request, PostgreSQL, synchronous_commit=on, no balancer",
        target=1.7,
        section="rounds",
        case="durable",
        over="go_pgx",
    ),
    Target(
        key="plain_fastapi",
        title="Durable POST ÷ plain FastAPI + pydantic + one execute_async per request, same topology",
        target=10,
        section="rounds",
        case="durable",
        over="plain_fastapi",
    ),
    Target(
        key="cpu_web",
        title="CPU per acknowledged usage: web instances",
        target=30,
        section="rounds",
        case="durable",
        kind="cpu",
        role="web",
    ),
    Target(
        key="cpu_haproxy",
        title="CPU per acknowledged usage: HAProxy",
        target=15,
        section="rounds",
        case="durable",
        kind="cpu",
        role="haproxy",
    ),
    Target(
        key="cpu_cassandra",
        title="CPU per acknowledged usage: Cassandra",
        target=12,
        section="rounds",
        case="durable",
        kind="cpu",
        role="cassandra",
    ),
    Target(
        key="idle",
        title="Idle: p50 of one client in sequence ÷ p50 of a single unbatched driver write",
        target=1.3,
        section="idle",
        case="client",
        over="driver",
        kind="p50",
    ),
    Target(
        key="keyed",
        title="Usages with a UUIDv7 Idempotency-Key ÷ without a key",
        target=0.4,
        section="rounds",
        case="keyed",
        over="durable",
    ),
    Target(
        key="sqlite",
        title="SQLite store, one process, no HAProxy, fsync per group ÷ Express 5 in memory, one process",
        target=2.5,
        section="sqlite",
        case="sqlite",
        over="express",
    ),
    Target(
        key="sqlite_rqlite",
        title="SQLite store, as many processes as cores, no HAProxy ÷ rqlite's own group commit",
        target=1.0,
        section="sqlite",
        case="sqlite_cores",
        over="rqlite",
    ),
    Target(
        key="messages",
        title="Messages, POST → GET → DELETE of random 20 characters ÷ plain FastAPI, one row per request",
        target=3,
        section="messages",
        case="messages",
        over="messages_plain",
    ),
    Target(
        key="scaling_2",
        title="1 → 2 web instances, each held to a fixed CPU share: part of linear",
        target=0.9,
        section="scaling",
        case="web2",
        over="web1",
        kind="scaling",
        instances=2,
    ),
    Target(
        key="scaling_4",
        title="1 → 4 web instances, each held to a fixed CPU share: part of linear",
        target=0.9,
        section="scaling",
        case="web4",
        over="web1",
        kind="scaling",
        instances=4,
    ),
    Target(
        key="batch",
        title=f"Usages on disk by POST /api/usages/batch, an array: {BATCH_OVER}",
        target=60_000,
        section="batches",
        case="batch",
        kind="per_second",
    ),
    Target(
        key="batch_single",
        title=f"Usages in arrays of {BATCH_ITEMS} ÷ by single POSTs, the same instances",
        section="batches",
        case="batch",
        over="durable",
    ),
    Target(
        key="batch_lines",
        title=f"Usages on disk as NDJSON, results as lines: {BATCH_OVER}",
        section="batches",
        case="batch_lines",
        kind="per_second",
    ),
    Target(
        key="batch_keyed",
        title=f"Usages on disk each under a UUIDv7 idempotency_key, an array: {BATCH_OVER}",
        section="batches",
        case="batch_keyed",
        kind="per_second",
    ),
    Target(
        key="batch_cpu_web",
        title="CPU per usage of an array: web instances",
        section="batches",
        case="batch",
        kind="cpu",
        role="web",
    ),
    Target(
        key="batch_cpu_haproxy",
        title="CPU per usage of an array: HAProxy",
        section="batches",
        case="batch",
        kind="cpu",
        role="haproxy",
    ),
    Target(
        key="batch_cpu_cassandra",
        title="CPU per usage of an array: Cassandra",
        section="batches",
        case="batch",
        kind="cpu",
        role="cassandra",
    ),
    Target(
        key="stream_memory",
        title="NDJSON streamed through one connection: growth of the resident memory of a fresh web instance",
        target=16,
        section="stream",
        case="stream",
        kind="memory",
    ),
)
