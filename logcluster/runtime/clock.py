"""The only file that reads time.

Two clocks: `now_ms` is the wall clock that stamps records and may jump; `monotonic_ms` measures
waits and never goes back. Both are integers in milliseconds. A simulated loop comes with a clock of its own.
"""

from __future__ import annotations

import asyncio
import time
from typing import Protocol


class Clock(Protocol):
    """Port for time; handed to every component that waits or stamps."""

    def now_ms(self) -> int:
        """Wall-clock time in milliseconds since 1970; may jump either way."""
        ...

    def monotonic_ms(self) -> int:
        """Milliseconds since an arbitrary start; never decreases."""
        ...

    async def sleep_ms(self, delay_ms: int) -> None:
        """Wait at least `delay_ms`. Cancellation: atomic."""
        ...


class SystemClock:
    """The machine's wall clock and the running loop's monotonic clock."""

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def monotonic_ms(self) -> int:
        # The same clock as the event loop's, a third of the cost of asking the loop.
        return time.monotonic_ns() // 1_000_000

    async def sleep_ms(self, delay_ms: int) -> None:
        await asyncio.sleep(delay_ms / 1000)


def perf_counter_ns() -> int:
    """Nanoseconds for measuring short durations of this process; never used in a decision."""
    return time.perf_counter_ns()


perf_counter = time.perf_counter
"""Seconds, for the same purpose; the C function itself, since it stands on the hot path of every call."""


def block_ms(delay_ms: int) -> None:
    """Block the calling thread, and with it perhaps the event loop: only for failpoints of a process under test."""
    time.sleep(delay_ms / 1000)
