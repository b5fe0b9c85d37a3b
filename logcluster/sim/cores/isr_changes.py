"""Changes of the in-sync set on their way from one leader to the controller, as `broker.isr_updates` sends them.

One is under way at a time; an unknown outcome is asked again, unchanged. What an answer means is `LeaderState`'s.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from logcluster.core.controller.requests import (
    AlterPartition,
    AlterPartitionResult,
    AlterPartitions,
    IsrMember,
    Response,
)
from logcluster.core.replication.in_sync import AlterReaction, IsrProposal
from logcluster.core.replication.leader import LeaderState
from logcluster.model.errors import LogClusterError, UnknownServerError

if TYPE_CHECKING:
    from logcluster.sim.cores.sim_broker import SimBroker

RETRY_MS: Final = 25


class IsrChanges:
    """The changes of one broker process."""

    def __init__(self, broker: SimBroker) -> None:
        self._broker = broker
        self._is_altering = False
        self._is_alter_due = False

    def request(self) -> None:
        """Look whether the set has to change, and propose it; later, if a change is under way."""
        if self._is_altering:
            self._is_alter_due = True
            return
        proposal = None if self._broker.leader is None else self._broker.leader.propose(self._broker.world.now_ms)
        if proposal is not None:
            self._broker.world.book.probe(f"core.replication.in_sync_{proposal.kind.value}")
            self._send(proposal)
            if self._broker.world.on_expand is not None and self._broker.leader is not None:
                for member, _ in proposal.members:
                    if member not in self._broker.leader.in_sync_replicas:
                        self._broker.world.on_expand(self._broker.world.brokers[member])

    def _send(self, proposal: IsrProposal) -> None:
        self._is_altering = True
        topic_id = self._broker.world.controller.topic_id
        assert topic_id is not None
        request = AlterPartitions(
            broker_id=self._broker.broker_id,
            broker_epoch=self._broker.broker_epoch or 0,
            partitions=(
                AlterPartition(
                    topic_id=topic_id,
                    partition=0,
                    leader_epoch=proposal.leader_epoch,
                    partition_epoch=proposal.partition_epoch,
                    new_in_sync_replicas=tuple(IsrMember(broker_id=a, broker_epoch=b) for a, b in proposal.members),
                ),
            ),
        )

        def answered(response: Response | LogClusterError) -> None:
            self._answered(proposal, response)

        self._broker.world.call_controller(self._broker, request, answered)

    def _answered(self, proposal: IsrProposal, response: Response | LogClusterError) -> None:
        self._is_altering = False
        leader = self._broker.leader
        if leader is not None and leader.pending is proposal:
            reaction = self._settle(leader, proposal, response)
            again = leader.pending
            if again is not None and reaction in {AlterReaction.RETRY, AlterReaction.SETTLE}:
                self._is_altering = True
                self._broker.later(RETRY_MS, self._retry, again)
                return
            if leader.high_watermark > self._broker.high_watermark:
                self._broker.advance_to(leader.high_watermark)
            self._broker.fail_waiters_under_min()
        if self._is_alter_due:
            self._is_alter_due = False
            self.request()

    def _retry(self, proposal: IsrProposal) -> None:
        self._is_altering = False
        if self._broker.leader is not None and self._broker.leader.pending is proposal:
            self._send(proposal)
        else:
            self.request()

    def _settle(
        self, leader: LeaderState, proposal: IsrProposal, response: Response | LogClusterError
    ) -> AlterReaction:
        now_ms = self._broker.world.now_ms
        error: LogClusterError = UnknownServerError("no result")
        if isinstance(response, LogClusterError):
            error = response
        elif isinstance(response, tuple) and isinstance(response[0], AlterPartitionResult):
            result = response[0]
            if result.error is None:
                reaction, _ = leader.on_alter_success(
                    proposal,
                    leader_epoch=result.leader_epoch,
                    partition_epoch=result.partition_epoch,
                    in_sync_replicas=result.in_sync_replicas,
                    is_recovering=result.recovering,
                    now_ms=now_ms,
                )
                return reaction
            error = result.error
        reaction = leader.on_alter_error(proposal, error, now_ms)
        self._broker.world.book.probe(f"core.replication.change_{reaction.value.replace(' ', '_')}")
        return reaction
