"""How late the event loop is: a timer that is due every 100 ms, and by how much it missed.

A loop that was blocked for two seconds shows one value of about two seconds. Everything that this process does for
anybody is late by as much, heartbeats included.
"""

from __future__ import annotations

import asyncio
from typing import Final

from logcluster.metrics.exposition import Sink
from logcluster.metrics.histogram import Histogram
from logcluster.runtime.clock import Clock

INTERVAL_MS: Final = 100
BOUNDS_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)


class EventLoopWatch:
    """Measures the loop it runs in; `run` it in a scope."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.lags = Histogram(BOUNDS_SECONDS)

    async def run(self) -> None:
        """Measure until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + INTERVAL_MS / 1000
            await self._clock.sleep_ms(INTERVAL_MS)
            self.lags.observe(max(0.0, loop.time() - due))

    def collect(self, sink: Sink) -> None:
        """Put what was measured."""
        sink.put_histogram("logcluster_event_loop_lag_seconds", self.lags)
