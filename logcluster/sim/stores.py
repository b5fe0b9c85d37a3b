"""What a simulated node sees of its machine's storage: disk work that takes virtual time, a key-value store that dies.

The bytes live in `SimulatedDisk` and `MemoryKeyValueStore`, which outlive the node; what is here belongs to one
incarnation of it.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator
from typing import TypeVar

from logcluster.model.errors import StorageFailure
from logcluster.sim.disk import SimulatedDisk
from logcluster.storage.kv_store import Batch, MemoryKeyValueStore

Result = TypeVar("Result")


class SimulatedDiskExecutor:
    """Implements `runtime.disk.DiskExecutor`: the work is done at once, somewhere within a drawn time.

    Args:
        latency_ms: reads the current bounds of that time.
    """

    def __init__(self, rng: random.Random, latency_ms: Callable[[], tuple[float, float]]) -> None:
        self._rng = rng
        self._latency_ms = latency_ms

    async def run(self, work: Callable[[], Result]) -> Result:
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Result] = loop.create_future()
        total = self._rng.uniform(*self._latency_ms()) / 1000
        before = total * self._rng.random()

        def start() -> None:
            # A caller that was cancelled does not stop the work, as with a real thread.
            try:
                result = work()
            except Exception as error:  # noqa: BLE001 - handed to the caller, whatever it is
                loop.call_later(total - before, _fail, answer, error)
            else:
                loop.call_later(total - before, _finish, answer, result)

        loop.call_later(before, start)
        return await answer

    def close(self) -> None:
        """Nothing to stop."""


def _finish(answer: asyncio.Future[Result], result: Result) -> None:
    if not answer.done():
        answer.set_result(result)


def _fail(answer: asyncio.Future[Result], error: Exception) -> None:
    if not answer.done():
        answer.set_exception(error)


class StoreHandle:
    """A `KeyValueStore` opened by one incarnation of a node; dead after a crash of its disk."""

    def __init__(self, store: MemoryKeyValueStore, disk: SimulatedDisk) -> None:
        self._store = store
        self._disk = disk
        self._incarnation = disk.incarnation
        self._is_closed = False

    def get(self, key: bytes) -> bytes | None:
        self._check()
        return self._store.get(key)

    def scan(self, start: bytes, end: bytes, *, reverse: bool = False) -> Iterator[tuple[bytes, bytes]]:
        self._check()
        return self._store.scan(start, end, reverse=reverse)

    def write(self, batch: Batch, *, sync: bool) -> None:
        self._check()
        self._store.write(batch, sync=sync)

    def close(self) -> None:
        self._is_closed = True

    def _check(self) -> None:
        if self._is_closed or self._incarnation != self._disk.incarnation:
            raise StorageFailure("the key-value store is closed")
