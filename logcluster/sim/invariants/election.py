"""Leaders of partitions: one per epoch, never backwards, and in possession of everything exposed before.

Legal and therefore not reported: a broker that takes up, late, a leadership which is over by then. Its log must hold
what *earlier* epochs exposed; what its successors exposed meanwhile it need not have, since it can commit nothing.
"""

from __future__ import annotations

from logcluster.broker.controller_driver import Reign
from logcluster.broker.partition import Partition
from logcluster.core.replication.leader import LeaderState
from logcluster.sim.invariants.context import Context, Seen, Watch
from logcluster.sim.invariants.view import PartitionKey


class Election:
    """See the top of the file."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._leaders: dict[tuple[PartitionKey, int], tuple[Watch, LeaderState]] = {}
        self._reigns: dict[int, Watch] = {}
        self.unclean: dict[PartitionKey, int] = {}
        """Newest leader epoch of each partition that an unclean election began."""

    def on_role(self, watch: Watch, seen: Seen, partition: Partition) -> None:
        """A replica leads or follows in another epoch than before, or has no role any more."""
        epoch = partition.leader_epoch
        if epoch is None:
            return
        copy = seen.copy
        if epoch < copy.role_epoch:
            # Registration is committed after everything an earlier process of this node can have applied, so this
            # holds across restarts too; an emptied disk does not change what the controller says.
            self._context.report(
                "epoch-regression",
                (copy.history.key, watch.node_id),
                f"{copy.history.name} on {watch.name}: from leader epoch {copy.role_epoch} to {epoch}",
            )
        copy.role_epoch = epoch
        leader = partition.leader
        if leader is not None and leader is not seen.leader:
            self._on_leader(watch, seen, partition, leader)

    def _on_leader(self, watch: Watch, seen: Seen, partition: Partition, leader: LeaderState) -> None:
        """split-brain: one object ever leads in an epoch, a restarted process never again in its old one (P2).

        committed-record-lost, leader-completeness: the new leader has what earlier epochs exposed (KIP-101, KIP-966).
        """
        history = seen.copy.history
        epoch = leader.leader_epoch
        known = self._leaders.setdefault((history.key, epoch), (watch, leader))
        if known[1] is not leader:
            again = " again" if known[0].node_id == watch.node_id else ""
            self._context.report(
                "split-brain",
                (history.key, epoch),
                f"{history.name}: {watch.name} leads in epoch {epoch}{again}, as {known[0].name} did",
            )
        start_offset = leader.epoch_start_offset
        if self.unclean.get(history.key) == epoch:
            history.begin_anew(start_offset)
        history.start_by_epoch[epoch] = start_offset
        if not history.is_tainted:
            self._check_complete(watch, seen, partition, epoch)

    def _check_complete(self, watch: Watch, seen: Seen, partition: Partition, epoch: int) -> None:
        copy = seen.copy
        history = copy.history
        needed = history.exposed_before(epoch)
        log_end_offset = partition.log.log_end_offset
        subject = (history.key, epoch)
        if log_end_offset < needed:
            self._context.report(
                "committed-record-lost",
                subject,
                f"{history.name}: {watch.name} leads in epoch {epoch} with log end {log_end_offset}, {needed} was "
                f"exposed before: {history.exposed_by_epoch}",
            )
            return
        mismatch = copy.look(log_end_offset)
        if mismatch is not None and mismatch.offset < needed:
            self._context.report(
                "leader-completeness", subject, f"{history.name}: {watch.name} leads in epoch {epoch} and {mismatch}"
            )
        elif copy.held_to < min(needed, history.end_offset) and copy.excuse is None:
            self._context.report(
                "leader-completeness",
                subject,
                f"{history.name}: {watch.name} leads in epoch {epoch}, its files hold [0, {copy.held_to}), {needed} "
                f"was exposed before",
            )

    def begin_anew(self) -> None:
        """The quorum's history is gone with all disks: terms count from the beginning. Topics of it have other ids."""
        self._reigns.clear()

    def on_reign(self, watch: Watch, reign: Reign) -> None:
        """split-brain: one process is the active controller of a term; it may stop and begin again within it."""
        known = self._reigns.setdefault(reign.term, watch)
        if known.process is not watch.process:
            self._context.report(
                "split-brain",
                ("controller", reign.term),
                f"{watch.name} and {known.name} are active controllers in term {reign.term}",
            )
