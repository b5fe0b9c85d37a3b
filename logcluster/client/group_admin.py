"""Administration of consumer groups; `client.admin.groups`.

Calls about one group go to its coordinator, found and followed by `CoordinatorCalls`. A list asks every broker, since
each knows the groups that it coordinates. Rules: docs/protocol/groups.md.
"""

from __future__ import annotations

import builtins
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from logcluster.client.connections import call
from logcluster.client.context import Context
from logcluster.client.group.coordinator import CoordinatorCalls
from logcluster.client.group_descriptions import (
    CommittedOffset,
    GroupEvent,
    GroupFacts,
    GroupListing,
    Item,
    OffsetChange,
    ResetPoint,
    committed_offsets,
    detail_error,
    group_event,
    group_facts,
    group_listing,
)
from logcluster.client.group_plans import group_lags, plan_reset
from logcluster.client.group_reset import ResetTopics, normalize_reset_point, wanted_topics
from logcluster.client.lag import PartitionLag
from logcluster.client.metadata import answer_from_wire
from logcluster.client.retry import Doubt, retry
from logcluster.model.errors import (
    CoordinatorLoadInProgress,
    GroupIdNotFound,
    InvalidRequest,
    LogClusterError,
    NonEmptyGroup,
)
from logcluster.model.ids import TopicPartition
from logcluster.wire.gen.logcluster.v1 import groups_pb2, metadata_pb2

STATES = ("empty", "assigning", "reconciling", "stable")
_ATTEMPT_MS = 5_000
_NO_MEMBER_EPOCH = -1


class GroupAdmin:
    """Consumer groups: list, describe, delete, offsets, lag, events, reset."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._coordinators = CoordinatorCalls(context)

    # Groups.

    async def list(self, *, states: Sequence[str] = ()) -> builtins.list[GroupListing]:
        """All groups in order of name; only those in one of `states`, if any is given.

        A group whose coordinator changes at this moment may be missing.

        Raises:
            InvalidRequest: there is no such state.
            LogClusterError: some broker did not answer within the client's request timeout.
        """
        unknown = [state for state in states if state not in STATES]
        if unknown:
            raise InvalidRequest(f"state {unknown[0]!r} is unknown", hint=f"use one of {', '.join(STATES)}")
        request = groups_pb2.ListGroupsRequest(states=states)
        context = self._context

        async def attempt(left_ms: int) -> dict[str, GroupListing]:
            response = await context.connections.ask_any(
                lambda stubs: stubs.metadata.GetMetadata, metadata_pb2.GetMetadataRequest(), timeout_ms=left_ms
            )
            answer = answer_from_wire(response)
            context.cache.apply(answer)
            found: dict[str, GroupListing] = {}
            for broker in answer.brokers:
                if not broker.is_active:
                    continue
                stub = context.connections.stubs(broker.broker_id).groups
                listed = await call(stub.ListGroups, request, timeout_ms=min(left_ms, _ATTEMPT_MS))
                if listed.loading_partitions:
                    raise CoordinatorLoadInProgress(
                        f"broker {broker.broker_id} has just taken over {len(listed.loading_partitions)} partitions "
                        "and does not know their groups yet",
                        broker_id=broker.broker_id,
                    )
                for item in listed.groups:
                    listing, other = group_listing(broker.broker_id, item), found.get(item.group)
                    # Two brokers name it when it moves between two answers.
                    if other is None or listing.group_epoch >= other.group_epoch:
                        found[item.group] = listing
            return found

        found = await retry(
            attempt,
            clock=context.clock,
            generator=context.generator,
            policy=context.policy,
            timeout_ms=context.options.request_timeout_ms,
        )
        return [found[name] for name in sorted(found)]

    async def describe(self, *groups: str) -> builtins.list[GroupFacts]:
        """State, members and committed offsets, in the order of the names.

        Raises:
            GroupIdNotFound: there is no such group.
        """
        found = []
        for group in groups:
            request = groups_pb2.DescribeGroupsRequest(groups=[group])
            response = await self._ask(group, "DescribeGroups", request, lambda answer: answer.groups)
            found.append(group_facts(response.groups[0]))
        return found

    async def delete(self, *groups: str) -> None:
        """Forget groups, their offsets and their events, one after the other.

        Raises:
            GroupIdNotFound: there is no such group.
            NonEmptyGroup: it has members. Groups named before it are deleted, those after it are not.
        Cancellation: some may be deleted.
        """
        for group in groups:
            request = groups_pb2.DeleteGroupsRequest(groups=[group])
            with Doubt(f"group {group!r} was deleted") as doubt:
                try:
                    await self._ask(
                        group, "DeleteGroups", request, lambda answer: answer.results, on_failure=doubt.note
                    )
                except GroupIdNotFound:
                    if not doubt.is_there:  # else an earlier attempt did it
                        raise

    async def events(self, group: str, *, after: int = 0, limit: int = 0) -> builtins.list[GroupEvent]:
        """What happened in a group and why, oldest first.

        Args:
            after: only events with a larger sequence number.
            limit: the newest so many; 0: all that are kept.

        Raises:
            GroupIdNotFound: there is no such group.
        """
        request = groups_pb2.ListGroupEventsRequest(group=group, after_sequence=after, count_max=limit)
        response = await self._ask(group, "ListGroupEvents", request)
        return [group_event(event) for event in response.events]

    # Offsets.

    async def offsets(self, group: str) -> dict[TopicPartition, CommittedOffset]:
        """All committed offsets, except of deleted topics; none for a group that does not exist.

        Never older than what was acknowledged before the call.
        """
        request = groups_pb2.FetchOffsetsRequest(group=group, member_epoch=_NO_MEMBER_EPOCH)
        response = await self._ask(group, "FetchOffsets", request, lambda answer: answer.offsets)
        return {
            TopicPartition(offset.topic, offset.partition): offset for offset in committed_offsets(response.offsets)
        }

    async def alter_offsets(
        self,
        group: str,
        offsets: Mapping[tuple[str, int], int],
        *,
        metadata: str = "",
        allow_out_of_range: bool = False,
    ) -> None:
        """Set committed offsets by topic and partition; a group that does not exist comes into being.

        Args:
            offsets: the next offset to read of each partition.
            metadata: a text kept with each of them.
            allow_out_of_range: take offsets beyond the end of the log, too.

        Raises:
            NonEmptyGroup: the group has members; nothing was changed.
            OffsetOutOfRange, UnknownTopicOrPartition, ...: of the first partition that was refused; says how many
                others were. Those that were not are set.
        Cancellation: the offsets may be set.
        """
        await self._commit(
            group,
            [
                groups_pb2.OffsetCommit(topic=topic, partition=partition, offset=offset, metadata=metadata)
                for (topic, partition), offset in offsets.items()
            ],
            allow_out_of_range=allow_out_of_range,
        )

    async def _commit(
        self, group: str, commits: builtins.list[groups_pb2.OffsetCommit], *, allow_out_of_range: bool = False
    ) -> None:
        if not commits:
            return
        request = groups_pb2.CommitOffsetsRequest(
            group=group, member_epoch=_NO_MEMBER_EPOCH, offsets=commits, allow_out_of_range=allow_out_of_range
        )
        hint = f"see `logcluster group describe {group}`"
        with Doubt(f"the offsets of group {group!r} were set", hint=hint) as doubt:
            response = await self._ask(group, "CommitOffsets", request, on_failure=doubt.note)
            _raise_first(response.results, "set")

    async def delete_offsets(self, group: str, partitions: Iterable[tuple[str, int]]) -> None:
        """Forget committed offsets; one that is not there is no error.

        Raises:
            GroupIdNotFound: there is no such group.
            GroupSubscribedToTopic, UnknownTopicOrPartition: of the first partition that was refused; says how
                many others were. Those that were not are deleted.
        Cancellation: the offsets may be deleted.
        """
        by_topic: dict[str, builtins.list[int]] = {}
        for topic, partition in partitions:
            by_topic.setdefault(topic, []).append(partition)
        if not by_topic:
            return
        request = groups_pb2.DeleteOffsetsRequest(
            group=group,
            topics=[groups_pb2.TopicPartitions(topic=topic, partitions=numbers) for topic, numbers in by_topic.items()],
        )
        with Doubt(f"the offsets of group {group!r} were deleted") as doubt:
            response = await self._ask(group, "DeleteOffsets", request, on_failure=doubt.note)
            _raise_first(response.results, "deleted")

    async def reset(
        self, group: str, *, to: ResetPoint | str, topics: ResetTopics | None = None, dry_run: bool = False
    ) -> builtins.list[OffsetChange]:
        """Set what a group without members reads next; returns what changes, in order of topic and partition.

        Args:
            to: "beginning", "end", an offset, a datetime or `Timestamp` (the first record at or after it; the end,
                if there is none), or a `Shift` ("+10" and "-10" work, too). What lies outside of a log becomes the
                nearest offset in it.
            topics: names, or partitions by name; by default all partitions with a committed offset. A group that
                does not exist comes into being when they are given.
            dry_run: change nothing.

        Raises:
            NonEmptyGroup: the group has members; nothing was changed. With `dry_run`, too.
            GroupIdNotFound: there is no such group, and `topics` names none.
            UnknownTopicOrPartition, LeaderNotAvailable, InvalidRequest: nothing was changed.
        Cancellation: the offsets may be set.
        """
        point, wanted = normalize_reset_point(to), wanted_topics(topics)
        offsets = await self._offsets_without_members(group, must_exist=wanted is None)
        changes, topic_ids = await plan_reset(self._context, offsets, point, wanted)
        if not dry_run:
            await self._commit(
                group,
                [
                    groups_pb2.OffsetCommit(
                        topic=change.topic,
                        topic_id=topic_ids[change.topic],
                        partition=change.partition,
                        offset=change.after,
                    )
                    for change in changes
                ],
            )
        return changes

    async def _offsets_without_members(self, group: str, *, must_exist: bool) -> Sequence[CommittedOffset]:
        try:
            (facts,) = await self.describe(group)
        except GroupIdNotFound:
            if must_exist:
                raise
            return ()
        if facts.members:
            raise NonEmptyGroup(
                f"group {group!r} has {len(facts.members)} members, which commit by themselves; nothing was changed",
                group=group,
                member_count=len(facts.members),
            )
        return facts.offsets

    async def lag(self, group: str) -> builtins.list[PartitionLag]:
        """How far the group is behind, in order of topic and partition: all it has committed or is assigned.

        Raises:
            GroupIdNotFound: there is no such group.
        """
        (facts,) = await self.describe(group)
        return await group_lags(self._context, facts)

    async def _ask(
        self,
        group: str,
        method: str,
        request: Any,
        items: Callable[[Any], Iterable[Item]] = lambda answer: (),
        *,
        on_failure: Callable[[LogClusterError], None] | None = None,
    ) -> Any:
        """Ask the coordinator.

        Args:
            items: gives the parts of an answer that may carry an error of their own, which is then the answer's.
            on_failure: told of every failed attempt.
        """
        return await self._coordinators.call(
            group,
            lambda stub: getattr(stub, method),
            request,
            first_error=lambda answer: first_error(items(answer)),
            on_failure=on_failure,
        )


def _raise_first(results: Sequence[groups_pb2.OffsetCommitResult], verb: str) -> None:
    errors = [error for error in map(detail_error, results) if error is not None]
    if not errors:
        return
    first = errors[0]
    if len(results) == 1:
        raise first
    rest = f"the other {len(results) - len(errors)} are {verb}" if len(errors) < len(results) else f"none is {verb}"
    message = f"{first.message}; {len(errors)} of {len(results)} partitions were refused, {rest}"
    raise type(first)(message, hint=first.hint, **first.facts) from first


def first_error(items: Iterable[Any]) -> LogClusterError | None:
    """The first error that items of an answer carry."""
    return next((error for error in map(detail_error, items) if error is not None), None)
