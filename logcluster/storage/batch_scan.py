"""Walking over stored batches: slices of bytes for readers, and scans of files for indexes and recovery.

Base offset, length and leader epoch of a batch lie outside its checksum. So a stored batch is sound when its checksum
is right, it begins where the one before it ended, and its leader epoch is the one that the log's history gives for it.

A scan stops at the first thing that is not the batch it expects and says why. Whether that is the end of the log, a
torn tail or damage is decided in `recovery`, for which `find_batch_after` looks whether anything sound follows.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

from logcluster.model.epochs import LeaderEpochHistory
from logcluster.model.errors import CorruptMessage, UnsupportedVersion
from logcluster.model.limits import BATCH_SIZE_BYTES_MAX, MIB
from logcluster.record.batch import HEADER_SIZE_BYTES, BatchHeader, check_crc, read_header
from logcluster.storage.filesystem import File

CHUNK_SIZE_BYTES: Final = 1 * MIB
OFFSET_MAX: Final = 2**63 - 1
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


def misplacement(header: BatchHeader, expected_offset: int, *, allow_gaps: bool) -> str | None:
    """What is wrong with a batch that stands where `expected_offset` is due; None when nothing is."""
    base_offset = header.base_offset
    if base_offset == expected_offset or (allow_gaps and base_offset > expected_offset):
        return None
    if base_offset < expected_offset:
        return f"offset {base_offset} comes after {expected_offset - 1}"
    return f"offset {base_offset} where {expected_offset} is due"


def wrong_epoch(header: BatchHeader, epochs: LeaderEpochHistory) -> str | None:
    """What the history says against the leader epoch of a batch whose checksum was right; None when nothing.

    The last offset is looked up, because the history may begin in the middle of a batch, at the log start.
    """
    known = epochs.epoch_at(header.last_offset)
    if known is None or known == header.leader_epoch:
        return None
    return f"offset {header.base_offset} is of leader epoch {header.leader_epoch}, the history says {known}"


class BatchScan:
    """Iterates over the batches of a file from a position on, and remembers why it stopped.

    Args:
        end_position: the scan does not look beyond it.
        expected_offset: offset of the first batch; at least, when there may be gaps and it does not come from an index.
        is_indexed: whether it comes from an index.
        verify: check checksums too.
        allow_gaps: whether an offset may be larger than the one expected.
        epochs: the history that batches must agree with, as long as they begin below `epochs_below`; None for any.

    After the iteration `position` and `expected_offset` say where it stopped, and `problem` is None exactly when that
    is `end_position`. During it, `chunk` holds the batch that was yielded last, and begins at byte `chunk_position`.
    """

    def __init__(
        self,
        file: File,
        *,
        position: int,
        end_position: int,
        expected_offset: int,
        is_indexed: bool = False,
        verify: bool,
        allow_gaps: bool,
        epochs: LeaderEpochHistory | None = None,
        epochs_below: int = OFFSET_MAX,
    ) -> None:
        self.position = position
        self.expected_offset = expected_offset
        self.problem: str | None = None
        self.chunk = memoryview(b"")
        self.chunk_position = position
        self._file = file
        self._end_position = end_position
        self._verify = verify
        self._allow_gaps = allow_gaps
        self._is_indexed = is_indexed
        self._epochs = epochs
        self._epochs_below = epochs_below

    def __iter__(self) -> Iterator[tuple[int, BatchHeader]]:
        while self.position < self._end_position:
            header = self._header(self.chunk, self.position - self.chunk_position)
            if header is None or self.position - self.chunk_position + header.size_bytes > len(self.chunk):
                self._read(CHUNK_SIZE_BYTES if header is None else max(CHUNK_SIZE_BYTES, header.size_bytes))
                try:
                    header = read_header(self.chunk)
                except (CorruptMessage, UnsupportedVersion) as error:
                    self.problem = error.message
                    return
                if header.size_bytes > len(self.chunk):
                    self._read(header.size_bytes)
            self.problem = self._check(self.chunk, self.position - self.chunk_position, header)
            if self.problem is not None:
                return
            position = self.position
            self.position += header.size_bytes
            self.expected_offset = header.next_offset
            yield position, header

    def _read(self, size_bytes: int) -> None:
        self.chunk_position = self.position
        size_bytes = min(size_bytes, self._end_position - self.position)
        self.chunk = memoryview(self._file.read_at(self.position, size_bytes))

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
        if self._verify and not check_crc(chunk, position, header):
            return "a batch fails its checksum"
        problem = misplacement(header, self.expected_offset, allow_gaps=self._allow_gaps and not self._is_indexed)
        self._is_indexed = False
        if problem is None and self._epochs is not None and header.base_offset < self._epochs_below:
            problem = wrong_epoch(header, self._epochs)
        return problem


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
