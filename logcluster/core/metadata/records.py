"""The records of the metadata log, one frozen dataclass per kind.

One entry of the metadata quorum's log is a batch of these, applied whole or not at all. They mirror
`proto/logcluster/internal/v1/records.proto`; `wire/records.py` converts both ways. A record states the new value,
never a difference, so that applying a suffix of the log over a snapshot gives the same state as the whole log.
"""

from __future__ import annotations

from dataclasses import dataclass

from logcluster.model.ids import TopicId


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterRecord:
    """Names the cluster; the first record of every cluster."""

    cluster_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NoOpRecord:
    """Changes nothing but the offset."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RegisterBrokerRecord:
    """A broker process joins or amends; `broker_epoch` is the index of the entry by which it joined."""

    broker_id: int
    broker_epoch: int
    incarnation_id: bytes
    directory_id: bytes
    host: str
    grpc_port: int
    lane_port: int
    http_port: int
    rack: str = ""
    fenced: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class UnregisterBrokerRecord:
    """The broker is gone for good."""

    broker_id: int
    broker_epoch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerChangeRecord:
    """New values of a broker's states; None leaves one as it is."""

    broker_id: int
    broker_epoch: int
    fenced: bool | None = None
    in_controlled_shutdown: bool | None = None
    draining: bool | None = None
    drain_until_restart: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicRecord:
    """A topic exists; its partitions follow as `PartitionRecord`."""

    name: str
    topic_id: TopicId


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoveTopicRecord:
    """A topic is deleted with its partitions, configuration and data."""

    topic_id: TopicId


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionRecord:
    """A partition with everything known about it; replaces an earlier one."""

    topic_id: TopicId
    partition: int
    replicas: tuple[int, ...]
    in_sync_replicas: tuple[int, ...]
    eligible_leader_replicas: tuple[int, ...] = ()
    last_known_leaders: tuple[int, ...] = ()
    leader_id: int | None
    leader_epoch: int = 0
    partition_epoch: int = 0
    recovering: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionChangeRecord:
    """The whole new value of what may change in a partition; `reason` is for people."""

    topic_id: TopicId
    partition: int
    in_sync_replicas: tuple[int, ...]
    eligible_leader_replicas: tuple[int, ...]
    last_known_leaders: tuple[int, ...]
    leader_id: int | None
    leader_epoch: int
    partition_epoch: int
    recovering: bool
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigRecord:
    """An override of a topic's configuration; None takes it back."""

    topic: str
    key: str
    value: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ProducerIdsRecord:
    """Producer ids below `next_producer_id` are given away."""

    broker_id: int
    broker_epoch: int
    next_producer_id: int


MetadataRecord = (
    ClusterRecord
    | NoOpRecord
    | RegisterBrokerRecord
    | UnregisterBrokerRecord
    | BrokerChangeRecord
    | TopicRecord
    | RemoveTopicRecord
    | PartitionRecord
    | PartitionChangeRecord
    | ConfigRecord
    | ProducerIdsRecord
)
"""Every kind of record."""
