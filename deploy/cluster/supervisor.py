"""Starts the cluster, watches it, changes it on request and stops it: Cassandra, web instances, HAProxy."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from deploy.cluster import plan, probes, state
from deploy.cluster.child import Child, how_it_ended, spawn, tail
from deploy.cluster.errors import ClusterError
from deploy.cluster.jars import cassandra_jars
from deploy.cluster.launch import Launcher

CASSANDRA_TIMEOUT_S = 180.0
SCHEMA_TIMEOUT_S = 90.0
WEB_TIMEOUT_S = 60.0
HAPROXY_TIMEOUT_S = 20.0
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
        self._https_port = 0
        self._stats_port = 0
        candidates = list(plan.PORTS)
        random.shuffle(candidates)
        self._picker = plan.PortPicker(probes.is_free, candidates)
        self._watchers: set[asyncio.Task[None]] = set()
        self._scaling = asyncio.Lock()
        self._ready = False
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
        self._ready = True
        self.write_state()

    def _choose_ports(self) -> None:
        options, pick = self.options, self._picker
        http = pick.wanted(options.port, "HTTP (PORT)")
        self._https_port = pick.wanted(options.https_port, "HTTPS") if options.certificate else 0
        self._stats_port = pick.free()
        self.ports = pick.cassandra(options.cassandra_nodes, state.saved_ports(self.launcher.state_dir))
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
            await self._until_ready(child)
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
            member = plan.Member("web", name, plan.LOOPBACK, self._picker.free())
            self._add(self.launcher.web(member, self.ports))
            await self._launch(self.children[name])
        for name in names:
            await self._until_ready(self.children[name])

    async def _start_haproxy(self) -> None:
        self.launcher.write_web_list(child.member for child in self.role("web"))
        self._add(self.launcher.load_balancer(self._haproxy, self._https_port, self._stats_port))
        haproxy = self.children["haproxy"]
        await self._launch(haproxy)
        await self._until_ready(haproxy)

    def _add(self, child: Child) -> None:
        self.children[child.name] = child

    async def _launch(self, child: Child) -> None:
        await child.start()
        watcher = asyncio.create_task(self._watch(child), name=f"watch {child.name}")
        self._watchers.add(watcher)
        watcher.add_done_callback(self._watchers.discard)

    # --- waiting until ready

    async def _until_ready(self, child: Child) -> None:
        member = child.member
        if member.role == "cassandra":
            await self._wait(child, self._knows_all_nodes(member), CASSANDRA_TIMEOUT_S)
        elif member.role == "web":
            await self._wait(child, self._answers_ready(member), WEB_TIMEOUT_S)
            if "haproxy" in self.children and self.children["haproxy"].running:
                await self._wait(child, self._haproxy_uses({child.name}), HAPROXY_TIMEOUT_S)
        else:
            running = {web.name for web in self.role("web") if web.running}
            await self._wait(child, self._haproxy_uses(running), HAPROXY_TIMEOUT_S)
            await self._wait(child, self._answers_ready(member), HAPROXY_TIMEOUT_S)

    def _answers_ready(self, member: plan.Member) -> Callable[[], Awaitable[bool]]:
        return lambda: probes.is_ready(member.address, member.port)

    def _knows_all_nodes(self, member: plan.Member) -> Callable[[], Awaitable[bool]]:
        async def ready() -> bool:
            return await probes.cassandra_peers(member.address, member.port) == self.ports.nodes - 1

        return ready

    def _haproxy_uses(self, names: set[str]) -> Callable[[], Awaitable[bool]]:
        async def ready() -> bool:
            view = await probes.haproxy_view(plan.LOOPBACK, self._stats_port)
            return names <= view.up

        return ready

    async def _wait(self, child: Child, ready: Callable[[], Awaitable[bool]], timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while True:
            if not child.running:
                raise ClusterError(f"{child.name} {child.ended}; its log ends:\n{tail(child.log)}")
            if await ready():
                return
            if time.monotonic() > deadline:
                raise ClusterError(
                    f"{child.name} was not ready within {timeout_s:g} s; its log ends:\n{tail(child.log)}"
                )
            await asyncio.sleep(0.1)

    # --- watching

    async def _watch(self, child: Child) -> None:
        deaths = 0
        while True:
            began = time.monotonic()
            pid = child.pid
            await child.wait()
            if not child.has_died():
                break
            then = "it is started again" if self.options.restart else "it stays dead (RESTART=1 would start it again)"
            self.say(f"{child.name} (pid {pid}) {child.ended}; {then}. Its log: {child.log}")
            self.write_state()
            if not self.options.restart or not self._ready:
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
            await self._until_ready(child)
        return child.pid

    async def until_ready(self) -> None:
        """Return when every process that runs is ready, HAProxy's view of the web instances included."""
        for child in list(self.children.values()):
            if child.running:
                await self._until_ready(child)

    async def scale(self, web: int) -> list[str]:
        """Change the number of web instances and tell HAProxy; the names that are left. New ones are ready on return."""
        if not 1 <= web <= plan.WEB_MAX:
            raise ClusterError(f"the number of web instances is from 1 to {plan.WEB_MAX}, not {web}")
        async with self._scaling:
            add, remove = plan.scaled([child.name for child in self.role("web")], web)
            self.say(f"scaling to {web} web instance(s)")
            try:
                await self._start_unlisted(add)
                await asyncio.gather(*(self.children[name].stop() for name in remove))
                for name in remove:
                    del self.children[name]
                await self._reload_haproxy()
            finally:
                self.write_state()
            return [child.name for child in self.role("web")]

    async def _start_unlisted(self, names: list[str]) -> None:
        """Start web instances that HAProxy does not know yet; on failure none of them is left."""
        try:
            for name in names:
                member = plan.Member("web", name, plan.LOOPBACK, self._picker.free())
                self._add(self.launcher.web(member, self.ports))
                await self._launch(self.children[name])
            for name in names:
                child = self.children[name]
                await self._wait(child, self._answers_ready(child.member), WEB_TIMEOUT_S)
        except BaseException:
            for name in names:
                if name in self.children:
                    await self.children.pop(name).kill()
            raise

    async def _reload_haproxy(self) -> None:
        haproxy, webs = self.children["haproxy"], self.role("web")
        self.launcher.write_web_list(child.member for child in webs)
        if not haproxy.running:
            return
        haproxy.signal(signal.SIGUSR2)
        listed, running = {child.name for child in webs}, {child.name for child in webs if child.running}

        async def reloaded() -> bool:
            view = await probes.haproxy_view(plan.LOOPBACK, self._stats_port)
            return view.known == listed and running <= view.up

        await self._wait(haproxy, reloaded, HAPROXY_TIMEOUT_S)

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
        if self._ready:
            state.write_json(self.launcher.state_dir / state.STATE, self.document())
