"""One replica stream between a follower and a leader: ordered both ways, and it can break at any moment.

The leader's side is what `broker.replica_feed` does, reduced to one partition; the follower's side is in `sim_broker`.
What is on its way when the stream breaks is lost; each end hears of the break by itself, perhaps much later.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from logcluster.model.epochs import EpochEnd
from logcluster.model.errors import (
    FencedLeaderEpoch,
    LogClusterError,
    NotLeaderOrFollower,
    OffsetOutOfRange,
    UnknownLeaderEpoch,
)
from logcluster.sim.cores.partition_log import Batch

if TYPE_CHECKING:
    from logcluster.sim.cores.sim_broker import SimBroker

BATCHES_PER_MESSAGE_MAX = 4


class Subscribe(NamedTuple):
    """The follower asks to go on at a place, in a leader epoch."""

    handle: int
    leader_epoch: int
    fetch_offset: int
    last_epoch: int | None
    log_start_offset: int
    reported_offset: int


class Unsubscribe(NamedTuple):
    """The follower wants no more under this handle."""

    handle: int


class Report(NamedTuple):
    """What the follower holds: its acknowledgement."""

    handle: int
    reported_offset: int
    log_end_offset: int
    log_start_offset: int


class Data(NamedTuple):
    """Batches, or only news of the high watermark."""

    handle: int
    batches: tuple[Batch, ...]
    high_watermark: int
    log_start_offset: int
    log_end_offset: int


class End(NamedTuple):
    """The leader ended a subscription: where histories part, or why, with the range of its log."""

    handle: int
    diverging: EpochEnd | None
    error: LogClusterError | None
    log_start_offset: int = 0
    log_end_offset: int = 0


class Subscription:
    """One subscription as the leader keeps it."""

    __slots__ = ("handle", "link", "next_offset", "sent_high_watermark")

    def __init__(self, link: ReplicaLink, handle: int, next_offset: int) -> None:
        self.link = link
        self.handle = handle
        self.next_offset = next_offset
        self.sent_high_watermark = -1

    def end(self, error: LogClusterError) -> None:
        """The subscription is over because the leader says so."""
        log = self.link.leader.log
        self.link.forget(self)
        self.link.send_down(End(self.handle, None, error, log.log_start_offset, log.log_end_offset))


class ReplicaLink:
    """A stream from one incarnation of the follower to one of the leader."""

    def __init__(self, follower: SimBroker, leader: SimBroker, *, leader_broker_epoch: int | None) -> None:
        self.follower = follower
        self.leader = leader
        self.follower_incarnation = follower.incarnation
        self.leader_incarnation = leader.incarnation
        self.follower_broker_epoch = follower.broker_epoch or 0
        self.leader_broker_epoch = leader_broker_epoch
        self.is_open = True
        self.is_greeted = False
        self._up_ms = 0
        self._down_ms = 0
        self._subscriptions: dict[int, Subscription] = {}
        self._is_collecting = False

    # -- transport -----------------------------------------------------------------------------------------------

    def send_up(self, message: Subscribe | Unsubscribe | Report) -> None:
        """From the follower to the leader."""
        world = self.follower.world
        if not self.is_open:
            return
        if world.is_blocked(self.follower.broker_id, self.leader.broker_id):
            self.break_off()
            return
        self._up_ms = max(self._up_ms, world.now_ms + world.delay_ms())
        world.at(self._up_ms - world.now_ms, self._arrive_up, message)

    def send_down(self, message: Data | End) -> None:
        """From the leader to the follower."""
        world = self.follower.world
        if not self.is_open:
            return
        if world.is_blocked(self.leader.broker_id, self.follower.broker_id):
            self.break_off()
            return
        self._down_ms = max(self._down_ms, world.now_ms + world.delay_ms())
        world.at(self._down_ms - world.now_ms, self._arrive_down, message)

    def _arrive_up(self, message: Subscribe | Unsubscribe | Report) -> None:
        if self.is_open:
            self.leader.deliver(self.leader_incarnation, self._on_message, message)

    def _arrive_down(self, message: Data | End) -> None:
        if self.is_open:
            self.follower.deliver(self.follower_incarnation, self.follower.following.on_replica_message, self, message)

    def break_off(self) -> None:
        """The connection is gone; the two ends hear of it at different times, the leader perhaps much later."""
        if not self.is_open:
            return
        self.is_open = False
        world = self.follower.world
        world.at(world.below(700 if world.chance(0.25) and not world.is_calm else 40), self._tell_leader)
        world.at(world.below(40), self._tell_follower)

    def _tell_leader(self) -> None:
        self.leader.deliver(self.leader_incarnation, self.close)

    def _tell_follower(self) -> None:
        self.follower.deliver(self.follower_incarnation, self.follower.following.on_link_broken, self)

    # -- the leader's side ---------------------------------------------------------------------------------------

    def close(self) -> None:
        """The stream is over: nobody reports for its subscriptions any more."""
        for subscription in list(self._subscriptions.values()):
            self.forget(subscription)

    def forget(self, subscription: Subscription) -> None:
        """A subscription ends on the leader's side."""
        leader, follower_id = self.leader, self.follower.broker_id
        self._subscriptions.pop(subscription.handle, None)
        if leader.slots.get(follower_id) is subscription:
            del leader.slots[follower_id]
        if follower_id not in leader.slots and leader.leader is not None:
            leader.leader.on_replica_gone(follower_id, leader.world.now_ms)

    def _on_message(self, message: Subscribe | Unsubscribe | Report) -> None:
        if not self.is_open:
            return
        if not self.is_greeted and not self._greet():
            self.break_off()
            return
        match message:
            case Subscribe():
                self._subscribe(message)
            case Unsubscribe(handle=handle):
                subscription = self._subscriptions.get(handle)
                if subscription is not None:
                    self.forget(subscription)
            case Report():
                self._report(message)

    def _greet(self) -> bool:
        """The first message says who calls: is it this process that is meant, and the newest of the caller's?"""
        leader = self.leader
        own_epoch = leader.broker_epoch
        if own_epoch is None or (self.leader_broker_epoch or 0) > own_epoch:
            return False
        known = leader.known_broker_epoch(self.follower.broker_id)
        self.is_greeted = known is None or self.follower_broker_epoch >= known
        return self.is_greeted

    def _subscribe(self, request: Subscribe) -> None:
        leader, log = self.leader, self.leader.log
        follower_id = self.follower.broker_id
        error = self._refusal(request)
        if error is not None:
            self.send_down(End(request.handle, None, error, log.log_start_offset, log.log_end_offset))
            return
        diverging = log.epochs.divergence(
            last_epoch=request.last_epoch, position=request.fetch_offset, log_end_offset=log.log_end_offset
        )
        if diverging is not None:
            leader.world.book.probe("core.replication.histories_diverged")
            self.send_down(End(request.handle, diverging, None))
            return
        if not log.log_start_offset <= request.fetch_offset <= log.log_end_offset:
            leader.world.book.probe("core.replication.out_of_range")
            out_of_range = OffsetOutOfRange(fetch_offset=request.fetch_offset)
            self.send_down(End(request.handle, None, out_of_range, log.log_start_offset, log.log_end_offset))
            return
        previous = leader.slots.get(follower_id)
        if previous is not None:
            previous.end(NotLeaderOrFollower("the follower subscribed again"))
        subscription = Subscription(self, request.handle, request.fetch_offset)
        self._subscriptions[request.handle] = subscription
        leader.slots[follower_id] = subscription
        assert leader.leader is not None
        leader.leader.reset_replica(follower_id, broker_epoch=self.follower_broker_epoch)
        leader.on_replica_report(
            follower_id,
            self.follower_broker_epoch,
            min(request.reported_offset, request.fetch_offset),
            request.fetch_offset,
            request.log_start_offset,
        )
        self.wake()

    def _refusal(self, request: Subscribe) -> LogClusterError | None:
        state = self.leader.leader
        if state is None:
            return NotLeaderOrFollower("this broker does not lead")
        if request.leader_epoch != state.leader_epoch and not self.leader.world.ablations.accepts_stale_epochs:
            self.leader.world.book.probe("core.replication.other_epoch_refused")
            error = FencedLeaderEpoch if request.leader_epoch < state.leader_epoch else UnknownLeaderEpoch
            return error(leader_epoch=state.leader_epoch)
        if self.follower.broker_id not in state.remotes:
            return NotLeaderOrFollower("no replica")
        return None

    def _report(self, report: Report) -> None:
        subscription = self._subscriptions.get(report.handle)
        if subscription is None:
            return
        leader = self.leader
        if report.log_end_offset > subscription.next_offset or report.reported_offset > report.log_end_offset:
            leader.world.book.find("report-ahead", f"{self.follower.broker_id} to {leader.broker_id}: {report}")
            if not leader.world.ablations.accepts_stale_epochs:
                self.break_off()
                return
        leader.on_replica_report(
            self.follower.broker_id,
            self.follower_broker_epoch,
            report.reported_offset,
            report.log_end_offset,
            report.log_start_offset,
        )

    def wake(self) -> None:
        """There is something to tell: collect it soon, once."""
        if not self._is_collecting and self.is_open:
            self._is_collecting = True
            self.leader.world.at(1, self._collect_later)

    def _collect_later(self) -> None:
        self._is_collecting = False
        self.leader.deliver(self.leader_incarnation, self._collect)

    def _collect(self) -> None:
        leader, log = self.leader, self.leader.log
        for subscription in list(self._subscriptions.values()):
            if leader.slots.get(self.follower.broker_id) is not subscription:
                continue
            if subscription.next_offset < log.log_start_offset:
                subscription.end(OffsetOutOfRange(fetch_offset=subscription.next_offset))
                continue
            batches = log.read(
                subscription.next_offset, end_offset=log.log_end_offset, batches_max=BATCHES_PER_MESSAGE_MAX
            )
            if not batches and subscription.sent_high_watermark == leader.high_watermark:
                continue
            if batches:
                subscription.next_offset = batches[-1].next_offset
            subscription.sent_high_watermark = leader.high_watermark
            self.send_down(
                Data(
                    subscription.handle,
                    tuple(batches),
                    leader.high_watermark,
                    log.log_start_offset,
                    log.log_end_offset,
                )
            )
            if subscription.next_offset < log.log_end_offset:
                self.wake()
