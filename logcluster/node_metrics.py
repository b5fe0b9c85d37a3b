"""The part of a node's wiring that is about metrics; see `node`.

`metrics.enabled = false` leaves out what costs anything between scrapes: measuring requests and flushes, watching the
event loop, looking at the lag of groups. What is read at a scrape is always there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from functools import partial
from types import TracebackType
from typing import Protocol, Self

from logcluster.api.node_observer import NodeObserver
from logcluster.api.node_status import VERSION
from logcluster.broker.controller_driver import ControllerDriver
from logcluster.broker.partition import Partition
from logcluster.broker.raft_driver import RaftDriver
from logcluster.broker.replica_manager import ReplicaManager
from logcluster.config import NodeConfig
from logcluster.metrics.event_loop import EventLoopWatch
from logcluster.metrics.exposition import Metrics
from logcluster.metrics.group_lags import GroupLags
from logcluster.metrics.group_sources import GroupChanges, GroupSource, ShardLoads
from logcluster.metrics.log_sources import LogSource, PartitionSource
from logcluster.metrics.node_sources import (
    NodeView,
    Statistics,
    disk_source,
    error_source,
    lane_source,
    node_source,
    server_source,
    tls_source,
)
from logcluster.metrics.quorum_sources import ControllerSource, collect_raft
from logcluster.metrics.requests import MeasuringInterceptor, RequestMeasures
from logcluster.model.ids import TopicIdPartition
from logcluster.node_groups import NodeGroups
from logcluster.rpc.grpc_carrier import GrpcServer
from logcluster.rpc.interceptors import Interceptor
from logcluster.rpc.lane.server import LaneServer
from logcluster.rpc.node_tls import NodeTls
from logcluster.runtime.clock import Clock
from logcluster.runtime.disk import DiskExecutor
from logcluster.runtime.scope import TaskScope
from logcluster.storage.log_manager import LogManager


class MeasuredNode(Protocol):
    """What is looked at; `node.Node` is one."""

    @property
    def replicas(self) -> ReplicaManager: ...
    @property
    def controller(self) -> ControllerDriver | None: ...
    @property
    def raft(self) -> RaftDriver | None: ...
    @property
    def groups(self) -> NodeGroups | None: ...
    @property
    def lane(self) -> LaneServer: ...
    @property
    def grpc(self) -> GrpcServer | None: ...
    @property
    def tls(self) -> NodeTls | None: ...

    @property
    def logs(self) -> LogManager: ...
    @property
    def observer(self) -> NodeObserver: ...


class NodeMetrics(Metrics):
    """All metrics of one node: `grpc_interceptors`, then `watch` once it is built, then `async with` while it runs."""

    def __init__(self, config: NodeConfig, *, clock: Clock, disk: DiskExecutor) -> None:
        super().__init__()
        self._config = config
        self._clock = clock
        self._disk = disk
        self._is_measuring = config.metrics.enabled
        self._lane_measures = RequestMeasures("lane")
        self._grpc_measures = RequestMeasures("grpc")
        self._event_loop = EventLoopWatch(clock)
        self._lags: GroupLags | None = None
        self._scope = TaskScope("metrics")

    def grpc_interceptors(self) -> tuple[Interceptor, ...]:
        """For the gRPC server."""
        return (MeasuringInterceptor(self._grpc_measures),) if self._is_measuring else ()

    def watch(self, node: MeasuredNode, errors: Mapping[str, Counter[str]]) -> None:
        """Add every source; before the listeners are opened, since methods are bound to their measures once.

        Args:
            errors: partitions refused within good answers, by API.
        """
        servers: dict[str, Statistics] = {"lane": node.lane}
        if node.grpc is not None:
            servers["grpc"] = node.grpc
        self.add(node_source(self._config, VERSION, partial(_view, node)))
        self.add(disk_source(self._config.data.dir))
        self.add(server_source(servers))
        self.add(lane_source(node.lane))
        self.add(error_source(errors))
        if node.tls is not None:
            self.add(tls_source(node.tls))
        self._watch_logs(node.replicas)
        if node.controller is not None and node.raft is not None:
            controller = ControllerSource(node.controller)
            node.controller.on_change = controller.changes.on_change
            self.add(controller.collect)
            self.add(partial(collect_raft, node.raft))
        if node.groups is not None:
            self._watch_groups(node.groups, node.replicas)
        if self._is_measuring:
            node.lane.measures = self._lane_measures
            self.add(self._lane_measures.collect)
            self.add(self._grpc_measures.collect)
            self.add(self._event_loop.collect)

    def _watch_logs(self, replicas: ReplicaManager) -> None:
        source = LogSource(replicas, self._clock)
        if self._is_measuring:
            replicas.flusher.on_flush = source.flushes.observe
        self.add(source.collect)
        self.add(PartitionSource(lambda: replicas.partitions, self._config.metrics).collect)

    def _watch_groups(self, groups: NodeGroups, replicas: ReplicaManager) -> None:
        runtime = groups.runtime
        changes, loads = GroupChanges(groups.host), ShardLoads(self._clock)
        runtime.listener = changes
        runtime.on_shard_state = loads.on_state
        self.add(GroupSource(lambda: runtime.shards, host=groups.host, changes=changes, loads=loads).collect)

        def find(key: TopicIdPartition) -> Partition:
            return replicas.partition_by_id(key.topic_id, key.partition)

        def topic_name(key: TopicIdPartition) -> str | None:
            topic = replicas.image.topics.get(key.topic_id)
            return None if topic is None else topic.name

        if self._is_measuring:
            self._lags = GroupLags(
                lambda: runtime.shards,
                find=find,
                topic_name=topic_name,
                clock=self._clock,
                disk=self._disk,
                series_max=self._config.metrics.group_series_max,
            )
            self.add(self._lags.collect)

    async def __aenter__(self) -> Self:
        if self._is_measuring:
            self._scope.spawn(self._event_loop.run(), name="event-loop")
            if self._lags is not None:
                self._scope.spawn(self._lags.run(), name="lags")
        return self

    async def __aexit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._scope.close()


def _view(node: MeasuredNode) -> NodeView:
    facts = node.observer.facts()
    return NodeView(
        is_ready=not facts.reasons,
        metadata_offset=facts.metadata_offset,
        is_log_directory_failed=node.logs.failure is not None,
    )
