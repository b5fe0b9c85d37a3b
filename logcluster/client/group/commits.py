"""Committed offsets of one group, as a member keeps and reads them."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from typing import Final, NamedTuple

from logcluster.client.group.coordinator import CoordinatorCalls
from logcluster.client.group.membership import AssignedPartition, Membership, to_assignment
from logcluster.client.retry import Doubt
from logcluster.model.errors import LogClusterError
from logcluster.wire.gen.logcluster.v1 import groups_pb2 as pb
from logcluster.wire.status import error_from_detail

COMMIT_TIMEOUT_MS: Final = 10_000


class Position(NamedTuple):
    """A place to go on from, as it is committed."""

    offset: int
    """Of the next record to read."""
    leader_epoch: int | None
    """Of the record before it, as far as known."""
    metadata: str = ""


class Commits:
    """Commits and fetches of a member."""

    def __init__(self, membership: Membership, calls: CoordinatorCalls) -> None:
        self._membership = membership
        self._calls = calls
        self._lock = asyncio.Lock()
        self._sequence = 0

    async def commit(
        self, positions: Mapping[AssignedPartition, Position], *, timeout_ms: int = COMMIT_TIMEOUT_MS
    ) -> dict[AssignedPartition, LogClusterError]:
        """Commit, one after the other; returns what was refused, and why. What is not in the answer is durable.

        Raises:
            UnknownMemberId: the membership is over.
            LogClusterError: the outcome is unknown, or nothing was committed.
        Cancellation: it may be committed.
        """
        if not positions:
            return {}
        async with self._lock:
            return await self._commit(positions, timeout_ms)

    async def _commit(
        self, positions: Mapping[AssignedPartition, Position], timeout_ms: int
    ) -> dict[AssignedPartition, LogClusterError]:
        membership = self._membership
        self._sequence += 1
        order = sorted(positions)
        request = pb.CommitOffsetsRequest(
            group=membership.options.group,
            member_id=membership.member_id,
            member_epoch=membership.member_epoch,
            sequence=self._sequence,
        )
        for item in order:
            position = positions[item]
            offset = request.offsets.add(
                topic=item.topic,
                topic_id=item.topic_id,
                partition=item.partition,
                offset=position.offset,
                metadata=position.metadata,
            )
            if position.leader_epoch is not None:
                offset.leader_epoch = position.leader_epoch
        with Doubt("the offsets were committed") as doubt:
            response: pb.CommitOffsetsResponse = await self._calls.call(
                request.group, lambda stub: stub.CommitOffsets, request, timeout_ms=timeout_ms, on_failure=doubt.note
            )
        return {
            item: doubt.about(error_from_detail(result.error))
            for item, result in zip(order, response.results, strict=True)
            if result.HasField("error") and result.error.code
        }

    async def fetch(
        self, partitions: Collection[AssignedPartition], *, timeout_ms: int = COMMIT_TIMEOUT_MS
    ) -> dict[AssignedPartition, Position]:
        """Read what is committed; partitions without an offset are left out.

        Raises:
            UnknownMemberId, FencedMemberEpoch: the membership is over.
            LogClusterError: the coordinator could not be asked.
        """
        membership = self._membership
        request = pb.FetchOffsetsRequest(
            group=membership.options.group,
            topics=to_assignment(partitions).topics,
            member_id=membership.member_id,
            member_epoch=membership.member_epoch,
        )
        response: pb.FetchOffsetsResponse = await self._calls.call(
            request.group, lambda stub: stub.FetchOffsets, request, timeout_ms=timeout_ms
        )
        wanted = {(item.topic_id, item.partition): item for item in partitions}
        found: dict[AssignedPartition, Position] = {}
        for offset in response.offsets:
            item = wanted.get((offset.topic_id, offset.partition))
            if item is not None and offset.HasField("offset"):
                epoch = offset.leader_epoch if offset.HasField("leader_epoch") else None
                found[item] = Position(offset.offset, epoch, offset.metadata)
        return found
