"""Follower side of replication: one stream to one leader broker, for all partitions it leads and this broker follows.

The follower states its position, takes what the leader sends, checks every checksum, appends, and reports: its log end
at once with `flush.mode=async`, the flushed offset as soon as the flusher moved it with `sync`. Reports of one loop
turn go out together. A divergence or a range error ends a subscription on the leader's side; the log is cut as
`core.replication.follower` says, and the partition subscribes again under a new handle.

Invariants: nothing is appended that does not continue the log or fails its checksum (P8); what arrives for an ended
handle, or for an older leader epoch, is dropped; the credit given back is what was taken in.

Neighbours: `partition` holds the logs, `replica_manager` says whom to follow, `replica_feed` is the other end.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, Protocol

import grpc

from logcluster.broker.partition import Partition
from logcluster.core.replication.follower import AskAgain, FollowerDecision, Restart, Truncate
from logcluster.model.epochs import EpochEnd
from logcluster.model.errors import LogClusterError, OffsetOutOfRange
from logcluster.model.limits import MIB
from logcluster.model.probes import probe
from logcluster.runtime.clock import Clock
from logcluster.runtime.event_log import get_logger
from logcluster.runtime.failpoints import failpoint
from logcluster.runtime.scope import TaskScope
from logcluster.wire.gen.logcluster.internal.v1 import replication_pb2 as pb, replication_pb2_grpc
from logcluster.wire.status import error_from_detail, error_from_rpc

log = get_logger("replica_stream")

CREDIT_BYTES: Final = 16 * MIB
"""What the leader may have on the way to this broker; must exceed the largest batch."""
RECONNECT_MS_MAX: Final = 500
RESUBSCRIBE_MS: Final = 50
STREAM_MS_MIN: Final = 100
"""A stream that ends earlier counts as a failed attempt."""

ReplicateCall = grpc.aio.StreamStreamCall[pb.ReplicateRequest, pb.ReplicateResponse]


class StreamIdentity(Protocol):
    """Who the follower is and whom it calls, as known now."""

    @property
    def broker_id(self) -> int: ...

    @property
    def broker_epoch(self) -> int | None: ...

    @property
    def cluster_id(self) -> str: ...

    def known_broker_epoch(self, broker_id: int) -> int | None: ...


class _Subscription:
    __slots__ = ("handle", "partition", "reported_offset")

    def __init__(self, handle: int, partition: Partition) -> None:
        self.handle = handle
        self.partition = partition
        self.reported_offset = -1


class ReplicaStream:
    """The stream to one leader broker; `run` it in a scope.

    Args:
        open_channel: a channel to the leader as it is registered now; None when its address is unknown.
    """

    def __init__(
        self,
        leader_id: int,
        *,
        identity: StreamIdentity,
        open_channel: Callable[[int], grpc.aio.Channel | None],
        clock: Clock,
        scope: TaskScope,
    ) -> None:
        self.leader_id = leader_id
        self._identity = identity
        self._open_channel = open_channel
        self._clock = clock
        self._scope = scope
        self._partitions: dict[Partition, _Subscription | None] = {}
        """Everything followed; None while not subscribed."""
        self._by_handle: dict[int, _Subscription] = {}
        self._next_handle = 1
        self._to_subscribe: dict[Partition, None] = {}
        self._to_unsubscribe: list[int] = []
        self._to_report: dict[_Subscription, None] = {}
        self._credit_to_give = 0
        self._call: ReplicateCall | None = None
        self._leader_broker_epoch: int | None = None
        self._is_writing = False
        self._waiter: asyncio.Future[None] | None = None
        self._retry_timers: dict[Partition, asyncio.TimerHandle] = {}

    @property
    def partition_count(self) -> int:
        return len(self._partitions)

    @property
    def is_connected(self) -> bool:
        return self._call is not None

    # -- from the replica manager --------------------------------------------------------------------------------

    def follow(self, partition: Partition) -> None:
        """Follow `partition` here; again after its leader epoch changed."""
        self._drop_subscription(partition)
        self._partitions[partition] = None
        self._to_subscribe[partition] = None
        self._wake()

    def unfollow(self, partition: Partition) -> None:
        """Stop following `partition` here."""
        if partition in self._partitions:
            self._drop_subscription(partition)
            del self._partitions[partition]
            self._to_subscribe.pop(partition, None)

    def on_flushed(self, partition: Partition) -> None:
        """More of a partition is on disk than was reported."""
        subscription = self._partitions.get(partition)
        if subscription is not None:
            self._to_report[subscription] = None
            self._wake()

    def on_leader_registration(self, broker_epoch: int | None) -> None:
        """The leader's registration changed: a connection to an earlier process is given up."""
        if self._call is not None and broker_epoch != self._leader_broker_epoch:
            probe("replication.follower.leader_registered_again")
            self._call.cancel()

    def _drop_subscription(self, partition: Partition) -> None:
        timer = self._retry_timers.pop(partition, None)
        if timer is not None:
            timer.cancel()
        subscription = self._partitions.get(partition)
        if subscription is not None:
            self._by_handle.pop(subscription.handle, None)
            self._to_report.pop(subscription, None)
            self._to_unsubscribe.append(subscription.handle)
            self._partitions[partition] = None

    def _wake(self) -> None:
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    # -- the connection ------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Keep a stream to the leader while anything is followed there; until cancelled."""
        failures = 0
        try:
            while True:
                if not self._partitions:
                    await self._wait()
                    continue
                started_ms = self._clock.monotonic_ms()
                if await self._run_once() and self._clock.monotonic_ms() - started_ms >= STREAM_MS_MIN:
                    failures = 0
                delay_ms = 0 if failures == 0 else min(RECONNECT_MS_MAX, 10 << min(failures, 10))
                failures += 1
                await self._clock.sleep_ms(delay_ms)
        finally:
            for timer in self._retry_timers.values():
                timer.cancel()

    async def _run_once(self) -> bool:
        """One stream from its opening to its end; returns whether the leader ever answered."""
        identity = self._identity
        broker_epoch = identity.broker_epoch
        channel = None if broker_epoch is None else self._open_channel(self.leader_id)
        if channel is None or broker_epoch is None:
            return False
        stub: replication_pb2_grpc.ReplicationServiceAsyncStub = replication_pb2_grpc.ReplicationServiceStub(channel)
        self._reset()
        call: ReplicateCall = stub.Replicate()
        self._call = call
        has_answered = False
        self._leader_broker_epoch = identity.known_broker_epoch(self.leader_id)
        hello = pb.ReplicaHello(
            cluster_id=identity.cluster_id,
            broker_id=identity.broker_id,
            broker_epoch=broker_epoch,
            leader_id=self.leader_id,
            leader_broker_epoch=self._leader_broker_epoch or 0,
        )
        writer: asyncio.Task[None] | None = None
        failpoint("replication.follower.before_hello")
        try:
            await call.write(pb.ReplicateRequest(hello=hello, credit_bytes=CREDIT_BYTES))
            writer = self._scope.spawn(self._write_when_woken(call), name=f"replica-writer-{self.leader_id}")
            async for response in call:
                has_answered = True
                self._on_response(response)
                if not self._is_writing:
                    await self._write(call)
        except grpc.aio.AioRpcError as error:
            log.info("replica_stream_ended", leader_id=self.leader_id, error=error_from_rpc(error).message)
        except asyncio.InvalidStateError:
            pass  # the call ended while something was to be written
        except asyncio.CancelledError:
            if not call.cancelled() or _is_being_cancelled():
                raise
        finally:
            self._call = None
            call.cancel()
            if writer is not None:
                writer.cancel()
        return has_answered

    def _reset(self) -> None:
        """A new stream knows no handles; everything subscribes again."""
        self._by_handle.clear()
        self._to_unsubscribe.clear()
        self._to_report.clear()
        self._credit_to_give = 0
        self._is_writing = False
        for timer in self._retry_timers.values():
            timer.cancel()
        self._retry_timers.clear()
        for partition in self._partitions:
            self._partitions[partition] = None
            self._to_subscribe[partition] = None

    async def _wait(self) -> None:
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    async def _write_when_woken(self, call: ReplicateCall) -> None:
        try:
            while self._call is call:
                if self._is_writing or not self._has_outgoing():
                    await self._wait()
                    continue
                await self._write(call)
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            return  # the reader sees the same end, and reports it

    # -- to the leader -------------------------------------------------------------------------------------------

    def _has_outgoing(self) -> bool:
        return bool(
            self._to_report or self._to_subscribe or self._to_unsubscribe or self._credit_to_give >= CREDIT_BYTES // 4
        )

    async def _write(self, call: ReplicateCall) -> None:
        """Send everything there is to say, in one message at a time."""
        self._is_writing = True
        try:
            while self._has_outgoing():
                await call.write(self._collect())
        finally:
            self._is_writing = False

    def _collect(self) -> pb.ReplicateRequest:
        reports: list[pb.ProgressReport] = []
        if self._to_report:
            failpoint("replication.follower.before_report")
            to_report, self._to_report = self._to_report, {}
            for subscription in to_report:
                partition = subscription.partition
                log = partition.log
                reported_offset = partition.reported_offset
                subscription.reported_offset = reported_offset
                reports.append(
                    pb.ProgressReport(
                        handle=subscription.handle,
                        reported_offset=reported_offset,
                        log_end_offset=log.log_end_offset,
                        log_start_offset=log.log_start_offset,
                    )
                )
        credit, self._credit_to_give = self._credit_to_give, 0
        request = pb.ReplicateRequest(reports=reports, credit_bytes=credit)
        if self._to_unsubscribe:
            request.unsubscribe.extend(self._to_unsubscribe)
            self._to_unsubscribe = []
        if self._to_subscribe:
            to_subscribe, self._to_subscribe = self._to_subscribe, {}
            for partition in to_subscribe:
                self._subscribe(request, partition)
        return request

    def _subscribe(self, request: pb.ReplicateRequest, partition: Partition) -> None:
        follower = partition.follower
        if follower is None or partition not in self._partitions or partition.log.failure is not None:
            return
        log = partition.log
        position = follower.position(
            log.leader_epochs, log_start_offset=log.log_start_offset, log_end_offset=log.log_end_offset
        )
        failpoint("replication.follower.before_subscribe")
        subscription = _Subscription(self._next_handle, partition)
        self._next_handle += 1
        self._partitions[partition] = subscription
        self._by_handle[subscription.handle] = subscription
        request.subscribe.add(
            handle=subscription.handle,
            topic_id=partition.topic_id,
            partition=partition.index,
            leader_epoch=follower.leader_epoch,
            fetch_offset=position.fetch_offset,
            last_epoch=position.last_epoch,
            log_start_offset=position.log_start_offset,
            reported_offset=partition.reported_offset,
        )

    # -- from the leader -----------------------------------------------------------------------------------------

    def _on_response(self, response: pb.ReplicateResponse) -> None:
        by_handle = self._by_handle
        for data in response.partitions:
            batches = data.batches
            self._credit_to_give += len(batches)
            subscription = by_handle.get(data.handle)
            if subscription is None:
                probe("replication.follower.late_data_dropped")
                continue
            partition = subscription.partition
            if batches:
                if not self._append(partition, batches):
                    continue
                failpoint("replication.follower.after_append")
                if not partition.is_synced_before_report:
                    self._to_report[subscription] = None
            elif data.HasField("error") or data.HasField("diverging_epoch"):
                self._on_end(subscription, data)
                continue
            self._learn(partition, data)

    def _append(self, partition: Partition, batches: bytes) -> bool:
        """Append what the leader sent; on a refusal the subscription ends, and begins again unless the log failed."""
        try:
            partition.append_as_follower(batches)
        except LogClusterError as error:
            probe("replication.follower.refused_batches")
            log.warning(
                "replicated_batches_refused",
                partition=str(partition.topic_partition),
                leader_id=self.leader_id,
                leader_epoch=partition.leader_epoch,
                error=error.message,
            )
            self._drop_subscription(partition)
            if partition.log.failure is None:
                self._subscribe_later(partition)
            return False
        return True

    def _learn(self, partition: Partition, data: pb.PartitionData) -> None:
        follower = partition.follower
        if follower is not None:
            follower.leader_end_offset = data.log_end_offset
        partition.learn_high_watermark(data.high_watermark)
        log_start_offset = data.log_start_offset
        log = partition.log
        if log_start_offset > log.log_start_offset and log.failure is None:
            probe("replication.follower.log_start_advanced")
            log.advance_log_start(min(log_start_offset, log.log_end_offset))

    def _on_end(self, subscription: _Subscription, data: pb.PartitionData) -> None:
        """The leader ended the subscription: cut as told, then ask again."""
        partition = subscription.partition
        self._drop_subscription(partition)
        self._to_unsubscribe.pop()  # the leader has forgotten the handle already
        follower = partition.follower
        if follower is None:
            return
        own = partition.log
        decision: FollowerDecision = AskAgain()
        failpoint("replication.follower.before_decision")
        if data.HasField("diverging_epoch"):
            point = data.diverging_epoch
            decision = follower.on_diverging_epoch(
                EpochEnd(point.leader_epoch, point.end_offset),
                own.leader_epochs,
                log_start_offset=own.log_start_offset,
                log_end_offset=own.log_end_offset,
            )
        else:
            error = error_from_detail(data.error)
            if isinstance(error, OffsetOutOfRange):
                decision = follower.on_out_of_range(
                    leader_log_start_offset=data.log_start_offset,
                    leader_log_end_offset=data.log_end_offset,
                    log_end_offset=own.log_end_offset,
                )
            else:
                log.debug(
                    "subscription_refused",
                    partition=str(partition.topic_partition),
                    leader_id=self.leader_id,
                    leader_epoch=partition.leader_epoch,
                    error=error.message,
                )
        self._perform(partition, decision)

    def _perform(self, partition: Partition, decision: FollowerDecision) -> None:
        try:
            match decision:
                case Truncate():
                    self._tell_cut(partition, decision)
                    failpoint("replication.follower.before_truncate")
                    partition.truncate_to(decision.offset)
                case Restart():
                    log.info(
                        "log_restarted",
                        partition=str(partition.topic_partition),
                        leader_id=self.leader_id,
                        leader_epoch=partition.leader_epoch,
                        from_offset=partition.log.log_end_offset,
                        to_offset=decision.offset,
                    )
                    failpoint("replication.follower.before_restart")
                    partition.restart_at(decision.offset)
                case AskAgain():
                    self._subscribe_later(partition)
                    return
        except LogClusterError as error:
            log.error("truncation_failed", partition=str(partition.topic_partition), error=error.message)
            return
        failpoint("replication.follower.after_cut")
        self._to_subscribe[partition] = None

    def _tell_cut(self, partition: Partition, decision: Truncate) -> None:
        """Tell what is cut before it is, while the log still knows its end."""
        log.info(
            "log_truncated",
            partition=str(partition.topic_partition),
            leader_id=self.leader_id,
            leader_epoch=partition.leader_epoch,
            from_offset=partition.log.log_end_offset,
            to_offset=decision.offset,
        )
        if decision.is_below_high_watermark:
            log.warning(
                "truncated_below_high_watermark",
                partition=str(partition.topic_partition),
                high_watermark=partition.high_watermark,
                to_offset=decision.offset,
            )

    def _subscribe_later(self, partition: Partition) -> None:
        """Ask again after a pause: the leader, or this broker, does not know enough yet."""

        def subscribe() -> None:
            self._retry_timers.pop(partition, None)
            if partition in self._partitions and self._partitions[partition] is None:
                self._to_subscribe[partition] = None
                self._wake()

        if partition not in self._retry_timers:
            self._retry_timers[partition] = asyncio.get_running_loop().call_later(RESUBSCRIBE_MS / 1000, subscribe)


def _is_being_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
