"""What the cluster tool decides before it starts anything, and what it reads out of the answers it gets."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.cluster import (
    ClusterError,
    Options,
    cassandra,
    child,
    client,
    jars,
    plan,
    probes,
    state,
    supervisor,
)
from deploy.cluster.__main__ import options_of, parser
from deploy.cluster.child import Child, Ending
from deploy.cluster.launch import both_found
from tests.support import eventually

ROOT = Path(__file__).parents[1]
ONE_NODE = plan.CassandraPorts(nodes=1, cql=11_000, storage=11_001)
THREE_NODES = plan.CassandraPorts(nodes=3, cql=11_000, storage=11_001)
SESSIONS_HAVE_WEIGHTS = Path("/proc/self/autogroup").exists()
"""The kernel shares the cores among sessions first."""


def picker(*, taken: set[int] | None = None, candidates: Sequence[int] = range(11_000, 11_010)) -> plan.PortPicker:
    """A picker among a few ports, some of them taken."""
    return plan.PortPicker(lambda _, port: port not in (taken or set()), candidates)


# --- ports


def test_no_port_is_handed_out_twice() -> None:
    """Two processes never get the same port, also not the one that the caller named."""
    pick = picker(candidates=[11_000, 11_000, 11_001, 11_001, 11_002])
    assert [pick.wanted(11_001, "HTTP"), pick.free(), pick.free()] == [11_001, 11_000, 11_002]


def test_a_port_that_is_taken_is_passed_over() -> None:
    """A free port is one that nobody listens on."""
    assert picker(taken={11_000, 11_001}).free() == 11_002


def test_a_named_port_that_is_taken_is_refused_and_named() -> None:
    """PORT=8080 never becomes another port behind the caller's back."""
    with pytest.raises(ClusterError, match="port 8080 for HTTP is taken"):
        picker(taken={8080}).wanted(8080, "HTTP")


def test_the_ports_of_cassandra_are_free_on_all_its_addresses() -> None:
    """All nodes share two ports, so a port that is taken on any of their addresses is none for them."""
    pick = plan.PortPicker(lambda addresses, port: "127.0.0.3" not in addresses or port > 11_004, range(11_000, 11_010))
    ports = pick.cassandra(3, saved=None)
    assert (ports.cql, ports.storage) == (11_005, 11_006)


def test_nodes_with_data_keep_the_ports_by_which_they_know_each_other() -> None:
    """A start on the data of an earlier run takes the earlier ports."""
    assert picker().cassandra(3, saved=THREE_NODES) == THREE_NODES


def test_a_single_node_with_data_may_move_to_other_ports() -> None:
    """A node that knows no others starts on its data with any ports."""
    assert picker(taken={11_000}).cassandra(1, saved=ONE_NODE) == plan.CassandraPorts(1, 11_001, 11_002)


def test_data_of_another_number_of_nodes_is_refused() -> None:
    """Data of three nodes is never opened by one, which would have a third of the truth."""
    with pytest.raises(ClusterError, match=r"3 Cassandra node\(s\), not 1.*--fresh"):
        picker().cassandra(1, saved=THREE_NODES)


def test_several_nodes_whose_ports_are_taken_are_refused() -> None:
    """Nodes that know each other by ports that are taken do not start as strangers."""
    with pytest.raises(ClusterError, match="taken"):
        picker(taken={11_001}).cassandra(3, saved=THREE_NODES)


def test_a_port_with_a_listener_is_not_free() -> None:
    """What the probe calls free can be listened on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        assert not probes.is_free(["127.0.0.1"], port)
    assert probes.is_free(["127.0.0.1"], port)


# --- what runs


@given(st.sets(st.integers(1, plan.WEB_MAX)), st.integers(1, plan.WEB_MAX))
def test_scaling_ends_with_the_number_asked_for(there: set[int], web: int) -> None:
    """Whatever instances there are, adding and removing leaves exactly as many as asked, with names of their own."""
    names = {f"web{number}" for number in there}
    add, remove = plan.scaled(names, web)
    assert set(remove) <= names
    assert not set(add) & names
    assert not (add and remove)
    assert len(names | set(add)) - len(remove) == web


def test_scaling_removes_the_youngest_and_fills_gaps() -> None:
    """Names stay short: the highest go first, and the lowest free ones come first."""
    assert plan.scaled(["web1", "web2", "web10"], 1) == ([], ["web10", "web2"])
    assert plan.scaled(["web1", "web3"], 4) == (["web2", "web4"], [])


def test_a_web_instance_is_told_its_store_and_its_port() -> None:
    """The environment says all: store, replication, address and port; what the options set wins over the store's size."""
    options = Options(env={"BUSYAPI_USAGE_BYTES_MAX": "1000"})
    service = plan.service_environment({"PATH": "/bin"}, options, THREE_NODES)
    assert plan.web_environment(service, plan.Member("web", "web1", "127.0.0.1", 12_000, "/run/web1.sock")) == {
        "PATH": "/bin",
        "BUSYAPI_STORE": "cassandra://127.0.0.1:11000,127.0.0.2:11000,127.0.0.3:11000/busyapi",
        "BUSYAPI_CASSANDRA_REPLICATION_FACTOR": "3",
        "BUSYAPI_USAGE_BYTES_MAX": "1000",
        "BUSYAPI_LISTEN_HOST": "127.0.0.1",
        "BUSYAPI_LISTEN_PORT": "12000",
        "BUSYAPI_LISTEN_UNIX": "/run/web1.sock",
    }


@pytest.mark.parametrize(("nodes", "copies"), [(1, 1), (2, 2), (3, 3), (5, 3)])
def test_replication_follows_the_number_of_nodes(nodes: int, copies: int) -> None:
    """One copy on one node, three on three and more."""
    assert plan.replication_factor(nodes) == copies


def test_haproxy_listens_for_https_only_with_a_certificate(tmp_path: Path) -> None:
    """Without a certificate there is no HTTPS, also when the caller's environment names one."""
    inherited = {"TLS_CERTIFICATE": "/elsewhere.pem", "WEB_DNS_NAME": "web"}
    plain = plan.haproxy_environment(inherited, Options(), 80, 0, 81)
    assert plain == {
        "GLIBC_TUNABLES": plan.HAPROXY_MALLOC,
        "HTTP_BIND": "127.0.0.1:80",
        "STATS_BIND": "127.0.0.1:81",
    }
    secure = plan.haproxy_environment(inherited, Options(certificate=tmp_path / "c.pem"), 80, 443, 81)
    assert secure["TLS_BIND"] == "127.0.0.1:443"
    assert secure["TLS_CERTIFICATE"] == str(tmp_path / "c.pem")


def test_haproxys_list_holds_each_web_instance_once() -> None:
    """The plain list is the backend `web` with one server a line."""
    members = [plan.Member("web", f"web{number}", "127.0.0.1", 12_000 + number) for number in (1, 2)]
    assert plan.web_list(members).splitlines() == [
        "backend web from web-instances",
        "    server web1 127.0.0.1:12001",
        "    server web2 127.0.0.1:12002",
    ]


@pytest.mark.parametrize(
    "wrong", [{"web": 0}, {"web": 65}, {"cassandra_nodes": 0}, {"port": 65_536}, {"https_port": -1}]
)
def test_numbers_out_of_bounds_are_refused(wrong: dict[str, int]) -> None:
    """A cluster of no instances, or of thousands, is a mistake."""
    with pytest.raises(ClusterError):
        Options(**wrong)  # type: ignore[arg-type]


def test_the_command_line_says_what_the_options_say(tmp_path: Path) -> None:
    """Tests and benchmarks start the very command that a person types."""
    certificate = tmp_path / "c.pem"
    certificate.touch()
    options = Options(
        web=3,
        cassandra_nodes=3,
        port=0,
        https_port=5000,
        certificate=certificate,
        restart=True,
        fresh=True,
        discard=True,
        state_dir=tmp_path,
        cassandra_heap="700M",
        env={"BUSYAPI_LOG_LEVEL": "debug", "BUSYAPI_CORS_ORIGINS": "a=b"},
        service_command=("python", "-m", "a module"),
    )
    assert options_of(parser().parse_args(client.arguments(options))) == options


# --- Cassandra


def test_a_key_is_set_whole_and_a_missing_one_is_added() -> None:
    """A key's old value goes with all its lines; comments and other keys stay."""
    template = "# why\nseeds:\n    - a\n- b\n# seeds: no\nport: 1\n\nother: x\ngone: y\n  more: z\n"
    text = cassandra.with_settings(template, {"seeds": "\n    - c", "port": "2", "new": "3"}, dropped=["gone"])
    assert text == "# why\n# seeds: no\n\nother: x\nseeds:\n    - c\nport: 2\nnew: 3\n"


@pytest.mark.parametrize("nodes", [1, 3])
def test_a_node_keeps_the_projects_configuration_and_moves_to_loopback(tmp_path: Path, nodes: int) -> None:
    """What cassandra/cassandra.yaml says of durability holds for all nodes of a cluster; of several, each has fewer threads that work, and more that wait."""
    project = (ROOT / "cassandra" / "cassandra.yaml").read_text()
    settings = cassandra.node_settings(nodes - 1, dataclasses.replace(THREE_NODES, nodes=nodes), tmp_path)
    text = cassandra.with_settings(project, settings)
    keys = re.findall(r"^([a-z_]+):", text, re.MULTILINE)
    assert len(keys) == len(set(keys))
    assert f"listen_address: 127.0.0.{nodes}\n" in text
    assert "storage_port: 11001\n" in text
    assert "/var/lib" not in "".join(line for line in text.splitlines() if not line.startswith("#"))
    lines = set(text.splitlines())
    kept = {
        line
        for line in project.splitlines()
        if re.match(
            "commitlog_(sync|comp|seg)|trickle_|commit_failure|disk_failure|batch_size_|concurrent_compactors",
            line,
        )
    }
    assert len(kept) == 10
    assert kept <= lines
    pattern = re.compile(r"^(concurrent_reads|concurrent_writes|native_transport_max_threads): (\d+)", re.MULTILINE)
    threads, of_project = ({key: int(count) for key, count in pattern.findall(yaml)} for yaml in (text, project))
    assert threads.keys() == of_project.keys()
    changes = {key: threads[key] - of_project[key] for key in threads}
    reads, writes, statements = (changes[key] for key in sorted(changes))
    assert (reads < 0, writes < 0, statements > 0) == (nodes > 1,) * 3
    assert nodes > 1 or threads == of_project


@given(st.integers(1, plan.CASSANDRA_NODES_MAX))
def test_the_nodes_share_the_ring_evenly(nodes: int) -> None:
    """No token belongs to two nodes, all are in range, and the gaps differ by one at most."""
    ring = sorted(token for node in range(nodes) for token in cassandra.tokens(node, nodes))
    gaps = {(after - before) % 2**64 for before, after in zip(ring, [*ring[1:], ring[0]], strict=True)}
    assert len(ring) == len(set(ring)) == nodes * cassandra.TOKENS_PER_NODE
    assert ring[0] >= -(2**63)
    assert ring[-1] < 2**63
    assert max(gaps) - min(gaps) <= 1


@pytest.mark.parametrize(
    ("text", "major"),
    [
        ('openjdk version "17.0.15" 2025-04-15', 17),
        ('java version "1.8.0_402"', 8),
        ('openjdk version "21" 2023-09-19', 21),
        ("command not found", None),
    ],
)
def test_the_java_version_is_read(text: str, major: int | None) -> None:
    """Old and new ways of writing a version are understood."""
    assert cassandra.java_major(text) == major


@pytest.mark.parametrize(
    ("jar", "kept"),
    [
        ("cassandra-all-5.0.9.jar", True),
        ("netty-transport-native-epoll-4.1.130.Final.jar", True),
        ("netty-transport-native-epoll-4.1.130.Final-linux-x86_64.jar", True),
        ("netty-transport-native-epoll-4.1.130.Final-linux-aarch_64.jar", False),
        ("netty-transport-native-kqueue-4.1.130.Final-osx-x86_64.jar", False),
        ("netty-tcnative-boringssl-static-2.0.70.Final-windows-x86_64.jar", False),
    ],
)
def test_jars_of_other_platforms_are_dropped(jar: str, kept: bool) -> None:
    """A jar that names a platform is kept on that one alone."""
    assert jars.is_for(jar, "Linux", "x86_64") is kept


def test_the_pom_names_one_version_of_cassandra() -> None:
    """The version of the cache is the pom's."""
    assert jars.cassandra_version((ROOT / "cassandra" / "pom.xml").read_text()) == "5.0.9"


SEGMENT = 1_795_692_791_360


def header(parameters: bytes = b'{"compressionClass":"LZ4Compressor"}') -> bytes:
    """What a segment of the commit log begins with: version, id, its parameters and their length, a checksum."""
    return struct.pack(">IQH", 7, SEGMENT, len(parameters)) + parameters + b"crc4"


def section(place: int, content: bytes, segment: int = SEGMENT) -> bytes:
    """What follows: where it ends, a checksum of the segment and its place, what was written."""
    checksum = zlib.crc32(struct.pack(">III", segment & 0xFFFFFFFF, segment >> 32, place))
    return struct.pack(">II", place + 8 + len(content), checksum) + content


def whole_sections() -> bytes:
    """A segment with two of them."""
    one = header()
    one += section(len(one), b"a group of writes")
    return one + section(len(one), b"another")


def mended(directory: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """What runs before Cassandra, with another command in its place."""
    script = ROOT / "cassandra" / "with-mended-commit-log"
    return subprocess.run([sys.executable, script, directory, *command], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("content", "kept"),
    [
        (b"", False),
        (header()[:9], False),
        (header()[:30], False),
        (header(), False),
        (header() + b"\0" * 7, False),
        (header(b""), False),
        (header() + b"\0" * 8, True),
        (header(b"").ljust(4096, b"\0"), True),
    ],
    ids=["nothing", "torn id", "torn header", "header", "torn marker", "uncompressed", "marker", "zeros"],
)
def test_a_segment_that_holds_no_write_does_not_keep_a_node_from_starting(
    tmp_path: Path, content: bytes, kept: bool
) -> None:
    """Cassandra forgives a torn end in the last segment alone; one behind it that holds nothing is removed, no other."""
    before, last, other = (
        tmp_path / name for name in ("CommitLog-7-9.log", "CommitLog-7-10.log", "CommitLog-7-9_cdc.idx")
    )
    before.write_bytes(whole_sections())
    last.write_bytes(content)
    other.touch()
    told = mended(tmp_path, "echo", "then this")
    assert told.stdout == "then this\n"
    assert (last.exists(), str(last) in told.stderr) == (kept, not kept)
    assert before.read_bytes() == whole_sections()
    assert other.exists()


@pytest.mark.parametrize("missing", range(1, 20))
def test_a_torn_section_is_cut_off_and_what_is_before_it_stays(tmp_path: Path, missing: int) -> None:
    """However much of it was written: it was never written whole, so nobody was told that it is stored."""
    sections = whole_sections()
    torn = sections + section(len(sections), b"torn, by the cut")[:-missing]
    (tmp_path / "CommitLog-7-9.log").write_bytes(sections)
    (tmp_path / "CommitLog-7-10.log").write_bytes(torn)
    (tmp_path / "CommitLog-7-11.log").write_bytes(header())
    assert mended(tmp_path, "true").returncode == 0
    left = (tmp_path / "CommitLog-7-10.log").read_bytes()
    # Cassandra itself looks no further than a marker that is not whole.
    assert left in {sections, *([torn] if len(torn) - len(sections) < 8 else [])}
    assert (tmp_path / "CommitLog-7-9.log").read_bytes() == sections


@pytest.mark.parametrize(
    "content",
    [
        whole_sections(),
        whole_sections() + b"\0" * 100,
        whole_sections() + section(len(whole_sections()), b"x" * 99, SEGMENT + 1)[:50],
        whole_sections() + section(3, b"x" * 99)[:50],
        whole_sections() + struct.pack(">II", 0, 7) + b"x",
    ],
    ids=["whole", "zeros behind", "another segment's", "out of place", "no checksum"],
)
def test_damage_of_another_sort_is_left_for_cassandra_to_find(tmp_path: Path, content: bytes) -> None:
    """Only what ends in the middle is cut: anything else may be of a write that was acknowledged."""
    segment = tmp_path / "CommitLog-7-10.log"
    segment.write_bytes(content)
    assert mended(tmp_path, "true").stderr == ""
    assert segment.read_bytes() == content


def test_a_torn_segment_that_others_follow_is_left_for_cassandra_to_find(tmp_path: Path) -> None:
    """It was not the last, so what it lacks may have been acknowledged."""
    torn = whole_sections()[:-2]
    (tmp_path / "CommitLog-7-9.log").write_bytes(torn)
    (tmp_path / "CommitLog-7-10.log").write_bytes(whole_sections())
    mended(tmp_path, "true")
    assert (tmp_path / "CommitLog-7-9.log").read_bytes() == torn


def test_a_node_starts_where_there_is_no_commit_log_yet(tmp_path: Path) -> None:
    """The first start finds nothing to mend; how the command ends is told on."""
    assert mended(tmp_path / "none", "sh", "-c", "exit 3").returncode == 3


def test_a_node_runs_with_the_assertions_that_cassandra_relies_on(tmp_path: Path) -> None:
    """One of them is all that notices a write to the commit log that a full disk cut short; the image has them, too."""
    (tmp_path / "jamm-0.jar").touch()
    command = cassandra.java_command("java", tmp_path, tmp_path, tmp_path, "512M", 1)
    assert "-ea" in command
    assert not [word for word in command if word.startswith(("-da", "-disableassertions")) and "openhft" not in word]


@pytest.mark.parametrize("nodes", [1, 3])
def test_several_nodes_on_one_machine_do_not_take_its_cores_to_compile_better(tmp_path: Path, nodes: int) -> None:
    """The quick compiler alone, and for a node that has the machine to itself both."""
    (tmp_path / "jamm-0.jar").touch()
    command = cassandra.java_command("java", tmp_path, tmp_path, tmp_path, "512M", nodes)
    assert ("-XX:TieredStopAtLevel=1" in command) is (nodes > 1)


@pytest.mark.parametrize(("length", "kept"), [(97, True), (98, False)])
def test_a_socket_whose_path_haproxy_does_not_take_is_a_port(length: int, kept: bool) -> None:
    """A checkout deep in somebody's home starts all the same."""
    directory = Path("/" + "d" * (length - len("//web1.sock")))
    path = plan.unix_socket(directory, "web1")
    assert path == (f"{directory}/web1.sock" if kept else "")
    assert len(f"{directory}/web1.sock") == length


# --- what is missing


def test_everything_that_is_missing_is_named_at_once() -> None:
    """Who lacks Java and HAProxy learns of both, and of the command that installs them."""
    with pytest.raises(ClusterError, match=r"Java 17.* and haproxy.*make system-packages"):
        both_found(None, None)
    with pytest.raises(ClusterError, match=r"missing: haproxy\."):
        both_found("/usr/bin/java", None)


def test_an_action_without_a_cluster_says_so(tmp_path: Path) -> None:
    """Scaling what does not run is an error in words, not a traceback."""
    with pytest.raises(ClusterError, match="no cluster"):
        client.RunningCluster(tmp_path)


# --- the state directory


def test_a_state_directory_has_one_cluster(tmp_path: Path) -> None:
    """A second cluster in the same directory is refused; after the first it may."""
    with state.held(tmp_path), pytest.raises(ClusterError, match="runs in"), state.held(tmp_path):
        pass
    with state.held(tmp_path):
        pass


def test_what_a_dead_cluster_left_is_cleared(tmp_path: Path) -> None:
    """Nobody reads the addresses of a cluster that is gone."""
    (tmp_path / state.STATE).write_text("{}")
    (tmp_path / state.CONTROL).touch()
    with state.held(tmp_path):
        assert [path.name for path in tmp_path.iterdir()] == ["lock"]


def test_state_is_replaced_whole(tmp_path: Path) -> None:
    """Writing leaves one file with the new content, and no other."""
    path = tmp_path / state.STATE
    for number in range(2):
        state.write_json(path, {"number": number})
    assert json.loads(path.read_text()) == {"number": 1}
    assert set(tmp_path.iterdir()) == {path}


def test_a_socket_has_a_short_name_however_deep_its_directory(tmp_path: Path) -> None:
    """The kernel's limit on socket names is no limit on state directories."""
    deep = tmp_path / ("d" * 60) / ("e" * 60)
    deep.mkdir(parents=True)
    with state.short_path(deep / state.CONTROL) as name, socket.socket(socket.AF_UNIX) as listener:
        assert len(os.fsencode(name)) < 100
        listener.bind(name)
    assert (deep / state.CONTROL).is_socket()


# --- what the processes answer


def test_haproxys_statistics_are_read() -> None:
    """Known are the servers of the backend `web`; up are those whose status begins so."""
    text = (
        "# pxname,svname,status,\nfront,FRONTEND,OPEN,\nweb,web1,UP,\nweb,web2,DOWN,\nweb,web3,UP 1/2,\n"
        "web,BACKEND,UP,\nother,web9,UP,\n"
    )
    assert probes.parse_statistics(text) == probes.HaproxyView(
        known=frozenset({"web1", "web2", "web3"}), up=frozenset({"web1", "web3"})
    )


@pytest.mark.parametrize(
    ("data", "answer"),
    [
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n", (200, "abc")),
        (b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 2\r\n\r\nno", (503, "no")),
        (b"", (0, "")),
        (b"SSH-2.0-OpenSSH\r\n", (0, "")),
    ],
)
def test_an_http_answer_is_read(data: bytes, answer: tuple[int, str]) -> None:
    """Status and body, chunked or not; anything else is no answer."""
    assert probes.parse_answer(data) == answer


def test_rows_with_a_value_are_counted() -> None:
    """A peer whose tokens are not known yet is none yet."""
    body = (
        struct.pack(">IIII", 2, 4, 1, 3) + struct.pack(">i", 2) + b"ab" + struct.pack(">i", -1) + struct.pack(">i", 0)
    )
    assert probes.count_non_null_rows(struct.pack(">BBhBI", 0x84, 0, 0, 8, len(body)) + body) == 2


@pytest.mark.parametrize("frame", [b"", b"\x84\x00\x00\x00\x00" + bytes(30), b"\x84\x00\x00\x00\x08" + bytes(30)])
def test_an_answer_that_is_no_result_counts_as_none(frame: bytes) -> None:
    """An error, a half answer or none at all is not taken for zero peers."""
    assert probes.count_non_null_rows(frame) is None


DRAINS = "trap 'echo drained > drained; exit 0' TERM; touch ready; while :; do sleep 0.05; done"


@pytest.mark.parametrize("discard", [False, True])
def test_who_wants_none_of_the_data_waits_for_no_drain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, discard: bool
) -> None:
    """With --discard what runs at the end is killed, and that is as clean an end as any."""
    monkeypatch.setattr(supervisor, "Launcher", lambda *_: None)

    async def ended() -> bool:
        cluster = supervisor.Supervisor(Options(state_dir=tmp_path, discard=discard), ROOT, os.environ)
        node = Child(
            plan.Member("cassandra", "cassandra1", "127.0.0.1", 1),
            ["sh", "-c", DRAINS],
            os.environ,
            tmp_path,
            tmp_path / "log",
            Ending(((signal.SIGTERM, 10.0),)),
        )
        cluster.children[node.name] = node
        await node.start()
        await asyncio.to_thread(eventually, (tmp_path / "ready").exists)
        return await cluster.stop()

    assert asyncio.run(ended())
    assert (tmp_path / "drained").exists() is not discard


def weight_of(pid: int) -> str:
    """Of a process's session among others."""
    return Path(f"/proc/{pid}/autogroup").read_text().strip().partition(" ")[2] if SESSIONS_HAVE_WEIGHTS else ""


@pytest.mark.parametrize("nice", [0, 7])
def test_who_gives_way_does_so_a_while_after_its_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nice: int
) -> None:
    """By the weight of its session, and so with all that it starts; until then, and again after a restart, it has as much as everybody."""
    monkeypatch.setattr(child, "GIVES_WAY_AFTER_S", 1.0)
    member = plan.Member("cassandra", "cassandra1", plan.LOOPBACK, 0)
    each = Child(member, ["sleep", "60"], os.environ, tmp_path, tmp_path / "log", Ending(()), nice=nice)

    async def weights() -> list[str]:
        seen = []
        for _ in range(2):
            await each.start()
            seen.append(weight_of(each.pid))
            await asyncio.sleep(2)
            seen.append(weight_of(each.pid))
            await each.kill()
        return seen

    assert asyncio.run(weights()) == (["nice 0", f"nice {nice}"] if SESSIONS_HAVE_WEIGHTS else ["", ""]) * 2


def test_who_has_ended_does_not_give_way_in_the_name_of_another(tmp_path: Path) -> None:
    """Its number may be another's by then."""

    async def ended() -> str:
        live = await child.spawn(["sleep", "60"], os.environ, tmp_path, tmp_path / "log")
        dead = await child.spawn(["true"], os.environ, tmp_path, tmp_path / "log")
        await dead.wait()
        dead.pid = live.pid
        child.give_way(dead, 7)
        try:
            return weight_of(live.pid)
        finally:
            live.kill()
            await live.wait()

    assert asyncio.run(ended()) == ("nice 0" if SESSIONS_HAVE_WEIGHTS else "")


def test_who_may_not_give_way_at_this_moment_does_so_at_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel takes it ten times a second from all who are not root together."""
    written: list[str] = []
    taken = asyncio.Event()

    def write(_path: Path, text: str) -> None:
        written.append(text)
        if len(written) < 3:
            raise BlockingIOError
        taken.set()

    async def ended() -> None:
        live = await child.spawn(["sleep", "60"], os.environ, tmp_path, tmp_path / "log")
        child.give_way(live, 7)
        await taken.wait()
        live.kill()
        await live.wait()

    monkeypatch.setattr(Path, "write_text", write)
    monkeypatch.setattr(child, "ASKED_AGAIN_S", 0.01)
    asyncio.run(asyncio.wait_for(ended(), 10))
    assert written == ["7"] * 3


@pytest.mark.parametrize("nodes", [1, 3])
def test_a_node_gives_way_where_it_is_the_only_one(nodes: int) -> None:
    """Of several, for which it was not measured, none does."""
    assert cassandra.niceness(nodes) == (10 if nodes == 1 else 0)
