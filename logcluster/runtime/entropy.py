"""The only file that draws randomness: seeded streams and random identifiers.

Each concern has a stream of its own, so that one more draw in one place does not reshuffle another.
"""

from __future__ import annotations

import os
import random
from typing import Protocol


class Entropy(Protocol):
    """Port for randomness."""

    def stream(self, name: str) -> random.Random:
        """A generator for one concern; the same name gives an independent stream each time it is asked."""
        ...

    def random_id(self) -> bytes:
        """16 bytes that no other call returns."""
        ...


class SystemEntropy:
    """Randomness of the operating system."""

    def stream(self, name: str) -> random.Random:
        return random.Random(os.urandom(16) + name.encode())

    def random_id(self) -> bytes:
        return os.urandom(16)


class SeededEntropy:
    """Repeatable randomness for tests and the simulator: the same seed and order of calls give the same values."""

    def __init__(self, seed: int | str) -> None:
        self._seed = seed
        self._ids = random.Random(f"{seed}/ids")

    def stream(self, name: str) -> random.Random:
        return random.Random(f"{self._seed}/{name}")

    def random_id(self) -> bytes:
        return self._ids.randbytes(16)
