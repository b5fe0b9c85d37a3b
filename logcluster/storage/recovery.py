"""Opening a log: what is on disk, what of it is sound, and what may be cut.

After a clean shutdown every byte was synced and the files are taken as they are. Otherwise every segment that reaches
beyond the recovery point is scanned and its checksums verified. Where a scan meets something that is not the batch that
is due, one of four things holds:

    what is found                                          what it means                          what is done
    only zeros follow, in the last segment                 preallocated, never written            the log ends there
    it lies below the recovery point                       synced data is damaged                 CorruptLog
    no sound batch follows                                 a torn tail, never acknowledged        cut
    a sound batch follows, unsynced data may be lost       writes reached the disk out of order   cut
    a sound batch follows, nothing unsynced can be lost    stored data is damaged                 CorruptLog

Unsynced data can be lost only when the machine's boot id has changed since the log was last open. `CorruptLog` never
changes a byte: the replica steps aside and is fetched again (promise P8). Indexes and epochs are derived: when they are
missing or do not fit, they are rebuilt from the batch headers. Below the recovery point the stored epochs are known to
fit, so that there it is the batch that is damaged when the two differ.

What is accepted is durable before it counts. While the machine has not booted that takes more than a sync, because a
sync may have failed before (`rewriting`): every batch above the recovery point is written again as it was read, and a
cut that may have been lost in the same way is made again. After a boot, what is read came from the disk.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from logcluster.model.epochs import LeaderEpochHistory
from logcluster.model.errors import CorruptLog
from logcluster.model.invariants import InvariantViolation
from logcluster.model.probes import probe
from logcluster.record.batch import BatchHeader
from logcluster.runtime.failpoints import failpoint
from logcluster.storage.batch_scan import OFFSET_MAX, BatchScan, find_batch_after
from logcluster.storage.checkpoints import (
    LEADER_EPOCHS_FILE,
    PARTITION_METADATA_FILE,
    TEMPORARY_SUFFIX,
    PartitionMetadata,
    read_checked,
    write_checked,
)
from logcluster.storage.filesystem import File, Filesystem, join
from logcluster.storage.log_config import LogConfig
from logcluster.storage.producer_snapshots import ProducerSnapshots
from logcluster.storage.rewriting import Rewriting
from logcluster.storage.segment import DELETED_SUFFIX, LOG_SUFFIX, Segment


@dataclass(frozen=True, slots=True, kw_only=True)
class RecoveryContext:
    """What is known of the last run, from the log directory's own files.

    Args:
        recovery_point: everything below was synced; None when that is not known (the checkpoint is damaged).
        log_start_offset: as last known.
        is_clean: the last run closed the log properly.
        may_have_lost_unsynced: the machine may have lost its power since.
        may_be_in_cache_only: what is read may stand in the page cache and not on the disk, because a sync of the last
            run has failed; false only when the machine is known to have booted since.
    """

    recovery_point: int | None = 0
    log_start_offset: int = 0
    is_clean: bool = False
    may_have_lost_unsynced: bool = True
    may_be_in_cache_only: bool = True


@dataclass(slots=True)
class RecoveredLog:
    """The state a log continues from; everything in it is synced."""

    metadata: PartitionMetadata
    segments: list[Segment] = field(default_factory=list)
    leader_epochs: LeaderEpochHistory = field(default_factory=LeaderEpochHistory)
    log_start_offset: int = 0
    log_end_offset: int = 0
    scanned_bytes: int = 0
    cut_bytes: int = 0
    """Size of the torn tail that was cut off; zeros not counted."""
    rewritten_bytes: int = 0
    """Size of the batches that were written again as they were."""


class LogRecovery:
    """Opens one partition directory. Used once.

    Raises:
        CorruptLog: from `run`; no batch is changed or removed.
        OSError: from `run`; the disk failed.
    """

    def __init__(
        self,
        filesystem: Filesystem,
        directory: str,
        metadata: PartitionMetadata,
        *,
        context: RecoveryContext,
        config: LogConfig,
    ) -> None:
        self._filesystem = filesystem
        self._directory = directory
        self._context = context
        self._config = config
        self._log = RecoveredLog(metadata)
        self._epochs_from_file: LeaderEpochHistory | None = None
        self._is_rewritten = False

    def run(self) -> RecoveredLog:
        """Scan, cut, rebuild."""
        log = self._log
        if not self._filesystem.exists(self._directory):
            if self._context.recovery_point:
                raise self._corrupt("the directory is missing", log.log_end_offset, 0)
            return log
        self._read_metadata()
        bases = self._list_segments()
        self._epochs_from_file = self._read_epochs()
        self._open_segments(bases)
        log.log_end_offset = log.segments[-1].next_offset if log.segments else 0
        first = log.segments[0].base_offset if log.segments else 0
        log.log_start_offset = min(max(self._context.log_start_offset, first), log.log_end_offset)
        if log.log_end_offset < (self._context.recovery_point or 0):
            raise self._corrupt(
                f"the log ends below its recovery point {self._context.recovery_point}", log.log_end_offset, 0
            )
        failpoint("storage.recovery.before_epochs")
        self._finish_epochs()
        failpoint("storage.recovery.before_remove_snapshots")
        if ProducerSnapshots(self._filesystem, self._directory).remove_above(log.log_end_offset):
            self._is_rewritten = True
        if self._is_rewritten:
            failpoint("storage.recovery.before_sync_dir")
            self._filesystem.sync_dir(self._directory)
        return log

    # -- files ------------------------------------------------------------------------------------------------------

    def _read_metadata(self) -> None:
        try:
            content = read_checked(self._filesystem, self._directory, PARTITION_METADATA_FILE)
        except CorruptLog:
            return  # the directory's name says the same
        if content is None:
            return
        stored = PartitionMetadata.from_content(content)
        expected = self._log.metadata
        if (stored.topic_partition, stored.topic_id) != (expected.topic_partition, expected.topic_id):
            raise self._corrupt(f"it holds {stored.directory_name}, not {expected.directory_name}", 0, 0)
        self._log.metadata = stored

    def _list_segments(self) -> list[int]:
        bases = []
        for name in self._filesystem.list(self._directory):
            if name.endswith((DELETED_SUFFIX, TEMPORARY_SUFFIX)):
                self._filesystem.remove(join(self._directory, name))
            elif name.endswith(LOG_SUFFIX) and name[: -len(LOG_SUFFIX)].isdigit():
                bases.append(int(name[: -len(LOG_SUFFIX)]))
        return bases

    def _read_epochs(self) -> LeaderEpochHistory | None:
        try:
            content = read_checked(self._filesystem, self._directory, LEADER_EPOCHS_FILE)
            return None if content is None else LeaderEpochHistory(content["entries"])
        except (CorruptLog, InvariantViolation):
            return None

    # -- segments ---------------------------------------------------------------------------------------------------

    def _open_segments(self, bases: list[int]) -> None:
        recovery_point = self._context.recovery_point or 0
        for number, base_offset in enumerate(bases):
            following = bases[number + 1] if number + 1 < len(bases) else None
            is_settled = self._context.is_clean or (following is not None and following <= recovery_point)
            segment = self._load(base_offset) if is_settled else None
            if segment is not None and following is not None and segment.next_offset != following:
                segment = None
            if segment is None:
                if is_settled:
                    probe("storage.index.rebuilt_at_start")
                segment = self._scan(base_offset, bases[number + 1 :], is_settled=is_settled)
                if segment.next_offset != following and following is not None:
                    failpoint("storage.recovery.before_remove_segments")
                    probe("storage.recovery.later_segments_removed")
                    self._remove_segments(bases[number + 1 :])
                    self._log.segments.append(segment)
                    return
                if following is not None:
                    failpoint("storage.recovery.before_index")
                    segment.write_index()
            elif self._epochs_from_file is None:
                self._note_epochs_of(segment)
            self._log.segments.append(segment)

    def _load(self, base_offset: int) -> Segment | None:
        has_gaps = self._log.metadata.has_gaps
        return Segment.load(self._filesystem, self._directory, base_offset, has_gaps=has_gaps)

    def _scan(self, base_offset: int, following: list[int], *, is_settled: bool) -> Segment:
        """Verify one segment and cut it where it ends; decides what an unexpected end means."""
        segment = Segment(self._filesystem, self._directory, base_offset, has_gaps=self._log.metadata.has_gaps)
        file = segment.open_for_append()
        try:
            self._scan_file(segment, file, following, self._epochs_for_scan(base_offset, is_settled=is_settled))
        finally:
            segment.close_file()
        return segment

    def _scan_file(self, segment: Segment, file: File, following: list[int], epochs: LeaderEpochHistory) -> None:
        file_size_bytes = file.size()
        scan = BatchScan(
            file,
            position=0,
            end_position=file_size_bytes,
            expected_offset=segment.base_offset,
            verify=True,
            allow_gaps=self._log.metadata.has_gaps,
            epochs=self._epochs_from_file,
            epochs_below=OFFSET_MAX if self._context.is_clean else self._context.recovery_point or 0,
        )
        if self._context.may_be_in_cache_only and not self._context.is_clean:
            rewriting = Rewriting(scan, file, above_offset=self._context.recovery_point or 0)
            self._note_batches(rewriting, segment, epochs)
            self._log.rewritten_bytes += rewriting.size_bytes
        else:
            self._note_batches(scan, segment, epochs)
        segment.size_bytes = scan.position
        self._log.scanned_bytes += scan.position
        has_junk = scan.problem is not None and not _is_zero(file, scan.position, file_size_bytes)
        if has_junk or (following and segment.next_offset != following[0]):
            self._judge(file, scan, file_size_bytes, following, segment.next_offset)
            self._log.cut_bytes += file_size_bytes - scan.position if has_junk else 0
            if has_junk:
                probe("storage.recovery.torn_tail_cut")
        if file_size_bytes == scan.position or has_junk or following or self._context.is_clean:
            # Also where nothing seems to follow: a cut whose sync failed is undone by the next power loss.
            failpoint("storage.recovery.before_trim")
            segment.trim()
        if not self._context.is_clean:
            failpoint("storage.recovery.before_sync")
            file.sync()
            self._is_rewritten = True

    def _note_batches(
        self, scan: Iterable[tuple[int, BatchHeader]], segment: Segment, epochs: LeaderEpochHistory
    ) -> None:
        interval = self._config.index_interval_bytes
        latest = epochs.latest
        for position, header in scan:
            segment.note(position, header, index_interval_bytes=interval)
            if header.leader_epoch != latest:
                latest = header.leader_epoch
                try:
                    epochs.assign(latest, header.base_offset)
                except InvariantViolation as error:
                    raise self._corrupt(str(error), header.base_offset, position) from error

    def _judge(self, file: File, scan: BatchScan, file_size_bytes: int, following: list[int], next_offset: int) -> None:
        """Return if what the scan stopped at may be cut.

        Raises:
            CorruptLog: it is damage.
        """
        problem = scan.problem or f"offset {next_offset} is missing"
        if self._context.is_clean:
            probe("storage.damage.after_clean_shutdown")
            raise self._corrupt(f"after a clean shutdown, {problem}", next_offset, scan.position)
        recovery_point = self._context.recovery_point
        if next_offset < (recovery_point or 0):
            probe("storage.damage.below_recovery_point")
            raise self._corrupt(f"below the recovery point, {problem}", next_offset, scan.position)
        if recovery_point is not None and self._context.may_have_lost_unsynced:
            return
        if any(self._has_batches(base_offset) for base_offset in following):
            raise self._corrupt(f"before later segments, {problem}", next_offset, scan.position)
        found = find_batch_after(file, position=scan.position, end_position=file_size_bytes, offset_min=next_offset)
        if found is not None:
            probe("storage.damage.before_sound_batch")
            raise self._corrupt(f"before a sound batch at byte {found}, {problem}", next_offset, scan.position)

    def _has_batches(self, base_offset: int) -> bool:
        file = Segment(self._filesystem, self._directory, base_offset).open_for_append()
        try:
            found = find_batch_after(file, position=0, end_position=file.size(), offset_min=base_offset)
        finally:
            file.close()
        return found is not None

    def _remove_segments(self, bases: list[int]) -> None:
        for base_offset in reversed(bases):
            segment = Segment(self._filesystem, self._directory, base_offset)
            self._log.cut_bytes += self._size_of(segment)
            for path in segment.mark_deleted():
                self._filesystem.remove(path)
        self._is_rewritten = True

    def _size_of(self, segment: Segment) -> int:
        file = segment.open_for_read()
        try:
            return file.size()
        finally:
            file.close()

    # -- epochs -----------------------------------------------------------------------------------------------------

    def _epochs_for_scan(self, base_offset: int, *, is_settled: bool) -> LeaderEpochHistory:
        """The history that a scan from `base_offset` on continues; only scratch where the file's own is trusted."""
        log = self._log
        if is_settled and self._epochs_from_file is not None:
            return LeaderEpochHistory()
        if not log.leader_epochs and self._epochs_from_file is not None:
            log.leader_epochs = self._epochs_from_file.copy()
            log.leader_epochs.truncate_from_end(base_offset)
        return log.leader_epochs

    def _note_epochs_of(self, segment: Segment) -> None:
        file = segment.open_for_read()
        try:
            scan = segment.scan(file)
            scratch = Segment(self._filesystem, self._directory, segment.base_offset)
            self._note_batches(scan, scratch, self._log.leader_epochs)
        finally:
            file.close()
        if scan.problem is not None:
            raise self._corrupt(scan.problem, segment.base_offset, scan.position)

    def _finish_epochs(self) -> None:
        log = self._log
        stored = self._epochs_from_file
        if stored is not None and not log.leader_epochs:
            log.leader_epochs = stored.copy()
        if not self._context.is_clean:
            log.leader_epochs.truncate_from_end(log.log_end_offset)
        log.leader_epochs.truncate_from_start(log.log_start_offset)
        if stored is None and log.leader_epochs:
            probe("storage.recovery.epochs_rebuilt")
        if stored != log.leader_epochs:
            content = {"entries": [list(entry) for entry in log.leader_epochs.entries]}
            write_checked(self._filesystem, self._directory, LEADER_EPOCHS_FILE, content)

    def _corrupt(self, problem: str, offset: int, position: int) -> CorruptLog:
        return CorruptLog(
            f"{self._log.metadata.directory_name}: at offset {offset}, byte {position}: {problem}",
            partition=str(self._log.metadata.topic_partition),
            directory=self._directory,
            offset=offset,
            position=position,
        )


def _is_zero(file: File, position: int, end_position: int) -> bool:
    """Whether there are only zeros between the two positions."""
    while position < end_position:
        chunk = file.read_at(position, min(1 << 20, end_position - position))
        if not chunk:
            return True
        if chunk.count(0) != len(chunk):
            return False
        position += len(chunk)
    return True
