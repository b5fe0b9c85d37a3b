"""Which partition a record goes to.

With a key: Kafka's murmur2, so that every client of whatever language puts a key into the same partition.
Without: sticky (KIP-480), one partition until its batch is closed, then another one, which fills batches well
and spreads evenly over time. Pure; randomness is injected.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Final

_SEED: Final = 0x9747B28C
_MULTIPLIER: Final = 0x5BD1E995
_MASK: Final = 0xFFFFFFFF
_CACHED_KEYS_MAX: Final = 65_536
_CACHED_KEY_SIZE_BYTES_MAX: Final = 128
_UNPACKERS: Final[tuple[Callable[[bytes], tuple[int, ...]], ...]] = tuple(
    struct.Struct(f"<{count}I").unpack_from for count in range(_CACHED_KEY_SIZE_BYTES_MAX // 4 + 1)
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


def _hash(key: bytes) -> int:
    return murmur2(key) & 0x7FFFFFFF


_cached_hash: Final = lru_cache(maxsize=_CACHED_KEYS_MAX)(_hash)


def key_hash(key: bytes) -> int:
    """Non-negative hash of a key; its remainder by the partition count is the partition.

    Keys come again and again, so recent short ones are remembered.
    """
    if len(key) <= _CACHED_KEY_SIZE_BYTES_MAX and type(key) is bytes:
        return _cached_hash(key)
    return _hash(bytes(key))


class StickyPartition:
    """The partition that records without a key go to at the moment.

    Args:
        generator: decides where to start and where to go next.
    """

    __slots__ = ("_generator", "current")

    def __init__(self, generator: random.Random) -> None:
        self._generator = generator
        self.current: int | None = None

    def rotate(self, candidates: Sequence[int]) -> int:
        """Choose another of `candidates` (not empty), the current one only if it is alone."""
        count = len(candidates)
        chosen = candidates[self._generator.randrange(count)] if count > 1 else candidates[0]
        if chosen == self.current and count > 1:
            chosen = candidates[(candidates.index(chosen) + 1) % count]
        self.current = chosen
        return chosen
