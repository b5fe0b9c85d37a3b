"""Each safeguard of producers holds, and is gone when its ablation is applied."""

from __future__ import annotations

from ablations_support import (
    SETTINGS,
    append,
    make_log,
    make_partition,
    proves,
    registration,
    stamped,
)

from logcluster.broker.producer_recovery import load_producers
from logcluster.client.accumulator import Accumulator, AccumulatorOptions, PartitionQueue
from logcluster.client.batch import Batch
from logcluster.core.replication.producer_state import ProducerStates
from logcluster.model.errors import (
    Disconnected,
    InvalidProducerEpoch,
    LogClusterError,
    NotEnoughReplicas,
    NotLeaderOrFollower,
    OutOfOrderSequenceNumber,
)
from logcluster.record.compression import Compression


def states_with(*sequences: int, epoch: int = 0) -> ProducerStates:
    """A producer 7 that wrote one record per sequence."""
    states = ProducerStates()
    for offset, sequence in enumerate(sequences):
        states.record(7, epoch, sequence, base_offset=offset, last_offset=offset, timestamp_ms=1, now_ms=1)
    return states


def test_sequence_check() -> None:
    def is_kept() -> bool:
        try:
            states_with(0).check_append(7, 0, 2, 1)
        except OutOfOrderSequenceNumber:
            return True
        return False

    proves("sequence-check", is_kept)


def test_duplicate_window() -> None:
    proves("duplicate-window", lambda: states_with(0, 1).check_append(7, 0, 0, 1) is not None)


def test_producer_epoch_check() -> None:
    def is_kept() -> bool:
        try:
            states_with(0, epoch=3).check_append(7, 2, 1, 1)
        except InvalidProducerEpoch:
            return True
        return False

    proves("producer-epoch-check", is_kept)


def test_producer_state_on_followers() -> None:
    def is_kept() -> bool:
        partition = make_partition()
        partition.follow(registration(2))
        partition.append_as_follower(stamped(0, producer=(7, 0, 0)))
        return partition.producers.get(7) is not None

    proves("producer-state-on-followers", is_kept)


def test_producer_state_at_recovery() -> None:
    def is_kept() -> bool:
        log = make_log()
        log.append(stamped(0, producer=(7, 0, 0)))
        producers = ProducerStates()
        load_producers(log, producers, now_ms=1)
        return producers.get(7) is not None

    proves("producer-state-at-recovery", is_kept)


def test_producer_state_after_truncation() -> None:
    def is_kept() -> bool:
        partition = make_partition()
        partition.follow(registration(2))
        for offset in range(2):
            partition.append_as_follower(stamped(offset, producer=(7, 0, offset)))
        partition.truncate_to(1)
        entry = partition.producers.get(7)
        assert entry is not None
        return len(entry.batches) == 1

    proves("producer-state-after-truncation", is_kept)


def test_indefinite_after_append() -> None:
    def is_kept() -> bool:
        partition = make_partition()
        partition.lead(registration(), SETTINGS)
        errors: list[LogClusterError | None] = []
        partition.when_committed(append(partition), 10**12, errors.append)
        partition.follow(registration(2, leader_epoch=1))
        (error,) = errors
        assert error is not None
        return not error.definite

    proves("indefinite-after-append", is_kept)


def test_indefinite_after_append_also_when_too_few_are_in_sync() -> None:
    def is_kept() -> bool:
        partition = make_partition()
        partition.lead(registration(), SETTINGS)
        errors: list[LogClusterError | None] = []
        partition.when_committed(append(partition), 10**12, errors.append)
        assert partition.leader is not None
        partition.leader.in_sync_replicas = (1,)
        partition.on_isr_committed()
        (error,) = errors
        assert error is not None
        return not error.definite

    proves("indefinite-after-append", is_kept)


# -- the producer's own part -----------------------------------------------------------------------------------------


def make_queue(*, is_known: bool = True) -> PartitionQueue:
    accumulator = Accumulator(
        AccumulatorOptions(
            batch_size_bytes=1000,
            buffer_size_bytes=100_000,
            linger_ms=0,
            delivery_timeout_ms=1000,
            max_in_flight=5,
            compression=Compression.NONE,
            is_idempotent=True,
        )
    )
    accumulator.set_identity(7, 0)
    queue = accumulator.queue("t", 0)
    queue.take(0, leader_epoch=0)
    queue._is_known = is_known
    return queue


def send(queue: PartitionQueue, *, now_ms: int = 0) -> Batch | None:
    """Add a batch of one record, and take what may go out."""
    queue.close_batch()
    assert queue.begin_batch(now_ms).append(1, None, b"v", ())
    return queue.take(now_ms, leader_epoch=0)


def fail(queue: PartitionQueue, batch: Batch, error: LogClusterError, *, now_ms: int = 0) -> None:
    queue.fail_attempt(batch, error, now_ms=now_ms, backoff_ms=0)


def test_retry_keeps_sequence() -> None:
    def is_kept() -> bool:
        queue = make_queue()
        batch = send(queue)
        assert batch is not None
        fail(queue, batch, Disconnected())
        assert queue.take(0, leader_epoch=0) is batch
        return batch.base_sequence == 0

    proves("retry-keeps-sequence", is_kept)


def test_no_new_epoch_while_in_doubt() -> None:
    """The first batch is given up, the fate of the second one is unknown: it must not go under another epoch."""

    def is_kept() -> bool:
        queue = make_queue()
        first, second = send(queue), send(queue, now_ms=500)
        assert first is not None and second is not None
        for batch in (first, second):
            fail(queue, batch, Disconnected(), now_ms=600)
        queue.expire(1100)
        assert first.is_done and not second.is_done
        again = queue.take(1100, leader_epoch=0)
        return again is second and again.producer_epoch == 0

    proves("no-new-epoch-while-in-doubt", is_kept)


def test_first_batch_alone() -> None:
    def is_kept() -> bool:
        queue = make_queue(is_known=False)
        assert send(queue) is not None
        return send(queue) is None

    proves("first-batch-alone", is_kept)


def test_doubt_is_remembered() -> None:
    def is_kept() -> bool:
        queue = make_queue()
        batch = send(queue)
        assert batch is not None
        fail(queue, batch, Disconnected())
        assert queue.take(0, leader_epoch=0) is batch
        fail(queue, batch, NotEnoughReplicas(), now_ms=2000)
        assert batch.error is not None
        return not batch.error.definite

    proves("doubt-is-remembered", is_kept)


def test_a_lone_refusal_is_definite_in_any_case() -> None:
    queue = make_queue()
    batch = send(queue)
    assert batch is not None
    fail(queue, batch, NotLeaderOrFollower(), now_ms=2000)
    assert batch.error is not None and batch.error.definite
