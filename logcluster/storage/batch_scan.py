"""Walking over stored batches: slices of bytes for readers, and scans of files for indexes and recovery.

A scan stops at the first thing that is not the batch it expects and says why. Whether that is the end of the log, a
torn tail or damage is decided in `recovery`, for which `find_batch_after` looks whether anything sound follows.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

from logcluster.model.errors import CorruptMessage, UnsupportedVersion
from logcluster.model.limits import BATCH_SIZE_BYTES_MAX, MIB
from logcluster.record.batch import HEADER_SIZE_BYTES, BatchHeader, check_crc, read_header
from logcluster.storage.filesystem import File

CHUNK_SIZE_BYTES: Final = 1 * MIB
_LOCATION: Final = struct.Struct(">qi11xi")
"""Base offset and length, then (after epoch, magic, checksum and attributes) the last offset delta."""
_PREFIX_SIZE_BYTES: Final = 12
_CANDIDATE: Final = re.compile(rb"(?=\x00[\s\S]{7}\x00[\s\S]{7}\x02)")
"""Where a batch might begin: offset below 2^56, size below 16 MiB, format 2."""
_CANDIDATE_SIZE_BYTES: Final = 17


class LogRead(NamedTuple):
    """Whole batches of a log.

    `data` is empty when nothing may be read yet; `next_offset` is where to go on. The first batch may begin before the
    offset that was asked for.
    """

    data: bytes
    next_offset: int
    from_memory: bool


def take_batches(data: bytes, start_offset: int, *, size_bytes_max: int, end_offset: int) -> tuple[bytes, int]:
    """Cut out the batches from the one that holds `start_offset` on, none at or after `end_offset`.

    `data` is whole, sound batches. At least one batch is returned even when it exceeds `size_bytes_max`, if there is
    one; the second value is the offset to go on from.
    """
    position = 0
    size = len(data)
    begin = -1
    next_offset = start_offset
    while position < size:
        base_offset, length, last_offset_delta = _LOCATION.unpack_from(data, position)
        after = base_offset + last_offset_delta + 1
        following = position + _PREFIX_SIZE_BYTES + length
        if after > start_offset:
            if after > end_offset or (begin >= 0 and following - begin > size_bytes_max):
                break
            if begin < 0:
                begin = position
            next_offset = after
        position = following
    if begin < 0:
        return b"", next_offset
    return data[begin:position], next_offset


class BatchScan:
    """Iterates over the batches of a file from a position on, and remembers why it stopped.

    Args:
        end_position: the scan does not look beyond it.
        expected_offset: offset of the first batch, at least; None when it is not known.
        verify: check checksums too.
        allow_gaps: whether an offset may be larger than the one expected.

    After the iteration `position` and `expected_offset` say where it stopped, and `problem` is None exactly when that
    is `end_position`.
    """

    def __init__(
        self,
        file: File,
        *,
        position: int,
        end_position: int,
        expected_offset: int | None,
        verify: bool,
        allow_gaps: bool,
    ) -> None:
        self.position = position
        self.expected_offset = expected_offset
        self.problem: str | None = None
        self._file = file
        self._end_position = end_position
        self._verify = verify
        self._allow_gaps = allow_gaps

    def __iter__(self) -> Iterator[tuple[int, BatchHeader]]:
        chunk = memoryview(b"")
        chunk_position = self.position
        while self.position < self._end_position:
            offset_in_chunk = self.position - chunk_position
            header = self._header(chunk, offset_in_chunk)
            if header is None or offset_in_chunk + header.size_bytes > len(chunk):
                wanted = CHUNK_SIZE_BYTES if header is None else max(CHUNK_SIZE_BYTES, header.size_bytes)
                chunk_position, offset_in_chunk = self.position, 0
                chunk = memoryview(self._file.read_at(chunk_position, min(wanted, self._end_position - chunk_position)))
                try:
                    header = read_header(chunk, 0)
                except (CorruptMessage, UnsupportedVersion) as error:
                    self.problem = error.message
                    return
                if header.size_bytes > len(chunk):
                    chunk = memoryview(
                        self._file.read_at(chunk_position, min(header.size_bytes, self._end_position - chunk_position))
                    )
            self.problem = self._check(chunk, offset_in_chunk, header)
            if self.problem is not None:
                return
            position = self.position
            self.position += header.size_bytes
            self.expected_offset = header.next_offset
            yield position, header

    def _header(self, chunk: memoryview, position: int) -> BatchHeader | None:
        if position + HEADER_SIZE_BYTES > len(chunk):
            return None
        try:
            return read_header(chunk, position)
        except (CorruptMessage, UnsupportedVersion):
            return None  # read again on its own, for the message

    def _check(self, chunk: memoryview, position: int, header: BatchHeader) -> str | None:
        if position + header.size_bytes > len(chunk):
            return f"a batch of {header.size_bytes} bytes is cut short"
        expected = self.expected_offset
        if expected is not None and header.base_offset != expected:
            if header.base_offset < expected:
                return f"offset {header.base_offset} comes after {expected - 1}"
            if not self._allow_gaps:
                return f"offset {header.base_offset} where {expected} is due"
        if self._verify and not check_crc(chunk, position, header):
            return "a batch fails its checksum"
        return None


def find_batch_after(file: File, *, position: int, end_position: int, offset_min: int) -> int | None:
    """Look for a sound batch at or after `position` whose base offset is at least `offset_min`; its position."""
    while position < end_position:
        size = min(CHUNK_SIZE_BYTES + _CANDIDATE_SIZE_BYTES, end_position - position)
        chunk = file.read_at(position, size)
        if chunk.count(0) != len(chunk):
            for match in _CANDIDATE.finditer(chunk):
                start = match.start()
                base_offset, length = struct.unpack_from(">qi", chunk, start)
                size_bytes = length + _PREFIX_SIZE_BYTES
                if base_offset < offset_min or not HEADER_SIZE_BYTES <= size_bytes <= BATCH_SIZE_BYTES_MAX:
                    continue
                if position + start + size_bytes <= end_position and _is_sound(file, position + start, size_bytes):
                    return position + start
        position += CHUNK_SIZE_BYTES
    return None


def _is_sound(file: File, position: int, size_bytes: int) -> bool:
    data = file.read_at(position, size_bytes)
    try:
        return check_crc(data, 0, read_header(data))
    except (CorruptMessage, UnsupportedVersion):
        return False
