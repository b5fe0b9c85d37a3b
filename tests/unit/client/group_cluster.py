"""Coordinators of groups in memory, for tests of their administration."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from fake_cluster import FakeCluster

from logcluster.client.group_descriptions import OffsetChange
from logcluster.model import errors
from logcluster.record.builder import build_batch
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
