"""HAProxy sheds what the web instances cannot take: 503 at once, and only for what was never sent."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

from deploy.cluster import RunningCluster
from tests.system.pressure import Generator
from tests.system.wire import Answer, Closed, Wire, assert_problem, call, request_bytes

ROOT = Path(__file__).resolve().parents[2]
USAGE = b'{"patientId": "100"}'


def free_port() -> int:
    """A port that nobody uses just now."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


@contextlib.contextmanager
def haproxy_before(server: str, directory: Path, **environment: str) -> Iterator[str]:
    """A second HAProxy of the project's configuration, with its own limits, before one web instance; its URL."""
    servers = directory / "haproxy-web.cfg"
    servers.write_text(f"backend web from web-instances\n    server only {server}\n")
    port = free_port()
    inherited = {name: value for name, value in os.environ.items() if name not in ("TLS_CERTIFICATE", "WEB_DNS_NAME")}
    haproxy = shutil.which("haproxy", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    assert haproxy is not None
    binds = {"HTTP_BIND": f"127.0.0.1:{port}", "STATS_BIND": f"127.0.0.1:{free_port()}"}
    with (directory / "haproxy.log").open("wb") as log:
        process = subprocess.Popen(
            [haproxy, "-W", "-db", "-f", str(ROOT / "haproxy" / "haproxy.cfg"), "-f", str(servers)],
            env={**inherited, **binds, **environment},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)


def wait_for(url: str, status: int) -> None:
    """Until HAProxy listens and answers for what is behind it."""
    wait_until(url, lambda answer: answer.status == status, f"/readyz was not {status} in time")


def wait_for_nobody(url: str) -> None:
    """Until HAProxy knows that nobody is behind it: one that has just started takes a server for up until its first checks."""
    wait_until(url, lambda answer: b"no_instance_available" in answer.body, "HAProxy did not find out in time")


def wait_until(url: str, right: Callable[[Answer], bool], otherwise: str) -> None:
    """Until /readyz is answered so."""
    deadline_s = time.monotonic() + 10
    while True:
        with contextlib.suppress(ConnectionError, Closed):
            if right(call(url, "GET", "/readyz")):
                return
        assert time.monotonic() < deadline_s, otherwise
        time.sleep(0.05)


def test_a_full_queue_sheds_at_once_and_what_was_sent_is_never_called_refused(
    whole_cluster: RunningCluster, tmp_path: Path
) -> None:
    """One at work and two waiting: the fourth is shed at once, the two when they waited too long; the first is stored."""
    web = whole_cluster.process("web1")
    keys = [uuid.uuid4().hex for _ in range(4)]
    with (
        haproxy_before(f"{web.address}:{web.port}", tmp_path, WEB_MAXCONN="1", WEB_QUEUE_MAX="2") as url,
        contextlib.ExitStack() as open_wires,
    ):
        wait_for(url, 200)
        wires = [open_wires.enter_context(Wire(url)) for _ in keys]
        whole_cluster.signal("web1", signal.SIGSTOP)
        try:
            started_s = time.monotonic()
            for wire, key in zip(wires, keys, strict=True):
                headers = [("Content-Type", "application/json"), ("Idempotency-Key", key), ("X-Request-ID", key)]
                wire.send(request_bytes("POST", "/api/usages", wire.host, headers, USAGE))
                time.sleep(0.1)
            shed = wires[3].answer()
            shed_s = time.monotonic() - started_s
            waited = [wire.answer() for wire in wires[1:3]]
            waited_s = time.monotonic() - started_s
        finally:
            whole_cluster.signal("web1", signal.SIGCONT)
        first = wires[0].answer()
        for key, answer in zip(keys[1:], (*waited, shed), strict=True):
            assert assert_problem(answer, 503, "overloaded")["request_id"] == key
        assert shed_s < 0.7
        assert waited_s < 2.5
        assert (first.status, first.json()) == (201, {"id": keys[0]})
        assert call(url, "GET", f"/api/usages/keys/{keys[0]}").status == 200
        for key in keys[1:]:
            assert call(url, "GET", f"/api/usages/keys/{key}").status == 404


def test_the_limits_of_a_body_are_one_setting_for_haproxy_and_the_instances(
    cluster: RunningCluster, tmp_path: Path
) -> None:
    """BUSYAPI_USAGE_BYTES_MAX and BUSYAPI_MESSAGE_BYTES_MAX hold at HAProxy before a byte of the body has come."""
    web = cluster.process("web1")
    limits = {"BUSYAPI_USAGE_BYTES_MAX": "100", "BUSYAPI_MESSAGE_BYTES_MAX": "1000"}
    with haproxy_before(f"{web.address}:{web.port}", tmp_path, **limits) as url:
        wait_for(url, 200)
        for path, over in (("/api/usages", 101), ("/messages", 65536 + 6 * 1001)):
            answer = call(url, "POST", path, headers=[("Content-Length", str(over))])
            assert_problem(answer, 413, "body_too_large")
        assert call(url, "POST", "/api/usages", b" " * 98 + b"{}").status == 201


def test_retry_after_is_spread_so_that_the_refused_do_not_return_as_one(tmp_path: Path) -> None:
    """HAProxy without any instance: each 503 says when to come back, and not all name the same second."""
    with haproxy_before(f"127.0.0.1:{free_port()}", tmp_path) as url:
        wait_for_nobody(url)
        answers = [call(url, "POST", "/api/usages", USAGE) for _ in range(40)]
    for answer in answers:
        assert_problem(answer, 503, "no_instance_available")
    assert len({answer.header("retry-after") for answer in answers}) > 1


def test_who_is_refused_has_the_answer_before_more_is_begun(whole_cluster: RunningCluster, tmp_path: Path) -> None:
    """Thousands of clients who are all refused do not pile up in HAProxy: what is not begun waits in the kernel."""
    web = whole_cluster.process("web1")
    stats = f"127.0.0.1:{free_port()}"
    waiting = []
    with haproxy_before(f"{web.address}:{web.port}", tmp_path, WEB_QUEUE_MAX="0", STATS_BIND=stats) as url:
        wait_for(url, 503)
        with Generator(url, connections=4_000, seconds=4) as generator:
            while generator.running():
                metrics = call(f"http://{stats}", "GET", "/metrics").body.decode()
                waiting.append(int(metrics.partition("\nhaproxy_process_current_run_queue ")[2].partition("\n")[0]))
                time.sleep(0.05)
            result = generator.result()
    assert list(result["by_status"]) == ["503"]
    assert waiting
    assert max(waiting) < 1_000, waiting
