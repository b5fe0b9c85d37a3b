"""What a member of a group knows and says: joining, being answered and refused, giving up and taking on, in order."""

from __future__ import annotations

import itertools
from collections.abc import Collection

import pytest

from logcluster.client.group.membership import (
    AssignedPartition,
    MemberOptions,
    Membership,
    from_assignment,
    to_assignment,
)
from logcluster.model.errors import (
    FencedMemberEpoch,
    LogClusterError,
    NotCoordinator,
    RequestTimedOut,
    StaleMemberEpoch,
    UnknownMemberId,
    UnreleasedInstanceId,
)
from logcluster.wire.gen.logcluster.v1 import groups_pb2 as pb

IDS = {"t": b"t" * 16, "u": b"u" * 16}


def parts(text: str) -> frozenset[AssignedPartition]:
    """Partitions in short: "t-0 u-3"."""
    pairs = [item.split("-") for item in text.split()]
    return frozenset(AssignedPartition(topic, IDS[topic], int(partition)) for topic, partition in pairs)


def made(**options: object) -> Membership:
    numbers = itertools.count(1)
    return Membership(
        MemberOptions(group="g", topics=("t", "u"), **options),  # type: ignore[arg-type]
        lambda: f"life-{next(numbers)}",
    )


def answer(
    epoch: int, assigned: str | None = None, *, version: int = 0, is_settled: bool = False, interval_ms: int = 500
) -> pb.HeartbeatResponse:
    response = pb.HeartbeatResponse(
        member_epoch=epoch, heartbeat_interval_ms=interval_ms, assignment_version=version, is_settled=is_settled
    )
    if assigned is not None:
        response.assignment.CopyFrom(to_assignment(parts(assigned)))
    return response


def beat(membership: Membership, response: pb.HeartbeatResponse) -> bool:
    """One heartbeat that is answered."""
    return membership.answered(membership.next_heartbeat(), response)


def joined(assigned: str = "t-0 t-1 u-0", *, epoch: int = 3, version: int = 1, **options: object) -> Membership:
    """A member that reads all that it may have, and has said so."""
    membership = made(**options)
    assert beat(membership, answer(epoch, assigned, version=version)) == bool(assigned)
    membership.took_on(membership.to_take_on)
    assert not beat(membership, answer(epoch, version=version, is_settled=True))
    return membership


# -- joining ---------------------------------------------------------------------------------------------------------


def test_who_joins_says_everything_and_owns_nothing() -> None:
    membership = made(
        pattern="x.*",
        instance_id="i",
        assignor="range",
        session_timeout_ms=7,
        rebalance_timeout_ms=8,
        client_id="c",
        rack_id="r",
    )
    assert not membership.is_member and membership.has_news
    request = membership.next_heartbeat(processing_since_ms=9)
    expected = pb.HeartbeatRequest(
        group="g",
        member_id="life-1",
        member_epoch=0,
        instance_id="i",
        rack_id="r",
        client_id="c",
        subscription=pb.Subscription(topics=["t", "u"], topic_regex="x.*"),
        owned=pb.Assignment(),
        assignor="range",
        session_timeout_ms=7,
        rebalance_timeout_ms=8,
        processing_since_ms=9,
    )
    assert request == expected
    assert request.HasField("owned"), "present and empty: whatever an earlier life had is given up"
    assert not request.HasField("assignment_version")


def test_the_answer_makes_a_member_and_says_what_it_may_have() -> None:
    membership = made()
    assert beat(membership, answer(1, "t-1 t-0", version=5, interval_ms=123))
    assert membership.is_member and membership.member_epoch == 1
    assert membership.heartbeat_interval_ms == 123
    assert membership.may_have == parts("t-0 t-1")
    assert membership.owned == frozenset(), "it reads nothing yet"


def test_an_answer_that_never_came_is_asked_for_again_in_the_same_words() -> None:
    """So that a repeated join is no second member."""
    membership = made()
    first = membership.next_heartbeat()
    assert membership.next_heartbeat() == first
    assert membership.member_id == "life-1"


def test_an_interval_of_nothing_does_not_make_heartbeats_run_wild() -> None:
    membership = made()
    beat(membership, answer(1, interval_ms=0))
    assert membership.heartbeat_interval_ms == 1


# -- being a member --------------------------------------------------------------------------------------------------


def test_heartbeats_of_a_member_say_little() -> None:
    membership = joined(epoch=3, version=4)
    request = membership.next_heartbeat(processing_since_ms=77)
    expected = pb.HeartbeatRequest(
        group="g", member_id="life-1", member_epoch=3, assignment_version=4, processing_since_ms=77
    )
    assert request == expected
    assert not request.HasField("subscription") and not request.HasField("owned")


def test_the_version_of_the_newest_answer_heard_is_sent_back() -> None:
    membership = joined(version=1)
    for version in (2, 9, 10):
        beat(membership, answer(3, version=version))
        request = membership.next_heartbeat()
        assert request.HasField("assignment_version") and request.assignment_version == version


def test_an_answer_without_assignment_leaves_everything_as_it_is() -> None:
    membership = joined("t-0")
    assert not beat(membership, answer(4))
    assert membership.may_have == membership.owned == parts("t-0")
    assert membership.member_epoch == 4


def test_an_empty_assignment_is_not_the_same_as_none() -> None:
    membership = joined("t-0")
    assert beat(membership, answer(4, ""))
    assert membership.may_have == frozenset() and membership.owned == parts("t-0")


def test_the_same_assignment_again_is_no_change() -> None:
    membership = joined("t-0 t-1")
    assert not beat(membership, answer(4, "t-1 t-0"))


def test_settled_is_what_the_coordinator_said_last() -> None:
    membership = made()
    beat(membership, answer(1, "t-0"))
    settled = [membership.is_settled]
    beat(membership, answer(1, is_settled=True))
    settled.append(membership.is_settled)
    beat(membership, answer(1))
    settled.append(membership.is_settled)
    assert settled == [False, True, False]


def test_a_topic_that_was_created_again_has_other_partitions() -> None:
    membership = joined("t-0")
    response = answer(4)
    response.assignment.topics.add(topic="t", topic_id=b"T" * 16, partitions=[0])
    assert beat(membership, response)
    assert membership.to_give_up == [AssignedPartition("t", IDS["t"], 0)]
    assert membership.to_take_on == [AssignedPartition("t", b"T" * 16, 0)]


# -- giving up and taking on -------------------------------------------------------------------------------------------


def test_what_was_assigned_is_owned_only_when_the_consumer_has_done_it() -> None:
    membership = joined("t-0 t-1")
    beat(membership, answer(4, "t-1 u-0", version=2))
    news = [membership.has_news]  # the application is at work still: there is nothing new to say
    assert not membership.next_heartbeat().HasField("owned")
    membership.gave_up(membership.to_give_up)
    news.append(membership.has_news)
    request = membership.next_heartbeat()
    assert from_assignment(request.owned) == membership.owned == parts("t-1")
    membership.answered(request, answer(4, version=3))
    news.append(membership.has_news)
    assert news == [False, True, False]
    membership.took_on(membership.to_take_on)
    assert from_assignment(membership.next_heartbeat().owned) == parts("t-1 u-0")


def test_partitions_come_in_order_so_that_a_seed_gives_one_run() -> None:
    membership = made()
    beat(membership, answer(1, "u-1 t-10 t-9 u-0 t-2"))
    expected = [AssignedPartition("t", IDS["t"], number) for number in (2, 9, 10)]
    expected += [AssignedPartition("u", IDS["u"], number) for number in (0, 1)]
    assert membership.to_take_on == expected
    membership.took_on(expected)
    beat(membership, answer(2, ""))
    assert membership.to_give_up == expected
    topics = to_assignment(reversed(expected)).topics
    assert [(topic.topic, list(topic.partitions)) for topic in topics] == [("t", [2, 9, 10]), ("u", [0, 1])]
    assert from_assignment(to_assignment(expected)) == frozenset(expected)


def test_what_was_said_counts_as_said_only_when_it_was_answered() -> None:
    membership = joined("t-0 t-1")
    beat(membership, answer(4, "t-0"))
    membership.gave_up(membership.to_give_up)
    lost = membership.next_heartbeat()
    assert membership.next_heartbeat() == lost and membership.has_news, "nobody has heard it"
    membership.answered(lost, answer(4))
    assert not membership.has_news


def test_what_changed_while_a_heartbeat_was_under_way_is_said_with_the_next_one() -> None:
    membership = joined("t-0 t-1")
    beat(membership, answer(4, ""))
    membership.gave_up(parts("t-0"))
    under_way = membership.next_heartbeat()
    membership.gave_up(parts("t-1"))
    membership.answered(under_way, answer(4))
    assert membership.has_news
    request = membership.next_heartbeat()
    assert request.HasField("owned") and from_assignment(request.owned) == frozenset()


def test_partitions_that_are_called_back_before_they_were_given_up_simply_stay() -> None:
    membership = joined("t-0 t-1")
    beat(membership, answer(4, "t-0"))
    assert membership.to_give_up == list(parts("t-1"))
    beat(membership, answer(5, "t-0 t-1"))
    assert membership.to_give_up == membership.to_take_on == []
    assert not membership.has_news


# -- refusals ----------------------------------------------------------------------------------------------------------


def lost_by(membership: Membership, error: LogClusterError) -> Collection[AssignedPartition] | None:
    return membership.refused(membership.next_heartbeat(), error)


def test_a_member_that_is_not_known_loses_everything_and_joins_as_another_one() -> None:
    membership = joined("t-0 u-0")
    assert lost_by(membership, UnknownMemberId()) == parts("t-0 u-0")
    assert (membership.member_id, membership.member_epoch) == ("life-2", 0)
    assert membership.owned == membership.may_have == frozenset()
    assert not membership.is_member and not membership.is_settled and membership.has_news
    request = membership.next_heartbeat()
    assert request.HasField("subscription") and request.HasField("owned") and not request.owned.topics


def test_a_member_that_was_fenced_loses_everything_and_joins_under_its_name() -> None:
    membership = joined("t-0")
    assert lost_by(membership, FencedMemberEpoch()) == parts("t-0")
    assert (membership.member_id, membership.member_epoch) == ("life-1", 0)


@pytest.mark.parametrize(
    "error",
    [NotCoordinator(), RequestTimedOut(), StaleMemberEpoch(), UnreleasedInstanceId()],
    ids=lambda error: type(error).__name__,
)
def test_other_failures_do_not_end_the_membership(error: LogClusterError) -> None:
    membership = joined("t-0")
    assert lost_by(membership, error) is None
    assert membership.is_member and membership.owned == parts("t-0")


def test_who_has_nothing_loses_nothing_but_its_membership() -> None:
    membership = joined("")
    assert lost_by(membership, UnknownMemberId()) == frozenset()
    assert not membership.is_member


def test_after_a_loss_the_next_assignment_is_a_change_even_if_it_is_the_same() -> None:
    membership = joined("t-0")
    membership.lose(is_forgotten=False)
    assert beat(membership, answer(9, "t-0"))
    assert membership.to_take_on == list(parts("t-0"))


# -- earlier lives -----------------------------------------------------------------------------------------------------


def test_an_answer_to_an_earlier_life_is_ignored() -> None:
    membership = joined("t-0")
    late = membership.next_heartbeat()
    membership.lose(is_forgotten=True)
    assert not membership.answered(late, answer(4, "t-0 t-1", version=8, is_settled=True, interval_ms=99))
    assert (membership.member_epoch, membership.may_have, membership.is_settled) == (0, frozenset(), False)
    assert membership.heartbeat_interval_ms == 500


def test_an_answer_to_the_joining_of_an_earlier_life_makes_no_member_of_this_one() -> None:
    """Both lives are in epoch 0 then."""
    membership = made()
    late = membership.next_heartbeat()
    membership.lose(is_forgotten=True)
    assert not membership.answered(late, answer(1, "t-0"))
    assert not membership.is_member and membership.may_have == frozenset()


def test_an_answer_to_what_was_said_before_the_membership_was_lost_is_ignored() -> None:
    """The member id is the same one, the epoch is not."""
    membership = joined("t-0")
    late = membership.next_heartbeat()
    membership.lose(is_forgotten=False)
    assert not membership.answered(late, answer(4, "t-0"))
    assert not membership.is_member


def test_a_late_answer_to_an_older_epoch_does_not_bring_an_old_assignment_back() -> None:
    membership = joined("t-0", epoch=3)
    late = membership.next_heartbeat()
    beat(membership, answer(4, "u-0", version=2))
    assert not membership.answered(late, answer(3, "t-0", version=1))
    assert membership.member_epoch == 4 and membership.may_have == parts("u-0")
    assert membership.next_heartbeat().assignment_version == 2


def test_a_refusal_of_an_earlier_life_takes_nothing_from_this_one() -> None:
    membership = joined("t-0")
    late = membership.next_heartbeat()
    membership.lose(is_forgotten=True)
    beat(membership, answer(1, "u-0"))
    membership.took_on(membership.to_take_on)
    assert membership.refused(late, UnknownMemberId()) is None
    assert membership.owned == parts("u-0") and membership.member_id == "life-2"


# -- leaving -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("instance_id", "epoch"), [(None, -1), ("i", -2)])
def test_who_leaves_says_so_and_a_static_member_that_it_will_be_back(instance_id: str | None, epoch: int) -> None:
    request = joined("t-0", instance_id=instance_id).leaving()
    assert request == pb.HeartbeatRequest(
        group="g", member_id="life-1", member_epoch=epoch, instance_id=instance_id or ""
    )
