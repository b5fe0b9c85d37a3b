"""Bytes of the group coordinator's records: keys that sort by group and kind, and protobuf values.

    "g" group 0x00 kind rest       kind: G group, M member, T target, C current, O offset, E event

`rest` is the member id, the topic id and the partition (4 bytes), or the sequence number (8 bytes). A group's name has
no zero byte, because it can be printed. Kinds that a later version adds are left out when they are read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final, TypeVar, assert_never, cast

from google.protobuf.message import DecodeError, Message

from logcluster.core.coordinators.groups.records import (
    MEMBER_STATES,
    CurrentRecord,
    CurrentValue,
    EventKind,
    EventRecord,
    EventValue,
    GroupRecord,
    GroupStateRecord,
    GroupValue,
    MemberRecord,
    MemberValue,
    OffsetRecord,
    OffsetValue,
    TargetRecord,
    TargetValue,
    TopicSize,
)
from logcluster.model.errors import CorruptMessage
from logcluster.model.ids import TopicId, TopicIdPartition
from logcluster.wire.gen.logcluster.internal.v1 import group_records_pb2 as pb

_FIRST: Final = b"g"
_END_OF_NAME: Final = b"\x00"
_TOPIC_ID_SIZE_BYTES: Final = 16
_PARTITION_SIZE_BYTES: Final = 4
_SEQUENCE_SIZE_BYTES: Final = 8
_NO_EPOCHS: Final[Mapping[TopicIdPartition, int]] = {}

AnyMessage = TypeVar("AnyMessage", bound=Message)
Value = TypeVar("Value")


class GroupRecordCodec:
    """Implements `machine.RecordCodec` for groups."""

    def encode(self, record: GroupStateRecord) -> tuple[bytes, bytes | None]:
        """Key and value; the value is None for a record that removes its key."""
        prefix = self.prefix(record.group)
        match record:
            case GroupRecord(value=value):
                return prefix + b"G", None if value is None else _bytes(_group(value))
            case MemberRecord(member_id=member_id, value=value):
                return prefix + b"M" + member_id.encode(), None if value is None else _bytes(_member(value))
            case TargetRecord(member_id=member_id, value=value):
                return prefix + b"T" + member_id.encode(), None if value is None else _bytes(_target(value))
            case CurrentRecord(member_id=member_id, value=value):
                return prefix + b"C" + member_id.encode(), None if value is None else _bytes(_current(value))
            case OffsetRecord(partition=partition, value=value):
                rest = partition.topic_id + partition.partition.to_bytes(_PARTITION_SIZE_BYTES, "big")
                return prefix + b"O" + rest, None if value is None else _bytes(_offset(value))
            case EventRecord(sequence=sequence, value=value):
                rest = sequence.to_bytes(_SEQUENCE_SIZE_BYTES, "big")
                return prefix + b"E" + rest, None if value is None else _bytes(_event(value))
            case _:
                assert_never(record)

    def decode(self, key: bytes, value: bytes | None) -> GroupStateRecord | None:
        """The record, or None for a kind that a newer version wrote.

        Raises:
            CorruptMessage: the bytes are no record of a group.
        """
        group, kind, rest = _split(key)
        match kind:
            case b"G" if not rest:
                return GroupRecord(group=group, value=_read(pb.GroupValue, value, _group_value))
            case b"M":
                return MemberRecord(
                    group=group, member_id=_text(rest), value=_read(pb.MemberValue, value, _member_value)
                )
            case b"T":
                return TargetRecord(
                    group=group, member_id=_text(rest), value=_read(pb.TargetValue, value, _target_value)
                )
            case b"C":
                return CurrentRecord(
                    group=group, member_id=_text(rest), value=_read(pb.CurrentValue, value, _current_value)
                )
            case b"O" if len(rest) == _TOPIC_ID_SIZE_BYTES + _PARTITION_SIZE_BYTES:
                partition = TopicIdPartition(
                    TopicId(rest[:_TOPIC_ID_SIZE_BYTES]), int.from_bytes(rest[_TOPIC_ID_SIZE_BYTES:], "big")
                )
                return OffsetRecord(group=group, partition=partition, value=_read(pb.OffsetValue, value, _offset_value))
            case b"E" if len(rest) == _SEQUENCE_SIZE_BYTES:
                sequence = int.from_bytes(rest, "big")
                return EventRecord(group=group, sequence=sequence, value=_read(pb.EventValue, value, _event_value))
            case b"G" | b"O" | b"E":
                raise CorruptMessage("the key of a group's record has a wrong size", size_bytes=len(key))
            case _:
                return None

    def entity_of(self, key: bytes) -> str:
        """The group that a key belongs to.

        Raises:
            CorruptMessage: the bytes are no key of a group.
        """
        return _split(key)[0]

    def prefix(self, entity: str) -> bytes:
        """What all keys of a group begin with, and no others."""
        return _FIRST + entity.encode() + _END_OF_NAME

    def live_mark(self, entity: str) -> bytes:
        """What the keys of its members begin with: a group with members has to be looked after."""
        return self.prefix(entity) + b"M"


def _split(key: bytes) -> tuple[str, bytes, bytes]:
    name, separator, rest = key.partition(_END_OF_NAME)
    if not name.startswith(_FIRST) or not separator or not rest:
        raise CorruptMessage("no key of a group's record", size_bytes=len(key))
    return _text(name[len(_FIRST) :]), rest[:1], rest[1:]


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise CorruptMessage("a name in the key of a group's record is no text") from error


def _bytes(message: Message) -> bytes:
    return message.SerializeToString(deterministic=True)


def _read(kind: type[AnyMessage], value: bytes | None, make: Callable[[AnyMessage], Value]) -> Value | None:
    if value is None:
        return None
    message = kind()
    try:
        message.ParseFromString(value)
    except DecodeError as error:
        raise CorruptMessage(f"a {kind.__name__} of a group cannot be read") from error
    return make(message)


# -- the group ---------------------------------------------------------------------------------------------------------


def _group(value: GroupValue) -> pb.GroupValue:
    return pb.GroupValue(
        group_epoch=value.group_epoch,
        type=value.type,
        assignor=value.assignor,
        assignment_epoch=value.assignment_epoch,
        empty_since_ms=value.empty_since_ms,
        next_event_sequence=value.next_event_sequence,
        topics=[
            pb.TopicSize(topic=size.topic, topic_id=size.topic_id, partitions=size.partitions)
            for _, size in sorted(value.topics.items())
        ],
    )


def _group_value(message: pb.GroupValue) -> GroupValue:
    sizes = [
        TopicSize(topic=size.topic, topic_id=TopicId(size.topic_id), partitions=size.partitions)
        for size in message.topics
    ]
    return GroupValue(
        group_epoch=message.group_epoch,
        type=message.type,
        assignor=message.assignor,
        assignment_epoch=message.assignment_epoch,
        empty_since_ms=message.empty_since_ms if message.HasField("empty_since_ms") else None,
        next_event_sequence=message.next_event_sequence,
        topics={size.topic_id: size for size in sizes},
    )


# -- members -----------------------------------------------------------------------------------------------------------


def _member(value: MemberValue) -> pb.MemberValue:
    return pb.MemberValue(
        instance_id=value.instance_id or "",
        rack_id=value.rack_id,
        client_id=value.client_id,
        client_host=value.client_host,
        topics=value.topics,
        topic_regex=value.topic_regex or "",
        assignor=value.assignor,
        session_timeout_ms=value.session_timeout_ms,
        rebalance_timeout_ms=value.rebalance_timeout_ms,
        joined_ms=value.joined_ms,
    )


def _member_value(message: pb.MemberValue) -> MemberValue:
    return MemberValue(
        instance_id=message.instance_id or None,
        rack_id=message.rack_id,
        client_id=message.client_id,
        client_host=message.client_host,
        topics=tuple(message.topics),
        topic_regex=message.topic_regex or None,
        assignor=message.assignor,
        session_timeout_ms=message.session_timeout_ms,
        rebalance_timeout_ms=message.rebalance_timeout_ms,
        joined_ms=message.joined_ms,
    )


def _partition_sets(
    partitions: Iterable[TopicIdPartition],
    names: Mapping[TopicId, str],
    epochs: Mapping[TopicIdPartition, int] = _NO_EPOCHS,
) -> list[pb.PartitionSet]:
    """Partitions by topic, in order; epochs beside them when there are any."""
    sets: dict[TopicId, pb.PartitionSet] = {}
    for partition in sorted(partitions):
        topic_id = partition.topic_id
        if topic_id not in sets:
            sets[topic_id] = pb.PartitionSet(topic_id=topic_id, topic=names.get(topic_id, ""))
        sets[topic_id].partitions.append(partition.partition)
        if partition in epochs:
            sets[topic_id].assigned_epochs.append(epochs[partition])
    return list(sets.values())


def _partitions(sets: Iterable[pb.PartitionSet]) -> Iterable[tuple[TopicIdPartition, int]]:
    """Each partition with its epoch; 0 where none was written."""
    for item in sets:
        topic_id = TopicId(item.topic_id)
        epochs = item.assigned_epochs or [0] * len(item.partitions)
        if len(epochs) != len(item.partitions):
            raise CorruptMessage("a group's record has partitions without epochs")
        for partition, epoch in zip(item.partitions, epochs, strict=True):
            yield TopicIdPartition(topic_id, partition), epoch


def _names(*sets: Iterable[pb.PartitionSet]) -> dict[TopicId, str]:
    return {TopicId(item.topic_id): item.topic for group in sets for item in group}


def _target(value: TargetValue) -> pb.TargetValue:
    return pb.TargetValue(partitions=_partition_sets(value.partitions, value.topic_names))


def _target_value(message: pb.TargetValue) -> TargetValue:
    return TargetValue(
        partitions=frozenset(partition for partition, _ in _partitions(message.partitions)),
        topic_names=_names(message.partitions),
    )


def _current(value: CurrentValue) -> pb.CurrentValue:
    return pb.CurrentValue(
        member_epoch=value.member_epoch,
        previous_member_epoch=value.previous_member_epoch,
        state=value.state,
        assigned=_partition_sets(value.assigned, value.topic_names, value.assigned),
        revoking=_partition_sets(value.revoking, value.topic_names, value.revoking),
        is_away=value.is_away,
        version=value.version,
    )


def _current_value(message: pb.CurrentValue) -> CurrentValue:
    if message.state not in MEMBER_STATES:
        raise CorruptMessage(f"a member is in no state {message.state!r}")
    return CurrentValue(
        member_epoch=message.member_epoch,
        previous_member_epoch=message.previous_member_epoch,
        state=message.state,
        assigned=dict(_partitions(message.assigned)),
        revoking=dict(_partitions(message.revoking)),
        topic_names=_names(message.assigned, message.revoking),
        is_away=message.is_away,
        version=message.version,
    )


# -- offsets and events ------------------------------------------------------------------------------------------------


def _offset(value: OffsetValue) -> pb.OffsetValue:
    return pb.OffsetValue(
        offset=value.offset,
        leader_epoch=value.leader_epoch,
        metadata=value.metadata,
        commit_time_ms=value.commit_time_ms,
        topic=value.topic,
    )


def _offset_value(message: pb.OffsetValue) -> OffsetValue:
    return OffsetValue(
        offset=message.offset,
        leader_epoch=message.leader_epoch if message.HasField("leader_epoch") else None,
        metadata=message.metadata,
        commit_time_ms=message.commit_time_ms,
        topic=message.topic,
    )


def _event(value: EventValue) -> pb.EventValue:
    return pb.EventValue(
        time_ms=value.time_ms,
        kind=value.kind,
        group_epoch=value.group_epoch,
        reason=value.reason,
        member_id=value.member_id,
        instance_id=value.instance_id,
        client_host=value.client_host,
        partition_counts=dict(value.partition_counts),
        moved=value.moved,
    )


def _event_value(message: pb.EventValue) -> EventValue:
    return EventValue(
        time_ms=message.time_ms,
        # What a later version calls an event is shown as it is.
        kind=cast(EventKind, message.kind),
        group_epoch=message.group_epoch,
        reason=message.reason,
        member_id=message.member_id,
        instance_id=message.instance_id,
        client_host=message.client_host,
        partition_counts=dict(message.partition_counts),
        moved=message.moved,
    )
