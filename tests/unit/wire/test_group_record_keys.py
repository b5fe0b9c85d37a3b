"""Keys of the group coordinator's records: fixed for ever, sorted as coordinators need them, and values in doubt."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import assume, given, strategies as st

from logcluster.core.coordinators.groups.records import (
    CurrentRecord,
    EventRecord,
    EventValue,
    GroupRecord,
    GroupStateRecord,
    GroupValue,
    MemberRecord,
    OffsetRecord,
    OffsetValue,
    TargetRecord,
    TargetValue,
)
from logcluster.core.coordinators.machine import RecordCodec
from logcluster.model.errors import CorruptMessage
from logcluster.model.ids import TopicId, TopicIdPartition
from logcluster.wire.gen.logcluster.internal.v1 import group_records_pb2 as pb
from logcluster.wire.group_records import GroupRecordCodec

CODEC: RecordCodec[GroupStateRecord] = GroupRecordCodec()
ORDERS = TopicId(b"o" * 16)

# Few letters, so that one name often begins with another; member ids may have zero bytes.
groups = st.text(alphabet="ab!é~", min_size=1, max_size=6)
member_ids = st.text(alphabet="\x00gMG", min_size=1, max_size=6) | st.text(min_size=1, max_size=20)
sequences = st.integers(0, 2**63 - 1)
partitions = st.builds(TopicIdPartition, st.binary(min_size=16, max_size=16).map(TopicId), st.integers(0, 2**31 - 1))
removals: st.SearchStrategy[Any] = st.one_of(
    st.builds(GroupRecord, group=groups, value=st.none()),
    st.builds(MemberRecord, group=groups, member_id=member_ids, value=st.none()),
    st.builds(TargetRecord, group=groups, member_id=member_ids, value=st.none()),
    st.builds(CurrentRecord, group=groups, member_id=member_ids, value=st.none()),
    st.builds(OffsetRecord, group=groups, partition=partitions, value=st.none()),
    st.builds(EventRecord, group=groups, sequence=sequences, value=st.none()),
)


def key_of(record: GroupStateRecord) -> bytes:
    return CODEC.encode(record)[0]


def test_keys_are_written_as_they_are_described() -> None:
    # The logs of running clusters are full of these: they never change.
    partition = TopicIdPartition(ORDERS, 258)
    expected: list[tuple[GroupStateRecord, bytes]] = [
        (GroupRecord(group="é", value=None), b"G"),
        (MemberRecord(group="é", member_id="m\x00", value=None), b"Mm\x00"),
        (TargetRecord(group="é", member_id="m", value=None), b"Tm"),
        (CurrentRecord(group="é", member_id="m", value=None), b"Cm"),
        (OffsetRecord(group="é", partition=partition, value=None), b"O" + b"o" * 16 + b"\x00\x00\x01\x02"),
        (EventRecord(group="é", sequence=258, value=None), b"E" + b"\x00" * 6 + b"\x01\x02"),
    ]
    assert [key_of(record) for record, _ in expected] == [b"g\xc3\xa9\x00" + rest for _, rest in expected]


@given(removals)
def test_a_member_id_with_zero_bytes_and_a_removal_come_back(record: GroupStateRecord) -> None:
    key, value = CODEC.encode(record)
    assert value is None
    assert CODEC.decode(key, None) == record


@given(removals, removals)
def test_keys_are_equal_only_for_the_same_thing(first: GroupStateRecord, second: GroupStateRecord) -> None:
    assert (key_of(first) == key_of(second)) == (first == second)


@given(removals, removals)
def test_keys_sort_by_group_before_all_else(first: GroupStateRecord, second: GroupStateRecord) -> None:
    assume(first.group != second.group)
    assert (key_of(first) < key_of(second)) == (first.group.encode() < second.group.encode())


@given(groups, st.lists(removals, max_size=12))
def test_keys_of_one_kind_stand_together(group: str, found: list[Any]) -> None:
    ordered = sorted((replace(record, group=group) for record in found), key=key_of)
    kinds = [type(record) for record in ordered]
    changes = sum(1 for before, after in pairwise(kinds) if before is not after)
    assert changes == max(0, len(set(kinds)) - 1)


@given(groups, sequences, sequences)
def test_events_sort_by_sequence(group: str, first: int, second: int) -> None:
    keys = [key_of(EventRecord(group=group, sequence=number, value=None)) for number in (first, second)]
    assert (keys[0] < keys[1]) == (first < second)


def test_a_value_has_the_key_of_its_removal_and_an_empty_one_is_no_removal() -> None:
    record = TargetRecord(group="g", member_id="m", value=TargetValue(partitions=frozenset(), topic_names={}))
    assert CODEC.encode(record) == (key_of(replace(record, value=None)), b"")
    assert CODEC.decode(key_of(record), b"") == record


def test_what_is_absent_is_not_zero() -> None:
    zero = OffsetValue(offset=0, leader_epoch=0, metadata="", commit_time_ms=0, topic="orders")
    values = [zero, replace(zero, leader_epoch=None)]
    offsets = [OffsetRecord(group="g", partition=TopicIdPartition(ORDERS, 0), value=value) for value in values]
    assert [CODEC.decode(*CODEC.encode(record)) for record in offsets] == offsets
    emptied = GroupRecord(group="g", value=GroupValue(empty_since_ms=0))
    assert CODEC.decode(*CODEC.encode(emptied)) == emptied


def test_counts_of_an_event_are_written_in_one_order() -> None:
    pairs = [(f"m{number}", number) for number in range(20)]
    written = [
        CODEC.encode(
            EventRecord(
                group="g",
                sequence=1,
                value=EventValue(
                    time_ms=1, kind="rebalanced", group_epoch=1, reason="", partition_counts=dict(pairs[::step])
                ),
            )
        )
        for step in (1, -1)
    ]
    assert written[0] == written[1]


@pytest.mark.parametrize(
    "rest", [b"M\xff", b"T\xff", b"C\xff", b"O" + b"o" * 21, b"E" + b"\x00" * 7, b"E" + b"\x00" * 9]
)
def test_a_key_with_a_wrong_rest_is_corrupt(rest: bytes) -> None:
    with pytest.raises(CorruptMessage):
        CODEC.decode(CODEC.prefix("g") + rest, None)


def test_a_member_in_an_unknown_state_and_partitions_without_epochs_are_corrupt() -> None:
    halves = pb.PartitionSet(topic_id=ORDERS, topic="orders", partitions=[0, 1], assigned_epochs=[1])
    for value in (pb.CurrentValue(state="dancing"), pb.CurrentValue(state="stable", assigned=[halves])):
        with pytest.raises(CorruptMessage):
            CODEC.decode(CODEC.prefix("g") + b"Cm", value.SerializeToString())
