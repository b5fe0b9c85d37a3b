"""One kind of coordinator on one broker: which shards it hosts, and which of them a request belongs to.

A metadata publisher: it begins a shard for every hosted partition of the coordinator's topic, and drops the shard's
part of the store when the topic is deleted or the replica moved away. What happens in a shard is in `shard`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Protocol

from logcluster.broker.coordinators.requests import Handler, Request
from logcluster.broker.coordinators.shard import Shard
from logcluster.broker.coordinators.standby import write_alone
from logcluster.broker.partition import Partition
from logcluster.core.coordinators.machine import Coordinator, RecordCodec, Result
from logcluster.core.metadata.image import EMPTY, MetadataDelta, MetadataImage
from logcluster.model.errors import (
    CoordinatorLoadInProgress,
    CoordinatorNotAvailable,
    LogClusterError,
    NotCoordinator,
    RequestTimedOut,
)
from logcluster.model.hashing import partition_of
from logcluster.model.ids import TopicId, TopicIdPartition
from logcluster.model.limits import COORDINATOR_CACHE_KEYS_MAX, MIB
from logcluster.runtime.clock import Clock
from logcluster.runtime.disk import DiskExecutor
from logcluster.runtime.scope import FaultHandler, TaskScope
from logcluster.storage.shard_store import ShardStore

HOSTING_PAUSE_MS: Final = 200
GRACE_MS: Final = 100
"""Added to a request's time, so that the shard's own answer, which knows more, comes first."""


class Replicas(Protocol):
    """What is needed of the replica manager."""

    def partition_by_id(self, topic_id: TopicId, index: int) -> Partition:
        """Raises UnknownTopicId, NotLeaderOrFollower."""
        ...

    def delete_records(self, topic: str, index: int, before_offset: int | None) -> int:
        """Hide everything below an offset."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeSettings:
    """Bounds of the runtime."""

    cache_keys_max: int = COORDINATOR_CACHE_KEYS_MAX
    rewrite_size_bytes_min: int = 4 * MIB
    """A shorter log of a shard is not rewritten."""


class Listener(Protocol):
    """Somebody who tells members what concerns them."""

    def on_committed(self, key: str, entity: Any, wake: tuple[str, ...]) -> None:
        """An entity's change is committed, and these of its members are to be told."""

    def on_leadership_ended(self, index: int) -> None:
        """A shard is led by another broker now, or by none."""


class CoordinatorRuntime:
    """See the top of the file; `start` it once, `close` it once.

    Args:
        store: closed by `close`.
        on_fault: told of a task that failed through a bug or a failed store; the node should stop.
    """

    def __init__(
        self,
        coordinator: Coordinator[Any, Any],
        *,
        codec: RecordCodec[Any],
        store: ShardStore,
        replicas: Replicas,
        broker_id: int,
        clock: Clock,
        disk: DiskExecutor,
        settings: RuntimeSettings | None = None,
        on_fault: FaultHandler | None = None,
    ) -> None:
        self.coordinator = coordinator
        self.codec = codec
        self.store = store
        self.clock = clock
        self.disk = disk
        self.settings = settings or RuntimeSettings()
        self.rewrite_size_bytes_min = self.settings.rewrite_size_bytes_min
        self.listener: Listener | None = None
        self.on_shard_state: Callable[[Shard], None] | None = None
        self.on_records: Callable[[str, Iterable[Any]], None] | None = None
        self._replicas = replicas
        self._broker_id = broker_id
        self._image: MetadataImage = EMPTY
        self._shards: dict[TopicIdPartition, Shard] = {}
        self._tasks: dict[TopicIdPartition, asyncio.Task[None]] = {}
        self._writes = asyncio.Lock()
        self._key_count = 0
        self._is_started = False
        self._partition_counts: dict[TopicId, int] = {}
        self._scope = TaskScope("coordinators", on_fault=on_fault)

    # -- life ----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin with the shards that are hosted, as far as known."""
        self._is_started = True
        self._note_sizes(self._image.delta_since(EMPTY))
        self._follow_hosted()

    async def close(self) -> None:
        """End every shard, and close the store."""
        await self._scope.close()
        self.store.close()

    def on_metadata(self, image: MetadataImage, delta: MetadataDelta) -> None:
        """Take the next committed image: begin and end shards, and let groups look at changed topics."""
        self._image = image
        if not self._is_started:
            return
        own_id = image.topic_ids.get(self.coordinator.topic)
        if delta.removed_topics or any(partition.topic_id == own_id for partition in delta.changed_partitions):
            self._follow_hosted()
        if self._note_sizes(delta) or delta.removed_topics:
            for shard in self._shards.values():
                shard.on_metadata_changed()

    def _note_sizes(self, delta: MetadataDelta) -> bool:
        """Whether a topic is new, or has more partitions; of changed leaders and the like nobody here need hear."""
        has_changed = False
        for topic_id in dict.fromkeys(partition.topic_id for partition in delta.changed_partitions):
            topic = self._image.topics.get(topic_id)
            count = 0 if topic is None else len(topic.partitions)
            if self._partition_counts.get(topic_id) != count:
                self._partition_counts[topic_id] = count
                has_changed = True
        for removed in delta.removed_topics:
            self._partition_counts.pop(removed.topic_id, None)
        return has_changed

    def _follow_hosted(self) -> None:
        """Have a task for every partition of the topic with a replica here, and for no other."""
        topic = self._image.topic_by_name(self.coordinator.topic)
        wanted: dict[TopicIdPartition, None] = {}
        if topic is not None:
            for index, registration in topic.partitions.items():
                if self._broker_id in registration.replicas:
                    wanted[TopicIdPartition(topic.topic_id, index)] = None
        gone = [key for key in self._tasks if key not in wanted]
        for key in gone:
            self._tasks.pop(key).cancel()
        if topic is not None and (gone or not self._tasks):
            self._scope.spawn(self._drop_others(), name="drop")
        for key in wanted:
            if key not in self._tasks:
                self._tasks[key] = self._scope.spawn(self._follow(key), name=f"shard-{key.partition}")

    async def _follow(self, key: TopicIdPartition) -> None:
        """Run the shard of one partition, again whenever the replica is another one."""
        while True:
            partition = self._hosted(key)
            if partition is None:
                await self.clock.sleep_ms(HOSTING_PAUSE_MS)
                continue
            shard = Shard(partition, self, writes=self._writes, scope=self._scope)
            shard.on_state = self.on_shard_state
            shard.on_records = self.on_records
            self._shards[key] = shard
            try:
                await shard.follow(lambda: self._hosted(key) is partition)  # noqa: B023 - not kept
            finally:
                if self._shards.get(key) is shard:
                    del self._shards[key]

    async def _drop_others(self) -> None:
        """Forget what the store has of shards that are not here: it can be read again from their logs."""
        for key in await self.disk.run(self.store.shards):
            await write_alone(self._writes, self.disk, partial(self._drop_unless_hosted, key))

    def _drop_unless_hosted(self, key: TopicIdPartition) -> None:
        # It may have come back since the store was listed. Whoever opens it waits for the lock that is held here.
        if key not in self._tasks:
            self.store.drop(key)

    def _hosted(self, key: TopicIdPartition) -> Partition | None:
        try:
            return self._replicas.partition_by_id(key.topic_id, key.partition)
        except LogClusterError:
            return None

    # -- requests ------------------------------------------------------------------------------------------------

    def shard_index(self, key: str) -> int:
        """Which partition of the topic an entity belongs to.

        Raises:
            CoordinatorNotAvailable: the topic does not exist, as far as known here.
        """
        topic = self._image.topic_by_name(self.coordinator.topic)
        if topic is None:
            raise CoordinatorNotAvailable(f"{self.coordinator.topic} does not exist yet")
        return partition_of(key, len(topic.partitions))

    def shard_of(self, key: str) -> Shard:
        """The shard here that an entity belongs to.

        Raises:
            CoordinatorNotAvailable: there are no shards yet.
            NotCoordinator: it is not here.
        """
        index = self.shard_index(key)
        topic = self._image.topic_by_name(self.coordinator.topic)
        assert topic is not None
        shard = self._shards.get(TopicIdPartition(topic.topic_id, index))
        if shard is None:
            registration = topic.partitions[index]
            raise NotCoordinator(
                "this broker does not coordinate it",
                leader_id=registration.leader_id,
                leader_epoch=registration.leader_epoch,
            )
        return shard

    async def submit(self, key: str, handler: Handler, *, timeout_ms: int, is_linearizable: bool = False) -> object:
        """Let the entity `key` handle a request; returns the handler's response when it is committed.

        Args:
            handler: given the entity and the time (monotonic, wall; milliseconds); returns a `Result`.
            is_linearizable: a question without records that must not be answered by a deposed leader.

        Raises:
            LogClusterError: what the handler raised; NotCoordinator, CoordinatorNotAvailable, Overloaded,
                CoordinatorLoadInProgress, NotEnoughReplicas: nothing was done; RequestTimedOut, Disconnected,
                NotEnoughReplicasAfterAppend: it may have been.
        Cancellation: it may be done all the same.
        """
        shard = self.shard_of(key)
        future: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        request = Request(
            key,
            handler,
            deadline_ms=self.clock.monotonic_ms() + timeout_ms,
            future=future,
            is_linearizable=is_linearizable,
        )
        shard.submit(request)
        try:
            async with asyncio.timeout((timeout_ms + GRACE_MS) / 1000):
                return await future
        except TimeoutError:
            if request.was_appended:
                raise RequestTimedOut("the coordinator's records were not committed in time") from None
            raise CoordinatorLoadInProgress("the coordinator is still loading what was committed last") from None

    def post(self, key: str, handler: Callable[[Any, int, int], Result[Any, Any]]) -> None:
        """As `submit`, but nobody waits, and nothing happens when the entity is not coordinated here."""
        try:
            shard = self.shard_of(key)
        except LogClusterError:
            return
        shard.post(key, handler)

    async def entities(self, shard: Shard) -> list[str]:
        """Every entity of a shard that is served here, by name. Cancellation: atomic.

        Raises:
            StorageFailure: the store cannot be read.
        """
        stored = await self.disk.run(lambda: _stored_entities(self.store, self.codec, shard))
        return sorted({*stored, *shard.held})

    @property
    def shards(self) -> Iterable[Shard]:
        """Every hosted shard."""
        return self._shards.values()

    # -- what shards ask ----------------------------------------------------------------------------------------------

    def delete_records(self, topic: str, index: int, before_offset: int | None) -> int:
        """As `ReplicaManager.delete_records`."""
        return self._replicas.delete_records(topic, index, before_offset)

    def on_committed(self, key: str, entity: Any, wake: tuple[str, ...]) -> None:
        """Tell the listener."""
        if self.listener is not None:
            self.listener.on_committed(key, entity, wake)

    def on_leadership_ended(self, index: int) -> None:
        """Tell the listener."""
        if self.listener is not None:
            self.listener.on_leadership_ended(index)

    def count_keys(self, change: int) -> None:
        """Entities in memory have more (or fewer) keys."""
        self._key_count += change

    def has_too_many_keys(self) -> bool:
        """Should entities at rest be forgotten?"""
        return self._key_count > self.settings.cache_keys_max


def _stored_entities(store: ShardStore, codec: RecordCodec[Any], shard: Shard) -> list[str]:
    key = shard.partition.topic_id_partition
    found: list[str] = []
    start = b""
    while (first := store.first_key(key, start)) is not None:
        entity = codec.entity_of(first)
        found.append(entity)
        start = codec.prefix(entity) + b"\xff" * 8
    return found
