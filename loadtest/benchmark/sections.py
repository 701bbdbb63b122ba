"""What is measured in turns: rounds, messages, SQLite, one client alone; and against connections: curve and headline."""

from __future__ import annotations

import resource
from dataclasses import replace

from loadtest.benchmark import rows
from loadtest.benchmark.bench import Bench, said
from loadtest.benchmark.idle import DriverWrites
from loadtest.benchmark.measuring import Case
from loadtest.benchmark.plan import CASES, CURVE_CONNECTIONS, HEADLINE_CONNECTIONS
from loadtest.benchmark.results import CurvePoint, Headline, Measurement
from loadtest.benchmark.wrk import check_generator

BUSYAPI_BEST, BUSYAPI_10_000, MESSAGES_BEST = 3_202.0, 486.0, 1_600.0
"""Requests per second that the two services before this one published."""
USERS_MAX = 7_900
"""HAProxy's maxconn is 8,000, and whoever reads its statistics is one of them."""
FILES_SPARE = 400
"""Descriptors of HAProxy that are no clients; each client is two."""


def in_turns(bench: Bench, section: str, also: str = "") -> None:
    """All cases of a section, A B A B. ``also`` is added to the names of those that another section measures as well."""
    cases = [case for key in bench.plan.cases(section) if (case := bench.case(section, key)) is not None]
    if also:
        elsewhere = {key for name, keys in CASES.items() if name != section for key in keys}
        cases = [replace(case, name=case.name + also) if case.key in elsewhere else case for case in cases]
    bench.interleave(section, cases, bench.plan.rounds, bench.plan.seconds)


def the_rounds(bench: Bench) -> None:
    """The durable stack beside what it is compared with."""
    in_turns(bench, "rounds")
    storeless = bench.case("rounds", "storeless") if "storeless" in bench.plan.cases("rounds") else None
    if storeless is not None and not bench.plan.quick:
        bench.progress.step("checking the load generator against wrk")
        bench.found.notes.append(check_generator(bench, storeless))
    bench.stop("express", "go_pgx", *([] if "curve" in bench.plan.sections else ["storeless"]))


def messages(bench: Bench) -> None:
    """Messages written, read and deleted."""
    in_turns(bench, "messages")
    bench.stop("plain_fastapi")


def sqlite(bench: Bench) -> None:
    """The embedded store, once nothing of the cluster runs."""
    bench.stop("durable", "storeless", "plain_fastapi", "go_pgx")
    bench.stop("express")  # one that has no usages in memory yet
    in_turns(bench, "sqlite", also=", beside SQLite")
    bench.stop("sqlite", "sqlite_cores", "express", "rqlite")


def batches(bench: Bench) -> None:
    """Many usages in one request, beside one in each."""
    in_turns(bench, "batches", also=", beside batches")


def idle(bench: Bench) -> None:
    """One client in sequence, and single writes by the driver in sequence, in turns."""
    client = bench.case("idle", "client", "One client in sequence through HAProxy")
    if client is None:
        bench.found.missing["idle/driver"] = bench.found.missing["idle/client"]
        return
    with DriverWrites(client.running.keyspace) as writes:
        for turn in range(bench.plan.rounds):
            bench.progress.step(f"idle, round {turn + 1} of {bench.plan.rounds}")
            measured = bench.measurer.measure(
                client, rows.key("idle", "client", turn), turn, 1, bench.plan.seconds, fully=True
            )
            bench.keep(measured.measurement, "idle", turn)
            found = writes.measure(rows.key("idle", "driver", turn), turn, bench.plan.seconds)
            bench.found.measurements.append(found)
            bench.progress.say(f"idle {turn + 1}: {said(found)}")


def curve(bench: Bench) -> None:
    """Throughput and latency against connections."""
    cases = [case for key in bench.plan.cases("curve") if (case := bench.case("curve", key)) is not None]
    for connections in CURVE_CONNECTIONS:
        for case in cases:
            bench.progress.step(f"curve, {connections:,} connections: {case.name}")
            found = _at(bench, "curve", case, connections, bench.plan.curve_s)
            bench.found.curve.append(
                CurvePoint(
                    subject=case.name,
                    connections=connections,
                    per_second=found.per_second,
                    p50_ms=found.latency_us.p50 / 1000,
                    p99_ms=found.latency_us.p99 / 1000,
                    cpu_us=found.cpu_us_per_request,
                    failures=found.failures + found.unknown,
                )
            )
            bench.progress.say(f"curve {connections:,}: {said(found)}")
    bench.stop("storeless")


def headline(bench: Bench) -> None:
    """The shapes of load of the services before this one, for usages and for messages."""
    usages, texts = bench.case("headline", "durable"), bench.case("headline", "messages")
    if usages is None or texts is None:
        return
    best_usages = best_messages = 0.0
    for users in HEADLINE_CONNECTIONS:
        connections, why_fewer = possible(users, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
        found = []
        for case in (usages, texts):
            bench.progress.step(f"headline, {connections:,} users: {case.name}")
            found.append(_at(bench, "headline", case, connections, bench.plan.seconds))
            bench.progress.say(f"headline {connections:,}: {said(found[-1])}")
        best_usages, best_messages = max(best_usages, found[0].per_second), max(best_messages, found[1].per_second)
        refused = [
            f"{what} refused {each.failures / max(1, each.failures + each.acknowledged):.0%} at once with a 503"
            for what, each in zip(("usages:", "messages:"), found, strict=True)
            if each.failures
        ]
        bench.found.headline.append(
            Headline(
                shape="1 user" if users == 1 else f"{users:,} users",
                busyapi_then=BUSYAPI_10_000 if users == 10_000 else None,
                usages_now=found[0].per_second,
                messages_now=found[1].per_second,
                note="; ".join(([why_fewer] if why_fewer else []) + refused),
            )
        )
    bench.found.headline.append(
        Headline(
            shape="the best of all",
            busyapi_then=BUSYAPI_BEST,
            messages_then=MESSAGES_BEST,
            usages_now=best_usages,
            messages_now=best_messages,
            note="then: as published, on other machines",
        )
    )


def possible(users: int, files_max: int) -> tuple[int, str]:
    """How many connections there can be for so many users, and why they are fewer."""
    by_files = (files_max - FILES_SPARE) // 2
    if users <= min(USERS_MAX, by_files):
        return users, ""
    if by_files < USERS_MAX:
        return by_files, f"with {by_files:,}: a process may have {files_max:,} open files"
    return USERS_MAX, f"with {USERS_MAX:,}: HAProxy's maxconn is 8,000, and clients beyond it wait in the kernel"


def _at(bench: Bench, section: str, case: Case, connections: int, seconds: float) -> Measurement:
    """One measurement that is not part of an interleaving."""
    key = f"{section}/{case.key}/{connections}"
    return bench.measurer.measure(case, key, 0, connections, seconds).measurement
