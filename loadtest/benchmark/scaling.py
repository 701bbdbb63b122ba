"""1 → 2 → 4 web instances, each held to the same small share of a core, so that nothing else is short of CPU."""

from __future__ import annotations

from loadtest.benchmark import rows
from loadtest.benchmark.bench import Bench
from loadtest.benchmark.cgroups import NoShares, Shares, shares
from loadtest.benchmark.measuring import Case
from loadtest.benchmark.subjects import WEB, Running

CONNECTIONS = 64
"""For each web instance: an instance that waits for its next share has more to do when that comes."""
SETTLE_S = 1.5


def scaling(bench: Bench) -> None:
    """Each number of web instances in turns."""
    base = bench.case("scaling", "durable")
    if base is None or base.running.cluster is None:
        bench.found.missing["scaling"] = bench.found.missing.get("scaling/durable", "there is no cluster")
        return
    cluster = base.running.cluster
    try:
        with shares() as limits:
            for turn in range(bench.plan.scaling_rounds):
                for key in bench.plan.cases("scaling"):
                    instances = int(key.removeprefix("web"))
                    bench.progress.step(f"scaling to {instances} web instance(s)")
                    cluster.scale(instances)
                    hold_all(limits, base.running, bench.plan.share)
                    case = Case(key, name(instances, bench.plan.share), base.running)
                    bench.progress.step(f"scaling, round {turn + 1} of {bench.plan.scaling_rounds}: {case.name}")
                    measured = bench.measurer.measure(
                        case,
                        rows.key("scaling", key, turn),
                        turn,
                        CONNECTIONS * instances,
                        bench.plan.seconds,
                        settle_s=SETTLE_S,
                    )
                    bench.keep(measured.measurement, "scaling", turn)
    except NoShares as reason:
        bench.found.missing["scaling"] = str(reason)
    finally:
        cluster.scale(WEB)


def hold_all(limits: Shares, running: Running, share: float) -> None:
    """Hold every web instance, each by itself."""
    for pid in running.pids()["web"]:
        limits.hold(f"web-{pid}", pid, share)


def name(instances: int, share: float) -> str:
    """For the table."""
    what = "1 web instance" if instances == 1 else f"{instances} web instances, each"
    return f"{what} held to {share:.0%} of a core"
