"""What faults hold on nodes and links, stacked: faults overlap, and the last one that lets go restores.

Every hold is filed under the number of its fault. What is in force is computed from all holds there are (a link is cut
while anybody cuts it, the largest delay counts, clock errors add up), so that faults may nest and end in any order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar

from logcluster.sim.faults.ports import FaultNode
from logcluster.sim.loopback import LoopbackNetwork

Value = TypeVar("Value")


class Stacked(Generic[Value]):
    """Values that faults hold on one property of one node.

    Args:
        apply: told all values now held, after every change; makes the property what follows from them.
    """

    def __init__(self, apply: Callable[[list[Value]], None]) -> None:
        self._apply = apply
        self._held: dict[int, Value] = {}

    def hold(self, number: int, value: Value) -> None:
        """Fault `number` wants this."""
        self._held[number] = value
        self._apply(list(self._held.values()))

    def release(self, number: int) -> None:
        """Fault `number` is over; nothing when it holds nothing."""
        if number in self._held:
            del self._held[number]
            self._apply(list(self._held.values()))

    def clear(self) -> None:
        """All faults are over."""
        self._held.clear()
        self._apply([])

    @property
    def is_held(self) -> bool:
        return bool(self._held)


class NodeHolds:
    """Everything that faults can hold on one node."""

    def __init__(self, node: FaultNode) -> None:
        self._node = node
        self._latency_ms = node.disk_latency_ms
        self._capacity_bytes = node.disk.capacity_bytes
        self.down: Stacked[None] = Stacked(self._apply_down)
        self.paused: Stacked[None] = Stacked(self._apply_paused)
        self.slowness: Stacked[float] = Stacked(lambda factors: node.set_slowness(max(factors, default=1.0)))
        self.skew_ms: Stacked[int] = Stacked(self._apply_skew)
        self.drift: Stacked[float] = Stacked(self._apply_drift)
        self.latency_ms: Stacked[tuple[float, float]] = Stacked(self._apply_latency)
        self.capacity_bytes: Stacked[int] = Stacked(self._apply_capacity)

    def take_down(self, number: int, *, power_loss: bool, tear_probability: float | None = None) -> bool:
        """End the node at once and keep it down until `number` lets go; returns whether there was a node to end.

        Args:
            tear_probability: for this power loss only; None for the disk's own.
        """
        was_up = self._node.state != "down"
        self.down.hold(number, None)
        disk = self._node.disk
        before = disk.tear_probability
        if tear_probability is not None:
            disk.tear_probability = tear_probability
        self._node.crash(power_loss=power_loss)
        disk.tear_probability = before
        return was_up

    def clear(self) -> None:
        """Restore everything, and start the node; one that is on its way down for good is ended first."""
        for held in (self.paused, self.slowness, self.skew_ms, self.drift, self.latency_ms, self.capacity_bytes):
            held.clear()
        if self._node.state == "stopping":
            self._node.crash()
        self.down.clear()

    def _apply_down(self, holds: list[None]) -> None:
        if holds:
            self._node.keep_down = True
        else:
            self._node.start()

    def _apply_paused(self, holds: list[None]) -> None:
        if holds:
            self._node.pause()
        else:
            self._node.resume()

    def _apply_skew(self, values_ms: list[int]) -> None:
        self._node.clock.skew_ms = sum(values_ms)

    def _apply_drift(self, values: list[float]) -> None:
        self._node.clock.drift = sum(values)

    def _apply_latency(self, values_ms: list[tuple[float, float]]) -> None:
        low, high = self._latency_ms
        self._node.disk_latency_ms = (
            max([low, *(value[0] for value in values_ms)]),
            max([high, *(value[1] for value in values_ms)]),
        )

    def _apply_capacity(self, values: list[int]) -> None:
        self._node.disk.capacity_bytes = min(values) if values else self._capacity_bytes


@dataclass(frozen=True, slots=True)
class LinkTrouble:
    """What one fault does to one direction of a link."""

    is_cut: bool = False
    delay_ms_min: float = 0
    delay_ms_max: float = 0
    tail_probability: float = 0
    tail_delay_ms_max: float = 0
    reset_probability: float = 0


class LinkHolds:
    """Everything that faults hold on the links of a network; links are named by their two processes."""

    def __init__(self, network: LoopbackNetwork) -> None:
        self._network = network
        self._links: dict[tuple[str, str], Stacked[LinkTrouble]] = {}

    def hold(self, number: int, links: Iterable[tuple[str, str]], trouble: LinkTrouble) -> None:
        """Fault `number` troubles these links, each one direction."""
        for source, target in links:
            if source == target:
                continue
            stacked = self._links.get((source, target))
            if stacked is None:
                stacked = Stacked(partial(self._apply, source, target))
                self._links[source, target] = stacked
            stacked.hold(number, trouble)

    def release(self, number: int, links: Iterable[tuple[str, str]] | None = None) -> None:
        """Fault `number` lets go of these links, or of all."""
        for link in list(self._links) if links is None else links:
            stacked = self._links.get(link)
            if stacked is not None:
                stacked.release(number)

    def clear(self) -> None:
        """All faults are over."""
        for stacked in self._links.values():
            stacked.clear()

    def _apply(self, source: str, target: str, troubles: list[LinkTrouble]) -> None:
        link, usual = self._network.link(source, target), self._network.default_link
        link.delay_ms_min = max([usual.delay_ms_min, *(trouble.delay_ms_min for trouble in troubles)])
        link.delay_ms_max = max([usual.delay_ms_max, link.delay_ms_min, *(item.delay_ms_max for item in troubles)])
        link.tail_probability = max([usual.tail_probability, *(trouble.tail_probability for trouble in troubles)])
        link.tail_delay_ms_max = max([usual.tail_delay_ms_max, *(trouble.tail_delay_ms_max for trouble in troubles)])
        link.reset_probability = max([usual.reset_probability, *(trouble.reset_probability for trouble in troubles)])
        is_cut = any(trouble.is_cut for trouble in troubles)
        if is_cut and not link.is_cut:
            self._network.cut(source, target)
        elif link.is_cut and not is_cut:
            self._network.heal(source, target)


def holds_of(nodes: Mapping[int, FaultNode]) -> dict[int, NodeHolds]:
    """Holds for every node, by id."""
    return {node_id: NodeHolds(nodes[node_id]) for node_id in sorted(nodes)}
