"""Every partition replica this broker hosts: roles from committed metadata, streams to leaders, upkeep, the end.

Invariants: no role is taken before this process's own registration is in the metadata (an older image may still name a
former life of this broker as leader, and it must not write again under that epoch); a role changes only for a newer
leader or partition epoch; data is deleted only for a committed deletion, never because metadata lacks it; a replica
with a damaged log serves nothing and says so, until it may begin a new one (P8).

Neighbours: `metadata_loader` publishes to it, `partition` holds each replica, `replica_stream` follows leaders,
`isr_updates` talks to the controller, `failed_replicas` knows the damaged ones, `replica_upkeep` does what time asks
for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import grpc

from logcluster.broker.failed_replicas import FailedReplicas
from logcluster.broker.flusher import Flusher
from logcluster.broker.isr_updates import IsrController, IsrUpdates
from logcluster.broker.partition import Partition
from logcluster.broker.producer_recovery import load_producers
from logcluster.broker.replica_feed import ReplicaFeed
from logcluster.broker.replica_stream import ReplicaStream
from logcluster.broker.replica_upkeep import ReplicaUpkeep, UpkeepSettings
from logcluster.broker.role_events import RoleEvents, tell_directory_failed
from logcluster.broker.second_looks import SecondLooks
from logcluster.core.metadata.image import EMPTY, MetadataDelta, MetadataImage, PartitionRegistration, TopicImage
from logcluster.core.metadata.topic_config import TopicConfig
from logcluster.core.replication.in_sync import LeaderSettings
from logcluster.core.replication.producer_state import ProducerStates
from logcluster.model.errors import (
    CorruptLog,
    Disconnected,
    LogClusterError,
    NotLeaderOrFollower,
    OffsetOutOfRange,
    StorageFailure,
    UnknownTopicId,
    UnknownTopicOrPartition,
)
from logcluster.model.ids import Endpoint, TopicId, TopicIdPartition, TopicPartition
from logcluster.model.limits import LOG_TAIL_CACHE_SIZE_BYTES_MAX
from logcluster.model.probes import probe
from logcluster.runtime.clock import Clock
from logcluster.runtime.disk import DiskExecutor
from logcluster.runtime.event_log import get_logger
from logcluster.runtime.failpoints import failpoint
from logcluster.runtime.scope import FaultHandler, TaskScope
from logcluster.storage.log import PartitionLog
from logcluster.storage.log_config import LogConfig
from logcluster.storage.log_manager import LogManager

log = get_logger("replicas")


class Channels(Protocol):
    """Where channels to peers come from."""

    def channel(self, endpoint: Endpoint) -> grpc.aio.Channel:
        """The channel to an endpoint; cheap, connects on use."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaSettings:
    """Settings of the replica manager; times in milliseconds."""

    broker_id: int
    cluster_id: str
    replica_lag_time_ms_max: int = 10_000
    flush_workers_max: int = 4
    segment_bytes_max: int = 2**31 - 1
    tail_cache_bytes_max: int = LOG_TAIL_CACHE_SIZE_BYTES_MAX
    upkeep: UpkeepSettings = field(default_factory=UpkeepSettings)


class ReplicaManager:
    """A metadata publisher that hosts partitions; `start` it once, `close` it once.

    Args:
        log_manager: the open log directory. Its callbacks belong to `on_directory_failure` and `on_quarantine` here.
        broker_epoch: this process's registration, None before it has one.
        on_failure: told when the log directory has stopped (the broker leads and follows nothing any more).
        on_failed_replicas: told when `failed_replicas` changed; the controller should hear of it soon.
        on_fault: told of a task that failed through a bug; the node should stop.
    """

    def __init__(
        self,
        settings: ReplicaSettings,
        *,
        log_manager: LogManager,
        clock: Clock,
        disk: DiskExecutor,
        channels: Channels,
        controller: IsrController,
        broker_epoch: Callable[[], int | None],
        on_failure: Callable[[LogClusterError], None],
        on_failed_replicas: Callable[[], None] = lambda: None,
        on_fault: FaultHandler | None = None,
    ) -> None:
        self.settings = settings
        self.log_manager = log_manager
        self.clock = clock
        self.disk = disk
        self.image: MetadataImage = EMPTY
        self.failure: LogClusterError | None = None
        self._channels = channels
        self._broker_epoch = broker_epoch
        self._on_failure = on_failure
        self._is_live = False
        self._active_broker_epochs: dict[int, int] = {}
        self._by_topic: dict[str, dict[int, Partition]] = {}
        self._by_id: dict[TopicIdPartition, Partition] = {}
        self._streams: dict[int, ReplicaStream] = {}
        self._failed = FailedReplicas(broker_id=settings.broker_id, on_change=on_failed_replicas)
        self._loaded_producers: dict[TopicIdPartition, ProducerStates] = {}
        self._call_soon_threadsafe: Callable[..., object] | None = None
        self._scope = TaskScope("replicas", on_fault=on_fault)
        self._told = RoleEvents(clock)
        self.flusher = Flusher(disk, on_failure=self._stop_directory, workers_max=settings.flush_workers_max)
        self._isr_updates = IsrUpdates(controller, broker_id=settings.broker_id, broker_epoch=broker_epoch, clock=clock)
        self._upkeep = ReplicaUpkeep(self, settings.upkeep)

    # -- what streams, feeds and services ask --------------------------------------------------------------------

    @property
    def broker_id(self) -> int:
        return self.settings.broker_id

    @property
    def broker_epoch(self) -> int | None:
        return self._broker_epoch()

    @property
    def cluster_id(self) -> str:
        return self.settings.cluster_id

    @property
    def partitions(self) -> Iterable[Partition]:
        """Every hosted replica."""
        return self._by_id.values()

    @property
    def failed_replicas(self) -> Mapping[TopicIdPartition, int]:
        """Replicas with a damaged log, each with the leader epoch to tell the controller."""
        return self._failed.reports

    def known_broker_epoch(self, broker_id: int) -> int | None:
        """Epoch of the broker's registration in the metadata applied here."""
        registration = self.image.brokers.get(broker_id)
        return None if registration is None else registration.broker_epoch

    def has_no_leader(self, key: TopicIdPartition) -> bool:
        """Is this a partition that nobody leads, as far as known here?"""
        registration = self.image.partition(key.topic_id, key.partition)
        return registration is not None and registration.leader_id is None

    def partition(self, topic: str, index: int) -> Partition:
        """The hosted replica, in whatever role.

        Raises:
            UnknownTopicOrPartition: there is no such partition, as far as known here.
            NotLeaderOrFollower: it is elsewhere; facts name the leader.
        """
        partitions = self._by_topic.get(topic)
        partition = None if partitions is None else partitions.get(index)
        if partition is not None:
            return partition
        image = self.image.topic_by_name(topic)
        registration = None if image is None else image.partitions.get(index)
        if registration is None:
            raise UnknownTopicOrPartition(topic=topic, partition=index)
        raise NotLeaderOrFollower(
            topic=topic, partition=index, leader_id=registration.leader_id, leader_epoch=registration.leader_epoch
        )

    def partition_by_id(self, topic_id: TopicId, index: int) -> Partition:
        """As `partition`, by topic id.

        Raises:
            UnknownTopicId, NotLeaderOrFollower: it is not hosted here.
        """
        partition = self._by_id.get(TopicIdPartition(topic_id, index))
        if partition is None:
            if topic_id not in self.image.topics:
                raise UnknownTopicId(topic_id=topic_id.hex())
            raise NotLeaderOrFollower(topic_id=topic_id.hex(), partition=index)
        return partition

    def open_feed(self, *, follower_id: int, follower_broker_epoch: int) -> ReplicaFeed:
        """What the leader side of one replica stream needs."""
        return ReplicaFeed(
            follower_id=follower_id,
            follower_broker_epoch=follower_broker_epoch,
            broker_epoch=self.broker_epoch or 0,
            find_partition=self.partition_by_id,
            clock=self.clock,
            disk=self.disk,
        )

    # -- what partitions ask (PartitionHost) ---------------------------------------------------------------------

    def mark_dirty(self, partition: Partition) -> None:
        self._upkeep.note_activity()
        self.flusher.mark_dirty(partition)

    def request_isr_change(self, partition: Partition) -> None:
        self._isr_updates.request(partition)

    def watch_waiters(self, partition: Partition) -> None:
        self._upkeep.watch_waiters(partition)

    def on_follower_flushed(self, partition: Partition) -> None:
        follower = partition.follower
        stream = None if follower is None else self._streams.get(follower.leader_id)
        if stream is not None:
            stream.on_flushed(partition)

    # -- life ----------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Read the producer state of every log that is there, then begin to work. Call it before the first metadata.

        Raises:
            StorageFailure: the disk failed.
        """
        self._call_soon_threadsafe = asyncio.get_running_loop().call_soon_threadsafe
        for stored in list(self.log_manager.logs()):
            producers = ProducerStates()
            now_ms = self.clock.monotonic_ms()
            try:
                await self.disk.run(_loader(stored, producers, now_ms))
            except CorruptLog as error:
                log.error("log_damaged", partition=str(stored.topic_partition), error=error.message)
                continue
            self._loaded_producers[stored.topic_id_partition] = producers
        self.flusher.start(self._scope)
        self._scope.spawn(self._isr_updates.run(), name="isr-updates")
        self._scope.spawn(self._upkeep.run(), name="upkeep")
        self._scope.spawn(SecondLooks(self).run(), name="second-looks")

    async def close(self, *, clean: bool) -> bool:
        """End every role, stream and log; returns whether the shutdown was clean (synced and marked).

        With `clean`, producers are snapshotted and the clean-shutdown marker carries this registration's epoch.
        """
        for partition in list(self._by_id.values()):
            partition.stand_by(partition.leader_id)
        await self.flusher.stop()
        await self._scope.close()
        is_clean = clean and self.failure is None and self.broker_epoch is not None
        partitions = list(self._by_id.values())
        self._by_id.clear()
        self._by_topic.clear()

        def close_all() -> bool:
            try:
                failpoint("broker.close.before_logs")
                for partition in partitions:
                    partition.close(clean=is_clean)
            except StorageFailure:
                return self.log_manager.close(clean=False)
            failpoint("broker.close.before_directory")
            return self.log_manager.close(clean=is_clean, broker_epoch=self.broker_epoch)

        return await self.disk.run(close_all)

    # -- metadata ------------------------------------------------------------------------------------------------

    def on_metadata(self, image: MetadataImage, delta: MetadataDelta) -> None:
        """Take the next committed image: delete, create, lead, follow."""
        before, self.image = self.image, image
        self._active_broker_epochs.clear()
        for broker in image.brokers.values():
            if broker.is_active:
                self._active_broker_epochs[broker.broker_id] = broker.broker_epoch
        if self.failure is not None:
            return
        if not self._is_live:
            own_epoch = self.broker_epoch
            if own_epoch is None or self.known_broker_epoch(self.broker_id) != own_epoch:
                return
            self._is_live = True
            delta = image.delta_since(EMPTY)
            self._delete_logs_of_removed_topics(image)
        for topic in delta.removed_topics:
            self._delete_topic(topic)
        for topic_id in delta.config_changed_topic_ids:
            self._apply_config(image.topics.get(topic_id))
        with self._told.batch(before, image, len(delta.changed_partitions)):
            for registration in delta.changed_partitions:
                self._apply_guarded(registration)
        for broker_id in delta.changed_broker_ids:
            stream = self._streams.get(broker_id)
            if stream is not None:
                stream.on_leader_registration(self.known_broker_epoch(broker_id))
        if delta.changed_broker_ids:
            self._look_for_newcomers()

    def _apply_guarded(self, registration: PartitionRegistration) -> None:
        """One partition that cannot take its role does not keep the others from theirs."""
        try:
            self._apply(registration)
        except CorruptLog as error:
            self._told.not_taken(registration, error)
            self._failed.note(registration)
        except StorageFailure as error:
            self._told.not_taken(registration, error)

    def _apply(self, registration: PartitionRegistration) -> None:
        topic = self.image.topics.get(registration.topic_id)
        if topic is None:
            return  # deleted by the same batch
        key = TopicIdPartition(registration.topic_id, registration.partition)
        partition = self._by_id.get(key)
        if self.broker_id not in registration.replicas:
            self._failed.forget(key)
            if partition is not None:
                self._unfollow(partition)
                partition.stand_by(registration.leader_id, registration.leader_epoch)
                self._unhost(partition)
            return
        failure = None if partition is None else partition.log.failure
        if isinstance(failure, CorruptLog):
            # A reader's thread has just found it: `on_quarantine` is on its way.
            self._step_aside(key, failure)
            partition = None
        if partition is None or failure is not None:
            partition = self._host(topic, registration, key)
        known_epoch = partition.leader_epoch
        if known_epoch is not None and registration.leader_epoch < known_epoch:
            probe("broker.metadata.older_leader_epoch_ignored")
            return
        if registration.leader_id == self.broker_id:
            self._lead(partition, registration)
        elif registration.leader_id is None:
            self._unfollow(partition)
            partition.stand_by(None, registration.leader_epoch)
            self._told.without_leader(partition, registration.leader_epoch)
        else:
            self._follow(partition, registration)

    def _lead(self, partition: Partition, registration: PartitionRegistration) -> None:
        leading = partition.leader
        is_new = leading is None or leading.leader_epoch != registration.leader_epoch
        in_sync_before = () if leading is None else leading.in_sync_replicas
        if is_new and partition.log.leader_epochs.latest == registration.leader_epoch:
            probe("replication.leader.refused_to_lead_twice")
            # An earlier life of this broker, or another broker, has written in this epoch: (offset, epoch) would become
            # ambiguous. The controller must give a new one.
            epoch = registration.leader_epoch
            log.error("leading_twice_refused", partition=str(partition.topic_partition), leader_epoch=epoch)
            self._unfollow(partition)
            partition.stand_by(None, registration.leader_epoch)
            return
        self._unfollow(partition)
        partition.lead(
            registration,
            LeaderSettings(
                local_broker_id=self.broker_id,
                local_broker_epoch=self.broker_epoch or 0,
                min_in_sync_replicas=partition.config.min_insync_replicas,
                replica_lag_time_ms_max=self.settings.replica_lag_time_ms_max,
                active_broker_epochs=self._active_broker_epochs,
            ),
        )
        if is_new:
            self._told.led(partition)
        else:
            self._told.led_on(partition, in_sync_before)
        self._isr_updates.request(partition)

    def _follow(self, partition: Partition, registration: PartitionRegistration) -> None:
        previous = partition.follower
        if not partition.follow(registration):
            return
        self._told.followed(partition)
        if previous is not None and previous.leader_id != registration.leader_id:
            stream = self._streams.get(previous.leader_id)
            if stream is not None:
                stream.unfollow(partition)
        assert registration.leader_id is not None
        self._stream(registration.leader_id).follow(partition)

    def _unfollow(self, partition: Partition) -> None:
        follower = partition.follower
        stream = None if follower is None else self._streams.get(follower.leader_id)
        if stream is not None:
            stream.unfollow(partition)

    def _stream(self, leader_id: int) -> ReplicaStream:
        stream = self._streams.get(leader_id)
        if stream is None:
            stream = ReplicaStream(
                leader_id, identity=self, open_channel=self._open_channel, clock=self.clock, scope=self._scope
            )
            self._streams[leader_id] = stream
            self._scope.spawn(stream.run(), name=f"replica-stream-{leader_id}")
        return stream

    def _open_channel(self, broker_id: int) -> grpc.aio.Channel | None:
        registration = self.image.brokers.get(broker_id)
        if registration is None:
            return None
        return self._channels.channel(Endpoint(registration.host, registration.lane_port))

    def _look_for_newcomers(self) -> None:
        """A broker became active or not: replicas may join that could not, and others are waited for no longer."""
        now_ms = self.clock.monotonic_ms()
        for partition in self._by_id.values():
            leader = partition.leader
            if leader is not None and leader.has_outsiders:
                partition.recheck(now_ms)
                self._isr_updates.request(partition)

    # -- hosting -------------------------------------------------------------------------------------------------

    def _host(self, topic: TopicImage, registration: PartitionRegistration, key: TopicIdPartition) -> Partition:
        """Open or create the log and build the replica around it.

        Raises:
            CorruptLog: the log is damaged, and cannot be replaced yet: see `FailedReplicas.may_begin_anew`.
            StorageFailure: the log directory has stopped.
        """
        stale = self._by_id.get(key)
        if stale is not None:
            self._unfollow(stale)
            self._unhost(stale)
        if key in self.log_manager.quarantined and self._failed.may_begin_anew(registration):
            probe("replication.damaged_log.refetched")
            failpoint("replication.damaged_log.before_replace")
            name = f"{topic.name}-{registration.partition}"
            log.warning("damaged_log_refetched", partition=name, leader_id=registration.leader_id)
            self.log_manager.replace_quarantined(key)
            self._failed.forget(key)
        config = TopicConfig.from_overrides(topic.config)
        stored = self.log_manager.get_or_create(
            TopicPartition(topic.name, registration.partition), registration.topic_id, log_config(config, self.settings)
        )
        producers = self._loaded_producers.pop(key, None)
        if producers is None:
            producers = ProducerStates()
            load_producers(stored, producers, now_ms=self.clock.monotonic_ms())
        failpoint("broker.partition.before_host")
        partition = Partition(stored, config, producers, self)
        self._by_id[key] = partition
        self._by_topic.setdefault(topic.name, {})[registration.partition] = partition
        return partition

    def _unhost(self, partition: Partition) -> None:
        self._by_id.pop(partition.topic_id_partition, None)
        self.flusher.forget(partition)
        by_index = self._by_topic.get(partition.topic)
        if by_index is not None and by_index.get(partition.index) is partition:
            del by_index[partition.index]
            if not by_index:
                del self._by_topic[partition.topic]

    def _delete_topic(self, topic: TopicImage) -> None:
        """A committed deletion; the only thing that deletes data."""
        for index in topic.partitions:
            self._delete_log(TopicIdPartition(topic.topic_id, index))

    def _delete_logs_of_removed_topics(self, image: MetadataImage) -> None:
        """Deletions this broker slept through. Logs the metadata does not know are kept."""
        for stored in list(self.log_manager.logs()):
            if stored.topic_id in image.deleted_topic_ids:
                self._delete_log(stored.topic_id_partition)
        for stray in self.log_manager.strays(lambda key: key.topic_id in image.topics):
            probe("storage.stray.kept")
            log.warning("stray_log_kept", partition=str(stray.topic_partition), path=str(stray.directory))

    def _delete_log(self, key: TopicIdPartition) -> None:
        partition = self._by_id.get(key)
        if partition is not None:
            self._unfollow(partition)
            partition.fail(UnknownTopicOrPartition(topic=partition.topic, partition=partition.index))
            self._unhost(partition)
        self._loaded_producers.pop(key, None)
        self._failed.forget(key)
        failpoint("broker.topic.before_delete_log")
        try:
            self.log_manager.delete(key)
        except StorageFailure as error:
            log.error("log_not_deleted", partition=str(key), error=error.message)

    def _apply_config(self, topic: TopicImage | None) -> None:
        if topic is None:
            return
        config = TopicConfig.from_overrides(topic.config)
        for index in topic.partitions:
            partition = self._by_id.get(TopicIdPartition(topic.topic_id, index))
            if partition is not None:
                partition.log.config = log_config(config, self.settings)
                partition.set_config(config)

    # -- failures ------------------------------------------------------------------------------------------------

    def on_directory_failure(self, error: StorageFailure) -> None:
        """The log directory has stopped. Callable from any thread."""
        if self._call_soon_threadsafe is not None:
            self._call_soon_threadsafe(self._stop_directory, error)

    def on_quarantine(self, key: TopicIdPartition, error: CorruptLog) -> None:
        """A log was found damaged. Callable from any thread."""
        if self._call_soon_threadsafe is not None:
            self._call_soon_threadsafe(self._step_aside, key, error)

    def _stop_directory(self, error: LogClusterError) -> None:
        """Nothing is acknowledged after a failed write or sync."""
        if self.failure is not None:
            return
        self.failure = error
        tell_directory_failed(self.log_manager.directory, error)
        self.flusher.stop_failed()
        for partition in list(self._by_id.values()):
            self._unfollow(partition)
            partition.fail(error)
        self._on_failure(error)

    def _step_aside(self, key: TopicIdPartition, error: CorruptLog) -> None:
        """End the replica and tell the controller; nothing when that has happened, and a new log is in its place."""
        partition = self._by_id.get(key)
        if partition is None or partition.log.failure is None:
            return
        name = str(partition.topic_partition)
        log.error("replica_damaged", partition=name, leader_epoch=partition.leader_epoch, error=error.message)
        failpoint("replication.damaged_log.before_step_aside")
        last_epoch = partition.leader_epoch
        self._unfollow(partition)
        # Others may hold what was appended here, so that this is no definite refusal (P9).
        partition.fail(Disconnected("the replica's log is damaged", topic=partition.topic, partition=partition.index))
        self._unhost(partition)
        registration = self.image.partition(key.topic_id, key.partition)
        if registration is not None:
            self._failed.note(registration, last_epoch=registration.leader_epoch if last_epoch is None else last_epoch)

    def on_sound_again(self, key: TopicIdPartition) -> None:
        """A log that had stepped aside is in use again: take the role that is due, and let the controller know."""
        self._failed.forget(key)
        registration = self.image.partition(key.topic_id, key.partition)
        if registration is not None:
            log.warning("replica_sound_again", partition=self._told.name(key.topic_id, key.partition))
            self._apply_guarded(registration)

    # -- admin ---------------------------------------------------------------------------------------------------

    def delete_records(self, topic: str, index: int, before_offset: int | None) -> int:
        """Hide everything below `before_offset` (None: the high watermark); returns the new log start offset.

        Raises:
            NotLeaderOrFollower, UnknownTopicOrPartition: ask the leader.
            OffsetOutOfRange: beyond the high watermark.
        """
        partition = self.partition(topic, index)
        partition.require_leader()
        offset = partition.high_watermark if before_offset is None else before_offset
        if offset > partition.high_watermark:
            raise OffsetOutOfRange(offset=offset, high_watermark=partition.high_watermark)
        probe("broker.records.deleted")
        partition.log.advance_log_start(offset)
        for slot in partition.slots.values():
            slot.on_append()
        return partition.log.log_start_offset


def log_config(config: TopicConfig, settings: ReplicaSettings) -> LogConfig:
    """What of a topic's settings concerns the log, within the broker's own bounds."""
    return LogConfig(
        segment_bytes=min(config.segment_bytes, settings.segment_bytes_max),
        segment_ms=config.segment_ms,
        retention_ms=config.retention_ms,
        retention_bytes=config.retention_bytes,
        max_message_bytes=max(1, config.max_message_bytes),
        tail_cache_bytes_max=settings.tail_cache_bytes_max,
    )


def _loader(log: PartitionLog, producers: ProducerStates, now_ms: int) -> Callable[[], None]:
    return lambda: load_producers(log, producers, now_ms=now_ms)
