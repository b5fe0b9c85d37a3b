"""Decoding of stored batches: gaps, emptied batches, kinds of buffers, damage."""

from __future__ import annotations

import pytest

from logcluster.model.errors import CorruptMessage, MessageTooLarge, UnsupportedCompression
from logcluster.model.limits import MIB, RECORDS_PER_BATCH_MAX
from logcluster.record import batch as batch_module
from logcluster.record.batch import decode_records, read_header
from logcluster.record.builder import build_batch
from logcluster.record.compression import Compression, compress
from logcluster.record.header import seal
from logcluster.record.reference import ReferenceBatch, ReferenceRecord, encode_batch, encode_record

DATA = build_batch([(1_000 + i, b"k", b"v" * 40, []) for i in range(5)])


@pytest.mark.parametrize("codec", list(Compression))
def test_compacted_batch_keeps_its_offsets(codec: Compression) -> None:
    kept = [ReferenceRecord(2, 1_002, b"key", b"value" * 30), ReferenceRecord(7, 1_007, b"key", None)]
    data = encode_batch(ReferenceBatch(records=kept, compression=codec, base_offset=100, last_offset_delta=9))
    assert [record.offset for record in decode_records(data)] == [102, 107]
    assert read_header(data).next_offset == 110


def test_batch_emptied_by_compaction_has_no_records() -> None:
    data = encode_batch(ReferenceBatch(records=[], base_offset=100, last_offset_delta=9), payload=b"")
    assert decode_records(data) == []


def test_any_buffer_is_decoded() -> None:
    padded = b"\xff" * 7 + DATA + b"\xff" * 7
    for data in (bytearray(DATA), memoryview(DATA), memoryview(padded)[7:-7]):
        assert [record.offset for record in decode_records(data)] == [0, 1, 2, 3, 4]


def test_checksum_is_verified_unless_told_otherwise() -> None:
    data = bytearray(DATA)
    data[17] ^= 0xFF
    with pytest.raises(CorruptMessage):
        decode_records(data)
    assert len(decode_records(data, check_crc=False)) == 5


def test_only_one_whole_batch_is_decoded() -> None:
    for data in (DATA + DATA, DATA + b"\x00", DATA[:-1], b""):
        with pytest.raises(CorruptMessage):
            decode_records(data, check_crc=False)


def test_unknown_codec_is_unsupported() -> None:
    with pytest.raises(UnsupportedCompression):
        decode_records(seal(read_header(DATA)._replace(attributes=6), DATA[61:]))


def test_count_that_the_bytes_cannot_hold_is_corrupt() -> None:
    header = read_header(DATA)._replace(record_count=100_000, last_offset_delta=99_999)
    with pytest.raises(CorruptMessage):
        decode_records(seal(header, DATA[61:]))


def test_more_records_than_any_batch_may_hold_are_refused() -> None:
    count = RECORDS_PER_BATCH_MAX + 1
    smallest = encode_record(ReferenceRecord(0, 1_000), 1_000)
    fields = ReferenceBatch(
        records=[ReferenceRecord(0, 1_000)],
        compression=Compression.ZSTD,
        record_count=count,
        last_offset_delta=count - 1,
    )
    with pytest.raises(CorruptMessage):
        decode_records(encode_batch(fields, payload=compress(Compression.ZSTD, smallest * count)))


def test_missing_timestamp_of_a_foreign_client_is_minus_one() -> None:
    data = encode_batch(ReferenceBatch(records=[ReferenceRecord(0, -1, b"k")]))
    assert [record.timestamp for record in decode_records(data)] == [-1]


@pytest.mark.parametrize("codec", [codec for codec in Compression if codec is not Compression.NONE])
def test_decompression_bound_is_the_limit(codec: Compression, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = build_batch([(5, None, bytes(MIB), [])])
    compressed = build_batch([(5, None, bytes(MIB), [])], compression=codec)
    monkeypatch.setattr(batch_module, "DECOMPRESSED_BATCH_SIZE_BYTES_MAX", len(plain) - 61)
    assert decode_records(compressed)[0].value == bytes(MIB)
    monkeypatch.setattr(batch_module, "DECOMPRESSED_BATCH_SIZE_BYTES_MAX", len(plain) - 62)
    with pytest.raises(MessageTooLarge):
        decode_records(compressed)
