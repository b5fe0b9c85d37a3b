"""Damage strikes only what was promised to be noticed there, and can be seen until it is repaired."""

import random
from collections.abc import Callable

import pytest

from logcluster.model.errors import CorruptLog
from logcluster.model.ids import TopicId, TopicPartition
from logcluster.record.batch import stamp
from logcluster.record.builder import BatchBuilder
from logcluster.record.compression import Compression
from logcluster.record.header import check_crc, read_header
from logcluster.sim.disk import SimulatedDisk
from logcluster.sim.faults import damage
from logcluster.sim.faults.atlas import DamagedBytes
from logcluster.sim.faults.damage import NothingToDamage
from logcluster.sim.faults.disk_map import DiskMap
from logcluster.sim.faults.kinds import DERIVED_FILES
from logcluster.storage.log import PartitionLog
from logcluster.storage.log_config import LogConfig
from logcluster.storage.log_manager import LogManager

CONFIG = LogConfig(segment_bytes=3_000, preallocate_bytes_min=1_024)


class Machine:
    """A disk with one log, of which the first twelve batches are below the recovery point and eight are not."""

    def __init__(self) -> None:
        self.disk = SimulatedDisk()
        self.open()
        self.append(12)
        self.log.flush()
        self.log.high_watermark = self.log.log_end_offset
        self.manager.checkpoint()
        self.append(8)
        self.log.flush()

    def open(self) -> LogManager:
        self.manager = LogManager.open(
            self.disk,
            "/a/data",
            cluster_id="c",
            node_id=1,
            new_directory_id=lambda: b"d" * 16,
            config_for=lambda _: CONFIG,
        )
        return self.manager

    @property
    def log(self) -> PartitionLog:
        return self.manager.get_or_create(TopicPartition("t", 0), TopicId(b"t" * 16), CONFIG)

    def append(self, count: int) -> None:
        for _ in range(count):
            offset = self.log.log_end_offset
            builder = BatchBuilder(compression=Compression.NONE, size_bytes_max=1 << 20)
            assert builder.append(1_000 + offset, b"key", random.Random(offset).randbytes(300), [])
            self.log.append(stamp(builder.build(), base_offset=offset, leader_epoch=0), allow_gap=False)

    def crash(self) -> None:
        self.disk.crash(power_loss=False, rng=random.Random(1))

    def is_quarantined_after_a_crash(self) -> bool:
        self.crash()
        return bool(self.open().quarantined)


@pytest.fixture
def machine() -> Machine:
    return Machine()


DAMAGES: dict[str, Callable[[SimulatedDisk, random.Random], tuple[DamagedBytes, ...]]] = {
    "flip": lambda disk, rng: damage.flip_bits(disk, rng, count=2, part="checked"),
    "flip-any": lambda disk, rng: damage.flip_bits(disk, rng, count=2, part="any"),
    "truncate": lambda disk, rng: damage.truncate(disk, rng, between=False),
    "truncate-between": lambda disk, rng: damage.truncate(disk, rng, between=True),
    "random": lambda disk, rng: damage.overwrite(disk, rng, size_bytes=100, content="random"),
    "zeros": lambda disk, rng: damage.overwrite(disk, rng, size_bytes=100, content="zeros"),
    "elsewhere": lambda disk, rng: damage.overwrite(disk, rng, size_bytes=4_096, content="elsewhere"),
}


def test_the_map_offers_exactly_what_lies_below_the_recovery_point(machine: Machine) -> None:
    disk_map = DiskMap(machine.disk)
    assert disk_map.log_directory() == "/a/data"
    assert len(disk_map.segment_paths()) > 2
    batches = disk_map.settled_batches()
    assert [batch.base_offset for batch in batches] == list(range(12))
    for batch in batches:
        data = machine.disk.content(batch.path)[batch.position : batch.end_position]
        assert check_crc(data, 0, read_header(data))


def test_an_empty_disk_has_nothing_to_damage() -> None:
    disk = SimulatedDisk()
    assert DiskMap(disk).log_directory() is None
    assert DiskMap(disk).settled_batches() == []
    for do in DAMAGES.values():
        with pytest.raises(NothingToDamage):
            do(disk, random.Random(1))


def test_without_a_checkpoint_nothing_is_settled(machine: Machine) -> None:
    machine.disk.flip_bit("/a/data/checkpoint.json", 300)
    assert DiskMap(machine.disk).settled_batches() == []


def test_looking_at_a_disk_meets_no_failure_and_counts_no_operation(machine: Machine) -> None:
    machine.disk.fail_next("read", 5, count=1_000)
    machine.disk.fail_next("open", 5, count=1_000)
    counts = dict(machine.disk.counters.counts)
    assert DiskMap(machine.disk).settled_batches()
    assert machine.disk.counters.counts == counts
    machine.disk.forget_failures()
    assert machine.disk.open("/a/data/checkpoint.json").size() > 0


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_stands_below_the_recovery_point_and_can_be_seen(machine: Machine, name: str) -> None:
    settled = {
        (batch.path, position)
        for batch in DiskMap(machine.disk).settled_batches()
        for position in range(batch.position, batch.end_position)
    }
    evidence = DAMAGES[name](machine.disk, random.Random(3))
    assert evidence
    for item in evidence:
        for position in range(item.position, item.position + max(1, len(item.found))):
            assert (item.path, position) in settled
    assert damage.is_still_there(machine.disk, evidence)


@pytest.mark.parametrize("name", DAMAGES)
@pytest.mark.parametrize("seed", range(8))
def test_damage_is_noticed_when_it_is_read_or_scanned(name: str, seed: int) -> None:
    machine = Machine()
    DAMAGES[name](machine.disk, random.Random(seed))
    machine.crash()
    machine.open()
    if machine.manager.quarantined:
        return
    offset = 0
    with pytest.raises(CorruptLog):
        for _ in range(12):
            offset = machine.log.read(offset, size_bytes_max=300, end_offset=20).next_offset


def test_damage_is_gone_with_the_log_that_was_set_aside(machine: Machine) -> None:
    evidence = damage.truncate(machine.disk, random.Random(1), between=True)
    assert machine.is_quarantined_after_a_crash()
    assert damage.is_still_there(machine.disk, evidence)
    machine.manager.replace_quarantined(next(iter(machine.manager.quarantined)))
    assert not damage.is_still_there(machine.disk, evidence)
    machine.append(20)
    assert not damage.is_still_there(machine.disk, evidence)


def test_a_block_is_stale_only_once_it_has_changed_and_is_settled(machine: Machine) -> None:
    block = damage.remember_block(machine.disk, random.Random(2), size_bytes=512)
    with pytest.raises(NothingToDamage):
        damage.put_back(machine.disk, block)


def test_a_stale_block_loses_what_was_settled_since() -> None:
    done = 0
    for seed in range(20):
        machine = Machine()
        block = damage.remember_block(machine.disk, random.Random(seed), size_bytes=512)
        machine.append(6)
        machine.log.flush()
        machine.log.high_watermark = machine.log.log_end_offset
        with pytest.raises(NothingToDamage):
            damage.put_back(machine.disk, block)
        machine.manager.checkpoint()
        before = DiskMap(machine.disk).settled_batches()
        try:
            evidence = damage.put_back(machine.disk, block)
        except NothingToDamage:
            continue  # The segment was full by then.
        done += 1
        assert damage.is_still_there(machine.disk, evidence)
        assert len(DiskMap(machine.disk).settled_batches()) <= len(before)
    assert done > 0


@pytest.mark.parametrize("which", [name for name in DERIVED_FILES if name != "snapshot"])
@pytest.mark.parametrize("how", ["flip", "cut", "remove"])
def test_derived_files_are_damaged_and_rebuilt(machine: Machine, which: str, how: str) -> None:
    evidence = damage.damage_derived(machine.disk, random.Random(4), which=which, how=how)
    assert damage.is_still_there(machine.disk, evidence)
    machine.crash()
    machine.open()
    assert not machine.manager.quarantined
    assert machine.log.log_end_offset == 20


def test_a_derived_file_that_is_not_there_cannot_be_damaged(machine: Machine) -> None:
    with pytest.raises(NothingToDamage):
        damage.damage_derived(machine.disk, random.Random(1), which="snapshot", how="flip")


def test_a_removed_file_is_repaired_when_it_is_there_again(machine: Machine) -> None:
    evidence = damage.damage_derived(machine.disk, random.Random(1), which="checkpoint", how="remove")
    assert damage.is_still_there(machine.disk, evidence)
    machine.manager.checkpoint()
    assert not damage.is_still_there(machine.disk, evidence)
