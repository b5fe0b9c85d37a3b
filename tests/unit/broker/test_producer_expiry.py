"""Idle producers are forgotten by the time that passes, whatever the wall clock says meanwhile."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from logcluster.broker.partition import Partition
from logcluster.broker.producer_recovery import load_producers
from logcluster.broker.replica_upkeep import ReplicaUpkeep, UpkeepSettings
from logcluster.core.metadata.image import PartitionRegistration
from logcluster.core.metadata.topic_config import TopicConfig
from logcluster.core.replication.in_sync import LeaderSettings
from logcluster.core.replication.producer_state import ProducerStates
from logcluster.model.ids import TopicId, TopicPartition
from logcluster.record.batch import stamp, validate_batch
from logcluster.record.builder import build_batch
from logcluster.sim.disk import SimulatedDisk
from logcluster.storage.checkpoints import PartitionMetadata
from logcluster.storage.log import PartitionLog
from logcluster.storage.log_config import LogConfig
from logcluster.storage.recovery import RecoveryContext
from logcluster.storage.tail_cache import TailCache

TOPIC_ID = TopicId(b"t" * 16)
YEAR_MS = 365 * 24 * 3_600_000
EXPIRATION_MS = 1_000
PRODUCER_ID = 9


class FakeClock:
    """Two clocks that have nothing to do with one another."""

    def __init__(self) -> None:
        self.wall_ms = 50 * YEAR_MS
        self.up_ms = 5_000_000

    def now_ms(self) -> int:
        return self.wall_ms

    def monotonic_ms(self) -> int:
        return self.up_ms

    async def sleep_ms(self, delay_ms: int) -> None:
        self.up_ms += delay_ms
        self.wall_ms += delay_ms


class Replica:
    """One partition, and the upkeep that looks after it."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        disk = SimulatedDisk()
        disk.make_dir("/logs")
        log = PartitionLog.open(
            disk,
            "/logs",
            PartitionMetadata(TopicPartition("orders", 0), TOPIC_ID),
            context=RecoveryContext(),
            config=LogConfig(segment_bytes=2_000),
            tail_cache=TailCache(),
        )
        host: Any = SimpleNamespace(
            clock=self.clock,
            mark_dirty=lambda partition: None,
            request_isr_change=lambda partition: None,
            watch_waiters=lambda partition: None,
            on_follower_flushed=lambda partition: None,
        )
        self.partition = Partition(log, TopicConfig.from_overrides({}), ProducerStates(), host)
        manager: Any = SimpleNamespace(
            clock=self.clock,
            partitions=[self.partition],
            log_manager=SimpleNamespace(collect_trash=list),
        )
        self._upkeep = ReplicaUpkeep(manager, UpkeepSettings(producer_expiration_ms=EXPIRATION_MS))
        self._next_sequence = 0

    def lead(self) -> None:
        settings = LeaderSettings(
            local_broker_id=1,
            local_broker_epoch=11,
            min_in_sync_replicas=1,
            replica_lag_time_ms_max=10_000,
            active_broker_epochs={1: 11, 2: 12},
        )
        self.partition.lead(registration(1), settings)

    def follow(self) -> None:
        self.partition.follow(registration(2))

    def append(self) -> None:
        batch = build_batch(
            [(5, None, b"v" * 100, [])], producer_id=PRODUCER_ID, producer_epoch=0, base_sequence=self._next_sequence
        )
        self._next_sequence += 1
        if self.partition.leader is not None:
            self.partition.append_as_leader(batch, validate_batch(batch, size_bytes_max=1 << 20), acks_all=False)
        else:
            offset = self.partition.log.log_end_offset
            self.partition.append_as_follower(stamp(batch, base_offset=offset, leader_epoch=0))

    def pass_time(self, ms: int) -> None:
        self.clock.up_ms += ms
        self.clock.wall_ms += ms

    def knows_producer(self) -> bool:
        self._upkeep.apply_retention(self.clock.monotonic_ms())
        return self.partition.producers.get(PRODUCER_ID) is not None


def registration(leader_id: int) -> PartitionRegistration:
    return PartitionRegistration(
        topic_id=TOPIC_ID,
        partition=0,
        replicas=(1, 2),
        in_sync_replicas=(1, 2),
        eligible_leader_replicas=(),
        last_known_leaders=(),
        leader_id=leader_id,
        leader_epoch=0,
        partition_epoch=0,
        is_recovering=False,
    )


@pytest.fixture(params=["leader", "follower"])
async def replica(request: pytest.FixtureRequest) -> Replica:
    replica = Replica()
    if request.param == "leader":
        replica.lead()
    else:
        replica.follow()
    return replica


@pytest.mark.parametrize("jump_ms", [YEAR_MS, -YEAR_MS])
async def test_a_jump_of_the_wall_clock_forgets_nobody(replica: Replica, jump_ms: int) -> None:
    """As when NTP corrects a clock that began in 1970; a retry would be appended twice."""
    replica.append()
    replica.clock.wall_ms += jump_ms
    assert replica.knows_producer()
    replica.pass_time(EXPIRATION_MS)
    assert replica.knows_producer()
    replica.pass_time(1)
    assert not replica.knows_producer(), "and holds up nothing either"


async def test_every_append_begins_the_time_anew(replica: Replica) -> None:
    replica.append()
    for _ in range(5):
        replica.pass_time(EXPIRATION_MS)
        replica.append()
    assert replica.knows_producer()
    replica.pass_time(EXPIRATION_MS + 1)
    assert not replica.knows_producer()


@pytest.mark.parametrize("appends", [3, 40])
async def test_what_is_loaded_counts_from_then(replica: Replica, appends: int) -> None:
    """From batches, and from the snapshot that a full segment leaves."""
    for _ in range(appends):
        replica.append()
    partition = replica.partition
    assert bool(partition.log.producer_snapshot_offsets()) == (appends == 40)
    replica.pass_time(EXPIRATION_MS + 1)
    replica.clock.wall_ms += YEAR_MS
    load_producers(partition.log, partition.producers, now_ms=replica.clock.monotonic_ms())
    assert replica.knows_producer()
    replica.pass_time(EXPIRATION_MS + 1)
    assert not replica.knows_producer()
