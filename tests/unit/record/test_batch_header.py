"""Header of the record batch: layout, impossible values, stamping, scanning."""

from __future__ import annotations

import struct

import pytest

from logcluster.model.errors import CorruptMessage, UnsupportedCompression, UnsupportedVersion
from logcluster.record.batch import (
    HEADER_SIZE_BYTES,
    TimestampType,
    check_crc,
    decode_records,
    iterate_headers,
    read_header,
    stamp,
)
from logcluster.record.builder import build_batch
from logcluster.record.compression import Compression
from logcluster.record.reference import ReferenceBatch, ReferenceRecord, crc32c, decode_batch, encode_batch

RECORDS = [(1_000, b"k1", b"v1", []), (1_005, None, b"v2", [("h", b"x")]), (1_002, b"k3", None, [])]
BATCH = build_batch(RECORDS, producer_id=7, producer_epoch=2, base_sequence=40)


def test_every_field_is_read_from_its_place() -> None:
    data = encode_batch(
        ReferenceBatch(
            records=[ReferenceRecord(i, 1_000 + i) for i in range(3)],
            compression=Compression.LZ4,
            base_offset=11,
            leader_epoch=5,
            is_transactional=True,
            producer_id=2**40,
            producer_epoch=3,
            base_sequence=9,
        )
    )
    header = read_header(b"..." + data, 3)
    assert header == (11, len(data), 5, 2, crc32c(data[21:]), 0x13, 2, 1_000, 1_002, 2**40, 3, 9, 3)
    assert (header.last_offset, header.next_offset, header.last_sequence) == (13, 14, 11)
    assert header.codec is Compression.LZ4
    assert header.is_transactional
    assert not header.is_control
    assert header.has_producer
    assert header.timestamp_type == TimestampType.CREATE_TIME


def test_reads_any_kind_of_buffer() -> None:
    for data in (BATCH, bytearray(BATCH), memoryview(BATCH), memoryview(bytearray(BATCH))):
        header = read_header(data)
        assert header.record_count == 3
        assert check_crc(data, 0, header)


def test_absent_producer_and_sequence_are_minus_one() -> None:
    header = read_header(build_batch(RECORDS))
    assert not header.has_producer
    assert (header.producer_id, header.producer_epoch, header.base_sequence, header.last_sequence) == (-1, -1, -1, -1)
    assert header.leader_epoch == -1


@pytest.mark.parametrize(
    ("base_sequence", "last_sequence"),
    [(0, 2), (2**31 - 3, 2**31 - 1), (2**31 - 2, 0), (2**31 - 1, 1)],
)
def test_sequence_wraps_from_largest_int_to_zero(base_sequence: int, last_sequence: int) -> None:
    header = read_header(build_batch(RECORDS, producer_id=1, producer_epoch=0, base_sequence=base_sequence))
    assert header.last_sequence == last_sequence


def test_unknown_codec_is_refused_when_asked_for() -> None:
    header = read_header(BATCH)._replace(attributes=5)
    with pytest.raises(UnsupportedCompression):
        _ = header.codec


@pytest.mark.parametrize("size_bytes", [0, 1, HEADER_SIZE_BYTES - 1])
def test_short_header_is_corrupt(size_bytes: int) -> None:
    with pytest.raises(CorruptMessage):
        read_header(BATCH[:size_bytes])
    with pytest.raises(CorruptMessage):
        read_header(BATCH, len(BATCH) - size_bytes)


@pytest.mark.parametrize(
    ("position", "layout", "value"),
    [
        (0, ">q", -1),
        (8, ">i", 48),
        (8, ">i", -1),
        (8, ">i", 2**31 - 1),
        (8, ">i", 8 * 1024 * 1024),
        (23, ">i", -1),
        (23, ">i", 1),
        (57, ">i", -1),
        (57, ">i", 4),
    ],
)
def test_impossible_sizes_offsets_and_counts_are_corrupt(position: int, layout: str, value: int) -> None:
    data = bytearray(BATCH)
    struct.pack_into(layout, data, position, value)
    with pytest.raises(CorruptMessage):
        read_header(data)


def test_batch_that_takes_no_offset_is_corrupt() -> None:
    data = bytearray(BATCH)
    struct.pack_into(">i", data, 23, -1)
    struct.pack_into(">i", data, 57, 0)
    with pytest.raises(CorruptMessage):
        read_header(data)


def test_zeros_of_a_preallocated_file_are_corrupt_not_a_version() -> None:
    with pytest.raises(CorruptMessage):
        read_header(bytes(4096))


@pytest.mark.parametrize("magic", [0, 1, 3, 255])
def test_other_formats_are_unsupported_versions(magic: int) -> None:
    data = bytearray(BATCH)
    data[16] = magic
    with pytest.raises(UnsupportedVersion):
        read_header(data)


def test_crc_is_checked_inside_a_larger_buffer() -> None:
    buffer = b"xx" + BATCH + BATCH
    header = read_header(buffer, 2)
    assert check_crc(buffer, 2, header)
    assert check_crc(memoryview(buffer), 2 + len(BATCH), header)
    assert not check_crc(buffer, 3, header)
    assert not check_crc(buffer[:-1], 2 + len(BATCH), header)


def test_cut_batch_fails_even_if_the_checksum_of_what_is_left_fits() -> None:
    cut = BATCH[:-1]
    assert not check_crc(cut, 0, read_header(BATCH)._replace(crc=crc32c(cut[21:])))


def test_stamp_sets_offset_and_epoch_and_leaves_the_rest() -> None:
    stamped = stamp(BATCH, base_offset=2**40, leader_epoch=17)
    assert (stamped[12:16], stamped[16:]) == (struct.pack(">i", 17), BATCH[16:])
    header = read_header(stamped)
    assert (header.base_offset, header.leader_epoch, header.size_bytes) == (2**40, 17, len(BATCH))
    assert check_crc(stamped, 0, header)
    assert [record.offset for record in decode_records(stamped)] == [2**40, 2**40 + 1, 2**40 + 2]


def test_stamp_does_not_change_its_input() -> None:
    data = bytearray(BATCH)
    stamp(data, base_offset=5, leader_epoch=6, log_append_time_ms=7)
    assert data == BATCH


def test_append_time_replaces_every_timestamp_and_renews_the_checksum() -> None:
    stamped = stamp(memoryview(BATCH), base_offset=3, leader_epoch=1, log_append_time_ms=9_999)
    header = read_header(stamped)
    assert header.timestamp_type == TimestampType.LOG_APPEND_TIME
    assert (header.max_timestamp_ms, header.base_timestamp_ms) == (9_999, 1_000)
    assert (header.base_offset, header.leader_epoch) == (3, 1)
    assert [record.timestamp for record in decode_records(stamped)] == [9_999] * 3
    assert [record.timestamp for record in decode_batch(stamped).records] == [9_999] * 3


def test_iteration_yields_whole_batches_and_stops_before_a_partial_one() -> None:
    other = stamp(build_batch(RECORDS[:1]), base_offset=3, leader_epoch=0)
    whole = BATCH + other
    for cut in (0, 1, HEADER_SIZE_BYTES - 1, HEADER_SIZE_BYTES, len(BATCH) - 1):
        found = list(iterate_headers(whole + BATCH[:cut]))
        assert [(position, header.base_offset) for position, header in found] == [(0, 0), (len(BATCH), 3)]
    assert [position for position, _ in iterate_headers(whole, len(BATCH))] == [len(BATCH)]
    assert list(iterate_headers(b"")) == []


def test_iteration_raises_at_damage_after_the_batches_before_it() -> None:
    iterator = iterate_headers(BATCH + bytes(HEADER_SIZE_BYTES))
    assert next(iterator)[0] == 0
    with pytest.raises(CorruptMessage):
        next(iterator)
