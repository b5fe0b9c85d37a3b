"""One segment of a log: a file of batches named by its base offset, and its sparse index.

The file is preallocated in growing steps, so `size_bytes` (what was appended) is tracked here and may be less than the
file's size; the rest is zeros, and is cut off when the segment is closed. Readers open the file for themselves, so a
segment keeps a descriptor only while it is written or unsynced. Failures are `OSError`, and `CorruptLog` where batches
are read; the log decides what they mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from logcluster.model.epochs import LeaderEpochHistory
from logcluster.model.errors import CorruptLog
from logcluster.model.invariants import invariant
from logcluster.model.probes import probe
from logcluster.record.batch import BatchHeader
from logcluster.runtime.failpoints import failpoint
from logcluster.storage.batch_scan import BatchScan
from logcluster.storage.checkpoints import read_whole, write_whole
from logcluster.storage.filesystem import Data, File, Filesystem, join
from logcluster.storage.indexes import NO_TIMESTAMP, SegmentSummary, SparseIndex
from logcluster.storage.log_config import LogConfig

LOG_SUFFIX: Final = ".log"
INDEX_SUFFIX: Final = ".index"
DELETED_SUFFIX: Final = ".deleted"


def segment_stem(base_offset: int) -> str:
    """The base offset in 20 digits, so that names sort like offsets."""
    return f"{base_offset:020d}"


class Segment:
    """Batches from `base_offset` up to `next_offset`, in one file."""

    __slots__ = (
        "_allocated_bytes",
        "_directory",
        "_filesystem",
        "_index",
        "base_offset",
        "batch_count",
        "file",
        "first_timestamp_ms",
        "has_gaps",
        "max_timestamp_ms",
        "max_timestamp_offset",
        "next_offset",
        "path",
        "size_bytes",
    )

    def __init__(self, filesystem: Filesystem, directory: str, base_offset: int, *, has_gaps: bool = False) -> None:
        self._filesystem = filesystem
        self._directory = directory
        self._index: SparseIndex | None = SparseIndex()
        self._allocated_bytes = 0
        self.path = join(directory, segment_stem(base_offset) + LOG_SUFFIX)
        self.file: File | None = None
        self.base_offset = base_offset
        self.next_offset = base_offset
        self.has_gaps = has_gaps
        """Whether offsets may be missing between batches."""
        self.size_bytes = 0
        self.batch_count = 0
        self.first_timestamp_ms = NO_TIMESTAMP
        self.max_timestamp_ms = NO_TIMESTAMP
        self.max_timestamp_offset = base_offset
        """Base offset of the first batch with the newest timestamp."""

    @classmethod
    def load(
        cls, filesystem: Filesystem, directory: str, base_offset: int, *, has_gaps: bool = False
    ) -> Segment | None:
        """Take a closed segment from its index file; None when that is missing or does not fit the segment."""
        segment = cls(filesystem, directory, base_offset, has_gaps=has_gaps)
        data = read_whole(filesystem, segment.index_path)
        decoded = None if data is None else SparseIndex.decode(data)
        if decoded is None:
            return None
        _, summary = decoded
        file = filesystem.open(segment.path)
        try:
            file_size_bytes = file.size()
        finally:
            file.close()
        if summary.base_offset != base_offset or summary.size_bytes != file_size_bytes:
            return None
        segment._index = None  # loaded when somebody reads
        segment._allocated_bytes = file_size_bytes
        segment.size_bytes = summary.size_bytes
        segment.next_offset = summary.next_offset
        segment.first_timestamp_ms = summary.first_timestamp_ms
        segment.max_timestamp_ms = summary.max_timestamp_ms
        segment.max_timestamp_offset = summary.max_timestamp_offset
        segment.batch_count = summary.batch_count
        return segment

    @property
    def index_path(self) -> str:
        return join(self._directory, segment_stem(self.base_offset) + INDEX_SUFFIX)

    @property
    def index(self) -> SparseIndex:
        """The index; read from its file, or rebuilt by a scan, when it is not in memory.

        Raises:
            CorruptLog: the scan met damage.
        """
        index = self._index
        if index is None:
            index = self._load_index()
            self._index = index
        return index

    def _load_index(self) -> SparseIndex:
        data = read_whole(self._filesystem, self.index_path)
        decoded = None if data is None else SparseIndex.decode(data)
        if decoded is not None and decoded[1] == self.summary():
            return decoded[0]
        probe("storage.index.rebuilt_on_read")
        return self.recount(self.size_bytes, LogConfig()).index

    def scan(
        self,
        file: File,
        position: int = 0,
        *,
        index: SparseIndex | None = None,
        end_position: int | None = None,
        epochs: LeaderEpochHistory | None = None,
    ) -> BatchScan:
        """Verify batch after batch from the beginning, or from a position that `index` gave."""
        indexed_offset = None if index is None else index.offset_at(position)
        return BatchScan(
            file,
            position=position,
            end_position=self.size_bytes if end_position is None else end_position,
            expected_offset=self.base_offset if indexed_offset is None else indexed_offset,
            is_indexed=indexed_offset is not None,
            verify=True,
            allow_gaps=self.has_gaps,
            epochs=epochs,
        )

    def damaged(self, position: int, problem: str) -> CorruptLog:
        """The error that says what is wrong with the batch at `position`."""
        return CorruptLog(f"{self.path}: at byte {position}: {problem}", path=self.path, position=position)

    def summary(self) -> SegmentSummary:
        """What the index file says of the segment."""
        return SegmentSummary(
            self.base_offset,
            self.size_bytes,
            self.next_offset,
            self.first_timestamp_ms,
            self.max_timestamp_ms,
            self.max_timestamp_offset,
            self.batch_count,
        )

    def open_for_read(self) -> File:
        """A handle of the reader's own, so that closing or deleting the segment never pulls it away."""
        return self._filesystem.open(self.path)

    def open_for_append(self, *, create: bool = False) -> File:
        """The handle for writing and syncing; opened when it is not."""
        file = self.file
        if file is None:
            file = self._filesystem.open(self.path, create=create)
            self.file = file
            self._allocated_bytes = file.size()
        return file

    def append(self, data: Data, headers: Sequence[BatchHeader], config: LogConfig) -> None:
        """Write whole batches at the end; `headers` are those of `data`, in order."""
        position = self.size_bytes
        end = position + len(data)
        file = self.file or self.open_for_append()
        if end > self._allocated_bytes and config.preallocate:
            self._reserve(file, end, config)
        file.write_at(position, data)
        interval = config.index_interval_bytes
        for header in headers:
            self.note(position, header, index_interval_bytes=interval)
            position += header.size_bytes
        invariant(position == end, "the headers account for every byte", end=end, position=position)
        self.size_bytes = end

    def note(self, position: int, header: BatchHeader, *, index_interval_bytes: int) -> None:
        """Account for a batch that is in the file at `position`."""
        index = self.index if self._index is None else self._index
        if position - index.last_position >= index_interval_bytes:
            index.append(header.base_offset, position, self.max_timestamp_ms)
        timestamp_ms = header.max_timestamp_ms
        if position == 0:
            self.first_timestamp_ms = timestamp_ms
        if timestamp_ms > self.max_timestamp_ms:
            self.max_timestamp_ms = timestamp_ms
            self.max_timestamp_offset = header.base_offset
        self.next_offset = header.base_offset + header.last_offset_delta + 1
        self.batch_count += 1

    def _reserve(self, file: File, end: int, config: LogConfig) -> None:
        step = min(max(self._allocated_bytes, config.preallocate_bytes_min), config.preallocate_bytes_max)
        target = max(end, min(self._allocated_bytes + step, config.segment_bytes))
        try:
            file.preallocate(target)
        except OSError:
            probe("storage.preallocate.failed")
            # Nothing is written yet, so this is no failure: the write that follows decides. Try again a step later.
            self._allocated_bytes = max(end, self._allocated_bytes) + config.preallocate_bytes_min
            return
        self._allocated_bytes = target

    def trim(self) -> None:
        """Cut off what follows the last batch, as preallocated zeros do; durable with the next sync."""
        self.open_for_append().truncate(self.size_bytes)
        self._allocated_bytes = self.size_bytes

    def write_index(self) -> None:
        """Write the index file of a closed segment. It is not synced: a damaged one is rebuilt."""
        name = segment_stem(self.base_offset) + INDEX_SUFFIX
        write_whole(self._filesystem, self._directory, name, self.index.encode(self.summary()), durable=False)

    def truncate(self, left: Segment, *, next_offset: int) -> None:
        """Drop every batch that is not in `left`, what `recount` found below the cut; durably."""
        position = left.size_bytes
        file = self.open_for_append()
        file.truncate(position)
        failpoint("storage.segment.truncate.before_sync")
        file.sync()
        failpoint("storage.segment.truncate.before_remove_index")
        if self._filesystem.exists(self.index_path):
            self._filesystem.remove(self.index_path)
        self._index = left.index
        self._allocated_bytes = self.size_bytes = position
        self.batch_count = left.batch_count
        self.first_timestamp_ms = left.first_timestamp_ms
        self.max_timestamp_ms = left.max_timestamp_ms
        self.max_timestamp_offset = left.max_timestamp_offset
        self.next_offset = next_offset

    def recount(self, size_bytes: int, config: LogConfig, epochs: LeaderEpochHistory | None = None) -> Segment:
        """Index, timestamps and end of what lies below `size_bytes`, from every batch there; nothing is changed.

        Raises:
            CorruptLog: a batch is damaged.
        """
        fresh = Segment(self._filesystem, self._directory, self.base_offset, has_gaps=self.has_gaps)
        file = self.open_for_read()
        try:
            scan = self.scan(file, end_position=size_bytes, epochs=epochs)
            for position, header in scan:
                fresh.note(position, header, index_interval_bytes=config.index_interval_bytes)
        finally:
            file.close()
        if scan.problem is not None:
            raise self.damaged(scan.position, scan.problem)
        fresh.size_bytes = size_bytes
        return fresh

    def find_batch(self, offset: int, epochs: LeaderEpochHistory) -> tuple[int, int]:
        """Position and base offset of the first batch that reaches beyond `offset`; the end when there is none.

        Raises:
            CorruptLog: a batch on the way there is damaged.
        """
        index = self.index
        file = self.open_for_read()
        try:
            scan = self.scan(file, index.floor(offset), index=index, epochs=epochs)
            for position, header in scan:
                if header.next_offset > offset:
                    return position, header.base_offset
        finally:
            file.close()
        if scan.problem is not None:
            raise self.damaged(scan.position, scan.problem)
        return self.size_bytes, self.next_offset

    def close_file(self) -> None:
        """Give the write handle back; idempotent."""
        file, self.file = self.file, None
        if file is not None:
            file.close()

    def mark_deleted(self) -> list[str]:
        """Rename the files out of the way; returns the new paths, to be removed once readers are done."""
        renamed = []
        for path in (self.path, self.index_path):
            if self._filesystem.exists(path):
                self._filesystem.rename(path, path + DELETED_SUFFIX)
                failpoint("storage.segment.mark_deleted.after_rename")
                renamed.append(path + DELETED_SUFFIX)
        return renamed

    def __repr__(self) -> str:
        return f"Segment([{self.base_offset}, {self.next_offset}), {self.size_bytes} bytes)"
