"""Transaction markers: bytes as Kafka writes them, and what is refused."""

from __future__ import annotations

import struct
import warnings

import pytest
from aiokafka.record.control_record import ABORT_MARKER, COMMIT_MARKER, ControlRecord as AiokafkaControlRecord

from logcluster.model.errors import CorruptMessage, InvalidRecord
from logcluster.model.limits import MIB
from logcluster.record.batch import check_crc, read_header, validate_batch
from logcluster.record.builder import build_batch
from logcluster.record.control import ControlRecord, ControlType, build_control_batch, decode_control
from logcluster.record.reference import ReferenceBatch, ReferenceRecord, decode_batch, encode_batch

with warnings.catch_warnings():
    # kafka-python reads its schemas through a deprecated function of Python 3.11.
    warnings.simplefilter("ignore", DeprecationWarning)
    from kafka.record.default_records import DefaultRecordBatch as KafkaBatch


def marker(control_type: ControlType = ControlType.COMMIT) -> bytes:
    return build_control_batch(
        control_type,
        producer_id=77,
        producer_epoch=3,
        coordinator_epoch=12,
        timestamp_ms=5_000,
        base_offset=40,
        leader_epoch=6,
    )


@pytest.mark.parametrize("control_type", list(ControlType))
def test_marker_round_trip(control_type: ControlType) -> None:
    assert decode_control(marker(control_type)) == ControlRecord(
        control_type=control_type,
        producer_id=77,
        producer_epoch=3,
        coordinator_epoch=12,
        offset=40,
        timestamp_ms=5_000,
    )


def test_marker_is_the_batch_that_the_reference_encodes() -> None:
    key, value = struct.pack(">hh", 0, 1), struct.pack(">hi", 0, 12)
    assert marker() == encode_batch(
        ReferenceBatch(
            records=[ReferenceRecord(0, 5_000, key, value)],
            base_offset=40,
            leader_epoch=6,
            is_transactional=True,
            is_control=True,
            producer_id=77,
            producer_epoch=3,
        )
    )
    assert decode_batch(marker()).is_control


def test_header_of_a_marker() -> None:
    header = read_header(marker())
    assert check_crc(marker(), 0, header)
    assert (header.is_control, header.is_transactional, header.has_producer) == (True, True, True)
    assert (header.base_sequence, header.last_sequence, header.next_offset, header.leader_epoch) == (-1, -1, 41, 6)


@pytest.mark.parametrize(
    ("control_type", "theirs"), [(ControlType.ABORT, ABORT_MARKER), (ControlType.COMMIT, COMMIT_MARKER)]
)
def test_kafkas_clients_recognise_markers(control_type: ControlType, theirs: AiokafkaControlRecord) -> None:
    batch = KafkaBatch(marker(control_type))
    assert batch.validate_crc()
    assert batch.is_control_batch
    (record,) = list(batch)
    assert AiokafkaControlRecord.parse(record.key) == theirs


def test_client_cannot_send_a_marker() -> None:
    with pytest.raises(InvalidRecord):
        validate_batch(marker(), size_bytes_max=MIB)


def control(key: bytes | None, value: bytes | None, count: int = 1) -> bytes:
    records = [ReferenceRecord(i, 5_000, key, value) for i in range(count)]
    return encode_batch(ReferenceBatch(records=records, is_transactional=True, is_control=True, producer_id=1))


KEY, VALUE = struct.pack(">hh", 0, 1), struct.pack(">hi", 0, 12)


@pytest.mark.parametrize(
    "data",
    [
        control(b"\x00\x00\x00", VALUE),
        control(None, VALUE),
        control(KEY, VALUE[:-1]),
        control(KEY, None),
        control(KEY, VALUE, 2),
    ],
)
def test_damaged_marker_is_corrupt(data: bytes) -> None:
    with pytest.raises(CorruptMessage):
        decode_control(data)


def test_marker_with_later_fields_is_read() -> None:
    assert decode_control(control(KEY, VALUE + b"more")).coordinator_epoch == 12


@pytest.mark.parametrize("number", [2, 5, -1])
def test_other_control_records_are_refused(number: int) -> None:
    with pytest.raises(InvalidRecord):
        decode_control(control(struct.pack(">hh", 0, number), VALUE))


def test_ordinary_batch_is_no_marker() -> None:
    with pytest.raises(InvalidRecord):
        decode_control(build_batch([(5, KEY, VALUE, [])]))


def test_flipped_bit_in_a_marker_is_noticed() -> None:
    data = bytearray(marker())
    data[-2] ^= 1
    with pytest.raises(CorruptMessage):
        decode_control(bytes(data))
