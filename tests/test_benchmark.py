"""How the benchmark plans, counts and makes rows: its parts that need no load."""

from __future__ import annotations

import io
import os
import signal
import sqlite3
import subprocess
import sys
import time
from array import array
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.cluster.client import ROOT
from loadtest.benchmark import (
    cgroups,
    cpu,
    endurance,
    environment,
    generators,
    idle,
    measuring,
    plan,
    rows,
    sections,
    targets,
    wrk,
)
from loadtest.benchmark.__main__ import parser, plan_of
from loadtest.benchmark.counting import SeenIds, Sent, SqliteUsages, read_ids
from loadtest.benchmark.progress import Progress, clock_time
from loadtest.benchmark.results import Latency, Measurement, MemoryPoint
from loadtest.generator import Latency as GeneratorLatency
from loadtest.generator import Outcome

TARGETS = {target.key: target for target in targets.TARGETS}


def measured(section: str, case: str, turn: int, per_second: float, **other: object) -> Measurement:
    """A measurement of which the rate alone matters, unless told otherwise."""
    values: dict[str, object] = {
        "key": rows.key(section, case, turn),
        "subject": case,
        "round": turn,
        "connections": 256,
        "seconds": 1.0,
        "per_second": per_second,
        "acknowledged": round(per_second),
        "latency_us": Latency(p50=1_000.0, p90=0.0, p99=0.0, p999=0.0, max=0.0),
        **other,
    }
    return Measurement(**values)  # type: ignore[arg-type] # each has its own type


def outcome(**other: object) -> Outcome:
    """What the generator says of a hundred requests, all answered with 201 in one second."""
    values: dict[str, object] = {
        **dict.fromkeys(Outcome.__dataclass_fields__, 0),
        "seconds": 1.0,
        "requests": 100,
        "per_second": 100.0,
        "acknowledged": 100,
        "by_status": {201: 100},
        "total_by_status": {201: 100},
        "answered": 100,
        "sent": 100,
        "connections": 4,
        "cpu_s": 0.001,
        "latency_us": GeneratorLatency(100, 10.0, 9, 10, 11, 12, 13, 14),
        "interrupted": False,
        **other,
    }
    return Outcome(**values)  # type: ignore[arg-type] # each has its own type


def of(
    found: Outcome, stored: int | None = None, *, distinct: bool | None = None, machine_s: float = 0.0
) -> Measurement:
    """The same as a measurement."""
    return measuring.measurement_of(
        found, key="k", subject="s", turn=0, used={"web": 0.002}, machine_s=machine_s, stored=stored, distinct=distinct
    )


# --- rows


def test_a_ratio_is_the_median_of_the_ratios_of_each_round():
    """A slow round slows both, so the ratio is taken within the round."""
    rates = [(100.0, 10.0), (50.0, 5.0), (90.0, 6.0)]
    found = [measured("rounds", "durable", turn, ours) for turn, (ours, _) in enumerate(rates)]
    found += [measured("rounds", "express", turn, theirs) for turn, (_, theirs) in enumerate(rates)]
    row = rows.row(TARGETS["express"], found, {})
    assert row.rounds == (10.0, 10.0, 15.0)
    assert (row.value, row.met, row.missing) == (10.0, True, None)
    assert row.detail == "90/s ÷ 6/s"
    assert row.parts[:2] == ("rounds/durable/0", "rounds/express/0")


def test_only_rounds_that_measured_both_count():
    """A run that was interrupted keeps the whole rounds."""
    found = [measured("rounds", "durable", turn, 100.0) for turn in range(3)]
    found += [measured("rounds", "express", turn, 50.0) for turn in range(2)]
    assert rows.row(TARGETS["express"], found, {"": "interrupted"}).rounds == (2.0, 2.0)


@pytest.mark.parametrize(
    ("missing", "says"),
    [
        ({"rounds/express": "npm is not installed", "rounds": "no"}, "npm is not installed (100/s by itself)"),
        ({"rounds": "it failed: x", "": "interrupted"}, "it failed: x (100/s by itself)"),
        ({"": "the run was interrupted"}, "the run was interrupted (100/s by itself)"),
        ({"rounds/express": rows.NOT_ASKED}, rows.NOT_ASKED),
        ({}, "it was not measured (100/s by itself)"),
    ],
)
def test_a_row_that_is_missing_says_why_and_what_there_is(missing: Mapping[str, str], says: str):
    """The nearest reason there is, and our own half of the comparison."""
    row = rows.row(TARGETS["express"], [measured("rounds", "durable", 0, 100.0)], missing)
    assert (row.value, row.rounds, row.missing) == (None, (), says)


def test_cpu_rows_are_of_one_role_and_are_met_below_their_target():
    """µs for each request, as they were measured."""
    found = [measured("rounds", "durable", t, 100.0, cpu_us_per_request={"web": 20.0 + t}) for t in range(3)]
    row = rows.row(TARGETS["cpu_web"], found, {})
    assert (row.unit, row.comparison, row.value, row.met) == ("µs", "<=", 21.0, True)
    assert row.parts == tuple(f"rounds/durable/{turn}" for turn in range(3))


def test_the_idle_row_compares_medians_of_latency():
    """One client's p50 over the driver's."""

    def latency(p50: float) -> Latency:
        return Latency(p50=p50, p90=0.0, p99=0.0, p999=0.0, max=0.0)

    found = [
        measured("idle", "client", 0, 1.0, latency_us=latency(1_300.0)),
        measured("idle", "driver", 0, 1.0, latency_us=latency(1_000.0)),
    ]
    row = rows.row(TARGETS["idle"], found, {})
    assert (row.value, row.met, row.detail) == (1.3, True, "1,300 µs ÷ 1,000 µs")


def test_scaling_is_compared_with_so_many_times_one_instance():
    """Four instances at four times the rate of one are 1, and the shares are of all cores."""
    found = [
        measured("scaling", f"web{n}", turn, n * rate * (1.0 if n < 4 else 0.95), cpu_us_per_request={"web": 50.0})
        for turn, rate in enumerate((2_000.0, 2_200.0))
        for n in (1, 2, 4)
    ]
    assert rows.row(TARGETS["scaling_2"], found, {}).value == 1.0
    assert rows.row(TARGETS["scaling_4"], found, {}).value == pytest.approx(0.95)
    points = rows.scaling_points(found, cores=2)
    assert [(point.instances, round(point.of_linear, 2)) for point in points] == [(1, 1.0), (2, 1.0), (4, 0.95)]
    assert points[0].cpu_share == {"web": pytest.approx(2_100 * 50e-6 / 2)}
    assert rows.scaling_points([], cores=2) == []


# --- plans


def test_the_whole_plan_has_every_row_and_fits_thirty_five_minutes():
    """Each row's cases are cases of its section; the sum of what is expected is under thirty-five minutes."""
    whole = plan.make_plan(plan.Plan())
    assert whole.sections == plan.SECTIONS
    assert {target.key for target in whole.targets()} == set(TARGETS)
    for target in targets.TARGETS:
        assert set(target.cases) <= set(whole.cases(target.section))
    assert set(whole.expected_s()) == set(plan.SECTIONS)
    assert sum(whole.expected_s().values()) < 35 * 60


def test_the_quick_plan_has_the_first_three_rows_and_fits_three_minutes():
    """Nothing else is started."""
    quick = plan.make_plan(plan.quick_plan())
    assert [target.key for target in quick.targets()] == [target.key for target in targets.TARGETS[:3]]
    assert quick.sections == ("rounds",)
    assert quick.cases("rounds") == ("durable", "storeless", "express", "go_pgx")
    assert sum(quick.expected_s().values()) < 3 * 60


@pytest.mark.parametrize(
    ("only", "skip", "sections_left", "rows_left"),
    [
        (["express"], [], ["rounds"], ["express"]),
        (["curve", "memory"], [], ["curve", "memory"], []),
        (["messages"], [], ["messages"], ["messages"]),
        (["scaling"], [], ["scaling"], ["scaling_2", "scaling_4"]),
        (["idle", "sqlite_rqlite"], [], ["idle", "sqlite"], ["idle", "sqlite_rqlite"]),
        (["stream", "batch_keyed"], [], ["batches", "stream"], ["batch_keyed", "stream_memory"]),
        (
            [],
            ["rounds", "memory", "stall", "scaling", "stream"],
            ["messages", "idle", "curve", "headline", "batches", "sqlite"],
            None,
        ),
        (["express", "curve"], ["curve"], ["rounds"], ["express"]),
    ],
)
def test_only_and_skip_cut_the_plan_down(
    only: list[str], skip: list[str], sections_left: list[str], rows_left: list[str] | None
):
    """Rows bring the section that they need; sections bring their rows; the table keeps all rows."""
    found = plan.make_plan(plan.Plan(), only, skip)
    assert list(found.sections) == sections_left
    if rows_left is not None:
        assert list(found.rows) == rows_left
    assert len(found.targets()) == len(targets.TARGETS)


def test_a_row_alone_needs_its_own_servers_alone():
    """`--only express` starts neither Go nor PostgreSQL, and `--only sqlite` the row's own two."""
    assert plan.make_plan(plan.Plan(), ["express"]).cases("rounds") == ("durable", "express")
    assert plan.make_plan(plan.Plan(), ["sqlite_rqlite"]).cases("sqlite") == ("sqlite_cores", "rqlite")
    assert plan.make_plan(plan.Plan(), ["batch", "batch_lines"]).cases("batches") == ("batch", "batch_lines")


def test_a_name_that_does_not_exist_is_told_with_those_that_do():
    """A wrong word is a wrong usage, not an empty run."""
    with pytest.raises(ValueError, match="no row or section expres; there are storeless, express"):
        plan.make_plan(plan.Plan(), ["expres"])


def test_the_command_line_becomes_a_plan():
    """What is not said has the plan's own values."""
    said = plan_of(
        parser().parse_args(["--rounds", "2", "--seconds", "0.5", "--memory-seconds", "10", "--skip", "curve"])
    )
    assert (said.rounds, said.seconds, said.memory_s, said.warmup_s) == (2, 0.5, 10.0, 40.0)
    assert "curve" not in said.sections
    assert plan_of(parser().parse_args(["--quick"])).rounds == 3


@pytest.mark.parametrize("arguments", [["--rounds", "0"], ["--seconds", "nan"], ["--only", "x"], ["more"]])
def test_a_wrong_usage_is_exit_2_before_anything_starts(arguments: list[str]):
    """The line says what is wrong."""
    command = [sys.executable, "-m", "loadtest.benchmark", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "error:" in done.stderr


# --- measurements


def test_a_measurement_has_the_windows_rate_and_the_whole_runs_count():
    """The store is compared with all that was acknowledged, CPU is divided by what the window acknowledged."""
    found = of(outcome(warmup_acknowledged=20, drain_acknowledged=5, sent=125), stored=125, distinct=True)
    assert (found.per_second, found.acknowledged, found.failures, found.unknown) == (100.0, 125, 0, 0)
    assert found.cpu_us_per_request == {"web": pytest.approx(20.0), "generator": pytest.approx(10.0)}
    assert found.holds is True


def test_what_may_have_been_stored_is_unknown_and_what_was_refused_has_failed():
    """500, 502, 504 and no answer leave it open; 503 and 4xx do not."""
    statuses = {201: 100, 503: 7, 413: 1, 504: 2, 500: 1, 502: 1}
    found = of(outcome(total_by_status=statuses, sent=115, unknown=3), stored=106)
    assert (found.unknown, found.failures, found.holds) == (7, 8, True)
    assert found.note == "1 × 413, 1 × 500, 1 × 502, 7 × 503, 2 × 504"


def test_what_others_took_of_the_machine_is_noted():
    """CPU time that belongs neither to the server nor to the generator."""
    cores = os.cpu_count() or 1
    assert of(outcome(), machine_s=0.05 * cores).note == ""
    assert of(outcome(), machine_s=0.25 * cores).note.startswith("others took 2")


@pytest.mark.parametrize(
    ("other", "stored", "distinct", "lost", "says"),
    [
        ({}, 100, True, 0, []),
        ({}, 99, True, 0, ["100 were acknowledged and 0 are unknown, but 99 are stored"]),
        ({}, 101, True, 0, ["100 were acknowledged and 0 are unknown, but 101 are stored"]),
        ({"unknown": 1, "sent": 101}, 101, True, 0, []),
        ({}, 100, False, 0, ["an id was given twice"]),
        ({}, 100, True, 2, ["2 acknowledged ids are not in the store"]),
        ({"mismatches": 1}, None, None, 0, ["1 answers were not those that were due"]),
        ({"duplicates": 3}, None, None, 0, ["3 new keys were called repeated"]),
        ({"without_id": 4}, None, None, 0, ["4 answers had no id"]),
    ],
)
def test_what_is_wrong_is_said(
    other: dict[str, object], stored: int | None, distinct: bool | None, lost: int, says: list[str]
):
    """Lost, invented or repeated rows, and answers that are none."""
    found = outcome(**other)
    assert measuring.wrongs(of(found, stored, distinct=distinct), found, lost, 201) == says


def test_another_success_than_201_is_not_the_generators_to_judge():
    """Rqlite says 200, and has no ids."""
    found = outcome(mismatches=100, without_id=100)
    assert measuring.wrongs(of(found), found, 0, 200) == []


# --- counting


@given(st.lists(st.lists(st.integers(0, 2**53)), max_size=4))
def test_ids_that_come_again_are_counted_over_all_calls(parts: list[list[int]]):
    """As many as a set of all of them lacks."""
    seen = SeenIds()
    repeated = sum(seen.repeated(part) for part in parts)
    together = [id_ for part in parts for id_ in part]
    assert repeated == len(together) - len(set(together))


def test_the_file_of_ids_is_little_endian(tmp_path: Path):
    """As the generator writes it, whatever the machine is."""
    (tmp_path / "ids").write_bytes(b"".join(id_.to_bytes(8, "little") for id_ in (1, 2**40, 2**53)))
    assert list(read_ids(tmp_path / "ids")) == [1, 2**40, 2**53]


def test_rows_of_sqlite_are_counted_from_the_last_time_on(tmp_path: Path):
    """What was there before is not counted, and an id that is not there is lost."""
    file = tmp_path / "file.sqlite3"
    with sqlite3.connect(file) as connection:
        connection.execute("CREATE TABLE usages (id INTEGER PRIMARY KEY)")
        connection.execute("INSERT INTO usages VALUES (1)")
    store = SqliteUsages(file)
    with sqlite3.connect(file) as connection:
        connection.executemany("INSERT INTO usages VALUES (?)", [(2,), (3,), (5,)])
    sent = Sent(array("q", [2, 3, 4, 5]), 0.0, 0.0)
    assert store.added(sent) == 3
    assert store.lost(sent) == 1
    assert store.added(sent) == 0
    assert store.lost(Sent(array("q"), 0.0, 0.0)) == 0


# --- CPU, memory, quiet


def test_cpu_time_counts_descendants_and_the_time_between_alone():
    """A child's work is its parent's, and what it did before is not counted."""
    script = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'while True: pass'])"
    with subprocess.Popen([sys.executable, "-c", script], start_new_session=True) as parent:
        try:
            roles = {"web": [parent.pid]}
            deadline = time.monotonic() + 20
            while len(cpu.families([parent.pid])[parent.pid]) < 2:
                assert time.monotonic() < deadline
                time.sleep(0.02)
            assert cpu.wait_until_quiet([roles], interval_s=0.2, timeout_s=0.1) > 0.08
            before = cpu.read(roles)
            time.sleep(0.3)
            assert 0.02 < cpu.used(before, cpu.read(roles))["web"] < 5
            assert cpu.rss_mib([parent.pid, 2**22 + 1])[0] > 5
        finally:
            os.killpg(parent.pid, signal.SIGKILL)
    assert cpu.rss_mib([parent.pid]) == (0.0,)
    assert cpu.wait_until_quiet([roles], interval_s=0.01) == 0.0


def test_a_process_that_came_in_between_counts_from_its_start():
    """Readings are by pid."""
    assert cpu.used({"web": {1: 2.0}}, {"web": {1: 3.0, 2: 0.5}, "haproxy": {3: 1.0}}) == {"web": 1.5, "haproxy": 1.0}


# --- shares of a core


@pytest.mark.parametrize(
    ("second", "files"),
    [
        (False, {"cpu.cfs_period_us": "20000", "cpu.cfs_quota_us": "1000"}),
        (True, {"cpu.max": "1000 20000"}),
    ],
)
def test_a_group_has_its_quota_before_its_process(tmp_path: Path, second: bool, files: dict[str, str]):
    """A twentieth of a core, in the smallest quota that the kernel takes."""
    groups = cgroups.Directories(tmp_path, second=second)
    groups.hold("web", 4711, 0.05)
    groups.hold("web", 4711, 0.05)
    (group,) = tmp_path.iterdir()
    assert {file.name: file.read_text() for file in group.iterdir()} == {**files, "cgroup.procs": "4711"}


def test_a_group_that_cannot_be_made_says_why(tmp_path: Path):
    """One line for the table."""
    with pytest.raises(cgroups.NoShares, match=r"cannot hold a process to a share of a core: .*No such file"):
        cgroups.Directories(tmp_path / "none", second=False).hold("web", 1, 0.1)


def test_without_any_controller_there_are_no_shares(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Neither version of cgroups, and no systemd."""
    monkeypatch.setenv("PATH", "")
    with pytest.raises(cgroups.NoShares, match="no CPU controller"), cgroups.shares(tmp_path / "1", tmp_path / "2"):
        pass


def test_the_second_version_is_taken_where_it_controls_cpu_time(tmp_path: Path):
    """And the first one wherever it is there."""
    (tmp_path / "cgroup.subtree_control").write_text("cpuset cpu memory\n")
    with cgroups.shares(tmp_path / "none", tmp_path) as found:
        found.hold("web", 1, 0.1)
        assert list(tmp_path.glob("*/cpu.max"))
    (tmp_path / "cgroup.procs").write_text("")
    with cgroups.shares(tmp_path, tmp_path) as found:
        found.hold("web2", 2, 0.1)
        assert list(tmp_path.glob("*/cpu.cfs_quota_us"))


def test_systemd_is_asked_for_a_scope_with_a_quota():
    """The words of one call, each property as name, type and value."""
    words = cgroups.scope_request("web", 12, 0.1)
    assert words[0] == "call"
    assert words[4:8] == ["StartTransientUnit", "ssa(sv)a(sa(sv))", "web.scope", "fail"]
    assert words[8:] == [
        "3",
        "PIDs",
        "au",
        "1",
        "12",
        "CPUQuotaPerSecUSec",
        "t",
        "100000",
        "CPUQuotaPeriodUSec",
        "t",
        "10000",
        "0",
    ]


# --- what lasts


def test_the_slope_of_memory_leaves_the_beginning_out():
    """A start that fills caches is no leak: the last four fifths count."""
    points = [
        MemoryPoint(seconds=at, rss_mib=(60.0 if at < 120 else 70.0, 50.0 + at / 60), per_second=10.0)
        for at in range(5, 605, 5)
    ]
    assert endurance.memory_summary(points, 600.0) == {
        "MiB after 60 s": "60.0, 51.0",
        "MiB after 600 s": "70.0, 60.0",
        "MiB a minute over the last 480 s": "0.000, 1.000",
        "usages/s": 10,
    }
    assert endurance.memory_summary(points[:1], 600.0) == {}


def test_answers_are_read_from_metrics_and_statistics():
    """Of POSTs by status over all routes; HAProxy's own count of the backend."""
    metrics = (
        'busyapi_requests_total{method="POST",route="/api/usages",status="201"} 1.5e+03\n'
        'busyapi_requests_total{method="GET",route="/livez",status="200"} 2.0\n'
        'busyapi_requests_total{method="POST",route="/messages",status="201"} 3.0\n'
        'busyapi_requests_created{method="POST",route="/messages",status="201"} 1.7e+09\n'
    )
    assert endurance.by_status(metrics) == {"201": 1503}
    assert endurance.by_status("") == {}
    statistics = "# pxname,svname,hrsp_5xx\nweb,web1,1\nweb,BACKEND,42\n"
    assert endurance.errors_in(statistics) == 42
    assert endurance.errors_in("") == 0


# --- the rest


def test_percentiles_of_single_writes_are_of_all_of_them():
    """The least value that so many do not exceed."""
    values = list(range(1, 1_001))
    assert [idle.percentile(values, part) for part in (0.5, 0.9, 0.99, 0.999)] == [500, 900, 990, 999]
    assert idle.percentile([7], 0.5) == 7
    found = idle.measurement("idle/driver/0", 0, {"seconds": 2.0, "cpu_s": 0.5, "latencies_us": values})
    assert (found.per_second, found.latency_us.p50, found.latency_us.max) == (500.0, 500, 1_000)


@pytest.mark.parametrize(
    ("users", "files", "connections", "why"),
    [
        (1_000, 20_000, 1_000, ""),
        (10_000, 20_000, 7_900, "HAProxy's maxconn is 8,000"),
        (10_000, 4_096, 1_848, "a process may have 4,096 open files"),
        (1_000, 1_024, 312, "a process may have 1,024 open files"),
    ],
)
def test_as_many_users_as_there_can_be(users: int, files: int, connections: int, why: str):
    """And what keeps them from being more."""
    found = sections.possible(users, files)
    assert found[0] == connections
    assert why in found[1]
    assert bool(why) == bool(found[1])


def test_wrk_is_given_the_usages_that_locust_posts_each_in_brackets_that_none_of_them_closes():
    """A thousand different ones of the same lengths: who posts less would drive more."""
    usages = generators.bodies()
    assert len(set(usages)) == generators.BODIES
    assert 140 <= min(map(len, usages)) < sum(map(len, usages)) / len(usages) < 175
    script = generators.wrk_script(usages)
    assert [text.partition(b"]==]")[0] for text in script.split(b"[==[")[1:]] == usages


def test_generators_are_told_by_their_medians_and_locust_by_its_part_of_wrk_in_the_same_round():
    """A round in which the machine was slow for both does not count against either."""
    rates = {"wrk": (30_000, 10_000, 40_000), "Locust": (27_000, 9_500, 34_000)}
    drives = [
        generators.Drive(name, turn, rate, 10.0 + turn, {"web": 15.0, "haproxy": 14.0 + turn})
        for name, each in rates.items()
        for turn, rate in enumerate(each)
    ]
    assert generators.summary("durable", drives).splitlines() == [
        "durable",
        "  wrk        30,000/s   11.0 µs of its own CPU a request; web 15.0, haproxy 15.0",
        "  Locust     27,000/s   11.0 µs of its own CPU a request; web 15.0, haproxy 15.0",
        "  Locust ÷ wrk: 0.900 (half of 3 rounds: 0.85–0.95; least and most: 0.85, 0.95)",
    ]


def test_wrks_rate_is_found():
    """The line that wrk ends with."""
    assert wrk.RATE.findall("Running 5s test\nRequests/sec:  40123.45\nTransfer/sec:      6.12MB\n") == ["40123.45"]


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("HAProxy version 2.6.12-1+deb12u2 2025/04/16", "2.6.12-1"),
        ("v20.20.2", "20.20.2"),
        ("go version go1.26.8 linux/amd64", "1.26.8"),
        ('openjdk version "17.0.15" 2025-04-15', "17.0.15"),
        ("", ""),
    ],
)
def test_versions_are_found_in_what_programs_say(text: str, version: str):
    """The first number with a dot."""
    assert environment.version_in(text) == version


def test_the_machine_is_described():
    """Something is known of every one."""
    found = environment.machine({"Express": "5"})
    assert found.cores >= 1
    assert found.memory_gib > 0
    assert found.cpu
    assert {"Python", "Cassandra", "fastapi", "Express"} <= set(found.versions)


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        """The time."""
        return self.now


class Terminal(io.StringIO):
    """Text that says it is shown to somebody."""

    def isatty(self) -> bool:
        """It is one."""
        return True


def test_the_estimate_follows_what_the_sections_take():
    """A section that was shorter than expected shortens the whole; one that is longer lengthens it."""
    clock = Clock()
    progress = Progress({"a": 100.0, "b": 50.0}, io.StringIO(), clock)
    assert progress.total_s == 150.0
    with progress.section("a"):
        clock.now = 40.0
        assert progress.total_s == 150.0
    assert progress.total_s == 90.0
    with progress.section("b"):
        clock.now = 100.0
        assert progress.total_s == 100.0
    assert progress.total_s == 100.0


def test_without_a_terminal_there_are_lines_and_few_of_what_lasts():
    """Each step is a line; its ticks are one every half minute."""
    clock, out = Clock(), io.StringIO()
    progress = Progress({"a": 100.0}, out, clock)
    progress.step("begin")
    for clock.now in range(0, 65, 5):
        progress.tick(f"tick {clock.now}")
    progress.close()
    assert [line.split("  ")[1] for line in out.getvalue().splitlines()] == ["begin", "tick 30", "tick 60"]
    assert "\r" not in out.getvalue()


def test_on_a_terminal_there_is_a_bar_that_gives_way_to_lines():
    """The bar is one line, wiped before anything that stays."""
    clock, out = Clock(), Terminal()
    progress = Progress({"a": 100.0}, out, clock)
    with progress.section("a"):
        clock.now = 50.0
        progress.step("half")
        progress.say("done")
    progress.close()
    bar, line = out.getvalue().removeprefix("\r\x1b[K").split("\r\x1b[K")
    assert bar.startswith("█" * 12 + "░" * 12 + "  50%")
    assert line == "0:50 of about 1:40  done\n"


def test_times_are_shown_as_on_a_clock():
    """Minutes and two digits of seconds."""
    assert [clock_time(seconds) for seconds in (0, 59.6, 61, 3_599)] == ["0:00", "1:00", "1:01", "59:59"]
