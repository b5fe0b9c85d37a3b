"""Batches per partition: which records wait, what may be sent now, and what an answer means for order and sequence.

Pure: time comes as `now_ms`; `sender` carries out. The rules, per partition:

- A batch goes out at once when nothing is in flight; otherwise when it is full, closed by a flush, or `linger_ms` old.
  So a lone record never waits, and under load batches fill while earlier ones are on their way.
- At most `max_in_flight` batches are sent and unresolved; one only until the broker has accepted a first one, because a
  broker takes any sequence from a producer it does not know; and nothing new while a retry or a batch to an older
  leader is on its way. A failed one is sent again under the same sequence, in order,
  before anything new; its records never change, because a broker knows duplicates by their exact range.
- *Out of order* behind an unresolved batch is normal: it waits its turn.
- When a sent batch is given up, there is a gap that the broker will not let later batches cross. Then a new producer
  epoch begins for this partition alone, at sequence 0, but only when everything sent is resolved: a batch whose
  outcome is unknown keeps its sequence until the broker has spoken, or it would be written twice.
- A batch of several records that is too large for its topic is split, like a gap, and later ones are made smaller.
- A batch behind a gap that is *certain* cannot have been written, whatever its own attempts seemed to say.
- A queue belongs to one topic, not to its name: when the topic is gone, what waits is given up, and a topic created
  again under the name has other queues. They begin a producer epoch that no earlier queue has used, at sequence 0: if
  it should be the same topic after all, new records would otherwise be taken for duplicates of older ones.

Sources: KIP-98, KIP-360, KAFKA-14034, librdkafka #4953 and #4382, Redpanda #3039.
"""

from __future__ import annotations

from bisect import insort
from collections import deque
from dataclasses import dataclass
from operator import attrgetter
from typing import Final

from logcluster.client.batch import Batch
from logcluster.model.errors import (
    Disconnected,
    InvalidProducerEpoch,
    LeaderNotAvailable,
    LogClusterError,
    MessageTooLarge,
    OutOfOrderSequenceNumber,
    UnknownProducerId,
)
from logcluster.model.invariants import InvariantViolation
from logcluster.model.limits import SEQUENCE_MAX
from logcluster.model.probes import probe
from logcluster.record.compression import Compression

PRODUCER_EPOCH_MAX: Final = 2**15 - 1
_RESETS_PER_BATCH_MAX: Final = 3
_FAILED_KEPT_MAX: Final = 256
"""Beyond this, failures that were asked for are forgotten."""
_by_order = attrgetter("order")


@dataclass(frozen=True, slots=True, kw_only=True)
class AccumulatorOptions:
    """How a producer batches; see `Client.producer` for the meaning."""

    batch_size_bytes: int
    buffer_size_bytes: int
    linger_ms: int
    delivery_timeout_ms: int
    max_in_flight: int
    compression: Compression
    is_idempotent: bool


class Accumulator:
    """All partitions one producer writes to, and the bytes they hold together."""

    def __init__(self, options: AccumulatorOptions) -> None:
        self.options = options
        self.buffered_size_bytes = 0
        self.producer_id: int | None = None
        self.producer_epoch = 0
        self.is_identity_needed = options.is_idempotent
        self.failed: list[Batch] = []
        """Batches given up, until the producer has reported them."""
        self._queues: dict[tuple[str, int], PartitionQueue] = {}
        self._retired: list[PartitionQueue] = []
        """Of topics that are gone, with batches in flight."""

    def queue(self, topic: str, partition: int, topic_id: bytes = b"") -> PartitionQueue:
        """The queue of a partition; made when first asked for.

        Args:
            topic_id: which topic of this name; the one before must have been retired.
        """
        queue = self._queues.get((topic, partition))
        if queue is None:
            queue = self._queues[topic, partition] = PartitionQueue(self, topic, partition, topic_id)
        elif queue.topic_id != topic_id:
            raise InvariantViolation("a queue belongs to one topic", topic=topic, partition=partition)
        return queue

    def retire_topic(self, topic: str, error: LogClusterError) -> None:
        """The topic is gone: give up what waits for it, for this reason; what is in flight waits for its answer."""
        self._retired = [queue for queue in self._retired if not queue.is_idle]
        for key in [key for key in self._queues if key[0] == topic]:
            queue = self._queues.pop(key)
            queue.retire(error)
            if self.producer_id is not None and queue.producer_id == self.producer_id:
                self.producer_epoch = max(self.producer_epoch, queue.producer_epoch + 1)
            if not queue.is_idle:
                self._retired.append(queue)
        if self.producer_epoch > PRODUCER_EPOCH_MAX:
            self.producer_id = None
            self.is_identity_needed = True

    @property
    def queues(self) -> list[PartitionQueue]:
        """All queues that may hold something."""
        return [*(queue for queue in self._retired if not queue.is_idle), *self._queues.values()]

    @property
    def unresolved(self) -> list[Batch]:
        """All batches without an outcome."""
        return [batch for queue in self.queues for batch in queue.unresolved]

    def set_identity(self, producer_id: int, producer_epoch: int) -> None:
        """A broker has given this producer an id; partitions take it over as soon as they may."""
        self.producer_id = producer_id
        self.producer_epoch = producer_epoch
        self.is_identity_needed = False

    def close_batches(self) -> None:
        """Let everything go out without waiting for more records."""
        for queue in self._queues.values():
            queue.close_batch()

    def finished(self, batch: Batch) -> None:
        """Give back the bytes of a batch that has its outcome."""
        self.buffered_size_bytes -= batch.buffered_size_bytes
        if batch.error is not None:
            if len(self.failed) >= _FAILED_KEPT_MAX:
                self.failed = [failed for failed in self.failed if failed.lost_count]
            self.failed.append(batch)


class PartitionQueue:
    """The batches of one partition: waiting, sent, and to be sent again."""

    __slots__ = (
        "_accumulator",
        "_gap_order",
        "_is_known",
        "_is_reset_due",
        "_next_order",
        "_options",
        "_size_bytes_max",
        "in_flight",
        "next_sequence",
        "open_batch",
        "partition",
        "pending",
        "producer_epoch",
        "producer_id",
        "retired_for",
        "retries",
        "topic",
        "topic_id",
    )

    def __init__(self, accumulator: Accumulator, topic: str, partition: int, topic_id: bytes) -> None:
        self._accumulator = accumulator
        self._options = accumulator.options
        self.topic = topic
        self.partition = partition
        self.topic_id = topic_id
        """Of the topic the records are meant for; empty: of whichever has the name."""
        self.retired_for: LogClusterError | None = None
        """Why nothing goes out any more: the topic is gone."""
        self.open_batch: Batch | None = None
        """Takes records; the last one of `pending`."""
        self.pending: deque[Batch] = deque()
        """Never sent."""
        self.in_flight: list[Batch] = []
        self.retries: list[Batch] = []
        """Sent, answered with a failure, to be sent again; ordered as first sent, like `in_flight`."""
        self.producer_id: int | None = None
        self.producer_epoch = -1
        self.next_sequence = 0
        self._size_bytes_max = accumulator.options.batch_size_bytes
        self._next_order = 0
        self._is_known = False
        """The broker has accepted a batch from this producer id, so it knows which sequence must follow."""
        self._is_reset_due = False
        self._gap_order: tuple[int, ...] | None = None
        """Batches after this one certainly were not and will not be written under the present epoch."""

    @property
    def unresolved(self) -> list[Batch]:
        """Batches without an outcome, in the order they will be written."""
        return sorted([*self.in_flight, *self.retries], key=_by_order) + list(self.pending)

    @property
    def is_idle(self) -> bool:
        return not (self.pending or self.in_flight or self.retries)

    # Records in.

    def begin_batch(self, now_ms: int) -> Batch:
        """Close the open batch, if there is one, and open another."""
        self.close_batch()
        options = self._options
        batch = Batch(
            self.topic,
            self.partition,
            compression=options.compression,
            size_bytes_max=self._size_bytes_max,
            created_ms=now_ms,
            deadline_ms=now_ms + options.delivery_timeout_ms,
        )
        self.pending.append(batch)
        self.open_batch = batch
        return batch

    def close_batch(self) -> None:
        """No record is added to the open batch any more, so it is ready."""
        if self.open_batch is not None:
            self.open_batch.is_closed = True
            self.open_batch = None

    def discard_if_empty(self, batch: Batch) -> None:
        """Take back a batch whose first record was refused."""
        if batch.record_count == 0 and self.pending and self.pending[-1] is batch:
            self.pending.pop()
            self.open_batch = None

    # Batches out.

    def take(self, now_ms: int, *, leader_epoch: int) -> Batch | None:
        """The batch to send now, with identity and sequence set, or None; call until None.

        Args:
            leader_epoch: of the leader it will go to; a newer one than last time makes a retry due at once.
        """
        if self._options.is_idempotent and not self._prepare_identity():
            return None
        if self.retries:
            batch = self.retries[0]
            if not self._may_retry(batch, now_ms, leader_epoch):
                return None
            del self.retries[0]
        elif self.pending and not self._is_reset_due:
            batch = self.pending[0]
            if not self._is_ready(batch, now_ms, leader_epoch):
                return None
            self.pending.popleft()
            if batch is self.open_batch:
                self.close_batch()
            batch.order = (self._next_order,)
            self._next_order += 1
            self._assign_sequence(batch)
        else:
            return None
        batch.attempts += 1
        batch.leader_epoch = leader_epoch
        insort(self.in_flight, batch, key=_by_order)
        return batch

    def due_ms(self, now_ms: int) -> int | None:
        """When something may be ready because of time alone; None when only an event can change that."""
        due: int | None = None
        if self.retries:
            first = self.retries[0]
            due = min(first.not_before_ms, first.deadline_ms)
        if self.pending:
            first = self.pending[0]
            wait_until_ms = first.deadline_ms
            if not self.retries and len(self.in_flight) < self._options.max_in_flight:
                wait_until_ms = min(wait_until_ms, first.created_ms + self._options.linger_ms)
                if wait_until_ms <= now_ms:  # ready, and held back by something else
                    wait_until_ms = first.deadline_ms
            due = wait_until_ms if due is None else min(due, wait_until_ms)
        return due

    def _is_ready(self, batch: Batch, now_ms: int, leader_epoch: int) -> bool:
        in_flight = self.in_flight
        if not in_flight:
            return True
        if len(in_flight) >= self._options.max_in_flight or (self._options.is_idempotent and not self._is_known):
            if not self._is_known:
                probe("client.producer.first_batch_alone")
            return False
        for sent in in_flight:
            if sent.attempts > 1 or sent.leader_epoch != leader_epoch:
                probe("client.producer.waits_behind_retry")
                return False
        return batch.is_closed or now_ms >= batch.created_ms + self._options.linger_ms

    def _may_retry(self, batch: Batch, now_ms: int, leader_epoch: int) -> bool:
        if self._is_reset_due and not batch.is_outcome_unknown:
            probe("client.producer.waits_for_new_epoch")
            return False
        if self.in_flight and (self.in_flight[0].order < batch.order or not self._options.is_idempotent):
            return False
        return now_ms >= batch.not_before_ms or leader_epoch > batch.leader_epoch

    # Outcomes.

    def succeed(self, batch: Batch, *, base_offset: int, log_append_time_ms: int = -1) -> None:
        """The broker has written `batch`, now or in an attempt before."""
        self.in_flight.remove(batch)
        self._is_known = True
        batch.succeed(base_offset, log_append_time_ms)
        self._accumulator.finished(batch)

    def fail_attempt(self, batch: Batch, error: LogClusterError, *, now_ms: int, backoff_ms: int) -> bool:
        """An attempt failed; True when the batch, or its parts, will be sent again, False when it was given up."""
        self.in_flight.remove(batch)
        if not error.definite and batch.unknown_error is None:
            batch.unknown_error = error
        batch.last_error = error
        batch.not_before_ms = now_ms + backoff_ms
        if self.retired_for is not None:
            self._give_up(batch, self.retired_for)
            return False
        if isinstance(error, MessageTooLarge) and batch.record_count > 1 and not batch.is_outcome_unknown:
            probe("client.batch.split")
            self._split(batch, error)
            return True
        if self._options.is_idempotent and isinstance(
            error, OutOfOrderSequenceNumber | UnknownProducerId | InvalidProducerEpoch
        ):
            is_kept = self._keep_after_refusal(batch, error) and now_ms < batch.deadline_ms
        else:
            is_kept = error.retriable and batch.not_before_ms < batch.deadline_ms
        if is_kept:
            if batch.is_outcome_unknown:
                probe("client.batch.retried_with_unknown_outcome")
            insort(self.retries, batch, key=_by_order)
        else:
            self._give_up(batch, error)
        return is_kept

    def _keep_after_refusal(self, batch: Batch, error: LogClusterError) -> bool:
        """The broker refused a sequence or identity: whether the batch can go again, later or under a new epoch."""
        is_behind = any(other.order < batch.order for other in (*self.in_flight, *self.retries))
        if is_behind and isinstance(error, OutOfOrderSequenceNumber):
            probe("client.batch.out_of_order_waits_its_turn")
            batch.not_before_ms = 0
            return True
        if batch.is_outcome_unknown and not self._is_behind_gap(batch):
            probe("client.batch.refused_with_unknown_outcome")
            return False
        batch.reset_count += 1
        if batch.reset_count > _RESETS_PER_BATCH_MAX:
            return False
        batch.not_before_ms = 0
        self._is_reset_due = True
        if isinstance(error, InvalidProducerEpoch) and self.producer_id == self._accumulator.producer_id:
            self._accumulator.is_identity_needed = True
            self._accumulator.producer_id = None
        return True

    def expire(self, now_ms: int) -> None:
        """Give up what is past its deadline; a batch in flight waits for its attempt, which ends by then."""
        while self.retries and self.retries[0].deadline_ms <= now_ms:
            batch = self.retries.pop(0)
            probe("client.batch.retry_expired")
            self._give_up(batch, batch.last_error or LeaderNotAvailable())
        while self.pending and self.pending[0].deadline_ms <= now_ms:
            batch = self.pending.popleft()
            if batch is self.open_batch:
                self.close_batch()
            self._give_up(
                batch,
                batch.last_error or LeaderNotAvailable("the batch could not be sent within `delivery_timeout_ms`"),
            )

    def retire(self, error: LogClusterError) -> None:
        """Give up, for this reason, what is not in flight, and what is when its attempt fails."""
        self.retired_for = error
        self.close_batch()
        for batch in (*self.retries, *self.pending):
            self._give_up(batch, error)
        self.retries.clear()
        self.pending.clear()

    def abandon(self, error: LogClusterError) -> None:
        """Give up everything; what was sent may have been written."""
        self.close_batch()
        for batch in self.unresolved:
            if batch in self.in_flight and batch.unknown_error is None:
                batch.unknown_error = Disconnected(f"no answer was waited for: {error.message}")
            self._give_up(batch, error)
        self.in_flight.clear()
        self.retries.clear()
        self.pending.clear()

    def _give_up(self, batch: Batch, error: LogClusterError) -> None:
        if batch.order:
            self._leave_gap(batch)
        batch.fail(error)
        self._accumulator.finished(batch)

    def _leave_gap(self, batch: Batch) -> None:
        """A batch that was sent will not be sent again under its sequence."""
        if self._options.is_idempotent:
            self._is_reset_due = True
            probe("client.producer.gap_left")
            if not batch.is_outcome_unknown and (self._gap_order is None or batch.order < self._gap_order):
                self._gap_order = batch.order

    def _split(self, batch: Batch, error: LogClusterError) -> None:
        """Put smaller batches in the place of one that the topic does not take."""
        size_bytes = batch.builder.size_bytes
        limit = str(error.facts.get("size_bytes_max", ""))
        size_bytes_max = int(limit) if limit.isdecimal() and 0 < int(limit) < size_bytes else size_bytes // 2
        self._size_bytes_max = min(self._size_bytes_max, size_bytes_max)
        self._leave_gap(batch)
        for part in batch.split(size_bytes_max):
            insort(self.retries, part, key=_by_order)

    # Identity and sequence.

    def _is_behind_gap(self, batch: Batch) -> bool:
        return self._gap_order is not None and batch.order > self._gap_order

    def _prepare_identity(self) -> bool:
        """Take over the producer's id, or begin a new epoch when one is due and allowed; False: nothing may go out."""
        if self._is_reset_due and not self.in_flight and self._is_everything_resolved():
            self._begin_epoch()
        if self.producer_id is None:
            accumulator = self._accumulator
            if accumulator.producer_id is None:
                return False
            self.producer_id = accumulator.producer_id
            self.producer_epoch = accumulator.producer_epoch
            self._is_known = False
            self.next_sequence = 0
            for batch in self.retries:
                self._assign_sequence(batch)
        return True

    def _is_everything_resolved(self) -> bool:
        """Whether it is certain of every batch to be sent again that it was not written."""
        is_certain = False
        for batch in self.retries:
            is_certain = is_certain or not batch.is_outcome_unknown or self._is_behind_gap(batch)
            if not is_certain:
                probe("client.producer.new_epoch_waits_for_outcome")
                return False
        return True

    def _begin_epoch(self) -> None:
        self._is_reset_due = False
        self._gap_order = None
        for batch in self.retries:
            batch.unknown_error = None
            batch.not_before_ms = 0
        accumulator = self._accumulator
        if accumulator.producer_id != self.producer_id or self.producer_epoch >= PRODUCER_EPOCH_MAX:
            probe("client.producer.new_id_needed")
            if accumulator.producer_id == self.producer_id:
                accumulator.producer_id = None
                accumulator.is_identity_needed = True
            self.producer_id = None
            return
        probe("client.producer.new_epoch_begun")
        self.producer_epoch += 1
        self.next_sequence = 0
        for batch in self.retries:
            self._assign_sequence(batch)

    def _assign_sequence(self, batch: Batch) -> None:
        if not self._options.is_idempotent or self.producer_id is None:
            return
        batch.producer_id = self.producer_id
        batch.producer_epoch = self.producer_epoch
        batch.base_sequence = self.next_sequence
        self.next_sequence = (self.next_sequence + batch.record_count) & SEQUENCE_MAX

    def check(self) -> None:
        """Check what must hold between calls.

        Raises:
            InvariantViolation: it does not.
        """
        if len(self.in_flight) > self._options.max_in_flight:
            raise InvariantViolation("unresolved batches are bounded", topic=self.topic, partition=self.partition)
        if self.open_batch is not None and (not self.pending or self.pending[-1] is not self.open_batch):
            raise InvariantViolation("the open batch is the last one waiting", topic=self.topic)
        for batches in (self.in_flight, self.retries):
            if [batch.order for batch in batches] != sorted(batch.order for batch in batches):
                raise InvariantViolation("sent batches keep their order", topic=self.topic)
