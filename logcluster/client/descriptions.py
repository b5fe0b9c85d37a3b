"""What admin calls return, beside the facts that the metadata cache holds, and how it is read off the wire."""

from __future__ import annotations

from dataclasses import dataclass

from logcluster.client.metadata_cache import BrokerFacts
from logcluster.model.errors import LogClusterError
from logcluster.wire.gen.logcluster.v1 import admin_pb2, metadata_pb2


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigValue:
    """One setting of a topic."""

    key: str
    value: str
    is_default: bool
    default_value: str
    description: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterFacts:
    """The cluster as one broker knows it."""

    cluster_id: str
    controller_id: int | None
    metadata_offset: int
    brokers: tuple[BrokerFacts, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class VoterFacts:
    """One member of the metadata quorum."""

    node_id: int
    directory_id: bytes
    host: str
    port: int
    match_index: int
    last_contact_ms: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class QuorumFacts:
    """The metadata quorum as the active controller sees it."""

    leader_id: int | None
    term: int
    commit_index: int
    voters: tuple[VoterFacts, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaFacts:
    """One replica on one broker."""

    broker_id: int
    topic: str
    partition: int
    topic_id: bytes
    is_leader: bool
    leader_epoch: int
    log_start_offset: int
    log_end_offset: int
    flushed_offset: int
    high_watermark: int
    size_bytes: int
    state: str
    producer_count: int
    followers: tuple[tuple[int, int, int, bool], ...]
    """Broker id, log end offset, lag in ms, whether in sync; on the leader only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ElectionResult:
    """What became of one partition of `elect_leaders`."""

    topic: str
    partition: int
    leader_id: int | None
    error: LogClusterError | None


def quorum_facts(response: metadata_pb2.DescribeQuorumResponse) -> QuorumFacts:
    """Read the quorum off the wire."""
    return QuorumFacts(
        leader_id=response.leader_id if response.HasField("leader_id") else None,
        term=response.term,
        commit_index=response.commit_index,
        voters=tuple(
            VoterFacts(
                node_id=voter.node_id,
                directory_id=voter.directory_id,
                host=voter.host,
                port=voter.port,
                match_index=voter.match_index,
                last_contact_ms=voter.last_contact_ms if voter.HasField("last_contact_ms") else None,
            )
            for voter in response.voters
        ),
    )


def replica_facts(broker_id: int, replica: admin_pb2.ReplicaStatus) -> ReplicaFacts:
    """Read one replica off the wire."""
    return ReplicaFacts(
        broker_id=broker_id,
        topic=replica.topic,
        partition=replica.partition,
        topic_id=replica.topic_id,
        is_leader=replica.is_leader,
        leader_epoch=replica.leader_epoch,
        log_start_offset=replica.log_start_offset,
        log_end_offset=replica.log_end_offset,
        flushed_offset=replica.flushed_offset,
        high_watermark=replica.high_watermark,
        size_bytes=replica.size_bytes,
        state=replica.state,
        producer_count=replica.producer_count,
        followers=tuple(
            (follower.broker_id, follower.log_end_offset, follower.lag_ms, follower.in_sync)
            for follower in replica.followers
        ),
    )
