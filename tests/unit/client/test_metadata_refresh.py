"""How often a client asks for metadata."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from logcluster.client.metadata import Metadata
from logcluster.client.metadata_cache import MetadataCache
from logcluster.model.errors import BrokerNotAvailable
from logcluster.runtime.scope import TaskScope


class JumpingClock:
    """Time passes by sleeping only."""

    def __init__(self) -> None:
        self.elapsed_ms = 0

    def now_ms(self) -> int:
        return self.elapsed_ms

    def monotonic_ms(self) -> int:
        return self.elapsed_ms

    async def sleep_ms(self, delay_ms: int) -> None:
        self.elapsed_ms += delay_ms


class Refusing:
    """No broker is there, which every call finds out at once."""

    def __init__(self) -> None:
        self.calls = 0

    async def ask_metadata(self, _request: object) -> Any:
        self.calls += 1
        raise BrokerNotAvailable("connection refused")


@pytest.mark.parametrize("calls", [5, 40])
async def test_refreshes_asked_for_by_a_listener_keep_their_distance_while_nobody_answers(calls: int) -> None:
    # Found by the simulator: with every broker down, each refused refresh asked for the next one at once, for ever.
    clock, connections = JumpingClock(), Refusing()
    done = asyncio.Event()
    async with TaskScope("test") as scope:
        metadata = Metadata(
            connections,  # type: ignore[arg-type]
            MetadataCache(),
            clock=clock,
            scope=scope,
            topic_wait_ms=1_000,
            refresh_interval_ms_min=10,
        )

        def ask_again() -> None:
            if connections.calls < calls:
                metadata.request_refresh()
            else:
                done.set()

        metadata.listen(ask_again)
        metadata.request_refresh()
        await done.wait()
    # Ten milliseconds, doubled by each failure up to eighty.
    assert clock.elapsed_ms >= 20 + 40 + 80 * (calls - 3)


async def test_the_first_refresh_after_a_quiet_time_begins_at_once() -> None:
    clock, connections = JumpingClock(), Refusing()
    async with TaskScope("test") as scope:
        metadata = Metadata(
            connections,  # type: ignore[arg-type]
            MetadataCache(),
            clock=clock,
            scope=scope,
            topic_wait_ms=1_000,
            refresh_interval_ms_min=10,
        )
        for _ in range(3):
            before_ms = clock.elapsed_ms
            with pytest.raises(BrokerNotAvailable):
                await metadata.refresh()
            assert clock.elapsed_ms == before_ms
            clock.elapsed_ms += 1_000
