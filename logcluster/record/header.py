"""Layout and header of a record batch, Kafka's format v2: reading, checking the checksum, stamping.

    position  size  field
    0         8     base_offset             stamped by the leader
    8         4     length                  bytes after this field: size_bytes - 12
    12        4     leader_epoch            stamped by the leader, -1 before
    16        1     magic                   2
    17        4     crc                     CRC-32C of everything from position 21 to the end
    21        2     attributes              bits 0-2 codec, 3 append time, 4 transactional, 5 control, 6 delete horizon
    23        4     last_offset_delta
    27        8     base_timestamp_ms
    35        8     max_timestamp_ms
    43        8     producer_id             -1: none; so are the two below
    51        2     producer_epoch
    53        4     base_sequence
    57        4     record_count
    61        ...   records, compressed as one block

All numbers are big-endian. The checksum leaves out base offset and leader epoch, so that a broker stamps them without
touching the rest. After compaction offsets have gaps: `record_count` may be less than `last_offset_delta + 1`.
Source: Kafka's DefaultRecordBatch, KIP-98.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

import google_crc32c

from logcluster.model.errors import CorruptMessage, UnsupportedCompression, UnsupportedVersion
from logcluster.model.limits import BATCH_SIZE_BYTES_MAX, SEQUENCE_MAX
from logcluster.record.compression import Buffer, Compression

__all__ = [
    "ATTRIBUTES_POSITION",
    "HEADER_SIZE_BYTES",
    "LENGTH_PREFIX_SIZE_BYTES",
    "MAGIC",
    "BatchHeader",
    "TimestampType",
    "check_crc",
    "crc32c",
    "iterate_headers",
    "read_header",
    "seal",
    "stamp",
]

HEADER_SIZE_BYTES: Final = 61
LENGTH_PREFIX_SIZE_BYTES: Final = 12
"""Base offset and length, which the length field does not count."""
MAGIC: Final = 2
MAGIC_POSITION: Final = 16
ATTRIBUTES_POSITION: Final = 21

CODEC_MASK: Final = 0x07
APPEND_TIME_FLAG: Final = 0x08
TRANSACTIONAL_FLAG: Final = 0x10
CONTROL_FLAG: Final = 0x20

_HEADER: Final = struct.Struct(">qiibIhiqqqhii")
_STAMP: Final = struct.Struct(">qii")
_CRC: Final = struct.Struct(">I")
_CHECKED: Final = struct.Struct(">hiqqqhii")
"""The part of the header that the checksum covers."""
_MAX_TIMESTAMP_IN_CHECKED: Final = 14


class TimestampType:
    """What a record's timestamp means."""

    CREATE_TIME: Final = 0
    LOG_APPEND_TIME: Final = 1


class BatchHeader(NamedTuple):
    """The header as stored; -1 stands for an absent leader epoch, producer or timestamp, as in the format."""

    base_offset: int
    size_bytes: int
    """Of the whole batch, header and length prefix included."""
    leader_epoch: int
    magic: int
    crc: int
    attributes: int
    last_offset_delta: int
    base_timestamp_ms: int
    max_timestamp_ms: int
    producer_id: int
    producer_epoch: int
    base_sequence: int
    record_count: int

    @property
    def last_offset(self) -> int:
        """Offset of the last record (inclusive), also when compaction has removed it."""
        return self.base_offset + self.last_offset_delta

    @property
    def next_offset(self) -> int:
        """Offset that follows the batch."""
        return self.base_offset + self.last_offset_delta + 1

    @property
    def codec(self) -> Compression:
        """How the records are compressed.

        Raises:
            UnsupportedCompression: the number stands for no codec.
        """
        number = self.attributes & CODEC_MASK
        if number > Compression.ZSTD:
            raise UnsupportedCompression(f"compression codec {number} is unknown", codec=number)
        return Compression(number)

    @property
    def is_transactional(self) -> bool:
        return self.attributes & TRANSACTIONAL_FLAG != 0

    @property
    def is_control(self) -> bool:
        """Whether the batch holds a marker of the system rather than records of a user."""
        return self.attributes & CONTROL_FLAG != 0

    @property
    def has_producer(self) -> bool:
        """Whether an idempotent or transactional producer sent it."""
        return self.producer_id >= 0

    @property
    def last_sequence(self) -> int:
        """Sequence number of the last record; numbers wrap from 2^31-1 to 0; -1 when the batch has none."""
        if self.base_sequence < 0:
            return -1
        last = self.base_sequence + self.last_offset_delta
        return last if last <= SEQUENCE_MAX else last - SEQUENCE_MAX - 1

    @property
    def timestamp_type(self) -> int:
        """One of `TimestampType`; with append time all records carry `max_timestamp_ms`."""
        return TimestampType.LOG_APPEND_TIME if self.attributes & APPEND_TIME_FLAG else TimestampType.CREATE_TIME


def read_header(data: Buffer, position: int = 0) -> BatchHeader:
    """Read the header at `position`; neither the checksum nor that the whole batch is present is checked.

    Raises:
        CorruptMessage: fewer than 61 bytes are left, or sizes and counts are impossible (zeros are).
        UnsupportedVersion: the magic byte is not 2.
    """
    if len(data) - position < HEADER_SIZE_BYTES:
        raise CorruptMessage("a batch header is cut short", size_bytes=max(0, len(data) - position))
    (
        base_offset,
        length,
        leader_epoch,
        magic,
        crc,
        attributes,
        last_offset_delta,
        base_timestamp_ms,
        max_timestamp_ms,
        producer_id,
        producer_epoch,
        base_sequence,
        record_count,
    ) = _HEADER.unpack_from(data, position)
    size_bytes = length + LENGTH_PREFIX_SIZE_BYTES
    if not HEADER_SIZE_BYTES <= size_bytes <= BATCH_SIZE_BYTES_MAX:
        raise CorruptMessage(f"a batch cannot have {size_bytes} bytes", size_bytes=size_bytes, position=position)
    if magic != MAGIC:
        raise UnsupportedVersion(f"record format {magic} is not supported", magic=magic)
    if last_offset_delta < 0 or record_count < 0 or record_count > last_offset_delta + 1 or base_offset < 0:
        raise CorruptMessage(
            "a batch header has impossible offsets or counts",
            base_offset=base_offset,
            last_offset_delta=last_offset_delta,
            record_count=record_count,
        )
    return BatchHeader(
        base_offset,
        size_bytes,
        leader_epoch,
        magic,
        crc,
        attributes,
        last_offset_delta,
        base_timestamp_ms,
        max_timestamp_ms,
        producer_id,
        producer_epoch,
        base_sequence,
        record_count,
    )


def crc32c(data: Buffer) -> int:
    """CRC-32C of a buffer. The library takes bytes only; copying first still beats one that takes views tenfold."""
    return int(google_crc32c.value(data if isinstance(data, bytes) else bytes(data)))


def check_crc(data: Buffer, position: int, header: BatchHeader) -> bool:
    """Whether the batch at `position`, whose header was read, is whole and its checksum right."""
    end = position + header.size_bytes
    if end > len(data):
        return False
    return crc32c(memoryview(data)[position + ATTRIBUTES_POSITION : end]) == header.crc


def iterate_headers(data: Buffer, position: int = 0) -> Iterator[tuple[int, BatchHeader]]:
    """Yield position and header of each whole batch from `position` on; stop before a partial one at the end.

    Raises:
        CorruptMessage, UnsupportedVersion: as `read_header`, at the batch concerned.
    """
    size_bytes = len(data)
    while size_bytes - position >= HEADER_SIZE_BYTES:
        header = read_header(data, position)
        if header.size_bytes > size_bytes - position:
            return
        yield position, header
        position += header.size_bytes


def stamp(data: Buffer, *, base_offset: int, leader_epoch: int, log_append_time_ms: int | None = None) -> bytes:
    """Copy one batch with the leader's offset and epoch set, and its timestamp if the topic says append time.

    `data` is exactly one valid batch. Without an append time the checksum stays as it is.
    """
    length = len(data) - LENGTH_PREFIX_SIZE_BYTES
    if log_append_time_ms is None:
        return b"".join((_STAMP.pack(base_offset, length, leader_epoch), memoryview(data)[MAGIC_POSITION:]))
    checked = bytearray(memoryview(data)[ATTRIBUTES_POSITION:])
    checked[1] |= APPEND_TIME_FLAG
    struct.pack_into(">q", checked, _MAX_TIMESTAMP_IN_CHECKED, log_append_time_ms)
    return b"".join(
        (_STAMP.pack(base_offset, length, leader_epoch), bytes((MAGIC,)), _CRC.pack(crc32c(checked)), checked)
    )


def seal(header: BatchHeader, payload: Buffer) -> bytes:
    """Put a batch together: size and checksum are computed, the header's own are ignored."""
    checked = b"".join((_CHECKED.pack(*header[5:]), payload))
    length = len(checked) + ATTRIBUTES_POSITION - LENGTH_PREFIX_SIZE_BYTES
    prefix = _STAMP.pack(header.base_offset, length, header.leader_epoch)
    return b"".join((prefix, bytes((MAGIC,)), _CRC.pack(crc32c(checked)), checked))
