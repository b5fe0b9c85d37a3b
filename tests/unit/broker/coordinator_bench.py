"""A coordinator's shard at the bench, in virtual time; the tests are in the files beside.

The partition and its log are real, on a simulated disk. This broker is 1, the other replica is 2; what is appended is
committed when a test says so. The coordinator keeps notes: values by name, each of them a record.
"""

from __future__ import annotations

import asyncio
import functools
import random
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, NamedTuple, Self, TypeVar, cast

from logcluster.broker.coordinators.requests import Handler, Request
from logcluster.broker.coordinators.shard import Shard
from logcluster.broker.partition import Partition
from logcluster.core.coordinators.machine import Result
from logcluster.core.metadata.image import PartitionRegistration
from logcluster.core.metadata.topic_config import TopicConfig
from logcluster.core.replication.in_sync import LeaderSettings
from logcluster.core.replication.producer_state import ProducerStates
from logcluster.model.errors import OffsetOutOfRange
from logcluster.model.ids import TopicId, TopicPartition
from logcluster.record.batch import decode_records, iterate_headers, stamp
from logcluster.record.builder import build_batch
from logcluster.runtime.scope import TaskScope
from logcluster.sim.clock import SimulatedClock
from logcluster.sim.disk import SimulatedDisk
from logcluster.sim.event_loop import SimulatedEventLoop
from logcluster.storage.checkpoints import PartitionMetadata
from logcluster.storage.kv_store import MemoryKeyValueStore
from logcluster.storage.log import PartitionLog
from logcluster.storage.log_config import LogConfig
from logcluster.storage.recovery import RecoveryContext
from logcluster.storage.shard_store import ShardStore
from logcluster.storage.tail_cache import TailCache

TOPIC = "__notes"
TOPIC_ID = TopicId(b"n" * 16)
FOR_EVER_MS = 10**9
Pair = tuple[bytes, bytes | None]
Case = TypeVar("Case", bound=Callable[..., Coroutine[Any, Any, None]])
Answer = TypeVar("Answer")


def in_virtual_time(test: Case) -> Case:
    """Run a test on a loop whose clock jumps from timer to timer; one that waits for nothing fails at once."""

    @functools.wraps(test)
    def run(*arguments: Any, **options: Any) -> None:
        with asyncio.Runner(loop_factory=lambda: SimulatedEventLoop(random.Random(1))) as runner:
            runner.run(test(*arguments, **options))

    return cast(Case, run)


# -- a coordinator of notes ----------------------------------------------------------------------------------------


class Note(NamedTuple):
    """A record: the value of one name of a notebook; None removes it."""

    notebook: str
    name: str
    value: str | None


class Notebook:
    """An entity; one with the name `live` needs looking after, `due` is when its time has come."""

    def __init__(self, key: str) -> None:
        self.key = key
        self.values: dict[str, str] = {}
        self.loaded_at_ms: int | None = None
        self.replayed = 0

    @property
    def key_count(self) -> int:
        return len(self.values)

    def replay(self, record: Note) -> None:
        self.replayed += 1
        if record.value is None:
            self.values.pop(record.name, None)
        else:
            self.values[record.name] = record.value

    def on_loaded(self, now_ms: int) -> None:
        self.loaded_at_ms = now_ms

    def next_deadline_ms(self) -> int | None:
        return int(self.values["due"]) if "due" in self.values else None

    def is_at_rest(self) -> bool:
        return "live" not in self.values

    def check(self) -> None:
        """Nothing can be wrong with it."""


class Notebooks:
    """The coordinator; notes what the runtime asks of it by itself."""

    topic = TOPIC

    def __init__(self) -> None:
        self.expired: list[tuple[str, int]] = []
        self.metadata_seen: list[str] = []
        self.is_lazy = False
        """`expire` finds nothing to do, although a deadline has come."""

    def new_entity(self, key: str) -> Notebook:
        return Notebook(key)

    def expire(self, entity: Notebook, now_ms: int, wall_ms: int) -> Result[Note, None]:
        self.expired.append((entity.key, now_ms))
        if self.is_lazy:
            return Result(response=None)
        return Result(records=(Note(entity.key, "due", None),), response=None)

    def on_metadata_changed(self, entity: Notebook, now_ms: int, wall_ms: int) -> Result[Note, None]:
        self.metadata_seen.append(entity.key)
        return Result(response=None)


class NoteCodec:
    """Keys are `notebook/name`."""

    def encode(self, record: Note) -> Pair:
        key = f"{record.notebook}/{record.name}".encode()
        return key, None if record.value is None else record.value.encode()

    def decode(self, key: bytes, value: bytes | None) -> Note | None:
        notebook, name = key.decode().split("/")
        return None if name == "from the future" else Note(notebook, name, None if value is None else value.decode())

    def entity_of(self, key: bytes) -> str:
        return key.decode().split("/")[0]

    def prefix(self, entity: str) -> bytes:
        return f"{entity}/".encode()

    def live_mark(self, entity: str) -> bytes:
        return f"{entity}/live".encode()


def write(notebook: str, **values: str | None) -> Handler:
    """A handler that writes these values; its response is what it saw."""
    return write_all(notebook, values)


def write_all(notebook: str, values: dict[str, str | None]) -> Handler:
    def handle(entity: Notebook, now_ms: int, wall_ms: int) -> Result[Note, dict[str, str]]:
        records = tuple(Note(notebook, name, value) for name, value in values.items())
        return Result(records=records, response=dict(entity.values))

    return handle


def look(entity: Notebook, now_ms: int, wall_ms: int) -> Result[Note, dict[str, str]]:
    """A handler that asks what the notebook says."""
    return Result(response=dict(entity.values))


# -- a partition -----------------------------------------------------------------------------------------------------


class PartitionHost:
    """What a partition needs around it."""

    def __init__(self, clock: SimulatedClock) -> None:
        self.clock = clock

    def mark_dirty(self, partition: Partition) -> None:
        """Nothing is flushed here."""

    def request_isr_change(self, partition: Partition) -> None:
        """The in-sync set is what a test says."""

    def watch_waiters(self, partition: Partition) -> None:
        """A test lets waiters expire."""

    def on_follower_flushed(self, partition: Partition) -> None:
        """Nobody is told."""


class GatedDisk:
    """As a pool of threads: what was begun is carried out whoever is cancelled, and may take until a test says so."""

    def __init__(self) -> None:
        self.is_open = asyncio.Event()
        self.is_open.set()
        self.waiting = 0
        self._scope = TaskScope("disk")

    def hold(self) -> None:
        """Work that is begun from now on takes until `release`."""
        self.is_open.clear()

    def release(self) -> None:
        self.is_open.set()

    async def run(self, work: Callable[[], Answer]) -> Answer:
        if self.is_open.is_set():
            return work()

        async def later() -> Answer:
            self.waiting += 1
            await self.is_open.wait()
            self.waiting -= 1
            return work()

        return cast(Answer, await asyncio.shield(self._scope.spawn(later(), name="work")))

    def close(self) -> None:
        """Nothing to stop."""


def make_partition(clock: SimulatedClock, *, index: int = 0, segment_bytes: int = 1 << 20) -> Partition:
    disk = SimulatedDisk()
    disk.make_dir("/logs")
    log = PartitionLog.open(
        disk,
        "/logs",
        PartitionMetadata(TopicPartition(TOPIC, index), TOPIC_ID),
        context=RecoveryContext(),
        config=LogConfig(segment_bytes=segment_bytes),
        tail_cache=TailCache(),
    )
    config = TopicConfig.from_overrides({"flush.mode": "async"})
    return Partition(log, config, ProducerStates(), PartitionHost(clock))


def registration(leader_id: int, leader_epoch: int, partition_epoch: int, *, in_sync: int = 2) -> PartitionRegistration:
    return PartitionRegistration(
        topic_id=TOPIC_ID,
        partition=0,
        replicas=(1, 2),
        in_sync_replicas=(1, 2)[:in_sync],
        eligible_leader_replicas=(),
        last_known_leaders=(),
        leader_id=leader_id,
        leader_epoch=leader_epoch,
        partition_epoch=partition_epoch,
        is_recovering=False,
    )


LEADER_SETTINGS = LeaderSettings(
    local_broker_id=1,
    local_broker_epoch=11,
    min_in_sync_replicas=2,
    replica_lag_time_ms_max=FOR_EVER_MS,
    active_broker_epochs={1: 11, 2: 12},
)


class Roles:
    """Moves the role and the high watermark of a partition, as its neighbours would."""

    def __init__(self, partition: Partition) -> None:
        self.partition = partition
        self._partition_epoch = 0

    def lead(self, epoch: int, *, in_sync: int = 2) -> None:
        self._partition_epoch += 1
        self.partition.lead(registration(1, epoch, self._partition_epoch, in_sync=in_sync), LEADER_SETTINGS)

    def follow(self, epoch: int) -> None:
        self._partition_epoch += 1
        self.partition.follow(registration(2, epoch, self._partition_epoch))

    def commit(self, offset: int | None = None) -> None:
        """As the leader: the other replica has everything, or everything below `offset`."""
        end = self.partition.log.log_end_offset if offset is None else offset
        self.partition.on_replica_report(
            2, broker_epoch=12, reported_offset=end, log_end_offset=end, log_start_offset=0
        )

    def replicate(self, *pairs: Pair, epoch: int, is_committed: bool = True) -> None:
        """As a follower: the leader sends a batch, and may say that it is committed."""
        batch = build_batch([(5, key, value, []) for key, value in pairs])
        end = self.partition.log.log_end_offset
        self.partition.append_as_follower(stamp(batch, base_offset=end, leader_epoch=epoch))
        if is_committed:
            self.partition.learn_high_watermark(self.partition.log.log_end_offset)


def batches(partition: Partition, start: int | None = None) -> list[list[Pair]]:
    """Keys and values of every batch of the log from its start on, or from `start`."""
    log = partition.log
    offset = log.log_start_offset if start is None else start
    found: list[list[Pair]] = []
    while offset < log.log_end_offset:
        read = log.read(offset, size_bytes_max=1 << 20, end_offset=log.log_end_offset)
        for position, header in iterate_headers(read.data):
            records = decode_records(read.data[position : position + header.size_bytes])
            found.append([(record.key or b"", record.value) for record in records if record.offset >= offset])
        offset = read.next_offset
    return found


# -- a shard ---------------------------------------------------------------------------------------------------------


class Bench:
    """One shard and all around it; use as a block, in which the shard is followed."""

    def __init__(self, *, segment_bytes: int = 1 << 20, rewrite_size_bytes_min: int = 1 << 30) -> None:
        self.clock = SimulatedClock(asyncio.get_running_loop())
        self.coordinator = Notebooks()
        self.codec = NoteCodec()
        self.kv_store = MemoryKeyValueStore()
        self.store = ShardStore(self.kv_store)
        self.disk = GatedDisk()
        self.rewrite_size_bytes_min = rewrite_size_bytes_min
        self.partition = make_partition(self.clock, segment_bytes=segment_bytes)
        self.roles = Roles(self.partition)
        self.lead, self.follow = self.roles.lead, self.roles.follow
        self.commit, self.replicate = self.roles.commit, self.roles.replicate
        self.is_hosted = True
        self.committed: list[tuple[str, tuple[str, ...]]] = []
        self.ended: list[int] = []
        self.deleted: list[int] = []
        self.key_count = 0
        self.key_count_max = FOR_EVER_MS
        self.scope = TaskScope("bench")
        self.writes = asyncio.Lock()
        self.shard = Shard(self.partition, cast(Any, self), writes=self.writes, scope=self.scope)

    async def __aenter__(self) -> Self:
        self.scope.spawn(self.shard.follow(lambda: self.is_hosted), name="shard")
        return self

    async def __aexit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.disk.release()
        await self.scope.__aexit__(error_type, error, traceback)

    def restart(self) -> None:
        """The shard of a new process, over the same log and the same store; `follow` it by entering the block."""
        self.shard = Shard(self.partition, cast(Any, self), writes=self.writes, scope=self.scope)

    async def pass_time(self, delay_ms: int = 1) -> None:
        """Let everything happen that can; a millisecond is enough for all that waits for no timer."""
        await self.clock.sleep_ms(delay_ms)

    async def serve(self, epoch: int = 1) -> None:
        """Lead, with all of the log committed and in the store."""
        self.lead(epoch)
        self.commit()
        await self.pass_time(100)
        assert self.shard.state == "active"

    def ask(self, key: str, handler: Handler, *, is_linearizable: bool = False) -> asyncio.Future[Any]:
        """Submit a request; raises what `Shard.submit` raises."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        deadline_ms = self.clock.monotonic_ms() + 5_000
        self.shard.submit(
            Request(key, handler, deadline_ms=deadline_ms, future=future, is_linearizable=is_linearizable)
        )
        return future

    async def values(self, key: str) -> dict[str, str]:
        """What a notebook says now."""
        asked = self.ask(key, look)
        await self.pass_time()
        return cast(dict[str, str], asked.result())

    def stored(self) -> dict[bytes, bytes]:
        return dict(self.store.read(self.partition.topic_id_partition, b""))

    # What a shard asks of its host.

    def delete_records(self, topic: str, index: int, before_offset: int | None) -> int:
        assert (topic, index) == (TOPIC, 0) and before_offset is not None
        self.partition.require_leader()
        if before_offset > self.partition.high_watermark:
            raise OffsetOutOfRange(offset=before_offset)
        self.deleted.append(before_offset)
        self.partition.log.advance_log_start(before_offset)
        return before_offset

    def on_committed(self, key: str, entity: Any, wake: tuple[str, ...]) -> None:
        self.committed.append((key, wake))

    def on_leadership_ended(self, index: int) -> None:
        self.ended.append(index)

    def count_keys(self, change: int) -> None:
        self.key_count += change

    def has_too_many_keys(self) -> bool:
        return self.key_count > self.key_count_max
