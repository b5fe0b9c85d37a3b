"""Walking over a log on a simulated disk: what processes see, what a power cut leaves, where it ends."""

from __future__ import annotations

import random

from logcluster.model.ids import TopicId, TopicPartition
from logcluster.record.batch import stamp
from logcluster.record.builder import build_batch
from logcluster.sim.disk import SimulatedDisk
from logcluster.sim.invariants.stored_log import StoredLogWalk
from logcluster.storage.checkpoints import PartitionMetadata
from logcluster.storage.log import PartitionLog
from logcluster.storage.log_config import LogConfig
from logcluster.storage.recovery import RecoveryContext
from logcluster.storage.tail_cache import TailCache


def make_log(disk: SimulatedDisk, *, segment_bytes: int = 1 << 20) -> PartitionLog:
    disk.make_dir("/data")
    disk.sync_dir("/")
    return PartitionLog.open(
        disk,
        "/data",
        PartitionMetadata(TopicPartition("orders", 0), TopicId(b"t" * 16)),
        context=RecoveryContext(),
        config=LogConfig(segment_bytes=segment_bytes),
        tail_cache=TailCache(),
    )


def append(log: PartitionLog, count: int) -> None:
    for _ in range(count):
        batch = build_batch([(5, None, b"v" * 50, [])])
        log.append(stamp(batch, base_offset=log.log_end_offset, leader_epoch=0))


def offsets(walk: StoredLogWalk) -> list[int]:
    found = []
    while (header := walk.next()) is not None:
        found.append(header.base_offset)
    return found


def test_a_walk_goes_on_where_it_stopped_and_over_segments() -> None:
    disk = SimulatedDisk()
    log = make_log(disk, segment_bytes=400)
    walk = StoredLogWalk(disk, log.directory, durable=False)
    assert offsets(walk) == []
    append(log, 5)
    assert offsets(walk) == [0, 1, 2, 3, 4]
    append(log, 4)
    assert log.segment_count > 2
    assert offsets(walk) == [5, 6, 7, 8]
    assert walk.next_offset == 9
    assert walk.is_last_sound()
    walk.restart()
    assert offsets(walk) == list(range(9))


def test_only_what_was_synced_survives_a_power_cut() -> None:
    disk = SimulatedDisk()
    log = make_log(disk, segment_bytes=400)
    durable = StoredLogWalk(disk, log.directory, durable=True)
    append(log, 4)
    assert offsets(durable) == []
    log.flush()
    append(log, 3)
    assert offsets(durable) == [0, 1, 2, 3]
    log.flush()
    assert offsets(durable) == [4, 5, 6]
    disk.crash(power_loss=True, rng=random.Random(1))
    durable.restart()
    assert offsets(durable) == list(range(7))


def test_a_damaged_batch_ends_what_is_durable_and_is_told_apart() -> None:
    disk = SimulatedDisk()
    log = make_log(disk)
    append(log, 3)
    log.flush()
    size = log.size_bytes // 3
    disk.flip_bit(f"{log.directory}/{0:020d}.log", 8 * (size + size - 1))
    assert offsets(StoredLogWalk(disk, log.directory, durable=True)) == [0]
    visible = StoredLogWalk(disk, log.directory, durable=False)
    visible.next()
    assert visible.is_last_sound()
    visible.next()
    assert not visible.is_last_sound()


def test_looking_touches_no_fault_and_no_counter() -> None:
    disk = SimulatedDisk()
    log = make_log(disk)
    append(log, 3)
    log.flush()
    before = dict(disk.counters.counts)
    disk.fail_next("read", 5)
    disk.fail_next("open", 5)
    assert offsets(StoredLogWalk(disk, log.directory, durable=False)) == [0, 1, 2]
    assert disk.counters.counts == before
    assert len(disk._faults) == 2


def test_an_empty_first_segment_that_is_replaced_does_not_hold_the_walk() -> None:
    disk = SimulatedDisk()
    log = make_log(disk)
    append(log, 3)
    log.truncate_to(0)
    walk = StoredLogWalk(disk, log.directory, durable=True)
    assert offsets(walk) == []
    log.truncate_fully_and_start_at(7)
    append(log, 2)
    log.flush()
    assert offsets(walk) == [7, 8]
