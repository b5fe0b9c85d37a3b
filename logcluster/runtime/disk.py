"""Blocking work off the event loop: a bounded executor for disk, RocksDB and large compressions.

Work that was handed over completes even when the caller is cancelled; cancelling abandons the
answer only. The simulator hands in `InlineDisk`, which runs the work at once on the loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, TypeVar

Result = TypeVar("Result")


class DiskExecutor(Protocol):
    """Port for blocking work."""

    async def run(self, work: Callable[[], Result]) -> Result:
        """Run `work` elsewhere and return what it returns.

        Raises: whatever `work` raises.
        Cancellation: the work still completes; only its answer is lost.
        """
        ...

    def close(self) -> None:
        """Wait for running work and stop; later calls of `run` raise RuntimeError."""
        ...


class ThreadedDisk:
    """A thread pool of `threads_max` workers; a queue beyond it waits in order."""

    def __init__(self, *, threads_max: int = 4, name: str = "disk") -> None:
        self._executor = ThreadPoolExecutor(max_workers=threads_max, thread_name_prefix=name)

    async def run(self, work: Callable[[], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._executor, work)

    def close(self) -> None:
        self._executor.shutdown(wait=True)


class InlineDisk:
    """Runs the work at once on the caller's thread: for tests and the simulator."""

    async def run(self, work: Callable[[], Result]) -> Result:
        return work()

    def close(self) -> None:
        """Nothing to stop."""
