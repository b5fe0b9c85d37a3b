"""Payloads: whole ones give their id back, any changed byte is seen."""

from __future__ import annotations

import random

import pytest

from logcluster.check.payload import CorruptPayload, corrupt_value, decode, decode_or_mark, encode, is_corrupt


@pytest.mark.parametrize("size_bytes", [0, 1, 14, 15, 64, 1000])
def test_round_trip_and_size(size_bytes: int) -> None:
    payload = encode("producer-1-12", size_bytes)
    assert decode(payload) == "producer-1-12"
    assert len(payload) == max(size_bytes, 10 + len("producer-1-12"))
    assert decode_or_mark(payload) == "producer-1-12"


def test_every_flipped_bit_cut_and_addition_is_seen() -> None:
    payload = encode("a-1", 40)
    for place in range(len(payload)):
        for bit in range(8):
            broken = bytearray(payload)
            broken[place] ^= 1 << bit
            with pytest.raises(CorruptPayload):
                decode(bytes(broken))
        with pytest.raises(CorruptPayload):
            decode(payload[:place])
    with pytest.raises(CorruptPayload):
        decode(payload + b"\0")


def test_noise_is_never_a_value() -> None:
    stream = random.Random(3)
    for size in range(60):
        assert is_corrupt(decode_or_mark(stream.randbytes(size)))
    assert is_corrupt(decode_or_mark(None))
    assert not is_corrupt("a-1")


def test_ids_that_cannot_be_carried_are_refused() -> None:
    for bad in ("", "x" * 2000, corrupt_value("no")):
        with pytest.raises(ValueError, match="not a value id"):
            encode(bad)
