"""Validation and decoding of whole record batches; the layout is drawn in `header`, whose names this file re-exports.

Two depths of checking. `validate_batch` looks at header and checksum, a few microseconds per batch. `validate_records`
decompresses and walks every record, for what a header cannot show. Decoding is aiokafka's compiled reader; it would
decompress without bound and believe any header count, so both are bounded here before it sees a byte.

Invariants: bytes that fail are refused with a definite error, never partly accepted; memory is bounded by
`DECOMPRESSED_BATCH_SIZE_BYTES_MAX`, `RECORDS_PER_BATCH_MAX` and one million headers.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NoReturn, Protocol, cast

from aiokafka.errors import CorruptRecordException
from aiokafka.record.default_records import DefaultRecordBatch

from logcluster.model.errors import CorruptMessage, InvalidRecord, InvalidTimestamp, MessageTooLarge
from logcluster.model.limits import DECOMPRESSED_BATCH_SIZE_BYTES_MAX, HEADERS_PER_RECORD_MAX, RECORDS_PER_BATCH_MAX
from logcluster.record.compression import Buffer, Compression, decompress
from logcluster.record.header import (
    CODEC_MASK,
    CONTROL_FLAG,
    HEADER_SIZE_BYTES,
    BatchHeader,
    TimestampType,
    check_crc,
    iterate_headers,
    read_header,
    stamp,
)

__all__ = [
    "HEADER_SIZE_BYTES",
    "BatchHeader",
    "DecodedRecord",
    "TimestampType",
    "check_crc",
    "decode_records",
    "iterate_headers",
    "read_header",
    "stamp",
    "validate_batch",
    "validate_records",
]

_RECORD_SIZE_BYTES_MIN: Final = 7
"""One byte each for length, attributes, timestamp, offset, key length, value length and header count."""
_HEADER_SIZE_BYTES_MIN: Final = 2
_HEADERS_PER_BATCH_MAX: Final = 1_000_000
_HEADER_FLOOD_SIZE_BYTES_MIN: Final = _HEADERS_PER_BATCH_MAX * _HEADER_SIZE_BYTES_MIN
"""Records smaller than this cannot hold more headers than a batch may."""
_KNOWN_CLIENT_ATTRIBUTES: Final = 0x3F

_is_crc_right: Final = check_crc
"""The function under a name that the parameter of `decode_records` does not hide."""

_READER_ERRORS: Final = (CorruptRecordException, ValueError, OverflowError, MemoryError)


class DecodedRecord(Protocol):
    """One record as read; aiokafka's own object, read-only."""

    @property
    def offset(self) -> int: ...

    @property
    def timestamp(self) -> int:
        """In ms; -1 if the producer gave none (only foreign clients can)."""

    @property
    def key(self) -> bytes | None: ...

    @property
    def value(self) -> bytes | None: ...

    @property
    def headers(self) -> list[tuple[str, bytes | None]]: ...


def validate_batch(data: Buffer, *, size_bytes_max: int) -> BatchHeader:
    """Check that `data` is exactly one batch as a client may send it, by header and checksum.

    `size_bytes_max` is the topic's `max.message.bytes`. The records themselves are not looked at.

    Raises:
        MessageTooLarge: it is larger than `size_bytes_max`.
        CorruptMessage: it is cut, has bytes after its end, or fails its checksum.
        UnsupportedVersion: it is not of format v2.
        UnsupportedCompression: its codec is unknown.
        InvalidTimestamp: it claims append time, which only a broker sets.
        InvalidRecord: its counts, producer or flags contradict each other.
    """
    if len(data) > size_bytes_max:
        raise MessageTooLarge(
            f"a batch of {len(data)} bytes exceeds {size_bytes_max}",
            size_bytes=len(data),
            size_bytes_max=size_bytes_max,
        )
    header = read_header(data)
    if header.size_bytes != len(data):
        raise CorruptMessage(
            f"the batch says {header.size_bytes} bytes and has {len(data)}", size_bytes=header.size_bytes
        )
    if not _is_crc_right(data, 0, header):
        raise CorruptMessage("the batch fails its checksum", crc=header.crc)
    count = header.record_count
    if count != header.last_offset_delta + 1 or not 1 <= count <= RECORDS_PER_BATCH_MAX:
        raise InvalidRecord("the record count is impossible", record_count=count)
    if header.codec is Compression.NONE and count * _RECORD_SIZE_BYTES_MIN > header.size_bytes - HEADER_SIZE_BYTES:
        raise InvalidRecord("the batch is too small for its record count", record_count=count)
    _check_client_fields(header)
    return header


def _check_client_fields(header: BatchHeader) -> None:
    attributes = header.attributes
    if attributes & CONTROL_FLAG:
        raise InvalidRecord("clients cannot write control batches")
    if header.timestamp_type == TimestampType.LOG_APPEND_TIME:
        raise InvalidTimestamp("clients cannot set the append time")
    if attributes & ~_KNOWN_CLIENT_ATTRIBUTES:
        raise InvalidRecord("the batch has unknown attributes", attributes=attributes)
    if header.has_producer:
        if header.producer_epoch < 0 or header.base_sequence < 0:
            raise InvalidRecord("a batch with a producer id needs an epoch and a sequence")
    elif header.is_transactional:
        raise InvalidRecord("a transactional batch needs a producer id")


def validate_records(data: Buffer, header: BatchHeader) -> None:
    """Walk every record of a batch that `validate_batch` accepted.

    Raises:
        MessageTooLarge: it decompresses to more than the limit; it was not decompressed.
        CorruptMessage: it does not decompress, or its records are not `record_count` whole ones and nothing more.
        InvalidRecord: the records' offsets do not run from 0 to n-1, or a record has too many headers.
    """
    reader, _ = _open_records(bytes(data), header)
    expected_offset = header.base_offset
    try:
        for record in reader:
            if record.offset != expected_offset:
                raise InvalidRecord("the offsets in a batch must run from 0", expected_offset=expected_offset)
            if len(record.headers) > HEADERS_PER_RECORD_MAX:
                raise InvalidRecord("a record has too many headers", header_count_max=HEADERS_PER_RECORD_MAX)
            expected_offset += 1
    except _READER_ERRORS as error:
        _raise_corrupt(error)


def decode_records(data: Buffer, *, check_crc: bool = True) -> list[DecodedRecord]:
    """Decode all records of one batch as it came from a log: offsets may have gaps, and it may be empty.

    With append time, each record's timestamp is the batch's.

    Raises:
        MessageTooLarge: it decompresses to more than the limit; it was not decompressed.
        CorruptMessage: `data` is not exactly one sound batch.
        UnsupportedVersion, UnsupportedCompression: format or codec is unknown.
    """
    if type(data) is not bytes:
        # The reader looks one byte beyond the last one, where bytes objects have a zero.
        data = bytes(data)
    header = read_header(data)
    if header.size_bytes != len(data):
        raise CorruptMessage(
            f"the batch says {header.size_bytes} bytes and has {len(data)}", size_bytes=header.size_bytes
        )
    if check_crc and not _is_crc_right(data, 0, header):
        raise CorruptMessage("the batch fails its checksum", crc=header.crc, base_offset=header.base_offset)
    if header.record_count == 0:
        return []
    reader, is_large = _open_records(data, header)
    try:
        return _list_bounded(reader) if is_large else list(reader)
    except _READER_ERRORS as error:
        _raise_corrupt(error)


def _raise_corrupt(error: Exception) -> NoReturn:
    raise CorruptMessage(f"the records of the batch are damaged: {error}") from error


def _open_records(data: bytes, header: BatchHeader) -> tuple[Iterable[DecodedRecord], bool]:
    """Open the compiled reader on a batch that is uncompressed and whose expansion is bounded.

    The second value says whether the batch is so large that its headers have to be counted while reading.
    """
    if header.record_count > RECORDS_PER_BATCH_MAX:
        raise CorruptMessage("the record count is impossible", record_count=header.record_count)
    codec = header.codec
    if codec is not Compression.NONE:
        payload = decompress(
            codec, memoryview(data)[HEADER_SIZE_BYTES:], size_bytes_max=DECOMPRESSED_BATCH_SIZE_BYTES_MAX
        )
        plain_attributes = (header.attributes & ~CODEC_MASK).to_bytes(2, "big", signed=True)
        data = b"".join((data[:21], plain_attributes, data[23:HEADER_SIZE_BYTES], payload))
    records_size_bytes = len(data) - HEADER_SIZE_BYTES
    is_large = records_size_bytes > _HEADER_FLOOD_SIZE_BYTES_MIN
    if is_large:
        _refuse_header_flood(data)
    return cast("Iterable[DecodedRecord]", DefaultRecordBatch(data)), is_large


def _refuse_header_flood(data: bytes) -> None:
    """Refuse a record that alone claims more headers than a batch may have: each becomes an object 30 times its size.

    Steps from record to record, so it costs only batches above 2 MB. Damage met on the way is left to the reader.
    """
    position = HEADER_SIZE_BYTES
    try:
        while position < len(data):
            length, position = _read_varint(data, position)
            if length < 0:
                return
            if length > _HEADER_FLOOD_SIZE_BYTES_MIN:
                header_count = _read_header_count(data, position)
                if header_count > _HEADERS_PER_BATCH_MAX:
                    raise InvalidRecord("a record has too many headers", header_count=header_count)
            position += length
    except IndexError:
        return


def _read_header_count(data: bytes, position: int) -> int:
    """Skip to the header count of the record whose body starts at `position`."""
    for _ in range(3):  # attributes, timestamp, offset
        _, position = _read_varint(data, position)
    for _ in range(2):  # key, value
        length, position = _read_varint(data, position)
        position += max(length, 0)
    count, _ = _read_varint(data, position)
    return count


def _read_varint(data: bytes, position: int) -> tuple[int, int]:
    """Return a zigzag varint and the position after it; beyond the end it raises IndexError."""
    byte = data[position]
    position += 1
    raw = byte & 0x7F
    shift = 7
    while byte & 0x80:
        byte = data[position]
        position += 1
        raw |= (byte & 0x7F) << shift
        shift += 7
    return (raw >> 1) ^ -(raw & 1), position


def _list_bounded(reader: Iterable[DecodedRecord]) -> list[DecodedRecord]:
    """Collect the records of a large batch, but no more headers than a batch may have."""
    records: list[DecodedRecord] = []
    header_count = 0
    for record in reader:
        header_count += len(record.headers)
        if header_count > _HEADERS_PER_BATCH_MAX:
            raise InvalidRecord("a batch has too many headers", header_count_max=_HEADERS_PER_BATCH_MAX)
        records.append(record)
    return records
