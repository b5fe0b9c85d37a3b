"""PartitionLog: one hosted partition's records on disk, from `log_start_offset` to `log_end_offset`.

Invariants:
    log_start_offset <= log_end_offset, flushed_offset <= log_end_offset; segments are contiguous, the last is active.
    Offsets and leader epochs of appended batches never go back; bytes are stored exactly as given.
    After a failed write or sync nothing is written again, ever (KAFKA-10778), and the whole log directory stops.
    A partition without data has no directory; the first append makes it.

Who calls what: `append`, `read_tail`, `prepare_flush`, `complete_flush` and everything that changes the log belong to
the owner's one thread (the event loop). `read`, `offset_for_timestamp`, `newest_timestamp`, `headers_from` and
`PendingFlush.run` may run on any thread meanwhile. Source: Kafka's UnifiedLog, without its recovery rule.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from logcluster.model.errors import CorruptLog, CorruptMessage, LogClusterError, ShuttingDown
from logcluster.model.invariants import InvariantViolation, invariant
from logcluster.model.limits import RELATIVE_OFFSET_MAX
from logcluster.model.probes import probe
from logcluster.record.batch import BatchHeader, iterate_headers
from logcluster.runtime.failpoints import failpoint
from logcluster.storage.checkpoints import LEADER_EPOCHS_FILE, PARTITION_METADATA_FILE, PartitionMetadata, write_checked
from logcluster.storage.filesystem import Filesystem, join
from logcluster.storage.log_config import LogConfig
from logcluster.storage.log_flush import PendingFlush
from logcluster.storage.log_read import segment_for
from logcluster.storage.log_readable import ReadableLog
from logcluster.storage.log_retention import DeletedSegment, count_deletable
from logcluster.storage.log_state import LogState, ignore_failure, ignore_truncation, storage_failure
from logcluster.storage.recovery import LogRecovery, RecoveryContext
from logcluster.storage.segment import Segment
from logcluster.storage.tail_cache import TailCache


class PartitionLog(ReadableLog):
    """The log of one partition; made by `open`. Attributes: see `LogState`."""

    @classmethod
    def open(
        cls,
        filesystem: Filesystem,
        log_directory: str,
        metadata: PartitionMetadata,
        *,
        context: RecoveryContext,
        config: LogConfig,
        tail_cache: TailCache,
        on_failure: Callable[[LogState, LogClusterError], None] = ignore_failure,
        before_truncation: Callable[[LogState, int], None] = ignore_truncation,
    ) -> PartitionLog:
        """Open the partition's directory, or prepare a log that has none yet.

        Raises:
            CorruptLog: stored data is damaged; the replica must step aside.
            StorageFailure: the disk failed.
        """
        directory = join(log_directory, metadata.directory_name)
        try:
            recovered = LogRecovery(filesystem, directory, metadata, context=context, config=config).run()
        except OSError as error:
            raise storage_failure(error, directory) from error
        return cls(
            filesystem,
            log_directory,
            recovered,
            config=config,
            tail_cache=tail_cache,
            on_failure=on_failure,
            before_truncation=before_truncation,
        )

    # -- append -----------------------------------------------------------------------------------------------------

    def append(self, data: bytes, headers: Sequence[BatchHeader] | None = None, *, allow_gap: bool = False) -> None:
        """Append one or more whole batches, stamped with offset and leader epoch; visible to readers at once.

        Args:
            data: the bytes, kept in memory too: not to be changed afterwards.
            headers: those of `data` as stamped, if the caller has them; checksums are the caller's to check.
            allow_gap: whether an offset may be above the log end, as for followers of compacted logs.

        Raises:
            StorageFailure: the disk failed; how much was written is unknown and the log is failed for good.
            InvariantViolation: offsets or epochs do not continue the log; nothing was written.
        """
        if self._failure is not None:
            self._check_usable()
        if headers is None:
            headers = _parse(data)
        base_offset = headers[0].base_offset
        expected = self.log_end_offset
        latest_epoch = self._latest_epoch
        for header in headers:
            if header.base_offset != expected:
                self._check_gap(header.base_offset, expected, allow_gap=allow_gap)
            if header.leader_epoch != latest_epoch:
                latest_epoch = header.leader_epoch
                self._assign_epoch(latest_epoch, header.base_offset)
            expected = header.base_offset + header.last_offset_delta + 1
        try:
            active = self._active
            if active is None:
                active = self._add_segment(self.log_end_offset)
            elif active.size_bytes and self._must_roll(active, len(data), expected, headers[-1].max_timestamp_ms):
                active = self._roll(active)
            if not self._active_is_dirty:
                self._active_is_dirty = True
                self._dirty[active.base_offset] = active
            active.append(data, headers, self.config)
            failpoint("storage.log.append.after_write")
        except OSError as error:
            raise self._disk_failed(error) from error
        self._tail.append(data, base_offset, expected, previous_end=self.log_end_offset)
        self.log_end_offset = expected

    def append_across_start(self, data: bytes, headers: Sequence[BatchHeader]) -> None:
        """Append to a log without data, beginning with the batch that holds the log start but begins below it.

        The files begin with that batch, the log where it did: what was deleted stays hidden (KAFKA-6975). Blocks on the
        disk. A crash in between leaves an empty log, or one that starts with the batch.

        Raises:
            StorageFailure: as `append`.
            InvariantViolation: the log has data, or the first batch does not hold the log start; nothing was written.
        """
        self._check_usable()
        first, start_offset = headers[0], self.log_start_offset
        invariant(
            not self.size_bytes and first.base_offset < start_offset == self.log_end_offset <= first.last_offset,
            "only an empty log begins below its start",
            base_offset=first.base_offset,
            log=repr(self),
        )
        probe("storage.log.begins_inside_batch")
        self.truncate_fully_and_start_at(first.base_offset)
        self.append(data, headers, allow_gap=True)
        self.advance_log_start(start_offset)

    def assign_leader_epoch(self, leader_epoch: int) -> None:
        """Note that `leader_epoch` starts at the log end, although nothing is written in it yet."""
        self._check_usable()
        self._assign_epoch(leader_epoch, self.log_end_offset)

    def _assign_epoch(self, leader_epoch: int, start_offset: int) -> None:
        if leader_epoch < 0:
            raise InvariantViolation("a stored batch carries its leader epoch", leader_epoch=leader_epoch)
        # Going back to an older epoch changes the history too: its owner has dropped one that wrote nothing.
        if self.leader_epochs.assign(leader_epoch, start_offset) or leader_epoch < self._latest_epoch:
            self._small_files_dirty[LEADER_EPOCHS_FILE] = None
        self._known_epochs = self.leader_epochs.copy()
        self._latest_epoch = leader_epoch

    def _check_gap(self, base_offset: int, expected: int, *, allow_gap: bool) -> None:
        if base_offset < expected or not allow_gap:
            raise InvariantViolation("an append continues the log", base_offset=base_offset, expected=expected)
        if not self._metadata.has_gaps:
            probe("storage.log.first_gap")
            self._metadata = PartitionMetadata(self.topic_partition, self.topic_id, has_gaps=True)
            self._small_files_dirty[PARTITION_METADATA_FILE] = None
            for segment in self._segments:
                segment.has_gaps = True

    def _must_roll(self, active: Segment, size_bytes: int, next_offset: int, timestamp_ms: int) -> bool:
        config = self.config
        first_timestamp_ms = active.first_timestamp_ms
        return (
            active.size_bytes + size_bytes > config.segment_bytes
            or active.batch_count >= config.segment_batches_max
            or next_offset - active.base_offset > RELATIVE_OFFSET_MAX
            or (first_timestamp_ms >= 0 and timestamp_ms - first_timestamp_ms > config.segment_ms)
        )

    def _add_segment(self, base_offset: int) -> Segment:
        if not self._segments:
            self._filesystem.make_dir(self.directory)
            failpoint("storage.log.create.after_make_dir")
            self._small_files_dirty[PARTITION_METADATA_FILE] = None
            self._small_files_dirty[LEADER_EPOCHS_FILE] = None
        segment = Segment(self._filesystem, self.directory, base_offset, has_gaps=self._metadata.has_gaps)
        segment.open_for_append(create=True)
        failpoint("storage.log.create_segment.after_create")
        self._directories_dirty = True
        self._segments = (*self._segments, segment)
        self._active = segment
        self._active_is_dirty = True
        self._dirty[base_offset] = segment
        return segment

    def _roll(self, active: Segment) -> Segment:
        failpoint("storage.log.roll.before_trim")
        active.trim()
        self._dirty[active.base_offset] = active
        self._unindexed.append(active)
        failpoint("storage.log.roll.before_create")
        probe("storage.segment.rolled")
        segment = self._add_segment(self.log_end_offset)
        failpoint("storage.log.roll.before_snapshot")
        if self.on_roll is not None:
            self.on_roll(segment.base_offset)
        return segment

    # -- flush ------------------------------------------------------------------------------------------------------

    def prepare_flush(self) -> PendingFlush | None:
        """What to sync so that everything appended so far is durable; None when all is, or a flush is under way.

        The caller runs `PendingFlush.run` on a thread and hands it to `complete_flush` afterwards, also when it failed.
        """
        if self._failure is not None:
            self._check_usable()
        if self._in_flight is not None or self.flushed_offset >= self.log_end_offset:
            return None
        segments = list(self._dirty.values())
        self._dirty = {}
        self._active_is_dirty = False
        pending = PendingFlush(
            filesystem=self._filesystem,
            directory=self.directory,
            target_offset=self.log_end_offset,
            generation=self._truncation_count,
            files=[segment.open_for_append() for segment in segments],
            segments=segments,
            on_error=self._disk_failed,
            is_abandoned=lambda: self._failure is not None,
        )
        if self._unindexed:
            pending.closed_segments, self._unindexed = self._unindexed, []
        if self._small_files_dirty:
            pending.small_files = {name: self._small_file(name) for name in self._small_files_dirty}
            self._small_files_dirty = {}
        if self._directories_dirty:
            pending.directories = (self.directory, self._log_directory)
            self._directories_dirty = False
        self._in_flight = pending
        return pending

    def complete_flush(self, pending: PendingFlush) -> int:
        """Publish what `pending` made durable; returns `flushed_offset`, which moves only if `run` succeeded."""
        invariant(pending is self._in_flight, "a flush is completed once", directory=self.directory_name)
        self._in_flight = None
        for segment in pending.segments:
            if segment is not self._active and segment.base_offset not in self._dirty:
                segment.close_file()
        if pending.generation != self._truncation_count:
            probe("storage.flush.overtaken_by_truncation")
        if self._failure is None and pending.generation == self._truncation_count:
            self.flushed_offset = max(self.flushed_offset, pending.target_offset)
        return self.flushed_offset

    def flush(self) -> int:
        """Prepare, run and complete one flush here and now; blocks.

        Raises:
            StorageFailure: the disk failed; the log is failed for good.
        """
        pending = self.prepare_flush()
        if pending is not None:
            try:
                pending.run()
            finally:
                self.complete_flush(pending)
        return self.flushed_offset

    def _small_file(self, name: str) -> dict[str, object]:
        if name == LEADER_EPOCHS_FILE:
            return {"entries": [list(entry) for entry in self.leader_epochs.entries]}
        return self._metadata.to_content()

    # -- truncation -------------------------------------------------------------------------------------------------

    def truncate_to(self, offset: int) -> int:
        """Drop every batch that reaches beyond `offset`, durably; returns the new log end. Blocks on the disk.

        An offset at or above the log end changes nothing; one below the log start empties the log, and so does one
        inside the batch that holds the log start, which then stays where it is.

        Raises:
            CorruptLog: stored data is damaged where it has to be looked at; nothing was cut, and the log is failed.
            StorageFailure: the disk failed; the log is failed for good.
        """
        self._check_usable()
        if offset >= self.log_end_offset:
            return self.log_end_offset
        if offset < self.log_start_offset:
            self.truncate_fully_and_start_at(offset)
            return self.log_end_offset
        try:
            index = segment_for(self._segments, offset)
            position, base_offset = self._segments[index].find_batch(offset, self.leader_epochs)
            left = self._segments[index].recount(position, self.config, self.leader_epochs)
        except OSError as error:
            raise self._disk_failed(error) from error
        except CorruptLog as error:
            self.fail(error)
            raise
        end = min(offset, base_offset)
        if end < self.log_start_offset:  # the batch that holds the log start goes
            self.truncate_fully_and_start_at(self.log_start_offset)
            return self.log_end_offset
        self._before_truncation(self, end)
        self._begin_cut()
        try:
            self._cut(index, left, end)
        except OSError as error:
            raise self._disk_failed(error) from error
        finally:
            self._file_generation += 1
        return self.log_end_offset

    def _cut(self, index: int, left: Segment, end: int) -> None:
        target = self._segments[index]
        failpoint("storage.log.truncate.before_remove_segments")
        if index + 1 < len(self._segments):
            probe("storage.truncate.whole_segments")
        self._remove_segments(self._segments[index + 1 :])
        failpoint("storage.log.truncate.before_cut")
        in_flight = () if self._in_flight is None else self._in_flight.segments
        for segment in self._segments[:index]:
            if segment in in_flight or segment.base_offset in self._dirty:
                segment.open_for_append().sync()
        target.truncate(left, next_offset=end)
        failpoint("storage.log.truncate.after_cut")
        self._finish_cut(self._segments[: index + 1], end)

    def _finish_cut(self, segments: tuple[Segment, ...], end: int) -> None:
        """Bring everything else in line with the segments that are left; they are synced."""
        self._segments = segments
        self._active = segments[-1]
        self._dirty = {}
        self._active_is_dirty = False
        self._unindexed = [segment for segment in self._unindexed if segment in segments[:-1]]
        for segment in segments[:-1]:
            self._close_file(segment)
        self.log_end_offset = self.flushed_offset = end
        self.high_watermark = min(self.high_watermark, end)
        self._tail.truncate_to(end)
        self.leader_epochs.truncate_from_end(end)
        self._known_epochs = self.leader_epochs.copy()
        self._latest_epoch = -1 if self.leader_epochs.latest is None else self.leader_epochs.latest
        self._snapshots.remove_above(end)
        failpoint("storage.log.truncate.before_small_files")
        for name in (PARTITION_METADATA_FILE, LEADER_EPOCHS_FILE):
            write_checked(self._filesystem, self.directory, name, self._small_file(name))
        self._filesystem.sync_dir(self.directory)
        failpoint("storage.log.truncate.before_sync_dir")
        self._filesystem.sync_dir(self._log_directory)
        self._directories_dirty = False
        # A flush under way may put older content in their place; then the next one corrects it.
        self._small_files_dirty = dict.fromkeys(self._in_flight.small_files) if self._in_flight is not None else {}

    def truncate_fully_and_start_at(self, offset: int) -> None:
        """Drop everything; the log starts and ends at `offset`, durably. Blocks on the disk.

        Raises:
            StorageFailure: the disk failed; the log is failed for good.
        """
        self._check_usable()
        self._before_truncation(self, 0)
        self._begin_cut()
        try:
            self._tail.clear()
            failpoint("storage.log.restart.before_remove_segments")
            probe("storage.truncate.everything")
            self._remove_segments(self._segments)
            self._segments = ()
            failpoint("storage.log.restart.before_create")
            self._snapshots.remove_above(-1)
            self.leader_epochs.clear()
            segment = self._add_segment(offset)
            segment.open_for_append().sync()
            self.log_start_offset = offset
            self._finish_cut((segment,), offset)
        except OSError as error:
            raise self._disk_failed(error) from error
        finally:
            self._file_generation += 1

    def _begin_cut(self) -> None:
        self._file_generation += 1
        self._truncation_count += 1

    def _remove_segments(self, segments: Sequence[Segment]) -> None:
        """Newest first, so that what a crash leaves is a prefix."""
        for segment in reversed(segments):
            self._trash.extend(segment.mark_deleted())
            self._dirty.pop(segment.base_offset, None)
            self._close_file(segment)

    def _close_file(self, segment: Segment) -> None:
        """Close the write handle, unless a flush is using it, which then closes it."""
        if self._in_flight is None or segment not in self._in_flight.segments:
            segment.close_file()

    # -- retention --------------------------------------------------------------------------------------------------

    def advance_log_start(self, offset: int) -> bool:
        """Hide everything below `offset`; returns whether the log start moved. Segments go with the next retention.

        Raises:
            OffsetOutOfRange: `offset` is above the log end.
        """
        self._check_usable()
        if offset <= self.log_start_offset:
            return False
        if offset > self.log_end_offset:
            self._check_range(offset)
        self.log_start_offset = offset
        if self.leader_epochs.truncate_from_start(offset):
            self._known_epochs = self.leader_epochs.copy()
            self._small_files_dirty[LEADER_EPOCHS_FILE] = None
        return True

    def apply_retention(
        self, now_ms: int, *, high_watermark: int, retention_ms: int | None, retention_bytes: int | None
    ) -> list[DeletedSegment]:
        """Delete the oldest segments that are wholly below the high watermark and out of time, size or log start.

        The files are renamed; `take_trash` says which ones to remove once readers are done.

        Raises:
            StorageFailure: the disk failed; the log is failed for good.
        """
        self._check_usable()
        segments = self._segments
        count = count_deletable(
            segments,
            now_ms=now_ms,
            high_watermark=high_watermark,
            log_start_offset=self.log_start_offset,
            retention_ms=retention_ms,
            retention_bytes=retention_bytes,
        )
        if count == 0:
            return []
        self._file_generation += 1
        try:
            if count == len(segments):
                probe("storage.retention.rolled_active")
                self._roll(segments[-1])
            doomed, self._segments = self._segments[:count], self._segments[count:]
            self._unindexed = [segment for segment in self._unindexed if segment not in doomed]
            probe("storage.retention.deleted_segments")
            for segment in doomed:  # oldest first, so that what a crash leaves is contiguous
                failpoint("storage.log.retention.before_rename")
                self._trash.extend(segment.mark_deleted())
                self._dirty.pop(segment.base_offset, None)
                self._close_file(segment)
            failpoint("storage.log.retention.after_rename")
            self._directories_dirty = True
            self.advance_log_start(self._segments[0].base_offset)
            self._snapshots.remove_below(self.log_start_offset)
        except OSError as error:
            raise self._disk_failed(error) from error
        finally:
            self._file_generation += 1
        return [DeletedSegment(segment.base_offset, segment.next_offset, segment.size_bytes) for segment in doomed]

    def take_trash(self) -> list[str]:
        """Paths of renamed files that nobody has removed yet; they are the caller's to remove."""
        trash, self._trash = self._trash, []
        return trash

    # -- end --------------------------------------------------------------------------------------------------------

    def close(self, *, clean: bool) -> None:
        """End the log; idempotent. With `clean`, everything is synced, trimmed and indexed first; blocks.

        Raises:
            StorageFailure: the disk failed, so that the shutdown was not clean.
        """
        if isinstance(self._failure, ShuttingDown):
            return
        try:
            if clean:
                self._close_clean()
        finally:
            for segment in self._segments:
                self._close_file(segment)
            self._tail.clear()
            if self._failure is None:
                self._failure = ShuttingDown(f"the log of {self.topic_partition} is closed")

    def _close_clean(self) -> None:
        self._check_usable()
        invariant(self._in_flight is None, "no flush is under way when a log is closed", name=self.directory_name)
        self.flush()
        active = self._active
        if active is None:
            return

        def settle() -> None:
            failpoint("storage.log.close.before_trim")
            active.trim()
            failpoint("storage.log.close.before_sync")
            active.open_for_append().sync()
            active.write_index()
            for name in self._small_files_dirty:
                write_checked(self._filesystem, self.directory, name, self._small_file(name))
            self._filesystem.sync_dir(self.directory)

        self._on_disk(settle)


def _parse(data: bytes) -> list[BatchHeader]:
    headers = []
    end = 0
    for position, header in iterate_headers(data):
        headers.append(header)
        end = position + header.size_bytes
    if not headers or end != len(data):
        raise CorruptMessage("an append is whole batches", size_bytes=len(data), whole_bytes=end)
    return headers
