"""When batches go out, and what answers mean for order and sequence."""

from __future__ import annotations

import pytest

from logcluster.client.accumulator import Accumulator, AccumulatorOptions, PartitionQueue
from logcluster.client.batch import Batch
from logcluster.model import errors
from logcluster.record.batch import read_header
from logcluster.record.compression import Compression


def make(*, idempotent: bool = True, linger_ms: int = 5, max_in_flight: int = 5, timeout_ms: int = 1000) -> Accumulator:
    accumulator = Accumulator(
        AccumulatorOptions(
            batch_size_bytes=1000,
            buffer_size_bytes=100_000,
            linger_ms=linger_ms,
            delivery_timeout_ms=timeout_ms,
            max_in_flight=max_in_flight,
            compression=Compression.NONE,
            is_idempotent=idempotent,
        )
    )
    if idempotent:
        accumulator.set_identity(7, 0)
    return accumulator


def established(accumulator: Accumulator, partition: int = 0) -> PartitionQueue:
    """A partition whose broker knows the producer, so that several batches may fly; sequences go on at 0."""
    queue = accumulator.queue("t", partition)
    queue.take(0, leader_epoch=0)
    queue._is_known = True
    return queue


def add(queue: PartitionQueue, value: bytes = b"v", now_ms: int = 0) -> Batch:
    """A batch of its own with one record."""
    queue.close_batch()
    batch = queue.begin_batch(now_ms)
    assert batch.append(1, None, value, ())
    return batch


def take_all(queue: PartitionQueue, now_ms: int = 0, leader_epoch: int = 0) -> list[Batch]:
    taken = []
    while (batch := queue.take(now_ms, leader_epoch=leader_epoch)) is not None:
        taken.append(batch)
        queue.check()
    return taken


def fail(
    queue: PartitionQueue, batch: Batch, error: errors.LogClusterError, now_ms: int = 0, backoff_ms: int = 0
) -> bool:
    kept = queue.fail_attempt(batch, error, now_ms=now_ms, backoff_ms=backoff_ms)
    queue.check()
    return kept


def sequence(batch: Batch) -> tuple[int, int]:
    return batch.producer_epoch, batch.base_sequence


def test_lone_record_goes_out_at_once() -> None:
    queue = established(make(linger_ms=1000))
    batch = queue.begin_batch(0)
    batch.append(1, None, b"v", ())
    assert queue.take(0, leader_epoch=0) is batch
    assert queue.open_batch is None


def test_record_behind_another_waits_until_linger_is_over() -> None:
    queue = established(make(linger_ms=5))
    add(queue)
    assert len(take_all(queue)) == 1
    second = queue.begin_batch(0)
    second.append(1, None, b"v", ())
    assert queue.take(4, leader_epoch=0) is None
    assert queue.due_ms(4) == 5
    assert queue.take(5, leader_epoch=0) is second


def test_record_behind_another_goes_out_when_that_is_acknowledged() -> None:
    queue = established(make(linger_ms=1000))
    first = add(queue)
    take_all(queue)
    second = queue.begin_batch(0)
    second.append(1, None, b"v", ())
    assert queue.take(1, leader_epoch=0) is None
    queue.succeed(first, base_offset=0)
    assert queue.take(1, leader_epoch=0) is second


def test_closed_batches_go_out_up_to_the_bound() -> None:
    queue = established(make(max_in_flight=3))
    batches = [add(queue) for _ in range(5)]
    queue.close_batch()
    assert take_all(queue) == batches[:3]
    queue.succeed(batches[0], base_offset=0)
    assert take_all(queue) == batches[3:4]


def test_first_batch_of_a_producer_flies_alone() -> None:
    """A broker that knows nothing of the producer would take the second one for the first."""
    queue = make().queue("t", 0)
    first, second = add(queue), add(queue)
    queue.close_batch()
    assert take_all(queue) == [first]
    queue.succeed(first, base_offset=0)
    assert take_all(queue) == [second]


def test_nothing_goes_to_a_new_leader_while_the_old_one_has_not_answered() -> None:
    queue = established(make())
    first, second = add(queue), add(queue)
    assert take_all(queue, leader_epoch=1) == [first]
    queue.close_batch()
    assert take_all(queue, leader_epoch=2) == []
    queue.succeed(first, base_offset=0)
    assert take_all(queue, leader_epoch=2) == [second]


def test_sequences_count_records_and_wrap() -> None:
    queue = established(make())
    first = queue.begin_batch(0)
    for _ in range(3):
        first.append(1, None, b"v", ())
    second = add(queue)
    queue.close_batch()
    take_all(queue)
    assert (sequence(first), sequence(second)) == ((0, 0), (0, 3))
    header = read_header(first.payload())
    assert (header.producer_id, header.producer_epoch, header.base_sequence) == (7, 0, 0)
    queue.next_sequence = 2**31 - 1
    queue.succeed(first, base_offset=0)
    queue.succeed(second, base_offset=3)
    third, fourth = add(queue), add(queue)
    queue.close_batch()
    take_all(queue)
    assert (third.base_sequence, fourth.base_sequence) == (2**31 - 1, 0)


def test_nothing_goes_out_without_a_producer_id() -> None:
    accumulator = make()
    accumulator.producer_id = None
    queue = established(accumulator)
    add(queue)
    assert take_all(queue) == []
    accumulator.set_identity(9, 2)
    (batch,) = take_all(queue)
    assert (batch.producer_id, batch.producer_epoch) == (9, 2)


def test_failed_batch_is_sent_again_unchanged_before_anything_new() -> None:
    queue = established(make(linger_ms=0))
    first, second = add(queue), add(queue)
    queue.close_batch()
    take_all(queue)
    payload = first.payload()
    assert fail(queue, first, errors.NotLeaderOrFollower(), backoff_ms=50)
    third = add(queue)
    queue.close_batch()
    assert take_all(queue, 10) == []
    assert take_all(queue, 50) == [first], "nothing new beside a retry"
    assert first.payload() == payload
    queue.succeed(first, base_offset=0)
    queue.succeed(second, base_offset=1)
    assert take_all(queue, 50) == [third]


def test_retry_goes_at_once_to_a_newer_leader() -> None:
    queue = established(make())
    add(queue)
    (batch,) = take_all(queue, leader_epoch=4)
    fail(queue, batch, errors.NotLeaderOrFollower(), backoff_ms=100)
    assert take_all(queue, 1, leader_epoch=4) == []
    assert take_all(queue, 1, leader_epoch=5) == [batch]


def test_out_of_order_behind_an_unresolved_batch_waits_its_turn_under_the_same_sequence() -> None:
    queue = established(make())
    first, second = add(queue), add(queue)
    queue.close_batch()
    take_all(queue)
    assert fail(queue, first, errors.Disconnected())
    assert fail(queue, second, errors.OutOfOrderSequenceNumber())
    assert take_all(queue) == [first]
    queue.succeed(first, base_offset=0)
    assert take_all(queue) == [second]
    assert (sequence(first), sequence(second)) == ((0, 0), (0, 1))


def test_certain_gap_begins_a_new_epoch_when_everything_sent_is_resolved() -> None:
    queue = established(make())
    first, second, third = add(queue), add(queue), add(queue)
    queue.close_batch()
    take_all(queue)
    assert not fail(queue, first, errors.MessageTooLarge())
    assert take_all(queue) == [], "the others are in flight"
    assert fail(queue, second, errors.OutOfOrderSequenceNumber())
    assert take_all(queue) == [], "under its old sequence it can only be refused again"
    assert fail(queue, third, errors.OutOfOrderSequenceNumber())
    assert take_all(queue) == [second]
    assert sequence(second) == (1, 0)
    queue.succeed(second, base_offset=0)
    assert take_all(queue) == [third]
    assert sequence(third) == (1, 1)
    assert isinstance(first.error, errors.MessageTooLarge)


def test_epoch_of_other_partitions_stays() -> None:
    accumulator = make()
    queue, other = established(accumulator), established(accumulator, 1)
    first = add(queue)
    add(other)
    take_all(queue)
    take_all(other)
    fail(queue, first, errors.MessageTooLarge())
    add(queue)
    add(other)
    other.close_batch()
    (again,) = take_all(queue)
    (unmoved,) = take_all(other)
    assert sequence(again) == (1, 0)
    assert sequence(unmoved) == (0, 1)


def test_unknown_outcome_keeps_its_sequence_behind_an_uncertain_gap() -> None:
    """KAFKA-14034: under a new epoch the broker could not know the second batch as a duplicate."""
    queue = established(make(timeout_ms=100))
    first = add(queue, now_ms=0)
    second = add(queue, now_ms=50)
    queue.close_batch()
    take_all(queue, 50)
    fail(queue, second, errors.Disconnected(), now_ms=60)
    assert not fail(queue, first, errors.RequestTimedOut(), now_ms=100)
    assert first.error is not None and not first.error.definite
    assert take_all(queue, 100) == [second]
    assert sequence(second) == (0, 1)
    queue.succeed(second, base_offset=1)
    third = add(queue, now_ms=100)
    assert take_all(queue, 100) == [third]
    assert sequence(third) == (1, 0)


def test_unknown_outcome_behind_an_uncertain_gap_fails_as_unknown_when_refused() -> None:
    queue = established(make(timeout_ms=100))
    first = add(queue, now_ms=0)
    second = add(queue, now_ms=50)
    queue.close_batch()
    take_all(queue, 50)
    fail(queue, second, errors.Disconnected(), now_ms=60)
    fail(queue, first, errors.RequestTimedOut(), now_ms=100)
    take_all(queue, 100)
    assert not fail(queue, second, errors.OutOfOrderSequenceNumber(), now_ms=101)
    assert isinstance(second.error, errors.Disconnected)
    assert "OutOfOrderSequenceNumber" in second.error.message


def test_unknown_outcome_behind_a_certain_gap_was_not_written() -> None:
    queue = established(make())
    first, second = add(queue), add(queue)
    queue.close_batch()
    take_all(queue)
    fail(queue, second, errors.Disconnected())
    assert not fail(queue, first, errors.MessageTooLarge())
    assert take_all(queue) == [second]
    assert sequence(second) == (1, 0)


def test_error_after_an_unknown_outcome_is_not_definite() -> None:
    queue = established(make())
    batch = add(queue)
    take_all(queue)
    fail(queue, batch, errors.Disconnected("gone"))
    take_all(queue)
    assert not fail(queue, batch, errors.MessageTooLarge())
    assert isinstance(batch.error, errors.Disconnected)
    assert not batch.error.definite


def test_errors_shared_by_batches_keep_their_own_facts() -> None:
    accumulator = make()
    shared = errors.InvalidRecord("no")
    first, second = accumulator.queue("t", 0), accumulator.queue("u", 3)
    batches = []
    for queue in (first, second):
        batches.append(add(queue))
        take_all(queue)
        fail(queue, batches[-1], shared)
    assert [batch.error.facts["topic"] for batch in batches if batch.error] == ["t", "u"]


def test_refused_sequence_at_the_head_begins_a_new_epoch_a_bounded_number_of_times() -> None:
    queue = established(make())
    batch = add(queue)
    epochs = []
    for _ in range(4):
        assert take_all(queue) == [batch]
        epochs.append(batch.producer_epoch)
        kept = fail(queue, batch, errors.OutOfOrderSequenceNumber())
    assert epochs == [0, 1, 2, 3]
    assert not kept
    assert isinstance(batch.error, errors.OutOfOrderSequenceNumber)


def test_fenced_producer_gets_another_id() -> None:
    accumulator = make()
    queue = established(accumulator)
    batch = add(queue)
    take_all(queue)
    assert fail(queue, batch, errors.InvalidProducerEpoch())
    assert accumulator.is_identity_needed
    assert take_all(queue) == []
    accumulator.set_identity(8, 0)
    assert take_all(queue) == [batch]
    assert (batch.producer_id, batch.producer_epoch, batch.base_sequence) == (8, 0, 0)


def test_exhausted_epochs_need_another_id() -> None:
    accumulator = make()
    queue = established(accumulator)
    first = add(queue)
    take_all(queue)
    queue.producer_epoch = 2**15 - 1
    fail(queue, first, errors.MessageTooLarge())
    second = add(queue)
    assert take_all(queue) == []
    assert accumulator.is_identity_needed
    accumulator.set_identity(8, 0)
    assert take_all(queue) == [second]


def test_expired_batches_say_why() -> None:
    queue = established(make(timeout_ms=100))
    sent, waiting = add(queue), add(queue)
    queue.take(0, leader_epoch=0)
    fail(queue, sent, errors.NotEnoughReplicas("one is missing"), backoff_ms=1)
    queue.expire(100)
    assert isinstance(sent.error, errors.NotEnoughReplicas)
    assert isinstance(waiting.error, errors.LeaderNotAvailable)
    assert sent.error.definite and waiting.error.definite
    assert queue.is_idle


def test_without_idempotence_a_retry_waits_until_nothing_is_in_flight() -> None:
    queue = established(make(idempotent=False))
    first, second = add(queue), add(queue)
    queue.close_batch()
    take_all(queue)
    fail(queue, first, errors.NotLeaderOrFollower())
    assert take_all(queue) == []
    queue.succeed(second, base_offset=0)
    assert take_all(queue) == [first]
    assert read_header(first.payload()).producer_id == -1


def test_closing_leaves_the_outcome_of_sent_batches_unknown() -> None:
    accumulator = make()
    queue = established(accumulator)
    sent, waiting = add(queue), add(queue)
    queue.take(0, leader_epoch=0)
    queue.abandon(errors.ShuttingDown())
    assert sent.error is not None and not sent.error.definite
    assert waiting.error is not None and waiting.error.definite
    assert queue.is_idle
    assert accumulator.failed == [sent, waiting]


def test_batch_too_large_for_its_topic_is_split_in_place_and_later_ones_are_smaller() -> None:
    accumulator = make()
    queue = established(accumulator)
    whole = queue.begin_batch(0)
    for index in range(10):
        assert whole.append(1, None, b"%d" % index * 40, ())
    whole.claimed.add(7)
    whole.buffered_size_bytes = accumulator.buffered_size_bytes = 1003
    behind = add(queue)
    queue.close_batch()
    take_all(queue)
    assert fail(queue, whole, errors.MessageTooLarge(size_bytes_max="250"))
    assert fail(queue, behind, errors.OutOfOrderSequenceNumber())
    parts = []
    while queue.retries:
        (part,) = take_all(queue)
        assert read_header(part.payload()).size_bytes <= 250
        parts.append(part)
        queue.succeed(part, base_offset=0)
    assert parts[-1] is behind
    assert [part.base_sequence for part in parts] == [0, 4, 8, 10]
    assert {part.producer_epoch for part in parts} == {1}
    assert whole.leaf(7) == (parts[1], 3)
    assert parts[1].claimed == {3}
    assert accumulator.buffered_size_bytes == 0
    later = queue.begin_batch(0)
    assert later.append(1, None, b"x" * 150, ())
    assert not later.append(1, None, b"x" * 150, ())


def test_single_record_too_large_is_given_up() -> None:
    queue = established(make())
    batch = add(queue)
    take_all(queue)
    assert not fail(queue, batch, errors.MessageTooLarge())


def test_bytes_are_given_back_with_the_outcome() -> None:
    accumulator = make()
    queue = established(accumulator)
    batch = add(queue)
    batch.buffered_size_bytes = accumulator.buffered_size_bytes = 30
    take_all(queue)
    queue.succeed(batch, base_offset=0)
    assert accumulator.buffered_size_bytes == 0


def test_claimed_failures_are_forgotten() -> None:
    accumulator = make(idempotent=False)
    queue = established(accumulator)
    for _ in range(1000):
        batch = add(queue)
        batch.claimed.add(0)
        take_all(queue)
        fail(queue, batch, errors.InvalidRecord())
    assert len(accumulator.failed) <= 257


@pytest.mark.parametrize("idempotent", [True, False])
def test_unresolved_batches_are_listed_in_the_order_of_writing(idempotent: bool) -> None:
    queue = established(make(idempotent=idempotent))
    batches = [add(queue) for _ in range(7)]
    take_all(queue)
    fail(queue, batches[2], errors.NotLeaderOrFollower())
    assert queue.unresolved == batches
