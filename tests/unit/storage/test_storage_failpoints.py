"""The life of a log directory, ended at every failpoint of the disk in turn: what was committed is there afterwards."""

from __future__ import annotations

import errno
import random
from collections.abc import Iterator

import pytest

from logcluster.model.errors import CorruptLog, LogClusterError
from logcluster.model.ids import TopicId, TopicIdPartition, TopicPartition
from logcluster.record.batch import stamp
from logcluster.record.builder import BatchBuilder
from logcluster.record.compression import Compression
from logcluster.runtime.failpoints import FAILPOINTS, CrashNow, install, takes_errors
from logcluster.sim.disk import SimulatedDisk, SimulatedFile
from logcluster.storage.log import PartitionLog
from logcluster.storage.log_config import LogConfig
from logcluster.storage.log_manager import LogManager
from logcluster.storage.tail_cache import TailCache

SITES = [name for name in FAILPOINTS if takes_errors(name)]
CONFIG = LogConfig(segment_bytes=700, index_interval_bytes=200, preallocate_bytes_min=256, preallocate_bytes_max=1024)
TOPIC_ID = TopicId(b"i" * 16)


def batch_at(offset: int, *, text: bytes) -> bytes:
    """One record at `offset`."""
    builder = BatchBuilder(compression=Compression.NONE, size_bytes_max=1 << 20)
    assert builder.append(1000 + offset, None, text * 50, [])
    return stamp(builder.build(), base_offset=offset, leader_epoch=offset // 10)


class Life:
    """A directory with several logs; partition 0 is the one whose records must survive."""

    def __init__(self) -> None:
        self.disk = SimulatedDisk()
        self.written: dict[int, set[bytes]] = {}
        """Partition 0: everything ever appended, by offset."""
        self.committed = 0
        self.log_start_max = 0

    def open(self) -> LogManager:
        return LogManager.open(
            self.disk,
            "/data",
            cluster_id="c",
            node_id=1,
            new_directory_id=lambda: b"d" * 16,
            config_for=lambda _: CONFIG,
            tail_cache=TailCache(size_bytes_max=500),
        )

    def log(self, manager: LogManager, index: int) -> PartitionLog:
        log = manager.get_or_create(TopicPartition("t", index), TOPIC_ID, CONFIG)
        log.on_roll = lambda base_offset: log.write_producer_snapshot(base_offset, b"%d" % base_offset)
        return log

    def append(self, log: PartitionLog, count: int, *, text: bytes = b"x") -> None:
        for _ in range(count):
            offset = log.log_end_offset
            data = batch_at(offset, text=text)
            if log.topic_partition.partition == 0:
                self.written.setdefault(offset, set()).add(data)
            log.append(data)

    def commit(self, manager: LogManager, log: PartitionLog) -> None:
        log.high_watermark = log.flush()
        if log.topic_partition.partition == 0:
            self.committed = log.high_watermark
        manager.checkpoint()

    def run(self) -> None:
        """Everything a directory may go through."""
        manager = self.open()
        first = self.log(manager, 0)
        self.append(first, 12)
        self.commit(manager, first)
        self.append(first, 9)
        first.flush()
        first.truncate_to(self.committed + 1)
        self.append(first, 6, text=b"y")
        self.commit(manager, first)
        self.log_start_max = first.log_end_offset
        first.apply_retention(0, high_watermark=self.committed, retention_ms=None, retention_bytes=1500)
        assert first.log_start_offset
        self.others(manager)
        manager.remove_paths(manager.collect_trash())
        if not manager.close(clean=True, broker_epoch=7):
            raise LogClusterError("the directory has failed")
        manager = self.open()
        first = self.log(manager, 0)
        self.append(first, 18)
        first.flush()
        self.disk.crash(power_loss=False, rng=random.Random(1))
        self.open()
        self.restart_with_a_torn_tail()

    def others(self, manager: LogManager) -> None:
        """One log starts over and is deleted, one is damaged and replaced, one left damaged, one could not be read."""
        for index in (1, 2, 3, 4):
            self.append(self.log(manager, index), 3 if index == 3 else 8)
            self.commit(manager, self.log(manager, index))
        second = self.log(manager, 1)
        second.truncate_to(3)
        second.truncate_fully_and_start_at(50)
        manager.delete(second.topic_id_partition)
        third = self.log(manager, 2)
        self.disk.flip_bit(f"{third.directory}/{0:020d}.log", 8 * 100)
        with pytest.raises(CorruptLog):
            third.read(0, size_bytes_max=100, end_offset=1)
        if manager.failure is not None:
            raise manager.failure
        manager.replace_quarantined(third.topic_id_partition)
        fourth = self.log(manager, 4)
        fourth.fail(CorruptLog("cannot read"))
        look = manager.prepare_second_look(fourth.topic_id_partition)
        log = None if look is None else look.run()
        if look is not None and log is None:
            raise LogClusterError("the log still cannot be read")
        assert look is None or log is None or manager.readmit(look, log)

    def restart_with_a_torn_tail(self) -> None:
        """The power fails before the recovery point moves, and the last segment but one is not whole."""
        directory = f"/data/t-0.{TOPIC_ID.hex()}"
        *_, torn, _ = [name for name in self.disk.list(directory) if name.endswith(".log")]
        assert int(torn.removesuffix(".log")) > self.committed
        size_bytes = len(self.disk.content(f"{directory}/{torn}"))
        self.disk.overwrite(f"{directory}/{torn}", size_bytes - 20, b"\xff" * 20)
        self.disk.flip_bit(f"/data/t-3.{TOPIC_ID.hex()}/{0:020d}.log", 8 * 100)
        self.disk.open(f"{directory}/{torn}").sync()
        self.disk.crash(power_loss=True, rng=random.Random(1))
        self.open()

    def check(self) -> None:
        """Start again, compare, and go on."""
        manager = self.open()
        key = TopicIdPartition(TOPIC_ID, 0)
        assert key not in manager.quarantined
        log = self.log(manager, 0)
        log.check()
        assert log.log_end_offset >= self.committed
        assert log.log_start_offset <= self.log_start_max
        offset = log.log_start_offset
        while offset < log.log_end_offset:
            read = log.read(offset, size_bytes_max=1, end_offset=log.log_end_offset)
            assert read.data in self.written[offset]
            offset = read.next_offset
        self.append(log, 3)
        log.flush()
        end = log.log_end_offset
        assert manager.close(clean=True, broker_epoch=8)
        again = self.open()
        assert self.log(again, 0).log_end_offset == end
        again.close(clean=False)


@pytest.fixture(autouse=True)
def nothing_stays_installed() -> Iterator[None]:
    yield
    install(None)


def hits_of_a_whole_life() -> dict[str, int]:
    hits: dict[str, int] = {}

    def count(name: str) -> None:
        hits[name] = hits.get(name, 0) + 1

    life = Life()
    install(count)
    life.run()
    install(None)
    return hits


HITS = hits_of_a_whole_life()


def test_a_whole_life_reaches_every_failpoint_of_the_disk() -> None:
    assert [name for name in SITES if name not in HITS] == []


def crash_at(life: Life, name: str, at_hit: int, *, power_loss: bool) -> None:
    seen = 0

    def crash(hit: str) -> None:
        nonlocal seen
        seen += hit == name
        if hit == name and seen == at_hit:
            raise CrashNow(name)

    install(crash)
    with pytest.raises(CrashNow):
        life.run()
    install(None)
    life.disk.crash(power_loss=power_loss, rng=random.Random(at_hit))


@pytest.mark.parametrize("power_loss", [False, True], ids=["process", "power"])
@pytest.mark.parametrize("name", SITES)
def test_a_crash_at_a_failpoint_loses_nothing_that_was_committed(name: str, power_loss: bool) -> None:
    for at_hit in sorted({1, max(1, HITS[name] // 2), HITS[name]}):
        life = Life()
        crash_at(life, name, at_hit, power_loss=power_loss)
        life.check()


def test_the_check_notices_a_disk_that_does_not_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SimulatedFile, "sync", lambda _: None)
    life = Life()
    crash_at(life, "storage.log_manager.close.before_checkpoint", 1, power_loss=True)
    with pytest.raises((AssertionError, LogClusterError)):
        life.check()


@pytest.mark.parametrize("name", SITES)
def test_an_error_at_a_failpoint_is_a_failure_of_the_disk_and_nothing_else(name: str) -> None:
    life, is_armed = Life(), True

    def fail(hit: str) -> None:
        nonlocal is_armed
        if hit == name and is_armed:
            is_armed = False
            raise OSError(errno.EIO, "the disk fails here")

    install(fail)
    with pytest.raises(LogClusterError):
        life.run()
    install(None)
    life.disk.crash(power_loss=True, rng=random.Random(1))
    life.check()
