"""What the active controller can be asked, and what it answers; values without behaviour.

An error of one item travels in that item's result; an error of the whole request is raised by `Controller.handle`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from logcluster.core.metadata.records import MetadataRecord
from logcluster.model.errors import LogClusterError
from logcluster.model.ids import TopicId


@dataclass(frozen=True, slots=True, kw_only=True)
class RegisterBroker:
    """A broker process wants to join; `previous_broker_epoch` is from its clean-shutdown marker, None without one."""

    cluster_id: str
    broker_id: int
    incarnation_id: bytes
    directory_id: bytes
    host: str
    grpc_port: int
    lane_port: int
    http_port: int
    rack: str = ""
    previous_broker_epoch: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RegisterBrokerResult:
    """The broker's epoch."""

    broker_epoch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FailedReplica:
    """A broker found its log of a partition damaged; ignored unless `leader_epoch` is still the partition's."""

    topic_id: TopicId
    partition: int
    leader_epoch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Heartbeat:
    """A broker is alive and has applied the metadata log up to `metadata_offset`.

    `failed_replicas` are all of its replicas that are damaged at present; what is not named any more is sound again.
    """

    broker_id: int
    broker_epoch: int
    metadata_offset: int
    want_shutdown: bool = False
    log_directory_failed: bool = False
    failed_replicas: tuple[FailedReplica, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class HeartbeatResult:
    """What the broker is now."""

    is_fenced: bool
    may_shut_down: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class FenceBroker:
    """The controller itself found a broker dead; ignored unless `broker_epoch` is still its registration."""

    broker_id: int
    broker_epoch: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class IsrMember:
    """A proposed in-sync replica and the registration under which the leader knows it."""

    broker_id: int
    broker_epoch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AlterPartition:
    """The leader's proposal for one partition."""

    topic_id: TopicId
    partition: int
    leader_epoch: int
    partition_epoch: int
    new_in_sync_replicas: tuple[IsrMember, ...]
    recovering: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class AlterPartitions:
    """Proposals of one leader broker."""

    broker_id: int
    broker_epoch: int
    partitions: tuple[AlterPartition, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class AlterPartitionResult:
    """What became of one proposal, and the partition's state then (None: unknown partition)."""

    topic_id: TopicId
    partition: int
    error: LogClusterError | None = None
    leader_id: int | None = None
    leader_epoch: int = -1
    partition_epoch: int = -1
    in_sync_replicas: tuple[int, ...] = ()
    recovering: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class AllocateProducerIds:
    """A broker needs producer ids."""

    broker_id: int
    broker_epoch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AllocateProducerIdsResult:
    """Ids `[first_producer_id, first_producer_id + count)` are the broker's alone."""

    first_producer_id: int
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NewTopic:
    """A topic to create: counts of 0 mean the cluster's default; `assignments` replaces both."""

    name: str
    partitions: int = 0
    replication_factor: int = 0
    config: Mapping[str, str] = field(default_factory=dict)
    assignments: tuple[tuple[int, ...], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateTopics:
    """Create topics; each succeeds or fails alone, those that succeed do so together.

    Args:
        by_cluster: a broker asks for an internal topic; users cannot make any.
    """

    topics: tuple[NewTopic, ...]
    validate_only: bool = False
    by_cluster: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class DeleteTopics:
    """Delete topics by name."""

    names: tuple[str, ...]
    validate_only: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicResult:
    """What became of one topic; the id is None on an error and for a creation that was only validated."""

    name: str
    topic_id: TopicId | None = None
    partitions: int = 0
    replication_factor: int = 0
    error: LogClusterError | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CreatePartitions:
    """Grow a topic to `partitions` in total; `assignments` names the replicas of the new ones."""

    topic: str
    partitions: int
    assignments: tuple[tuple[int, ...], ...] = ()
    validate_only: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class AlterTopicConfig:
    """Set and unset overrides of a topic, together."""

    topic: str
    set_values: Mapping[str, str]
    unset_keys: tuple[str, ...] = ()
    validate_only: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ElectLeaders:
    """Give leadership to preferred leaders, or with `unclean` to anybody alive where there is no leader.

    `partitions` None means every partition that needs it.
    """

    partitions: tuple[tuple[str, int], ...] | None
    unclean: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ElectResult:
    """The leader after the election, or why there was none."""

    topic: str
    partition: int
    leader_id: int | None = None
    error: LogClusterError | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RebalanceLeaders:
    """The controller itself moves leaderships: off draining brokers, and back to preferred leaders."""

    partitions: tuple[tuple[TopicId, int], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class DrainBroker:
    """Move leaderships off a broker and keep them off, or take that back.

    Args:
        until_restart: the drain ends when the broker registers again. Neither this nor its taking back changes a drain
            that was asked for without it.
    """

    broker_id: int
    drain: bool
    until_restart: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class DrainBrokerResult:
    """How many partitions the broker still leads, for want of another in-sync replica."""

    leaders_remaining: int


@dataclass(frozen=True, slots=True, kw_only=True)
class UnregisterBroker:
    """Forget a broker that is gone for good."""

    broker_id: int


AdminRequest = (
    CreateTopics
    | DeleteTopics
    | CreatePartitions
    | AlterTopicConfig
    | ElectLeaders
    | RebalanceLeaders
    | DrainBroker
    | UnregisterBroker
)

Request = RegisterBroker | Heartbeat | FenceBroker | AlterPartitions | AllocateProducerIds | AdminRequest

Response = (
    RegisterBrokerResult
    | HeartbeatResult
    | AllocateProducerIdsResult
    | DrainBrokerResult
    | TopicResult
    | tuple[AlterPartitionResult, ...]
    | tuple[TopicResult, ...]
    | tuple[ElectResult, ...]
    | None
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """Records that make the request happen, all or none, and the answer once they are committed."""

    records: tuple[MetadataRecord, ...]
    response: Response
