"""Each safeguard against damage and unasked deletion holds, and is gone when its ablation is applied."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from ablations_support import TOPIC_ID, make_log, make_partition, proves, proves_async, registration, stamped

from logcluster.broker.replica_manager import ReplicaManager, ReplicaSettings
from logcluster.core.metadata.image import EMPTY, MetadataImage
from logcluster.core.metadata.records import MetadataRecord, RegisterBrokerRecord, RemoveTopicRecord, TopicRecord
from logcluster.model.errors import CorruptLog, CorruptMessage
from logcluster.model.ids import TopicId, TopicPartition
from logcluster.runtime.clock import SystemClock
from logcluster.runtime.disk import InlineDisk
from logcluster.sim.disk import SimulatedDisk
from logcluster.storage.log import PartitionLog
from logcluster.storage.log_manager import LogManager
from logcluster.storage.log_retention import count_deletable
from logcluster.storage.recovery import RecoveryContext

ORDERS = TopicPartition("orders", 0)
OTHER_ID = TopicId(b"u" * 16)


def damaged(data: bytes) -> bytes:
    """The last byte, which belongs to a record, is another one."""
    return data[:-1] + bytes([data[-1] ^ 1])


def log_with(disk: SimulatedDisk, count: int) -> tuple[PartitionLog, str]:
    log = make_log(disk)
    for offset in range(count):
        log.append(stamped(offset))
    log.flush()
    (name,) = [name for name in disk.list(log.directory) if name.endswith(".log")]
    return log, f"{log.directory}/{name}"


def test_replica_checksum() -> None:
    def is_kept_by_the_follower() -> bool:
        partition = make_partition()
        partition.follow(registration(2))
        try:
            partition.append_as_follower(damaged(stamped(0)))
        except CorruptMessage:
            return True
        return False

    def is_kept_by_the_reader() -> bool:
        disk = SimulatedDisk()
        log, path = log_with(disk, 1)
        disk.flip_bit(path, 8 * len(stamped(0)) - 8)
        try:
            log.read(0, size_bytes_max=1000, end_offset=1)
        except CorruptLog:
            return True
        return False

    proves("replica-checksum", is_kept_by_the_follower)
    proves("replica-checksum", is_kept_by_the_reader)


def test_recovery_checksum() -> None:
    def is_kept() -> bool:
        disk = SimulatedDisk()
        _, path = log_with(disk, 2)
        disk.flip_bit(path, 8 * 2 * len(stamped(0)) - 8)
        return make_log(disk, context=RecoveryContext(recovery_point=1)).log_end_offset == 1

    proves("recovery-checksum", is_kept)


def test_middle_corruption_quarantine() -> None:
    def is_kept() -> bool:
        disk = SimulatedDisk()
        _, path = log_with(disk, 3)
        disk.flip_bit(path, 8 * len(stamped(0)) - 8)
        try:
            log = make_log(disk, context=RecoveryContext(recovery_point=3))
        except CorruptLog:
            return True
        assert log.log_end_offset == 0
        return False

    proves("middle-corruption-quarantine", is_kept)


def open_manager(disk: SimulatedDisk) -> LogManager:
    return LogManager.open(disk, "/data", cluster_id="c", node_id=1, new_directory_id=lambda: b"d" * 16)


def make_replicas(logs: LogManager) -> ReplicaManager:
    nothing: Any = SimpleNamespace()
    return ReplicaManager(
        ReplicaSettings(broker_id=1, cluster_id="c"),
        log_manager=logs,
        clock=SystemClock(),
        disk=InlineDisk(),
        channels=nothing,
        controller=nothing,
        broker_epoch=lambda: 3,
        on_failure=lambda _: None,
    )


def images(*batches: list[MetadataRecord]) -> list[MetadataImage]:
    found = []
    image = EMPTY
    for offset, records in enumerate(batches, 1):
        image, _ = image.apply(records, offset=offset, term=1)
        found.append(image)
    return found


def registered(broker_id: int, broker_epoch: int) -> MetadataRecord:
    return RegisterBrokerRecord(
        broker_id=broker_id,
        broker_epoch=broker_epoch,
        incarnation_id=b"i" * 16,
        directory_id=b"d" * 16,
        host="h",
        grpc_port=1,
        lane_port=2,
        http_port=3,
        fenced=True,
    )


async def test_topic_id_in_directories() -> None:
    """A topic was deleted and created again while the broker was away."""

    async def is_kept() -> bool:
        logs = open_manager(SimulatedDisk())
        logs.get_or_create(ORDERS, TOPIC_ID).append(stamped(0))
        *_, image = images(
            [TopicRecord(name="orders", topic_id=TOPIC_ID)],
            [RemoveTopicRecord(topic_id=TOPIC_ID), TopicRecord(name="orders", topic_id=OTHER_ID)],
            [registered(1, 3)],
        )
        replicas = make_replicas(logs)
        replicas.on_metadata(image, image.delta_since(EMPTY))
        log = logs.get_or_create(ORDERS, OTHER_ID)
        assert log.topic_id == OTHER_ID
        return log.log_end_offset == 0

    await proves_async("topic-id-in-directories", is_kept)


async def test_deletion_by_tombstone() -> None:
    """The broker learns of the first entries of the metadata before those that name its topic."""

    async def is_kept() -> bool:
        logs = open_manager(SimulatedDisk())
        logs.get_or_create(ORDERS, TOPIC_ID).append(stamped(0))
        early, *_ = images([registered(2, 1)], [TopicRecord(name="orders", topic_id=TOPIC_ID)], [registered(1, 3)])
        replicas = make_replicas(logs)
        replicas.on_metadata(early, early.delta_since(EMPTY))
        return logs.get_or_create(ORDERS, TOPIC_ID).log_end_offset == 1

    await proves_async("deletion-by-tombstone", is_kept)


def test_retention_below_high_watermark() -> None:
    segment = SimpleNamespace(next_offset=10, size_bytes=100, max_timestamp_ms=5)

    def is_kept() -> bool:
        count = count_deletable(
            cast("Any", [segment]),
            now_ms=1000,
            high_watermark=9,
            log_start_offset=0,
            retention_ms=10,
            retention_bytes=None,
        )
        return count == 0

    proves("retention-below-high-watermark", is_kept)
