"""Which heartbeats are refused, which are answered again, and that a refusal changes nothing."""

from __future__ import annotations

import pytest
from group_bench import Bench

from logcluster.core.coordinators.groups.requests import Heartbeat
from logcluster.model.errors import (
    FencedMemberEpoch,
    InvalidRequest,
    UnknownMemberId,
    UnreleasedInstanceId,
    UnsupportedAssignor,
)


@pytest.fixture
def bench():
    """Member `a` of epoch 3, which was in epoch 2 before."""
    bench = Bench(t=4)
    bench.join("a", "t")
    bench.join("b", "t")
    bench.settle()
    bench.join("c", "t")
    bench.settle()
    assert (bench.group.currents["a"].member_epoch, bench.group.currents["a"].previous_member_epoch) == (3, 2)
    return bench


@pytest.mark.parametrize("epoch", [1, 7, -1, -2])
def test_an_unknown_member_is_told_so_whatever_its_epoch_but_to_join(bench, epoch):
    with pytest.raises(UnknownMemberId):
        bench.beat("z", epoch)
    with pytest.raises(UnknownMemberId):
        Bench().beat("z", epoch)


@pytest.mark.parametrize("epoch", [1, 4, 99])
def test_an_epoch_that_is_not_the_members_is_fenced(bench, epoch):
    before = bench.group.describe()
    with pytest.raises(FencedMemberEpoch):
        bench.beat("a", epoch, owned="")
    assert bench.group.describe() == before


def test_there_is_no_epoch_below_minus_two(bench):
    with pytest.raises(InvalidRequest):
        bench.beat("a", -3)


@pytest.mark.parametrize("owned", [None, "", "t-0"])
def test_who_lost_the_last_answer_gets_it_again(bench, owned):
    answer = bench.beat("a", 2, owned=owned)
    assert answer.member_epoch == 3
    assert answer.assignment == bench.parts(bench.has("a"))


def test_the_previous_epoch_with_a_partition_that_is_another_members_is_fenced(bench):
    with pytest.raises(FencedMemberEpoch):
        bench.beat("a", 2, owned="t-0 t-2 t-3")


def test_who_was_told_to_give_up_has_heard_of_its_epoch_and_cannot_go_back_before_it(bench):
    bench.join("d", "t")
    bench.join("e", "t")
    bench.beat("a", owned=bench.has("a"))
    bench.beat("b", owned=bench.has("b"))
    giving_up = "a" if bench.gives_up("a") else "b"
    with pytest.raises(FencedMemberEpoch):
        bench.beat(giving_up, 2, owned="")


def test_a_repeated_answer_leads_nobody_on_and_frees_nothing():
    # `b` was given two partitions, and the answer was lost. Then it is to give them up again.
    bench = Bench(t=4)
    bench.join("a", "t")
    bench.join("b", "t")
    bench.beat("a")
    bench.beat("a", owned="t-0 t-1")
    bench.beat("b", owned="")
    assert bench.has("b") == "t-2 t-3"
    bench.join("c", "t")
    bench.join("d", "t")
    # Not led to the new target, which would put epoch 2 out of reach of somebody who goes on losing answers.
    assert bench.lose("a", epoch=1, owned="t-0 t-1").member_epoch == 2
    assert bench.beat("a", 1, owned="t-0 t-1").member_epoch == 2
    assert bench.wake == ("a",)
    assert bench.gives_up("a") == ""


def test_an_old_heartbeat_that_comes_late_takes_nothing_away_that_came_after_it():
    bench = Bench(t=2)
    bench.join("a", "t")
    bench.join("b", "t")
    bench.settle()
    bench.leave("b")
    assert bench.beat("a", owned="t-0").assignment == bench.parts("t-0 t-1")
    bench.join("c", "t")
    # Sent before `a` was given t-1 again, with the epoch that it had then.
    before = bench.group.describe()
    bench.beat("a", 2, owned="t-0")
    assert bench.group.describe() == before
    assert bench.beat("c").assignment is None


def test_owned_with_a_partition_that_is_not_the_members_is_fenced(bench):
    with pytest.raises(FencedMemberEpoch, match="not its"):
        bench.beat("a", owned="t-0 t-1 t-2 t-3")


def test_a_member_does_not_change_or_take_an_instance_id(bench):
    bench.join("s", "t", instance_id="i")
    with pytest.raises(UnreleasedInstanceId):
        bench.beat("a", instance_id="i")
    with pytest.raises(InvalidRequest):
        bench.beat("a", instance_id="j")
    assert bench.beat("s", instance_id="i").member_epoch == 4


def test_impossible_wishes_of_a_member_are_refused(bench):
    with pytest.raises(UnsupportedAssignor):
        bench.beat("a", assignor="random")
    with pytest.raises(InvalidRequest, match="1000"):
        bench.beat("a", session_timeout_ms=999)
    with pytest.raises(InvalidRequest):
        bench.beat("a", rebalance_timeout_ms=-1)


def test_a_refused_append_changes_nothing_and_the_heartbeat_can_be_repeated(bench):
    bench.join("d", "t")
    deadline_ms = bench.group.sessions.get("a").deadline_ms
    bench.pass_time(500)
    before = bench.group.describe()
    request = Heartbeat(group="g", member_id="a", member_epoch=3, owned=bench.parts(bench.has("a")))
    first = bench.coordinator.heartbeat(bench.group, request, bench.now_ms, bench.wall_ms)
    assert first.records
    assert bench.group.describe() == before
    assert bench.group.sessions.get("a").deadline_ms == deadline_ms
    assert bench.group.sessions.get("a").revoking_deadline_ms is None
    bench.group.check()
    second = bench.coordinator.heartbeat(bench.group, request, bench.now_ms, bench.wall_ms)
    assert (second.records, second.response) == (first.records, first.response)
