"""What people and the admin service are told about one hosted replica."""

from __future__ import annotations

from dataclasses import dataclass

from logcluster.broker.partition import Partition


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaDescription:
    """One hosted replica, for people and for the admin service."""

    topic: str
    partition: int
    role: str
    leader_id: int | None
    leader_epoch: int | None
    log_start_offset: int
    high_watermark: int
    log_end_offset: int
    flushed_offset: int
    size_bytes: int
    lag: int
    """As a follower: records behind the leader as last heard; 0 otherwise."""
    in_sync_replicas: tuple[int, ...]
    remotes: tuple[tuple[int, int, int], ...]
    """As the leader: (broker id, reported offset, log end offset) of each other replica."""


def describe_replica(partition: Partition) -> ReplicaDescription:
    """Describe a replica as it is now; walks over its segments."""
    leader, follower, log = partition.leader, partition.follower, partition.log
    remotes: tuple[tuple[int, int, int], ...] = ()
    if leader is not None:
        remotes = tuple(
            (remote.broker_id, remote.reported_offset, remote.log_end_offset) for remote in leader.remotes.values()
        )
    return ReplicaDescription(
        topic=partition.topic,
        partition=partition.index,
        role="leader" if leader is not None else "follower" if follower is not None else "none",
        leader_id=partition.leader_id,
        leader_epoch=partition.leader_epoch,
        log_start_offset=log.log_start_offset,
        high_watermark=partition.high_watermark,
        log_end_offset=log.log_end_offset,
        flushed_offset=log.flushed_offset,
        size_bytes=log.size_bytes,
        lag=0 if follower is None else max(0, follower.leader_end_offset - log.log_end_offset),
        in_sync_replicas=() if leader is None else leader.in_sync_replicas,
        remotes=remotes,
    )
