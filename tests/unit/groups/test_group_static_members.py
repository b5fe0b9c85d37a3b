"""Members with an instance id: they may leave for a while, and another process may take their place."""

from __future__ import annotations

import pytest
from group_bench import Bench

from logcluster.model.errors import FencedMemberEpoch, InvalidRequest, UnknownMemberId, UnreleasedInstanceId


@pytest.fixture
def bench():
    bench = Bench(t=4, u=2)
    bench.join("a", "t", instance_id="i")
    bench.join("b", "t")
    bench.settle()
    return bench


def test_a_newcomer_with_the_instance_id_of_a_live_member_is_refused_in_any_state(bench):
    for _ in range(2):
        with pytest.raises(UnreleasedInstanceId):
            bench.join("a2", "t", instance_id="i")
        # While it gives something up, too.
        bench.join("c", "t")
        bench.beat("a")
    assert "a2" not in bench.group.members


def test_leaving_for_a_while_keeps_the_place_and_moves_nothing(bench):
    answer = bench.leave("a", for_a_while=True)
    assert (answer.member_epoch, answer.group_epoch) == (-2, 2)
    assert bench.wake == ()
    assert bench.has("a") == "t-0 t-1"
    assert bench.group.state == "stable"
    assert bench.beat("b").assignment is None
    records = len(bench.batches)
    bench.leave("a", for_a_while=True)
    assert len(bench.batches) == records


def test_a_member_without_instance_id_cannot_leave_for_a_while(bench):
    with pytest.raises(InvalidRequest):
        bench.leave("b", for_a_while=True)


def test_who_comes_back_takes_the_place_and_nobody_is_moved(bench):
    bench.leave("a", for_a_while=True)
    answer = bench.join("a2", "t", instance_id="i")
    assert answer.assignment == bench.parts("t-0 t-1")
    assert (answer.group_epoch, answer.member_epoch, answer.is_settled) == (2, 2, True)
    assert bench.wake == ()
    assert sorted(bench.group.members) == ["a2", "b"]
    assert bench.events("replaced") == ["member a2 took the place of a"]
    with pytest.raises(UnknownMemberId):
        bench.beat("a", 2)


def test_who_comes_back_with_another_subscription_begins_a_new_epoch(bench):
    bench.leave("a", for_a_while=True)
    answer = bench.join("a2", "u", instance_id="i")
    assert (answer.group_epoch, answer.assignment) == (3, bench.parts("u-0 u-1"))
    assert bench.wake == ("b",)
    assert bench.beat("b").assignment == bench.parts("t-0 t-1 t-2 t-3")


def test_a_lost_connection_lets_a_newcomer_in_and_the_old_process_is_out(bench):
    bench.coordinator.connected(bench.group, "a")
    with pytest.raises(UnreleasedInstanceId):
        bench.join("a2", "t", instance_id="i")
    bench.coordinator.disconnected(bench.group, "a", bench.now_ms)
    assert bench.join("a2", "t", instance_id="i").assignment == bench.parts("t-0 t-1")
    for epoch in (2, -1, -2):
        with pytest.raises(UnknownMemberId):
            bench.beat("a", epoch)
    with pytest.raises(UnknownMemberId):
        bench.commit("a", "t-0", 1, 2)


@pytest.mark.parametrize("sign_of_life", ["heartbeat", "stream"])
def test_a_member_that_is_heard_from_again_keeps_newcomers_out(bench, sign_of_life):
    bench.coordinator.connected(bench.group, "a")
    bench.coordinator.disconnected(bench.group, "a", bench.now_ms)
    if sign_of_life == "heartbeat":
        bench.beat("a")
    else:
        bench.coordinator.connected(bench.group, "a")
    with pytest.raises(UnreleasedInstanceId):
        bench.join("a2", "t", instance_id="i")


def test_after_a_failover_a_member_that_has_not_come_yet_counts_as_alive(bench):
    bench.coordinator.connected(bench.group, "a")
    bench.coordinator.disconnected(bench.group, "a", bench.now_ms)
    bench.fail_over()
    with pytest.raises(UnreleasedInstanceId):
        bench.join("a2", "t", instance_id="i")


def test_a_lost_connection_does_not_shorten_the_session_of_a_static_member(bench):
    deadline_ms = bench.group.sessions.get("a").next_deadline_ms
    bench.coordinator.connected(bench.group, "a")
    bench.coordinator.disconnected(bench.group, "a", bench.now_ms)
    assert bench.group.sessions.get("a").next_deadline_ms == deadline_ms


def test_who_does_not_come_back_within_its_session_is_evicted(bench):
    bench.pass_time(9_000)
    bench.leave("a", for_a_while=True)
    bench.beat("b")
    bench.pass_time(9_999)
    bench.beat("b")
    bench.expire()
    assert "a" in bench.group.members
    bench.pass_time(1)
    bench.expire()
    assert sorted(bench.group.members) == ["b"]
    assert bench.events("evicted") == ["member a left and did not come back within 10000 ms"]
    assert bench.wake == ("b",)


def test_a_failover_gives_who_is_away_a_whole_session(bench):
    bench.leave("a", for_a_while=True)
    bench.pass_time(9_999)
    bench.fail_over()
    assert bench.group.currents["a"].is_away
    bench.pass_time(9_999)
    bench.expire()
    assert "a" in bench.group.members


def test_a_heartbeat_of_a_member_that_left_for_a_while_is_fenced(bench):
    bench.leave("a", for_a_while=True)
    with pytest.raises(FencedMemberEpoch):
        bench.beat("a", 2)


def test_the_same_member_may_come_back_itself(bench):
    bench.leave("a", for_a_while=True)
    answer = bench.join("a", "t", instance_id="i")
    assert answer.assignment == bench.parts("t-0 t-1")
    assert not bench.group.currents["a"].is_away
    assert bench.beat("a", owned="t-0 t-1").member_epoch == 2


def test_what_was_being_given_up_is_free_when_its_holder_leaves_for_a_while(bench):
    bench.join("c", "t")
    bench.join("d", "t")
    bench.beat("a")
    bench.beat("d")
    given_up = bench.gives_up("a")
    bench.leave("a", for_a_while=True)
    assert given_up
    assert bench.gives_up("a") == ""
    assert bench.wake
    waiting = bench.wake[0]
    assert bench.text(bench.beat(waiting).assignment) == given_up


def test_what_a_new_target_takes_from_somebody_who_is_away_is_free_at_once(bench):
    bench.leave("a", for_a_while=True)
    bench.join("c", "t")
    answer = bench.join("d", "t")
    assert bench.has("a") == "t-0"
    assert answer.assignment == bench.parts("t-1")
    assert bench.join("a2", "t", instance_id="i").assignment == bench.parts("t-0")


@pytest.mark.parametrize("member_id", ["a", "a2"])
def test_who_comes_back_gets_what_it_was_promised_meanwhile(bench, member_id):
    bench.leave("a", for_a_while=True)
    bench.leave("b")
    assert bench.has("a") == "t-0 t-1"
    answer = bench.join(member_id, "t", instance_id="i")
    assert answer.assignment == bench.parts("t-0 t-1 t-2 t-3")
    assert (answer.is_settled, answer.member_epoch) == (True, 3)


def test_leaving_for_good_ends_the_place(bench):
    bench.leave("a")
    assert bench.beat("b").assignment == bench.parts("t-0 t-1 t-2 t-3")
    assert bench.join("a2", "t", instance_id="i").group_epoch == 4
