"""Batches of generated records through the fast path, the reference and Kafka's clients: all must agree."""

from __future__ import annotations

import warnings
from typing import Any

from hypothesis import given, settings, strategies as st

from logcluster.model.limits import MIB
from logcluster.record.batch import (
    decode_records,
    iterate_headers,
    read_header,
    stamp,
    validate_batch,
    validate_records,
)
from logcluster.record.builder import BatchBuilder, Record, build_batch
from logcluster.record.compression import Compression
from logcluster.record.reference import ReferenceBatch, ReferenceRecord, decode_batch, encode_batch

with warnings.catch_warnings():
    # kafka-python reads its schemas through a deprecated function of Python 3.11.
    warnings.simplefilter("ignore", DeprecationWarning)
    from kafka.record.default_records import DefaultRecordBatch as KafkaBatch

nullable = st.none() | st.binary(max_size=300)
header_lists = st.lists(st.tuples(st.text(max_size=20), nullable), max_size=4)
timestamps = st.integers(0, 2**45) | st.integers(1_700_000_000_000, 1_700_000_100_000)
record_lists = st.lists(st.tuples(timestamps, nullable, nullable, header_lists), min_size=1, max_size=30)
codecs = st.sampled_from(list(Compression))
producers = st.fixed_dictionaries(
    {
        "producer_id": st.integers(0, 2**63 - 1),
        "producer_epoch": st.integers(0, 2**15 - 1),
        "base_sequence": st.integers(0, 2**31 - 1),
        "is_transactional": st.booleans(),
    }
) | st.just({})


def plain(record: Any) -> tuple[Any, ...]:
    return record.offset, record.timestamp, record.key, record.value, list(record.headers)


def referenced(records: list[Record]) -> list[ReferenceRecord]:
    return [ReferenceRecord(i, *record[:3], list(record[3])) for i, record in enumerate(records)]


@given(records=record_lists, codec=codecs, producer=producers)
def test_builder_and_reference_agree(records: list[Record], codec: Compression, producer: dict[str, Any]) -> None:
    data = build_batch(records, compression=codec, **producer)
    decoded = decode_batch(data)
    assert decoded.records == referenced(records)
    used = read_header(data).codec
    assert used in (codec, Compression.NONE)
    assert data == encode_batch(ReferenceBatch(records=referenced(records), compression=used, **producer))


@given(records=record_lists, codec=codecs, base_offset=st.integers(0, 2**62), leader_epoch=st.integers(0, 2**31 - 1))
def test_stamped_batch_decodes_to_its_records(
    records: list[Record], codec: Compression, base_offset: int, leader_epoch: int
) -> None:
    data = build_batch(records, compression=codec)
    header = validate_batch(data, size_bytes_max=MIB)
    validate_records(data, header)
    stamped = stamp(data, base_offset=base_offset, leader_epoch=leader_epoch)
    expected = [(base_offset + i, *record) for i, record in enumerate(records)]
    assert [plain(record) for record in decode_records(stamped)] == expected
    assert read_header(stamped)[3:] == header[3:]


@given(records=record_lists, codec=codecs)
@settings(max_examples=50)
def test_reference_batches_are_read_by_the_fast_path_and_by_kafka_python(
    records: list[Record], codec: Compression
) -> None:
    data = encode_batch(ReferenceBatch(records=referenced(records), compression=codec))
    expected = [(i, *record) for i, record in enumerate(records)]
    assert [plain(record) for record in decode_records(data)] == expected
    validate_records(data, validate_batch(data, size_bytes_max=MIB))
    if codec is not Compression.SNAPPY:
        assert [plain(record) for record in KafkaBatch(data)] == expected


@given(records=record_lists, size_bytes_max=st.integers(61, 4_000))
def test_builder_keeps_to_its_bound(records: list[Record], size_bytes_max: int) -> None:
    builder = BatchBuilder(compression=Compression.NONE, size_bytes_max=size_bytes_max)
    accepted = [record for record in records if builder.append(*record)]
    data = builder.build()
    assert builder.size_bytes == len(data)
    assert len(data) <= size_bytes_max or len(accepted) == 1
    assert [plain(record)[1:] for record in decode_records(data)] == accepted


@given(lists=st.lists(record_lists, max_size=4), cut=st.integers(0, 400))
@settings(max_examples=50)
def test_scan_finds_the_batches_that_are_whole(lists: list[list[Record]], cut: int) -> None:
    batches = [build_batch(records) for records in lists]
    log = b"".join(batches)
    log = log[: max(0, len(log) - cut)]
    ends = [sum(map(len, batches[: i + 1])) for i in range(len(batches))]
    found = [position + header.size_bytes for position, header in iterate_headers(log)]
    assert found == [end for end in ends if end <= len(log)]
