"""Bytes of the group coordinator's records: everything comes back, and nothing mangled gets through."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given, strategies as st

from logcluster.core.coordinators.groups.records import (
    CurrentRecord,
    CurrentValue,
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
from logcluster.wire.group_records import GroupRecordCodec

CODEC = GroupRecordCodec()
NAMES = st.text(st.characters(exclude_categories=("C", "Z")), min_size=1, max_size=20)
TEXTS = st.text(st.characters(exclude_categories=("Cs",)), max_size=20)
EPOCHS = st.integers(0, 2**31 - 1)
NUMBERS = st.integers(0, 2**62)
TOPIC_IDS = st.sampled_from([TopicId(bytes([number]) * 16) for number in range(1, 4)])
PARTITIONS = st.builds(TopicIdPartition, TOPIC_IDS, st.integers(0, 2**31 - 1))
EPOCHS_BY_PARTITION = st.dictionaries(PARTITIONS, EPOCHS, max_size=5)
TOPIC_NAMES = {TopicId(bytes([number]) * 16): f"topic-{number}" for number in range(1, 4)}


def names_of(*partitions: Any) -> dict[TopicId, str]:
    return {partition.topic_id: TOPIC_NAMES[partition.topic_id] for group in partitions for partition in group}


SIZES = st.builds(TopicSize, topic=TEXTS, topic_id=TOPIC_IDS, partitions=EPOCHS)
GROUPS = st.builds(
    GroupValue,
    group_epoch=EPOCHS,
    type=st.just("consumer"),
    assignor=TEXTS,
    assignment_epoch=EPOCHS,
    empty_since_ms=st.none() | NUMBERS,
    next_event_sequence=NUMBERS,
    topics=st.lists(SIZES, max_size=3).map(lambda sizes: {size.topic_id: size for size in sizes}),
)
MEMBERS = st.builds(
    MemberValue,
    instance_id=st.none() | NAMES,
    rack_id=TEXTS,
    client_id=TEXTS,
    client_host=TEXTS,
    topics=st.lists(TEXTS, max_size=3).map(tuple),
    topic_regex=st.none() | NAMES,
    assignor=TEXTS,
    session_timeout_ms=EPOCHS,
    rebalance_timeout_ms=EPOCHS,
    joined_ms=NUMBERS,
)
TARGETS = st.frozensets(PARTITIONS, max_size=5).map(
    lambda partitions: TargetValue(partitions=partitions, topic_names=names_of(partitions))
)
CURRENTS = st.builds(
    lambda assigned, revoking, epoch, previous, state, is_away: CurrentValue(
        member_epoch=epoch,
        previous_member_epoch=previous,
        state=state,
        assigned=assigned,
        revoking=revoking,
        topic_names=names_of(assigned, revoking),
        is_away=is_away,
    ),
    EPOCHS_BY_PARTITION,
    EPOCHS_BY_PARTITION,
    EPOCHS,
    EPOCHS,
    st.sampled_from(["stable", "revoking", "waiting"]),
    st.booleans(),
)
OFFSETS = st.builds(
    OffsetValue,
    offset=NUMBERS,
    leader_epoch=st.none() | EPOCHS,
    metadata=TEXTS,
    commit_time_ms=NUMBERS,
    topic=TEXTS,
)
EVENTS = st.builds(
    EventValue,
    time_ms=NUMBERS,
    kind=st.sampled_from(["joined", "rebalanced"]),
    group_epoch=EPOCHS,
    reason=TEXTS,
    member_id=TEXTS,
    instance_id=TEXTS,
    client_host=TEXTS,
    partition_counts=st.dictionaries(TEXTS, EPOCHS, max_size=3),
    moved=EPOCHS,
)
RECORDS: st.SearchStrategy[GroupStateRecord] = st.one_of(
    st.builds(GroupRecord, group=NAMES, value=st.none() | GROUPS),
    st.builds(MemberRecord, group=NAMES, member_id=NAMES, value=st.none() | MEMBERS),
    st.builds(TargetRecord, group=NAMES, member_id=NAMES, value=st.none() | TARGETS),
    st.builds(CurrentRecord, group=NAMES, member_id=NAMES, value=st.none() | CURRENTS),
    st.builds(OffsetRecord, group=NAMES, partition=PARTITIONS, value=st.none() | OFFSETS),
    st.builds(EventRecord, group=NAMES, sequence=NUMBERS, value=st.none() | EVENTS),
)


@given(RECORDS)
def test_records_come_back(record: GroupStateRecord) -> None:
    key, value = CODEC.encode(record)

    assert CODEC.decode(key, value) == record
    assert (value is None) == (record.value is None)
    assert CODEC.entity_of(key) == record.group
    assert key.startswith(CODEC.prefix(record.group))
    assert key.startswith(CODEC.live_mark(record.group)) == isinstance(record, MemberRecord)


@given(RECORDS, NAMES)
def test_keys_of_other_groups_do_not_begin_alike(record: GroupStateRecord, other: str) -> None:
    key, _ = CODEC.encode(record)
    assert key.startswith(CODEC.prefix(other)) == (other == record.group)


def test_a_group_does_not_see_the_keys_of_one_whose_name_begins_with_its_own() -> None:
    keys: dict[str, list[bytes]] = {
        group: [
            CODEC.encode(GroupRecord(group=group, value=None))[0],
            CODEC.encode(MemberRecord(group=group, member_id="ab", value=None))[0],
            CODEC.encode(CurrentRecord(group=group, member_id="ab", value=None))[0],
        ]
        for group in ("a", "ab", "aM", "é", "éa")
    }
    found = [key for group in keys.values() for key in group]
    for group, own in keys.items():
        assert [key for key in found if key.startswith(CODEC.prefix(group))] == own
        assert [key for key in found if key.startswith(CODEC.live_mark(group))] == [own[1]]


@given(RECORDS, st.data())
def test_mangled_bytes_are_refused_or_read_and_never_anything_else(record: GroupStateRecord, data: Any) -> None:
    key, value = CODEC.encode(record)
    mangled_key = data.draw(st.sampled_from([key, key[:-1], key[1:], key + b"\xff"]))
    mangled = (
        None if value is None else data.draw(st.sampled_from([value, value[:-1], value + b"\x07", b"\xff" + value]))
    )
    with contextlib.suppress(CorruptMessage):
        CODEC.decode(mangled_key, mangled)


@given(st.binary(max_size=60), st.none() | st.binary(max_size=60))
def test_any_bytes_are_refused_or_read(rest: bytes, value: bytes | None) -> None:
    for key in (rest, CODEC.prefix("g") + rest):
        with contextlib.suppress(CorruptMessage):
            record = CODEC.decode(key, value)
            assert record is None or (record.group, record.value is None) == (CODEC.entity_of(key), value is None)


def test_kinds_of_later_versions_are_left_out() -> None:
    assert CODEC.decode(CODEC.prefix("g") + b"Zwhatever", b"anything") is None


@pytest.mark.parametrize("key", [b"", b"g", b"ggroup", b"x\x00G", b"ggroup\x00", b"ggroup\x00Gmore", b"ggroup\x00O12"])
def test_what_is_no_key_is_refused(key: bytes) -> None:
    with pytest.raises(CorruptMessage):
        CODEC.decode(key, b"")


def test_the_order_of_what_is_in_a_value_does_not_matter() -> None:
    partitions = [TopicIdPartition(TopicId(b"\x01" * 16), number) for number in range(5)]
    names = {TopicId(b"\x01" * 16): "topic-1"}
    one, other = (
        CODEC.encode(
            CurrentRecord(
                group="g",
                member_id="m",
                value=CurrentValue(
                    member_epoch=1,
                    previous_member_epoch=0,
                    state="stable",
                    assigned=dict.fromkeys(order, 1),
                    revoking={},
                    topic_names=names,
                ),
            )
        )
        for order in (partitions, partitions[::-1])
    )
    assert one == other


def test_the_order_of_a_groups_topics_does_not_matter() -> None:
    sizes = [TopicSize(topic=name, topic_id=topic_id, partitions=1) for topic_id, name in TOPIC_NAMES.items()]
    one, other = (
        CODEC.encode(GroupRecord(group="g", value=GroupValue(topics={size.topic_id: size for size in order})))
        for order in (sizes, sizes[::-1])
    )
    assert one == other
