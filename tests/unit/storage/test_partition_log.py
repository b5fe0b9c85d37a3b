"""PartitionLog: appending, rolling, reading, flushing, truncation, retention."""

import errno
from typing import Any

import pytest

from logcluster.model.errors import CorruptLog, OffsetOutOfRange, ShuttingDown, StorageFailure
from logcluster.model.ids import TopicPartition
from logcluster.model.invariants import InvariantViolation
from logcluster.sim.disk import SimulatedFile
from logcluster.storage.log_config import LogConfig


def test_partition_without_data_takes_nothing_on_disk(storage: Any) -> None:
    log = storage.log
    log.assign_leader_epoch(4)
    assert (log.log_start_offset, log.log_end_offset, log.flush()) == (0, 0, 0)
    storage.manager.checkpoint()
    assert not storage.disk.exists(storage.directory)
    storage.append(leader_epoch=4)
    assert storage.disk.exists(storage.directory)


def test_appended_bytes_are_read_back_exactly(storage: Any, batch: Any) -> None:
    batches = [batch(2 * number) for number in range(40)]
    for data in batches:
        storage.log.append(data)
    assert storage.log.log_end_offset == 80
    assert storage.read_all() == b"".join(batches)
    assert storage.log.read(33, size_bytes_max=1, end_offset=80) == (batches[16], 34, False)
    assert storage.log.read_tail(33, size_bytes_max=1, end_offset=80) == (batches[16], 34, True)


def test_append_of_several_batches_is_whole(storage: Any, batch: Any) -> None:
    data = batch(0) + batch(2) + batch(4)
    storage.log.append(data)
    assert storage.log.read_tail(3, size_bytes_max=10_000, end_offset=6) == (batch(2) + batch(4), 6, True)
    assert storage.log.read_tail(0, size_bytes_max=10_000, end_offset=4) == (batch(0) + batch(2), 4, True)
    assert storage.log.read(0, size_bytes_max=len(batch(0)), end_offset=6) == (batch(0), 2, False)


def test_append_that_does_not_continue_the_log_is_refused_and_writes_nothing(storage: Any, batch: Any) -> None:
    storage.append(2)
    for wrong in (batch(2), batch(6), batch(4) + batch(8)):
        with pytest.raises(InvariantViolation):
            storage.log.append(wrong)
    with pytest.raises(InvariantViolation, match="never decrease"):
        storage.append(leader_epoch=5)
        storage.append(leader_epoch=4)
    assert storage.log.log_end_offset == 6


def test_gaps_of_a_compacted_leader_are_kept_over_restarts(storage: Any, batch: Any) -> None:
    storage.append()
    storage.log.append(batch(10), allow_gap=True)
    storage.log.append(batch(12) + batch(20), allow_gap=True)
    assert storage.log.log_end_offset == 22
    assert storage.log.read(5, size_bytes_max=1, end_offset=22).data == batch(10)
    assert storage.log.read_tail(5, size_bytes_max=1, end_offset=22).data == batch(10)
    storage.log.flush()
    storage.kill()
    storage.open()
    assert storage.log.log_end_offset == 22
    assert storage.read_all() == batch(0) + batch(10) + batch(12) + batch(20)


def test_reading_ends_at_the_ceiling(storage: Any) -> None:
    storage.append(5)
    for read in (storage.log.read, storage.log.read_tail):
        assert read(4, size_bytes_max=10_000, end_offset=6).next_offset == 6
        assert read(6, size_bytes_max=10_000, end_offset=6).data == b""
        assert read(8, size_bytes_max=10_000, end_offset=6)[:2] == (b"", 8)
        assert read(10, size_bytes_max=10_000, end_offset=10)[:2] == (b"", 10)
        assert read(4, size_bytes_max=10_000, end_offset=5).data == b""


def test_offsets_outside_the_log_are_refused(storage: Any) -> None:
    storage.append(5)
    storage.log.advance_log_start(4)
    for read in (storage.log.read, storage.log.read_tail):
        for offset in (3, 11, -1):
            with pytest.raises(OffsetOutOfRange) as refusal:
                read(offset, size_bytes_max=1, end_offset=10)
            assert refusal.value.facts["log_start_offset"] == 4


def test_segment_rolls_by_size_and_tells_the_owner(storage: Any) -> None:
    rolled: list[tuple[int, int]] = []
    storage.log.on_roll = lambda base: rolled.append((base, storage.log.log_end_offset))
    storage.append(30)
    assert storage.log.segment_count == len(rolled) + 1 > 2
    assert all(base == end for base, end in rolled)
    sizes = [storage.disk.open(f"{storage.directory}/{name}").size() for name in storage.segments()[:-1]]
    assert all(size <= 4000 for size in sizes)
    storage.log.check()


def test_segment_rolls_by_the_number_of_its_batches_also_after_a_cut_and_a_recovery(storage: Any) -> None:
    """Or else recovery would take the longer, the longer small batches have come in."""
    storage.config = LogConfig(segment_bytes=10**6, segment_batches_max=8)
    for _ in range(20):
        storage.append()
    assert [segment.batch_count for segment in storage.log._segments] == [8, 8, 4]
    storage.log.truncate_to(storage.log.log_end_offset - 1)
    assert storage.log._segments[-1].batch_count < 4
    left = storage.log._segments[-1].batch_count
    storage.kill()
    storage.open()
    assert storage.log._segments[-1].batch_count == left, "the scan counts them anew"
    for _ in range(7 - left):
        storage.append()
    storage.manager.close(clean=True, broker_epoch=1)
    storage.open()
    assert storage.log._segments[-1].batch_count == 7, "the index file knows them"
    storage.append()
    assert storage.log.segment_count == 3
    storage.append()
    assert storage.log.segment_count == 4
    storage.log.check()


def test_segment_rolls_by_age_of_its_records(storage: Any) -> None:
    storage.config = LogConfig(segment_bytes=10**6, segment_ms=1000)
    storage.append(timestamp_ms=5_000)
    storage.append(timestamp_ms=5_900)
    assert storage.log.segment_count == 1
    storage.append(timestamp_ms=6_100)
    assert storage.log.segment_count == 2


def test_flush_publishes_only_what_was_appended_before(storage: Any) -> None:
    storage.append(3)
    pending = storage.log.prepare_flush()
    storage.append(2)
    assert storage.log.prepare_flush() is None
    pending.run()
    assert storage.log.complete_flush(pending) == 6
    assert storage.log.is_dirty
    assert storage.log.flush() == 10
    assert storage.log.prepare_flush() is None


def test_truncation_during_a_flush_makes_its_completion_void(storage: Any) -> None:
    storage.append(12)
    pending = storage.log.prepare_flush()
    storage.log.truncate_to(4)
    pending.run()
    assert storage.log.complete_flush(pending) == 4
    storage.append(1, leader_epoch=1)
    assert storage.log.flushed_offset == 4
    assert storage.log.flush() == 6


@pytest.mark.parametrize("operation", ["sync", "sync_dir"])
def test_failed_sync_fails_the_whole_directory_for_good(storage: Any, operation: str) -> None:
    other = storage.manager.get_or_create(TopicPartition("other", 0), b"o" * 16)
    storage.append(3)
    storage.disk.fail_next(operation, errno.EIO, path_contains="orders")
    with pytest.raises(StorageFailure):
        storage.log.flush()
    assert len(storage.failures) == 1
    for work in (
        lambda: storage.log,
        lambda: other.append(b"x"),
        lambda: other.read(0, size_bytes_max=1, end_offset=0),
        lambda: other.flush(),
        lambda: storage.manager.prepare_checkpoint().run() or storage.log,
    ):
        with pytest.raises(StorageFailure):
            work()
    assert not storage.manager.close(clean=True, broker_epoch=3)
    storage.kill()
    assert storage.open().previous_broker_epoch is None


def test_failed_write_fails_the_log_for_good(storage: Any, batch: Any) -> None:
    log = storage.log
    storage.append(3)
    storage.disk.fail_next("write", errno.EIO)
    with pytest.raises(StorageFailure):
        log.append(batch(6))
    writes = storage.disk.counters.counts["write"]
    for _ in range(2):
        with pytest.raises(StorageFailure):
            log.append(batch(6))
        with pytest.raises(StorageFailure):
            log.flush()
    assert storage.disk.counters.counts["write"] == writes
    assert log.log_end_offset == 6


def test_failed_preallocation_is_no_failure_but_a_full_disk_is(storage: Any) -> None:
    storage.disk.fail_next("preallocate", errno.ENOSPC, count=2)
    storage.append(5)
    storage.disk.capacity_bytes = storage.disk.used_bytes()
    with pytest.raises(StorageFailure, match=r".") as failure:
        storage.append(40)
    assert "full" in failure.value.hint


def test_unreadable_file_quarantines_the_replica_not_the_directory(storage: Any) -> None:
    log = storage.log
    storage.append(3)
    storage.disk.fail_next("read", errno.EIO)
    with pytest.raises(CorruptLog):
        log.read(0, size_bytes_max=1, end_offset=6)
    assert [key for key, _ in storage.quarantines] == [storage.key]
    assert not storage.failures
    with pytest.raises(CorruptLog):
        log.read_tail(0, size_bytes_max=1, end_offset=6)


def test_damaged_batch_is_never_served(storage: Any) -> None:
    log = storage.log
    storage.append(20)
    storage.flip(900)
    with pytest.raises(CorruptLog):
        storage.read_all()
    with pytest.raises(CorruptLog):
        log.append(b"")


def test_read_during_truncation_is_retried_not_taken_for_damage(
    storage: Any, batch: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage.append(9)
    log = storage.log
    original = SimulatedFile.read_at
    cuts: list[int] = []

    def read_after_a_cut(file: SimulatedFile, position: int, size_bytes: int) -> bytes:
        if not cuts:
            cuts.append(position)
            log.truncate_to(4)
            storage.append(1, leader_epoch=1, size=2400)
        return original(file, position, size_bytes)

    monkeypatch.setattr(SimulatedFile, "read_at", read_after_a_cut)
    read = log.read(14, size_bytes_max=1, end_offset=18)
    assert cuts[0] > 1000
    assert read.data == b""
    assert log.failure is None
    assert log.read(4, size_bytes_max=1, end_offset=6).data == batch(4, leader_epoch=1, size=2400)


def test_truncation_cuts_whole_batches_over_segments(storage: Any, batch: Any) -> None:
    storage.append(40)
    storage.log.write_producer_snapshot(8, b"early")
    storage.log.write_producer_snapshot(60, b"late")
    assert storage.log.truncate_to(100) == 80
    assert storage.log.truncate_to(11) == 10
    storage.log.check()
    assert storage.read_all() == b"".join(batch(2 * number) for number in range(5))
    assert storage.log.read_tail(8, size_bytes_max=1, end_offset=10) in {None, (batch(8), 10, True)}
    assert storage.log.producer_snapshot_offsets() == [8]
    assert storage.log.flushed_offset == 10
    storage.append(5, leader_epoch=2)
    assert storage.log.leader_epochs.entries == ((0, 0), (2, 10))


def test_truncation_is_durable_before_anything_is_written_over_it(storage: Any) -> None:
    for seed in range(30):
        storage.__init__()
        storage.append(20, size=100)
        storage.log.flush()
        storage.log.truncate_to(20)
        storage.append(1, leader_epoch=1, size=100)
        storage.lose_power(seed)
        storage.open()
        assert not storage.manager.quarantined
        assert storage.log.log_end_offset in {20, 22}


@pytest.mark.parametrize("in_flight", [True, False])
def test_truncation_syncs_earlier_segments_before_it_calls_them_flushed(storage: Any, in_flight: bool) -> None:
    for seed in range(20):
        storage.__init__()
        storage.append(40)
        if in_flight:
            storage.log.prepare_flush()
        storage.log.truncate_to(76)
        assert storage.log.flushed_offset == 76
        storage.lose_power(seed)
        storage.open()
        assert storage.log.log_end_offset == 76


def test_truncation_below_the_log_start_empties_the_log(storage: Any) -> None:
    storage.append(10)
    storage.log.advance_log_start(8)
    assert storage.log.truncate_to(4) == 4
    assert (storage.log.log_start_offset, storage.log.log_end_offset) == (4, 4)


def test_log_starts_again_at_the_leaders_start(storage: Any, batch: Any) -> None:
    storage.append(20)
    storage.log.truncate_fully_and_start_at(1000)
    storage.log.check()
    assert storage.log.leader_epochs.entries == ()
    storage.log.append(batch(1000, leader_epoch=7))
    storage.log.flush()
    storage.lose_power()
    storage.open()
    assert (storage.log.log_start_offset, storage.log.log_end_offset) == (1000, 1002)
    assert storage.log.leader_epochs.entries == ((7, 1000),)


def test_retention_by_size_keeps_at_least_that_much(storage: Any) -> None:
    storage.append(60)
    before = storage.log.size_bytes
    deleted = storage.log.apply_retention(0, high_watermark=120, retention_ms=None, retention_bytes=9000)
    assert deleted
    assert deleted[0].base_offset == 0
    assert storage.log.log_start_offset == deleted[-1].next_offset
    assert 9000 <= storage.log.size_bytes < 9000 + 4000
    assert before - storage.log.size_bytes == sum(item.size_bytes for item in deleted)
    storage.log.check()
    trash = storage.manager.collect_trash()
    assert len(trash) >= len(deleted)
    assert all(storage.disk.exists(path) for path in trash)
    storage.manager.remove_paths(trash)
    assert not any(storage.disk.exists(path) for path in trash)
    assert storage.manager.collect_trash() == []


def test_retention_by_time_rolls_an_old_active_segment(storage: Any) -> None:
    storage.append(5, timestamp_ms=1_000)
    arguments: dict[str, Any] = {"high_watermark": 10, "retention_bytes": None}
    assert storage.log.apply_retention(2_001, retention_ms=1_000, **arguments) == []
    assert storage.log.apply_retention(2_002, retention_ms=1_000, **arguments)[0].next_offset == 10
    assert (storage.log.log_start_offset, storage.log.log_end_offset, storage.log.size_bytes) == (10, 10, 0)
    storage.append(1)
    storage.log.flush()
    storage.lose_power()
    storage.open()
    assert (storage.log.log_start_offset, storage.log.log_end_offset) == (10, 12)


def test_retention_never_passes_the_high_watermark(storage: Any) -> None:
    storage.append(60)
    watermark = 50
    deleted = storage.log.apply_retention(10**12, high_watermark=watermark, retention_ms=1, retention_bytes=0)
    assert deleted
    assert storage.log.log_start_offset <= watermark < storage.log.log_start_offset + 30


def test_deleted_records_go_with_their_segments(storage: Any) -> None:
    storage.append(60)
    storage.log.advance_log_start(40)
    deleted = storage.log.apply_retention(0, high_watermark=120, retention_ms=None, retention_bytes=None)
    assert deleted
    assert deleted[-1].next_offset <= 40
    assert storage.log.log_start_offset == 40
    with pytest.raises(OffsetOutOfRange):
        storage.log.advance_log_start(1_000)


def test_times_are_found_to_the_record(storage: Any, batch: Any) -> None:
    for base, time in ((0, 500), (2, 900), (4, 700), (6, 1500)):
        storage.log.append(batch(base, timestamp_ms=time))
    assert storage.log.offset_for_timestamp(0) == (0, 500)
    assert storage.log.offset_for_timestamp(501) == (1, 501)
    assert storage.log.offset_for_timestamp(502) == (2, 900)
    assert storage.log.offset_for_timestamp(902) == (6, 1500)
    assert storage.log.offset_for_timestamp(1502) is None
    assert storage.log.offset_for_timestamp(902, end_offset=6) is None
    assert storage.log.newest_timestamp() == (7, 1501)
    assert storage.log.newest_timestamp(end_offset=6) == (3, 901)
    storage.log.advance_log_start(4)
    assert storage.log.offset_for_timestamp(0) == (4, 700)


def test_headers_are_replayed_from_an_offset(storage: Any) -> None:
    storage.append(20)
    assert [header.base_offset for header in storage.log.headers_from(15)] == list(range(14, 40, 2))


def test_snapshots_at_or_below_are_found_and_damaged_ones_skipped(storage: Any) -> None:
    storage.append(20)
    for offset in (4, 10, 20):
        storage.log.write_producer_snapshot(offset, b"state at %d" % offset)
    assert storage.log.latest_producer_snapshot() == (20, b"state at 20")
    assert storage.log.latest_producer_snapshot(19) == (10, b"state at 10")
    assert storage.log.latest_producer_snapshot(3) is None
    storage.disk.flip_bit(f"{storage.directory}/{20:020d}.snapshot", 150)
    assert storage.log.latest_producer_snapshot() == (10, b"state at 10")
    storage.log.remove_producer_snapshots_below(15)
    assert storage.log.producer_snapshot_offsets() == [20]


def test_closed_log_refuses_everything(storage: Any) -> None:
    storage.append(3)
    log = storage.log
    storage.manager.close(clean=True, broker_epoch=1)
    with pytest.raises(ShuttingDown):
        log.read_tail(0, size_bytes_max=1, end_offset=6)


def test_epoch_ends_are_answered(storage: Any) -> None:
    storage.append(2, leader_epoch=1)
    storage.append(2, leader_epoch=4)
    storage.log.assign_leader_epoch(6)
    assert storage.log.end_offset_for_epoch(2) == (1, 4)
    assert storage.log.end_offset_for_epoch(4) == (4, 8)
    assert storage.log.end_offset_for_epoch(6) == (6, 8)


def test_tail_memory_is_bounded_over_all_logs(storage: Any, batch: Any) -> None:
    cache = storage.manager._tail_cache
    cache.size_bytes_max = 20_000
    logs = [storage.manager.get_or_create(TopicPartition("t", number), bytes([number]) * 16) for number in range(5)]
    for number in range(300):
        log = logs[number * 7 % 5]
        log.append(batch(log.log_end_offset))
        assert cache.size_bytes <= 20_000
        tail = log.read_tail(log.log_end_offset - 1, size_bytes_max=1, end_offset=log.log_end_offset)
        assert tail is not None
    assert cache.size_bytes == sum(log._tail.size_bytes for log in logs)
    assert len(cache._order) <= 2 * cache.entry_count + 1025


def test_memory_never_skips_what_a_truncation_left_of_an_append(storage: Any, batch: Any) -> None:
    storage.append()
    storage.log.append(batch(2) + batch(4))
    storage.log.truncate_to(4)
    assert storage.log.read_tail(2, size_bytes_max=1, end_offset=4) is None
    storage.append(leader_epoch=1)
    tail = storage.log.read_tail(2, size_bytes_max=1, end_offset=6)
    assert tail is None
    assert storage.log.read(2, size_bytes_max=1, end_offset=6).data == batch(2)
