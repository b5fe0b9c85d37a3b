"""Administration of groups against coordinators in memory: lists, descriptions, offsets, lag."""

from __future__ import annotations

from typing import Any

import pytest
from fake_cluster import lost
from group_cluster import FIRST_RECORD_MS, GroupCluster, cluster_with_records, committed

from logcluster.client.log_positions import record_times_ms
from logcluster.model import errors
from logcluster.model.ids import TopicPartition
from logcluster.record.builder import build_batch
from logcluster.record.control import ControlType, build_control_batch
from logcluster.record.header import stamp
from logcluster.wire.gen.logcluster.v1 import groups_pb2


async def test_list_merges_what_all_brokers_say() -> None:
    cluster = cluster_with_records(1)
    for number, name in enumerate(["c", "a", "b"]):
        cluster.add_group(name, coordinator=number)
    cluster.add_member("a", "m1", "t", [0])

    async with cluster.client() as client:
        found = await client.admin.groups.list()
        stable = await client.admin.groups.list(states=["stable"])

    assert [(listing.group, listing.state, listing.coordinator_id) for listing in found] == [
        ("a", "stable", 1),
        ("b", "empty", 2),
        ("c", "empty", 0),
    ]
    assert [listing.group for listing in stable] == ["a"]


async def test_list_waits_for_a_coordinator_that_has_just_taken_over() -> None:
    cluster = GroupCluster()
    cluster.loading[2] = [7]
    asked = 0

    async def load(broker_id: int, method: str, request: Any) -> None:
        nonlocal asked
        if method == "ListGroups" and broker_id == 2:
            asked += 1
            if asked == 3:
                cluster.loading = {}
                cluster.add_group("late", coordinator=2)

    async with cluster.client() as client:
        cluster.before = load
        assert [listing.group for listing in await client.admin.groups.list()] == ["late"]
    assert asked == 3


async def test_list_does_without_brokers_that_are_gone() -> None:
    cluster = GroupCluster()
    cluster.add_group("g", coordinator=1)
    cluster.kill(2)

    async with cluster.client() as client:
        assert [listing.group for listing in await client.admin.groups.list()] == ["g"]


async def test_list_of_groups_in_no_known_state_is_refused() -> None:
    async with GroupCluster().client() as client:
        with pytest.raises(errors.InvalidRequest) as caught:
            await client.admin.groups.list(states=["happy"])
    assert "reconciling" in caught.value.hint


async def test_description_has_members_and_offsets() -> None:
    cluster = cluster_with_records(10, 10)
    group = cluster.add_group("g")
    member = cluster.add_member("g", "m1", "t", [1, 0])
    member.target.topics[0].partitions[:] = [1]
    member.silent_ms, member.is_connected = 70, True
    cluster.commit("g", "t", 1, 5)

    async with cluster.client() as client:
        (facts,) = await client.admin.groups.describe("g")

    assert (facts.state, facts.group_epoch, facts.coordinator_id) == ("stable", group.epoch, 1)
    (found,) = facts.members
    assert found.assignment == (TopicPartition("t", 0), TopicPartition("t", 1))
    assert found.target == (TopicPartition("t", 1),)
    assert (found.silent_ms, found.is_connected, found.processing_since_ms, found.instance_id) == (70, True, None, None)
    assert [(offset.partition, offset.offset, offset.leader_epoch) for offset in facts.offsets] == [(1, 5, None)]


async def test_groups_are_described_in_the_order_asked_for_each_by_its_coordinator() -> None:
    cluster = GroupCluster()
    cluster.add_group("a", coordinator=0)
    cluster.add_group("b", coordinator=2)

    async with cluster.client() as client:
        found = await client.admin.groups.describe("b", "a")

    assert [(facts.group, facts.coordinator_id) for facts in found] == [("b", 2), ("a", 0)]


async def test_coordinator_that_moved_is_found_again() -> None:
    cluster = GroupCluster()
    cluster.add_group("g", coordinator=0)

    async with cluster.client() as client:
        assert (await client.admin.groups.describe("g"))[0].coordinator_id == 0
        cluster.coordinators["g"] = 2
        assert (await client.admin.groups.describe("g"))[0].coordinator_id == 2


@pytest.mark.parametrize("call", ["describe", "delete", "events", "lag"])
async def test_group_that_does_not_exist_is_an_error(call: str) -> None:
    async with GroupCluster().client() as client:
        with pytest.raises(errors.GroupIdNotFound):
            await getattr(client.admin.groups, call)("nowhere")


async def test_groups_are_deleted_unless_they_have_members() -> None:
    cluster = cluster_with_records(1)
    for name in ("a", "b"):
        cluster.add_group(name)
    cluster.add_member("b", "m1", "t", [0])

    async with cluster.client() as client:
        with pytest.raises(errors.NonEmptyGroup):
            await client.admin.groups.delete("a", "b")
    assert list(cluster.groups) == ["b"]


async def test_group_that_an_earlier_attempt_deleted_is_deleted() -> None:
    cluster = GroupCluster()
    cluster.add_group("g")
    losses = 0

    async def lose_one(broker_id: int, method: str, request: Any) -> None:
        nonlocal losses
        if method == "DeleteGroups" and not losses:
            losses += 1
            raise lost()

    async with cluster.client() as client:
        cluster.after = lose_one
        await client.admin.groups.delete("g")
    assert (losses, cluster.groups) == (1, {})


async def test_events_come_after_a_sequence_number_and_the_newest_of_them() -> None:
    cluster = GroupCluster()
    group = cluster.add_group("g")
    group.events = [groups_pb2.GroupEvent(sequence=n, kind="joined", member_id="m") for n in range(1, 6)]
    group.events[4].partition_counts["m"] = 3

    async with cluster.client() as client:
        assert [event.sequence for event in await client.admin.groups.events("g")] == [1, 2, 3, 4, 5]
        newest = await client.admin.groups.events("g", after=2, limit=2)
    assert [event.sequence for event in newest] == [4, 5]
    assert newest[1].partition_counts == {"m": 3}
    assert newest[1].client_host is None


async def test_offsets_are_set_read_and_forgotten() -> None:
    cluster = cluster_with_records(10, 10)

    async with cluster.client() as client:
        groups = client.admin.groups
        assert await groups.offsets("new") == {}
        await groups.alter_offsets("new", {("t", 0): 3, TopicPartition("t", 1): 4}, metadata="by hand")
        found = await groups.offsets("new")
        assert {name: (offset.offset, offset.metadata) for name, offset in found.items()} == {
            TopicPartition("t", 0): (3, "by hand"),
            TopicPartition("t", 1): (4, "by hand"),
        }
        await groups.delete_offsets("new", [("t", 0)])
        assert list(await groups.offsets("new")) == [TopicPartition("t", 1)]


async def test_nothing_to_set_asks_nobody() -> None:
    cluster = GroupCluster()
    async with cluster.client() as client:
        await client.admin.groups.alter_offsets("g", {})
        await client.admin.groups.delete_offsets("g", [])
    assert cluster.count("CommitOffsets") + cluster.count("DeleteOffsets") == 0


async def test_refused_offset_is_an_error_that_says_what_became_of_the_others() -> None:
    cluster = cluster_with_records(10, 10)

    async with cluster.client() as client:
        with pytest.raises(errors.OffsetOutOfRange, match="1 of 2 partitions were refused, the other 1 are set"):
            await client.admin.groups.alter_offsets("g", {("t", 0): 99, ("t", 1): 4})
        assert committed(cluster) == {1: 4}
        await client.admin.groups.alter_offsets("g", {("t", 0): 99}, allow_out_of_range=True)
    assert committed(cluster) == {1: 4, 0: 99}


async def test_lag_counts_records_and_takes_the_age_of_the_first_unread_one(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = cluster_with_records(30, 10)
    cluster.add_group("g")
    cluster.commit("g", "t", 0, 17)  # in the middle of a batch
    cluster.commit("g", "t", 1, 10)

    async with cluster.client() as client:
        monkeypatch.setattr(client._clock, "now_ms", lambda: FIRST_RECORD_MS + 60_000)
        first, second = await client.admin.groups.lag("g")

    assert (first.committed, first.log_start_offset, first.end_offset, first.records) == (17, 0, 30, 13)
    assert first.seconds == 60 - 17
    assert (second.records, second.seconds) == (0, 0)


async def test_lag_of_an_assigned_partition_without_offset_is_not_known() -> None:
    cluster = cluster_with_records(30, 10)
    cluster.add_group("g")
    cluster.add_member("g", "m1", "t", [0, 1])
    cluster.commit("g", "t", 1, 4)

    async with cluster.client() as client:
        first, second = await client.admin.groups.lag("g")

    assert (first.partition, first.committed, first.records, first.seconds) == (0, None, None, None)
    assert (first.end_offset, first.member_id) == (30, "m1")
    assert (second.records, second.member_id) == (6, "m1")


async def test_lag_behind_deleted_records_begins_where_the_log_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = cluster_with_records(30)
    cluster.add_group("g")
    cluster.commit("g", "t", 0, 5)
    cluster.topics["t"][0].log_start_offset = 20

    async with cluster.client() as client:
        monkeypatch.setattr(client._clock, "now_ms", lambda: FIRST_RECORD_MS + 60_000)
        (found,) = await client.admin.groups.lag("g")

    assert (found.records, found.seconds, found.is_behind_log_start) == (10, 40, True)


async def test_lag_of_a_partition_without_leader_does_not_hide_the_others() -> None:
    cluster = cluster_with_records(10, 10)
    cluster.add_group("g")
    cluster.commit("g", "t", 0, 4)
    cluster.commit("g", "t", 1, 4)
    cluster.elect("t", 0, None)

    async with cluster.client() as client:
        first, second = await client.admin.groups.lag("g")

    assert (first.committed, first.end_offset, first.records, first.seconds) == (4, None, None, None)
    assert second.records == 6


async def test_lag_leaves_out_topics_that_were_deleted_or_created_again() -> None:
    cluster = cluster_with_records(10)
    cluster.add_topic("gone")
    cluster.add_group("g")
    cluster.commit("g", "t", 0, 4)
    cluster.commit("g", "gone", 0, 4)
    del cluster.topics["gone"]

    async with cluster.client() as client:
        assert [lag.topic for lag in await client.admin.groups.lag("g")] == ["t"]
        cluster.create_again("t")
        assert await client.admin.groups.lag("g") == []


async def test_lag_is_given_although_the_records_cannot_be_fetched() -> None:
    cluster = cluster_with_records(10)
    cluster.add_group("g")
    cluster.commit("g", "t", 0, 4)

    async def refuse(broker_id: int, method: str, request: Any) -> None:
        if method == "Fetch":
            raise errors.Overloaded()

    async with cluster.client() as client:
        cluster.before = refuse
        (found,) = await client.admin.groups.lag("g")

    assert (found.records, found.seconds) == (6, None)


async def test_record_times_go_on_behind_control_records() -> None:
    cluster = cluster_with_records(10)
    log = cluster.topics["t"][0]
    marker = build_control_batch(
        ControlType.COMMIT, producer_id=1, producer_epoch=0, coordinator_epoch=0, timestamp_ms=FIRST_RECORD_MS
    )
    log.batches.append(stamp(marker, base_offset=log.end_offset, leader_epoch=0))
    log.end_offset += 1
    log.append(build_batch([(FIRST_RECORD_MS + 500_000, None, b"v", ())]))

    async with cluster.client() as client:
        await client._open().metadata.topic("t")
        name = TopicPartition("t", 0)
        assert await record_times_ms(client._open(), {name: 10}) == {name: FIRST_RECORD_MS + 500_000}
        assert await record_times_ms(client._open(), {name: 12}) == {}
