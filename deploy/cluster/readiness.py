"""When a process counts as ready: it answers, and those before it know."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from deploy.cluster import plan, probes
from deploy.cluster.child import Child, tail
from deploy.cluster.errors import ClusterError

CASSANDRA_TIMEOUT_S = 240.0
WEB_TIMEOUT_S = 60.0
HAPROXY_TIMEOUT_S = 20.0
POLL_S = 0.1

Ready = Callable[[], Awaitable[bool]]


@dataclass(frozen=True, slots=True)
class Readiness:
    """Waits for the children of a cluster of so many nodes, whose HAProxy has its statistics on this port."""

    children: Mapping[str, Child]
    nodes: int
    stats_port: int

    async def of(self, child: Child) -> None:
        """Return when the child is ready. Raises ClusterError with its last words when it ends or takes too long.

        A Cassandra node knows all others, HAProxy uses a web instance, and uses all of them when it is itself asked.
        """
        haproxy = self.children.get("haproxy")
        if child.member.role == "cassandra":
            await wait(child, self._knows_all_nodes(child.member), CASSANDRA_TIMEOUT_S)
        elif child.member.role == "web":
            await self.answers(child)
            if haproxy is not None and haproxy.running:
                await wait(child, self._haproxy_uses({child.name}), HAPROXY_TIMEOUT_S)
        else:
            await wait(child, self._haproxy_uses(self._web(running=True)), HAPROXY_TIMEOUT_S)
            await self.answers(child)

    async def answers(self, child: Child) -> None:
        """Return when the child answers /readyz with a 200, whoever knows of it."""
        member = child.member
        await wait(child, lambda: probes.is_ready(member.address, member.port), WEB_TIMEOUT_S)

    async def of_reload(self, haproxy: Child) -> None:
        """Return when HAProxy has exactly the web instances that there are now, and uses those that run."""
        listed, running = self._web(running=False), self._web(running=True)

        async def ready() -> bool:
            view = await probes.haproxy_view(plan.LOOPBACK, self.stats_port)
            return view.known == listed and running <= view.up

        await wait(haproxy, ready, HAPROXY_TIMEOUT_S)

    def _web(self, *, running: bool) -> set[str]:
        return {
            child.name
            for child in self.children.values()
            if child.member.role == "web" and (child.running or not running)
        }

    def _knows_all_nodes(self, member: plan.Member) -> Ready:
        async def ready() -> bool:
            return await probes.cassandra_peers(member.address, member.port) == self.nodes - 1

        return ready

    def _haproxy_uses(self, names: set[str]) -> Ready:
        async def ready() -> bool:
            return names <= (await probes.haproxy_view(plan.LOOPBACK, self.stats_port)).up

        return ready


async def wait(child: Child, ready: Ready, timeout_s: float) -> None:
    """Poll until ready. Raises ClusterError when the child ends before, or the time is over."""
    deadline = time.monotonic() + timeout_s
    while True:
        if not child.running:
            raise ClusterError(f"{child.name} {child.ended}; its log ends:\n{tail(child.log)}")
        if await ready():
            return
        if time.monotonic() > deadline:
            raise ClusterError(f"{child.name} was not ready within {timeout_s:g} s; its log ends:\n{tail(child.log)}")
        await asyncio.sleep(POLL_S)
