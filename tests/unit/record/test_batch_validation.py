"""What a broker refuses: each rule of `validate_batch` and `validate_records` with the batch that breaks only it."""

from __future__ import annotations

import tracemalloc
from typing import Any

import pytest

from logcluster.model.errors import (
    CorruptMessage,
    InvalidRecord,
    InvalidTimestamp,
    LogClusterError,
    MessageTooLarge,
    UnsupportedCompression,
    UnsupportedVersion,
)
from logcluster.model.limits import DECOMPRESSED_BATCH_SIZE_BYTES_MAX, HEADERS_PER_RECORD_MAX, MIB
from logcluster.record.batch import BatchHeader, decode_records, read_header, validate_batch, validate_records
from logcluster.record.builder import build_batch
from logcluster.record.compression import Compression, compress
from logcluster.record.header import seal
from logcluster.record.reference import ReferenceBatch, ReferenceRecord, encode_batch, encode_record, encode_varint

RECORDS = [(1_000 + i, b"key", b"value" * 20, [("h", None)]) for i in range(4)]
CODECS = list(Compression)


def batch(**fields: Any) -> bytes:
    """A sound batch of four records with some header fields changed and the checksum made right."""
    data = build_batch(RECORDS, compression=fields.pop("compression", Compression.NONE))
    return seal(read_header(data)._replace(**fields), data[61:])


def check(data: bytes) -> BatchHeader:
    return validate_batch(data, size_bytes_max=MIB)


def check_deeply(data: bytes) -> None:
    validate_records(data, check(data))


@pytest.mark.parametrize("codec", CODECS)
def test_sound_batches_pass_both_checks(codec: Compression) -> None:
    data = batch(compression=codec)
    header = check(data)
    assert header == read_header(data)
    assert header.codec is codec
    validate_records(data, header)
    validate_records(memoryview(data), header)


def test_size_limit_is_inclusive() -> None:
    data = batch()
    validate_batch(data, size_bytes_max=len(data))
    with pytest.raises(MessageTooLarge) as caught:
        validate_batch(data, size_bytes_max=len(data) - 1)
    assert caught.value.definite


@pytest.mark.parametrize("cut", [0, 20, 60, 61, 100])
def test_cut_batch_is_corrupt(cut: int) -> None:
    with pytest.raises(CorruptMessage):
        check(batch()[:cut])


def test_bytes_after_the_batch_are_corrupt() -> None:
    with pytest.raises(CorruptMessage):
        check(batch() + b"\x00")
    with pytest.raises(CorruptMessage):
        check(batch() + batch())


def test_wrong_checksum_is_corrupt() -> None:
    data = bytearray(batch())
    data[17] ^= 1
    with pytest.raises(CorruptMessage):
        check(bytes(data))


def test_other_magic_is_an_unsupported_version() -> None:
    data = bytearray(batch())
    data[16] = 1
    with pytest.raises(UnsupportedVersion):
        check(bytes(data))


@pytest.mark.parametrize("codec", [5, 6, 7])
def test_unknown_codec_is_unsupported(codec: int) -> None:
    with pytest.raises(UnsupportedCompression):
        check(batch(attributes=codec))


@pytest.mark.parametrize("fields", [{"record_count": 3}, {"last_offset_delta": 4}, {"record_count": 0}])
def test_count_must_agree_with_the_offsets(fields: dict[str, int]) -> None:
    with pytest.raises(InvalidRecord):
        check(batch(**fields))


def test_count_above_the_limit_is_refused() -> None:
    with pytest.raises(InvalidRecord):
        check(batch(compression=Compression.ZSTD, record_count=1_000_001, last_offset_delta=1_000_000))


def test_count_that_cannot_fit_the_size_is_refused() -> None:
    with pytest.raises(InvalidRecord):
        check(batch(record_count=900_000, last_offset_delta=899_999))


def test_control_batch_of_a_client_is_refused() -> None:
    with pytest.raises(InvalidRecord):
        check(batch(attributes=0x20))


def test_append_time_set_by_a_client_is_refused() -> None:
    with pytest.raises(InvalidTimestamp):
        check(batch(attributes=0x08))


@pytest.mark.parametrize("attributes", [0x40, 0x80, 0x4000, -0x8000])
def test_unknown_attributes_are_refused(attributes: int) -> None:
    with pytest.raises(InvalidRecord):
        check(batch(attributes=attributes))


@pytest.mark.parametrize(
    "fields",
    [
        {"producer_id": 5, "producer_epoch": 0, "base_sequence": -1},
        {"producer_id": 5, "producer_epoch": -1, "base_sequence": 0},
        {"attributes": 0x10},
    ],
)
def test_incomplete_producer_is_refused(fields: dict[str, int]) -> None:
    with pytest.raises(InvalidRecord):
        check(batch(**fields))


def test_transactional_batch_of_a_producer_passes() -> None:
    assert check(batch(attributes=0x10, producer_id=5, producer_epoch=0, base_sequence=0)).is_transactional


def wrong_records(payload: bytes, *, codec: Compression, count: int = 3) -> bytes:
    """A batch that passes `validate_batch` whatever its records are."""
    fields = ReferenceBatch(
        records=[ReferenceRecord(0, 1_000)], compression=codec, record_count=count, last_offset_delta=count - 1
    )
    return encode_batch(fields, payload=compress(codec, payload))


def encoded(offsets: list[int], **fields: Any) -> bytes:
    return b"".join(
        encode_record(ReferenceRecord(offset, 1_000, b"key", b"v" * 30, **fields), 1_000) for offset in offsets
    )


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("offsets", [[0, 1, 3], [1, 2, 3], [0, 0, 1], [2, 1, 0]])
def test_offsets_must_run_from_zero(codec: Compression, offsets: list[int]) -> None:
    with pytest.raises(InvalidRecord):
        check_deeply(wrong_records(encoded(offsets), codec=codec))


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("offsets", [[0, 1], [0, 1, 2, 3], []])
def test_count_must_agree_with_the_records(codec: Compression, offsets: list[int]) -> None:
    with pytest.raises((CorruptMessage, InvalidRecord)):
        check_deeply(wrong_records(encoded(offsets), codec=codec))


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("change", ["longer", "shorter"])
def test_payload_must_end_with_the_last_record(codec: Compression, change: str) -> None:
    payload = encoded([0, 1, 2])
    with pytest.raises(CorruptMessage):
        check_deeply(wrong_records(payload + b"\x00" if change == "longer" else payload[:-1], codec=codec))


@pytest.mark.parametrize("length", [-2, 2**31, 2**62, 2**63 - 1, 2**63 - 60, -(2**63)])
@pytest.mark.parametrize("position", ["record", "key", "header_count", "header_key"])
def test_absurd_lengths_inside_a_record_are_corrupt(length: int, position: str) -> None:
    varint = encode_varint(length)
    if position == "record":
        payload = varint + bytes(100)
    else:
        body = {
            "key": b"\x00\x00\x00" + varint,
            "header_count": b"\x00\x00\x00\x01\x01" + varint,
            "header_key": b"\x00\x00\x00\x01\x01\x02" + varint,
        }[position]
        payload = encode_varint(len(body) + 90) + body + bytes(90)
    data = wrong_records(payload, codec=Compression.NONE, count=1)
    with pytest.raises(CorruptMessage):
        check_deeply(data)
    with pytest.raises(CorruptMessage):
        decode_records(data)


def test_varint_without_end_is_corrupt() -> None:
    for payload in (b"\xff" * 40, encoded([0])[:-1] + b"\xff"):
        with pytest.raises(CorruptMessage):
            check_deeply(wrong_records(payload, codec=Compression.NONE, count=1))


def test_header_name_that_is_not_utf8_is_corrupt() -> None:
    payload = encoded([0], headers=[("name", b"x")]).replace(b"name", b"na\xff\xfe")
    with pytest.raises(CorruptMessage):
        check_deeply(wrong_records(payload, codec=Compression.NONE, count=1))


@pytest.mark.parametrize("codec", [codec for codec in CODECS if codec is not Compression.NONE])
def test_damaged_compressed_data_is_corrupt(codec: Compression) -> None:
    fields = ReferenceBatch(records=[ReferenceRecord(0, 1_000)], compression=codec)
    for payload in (b"", b"\x00", b"not compressed at all", compress(codec, encoded([0]))[:-3]):
        data = encode_batch(fields, payload=payload)
        with pytest.raises(CorruptMessage):
            check_deeply(data)
        with pytest.raises(CorruptMessage):
            decode_records(data)


def test_header_limit_of_a_record_is_inclusive() -> None:
    def with_headers(count: int) -> bytes:
        return wrong_records(encoded([0], headers=[("", None)] * count), codec=Compression.NONE, count=1)

    check_deeply(with_headers(HEADERS_PER_RECORD_MAX))
    with pytest.raises(InvalidRecord):
        check_deeply(with_headers(HEADERS_PER_RECORD_MAX + 1))


@pytest.mark.parametrize("codec", [codec for codec in CODECS if codec is not Compression.NONE])
def test_batch_that_would_decompress_beyond_the_limit_is_refused_unbuilt(codec: Compression) -> None:
    fields = ReferenceBatch(records=[ReferenceRecord(0, 1_000)], compression=codec)
    bomb = encode_batch(fields, payload=bombs(codec))
    header = validate_batch(bomb, size_bytes_max=8 * MIB)
    for read in (lambda: validate_records(bomb, header), lambda: decode_records(bomb)):
        with pytest.raises(MessageTooLarge) as caught:
            read()
        assert caught.value.definite


def bombs(codec: Compression) -> bytes:
    """Compressed zeros, one MiB more than the limit (snappy in raw form would be as long as a batch may be)."""
    return compress(codec, bytes(DECOMPRESSED_BATCH_SIZE_BYTES_MAX + MIB))


@pytest.mark.parametrize("read", ["validate", "decode"])
def test_flood_of_headers_in_one_record_is_refused_before_they_become_objects(read: str) -> None:
    count = 8_000_000
    body = b"\x00\x00\x00\x01\x01" + encode_varint(count) + b"\x00\x01" * count
    data = wrong_records(encode_varint(len(body)) + body, codec=Compression.ZSTD, count=1)
    assert_refused_within(data, read=read, size_bytes_max=4 * len(body))


def test_flood_of_headers_over_many_records_is_refused() -> None:
    record_count, header_count = 2_000, 1_000
    records = [
        encode_record(ReferenceRecord(i, 1_000, headers=[("", None)] * header_count), 1_000)
        for i in range(record_count)
    ]
    data = wrong_records(b"".join(records), codec=Compression.ZSTD, count=record_count)
    check_deeply(data)  # each record keeps the rule, and nothing is kept
    with pytest.raises(InvalidRecord):
        decode_records(data)


def test_large_batch_of_many_small_records_is_decoded() -> None:
    records = [(1_000, b"k", bytes(60), [("h", b"v")]) for _ in range(40_000)]
    data = build_batch(records, compression=Compression.ZSTD)
    check_deeply(data)
    decoded = decode_records(data)
    assert (len(decoded), decoded[-1].offset, decoded[-1].headers) == (40_000, 39_999, [("h", b"v")])


def assert_refused_within(data: bytes, *, read: str, size_bytes_max: int) -> None:
    header = check(data)
    tracemalloc.start()
    try:
        with pytest.raises(LogClusterError) as caught:
            validate_records(data, header) if read == "validate" else decode_records(data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert caught.value.definite
    assert peak < size_bytes_max
