"""Carries out what the accumulator decides: requests per leader, answers, timers, the producer id.

All ready batches for one leader travel in one request. A lost connection, a stale leader or a request without an answer
leads to a metadata refresh at once; batches go to the new leader as soon as it is known. A broker that keeps the
connection but is silent does not hold batches: once the metadata names a newer leader, the request to the old one is
cancelled and its batches, whose outcome is unknown, are sent again under their sequence. An answer to a batch that has
its outcome already (its producer failed or was closed meanwhile) is ignored.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from logcluster.client.accumulator import Accumulator, PartitionQueue
from logcluster.client.batch import Batch
from logcluster.client.connections import call
from logcluster.client.context import Context
from logcluster.client.retry import retry
from logcluster.model.errors import (
    Disconnected,
    InvalidRequest,
    LogClusterError,
    UnknownServerError,
)
from logcluster.model.probes import probe
from logcluster.runtime.scope import FaultHandler, TaskScope
from logcluster.wire.gen.logcluster.v1 import data_pb2
from logcluster.wire.status import error_from_detail

logger = logging.getLogger("logcluster.client")

REQUEST_SIZE_BYTES_MAX = 16 * 1024 * 1024


class _Flight:
    """One request on its way."""

    __slots__ = ("batches", "began_ms", "broker_id", "task")

    def __init__(self, broker_id: int, batches: list[tuple[PartitionQueue, Batch]], began_ms: int) -> None:
        self.broker_id = broker_id
        self.batches = batches
        self.began_ms = began_ms
        self.task: asyncio.Task[None] | None = None


class Sender:
    """Sends the batches of one producer, all on the event loop: in `_drain`, and in one task per request.

    Args:
        on_fault: told of bugs in callbacks, as the scope's handler is of those in tasks.
        acks: a value of the enum `Acks`.
        timeout_ms: of one request.
    """

    def __init__(
        self,
        accumulator: Accumulator,
        *,
        context: Context,
        scope: TaskScope,
        on_fault: FaultHandler,
        acks: int,
        timeout_ms: int,
    ) -> None:
        self._accumulator = accumulator
        self._connections = context.connections
        self._metadata = context.metadata
        self._clock = context.clock
        self._generator = context.generator
        self._policy = context.policy
        self._scope = scope
        self._on_fault = on_fault
        self._acks = acks
        self._timeout_ms = timeout_ms
        self._stall_ms = context.options.stall_ms
        self._loop = asyncio.get_running_loop()
        self._dirty: dict[PartitionQueue, None] = {}
        self._active: dict[PartitionQueue, None] = {}
        self._flights: dict[_Flight, None] = {}
        self._is_drain_due = False
        self._timer: asyncio.TimerHandle | None = None
        self._timer_ms = 0
        self._stall_timer: asyncio.TimerHandle | None = None
        self._is_asking_identity = False
        self._is_closed = False
        self._space_waiters: list[asyncio.Future[None]] = []
        self._metadata.listen(self._metadata_changed)

    def wake(self, queue: PartitionQueue) -> None:
        """The queue may have something to send: look before the loop's next turn."""
        self._dirty[queue] = None
        if not self._is_drain_due:
            self._is_drain_due = True
            self._loop.call_soon(self._run, self._drain)

    def wake_all(self) -> None:
        """Look at every queue that holds something."""
        for queue in self._active:
            self._dirty[queue] = None
        if self._dirty and not self._is_drain_due:
            self._is_drain_due = True
            self._loop.call_soon(self._run, self._drain)

    def _run(self, step: Callable[[], None]) -> None:
        """Run a callback; a bug in it must not leave anybody waiting."""
        try:
            step()
        except Exception as error:  # noqa: BLE001  # whatever the bug is
            self._on_fault(step.__name__, error)

    def start(self) -> None:
        """Ask for a producer id ahead of the first record."""
        if self._accumulator.is_identity_needed:
            self._ask_identity()

    async def wait_for_space(self) -> None:
        """Wait until some batch gives back its bytes. Cancellation: atomic."""
        waiter = self._loop.create_future()
        self._space_waiters.append(waiter)
        await waiter

    def close(self) -> None:
        """Stop looking; what is not written yet is the caller's to abandon."""
        self._is_closed = True
        self._metadata.unlisten(self._metadata_changed)
        for timer in (self._timer, self._stall_timer):
            if timer is not None:
                timer.cancel()
        self._timer = self._stall_timer = None
        self.free_space()

    # From queues to requests.

    def _drain(self) -> None:
        self._is_drain_due = False
        if self._is_closed:
            return
        now_ms = self._clock.monotonic_ms()
        by_leader: dict[int, list[tuple[PartitionQueue, Batch]]] = {}
        dirty, self._dirty = self._dirty, {}
        is_refresh_needed = False
        for queue in dirty:
            queue.expire(now_ms)
            if queue.is_idle:
                self._active.pop(queue, None)
                continue
            self._active[queue] = None
            if queue.retired_for is not None:
                continue
            leader = self._metadata.cache.leader(queue.topic, queue.partition, topic_id=queue.topic_id)
            if leader is None or leader.broker_id is None:
                is_refresh_needed = True
                self._arm(now_ms + self._policy.backoff_ms_max, now_ms)
                continue
            while (batch := queue.take(now_ms, leader_epoch=leader.leader_epoch)) is not None:
                by_leader.setdefault(leader.broker_id, []).append((queue, batch))
            due_ms = queue.due_ms(now_ms)
            if due_ms is not None:
                self._arm(due_ms, now_ms)
        for broker_id, batches in by_leader.items():
            self._launch(broker_id, batches, now_ms)
        if self._accumulator.is_identity_needed and self._active:
            self._ask_identity()
        if is_refresh_needed:
            self._metadata.request_refresh()
        if self._space_waiters:
            self.free_space()

    def _launch(self, broker_id: int, batches: list[tuple[PartitionQueue, Batch]], now_ms: int) -> None:
        """Put the batches into as few requests as the size bound allows."""
        chunk: list[tuple[PartitionQueue, Batch]] = []
        size_bytes = 0
        for queue, batch in batches:
            batch_size_bytes = batch.builder.size_bytes
            if chunk and size_bytes + batch_size_bytes > REQUEST_SIZE_BYTES_MAX:
                self._fly(broker_id, chunk, now_ms)
                chunk, size_bytes = [], 0
            chunk.append((queue, batch))
            size_bytes += batch_size_bytes
        self._fly(broker_id, chunk, now_ms)

    def _fly(self, broker_id: int, batches: list[tuple[PartitionQueue, Batch]], now_ms: int) -> None:
        flight = _Flight(broker_id, batches, now_ms)
        self._flights[flight] = None
        flight.task = self._scope.spawn(self._send(flight), name="produce")
        if self._stall_timer is None:
            self._stall_timer = self._loop.call_later(self._stall_ms / 1000, self._run, self._look_for_stalls)

    # One request.

    async def _send(self, flight: _Flight) -> None:
        try:
            stub = self._connections.stubs(flight.broker_id).data
            deadline_ms = min(batch.deadline_ms for _, batch in flight.batches)
            timeout_ms = max(1, min(self._timeout_ms, deadline_ms - flight.began_ms))
            response = await call(stub.Produce, self._request(flight, timeout_ms), timeout_ms=timeout_ms)
        except LogClusterError as error:
            self._flight_failed(flight, error)
        except asyncio.CancelledError:
            if self._is_closed or self._scope.is_closed:
                raise
            self._flight_failed(flight, Disconnected("the broker did not answer, and another one leads now"))
        else:
            self._flight_answered(flight, response)
        finally:
            self._flights.pop(flight, None)

    def _request(self, flight: _Flight, timeout_ms: int) -> data_pb2.ProduceRequest:
        return data_pb2.ProduceRequest(
            acks=self._acks,  # type: ignore[arg-type]  # a number of the enum
            timeout_ms=timeout_ms,
            partitions=[
                data_pb2.PartitionProduce(
                    topic=batch.topic,
                    partition=batch.partition,
                    leader_epoch=batch.leader_epoch,
                    batch=batch.payload(),
                    topic_id=queue.topic_id or None,
                )
                for queue, batch in flight.batches
            ],
        )

    def _flight_answered(self, flight: _Flight, response: data_pb2.ProduceResponse) -> None:
        acks = response.partitions
        is_refresh_needed = False
        if self._acks == data_pb2.ACKS_NONE:
            for queue, batch in flight.batches:
                if not batch.is_done:
                    queue.succeed(batch, base_offset=-1)
                self.wake(queue)
            return
        if len(acks) != len(flight.batches):
            self._flight_failed(flight, UnknownServerError("the answer does not match the request"))
            return
        for (queue, batch), ack in zip(flight.batches, acks, strict=True):
            if ack.topic != batch.topic or ack.partition != batch.partition:
                self._fail(queue, batch, UnknownServerError("the answer does not match the request"))
            elif ack.HasField("error") and ack.error.code:
                hinted = ack.HasField("leader") and self._metadata.cache.note_leader(
                    ack.topic,
                    ack.partition,
                    leader_id=ack.leader.leader_id,
                    leader_epoch=ack.leader.leader_epoch,
                    topic_id=queue.topic_id,
                )
                error = error_from_detail(ack.error)
                if hinted:
                    probe("client.metadata.leader_learned_from_refusal")
                is_refresh_needed = is_refresh_needed or (error.refresh_metadata and not hinted)
                self._fail(queue, batch, error)
            elif not batch.is_done:
                queue.succeed(batch, base_offset=ack.base_offset, log_append_time_ms=ack.log_append_time_ms)
            self.wake(queue)
        if is_refresh_needed:
            probe("client.metadata.refreshed_after_refused_write")
            self._metadata.request_refresh()

    def _flight_failed(self, flight: _Flight, error: LogClusterError) -> None:
        if error.refresh_metadata:
            self._connections.note_failure(flight.broker_id)
        if error.retriable:
            self._metadata.request_refresh()
        for queue, batch in flight.batches:
            self._fail(queue, batch, error)
            self.wake(queue)

    def _fail(self, queue: PartitionQueue, batch: Batch, error: LogClusterError) -> None:
        if batch.is_done:
            return
        now_ms = self._clock.monotonic_ms()
        backoff_ms = self._policy.delay_ms(batch.attempts, self._generator)
        queue.fail_attempt(batch, error, now_ms=now_ms, backoff_ms=backoff_ms)

    # Time.

    def _arm(self, due_ms: int, now_ms: int) -> None:
        if self._timer is not None:
            if self._timer_ms <= due_ms:
                return
            self._timer.cancel()
        self._timer_ms = due_ms
        self._timer = self._loop.call_later(max(1, due_ms - now_ms) / 1000, self._run, self._time_is_up)

    def _time_is_up(self) -> None:
        self._timer = None
        self.wake_all()

    def _look_for_stalls(self) -> None:
        self._stall_timer = None
        if not self._flights or self._is_closed:
            return
        limit_ms = self._clock.monotonic_ms() - self._stall_ms
        stalled = [flight for flight in self._flights if flight.began_ms <= limit_ms]
        for flight in stalled:
            self._connections.note_failure(flight.broker_id)  # ask another one
        if stalled:
            probe("client.producer.request_stalled")
            self._metadata.request_refresh()
        self._stall_timer = self._loop.call_later(self._stall_ms / 2000, self._run, self._look_for_stalls)

    def _metadata_changed(self) -> None:
        self._run(self._follow_leaders)

    def _follow_leaders(self) -> None:
        if self._accumulator.options.is_idempotent:
            limit_ms = self._clock.monotonic_ms() - self._stall_ms
            for flight in self._flights:
                if flight.began_ms <= limit_ms and flight.task is not None and self._is_overtaken(flight):
                    probe("client.producer.request_overtaken_by_new_leader")
                    flight.task.cancel()
        self.wake_all()

    def _is_overtaken(self, flight: _Flight) -> bool:
        """Whether some partition of the request is led by somebody else by now, or gone."""
        for queue, batch in flight.batches:
            if queue.retired_for is not None:
                return True
            leader = self._metadata.cache.leader(batch.topic, batch.partition, topic_id=queue.topic_id)
            if leader is not None and leader.leader_epoch > batch.leader_epoch and leader.broker_id is not None:
                return True
        return False

    def free_space(self) -> None:
        """Let whoever waits for space look again."""
        waiters, self._space_waiters = self._space_waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    # Identity.

    def _ask_identity(self) -> None:
        if not self._is_asking_identity:
            self._is_asking_identity = True
            self._scope.spawn(self._init_producer_id(), name="init-producer-id")

    async def _init_producer_id(self) -> None:
        try:
            response = await retry(
                lambda left_ms: self._connections.ask_any(
                    lambda stubs: stubs.data.InitProducerId,
                    data_pb2.InitProducerIdRequest(),
                    timeout_ms=min(left_ms, 5_000),
                ),
                clock=self._clock,
                generator=self._generator,
                policy=self._policy,
                timeout_ms=self._accumulator.options.delivery_timeout_ms,
                is_worth_it=lambda error: error.retriable or not isinstance(error, InvalidRequest),
            )
            self._accumulator.set_identity(response.producer_id, response.producer_epoch)
        except LogClusterError as error:
            logger.warning("no producer id: %s", error)
            self._fail_without_identity(error)
        finally:
            self._is_asking_identity = False
        self.wake_all()

    def _fail_without_identity(self, error: LogClusterError) -> None:
        """Nothing can be sent: give up what has waited for its whole time, or everything if it can never succeed."""
        now_ms = self._clock.monotonic_ms()
        for queue in list(self._active):
            if error.retriable:
                queue.expire(now_ms)
            else:
                queue.abandon(error)
