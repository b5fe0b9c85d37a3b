"""Damaged bytes: every flipped bit is noticed, and no garbage escapes as anything but a definite error."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from logcluster.model.errors import CorruptMessage, LogClusterError
from logcluster.model.limits import MIB
from logcluster.record.batch import check_crc, decode_records, read_header, validate_batch, validate_records
from logcluster.record.builder import build_batch
from logcluster.record.compression import Compression, decompress
from logcluster.record.reference import ReferenceBatch, ReferenceRecord, decode_batch, encode_batch

RECORDS = [(1_000 + i, b"key%d" % i, b"some value " * 4, [("h", b"v"), ("n", None)]) for i in range(5)]
codecs = st.sampled_from(list(Compression))


@pytest.mark.parametrize("codec", list(Compression))
def test_every_single_flipped_bit_after_the_leader_epoch_is_noticed(codec: Compression) -> None:
    data = build_batch(RECORDS, compression=codec)
    header = read_header(data)
    for bit in range(16 * 8, len(data) * 8):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(LogClusterError):
            validate_batch(bytes(damaged), size_bytes_max=MIB)
        with pytest.raises(LogClusterError):
            decode_records(bytes(damaged))
        if bit >= 21 * 8:
            assert not check_crc(damaged, 0, header)


@given(st.binary(max_size=300))
def test_garbage_is_refused(data: bytes) -> None:
    with pytest.raises(LogClusterError):
        validate_batch(data, size_bytes_max=MIB)
    with pytest.raises(LogClusterError):
        decode_records(data)


@given(payload=st.binary(max_size=200), count=st.integers(1, 40), codec=codecs)
def test_garbage_under_a_right_checksum_is_refused_or_read_alike(
    payload: bytes, count: int, codec: Compression
) -> None:
    fields = ReferenceBatch(
        records=[ReferenceRecord(0, 1_000)], compression=codec, record_count=count, last_offset_delta=count - 1
    )
    refused_or_alike(encode_batch(fields, payload=payload))


@given(data=st.data(), codec=st.just(Compression.NONE))
def test_changed_record_bytes_under_a_right_checksum_are_refused_or_read_alike(
    data: st.DataObject, codec: Compression
) -> None:
    whole = build_batch(RECORDS, compression=codec)
    payload = bytearray(whole[61:])
    for _ in range(data.draw(st.integers(1, 3))):
        payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
    fields = ReferenceBatch(records=[ReferenceRecord(0, 1_000)], record_count=5, last_offset_delta=4)
    refused_or_alike(encode_batch(fields, payload=bytes(payload)))


def refused_or_alike(batch: bytes) -> None:
    """Whatever the fast path accepts, the strict reference reads the same way."""
    try:
        validate_records(batch, validate_batch(batch, size_bytes_max=MIB))
        decoded = decode_records(batch)
    except LogClusterError as error:
        assert error.definite
        return
    expected = decode_batch(batch).records
    assert [(r.offset, r.key, r.value, r.headers) for r in decoded] == [
        (r.offset, r.key, r.value, r.headers) for r in expected
    ]


@given(payload=st.binary(max_size=300), codec=codecs, size_bytes_max=st.integers(0, 100_000))
def test_decompressing_garbage_is_refused_or_bounded(payload: bytes, codec: Compression, size_bytes_max: int) -> None:
    try:
        assert len(decompress(codec, payload, size_bytes_max=size_bytes_max)) <= size_bytes_max
    except LogClusterError as error:
        assert error.definite


def test_cut_record_is_corrupt_under_a_right_checksum() -> None:
    whole = build_batch(RECORDS)
    fields = ReferenceBatch(records=[ReferenceRecord(0, 1_000)], record_count=5, last_offset_delta=4)
    for end in range(61 + 5 * 7, len(whole)):
        batch = encode_batch(fields, payload=whole[61:end])
        with pytest.raises(CorruptMessage):
            validate_records(batch, validate_batch(batch, size_bytes_max=MIB))
