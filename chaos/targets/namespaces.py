"""A cluster on hosts made of network namespaces: as `processes`, but cuts are made by the kernel between the hosts.

A cut link drops packets, so connections stall as behind a dead switch, in one direction if asked; what a broker's own
process does or does not do makes no difference. Delay and bandwidth are ruled inside of the brokers still, because
kernels without netem cannot do them. Clients live on a host of their own, and so does the suite.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Final

from chaos.interfaces import CLIENTS, Capability, ClusterOptions
from chaos.network import PREFIX, NamespaceNetwork, why_no_namespaces
from chaos.node_link_table import End
from chaos.node_links import PREFIX_VARIABLE, address_of
from chaos.node_process import ChaosProcesses
from chaos.targets.base import capabilities
from chaos.targets.processes import ProcessTarget
from logcluster.devcluster.layout import NodePlan
from logcluster.devcluster.probe import Readiness
from logcluster.model.errors import RequestTimedOut

RESET_S: Final = 0.2
"""How long a reset link answers with resets."""
POLL_S: Final = 0.05
_numbers = count(1)
_KERNEL: Final = ("cut", "cut-one-way", "reset")


class NamespaceProcesses(ChaosProcesses):
    """Brokers that live in namespaces."""

    network: NamespaceNetwork

    def address(self, node_id: int) -> str:
        return address_of(node_id, PREFIX)

    def command(self, node_id: int, command: Sequence[str]) -> Sequence[str]:
        return self.network.command(node_id, command)

    def environment(self) -> Mapping[str, str]:
        return {PREFIX_VARIABLE: PREFIX}

    def check_addresses(self, plan: NodePlan) -> None:
        """Ports of a host of its own are free."""

    async def wait_ready(
        self,
        node_ids: Iterable[int] | None = None,
        *,
        timeout_ms: int = 30_000,
        on_ready: Callable[[int], None] | None = None,
        is_stopping: Callable[[], bool] = lambda: False,
    ) -> dict[int, Readiness]:
        """As `NodeProcesses.wait_ready`, asked on each broker's own host."""
        ready: dict[int, Readiness] = {}
        waiting = list(self.plans if node_ids is None else node_ids)
        try:
            async with asyncio.timeout(timeout_ms / 1000):
                while len(ready) < len(waiting):
                    for node_id in (node_id for node_id in waiting if node_id not in ready):
                        self._check_alive(node_id)
                        if await self._is_ready(node_id):
                            ready[node_id] = Readiness(True)
                            if on_ready is not None:
                                on_ready(node_id)
                    await asyncio.sleep(POLL_S)
        except TimeoutError:
            late = [node_id for node_id in waiting if node_id not in ready]
            raise RequestTimedOut(f"brokers {late} were not ready within {timeout_ms} ms") from None
        return ready

    async def _is_ready(self, node_id: int) -> bool:
        plan = self.plans[node_id]
        try:
            with self.network.inside(node_id):
                connection = socket.create_connection((plan.host, plan.ports.http), timeout=1)
        except OSError:
            return False
        try:
            async with asyncio.timeout(1):
                reader, writer = await asyncio.open_connection(sock=connection)
                writer.write(b"GET /readyz HTTP/1.1\r\nHost: broker\r\nConnection: close\r\n\r\n")
                status = await reader.readline()
                writer.close()
        except (OSError, TimeoutError):
            return False
        return b" 200 " in status


class NamespaceTarget(ProcessTarget):
    """Implements `chaos.interfaces.Target`; needs root on Linux."""

    name = "netns"

    def __init__(self) -> None:
        super().__init__()
        self._network: NamespaceNetwork | None = None

    def preflight(self) -> Sequence[Capability]:
        why = why_no_namespaces()
        known = super().preflight()
        if why:
            return capabilities({item.name: why for item in known})
        notes = {item.name: item.reason for item in known if item.is_supported and item.name not in _KERNEL}
        return capabilities(
            {item.name: item.reason for item in known if not item.is_supported},
            {**notes, **dict.fromkeys(_KERNEL, "by the kernel, between the hosts")},
        )

    async def start(self, options: ClusterOptions, directory: Path) -> None:
        self._network = NamespaceNetwork(f"chaos{os.getpid()}x{next(_numbers)}", range(options.brokers))
        self._network.create()
        self._network.enter()
        await super().start(options, directory)

    def _make_processes(self, plans: Sequence[NodePlan]) -> ChaosProcesses:
        assert self._control_directory is not None and self._network is not None
        processes = NamespaceProcesses(
            plans,
            control_directory=self._control_directory,
            is_disk_lazy=self._options.is_disk_lazy,
            ablations=self._options.ablations,
            faults_at_start=self._faults.at_start,
        )
        processes.network = self._network
        return processes

    async def stop(self) -> None:
        await super().stop()
        if self._network is not None:
            self._network.remove()
            self._network = None

    def client_command(self, command: Sequence[str]) -> Sequence[str]:
        return command if self._network is None else self._network.command(CLIENTS, command)

    # -- links ------------------------------------------------------------------------------------------------------

    async def cut(self, source: End, destination: End) -> None:
        self._hosts.cut(source, destination)

    async def reset(self, source: End, destination: End) -> None:
        self._hosts.refuse(source, destination, is_on=True)
        await asyncio.sleep(RESET_S)
        self._hosts.refuse(source, destination, is_on=False)

    async def heal_link(self, source: End, destination: End) -> None:
        self._hosts.heal(source, destination)
        await super().heal_link(source, destination)

    async def heal_links(self) -> None:
        self._hosts.heal_all()
        await super().heal_links()

    @property
    def _hosts(self) -> NamespaceNetwork:
        assert self._network is not None, "start it first"
        return self._network
