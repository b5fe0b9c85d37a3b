"""Administration of groups against coordinators in memory: lists, offsets, lag, resets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pytest
from fake_cluster import FakeCluster, lost

from logcluster.client.group_descriptions import OffsetChange, Shift
from logcluster.client.group_reset import normalize_reset_point
from logcluster.client.log_positions import record_times_ms
from logcluster.client.records import Timestamp
from logcluster.model import errors
from logcluster.model.ids import TopicPartition
from logcluster.record.builder import build_batch
from logcluster.record.control import ControlType, build_control_batch
from logcluster.record.header import stamp
from logcluster.wire.gen.logcluster.v1 import groups_pb2
from logcluster.wire.status import error_detail

FIRST_RECORD_MS = 1_700_000_000_000


@dataclass
class ModelGroup:
    """What a coordinator knows of a group; offsets by topic, topic id and partition."""

    members: list[groups_pb2.MemberDescription] = field(default_factory=list)
    offsets: dict[tuple[str, bytes, int], groups_pb2.OffsetCommit] = field(default_factory=dict)
    events: list[groups_pb2.GroupEvent] = field(default_factory=list)
    epoch: int = 1

    @property
    def state(self) -> str:
        return "stable" if self.members else "empty"


class GroupCluster(FakeCluster):
    """Brokers that coordinate groups; by default broker 1 does all of them."""

    def __init__(self, brokers: int = 3) -> None:
        super().__init__(brokers)
        self.groups: dict[str, ModelGroup] = {}
        self.coordinators: dict[str, int] = {}
        self.loading: dict[int, list[int]] = {}

    def add_group(self, name: str, *, coordinator: int = 1) -> ModelGroup:
        self.coordinators[name] = coordinator
        self.groups[name] = ModelGroup()
        return self.groups[name]

    def commit(self, name: str, topic: str, partition: int, offset: int, topic_id: bytes | None = None) -> None:
        topic_id = self.topic_ids[topic] if topic_id is None else topic_id
        self.groups[name].offsets[topic, topic_id, partition] = groups_pb2.OffsetCommit(
            topic=topic, topic_id=topic_id, partition=partition, offset=offset
        )

    def add_member(self, name: str, member_id: str, topic: str, partitions: list[int]) -> groups_pb2.MemberDescription:
        member = groups_pb2.MemberDescription(member_id=member_id, state="stable", member_epoch=1, client_host="h")
        member.assignment.topics.add(topic=topic, topic_id=self.topic_ids[topic], partitions=partitions)
        member.target.CopyFrom(member.assignment)
        self.groups[name].members.append(member)
        return member

    def count(self, method: str) -> int:
        return sum(called == method for _, called in self.calls)

    # What brokers answer.

    def _coordinated(self, broker_id: int, name: str, *, must_exist: bool = True) -> ModelGroup:
        if self.coordinators.get(name, 1) != broker_id:
            raise errors.NotCoordinator(f"broker {broker_id} does not coordinate {name}")
        if name not in self.groups and must_exist:
            raise errors.GroupIdNotFound(f"there is no group {name!r}")
        return self.groups.get(name) or ModelGroup()

    def _FindCoordinators(self, broker_id: int, request: Any) -> Any:
        response = groups_pb2.FindCoordinatorsResponse()
        for name in request.groups:
            coordinator_id = self.coordinators.get(name, 1)
            port = 7070 + 10 * coordinator_id
            response.coordinators.add(
                group=name,
                broker_id=coordinator_id,
                host="fake",
                grpc_port=port,
                lane_port=port + 1,
                topic="__consumer_offsets",
            )
        return response

    def _ListGroups(self, broker_id: int, request: Any) -> Any:
        response = groups_pb2.ListGroupsResponse(loading_partitions=self.loading.get(broker_id, []))
        for name, group in self.groups.items():
            if self.coordinators[name] == broker_id and (not request.states or group.state in request.states):
                response.groups.add(
                    group=name, state=group.state, member_count=len(group.members), group_epoch=group.epoch
                )
        return response

    def _each(self, broker_id: int, names: Any, results: Any, fill: Callable[[Any, ModelGroup], None]) -> None:
        for name in names:
            result = results.add(group=name)
            try:
                fill(result, self._coordinated(broker_id, name))
            except errors.LogClusterError as error:
                result.error.CopyFrom(error_detail(error))

    def _DescribeGroups(self, broker_id: int, request: Any) -> Any:
        def fill(result: Any, group: ModelGroup) -> None:
            result.MergeFrom(
                groups_pb2.GroupDescription(
                    state=group.state,
                    group_epoch=group.epoch,
                    assignment_epoch=group.epoch,
                    assignor="uniform",
                    coordinator_id=broker_id,
                    members=group.members,
                    offsets=_committed(group),
                )
            )

        response = groups_pb2.DescribeGroupsResponse()
        self._each(broker_id, request.groups, response.groups, fill)
        return response

    def _DeleteGroups(self, broker_id: int, request: Any) -> Any:
        def fill(result: Any, group: ModelGroup) -> None:
            if group.members:
                raise errors.NonEmptyGroup()
            del self.groups[result.group]

        response = groups_pb2.DeleteGroupsResponse()
        self._each(broker_id, request.groups, response.results, fill)
        return response

    def _FetchOffsets(self, broker_id: int, request: Any) -> Any:
        group = self._coordinated(broker_id, request.group, must_exist=False)
        return groups_pb2.FetchOffsetsResponse(offsets=_committed(group))

    def _CommitOffsets(self, broker_id: int, request: Any) -> Any:
        group = self._coordinated(broker_id, request.group, must_exist=False)
        assert (request.member_id, request.member_epoch) == ("", -1)
        if group.members:
            raise errors.NonEmptyGroup()
        self.groups[request.group] = group
        response = groups_pb2.CommitOffsetsResponse()
        for item in request.offsets:
            result = response.results.add(topic=item.topic, partition=item.partition)
            log = self.topics[item.topic][item.partition]
            if item.offset > log.end_offset and not request.allow_out_of_range:
                result.error.CopyFrom(error_detail(errors.OffsetOutOfRange(f"{item.offset} is beyond the end")))
                continue
            group.offsets[item.topic, item.topic_id or self.topic_ids[item.topic], item.partition] = item
        return response

    def _DeleteOffsets(self, broker_id: int, request: Any) -> Any:
        group = self._coordinated(broker_id, request.group)
        response = groups_pb2.DeleteOffsetsResponse()
        for topic in request.topics:
            for partition in topic.partitions:
                group.offsets.pop((topic.topic, self.topic_ids[topic.topic], partition), None)
                response.results.add(topic=topic.topic, partition=partition)
        return response

    def _ListGroupEvents(self, broker_id: int, request: Any) -> Any:
        group = self._coordinated(broker_id, request.group)
        found = [event for event in group.events if event.sequence > request.after_sequence]
        return groups_pb2.ListGroupEventsResponse(events=found[-request.count_max :])


def _committed(group: ModelGroup) -> list[groups_pb2.CommittedOffset]:
    return [
        groups_pb2.CommittedOffset(
            topic=topic, topic_id=topic_id, partition=partition, offset=item.offset, metadata=item.metadata
        )
        for (topic, topic_id, partition), item in group.offsets.items()
    ]


def cluster_with_records(*counts: int) -> GroupCluster:
    """A topic t, in whose partitions record n was made n seconds after the first, in batches of ten."""
    cluster = GroupCluster()
    for log, count in zip(cluster.add_topic("t", len(counts)), counts, strict=True):
        for base in range(0, count, 10):
            log.append(
                build_batch([(FIRST_RECORD_MS + 1000 * n, None, b"v", ()) for n in range(base, min(base + 10, count))])
            )
    return cluster


def after(changes: list[OffsetChange]) -> dict[int, int]:
    return {change.partition: change.after for change in changes}


def committed(cluster: GroupCluster, group: str = "g") -> dict[int, int]:
    return {partition: item.offset for (_, _, partition), item in cluster.groups[group].offsets.items()}


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


@pytest.mark.parametrize(
    ("to", "expected"),
    [
        ("beginning", {0: 2, 1: 0}),
        ("end", {0: 30, 1: 10}),
        (5, {0: 5, 1: 5}),
        (20, {0: 20, 1: 10}),
        (0, {0: 2, 1: 0}),
        (Shift(-3), {0: 5, 1: 1}),
        ("+4", {0: 12, 1: 8}),
        ("-100", {0: 2, 1: 0}),
        (Timestamp(FIRST_RECORD_MS + 6_500), {0: 7, 1: 7}),
        (datetime.fromtimestamp(FIRST_RECORD_MS / 1000 + 25, UTC), {0: 25, 1: 10}),
    ],
)
async def test_reset_leads_to_the_place_or_the_nearest_one_in_the_log(to: Any, expected: dict[int, int]) -> None:
    cluster = cluster_with_records(30, 10, 10)
    cluster.topics["t"][0].log_start_offset = 2
    cluster.add_group("g")
    cluster.commit("g", "t", 0, 8)
    cluster.commit("g", "t", 1, 4)

    async with cluster.client() as client:
        preview = await client.admin.groups.reset("g", to=to, dry_run=True)
        assert committed(cluster) == {0: 8, 1: 4}
        changes = await client.admin.groups.reset("g", to=to)

    assert changes == preview
    assert [change.before for change in changes] == [8, 4]
    assert after(changes) == committed(cluster) == expected


async def test_reset_says_which_places_lie_outside_of_the_log() -> None:
    cluster = cluster_with_records(30, 10)
    cluster.add_group("g")

    async with cluster.client() as client:
        changes = await client.admin.groups.reset("g", to=20, topics=["t"])

    assert [(change.partition, change.before, change.after, change.is_clamped) for change in changes] == [
        (0, None, 20, False),
        (1, None, 10, True),
    ]


async def test_reset_of_named_partitions_leaves_the_others_and_may_make_the_group() -> None:
    cluster = cluster_with_records(30, 10, 10)

    async with cluster.client() as client:
        await client.admin.groups.reset("new", to="end", topics={"t": [2, 0]})
        with pytest.raises(errors.GroupIdNotFound):
            await client.admin.groups.reset("newer", to="end")

    assert committed(cluster, "new") == {0: 30, 2: 10}
    assert "newer" not in cluster.groups


async def test_reset_leaves_offsets_of_a_deleted_topic_alone() -> None:
    cluster = cluster_with_records(10)
    cluster.add_group("g")
    cluster.commit("g", "t", 0, 4, topic_id=b"x" * 16)

    async with cluster.client() as client:
        assert await client.admin.groups.reset("g", to="beginning") == []
    assert cluster.count("CommitOffsets") == 0


@pytest.mark.parametrize("dry_run", [True, False])
async def test_reset_of_a_group_with_members_is_refused(dry_run: bool) -> None:
    cluster = cluster_with_records(10)
    cluster.add_group("g")
    cluster.commit("g", "t", 0, 4)
    cluster.add_member("g", "m1", "t", [0])

    async with cluster.client() as client:
        with pytest.raises(errors.NonEmptyGroup, match="1 members"):
            await client.admin.groups.reset("g", to="end", dry_run=dry_run)
    assert committed(cluster) == {0: 4}


async def test_member_that_joins_during_a_reset_keeps_its_offsets() -> None:
    cluster = cluster_with_records(10)
    cluster.add_group("g")
    cluster.commit("g", "t", 0, 4)

    async def join(broker_id: int, method: str, request: Any) -> None:
        if method == "CommitOffsets":
            cluster.add_member("g", "m1", "t", [0])

    async with cluster.client() as client:
        cluster.before = join
        with pytest.raises(errors.NonEmptyGroup):
            await client.admin.groups.reset("g", to="end")
    assert committed(cluster) == {0: 4}


async def test_refusal_after_an_attempt_that_may_have_set_offsets_is_not_called_definite() -> None:
    cluster = cluster_with_records(10)
    cluster.add_group("g")
    losses = 0

    async def lose_one_then_join(broker_id: int, method: str, request: Any) -> None:
        nonlocal losses
        if method == "CommitOffsets" and not losses:
            losses += 1
            cluster.add_member("g", "m1", "t", [0])
            raise lost()

    async with cluster.client() as client:
        cluster.after = lose_one_then_join
        with pytest.raises(errors.RequestTimedOut) as caught:
            await client.admin.groups.alter_offsets("g", {("t", 0): 4})
    assert not caught.value.definite
    assert committed(cluster) == {0: 4}


@pytest.mark.parametrize(
    ("options", "error_type"),
    [
        ({"to": "end", "topics": ["nowhere"]}, errors.UnknownTopicOrPartition),
        ({"to": "end", "topics": {"t": [0, 7]}}, errors.UnknownTopicOrPartition),
        ({"to": "end", "topics": "t"}, errors.InvalidRequest),
        ({"to": Shift(1), "topics": {"t": [1]}}, errors.InvalidRequest),
        ({"to": "tomorrow"}, errors.InvalidRequest),
        ({"to": -1}, errors.InvalidRequest),
        ({"to": True}, errors.InvalidRequest),
        ({"to": None}, errors.InvalidRequest),
    ],
)
async def test_impossible_reset_changes_nothing(options: Any, error_type: type[Exception]) -> None:
    cluster = cluster_with_records(10, 10)
    cluster.add_group("g")
    cluster.commit("g", "t", 0, 4)

    async with cluster.client() as client:
        with pytest.raises(error_type):
            await client.admin.groups.reset("g", **options)
    assert committed(cluster) == {0: 4}


def test_texts_and_numbers_become_places() -> None:
    assert normalize_reset_point("beginning") == "earliest"
    assert normalize_reset_point("end") == "latest"
    assert isinstance(normalize_reset_point("+3"), Shift)
    assert not isinstance(normalize_reset_point(3), Shift)
