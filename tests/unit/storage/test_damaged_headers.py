"""Damage to the header of a stored batch is noticed, or harms nothing: nobody is served it, or waits in vain (P8).

Base offset, length and leader epoch lie outside the checksum, because the leader stamps them.
"""

from __future__ import annotations

import copy
import errno
from collections.abc import Callable
from typing import Any

import pytest

from logcluster.model.errors import CorruptLog, StorageFailure
from logcluster.sim.disk import SimulatedDisk
from logcluster.storage.log import PartitionLog
from logcluster.storage.log_config import LogConfig

HEADER_BYTES = 27
"""Base offset 8, length 4, leader epoch 4, magic 1, checksum 4, attributes 2, last offset delta 4."""
BATCHES = 24
END = 2 * BATCHES
LAST_OF_A_SEGMENT = 9
STARTS = ("killed", "booted", "stopped", "index-lost", "running")


def walk(log: PartitionLog, size_bytes: int, *, start: int = 0, end: int | None = None) -> bytes:
    """What a reader gets from `start` to `end`, or to the end of the log."""
    found, offset, end = b"", start, log.log_end_offset if end is None else end
    while offset < end:
        read = log.read(offset, size_bytes_max=size_bytes, end_offset=end)
        assert read.data, f"stuck at {offset}"
        assert read.next_offset > offset
        found += read.data
        offset = read.next_offset
    assert offset == end
    return found


def walk_below(log: PartitionLog) -> list[bytes]:
    """As `walk`, by one who may not see everything yet."""
    return [
        walk(log, 10_000, start=start, end=end) for end in range(2, log.log_end_offset, 6) for start in (0, end - 2)
    ]


def every_offset(log: PartitionLog) -> list[bytes]:
    return [log.read(offset, size_bytes_max=1, end_offset=log.log_end_offset).data for offset in range(END)]


def headers(log: PartitionLog) -> list[Any]:
    return list(log.headers_from(0))


def times(log: PartitionLog) -> list[Any]:
    return [log.offset_for_timestamp(1_000 + 10 * offset) for offset in range(END)]


def newest(log: PartitionLog) -> list[Any]:
    return [log.newest_timestamp(end_offset=end) for end in range(2, END + 1, 2)]


LOOKS: dict[str, Callable[[PartitionLog], Any]] = {
    "walk-1": lambda log: walk(log, 1),
    "walk-1000": lambda log: walk(log, 1_000),
    "walk-below": walk_below,
    "every-offset": every_offset,
    "headers": headers,
    "times": times,
    "newest": newest,
}


class Damaged:
    """A log of settled batches in several segments and leader epochs, sparsely indexed, whose copies are damaged."""

    def __init__(self, storage: Any, start: str) -> None:
        self.start = start
        self._storage = storage
        storage.config = LogConfig(segment_bytes=4000, index_interval_bytes=1000, tail_cache_bytes_max=1)
        for epoch in (0, 2, 3):
            storage.append(BATCHES // 3, leader_epoch=epoch)
        storage.log.high_watermark = storage.log.flush()
        storage.manager.checkpoint()
        self.batches = list(storage.log.headers_from(0))
        self.places: list[tuple[str, int]] = []
        for header in self.batches:
            segment = [item for item in storage.log._segments if item.base_offset <= header.base_offset][-1]
            position = 0
            if self.places and self.places[-1][0] == segment.path:
                position = self.places[-1][1] + self.batches[len(self.places) - 1].size_bytes
            self.places.append((segment.path, position))
        assert self.places[LAST_OF_A_SEGMENT][0] != self.places[LAST_OF_A_SEGMENT + 1][0]
        self.directory = storage.directory
        self.originals = {name: look(storage.log) for name, look in LOOKS.items()}
        if start in ("stopped", "index-lost"):
            assert storage.manager.close(clean=True, broker_epoch=1)
        elif start == "killed":
            storage.kill()
        elif start == "booted":
            storage.lose_power()
        self._pristine: SimulatedDisk = storage.disk

    def check(self, damage: Callable[[SimulatedDisk], None], looks: list[str]) -> int:
        """Damage copies, look at each in one way; returns how many looks noticed it."""
        noticed = 0
        for name in looks:
            log = self.open(damage)
            if log is None:
                noticed += 1
                continue
            try:
                found = LOOKS[name](log)
            except CorruptLog:
                noticed += 1
                assert list(self._storage.manager.quarantined) == [self._storage.key]
                continue
            assert found == self.originals[name], name
        return noticed

    def open(self, damage: Callable[[SimulatedDisk], None]) -> PartitionLog | None:
        storage = self._storage
        storage.disk = copy.deepcopy(self._pristine)
        if self.start == "running":
            # Opened as sound, and damaged while it is in use.
            storage.kill()
            storage.open()
            damage(storage.disk)
        else:
            damage(storage.disk)
            if self.start == "index-lost":
                for name in storage.disk.list(self.directory):
                    if name.endswith(".index"):
                        storage.disk.remove(f"{self.directory}/{name}")
            storage.open()
        return None if storage.manager.quarantined else storage.log


def flip(place: tuple[str, int], bit: int) -> Callable[[SimulatedDisk], None]:
    path, position = place
    return lambda disk: disk.flip_bit(path, 8 * position + bit)


def misdirect(damaged: Damaged, number: int, target: int) -> Callable[[SimulatedDisk], None]:
    """Write one batch over another."""
    path, position = damaged.places[number]
    target_path, target_position = damaged.places[target]
    size_bytes = damaged.batches[number].size_bytes

    def overwrite(disk: SimulatedDisk) -> None:
        disk.overwrite(target_path, target_position, disk.content(path)[position : position + size_bytes])

    return overwrite


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("number", [4, LAST_OF_A_SEGMENT, BATCHES - 1])
def test_no_flipped_bit_of_a_header_is_served_or_stops_a_reader(storage: Any, start: str, number: int) -> None:
    damaged = Damaged(storage, start)
    for bit in range(8 * HEADER_BYTES):
        assert damaged.check(flip(damaged.places[number], bit), ["walk-1000"]), f"bit {bit}"


@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.parametrize("number", [0, 5])
def test_no_way_of_looking_shows_a_flipped_bit(storage: Any, look: str, number: int) -> None:
    damaged = Damaged(storage, "running")
    for bit in range(number, 8 * HEADER_BYTES, 3):
        damaged.check(flip(damaged.places[number], bit), [look])


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("target", [0, 5, LAST_OF_A_SEGMENT, BATCHES - 1])
def test_a_sound_batch_in_the_wrong_place_is_noticed(storage: Any, start: str, target: int) -> None:
    damaged = Damaged(storage, start)
    for number in {0, 4, 12, BATCHES - 1} - {target}:
        damage = misdirect(damaged, number, target)
        assert damaged.check(damage, ["walk-1", "every-offset", "headers"]) == 3
        damaged.check(damage, ["walk-below", "times", "newest"])


def test_an_old_batch_at_its_own_offset_is_noticed_by_its_leader_epoch(storage: Any, batch: Any) -> None:
    storage.append(4, leader_epoch=1)
    storage.log.flush()
    path = f"{storage.directory}/{storage.segments()[0]}"
    old = storage.disk.content(path)
    storage.log.truncate_to(4)
    storage.config = LogConfig(tail_cache_bytes_max=1)
    storage.append(4, leader_epoch=3)
    storage.log.flush()
    size_bytes = len(batch(4))
    storage.disk.overwrite(path, 2 * size_bytes, old[2 * size_bytes : 3 * size_bytes])
    with pytest.raises(CorruptLog, match="leader epoch"):
        storage.log.read(4, size_bytes_max=1, end_offset=12)


def test_a_batch_that_is_not_wanted_is_not_read(storage: Any) -> None:
    """Damage beyond what a reader may see, or asked for, waits until somebody comes there."""
    damaged = Damaged(storage, "running")
    path, position = damaged.places[5]
    storage.disk.flip_bit(path, 8 * position)
    assert storage.log.read(0, size_bytes_max=10_000, end_offset=10).next_offset == 10
    assert storage.log.read(16, size_bytes_max=1, end_offset=END).data
    with pytest.raises(CorruptLog):
        storage.log.read(10, size_bytes_max=1, end_offset=END)


@pytest.mark.parametrize("number", [1, 6, 10])
@pytest.mark.parametrize("batches_behind", [0, 3])
def test_a_cut_does_not_follow_a_damaged_header(storage: Any, number: int, batches_behind: int) -> None:
    """To cut at the wrong place would lose records that were committed; what is left is looked at as a whole."""
    damaged = Damaged(storage, "running")
    for bit in range(0, 8 * HEADER_BYTES, 5):
        log = damaged.open(flip(damaged.places[number], bit))
        assert log is not None
        before = storage.disk.content(damaged.places[number][0])
        with pytest.raises(CorruptLog):
            log.truncate_to(damaged.batches[number + batches_behind].base_offset + 1)
        assert list(storage.manager.quarantined) == [storage.key]
        assert storage.disk.content(damaged.places[number][0]) == before


def test_a_batch_that_ends_too_early_leaves_nobody_waiting(storage: Any, batch: Any) -> None:
    """A sound batch of the same size and offset with fewer records: of another partition, perhaps."""
    damaged = Damaged(storage, "running")
    header = damaged.batches[LAST_OF_A_SEGMENT]
    other = next(
        data
        for size in range(100, 400)
        for data in [batch(header.base_offset, leader_epoch=header.leader_epoch, size=size, records=1)]
        if len(data) == header.size_bytes
    )
    path, position = damaged.places[LAST_OF_A_SEGMENT]
    storage.disk.overwrite(path, position, other)
    with pytest.raises(CorruptLog, match="missing"):
        storage.log.read(header.last_offset, size_bytes_max=1, end_offset=END)


@pytest.mark.parametrize("look", ["read", "headers"])
def test_where_offsets_may_be_missing_the_index_says_which_are_not(storage: Any, batch: Any, look: str) -> None:
    storage.config = LogConfig(index_interval_bytes=300, tail_cache_bytes_max=1)
    for offset in (0, 10, 20, 30):
        storage.log.append(batch(offset), allow_gap=True)
    storage.log.flush()
    storage.flip(2 * len(batch(0)) + 7)
    with pytest.raises(CorruptLog):
        if look == "read":
            storage.log.read(20, size_bytes_max=1, end_offset=32)
        else:
            list(storage.log.headers_from(20))


def test_gaps_that_belong_to_the_log_are_read(storage: Any, batch: Any) -> None:
    storage.config = LogConfig(segment_bytes=1_500, index_interval_bytes=500, tail_cache_bytes_max=1)
    offsets = [0, 2, 10, 12, 20, 26, 28, 40, 42, 60]
    storage.append()
    storage.log.append(batch(2) + batch(10) + batch(12), allow_gap=True)
    for offset in offsets[4:]:
        storage.log.append(batch(offset), allow_gap=True)

    def look() -> None:
        assert len(storage.segments()) > 2
        assert [header.base_offset for header in storage.log.headers_from(0)] == offsets
        for wanted in range(62):
            expected = next(offset for offset in offsets if offset + 2 > wanted)
            assert storage.log.read(wanted, size_bytes_max=1, end_offset=62).data == batch(expected)
        assert storage.log.offset_for_timestamp(1_000 + 10 * 13) == (20, 1_200)

    look()
    storage.log.high_watermark = storage.log.flush()
    storage.manager.checkpoint()
    storage.kill()
    storage.open()
    look()
    storage.manager.close(clean=True, broker_epoch=1)
    storage.open()
    look()


def test_a_gap_inside_of_one_append_is_known_after_a_restart(storage: Any, batch: Any) -> None:
    storage.append()
    storage.log.append(batch(2) + batch(10), allow_gap=True)
    storage.log.flush()
    storage.kill()
    storage.open()
    assert not storage.manager.quarantined
    assert storage.log.log_end_offset == 12


def test_an_epoch_that_wrote_nothing_and_gave_way_to_an_older_one_is_forgotten_on_disk(storage: Any) -> None:
    """A leader that wrote nothing follows one that goes on with what an older epoch wrote."""
    storage.append(2, leader_epoch=1)
    storage.log.assign_leader_epoch(5)
    storage.manager.close(clean=True, broker_epoch=1)
    storage.open()
    storage.log.leader_epochs.truncate_from_end(4)
    storage.append(2, leader_epoch=1)
    storage.log.high_watermark = storage.log.flush()
    storage.manager.checkpoint()
    storage.manager.close(clean=True, broker_epoch=1)
    storage.open()
    assert storage.log.leader_epochs.entries == ((1, 0),)
    assert len(storage.read_all()) == storage.log.size_bytes


def test_a_lost_disk_during_a_cut_is_a_failure_of_the_disk(storage: Any) -> None:
    storage.append(8)
    storage.disk.fail_next("read", errno.EIO)
    with pytest.raises(StorageFailure):
        storage.log.truncate_to(4)
