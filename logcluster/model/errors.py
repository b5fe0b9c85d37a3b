"""The one tree of errors that brokers and clients share.

    LogClusterError
    |- RequestError       the request can never succeed as it is
    |- StaleEpochError    the sender's knowledge is old: refresh and try the right place
    |- FencedError        a newer instance took over, or an identity is wrong
    |- UnavailableError   not now; the same request may succeed later
    |- OverloadedError    a limit or quota refused the request
    |- CorruptionError    damaged bytes, on the wire or on disk
    `- InternalError      a bug

Each class carries Kafka's number where Kafka has one (ours start at 1001), and three facts that decide what a
client does: `retriable` (the same request may succeed later), `definite` (certainly not applied, promise P9) and
`refresh_metadata` (look up the leader again first). `hint` says what to do next. Instances carry facts, not prose
to parse.
"""

from __future__ import annotations

from logcluster.model.error_families import (
    CorruptionError as CorruptionError,
    FencedError as FencedError,
    InternalError as InternalError,
    LogClusterError as LogClusterError,
    OverloadedError as OverloadedError,
    RequestError as RequestError,
    StaleEpochError as StaleEpochError,
    UnavailableError as UnavailableError,
)
from logcluster.model.group_errors import (
    CoordinatorLoadInProgress as CoordinatorLoadInProgress,
    CoordinatorNotAvailable as CoordinatorNotAvailable,
    FencedMemberEpoch as FencedMemberEpoch,
    GroupIdNotFound as GroupIdNotFound,
    GroupMaxSizeReached as GroupMaxSizeReached,
    GroupSubscribedToTopic as GroupSubscribedToTopic,
    InvalidGroupId as InvalidGroupId,
    InvalidRegularExpression as InvalidRegularExpression,
    NonEmptyGroup as NonEmptyGroup,
    NotCoordinator as NotCoordinator,
    OffsetMetadataTooLarge as OffsetMetadataTooLarge,
    PartitionNotAssigned as PartitionNotAssigned,
    StaleMemberEpoch as StaleMemberEpoch,
    UnknownMemberId as UnknownMemberId,
    UnreleasedInstanceId as UnreleasedInstanceId,
    UnsupportedAssignor as UnsupportedAssignor,
)


class UnknownTopicOrPartition(RequestError):
    """The topic or partition does not exist on this cluster, or not yet in the metadata of the broker asked."""

    code = 3
    retriable = True
    definite = True
    refresh_metadata = True
    default_hint = "create it with `logcluster topic create NAME`, or check the name with `logcluster topic ls`"


class UnknownTopicId(RequestError):
    """No topic has this id: it was deleted, perhaps created again under its name."""

    code = 100
    retriable = True
    definite = True
    refresh_metadata = True
    default_hint = "refresh the metadata"


class InvalidTopic(RequestError):
    """The topic name is not allowed."""

    code = 17
    retriable = False
    definite = True
    default_hint = "use 1 to 249 of the characters a-z A-Z 0-9 . _ - and neither `.` nor `..`"


class TopicAlreadyExists(RequestError):
    """A topic of this name exists."""

    code = 36
    retriable = False
    definite = True
    default_hint = "choose another name, or `logcluster topic describe NAME` to see what is there"


class InvalidPartitions(RequestError):
    """The number of partitions is impossible."""

    code = 37
    retriable = False
    definite = True
    default_hint = "use at least 1 partition; the count can grow but never shrink"


class InvalidReplicationFactor(RequestError):
    """The replication factor is not between 1 and the number of usable brokers."""

    code = 38
    retriable = False
    definite = True
    default_hint = "start more brokers or create the topic with a smaller `-r`"


class InvalidReplicaAssignment(RequestError):
    """The replica assignment names unknown or repeated brokers."""

    code = 39
    retriable = False
    definite = True
    default_hint = "name each broker once"


class InvalidConfig(RequestError):
    """A configuration key is unknown or its value is not allowed."""

    code = 40
    retriable = False
    definite = True
    default_hint = "see docs/configuration.md for keys and ranges"


class InvalidRequest(RequestError):
    """The request contradicts itself or lacks something."""

    code = 42
    retriable = False
    definite = True


class InvalidRecord(RequestError):
    """A record breaks a rule of its batch or topic."""

    code = 87
    retriable = False
    definite = True


class InvalidTimestamp(RequestError):
    """A record's timestamp is outside what the topic accepts."""

    code = 32
    retriable = False
    definite = True
    default_hint = "check the clock of the producer"


class InvalidRequiredAcks(RequestError):
    """The acks value is none of all, 1 and 0."""

    code = 21
    retriable = False
    definite = True


class UnsupportedCompression(RequestError):
    """The batch names a compression codec that is not supported."""

    code = 76
    retriable = False
    definite = True
    default_hint = "use none, gzip, snappy, lz4 or zstd"


class UnsupportedVersion(RequestError):
    """The peer speaks another version of the protocol or record format."""

    code = 35
    retriable = False
    definite = True
    default_hint = "upgrade the older side"


class MessageTooLarge(RequestError):
    """A batch or record is larger than the topic or the broker accepts."""

    code = 10
    retriable = False
    definite = True
    default_hint = "raise `max.message.bytes` of the topic, or send smaller records"


class OffsetOutOfRange(RequestError):
    """The offset is below the log start or beyond the log end."""

    code = 1
    retriable = False
    definite = True
    default_hint = "start from `earliest` or `latest`, or ask for the offset of a time"


class NotFound(RequestError):
    """The thing named in the request does not exist."""

    code = 1004
    retriable = False
    definite = True


class NotLeaderOrFollower(StaleEpochError):
    """The broker asked does not lead the partition (any more)."""

    code = 6
    retriable = True
    definite = True
    refresh_metadata = True


class FencedLeaderEpoch(StaleEpochError):
    """The leader epoch in the request is older than the partition's."""

    code = 74
    retriable = True
    definite = True
    refresh_metadata = True


class UnknownLeaderEpoch(StaleEpochError):
    """The leader epoch in the request is newer than this broker knows yet."""

    code = 75
    retriable = True
    definite = True
    refresh_metadata = True


class StaleBrokerEpoch(StaleEpochError):
    """The broker epoch belongs to an earlier registration."""

    code = 77
    retriable = False
    definite = True
    default_hint = "the broker registers again by itself"


class InvalidUpdateVersion(StaleEpochError):
    """The partition epoch in the request is older than the partition's."""

    code = 95
    retriable = False
    definite = True
    refresh_metadata = True


class IneligibleReplica(StaleEpochError):
    """A proposed in-sync replica is fenced, shutting down or of another broker epoch."""

    code = 107
    retriable = False
    definite = True
    refresh_metadata = True


class NewLeaderElected(StaleEpochError):
    """The change was applied and made another broker the leader."""

    code = 108
    retriable = False
    definite = True
    refresh_metadata = True


class NotController(StaleEpochError):
    """This node is not the active controller."""

    code = 41
    retriable = True
    definite = True
    refresh_metadata = True


class InvalidProducerEpoch(FencedError):
    """A newer instance of this producer has taken over."""

    code = 47
    retriable = False
    definite = True
    default_hint = "close this producer"


class OutOfOrderSequenceNumber(FencedError):
    """A batch's sequence number does not follow the last one accepted from this producer."""

    code = 45
    retriable = False
    definite = True


class UnknownProducerId(FencedError):
    """The partition holds no state of this producer any more."""

    code = 59
    retriable = False
    definite = True


class DuplicateBrokerRegistration(FencedError):
    """Another live process is registered under this broker id."""

    code = 101
    retriable = False
    definite = True
    default_hint = "give each broker its own `node.id`, or stop the other process"


class InconsistentClusterId(FencedError):
    """The node's data directory belongs to another cluster."""

    code = 104
    retriable = False
    definite = True
    default_hint = "point `data.dir` at this cluster's directory, or at an empty one"


class BrokerIdNotRegistered(FencedError):
    """The broker has not registered."""

    code = 102
    retriable = True
    definite = True


class InconsistentVoterSet(FencedError):
    """The node is not the voter that the quorum knows under this id."""

    code = 1005
    retriable = False
    definite = True


class LeaderNotAvailable(UnavailableError):
    """The partition has no leader at the moment."""

    code = 5
    retriable = True
    definite = True
    refresh_metadata = True
    default_hint = "wait; `logcluster partition ls` shows which replicas are missing"


class NotEnoughReplicas(UnavailableError):
    """Fewer replicas are in sync than `min.insync.replicas` asks for; nothing was written."""

    code = 19
    retriable = True
    definite = True
    default_hint = "start the missing brokers; `logcluster cluster health` names them"


class NotEnoughReplicasAfterAppend(UnavailableError):
    """The record was written, but fewer replicas than `min.insync.replicas` were in sync before it was committed."""

    code = 20
    retriable = True
    definite = False


class OffsetNotAvailable(UnavailableError):
    """The new leader has not yet proved where the log ends."""

    code = 78
    retriable = True
    definite = True


class RequestTimedOut(UnavailableError):
    """The answer did not come within the deadline; the request may or may not have been applied."""

    code = 7
    retriable = True
    definite = False


class Disconnected(UnavailableError):
    """The connection ended before the answer came; the request may or may not have been applied."""

    code = 13
    retriable = True
    definite = False
    refresh_metadata = True


class BrokerNotAvailable(UnavailableError):
    """The broker cannot be reached; the request was not sent."""

    code = 8
    retriable = True
    definite = True
    refresh_metadata = True
    default_hint = "check the address and that the broker runs: `logcluster dev status`"


class TlsHandshakeFailed(BrokerNotAvailable):
    """No connection, for want of trust or of a common language: TLS on one side only, or a refused certificate.

    Nothing was sent. It goes on as soon as the certificates fit again, so calls retry it; `connect` does not.
    """

    code = 1008
    retriable = True
    definite = True
    refresh_metadata = True
    default_hint = "both sides need TLS, or neither; each must trust the other's certificate (docs/security.md)"


class ShuttingDown(UnavailableError):
    """The broker is shutting down."""

    code = 1001
    retriable = True
    definite = True
    refresh_metadata = True


class NotReady(UnavailableError):
    """The node is still starting."""

    code = 1002
    retriable = True
    definite = True


class PreferredLeaderNotAvailable(UnavailableError):
    """The preferred leader is not alive and in sync."""

    code = 80
    retriable = True
    definite = True


class ElectionNotNeeded(UnavailableError):
    """The partition already has the leader that was asked for."""

    code = 84
    retriable = False
    definite = True


class Overloaded(OverloadedError):
    """A queue or quota of the broker is full; the request was refused before anything was done."""

    code = 89
    retriable = True
    definite = True
    default_hint = "slow down; retry after a pause"


class BufferFull(OverloadedError):
    """The producer's buffer is full: records arrive faster than the cluster acknowledges them."""

    code = 1003
    retriable = True
    definite = True
    default_hint = "await `send()`, or raise `buffer_size_bytes`"


class CorruptMessage(CorruptionError):
    """The batch fails its checksum or its structure is broken."""

    code = 2
    retriable = False
    definite = True


class CorruptLog(CorruptionError):
    """Stored data is damaged and the replica has stepped aside."""

    code = 1006
    retriable = True
    definite = False
    refresh_metadata = True


class StorageFailure(CorruptionError):
    """The disk failed; the log directory has stopped."""

    code = 56
    retriable = True
    definite = False
    refresh_metadata = True


class UnknownServerError(InternalError):
    """Something failed in the server that should not; the incident id finds it in the broker's log."""

    code = -1
    retriable = False
    definite = False


def _concrete(error_type: type[LogClusterError]) -> list[type[LogClusterError]]:
    found: list[type[LogClusterError]] = []
    for child in error_type.__subclasses__():
        if "code" in vars(child):  # A family has no number of its own.
            found.append(child)
        found.extend(_concrete(child))
    return found


ERRORS_BY_CODE: dict[int, type[LogClusterError]] = {
    error_type.code: error_type for error_type in _concrete(LogClusterError)
}
"""Every concrete error by its number; numbers are unique (checked by a test)."""


def error_from_code(
    code: int, message: str, *, hint: str | None = None, facts: dict[str, str] | None = None
) -> LogClusterError:
    """Build the error that a number received from a peer stands for; an unknown number gives `UnknownServerError`."""
    error_type = ERRORS_BY_CODE.get(code, UnknownServerError)
    error = error_type(message, hint=hint)
    error.facts = dict(facts or {})
    return error
