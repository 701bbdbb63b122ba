"""A Cassandra node's files and command line, made from the project's cassandra.yaml. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from deploy.cluster.errors import ClusterError
from deploy.cluster.plan import CassandraPorts, node_addresses

TOKENS_PER_NODE = 16

# What Cassandra 5 reaches of the JDK's insides, package by package.
OPENS = {
    "java.base": (
        "java.io java.lang java.lang.module java.lang.reflect java.nio java.util java.util.concurrent "
        "java.util.concurrent.atomic jdk.internal.loader jdk.internal.math jdk.internal.module jdk.internal.ref "
        "jdk.internal.reflect jdk.internal.util.jar sun.nio.ch"
    ),
    "jdk.management": "com.sun.management.internal",
}
EXPORTS = {
    "java.base": "java.lang.ref jdk.internal.misc jdk.internal.ref sun.nio.ch",
    "java.management.rmi": "com.sun.jmx.remote.internal.rmi",
    "java.rmi": "sun.rmi.registry sun.rmi.server",
    "java.sql": "java.sql",
    "jdk.attach": "sun.tools.attach",
    "jdk.unsupported": "sun.misc",
}

LOGBACK = """\
<configuration>
  <appender name="STDOUT" class="ch.qos.logback.core.ConsoleAppender">
    <encoder><pattern>%date{ISO8601} %-5level [%thread] %F:%L - %msg%n</pattern></encoder>
  </appender>
  <root level="INFO"><appender-ref ref="STDOUT"/></root>
</configuration>
"""


SHARED_MACHINE = {"concurrent_writes": "2", "concurrent_reads": "2", "native_transport_max_threads": "16"}
"""For several nodes on the cores of one machine: threads that wait for work spin, and each node has its own. Those that take statements
are more than one node alone has: each waits for the replicas, and where one of these stands still they are what is short."""


def tokens(node: int, nodes: int) -> list[int]:
    """The tokens of the node with this index: evenly spaced over the ring, the nodes taking turns.

    Given tokens let all nodes of an empty cluster start at once, where chosen ones would have to
    wait for one another.
    """
    count = nodes * TOKENS_PER_NODE
    return [-(2**63) + position * 2**64 // count for position in range(node, count, nodes)]


def node_settings(node: int, ports: CassandraPorts, data: Path) -> dict[str, str]:
    """What this node's cassandra.yaml has differently from the project's: addresses, ports, places, its tokens; threads of several."""
    addresses = node_addresses(ports.nodes)
    return {
        "cluster_name": "'BusyAPI on loopback'",
        "num_tokens": str(TOKENS_PER_NODE),
        "initial_token": f'"{",".join(map(str, tokens(node, ports.nodes)))}"',
        "auto_bootstrap": "false",
        **(SHARED_MACHINE if ports.nodes > 1 else {}),
        "listen_address": addresses[node],
        "rpc_address": addresses[node],
        "native_transport_port": str(ports.cql),
        "storage_port": str(ports.storage),
        "data_file_directories": f"\n    - {data}/data",
        **{f"{what}_directory": f"{data}/{what}" for what in ("commitlog", "hints", "saved_caches", "cdc_raw")},
        "seed_provider": (
            "\n    - class_name: org.apache.cassandra.locator.SimpleSeedProvider"
            f'\n      parameters:\n          - seeds: "{",".join(addresses)}"'
        ),
    }


DROPPED = (
    "broadcast_address",
    "broadcast_rpc_address",
    "listen_interface",
    "rpc_interface",
    "ssl_storage_port",
    "allocate_tokens_for_local_replication_factor",
    "allocate_tokens_for_keyspace",
)


def with_settings(template: str, settings: Mapping[str, str], dropped: Sequence[str] = DROPPED) -> str:
    """A YAML text with some of its top-level keys set and some dropped; what it lacks goes to the end."""
    kept: list[str] = []
    replaced = False
    for line in template.splitlines():
        key = re.match(r"([A-Za-z_]+):", line)
        if key:
            replaced = key[1] in settings or key[1] in dropped
        elif not re.match(r"\s+\S|- ", line):  # a comment or an empty line between two keys belongs to neither
            replaced = False
        if not replaced:
            kept.append(line)
    kept += [f"{key}: {value}" if not value.startswith("\n") else f"{key}:{value}" for key, value in settings.items()]
    return "\n".join(kept) + "\n"


def heap(nodes: int, asked: str) -> str:
    """The Java heap of a node: as asked, or half of a gigabyte when there are several."""
    return asked or ("1G" if nodes == 1 else "512M")


def niceness(nodes: int) -> int:
    """The nice value of a node's session, of so many nodes, once it gives way: 10 is a tenth of the weight of each other session.

    Where cores are short HAProxy and web instances come first: the node takes what they bring in larger groups then, which
    cost it less, and what it compiles and compacts can wait. Of several, for which it was not measured, none gives way.
    """
    return 10 if nodes == 1 else 0


def java_command(java: str, jars: Path, conf: Path, data: Path, heap_size: str, nodes: int) -> list[str]:
    """The command of a node in the foreground.

    Nobody else gossips on these addresses: the waits for a ring to settle are for real networks. Of several nodes each is
    compiled by the quick compiler alone: the other one is better after minutes, which it spends on the cores of all.
    """
    agent = sorted(jars.glob("jamm-*.jar"))
    if not agent:
        raise ClusterError(f"{jars} has no jamm-*.jar: remove the directory and start again")
    modules = [
        word
        for option, packages in (("--add-opens", OPENS), ("--add-exports", EXPORTS))
        for module, names in packages.items()
        for name in names.split()
        for word in (option, f"{module}/{name}=ALL-UNNAMED")
    ]
    return [
        java,
        f"-Xms{heap_size}",
        f"-Xmx{heap_size}",
        "-Xss256k",
        # As in Cassandra's own jvm-server.options: it relies on them. That a write to the commit log was cut short by a full
        # disk is noticed by an assertion alone, and without it such a write is acknowledged.
        "-ea",
        "-da:net.openhft...",
        "-XX:+UseG1GC",
        *(["-XX:TieredStopAtLevel=1"] if nodes > 1 else []),
        "-XX:+PerfDisableSharedMem",
        "-XX:+ExitOnOutOfMemoryError",
        f"-XX:ErrorFile={data}/hs_err_%p.log",
        f"-Djava.io.tmpdir={data / 'tmp'}",
        "-Djava.net.preferIPv4Stack=true",
        "-Djdk.attach.allowAttachSelf=true",
        "-Dio.netty.tryReflectionSetAccessible=true",
        # Else it closes its standard output once it has started, and its log ends there.
        "-Dcassandra-foreground=yes",
        "-Dcassandra.ring_delay_ms=1",
        "-Dcassandra.skip_wait_for_gossip_to_settle=0",
        f"-Dcassandra.storagedir={data}",
        f"-Dcassandra.logdir={data}/logs",
        *modules,
        f"-javaagent:{agent[0]}",
        "-cp",
        f"{conf}:{jars}/*",
        "org.apache.cassandra.service.CassandraDaemon",
    ]


def java_major(version_text: str) -> int | None:
    """The major version in what `java -version` prints; None when it tells none."""
    found = re.search(r'version "(?:1\.)?(\d+)', version_text)
    return int(found[1]) if found else None
