"""A cluster on hosts made of network namespaces: as `processes`, but cuts are made by the kernel between the hosts.

A cut link drops packets, so connections stall as behind a dead switch, in one direction if asked; what a broker's own
process does or does not do makes no difference. Delay and bandwidth are ruled inside of the brokers still, because
kernels without netem cannot do them. Clients live on a host of their own, and so does the suite.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Mapping, Sequence
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
from logcluster.devcluster.probe import Readiness, readiness

RESET_S: Final = 0.2
"""How long a reset link answers with resets."""
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

    async def probe(self, node_id: int) -> Readiness:
        """As `NodeProcesses.probe`, from the broker's own host."""
        plan = self.plans[node_id]
        try:
            with self.network.inside(node_id):
                connection = socket.create_connection((plan.host, plan.ports.http), timeout=1)
        except OSError:
            return Readiness(False)
        connection.setblocking(False)
        return await readiness(plan, connection=connection)


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
