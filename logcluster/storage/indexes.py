"""The sparse index of one segment: offset to byte position, and time to offset.

About every `index_interval_bytes` one entry (offset, position, newest timestamp before it) says that the first batch at
or above `offset` begins at `position`. Kept in three flat columns in memory, so that a lookup is a bisection; written
beside the segment (`<base offset>.index`) with a checksum when the segment is closed. It is derived data: a file that
is missing, damaged or does not fit the segment's size is rebuilt from the batch headers.

    magic 4 | base offset 8 | log size 8 | next offset 8 | first timestamp 8 | newest timestamp 8 | its offset 8
    | batch count 8 | entry count 4 | offsets 8 x n | positions 8 x n | timestamps 8 x n | crc32 4     (all big endian)

The columns grow on the event loop while a reader on another thread bisects: `append` extends the searched column last,
and truncation replaces columns instead of shrinking them.
"""

from __future__ import annotations

import struct
import sys
import zlib
from array import array
from bisect import bisect_left, bisect_right
from typing import Final, NamedTuple

_MAGIC: Final = b"LCX2"
_HEADER: Final = struct.Struct(">4sqqqqqqqI")
_CRC: Final = struct.Struct(">I")
NO_TIMESTAMP: Final = -1
"""What batches without a timestamp carry; below every real one."""


class SegmentSummary(NamedTuple):
    """What is known of a whole segment besides its index entries."""

    base_offset: int
    size_bytes: int
    next_offset: int
    first_timestamp_ms: int
    max_timestamp_ms: int
    max_timestamp_offset: int
    batch_count: int


class SparseIndex:
    """Entries of one segment, in the order of its batches."""

    __slots__ = ("_offsets", "_positions", "_timestamps", "last_position")

    def __init__(self) -> None:
        self._offsets = array("q")
        self._positions = array("q")
        self._timestamps = array("q")
        self.last_position = 0
        """Position of the newest entry; 0 when there is none, as if the segment's begin were one."""

    def append(self, offset: int, position: int, max_timestamp_before_ms: int) -> None:
        """Add an entry; each column is larger than, or for timestamps at least, that of the entry before."""
        self._positions.append(position)
        self._timestamps.append(max_timestamp_before_ms)
        self._offsets.append(offset)
        self.last_position = position

    def floor(self, offset: int) -> int:
        """The greatest known position from which a scan meets `offset` (0 when there is no entry below)."""
        offsets, positions = self._offsets, self._positions
        index = bisect_right(offsets, offset) - 1
        return positions[index] if index >= 0 else 0

    def offset_at(self, position: int) -> int | None:
        """The offset of the batch that begins at `position`; None when there is no entry for it, as for position 0."""
        positions, offsets = self._positions, self._offsets
        index = bisect_left(positions, position)
        return offsets[index] if index < len(offsets) and positions[index] == position else None

    def floor_for_timestamp(self, timestamp_ms: int) -> int:
        """The greatest known position before which every batch is older than `timestamp_ms`."""
        positions, timestamps = self._positions, self._timestamps
        index = bisect_left(timestamps, timestamp_ms) - 1
        return positions[index] if index >= 0 else 0

    def truncate(self, size_bytes: int) -> None:
        """Forget entries at or after the position `size_bytes`."""
        keep = bisect_left(self._positions, size_bytes)
        offsets, positions, timestamps = self._offsets[:keep], self._positions[:keep], self._timestamps[:keep]
        self._offsets, self._positions, self._timestamps = offsets, positions, timestamps
        self.last_position = positions[-1] if keep else 0

    def entries(self) -> list[tuple[int, int, int]]:
        """All entries: (offset, position, newest timestamp before)."""
        return list(zip(self._offsets, self._positions, self._timestamps, strict=True))

    def __len__(self) -> int:
        return len(self._offsets)

    def encode(self, summary: SegmentSummary) -> bytes:
        """The bytes of the index file."""
        columns = [_big_endian(column) for column in (self._offsets, self._positions, self._timestamps)]
        content = b"".join([_HEADER.pack(_MAGIC, *summary, len(self._offsets)), *columns])
        return content + _CRC.pack(zlib.crc32(content))

    @classmethod
    def decode(cls, data: bytes) -> tuple[SparseIndex, SegmentSummary] | None:
        """Read an index file; None when it is damaged."""
        if len(data) < _HEADER.size + _CRC.size:
            return None
        content = memoryview(data)[: -_CRC.size]
        if _CRC.unpack_from(data, len(content))[0] != zlib.crc32(content):
            return None
        magic, *fields, count = _HEADER.unpack_from(data)
        if magic != _MAGIC or len(content) != _HEADER.size + 24 * count:
            return None
        index = cls()
        columns = content[_HEADER.size :]
        for number, column in enumerate((index._offsets, index._positions, index._timestamps)):
            column.frombytes(columns[number * 8 * count : (number + 1) * 8 * count])
            if sys.byteorder == "little":
                column.byteswap()
        index.last_position = index._positions[-1] if count else 0
        return index, SegmentSummary(*fields)


def _big_endian(column: array[int]) -> bytes:
    if sys.byteorder == "little":
        column = column[:]
        column.byteswap()
    return column.tobytes()
