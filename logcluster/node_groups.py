"""The part of a node's wiring that is about consumer groups; see `node`."""

from __future__ import annotations

from logcluster.broker.controller_client import ControllerClient
from logcluster.broker.coordinators.end_offsets import Channels, EndOffsets
from logcluster.broker.coordinators.group_host import LocalGroupHost
from logcluster.broker.coordinators.group_topics import CurrentTopics
from logcluster.broker.coordinators.internal_topic import InternalTopic, InternalTopicSettings
from logcluster.broker.coordinators.runtime import CoordinatorRuntime, RuntimeSettings
from logcluster.broker.metadata_loader import MetadataLoader
from logcluster.broker.replica_manager import ReplicaManager
from logcluster.config import GroupsSection, NodeConfig
from logcluster.core.coordinators.groups.coordinator import GROUP_TOPIC, GroupCoordinator
from logcluster.core.coordinators.groups.requests import GroupSettings
from logcluster.runtime.clock import Clock
from logcluster.runtime.disk import DiskExecutor
from logcluster.runtime.scope import FaultHandler, TaskScope
from logcluster.storage.kv_store import KeyValueStore
from logcluster.storage.shard_store import ShardStore
from logcluster.wire.group_records import GroupRecordCodec


class NodeGroups:
    """Builds what serves groups on one broker; `start` it once, `close` it once.

    Args:
        store: for the coordinators' state; closed by `close`.
    """

    def __init__(
        self,
        config: NodeConfig,
        *,
        store: KeyValueStore,
        replicas: ReplicaManager,
        controller: ControllerClient,
        loader: MetadataLoader,
        channels: Channels,
        clock: Clock,
        disk: DiskExecutor,
        on_fault: FaultHandler,
    ) -> None:
        section = config.groups
        topics = CurrentTopics(lambda: loader.image)
        coordinator = GroupCoordinator(group_settings(section), topics)
        self.runtime = CoordinatorRuntime(
            coordinator,
            codec=GroupRecordCodec(),
            store=ShardStore(store),
            replicas=replicas,
            broker_id=config.node.id,
            clock=clock,
            disk=disk,
            settings=RuntimeSettings(
                cache_keys_max=section.cache_keys_max, rewrite_size_bytes_min=section.rewrite_bytes_min
            ),
            on_fault=on_fault,
        )
        self.host = LocalGroupHost(
            coordinator,
            self.runtime,
            topic=InternalTopic(
                GROUP_TOPIC,
                InternalTopicSettings(
                    partitions=section.partitions,
                    replication_factor=section.replication_factor,
                    voters=len(config.voter_endpoints()),
                ),
                controller=controller,
                metadata=loader,
            ),
            metadata=loader,
            topics=topics,
            end_offsets=EndOffsets(replicas, channels, lambda: loader.image),
            clock=clock,
            sweep_interval_ms=section.offsets_retention_check_interval_ms,
        )
        self._scope = TaskScope("groups", on_fault=on_fault)

    def start(self) -> None:
        """Begin with the shards that are hosted here."""
        self.runtime.start()
        self._scope.spawn(self.host.run_sweeps(), name="sweeps")

    async def close(self) -> None:
        """End every shard, and close the store."""
        await self._scope.close()
        await self.runtime.close()


def group_settings(section: GroupsSection) -> GroupSettings:
    """The coordinator's settings out of the configuration."""
    return GroupSettings(
        session_timeout_ms=section.session_timeout_ms,
        session_timeout_ms_min=section.session_timeout_min_ms,
        session_timeout_ms_max=section.session_timeout_max_ms,
        heartbeat_interval_ms=section.heartbeat_interval_ms,
        rebalance_timeout_ms=section.rebalance_timeout_ms,
        disconnect_grace_ms=section.disconnect_grace_ms,
        members_max=section.members_max,
        offset_metadata_bytes_max=section.offset_metadata_bytes_max,
        offsets_retention_ms=section.offsets_retention_ms,
    )
