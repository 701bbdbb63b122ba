"""What the runbook names is what the running cluster exposes."""

from __future__ import annotations

import json
import re
import subprocess
import time

from deploy.cluster import RunningCluster
from tests.documents import RUNBOOK, exposed, metric_names
from tests.system.wire import call, post_usage


def test_every_metric_in_the_runbook_is_exposed(cluster: RunningCluster) -> None:
    """haproxy_* by HAProxy's exporter, busyapi_* and process_* by a web instance."""
    assert post_usage(cluster.base_url, b"nonsense").status == 400
    text = RUNBOOK.read_text()
    haproxy = exposed(call(cluster.stats_url, "GET", "/metrics").body.decode())
    named = metric_names(text, "haproxy_")
    assert len(named) >= 8
    # A regular expression of the runbook names two by their common beginning.
    assert {name for name in named if not any(other.startswith(name) for other in haproxy)} == set()
    service: set[str] = set()
    for process in cluster.processes("web"):
        url = f"http://{process.address}:{process.port}"
        assert post_usage(url, b"nonsense").status == 400
        assert post_usage(url, b"{}").status == 201
        service |= exposed(call(url, "GET", "/metrics").body.decode())
    named = metric_names(text, "busyapi_") | metric_names(text, "process_resident")
    assert len(named) >= 8
    assert named - service == set()


def test_the_fields_of_haproxys_log_are_those_that_the_runbook_names(cluster: RunningCluster) -> None:
    """A request that HAProxy answers itself leaves a line with all of them."""
    id_ = f"runbook-{time.monotonic_ns()}"
    assert call(cluster.base_url, "GET", "/metrics", headers=[("X-Request-ID", id_)]).status == 404
    deadline_s = time.monotonic() + 10
    lines: list[str] = []
    while not lines and time.monotonic() < deadline_s:
        lines = [line for line in cluster.log("haproxy").splitlines() if id_ in line]
        time.sleep(0.1)
    line = json.loads(lines[0])
    for name in ("status", "server", "state", "retries", "at_work", "queued", "ms"):
        assert name in line
        assert f"`{name}`" in RUNBOOK.read_text()


def test_the_commands_of_the_runbook_run_as_they_stand(cluster: RunningCluster) -> None:
    """Every console block, in one shell, against this cluster's state directory and address."""
    blocks = re.findall(r"```console\n(.*?)```", RUNBOOK.read_text(), re.DOTALL)
    script = "\n".join(line.removeprefix("$ ") for block in blocks for line in block.splitlines())
    script = script.replace(".cluster", str(cluster.state_dir)).replace("http://127.0.0.1:8080", cluster.base_url)
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert 'haproxy_server_status{proxy="web",server="web1",state="UP"} 1' in done.stdout
    assert "busyapi_ready 1.0" in done.stdout
    assert '{"id": ' in done.stdout
    assert f'haproxy_backend_active_servers{{proxy="web"}} {len(cluster.processes("web"))}' in done.stdout
