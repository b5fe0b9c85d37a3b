"""One replica, one leader, one controller at the bench, to show that an ablation really takes its safeguard away."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from random import Random

from logcluster.broker.partition import Partition
from logcluster.core.controller.controller import Controller, ControllerConfig
from logcluster.core.controller.requests import (
    AlterPartition,
    AlterPartitionResult,
    AlterPartitions,
    CreateTopics,
    FenceBroker,
    Heartbeat,
    IsrMember,
    NewTopic,
    RegisterBroker,
    RegisterBrokerResult,
    Request,
    Response,
)
from logcluster.core.metadata.image import EMPTY, PartitionRegistration
from logcluster.core.metadata.topic_config import TopicConfig
from logcluster.core.replication.in_sync import LeaderSettings
from logcluster.core.replication.leader import LeaderState
from logcluster.core.replication.producer_state import ProducerStates
from logcluster.model.ids import TopicId, TopicPartition
from logcluster.record.batch import stamp, validate_batch
from logcluster.record.builder import build_batch
from logcluster.runtime.clock import SystemClock
from logcluster.sim import ablations
from logcluster.sim.disk import SimulatedDisk
from logcluster.storage.checkpoints import PartitionMetadata
from logcluster.storage.log import PartitionLog
from logcluster.storage.log_config import LogConfig
from logcluster.storage.recovery import RecoveryContext
from logcluster.storage.tail_cache import TailCache

TOPIC_ID = TopicId(b"t" * 16)
CLUSTER_ID = "cluster"
LAG_MS = 10_000


def proves(name: str, is_kept: Callable[[], bool]) -> None:
    """`is_kept` says whether the safeguard held: with it, not without it, and with it again."""
    assert is_kept(), "the safeguard does not hold in the first place"
    with ablations.apply(name):
        assert not is_kept(), f"{name} takes nothing away"
    assert is_kept(), "the safeguard did not come back"


async def proves_async(name: str, is_kept: Callable[[], Awaitable[bool]]) -> None:
    """As `proves`, for what needs an event loop."""
    assert await is_kept(), "the safeguard does not hold in the first place"
    with ablations.apply(name):
        assert not await is_kept(), f"{name} takes nothing away"
    assert await is_kept(), "the safeguard did not come back"


class FakeHost:
    """What a partition asks of its replica manager; nothing comes of it."""

    def __init__(self) -> None:
        self.clock = SystemClock()

    def mark_dirty(self, partition: Partition) -> None:
        pass

    def request_isr_change(self, partition: Partition) -> None:
        pass

    def watch_waiters(self, partition: Partition) -> None:
        pass

    def on_follower_flushed(self, partition: Partition) -> None:
        pass


def make_log(disk: SimulatedDisk | None = None, *, context: RecoveryContext | None = None) -> PartitionLog:
    disk = disk or SimulatedDisk()
    if not disk.exists("/logs"):
        disk.make_dir("/logs")
        disk.sync_dir("/")
    return PartitionLog.open(
        disk,
        "/logs",
        PartitionMetadata(TopicPartition("orders", 0), TOPIC_ID),
        context=context or RecoveryContext(),
        config=LogConfig(segment_bytes=1 << 20),
        tail_cache=TailCache(),
    )


def make_partition(log: PartitionLog | None = None, **config: str) -> Partition:
    overrides = {key.replace("_", "."): value for key, value in config.items()}
    return Partition(log or make_log(), TopicConfig.from_overrides(overrides), ProducerStates(), FakeHost())


def registration(
    leader_id: int | None = 1,
    *,
    leader_epoch: int = 0,
    in_sync: tuple[int, ...] = (1, 2),
    replicas: tuple[int, ...] = (1, 2),
) -> PartitionRegistration:
    return PartitionRegistration(
        topic_id=TOPIC_ID,
        partition=0,
        replicas=replicas,
        in_sync_replicas=in_sync,
        eligible_leader_replicas=(),
        last_known_leaders=(),
        leader_id=leader_id,
        leader_epoch=leader_epoch,
        partition_epoch=0,
        is_recovering=False,
    )


SETTINGS = LeaderSettings(
    local_broker_id=1,
    local_broker_epoch=11,
    min_in_sync_replicas=2,
    replica_lag_time_ms_max=LAG_MS,
    active_broker_epochs={1: 11, 2: 12, 3: 13},
)


def make_leader(
    *, in_sync: tuple[int, ...] = (1, 2, 3), log_end_offset: int = 0, high_watermark: int = 0
) -> LeaderState:
    return LeaderState(
        registration(in_sync=in_sync, replicas=(1, 2, 3)),
        SETTINGS,
        log_end_offset=log_end_offset,
        reported_offset=log_end_offset,
        high_watermark=high_watermark,
        now_ms=0,
    )


def report(leader: LeaderState | Partition, follower_id: int, offset: int, **fields: int) -> None:
    facts = {"broker_epoch": 10 + follower_id, "log_end_offset": offset, "log_start_offset": 0, **fields}
    leader.on_replica_report(follower_id, reported_offset=offset, **facts)


def make_batch(*values: bytes, producer: tuple[int, int, int] = (-1, -1, -1)) -> bytes:
    return build_batch(
        [(5, None, value, []) for value in values or (b"v",)],
        producer_id=producer[0],
        producer_epoch=producer[1],
        base_sequence=producer[2],
    )


def stamped(offset: int, *, leader_epoch: int = 0, producer: tuple[int, int, int] = (-1, -1, -1)) -> bytes:
    return stamp(make_batch(producer=producer), base_offset=offset, leader_epoch=leader_epoch)


def append(partition: Partition, *values: bytes, producer: tuple[int, int, int] = (-1, -1, -1)) -> int:
    batch = make_batch(*values, producer=producer)
    header = validate_batch(batch, size_bytes_max=1 << 20)
    return partition.append_as_leader(batch, header, acks_all=True).next_offset


def flush(partition: Partition) -> None:
    partition.log.flush()
    partition.on_flushed()


class ControllerBench:
    """A controller whose records are replayed at once, as if committed, with brokers 0 to 2 and topic "t"."""

    def __init__(self) -> None:
        self.index = 0
        config = ControllerConfig(cluster_id=CLUSTER_ID)
        self.controller = Controller(EMPTY, config=config, random=Random(1), now_ms=0)
        for broker_id in range(3):
            self.join(broker_id)
        self.do(CreateTopics(topics=(NewTopic(name="t", assignments=((0, 1, 2),)),)))

    def do(self, request: Request) -> Response:
        result = self.controller.handle(request, now_ms=0, index=self.index + 1)
        if result.records:
            self.index += 1
            self.controller.replay(result.records, index=self.index, term=1)
        return result.response

    def join(self, broker_id: int, *, incarnation: bytes = b"a", directory: bytes = b"") -> None:
        request = RegisterBroker(
            cluster_id=CLUSTER_ID,
            broker_id=broker_id,
            incarnation_id=incarnation,
            directory_id=directory or b"disk%d" % broker_id,
            host="host",
            grpc_port=1,
            lane_port=2,
            http_port=3,
        )
        assert isinstance(self.do(request), RegisterBrokerResult)
        self.do(Heartbeat(broker_id=broker_id, broker_epoch=self.epoch(broker_id), metadata_offset=self.index))

    def epoch(self, broker_id: int) -> int:
        return self.controller.image.brokers[broker_id].broker_epoch

    def stop(self, broker_id: int) -> None:
        """The process is found dead."""
        sessions = self.controller.sessions
        sessions.dropped(broker_id, broker_epoch=self.epoch(broker_id), now_ms=0)
        sessions.gone(broker_id, broker_epoch=self.epoch(broker_id))
        self.do(FenceBroker(broker_id=broker_id, broker_epoch=self.epoch(broker_id), reason="test"))

    @property
    def partition(self) -> PartitionRegistration:
        topic = self.controller.image.topic_by_name("t")
        assert topic is not None
        return topic.partitions[0]

    def alter(
        self,
        members: tuple[int, ...],
        *,
        sender: int,
        built_on: PartitionRegistration,
        epochs: dict[int, int] | None = None,
    ) -> AlterPartitionResult:
        item = AlterPartition(
            topic_id=built_on.topic_id,
            partition=0,
            leader_epoch=built_on.leader_epoch,
            partition_epoch=built_on.partition_epoch,
            new_in_sync_replicas=tuple(
                IsrMember(broker_id=member, broker_epoch=(epochs or {}).get(member, self.epoch(member)))
                for member in members
            ),
        )
        request = AlterPartitions(broker_id=sender, broker_epoch=self.epoch(sender), partitions=(item,))
        response = self.do(request)
        assert isinstance(response, tuple)
        result = response[0]
        assert isinstance(result, AlterPartitionResult)
        return result
