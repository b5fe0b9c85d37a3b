"""Which partition a record goes to.

With a key: Kafka's murmur2, so that every client of whatever language puts a key into the same partition.
Without: sticky (KIP-480), one partition until its batch is closed, then another one, which fills batches well
and spreads evenly over time. Pure; randomness is injected.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import lru_cache
from typing import Final

from logcluster.model.hashing import murmur2

_CACHED_KEYS_MAX: Final = 65_536
_CACHED_KEY_SIZE_BYTES_MAX: Final = 128


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
