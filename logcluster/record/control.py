"""Control batches: the markers that end a transaction in a partition.

A marker is a batch of one record with the transactional and the control bit set, no sequence number, and

    key    version int16 (0)   type int16 (0 abort, 1 commit)
    value  version int16 (0)   coordinator_epoch int32

Invariants: users never see a marker's record, though it takes an offset; clients cannot write one (`validate_batch`).
Source: Kafka's ControlRecordType and EndTransactionMarker, KIP-98.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import Final, NamedTuple

from logcluster.model.errors import CorruptMessage, InvalidRecord
from logcluster.record.batch import decode_records
from logcluster.record.header import (
    CONTROL_FLAG,
    HEADER_SIZE_BYTES,
    MAGIC,
    TRANSACTIONAL_FLAG,
    BatchHeader,
    read_header,
    seal,
)

_KEY: Final = struct.Struct(">hh")
_VALUE: Final = struct.Struct(">hi")
_RECORD: Final = struct.Struct(">bbbbb4sb6sb")
"""Length, attributes, timestamp delta, offset delta, key length, key, value length, value, header count."""


class ControlType(IntEnum):
    """How a transaction ended."""

    ABORT = 0
    COMMIT = 1


class ControlRecord(NamedTuple):
    """A decoded marker."""

    control_type: ControlType
    producer_id: int
    producer_epoch: int
    coordinator_epoch: int
    offset: int
    timestamp_ms: int


def build_control_batch(
    control_type: ControlType,
    *,
    producer_id: int,
    producer_epoch: int,
    coordinator_epoch: int,
    timestamp_ms: int,
    base_offset: int = 0,
    leader_epoch: int = -1,
) -> bytes:
    """Build the marker that ends the transaction of this producer."""
    key = _KEY.pack(0, control_type)
    value = _VALUE.pack(0, coordinator_epoch)
    body_size_bytes = _RECORD.size - 1
    record = _RECORD.pack(
        body_size_bytes * 2, 0, 0, 0, len(key) * 2, key, len(value) * 2, value, 0
    )  # lengths are zigzag: doubled
    header = BatchHeader(
        base_offset=base_offset,
        size_bytes=HEADER_SIZE_BYTES + len(record),
        leader_epoch=leader_epoch,
        magic=MAGIC,
        crc=0,
        attributes=TRANSACTIONAL_FLAG | CONTROL_FLAG,
        last_offset_delta=0,
        base_timestamp_ms=timestamp_ms,
        max_timestamp_ms=timestamp_ms,
        producer_id=producer_id,
        producer_epoch=producer_epoch,
        base_sequence=-1,
        record_count=1,
    )
    return seal(header, record)


def decode_control(data: bytes) -> ControlRecord:
    """Read the marker of one control batch.

    Raises:
        InvalidRecord: it is not a control batch, or a marker of a kind that transactions do not use.
        CorruptMessage: the batch or the marker is damaged.
    """
    header = read_header(data)
    if not header.is_control:
        raise InvalidRecord("the batch is not a control batch", base_offset=header.base_offset)
    records = decode_records(data)
    if len(records) != 1:
        raise CorruptMessage("a control batch holds one marker", record_count=len(records))
    (record,) = records
    key, value = record.key or b"", record.value or b""
    if len(key) < _KEY.size:
        raise CorruptMessage("a control record has no type", offset=record.offset)
    _, number = _KEY.unpack_from(key)
    if number not in (ControlType.ABORT, ControlType.COMMIT):
        raise InvalidRecord(f"control record type {number} does not end a transaction", control_type=number)
    if len(value) < _VALUE.size:
        raise CorruptMessage("a transaction marker has no coordinator epoch", offset=record.offset)
    _, coordinator_epoch = _VALUE.unpack_from(value)
    return ControlRecord(
        control_type=ControlType(number),
        producer_id=header.producer_id,
        producer_epoch=header.producer_epoch,
        coordinator_epoch=coordinator_epoch,
        offset=record.offset,
        timestamp_ms=header.max_timestamp_ms,
    )
