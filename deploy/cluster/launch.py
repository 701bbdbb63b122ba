"""Makes the children of a cluster: writes their files and gives them their commands. Starts nothing."""

from __future__ import annotations

import shutil
import signal
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from deploy.cluster import cassandra, plan
from deploy.cluster.child import Child, Ending
from deploy.cluster.errors import ClusterError
from deploy.cluster.jars import JAVA_MAJOR, find_java

# SIGUSR1 is HAProxy's soft stop: it takes no new connections and ends with the last one.
HAPROXY_ENDING = Ending(((signal.SIGUSR1, 3.0), (signal.SIGTERM, 3.0)))
# Its own drain is drain_delay_s + drain_timeout_s, 23.5 s unless set.
WEB_ENDING = Ending(((signal.SIGTERM, 40.0),))
CASSANDRA_ENDING = Ending(((signal.SIGTERM, 30.0),))


def both_found(java: str | None, haproxy: str | None) -> tuple[str, str]:
    """The two programs. Raises ClusterError that names all that is missing."""
    missing = [] if java else [f"a Java {JAVA_MAJOR} (JAVA_HOME, or `java` on PATH)"]
    missing += [] if haproxy else ["haproxy"]
    if not java or not haproxy:
        raise ClusterError(f"missing: {' and '.join(missing)}. `make system-packages` installs them where it may")
    return java, haproxy


class Launcher:
    """Knows the repository, the state directory and the tools, and makes children from them."""

    def __init__(self, options: plan.Options, root: Path, environment: Mapping[str, str]) -> None:
        self.options = options
        self.root = root
        self.state_dir = options.state_dir.resolve()
        self.logs = self.state_dir / "logs"
        self.sockets = self.state_dir / "sockets"
        self.web_list = self.state_dir / "haproxy-web.cfg"
        self._environment = environment
        # Debian keeps daemons where a user's PATH does not lead.
        haproxy = shutil.which("haproxy", path=f"{environment.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
        self.java, self.haproxy = both_found(find_java(environment), haproxy)

    def prepare(self) -> None:
        """Make the state directory's folders; logs are of this run alone, data stays unless asked otherwise."""
        shutil.rmtree(self.logs, ignore_errors=True)
        self.logs.mkdir(parents=True)
        self.sockets.mkdir(mode=0o700, exist_ok=True)
        if self.options.fresh:
            shutil.rmtree(self.state_dir / "cassandra", ignore_errors=True)

    def log(self, name: str) -> Path:
        """The log file of a process."""
        return self.logs / f"{name}.log"

    def cassandra(self, node: int, member: plan.Member, ports: plan.CassandraPorts, jars: Path) -> Child:
        """A node: its configuration is the project's with its own addresses and places, and its share of the threads where there are several."""
        home = self.state_dir / "cassandra" / member.name
        conf = home / "conf"
        for directory in (conf, home / "tmp"):
            directory.mkdir(parents=True, exist_ok=True)
        template = (self.root / "cassandra" / "cassandra.yaml").read_text()
        settings = cassandra.node_settings(node, ports, home)
        (conf / "cassandra.yaml").write_text(cassandra.with_settings(template, settings))
        (conf / "logback.xml").write_text(cassandra.LOGBACK)
        heap = cassandra.heap(ports.nodes, self.options.cassandra_heap)
        scripts = self.root / "cassandra"
        start = [str(scripts / "with-timer-slack"), sys.executable, str(scripts / "with-mended-commit-log")]
        java = cassandra.java_command(self.java, jars, conf, home, heap, ports.nodes)
        command = [*start, str(home / "commitlog"), *java]
        log = self.log(member.name)
        nice = cassandra.niceness(ports.nodes)
        return Child(member, command, self._environment, home, log, CASSANDRA_ENDING, nice=nice)

    def service_environment(self, ports: plan.CassandraPorts) -> dict[str, str]:
        """What every `python -m service` of this cluster is told."""
        return plan.service_environment(self._environment, self.options, ports)

    def web(self, member: plan.Member, ports: plan.CassandraPorts) -> Child:
        """A web instance."""
        environment = plan.web_environment(self.service_environment(ports), member)
        command = [*self.options.service_command, "serve"]
        return Child(member, command, environment, self.root, self.log(member.name), WEB_ENDING)

    def load_balancer(self, member: plan.Member, https: int, stats: int) -> Child:
        """HAProxy as master and worker. It is told to stop rather than killed with us: the master takes its workers along."""
        environment = plan.haproxy_environment(self._environment, self.options, member.port, https, stats)
        config = self.root / "haproxy" / "haproxy.cfg"
        command = [self.haproxy, "-W", "-db", "-f", str(config), "-f", str(self.web_list)]
        log = self.log(member.name)
        return Child(member, command, environment, self.root, log, HAPROXY_ENDING, signal.SIGTERM)

    def write_web_list(self, members: Iterable[plan.Member]) -> None:
        """Replace HAProxy's list of web instances; HAProxy reads it at start and at each reload."""
        unfinished = self.web_list.with_suffix(".new")
        unfinished.write_text(plan.web_list(members))
        unfinished.replace(self.web_list)
