"""Who may join, with what, and what a join does to the others."""

from __future__ import annotations

import pytest
from group_bench import Bench

from logcluster.core.coordinators.groups.requests import GroupSettings, Subscription
from logcluster.model.errors import (
    GroupMaxSizeReached,
    InvalidGroupId,
    InvalidRegularExpression,
    InvalidRequest,
    UnsupportedAssignor,
)

T = Subscription(topics=("t",))


@pytest.mark.parametrize("name", ["", "a\nb", "a\0b", "\x7f", "x" * 256, "ä" * 128, "a\u2028b", "\ud800"], ids=ascii)
def test_a_group_name_is_1_to_255_bytes_that_can_be_printed(name):
    with pytest.raises(InvalidGroupId):
        Bench().coordinator.check_group_id(name)
    with pytest.raises(InvalidGroupId):
        Bench(group=name, t=1).join("a", "t")


@pytest.mark.parametrize("name", ["g", "x" * 255, "ä" * 127, "orders of today", "a/b:c"])
def test_other_group_names_are_allowed(name):
    Bench().coordinator.check_group_id(name)
    assert Bench(group=name, t=1).join("a", "t").member_epoch == 1


@pytest.mark.parametrize("member_id", ["", "m" * 129, "ä" * 65])
def test_a_member_id_has_1_to_128_bytes(member_id):
    for epoch in (0, 1, -1):
        with pytest.raises(InvalidRequest):
            Bench(t=1).beat(member_id, epoch, subscription=T)


@pytest.mark.parametrize("instance_id", ["", "i" * 256])
def test_an_instance_id_has_1_to_255_bytes(instance_id):
    with pytest.raises(InvalidRequest):
        Bench(t=1).join("a", "t", instance_id=instance_id)


@pytest.mark.parametrize(
    "subscription",
    [None, Subscription(), Subscription(topic_regex=""), Subscription(topics=("t", ""))],
    ids=["absent", "empty", "empty expression", "empty name"],
)
def test_a_join_needs_a_subscription(subscription):
    with pytest.raises(InvalidRequest):
        Bench(t=1).beat("a", 0, subscription=subscription)


def test_a_join_owns_nothing():
    bench = Bench(t=1)
    with pytest.raises(InvalidRequest):
        bench.beat("a", 0, subscription=T, owned="t-0")
    assert bench.beat("a", 0, subscription=T).member_epoch == 1


@pytest.mark.parametrize("timeout_ms", [-1, 1, 999, 300_001])
def test_a_session_timeout_outside_of_the_limits_is_refused_with_the_limits(timeout_ms):
    with pytest.raises(InvalidRequest, match="from 1000 to 300000 ms"):
        Bench(t=1).join("a", "t", session_timeout_ms=timeout_ms)


@pytest.mark.parametrize("timeout_ms", [-1, 30 * 60 * 1000 + 1])
def test_a_rebalance_timeout_outside_of_the_limits_is_refused(timeout_ms):
    with pytest.raises(InvalidRequest):
        Bench(t=1).join("a", "t", rebalance_timeout_ms=timeout_ms)


def test_timeouts_of_zero_are_the_defaults_and_short_sessions_have_short_intervals():
    bench = Bench(GroupSettings(session_timeout_ms=7_000, rebalance_timeout_ms=11_000), t=1)
    answer = bench.join("a", "t")
    assert (answer.session_timeout_ms, answer.heartbeat_interval_ms) == (7_000, 2_000)
    assert bench.group.members["a"].rebalance_timeout_ms == 11_000
    answer = bench.join("b", "t", session_timeout_ms=1_500, rebalance_timeout_ms=10)
    assert (answer.session_timeout_ms, answer.heartbeat_interval_ms) == (1_500, 500)
    assert bench.group.members["b"].rebalance_timeout_ms == 10


def test_an_unknown_assignor_and_an_impossible_expression_are_refused():
    bench = Bench(t=1)
    with pytest.raises(UnsupportedAssignor):
        bench.join("a", "t", assignor="sticky")
    with pytest.raises(InvalidRegularExpression):
        bench.join("a", regex="(")
    with pytest.raises(InvalidRegularExpression):
        bench.join("a", regex="x" * 1_001)
    assert bench.group.value is None


def test_topics_that_do_not_exist_are_no_error():
    bench = Bench(t=1)
    answer = bench.join("a", "nothing", "t")
    assert answer.assignment == bench.parts("t-0")
    assert bench.join("b", "nothing").assignment == frozenset()


def test_a_full_group_takes_nobody_but_members_it_has():
    bench = Bench(GroupSettings(members_max=2), t=4)
    bench.join("a", "t")
    bench.join("b", "t", instance_id="i")
    with pytest.raises(GroupMaxSizeReached):
        bench.join("c", "t")
    with pytest.raises(GroupMaxSizeReached):
        bench.join("c", "t", instance_id="j")
    assert bench.join("a", "t").member_epoch == 1
    bench.leave("b", for_a_while=True)
    with pytest.raises(GroupMaxSizeReached):
        bench.join("c", "t")
    assert bench.join("b2", "t", instance_id="i").member_epoch == 2
    bench.leave("a")
    bench.join("c", "t")
    assert sorted(bench.group.members) == ["b2", "c"]


def test_a_join_makes_the_group_and_writes_down_who_it_was():
    bench = Bench(t=2)
    bench.join("a", "t", "t", "s", rack_id="r", client_id="c", client_host="h")
    member = bench.group.members["a"]
    assert (member.topics, member.topic_regex, member.rack_id) == (("s", "t"), None, "r")
    assert (member.client_id, member.client_host, member.joined_ms) == ("c", "h", bench.wall_ms)
    value = bench.group.value
    assert (value.group_epoch, value.assignment_epoch, value.empty_since_ms) == (1, 1, None)
    assert [(size.topic, size.partitions) for size in value.topics.values()] == [("t", 2)]


def test_every_join_and_leave_grows_the_group_epoch():
    bench = Bench(t=2)
    epochs = [bench.join(member_id, "t").group_epoch for member_id in "abc"]
    epochs += [bench.leave(member_id).group_epoch for member_id in "abc"]
    assert epochs == [1, 2, 3, 4, 5, 6]
    assert bench.join("d", "t").member_epoch == 7


def test_a_join_whose_answer_was_lost_is_answered_again():
    bench = Bench(t=4)
    bench.join("a", "t")
    first = bench.lose("b", epoch=0, subscription=T, owned="")
    records = len(bench.batches)
    assert bench.join("b", "t") == first
    assert len(bench.batches) == records
    assert bench.group.value.group_epoch == 2


def test_a_member_that_joins_again_keeps_what_it_has_and_lets_go_only_when_it_says_so():
    bench = Bench(t=2)
    bench.join("a", "t")
    bench.join("b", "t")
    bench.beat("a")
    answer = bench.join("a", "t")
    assert answer.assignment == bench.parts("t-0")
    assert bench.gives_up("a") == "t-1"
    assert bench.beat("b").assignment is None
    bench.beat("a", owned="t-0")
    assert bench.beat("b").assignment == bench.parts("t-1")


def test_a_member_that_joins_again_may_say_something_else():
    bench = Bench(t=2, u=2)
    bench.join("a", "t", session_timeout_ms=5_000)
    answer = bench.join("a", "u")
    assert (answer.group_epoch, answer.session_timeout_ms) == (2, 10_000)
    # It is led to the new target by its next heartbeat, which it is told to send at once.
    assert bench.wake == ("a",)
    assert bench.beat("a", owned="t-0 t-1").assignment == frozenset()
    assert bench.beat("a", owned="").assignment == bench.parts("u-0 u-1")
    with pytest.raises(InvalidRequest):
        bench.join("a", "u", instance_id="i")


def test_leaving_frees_everything_at_once():
    bench = Bench(t=2)
    bench.join("a", "t")
    bench.join("b", "t")
    bench.beat("a")
    answer = bench.leave("a")
    assert (answer.member_epoch, answer.group_epoch, answer.assignment) == (-1, 3, None)
    assert bench.wake == ("b",)
    assert bench.beat("b").assignment == bench.parts("t-0 t-1")


def test_the_last_one_leaves_an_empty_group_with_its_offsets_and_events():
    bench = Bench(t=1)
    bench.join("a", "t")
    bench.commit("a", "t-0", 3)
    bench.pass_time(10)
    bench.leave("a")
    value = bench.group.value
    assert (bench.group.state, value.empty_since_ms, value.topics) == ("empty", bench.wall_ms, {})
    assert value.group_epoch == value.assignment_epoch == 2
    assert bench.fetch() == {"t-0": 3}
    assert bench.events()[-1] == "left"
    assert bench.group.is_at_rest()
    assert bench.group.next_deadline_ms() is None
