"""Reading a log from its files, off the event loop: slices of batches, and offsets by time.

A reader works on a tuple of segments that it took once, opens each file for itself, and verifies every batch it
returns: damage that is met here is reported, never passed on. A segment may be truncated or deleted meanwhile; then the
bytes make no sense any more, and the log, which knows, tries again.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from logcluster.model.errors import CorruptLog, CorruptMessage, UnsupportedVersion
from logcluster.record.batch import BatchHeader, check_crc, decode_records, read_header
from logcluster.storage.batch_scan import BatchScan, LogRead
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


def read_segments(segments: Sequence[Segment], start_offset: int, *, size_bytes_max: int, end_offset: int) -> LogRead:
    """Whole, verified batches of one segment, from the one that holds `start_offset` on.

    Raises:
        CorruptLog: a batch is damaged.
        OSError: the file cannot be read, or is gone.
    """
    for segment in segments[segment_for(segments, start_offset) :]:
        if segment.next_offset <= start_offset or segment.size_bytes == 0:
            continue
        file = segment.open_for_read()
        try:
            read = _read_segment(segment, file, start_offset, size_bytes_max=size_bytes_max, end_offset=end_offset)
        finally:
            file.close()
        if read is not None:
            return read
    return LogRead(b"", start_offset, False)


def _read_segment(
    segment: Segment, file: File, start_offset: int, *, size_bytes_max: int, end_offset: int
) -> LogRead | None:
    end_position = segment.size_bytes
    position = segment.index.floor(start_offset)
    wanted = size_bytes_max + _READ_AHEAD_BYTES
    chunk = memoryview(file.read_at(position, min(wanted, end_position - position)))
    cursor = 0
    begin: int | None = None
    next_offset = start_offset
    while position + cursor < end_position:
        header = _header_at(chunk, cursor)
        if header is None or cursor + header.size_bytes > len(chunk):
            if begin is not None:
                break
            position += cursor
            cursor = 0
            header = _first_header(segment, file, position)
            wanted = max(header.size_bytes, size_bytes_max)
            chunk = memoryview(file.read_at(position, min(wanted, end_position - position)))
            if header.size_bytes > len(chunk):
                raise _damaged(segment, position, "a batch is cut short")
        if header.next_offset > start_offset:
            if header.next_offset > end_offset or (
                begin is not None and cursor + header.size_bytes - begin > size_bytes_max
            ):
                break
            if header.base_offset < next_offset and begin is not None:
                raise _damaged(segment, position + cursor, "offsets go back")
            if not check_crc(chunk, cursor, header):
                raise _damaged(segment, position + cursor, "a batch fails its checksum")
            if begin is None:
                begin = cursor
            next_offset = header.next_offset
        cursor += header.size_bytes
    if begin is None:
        return LogRead(b"", start_offset, False) if position + cursor < end_position else None
    return LogRead(bytes(chunk[begin:cursor]), next_offset, False)


def _header_at(chunk: memoryview, cursor: int) -> BatchHeader | None:
    try:
        return read_header(chunk, cursor)
    except (CorruptMessage, UnsupportedVersion):
        return None  # cut short, or damaged: read again on its own


def _first_header(segment: Segment, file: File, position: int) -> BatchHeader:
    try:
        return read_header(file.read_at(position, 61))
    except (CorruptMessage, UnsupportedVersion) as error:
        raise _damaged(segment, position, error.message) from error


def _damaged(segment: Segment, position: int, problem: str) -> CorruptLog:
    return CorruptLog(f"{segment.path}: at byte {position}: {problem}", path=segment.path, position=position)


def iterate_batches(segments: Sequence[Segment], start_offset: int) -> Iterator[BatchHeader]:
    """Headers of all batches from the one that holds `start_offset` on.

    Raises:
        CorruptLog: something that is no batch is in the way; checksums are not verified.
        OSError: a file cannot be read.
    """
    for segment in segments[segment_for(segments, start_offset) :]:
        if segment.next_offset <= start_offset or segment.size_bytes == 0:
            continue
        file = segment.open_for_read()
        try:
            scan = _scan_from(segment, file, segment.index.floor(start_offset))
            for _, header in scan:
                if header.next_offset > start_offset:
                    yield header
            if scan.problem is not None:
                raise _damaged(segment, scan.position, scan.problem)
        finally:
            file.close()


def find_timestamp(
    segments: Sequence[Segment], timestamp_ms: int, *, start_offset: int, end_offset: int
) -> TimestampOffset | None:
    """The first record from `start_offset` on, below `end_offset`, that is not older than `timestamp_ms`.

    Raises:
        CorruptLog, OSError: as `iterate_batches`.
    """
    for segment in segments:
        if segment.next_offset <= start_offset or segment.max_timestamp_ms < timestamp_ms:
            continue
        file = segment.open_for_read()
        try:
            position = max(segment.index.floor_for_timestamp(timestamp_ms), segment.index.floor(max(0, start_offset)))
            for batch_position, header in _scan_from(segment, file, position):
                if header.base_offset >= end_offset:
                    return None
                if header.next_offset <= start_offset or header.max_timestamp_ms < timestamp_ms:
                    continue
                found = _find_record(
                    segment, file, batch_position, header, timestamp_ms, range(start_offset, end_offset)
                )
                if found is not None:
                    return found
        finally:
            file.close()
    return None


def find_newest(segments: Sequence[Segment], *, start_offset: int, end_offset: int) -> TimestampOffset | None:
    """The first record with the newest timestamp of all; None when no record has one."""
    newest = max((segment.max_timestamp_ms for segment in segments), default=NO_TIMESTAMP)
    while newest > NO_TIMESTAMP:
        found = find_timestamp(segments, newest, start_offset=start_offset, end_offset=end_offset)
        if found is not None:
            return found
        newest = _newest_below(segments, newest, start_offset=start_offset, end_offset=end_offset)
    return None


def _newest_below(segments: Sequence[Segment], limit: int, *, start_offset: int, end_offset: int) -> int:
    """The newest batch timestamp below `limit` in the range; the newest one lies outside of it."""
    newest = NO_TIMESTAMP
    for header in iterate_batches(segments, start_offset):
        if header.base_offset >= end_offset:
            break
        if newest < header.max_timestamp_ms < limit:
            newest = header.max_timestamp_ms
    return newest


def _scan_from(segment: Segment, file: File, position: int) -> BatchScan:
    return BatchScan(
        file,
        position=position,
        end_position=segment.size_bytes,
        expected_offset=None,
        verify=False,
        allow_gaps=True,
    )


def _find_record(
    segment: Segment, file: File, position: int, header: BatchHeader, timestamp_ms: int, offsets: range
) -> TimestampOffset | None:
    try:
        records = decode_records(file.read_at(position, header.size_bytes))
    except CorruptMessage as error:
        raise _damaged(segment, position, error.message) from error
    for record in records:
        if record.offset in offsets and record.timestamp is not None and record.timestamp >= timestamp_ms:
            return TimestampOffset(record.offset, record.timestamp)
    return None
