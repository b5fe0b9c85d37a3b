"""The clocks of simulated processes: a wall clock that may be wrong in any way, and the loop's own for waiting."""

from __future__ import annotations

import asyncio
from typing import Final

EPOCH_MS: Final = 1_800_000_000_000
"""What a right wall clock shows when a world begins."""


class SimulatedClock:
    """One process's clock: implements `runtime.clock.Clock`.

    Changing `skew_ms` is a jump; `drift` is how much too fast the wall clock runs, 0.1 for ten percent. Both change
    what is read, never how long a wait takes, as with a real machine's two clocks.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.skew_ms = 0
        self.drift = 0.0

    def now_ms(self) -> int:
        elapsed_ms = self._loop.time() * 1000
        return EPOCH_MS + int(elapsed_ms * (1.0 + self.drift)) + self.skew_ms

    def monotonic_ms(self) -> int:
        return int(self._loop.time() * 1000)

    async def sleep_ms(self, delay_ms: int) -> None:
        await sleep(self._loop, delay_ms / 1000)


async def sleep(loop: asyncio.AbstractEventLoop, delay: float) -> None:
    """Wait `delay` virtual seconds. Cancellation: atomic."""
    waiter: asyncio.Future[None] = loop.create_future()
    timer = loop.call_later(delay, _wake, waiter)
    try:
        await waiter
    finally:
        timer.cancel()


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
