"""The batch builder: exact sizes, bounds, what it refuses, and that Kafka's clients agree with its bytes."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
from aiokafka.record.default_records import DefaultRecordBatch as AiokafkaBatch

from logcluster.model.errors import InvalidRecord, InvalidTimestamp, MessageTooLarge
from logcluster.model.invariants import InvariantViolation
from logcluster.model.limits import BATCH_SIZE_BYTES_MAX, HEADERS_PER_RECORD_MAX, MIB
from logcluster.record import builder as builder_module
from logcluster.record.batch import decode_records, read_header, validate_batch, validate_records
from logcluster.record.builder import BatchBuilder, build_batch
from logcluster.record.compression import Compression

with warnings.catch_warnings():
    # kafka-python reads its schemas through a deprecated function of Python 3.11.
    warnings.simplefilter("ignore", DeprecationWarning)
    from kafka.record.default_records import DefaultRecordBatch as KafkaBatch, DefaultRecordBatchBuilder as KafkaBuilder

RECORDS = [
    (1_700_000_000_000, b"key", b"value" * 50, [("name", b"x"), ("null", None), ("", b"")]),
    (1_699_999_999_000, None, b"", []),
    (1_700_000_000_500, b"", None, [("ключ", b"\x00\xff")]),
] * 5
CODECS = list(Compression)


def plain(record: Any) -> tuple[int, int, bytes | None, bytes | None, list[tuple[str, bytes | None]]]:
    return record.offset, record.timestamp, record.key, record.value, list(record.headers)


EXPECTED = [(i, *record) for i, record in enumerate(RECORDS)]


@pytest.mark.parametrize("codec", CODECS)
def test_decodes_to_what_was_appended(codec: Compression) -> None:
    data = build_batch(RECORDS, compression=codec)
    assert [plain(record) for record in decode_records(data)] == EXPECTED
    header = validate_batch(data, size_bytes_max=MIB)
    validate_records(data, header)
    assert header.codec is codec
    assert (header.base_timestamp_ms, header.max_timestamp_ms) == (1_700_000_000_000, 1_700_000_000_500)


@pytest.mark.parametrize("codec", [codec for codec in CODECS if codec is not Compression.SNAPPY])
def test_kafka_python_reads_what_we_build(codec: Compression) -> None:
    # kafka-python reads snappy only through a library that we do not use; aiokafka stands in below.
    batch = KafkaBatch(build_batch(RECORDS, compression=codec))
    assert batch.validate_crc()
    assert [plain(record) for record in batch] == EXPECTED


@pytest.mark.parametrize("codec", CODECS)
def test_aiokafka_reads_what_we_build(codec: Compression) -> None:
    batch = AiokafkaBatch(build_batch(RECORDS, compression=codec))
    assert batch.validate_crc()
    assert [plain(record) for record in batch] == EXPECTED


@pytest.mark.parametrize("codec", [codec for codec in CODECS if codec is not Compression.SNAPPY])
@pytest.mark.parametrize("is_transactional", [False, True])
def test_we_read_what_kafka_python_builds(codec: Compression, is_transactional: bool) -> None:
    theirs = KafkaBuilder(2, int(codec), is_transactional, 9, 1, 4, MIB)
    for i, (timestamp_ms, key, value, headers) in enumerate(RECORDS):
        theirs.append(i, timestamp_ms, key, value, headers)
    data = bytes(theirs.build())
    header = validate_batch(data, size_bytes_max=MIB)
    validate_records(data, header)
    assert [plain(record) for record in decode_records(data)] == EXPECTED
    assert (header.producer_id, header.producer_epoch, header.base_sequence) == (9, 1, 4)
    assert header.is_transactional is is_transactional


def test_uncompressed_bytes_equal_kafka_pythons_apart_from_the_leader_epoch() -> None:
    theirs = KafkaBuilder(2, 0, True, 9, 1, 4, MIB)
    for i, (timestamp_ms, key, value, headers) in enumerate(RECORDS):
        theirs.append(i, timestamp_ms, key, value, headers)
    expected = bytes(theirs.build())
    ours = build_batch(RECORDS, producer_id=9, producer_epoch=1, base_sequence=4, is_transactional=True)
    assert (ours[:12], ours[16:]) == (expected[:12], expected[16:])


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("is_transactional", [False, True])
def test_producer_fields_are_written(codec: Compression, is_transactional: bool) -> None:
    data = build_batch(
        RECORDS,
        compression=codec,
        producer_id=2**50,
        producer_epoch=32_000,
        base_sequence=2**31 - 1,
        is_transactional=is_transactional,
    )
    header = validate_batch(data, size_bytes_max=MIB)
    assert (header.producer_id, header.producer_epoch, header.base_sequence) == (2**50, 32_000, 2**31 - 1)
    assert header.is_transactional is is_transactional
    assert header.leader_epoch == -1


def test_size_is_exact_after_every_append() -> None:
    builder = BatchBuilder(compression=Compression.NONE, size_bytes_max=MIB)
    assert builder.size_bytes == 61
    for record in RECORDS:
        assert builder.append(*record)
        assert builder.size_bytes == len(builder.build())
    assert builder.record_count == len(RECORDS)


def test_bound_is_inclusive_and_a_refused_record_changes_nothing() -> None:
    exact = BatchBuilder(compression=Compression.NONE, size_bytes_max=MIB)
    for _ in range(3):
        assert exact.append(5, b"k", b"v" * 10, [])
    builder = BatchBuilder(compression=Compression.NONE, size_bytes_max=exact.size_bytes)
    for _ in range(3):
        assert builder.append(5, b"k", b"v" * 10, [])
    assert not builder.append(5, b"k", b"v" * 10, [])
    assert (builder.record_count, builder.size_bytes) == (3, exact.size_bytes)
    assert builder.build() == exact.build()


def test_first_record_is_taken_beyond_the_bound_and_then_nothing_more() -> None:
    builder = BatchBuilder(compression=Compression.NONE, size_bytes_max=100)
    assert builder.append(5, None, bytes(1_000), [])
    assert not builder.append(5, None, None, [])
    assert len(decode_records(builder.build())) == 1


def test_record_above_the_hard_bound_is_refused_and_a_smaller_one_then_fits() -> None:
    builder = BatchBuilder(compression=Compression.ZSTD, size_bytes_max=BATCH_SIZE_BYTES_MAX)
    with pytest.raises(MessageTooLarge):
        builder.append(5, None, bytes(BATCH_SIZE_BYTES_MAX - 70), [])
    assert (builder.record_count, builder.size_bytes) == (0, 61)
    largest = bytes(BATCH_SIZE_BYTES_MAX - 61 - 4 - 1 - 1 - 1 - 1 - 4 - 1)
    assert builder.append(5, None, largest, [])
    assert builder.size_bytes == BATCH_SIZE_BYTES_MAX


@pytest.mark.parametrize(
    "record",
    [
        (5, "text", b"", []),
        (5, b"", 7, []),
        (5, b"", b"", [("name", "text")]),
        (5, b"", b"", [(b"name", b"")]),
        (5, b"", b"", [["name", b""]]),
        (5, b"", b"", [("name",)]),
        (5, b"", b"", [("\ud800", b"")]),
        (2**63, b"", b"", []),
        (5, b"", b"", [("h", None)] * (HEADERS_PER_RECORD_MAX + 1)),
    ],
)
def test_what_is_no_record_is_refused_and_leaves_the_batch_as_it_was(record: Any) -> None:
    for preceding in (0, 1):
        builder = BatchBuilder(compression=Compression.NONE, size_bytes_max=MIB)
        for _ in range(preceding):
            builder.append(4, b"before", None, [])
        with pytest.raises(InvalidRecord):
            builder.append(*record)
        assert builder.append(6, b"after", None, (("h", b"v"),))
        decoded = decode_records(builder.build())
        assert [(r.offset, r.key) for r in decoded] == list(enumerate([b"before"] * preceding + [b"after"]))
        assert decoded[-1].timestamp == 6


def test_negative_timestamp_is_refused() -> None:
    builder = BatchBuilder(compression=Compression.NONE, size_bytes_max=MIB)
    with pytest.raises(InvalidTimestamp):
        builder.append(-1, None, None, [])


def test_record_count_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builder_module, "RECORDS_PER_BATCH_MAX", 3)
    builder = BatchBuilder(compression=Compression.NONE, size_bytes_max=MIB)
    assert [builder.append(5, None, None, []) for _ in range(4)] == [True, True, True, False]


def test_empty_batch_cannot_be_built() -> None:
    with pytest.raises(InvariantViolation):
        BatchBuilder(compression=Compression.NONE, size_bytes_max=MIB).build()


@pytest.mark.parametrize("codec", CODECS)
def test_building_again_and_appending_after_a_build_is_allowed(codec: Compression) -> None:
    builder = BatchBuilder(compression=codec, size_bytes_max=MIB)
    builder.append(*RECORDS[0])
    first = builder.build(producer_id=1, producer_epoch=1, base_sequence=5)
    assert builder.build(producer_id=1, producer_epoch=1, base_sequence=5) == first
    builder.append(*RECORDS[1])
    second = builder.build()
    assert [plain(record) for record in decode_records(first)] == EXPECTED[:1]
    assert [plain(record) for record in decode_records(second)] == EXPECTED[:2]


@pytest.mark.parametrize("codec", CODECS)
def test_compression_that_would_enlarge_is_left_out(codec: Compression) -> None:
    data = build_batch([(5, None, b"7", [])], compression=codec)
    assert data == build_batch([(5, None, b"7", [])])
    assert read_header(data).codec is Compression.NONE


def test_records_that_do_not_fit_one_batch_are_refused() -> None:
    with pytest.raises(MessageTooLarge):
        build_batch([(5, None, bytes(5 * MIB), [])] * 2)
