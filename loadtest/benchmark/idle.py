"""Single writes by the Cassandra driver, one after the other, in a process of its own: what no service can undercut.

``python -m loadtest.benchmark.idle HOST PORT`` prints "ready", and then for each line with a number of seconds on its
standard input a line of JSON: seconds, cpu_s and the sorted latencies_us of all writes.
"""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

from cassandra.cluster import EXEC_PROFILE_DEFAULT, Cluster, ExecutionProfile
from cassandra.policies import DCAwareRoundRobinPolicy

from cassandra import ConsistencyLevel
from deploy.cluster.child import dies_with_parent
from loadtest.baselines.subject import ROOT
from loadtest.benchmark.counting import Keyspace
from loadtest.benchmark.results import GENERATOR, Latency, Measurement

KEYSPACE = "single"
REPLICATION = "{'class': 'NetworkTopologyStrategy', 'replication_factor': 1}"
COMPACTION = "{'class': 'UnifiedCompactionStrategy', 'scaling_parameters': 'T4'}"
COLUMNS = "block bigint, id bigint, usage text, PRIMARY KEY ((block), id)"
TABLES = (
    f"CREATE KEYSPACE IF NOT EXISTS {KEYSPACE} WITH replication = {REPLICATION}",
    f"CREATE TABLE IF NOT EXISTS {KEYSPACE}.usages ({COLUMNS}) WITH compaction = {COMPACTION}",
)
INSERT = f"INSERT INTO {KEYSPACE}.usages (block, id, usage) VALUES (?, ?, ?)"
USAGE = '{"patientId": "100", "timestamp": "Tue Nov 01 2016 09:11:51 GMT-0500 (CDT)", "medication": "Albuterol"}'
WARMUP_WRITES = 2_000
SUBJECT = "A single driver write in sequence, no service"


class DriverWrites:
    """The process while it is needed."""

    def __init__(self, keyspace: Keyspace) -> None:
        command = [sys.executable, "-m", "loadtest.benchmark.idle", keyspace.host, str(keyspace.port)]
        self._process = subprocess.Popen(
            command,
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
            start_new_session=True,
            preexec_fn=dies_with_parent(signal.SIGKILL),  # noqa: PLW1509 - it makes two system calls, no more
        )
        self._line()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.kill()
        self._process.wait()

    def measure(self, key: str, turn: int, seconds: float) -> Measurement:
        """So many seconds of writes."""
        if self._process.stdin is not None:
            self._process.stdin.write(f"{seconds}\n")
        return measurement(key, turn, json.loads(self._line()))

    def _line(self) -> str:
        line = self._process.stdout.readline() if self._process.stdout is not None else ""
        if not line:
            raise OSError("the process of single driver writes ended")
        return line


def measurement(key: str, turn: int, said: dict[str, Any]) -> Measurement:
    """What the process said, as a measurement."""
    sorted_us: list[int] = said["latencies_us"]
    return Measurement(
        key=key,
        subject=SUBJECT,
        round=turn,
        connections=1,
        seconds=said["seconds"],
        per_second=len(sorted_us) / said["seconds"],
        acknowledged=len(sorted_us),
        latency_us=Latency(
            p50=percentile(sorted_us, 0.5),
            p90=percentile(sorted_us, 0.9),
            p99=percentile(sorted_us, 0.99),
            p999=percentile(sorted_us, 0.999),
            max=sorted_us[-1],
        ),
        cpu_us_per_request={GENERATOR: said["cpu_s"] / len(sorted_us) * 1e6},
    )


def percentile(sorted_values: Sequence[int], part: float) -> int:
    """The least value that so large a part of the values does not exceed."""
    return sorted_values[max(0, -(-round(part * 1000) * len(sorted_values) // 1000) - 1)]


def writes(session: Any, statement: Any, first: int, seconds: float) -> dict[str, Any]:
    """Write one row after the other for so long."""
    latencies_us = []
    cpu_before, began = time.process_time(), time.perf_counter()
    now = began
    id_ = first
    while now - began < seconds:
        session.execute(statement, (id_ >> 10, id_, USAGE))
        after = time.perf_counter()
        latencies_us.append(round((after - now) * 1e6))
        now = after
        id_ += 1
    return {
        "seconds": now - began,
        "cpu_s": time.process_time() - cpu_before,
        "latencies_us": sorted(latencies_us),
    }


def main(host: str, port: int) -> None:
    """Take orders until the input ends."""
    profile = ExecutionProfile(
        load_balancing_policy=DCAwareRoundRobinPolicy(), consistency_level=ConsistencyLevel.LOCAL_QUORUM
    )
    cluster = Cluster(
        contact_points=[host],
        port=port,
        protocol_version=5,
        # Without it a write of more than one segment would wait 40 ms for a delayed acknowledgement.
        sockopts=[(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)],
        execution_profiles={EXEC_PROFILE_DEFAULT: profile},
    )
    session = cluster.connect()
    for table in TABLES:
        session.execute(table, timeout=60)
    statement = session.prepare(INSERT)
    id_ = 0
    for id_ in range(WARMUP_WRITES):
        session.execute(statement, (id_ >> 10, id_, USAGE))
    print("ready", flush=True)
    for line in sys.stdin:
        said = writes(session, statement, id_ + 1, float(line))
        id_ += len(said["latencies_us"])
        print(json.dumps(said), flush=True)
    cluster.shutdown()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
