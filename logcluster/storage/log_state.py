"""What a partition log knows of itself, and how it fails; the base of `log_readable` and `log`.

Invariants, looked at by `check`:
    log_start_offset <= log_end_offset, flushed_offset <= log_end_offset; segments are contiguous, the last is active.
    Once failed, a log refuses everything for good, with the first reason (KAFKA-10778).
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import TypeVar

from logcluster.model.epochs import EpochEnd, LeaderEpochHistory
from logcluster.model.errors import LogClusterError, StorageFailure
from logcluster.model.ids import TopicId, TopicIdPartition, TopicPartition
from logcluster.model.invariants import invariant
from logcluster.model.probes import probe
from logcluster.storage.filesystem import Filesystem, join
from logcluster.storage.log_config import LogConfig
from logcluster.storage.log_flush import PendingFlush
from logcluster.storage.producer_snapshots import ProducerSnapshots
from logcluster.storage.recovery import RecoveredLog
from logcluster.storage.segment import Segment
from logcluster.storage.tail_cache import LogTail, TailCache

Result = TypeVar("Result")


def ignore_failure(log: LogState, error: LogClusterError) -> None:
    del log, error


def ignore_truncation(log: LogState, offset: int) -> None:
    del log, offset


class LogState:
    """Offsets, segments, epochs and failure of one log.

    Settable by the owner: `config`; `high_watermark`, which is only kept for the checkpoint; `on_roll(base_offset)`,
    called when a new segment begins, before its first batch is appended.
    """

    def __init__(
        self,
        filesystem: Filesystem,
        log_directory: str,
        recovered: RecoveredLog,
        *,
        config: LogConfig,
        tail_cache: TailCache,
        on_failure: Callable[[LogState, LogClusterError], None] = ignore_failure,
        before_truncation: Callable[[LogState, int], None] = ignore_truncation,
    ) -> None:
        metadata = recovered.metadata
        self.topic_partition: TopicPartition = metadata.topic_partition
        self.topic_id: TopicId = metadata.topic_id
        self.topic_id_partition = TopicIdPartition(metadata.topic_id, metadata.topic_partition.partition)
        self.directory_name = metadata.directory_name
        self.directory = join(log_directory, metadata.directory_name)
        self.config = config
        self.leader_epochs: LeaderEpochHistory = recovered.leader_epochs
        self.log_start_offset = recovered.log_start_offset
        self.log_end_offset = recovered.log_end_offset
        self.flushed_offset = recovered.log_end_offset
        self.high_watermark = recovered.log_start_offset
        self.on_roll: Callable[[int], None] | None = None
        self._filesystem = filesystem
        self._log_directory = log_directory
        self._metadata = metadata
        self._on_failure = on_failure
        self._before_truncation = before_truncation
        self._segments: tuple[Segment, ...] = tuple(recovered.segments)
        self._active: Segment | None = self._segments[-1] if self._segments else None
        self._latest_epoch = -1 if self.leader_epochs.latest is None else self.leader_epochs.latest
        self._known_epochs = self.leader_epochs.copy()
        """What readers on other threads compare batches with: replaced as a whole, never changed."""
        self._tail = LogTail(tail_cache, size_bytes_max=config.tail_cache_bytes_max)
        self._snapshots = ProducerSnapshots(filesystem, self.directory)
        self._failure: LogClusterError | None = None
        self._dirty: dict[int, Segment] = {}
        self._active_is_dirty = False
        self._unindexed: list[Segment] = []
        self._small_files_dirty: dict[str, None] = {}
        self._directories_dirty = False
        self._in_flight: PendingFlush | None = None
        self._file_generation = 0  # odd while files are cut or renamed
        self._truncation_count = 0
        self._trash: list[str] = []

    @property
    def size_bytes(self) -> int:
        """Bytes of all segments, preallocated zeros not counted."""
        return sum(segment.size_bytes for segment in self._segments)

    @property
    def segment_count(self) -> int:
        return len(self._segments)

    @property
    def failure(self) -> LogClusterError | None:
        """Why the log cannot be used any more, or None."""
        return self._failure

    @property
    def is_dirty(self) -> bool:
        """Whether `prepare_flush` would find something to sync."""
        return self.flushed_offset < self.log_end_offset

    @property
    def recovery_point(self) -> int:
        """What the checkpoint may promise: below it everything is synced, and will not be truncated any more."""
        return min(self.flushed_offset, max(self.high_watermark, self.log_start_offset))

    def end_offset_for_epoch(self, leader_epoch: int) -> EpochEnd | None:
        """Where `leader_epoch`, or the largest known one below it, ends; None when no epoch is known."""
        return self.leader_epochs.end_offset_for(leader_epoch, self.log_end_offset)

    def fail(self, error: LogClusterError) -> None:
        """Refuse every operation from now on; the first reason counts. Callable from any thread."""
        if self._failure is None:
            self._failure = error
            self._on_failure(self, error)

    def _disk_failed(self, error: OSError) -> StorageFailure:
        failure = storage_failure(error, self.directory)
        self.fail(failure)
        return failure

    def _check_usable(self) -> None:
        failure = self._failure
        if failure is not None:
            raise type(failure)(failure.message, hint=failure.hint, **failure.facts) from failure

    def _on_disk(self, work: Callable[[], Result]) -> Result:
        try:
            return work()
        except OSError as error:
            raise self._disk_failed(error) from error

    def check(self) -> None:
        """Check the invariants of this file's docstring.

        Raises:
            InvariantViolation: one does not hold.
        """
        self.leader_epochs.check()
        invariant(self.log_start_offset <= self.log_end_offset, "the log starts before it ends")
        invariant(self.flushed_offset <= self.log_end_offset, "what is flushed was appended")
        expected = self._segments[0].base_offset if self._segments else self.log_end_offset
        invariant(expected <= self.log_start_offset, "the first segment holds the log start")
        for segment in self._segments:
            invariant(segment.base_offset == expected, "segments are contiguous", expected=expected, found=segment)
            expected = segment.next_offset
        invariant(expected == self.log_end_offset, "the last segment ends the log", expected=expected)
        latest = self.leader_epochs.latest_entry
        if latest is not None:
            invariant(latest.start_offset <= self.log_end_offset, "no epoch starts beyond the log end", entry=latest)
            invariant(latest.leader_epoch == self._latest_epoch, "the newest epoch is cached", entry=latest)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.topic_partition}, [{self.log_start_offset}, {self.log_end_offset}))"


def storage_failure(error: OSError, path: str) -> StorageFailure:
    """The error that a failure of the disk becomes."""
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        probe("storage.disk.full")
    hints = {
        errno.ENOSPC: "the disk is full: free space, then restart the broker",
        errno.EDQUOT: "the disk quota is used up: raise it, then restart the broker",
        errno.EROFS: "the filesystem is read-only: check the disk, remount it, then restart the broker",
        errno.EACCES: "check the owner and the permissions of the directory",
        errno.EMFILE: "too many open files: raise `ulimit -n`, then restart the broker",
    }
    return StorageFailure(
        f"{error.filename or path}: {error.strerror or error}",
        hint=hints.get(error.errno or 0, "check the disk, then restart the broker"),
        path=error.filename or path,
        errno=error.errno,
    )
