"""Everything that only looks at a partition log: records from memory and from files, times, producer snapshots.

`read`, `offset_for_timestamp`, `newest_timestamp` and `headers_from` may run on any thread while the owner appends,
rolls, truncates and deletes: they take the tuple of segments once, open files for themselves, and when the bytes make
no sense, look whether files were cut meanwhile before they call it damage.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from logcluster.model.errors import CorruptLog, LogClusterError, OffsetNotAvailable, OffsetOutOfRange
from logcluster.model.probes import probe
from logcluster.record.batch import BatchHeader
from logcluster.storage.batch_scan import LogRead
from logcluster.storage.log_read import TimestampOffset, find_newest, find_timestamp, iterate_batches, read_segments
from logcluster.storage.log_state import LogState
from logcluster.storage.segment import Segment

Result = TypeVar("Result")
_READ_ATTEMPTS = 3
_NOT_THE_DISK = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)


class ReadableLog(LogState):
    """The reading half of `PartitionLog`."""

    def read_tail(self, start_offset: int, *, size_bytes_max: int, end_offset: int) -> LogRead | None:
        """As `read`, from memory only: None when the offset is no longer there and `read` must be asked.

        Raises:
            OffsetOutOfRange: as `read`.
        """
        if self._failure is not None:
            self._check_usable()
        if start_offset >= end_offset or start_offset >= self.log_end_offset:
            self._check_range(start_offset)
            return LogRead(b"", start_offset, True)
        if start_offset < self.log_start_offset:
            self._check_range(start_offset)
        return self._tail.read(start_offset, size_bytes_max=size_bytes_max, end_offset=end_offset)

    def read(self, start_offset: int, *, size_bytes_max: int, end_offset: int) -> LogRead:
        """Whole batches from the one that holds `start_offset`, none at or after `end_offset`; on any thread.

        At least one batch is returned, even if it is larger than `size_bytes_max`, when there is one below `end_offset`
        (the reader's ceiling: high watermark, last stable offset or log end). Every batch is verified: its checksum,
        then that it continues the one before, and that its leader epoch is the one the history knows for it.

        Raises:
            OffsetOutOfRange: `start_offset` is below the log start or above the log end.
            CorruptLog: the bytes on disk are damaged; the log is failed.
            OffsetNotAvailable: the log is being cut; ask again.
        """
        self._check_usable()
        self._check_range(start_offset)
        if start_offset >= min(end_offset, self.log_end_offset):
            return LogRead(b"", start_offset, False)

        def work(segments: Sequence[Segment]) -> LogRead:
            if start_offset >= self.log_end_offset:  # cut off since it was looked at
                return LogRead(b"", start_offset, False)
            return read_segments(
                segments,
                start_offset,
                size_bytes_max=size_bytes_max,
                end_offset=end_offset,
                epochs=self._known_epochs,
            )

        return self._read_files(work)

    def offset_for_timestamp(self, timestamp_ms: int, *, end_offset: int | None = None) -> TimestampOffset | None:
        """The first record not older than `timestamp_ms`, below `end_offset`; on any thread.

        Raises: as `read`.
        """
        self._check_usable()
        start, end = self.log_start_offset, self.log_end_offset if end_offset is None else end_offset
        return self._read_files(
            lambda segments: find_timestamp(
                segments, timestamp_ms, start_offset=start, end_offset=end, epochs=self._known_epochs
            )
        )

    def newest_timestamp(self, *, end_offset: int | None = None) -> TimestampOffset | None:
        """The first record with the newest timestamp, below `end_offset`; on any thread.

        Raises: as `read`.
        """
        self._check_usable()
        start, end = self.log_start_offset, self.log_end_offset if end_offset is None else end_offset
        return self._read_files(
            lambda segments: find_newest(segments, start_offset=start, end_offset=end, epochs=self._known_epochs)
        )

    def headers_from(self, offset: int) -> Iterator[BatchHeader]:
        """Headers of all batches from the one that holds `offset` on; while nothing is truncated.

        Raises: as `read`, while iterating.
        """
        self._check_usable()
        try:
            yield from iterate_batches(self._segments, max(offset, self.log_start_offset), epochs=self._known_epochs)
        except OSError as error:
            raise self._read_failed(error) from error
        except CorruptLog as error:
            self.fail(error)
            raise

    def _check_range(self, start_offset: int) -> None:
        if not self.log_start_offset <= start_offset <= self.log_end_offset:
            raise OffsetOutOfRange(
                f"offset {start_offset} of {self.topic_partition} is outside "
                f"[{self.log_start_offset}, {self.log_end_offset}]",
                offset=start_offset,
                log_start_offset=self.log_start_offset,
                log_end_offset=self.log_end_offset,
            )

    def _read_files(self, work: Callable[[Sequence[Segment]], Result]) -> Result:
        for _ in range(_READ_ATTEMPTS):
            generation = self._file_generation
            try:
                return work(self._segments)
            except (OSError, CorruptLog) as error:
                if generation != self._file_generation or generation % 2:
                    probe("storage.read.overtaken_by_cut")
                    continue
                if isinstance(error, OSError):
                    raise self._read_failed(error) from error
                probe("storage.damage.found_by_reader")
                self.fail(error)
                raise
        raise OffsetNotAvailable(f"{self.topic_partition} is being cut or cleaned")

    def _read_failed(self, error: OSError) -> LogClusterError:
        """What an unreadable file means: the replica steps aside, as for any damage; the directory goes on."""
        if error.errno in _NOT_THE_DISK:
            return OffsetNotAvailable(f"cannot open {error.filename}: {error.strerror}", hint="raise `ulimit -n`")
        failure = CorruptLog(f"cannot read {error.filename or self.directory}: {error.strerror}", path=self.directory)
        self.fail(failure)
        return failure

    # -- producer snapshots -----------------------------------------------------------------------------------------

    def write_producer_snapshot(self, offset: int, payload: bytes) -> None:
        """Keep the producer state after all batches below `offset`; not while the log has no data.

        Raises:
            StorageFailure: the disk failed; the log is failed for good.
        """
        self._check_usable()
        if self._segments:
            self._on_disk(lambda: self._snapshots.write(offset, payload))

    def latest_producer_snapshot(self, offset_max: int | None = None) -> tuple[int, bytes] | None:
        """The newest sound snapshot at or below `offset_max` (default: the log end), with its offset."""
        self._check_usable()
        limit = self.log_end_offset if offset_max is None else offset_max
        return self._on_disk(lambda: self._snapshots.latest(limit))

    def producer_snapshot_offsets(self) -> list[int]:
        """Offsets of all snapshots, ascending."""
        self._check_usable()
        return self._on_disk(self._snapshots.offsets)

    def remove_producer_snapshots_below(self, offset: int) -> None:
        """Remove older snapshots, except the newest of all."""
        self._check_usable()
        self._on_disk(lambda: self._snapshots.remove_below(offset))
