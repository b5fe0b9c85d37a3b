"""Protobuf <-> metadata records: entries of the metadata log, and snapshots of it.

One entry is one `MetadataBatch`. A version above `METADATA_VERSION`, an unknown record or garbage is refused with
`UnsupportedVersion` or `CorruptLog`: skipping what one cannot read would make this node's metadata differ from others.
The absent leader is -1 on the wire and None above it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

from google.protobuf.message import DecodeError

from logcluster.core.metadata.image import MetadataImage
from logcluster.core.metadata.records import (
    BrokerChangeRecord,
    ClusterRecord,
    ConfigRecord,
    MetadataRecord,
    NoOpRecord,
    PartitionChangeRecord,
    PartitionRecord,
    ProducerIdsRecord,
    RegisterBrokerRecord,
    RemoveTopicRecord,
    TopicRecord,
    UnregisterBrokerRecord,
)
from logcluster.model.errors import CorruptLog, UnsupportedVersion
from logcluster.model.ids import TopicId
from logcluster.wire.gen.logcluster.internal.v1 import records_pb2 as pb

METADATA_VERSION: Final = 1


def encode_batch(records: Iterable[MetadataRecord]) -> bytes:
    """Write records as the payload of one entry of the metadata log."""
    batch = pb.MetadataBatch(version=METADATA_VERSION, records=[record_to_pb(record) for record in records])
    return batch.SerializeToString()


def decode_batch(payload: bytes) -> tuple[MetadataRecord, ...]:
    """Read the payload of one entry.

    Raises:
        UnsupportedVersion: a newer node wrote it.
        CorruptLog: it is not a batch.
    """
    batch = pb.MetadataBatch()
    try:
        batch.ParseFromString(payload)
    except DecodeError as error:
        raise CorruptLog("an entry of the metadata log cannot be read") from error
    _check_version(batch.version)
    return tuple(record_from_pb(record) for record in batch.records)


def snapshot_to_pb(image: MetadataImage) -> pb.MetadataSnapshot:
    """Write a whole image; its offset and term travel beside it."""
    return pb.MetadataSnapshot(
        version=METADATA_VERSION,
        records=[record_to_pb(record) for record in image.to_records()],
        deleted_topic_ids=list(image.deleted_topic_ids),
    )


def snapshot_from_pb(snapshot: pb.MetadataSnapshot, *, offset: int, term: int) -> MetadataImage:
    """Rebuild the image of a snapshot.

    Raises:
        UnsupportedVersion, CorruptLog: it cannot be read.
    """
    _check_version(snapshot.version)
    return MetadataImage.from_snapshot(
        (record_from_pb(record) for record in snapshot.records),
        deleted_topic_ids=(TopicId(topic_id) for topic_id in snapshot.deleted_topic_ids),
        offset=offset,
        term=term,
    )


def encode_snapshot(image: MetadataImage) -> bytes:
    """Write a whole image as bytes; see `snapshot_to_pb`."""
    return snapshot_to_pb(image).SerializeToString()


def decode_snapshot(payload: bytes, *, offset: int, term: int) -> MetadataImage:
    """Read what `encode_snapshot` wrote.

    Raises:
        UnsupportedVersion, CorruptLog: it cannot be read.
    """
    snapshot = pb.MetadataSnapshot()
    try:
        snapshot.ParseFromString(payload)
    except DecodeError as error:
        raise CorruptLog("a snapshot of the metadata cannot be read") from error
    return snapshot_from_pb(snapshot, offset=offset, term=term)


def _check_version(version: int) -> None:
    if version > METADATA_VERSION:
        raise UnsupportedVersion(
            f"metadata of version {version} is newer than this program ({METADATA_VERSION})",
            hint="upgrade this node",
            version=version,
        )
    if version < 1:
        raise CorruptLog("metadata without a version", version=version)


def _leader_to_pb(leader_id: int | None) -> int:
    return -1 if leader_id is None else leader_id


def _leader_from_pb(leader_id: int) -> int | None:
    return None if leader_id < 0 else leader_id


def record_to_pb(record: MetadataRecord) -> pb.MetadataRecord:
    """Convert one record to its message."""
    match record:
        case PartitionChangeRecord():
            return pb.MetadataRecord(
                partition_change=pb.PartitionChangeRecord(
                    topic_id=record.topic_id,
                    partition=record.partition,
                    in_sync_replicas=record.in_sync_replicas,
                    eligible_leader_replicas=record.eligible_leader_replicas,
                    leader_id=_leader_to_pb(record.leader_id),
                    leader_epoch=record.leader_epoch,
                    partition_epoch=record.partition_epoch,
                    recovering=record.recovering,
                    last_known_leaders=record.last_known_leaders,
                    reason=record.reason,
                )
            )
        case PartitionRecord():
            return pb.MetadataRecord(
                partition=pb.PartitionRecord(
                    topic_id=record.topic_id,
                    partition=record.partition,
                    replicas=record.replicas,
                    in_sync_replicas=record.in_sync_replicas,
                    eligible_leader_replicas=record.eligible_leader_replicas,
                    leader_id=_leader_to_pb(record.leader_id),
                    leader_epoch=record.leader_epoch,
                    partition_epoch=record.partition_epoch,
                    recovering=record.recovering,
                    last_known_leaders=record.last_known_leaders,
                )
            )
        case _:
            return _small_record_to_pb(record)


def _small_record_to_pb(record: MetadataRecord) -> pb.MetadataRecord:
    match record:
        case RegisterBrokerRecord():
            return pb.MetadataRecord(
                register_broker=pb.RegisterBrokerRecord(
                    broker_id=record.broker_id,
                    broker_epoch=record.broker_epoch,
                    incarnation_id=record.incarnation_id,
                    host=record.host,
                    grpc_port=record.grpc_port,
                    lane_port=record.lane_port,
                    http_port=record.http_port,
                    rack=record.rack,
                    fenced=record.fenced,
                    directory_id=record.directory_id,
                )
            )
        case UnregisterBrokerRecord(broker_id=broker_id, broker_epoch=broker_epoch):
            return pb.MetadataRecord(
                unregister_broker=pb.UnregisterBrokerRecord(broker_id=broker_id, broker_epoch=broker_epoch)
            )
        case BrokerChangeRecord():
            return pb.MetadataRecord(
                broker_change=pb.BrokerChangeRecord(
                    broker_id=record.broker_id,
                    broker_epoch=record.broker_epoch,
                    fenced=record.fenced,
                    in_controlled_shutdown=record.in_controlled_shutdown,
                    draining=record.draining,
                    drain_until_restart=record.drain_until_restart,
                )
            )
        case TopicRecord(name=name, topic_id=topic_id):
            return pb.MetadataRecord(topic=pb.TopicRecord(name=name, topic_id=topic_id))
        case RemoveTopicRecord(topic_id=topic_id):
            return pb.MetadataRecord(remove_topic=pb.RemoveTopicRecord(topic_id=topic_id))
        case ConfigRecord(topic=topic, key=key, value=value):
            return pb.MetadataRecord(config=pb.ConfigRecord(topic=topic, key=key, value=value))
        case ProducerIdsRecord():
            return pb.MetadataRecord(
                producer_ids=pb.ProducerIdsRecord(
                    broker_id=record.broker_id,
                    broker_epoch=record.broker_epoch,
                    next_producer_id=record.next_producer_id,
                )
            )
        case ClusterRecord(cluster_id=cluster_id):
            return pb.MetadataRecord(cluster=pb.ClusterRecord(cluster_id=cluster_id))
        case NoOpRecord():
            return pb.MetadataRecord(no_op=pb.NoOpRecord())
        case _:
            raise UnsupportedVersion(f"{type(record).__name__} has no message")


def _partition_from_pb(message: pb.PartitionRecord) -> PartitionRecord:
    return PartitionRecord(
        topic_id=TopicId(message.topic_id),
        partition=message.partition,
        replicas=tuple(message.replicas),
        in_sync_replicas=tuple(message.in_sync_replicas),
        eligible_leader_replicas=tuple(message.eligible_leader_replicas),
        last_known_leaders=tuple(message.last_known_leaders),
        leader_id=_leader_from_pb(message.leader_id),
        leader_epoch=message.leader_epoch,
        partition_epoch=message.partition_epoch,
        recovering=message.recovering,
    )


def _partition_change_from_pb(message: pb.PartitionChangeRecord) -> PartitionChangeRecord:
    return PartitionChangeRecord(
        topic_id=TopicId(message.topic_id),
        partition=message.partition,
        in_sync_replicas=tuple(message.in_sync_replicas),
        eligible_leader_replicas=tuple(message.eligible_leader_replicas),
        last_known_leaders=tuple(message.last_known_leaders),
        leader_id=_leader_from_pb(message.leader_id),
        leader_epoch=message.leader_epoch,
        partition_epoch=message.partition_epoch,
        recovering=message.recovering,
        reason=message.reason,
    )


def _register_from_pb(message: pb.RegisterBrokerRecord) -> RegisterBrokerRecord:
    return RegisterBrokerRecord(
        broker_id=message.broker_id,
        broker_epoch=message.broker_epoch,
        incarnation_id=message.incarnation_id,
        directory_id=message.directory_id,
        host=message.host,
        grpc_port=message.grpc_port,
        lane_port=message.lane_port,
        http_port=message.http_port,
        rack=message.rack,
        fenced=message.fenced,
    )


def _broker_change_from_pb(message: pb.BrokerChangeRecord) -> BrokerChangeRecord:
    return BrokerChangeRecord(
        broker_id=message.broker_id,
        broker_epoch=message.broker_epoch,
        fenced=message.fenced if message.HasField("fenced") else None,
        in_controlled_shutdown=(message.in_controlled_shutdown if message.HasField("in_controlled_shutdown") else None),
        draining=message.draining if message.HasField("draining") else None,
        drain_until_restart=message.drain_until_restart if message.HasField("drain_until_restart") else None,
    )


_FROM_PB: Final[dict[str, Callable[[Any], MetadataRecord]]] = {
    "partition": _partition_from_pb,
    "partition_change": _partition_change_from_pb,
    "register_broker": _register_from_pb,
    "broker_change": _broker_change_from_pb,
    "unregister_broker": lambda message: UnregisterBrokerRecord(
        broker_id=message.broker_id, broker_epoch=message.broker_epoch
    ),
    "topic": lambda message: TopicRecord(name=message.name, topic_id=TopicId(message.topic_id)),
    "remove_topic": lambda message: RemoveTopicRecord(topic_id=TopicId(message.topic_id)),
    "config": lambda message: ConfigRecord(
        topic=message.topic, key=message.key, value=message.value if message.HasField("value") else None
    ),
    "producer_ids": lambda message: ProducerIdsRecord(
        broker_id=message.broker_id,
        broker_epoch=message.broker_epoch,
        next_producer_id=message.next_producer_id,
    ),
    "cluster": lambda message: ClusterRecord(cluster_id=message.cluster_id),
    "no_op": lambda message: NoOpRecord(),
}


def record_from_pb(message: pb.MetadataRecord) -> MetadataRecord:
    """Convert one message to its record.

    Raises:
        CorruptLog: it holds no record, or one that this program does not know.
    """
    kind = message.WhichOneof("record")
    if kind is None:
        raise CorruptLog("a metadata record of unknown kind", hint="upgrade this node")
    return _FROM_PB[kind](getattr(message, kind))
