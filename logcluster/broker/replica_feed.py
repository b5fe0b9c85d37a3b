"""Leader side of replication: what one follower broker is sent, over one stream, for all partitions it follows here.

An append or a moved high watermark only marks a subscription and wakes the stream's writer; the writer then collects
everything that is ready into one message, so that the cost per partition falls under load. Data is sent within the
follower's credit, from memory; what is no longer there is read off the event loop by a second task. A high-watermark
move without data goes out at once when the stream was quiet, and within `HIGH_WATERMARK_DELAY_MS` when it was not.

Invariants: a subscription gets each byte of the log once and in order; nothing a follower reports counts before its
history was found to agree with this log; a subscription that ends never counts again.

Neighbours: `api.replication_service` owns the stream, `partition` the data. Source: protocols.md (a).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from logcluster.broker.partition import Partition
from logcluster.model.errors import (
    CorruptLog,
    InvalidRequest,
    LogClusterError,
    NotLeaderOrFollower,
    OffsetOutOfRange,
    StorageFailure,
)
from logcluster.model.ids import TopicId
from logcluster.model.limits import MIB
from logcluster.model.probes import probe
from logcluster.runtime.clock import Clock
from logcluster.runtime.disk import DiskExecutor
from logcluster.runtime.failpoints import failpoint
from logcluster.wire.gen.logcluster.internal.v1 import replication_pb2 as pb
from logcluster.wire.status import error_detail

PARTITION_SIZE_BYTES_MAX: Final = 1 * MIB
"""Of one partition in one message; a single larger batch goes out whole."""
MESSAGE_SIZE_BYTES_MAX: Final = 4 * MIB
HIGH_WATERMARK_DELAY_MS: Final = 5
SUBSCRIPTIONS_MAX: Final = 100_000

PartitionLookup = Callable[[TopicId, int], Partition]
"""Finds a hosted partition; raises UnknownTopicId, UnknownTopicOrPartition."""


class FeedSubscription:
    """One partition on one stream."""

    __slots__ = ("feed", "follower_id", "handle", "is_reading", "next_offset", "partition", "sent_high_watermark")

    def __init__(self, feed: ReplicaFeed, handle: int, partition: Partition, next_offset: int) -> None:
        self.feed = feed
        self.follower_id = feed.follower_id
        self.handle = handle
        self.partition = partition
        self.next_offset = next_offset
        self.sent_high_watermark = -1
        self.is_reading = False
        """A cold read is under way: nothing else may be sent for it."""

    def on_append(self) -> None:
        """There is more to send."""
        feed = self.feed
        feed.ready[self] = None
        waiter = feed.waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def on_high_watermark(self) -> None:
        """The high watermark moved."""
        self.feed.high_watermark_moved(self)

    def end(self, error: LogClusterError) -> None:
        """The subscription is over; the follower is told why."""
        self.feed.end(self, error)


class ReplicaFeed:
    """Everything one follower broker is subscribed to on one stream."""

    def __init__(
        self,
        *,
        follower_id: int,
        follower_broker_epoch: int,
        broker_epoch: int,
        find_partition: PartitionLookup,
        clock: Clock,
        disk: DiskExecutor,
    ) -> None:
        self.follower_id = follower_id
        self.follower_broker_epoch = follower_broker_epoch
        self.ready: dict[FeedSubscription, None] = {}
        self.waiter: asyncio.Future[None] | None = None
        self._find_partition = find_partition
        self._clock = clock
        self._disk = disk
        self._loop = asyncio.get_running_loop()
        self._credit_bytes = 0
        self._subscriptions: dict[int, FeedSubscription] = {}
        self._answers: list[pb.PartitionData] = []
        self._cold: dict[FeedSubscription, None] = {}
        self._cold_waiter: asyncio.Future[None] | None = None
        self._unsent_high_watermarks: dict[FeedSubscription, None] = {}
        self._high_watermark_timer: asyncio.TimerHandle | None = None
        self._last_message_ms = -HIGH_WATERMARK_DELAY_MS
        self._hello = broker_epoch
        """To be sent with the first message; 0 afterwards."""
        self._is_stopped = False

    # -- from the follower ---------------------------------------------------------------------------------------

    def on_request(self, request: pb.ReplicateRequest) -> None:
        """Take in one message of the follower."""
        if request.credit_bytes:
            was_starved = self._credit_bytes <= 0
            self._credit_bytes += request.credit_bytes
            if was_starved and self._credit_bytes > 0:
                self._wake()
        subscriptions = self._subscriptions
        for handle in request.unsubscribe:
            subscription = subscriptions.get(handle)
            if subscription is not None:
                self._forget(subscription)
        for subscribe in request.subscribe:
            self._subscribe(subscribe)
        epoch = self.follower_broker_epoch
        for report in request.reports:
            subscription = subscriptions.get(report.handle)
            if subscription is not None:
                log_end_offset = report.log_end_offset
                if log_end_offset > subscription.next_offset or report.reported_offset > log_end_offset:
                    raise InvalidRequest("a follower reports more than it was sent", handle=report.handle)
                subscription.partition.on_replica_report(
                    self.follower_id,
                    broker_epoch=epoch,
                    reported_offset=report.reported_offset,
                    log_end_offset=log_end_offset,
                    log_start_offset=report.log_start_offset,
                )

    def _subscribe(self, request: pb.PartitionSubscribe) -> None:
        handle = request.handle
        if handle in self._subscriptions or len(self._subscriptions) >= SUBSCRIPTIONS_MAX:
            raise InvalidRequest("a handle is used once, and handles are bounded", handle=handle)
        try:
            partition = self._find_partition(TopicId(request.topic_id), request.partition)
            leader = partition.require_leader(request.leader_epoch)
            if self.follower_id not in leader.remotes:
                raise NotLeaderOrFollower("the broker asking is no replica as far as known here")
        except LogClusterError as error:
            probe("replication.feed.subscription_refused")
            self._answer(pb.PartitionData(handle=handle, error=error_detail(error)))
            return
        log = partition.log
        fetch_offset = request.fetch_offset
        diverging = log.leader_epochs.divergence(
            last_epoch=request.last_epoch if request.HasField("last_epoch") else None,
            position=fetch_offset,
            log_end_offset=log.log_end_offset,
        )
        if diverging is not None:
            probe("replication.feed.diverging_epoch_found")
            point = pb.DivergingEpoch(leader_epoch=diverging.leader_epoch, end_offset=diverging.end_offset)
            self._answer(pb.PartitionData(handle=handle, diverging_epoch=point))
            return
        if not log.log_start_offset <= fetch_offset <= log.log_end_offset:
            probe("replication.feed.follower_out_of_range")
            self._answer(_refusal(handle, partition, OffsetOutOfRange(fetch_offset=fetch_offset)))
            return
        previous = partition.slots.get(self.follower_id)
        if previous is not None:
            probe("replication.feed.subscription_replaced")
            previous.end(NotLeaderOrFollower("the follower subscribed again"))
        failpoint("replication.feed.before_subscription")
        subscription = FeedSubscription(self, handle, partition, fetch_offset)
        self._subscriptions[handle] = subscription
        partition.slots[self.follower_id] = subscription
        leader.reset_replica(self.follower_id, broker_epoch=self.follower_broker_epoch)
        partition.on_replica_report(
            self.follower_id,
            broker_epoch=self.follower_broker_epoch,
            reported_offset=min(request.reported_offset, fetch_offset),
            log_end_offset=fetch_offset,
            log_start_offset=request.log_start_offset,
        )
        self.ready[subscription] = None
        self._wake()

    # -- from the partitions -------------------------------------------------------------------------------------

    def high_watermark_moved(self, subscription: FeedSubscription) -> None:
        """Tell the follower, with data if some goes out anyway."""
        if subscription in self.ready:
            return
        if self._clock.monotonic_ms() - self._last_message_ms >= HIGH_WATERMARK_DELAY_MS:
            self.ready[subscription] = None
            self._wake()
            return
        self._unsent_high_watermarks[subscription] = None
        if self._high_watermark_timer is None:
            self._high_watermark_timer = self._loop.call_later(
                HIGH_WATERMARK_DELAY_MS / 1000, self._release_high_watermarks
            )

    def _release_high_watermarks(self) -> None:
        self._high_watermark_timer = None
        self.ready.update(self._unsent_high_watermarks)
        self._unsent_high_watermarks.clear()
        self._wake()

    def end(self, subscription: FeedSubscription, error: LogClusterError) -> None:
        """End a subscription because the partition says so."""
        self._forget(subscription)
        self._answer(_refusal(subscription.handle, subscription.partition, error))

    def close(self) -> None:
        """The stream is over: nobody reports for these subscriptions any more."""
        if self._high_watermark_timer is not None:
            self._high_watermark_timer.cancel()
            self._high_watermark_timer = None
        for subscription in list(self._subscriptions.values()):
            self._forget(subscription)

    def _forget(self, subscription: FeedSubscription) -> None:
        self._subscriptions.pop(subscription.handle, None)
        self.ready.pop(subscription, None)
        self._cold.pop(subscription, None)
        self._unsent_high_watermarks.pop(subscription, None)
        partition = subscription.partition
        if partition.slots.get(self.follower_id) is subscription:
            del partition.slots[self.follower_id]
        if self.follower_id not in partition.slots:
            partition.on_replica_gone(self.follower_id)

    def _answer(self, data: pb.PartitionData) -> None:
        self._answers.append(data)
        self._wake()

    def _wake(self) -> None:
        waiter = self.waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    # -- to the follower -----------------------------------------------------------------------------------------

    def stop(self) -> None:
        """The follower ended its side: `next_message` returns None from now on."""
        self._is_stopped = True
        self._wake()

    async def next_message(self) -> pb.ReplicateResponse | None:
        """Wait until there is something to tell, and collect it; None after `stop`. For one caller at a time.

        Cancellation: atomic.
        """
        while not self._is_stopped:
            message = self.collect()
            if message is not None:
                return message
            self.waiter = self._loop.create_future()
            try:
                await self.waiter
            finally:
                self.waiter = None
        return None

    def collect(self) -> pb.ReplicateResponse | None:
        """Everything that is ready, within credit and size; None when there is nothing."""
        answers = self._answers
        if not self.ready and not answers and not self._hello:
            return None
        room = min(MESSAGE_SIZE_BYTES_MAX, self._credit_bytes)
        starved: dict[FeedSubscription, None] = {}
        ready, self.ready = self.ready, {}
        for subscription in ready:
            if subscription.is_reading:
                continue
            partition = subscription.partition
            log = partition.log
            log_end_offset = log.log_end_offset
            data = b""
            if subscription.next_offset < log_end_offset:
                if room <= 0:
                    probe("replication.feed.out_of_credit")
                    starved[subscription] = None
                    if subscription.sent_high_watermark >= partition.high_watermark:
                        continue
                else:
                    size_bytes_max = min(PARTITION_SIZE_BYTES_MAX, room)
                    read = self._read_tail(subscription, size_bytes_max, log_end_offset)
                    if read is None:
                        continue
                    data, subscription.next_offset = read
                    room -= len(data)
                    self._credit_bytes -= len(data)
                    if subscription.next_offset < log_end_offset:
                        starved[subscription] = None
            answers.append(self._partition_data(subscription, data))
        self.ready.update(starved)
        if not answers and not self._hello:
            return None
        failpoint("replication.feed.before_message")
        self._answers = []
        self._last_message_ms = self._clock.monotonic_ms()
        message = pb.ReplicateResponse(partitions=answers)
        if self._hello:
            message.broker_epoch = self._hello
            self._hello = 0
        return message

    def _read_tail(
        self, subscription: FeedSubscription, size_bytes_max: int, end_offset: int
    ) -> tuple[bytes, int] | None:
        """From memory; else hand the subscription to the cold reader, or end it if the log cannot be read there."""
        try:
            read = subscription.partition.log.read_tail(
                subscription.next_offset, size_bytes_max=size_bytes_max, end_offset=end_offset
            )
        except (OffsetOutOfRange, CorruptLog, StorageFailure) as error:
            self.end(subscription, error)
            return None
        if read is None:
            probe("replication.feed.cold_read")
            subscription.is_reading = True
            self._cold[subscription] = None
            if self._cold_waiter is not None and not self._cold_waiter.done():
                self._cold_waiter.set_result(None)
            return None
        return read.data, read.next_offset

    def _partition_data(self, subscription: FeedSubscription, data: bytes) -> pb.PartitionData:
        partition = subscription.partition
        log = partition.log
        high_watermark = partition.high_watermark
        subscription.sent_high_watermark = high_watermark
        return pb.PartitionData(
            handle=subscription.handle,
            batches=data,
            high_watermark=high_watermark,
            log_start_offset=log.log_start_offset,
            log_end_offset=log.log_end_offset,
        )

    async def run_cold_reads(self) -> None:
        """Read from disk what has left the memory, one partition after the other; until cancelled."""
        while True:
            if not self._cold:
                self._cold_waiter = self._loop.create_future()
                await self._cold_waiter
                continue
            subscription = next(iter(self._cold))
            await self._read_cold(subscription)
            self._cold.pop(subscription, None)
            subscription.is_reading = False
            if self._subscriptions.get(subscription.handle) is subscription:
                self.ready[subscription] = None
                self._wake()

    async def _read_cold(self, subscription: FeedSubscription) -> None:
        log = subscription.partition.log
        start, end = subscription.next_offset, log.log_end_offset
        try:
            read = await self._disk.run(
                lambda: log.read(start, size_bytes_max=PARTITION_SIZE_BYTES_MAX, end_offset=end)
            )
        except LogClusterError as error:
            if self._subscriptions.get(subscription.handle) is subscription:
                self.end(subscription, error)
            return
        if read.data and self._subscriptions.get(subscription.handle) is subscription:
            subscription.next_offset = read.next_offset
            self._credit_bytes -= len(read.data)
            self._answer(self._partition_data(subscription, read.data))


def _refusal(handle: int, partition: Partition, error: LogClusterError) -> pb.PartitionData:
    """The end of a subscription; the log's range goes along, because a follower out of range cuts its log by it."""
    return pb.PartitionData(
        handle=handle,
        error=error_detail(error),
        log_start_offset=partition.log.log_start_offset,
        log_end_offset=partition.log.log_end_offset,
    )
