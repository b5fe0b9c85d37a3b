"""The follower side of a simulated replica: its streams, what it takes from them, where it cuts.

As `broker.replica_stream` and the follower's half of `broker.partition`. A stream to a former leader stays open, for
what it would carry of other partitions; what still comes over it for this one is dropped.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from logcluster.core.replication.follower import AskAgain, FollowerDecision, FollowerState, Restart, Truncate
from logcluster.model.errors import OffsetOutOfRange
from logcluster.sim.cores.partition_log import Batch
from logcluster.sim.cores.replica_link import Data, End, ReplicaLink, Report, Subscribe, Unsubscribe

if TYPE_CHECKING:
    from logcluster.sim.cores.sim_broker import SimBroker

RETRY_MS: Final = 25


class ReplicaFollowing:
    """Following, by one broker process."""

    def __init__(self, broker: SimBroker) -> None:
        self._broker = broker
        self._links: dict[int, ReplicaLink] = {}
        self._handle = 0
        self._is_subscribed = False

    def break_off(self) -> None:
        """The process is gone."""
        for link in self._links.values():
            link.break_off()

    def on_registrations(self) -> None:
        """A stream to an earlier process of a leader is given up."""
        for leader_id, link in self._links.items():
            if link.leader_broker_epoch != self._broker.known_broker_epoch(leader_id):
                link.break_off()

    def unfollow(self) -> None:
        """Stop following; the stream stays."""
        link = self.link
        if link is not None and self._is_subscribed:
            link.send_up(Unsubscribe(self._handle))
        self._is_subscribed = False

    @property
    def link(self) -> ReplicaLink | None:
        """The stream to the leader that is followed."""
        return None if self._broker.follower is None else self._links.get(self._broker.follower.leader_id)

    def subscribe(self) -> None:
        """Tell the leader where to go on, unless that is done."""
        follower, log = self._broker.follower, self._broker.log
        if follower is None or self._is_subscribed:
            return
        link = self.link
        if link is None or not link.is_open:
            link = self._open(follower.leader_id)
            if link is None:
                self._broker.later(RETRY_MS, self.subscribe)
                return
        position = follower.position(
            log.epochs, log_start_offset=log.log_start_offset, log_end_offset=log.log_end_offset
        )
        self._handle += 1
        self._is_subscribed = True
        last_epoch = None if self._broker.world.ablations.truncates_to_high_watermark else position.last_epoch
        link.send_up(
            Subscribe(
                self._handle,
                follower.leader_epoch,
                position.fetch_offset,
                last_epoch,
                position.log_start_offset,
                self._broker.reported_offset,
            )
        )

    def _open(self, leader_id: int) -> ReplicaLink | None:
        target = self._broker.world.brokers[leader_id]
        epoch = self._broker.known_broker_epoch(leader_id)
        if (
            not target.is_alive
            or self._broker.broker_epoch is None
            or self._broker.world.is_blocked(self._broker.broker_id, leader_id)
        ):
            return None
        link = self._links[leader_id] = ReplicaLink(self._broker, target, leader_broker_epoch=epoch)
        return link

    def on_link_broken(self, link: ReplicaLink) -> None:
        """The stream ended: open another, if this one was still in use."""
        if self._links.get(link.leader.broker_id) is not link:
            return
        is_followed = self.link is link
        del self._links[link.leader.broker_id]
        if is_followed:
            self._is_subscribed = False
            self._broker.later(1 + self._broker.world.below(20), self.subscribe)

    def on_replica_message(self, link: ReplicaLink, message: Data | End) -> None:
        """What the leader sent; what belongs to an ended subscription is dropped."""
        is_current = link is self.link and self._is_subscribed and message.handle == self._handle
        if not is_current:
            self._broker.world.book.probe("core.replication.late_data_dropped")
            if not self._broker.world.ablations.accepts_stale_epochs or not isinstance(message, Data):
                return
        if self._broker.follower is None:
            return
        if isinstance(message, End):
            self._on_end(self._broker.follower, message)
            return
        if message.batches and not self._append(self._broker.follower, message.batches, is_current=is_current):
            return
        self._learn(self._broker.follower, message)

    def _append(self, follower: FollowerState, batches: tuple[Batch, ...], *, is_current: bool) -> bool:
        log = self._broker.log
        for batch in batches:
            begins_log = not log.batches and batch.base_offset < log.log_end_offset < batch.next_offset
            if (
                batch.base_offset != log.log_end_offset and not begins_log
            ) or batch.leader_epoch > follower.leader_epoch:
                if is_current:
                    self._broker.world.book.probe("core.replication.batch_refused")
                    self.unfollow()
                    self._broker.later(RETRY_MS, self.subscribe)
                return False
            latest = log.epochs.latest
            if latest is not None and batch.leader_epoch < latest:
                self._broker.world.book.probe("core.replication.empty_epoch_forgotten")
                log.epochs.truncate_from_end(log.log_end_offset)
            if begins_log:
                self._broker.world.book.probe("core.replication.began_inside_batch")
                log.append_across_start(batch, self._broker.producers)
                self._broker.cuts += 1
            else:
                log.append(batch, self._broker.producers)
        self._broker.flush_soon()
        if self._broker.reported_offset == log.log_end_offset:
            self.report()
        return True

    def _learn(self, follower: FollowerState, data: Data) -> None:
        log = self._broker.log
        if follower.on_leader_high_watermark(data.high_watermark, log.log_end_offset):
            before, self._broker.high_watermark = self._broker.high_watermark, follower.high_watermark
            self._broker.world.checks.on_follower_learned(self._broker, before, follower.high_watermark)
        log.advance_start(min(data.log_start_offset, log.log_end_offset))
        self._broker.high_watermark = max(self._broker.high_watermark, log.log_start_offset)

    def report(self) -> None:
        """Tell the leader what is held: the acknowledgement."""
        log = self._broker.log
        link = self.link
        if link is not None and self._is_subscribed:
            link.send_up(Report(self._handle, self._broker.reported_offset, log.log_end_offset, log.log_start_offset))

    def _on_end(self, follower: FollowerState, end: End) -> None:
        log = self._broker.log
        self._is_subscribed = False
        decision: FollowerDecision = AskAgain()
        if end.diverging is not None:
            decision = follower.on_diverging_epoch(
                end.diverging, log.epochs, log_start_offset=log.log_start_offset, log_end_offset=log.log_end_offset
            )
        elif isinstance(end.error, OffsetOutOfRange):
            decision = follower.on_out_of_range(
                leader_log_start_offset=end.log_start_offset,
                leader_log_end_offset=end.log_end_offset,
                log_end_offset=log.log_end_offset,
            )
        match decision:
            case Truncate(offset=offset):
                self.truncate_to(offset)
                self.subscribe()
            case Restart(offset=offset):
                self._broker.world.book.probe("core.replication.started_over")
                log.restart_at(offset)
                self._after_cut()
                self.subscribe()
            case AskAgain():
                self._broker.later(RETRY_MS, self.subscribe)

    def truncate_to(self, offset: int) -> None:
        """Cut the log and what is derived from it."""
        log = self._broker.log
        if offset < log.log_start_offset:
            log.restart_at(offset)
            self._after_cut()
            return
        cut = log.truncate_to(offset)
        if cut:
            self._broker.world.checks.on_truncated(self._broker, cut)
            self._after_cut()

    def _after_cut(self) -> None:
        end = self._broker.log.log_end_offset
        self._broker.cuts += 1
        self._broker.high_watermark = min(max(self._broker.high_watermark, self._broker.log.log_start_offset), end)
        if self._broker.follower is not None:
            self._broker.follower.on_truncated(end)
        if self._broker.producers.must_rebuild_after_truncation(end) or self._broker.log.log_start_offset == end:
            self._broker.log.load_producers(self._broker.producers)
        self._broker.world.checks.on_producers_loaded(self._broker)
