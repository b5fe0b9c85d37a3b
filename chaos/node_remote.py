"""What holds at each broker, remembered outside of it, and brought to it over its control channel.

Faults of links, of the disk's speed and of the clock belong to the machine: a broker that starts is told them on its
command line, one that resumes is told again. Asking a broker that is paused or gone is a `FaultFailed`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from chaos.control import ControlError
from chaos.interfaces import CLIENTS, FaultFailed
from chaos.node_faults import FaultsAtStart, link_to_json
from chaos.node_link_table import End, LinkTable
from chaos.node_links import Direction
from chaos.node_process import ChaosProcesses
from logcluster.devcluster.processes import ProcessState


class RemoteFaults:
    """The faults in force at the brokers of one cluster."""

    def __init__(self, broker_ids: Iterable[int]) -> None:
        self.links = LinkTable(set(broker_ids))
        self._disk_delays_ms: Counter[int] = Counter()
        self._clock_offsets_ms: Counter[int] = Counter()
        self._processes: ChaosProcesses | None = None

    def attach(self, processes: ChaosProcesses) -> None:
        """The brokers' processes, which take their first faults from here."""
        self._processes = processes

    def at_start(self, broker_id: int) -> FaultsAtStart:
        """What holds for a broker that starts now."""
        return FaultsAtStart(
            links=self._rules_of(broker_id),
            disk_delay_ms=self._disk_delays_ms[broker_id],
            clock_offset_ms=self._clock_offsets_ms[broker_id],
        )

    def state(self, broker_id: int) -> ProcessState:
        """Raises:
        FaultFailed: there is no such broker, or no cluster.
        """
        if self._processes is None or broker_id not in self._processes.plans:
            raise FaultFailed(f"there is no broker {broker_id}")
        return self._processes.state(broker_id)

    async def ask(self, broker_id: int, action: str, **arguments: Any) -> dict[str, Any]:
        """Have a broker carry out an action of `chaos.node_faults`.

        Raises:
            FaultFailed: it does not run, is paused, does not answer, or refuses.
        """
        state = self.state(broker_id)
        if state is ProcessState.STOPPED:
            raise FaultFailed(f"broker {broker_id} does not run")
        self.check_not_paused(broker_id)
        assert self._processes is not None
        try:
            return await self._processes.controls[broker_id].request(action, **arguments)
        except ControlError as error:
            raise FaultFailed(f"broker {broker_id}: {action}: {error}") from error

    def check_not_paused(self, broker_id: int) -> None:
        """Raises:
        FaultFailed: it is paused.
        """
        if self.state(broker_id) is ProcessState.PAUSED:
            raise FaultFailed(f"broker {broker_id} is paused, so it cannot take the fault in")

    async def change_link(self, source: End, destination: End, **changes: Any) -> None:
        """Change a link's rule; a broker that does not run has it when it starts."""
        self.links.check(source, destination)
        broker_id = ruler_of(source, destination)[0]
        self.check_not_paused(broker_id)
        self.links.change(source, destination, **changes)
        await self._bring_links([broker_id])

    async def heal_link(self, source: End, destination: End) -> None:
        self.links.heal(source, destination)
        await self._bring_links([ruler_of(source, destination)[0]])

    async def heal_links(self) -> None:
        await self._bring_links(sorted({ruler_of(*ends)[0] for ends in self.links.heal_all()}))

    async def slow_disk(self, broker_id: int, delay_ms: int) -> None:
        if delay_ms:
            self.check_not_paused(broker_id)
        self._disk_delays_ms[broker_id] = delay_ms
        if self._is_awake(broker_id):
            await self.ask(broker_id, "slow-disk", delay_ms=delay_ms)

    async def jump_clock(self, broker_id: int, by_ms: int) -> None:
        offset_ms = self._clock_offsets_ms[broker_id] + by_ms
        if offset_ms:
            self.check_not_paused(broker_id)
        self._clock_offsets_ms[broker_id] = offset_ms
        if self._is_awake(broker_id):
            await self.ask(broker_id, "set-clock", offset_ms=offset_ms)

    async def bring_up_to_date(self, broker_id: int) -> None:
        """Tell everything to a broker that could not hear for a while."""
        await self._bring_links([broker_id])
        await self.ask(broker_id, "slow-disk", delay_ms=self._disk_delays_ms[broker_id])
        await self.ask(broker_id, "set-clock", offset_ms=self._clock_offsets_ms[broker_id])

    async def _bring_links(self, broker_ids: Iterable[int]) -> None:
        """To those that are awake; others learn of it when they resume or start."""
        for broker_id in broker_ids:
            if self._is_awake(broker_id):
                await self.ask(broker_id, "set-links", links=self._rules_of(broker_id))

    def _is_awake(self, broker_id: int) -> bool:
        return self.state(broker_id) is ProcessState.RUNNING

    def _rules_of(self, broker_id: int) -> list[dict[str, Any]]:
        found = []
        for (source, destination), rule in self.links.items():
            ruler, peer, direction = ruler_of(source, destination)
            if ruler == broker_id:
                found.append(link_to_json((peer, direction), rule))
        return found


def ruler_of(source: End, destination: End) -> tuple[int, End, Direction]:
    """Which broker rules a link, whom it knows at the other end, and in which direction."""
    if isinstance(source, int):
        return source, destination, "out"
    assert isinstance(destination, int), f"{CLIENTS} send to brokers only"
    return destination, source, "in"
