"""Who leads, who is in sync, is all repaired: read from the running nodes' own memory, for aiming and for the atlas.

The view never asks over the network and changes nothing. It believes the image with the highest offset among the
running nodes; while nobody runs, the last one it saw.
"""

from __future__ import annotations

from collections.abc import Sequence

from logcluster.core.metadata.image import EMPTY, MetadataImage, PartitionRegistration
from logcluster.node import Node
from logcluster.sim.faults.ports import FaultWorld


class ClusterView:
    """Implements `selectors.Roles` over a world."""

    def __init__(self, world: FaultWorld) -> None:
        self._world = world
        self._last_image = EMPTY

    @property
    def node_ids(self) -> Sequence[int]:
        return sorted(self._world.nodes)

    def running(self, node_id: int) -> Node | None:
        """The node's object while it runs."""
        node = self._world.nodes[node_id]
        return node.node if node.state == "running" else None

    def image(self) -> MetadataImage:
        """The newest metadata that a running broker has applied."""
        for node_id in self.node_ids:
            node = self.running(node_id)
            if node is not None and node.config.is_broker and node.loader.image.offset >= self._last_image.offset:
                self._last_image = node.loader.image
        return self._last_image

    def controller_id(self) -> int | None:
        """The active controller of the highest term."""
        best: tuple[int, int] | None = None
        for node_id in self.node_ids:
            node = self.running(node_id)
            if node is None or node.controller is None or not node.controller.is_active:
                continue
            if best is None or node.controller.term > best[0]:
                best = (node.controller.term, node_id)
        return None if best is None else best[1]

    def partitions(self) -> Sequence[tuple[str, PartitionRegistration]]:
        return sorted(_partitions(self.image()), key=lambda item: item[0])

    def is_fully_in_sync(self) -> bool:
        """Every node runs unfenced, and every partition has all its replicas in sync under a leader."""
        return all(self.is_active(node_id) for node_id in self.node_ids) and all(
            registration.leader_id is not None and len(registration.in_sync_replicas) == len(registration.replicas)
            for _, registration in _partitions(self.image())
        )

    def is_active(self, node_id: int) -> bool:
        """The node runs, its log directory works, and the cluster counts on this very process and disk of it."""
        node = self.running(node_id)
        if node is None or node.logs.failure is not None:
            return False
        registration = self.image().brokers.get(node_id)
        return (
            registration is not None
            and registration.is_active
            and registration.broker_epoch == node.lifecycle.broker_epoch
            and registration.directory_id == node.logs.identity.directory_id
        )


def _partitions(image: MetadataImage) -> list[tuple[str, PartitionRegistration]]:
    return [
        (f"{topic.name}-{index}", registration)
        for topic in image.topics.values()
        for index, registration in topic.partitions.items()
    ]
