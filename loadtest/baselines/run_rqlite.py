"""rqlite, which groups writes as this service does: a single node with queued writes.

Settings: the data directory on disk and the Raft log fsynced at each batch, as rqlite does by itself; `queue` and `wait`
on each request, so that a 200 comes after the batch with it was committed; a batch goes out after 2 ms or with 1,024
statements, rather than after 50 ms or with 128, which suits requests that wait for it; one transaction for each batch.
The program is the `rqlited` on PATH: it is not downloaded or built here.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from loadtest.baselines.installing import output_of, program
from loadtest.baselines.processes import answers, http_request, port_picker, processes
from loadtest.baselines.subject import DidNotStart, Say, Subject

QUEUE = (
    "-write-queue-capacity=16384",
    "-write-queue-batch-size=1024",
    "-write-queue-timeout=2ms",
    "-write-queue-tx=true",
)
PATH = "/db/execute?queue&wait"
USAGE = '{"patientId": "100", "timestamp": "Tue Nov 01 2016 09:11:51 GMT-0500 (CDT)", "medication": "Albuterol"}'
BODY = json.dumps([["INSERT INTO usages(usage) VALUES(?)", USAGE]]).encode()
CREATE_TABLE = json.dumps(["CREATE TABLE usages (id INTEGER PRIMARY KEY, usage TEXT NOT NULL)"]).encode()
COUNT = json.dumps(["SELECT count(*) FROM usages"]).encode()


def count_of(answer: str) -> int:
    """The number in rqlite's answer to COUNT."""
    return int(json.loads(answer)["results"][0]["values"][0][0])


@contextmanager
def rqlite(cache: Path, say: Say = print) -> Iterator[Subject]:
    """A single node of rqlite that a request asks to queue and to wait. Raises Missing."""
    rqlited = program("rqlited")
    found = re.search(r"v(\d+(\.\d+)*)", output_of([rqlited, "-version"], Path.cwd()))
    version = found[1] if found else ""
    say(f"starting rqlite {version}")
    picker = port_picker()
    with processes(cache, "rqlite") as group:
        port, raft = picker.free(), picker.free()
        where = [f"-http-addr=127.0.0.1:{port}", f"-raft-addr=127.0.0.1:{raft}"]
        server = group.start("server", [rqlited, *where, *QUEUE, str(group.directory / "data")], os.environ)
        server.wait_until(answers(port, "/readyz"))
        status, answer = http_request(port, "POST", "/db/execute", CREATE_TABLE)
        if status != 200 or "error" in answer:
            raise DidNotStart(f"rqlite did not make its table: {status} {answer}")
        yield Subject(
            name=f"rqlite {version}, queued writes",
            port=port,
            pids={"server": [server.pid]},
            path=PATH,
            body=BODY,
            request_status=200,
            count=lambda: count_of(http_request(port, "POST", "/db/query", COUNT)[1]),
            versions={"rqlite": version},
        )
