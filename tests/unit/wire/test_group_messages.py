"""Messages of the group API to what the coordinator decides on, and its answers back; nonsense is refused in words."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf.message import Message

from logcluster.core.coordinators.groups.records import EventValue, MemberValue, OffsetValue
from logcluster.core.coordinators.groups.requests import (
    NO_MEMBER_EPOCH,
    CommitItem,
    CommitOffsets,
    CommitResult,
    DeleteOffsets,
    FetchedOffset,
    FetchOffsets,
    GroupDescription,
    GroupEvents,
    GroupListing,
    Heartbeat,
    HeartbeatResult,
    MemberDescription,
    Subscription,
)
from logcluster.model.errors import GroupSubscribedToTopic, InvalidRequest, OffsetOutOfRange
from logcluster.model.ids import TopicId, TopicIdPartition
from logcluster.wire import group_messages as messages
from logcluster.wire.gen.logcluster.v1 import groups_pb2 as pb
from logcluster.wire.status import error_from_detail

ORDERS, BILLS = TopicId(b"o" * 16), TopicId(b"b" * 16)
NAMES = {ORDERS: "orders", BILLS: "bills"}
HELD = frozenset({TopicIdPartition(ORDERS, 0), TopicIdPartition(ORDERS, 10), TopicIdPartition(BILLS, 2)})


def carried(message: Message) -> Any:
    """The message as it arrives."""
    return type(message).FromString(message.SerializeToString())


def partitions(topic: str, topic_id: bytes, *numbers: int) -> pb.TopicPartitions:
    return pb.TopicPartitions(topic=topic, topic_id=topic_id, partitions=numbers)


# -- membership --------------------------------------------------------------------------------------------------------


def test_a_heartbeat_says_all_that_the_member_said() -> None:
    said: dict[str, Any] = {"group": "billing", "member_id": "m", "member_epoch": 3, "instance_id": "one"}
    said |= {"rack_id": "r", "client_id": "c", "assignor": "range"}
    said |= {"session_timeout_ms": 11, "rebalance_timeout_ms": 12, "processing_since_ms": 13}
    message = pb.HeartbeatRequest(
        **said,
        subscription=pb.Subscription(topics=["orders", "bills"], topic_regex="o.*"),
        owned=pb.Assignment(topics=[partitions("orders", ORDERS, 0, 10), partitions("", BILLS, 2)]),
    )
    assert messages.heartbeat_from_message(carried(message), client_host="10.0.0.7") == Heartbeat(
        **said,
        client_host="10.0.0.7",
        subscription=Subscription(topics=("orders", "bills"), topic_regex="o.*"),
        owned=HELD,
    )


def test_what_a_heartbeat_leaves_out_is_unchanged_and_not_empty() -> None:
    silent = messages.heartbeat_from_message(carried(pb.HeartbeatRequest(group="g")), client_host="")
    assert (silent.subscription, silent.owned, silent.instance_id) == (None, None, None)
    message = pb.HeartbeatRequest(group="g", subscription=pb.Subscription(), owned=pb.Assignment())
    nothing = messages.heartbeat_from_message(carried(message), client_host="")
    assert nothing.subscription == Subscription(topics=(), topic_regex=None)
    assert nothing.owned == frozenset()


@pytest.mark.parametrize("epoch", [-2, -1, 0])
def test_the_epochs_that_join_and_leave_arrive_as_they_are(epoch: int) -> None:
    message = pb.HeartbeatRequest(group="g", member_id="m", member_epoch=epoch)
    assert messages.heartbeat_from_message(carried(message), client_host="").member_epoch == epoch


def test_an_answer_names_the_topics_of_its_assignment() -> None:
    said: dict[str, Any] = {"member_epoch": 4, "group_epoch": 5, "is_settled": True}
    said |= {"heartbeat_interval_ms": 2_000, "session_timeout_ms": 10_000}
    result = HeartbeatResult(**said, assignment=HELD, topic_names=NAMES)
    assert carried(messages.heartbeat_to_message(result)) == pb.HeartbeatResponse(
        **said,
        assignment=pb.Assignment(topics=[partitions("bills", BILLS, 2), partitions("orders", ORDERS, 0, 10)]),
    )


@pytest.mark.parametrize(("assignment", "is_said"), [(None, False), (frozenset(), True)])
def test_an_assignment_of_nothing_is_told_from_an_unchanged_one(
    assignment: frozenset[TopicIdPartition] | None, is_said: bool
) -> None:
    result = HeartbeatResult(
        member_epoch=1,
        heartbeat_interval_ms=1,
        session_timeout_ms=1,
        group_epoch=1,
        is_settled=False,
        assignment=assignment,
    )
    assert carried(messages.heartbeat_to_message(result)).HasField("assignment") == is_said


def test_an_assignment_comes_back_as_it_was_also_without_names() -> None:
    for names in (NAMES, {}):
        assert messages.assignment_from_message(carried(messages.assignment_to_message(HELD, names))) == HELD


# -- offsets -----------------------------------------------------------------------------------------------------------


def test_a_commit_of_a_member_says_all_that_it_said() -> None:
    message = pb.CommitOffsetsRequest(
        group="billing",
        member_id="m",
        member_epoch=3,
        sequence=9,
        allow_out_of_range=True,
        offsets=[
            pb.OffsetCommit(topic="orders", topic_id=ORDERS, partition=1, offset=7, leader_epoch=2, metadata="text"),
            pb.OffsetCommit(topic="bills", partition=2, offset=0),
        ],
    )
    assert messages.commit_from_message(carried(message)) == CommitOffsets(
        group="billing",
        member_id="m",
        member_epoch=3,
        sequence=9,
        allow_out_of_range=True,
        items=(
            CommitItem(topic="orders", topic_id=ORDERS, partition=1, offset=7, leader_epoch=2, metadata="text"),
            CommitItem(topic="bills", topic_id=None, partition=2, offset=0),
        ),
    )


@pytest.mark.parametrize(("leader_epoch", "read"), [(0, 0), (3, 3), (None, None)])
def test_leader_epoch_zero_is_not_an_unknown_one(leader_epoch: int | None, read: int | None) -> None:
    message = pb.CommitOffsetsRequest(group="g", offsets=[pb.OffsetCommit(topic="orders", leader_epoch=leader_epoch)])
    assert messages.commit_from_message(carried(message)).items[0].leader_epoch == read


@pytest.mark.parametrize("epoch", [NO_MEMBER_EPOCH, 0])
def test_whoever_has_no_member_id_is_a_tool_and_may_leave_the_epoch_out(epoch: int) -> None:
    commit = messages.commit_from_message(carried(pb.CommitOffsetsRequest(group="g", member_epoch=epoch)))
    assert (commit.member_id, commit.member_epoch) == (None, NO_MEMBER_EPOCH)
    assert commit.reason, "what a tool does is noted in the event log"
    fetch = messages.fetch_from_message(carried(pb.FetchOffsetsRequest(group="g", member_epoch=epoch)))
    assert (fetch.member_id, fetch.member_epoch) == (None, NO_MEMBER_EPOCH)


def test_an_epoch_without_a_member_id_is_left_for_the_coordinator_to_refuse() -> None:
    commit = messages.commit_from_message(carried(pb.CommitOffsetsRequest(group="g", member_epoch=5)))
    assert (commit.member_id, commit.member_epoch) == (None, 5)


def test_epoch_zero_of_a_member_stays() -> None:
    # A member that has just joined and heard nothing yet: it is no tool.
    commit = messages.commit_from_message(carried(pb.CommitOffsetsRequest(group="g", member_id="m")))
    assert (commit.member_id, commit.member_epoch, commit.reason) == ("m", 0, "")
    fetch = messages.fetch_from_message(carried(pb.FetchOffsetsRequest(group="g", member_id="m")))
    assert (fetch.member_id, fetch.member_epoch) == ("m", 0)


def test_results_of_a_commit_stand_in_its_order_with_their_errors() -> None:
    items = [
        CommitItem(topic="orders", topic_id=ORDERS, partition=1, offset=7),
        CommitItem(topic="bills", topic_id=None, partition=2, offset=8),
    ]
    result = CommitResult(errors=(None, OffsetOutOfRange("beyond the end", end_offset=5)))
    first, second = carried(messages.commit_to_message(items, result)).results
    assert (first.topic, first.partition, first.HasField("error")) == ("orders", 1, False)
    assert (second.topic, second.partition) == ("bills", 2)
    error = error_from_detail(second.error)
    assert isinstance(error, OffsetOutOfRange)
    assert (error.message, error.facts) == ("beyond the end", {"end_offset": "5"})


def test_a_result_that_is_missing_is_not_passed_over() -> None:
    items = [CommitItem(topic="orders", topic_id=None, partition=1, offset=7)]
    with pytest.raises(ValueError, match="shorter"):
        messages.commit_to_message(items, CommitResult(errors=()))


def test_a_question_for_offsets_names_partitions_or_wants_all() -> None:
    message = pb.FetchOffsetsRequest(
        group="billing",
        member_id="m",
        member_epoch=4,
        topics=[partitions("orders", ORDERS, 1, 0), partitions("bills", b"", 2)],
    )
    assert messages.fetch_from_message(carried(message)) == FetchOffsets(
        group="billing",
        member_id="m",
        member_epoch=4,
        partitions=(("orders", ORDERS, 1), ("orders", ORDERS, 0), ("bills", None, 2)),
    )
    assert messages.fetch_from_message(carried(pb.FetchOffsetsRequest(group="billing"))).partitions is None


def test_a_topic_without_partitions_asks_for_nothing_and_not_for_all() -> None:
    message = pb.FetchOffsetsRequest(group="billing", topics=[partitions("orders", ORDERS)])
    assert messages.fetch_from_message(carried(message)).partitions == ()


def test_a_committed_offset_is_written_whole() -> None:
    value = OffsetValue(offset=7, leader_epoch=2, metadata="text", commit_time_ms=99, topic="orders")
    item = FetchedOffset(topic="orders", topic_id=ORDERS, partition=1, value=value)
    assert carried(messages.offset_to_message(item)) == pb.CommittedOffset(
        topic="orders", topic_id=ORDERS, partition=1, offset=7, leader_epoch=2, metadata="text", commit_time_ms=99
    )


@pytest.mark.parametrize("epoch", [None, 0])
def test_an_unknown_leader_epoch_is_written_as_absent_and_zero_is_not(epoch: int | None) -> None:
    value = OffsetValue(offset=7, leader_epoch=epoch, metadata="", commit_time_ms=0, topic="orders")
    written = messages.offset_to_message(FetchedOffset(topic="orders", topic_id=ORDERS, partition=1, value=value))
    assert carried(written).HasField("leader_epoch") == (epoch is not None)


def test_offset_zero_is_not_the_absence_of_one() -> None:
    value = OffsetValue(offset=0, leader_epoch=None, metadata="", commit_time_ms=0, topic="orders")
    zero = carried(messages.offset_to_message(FetchedOffset(topic="orders", topic_id=ORDERS, partition=1, value=value)))
    assert (zero.HasField("offset"), zero.offset) == (True, 0)
    none = carried(messages.offset_to_message(FetchedOffset(topic="gone", topic_id=None, partition=1, value=None)))
    assert (none.topic, none.topic_id, none.partition, none.HasField("offset")) == ("gone", b"", 1, False)


def test_a_deletion_and_its_results_stand_in_one_order() -> None:
    message = pb.DeleteOffsetsRequest(
        group="billing", topics=[partitions("orders", ORDERS, 1, 0), partitions("bills", b"", 2)]
    )
    deletion = messages.delete_offsets_from_message(carried(message))
    assert deletion == DeleteOffsets(
        group="billing", partitions=(("orders", ORDERS, 1), ("orders", ORDERS, 0), ("bills", None, 2))
    )
    result = CommitResult(errors=(None, GroupSubscribedToTopic("m reads it"), None))
    results = carried(messages.delete_offsets_to_message(deletion, result)).results
    assert [(item.topic, item.partition) for item in results] == [("orders", 1), ("orders", 0), ("bills", 2)]
    assert [item.error.name for item in results] == ["", "GroupSubscribedToTopic", ""]


# -- nonsense ----------------------------------------------------------------------------------------------------------


def heartbeat(message: Any) -> object:
    return messages.heartbeat_from_message(message, client_host="")


def owned(*topics: pb.TopicPartitions) -> pb.HeartbeatRequest:
    return pb.HeartbeatRequest(group="g", owned=pb.Assignment(topics=topics))


def committed(**fields: Any) -> pb.CommitOffsetsRequest:
    return pb.CommitOffsetsRequest(group="g", offsets=[pb.OffsetCommit(topic="orders", **fields)])


SHORT, NEGATIVE = [partitions("orders", b"short", 0)], [partitions("orders", b"", -1)]


@pytest.mark.parametrize(
    ("read", "message", "text"),
    [
        (heartbeat, owned(partitions("orders", b"short", 0)), "16 bytes, not 5"),
        (heartbeat, owned(partitions("orders", b"o" * 17, 0)), "16 bytes, not 17"),
        (heartbeat, owned(partitions("orders", b"", 0)), "named by topic id"),
        (heartbeat, owned(partitions("orders", ORDERS, 0, -1)), "no partition -1"),
        (messages.commit_from_message, committed(topic_id=b"short"), "16 bytes, not 5"),
        (messages.commit_from_message, committed(partition=-7), "no partition -7"),
        (messages.fetch_from_message, pb.FetchOffsetsRequest(topics=SHORT), "16 bytes, not 5"),
        (messages.fetch_from_message, pb.FetchOffsetsRequest(topics=NEGATIVE), "no partition -1"),
        (messages.delete_offsets_from_message, pb.DeleteOffsetsRequest(topics=SHORT), "16 bytes, not 5"),
        (messages.delete_offsets_from_message, pb.DeleteOffsetsRequest(topics=NEGATIVE), "no partition -1"),
    ],
)
def test_what_no_coordinator_could_mean_is_refused_in_words(read: Any, message: Message, text: str) -> None:
    with pytest.raises(InvalidRequest, match=text):
        read(carried(message))


# -- people ------------------------------------------------------------------------------------------------------------


def member_value(**changes: Any) -> MemberValue:
    values: dict[str, Any] = {
        "instance_id": "one",
        "rack_id": "r",
        "client_id": "c",
        "client_host": "10.0.0.7",
        "topics": ("orders",),
        "topic_regex": "b.*",
        "assignor": "",
        "session_timeout_ms": 1,
        "rebalance_timeout_ms": 2,
        "joined_ms": 5,
    }
    return MemberValue(**values | changes)


def test_a_description_shows_members_and_offsets() -> None:
    member = MemberDescription(
        member_id="m",
        value=member_value(),
        member_epoch=3,
        state="revoking",
        assigned=frozenset({TopicIdPartition(ORDERS, 1)}),
        target=frozenset({TopicIdPartition(BILLS, 0)}),
        silent_ms=40,
        is_connected=True,
        processing_since_ms=50,
    )
    offset = OffsetValue(offset=7, leader_epoch=2, metadata="", commit_time_ms=99, topic="orders")
    group = GroupDescription(
        group="billing",
        state="reconciling",
        group_epoch=4,
        assignment_epoch=3,
        assignor="uniform",
        members=(member,),
        offsets=(FetchedOffset(topic="orders", topic_id=ORDERS, partition=1, value=offset),),
        topic_names=NAMES,
    )
    assert carried(messages.description_to_message(group, coordinator_id=2)) == pb.GroupDescription(
        group="billing",
        state="reconciling",
        group_epoch=4,
        assignment_epoch=3,
        assignor="uniform",
        coordinator_id=2,
        members=[
            pb.MemberDescription(
                member_id="m",
                instance_id="one",
                client_id="c",
                client_host="10.0.0.7",
                rack_id="r",
                member_epoch=3,
                state="revoking",
                subscription=pb.Subscription(topics=["orders"], topic_regex="b.*"),
                assignment=pb.Assignment(topics=[partitions("orders", ORDERS, 1)]),
                target=pb.Assignment(topics=[partitions("bills", BILLS, 0)]),
                joined_ms=5,
                silent_ms=40,
                is_connected=True,
                processing_since_ms=50,
            )
        ],
        offsets=[
            pb.CommittedOffset(
                topic="orders", topic_id=ORDERS, partition=1, offset=7, leader_epoch=2, commit_time_ms=99
            )
        ],
    )


def test_a_dynamic_member_without_an_expression_is_shown_with_empty_texts() -> None:
    member = MemberDescription(
        member_id="m",
        value=member_value(instance_id=None, topic_regex=None),
        member_epoch=1,
        state="stable",
        assigned=frozenset(),
        target=frozenset(),
        silent_ms=0,
        is_connected=False,
        processing_since_ms=0,
    )
    group = GroupDescription(
        group="g",
        state="stable",
        group_epoch=1,
        assignment_epoch=1,
        assignor="",
        members=(member,),
        offsets=(),
        topic_names={},
    )
    shown = carried(messages.description_to_message(group, coordinator_id=0)).members[0]
    assert (shown.instance_id, shown.subscription.topic_regex) == ("", "")


def test_a_listing_is_written_whole() -> None:
    listing = GroupListing(group="billing", state="stable", member_count=3, group_epoch=4)
    assert carried(messages.listing_to_message(listing)) == pb.GroupListing(
        group="billing", state="stable", member_count=3, group_epoch=4
    )


def test_events_are_written_in_their_order_with_their_numbers() -> None:
    joined: dict[str, Any] = {"time_ms": 1, "kind": "joined", "group_epoch": 2, "reason": "m joined"}
    joined |= {"member_id": "m", "instance_id": "one", "client_host": "10.0.0.7"}
    rebalanced: dict[str, Any] = {"time_ms": 3, "kind": "rebalanced", "group_epoch": 4, "reason": "m joined"}
    rebalanced |= {"partition_counts": {"m": 2, "n": 0}, "moved": 1}
    events = GroupEvents(events=((7, EventValue(**joined)), (8, EventValue(**rebalanced))))
    assert carried(messages.events_to_message(events)) == pb.ListGroupEventsResponse(
        events=[pb.GroupEvent(sequence=7, **joined), pb.GroupEvent(sequence=8, **rebalanced)]
    )
