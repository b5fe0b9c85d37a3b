"""The leader's rules of protocols.md (a), one test per rule; each fails when its rule is removed."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from logcluster.core.metadata.image import PartitionRegistration
from logcluster.core.replication.in_sync import AlterReaction, IsrProposal, LeaderSettings, ProposalKind
from logcluster.core.replication.leader import PROPOSAL_BACKOFF_MS, LeaderState
from logcluster.model.errors import (
    Disconnected,
    FencedLeaderEpoch,
    IneligibleReplica,
    InvalidUpdateVersion,
    NewLeaderElected,
    NotController,
    NotEnoughReplicas,
    OffsetNotAvailable,
    RequestTimedOut,
)
from logcluster.model.ids import TopicId
from logcluster.model.invariants import InvariantViolation

LAG_MS = 10_000


def registration(
    *,
    replicas: Sequence[int] = (1, 2, 3),
    in_sync_replicas: Sequence[int] = (1, 2, 3),
    partition_epoch: int = 10,
    is_recovering: bool = False,
) -> PartitionRegistration:
    return PartitionRegistration(
        topic_id=TopicId(b"t" * 16),
        partition=0,
        replicas=tuple(replicas),
        in_sync_replicas=tuple(in_sync_replicas),
        eligible_leader_replicas=(),
        last_known_leaders=(),
        leader_id=1,
        leader_epoch=5,
        partition_epoch=partition_epoch,
        is_recovering=is_recovering,
    )


def make_leader(
    *,
    in_sync_replicas: Sequence[int] = (1, 2, 3),
    replicas: Sequence[int] = (1, 2, 3),
    min_in_sync_replicas: int = 2,
    log_end_offset: int = 0,
    high_watermark: int = 0,
    active: dict[int, int] | None = None,
    is_recovering: bool = False,
) -> LeaderState:
    return LeaderState(
        registration(replicas=replicas, in_sync_replicas=in_sync_replicas, is_recovering=is_recovering),
        LeaderSettings(
            local_broker_id=1,
            local_broker_epoch=101,
            min_in_sync_replicas=min_in_sync_replicas,
            replica_lag_time_ms_max=LAG_MS,
            active_broker_epochs={1: 101, 2: 102, 3: 103} if active is None else active,
        ),
        log_end_offset=log_end_offset,
        reported_offset=log_end_offset,
        high_watermark=high_watermark,
        now_ms=0,
    )


def append(leader: LeaderState, log_end_offset: int, now_ms: int = 0) -> None:
    leader.on_append(log_end_offset, now_ms)
    leader.on_local_report(log_end_offset, now_ms)
    leader.check()


def report(leader: LeaderState, broker_id: int, offset: int, now_ms: int = 0, broker_epoch: int | None = None) -> bool:
    moved = leader.on_replica_report(
        broker_id,
        broker_epoch=100 + broker_id if broker_epoch is None else broker_epoch,
        reported_offset=offset,
        log_end_offset=offset,
        log_start_offset=0,
        now_ms=now_ms,
    )
    leader.check()
    return moved


def proposed(leader: LeaderState, now_ms: int = 0) -> IsrProposal:
    proposal = leader.propose(now_ms)
    assert proposal is not None
    return proposal


def commit(leader: LeaderState, proposal: IsrProposal, now_ms: int = 0) -> bool:
    _, moved = leader.on_alter_success(
        proposal,
        leader_epoch=5,
        partition_epoch=proposal.partition_epoch + 1,
        in_sync_replicas=[broker_id for broker_id, _ in proposal.members],
        is_recovering=False,
        now_ms=now_ms,
    )
    leader.check()
    return moved


# -- high watermark ----------------------------------------------------------------------------------------------


def test_high_watermark_is_the_minimum_over_the_in_sync_set() -> None:
    leader = make_leader()
    append(leader, 10)
    assert not report(leader, 2, 10)
    assert leader.high_watermark == 0
    assert report(leader, 3, 7)
    assert leader.high_watermark == 7


def test_the_leaders_own_unflushed_records_are_not_committed() -> None:
    leader = make_leader()
    leader.on_append(10, 0)
    report(leader, 2, 10)
    report(leader, 3, 10)
    assert leader.high_watermark == 0
    assert leader.on_local_report(6, 0)
    assert leader.high_watermark == 6


def test_a_report_below_the_high_watermark_does_not_move_it_back() -> None:
    leader = make_leader()
    append(leader, 10)
    report(leader, 2, 10)
    report(leader, 3, 10)
    report(leader, 3, 4)
    assert leader.high_watermark == 10


def test_high_watermark_is_kept_on_election_and_never_above_the_log() -> None:
    assert make_leader(log_end_offset=20, high_watermark=12).high_watermark == 12
    assert make_leader(log_end_offset=9, high_watermark=12).high_watermark == 9


def test_high_watermark_stands_still_below_the_minimum_in_sync_set() -> None:
    leader = make_leader(in_sync_replicas=(1,))
    append(leader, 10)
    assert leader.high_watermark == 0
    with pytest.raises(NotEnoughReplicas) as refused:
        leader.check_can_commit()
    assert refused.value.definite


def test_minimum_is_never_more_than_the_replication_factor() -> None:
    leader = make_leader(replicas=(1,), in_sync_replicas=(1,), min_in_sync_replicas=2)
    append(leader, 3)
    assert leader.high_watermark == 3
    leader.check_can_commit()


def test_high_watermark_waits_for_a_caught_up_newcomer_but_not_for_a_laggard() -> None:
    leader = make_leader(in_sync_replicas=(1, 2))
    append(leader, 10)
    report(leader, 3, 10)  # caught up at time 0
    append(leader, 20)
    report(leader, 2, 20)
    assert leader.high_watermark == 10, "a caught-up joiner is waited for"
    assert leader.recheck(LAG_MS + 1)
    assert leader.high_watermark == 20, "but only for as long as it is in time"


@pytest.mark.parametrize("active", [{1: 101, 2: 102}, {1: 101, 2: 102, 3: 999}], ids=["fenced", "other epoch"])
def test_an_ineligible_outsider_is_not_waited_for(active: dict[int, int]) -> None:
    leader = make_leader(in_sync_replicas=(1, 2), active=active)
    append(leader, 10)
    report(leader, 3, 5)
    assert report(leader, 2, 10)
    assert leader.high_watermark == 10


def test_a_new_subscription_voids_what_was_reported_before() -> None:
    leader = make_leader()
    append(leader, 10)
    report(leader, 2, 10)
    leader.reset_replica(2, broker_epoch=102)
    report(leader, 3, 10)
    assert leader.high_watermark == 0
    leader.check()


def test_a_report_of_an_older_process_is_ignored() -> None:
    leader = make_leader()
    append(leader, 10)
    report(leader, 2, 0, broker_epoch=200)
    report(leader, 2, 10, broker_epoch=102)
    report(leader, 3, 10)
    assert leader.high_watermark == 0


def test_a_follower_that_claims_more_than_was_sent_is_a_bug() -> None:
    leader = make_leader()
    append(leader, 3)
    with pytest.raises(InvariantViolation):
        report(leader, 2, 4)


# -- list offsets ------------------------------------------------------------------------------------------------


def test_latest_is_unavailable_until_the_epoch_has_proved_itself() -> None:
    leader = make_leader(log_end_offset=20, high_watermark=12)
    with pytest.raises(OffsetNotAvailable):
        leader.latest_offset()
    report(leader, 2, 20)
    report(leader, 3, 20)
    assert leader.latest_offset() == 20


# -- the maximal set (KIP-497) ------------------------------------------------------------------------------------


def test_a_proposed_newcomer_counts_before_the_controller_answers() -> None:
    leader = make_leader(in_sync_replicas=(1, 2))
    append(leader, 10)
    report(leader, 2, 10)
    report(leader, 3, 10)
    proposal = proposed(leader)
    assert proposal.kind is ProposalKind.EXPAND
    assert leader.maximal_in_sync_replicas == (1, 2, 3)
    append(leader, 20, now_ms=1)
    report(leader, 2, 20, now_ms=5 * LAG_MS)
    assert leader.high_watermark == 10, "the newcomer counts even when it is late"


def test_a_proposed_leaver_counts_until_the_controller_answers() -> None:
    leader = make_leader()
    append(leader, 10)
    report(leader, 2, 10, now_ms=LAG_MS)
    proposal = proposed(leader, now_ms=LAG_MS + 1)
    assert proposal.kind is ProposalKind.SHRINK
    assert [broker_id for broker_id, _ in proposal.members] == [1, 2]
    assert not leader.recheck(LAG_MS + 2)
    assert leader.high_watermark == 0, "an unanswered shrink may not commit anything"
    assert commit(leader, proposal)
    assert leader.high_watermark == 10


def test_expansion_to_the_minimum_commits_only_once_it_is_confirmed() -> None:
    leader = make_leader(in_sync_replicas=(1,))
    append(leader, 10)
    report(leader, 2, 10)
    proposal = proposed(leader)
    assert leader.high_watermark == 0
    assert commit(leader, proposal)
    assert leader.high_watermark == 10


def test_one_change_is_in_flight_at_a_time() -> None:
    leader = make_leader(in_sync_replicas=(1,))
    append(leader, 10)
    report(leader, 2, 10)
    first = proposed(leader)
    report(leader, 3, 10)
    assert leader.propose(0) is None
    assert leader.pending is first
    commit(leader, first)
    assert [broker_id for broker_id, _ in proposed(leader).members] == [1, 2, 3]


# -- joining and leaving -----------------------------------------------------------------------------------------


def test_joining_needs_the_high_watermark() -> None:
    leader = make_leader(in_sync_replicas=(1, 2))
    append(leader, 10)
    report(leader, 2, 10)
    assert leader.high_watermark == 10
    report(leader, 3, 9)
    assert not leader.has_newcomer()
    report(leader, 3, 10)
    assert leader.has_newcomer()


def test_joining_needs_the_start_of_the_leader_epoch() -> None:
    leader = make_leader(in_sync_replicas=(1, 2), log_end_offset=20, high_watermark=12)
    report(leader, 3, 15)
    assert leader.propose(0) is None
    report(leader, 3, 20)
    assert proposed(leader).kind is ProposalKind.EXPAND


@pytest.mark.parametrize(
    "active",
    [{1: 101, 2: 102}, {1: 101, 2: 102, 3: 104}],
    ids=["fenced or shutting down (KIP-841)", "restarted since (KIP-903)"],
)
def test_an_ineligible_replica_does_not_join(active: dict[int, int]) -> None:
    leader = make_leader(in_sync_replicas=(1, 2), active=active)
    report(leader, 3, 0)
    assert leader.propose(0) is None
    active[3] = 103
    assert proposed(leader).members == ((1, 101), (2, 102), (3, 103))


def test_a_replica_that_never_reported_does_not_join() -> None:
    leader = make_leader(in_sync_replicas=(1, 2))
    assert leader.propose(0) is None


def test_a_silent_replica_leaves_after_the_lag_time_and_an_idle_one_does_not() -> None:
    leader = make_leader()
    report(leader, 2, 0)
    report(leader, 3, 0)
    assert leader.propose(10 * LAG_MS) is None, "at the end of an idle log nobody lags"
    append(leader, 10, now_ms=10 * LAG_MS)
    report(leader, 2, 10, now_ms=10 * LAG_MS)
    assert leader.propose(11 * LAG_MS) is None
    assert proposed(leader, now_ms=11 * LAG_MS + 1).members == ((1, 101), (2, 102))


def test_a_replica_that_stopped_listening_leaves_although_nothing_is_written() -> None:
    leader = make_leader()
    report(leader, 2, 0)
    report(leader, 3, 0)
    leader.on_replica_gone(3, LAG_MS)
    assert leader.propose(2 * LAG_MS) is None
    assert proposed(leader, now_ms=2 * LAG_MS + 1).members == ((1, 101), (2, 102))


def test_a_replica_that_stopped_listening_neither_joins_nor_is_waited_for() -> None:
    leader = make_leader(in_sync_replicas=(1, 2))
    report(leader, 3, 0)
    leader.on_replica_gone(3, 0)
    assert leader.propose(0) is None
    append(leader, 10)
    assert report(leader, 2, 10)
    assert leader.high_watermark == 10


def test_a_newcomer_gets_the_lag_time_to_reach_the_end() -> None:
    """Below the minimum the watermark stands still, so a replica may join far behind the end."""
    leader = make_leader(in_sync_replicas=(1,))
    append(leader, 100)
    now_ms = 50 * LAG_MS
    report(leader, 2, 10, now_ms=now_ms)
    commit(leader, proposed(leader, now_ms=now_ms), now_ms=now_ms)
    assert leader.in_sync_replicas == (1, 2)
    assert leader.propose(now_ms + LAG_MS) is None
    assert proposed(leader, now_ms=now_ms + LAG_MS + 1).kind is ProposalKind.SHRINK


def test_what_a_lost_follower_reported_still_counts() -> None:
    leader = make_leader()
    append(leader, 10)
    report(leader, 2, 10)
    report(leader, 3, 10)
    leader.on_append(20, 0)
    leader.on_replica_gone(3, 0)
    report(leader, 2, 20)
    assert leader.high_watermark == 10
    leader.check()


def test_a_healthy_follower_that_is_never_exactly_at_the_end_stays() -> None:
    leader = make_leader()
    report(leader, 3, 0)
    report(leader, 2, 0)
    for step in range(1, 40):
        now_ms = step * LAG_MS // 2
        append(leader, step * 10, now_ms=now_ms)
        report(leader, 2, step * 10, now_ms=now_ms)
        report(leader, 3, (step - 1) * 10, now_ms=now_ms)
        assert leader.propose(now_ms) is None, f"step {step}"


def test_the_leader_itself_never_leaves() -> None:
    leader = make_leader()
    append(leader, 10)
    assert [broker_id for broker_id, _ in proposed(leader, now_ms=LAG_MS + 1).members] == [1]


def test_a_recovering_leader_tells_the_controller_that_it_serves() -> None:
    leader = make_leader(in_sync_replicas=(1,), replicas=(1,), is_recovering=True)
    proposal = proposed(leader)
    assert proposal.kind is ProposalKind.RECOVERED
    commit(leader, proposal)
    assert leader.propose(1) is None


# -- the controller's answers ------------------------------------------------------------------------------------


def expanding_leader() -> tuple[LeaderState, IsrProposal]:
    leader = make_leader(in_sync_replicas=(1, 2))
    report(leader, 2, 0)
    report(leader, 3, 0)
    return leader, proposed(leader)


def test_ineligible_replica_falls_back_to_the_committed_set_and_pauses() -> None:
    leader, proposal = expanding_leader()
    assert leader.on_alter_error(proposal, IneligibleReplica(), 50) is AlterReaction.ROLLED_BACK
    assert leader.maximal_in_sync_replicas == (1, 2)
    assert leader.propose(50 + PROPOSAL_BACKOFF_MS - 1) is None
    assert leader.propose(50 + PROPOSAL_BACKOFF_MS) is not None


@pytest.mark.parametrize("error", [FencedLeaderEpoch(), InvalidUpdateVersion(), NewLeaderElected()])
def test_other_definite_errors_stay_in_flight_until_metadata_tells(error: FencedLeaderEpoch) -> None:
    leader, proposal = expanding_leader()
    assert leader.on_alter_error(proposal, error, 0) is AlterReaction.WAIT_FOR_METADATA
    assert leader.pending is proposal
    assert leader.maximal_in_sync_replicas == (1, 2, 3)
    leader.on_metadata(registration(in_sync_replicas=(1, 2), partition_epoch=11), 0)
    assert leader.pending is None
    assert leader.maximal_in_sync_replicas == (1, 2)


@pytest.mark.parametrize("error", [Disconnected(), RequestTimedOut(), NotController()])
def test_an_unknown_outcome_is_asked_again_unchanged(error: Disconnected) -> None:
    leader, proposal = expanding_leader()
    assert leader.on_alter_error(proposal, error, 0) is AlterReaction.RETRY
    assert leader.pending is proposal


def test_answers_of_another_time_are_ignored() -> None:
    leader, proposal = expanding_leader()
    for leader_epoch, partition_epoch in ((4, 11), (5, 9)):
        reaction, _ = leader.on_alter_success(
            proposal,
            leader_epoch=leader_epoch,
            partition_epoch=partition_epoch,
            in_sync_replicas=(1, 2, 3),
            is_recovering=False,
            now_ms=0,
        )
        assert reaction is AlterReaction.IGNORED
        assert leader.in_sync_replicas == (1, 2)
    leader.on_metadata(registration(in_sync_replicas=(1,), partition_epoch=12), 0)
    assert leader.on_alter_error(proposal, IneligibleReplica(), 0) is AlterReaction.IGNORED
    assert leader.in_sync_replicas == (1,)


def test_older_metadata_is_ignored() -> None:
    leader = make_leader()
    leader.on_metadata(registration(in_sync_replicas=(1,), partition_epoch=9), 0)
    assert leader.in_sync_replicas == (1, 2, 3)
    assert leader.describe().startswith("leader epoch=5/10 ")
