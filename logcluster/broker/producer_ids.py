"""Producer ids for this broker's clients, from blocks that the controller gives to nobody else."""

from __future__ import annotations

import asyncio
from typing import Protocol

from logcluster.runtime.failpoints import failpoint


class ProducerIdSource(Protocol):
    """Where blocks come from."""

    async def allocate_producer_ids(self) -> tuple[int, int]:
        """First id and how many; raises LogClusterError."""
        ...


class ProducerIds:
    """Hands out ids one by one; one request to the controller at a time, however many clients wait."""

    def __init__(self, source: ProducerIdSource) -> None:
        self._source = source
        self._next = 0
        self._end = 0
        self._refilled: asyncio.Future[None] | None = None

    async def take(self) -> int:
        """An id that nobody else gets.

        Raises:
            LogClusterError: the controller gave no block.
        Cancellation: a block that was asked for may stay unused.
        """
        while self._next >= self._end:
            if self._refilled is not None:
                await asyncio.shield(self._refilled)
                continue
            self._refilled = asyncio.get_running_loop().create_future()
            try:
                self._next, count = await self._source.allocate_producer_ids()
                failpoint("broker.producer_ids.after_allocate")
                self._end = self._next + count
            finally:
                # Whoever waits looks again, and asks itself if this attempt failed.
                self._refilled.set_result(None)
                self._refilled = None
        producer_id = self._next
        self._next += 1
        return producer_id
