"""A slow, plain encoder and decoder of the record batch: the second opinion that tests compare the fast path with.

Written from the format description alone; shares with the fast path only the payload codecs. Never used at run time.

    record   length varint | attributes int8 | timestamp_delta varint | offset_delta varint
             | key | value | header_count varint | headers
    key, value, header value   length varint (-1: null) | bytes
    header key                 length varint | UTF-8
    varint   zigzag, seven bits a byte, lowest first, high bit set on all but the last

Source: Kafka's DefaultRecord and DefaultRecordBatch; CRC-32C as in RFC 3720.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from logcluster.record.compression import Compression, compress, decompress

_CASTAGNOLI: Final = 0x82F63B78
_SIZE_BYTES_MAX: Final = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class ReferenceRecord:
    """One record with its timestamp in ms; `offset` counts from 0 when encoding."""

    offset: int
    timestamp: int
    key: bytes | None = None
    value: bytes | None = None
    headers: list[tuple[str, bytes | None]] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceBatch:
    """A batch's fields under the names of the format."""

    records: Sequence[ReferenceRecord]
    compression: Compression = Compression.NONE
    base_offset: int = 0
    leader_epoch: int = -1
    is_transactional: bool = False
    is_control: bool = False
    is_append_time: bool = False
    max_timestamp_ms: int | None = None
    producer_id: int = -1
    producer_epoch: int = -1
    base_sequence: int = -1
    last_offset_delta: int | None = None
    record_count: int | None = None


def crc32c(data: bytes) -> int:
    """CRC-32C bit by bit."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (_CASTAGNOLI if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def encode_varint(value: int) -> bytes:
    """Zigzag varint of a signed 64-bit number."""
    rest = (value << 1) ^ (value >> 63)
    encoded = bytearray()
    while rest > 0x7F:
        encoded.append(rest & 0x7F | 0x80)
        rest >>= 7
    encoded.append(rest)
    return bytes(encoded)


def _encode_bytes(value: bytes | None) -> bytes:
    return encode_varint(-1) if value is None else encode_varint(len(value)) + value


def encode_record(record: ReferenceRecord, base_timestamp_ms: int) -> bytes:
    """One record with its length in front."""
    body = b"\x00" + encode_varint(record.timestamp - base_timestamp_ms) + encode_varint(record.offset)
    body += _encode_bytes(record.key) + _encode_bytes(record.value) + encode_varint(len(record.headers))
    for name, value in record.headers:
        body += _encode_bytes(name.encode()) + _encode_bytes(value)
    return encode_varint(len(body)) + body


def encode_batch(batch: ReferenceBatch, *, payload: bytes | None = None) -> bytes:
    """Encode `batch`; `payload` replaces the (compressed) records, for tests that need wrong ones."""
    records = batch.records
    base_timestamp = records[0].timestamp if records else -1
    max_timestamp = max((record.timestamp for record in records), default=-1)
    if batch.max_timestamp_ms is not None:
        max_timestamp = batch.max_timestamp_ms
    if payload is None:
        payload = compress(batch.compression, b"".join(encode_record(record, base_timestamp) for record in records))
    attributes = batch.compression | batch.is_append_time << 3 | batch.is_transactional << 4 | batch.is_control << 5
    checked = struct.pack(">hi", attributes, _or(batch.last_offset_delta, len(records) - 1))
    checked += struct.pack(">qq", base_timestamp, max_timestamp)
    checked += struct.pack(">qhi", batch.producer_id, batch.producer_epoch, batch.base_sequence)
    checked += struct.pack(">i", _or(batch.record_count, len(records))) + payload
    tail = struct.pack(">ibI", batch.leader_epoch, 2, crc32c(checked)) + checked
    return struct.pack(">qi", batch.base_offset, len(tail)) + tail


def _or(value: int | None, default: int) -> int:
    return default if value is None else value


class _Cursor:
    """Takes fields off the front of a buffer; ValueError beyond its end."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = 0

    @property
    def is_at_end(self) -> bool:
        return self._position == len(self._data)

    def take(self, size_bytes: int) -> bytes:
        if not 0 <= size_bytes <= len(self._data) - self._position:
            raise ValueError("cut short")
        taken = self._data[self._position : self._position + size_bytes]
        self._position += size_bytes
        return taken

    def number(self, layout: str) -> int:
        (value,) = struct.unpack(layout, self.take(struct.calcsize(layout)))
        return int(value)

    def varint(self) -> int:
        raw = 0
        for shift in range(0, 70, 7):
            byte = self.take(1)[0]
            raw |= (byte & 0x7F) << shift
            if byte < 0x80:
                return (raw >> 1) ^ -(raw & 1)
        raise ValueError("varint too long")

    def nullable(self) -> bytes | None:
        length = self.varint()
        return None if length < 0 else self.take(length)


def decode_batch(data: bytes) -> ReferenceBatch:
    """Decode one batch and check everything the format says about it.

    Raises:
        ValueError: something does not hold.
    """
    cursor = _Cursor(data)
    base_offset = cursor.number(">q")
    if cursor.number(">i") != len(data) - 12:
        raise ValueError("wrong length")
    leader_epoch = cursor.number(">i")
    if cursor.number(">b") != 2:
        raise ValueError("wrong magic")
    if cursor.number(">I") != crc32c(data[21:]):
        raise ValueError("wrong checksum")
    attributes = cursor.number(">h")
    last_offset_delta = cursor.number(">i")
    base_timestamp = cursor.number(">q")
    max_timestamp = cursor.number(">q")
    producer_id = cursor.number(">q")
    producer_epoch = cursor.number(">h")
    base_sequence = cursor.number(">i")
    count = cursor.number(">i")
    compression = Compression(attributes & 7)
    inner = _Cursor(decompress(compression, data[61:], size_bytes_max=_SIZE_BYTES_MAX) if count else b"")
    is_append_time = bool(attributes & 8)
    records = []
    for _ in range(count):
        record = _decode_record(_Cursor(inner.take(inner.varint())), base_offset, base_timestamp)
        if is_append_time:
            record = ReferenceRecord(record.offset, max_timestamp, record.key, record.value, record.headers)
        records.append(record)
    if not inner.is_at_end:
        raise ValueError("bytes after the last record")
    return ReferenceBatch(
        records=records,
        compression=compression,
        base_offset=base_offset,
        leader_epoch=leader_epoch,
        is_transactional=bool(attributes & 16),
        is_control=bool(attributes & 32),
        is_append_time=is_append_time,
        max_timestamp_ms=max_timestamp,
        producer_id=producer_id,
        producer_epoch=producer_epoch,
        base_sequence=base_sequence,
        last_offset_delta=last_offset_delta,
        record_count=count,
    )


def _decode_record(cursor: _Cursor, base_offset: int, base_timestamp: int) -> ReferenceRecord:
    cursor.number(">b")
    timestamp = base_timestamp + cursor.varint()
    offset = base_offset + cursor.varint()
    key = cursor.nullable()
    value = cursor.nullable()
    headers = []
    for _ in range(cursor.varint()):
        name = cursor.take(cursor.varint()).decode()
        headers.append((name, cursor.nullable()))
    if not cursor.is_at_end:
        raise ValueError("bytes after the last header")
    return ReferenceRecord(offset, timestamp, key, value, headers)
