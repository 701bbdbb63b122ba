"""What the cluster will be, decided before anything starts: members, ports, environments. Pure."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from deploy.cluster.errors import ClusterError

LOOPBACK = "127.0.0.1"
KEYSPACE = "busyapi"
WEB_MAX = 64
CASSANDRA_NODES_MAX = 9
HAPROXY_MALLOC = "glibc.malloc.tcache_max=65536:glibc.malloc.tcache_count=1000"
"""See haproxy.cfg, where it says what this saves."""
SERVICE = (sys.executable, "-m", "service")
SOCKET_PATH_BYTES_MAX = 97
"""HAProxy takes no longer one: it keeps ten of the kernel's 107 for a suffix."""
PORTS = range(10_240, 32_768)
"""Below the ports that Linux hands to outgoing connections, so that none of those sits on a chosen port."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the caller asks for. A port of 0 is a free one; https_port counts only with a certificate.

    With ``discard`` nobody wants the data afterwards: at the end everything is killed, where draining takes it ten seconds.
    """

    web: int = 2
    cassandra_nodes: int = 1
    port: int = 8080
    https_port: int = 0
    certificate: Path | None = None
    restart: bool = False
    fresh: bool = False
    discard: bool = False
    state_dir: Path = Path(".cluster")
    cassandra_heap: str = ""
    env: Mapping[str, str] = field(default_factory=dict)
    service_command: tuple[str, ...] = SERVICE

    def __post_init__(self) -> None:
        if not 1 <= self.web <= WEB_MAX:
            raise ClusterError(f"the number of web instances is from 1 to {WEB_MAX}, not {self.web}")
        if not 1 <= self.cassandra_nodes <= CASSANDRA_NODES_MAX:
            raise ClusterError(f"the number of Cassandra nodes is from 1 to {CASSANDRA_NODES_MAX}")
        for port in (self.port, self.https_port):
            if not 0 <= port <= 65_535:
                raise ClusterError(f"a port is from 0 to 65535, not {port}")


@dataclass(frozen=True, slots=True)
class Member:
    """A process of the cluster and where it listens; a web instance has a Unix socket for HAProxy beside its port."""

    role: str
    name: str
    address: str
    port: int
    socket: str = ""


@dataclass(frozen=True, slots=True)
class CassandraPorts:
    """The two ports that all nodes share, on addresses of their own."""

    nodes: int
    cql: int
    storage: int


IsFree = Callable[[Sequence[str], int], bool]


class PortPicker:
    """Hands out free ports, none twice."""

    def __init__(self, is_free: IsFree, candidates: Iterable[int]) -> None:
        self._is_free = is_free
        self._candidates = iter(candidates)
        self._taken: set[int] = set()

    def wanted(self, port: int, what: str) -> int:
        """The port asked for, or a free one for 0. Raises ClusterError when it is taken."""
        if port == 0:
            return self.free()
        if port in self._taken or not self._is_free([LOOPBACK], port):
            raise ClusterError(f"port {port} for {what} is taken on {LOOPBACK}; 0 takes a free one")
        self._taken.add(port)
        return port

    def free(self, addresses: Sequence[str] = (LOOPBACK,)) -> int:
        """A port that is free on every one of the addresses."""
        for port in self._candidates:
            if port not in self._taken and self._is_free(addresses, port):
                self._taken.add(port)
                return port
        raise ClusterError(f"no port is free on all of {', '.join(addresses)}")

    def cassandra(self, nodes: int, saved: CassandraPorts | None) -> CassandraPorts:
        """Ports for the nodes: those of the saved data when there is some, as its nodes know each other by them."""
        addresses = node_addresses(nodes)
        if saved is None:
            return CassandraPorts(nodes, self.free(addresses), self.free(addresses))
        if saved.nodes != nodes:
            raise ClusterError(
                f"the data in the state directory is of {saved.nodes} Cassandra node(s), not {nodes}: "
                "start with as many, take another state directory, or drop the data with --fresh (make cluster FRESH=1)"
            )
        ports = {saved.cql, saved.storage}
        if not ports & self._taken and all(self._is_free(addresses, port) for port in ports):
            self._taken |= ports
            return saved
        if nodes == 1:
            return CassandraPorts(nodes, self.free(addresses), self.free(addresses))
        raise ClusterError(
            f"ports {saved.cql} and {saved.storage}, by which the saved nodes know each other, are taken"
        )


def node_addresses(nodes: int) -> list[str]:
    """127.0.0.1 and up, one for each Cassandra node."""
    return [f"127.0.0.{number}" for number in range(1, nodes + 1)]


def cassandra_members(ports: CassandraPorts) -> list[Member]:
    """The nodes, cassandra1 first."""
    return [
        Member("cassandra", f"cassandra{number}", address, ports.cql)
        for number, address in enumerate(node_addresses(ports.nodes), start=1)
    ]


def scaled(names: Iterable[str], web: int) -> tuple[list[str], list[str]]:
    """The names to add and to remove so that ``web`` instances are left: the lowest free, the highest taken."""
    there = sorted((int(name.removeprefix("web")) for name in names), reverse=True)
    remove = [f"web{number}" for number in there[: max(0, len(there) - web)]]
    unused = (number for number in range(1, WEB_MAX * 2 + 1) if number not in there)
    return [f"web{next(unused)}" for _ in range(web - len(there))], remove


def replication_factor(nodes: int) -> int:
    """1 for one node, 3 for three and more."""
    return min(nodes, 3)


def store_url(ports: CassandraPorts) -> str:
    """The store as the web instances are told it."""
    return f"cassandra://{','.join(f'{host}:{ports.cql}' for host in node_addresses(ports.nodes))}/{KEYSPACE}"


def service_environment(inherited: Mapping[str, str], options: Options, ports: CassandraPorts) -> dict[str, str]:
    """The environment of every `python -m service`: the caller's, the store, then what the options set on top."""
    return {
        **inherited,
        "BUSYAPI_STORE": store_url(ports),
        "BUSYAPI_CASSANDRA_REPLICATION_FACTOR": str(replication_factor(ports.nodes)),
        **options.env,
    }


def web_environment(service: Mapping[str, str], member: Member) -> dict[str, str]:
    """The environment of one web instance."""
    return {
        **service,
        "BUSYAPI_LISTEN_HOST": member.address,
        "BUSYAPI_LISTEN_PORT": str(member.port),
        "BUSYAPI_LISTEN_UNIX": member.socket,
    }


def haproxy_environment(
    inherited: Mapping[str, str], options: Options, http: int, https: int, stats: int
) -> dict[str, str]:
    """The environment that haproxy.cfg reads; limits that it shares with the web instances come along."""
    environment = {
        "GLIBC_TUNABLES": HAPROXY_MALLOC,
        **inherited,
        **options.env,
        "HTTP_BIND": f"{LOOPBACK}:{http}",
        "STATS_BIND": f"{LOOPBACK}:{stats}",
    }
    environment.pop("WEB_DNS_NAME", None)  # the plain list below is what it would replace
    environment.pop("TLS_CERTIFICATE", None)
    if options.certificate is not None:
        environment |= {"TLS_CERTIFICATE": str(options.certificate.resolve()), "TLS_BIND": f"{LOOPBACK}:{https}"}
    return environment


def unix_socket(directory: Path, name: str) -> str:
    """Where a web instance listens for HAProxy; empty, and TCP it is, when the path is longer than HAProxy takes."""
    path = str(directory / f"{name}.sock")
    return path if len(path.encode()) <= SOCKET_PATH_BYTES_MAX else ""


def server_address(member: Member) -> str:
    """A web instance as HAProxy's configuration names it."""
    return f"unix@{member.socket}" if member.socket else f"{member.address}:{member.port}"


def web_list(members: Iterable[Member]) -> str:
    """HAProxy's plain list of the web instances."""
    servers = "".join(f"    server {member.name} {server_address(member)}\n" for member in members)
    return f"backend web from web-instances\n{servers}"
