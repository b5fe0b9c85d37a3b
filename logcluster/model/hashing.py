"""The hash by which keys find their partition: Kafka's murmur2, so that every client and broker agrees."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Final

_SEED: Final = 0x9747B28C
_MULTIPLIER: Final = 0x5BD1E995
_MASK: Final = 0xFFFFFFFF
_SHORT_KEY_SIZE_BYTES: Final = 128
_UNPACKERS: Final[tuple[Callable[[bytes], tuple[int, ...]], ...]] = tuple(
    struct.Struct(f"<{count}I").unpack_from for count in range(_SHORT_KEY_SIZE_BYTES // 4 + 1)
)


def murmur2(key: bytes) -> int:
    """Hash as Kafka's Java client does (MurmurHash2, 32 bits, its seed); unsigned."""
    length = len(key)
    word_count = length >> 2
    words = _UNPACKERS[word_count](key) if word_count < len(_UNPACKERS) else struct.unpack_from(f"<{word_count}I", key)
    value = _SEED ^ length
    for word in words:
        word = (word * _MULTIPLIER) & _MASK
        value = ((value * _MULTIPLIER) & _MASK) ^ (((word ^ (word >> 24)) * _MULTIPLIER) & _MASK)
    rest = length & 3
    if rest:
        value = ((value ^ int.from_bytes(key[-rest:], "little")) * _MULTIPLIER) & _MASK
    value = ((value ^ (value >> 13)) * _MULTIPLIER) & _MASK
    return value ^ (value >> 15)


def partition_of(key: str, partitions: int) -> int:
    """Which of `partitions` shards an entity belongs to."""
    return (murmur2(key.encode()) & 0x7FFFFFFF) % partitions
