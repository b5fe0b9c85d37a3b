"""Reading a log from its files, off the event loop: slices of batches, and offsets by time.

A reader works on a tuple of segments that it took once, opens each file for itself, and verifies every batch it
returns: damage that is met here is reported, never passed on, and never taken for "nothing to read". Verified is the
checksum first, then what lies outside of it: a batch continues the one before it, and its leader epoch is that of the
log's history. A segment may be truncated or deleted meanwhile; then the bytes make no sense any more, and the log,
which knows, tries again.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from logcluster.model.epochs import LeaderEpochHistory
from logcluster.model.errors import CorruptMessage, UnsupportedVersion
from logcluster.record.batch import HEADER_SIZE_BYTES, BatchHeader, check_crc, decode_records, read_header
from logcluster.storage.batch_scan import LogRead, misplacement, wrong_epoch
from logcluster.storage.filesystem import File
from logcluster.storage.indexes import NO_TIMESTAMP
from logcluster.storage.segment import Segment

_READ_AHEAD_BYTES = 8 * 1024
"""What is read beyond the wanted size, to get over the batches before the wanted one."""


class TimestampOffset(NamedTuple):
    """A record found by its time."""

    offset: int
    timestamp_ms: int


def segment_for(segments: Sequence[Segment], offset: int) -> int:
    """Index of the segment that holds `offset`: the last one whose base is not above it; at least 0."""
    return max(0, bisect_right(segments, offset, key=_base_offset) - 1)


def _base_offset(segment: Segment) -> int:
    return segment.base_offset


def read_segments(
    segments: Sequence[Segment],
    start_offset: int,
    *,
    size_bytes_max: int,
    end_offset: int,
    epochs: LeaderEpochHistory,
) -> LogRead:
    """Whole, verified batches of one segment, from the one that holds `start_offset` on.

    Raises:
        CorruptLog: a batch is damaged, or is not the one that belongs there.
        OSError: the file cannot be read, or is gone.
    """
    for segment in segments[segment_for(segments, start_offset) :]:
        if segment.next_offset <= start_offset or segment.size_bytes == 0:
            continue
        file = segment.open_for_read()
        try:
            read = _read_segment(
                segment, file, start_offset, size_bytes_max=size_bytes_max, end_offset=end_offset, epochs=epochs
            )
        finally:
            file.close()
        if read is not None:
            return read
    return LogRead(b"", start_offset, False)


def _read_segment(
    segment: Segment,
    file: File,
    start_offset: int,
    *,
    size_bytes_max: int,
    end_offset: int,
    epochs: LeaderEpochHistory,
) -> LogRead | None:
    """What is wanted of one segment; None when that lies behind it.

    Batches before the wanted one are only passed over: they must continue one another, from the indexed offset on.
    """
    end_position = segment.size_bytes
    index = segment.index
    position = index.floor(start_offset)
    indexed_offset = index.offset_at(position)
    expected = segment.base_offset if indexed_offset is None else indexed_offset
    allow_gaps = segment.has_gaps and indexed_offset is None
    chunk = memoryview(file.read_at(position, min(size_bytes_max + _READ_AHEAD_BYTES, end_position - position)))
    cursor = 0
    begin: int | None = None
    while position + cursor < end_position and expected < end_offset:
        header = _header_at(chunk, cursor)
        if begin is not None and not _fits(header, chunk, cursor, cursor - begin, size_bytes_max):
            break
        if header is None or cursor + header.size_bytes > len(chunk):
            position += cursor
            cursor = 0
            header, chunk = _read_batch(segment, file, position, end_position, size_bytes_max)
        is_wanted = header.next_offset > start_offset
        if is_wanted and not check_crc(chunk, cursor, header):
            raise segment.damaged(position + cursor, "a batch fails its checksum")
        problem = misplacement(header, expected, allow_gaps=allow_gaps)
        if problem is None and is_wanted:
            problem = wrong_epoch(header, epochs)
        if problem is not None:
            raise segment.damaged(position + cursor, problem)
        if header.next_offset > end_offset:
            break
        if begin is None and is_wanted:
            begin = cursor
        expected = header.next_offset
        allow_gaps = segment.has_gaps
        cursor += header.size_bytes
    if begin is not None:
        return LogRead(bytes(chunk[begin:cursor]), expected, False)
    if position + cursor < end_position:
        return LogRead(b"", start_offset, False)
    if not segment.has_gaps:
        raise segment.damaged(end_position, f"offset {start_offset} is missing")
    return None


def _header_at(chunk: memoryview, cursor: int) -> BatchHeader | None:
    try:
        return read_header(chunk, cursor)
    except (CorruptMessage, UnsupportedVersion):
        return None  # cut short, or damaged: read again on its own


def _fits(header: BatchHeader | None, chunk: memoryview, cursor: int, taken_bytes: int, size_bytes_max: int) -> bool:
    """Whether a batch can be added to those taken already: it is all in memory, and they do not become too large."""
    if header is None:
        return False
    return header.size_bytes <= min(len(chunk) - cursor, size_bytes_max - taken_bytes)


def _read_batch(
    segment: Segment, file: File, position: int, end_position: int, size_bytes_max: int
) -> tuple[BatchHeader, memoryview]:
    """Read on from a batch that is not in memory as a whole."""
    try:
        header = read_header(file.read_at(position, min(HEADER_SIZE_BYTES, end_position - position)))
    except (CorruptMessage, UnsupportedVersion) as error:
        raise segment.damaged(position, error.message) from error
    wanted = max(header.size_bytes, size_bytes_max)
    chunk = memoryview(file.read_at(position, min(wanted, end_position - position)))
    if header.size_bytes > len(chunk):
        raise segment.damaged(position, "a batch is cut short")
    return header, chunk


def iterate_batches(
    segments: Sequence[Segment], start_offset: int, *, epochs: LeaderEpochHistory
) -> Iterator[BatchHeader]:
    """Headers of all batches from the one that holds `start_offset` on, verified.

    Raises:
        CorruptLog: a batch is damaged, or is not the one that belongs there.
        OSError: a file cannot be read.
    """
    for segment in segments[segment_for(segments, start_offset) :]:
        if segment.next_offset <= start_offset or segment.size_bytes == 0:
            continue
        index = segment.index
        file = segment.open_for_read()
        try:
            scan = segment.scan(file, index.floor(start_offset), index=index, epochs=epochs)
            for _, header in scan:
                if header.next_offset > start_offset:
                    yield header
            if scan.problem is not None:
                raise segment.damaged(scan.position, scan.problem)
        finally:
            file.close()


def find_timestamp(
    segments: Sequence[Segment],
    timestamp_ms: int,
    *,
    start_offset: int,
    end_offset: int,
    epochs: LeaderEpochHistory,
) -> TimestampOffset | None:
    """The first record from `start_offset` on, below `end_offset`, that is not older than `timestamp_ms`.

    Raises:
        CorruptLog, OSError: as `iterate_batches`.
    """
    for segment in segments:
        if segment.next_offset <= start_offset or segment.max_timestamp_ms < timestamp_ms:
            continue
        index = segment.index
        file = segment.open_for_read()
        try:
            position = max(index.floor_for_timestamp(timestamp_ms), index.floor(max(0, start_offset)))
            scan = segment.scan(file, position, index=index, epochs=epochs)
            for batch_position, header in scan:
                if header.base_offset >= end_offset:
                    return None
                if header.next_offset <= start_offset or header.max_timestamp_ms < timestamp_ms:
                    continue
                found = _find_record(
                    segment, file, batch_position, header, timestamp_ms, range(start_offset, end_offset)
                )
                if found is not None:
                    return found
            if scan.problem is not None:
                raise segment.damaged(scan.position, scan.problem)
        finally:
            file.close()
    return None


def find_newest(
    segments: Sequence[Segment], *, start_offset: int, end_offset: int, epochs: LeaderEpochHistory
) -> TimestampOffset | None:
    """The first record with the newest timestamp of all; None when no record has one."""
    newest = max((segment.max_timestamp_ms for segment in segments), default=NO_TIMESTAMP)
    while newest > NO_TIMESTAMP:
        found = find_timestamp(segments, newest, start_offset=start_offset, end_offset=end_offset, epochs=epochs)
        if found is not None:
            return found
        newest = _newest_below(segments, newest, range(start_offset, end_offset), epochs)
    return None


def _newest_below(segments: Sequence[Segment], limit: int, offsets: range, epochs: LeaderEpochHistory) -> int:
    """The newest batch timestamp below `limit` in the range; the newest one lies outside of it."""
    newest = NO_TIMESTAMP
    for header in iterate_batches(segments, offsets.start, epochs=epochs):
        if header.base_offset >= offsets.stop:
            break
        if newest < header.max_timestamp_ms < limit:
            newest = header.max_timestamp_ms
    return newest


def _find_record(
    segment: Segment, file: File, position: int, header: BatchHeader, timestamp_ms: int, offsets: range
) -> TimestampOffset | None:
    try:
        records = decode_records(file.read_at(position, header.size_bytes))
    except CorruptMessage as error:
        raise segment.damaged(position, error.message) from error
    for record in records:
        if record.offset in offsets and record.timestamp is not None and record.timestamp >= timestamp_ms:
            return TimestampOffset(record.offset, record.timestamp)
    return None
