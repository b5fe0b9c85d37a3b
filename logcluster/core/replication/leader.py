"""What the leader of one partition knows and decides.

Owns: the progress of every remote replica, the committed in-sync set with at most one change in flight, and the high
watermark. Invariants: the high watermark never goes back and never passes this log's end; it only advances while the
committed in-sync set has its minimum size, and only to what every member of the *maximal* set reported (committed set
plus proposed newcomers; a proposed leaver still counts), so that an unanswered change can only make commitment harder.
A newcomer that was refused after an unknown outcome stays in that set (it is in doubt): a copy of the proposal may
still arrive, when it is eligible again. Only a newer partition epoch ends the doubt; a `SETTLE` proposal brings it.

A report is an acknowledgement: "I hold everything below". With `flush.mode=sync` it is the flushed offset, with `async`
the log end; this file does not care which, and the same number decides who may join.

Neighbours: `broker.partition` feeds it and performs what it returns; `core.replication.follower` is the other role.
Sources: KIP-497, KIP-841, KIP-903, KIP-966; kafka/cluster/Partition.scala and Replica.scala (behaviour only).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from logcluster.core.metadata.image import PartitionRegistration
from logcluster.core.replication.in_sync import (
    AlterReaction,
    IsrProposal,
    LeaderSettings,
    ProposalKind,
    ReplicaProgress,
)
from logcluster.model.errors import (
    IneligibleReplica,
    LogClusterError,
    NotController,
    NotEnoughReplicas,
    OffsetNotAvailable,
    OverloadedError,
    UnavailableError,
)
from logcluster.model.invariants import InvariantViolation
from logcluster.model.probes import probe

PROPOSAL_BACKOFF_MS: Final = 200
"""Pause after the controller refused a member, so that a stale view of the brokers does not become a busy loop."""
_WORTH_RETRYING: Final = (NotController, OverloadedError, UnavailableError)
"""Definite refusals that are about the controller asked or about a moment, not about the epochs in the request."""


class LeaderState:
    """The leader role of one partition in one leader epoch.

    Args:
        registration: the committed state of the partition, which names this broker as leader.
        log_end_offset: this log's end at election; the start of this leader epoch.
        reported_offset: what of the own log counts as held.
        high_watermark: the one this replica knew before; kept, never raised by the election.
    """

    __slots__ = (
        "_active",
        "_backoff_until_ms",
        "_doubtful",
        "_has_unknown_outcome",
        "_in_sync_remotes",
        "_outsiders",
        "_pending",
        "_remotes",
        "epoch_start_offset",
        "high_watermark",
        "in_sync_replicas",
        "is_recovering",
        "leader_epoch",
        "local_broker_epoch",
        "local_broker_id",
        "log_end_offset",
        "min_in_sync_replicas",
        "partition_epoch",
        "replica_lag_time_ms_max",
        "replicas",
        "reported_offset",
    )

    def __init__(
        self,
        registration: PartitionRegistration,
        settings: LeaderSettings,
        *,
        log_end_offset: int,
        reported_offset: int,
        high_watermark: int,
        now_ms: int,
    ) -> None:
        self.local_broker_id = settings.local_broker_id
        self.local_broker_epoch = settings.local_broker_epoch
        self.leader_epoch = registration.leader_epoch
        self.partition_epoch = registration.partition_epoch
        self.is_recovering = registration.is_recovering
        self.replicas = registration.replicas
        self.in_sync_replicas = registration.in_sync_replicas
        self.epoch_start_offset = log_end_offset
        self.log_end_offset = log_end_offset
        self.reported_offset = reported_offset
        self.high_watermark = min(high_watermark, log_end_offset)
        self.min_in_sync_replicas = settings.min_in_sync_replicas
        self.replica_lag_time_ms_max = settings.replica_lag_time_ms_max
        self._active = settings.active_broker_epochs
        self._pending: IsrProposal | None = None
        self._has_unknown_outcome = False
        self._doubtful: tuple[int, ...] = ()
        self._backoff_until_ms = 0
        self._remotes: dict[int, ReplicaProgress] = {}
        self._in_sync_remotes: tuple[ReplicaProgress, ...] = ()
        self._outsiders: tuple[ReplicaProgress, ...] = ()
        self._set_replicas(self.replicas, now_ms)

    # -- reads ---------------------------------------------------------------------------------------------------

    @property
    def remotes(self) -> Mapping[int, ReplicaProgress]:
        """Progress by broker id, in assignment order."""
        return self._remotes

    @property
    def pending(self) -> IsrProposal | None:
        """The change in flight; the same object is sent again until an answer settles it."""
        return self._pending

    @property
    def has_outsiders(self) -> bool:
        """Whether any replica is outside the maximal in-sync set."""
        return bool(self._outsiders)

    @property
    def maximal_in_sync_replicas(self) -> tuple[int, ...]:
        """Every broker that is, or may already be, in the committed set (KIP-497)."""
        return (self.local_broker_id, *(remote.broker_id for remote in self._in_sync_remotes))

    @property
    def effective_min_in_sync_replicas(self) -> int:
        """`min.insync.replicas`, but never more than there are replicas."""
        return min(self.min_in_sync_replicas, len(self.replicas))

    @property
    def is_under_min(self) -> bool:
        """Whether the committed in-sync set is smaller than it must be to commit anything."""
        return len(self.in_sync_replicas) < self.effective_min_in_sync_replicas

    def check_can_commit(self) -> None:
        """Refuse an append with acks=all that could not be committed now.

        Raises:
            NotEnoughReplicas: the in-sync set is below the minimum; nothing was written.
        """
        if self.is_under_min:
            probe("replication.append.refused_under_min")
            raise NotEnoughReplicas(
                in_sync_replicas=self.in_sync_replicas, min_in_sync_replicas=self.effective_min_in_sync_replicas
            )

    def latest_offset(self) -> int:
        """The high watermark, once this epoch has proved that it is not behind what readers saw before.

        Raises:
            OffsetNotAvailable: the high watermark has not reached the start of this leader epoch.
        """
        if self.high_watermark < self.epoch_start_offset:
            probe("replication.leader.offset_not_available")
            raise OffsetNotAvailable(high_watermark=self.high_watermark, epoch_start_offset=self.epoch_start_offset)
        return self.high_watermark

    # -- progress ------------------------------------------------------------------------------------------------

    def on_append(self, log_end_offset: int, now_ms: int) -> None:
        """This log grew to `log_end_offset`; replicas that held everything were caught up until now."""
        before = self.log_end_offset
        if log_end_offset < before:
            raise InvariantViolation("a leader's log never shrinks", before=before, after=log_end_offset)
        for remote in self._remotes.values():
            if remote.reported_offset >= before and remote.is_subscribed:
                remote.last_caught_up_ms = now_ms
                remote.mark_offset = log_end_offset
                remote.mark_ms = now_ms
        self.log_end_offset = log_end_offset

    def on_local_report(self, reported_offset: int, now_ms: int) -> bool:
        """This broker holds everything below `reported_offset`; returns whether the high watermark moved."""
        if reported_offset <= self.reported_offset:
            return False
        if reported_offset > self.log_end_offset:
            raise InvariantViolation(
                "only what is in the log is held", reported_offset=reported_offset, log_end_offset=self.log_end_offset
            )
        self.reported_offset = reported_offset
        return self._advance(now_ms)

    def on_replica_report(
        self,
        broker_id: int,
        *,
        broker_epoch: int,
        reported_offset: int,
        log_end_offset: int,
        log_start_offset: int,
        now_ms: int,
    ) -> bool:
        """A follower of this leader epoch reported; returns whether the high watermark moved.

        Reports of one process arrive in order and may go back only after a new subscription (`reset_replica`). A report
        of an older process than the one heard last, or of a broker that is no replica, changes nothing.
        """
        remote = self._remotes.get(broker_id)
        if remote is None or (remote.broker_epoch is not None and broker_epoch < remote.broker_epoch):
            probe("replication.report.ignored")
            return False
        own_end = self.log_end_offset
        remote.is_subscribed = True
        if reported_offset > own_end:
            raise InvariantViolation(
                "a follower holds no more than its leader sent",
                broker_id=broker_id,
                reported_offset=reported_offset,
                log_end_offset=own_end,
            )
        remote.broker_epoch = broker_epoch
        remote.reported_offset = reported_offset
        remote.log_end_offset = log_end_offset
        remote.log_start_offset = log_start_offset
        if reported_offset >= own_end:
            remote.last_caught_up_ms = now_ms
            remote.mark_offset = own_end
            remote.mark_ms = now_ms
        elif reported_offset >= remote.mark_offset:
            remote.last_caught_up_ms = remote.mark_ms
            remote.mark_offset = own_end
            remote.mark_ms = now_ms
        if reported_offset <= self.high_watermark:
            return False
        return self._advance(now_ms)

    def reset_replica(self, broker_id: int, *, broker_epoch: int) -> None:
        """A follower subscribes anew: what an earlier stream or process reported counts no longer."""
        remote = self._remotes.get(broker_id)
        if remote is None or (remote.broker_epoch is not None and broker_epoch < remote.broker_epoch):
            return
        if remote.reported_offset:
            probe("replication.follower.subscribed_again")
        remote.broker_epoch = broker_epoch
        remote.reported_offset = 0
        remote.log_end_offset = 0

    def on_replica_gone(self, broker_id: int, now_ms: int) -> None:
        """The subscription of a replica ended: what it holds still counts, but its lag time runs from here on."""
        remote = self._remotes.get(broker_id)
        if remote is None:
            return
        if remote.is_subscribed and remote.reported_offset >= self.log_end_offset:
            remote.last_caught_up_ms = now_ms
        if remote.is_subscribed:
            probe("replication.follower.gone")
        remote.is_subscribed = False

    def recheck(self, now_ms: int) -> bool:
        """Time passed or a limit changed: advance if a replica is waited for no longer; returns whether it moved."""
        return self._advance(now_ms)

    def _advance(self, now_ms: int) -> bool:
        candidate = self.reported_offset
        for remote in self._in_sync_remotes:
            if remote.reported_offset < candidate:  # noqa: PLR1730  # min() costs three times as much, per report
                candidate = remote.reported_offset
        if candidate <= self.high_watermark:
            return False
        if len(self.in_sync_replicas) < min(self.min_in_sync_replicas, len(self.replicas)):
            probe("replication.high_watermark.frozen_under_min")
            return False
        for remote in self._outsiders:
            if remote.reported_offset < candidate and self._is_waited_for(remote, now_ms):
                probe("replication.high_watermark.waits_for_newcomer")
                candidate = remote.reported_offset
        if candidate <= self.high_watermark:
            return False
        if self._pending is not None:
            probe("replication.high_watermark.moved_under_maximal_set")
        self.high_watermark = candidate
        return True

    def _is_eligible(self, remote: ReplicaProgress) -> bool:
        """Not fenced, not shutting down, and the process that reports is the registered one (KIP-841, KIP-903)."""
        return remote.broker_epoch is not None and self._active.get(remote.broker_id) == remote.broker_epoch

    def _is_in_time(self, remote: ReplicaProgress, now_ms: int) -> bool:
        if remote.is_subscribed and remote.reported_offset >= self.log_end_offset:
            return True
        caught_up_ms = remote.last_caught_up_ms
        return caught_up_ms is not None and now_ms - caught_up_ms <= self.replica_lag_time_ms_max

    def _is_waited_for(self, remote: ReplicaProgress, now_ms: int) -> bool:
        """A newcomer that is about to join is waited for, so that it is not chased for ever by a moving watermark."""
        return remote.is_subscribed and self._is_eligible(remote) and self._is_in_time(remote, now_ms)

    def _may_join(self, remote: ReplicaProgress) -> bool:
        return (
            remote.reported_offset >= self.high_watermark
            and remote.reported_offset >= self.epoch_start_offset
            and remote.is_subscribed
            and self._is_eligible(remote)
        )

    # -- the in-sync set -----------------------------------------------------------------------------------------

    def propose(self, now_ms: int) -> IsrProposal | None:
        """Begin the next change of the in-sync set, if one is due and none is in flight.

        From here to the answer the maximal set counts: newcomers already, leavers still.
        """
        if self._pending is not None or now_ms < self._backoff_until_ms:
            return None
        if self._doubtful:
            return self._begin(ProposalKind.SETTLE, self.in_sync_replicas)
        joining = [remote for remote in self._outsiders if self._may_join(remote)]
        if joining:
            probe("replication.isr.expand_proposed")
            for remote in joining:
                if not self._is_in_time(remote, now_ms):  # it gets the lag time to catch up, or it would be out at once
                    remote.last_caught_up_ms, remote.mark_offset, remote.mark_ms = now_ms, self.log_end_offset, now_ms
            return self._begin(ProposalKind.EXPAND, (*self.in_sync_replicas, *(remote.broker_id for remote in joining)))
        staying = [remote.broker_id for remote in self._in_sync_remotes if self._is_in_time(remote, now_ms)]
        if len(staying) < len(self._in_sync_remotes):
            probe("replication.isr.shrink_proposed")
            return self._begin(ProposalKind.SHRINK, (self.local_broker_id, *staying))
        if self.is_recovering:
            probe("replication.isr.recovery_proposed")
            return self._begin(ProposalKind.RECOVERED, self.in_sync_replicas)
        return None

    def wants_change(self, now_ms: int) -> bool:
        """Whether `propose` may find something to change; cheap, for the periodic check of all led partitions."""
        if self._pending is not None:
            return False
        if self._doubtful:
            return True
        for remote in self._in_sync_remotes:
            if not self._is_in_time(remote, now_ms):
                return True
        return self.is_recovering or self.has_newcomer()

    def has_newcomer(self) -> bool:
        """Whether `propose` would expand now; asked after each report of an outsider."""
        return self._pending is None and any(self._may_join(remote) for remote in self._outsiders)

    def _begin(self, kind: ProposalKind, broker_ids: Sequence[int]) -> IsrProposal:
        members = tuple(
            (broker_id, self._member_epoch(broker_id)) for broker_id in self.replicas if broker_id in broker_ids
        )
        self._pending = IsrProposal(
            kind=kind, leader_epoch=self.leader_epoch, partition_epoch=self.partition_epoch, members=members
        )
        self._has_unknown_outcome = False
        self._derive_sets()
        return self._pending

    def _member_epoch(self, broker_id: int) -> int:
        if broker_id == self.local_broker_id:
            return self.local_broker_epoch
        seen = self._remotes[broker_id].broker_epoch
        return seen if seen is not None else self._active.get(broker_id, 0)

    def on_alter_success(
        self,
        proposal: IsrProposal,
        *,
        leader_epoch: int,
        partition_epoch: int,
        in_sync_replicas: Sequence[int],
        is_recovering: bool,
        now_ms: int,
    ) -> tuple[AlterReaction, bool]:
        """The controller committed a change; returns the reaction and whether the high watermark moved.

        An answer of another leader epoch, or of an older partition epoch, says nothing about now. One without a newer
        partition epoch leaves a doubt as it is.
        """
        if proposal is not self._pending or leader_epoch != self.leader_epoch or partition_epoch < self.partition_epoch:
            probe("replication.isr.answer_overtaken")
            return AlterReaction.IGNORED, False
        if self._doubtful and partition_epoch == self.partition_epoch:
            self._backoff_until_ms = now_ms + PROPOSAL_BACKOFF_MS
        self._commit(partition_epoch, in_sync_replicas, is_recovering)
        return AlterReaction.APPLIED, self._advance(now_ms)

    def on_alter_error(self, proposal: IsrProposal, error: LogClusterError, now_ms: int) -> AlterReaction:
        """The controller refused a change, or nobody knows.

        Only `IneligibleReplica` proves that the copy it answers was not and will not be applied. If that copy is the
        only one, it allows to fall back to the committed set; after an unknown outcome it proves nothing about earlier
        copies, so the newcomers stay in doubt and the committed set is proposed (`SETTLE`). After other definite errors
        the change stays in flight until metadata tells (stale epochs, or `NewLeaderElected`: applied, but another
        leads), or is sent again (the wrong or an overloaded controller). An unknown outcome is asked again, unchanged.
        """
        if proposal is not self._pending:
            return AlterReaction.IGNORED
        if isinstance(error, IneligibleReplica):
            return self._on_ineligible(proposal, now_ms)
        if error.definite and not isinstance(error, _WORTH_RETRYING):
            probe("replication.isr.waits_for_metadata")
            return AlterReaction.WAIT_FOR_METADATA
        probe("replication.isr.proposed_again")
        self._has_unknown_outcome = self._has_unknown_outcome or not error.definite
        return AlterReaction.RETRY

    def _on_ineligible(self, proposal: IsrProposal, now_ms: int) -> AlterReaction:
        probe("replication.isr.join_refused")
        newcomers = [broker_id for broker_id, _ in proposal.members if broker_id not in self.in_sync_replicas]
        self._backoff_until_ms = now_ms + PROPOSAL_BACKOFF_MS
        if newcomers and self._has_unknown_outcome:
            probe("replication.isr.newcomer_in_doubt")
            self._doubtful = tuple(newcomers)
            self._begin(ProposalKind.SETTLE, self.in_sync_replicas)
            return AlterReaction.SETTLE
        self._pending = None
        self._derive_sets()
        return AlterReaction.ROLLED_BACK

    def on_metadata(self, registration: PartitionRegistration, now_ms: int) -> bool:
        """Committed metadata of the same leader epoch; an older partition epoch is ignored.

        Returns whether the high watermark moved.
        """
        if registration.partition_epoch < self.partition_epoch:
            return False
        if registration.partition_epoch > self.partition_epoch:
            if self._pending is not None:
                probe("replication.isr.settled_by_metadata")
            self._pending = None
            self._doubtful = ()
        self.partition_epoch = registration.partition_epoch
        self.in_sync_replicas = registration.in_sync_replicas
        self.is_recovering = registration.is_recovering
        self._set_replicas(registration.replicas, now_ms)
        return self._advance(now_ms)

    def _commit(self, partition_epoch: int, in_sync_replicas: Sequence[int], is_recovering: bool) -> None:
        self._pending = None
        if partition_epoch > self.partition_epoch:
            self._doubtful = ()
        self.partition_epoch = partition_epoch
        self.in_sync_replicas = tuple(in_sync_replicas)
        self.is_recovering = is_recovering
        self._derive_sets()

    def _set_replicas(self, replicas: Sequence[int], now_ms: int) -> None:
        """Members of the in-sync set get the benefit of the doubt from now on; others must first catch up."""
        self.replicas = tuple(replicas)
        known = self._remotes
        self._remotes = {}
        for broker_id in self.replicas:
            if broker_id == self.local_broker_id:
                continue
            self._remotes[broker_id] = known.get(broker_id) or ReplicaProgress(
                broker_id,
                last_caught_up_ms=now_ms if broker_id in self.in_sync_replicas else None,
                mark_offset=self.log_end_offset,
                now_ms=now_ms,
            )
        self._derive_sets()

    def _derive_sets(self) -> None:
        members = dict.fromkeys(self.in_sync_replicas)
        if self._pending is not None:
            members.update(dict.fromkeys(broker_id for broker_id, _ in self._pending.members))
        if self._doubtful:
            members.update(dict.fromkeys(self._doubtful))
        self._in_sync_remotes = tuple(remote for key, remote in self._remotes.items() if key in members)
        self._outsiders = tuple(remote for key, remote in self._remotes.items() if key not in members)

    # -- self-check ----------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Check everything that must hold between calls.

        Raises:
            InvariantViolation: something does not.
        """
        facts = {"state": self.describe()}
        if self.high_watermark > self.log_end_offset:
            raise InvariantViolation("the high watermark is within the log", **facts)
        if self.reported_offset > self.log_end_offset:
            raise InvariantViolation("only what is in the log is held", **facts)
        if self.epoch_start_offset > self.log_end_offset:
            raise InvariantViolation("an epoch starts within the log", **facts)
        if set(self.maximal_in_sync_replicas) < set(self.in_sync_replicas) & set(self.replicas):
            raise InvariantViolation("the maximal set contains the committed one", **facts)
        if self._pending is not None and self._pending.partition_epoch != self.partition_epoch:
            raise InvariantViolation("a change in flight builds on the committed version", **facts)
        if self._doubtful and self._pending is not None and self._pending.kind is not ProposalKind.SETTLE:
            raise InvariantViolation("a doubt is settled before the next change", **facts)

    def describe(self) -> str:
        """One line for transcripts."""
        remotes = " ".join(
            f"{remote.broker_id}:{remote.reported_offset}/{remote.log_end_offset}" for remote in self._remotes.values()
        )
        pending = "" if self._pending is None else f" pending={self._pending.kind.value}:{self._pending.members}"
        doubt = f" doubtful={self._doubtful}" if self._doubtful else ""
        return (
            f"leader epoch={self.leader_epoch}/{self.partition_epoch} start={self.epoch_start_offset} "
            f"hw={self.high_watermark} end={self.reported_offset}/{self.log_end_offset} "
            f"isr={self.in_sync_replicas} [{remotes}]{pending}{doubt}"
        )
