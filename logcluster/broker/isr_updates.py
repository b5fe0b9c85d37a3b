"""Carries in-sync-set changes of led partitions to the controller, many partitions in one request.

One request is under way at a time; what becomes due meanwhile goes into the next one. What an answer means is decided
by `LeaderState`; an unknown outcome is asked again unchanged, so that it can only make commitment harder. `LeaderState`
must hear of every unknown outcome, so the controller's client does not send a proposal again by itself after one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, Protocol

from logcluster.broker.partition import Partition
from logcluster.broker.role_events import tell_in_sync_change
from logcluster.core.replication.in_sync import AlterReaction, IsrProposal
from logcluster.model.errors import LogClusterError, StaleBrokerEpoch, UnknownServerError
from logcluster.runtime.clock import Clock
from logcluster.runtime.event_log import FEW, get_logger
from logcluster.runtime.failpoints import failpoint
from logcluster.wire.gen.logcluster.internal.v1 import controller_pb2 as pb
from logcluster.wire.status import error_from_detail

log = get_logger("isr")

RETRY_MS: Final = 50
PARTITIONS_PER_REQUEST_MAX: Final = 2_000


class IsrController(Protocol):
    """The part of the controller's client that is used here."""

    async def alter_partitions(self, request: pb.AlterPartitionsRequest) -> pb.AlterPartitionsResponse:
        """Raises LogClusterError, definite or not."""
        ...


class IsrUpdates:
    """Proposals on their way; `run` it in a scope."""

    def __init__(
        self, controller: IsrController, *, broker_id: int, broker_epoch: Callable[[], int | None], clock: Clock
    ) -> None:
        self._controller = controller
        self._broker_id = broker_id
        self._broker_epoch = broker_epoch
        self._clock = clock
        self._requested: dict[Partition, None] = {}
        self._unanswered: dict[Partition, IsrProposal] = {}
        self._waiter: asyncio.Future[None] | None = None

    def request(self, partition: Partition) -> None:
        """Look at `partition` soon: its in-sync set may have to change."""
        self._requested[partition] = None
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def run(self) -> None:
        """Send what is due; until cancelled."""
        while True:
            if not self._requested and not self._unanswered:
                self._waiter = asyncio.get_running_loop().create_future()
                await self._waiter
                self._waiter = None
                continue
            proposals = self._collect()
            if not proposals:
                continue
            if await self._send(proposals):
                await self._clock.sleep_ms(RETRY_MS)

    def _collect(self) -> dict[Partition, IsrProposal]:
        proposals: dict[Partition, IsrProposal] = {}
        for partition, proposal in self._unanswered.items():
            if partition.leader is not None and partition.leader.pending is proposal:
                proposals[partition] = proposal
        self._unanswered = {}
        now_ms = self._clock.monotonic_ms()
        for partition in list(self._requested)[:PARTITIONS_PER_REQUEST_MAX]:
            del self._requested[partition]
            new = None if partition.leader is None else partition.leader.propose(now_ms)
            if new is not None:
                proposals[partition] = new
        return proposals

    async def _send(self, proposals: dict[Partition, IsrProposal]) -> bool:
        """Send one request and take in the answer; returns whether something is to be sent again."""
        broker_epoch = self._broker_epoch()
        request = pb.AlterPartitionsRequest(broker_id=self._broker_id, broker_epoch=broker_epoch or 0)
        for partition, proposal in proposals.items():
            request.partitions.add(
                topic_id=partition.topic_id,
                partition=partition.index,
                leader_epoch=proposal.leader_epoch,
                partition_epoch=proposal.partition_epoch,
                new_in_sync_replicas=[
                    pb.IsrMember(broker_id=member_id, broker_epoch=member_epoch)
                    for member_id, member_epoch in proposal.members
                ],
            )
        results: dict[tuple[bytes, int], pb.AlterPartitionResult] = {}
        failure: LogClusterError = UnknownServerError("the controller did not answer for this partition")
        try:
            if broker_epoch is None:
                raise StaleBrokerEpoch("this broker is not registered")
            failpoint("replication.isr.before_propose")
            response = await self._controller.alter_partitions(request)
            failpoint("replication.isr.after_answer")
            results = {(result.topic_id, result.partition): result for result in response.partitions}
        except LogClusterError as error:
            failure = error
        must_retry = False
        applied = 0
        for partition, proposal in proposals.items():
            result = results.get((partition.topic_id, partition.index))
            if result is None:
                reaction = self._refused(partition, proposal, failure, of=len(proposals))
            elif result.HasField("error"):
                reaction = self._refused(partition, proposal, error_from_detail(result.error), of=len(proposals))
            else:
                reaction = self._applied(partition, proposal, result, of=len(proposals))
            applied += reaction is AlterReaction.APPLIED
            if reaction is AlterReaction.RETRY:
                self._unanswered[partition] = proposal
                must_retry = True
            elif reaction is AlterReaction.SETTLE and partition.leader is not None and partition.leader.pending:
                self._unanswered[partition] = partition.leader.pending
                must_retry = True
        if len(proposals) > FEW:
            log.info("in_sync_changes_answered", partitions=len(proposals), applied=applied)
        return must_retry

    def _applied(
        self, partition: Partition, proposal: IsrProposal, result: pb.AlterPartitionResult, *, of: int
    ) -> AlterReaction:
        leader = partition.leader
        if leader is None:
            return AlterReaction.IGNORED
        in_sync_before = leader.in_sync_replicas
        reaction, _ = leader.on_alter_success(
            proposal,
            leader_epoch=result.leader_epoch,
            partition_epoch=result.partition_epoch,
            in_sync_replicas=tuple(result.in_sync_replicas),
            is_recovering=result.recovering,
            now_ms=self._clock.monotonic_ms(),
        )
        if reaction is AlterReaction.APPLIED:
            failpoint("replication.isr.before_release")
            tell_in_sync_change(partition, in_sync_before, of=of, why_out=lambda _: "lagging")
            partition.on_isr_committed()
        return reaction

    def _refused(
        self, partition: Partition, proposal: IsrProposal, error: LogClusterError, *, of: int
    ) -> AlterReaction:
        leader = partition.leader
        if leader is None:
            return AlterReaction.IGNORED
        reaction = leader.on_alter_error(proposal, error, self._clock.monotonic_ms())
        if reaction is AlterReaction.RETRY:
            log.debug(
                "in_sync_change_retried",
                partition=str(partition.topic_partition),
                leader_epoch=proposal.leader_epoch,
                error=error.message,
            )
        elif reaction is not AlterReaction.IGNORED:
            log.each(
                "in_sync_change_refused",
                of=of,
                partition=str(partition.topic_partition),
                leader_epoch=proposal.leader_epoch,
                proposed=[broker_id for broker_id, _ in proposal.members],
                error=error.message,
                reaction=reaction.value,
            )
        return reaction
