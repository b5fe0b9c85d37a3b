"""Who may commit what, and what comes back."""

from __future__ import annotations

import pytest
from group_bench import Bench

from logcluster.core.coordinators.groups.records import OffsetRecord
from logcluster.core.coordinators.groups.requests import FetchOffsets, GroupSettings
from logcluster.model.errors import (
    FencedMemberEpoch,
    GroupIdNotFound,
    GroupSubscribedToTopic,
    InvalidGroupId,
    InvalidRequest,
    NonEmptyGroup,
    OffsetMetadataTooLarge,
    OffsetOutOfRange,
    PartitionNotAssigned,
    StaleMemberEpoch,
    UnknownMemberId,
    UnknownTopicId,
    UnknownTopicOrPartition,
)
from logcluster.model.ids import TopicId, TopicIdPartition


@pytest.fixture
def bench():
    """`a` has t-0 and t-1 since epoch 1, `b` has t-2 and t-3 since epoch 2; both are in epoch 2."""
    bench = Bench(t=4, u=1)
    bench.join("a", "t")
    bench.join("b", "t")
    bench.settle()
    return bench


@pytest.fixture
def empty():
    return Bench(t=2)


@pytest.mark.parametrize("epoch", [1, 2])
def test_a_member_commits_with_any_epoch_since_it_was_given_the_partition(bench, epoch):
    assert bench.commit("a", "t-0", 5, epoch) is None
    assert bench.fetch("t-0") == {"t-0": 5}


def test_an_epoch_before_the_assignment_is_stale_and_one_that_was_not_given_is_fenced(bench):
    assert isinstance(bench.commit("b", "t-2", 5, 1), StaleMemberEpoch)
    assert isinstance(bench.commit("b", "t-2", 5, 0), StaleMemberEpoch)
    assert isinstance(bench.commit("b", "t-2", 5, -1), StaleMemberEpoch)
    assert isinstance(bench.commit("b", "t-2", 5, 3), FencedMemberEpoch)
    assert bench.fetch() == {}


def test_what_another_member_has_is_refused(bench):
    error = bench.commit("a", "t-2", 5)
    assert isinstance(error, PartitionNotAssigned)
    assert error.definite
    assert not error.retriable


def test_what_is_being_given_up_can_be_committed_until_it_is_let_go(bench):
    bench.leave("b")
    bench.join("c", "t")
    bench.beat("a", owned="t-0 t-1")
    assert bench.has("a") == "t-0 t-1"
    bench.join("d", "t")
    bench.join("e", "t")
    bench.beat("a", owned="t-0 t-1")
    given_up = bench.gives_up("a")
    assert bench.commit("a", given_up, 7, 2) is None
    assert bench.commit("a", given_up, 8) is None
    bench.beat("a", owned=bench.has("a"))
    assert isinstance(bench.commit("a", given_up, 9), PartitionNotAssigned)
    assert bench.fetch(given_up) == {given_up: 8}


def test_who_got_a_partition_back_cannot_commit_what_it_read_before(bench):
    bench.join("c", "t")
    bench.beat("a", owned="t-0 t-1")
    bench.beat("b", owned="t-2 t-3")
    giver = "a" if bench.gives_up("a") else "b"
    lost = bench.gives_up(giver)
    bench.settle()
    assert bench.commit("c", lost, 10) is None
    bench.leave("c")
    bench.settle()
    assert lost in bench.has(giver)
    assert isinstance(bench.commit(giver, lost, 3, 2), StaleMemberEpoch)
    assert bench.commit(giver, lost, 11) is None


def test_a_member_that_is_none_any_more_commits_nothing(bench):
    bench.leave("a")
    with pytest.raises(UnknownMemberId):
        bench.commit("a", "t-0", 5, 2)
    with pytest.raises(UnknownMemberId):
        Bench(t=1).commit("a", "t-0", 5, 1)


def test_an_error_belongs_to_one_partition(bench):
    items = [bench.item("t-0", 1), bench.item("t-2", 2), bench.item("t-1", -3), bench.item("t-1", 4)]
    errors = bench.commit_all("a", items)
    assert [type(error) for error in errors] == [type(None), PartitionNotAssigned, InvalidRequest, type(None)]
    assert bench.fetch() == {"t-0": 1, "t-1": 4}


def test_the_later_of_two_offsets_of_one_partition_counts(empty):
    assert empty.commit_all(None, [empty.item("t-0", 4), empty.item("t-0", 3)]) == (None, None)
    assert empty.fetch() == {"t-0": 3}


def test_without_a_member_id_commits_are_taken_only_while_there_are_no_members(bench):
    with pytest.raises(NonEmptyGroup):
        bench.commit(None, "t-0", 1)
    bench.leave("a")
    bench.leave("b")
    assert bench.commit(None, "t-0", 1) is None


def test_somebody_who_is_away_is_a_member():
    bench = Bench(t=1)
    bench.join("s", "t", instance_id="i")
    bench.leave("s", for_a_while=True)
    with pytest.raises(NonEmptyGroup):
        bench.commit(None, "t-0", 1)


@pytest.mark.parametrize("epoch", [0, 1, -2])
def test_a_member_epoch_without_a_member_id_is_impossible(empty, epoch):
    with pytest.raises(InvalidRequest):
        empty.commit(None, "t-0", 1, epoch)


def test_a_commit_makes_a_group_without_members(empty):
    assert empty.commit(None, "t-0", 1) is None
    value = empty.group.value
    assert (value.group_epoch, value.empty_since_ms, empty.group.state) == (0, empty.wall_ms, "empty")
    assert len(empty.batches[0]) == 2
    empty.commit(None, "t-0", 2)
    assert [type(record) for record in empty.batches[1]] == [OffsetRecord]
    assert empty.join("a", "t").group_epoch == 1
    assert empty.group.value.empty_since_ms is None


def test_a_commit_of_which_nothing_is_taken_makes_no_group(empty):
    assert empty.commit(None, "x-0", 1) is not None
    assert empty.commit_all(None, []) == ()
    assert empty.group.value is None
    with pytest.raises(InvalidGroupId):
        Bench(group="a\nb", t=1).commit(None, "t-0", 1)


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"topic": "x"}, UnknownTopicOrPartition),
        ({"topic": ""}, UnknownTopicOrPartition),
        ({"partition": 2}, UnknownTopicOrPartition),
        ({"partition": -1}, UnknownTopicOrPartition),
        ({"topic_id": TopicId(b"other")}, UnknownTopicId),
        ({"topic": "", "topic_id": TopicId(b"other")}, UnknownTopicId),
        ({"offset": -1}, InvalidRequest),
        ({"leader_epoch": -1}, InvalidRequest),
        ({"metadata": "ä" * 2_049}, OffsetMetadataTooLarge),
        ({"end_offset": 4}, OffsetOutOfRange),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else ",".join(value),
)
def test_bad_offsets_are_refused(empty, fields, error):
    item = empty.item("t-0", **{"offset": 5, **fields})
    assert isinstance(empty.commit_all(None, [item])[0], error)
    assert empty.group.value is None


def test_limits_are_limits(empty):
    assert empty.commit(None, "t-0", 5, end_offset=5, metadata="ä" * 2_048, leader_epoch=0) is None
    assert empty.commit(None, "t-1", 0, end_offset=0) is None
    assert empty.commit(None, "t-0", 10**12, end_offset=None) is None


def test_an_offset_beyond_the_end_is_taken_when_the_caller_insists(empty):
    assert empty.commit_all(None, [empty.item("t-0", 6, end_offset=5)], allow_out_of_range=True) == (None,)


def test_a_negative_offset_is_refused_even_then(empty):
    (error,) = empty.commit_all(None, [empty.item("t-0", -1)], allow_out_of_range=True)
    assert isinstance(error, InvalidRequest)


def test_a_topic_may_be_given_by_its_id_alone(empty):
    topic_id = empty.topics.sizes["t"][0]
    assert empty.commit_all(None, [empty.item("t-0", 5, topic="", topic_id=topic_id)]) == (None,)
    assert empty.fetch("t-0") == {"t-0": 5}


def test_what_is_kept_of_a_commit(empty):
    empty.commit(None, "t-0", 5, leader_epoch=3, metadata="m")
    value = empty.group.offsets[empty.part("t-0")]
    assert (value.offset, value.leader_epoch, value.metadata) == (5, 3, "m")
    assert (value.commit_time_ms, value.topic) == (empty.wall_ms, "t")


def test_a_reset_by_an_operator_leaves_an_event(empty):
    empty.commit_all(None, [empty.item("t-0", 0), empty.item("t-1", 0)], reason="reset to earliest")
    assert empty.events("reset") == ["reset to earliest (2 partitions)"]
    empty.commit_all(None, [empty.item("t-0", -1)], reason="reset to nothing")
    assert len(empty.events()) == 1


def test_fetching_answers_in_the_order_asked_and_says_what_is_not_there(empty):
    empty.commit(None, "t-1", 5)
    assert list(empty.fetch("t-1", "t-0", "x-0").items()) == [("t-1", 5), ("t-0", None), ("x-0", None)]
    nothing = Bench(t=1)
    assert nothing.fetch() == {}
    assert nothing.fetch("t-0") == {"t-0": None}


def test_an_offset_of_zero_is_one(empty):
    empty.commit(None, "t-0", 0)
    assert empty.fetch("t-0") == {"t-0": 0}


def test_offsets_of_a_topic_are_not_those_of_one_that_had_its_name(empty):
    empty.commit(None, "t-0", 5)
    old_id = empty.topics.sizes["t"][0]
    empty.topics.delete("t")
    assert empty.fetch() == {}
    assert empty.fetch("t-0") == {"t-0": None}
    empty.topics.create("t", 2)
    assert empty.fetch() == {}
    assert empty.fetch("t-0") == {"t-0": None}
    (found,) = empty.coordinator.fetch(empty.group, FetchOffsets(group="g", partitions=(("t", old_id, 0),))).response
    assert found.value.offset == 5
    (error,) = empty.commit_all(None, [empty.item("t-0", 5, topic_id=old_id)])
    assert isinstance(error, UnknownTopicId)


def test_a_member_that_fetches_must_be_one_and_may_be_behind_but_not_ahead(bench):
    bench.commit("a", "t-0", 5)
    for epoch in (1, 2):
        assert bench.fetch("t-0", member_id="a", epoch=epoch) == {"t-0": 5}
    with pytest.raises(FencedMemberEpoch):
        bench.fetch("t-0", member_id="a", epoch=3)
    bench.leave("a")
    with pytest.raises(UnknownMemberId):
        bench.fetch("t-0", member_id="a", epoch=2)


def test_offsets_that_members_read_cannot_be_deleted_others_can(bench):
    bench.commit("a", "t-0", 5)
    errors = bench.delete_offsets(("t", None, 0), ("t", None, 3), ("u", None, 0), ("x", None, 0))
    assert [type(error) for error in errors] == [
        GroupSubscribedToTopic,
        GroupSubscribedToTopic,
        type(None),
        UnknownTopicOrPartition,
    ]
    bench.leave("a")
    bench.leave("b")
    assert bench.delete_offsets(("t", None, 0), ("t", None, 0)) == (None, None)
    assert bench.fetch() == {}
    assert bench.events("reset") == ["committed offsets of 1 partitions were deleted"]


def test_offsets_of_a_topic_that_is_given_up_but_not_let_go_cannot_be_deleted(bench):
    bench.commit("a", "t-0", 5)
    bench.topics.delete("t")
    bench.look_at_topics()
    bench.beat("a")
    (error,) = bench.delete_offsets(("t", None, 0))
    assert isinstance(error, GroupSubscribedToTopic)
    bench.beat("a", owned="")
    assert bench.delete_offsets(("t", None, 0)) == (None,)


def test_offsets_of_a_deleted_topic_can_be_deleted_by_name_or_id(empty):
    empty.commit_all(None, [empty.item("t-0", 5), empty.item("t-1", 6)])
    old_id = empty.topics.sizes["t"][0]
    empty.topics.delete("t")
    assert empty.delete_offsets(("t", None, 0), ("t", old_id, 1)) == (None, None)
    assert empty.group.offsets == {}
    with pytest.raises(GroupIdNotFound):
        Bench(t=1).delete_offsets(("t", None, 0))


def test_fenced_in_a_new_leadership_as_before(bench):
    bench.fail_over()
    assert isinstance(bench.commit("b", "t-2", 5, 1), StaleMemberEpoch)
    assert isinstance(bench.commit("b", "t-0", 5), PartitionNotAssigned)
    assert bench.commit("b", "t-2", 5) is None


DAY_MS = 24 * 60 * 60 * 1000


@pytest.fixture
def keeper():
    return Bench(GroupSettings(offsets_retention_ms=7 * DAY_MS), t=2, u=1)


def test_offsets_of_an_empty_group_go_after_the_retention_time_and_the_group_with_the_last(keeper):
    keeper.join("a", "t")
    keeper.commit("a", "t-0", 5)
    keeper.pass_time(30 * DAY_MS)
    assert keeper.sweep() == 0
    keeper.leave("a")
    keeper.pass_time(7 * DAY_MS - 1)
    assert keeper.sweep() == 0
    keeper.pass_time(1)
    assert keeper.sweep() == 1
    assert keeper.group.value is None
    assert keeper.group.key_count == 0
    assert keeper.store == {}


def test_an_offset_that_a_tool_committed_lately_stays(keeper):
    keeper.commit(None, "t-0", 5)
    keeper.pass_time(4 * DAY_MS)
    keeper.commit(None, "t-1", 6)
    keeper.pass_time(4 * DAY_MS)
    assert keeper.sweep() == 1
    assert keeper.fetch() == {"t-1": 6}
    assert keeper.events() == ["expired"]
    keeper.pass_time(3 * DAY_MS)
    assert keeper.sweep() == 1
    assert keeper.group.value is None


def test_offsets_of_deleted_topics_go_with_the_next_sweep_even_with_members(keeper):
    keeper.join("a", "t", "u")
    keeper.commit_all("a", [keeper.item("t-0", 1), keeper.item("t-1", 1), keeper.item("u-0", 1)])
    keeper.topics.delete("t")
    assert keeper.sweep() == 2
    assert keeper.fetch() == {"u-0": 1}
    assert keeper.events("expired") == ["committed offsets of 2 partitions grew old, or their topics were deleted"]
    keeper.topics.delete("u")
    assert keeper.sweep() == 1
    assert keeper.group.state != "empty"
    assert keeper.sweep() == 0


def test_a_group_that_never_committed_anything_goes_too(keeper):
    keeper.join("a", "t")
    keeper.leave("a")
    keeper.pass_time(7 * DAY_MS - 1)
    assert keeper.sweep() == 0
    assert keeper.group.value is not None
    keeper.pass_time(1)
    assert keeper.sweep() == 0
    assert keeper.group.value is None
    assert keeper.sweep() == 0


def test_keys_of_offsets_name_the_topic_by_id(empty):
    empty.commit(None, "t-0", 5)
    assert list(empty.group.offsets) == [TopicIdPartition(empty.topics.sizes["t"][0], 0)]
