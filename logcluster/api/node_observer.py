"""Asks a node's components how they are, for `node_health`, and shows the answers on the HTTP port."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from logcluster.api.http_endpoint import Page, json_page
from logcluster.api.node_health import (
    HealthWatch,
    Observed,
    not_live,
    not_ready,
    not_started,
    partitions_behind,
    state_of,
)
from logcluster.api.node_service import ControllerView
from logcluster.api.node_status import NodeFacts
from logcluster.broker.lifecycle import BrokerLifecycle
from logcluster.broker.metadata_loader import MetadataLoader
from logcluster.broker.raft_driver import RaftDriver
from logcluster.broker.replica_manager import ReplicaManager
from logcluster.config import NodeConfig
from logcluster.core.metadata.image import MetadataImage
from logcluster.storage.log_manager import LogManager


class ObservedNode(Protocol):
    """What is looked at; `node.Node` is one."""

    @property
    def config(self) -> NodeConfig: ...
    @property
    def logs(self) -> LogManager: ...
    @property
    def lifecycle(self) -> BrokerLifecycle: ...
    @property
    def loader(self) -> MetadataLoader: ...
    @property
    def replicas(self) -> ReplicaManager: ...
    @property
    def raft(self) -> RaftDriver | None: ...
    @property
    def is_started(self) -> bool: ...
    @property
    def is_shutting_down(self) -> bool: ...
    @property
    def fatal(self) -> BaseException | None: ...

    def controller_view(self) -> ControllerView:
        """Who is the active controller, as the node knows."""


class NodeObserver:
    """See the top of the file. `watch` is set when there is a gRPC port to tell."""

    def __init__(self, node: ObservedNode) -> None:
        self.watch: HealthWatch | None = None
        self._node = node
        self._image_seen: MetadataImage | None = None
        self._behind: tuple[str, ...] = ()

    def observe(self) -> Observed:
        """Look at every component, now."""
        node, config = self._node, self._node.config
        lifecycle = node.lifecycle
        return Observed(
            is_broker=config.is_broker,
            is_controller=config.is_controller,
            is_started=node.is_started,
            is_shutting_down=node.is_shutting_down,
            fatal=None if node.fatal is None else str(node.fatal),
            log_failure=None if node.logs.failure is None else node.logs.failure.message,
            has_controller=node.controller_view().controller_id is not None,
            hindrance=None if node.raft is None else node.raft.hindrance,
            is_registered=lifecycle.broker_epoch is not None,
            is_fenced=lifecycle.is_fenced,
            silence_ms=lifecycle.silence_ms,
            silence_ms_max=config.broker.session_timeout_ms,
            standstill_ms=0 if self.watch is None else self.watch.standstill_ms(),
            behind=self._partitions_behind() if config.is_broker else (),
            has_metadata=bool(node.loader.image.offset),
        )

    def is_draining(self) -> bool:
        """Is this broker kept from leading, as the metadata here says? No reason against being ready."""
        own = self._node.loader.image.brokers.get(self._node.config.node.id)
        return own is not None and own.is_draining

    def facts(self) -> NodeFacts:
        """For `GetNodeStatus`, `/readyz` and the metrics."""
        node = self._node
        seen = self.observe()
        partitions = list(node.replicas.partitions)
        return NodeFacts(
            state=state_of(seen),
            reasons=tuple(not_ready(seen)),
            partition_count=len(partitions),
            leader_count=sum(partition.leader is not None for partition in partitions),
            controller_id=node.controller_view().controller_id,
            metadata_offset=node.loader.image.offset,
        )

    def pages(self, readiness: Callable[[], dict[str, object]]) -> dict[str, Page]:
        """The pages that probes ask for; each answers 200 or 503, and says why."""

        def ready() -> tuple[int, str, bytes]:
            facts = {**readiness(), "draining": self.is_draining()}
            return json_page(200 if facts["ready"] else 503, facts)

        return {
            "/livez": lambda: self._page("live", not_live(self.observe())),
            "/startupz": lambda: self._page("started", not_started(self.observe())),
            "/readyz": ready,
        }

    def _page(self, name: str, reasons: list[str]) -> tuple[int, str, bytes]:
        facts = {"node_id": self._node.config.node.id, name: not reasons, "reasons": reasons}
        return json_page(503 if reasons else 200, facts)

    def _partitions_behind(self) -> tuple[str, ...]:
        """Looks through an image once: it never changes."""
        image = self._node.loader.image
        if image is not self._image_seen:
            self._image_seen, self._behind = image, partitions_behind(image, self._node.config.node.id)
        return self._behind
