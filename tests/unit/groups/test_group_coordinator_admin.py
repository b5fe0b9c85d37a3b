"""What people see of a group: description, listing, events, one line; and the end of a group."""

from __future__ import annotations

import pytest
from group_bench import Bench

from logcluster.core.coordinators.groups.requests import GroupListing, GroupSettings
from logcluster.model.errors import GroupIdNotFound, InvalidRequest, NonEmptyGroup


def test_a_group_that_does_not_exist():
    bench = Bench()
    for ask in (
        lambda: bench.coordinator.describe(bench.group, 0),
        lambda: bench.coordinator.events(bench.group, 0, 0),
        lambda: bench.coordinator.delete(bench.group),
    ):
        with pytest.raises(GroupIdNotFound):
            ask()
    assert bench.coordinator.listing(bench.group) is None
    assert (bench.group.key_count, bench.group.is_at_rest(), bench.group.next_deadline_ms()) == (0, True, None)
    assert bench.group.describe() == "group g: does not exist"
    assert bench.coordinator.topic == "__consumer_offsets"
    bench.expire()
    assert bench.sweep() == 0
    bench.group.check()


def test_a_description_shows_members_with_what_they_have_and_are_to_have():
    bench = Bench(t=4)
    bench.join("b", "t")
    bench.commit("b", "t-3", 7)
    bench.join("a", "t", instance_id="i")
    bench.coordinator.connected(bench.group, "a")
    bench.beat("b", processing_since_ms=77)
    bench.pass_time(250)
    shown = bench.coordinator.describe(bench.group, bench.now_ms).response
    assert (shown.state, shown.group_epoch, shown.assignment_epoch, shown.assignor) == ("reconciling", 2, 2, "uniform")
    a, b = shown.members
    assert (a.member_id, a.member_epoch, a.state, a.is_connected, a.assigned) == ("a", 2, "waiting", True, frozenset())
    assert a.target == bench.parts("t-2 t-3")
    assert (b.member_id, b.member_epoch, b.state, b.is_connected) == ("b", 1, "revoking", False)
    assert b.assigned == bench.parts("t-0 t-1 t-2 t-3")
    assert (b.silent_ms, b.processing_since_ms) == (250, 77)
    assert [(item.topic, item.partition, item.value.offset) for item in shown.offsets] == [("t", 3, 7)]
    assert list(shown.topic_names.values()) == ["t"]


def test_a_description_has_offsets_of_deleted_topics_too():
    bench = Bench(t=1)
    bench.commit(None, "t-0", 7)
    bench.topics.delete("t")
    shown = bench.coordinator.describe(bench.group, 0).response
    assert [item.topic for item in shown.offsets] == ["t"]


def test_a_listing_is_short():
    bench = Bench(t=4)
    bench.join("b", "t")
    assert bench.coordinator.listing(bench.group) == GroupListing(
        group="g", state="stable", member_count=1, group_epoch=1
    )
    bench.leave("b")
    assert bench.coordinator.listing(bench.group).state == "empty"


def test_every_change_leaves_an_event_with_the_group_epoch_it_led_to():
    bench = Bench(t=2)
    bench.join("a", "t", client_host="h")
    bench.join("b", "t")
    bench.settle()
    bench.leave("b")
    bench.settle()
    found = bench.coordinator.events(bench.group, 0, 0).response.events
    assert [(sequence, event.kind, event.group_epoch) for sequence, event in found] == [
        (1, "joined", 1),
        (2, "rebalanced", 1),
        (3, "settled", 1),
        (4, "joined", 2),
        (5, "rebalanced", 2),
        (6, "settled", 2),
        (7, "left", 3),
        (8, "rebalanced", 3),
        (9, "settled", 3),
    ]
    joined, rebalanced = found[0][1], found[4][1]
    assert (joined.member_id, joined.client_host, joined.time_ms) == ("a", "h", bench.wall_ms)
    assert (rebalanced.partition_counts, rebalanced.moved) == ({"a": 1, "b": 1}, 1)
    assert rebalanced.reason == "member b joined"
    assert (found[7][1].partition_counts, found[7][1].moved) == ({"a": 2}, 1)


def test_events_after_a_sequence_and_the_newest_of_them():
    bench = Bench(t=2)
    bench.join("a", "t")
    bench.leave("a")

    def ask(after_sequence: int, count_max: int) -> list[int]:
        response = bench.coordinator.events(bench.group, after_sequence, count_max).response
        return [sequence for sequence, _ in response.events]

    assert ask(0, 0) == [1, 2, 3, 4]
    assert ask(2, 0) == [3, 4]
    assert ask(0, 3) == [2, 3, 4]
    assert ask(4, 1) == []
    with pytest.raises(InvalidRequest):
        ask(0, -1)


def test_the_oldest_events_make_room_and_numbers_go_on_after_a_failover():
    bench = Bench(GroupSettings(events_max=3), t=1)
    bench.join("a", "t")
    bench.leave("a")
    assert bench.events() == ["rebalanced", "settled", "left"]
    bench.fail_over()
    bench.join("a", "t")
    assert sorted(bench.group.events) == [5, 6, 7]
    assert bench.events() == ["joined", "rebalanced", "settled"]


def test_of_more_events_than_are_kept_only_the_newest_are_written():
    bench = Bench(GroupSettings(events_max=2), t=8)
    for member_id in "abcde":
        bench.join(member_id, "t")
    bench.pass_time(10_000)
    bench.expire()
    assert bench.events("evicted") == [
        "member d said nothing for 10000 ms, its session timeout",
        "member e said nothing for 10000 ms, its session timeout",
    ]
    assert bench.group.value.next_event_sequence == max(bench.group.events) + 1


def test_a_group_may_keep_no_events():
    bench = Bench(GroupSettings(events_max=0), t=1)
    bench.join("a", "t")
    assert bench.events() == []


def test_deleting_a_group_removes_every_key():
    bench = Bench(t=1)
    bench.join("a", "t")
    bench.commit("a", "t-0", 5)
    with pytest.raises(NonEmptyGroup):
        bench.coordinator.delete(bench.group)
    bench.leave("a")
    bench.accept(bench.coordinator.delete(bench.group))
    assert bench.group.value is None
    assert bench.store == {}
    assert bench.join("a", "t").member_epoch == 1


def test_keys_are_counted():
    bench = Bench(t=1)
    bench.join("a", "t")
    bench.commit("a", "t-0", 5)
    # Group, member, target, current, offset, and three events.
    assert bench.group.key_count == 8 == len(bench.store)


def test_a_rebalance_in_lines():
    bench = Bench(t=3, u=1)
    lines = []
    for step in (
        lambda: bench.join("a", "t", "u"),
        lambda: bench.commit("a", "t-2", 42),
        lambda: bench.join("b", "t", instance_id="i"),
        lambda: bench.beat("a"),
        lambda: bench.beat("a", owned="t-0 u-0"),
        lambda: bench.beat("b"),
        lambda: bench.leave("b", for_a_while=True),
        lambda: bench.leave("a"),
    ):
        step()
        lines.append(bench.group.describe())
    assert lines == [
        "group g: epoch 1, stable; a@1 stable [t-0 t-1 t-2 u-0]",
        "group g: epoch 1, stable; a@1 stable [t-0 t-1 t-2 u-0]; offsets t-2=42",
        "group g: epoch 2, reconciling; a@1 stable [t-0 t-1 t-2 u-0]; b@2 waiting [] misses [t-1 t-2]; offsets t-2=42",
        "group g: epoch 2, reconciling; a@1 revoking [t-0 u-0] gives up [t-1 t-2]; "
        "b@2 waiting [] misses [t-1 t-2]; offsets t-2=42",
        "group g: epoch 2, reconciling; a@2 stable [t-0 u-0]; b@2 waiting [] misses [t-1 t-2]; offsets t-2=42",
        "group g: epoch 2, stable; a@2 stable [t-0 u-0]; b@2 stable [t-1 t-2]; offsets t-2=42",
        "group g: epoch 2, stable; a@2 stable [t-0 u-0]; b@2 away [t-1 t-2]; offsets t-2=42",
        "group g: epoch 3, stable; b@2 away [t-1 t-2] misses [t-0]; offsets t-2=42",
    ]
