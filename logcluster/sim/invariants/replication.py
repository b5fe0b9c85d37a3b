"""High watermarks, truncation, agreement of replicas and the sets leaders wait for, looked at when they change.

Legal and therefore not reported: a new leader whose high watermark lags behind the old one's (it answers "latest" only
from its epoch's start on, KIP-207); a deposed leader whose high watermark still moves, as long as every later leader
has what it exposes; a replica out of sync that holds, and later cuts, records that were never committed; a leader that
does not know yet that the controller took members out of sync (waiting for more members is safe, KIP-497).
"""

from __future__ import annotations

from logcluster.broker.partition import Partition
from logcluster.core.replication.leader import LeaderState
from logcluster.sim.invariants.context import Context, Seen, Watch
from logcluster.sim.invariants.durability import Durability
from logcluster.sim.invariants.history import Copy, Mismatch


class Replication:
    """See the top of the file; each method says which invariants it is about."""

    def __init__(self, context: Context, durability: Durability) -> None:
        self._context = context
        self._durability = durability

    def check_bounds(self, watch: Watch, seen: Seen, partition: Partition) -> None:
        """high-watermark-beyond-log-end: true between any two events, in every role."""
        log_end_offset = partition.log.log_end_offset
        high_watermark = partition.high_watermark
        leader, follower = partition.leader, partition.follower
        if leader is not None and leader.high_watermark > high_watermark:
            high_watermark = leader.high_watermark
        if follower is not None and follower.high_watermark > high_watermark:
            high_watermark = follower.high_watermark
        if high_watermark > log_end_offset:
            self._context.report(
                "high-watermark-beyond-log-end",
                (seen.copy.history.key, watch.node_id),
                f"{partition.topic_partition} on {watch.name}: high watermark {high_watermark}, log end "
                f"{log_end_offset}",
            )

    def on_truncated(self, watch: Watch, seen: Seen, partition: Partition) -> None:
        """truncation-below-high-watermark: the log became shorter than what it shared with the committed history.

        Cutting records that differ from the committed ones is what truncation is for; a replica that was behind may
        hold such below the high watermark of others. So only what this log was seen to share counts, and what it knew
        to be committed itself. After an unclean election, or with damaged files, anything may be cut.
        """
        copy = seen.copy
        log_end_offset = partition.log.log_end_offset
        held = max(copy.held_to, seen.high_watermark)
        if log_end_offset < held and not copy.history.is_tainted and copy.excuse is None:
            self._context.report(
                "truncation-below-high-watermark",
                (copy.history.key, watch.node_id),
                f"{partition.topic_partition} on {watch.name}: cut from {seen.log_end_offset} to {log_end_offset}, "
                f"held committed records up to {held}",
            )
        copy.look_again()

    def on_high_watermark(self, watch: Watch, seen: Seen, partition: Partition) -> None:
        """The high watermark is another one than when the partition was last looked at, or it is new here."""
        copy = seen.copy
        if partition.high_watermark < seen.high_watermark:
            self._check_regression(watch, seen, partition)
        leader = partition.leader
        if leader is None:
            self.check_follower(watch, copy, partition)
        elif self._expose(watch, copy, partition, leader) and partition.high_watermark > seen.high_watermark >= 0:
            self._check_advance(watch, copy, partition, leader)

    def _check_regression(self, watch: Watch, seen: Seen, partition: Partition) -> None:
        """high-watermark-regression: within one process's life of a log it falls only together with the log's end.

        What a restart brings back is the last checkpoint, which may be older; that is another `Seen`.
        """
        if partition.log.log_end_offset >= seen.high_watermark:
            self._context.report(
                "high-watermark-regression",
                (seen.copy.history.key, watch.node_id),
                f"{partition.topic_partition} on {watch.name}: from {seen.high_watermark} to "
                f"{partition.high_watermark}, log end {partition.log.log_end_offset}",
            )

    def check_follower(self, watch: Watch, copy: Copy, partition: Partition) -> None:
        """high-watermark-invented, log-divergence: what a replica without leadership takes for committed.

        Its high watermark is a leader's, bounded by its own log, or a checkpoint of one.
        """
        history = copy.history
        if history.is_tainted:
            return
        if partition.high_watermark > history.exposed_to:
            self._context.report(
                "high-watermark-invented",
                (history.key, watch.node_id),
                f"{partition.topic_partition} on {watch.name}: high watermark {partition.high_watermark}, no leader "
                f"was beyond {history.exposed_to}",
            )
        mismatch = copy.look(partition.log.log_end_offset)
        if mismatch is not None and mismatch.offset < partition.high_watermark:
            self._report_mismatch("log-divergence", watch, copy, mismatch)

    def _report_mismatch(self, name: str, watch: Watch, copy: Copy, mismatch: Mismatch) -> None:
        self._context.report(
            name, (copy.history.key, watch.node_id), f"{copy.history.name} on {watch.name}: {mismatch}"
        )

    # -- the leader -----------------------------------------------------------------------------------------------

    def _expose(self, watch: Watch, copy: Copy, partition: Partition, leader: LeaderState) -> bool:
        """Readers may see what lies below: it must be this history's; returns whether the history reaches there.

        A tainted partition's leader of an older epoch says nothing any more.
        """
        history = copy.history
        epoch, high_watermark = leader.leader_epoch, partition.high_watermark
        if history.is_tainted and epoch < max(history.start_by_epoch, default=0):
            return False
        mismatch = copy.look(partition.log.log_end_offset)
        if mismatch is not None and mismatch.offset < high_watermark:
            self._report_mismatch("log-divergence", watch, copy, mismatch)
            return False
        if high_watermark > history.exposed_by_epoch.get(epoch, -1):
            history.exposed_by_epoch[epoch] = high_watermark
            self._check_later_leaders(watch, copy, epoch, high_watermark)
        if history.end_offset >= high_watermark or copy.extend_history(high_watermark):
            return True
        if copy.excuse is None and not copy.was_damaged:
            self._context.report(
                "high-watermark-not-replicated",
                (history.key, watch.node_id, "leader"),
                f"{partition.topic_partition}: leader {watch.name} exposes {high_watermark}, its files hold "
                f"what was committed only up to {copy.held_to}",
            )
        copies = self._context.copies[history.key]
        others = [copies[member] for member in leader.in_sync_replicas if member in copies]
        return any(other is not copy and other.extend_history(high_watermark) for other in others)

    def _check_later_leaders(self, watch: Watch, copy: Copy, epoch: int, high_watermark: int) -> None:
        """ack-by-deposed-leader: a later leader that began without the records will never have them.

        A deposed leader needs the reports of its whole in-sync set; the next leader came out of that set, so what is
        reported there is in the next leader's log.
        """
        history = copy.history
        if history.is_tainted:
            return
        for later, start_offset in history.start_by_epoch.items():
            if later > epoch and start_offset < high_watermark:
                self._context.report(
                    "ack-by-deposed-leader",
                    (history.key, epoch),
                    f"{history.name}: {watch.name} exposes {high_watermark} in epoch {epoch}, epoch {later} began "
                    f"at {start_offset}",
                )

    def _check_advance(self, watch: Watch, copy: Copy, partition: Partition, leader: LeaderState) -> None:
        """min-isr-violation, high-watermark-not-replicated, isr-divergence: what must hold when a leader commits.

        The sets are those the leader knows. The minimum is its own view of the topic's setting, which may lag behind
        the controller's. A member that crashed since it reported still has what it reported on its disk.
        """
        history = copy.history
        context = self._context
        if history.key.topic_id not in context.image.topics:
            return  # its deletion is committed: a member that heard of it first keeps nothing of what it reported
        high_watermark = partition.high_watermark
        required = leader.effective_min_in_sync_replicas
        members = leader.in_sync_replicas
        if len(members) < required:
            context.report(
                "min-isr-violation",
                (history.key, leader.leader_epoch),
                f"{history.name}: {watch.name} commits {high_watermark} with in-sync set {members}, minimum {required}",
            )
        if not history.holders_required or required < history.holders_required:
            history.holders_required = required
        copies = context.copies[history.key]
        for member in members:
            held = copies.get(member)
            if held is None or not self._durability.is_held(held, high_watermark):
                reach = 0 if held is None else self._durability.reach(held, high_watermark)
                context.report(
                    "high-watermark-not-replicated",
                    (history.key, leader.leader_epoch, member),
                    f"{history.name}: {watch.name} commits {high_watermark} in epoch {leader.leader_epoch}, "
                    f"in-sync node {member} holds {'on disk ' * (not history.was_async)}only [0, {reach})",
                )
        self.check_maximal_set(watch, copy, leader)

    def check_maximal_set(self, watch: Watch, copy: Copy, leader: LeaderState) -> None:
        """isr-divergence: the leader waits for everybody whom the controller has committed as in sync.

        That is the set it knows as committed, and while the committed leader epoch is its own, also the committed one:
        a deposed leader knows nothing of its successor's set. The controller adds members on this leader's proposal
        only, so that they are among the proposed ones at least.
        """
        history = copy.history
        maximal = leader.maximal_in_sync_replicas
        members = leader.in_sync_replicas
        registration = self._context.image.partition(*history.key)
        if registration is not None and registration.leader_epoch == leader.leader_epoch:
            members = (*members, *registration.in_sync_replicas)
        if not all(member in maximal for member in members):
            self._context.report(
                "isr-divergence",
                (history.key, leader.leader_epoch),
                f"{history.name}: {watch.name} waits for {maximal} and knows {leader.in_sync_replicas} in sync "
                f"(partition epoch {leader.partition_epoch}), committed is {registration}",
            )
