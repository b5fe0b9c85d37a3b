"""A change of the in-sync set whose first copy is late: the real leader state against the real controller.

The controller of these tests is brokers 0, 1 and 2; broker 0 leads, 2 has left the in-sync set and wants back in.
"""

from __future__ import annotations

import pytest
from controller_bench import Bench

from logcluster.core.controller.requests import AlterPartition, AlterPartitions, IsrMember
from logcluster.core.replication.in_sync import AlterReaction, LeaderSettings, ProposalKind
from logcluster.core.replication.leader import PROPOSAL_BACKOFF_MS, LeaderState
from logcluster.model.errors import IneligibleReplica, InvalidUpdateVersion, RequestTimedOut

LAG_MS = 10_000


class Duel:
    """One leader, and the controller that decides about its in-sync set."""

    def __init__(self, in_sync=(0, 1)):
        self.bench = Bench(3)
        self.bench.topic(min_insync_replicas="2")
        if in_sync != (0, 1, 2):
            self.bench.alter(in_sync)
        self.active = {broker_id: self.bench.epoch(broker_id) for broker_id in (0, 1, 2)}
        settings = LeaderSettings(
            local_broker_id=0,
            local_broker_epoch=self.bench.epoch(0),
            min_in_sync_replicas=2,
            replica_lag_time_ms_max=LAG_MS,
            active_broker_epochs=self.active,
        )
        self.leader = LeaderState(
            self.bench.part(), settings, log_end_offset=10, reported_offset=10, high_watermark=10, now_ms=0
        )
        self.report(1, 10)

    def report(self, broker_id, offset, now_ms=0):
        self.leader.on_replica_report(
            broker_id,
            broker_epoch=self.bench.epoch(broker_id),
            reported_offset=offset,
            log_end_offset=offset,
            log_start_offset=0,
            now_ms=now_ms,
        )
        self.leader.check()

    def append(self, offset, now_ms=0):
        self.leader.on_append(offset, now_ms)
        self.leader.on_local_report(offset, now_ms)

    def arrive(self, proposal):
        """A copy of the proposal reaches the controller; returns its answer."""
        part = self.bench.part()
        item = AlterPartition(
            topic_id=part.topic_id,
            partition=0,
            leader_epoch=proposal.leader_epoch,
            partition_epoch=proposal.partition_epoch,
            new_in_sync_replicas=tuple(IsrMember(broker_id=a, broker_epoch=b) for a, b in proposal.members),
        )
        (result,) = self.bench.do(AlterPartitions(broker_id=0, broker_epoch=self.bench.epoch(0), partitions=(item,)))
        return result

    def answer(self, proposal, result, now_ms=0):
        """The leader hears an answer; returns its reaction."""
        if result.error is not None:
            reaction = self.leader.on_alter_error(proposal, result.error, now_ms)
        else:
            reaction, _ = self.leader.on_alter_success(
                proposal,
                leader_epoch=result.leader_epoch,
                partition_epoch=result.partition_epoch,
                in_sync_replicas=result.in_sync_replicas,
                is_recovering=result.recovering,
                now_ms=now_ms,
            )
        self.leader.check()
        return reaction

    def refused_in_doubt(self):
        """The first copy is on its way somewhere, the second one was refused: broker 2 is fenced for a moment."""
        self.report(2, 10)
        proposal = self.leader.propose(0)
        assert proposal is not None
        assert proposal.kind is ProposalKind.EXPAND
        assert self.leader.on_alter_error(proposal, RequestTimedOut(), 0) is AlterReaction.RETRY
        self.bench.fence(2)
        refused = self.arrive(proposal)
        assert isinstance(refused.error, IneligibleReplica)
        reaction = self.answer(proposal, refused)
        self.bench.beat(2)
        return proposal, reaction


@pytest.fixture
def duel():
    return Duel()


def test_a_refused_newcomer_is_waited_for_while_an_earlier_copy_may_arrive(duel):
    late, _ = duel.refused_in_doubt()
    assert duel.arrive(late).error is None
    assert duel.bench.part().in_sync_replicas == (0, 1, 2)
    duel.append(11)
    duel.report(1, 11)
    assert 2 in duel.leader.maximal_in_sync_replicas
    assert duel.leader.high_watermark == 10, "a committed member does not hold it"
    duel.leader.on_metadata(duel.bench.part(), 0)
    duel.report(2, 11)
    assert duel.leader.high_watermark == 11


def test_the_doubt_ends_with_a_newer_partition_epoch_that_refuses_every_late_copy(duel):
    late, reaction = duel.refused_in_doubt()
    assert reaction is AlterReaction.SETTLE
    settling = duel.leader.pending
    assert settling.kind is ProposalKind.SETTLE
    assert [broker_id for broker_id, _ in settling.members] == [0, 1]
    before = duel.bench.part()
    result = duel.arrive(settling)
    assert result.error is None
    after = duel.bench.part()
    assert after.in_sync_replicas == (0, 1)
    assert (after.leader_epoch, after.partition_epoch) == (before.leader_epoch, before.partition_epoch + 1)
    assert duel.answer(settling, result) is AlterReaction.APPLIED
    assert duel.leader.maximal_in_sync_replicas == (0, 1)
    assert isinstance(duel.arrive(late).error, InvalidUpdateVersion)
    duel.append(11)
    duel.report(1, 11)
    # Broker 2 may join again, and until then the leader waits for it of its own accord; then it is too slow.
    assert duel.leader.recheck(LAG_MS + 1)
    assert duel.leader.high_watermark == 11
    assert duel.bench.part().in_sync_replicas == (0, 1)


def test_the_late_copy_may_win_against_the_settling_proposal(duel):
    late, _ = duel.refused_in_doubt()
    settling = duel.leader.pending
    assert duel.arrive(late).error is None
    overtaken = duel.arrive(settling)
    assert isinstance(overtaken.error, InvalidUpdateVersion)
    assert duel.answer(settling, overtaken) is AlterReaction.WAIT_FOR_METADATA
    assert duel.leader.maximal_in_sync_replicas == (0, 1, 2)
    duel.leader.on_metadata(duel.bench.part(), 0)
    assert duel.leader.in_sync_replicas == (0, 1, 2)
    assert duel.leader.pending is None


def test_metadata_of_the_same_partition_epoch_settles_nothing_and_a_newer_one_does(duel):
    duel.refused_in_doubt()
    duel.leader.on_metadata(duel.bench.part(), 0)
    assert duel.leader.maximal_in_sync_replicas == (0, 1, 2)
    duel.bench.fence(1)
    duel.leader.on_metadata(duel.bench.part(), 0)
    assert duel.leader.maximal_in_sync_replicas == (0,)
    assert duel.leader.pending is None


def test_an_answer_without_a_newer_partition_epoch_leaves_the_doubt_and_it_is_asked_again(duel):
    duel.refused_in_doubt()
    settling = duel.leader.pending
    part = duel.bench.part()
    duel.leader.on_alter_success(
        settling,
        leader_epoch=part.leader_epoch,
        partition_epoch=part.partition_epoch,
        in_sync_replicas=part.in_sync_replicas,
        is_recovering=False,
        now_ms=0,
    )
    duel.leader.check()
    assert duel.leader.maximal_in_sync_replicas == (0, 1, 2)
    assert duel.leader.propose(0) is None
    assert duel.leader.wants_change(PROPOSAL_BACKOFF_MS)
    assert duel.leader.propose(PROPOSAL_BACKOFF_MS).kind is ProposalKind.SETTLE


def test_a_refused_settling_proposal_leaves_the_doubt(duel):
    duel.refused_in_doubt()
    settling = duel.leader.pending
    assert duel.leader.on_alter_error(settling, IneligibleReplica(), 5) is AlterReaction.ROLLED_BACK
    duel.leader.check()
    assert duel.leader.maximal_in_sync_replicas == (0, 1, 2)
    assert duel.leader.propose(5 + PROPOSAL_BACKOFF_MS).kind is ProposalKind.SETTLE


def test_a_refusal_without_an_earlier_unknown_outcome_is_proof(duel):
    duel.report(2, 10)
    proposal = duel.leader.propose(0)
    duel.bench.fence(2)
    assert duel.answer(proposal, duel.arrive(proposal)) is AlterReaction.ROLLED_BACK
    assert duel.leader.maximal_in_sync_replicas == (0, 1)


def test_a_late_copy_of_a_refused_shrink_only_makes_the_leader_wait_for_more(duel):
    duel = Duel(in_sync=(0, 1, 2))
    duel.report(1, 10, now_ms=LAG_MS + 1)
    proposal = duel.leader.propose(LAG_MS + 1)
    assert proposal.kind is ProposalKind.SHRINK
    duel.leader.on_alter_error(proposal, RequestTimedOut(), 0)
    assert duel.leader.on_alter_error(proposal, IneligibleReplica(), 0) is AlterReaction.ROLLED_BACK
    assert duel.leader.maximal_in_sync_replicas == (0, 1, 2)
    assert duel.arrive(proposal).error is None
    assert set(duel.bench.part().in_sync_replicas) < set(duel.leader.maximal_in_sync_replicas)


def test_the_committed_set_is_confirmed_also_while_a_member_shuts_down(duel):
    """Nobody joins by it, so nobody has to be eligible: a doubt must always be possible to settle."""
    part = duel.bench.part()
    result = duel.bench.alter((0, 1), epochs={1: 0})
    assert result.error is None
    assert result.partition_epoch == part.partition_epoch + 1
    assert duel.bench.part().in_sync_replicas == (0, 1)


def test_only_the_leader_with_both_epochs_confirms(duel):
    part = duel.bench.part()
    assert duel.bench.alter((0, 1), sender=1).error is not None
    assert isinstance(duel.bench.alter((0, 1), partition_epoch=part.partition_epoch - 1).error, InvalidUpdateVersion)
    assert duel.bench.part() == part
