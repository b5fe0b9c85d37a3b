"""Simulated time: a heap of calls. Events of one moment happen in the order they were asked for."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from random import Random
from typing import Any


class Schedule:
    """Time in milliseconds, and everything that is still to happen; `rng` decides whatever is open."""

    def __init__(self, rng: Random) -> None:
        self.rng = rng
        self.now_ms = 0
        self._queue: list[tuple[int, int, Callable[..., None], tuple[Any, ...]]] = []
        self._sequence = 0

    def at(self, delay_ms: int, action: Callable[..., None], *arguments: Any) -> None:
        """Call `action` after a delay."""
        self._sequence += 1
        heapq.heappush(self._queue, (self.now_ms + delay_ms, self._sequence, action, arguments))

    def below(self, limit: int) -> int:
        """A number in [0, limit]."""
        return int(self.rng.random() * (limit + 1))

    def chance(self, probability: float) -> bool:
        """True with this probability; draws nothing when it is 0."""
        return probability > 0.0 and self.rng.random() < probability

    def run_until(self, end_ms: int) -> None:
        """Let everything happen up to and including `end_ms`."""
        queue = self._queue
        while queue and queue[0][0] <= end_ms:
            self.now_ms, _, action, arguments = heapq.heappop(queue)
            action(*arguments)
        self.now_ms = end_ms
