"""What a node says about itself: ready or not and why, and how it does; the same facts for gRPC, HTTP and metrics."""

from __future__ import annotations

from collections.abc import Callable
from importlib import metadata
from typing import NamedTuple

from logcluster.observability.process_stats import process_stats
from logcluster.runtime.clock import Clock
from logcluster.wire.gen.logcluster.v1 import metadata_pb2 as pb

VERSION = metadata.version("logcluster")


class NodeFacts(NamedTuple):
    """State of the components, as the node sees them now."""

    state: str
    """"starting", "fenced", "active", "shutting-down" or "failed"."""
    reasons: tuple[str, ...]
    """Why the node is not ready; empty when it is."""
    partition_count: int
    leader_count: int
    controller_id: int | None
    metadata_offset: int


class NodeStatus:
    """Combines the components' facts with those of the process.

    Args:
        facts: asked each time; must not wait.
    """

    def __init__(self, *, node_id: int, cluster_id: str, clock: Clock, facts: Callable[[], NodeFacts]) -> None:
        self._node_id = node_id
        self._cluster_id = cluster_id
        self._clock = clock
        self._facts = facts
        self._started_ms = clock.monotonic_ms()

    def response(self) -> pb.GetNodeStatusResponse:
        """Answer to `GetNodeStatus`."""
        facts = self._facts()
        stats = process_stats()
        return pb.GetNodeStatusResponse(
            node_id=self._node_id,
            cluster_id=self._cluster_id,
            state=facts.state,
            ready=not facts.reasons,
            reasons=facts.reasons,
            version=VERSION,
            uptime_ms=self._clock.monotonic_ms() - self._started_ms,
            resident_size_bytes=stats.resident_size_bytes,
            partition_count=facts.partition_count,
            leader_count=facts.leader_count,
            controller_id=facts.controller_id,
            metadata_offset=facts.metadata_offset,
            pid=stats.pid,
            cpu_time_ms=stats.cpu_time_ms,
        )

    def readiness(self) -> dict[str, object]:
        """What `/readyz` shows."""
        facts = self._facts()
        return {
            "node_id": self._node_id,
            "cluster_id": self._cluster_id,
            "ready": not facts.reasons,
            "state": facts.state,
            "reasons": list(facts.reasons),
            "controller_id": facts.controller_id,
        }
