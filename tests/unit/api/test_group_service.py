"""The group service before a host that is played: sizes, deadlines, errors in their places, memberships that end."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from types import SimpleNamespace
from typing import Any

import grpc
import pytest

from logcluster.api import group_service
from logcluster.api.group_service import GroupHost, GroupServicer
from logcluster.broker.coordinators.group_host import CoordinatorPlace
from logcluster.core.coordinators.groups.records import EventValue
from logcluster.core.coordinators.groups.requests import (
    NO_MEMBER_EPOCH,
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
)
from logcluster.model.errors import (
    CoordinatorNotAvailable,
    GroupIdNotFound,
    GroupSubscribedToTopic,
    InvalidRequest,
    LogClusterError,
    NonEmptyGroup,
    NotCoordinator,
    UnknownMemberId,
)
from logcluster.model.ids import Endpoint, TopicId
from logcluster.model.limits import DEADLINE_MS_MAX, GROUPS_PER_REQUEST_MAX, REQUEST_DEADLINE_MS_DEFAULT
from logcluster.rpc.grpc_carrier import build_grpc_server, grpc_channel
from logcluster.rpc.lane.channel import LaneChannel
from logcluster.rpc.lane.server import LaneServer
from logcluster.runtime.clock import SystemClock
from logcluster.sim.loopback import LoopbackNetwork
from logcluster.wire.gen.logcluster.v1 import groups_pb2 as pb, groups_pb2_grpc
from logcluster.wire.status import error_from_detail, error_from_rpc

ORDERS = TopicId(b"o" * 16)
TOO_MANY_GROUPS = ["g"] * (GROUPS_PER_REQUEST_MAX + 1)


class Host:
    """Answers what is prepared in `answers` by group (errors are raised), and keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.timeouts_ms: list[int] = []
        self.answers: dict[str, Any] = {}
        self.wakes: asyncio.Queue[LogClusterError | None] = asyncio.Queue()
        self.watching = asyncio.Event()
        self.unwatched = asyncio.Event()

    def _answer(self, group: str, asked: object, timeout_ms: int) -> Any:
        self.asked.append(asked)
        self.timeouts_ms.append(timeout_ms)
        answer = self.answers[group]
        if isinstance(answer, LogClusterError):
            raise answer
        return answer

    async def locate(self, groups: Sequence[str]) -> list[CoordinatorPlace | LogClusterError]:
        self.asked.append(groups)
        return [self.answers[group] for group in groups]

    async def heartbeat(self, request: Heartbeat, *, timeout_ms: int) -> HeartbeatResult:
        return self._answer(request.group, request, timeout_ms)

    async def watch(self, group: str, member_id: str) -> AsyncIterator[None]:
        self.asked.append((group, member_id))
        self.watching.set()
        try:
            while (end := await self.wakes.get()) is None:
                yield
            raise end
        finally:
            self.unwatched.set()

    async def commit(self, request: CommitOffsets, *, timeout_ms: int) -> CommitResult:
        return self._answer(request.group, request, timeout_ms)

    async def fetch(self, request: FetchOffsets, *, timeout_ms: int) -> tuple[FetchedOffset, ...]:
        return self._answer(request.group, request, timeout_ms)

    async def delete_offsets(self, request: DeleteOffsets, *, timeout_ms: int) -> CommitResult:
        return self._answer(request.group, request, timeout_ms)

    async def list_groups(self) -> tuple[list[GroupListing], list[int]]:
        states: tuple[Any, ...] = ("empty", "assigning", "reconciling", "stable")
        return [GroupListing(group=f"g-{name}", state=name, member_count=1, group_epoch=2) for name in states], [3, 5]

    async def describe(self, group: str, *, timeout_ms: int) -> GroupDescription:
        return self._answer(group, group, timeout_ms)

    async def delete(self, group: str, *, timeout_ms: int) -> None:
        self._answer(group, group, timeout_ms)

    async def events(self, group: str, after_sequence: int, count_max: int, *, timeout_ms: int) -> GroupEvents:
        return self._answer(group, (group, after_sequence, count_max), timeout_ms)


@pytest.fixture
def host() -> Host:
    return Host()


@pytest.fixture
def servicer(host: Host) -> GroupServicer:
    played: GroupHost = host
    return GroupServicer(played, coordinator_id=7)


def call(*, remaining_s: float | None = 5.0, peer: str = "ipv4:10.0.0.7:4711") -> Any:
    """A call's context."""
    return SimpleNamespace(time_remaining=lambda: remaining_s, peer=lambda: peer)


def description(group: str) -> GroupDescription:
    said: dict[str, Any] = {"group": group, "state": "empty", "group_epoch": 1, "assignment_epoch": 1}
    return GroupDescription(**said, assignor="uniform", members=(), offsets=(), topic_names={})


JOINED = HeartbeatResult(member_epoch=1, heartbeat_interval_ms=2, session_timeout_ms=3, group_epoch=4, is_settled=True)


# -- where -------------------------------------------------------------------------------------------------------------


async def test_coordinators_are_named_in_the_order_of_the_question_with_an_error_for_each_that_has_none(
    host: Host, servicer: GroupServicer
) -> None:
    host.answers["b"] = CoordinatorNotAvailable("no leader")
    host.answers["a"] = CoordinatorPlace(
        group="a", broker_id=2, host="h", grpc_port=3, lane_port=4, topic="t", partition=5, leader_epoch=6
    )
    answer = await servicer.FindCoordinators(pb.FindCoordinatorsRequest(groups=["b", "a"]), call())
    first, second = answer.coordinators
    assert first.group == "b"
    assert isinstance(error_from_detail(first.error), CoordinatorNotAvailable)
    assert second == pb.Coordinator(
        group="a", broker_id=2, host="h", grpc_port=3, lane_port=4, topic="t", partition=5, leader_epoch=6
    )


# -- members -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("peer", "client_host"),
    [
        ("ipv4:10.0.0.7:4711", "10.0.0.7"),
        # The lane writes an IPv6 address as it is, grpc in brackets that are percent-encoded.
        ("ipv6:2001:db8::1:4711", "2001:db8::1"),
        ("ipv6:[2001:db8::1]:4711", "2001:db8::1"),
        ("ipv6:%5B2001:db8::1%5D:4711", "2001:db8::1"),
        ("ipv6:[::1]:5", "::1"),
        ("unix:/run/logcluster.sock", "unix:/run/logcluster.sock"),
        ("unknown", "unknown"),
    ],
)
async def test_a_heartbeat_says_from_which_address_it_came(
    host: Host, servicer: GroupServicer, peer: str, client_host: str
) -> None:
    host.answers["g"] = JOINED
    answer = await servicer.Heartbeat(pb.HeartbeatRequest(group="g", member_id="m"), call(peer=peer))
    assert (answer.member_epoch, answer.group_epoch, answer.is_settled) == (1, 4, True)
    assert host.asked == [Heartbeat(group="g", member_id="m", member_epoch=0, client_host=client_host)]


@pytest.mark.parametrize(
    ("remaining_s", "timeout_ms"),
    [(2.5, 2_500), (0.0, 1), (None, REQUEST_DEADLINE_MS_DEFAULT), (10_000_000.0, DEADLINE_MS_MAX)],
)
async def test_the_host_has_as_long_as_the_caller_waits_within_bounds(
    host: Host, servicer: GroupServicer, remaining_s: float | None, timeout_ms: int
) -> None:
    host.answers["g"] = JOINED
    await servicer.Heartbeat(pb.HeartbeatRequest(group="g"), call(remaining_s=remaining_s))
    assert host.timeouts_ms == [timeout_ms]


TIMED_CALLS: dict[str, Any] = dict.fromkeys(("CommitOffsets", "DeleteOffsets"), CommitResult(errors=()))
TIMED_CALLS |= {"FetchOffsets": (), "ListGroupEvents": GroupEvents(events=())}
TIMED_CALLS |= {"DescribeGroups": description("g"), "DeleteGroups": None}


@pytest.mark.parametrize("method", TIMED_CALLS)
async def test_no_call_makes_up_a_deadline_of_its_own(host: Host, servicer: GroupServicer, method: str) -> None:
    host.answers["g"] = TIMED_CALLS[method]
    names: dict[str, Any] = {"groups": ["g", "g"]} if method.endswith("Groups") else {"group": "g"}
    left_s = iter([2.5, 1.5])
    context = SimpleNamespace(time_remaining=lambda: next(left_s))
    await getattr(servicer, method)(getattr(pb, f"{method}Request")(**names), context)
    # What the first group took, the second does not have.
    assert host.timeouts_ms == ([2_500, 1_500] if method.endswith("Groups") else [2_500])


# -- offsets -----------------------------------------------------------------------------------------------------------


async def test_a_tool_commits_without_an_epoch_and_hears_of_each_offset(host: Host, servicer: GroupServicer) -> None:
    host.answers["g"] = CommitResult(errors=(None, InvalidRequest("negative")))
    offsets = [pb.OffsetCommit(topic="t", partition=number) for number in (4, 2)]
    answer = await servicer.CommitOffsets(pb.CommitOffsetsRequest(group="g", offsets=offsets), call())
    assert [(item.partition, item.error.name) for item in answer.results] == [(4, ""), (2, "InvalidRequest")]
    (asked,) = host.asked
    assert (asked.member_id, asked.member_epoch) == (None, NO_MEMBER_EPOCH)


async def test_fetched_offsets_are_given_in_the_hosts_order(host: Host, servicer: GroupServicer) -> None:
    host.answers["g"] = tuple(
        FetchedOffset(topic="t", topic_id=ORDERS, partition=number, value=None) for number in (4, 2)
    )
    answer = await servicer.FetchOffsets(pb.FetchOffsetsRequest(group="g"), call())
    assert [item.partition for item in answer.offsets] == [4, 2]
    assert host.asked == [FetchOffsets(group="g", partitions=None)]


async def test_a_deletion_hears_of_each_partition(host: Host, servicer: GroupServicer) -> None:
    host.answers["g"] = CommitResult(errors=(None, GroupSubscribedToTopic()))
    topics = [pb.TopicPartitions(topic="t", partitions=[4, 2])]
    answer = await servicer.DeleteOffsets(pb.DeleteOffsetsRequest(group="g", topics=topics), call())
    assert [(item.partition, item.error.name) for item in answer.results] == [(4, ""), (2, "GroupSubscribedToTopic")]


@pytest.mark.parametrize("count", [3, 4])
@pytest.mark.parametrize("method", ["CommitOffsets", "FetchOffsets", "DeleteOffsets"])
async def test_more_offsets_than_one_call_may_have_never_reach_the_host(
    host: Host, servicer: GroupServicer, monkeypatch: pytest.MonkeyPatch, method: str, count: int
) -> None:
    monkeypatch.setattr(group_service, "OFFSETS_PER_REQUEST_MAX", 3)
    host.answers["g"] = () if method == "FetchOffsets" else CommitResult(errors=(None,) * count)
    # Spread over topics: it is partitions that count.
    topics = [pb.TopicPartitions(topic=f"t{number}", partitions=[0]) for number in range(count)]
    request: Any = {
        "CommitOffsets": pb.CommitOffsetsRequest(group="g", offsets=[pb.OffsetCommit(topic="t")] * count),
        "FetchOffsets": pb.FetchOffsetsRequest(group="g", topics=topics),
        "DeleteOffsets": pb.DeleteOffsetsRequest(group="g", topics=topics),
    }[method]
    if count == 3:
        await getattr(servicer, method)(request, call())
        assert len(host.asked) == 1
        return
    with pytest.raises(InvalidRequest, match="at most 3"):
        await getattr(servicer, method)(request, call())
    assert host.asked == []


# -- people ------------------------------------------------------------------------------------------------------------


async def test_groups_are_listed_by_state_together_with_what_is_still_loading(servicer: GroupServicer) -> None:
    everything = await servicer.ListGroups(pb.ListGroupsRequest(), call())
    assert [group.group for group in everything.groups] == ["g-empty", "g-assigning", "g-reconciling", "g-stable"]
    some = await servicer.ListGroups(pb.ListGroupsRequest(states=["stable", "empty"]), call())
    assert [group.group for group in some.groups] == ["g-empty", "g-stable"]
    assert list(everything.loading_partitions) == list(some.loading_partitions) == [3, 5]


@pytest.mark.parametrize("state", ["Stable", "", "dead"])
async def test_a_state_that_there_is_not_is_refused_with_those_that_there_are(
    servicer: GroupServicer, state: str
) -> None:
    with pytest.raises(InvalidRequest, match="empty, assigning, reconciling, stable"):
        await servicer.ListGroups(pb.ListGroupsRequest(states=["stable", state]), call())


async def test_groups_are_described_each_with_its_own_error(host: Host, servicer: GroupServicer) -> None:
    host.answers |= {"a": description("a"), "b": GroupIdNotFound("no b"), "c": description("c")}
    answer = await servicer.DescribeGroups(pb.DescribeGroupsRequest(groups=["c", "b", "a"]), call())
    shown = [(group.group, group.error.name) for group in answer.groups]
    assert shown == [("c", ""), ("b", "GroupIdNotFound"), ("a", "")]
    assert [group.coordinator_id for group in answer.groups if not group.HasField("error")] == [7, 7]


async def test_groups_are_deleted_each_with_its_own_error(host: Host, servicer: GroupServicer) -> None:
    host.answers |= {"a": NonEmptyGroup("members"), "b": None}
    answer = await servicer.DeleteGroups(pb.DeleteGroupsRequest(groups=["a", "b"]), call())
    assert [(result.group, result.error.name) for result in answer.results] == [("a", "NonEmptyGroup"), ("b", "")]
    assert host.asked == ["a", "b"]


@pytest.mark.parametrize("method", ["FindCoordinators", "DescribeGroups", "DeleteGroups"])
async def test_more_groups_than_one_call_may_have_never_reach_the_host(
    host: Host, servicer: GroupServicer, method: str
) -> None:
    with pytest.raises(InvalidRequest, match=f"at most {GROUPS_PER_REQUEST_MAX}"):
        await getattr(servicer, method)(getattr(pb, f"{method}Request")(groups=TOO_MANY_GROUPS), call())
    assert host.asked == []


async def test_events_are_asked_for_from_where_the_caller_is(host: Host, servicer: GroupServicer) -> None:
    event = EventValue(time_ms=1, kind="left", group_epoch=2, reason="m left")
    host.answers["g"] = GroupEvents(events=((9, event),))
    question = pb.ListGroupEventsRequest(group="g", after_sequence=8, count_max=20)
    answer = await servicer.ListGroupEvents(question, call())
    assert [(item.sequence, item.kind) for item in answer.events] == [(9, "left")]
    assert host.asked == [("g", 8, 20)]


# -- on both carriers --------------------------------------------------------------------------------------------------


@pytest.fixture(params=["grpc", "lane"])
async def stub(request: pytest.FixtureRequest, servicer: GroupServicer) -> AsyncIterator[Any]:
    """A stub of the servicer behind a real server: grpc over a socket, the lane in memory."""
    clock = SystemClock()
    network = LoopbackNetwork(clock, random.Random(1))
    server: Any
    channel: Any
    if request.param == "grpc":
        server = build_grpc_server(clock=clock)
    else:
        server = LaneServer(clock=clock, network=network.node("server"))
    groups_pb2_grpc.add_GroupServiceServicer_to_server(servicer, server)
    endpoint = Endpoint("127.0.0.1", await server.start("127.0.0.1", 0))
    if request.param == "grpc":
        channel = grpc_channel(endpoint)
    else:
        channel = LaneChannel(endpoint, clock=clock, network=network.node("client"))
    yield groups_pb2_grpc.GroupServiceStub(channel)
    await channel.close()
    await server.stop(0)


WATCH = pb.WatchMembershipRequest(group="g", member_id="m")


async def test_a_stream_that_is_closed_between_two_messages_ends_the_watch_at_once(
    host: Host, servicer: GroupServicer
) -> None:
    # Left to the garbage collector, the host would learn late, or never, that the connection is lost.
    host.wakes.put_nowait(None)
    stream: Any = servicer.WatchMembership(WATCH, call())
    assert (await anext(stream)).heartbeat_now
    await stream.aclose()
    assert host.unwatched.is_set()


async def test_a_call_carries_its_deadline_and_an_error_comes_back_as_itself(host: Host, stub: Any) -> None:
    host.answers |= {"g": JOINED, "elsewhere": NotCoordinator("ask broker 2")}
    assert (await stub.Heartbeat(pb.HeartbeatRequest(group="g"), timeout=20)).member_epoch == 1
    assert 0 < host.timeouts_ms[0] <= 20_100
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await stub.Heartbeat(pb.HeartbeatRequest(group="elsewhere"), timeout=20)
    assert isinstance(error_from_rpc(failure.value), NotCoordinator)


async def test_a_member_that_watches_is_told_of_every_heartbeat_that_is_due(host: Host, stub: Any) -> None:
    stream = stub.WatchMembership(WATCH)
    messages = stream.__aiter__()
    for _ in range(2):
        host.wakes.put_nowait(None)
        message = await anext(messages)
        assert (message.heartbeat_now, message.HasField("ended")) == (True, False)
    assert host.asked == [("g", "m")]
    assert not host.unwatched.is_set()
    stream.cancel()
    await host.unwatched.wait()


async def test_a_membership_that_has_ended_is_a_last_message_and_no_failed_call(host: Host, stub: Any) -> None:
    host.wakes.put_nowait(None)
    host.wakes.put_nowait(UnknownMemberId("evicted", member_id="m"))
    first, last = [message async for message in stub.WatchMembership(WATCH)]
    assert first.heartbeat_now
    assert not last.heartbeat_now
    error = error_from_detail(last.ended)
    assert isinstance(error, UnknownMemberId)
    assert (error.message, error.facts) == ("evicted", {"member_id": "m"})
    assert host.unwatched.is_set()


async def test_a_coordinator_that_moved_fails_the_stream_and_ends_no_membership(host: Host, stub: Any) -> None:
    host.wakes.put_nowait(NotCoordinator("ask broker 2"))
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        _ = [message async for message in stub.WatchMembership(WATCH)]
    assert isinstance(error_from_rpc(failure.value), NotCoordinator)


async def test_a_member_that_hangs_up_while_nothing_is_due_is_noticed(host: Host, stub: Any) -> None:
    stream = stub.WatchMembership(WATCH)
    reading = asyncio.ensure_future(anext(stream.__aiter__()))
    await host.watching.wait()
    stream.cancel()
    await host.unwatched.wait()
    with pytest.raises(asyncio.CancelledError):
        await reading
