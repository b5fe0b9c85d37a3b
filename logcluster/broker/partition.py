"""One hosted partition: its log, its role, its producers, and everybody who waits for it.

Plain synchronous methods on the event loop: no lock, no task, no await between reading and changing state. Decisions
are `core.replication`'s; this file performs them: append, stamp, wake, tell the followers' feeds.

Invariants: at most one role at a time; `waiters` ascend in offset, so that one sweep from the left completes all that a
moved high watermark covers; an appended record whose commitment is in doubt is never refused definitely (P9); the epoch
history knows a leader epoch before anything is served in it.

Neighbours: `replica_manager` changes roles, `produce` and `fetch` are the callers, `replica_feed` and `replica_stream`
carry bytes between replicas, `flusher` makes them durable.
"""

from __future__ import annotations

import asyncio
from typing import NamedTuple, Protocol

from logcluster.broker.commit_waiters import CommitWaiters, Notify
from logcluster.broker.producer_recovery import load_producers
from logcluster.core.metadata.image import PartitionRegistration
from logcluster.core.metadata.topic_config import TopicConfig
from logcluster.core.replication.follower import FollowerState
from logcluster.core.replication.in_sync import LeaderSettings
from logcluster.core.replication.leader import LeaderState
from logcluster.core.replication.producer_state import ProducerStates
from logcluster.model.errors import (
    CorruptLog,
    CorruptMessage,
    Disconnected,
    FencedLeaderEpoch,
    LogClusterError,
    NotEnoughReplicasAfterAppend,
    NotLeaderOrFollower,
    UnknownLeaderEpoch,
)
from logcluster.model.ids import TopicId, TopicIdPartition, TopicPartition
from logcluster.model.probes import probe
from logcluster.record.batch import BatchHeader, check_crc, iterate_headers, stamp
from logcluster.runtime.clock import Clock
from logcluster.runtime.failpoints import failpoint
from logcluster.storage.log import PartitionLog


class FeedSlot(Protocol):
    """One follower's subscription to this partition, as the leader side sees it."""

    follower_id: int

    def on_append(self) -> None:
        """There is more to send."""

    def on_high_watermark(self) -> None:
        """The high watermark moved."""

    def end(self, error: LogClusterError) -> None:
        """The subscription is over; the follower is told why."""


class PartitionHost(Protocol):
    """What a partition asks of its replica manager."""

    @property
    def clock(self) -> Clock: ...

    def mark_dirty(self, partition: Partition) -> None:
        """There is something to flush."""

    def request_isr_change(self, partition: Partition) -> None:
        """A follower may join now."""

    def watch_waiters(self, partition: Partition) -> None:
        """There are waiters whose deadlines must be looked at."""

    def on_follower_flushed(self, partition: Partition) -> None:
        """As a follower, more is on disk than was reported."""


class Appended(NamedTuple):
    """Where a batch is in the log; for a retry, where it was put the first time."""

    base_offset: int
    next_offset: int
    log_append_time_ms: int
    """-1 when the topic keeps the producer's time."""
    is_duplicate: bool


class Partition:
    """One replica of one partition on this broker; made and given its roles by the replica manager."""

    __slots__ = (
        "_host",
        "appended_record_count",
        "appended_size_bytes",
        "config",
        "follower",
        "high_watermark",
        "index",
        "is_dirty",
        "is_synced_before_report",
        "leader",
        "leader_id",
        "log",
        "producers",
        "readers",
        "replicated_record_count",
        "replicated_size_bytes",
        "slots",
        "stamps_append_time",
        "topic",
        "topic_id",
        "waiters",
    )

    def __init__(self, log: PartitionLog, config: TopicConfig, producers: ProducerStates, host: PartitionHost) -> None:
        self.log = log
        self.topic = log.topic_partition.topic
        self.index = log.topic_partition.partition
        self.topic_id: TopicId = log.topic_id
        self.producers = producers
        self.leader: LeaderState | None = None
        self.follower: FollowerState | None = None
        self.leader_id: int | None = None
        self.high_watermark = min(max(log.high_watermark, log.log_start_offset), log.log_end_offset)
        self.waiters = CommitWaiters()
        self.readers: dict[asyncio.Future[None], None] = {}
        self.slots: dict[int, FeedSlot] = {}
        """Subscriptions by follower id."""
        self.is_dirty = False
        self.appended_record_count = self.appended_size_bytes = 0
        self.replicated_record_count = self.replicated_size_bytes = 0
        self._host = host
        self.set_config(config)
        log.on_roll = self._on_roll

    @property
    def topic_partition(self) -> TopicPartition:
        return self.log.topic_partition

    @property
    def topic_id_partition(self) -> TopicIdPartition:
        return self.log.topic_id_partition

    @property
    def leader_epoch(self) -> int | None:
        """Of the current role; None without one."""
        if self.leader is not None:
            return self.leader.leader_epoch
        return None if self.follower is None else self.follower.leader_epoch

    @property
    def reported_offset(self) -> int:
        """What this replica counts as held: the flushed offset with `flush.mode=sync`, else the log end."""
        return self.log.flushed_offset if self.is_synced_before_report else self.log.log_end_offset

    def set_config(self, config: TopicConfig) -> None:
        """Take over the topic's settings; a changed flush mode counts from the next report on."""
        self.config = config
        self.is_synced_before_report = config.flush_mode == "sync"
        self.stamps_append_time = config.message_timestamp_type == "LogAppendTime"
        if self.is_dirty:
            self._host.mark_dirty(self)
        leader = self.leader
        if leader is not None:
            leader.min_in_sync_replicas = config.min_insync_replicas
            now_ms = self._host.clock.monotonic_ms()
            if leader.on_local_report(self.reported_offset, now_ms) or leader.recheck(now_ms):
                self._committed(leader.high_watermark)

    # -- roles ---------------------------------------------------------------------------------------------------

    def lead(self, registration: PartitionRegistration, settings: LeaderSettings) -> bool:
        """Become, or stay, the leader; returns whether a new leader epoch begins.

        A new epoch is in the history before anything is served in it, even though nothing is written yet, so that a
        follower that saw a later one finds where to cut. Waiters of an earlier own epoch keep waiting: their records
        are still in the log.

        Raises:
            StorageFailure: the log has failed.
        """
        now_ms = self._host.clock.monotonic_ms()
        leader = self.leader
        self.leader_id = settings.local_broker_id
        if leader is not None and leader.leader_epoch == registration.leader_epoch:
            moved = leader.on_metadata(registration, now_ms)
        else:
            log = self.log
            failpoint("replication.lead.before_epoch")
            log.assign_leader_epoch(registration.leader_epoch)
            failpoint("replication.lead.after_epoch")
            self._end_slots(FencedLeaderEpoch(leader_epoch=registration.leader_epoch))
            self.follower = None
            leader = LeaderState(
                registration,
                settings,
                log_end_offset=log.log_end_offset,
                reported_offset=self.reported_offset,
                high_watermark=self.high_watermark,
                now_ms=now_ms,
            )
            self.leader = leader
            moved = leader.recheck(now_ms)
            self._wake_readers()
            if log.is_dirty:
                self._mark_dirty()
        if moved:
            self._committed(leader.high_watermark)
        if leader.is_under_min and len(self.waiters):
            probe("produce.not_enough_replicas_after_append")
            self.waiters.fail_all(NotEnoughReplicasAfterAppend(in_sync_replicas=leader.in_sync_replicas))
        return leader.epoch_start_offset == self.log.log_end_offset

    def follow(self, registration: PartitionRegistration) -> bool:
        """Become, or stay, a follower of the registration's leader; returns whether the leader epoch is new.

        Nothing is cut here: the leader's answer to the subscription tells what to cut, never the high watermark.
        """
        assert registration.leader_id is not None
        follower = self.follower
        self.leader_id = registration.leader_id
        if follower is not None and follower.leader_epoch == registration.leader_epoch:
            follower.on_metadata(partition_epoch=registration.partition_epoch)
            return False
        failpoint("replication.follow.before")
        self._leave_leadership(registration.leader_id, registration.leader_epoch)
        self.follower = FollowerState(
            leader_id=registration.leader_id,
            leader_epoch=registration.leader_epoch,
            partition_epoch=registration.partition_epoch,
            high_watermark=self.high_watermark,
        )
        return True

    def stand_by(self, leader_id: int | None = None, leader_epoch: int | None = None) -> None:
        """Give up any role: the partition has no leader, is deleted, or this replica steps aside."""
        self.leader_id = leader_id
        self.follower = None
        self._leave_leadership(leader_id, leader_epoch)

    def _leave_leadership(self, leader_id: int | None, leader_epoch: int | None) -> None:
        if len(self.waiters):
            probe("produce.leader_changed_before_commit")
        self.leader = None
        self._end_slots(NotLeaderOrFollower(leader_id=leader_id, leader_epoch=leader_epoch))
        # The records may yet survive under the next leader, so this is no definite refusal (P9).
        self.waiters.fail_all(
            Disconnected(
                "the leader changed before the record was committed", leader_id=leader_id, leader_epoch=leader_epoch
            )
        )
        self._wake_readers()

    def require_leader(self, leader_epoch: int | None = None) -> LeaderState:
        """The leader state, if this broker leads in exactly the epoch the caller believes in (None: any).

        Raises:
            NotLeaderOrFollower: it does not lead; facts name who does, as far as known.
            FencedLeaderEpoch, UnknownLeaderEpoch: the caller's epoch is older, or newer than known here.
        """
        leader = self.leader
        if leader is None:
            raise NotLeaderOrFollower(
                topic=self.topic, partition=self.index, leader_id=self.leader_id, leader_epoch=self.leader_epoch
            )
        if leader_epoch is not None and leader_epoch != leader.leader_epoch:
            probe("broker.request.other_leader_epoch")
            error = FencedLeaderEpoch if leader_epoch < leader.leader_epoch else UnknownLeaderEpoch
            raise error(
                topic=self.topic, partition=self.index, leader_id=self.leader_id, leader_epoch=leader.leader_epoch
            )
        return leader

    # -- the leader's hot path -----------------------------------------------------------------------------------

    def append_as_leader(self, batch: bytes, header: BatchHeader, *, acks_all: bool) -> Appended:
        """Append one validated batch: judge its producer, stamp it, write it, offer it to the followers.

        A retry is answered with its original place, before the in-sync set is looked at: it is in the log already.

        Raises:
            NotLeaderOrFollower: this broker does not lead, or has just found its log damaged; nothing was written.
            InvalidProducerEpoch, OutOfOrderSequenceNumber: see `ProducerStates.check_append`; nothing was written.
            NotEnoughReplicas: `acks_all`, and the in-sync set is below its minimum; nothing was written.
            StorageFailure: the disk failed; the outcome is unknown and the log directory stops.
        """
        leader = self.leader
        if leader is None:
            leader = self.require_leader()
        producer_id = header.producer_id
        if producer_id >= 0:
            known = self.producers.check_append(
                producer_id, header.producer_epoch, header.base_sequence, header.record_count
            )
            if known is not None:
                probe("producer.duplicate_answered")
                append_time_ms = known.timestamp_ms if self.stamps_append_time else -1
                return Appended(known.base_offset, known.last_offset + 1, append_time_ms, True)
        if acks_all and leader.is_under_min:
            leader.check_can_commit()
        log = self.log
        clock = self._host.clock
        base_offset = log.log_end_offset
        wall_ms = clock.now_ms()
        leader_epoch = leader.leader_epoch
        try:
            if self.stamps_append_time:
                append_time_ms = wall_ms
                timestamp_ms = wall_ms
                data = stamp(batch, base_offset=base_offset, leader_epoch=leader_epoch, log_append_time_ms=wall_ms)
                log.append(data)
            else:
                append_time_ms = -1
                timestamp_ms = header.max_timestamp_ms
                data = stamp(batch, base_offset=base_offset, leader_epoch=leader_epoch)
                # As header._replace would, at half of its cost.
                stamped = BatchHeader(base_offset, header[1], leader_epoch, *header[3:])
                log.append(data, (stamped,))
        except CorruptLog as error:
            probe("produce.refused_by_damage_just_found")
            # A reader's thread has just found damage; the log looks whether it is usable before it writes.
            raise NotLeaderOrFollower("the replica's log is damaged", topic=self.topic, partition=self.index) from error
        failpoint("produce.after_append")
        next_offset = log.log_end_offset
        self.appended_record_count += next_offset - base_offset
        self.appended_size_bytes += len(data)
        now_ms = clock.monotonic_ms()
        if producer_id >= 0:
            self.producers.record(
                producer_id,
                header.producer_epoch,
                header.base_sequence,
                base_offset=base_offset,
                last_offset=next_offset - 1,
                timestamp_ms=timestamp_ms,
                now_ms=now_ms,
            )
        leader.on_append(next_offset, now_ms)
        for slot in self.slots.values():
            slot.on_append()
        if not self.is_dirty:
            self._mark_dirty()
        if not self.is_synced_before_report and leader.on_local_report(next_offset, now_ms):
            self._committed(leader.high_watermark)
        return Appended(base_offset, next_offset, append_time_ms, False)

    def when_committed(self, next_offset: int, deadline_ms: int, notify: Notify) -> bool:
        """Call `notify` when everything below `next_offset` is committed; False, and no call, when it is already.

        Args:
            deadline_ms: on the monotonic clock.
            notify: told None, or an indefinite error: `RequestTimedOut`, `NotEnoughReplicasAfterAppend`,
                `Disconnected` (the leader changed) or `StorageFailure`. The record stays in the log.
        """
        if next_offset <= self.high_watermark:
            return False
        if not len(self.waiters):
            self._host.watch_waiters(self)
        self.waiters.add(next_offset, deadline_ms, notify)
        return True

    def on_replica_report(
        self, follower_id: int, *, broker_epoch: int, reported_offset: int, log_end_offset: int, log_start_offset: int
    ) -> None:
        """A follower subscribed to this leader epoch says how far it is."""
        leader = self.leader
        if leader is None:
            return
        if leader.on_replica_report(
            follower_id,
            broker_epoch=broker_epoch,
            reported_offset=reported_offset,
            log_end_offset=log_end_offset,
            log_start_offset=log_start_offset,
            now_ms=self._host.clock.monotonic_ms(),
        ):
            self._committed(leader.high_watermark)
        if leader.has_outsiders and leader.has_newcomer():
            self._host.request_isr_change(self)

    def on_replica_gone(self, follower_id: int) -> None:
        """The subscription of a follower ended."""
        if self.leader is not None:
            self.leader.on_replica_gone(follower_id, self._host.clock.monotonic_ms())

    def on_isr_committed(self) -> None:
        """The leader state took over a committed in-sync set outside of `lead`."""
        leader = self.leader
        if leader is None:
            return
        if leader.high_watermark > self.high_watermark:
            self._committed(leader.high_watermark)
        if leader.is_under_min and len(self.waiters):
            self.waiters.fail_all(NotEnoughReplicasAfterAppend(in_sync_replicas=leader.in_sync_replicas))

    def recheck(self, now_ms: int) -> None:
        """Time passed: a laggard may be waited for no longer."""
        leader = self.leader
        if leader is not None and leader.recheck(now_ms):
            self._committed(leader.high_watermark)

    def on_flushed(self) -> None:
        """The log's flushed offset moved."""
        if not self.is_synced_before_report:
            return
        leader = self.leader
        if leader is not None:
            if leader.on_local_report(self.log.flushed_offset, self._host.clock.monotonic_ms()):
                self._committed(leader.high_watermark)
        elif self.follower is not None:
            self._host.on_follower_flushed(self)

    # -- the follower's hot path ---------------------------------------------------------------------------------

    def append_as_follower(self, data: bytes) -> None:
        """Append whole batches as the leader stamped them, after checking every checksum (P8).

        Producers are recorded, never judged. An empty log may begin with the batch that holds its start, although that
        begins below: the leader deletes records, but sends batches whole (KAFKA-6975).

        Raises:
            CorruptMessage: bytes are damaged or do not continue this log; nothing was written.
            StorageFailure: the disk failed.
        """
        follower = self.follower
        assert follower is not None
        log = self.log
        expected = log.log_end_offset
        headers: list[BatchHeader] = []
        end = 0
        for position, header in iterate_headers(data):
            if not headers and header.base_offset < expected <= header.last_offset and not log.size_bytes:
                expected = header.base_offset  # it holds the start of a log that has nothing yet
            if header.base_offset < expected or header.leader_epoch > follower.leader_epoch:
                raise CorruptMessage(
                    "replicated batches do not continue the log", base_offset=header.base_offset, expected=expected
                )
            if not check_crc(data, position, header):
                probe("replication.follower.damaged_batch_refused")
                raise CorruptMessage("a replicated batch fails its checksum", base_offset=header.base_offset)
            expected = header.base_offset + header.last_offset_delta + 1
            end = position + header.size_bytes
            headers.append(header)
        if end != len(data) or not headers:
            raise CorruptMessage("replicated bytes are not whole batches", size_bytes=len(data))
        latest = log.leader_epochs.latest
        if latest is not None and headers[0].leader_epoch < latest:
            probe("replication.follower.unused_epoch_dropped")
            # This replica once led an epoch in which it wrote nothing; what comes now was written before it.
            log.leader_epochs.truncate_from_end(log.log_end_offset)
        if headers[0].base_offset < log.log_end_offset:
            log.append_across_start(data, headers)
            log.high_watermark = self.high_watermark
        else:
            log.append(data, headers, allow_gap=True)
        self.replicated_record_count += sum(header.record_count for header in headers)
        self.replicated_size_bytes += len(data)
        self._record_producers(headers)
        if not self.is_dirty:
            self._mark_dirty()

    def _record_producers(self, headers: list[BatchHeader]) -> None:
        now_ms: int | None = None
        record = self.producers.record
        for header in headers:
            if header.producer_id >= 0:
                if now_ms is None:
                    now_ms = self._host.clock.monotonic_ms()
                record(
                    header.producer_id,
                    header.producer_epoch,
                    header.base_sequence,
                    base_offset=header.base_offset,
                    last_offset=header.base_offset + header.last_offset_delta,
                    timestamp_ms=header.max_timestamp_ms,
                    now_ms=now_ms,
                )

    def learn_high_watermark(self, high_watermark: int) -> None:
        """As a follower: the leader says what is committed."""
        follower = self.follower
        if follower is not None and follower.on_leader_high_watermark(high_watermark, self.log.log_end_offset):
            self._committed(follower.high_watermark)

    def truncate_to(self, offset: int) -> None:
        """Cut the log and everything derived from it. Blocks on the disk; rare.

        Raises:
            StorageFailure: the disk failed.
        """
        self._after_truncation(self.log.truncate_to(offset))

    def restart_at(self, offset: int) -> None:
        """Drop everything and begin at `offset`. Blocks on the disk; rare.

        Raises:
            StorageFailure: the disk failed.
        """
        self.log.truncate_fully_and_start_at(offset)
        self._after_truncation(offset)

    def _after_truncation(self, log_end_offset: int) -> None:
        self.high_watermark = min(max(self.high_watermark, self.log.log_start_offset), log_end_offset)
        self.log.high_watermark = self.high_watermark
        if self.follower is not None:
            self.follower.on_truncated(log_end_offset)
        if self.producers.must_rebuild_after_truncation(log_end_offset) or self.log.log_start_offset == log_end_offset:
            probe("producer.state.rebuilt_after_truncation")
            failpoint("replication.follower.before_producers_rebuilt")
            load_producers(self.log, self.producers, now_ms=self._host.clock.monotonic_ms())

    # -- waking --------------------------------------------------------------------------------------------------

    def _committed(self, high_watermark: int) -> None:
        """The high watermark moved: complete who waited for it, in the order of offsets."""
        self.high_watermark = high_watermark
        self.log.high_watermark = high_watermark
        if len(self.waiters):
            self.waiters.complete_to(high_watermark)
        if self.readers:
            self._wake_readers()
        for slot in self.slots.values():
            slot.on_high_watermark()

    def _wake_readers(self) -> None:
        readers, self.readers = self.readers, {}
        for future in readers:
            if not future.done():
                future.set_result(None)

    def expire_waiters(self, now_ms: int) -> bool:
        """Fail who waited too long; returns whether anybody still waits."""
        return self.waiters.expire(now_ms, topic=self.topic, partition=self.index)

    def fail(self, error: LogClusterError) -> None:
        """The log is unusable: nobody is acknowledged any more; the outcome of what waits is unknown."""
        self.waiters.fail_all(error)
        self.stand_by(self.leader_id)

    def _end_slots(self, error: LogClusterError) -> None:
        slots, self.slots = self.slots, {}
        for slot in slots.values():
            slot.end(error)

    def _mark_dirty(self) -> None:
        self.is_dirty = True
        self._host.mark_dirty(self)

    # -- producer snapshots --------------------------------------------------------------------------------------

    def _on_roll(self, base_offset: int) -> None:
        """A segment begins: remember the producers up to here, so that a restart replays little."""
        self.log.write_producer_snapshot(base_offset, self.producers.encode_snapshot(base_offset))

    def close(self, *, clean: bool) -> None:
        """End the replica; after a clean close the producer snapshot covers the whole log. Blocks on the disk.

        Raises:
            StorageFailure: the disk failed.
        """
        self.stand_by(self.leader_id)
        log = self.log
        if clean and log.failure is None and len(self.producers):
            failpoint("broker.close.before_producer_snapshot")
            log.write_producer_snapshot(log.log_end_offset, self.producers.encode_snapshot(log.log_end_offset))
        log.close(clean=clean and log.failure is None)

    # -- self-check ----------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Check roles, log and producers.

        Raises:
            InvariantViolation: something that must hold does not.
        """
        self.producers.check()
        if self.leader is not None:
            self.leader.check()
        if self.follower is not None:
            self.follower.check(self.log.log_end_offset)

    def describe(self) -> str:
        """One line for transcripts."""
        role = self.leader or self.follower
        return f"{self.topic_partition} {'no role' if role is None else role.describe()} {self.producers.describe()}"
