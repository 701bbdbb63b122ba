"""Starts the cluster, watches it, changes it on request and stops it: Cassandra, web instances, HAProxy."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deploy.cluster import plan, probes, state
from deploy.cluster.child import Child, how_it_ended, spawn, tail
from deploy.cluster.errors import ClusterError
from deploy.cluster.jars import cassandra_jars
from deploy.cluster.launch import Launcher
from deploy.cluster.readiness import Readiness

SCHEMA_TIMEOUT_S = 90.0
RESTART_DELAY_MAX_S = 30.0
STEADY_S = 10.0
"""A process that ran so long before it died is started again at once; others wait, each time longer."""


class Supervisor:
    """The processes of one cluster, by name."""

    def __init__(self, options: plan.Options, root: Path, environment: Mapping[str, str]) -> None:
        self.options = options
        self.launcher = Launcher(options, root, environment)
        self.children: dict[str, Child] = {}
        self.url: dict[str, str | None] = {}
        self.ports = plan.CassandraPorts(0, 0, 0)
        self._ready = Readiness(self.children, 0, 0)
        self._https_port = 0
        self._stats_port = 0
        candidates = list(plan.PORTS)
        random.shuffle(candidates)
        self._picker = plan.PortPicker(probes.is_free, candidates)
        self._watchers: set[asyncio.Task[None]] = set()
        self._scaling = asyncio.Lock()
        self._up = False
        self._hurried = False
        self._began = time.monotonic()

    # --- starting

    async def start(self) -> None:
        """Start everything, in the order in which they need one another; returns when a request would be answered."""
        self.launcher.prepare()
        self._choose_ports()
        jars = await cassandra_jars(self.launcher.root, self.say)
        await self._start_cassandra(jars)
        await self._apply_schema()
        names, _ = plan.scaled([], self.options.web)
        self.say(f"starting {len(names)} web instance(s)")
        await self._start_web(names)
        await self._start_haproxy()
        self._up = True
        self.write_state()

    def _choose_ports(self) -> None:
        options, pick = self.options, self._picker
        http = pick.wanted(options.port, "HTTP (PORT)")
        self._https_port = pick.wanted(options.https_port, "HTTPS") if options.certificate else 0
        self._stats_port = pick.free()
        self.ports = pick.cassandra(options.cassandra_nodes, state.saved_ports(self.launcher.state_dir))
        self._ready = Readiness(self.children, self.ports.nodes, self._stats_port)
        state.save_ports(self.launcher.state_dir, self.ports)
        self._haproxy = plan.Member("haproxy", "haproxy", plan.LOOPBACK, http)
        self.url = {
            "base_url": f"http://{plan.LOOPBACK}:{http}",
            "https_url": f"https://{plan.LOOPBACK}:{self._https_port}" if self._https_port else None,
            "stats_url": f"http://{plan.LOOPBACK}:{self._stats_port}",
        }

    async def _start_cassandra(self, jars: Path) -> None:
        nodes = plan.cassandra_members(self.ports)
        self.say(f"starting {len(nodes)} Cassandra node(s); this takes ten seconds and more")
        for number, member in enumerate(nodes):
            self._add(self.launcher.cassandra(number, member, self.ports, jars))
        children = [self.children[member.name] for member in nodes]
        for child in children:
            await self._launch(child)
        for child in children:
            await self._ready.of(child)
        self.say(f"Cassandra answers on port {self.ports.cql}")

    async def _apply_schema(self) -> None:
        log = self.launcher.log("schema")
        command = [*self.options.service_command, "schema"]
        environment = self.launcher.service_environment(self.ports)
        process = await spawn(command, environment, self.launcher.root, log)
        try:
            returncode = await asyncio.wait_for(process.wait(), SCHEMA_TIMEOUT_S)
        except TimeoutError:
            raise ClusterError(f"the schema was not applied within {SCHEMA_TIMEOUT_S:g} s:\n{tail(log)}") from None
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if returncode != 0:
            raise ClusterError(f"the schema step {how_it_ended(returncode)}:\n{tail(log)}")

    async def _start_web(self, names: list[str]) -> None:
        for name in names:
            socket = plan.unix_socket(self.launcher.sockets, name)
            member = plan.Member("web", name, plan.LOOPBACK, self._picker.free(), socket)
            self._add(self.launcher.web(member, self.ports))
            await self._launch(self.children[name])
        for name in names:
            await self._ready.answers(self.children[name])

    async def _start_haproxy(self) -> None:
        self.launcher.write_web_list(child.member for child in self.role("web"))
        self._add(self.launcher.load_balancer(self._haproxy, self._https_port, self._stats_port))
        haproxy = self.children["haproxy"]
        await self._launch(haproxy)
        await self._ready.of(haproxy)

    def _add(self, child: Child) -> None:
        self.children[child.name] = child

    async def _launch(self, child: Child) -> None:
        await child.start()
        watcher = asyncio.create_task(self._watch(child), name=f"watch {child.name}")
        self._watchers.add(watcher)
        watcher.add_done_callback(self._watchers.discard)

    # --- watching

    async def _watch(self, child: Child) -> None:
        deaths = 0
        while True:
            began = time.monotonic()
            pid = child.pid
            await child.wait()
            if not child.has_died():
                break
            again = self.options.restart and self._up
            then = "it is started again" if again else "it stays dead (RESTART=1 would start it again)"
            self.say(f"{child.name} (pid {pid}) {child.ended}; {then}. Its log: {child.log}")
            self.write_state()
            if not again:
                break
            deaths = 1 if time.monotonic() - began > STEADY_S else deaths + 1
            await asyncio.sleep(0 if deaths == 1 else min(2.0**deaths, RESTART_DELAY_MAX_S))
            if not child.has_died():
                break
            await child.start()
            self.say(f"{child.name} runs again (pid {child.pid})")
            self.write_state()
        self.write_state()

    # --- changing

    async def stop_one(self, name: str) -> int:
        """Stop a process in good order; it stays stopped. Its exit status."""
        status = await self._child(name).stop()
        self.write_state()
        return status

    async def kill_one(self, name: str) -> int:
        """Kill a process; it stays dead."""
        status = await self._child(name).kill()
        self.write_state()
        return status

    async def start_one(self, name: str, *, wait: bool = True) -> int:
        """Start a process that ended, where it was; its pid. Returns when it is ready unless told not to wait."""
        child = self._child(name)
        if child.running:
            raise ClusterError(f"{name} runs already (pid {child.pid})")
        await self._launch(child)
        self.write_state()
        if wait:
            await self._ready.of(child)
        return child.pid

    async def until_ready(self) -> None:
        """Return when every process that runs is ready, HAProxy's view of the web instances included."""
        for child in list(self.children.values()):
            if child.running:
                await self._ready.of(child)

    async def scale(self, web: int) -> list[str]:
        """Change the number of web instances and tell HAProxy; the names that are left. New ones are ready on return."""
        if not 1 <= web <= plan.WEB_MAX:
            raise ClusterError(f"the number of web instances is from 1 to {plan.WEB_MAX}, not {web}")
        async with self._scaling:
            add, remove = plan.scaled([child.name for child in self.role("web")], web)
            self.say(f"scaling to {web} web instance(s)")
            try:
                await self._start_all_or_none(add)
                await asyncio.gather(*(self.children[name].stop() for name in remove))
                for name in remove:
                    del self.children[name]
                await self._reload_haproxy()
            finally:
                self.write_state()
            return [child.name for child in self.role("web")]

    async def _start_all_or_none(self, names: list[str]) -> None:
        """Start web instances that HAProxy does not know yet; on failure none of them is left."""
        try:
            await self._start_web(names)
        except BaseException:
            for child in [self.children.pop(name) for name in names if name in self.children]:
                await child.kill()
            raise

    async def _reload_haproxy(self) -> None:
        self.launcher.write_web_list(child.member for child in self.role("web"))
        haproxy = self.children["haproxy"]
        if haproxy.running:
            haproxy.signal(signal.SIGUSR2)
            await self._ready.of_reload(haproxy)

    def _child(self, name: str) -> Child:
        if name not in self.children:
            raise ClusterError(f"there is no process {name}; there are {', '.join(self.children)}")
        return self.children[name]

    # --- stopping

    async def stop(self) -> bool:
        """Stop everything, the front first; whether all ended by themselves."""
        for child in self.children.values():
            child.wanted = False
        clean = True
        for role in ("haproxy", "web", "cassandra"):
            running = [child for child in self.role(role) if child.running]
            if running:
                self.say(f"stopping {', '.join(child.name for child in running)}")
            if self.options.discard:
                await asyncio.gather(*(child.kill() for child in running))
                continue
            ends = await asyncio.gather(*(child.stop() for child in running))
            clean = clean and -signal.SIGKILL not in ends
        for watcher in self._watchers:
            watcher.cancel()
        await asyncio.gather(*self._watchers, return_exceptions=True)
        return clean and not self._hurried

    def hurry(self) -> None:
        """Kill what still runs: the stop that waits for it goes on at once."""
        self._hurried = True
        for child in self.children.values():
            child.wanted = False
            child.signal(signal.SIGKILL)

    # --- telling

    def role(self, role: str) -> list[Child]:
        """The children of a role."""
        return [child for child in self.children.values() if child.member.role == role]

    def say(self, text: str) -> None:
        """A line for the person in front, with the seconds since the start."""
        print(f"[{time.monotonic() - self._began:6.1f} s] {text}", flush=True)

    def document(self) -> dict[str, Any]:
        """What state.json holds."""
        nodes = plan.node_addresses(self.ports.nodes)
        return state.document(self.url, nodes, self.ports.cql, [child.state() for child in self.children.values()])

    def write_state(self) -> None:
        """Bring state.json up to date; there is none before everything is ready."""
        if self._up:
            state.write_json(self.launcher.state_dir / state.STATE, self.document())
