"""Hosted replicas as the admin service shows them: protobuf around what the replica manager knows."""

from __future__ import annotations

from collections.abc import Sequence

from logcluster.broker.partition import Partition
from logcluster.broker.replica_manager import ReplicaManager
from logcluster.model.ids import TopicIdPartition
from logcluster.runtime.clock import Clock
from logcluster.wire.gen.logcluster.v1 import admin_pb2 as pb


class HostedReplicas:
    """The replicas of this broker, for `DescribeReplicas` and `DeleteRecords`."""

    def __init__(self, manager: ReplicaManager, clock: Clock) -> None:
        self._manager = manager
        self._clock = clock

    def describe_replicas(self, topics: Sequence[str]) -> list[pb.ReplicaStatus]:
        """Replicas of these topics, or of all when none is named, by topic and partition."""
        wanted = frozenset(topics)
        replicas = [
            self._status(partition)
            for partition in self._manager.partitions
            if not wanted or partition.topic_partition.topic in wanted
        ]
        return sorted(replicas, key=lambda replica: (replica.topic, replica.partition))

    def stray_directories(self) -> list[str]:
        """Logs on disk whose topic the metadata does not know; they are never deleted by themselves."""

        def is_known(key: TopicIdPartition) -> bool:
            return key.topic_id in self._manager.image.topics

        return [log.directory_name for log in self._manager.log_manager.strays(is_known)]

    async def delete_records(self, topic: str, partition: int, before_offset: int | None) -> int:
        """Move the log start of a partition led here; returns the new one.

        Raises:
            NotLeaderOrFollower, OffsetOutOfRange: it is not led here; the offset is beyond the high watermark.
        """
        return self._manager.delete_records(topic, partition, before_offset)

    def _status(self, partition: Partition) -> pb.ReplicaStatus:
        log = partition.log
        status = pb.ReplicaStatus(
            topic=partition.topic_partition.topic,
            partition=partition.topic_partition.partition,
            topic_id=partition.topic_id_partition.topic_id,
            is_leader=partition.leader is not None,
            leader_epoch=-1 if partition.leader_epoch is None else partition.leader_epoch,
            log_start_offset=log.log_start_offset,
            log_end_offset=log.log_end_offset,
            flushed_offset=log.flushed_offset,
            high_watermark=partition.high_watermark,
            size_bytes=log.size_bytes,
            state="online" if log.failure is None else "failed",
            producer_count=len(partition.producers),
        )
        leader = partition.leader
        if leader is not None:
            now_ms = self._clock.monotonic_ms()
            status.followers.extend(
                pb.FollowerStatus(
                    broker_id=remote.broker_id,
                    log_end_offset=remote.log_end_offset,
                    lag_ms=-1 if remote.last_caught_up_ms is None else max(0, now_ms - remote.last_caught_up_ms),
                    in_sync=remote.broker_id in leader.in_sync_replicas,
                )
                for remote in leader.remotes.values()
            )
        return status
