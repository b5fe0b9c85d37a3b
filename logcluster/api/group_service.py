"""The group service: memberships, committed offsets, and what people ask of groups. Decodes, calls the host, encodes.

Errors of one partition or group travel in its part of the answer; the status speaks for the whole call.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import aclosing
from typing import Any, Final, Protocol, TypeVar, get_args
from urllib.parse import unquote

from logcluster.broker.coordinators.group_host import CoordinatorPlace
from logcluster.core.coordinators.groups.requests import (
    CommitOffsets,
    CommitResult,
    DeleteOffsets,
    FetchedOffset,
    FetchOffsets,
    GroupDescription,
    GroupEvents,
    GroupListing,
    GroupState,
    Heartbeat,
    HeartbeatResult,
)
from logcluster.model.errors import FencedError, InvalidRequest, LogClusterError
from logcluster.model.limits import (
    DEADLINE_MS_MAX,
    GROUPS_PER_REQUEST_MAX,
    OFFSETS_PER_REQUEST_MAX,
    REQUEST_DEADLINE_MS_DEFAULT,
)
from logcluster.wire import group_messages as messages
from logcluster.wire.gen.logcluster.v1 import groups_pb2 as pb, groups_pb2_grpc
from logcluster.wire.status import error_detail

Context = Any
"""`grpc.aio.ServicerContext`, or the lane's equivalent."""
STATES: Final = get_args(GroupState)

Answer = TypeVar("Answer")


class GroupHost(Protocol):
    """Groups on this broker; see `broker.coordinators.group_host`."""

    async def locate(self, groups: Sequence[str]) -> list[CoordinatorPlace | LogClusterError]:
        """Who coordinates these groups, in their order."""
        ...

    async def heartbeat(self, request: Heartbeat, *, timeout_ms: int) -> HeartbeatResult:
        """Join, stay, leave."""
        ...

    def watch(self, group: str, member_id: str) -> AsyncIterator[None]:
        """Yield when a heartbeat is due at once; closing it tells that the connection is lost."""
        ...

    async def commit(self, request: CommitOffsets, *, timeout_ms: int) -> CommitResult:
        """Keep offsets."""
        ...

    async def fetch(self, request: FetchOffsets, *, timeout_ms: int) -> tuple[FetchedOffset, ...]:
        """Read offsets."""
        ...

    async def delete_offsets(self, request: DeleteOffsets, *, timeout_ms: int) -> CommitResult:
        """Forget offsets."""
        ...

    async def list_groups(self) -> tuple[list[GroupListing], list[int]]:
        """Groups here, and shards that cannot answer yet."""
        ...

    async def describe(self, group: str, *, timeout_ms: int) -> GroupDescription:
        """Show a group."""
        ...

    async def delete(self, group: str, *, timeout_ms: int) -> None:
        """Forget a group."""
        ...

    async def events(self, group: str, after_sequence: int, count_max: int, *, timeout_ms: int) -> GroupEvents:
        """What happened in a group."""
        ...


class GroupServicer(groups_pb2_grpc.GroupServiceServicer):
    """Serves members and tools; all but `FindCoordinators` only for the groups that this broker coordinates.

    Args:
        coordinator_id: this broker.
    """

    def __init__(self, host: GroupHost, *, coordinator_id: int) -> None:
        self._host = host
        self._coordinator_id = coordinator_id

    # -- where -----------------------------------------------------------------------------------------------------

    async def FindCoordinators(  # noqa: N802
        self, request: pb.FindCoordinatorsRequest, context: Context
    ) -> pb.FindCoordinatorsResponse:
        """Say who coordinates groups. Cancellation: the internal topic may be made."""
        _check_count(len(request.groups), GROUPS_PER_REQUEST_MAX, "groups")
        places = await self._host.locate(list(request.groups))
        return pb.FindCoordinatorsResponse(
            coordinators=[_place(group, place) for group, place in zip(request.groups, places, strict=True)]
        )

    # -- members ---------------------------------------------------------------------------------------------------

    async def Heartbeat(self, request: pb.HeartbeatRequest, context: Context) -> pb.HeartbeatResponse:  # noqa: N802
        """Let a member join, stay or leave. Cancellation: it may be done."""
        heartbeat = messages.heartbeat_from_message(request, client_host=_client_host(context))
        return messages.heartbeat_to_message(await self._host.heartbeat(heartbeat, timeout_ms=_timeout_ms(context)))

    async def WatchMembership(  # noqa: N802
        self, request: pb.WatchMembershipRequest, context: Context
    ) -> AsyncIterator[pb.WatchMembershipResponse]:
        """Say when a heartbeat is due at once; the stream ends with the membership. Cancellation: a lost connection."""
        try:
            async with aclosing(self._host.watch(request.group, request.member_id)) as wakes:  # type: ignore[type-var]
                async for _ in wakes:
                    yield pb.WatchMembershipResponse(heartbeat_now=True)
        except FencedError as error:
            yield pb.WatchMembershipResponse(ended=error_detail(error))

    # -- offsets ---------------------------------------------------------------------------------------------------

    async def CommitOffsets(  # noqa: N802
        self, request: pb.CommitOffsetsRequest, context: Context
    ) -> pb.CommitOffsetsResponse:
        """Keep offsets. Cancellation: they may be kept."""
        _check_count(len(request.offsets), OFFSETS_PER_REQUEST_MAX, "offsets")
        commit = messages.commit_from_message(request)
        result = await self._host.commit(commit, timeout_ms=_timeout_ms(context))
        return messages.commit_to_message(commit.items, result)

    async def FetchOffsets(  # noqa: N802
        self, request: pb.FetchOffsetsRequest, context: Context
    ) -> pb.FetchOffsetsResponse:
        """Read committed offsets. Cancellation: atomic."""
        _check_partitions(request.topics)
        found = await self._host.fetch(messages.fetch_from_message(request), timeout_ms=_timeout_ms(context))
        return pb.FetchOffsetsResponse(offsets=[messages.offset_to_message(item) for item in found])

    async def DeleteOffsets(  # noqa: N802
        self, request: pb.DeleteOffsetsRequest, context: Context
    ) -> pb.DeleteOffsetsResponse:
        """Forget committed offsets. Cancellation: they may be forgotten."""
        _check_partitions(request.topics)
        deletion = messages.delete_offsets_from_message(request)
        result = await self._host.delete_offsets(deletion, timeout_ms=_timeout_ms(context))
        return messages.delete_offsets_to_message(deletion, result)

    # -- people ----------------------------------------------------------------------------------------------------

    async def ListGroups(self, request: pb.ListGroupsRequest, context: Context) -> pb.ListGroupsResponse:  # noqa: N802
        """List the groups that this broker coordinates. Cancellation: atomic."""
        unknown = [state for state in request.states if state not in STATES]
        if unknown:
            raise InvalidRequest(f"there is no group state {unknown[0]!r}: {', '.join(STATES)}")
        listings, loading = await self._host.list_groups()
        return pb.ListGroupsResponse(
            groups=[
                messages.listing_to_message(listing)
                for listing in listings
                if not request.states or listing.state in request.states
            ],
            loading_partitions=loading,
        )

    async def DescribeGroups(  # noqa: N802
        self, request: pb.DescribeGroupsRequest, context: Context
    ) -> pb.DescribeGroupsResponse:
        """Show groups; errors are per group. Cancellation: atomic."""

        async def describe(group: str) -> pb.GroupDescription:
            description = await self._host.describe(group, timeout_ms=_timeout_ms(context))
            return messages.description_to_message(description, coordinator_id=self._coordinator_id)

        return pb.DescribeGroupsResponse(
            groups=await _each(
                request.groups, describe, lambda group, error: pb.GroupDescription(group=group, error=error)
            )
        )

    async def DeleteGroups(  # noqa: N802
        self, request: pb.DeleteGroupsRequest, context: Context
    ) -> pb.DeleteGroupsResponse:
        """Forget groups without members; errors are per group. Cancellation: some may be forgotten."""

        async def delete(group: str) -> pb.DeleteGroupResult:
            await self._host.delete(group, timeout_ms=_timeout_ms(context))
            return pb.DeleteGroupResult(group=group)

        return pb.DeleteGroupsResponse(
            results=await _each(
                request.groups, delete, lambda group, error: pb.DeleteGroupResult(group=group, error=error)
            )
        )

    async def ListGroupEvents(  # noqa: N802
        self, request: pb.ListGroupEventsRequest, context: Context
    ) -> pb.ListGroupEventsResponse:
        """What happened in a group. Cancellation: atomic."""
        events = await self._host.events(
            request.group, request.after_sequence, request.count_max, timeout_ms=_timeout_ms(context)
        )
        return messages.events_to_message(events)


async def _each(
    groups: Sequence[str], work: Callable[[str], Awaitable[Answer]], failed: Callable[[str, Any], Answer]
) -> list[Answer]:
    """One answer per group, in order."""
    _check_count(len(groups), GROUPS_PER_REQUEST_MAX, "groups")
    answers: list[Answer] = []
    for group in groups:
        try:
            answers.append(await work(group))
        except LogClusterError as error:
            answers.append(failed(group, error_detail(error)))
    return answers


def _check_partitions(topics: Iterable[pb.TopicPartitions]) -> None:
    """Before they are read: a message has room for millions."""
    _check_count(sum(len(topic.partitions) for topic in topics), OFFSETS_PER_REQUEST_MAX, "partitions")


def _check_count(count: int, count_max: int, what: str) -> None:
    if count > count_max:
        raise InvalidRequest(f"{count} {what} in one request, at most {count_max} are possible")


def _place(group: str, place: CoordinatorPlace | LogClusterError) -> pb.Coordinator:
    if isinstance(place, LogClusterError):
        return pb.Coordinator(group=group, error=error_detail(place))
    return pb.Coordinator(
        group=group,
        broker_id=place.broker_id,
        host=place.host,
        grpc_port=place.grpc_port,
        lane_port=place.lane_port,
        topic=place.topic,
        partition=place.partition,
        leader_epoch=place.leader_epoch,
    )


def _timeout_ms(context: Context) -> int:
    """What is left of the call's time."""
    remaining_s = context.time_remaining()
    if remaining_s is None:
        return REQUEST_DEADLINE_MS_DEFAULT
    return max(1, min(int(remaining_s * 1000), DEADLINE_MS_MAX))


def _client_host(context: Context) -> str:
    """The caller's address without family and port: `ipv4:10.0.0.7:4711` is 10.0.0.7.

    The brackets of an IPv6 address are percent-encoded by grpc; the lane writes none.
    """
    peer: str = context.peer()
    family, separator, address = peer.partition(":")
    if not separator or family not in ("ipv4", "ipv6"):
        return peer
    host = address.rpartition(":")[0]
    return (unquote(host) if host.startswith("%5B") else host).strip("[]")
