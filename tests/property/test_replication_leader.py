"""The leader under random reports, appends and answers: what no order of events may break."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from logcluster.core.metadata.image import PartitionRegistration
from logcluster.core.replication.in_sync import AlterReaction, IsrProposal, LeaderSettings
from logcluster.core.replication.leader import LeaderState
from logcluster.model.errors import Disconnected, FencedLeaderEpoch, IneligibleReplica, NotController
from logcluster.model.ids import TopicId

REPLICAS = (1, 2, 3, 4)
LAG_MS = 100


class LeaderMachine(RuleBasedStateMachine):
    """A leader, the controller's committed state, and what the followers really hold."""

    @initialize(in_sync=st.sets(st.sampled_from(REPLICAS[1:])), end=st.integers(0, 20), minimum=st.integers(1, 4))
    def start(self, in_sync: set[int], end: int, minimum: int) -> None:
        self.now_ms = 0
        self.active = {broker_id: 100 + broker_id for broker_id in REPLICAS}
        self.committed = PartitionRegistration(
            topic_id=TopicId(b"t" * 16),
            partition=0,
            replicas=REPLICAS,
            in_sync_replicas=(1, *sorted(in_sync)),
            eligible_leader_replicas=(),
            last_known_leaders=(),
            leader_id=1,
            leader_epoch=3,
            partition_epoch=0,
            is_recovering=False,
        )
        self.leader = LeaderState(
            self.committed,
            LeaderSettings(
                local_broker_id=1,
                local_broker_epoch=101,
                min_in_sync_replicas=minimum,
                replica_lag_time_ms_max=LAG_MS,
                active_broker_epochs=self.active,
            ),
            log_end_offset=end,
            reported_offset=end,
            high_watermark=end // 2,
            now_ms=0,
        )
        self.held = dict.fromkeys(REPLICAS, 0)
        self.held[1] = end
        self.high_watermark_before = self.leader.high_watermark
        self.sent_to_controller: list[IsrProposal] = []
        self.unanswered: list[IsrProposal] = []
        """Copies on their way: nobody knows whether they will arrive."""

    @rule(count=st.integers(1, 5), flush=st.booleans())
    def append(self, count: int, flush: bool) -> None:
        self.leader.on_append(self.leader.log_end_offset + count, self.now_ms)
        if flush:
            self.flush()

    @rule()
    def flush(self) -> None:
        self.held[1] = self.leader.log_end_offset
        self.leader.on_local_report(self.leader.log_end_offset, self.now_ms)

    @rule(broker_id=st.sampled_from(REPLICAS[1:]), share=st.floats(0, 1))
    def report(self, broker_id: int, share: float) -> None:
        held = self.held[broker_id]
        self.held[broker_id] = held + round((self.leader.log_end_offset - held) * share)
        self.leader.on_replica_report(
            broker_id,
            broker_epoch=100 + broker_id,
            reported_offset=self.held[broker_id],
            log_end_offset=self.held[broker_id],
            log_start_offset=0,
            now_ms=self.now_ms,
        )

    @rule(elapsed_ms=st.integers(1, 2 * LAG_MS))
    def pass_time(self, elapsed_ms: int) -> None:
        self.now_ms += elapsed_ms
        self.leader.recheck(self.now_ms)

    @rule(broker_id=st.sampled_from(REPLICAS[1:]), active=st.booleans())
    def fence_or_unfence(self, broker_id: int, active: bool) -> None:
        if active:
            self.active[broker_id] = 100 + broker_id
        else:
            self.active.pop(broker_id, None)

    @rule()
    def propose(self) -> None:
        proposal = self.leader.propose(self.now_ms)
        if proposal is not None:
            self.sent_to_controller.append(proposal)

    @precondition(lambda self: self.sent_to_controller)
    @rule(which=st.integers(0, 3))
    def late_copy(self, which: int) -> None:
        """A copy of an earlier proposal arrives; its answer is lost."""
        proposal = self.sent_to_controller[-1 - which % len(self.sent_to_controller)]
        is_lost = proposal in self.unanswered
        if is_lost and proposal.partition_epoch == self.committed.partition_epoch:
            self._apply(proposal)

    @precondition(lambda self: self.sent_to_controller)
    @rule(apply=st.booleans(), answer=st.sampled_from(["ok", "lost", "ineligible", "stale", "elsewhere"]))
    def controller(self, apply: bool, answer: str) -> None:
        proposal = self.sent_to_controller[-1]
        if self.leader.pending is not proposal:
            return  # it is not sent again
        if answer == "ineligible" or proposal.partition_epoch != self.committed.partition_epoch:
            reaction = self.leader.on_alter_error(
                proposal,
                IneligibleReplica()
                if proposal.partition_epoch == self.committed.partition_epoch
                else FencedLeaderEpoch(),
                self.now_ms,
            )
            if reaction is AlterReaction.SETTLE:
                assert self.leader.pending is not None
                self.sent_to_controller.append(self.leader.pending)
            return
        if apply:
            self._apply(proposal)
            if answer == "ok":
                self.leader.on_alter_success(
                    proposal,
                    leader_epoch=3,
                    partition_epoch=self.committed.partition_epoch,
                    in_sync_replicas=self.committed.in_sync_replicas,
                    is_recovering=False,
                    now_ms=self.now_ms,
                )
                return
        is_definite = answer == "elsewhere" and not apply
        if not is_definite and not apply:
            self.unanswered.append(proposal)
        self.leader.on_alter_error(proposal, NotController() if is_definite else Disconnected(), self.now_ms)

    def _apply(self, proposal: IsrProposal) -> None:
        self.committed = replace(
            self.committed,
            in_sync_replicas=tuple(broker_id for broker_id, _ in proposal.members),
            partition_epoch=proposal.partition_epoch + 1,
        )

    @rule()
    def metadata(self) -> None:
        self.leader.on_metadata(self.committed, self.now_ms)

    @invariant()
    def holds(self) -> None:
        if not hasattr(self, "leader"):
            return
        leader = self.leader
        leader.check()
        assert set(self.committed.in_sync_replicas) <= set(leader.maximal_in_sync_replicas)
        assert leader.high_watermark >= self.high_watermark_before, "the high watermark went back"
        if leader.high_watermark > self.high_watermark_before:
            holders = {broker_id for broker_id, held in self.held.items() if held >= leader.high_watermark}
            assert set(self.committed.in_sync_replicas) <= holders, "committed beyond a committed in-sync replica"
            assert set(leader.maximal_in_sync_replicas) <= holders
            assert len(leader.in_sync_replicas) >= leader.effective_min_in_sync_replicas
        self.high_watermark_before = leader.high_watermark


TestLeader = LeaderMachine.TestCase
TestLeader.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
