"""Batches, logs and managers on a simulated disk."""

import random
from collections.abc import Callable
from typing import Any

import pytest

from logcluster.model.ids import TopicId, TopicIdPartition, TopicPartition
from logcluster.record.batch import stamp
from logcluster.record.builder import BatchBuilder
from logcluster.record.compression import Compression
from logcluster.sim.disk import SimulatedDisk
from logcluster.storage.log import PartitionLog
from logcluster.storage.log_config import LogConfig
from logcluster.storage.log_manager import LogManager

PARTITION = TopicPartition("orders", 3)
TOPIC_ID = TopicId(b"t" * 16)
KEY = TopicIdPartition(TOPIC_ID, 3)


class Storage:
    """One node's disk, its log manager and the log of one partition."""

    partition = PARTITION
    topic_id = TOPIC_ID
    key = KEY
    root = "/data"

    def __init__(self) -> None:
        self.disk = SimulatedDisk()
        self.config = LogConfig(segment_bytes=4000, index_interval_bytes=300, preallocate_bytes_min=1024)
        self.manager: LogManager
        self.failures: list[Any] = []
        self.quarantines: list[Any] = []
        self.open()

    @property
    def log(self) -> PartitionLog:
        return self.manager.get_or_create(PARTITION, TOPIC_ID, self.config)

    @property
    def directory(self) -> str:
        return f"{self.root}/orders-3.{TOPIC_ID.hex()}"

    def open(self, **arguments: Any) -> LogManager:
        settings: dict[str, Any] = {"cluster_id": "cluster-a", "node_id": 1, "new_directory_id": lambda: b"d" * 16}
        settings |= {"config_for": lambda _: self.config, **arguments}
        self.manager = LogManager.open(
            self.disk,
            self.root,
            on_directory_failure=self.failures.append,
            on_quarantine=lambda key, error: self.quarantines.append((key, error)),
            **settings,
        )
        return self.manager

    def kill(self) -> None:
        self.disk.crash(power_loss=False, rng=random.Random(1))

    def lose_power(self, seed: int = 1) -> None:
        self.disk.crash(power_loss=True, rng=random.Random(seed))

    def append(
        self, count: int = 1, *, leader_epoch: int = 0, size: int = 300, timestamp_ms: int | None = None
    ) -> None:
        """`count` batches of two records each."""
        for _ in range(count):
            base = self.log.log_end_offset
            self.log.append(
                make_batch(base, leader_epoch=leader_epoch, size=size, timestamp_ms=timestamp_ms), allow_gap=False
            )

    def read_all(self) -> bytes:
        log = self.log
        data, offset = b"", log.log_start_offset
        while offset < log.log_end_offset:
            read = log.read(offset, size_bytes_max=1000, end_offset=log.log_end_offset)
            data, offset = data + read.data, read.next_offset
        return data

    def segments(self) -> list[str]:
        return [name for name in self.disk.list(self.directory) if name.endswith(".log")]

    def flip(self, position: int, *, segment: int = 0) -> None:
        self.disk.flip_bit(f"{self.directory}/{self.segments()[segment]}", position * 8)


def make_batch(
    base_offset: int, *, leader_epoch: int = 0, size: int = 300, timestamp_ms: int | None = None, records: int = 2
) -> bytes:
    builder = BatchBuilder(compression=Compression.NONE, size_bytes_max=1 << 20)
    first_ms = 1_000 + 10 * base_offset if timestamp_ms is None else timestamp_ms
    for number in range(records):
        assert builder.append(first_ms + number, b"key", b"v" * (size // records), [])
    return stamp(builder.build(), base_offset=base_offset, leader_epoch=leader_epoch)


@pytest.fixture
def storage() -> Storage:
    return Storage()


@pytest.fixture
def batch() -> Callable[..., bytes]:
    return make_batch
