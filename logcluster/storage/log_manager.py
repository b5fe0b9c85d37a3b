"""All partition logs of one log directory: opening, creating, setting aside, deleting, checkpoints, failure.

    identity.json        whose directory it is: cluster, node, directory id; never changes
    lock                 held while a process uses the directory
    checkpoint.json      recovery point, high watermark and log start of each log
    boot.json            the machine's boot id at the last start that finished recovery
    clean-shutdown.json  only after a clean close: the broker epoch it happened in; removed before any log is opened
    <topic>-<partition>.<topic id>/                the log of a partition
    <...>.quarantined-<n>/                         a damaged log, set aside for people; never read again
    <...>.deleted-<n>/                             a deleted log that is about to be removed

Rules: nothing is deleted but by `delete`, which the caller calls for committed deletions only; logs that the metadata
does not know are reported as strays and kept. A log that is damaged is quarantined: it answers nothing, and a fresh one
can take its place once `replace_quarantined` was called, which is to happen after the replica has left the ISR. A
failed write or sync stops the whole directory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial

from logcluster.model.errors import CorruptLog, LogClusterError, StorageFailure
from logcluster.model.ids import TopicId, TopicIdPartition, TopicPartition
from logcluster.model.invariants import invariant
from logcluster.model.probes import probe
from logcluster.runtime.failpoints import failpoint
from logcluster.storage.checkpoints import (
    CLEAN_SHUTDOWN_FILE,
    QUARANTINE_FILE,
    LogDirectoryIdentity,
    PartitionCheckpoint,
    PartitionMetadata,
    read_checked,
    write_checked,
    write_partition_checkpoints,
)
from logcluster.storage.filesystem import DirectoryLock, Filesystem, join
from logcluster.storage.last_run import LastRun, note_boot
from logcluster.storage.log import PartitionLog
from logcluster.storage.log_config import LogConfig
from logcluster.storage.log_directory import identify_directory, lock_directory, make_log_directory
from logcluster.storage.log_state import LogState, storage_failure
from logcluster.storage.recovery import RecoveryContext
from logcluster.storage.second_look import SecondLook
from logcluster.storage.tail_cache import TailCache

PROGRESS_TOLD_EVERY = 1_000
"""Logs that are opened between two words on how far it is."""

_DELETED_MARK = ".deleted-"
_QUARANTINED_MARK = ".quarantined-"

ConfigFor = Callable[[TopicPartition], LogConfig]
OpenedLog = PartitionLog | CorruptLog
MapWork = Callable[[Callable[[str], OpenedLog], Iterable[str]], Iterable[OpenedLog]]
"""The builtin `map`, or a parallel one that keeps the order, such as `ThreadPoolExecutor.map`."""


def _default_config(topic_partition: TopicPartition) -> LogConfig:
    del topic_partition
    return LogConfig()


class CheckpointWrite:
    """A checkpoint of all logs, taken on the event loop, to be written on a thread by `run`."""

    __slots__ = ("_checkpoints", "_manager", "_version")

    def __init__(self, manager: LogManager, checkpoints: dict[str, PartitionCheckpoint], version: int) -> None:
        self._manager = manager
        self._checkpoints = checkpoints
        self._version = version

    def run(self) -> None:
        """Write it, unless a truncation has made it untrue meanwhile; on any thread, one at a time.

        Raises:
            StorageFailure: the disk failed; the directory has stopped.
        """
        self._manager.write_checkpoint(self._checkpoints, self._version)


class LogManager:
    """The logs of one directory; made by `open`.

    Attributes:
        identity: whose directory it is.
        previous_broker_epoch: the epoch in which the last run ended cleanly, or None when it did not.
        quarantined: why each damaged log stepped aside.
    """

    def __init__(
        self,
        filesystem: Filesystem,
        directory: str,
        *,
        identity: LogDirectoryIdentity,
        lock: DirectoryLock,
        config_for: ConfigFor,
        tail_cache: TailCache,
        on_directory_failure: Callable[[StorageFailure], None] | None,
        on_quarantine: Callable[[TopicIdPartition, CorruptLog], None] | None,
    ) -> None:
        self.directory = directory
        self.identity = identity
        self.previous_broker_epoch: int | None = None
        self.quarantined: dict[TopicIdPartition, CorruptLog] = {}
        self._end_offsets: dict[TopicIdPartition, int] = {}
        self.failure: StorageFailure | None = None
        self._filesystem = filesystem
        self._lock = lock
        self._config_for = config_for
        self._tail_cache = tail_cache
        self._on_directory_failure = on_directory_failure
        self._on_quarantine = on_quarantine
        self._logs: dict[TopicIdPartition, PartitionLog] = {}
        self._stored: dict[str, PartitionCheckpoint] = {}
        self._checkpoint_version = 0
        self._trash: list[str] = []
        self._is_closed = False

    @classmethod
    def open(  # noqa: PLR0913 - where everything about a directory comes together
        cls,
        filesystem: Filesystem,
        directory: str,
        *,
        cluster_id: str,
        node_id: int,
        new_directory_id: Callable[[], bytes],
        config_for: ConfigFor = _default_config,
        tail_cache: TailCache | None = None,
        on_directory_failure: Callable[[StorageFailure], None] | None = None,
        on_quarantine: Callable[[TopicIdPartition, CorruptLog], None] | None = None,
        progress: Callable[[int, int], None] | None = None,
        map_work: MapWork = map,
    ) -> LogManager:
        """Take the directory, creating it on the first start, and open every log in it; blocks.

        Args:
            new_directory_id: gives 16 random bytes; called on the first start only.
            config_for: settings of a log that is found on disk.
            on_directory_failure: told once when the directory stops; perhaps on a thread that syncs or reads.
            on_quarantine: told of each damaged log found after `open`; perhaps on a thread that reads.
            progress: told (opened, total) after every `PROGRESS_TOLD_EVERY` logs, and after the last.
            map_work: how the opening of logs is spread.

        Raises:
            InconsistentClusterId: the directory belongs to another cluster or node.
            StorageFailure: it cannot be used: held by another process, read-only, full, damaged.
        """
        lock: DirectoryLock | None = None
        try:
            make_log_directory(filesystem, directory)
            lock = lock_directory(filesystem, directory)
            identity = identify_directory(filesystem, directory, cluster_id, node_id, new_directory_id)
            manager = cls(
                filesystem,
                directory,
                identity=identity,
                lock=lock,
                config_for=config_for,
                tail_cache=TailCache() if tail_cache is None else tail_cache,
                on_directory_failure=on_directory_failure,
                on_quarantine=on_quarantine,
            )
            manager._start(progress, map_work)
        except OSError as error:
            if lock is not None:
                lock.release()
            raise storage_failure(error, directory) from error
        except LogClusterError:
            if lock is not None:
                lock.release()
            raise
        return manager

    # -- start ------------------------------------------------------------------------------------------------------

    def _start(self, progress: Callable[[int, int], None] | None, map_work: MapWork) -> None:
        last = LastRun.take(self._filesystem, self.directory)
        self.previous_broker_epoch = last.broker_epoch
        self._stored = last.checkpoints or {}
        names = self._list_logs()
        if names and last.broker_epoch is not None:
            probe("storage.start.clean")
        elif names and last.may_have_lost_unsynced:
            probe("storage.start.after_power_loss")
        elif names:
            probe("storage.start.after_process_crash")

        def open_log(name: str) -> OpenedLog:
            return self._open_log(name, last.context(name), last.checkpoint(name))

        for count, (name, opened) in enumerate(zip(names, map_work(open_log, names), strict=True), 1):
            key = _key_of(_metadata_of(name))
            if isinstance(opened, PartitionLog):
                self._logs[key] = opened
            else:
                self.quarantined[key] = opened
            if progress is not None and (count % PROGRESS_TOLD_EVERY == 0 or count == len(names)):
                progress(count, len(names))
        note_boot(self._filesystem, self.directory, last.boot_id)

    def _list_logs(self) -> list[str]:
        names = []
        for name in self._filesystem.list(self.directory):
            if _DELETED_MARK in name:
                self._trash.append(join(self.directory, name))
            elif PartitionMetadata.from_directory_name(name) is not None:
                names.append(name)
        return names

    def _open_log(self, name: str, context: RecoveryContext, checkpoint: PartitionCheckpoint) -> OpenedLog:
        metadata = _metadata_of(name)
        directory = join(self.directory, name)
        try:
            mark = read_checked(self._filesystem, directory, QUARANTINE_FILE)
        except CorruptLog as error:
            return error
        if mark is not None:
            flushed_offset = mark.get("flushed_offset")
            if isinstance(flushed_offset, int):
                self._end_offsets[_key_of(metadata)] = flushed_offset
            return CorruptLog(str(mark["reason"]), directory=directory)
        try:
            log = self._new_log(metadata, context, self._config_for(metadata.topic_partition))
        except CorruptLog as error:
            probe("storage.quarantine.at_start")
            failpoint("storage.log_manager.open.before_quarantine_mark")
            write_checked(self._filesystem, directory, QUARANTINE_FILE, {"reason": error.message})
            return error
        log.high_watermark = min(max(checkpoint.high_watermark, log.log_start_offset), log.log_end_offset)
        return log

    def _new_log(self, metadata: PartitionMetadata, context: RecoveryContext, config: LogConfig) -> PartitionLog:
        return PartitionLog.open(
            self._filesystem,
            self.directory,
            metadata,
            context=context,
            config=config,
            tail_cache=self._tail_cache,
            on_failure=self._log_failed,
            before_truncation=self._lower_checkpoint,
        )

    # -- logs -------------------------------------------------------------------------------------------------------

    def get(self, topic_id_partition: TopicIdPartition) -> PartitionLog | None:
        """The log of a partition, or None when there is none or it is quarantined."""
        if topic_id_partition in self.quarantined:
            return None
        return self._logs.get(topic_id_partition)

    def get_or_create(
        self, topic_partition: TopicPartition, topic_id: TopicId, config: LogConfig | None = None
    ) -> PartitionLog:
        """The log of a partition; a new one takes nothing on disk before its first append. `config` replaces its own.

        Raises:
            CorruptLog: the partition's log is quarantined.
            StorageFailure: the directory has stopped.
        """
        if self.failure is not None:
            raise StorageFailure(self.failure.message, hint=self.failure.hint, **self.failure.facts)
        key = TopicIdPartition(topic_id, topic_partition.partition)
        quarantined = self.quarantined.get(key)
        if quarantined is not None:
            raise CorruptLog(quarantined.message, hint=quarantined.hint, **quarantined.facts)
        log = self._logs.get(key)
        if log is None:
            metadata = PartitionMetadata(topic_partition, topic_id)
            context = RecoveryContext(recovery_point=0)
            log = self._new_log(metadata, context, config or self._config_for(topic_partition))
            self._logs[key] = log
        elif config is not None:
            log.config = config
        return log

    def logs(self) -> Iterator[PartitionLog]:
        """All usable logs, in the order of their directories' names, then of creation."""
        for key, log in list(self._logs.items()):
            if key not in self.quarantined:
                yield log

    def strays(self, is_known: Callable[[TopicIdPartition], bool]) -> list[PartitionLog]:
        """Logs on disk of partitions that the metadata does not know; they are kept."""
        return [log for log in self.logs() if log.segment_count and not is_known(log.topic_id_partition)]

    def delete(self, topic_id_partition: TopicIdPartition) -> bool:
        """Delete a partition's log, quarantined or not, durably; returns whether there was one.

        Only for committed deletions. The files go with the next `remove_paths(collect_trash())`.

        Raises:
            StorageFailure: the disk failed; the directory has stopped.
        """
        return self._set_aside(topic_id_partition, _DELETED_MARK)

    def replace_quarantined(self, topic_id_partition: TopicIdPartition) -> bool:
        """Set a quarantined log aside, so that a fresh one can be created; returns whether it was quarantined.

        Call it only when nobody counts this replica's old data as held any more.

        Raises:
            StorageFailure: the disk failed; the directory has stopped.
        """
        if topic_id_partition not in self.quarantined:
            return False
        probe("storage.quarantine.replaced")
        return self._set_aside(topic_id_partition, _QUARANTINED_MARK)

    def prepare_second_look(self, topic_id_partition: TopicIdPartition) -> SecondLook | None:
        """What finds out, on a thread, whether a quarantined log is sound after all; `readmit` takes what it returns.

        None when the log is not quarantined, or was found damaged when it was opened: only a log that was in use
        before it stepped aside is known to have been whole once.
        """
        error = self.quarantined.get(topic_id_partition)
        end_offset_min = self._end_offsets.get(topic_id_partition)
        name = None if error is None else self._find_directory(topic_id_partition)
        if error is None or end_offset_min is None or name is None:
            return None
        metadata = _metadata_of(name)
        config = self._config_for(metadata.topic_partition)
        checkpoint = self._stored.get(name, PartitionCheckpoint())
        context = RecoveryContext(
            recovery_point=checkpoint.recovery_point,
            log_start_offset=checkpoint.log_start_offset,
            may_have_lost_unsynced=False,
        )
        open_for_trial = partial(
            PartitionLog.open,
            self._filesystem,
            self.directory,
            metadata,
            context=context,
            config=config,
            tail_cache=self._tail_cache,
        )
        open_for_use = partial(self._new_log, metadata, context, config)
        directory = join(self.directory, name)
        return SecondLook(self._filesystem, directory, error, end_offset_min, open_for_trial, open_for_use, self.fail)

    def readmit(self, look: SecondLook, log: PartitionLog) -> bool:
        """Use a log again that a second look found sound; false, and the log is closed, when that is overtaken."""
        key = log.topic_id_partition
        if self.quarantined.get(key) is not look.error or self.failure is not None or self._is_closed:
            log.close(clean=False)
            return False
        probe("storage.quarantine.ended_by_second_look")
        stale = self._logs.get(key)
        if stale is not None:
            stale.close(clean=False)
        checkpoint = self._stored.get(log.directory_name, PartitionCheckpoint())
        log.high_watermark = min(max(checkpoint.high_watermark, log.log_start_offset), log.log_end_offset)
        self._logs[key] = log
        del self.quarantined[key], self._end_offsets[key]
        return True

    def _set_aside(self, key: TopicIdPartition, mark: str) -> bool:
        log = self._logs.pop(key, None)
        quarantined = self.quarantined.pop(key, None)
        self._end_offsets.pop(key, None)
        if log is None and quarantined is None:
            return False
        if log is not None:
            log.close(clean=False)
        name = log.directory_name if log is not None else self._find_directory(key)
        if name is None or not self._filesystem.exists(join(self.directory, name)):
            return True
        number = 0
        while self._filesystem.exists(join(self.directory, f"{name}{mark}{number}")):
            number += 1
        target = join(self.directory, f"{name}{mark}{number}")
        try:
            failpoint("storage.log_manager.set_aside.before_checkpoint")
            self._write_lowered(name, PartitionCheckpoint())
            failpoint("storage.log_manager.set_aside.before_rename")
            self._filesystem.rename(join(self.directory, name), target)
            failpoint("storage.log_manager.set_aside.before_sync_dir")
            self._filesystem.sync_dir(self.directory)
        except OSError as error:
            raise self.fail(storage_failure(error, self.directory)) from error
        if mark == _DELETED_MARK:
            self._trash.append(target)
        return True

    def _find_directory(self, key: TopicIdPartition) -> str | None:
        for name in self._filesystem.list(self.directory):
            metadata = PartitionMetadata.from_directory_name(name)
            if metadata is not None and _key_of(metadata) == key:
                return name
        return None

    def collect_trash(self) -> list[str]:
        """Paths of deleted logs and segments that nobody has removed yet; they are the caller's to remove."""
        trash, self._trash = self._trash, []
        for log in self.logs():
            trash.extend(log.take_trash())
        return trash

    def remove_paths(self, paths: Iterable[str]) -> None:
        """Remove what `collect_trash` returned; on any thread.

        Raises:
            StorageFailure: the disk failed; the directory has stopped.
        """
        try:
            for path in paths:
                failpoint("storage.log_manager.trash.before_remove")
                if self._filesystem.is_dir(path):
                    self._filesystem.remove_tree(path)
                elif self._filesystem.exists(path):
                    self._filesystem.remove(path)
        except FileNotFoundError:
            return  # its directory was deleted meanwhile
        except OSError as error:
            raise self.fail(storage_failure(error, self.directory)) from error

    # -- checkpoints ------------------------------------------------------------------------------------------------

    def prepare_checkpoint(self) -> CheckpointWrite:
        """Take the recovery points, high watermarks and log starts of all logs, to be written on a thread."""
        return CheckpointWrite(self, self._checkpoints(at_end=False), self._checkpoint_version)

    def checkpoint(self) -> None:
        """Take and write the checkpoint here and now; blocks.

        Raises:
            StorageFailure: the disk failed; the directory has stopped.
        """
        self.prepare_checkpoint().run()

    def write_checkpoint(self, checkpoints: dict[str, PartitionCheckpoint], version: int) -> None:
        """For `CheckpointWrite`."""
        if version != self._checkpoint_version:
            probe("storage.checkpoint.overtaken_by_truncation")
        if version != self._checkpoint_version or self.failure is not None or self._is_closed:
            return
        try:
            failpoint("storage.log_manager.checkpoint.before_write")
            write_partition_checkpoints(self._filesystem, self.directory, checkpoints, writer=".background")
            failpoint("storage.log_manager.checkpoint.after_write")
        except OSError as error:
            raise self.fail(storage_failure(error, self.directory)) from error
        self._stored = checkpoints

    def _checkpoints(self, *, at_end: bool) -> dict[str, PartitionCheckpoint]:
        result = {
            name: self._stored[name] for name in map(self._find_directory, self.quarantined) if name in self._stored
        }
        for log in self.logs():
            if log.segment_count:
                recovery_point = log.flushed_offset if at_end else log.recovery_point
                result[log.directory_name] = PartitionCheckpoint(
                    recovery_point, log.high_watermark, log.log_start_offset
                )
        return result

    def _lower_checkpoint(self, log: LogState, offset: int) -> None:
        """Before a log is cut: make sure that no checkpoint promises more than will be left."""
        name = log.directory_name
        self._checkpoint_version += 1
        stored = self._stored.get(name)
        if stored is None or max(stored) <= offset:
            return
        lowered = PartitionCheckpoint(*(min(value, offset) for value in stored))
        probe("storage.truncate.below_checkpoint")
        try:
            failpoint("storage.log_manager.lower_checkpoint.before_write")
            self._write_lowered(name, lowered)
        except OSError as error:
            raise self.fail(storage_failure(error, self.directory)) from error

    def _write_lowered(self, name: str, checkpoint: PartitionCheckpoint) -> None:
        self._checkpoint_version += 1
        if name in self._stored:
            self._stored = {**self._stored, name: checkpoint}
            write_partition_checkpoints(self._filesystem, self.directory, self._stored)

    # -- end --------------------------------------------------------------------------------------------------------

    def fail(self, error: StorageFailure) -> StorageFailure:
        """Stop the whole directory: every log refuses everything. Returns `error`. Callable from any thread."""
        if self.failure is None:
            probe("storage.directory.stopped")
            self.failure = error
            for log in list(self._logs.values()):
                log.fail(error)
            if self._on_directory_failure is not None:
                self._on_directory_failure(error)
        return error

    def _log_failed(self, log: LogState, error: LogClusterError) -> None:
        if isinstance(error, StorageFailure):
            self.fail(error)
        elif isinstance(error, CorruptLog):
            self._end_offsets[log.topic_id_partition] = log.log_end_offset
            self.quarantined[log.topic_id_partition] = error
            probe("storage.quarantine.while_running")
            try:
                failpoint("storage.log_manager.quarantine.before_mark")
                mark = {"reason": error.message, "flushed_offset": log.flushed_offset}
                write_checked(self._filesystem, log.directory, QUARANTINE_FILE, mark)
            except OSError as disk_error:
                self.fail(storage_failure(disk_error, log.directory))
                return
            if self._on_quarantine is not None:
                self._on_quarantine(log.topic_id_partition, error)

    def close(self, *, clean: bool, broker_epoch: int | None = None) -> bool:
        """End all logs and give the directory back; idempotent; blocks. Returns whether the shutdown was clean.

        A clean shutdown syncs everything and leaves the marker that the next start finds; it needs `broker_epoch`.
        """
        if self._is_closed:
            return False
        invariant(not clean or broker_epoch is not None, "a clean shutdown names its broker epoch")
        is_clean = clean and self.failure is None
        try:
            for log in list(self.logs()):
                log.close(clean=is_clean)
            if is_clean:
                failpoint("storage.log_manager.close.before_checkpoint")
                checkpoints = self._checkpoints(at_end=True)
                write_partition_checkpoints(self._filesystem, self.directory, checkpoints)
                failpoint("storage.log_manager.close.before_clean_marker")
                write_checked(self._filesystem, self.directory, CLEAN_SHUTDOWN_FILE, {"broker_epoch": broker_epoch})
                failpoint("storage.log_manager.close.after_clean_marker")
        except StorageFailure as error:
            self.fail(error)
            is_clean = False
        except OSError as error:
            self.fail(storage_failure(error, self.directory))
            is_clean = False
        finally:
            for log in self._logs.values():
                log.close(clean=False)
            self._is_closed = True
            self._lock.release()
        return is_clean


def _metadata_of(name: str) -> PartitionMetadata:
    metadata = PartitionMetadata.from_directory_name(name)
    invariant(metadata is not None, "the name is that of a partition's directory", name=name)
    assert metadata is not None
    return metadata


def _key_of(metadata: PartitionMetadata) -> TopicIdPartition:
    return TopicIdPartition(metadata.topic_id, metadata.topic_partition.partition)
