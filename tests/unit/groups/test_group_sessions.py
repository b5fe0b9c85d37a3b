"""When a membership is over by itself: silence, lost connections, and partitions that are not given up."""

from __future__ import annotations

import pytest
from group_bench import Bench

from logcluster.core.coordinators.groups.sessions import Sessions
from logcluster.model.errors import UnknownMemberId


@pytest.fixture
def bench():
    bench = Bench(t=4)
    bench.join("a", "t")
    bench.join("b", "t", session_timeout_ms=4_000)
    bench.settle()
    return bench


def test_a_silent_member_is_evicted_when_its_own_session_is_over_and_not_before(bench):
    assert bench.group.next_deadline_ms() == bench.now_ms + 4_000
    bench.pass_time(3_999)
    bench.expire()
    assert sorted(bench.group.members) == ["a", "b"]
    bench.pass_time(1)
    bench.expire()
    assert sorted(bench.group.members) == ["a"]
    assert bench.events("evicted") == ["member b said nothing for 4000 ms, its session timeout"]
    assert bench.wake == ("a",)
    assert bench.beat("a").assignment == bench.parts("t-0 t-1 t-2 t-3")
    with pytest.raises(UnknownMemberId):
        bench.beat("b")


def test_every_heartbeat_begins_the_session_anew_even_one_that_changes_nothing(bench):
    for _ in range(5):
        bench.pass_time(3_000)
        records = len(bench.batches)
        bench.beat("b")
        bench.beat("a")
        assert len(bench.batches) == records
        bench.expire()
    assert sorted(bench.group.members) == ["a", "b"]
    assert bench.group.next_deadline_ms() == bench.now_ms + 4_000


def test_commits_are_no_sign_of_life(bench):
    bench.pass_time(3_999)
    bench.commit("b", bench.has("b").split()[0], 1)
    bench.pass_time(1)
    bench.expire()
    assert "b" not in bench.group.members


def test_several_members_are_evicted_with_one_rebalance(bench):
    bench.join("c", "t")
    bench.pass_time(10_000)
    bench.expire()
    assert bench.group.members == {}
    assert bench.group.value.group_epoch == 4
    assert len(bench.events("evicted")) == 3
    bench.expire()
    assert bench.group.next_deadline_ms() is None


def test_a_reason_for_several_is_their_number(bench):
    bench.join("c", "t", session_timeout_ms=30_000)
    bench.pass_time(10_000)
    bench.expire()
    assert bench.events("rebalanced")[-1] == "2 members were evicted"


def test_a_member_that_does_not_give_up_in_time_is_evicted(bench):
    bench.join("c", "t", session_timeout_ms=300_000)
    bench.beat("a", session_timeout_ms=300_000)
    bench.beat("b", session_timeout_ms=300_000)
    revoking = "a" if bench.gives_up("a") else "b"
    assert bench.group.next_deadline_ms() == bench.now_ms + 60_000
    bench.pass_time(59_999)
    # It goes on saying that it has everything.
    bench.beat(revoking)
    bench.expire()
    assert revoking in bench.group.members
    bench.pass_time(1)
    bench.expire()
    assert revoking not in bench.group.members
    assert bench.events("evicted") == [
        f"member {revoking} did not give up 1 partitions within 60000 ms, its rebalance timeout"
    ]


def test_giving_up_ends_that_deadline_and_a_new_demand_begins_it_anew():
    bench = Bench(t=4)
    bench.join("a", "t", session_timeout_ms=300_000)
    bench.join("b", "t", session_timeout_ms=300_000)
    bench.beat("a")
    session = bench.group.sessions.get("a")
    assert session.revoking_deadline_ms == bench.now_ms + 60_000
    bench.pass_time(1_000)
    bench.beat("a", owned="t-0 t-1 t-2")
    assert session.revoking_deadline_ms == bench.now_ms + 59_000
    bench.join("c", "t", session_timeout_ms=300_000)
    bench.beat("a", owned="t-0 t-1 t-2")
    assert bench.gives_up("a") == "t-2"
    bench.join("d", "t", session_timeout_ms=300_000)
    bench.beat("a", owned="t-0 t-1 t-2")
    assert bench.gives_up("a") == "t-1 t-2"
    assert session.revoking_deadline_ms == bench.now_ms + 60_000
    bench.beat("a", owned="t-0")
    assert session.revoking_deadline_ms is None


def test_a_lost_connection_leaves_a_dynamic_member_the_grace_time(bench):
    bench.coordinator.connected(bench.group, "a")
    bench.coordinator.disconnected(bench.group, "a", bench.now_ms)
    assert bench.group.next_deadline_ms() == bench.now_ms + 500
    bench.pass_time(499)
    bench.expire()
    assert "a" in bench.group.members
    bench.pass_time(1)
    bench.expire()
    assert "a" not in bench.group.members
    assert bench.events("evicted") == ["member a lost its connection and said nothing for 500 ms"]


@pytest.mark.parametrize("sign_of_life", ["heartbeat", "stream"])
def test_who_is_heard_from_within_the_grace_time_stays(bench, sign_of_life):
    bench.coordinator.connected(bench.group, "a")
    bench.coordinator.disconnected(bench.group, "a", bench.now_ms)
    bench.pass_time(400)
    if sign_of_life == "heartbeat":
        bench.beat("a")
    else:
        bench.coordinator.connected(bench.group, "a")
    bench.pass_time(200)
    bench.expire()
    assert "a" in bench.group.members


def test_the_end_of_an_older_stream_means_nothing_while_a_newer_one_is_open(bench):
    bench.coordinator.connected(bench.group, "a")
    bench.coordinator.connected(bench.group, "a")
    bench.coordinator.disconnected(bench.group, "a", bench.now_ms)
    assert bench.group.sessions.get("a").grace_deadline_ms is None
    bench.coordinator.disconnected(bench.group, "a", bench.now_ms)
    assert bench.group.sessions.get("a").grace_deadline_ms == bench.now_ms + 500


def test_the_end_of_a_stream_of_an_earlier_leadership_means_nothing(bench):
    bench.coordinator.connected(bench.group, "a")
    bench.fail_over()
    bench.coordinator.disconnected(bench.group, "a", bench.now_ms)
    assert bench.group.sessions.get("a").grace_deadline_ms is None


def test_streams_of_strangers(bench):
    with pytest.raises(UnknownMemberId):
        bench.coordinator.connected(bench.group, "z")
    bench.coordinator.disconnected(bench.group, "z", bench.now_ms)


def test_a_failover_gives_everybody_a_whole_session_and_a_whole_time_to_give_up(bench):
    bench.join("c", "t")
    bench.beat("a")
    bench.beat("b")
    revoking = "a" if bench.gives_up("a") else "b"
    bench.pass_time(3_999)
    bench.fail_over()
    bench.expire()
    assert bench.group.next_deadline_ms() == bench.now_ms + 4_000
    assert bench.group.sessions.get(revoking).revoking_deadline_ms == bench.now_ms + 60_000
    assert bench.group.sessions.get("c").deadline_ms == bench.now_ms + 10_000


def test_a_shorter_session_counts_from_the_heartbeat_that_asks_for_it(bench):
    bench.beat("a", session_timeout_ms=1_000)
    assert bench.group.next_deadline_ms() == bench.now_ms + 1_000
    assert bench.group.value.group_epoch == 2


def test_the_heap_does_not_grow_with_heartbeats_and_forgets_what_is_over():
    sessions = Sessions()
    for now_ms in range(0, 1_000, 10):
        for member_id in ("a", "b"):
            sessions.heard(member_id, now_ms=now_ms, timeout_ms=100)
            sessions.connected(member_id)
            sessions.disconnected(member_id, grace_deadline_ms=now_ms + 5)
            sessions.connected(member_id)
            sessions.disconnected(member_id, grace_deadline_ms=None)
            sessions.revoke_until(member_id, now_ms + 7)
            sessions.revoke_until(member_id, None)
        assert sessions.next_deadline_ms() == now_ms + 100
        assert len(sessions._heap) <= 8
    sessions.drop("a")
    sessions.drop("b")
    assert sessions.next_deadline_ms() is None
    assert sessions._heap == []
