"""Idempotence: the checks of protocols.md (c) in their order, snapshots, bounds."""

from __future__ import annotations

import pytest

from logcluster.core.replication.producer_state import ProducerStates, advance_sequence
from logcluster.model.errors import CorruptLog, InvalidProducerEpoch, OutOfOrderSequenceNumber
from logcluster.model.limits import SEQUENCE_MAX


def put(
    states: ProducerStates, sequence: int, *, offset: int, count: int = 1, producer: int = 7, epoch: int = 0
) -> None:
    assert states.check_append(producer, epoch, sequence, count) is None
    states.record(
        producer, epoch, sequence, base_offset=offset, last_offset=offset + count - 1, timestamp_ms=5, now_ms=1000
    )
    states.check()


def test_a_retry_is_answered_with_its_original_offset() -> None:
    states = ProducerStates()
    put(states, 0, offset=100, count=3)
    put(states, 3, offset=110, count=2)
    duplicate = states.check_append(7, 0, 0, 3)
    assert duplicate is not None
    assert (duplicate.base_offset, duplicate.last_offset) == (100, 102)


def test_a_part_of_a_batch_is_not_a_retry_of_it() -> None:
    states = ProducerStates()
    put(states, 0, offset=100, count=3)
    with pytest.raises(OutOfOrderSequenceNumber):
        states.check_append(7, 0, 0, 2)


def test_five_batches_are_remembered_and_the_sixth_is_out_of_order() -> None:
    states = ProducerStates()
    for sequence in range(6):
        put(states, sequence, offset=sequence)
    for sequence in range(1, 6):
        duplicate = states.check_append(7, 0, sequence, 1)
        assert duplicate is not None and duplicate.base_offset == sequence
    with pytest.raises(OutOfOrderSequenceNumber):
        states.check_append(7, 0, 0, 1)


def test_a_gap_is_out_of_order() -> None:
    states = ProducerStates()
    put(states, 0, offset=0)
    with pytest.raises(OutOfOrderSequenceNumber):
        states.check_append(7, 0, 2, 1)


def test_an_older_epoch_is_fenced_even_with_a_fitting_sequence() -> None:
    states = ProducerStates()
    put(states, 0, offset=0, epoch=3)
    with pytest.raises(InvalidProducerEpoch):
        states.check_append(7, 2, 1, 1)
    with pytest.raises(InvalidProducerEpoch):
        states.check_append(7, 2, 0, 1)


def test_a_new_epoch_starts_at_zero_and_forgets_the_old_window() -> None:
    states = ProducerStates()
    put(states, 0, offset=0)
    with pytest.raises(OutOfOrderSequenceNumber):
        states.check_append(7, 1, 1, 1)
    put(states, 0, offset=1, epoch=1)
    entry = states.get(7)
    assert entry is not None and len(entry.batches) == 1
    with pytest.raises(InvalidProducerEpoch):
        states.check_append(7, 0, 0, 1)


def test_an_unknown_producer_may_start_anywhere() -> None:
    put(ProducerStates(), 4711, offset=0)


def test_sequences_wrap() -> None:
    states = ProducerStates()
    put(states, SEQUENCE_MAX - 1, offset=0, count=4)
    put(states, 2, offset=4)
    assert advance_sequence(SEQUENCE_MAX, 1) == 0
    duplicate = states.check_append(7, 0, SEQUENCE_MAX - 1, 4)
    assert duplicate is not None and duplicate.last_sequence == 1


def test_followers_record_what_they_would_have_refused() -> None:
    states = ProducerStates()
    put(states, 0, offset=0)
    states.record(7, 0, 9, base_offset=1, last_offset=1, timestamp_ms=0, now_ms=0)
    assert states.check_append(7, 0, 10, 1) is None


def test_a_marker_keeps_the_epoch_alive_without_a_sequence() -> None:
    states = ProducerStates()
    put(states, 0, offset=0)
    states.record(7, 1, -1, base_offset=1, last_offset=1, timestamp_ms=0, now_ms=9000)
    states.expire(9000 + 100, expiration_ms=100)
    entry = states.get(7)
    assert entry is not None and entry.producer_epoch == 1
    with pytest.raises(InvalidProducerEpoch):
        states.check_append(7, 0, 1, 1)


def test_producers_are_bounded_least_recently_used_first() -> None:
    states = ProducerStates(producers_max=2)
    put(states, 0, offset=0, producer=1)
    put(states, 0, offset=1, producer=2)
    put(states, 1, offset=2, producer=1)
    put(states, 0, offset=3, producer=3)
    assert states.get(2) is None
    assert states.get(1) is not None
    assert states.evicted_count == 1


def test_pinned_producers_are_neither_evicted_nor_expired() -> None:
    states = ProducerStates(producers_max=1)
    put(states, 0, offset=0, producer=1)
    pinned = states.get(1)
    assert pinned is not None
    pinned.is_pinned = True
    put(states, 0, offset=1, producer=2)
    assert states.expire(10**9, expiration_ms=1) == 1
    assert states.get(1) is pinned


def test_a_loaded_snapshot_counts_as_seen_when_it_was_loaded() -> None:
    """What time it was when it was written says nothing: that was another process, perhaps before a boot."""
    states = ProducerStates()
    put(states, 0, offset=0)
    data = states.encode_snapshot(1)
    states.load_snapshot(data, now_ms=9000)
    assert states.expire(9000 + 50, expiration_ms=50) == 0
    assert states.encode_snapshot(1) == data
    assert states.expire(9000 + 51, expiration_ms=50) == 1


def test_expiry_is_by_time_since_the_last_append() -> None:
    states = ProducerStates()
    put(states, 0, offset=0)
    assert states.expire(1000 + 50, expiration_ms=50) == 0
    assert states.expire(1000 + 51, expiration_ms=50) == 1
    assert states.expired_count == 1
    assert len(states) == 0


def test_a_snapshot_keeps_all_five_batches() -> None:
    states = ProducerStates()
    for sequence in range(7):
        put(states, sequence, offset=sequence * 10)
    put(states, 0, offset=80, producer=8, epoch=4)
    loaded = ProducerStates()
    assert loaded.load_snapshot(states.encode_snapshot(81), now_ms=9000) == 81
    for sequence in range(2, 7):
        duplicate = loaded.check_append(7, 0, sequence, 1)
        assert duplicate is not None and duplicate.base_offset == sequence * 10
    assert loaded.describe() == states.describe()


@pytest.mark.parametrize("position", [0, 5, 8, 14, 20, 40])
def test_a_damaged_snapshot_is_noticed_and_changes_nothing(position: int) -> None:
    states = ProducerStates()
    put(states, 0, offset=0)
    data = bytearray(states.encode_snapshot(1))
    data[position] ^= 0x40
    with pytest.raises(CorruptLog):
        states.load_snapshot(bytes(data), now_ms=0)
    with pytest.raises(CorruptLog):
        states.load_snapshot(bytes(data[:9]), now_ms=0)
    assert len(states) == 1


def test_truncation_asks_for_a_rebuild_only_when_something_is_cut() -> None:
    states = ProducerStates()
    put(states, 0, offset=10, count=5)
    assert not states.must_rebuild_after_truncation(15)
    assert states.must_rebuild_after_truncation(14)
