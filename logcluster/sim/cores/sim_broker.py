"""One broker of the replication simulator: a process with a registration, one partition replica, and its disk.

It performs what the pure cores decide, as `broker.partition` and `broker.replica_manager` do: no decision is made here
that those do not make. Everything it does happens in `deliver`, so that a paused process does nothing and a dead one
never again. Neighbours: `broker_session` (the controller), `replica_following` (the follower side), `isr_changes`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from logcluster.core.metadata.image import EMPTY, MetadataImage, PartitionRegistration
from logcluster.core.replication.follower import FollowerState
from logcluster.core.replication.in_sync import LeaderSettings
from logcluster.core.replication.leader import LeaderState
from logcluster.core.replication.producer_state import ProducerStates
from logcluster.model.errors import (
    Disconnected,
    FencedLeaderEpoch,
    LogClusterError,
    NotEnoughReplicasAfterAppend,
    NotLeaderOrFollower,
)
from logcluster.model.invariants import InvariantViolation
from logcluster.sim.cores.broker_session import BrokerSession
from logcluster.sim.cores.controller_host import partition_of
from logcluster.sim.cores.isr_changes import IsrChanges
from logcluster.sim.cores.partition_log import Batch, SimulatedLog
from logcluster.sim.cores.replica_following import ReplicaFollowing
from logcluster.sim.cores.replica_link import Subscription

if TYPE_CHECKING:
    from logcluster.sim.cores.replication_world import ReplicationWorld

UPKEEP_MS = 60

Produced = Callable[[int | LogClusterError], None]
"""Told the base offset of a committed batch, or why not."""


class SimBroker:
    """A broker id with its disk; `start` and `crash` give and take its process."""

    def __init__(self, world: ReplicationWorld, broker_id: int) -> None:
        self.world = world
        self.broker_id = broker_id
        self.log = SimulatedLog()
        self.directory_id = b"disk-%d-0" % broker_id
        self.disk_generation = 0
        self.incarnation = 0
        self.is_alive = False
        self.is_paused = False
        self.is_stopping = False
        self._inbox: deque[tuple[Callable[..., None], tuple[Any, ...]]] = deque()
        self._reset()

    def _reset(self) -> None:
        self.broker_epoch: int | None = None
        self.image: MetadataImage = EMPTY
        self.is_live = False
        self.leader: LeaderState | None = None
        self.follower: FollowerState | None = None
        self.producers = ProducerStates()
        self.high_watermark = 0
        self.slots: dict[int, Subscription] = {}
        self.active_broker_epochs: dict[int, int] = {}
        self._waiters: list[tuple[int, int, Produced]] = []
        self._is_flushing = False
        self.cuts = 0
        self.may_stop: Callable[[], None] | None = None
        self.session = BrokerSession(self, previous_broker_epoch=None)
        self.following = ReplicaFollowing(self)
        self.isr = IsrChanges(self)

    # -- the process ---------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Open the log and register."""
        if self.is_alive:
            return
        self.incarnation += 1
        self.is_alive = True
        self.is_paused = self.is_stopping = False
        self._inbox.clear()
        self._reset()
        log = self.log
        previous_broker_epoch, log.clean_broker_epoch = log.clean_broker_epoch, None
        self.session = BrokerSession(self, previous_broker_epoch=previous_broker_epoch)
        log.recover(is_clean=previous_broker_epoch is not None)
        log.load_producers(self.producers)
        self.high_watermark = log.stored_high_watermark
        self.world.checks.on_producers_loaded(self)
        self.session.register()
        self.session.beat_later()
        self._upkeep_later()

    def crash(self, *, power_loss: bool) -> None:
        """The process dies; with the power goes what was not flushed."""
        if not self.is_alive:
            return
        world = self.world
        self.is_alive = False
        self.incarnation += 1
        self._inbox.clear()
        if power_loss:
            unflushed = self.log.log_end_offset - self.log.flushed_offset
            if self.log.lose_power(world.below(2) if unflushed else 0):
                world.book.probe("core.replication.power_loss_lost_records")
        self._break_links()
        if self.broker_epoch is not None and world.chance(0.5):
            world.at(world.below(10), world.tell_dropped, self.broker_id, self.broker_epoch)
        self._reset()

    def _break_links(self) -> None:
        self.following.break_off()
        for subscription in list(self.slots.values()):
            subscription.link.break_off()

    def lose_disk(self) -> None:
        """While down: the next start finds an empty disk with another id."""
        self.disk_generation += 1
        self.directory_id = b"disk-%d-%d" % (self.broker_id, self.disk_generation)
        self.log = SimulatedLog()

    def stop_cleanly(self, stopped: Callable[[], None]) -> None:
        """Ask the controller to be let go; then flush, mark the shutdown as clean, and end."""
        self.is_stopping = True
        self.may_stop = stopped

    def finish_stop(self) -> None:
        """The controller lets this broker go: flush, mark, end."""
        stopped, self.may_stop = self.may_stop, None
        log = self.log
        self._stand_by()
        log.flushed_offset = log.log_end_offset
        log.stored_high_watermark = self.high_watermark
        log.snapshots.append((log.log_end_offset, self.producers.encode_snapshot(log.log_end_offset)))
        log.clean_broker_epoch = self.broker_epoch
        self.crash(power_loss=False)
        self.world.book.probe("core.replication.clean_stop")
        if stopped is not None:
            stopped()

    def deliver(self, incarnation: int, action: Callable[..., None], *arguments: Any) -> None:
        """Run something in this process, unless it is another by now; later, if it is paused."""
        if incarnation != self.incarnation or not self.is_alive:
            return
        if self.is_paused:
            self._inbox.append((action, arguments))
            return
        world = self.world
        try:
            action(*arguments)
            if self.is_alive:
                world.after_step(self)
        except InvariantViolation as violation:
            world.book.find("core-invariant", f"broker {self.broker_id}: {violation}")
            self.crash(power_loss=False)
            world.at(50, self.start)

    def later(self, delay_ms: int, action: Callable[..., None], *arguments: Any) -> None:
        """Run something in this process after a delay."""
        self.world.at(delay_ms, self.deliver, self.incarnation, action, *arguments)

    def pause(self) -> None:
        """Stop doing anything; what arrives waits."""
        self.is_paused = True

    def resume(self) -> None:
        """Go on with what has arrived, in order."""
        if not self.is_paused:
            return
        self.is_paused = False
        waiting, self._inbox = self._inbox, deque()
        incarnation = self.incarnation
        for action, arguments in waiting:
            self.deliver(incarnation, action, *arguments)

    def known_broker_epoch(self, broker_id: int) -> int | None:
        """Of the registration in the metadata applied here."""
        registration = self.image.brokers.get(broker_id)
        return None if registration is None else registration.broker_epoch

    def on_image(self, image: MetadataImage) -> None:
        """Take over a committed image; an older one says nothing."""
        if image.offset <= self.image.offset:
            return
        before, self.image = self.image, image
        self.active_broker_epochs.clear()
        for broker in image.brokers.values():
            if broker.is_active:
                self.active_broker_epochs[broker.broker_id] = broker.broker_epoch
        if not self.is_live:
            if self.broker_epoch is None or self.known_broker_epoch(self.broker_id) != self.broker_epoch:
                return
            self.is_live = True
            before = EMPTY
        registration = partition_of(image)
        if registration is not None and registration != partition_of(before):
            self._apply(registration)
        self.following.on_registrations()
        if image.brokers != before.brokers and self.leader is not None and self.leader.has_outsiders:
            self._recheck()
            self.isr.request()

    # -- roles ---------------------------------------------------------------------------------------------------

    @property
    def reported_offset(self) -> int:
        """What this replica counts as held."""
        if self.world.options.is_synced and not self.world.ablations.acks_before_flush:
            return self.log.flushed_offset
        return self.log.log_end_offset

    def _apply(self, registration: PartitionRegistration) -> None:
        if self.broker_id not in registration.replicas:
            return
        role = self.leader or self.follower
        if role is not None and registration.leader_epoch < role.leader_epoch:
            return
        if registration.leader_id == self.broker_id:
            self._lead(registration)
        elif registration.leader_id is None:
            self._stand_by()
        else:
            self._follow(registration)

    def _lead(self, registration: PartitionRegistration) -> None:
        world, log = self.world, self.log
        leader = self.leader
        if leader is not None and leader.leader_epoch == registration.leader_epoch:
            moved = leader.on_metadata(registration, world.now_ms)
        else:
            if log.epochs.latest == registration.leader_epoch:
                world.book.probe("core.replication.refused_to_lead_twice")
                self._stand_by()
                return
            self._end_slots(FencedLeaderEpoch(leader_epoch=registration.leader_epoch))
            self.following.unfollow()
            log.epochs.assign(registration.leader_epoch, log.log_end_offset)
            self.follower = None
            settings = LeaderSettings(
                local_broker_id=self.broker_id,
                local_broker_epoch=self.broker_epoch or 0,
                min_in_sync_replicas=world.options.min_in_sync,
                replica_lag_time_ms_max=world.options.lag_time_ms_max,
                active_broker_epochs=self.active_broker_epochs,
            )
            leader = LeaderState(
                registration,
                settings,
                log_end_offset=log.log_end_offset,
                reported_offset=self.reported_offset,
                high_watermark=self.high_watermark,
                now_ms=world.now_ms,
            )
            self.leader = leader
            world.checks.on_new_leader(self, registration)
            moved = leader.recheck(world.now_ms)
            self.flush_soon()
        if moved:
            self.advance_to(leader.high_watermark)
        self.fail_waiters_under_min()
        self.isr.request()

    def _follow(self, registration: PartitionRegistration) -> None:
        follower = self.follower
        if follower is not None and follower.leader_epoch == registration.leader_epoch:
            follower.on_metadata(partition_epoch=registration.partition_epoch)
            return
        self._leave_leadership()
        self.following.unfollow()
        assert registration.leader_id is not None
        self.follower = FollowerState(
            leader_id=registration.leader_id,
            leader_epoch=registration.leader_epoch,
            partition_epoch=registration.partition_epoch,
            high_watermark=self.high_watermark,
        )
        if self.world.ablations.truncates_to_high_watermark:
            self.following.truncate_to(self.high_watermark)
        self.following.subscribe()

    def _stand_by(self) -> None:
        self.following.unfollow()
        self.follower = None
        self._leave_leadership()

    def _leave_leadership(self) -> None:
        self.leader = None
        self._end_slots(NotLeaderOrFollower("another leads"))
        self._fail_waiters(Disconnected("the leader changed"))

    def _end_slots(self, error: LogClusterError) -> None:
        slots, self.slots = self.slots, {}
        for subscription in slots.values():
            subscription.end(error)

    # -- as a leader ---------------------------------------------------------------------------------------------

    def produce(
        self, producer_id: int, base_sequence: int, count: int, value: int, leader_epoch: int, answer: Produced
    ) -> None:
        """Append one client batch; `answer` hears of its commit."""
        leader, log = self.leader, self.log
        if leader is None or leader.leader_epoch != leader_epoch:
            answer(NotLeaderOrFollower("not the leader in this epoch"))
            return
        try:
            if producer_id >= 0:
                known = self.producers.check_append(producer_id, 0, base_sequence, count)
                if known is not None:
                    self.world.book.probe("core.replication.retry_answered")
                    self._whenadvance_to(known.base_offset, known.last_offset + 1, answer)
                    return
            leader.check_can_commit()
        except LogClusterError as error:
            answer(error)
            return
        batch = Batch(log.log_end_offset, count, leader.leader_epoch, producer_id, base_sequence, value)
        log.append(batch, self.producers)
        leader.on_append(log.log_end_offset, self.world.now_ms)
        for subscription in self.slots.values():
            subscription.link.wake()
        self.flush_soon()
        if self.reported_offset == log.log_end_offset and leader.on_local_report(log.log_end_offset, self.world.now_ms):
            self.advance_to(leader.high_watermark)
        self._whenadvance_to(batch.base_offset, batch.next_offset, answer)

    def _whenadvance_to(self, base_offset: int, next_offset: int, answer: Produced) -> None:
        if next_offset <= self.high_watermark:
            answer(base_offset)
        else:
            self._waiters.append((next_offset, base_offset, answer))

    def on_replica_report(
        self, follower_id: int, broker_epoch: int, reported_offset: int, log_end_offset: int, log_start_offset: int
    ) -> None:
        """A follower says how far it is."""
        leader = self.leader
        if leader is None:
            return
        if leader.on_replica_report(
            follower_id,
            broker_epoch=broker_epoch,
            reported_offset=reported_offset,
            log_end_offset=log_end_offset,
            log_start_offset=log_start_offset,
            now_ms=self.world.now_ms,
        ):
            self.advance_to(leader.high_watermark)
        if leader.has_outsiders and leader.has_newcomer():
            self.isr.request()

    def _recheck(self) -> None:
        leader = self.leader
        if leader is not None and leader.recheck(self.world.now_ms):
            self.advance_to(leader.high_watermark)

    def advance_to(self, high_watermark: int) -> None:
        """The leader's high watermark moved: complete who waited."""
        before, self.high_watermark = self.high_watermark, high_watermark
        self.world.checks.on_exposed(self, before, high_watermark)
        done = [waiter for waiter in self._waiters if waiter[0] <= high_watermark]
        if done:
            self._waiters = [waiter for waiter in self._waiters if waiter[0] > high_watermark]
            for _, base_offset, answer in done:
                answer(base_offset)
        for subscription in self.slots.values():
            subscription.link.wake()

    def _fail_waiters(self, error: LogClusterError) -> None:
        waiters, self._waiters = self._waiters, []
        for _, _, answer in waiters:
            answer(error)

    def fail_waiters_under_min(self) -> None:
        """Too few are in sync: whoever waits is told that the outcome is unknown."""
        leader = self.leader
        if leader is not None and leader.is_under_min:
            self.world.book.probe("core.replication.in_sync_below_minimum")
            if self._waiters:
                self._fail_waiters(NotEnoughReplicasAfterAppend(in_sync_replicas=leader.in_sync_replicas))

    # -- disk and upkeep -----------------------------------------------------------------------------------------

    def flush_soon(self) -> None:
        """Make durable what is not."""
        world = self.world
        if self._is_flushing or self.log.flushed_offset == self.log.log_end_offset:
            return
        self._is_flushing = True
        delay_ms = world.below(world.options.disk_ms_max) if not world.is_calm else 1
        if not world.options.is_synced:
            delay_ms += 100
        self.later(delay_ms, self._flushed, self.log.log_end_offset, self.cuts)

    def _flushed(self, offset: int, cuts: int) -> None:
        self._is_flushing = False
        if cuts == self.cuts and offset > self.log.flushed_offset:
            self.log.flushed_offset = offset
            if self.leader is not None:
                if self.leader.on_local_report(self.reported_offset, self.world.now_ms):
                    self.advance_to(self.leader.high_watermark)
            elif self.follower is not None:
                self.following.report()
        self.flush_soon()

    def _upkeep_later(self) -> None:
        self.later(UPKEEP_MS, self._upkeep)

    def _upkeep(self) -> None:
        self._upkeep_later()
        world = self.world
        if world.chance(0.3):
            self.log.stored_high_watermark = self.high_watermark
        leader = self.leader
        if leader is None:
            return
        if leader.has_outsiders:
            self._recheck()
        if leader.pending is None and leader.wants_change(world.now_ms):
            self.isr.request()

    def delete_records(self) -> None:
        """An operator hides what is committed so far, or a part of it."""
        if self.leader is None or self.high_watermark <= self.log.log_start_offset:
            return
        offset = self.log.log_start_offset + self.world.below(self.high_watermark - self.log.log_start_offset)
        self.log.advance_start(offset)
        batch = self.log.batch_at(offset)
        if batch is not None and batch.base_offset < offset:
            self.world.book.probe("core.replication.start_inside_batch")
        self.world.book.probe("core.replication.records_deleted")
        for subscription in self.slots.values():
            subscription.sent_high_watermark = -1
            subscription.link.wake()
