"""The load generator held against wrk, where that is installed."""

from __future__ import annotations

import re
import shutil
import subprocess

from loadtest.benchmark import cpu
from loadtest.benchmark.bench import Bench
from loadtest.benchmark.measuring import Case
from loadtest.report.tables import number

SCRIPT = """\
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.body = '{"patientId": "100", "timestamp": "Tue Nov 01 2016 09:11:51 GMT-0500 (CDT)", "medication": "Albuterol"}'
"""
RATE = re.compile(r"^Requests/sec:\s+([\d.]+)", re.MULTILINE)


def check_generator(bench: Bench, case: Case) -> str:
    """A sentence on what both drive a server to that keeps nothing, one after the other."""
    wrk = shutil.which("wrk")
    if wrk is None:
        return "The load generator was not held against wrk: wrk is not installed."
    seconds, connections = max(1, round(bench.plan.seconds)), bench.plan.connections
    ours = bench.measurer.measure(case, "rounds/wrk", 0, connections, seconds).measurement
    cpu.wait_until_quiet(bench.subjects.roles())
    script = bench.scratch / "post.lua"
    script.write_text(SCRIPT)
    url = f"http://127.0.0.1:{case.running.port}{case.running.path}"
    command = [wrk, "-t1", f"-c{connections}", f"-d{seconds}s", "-s", str(script), url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 60, check=False)
    found = RATE.search(done.stdout)
    if found is None:
        return f"The load generator was not held against wrk: {done.stderr.strip() or done.stdout.strip()}"
    return (
        f"The load generator against wrk, on the stack without a store, {connections} connections: wrk drove "
        f"{number(float(found[1]), 0)}/s, burst {number(ours.per_second, 0)}/s."
    )
