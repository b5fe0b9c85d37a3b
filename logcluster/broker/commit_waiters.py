"""Produce requests that wait for the high watermark, in the order of the offsets they need.

Offsets of appends grow, so the queue is a FIFO and one sweep from the left completes all that a moved watermark
covers; only the retry of an older batch is put in between. Failures here are never definite refusals: the records are
in the log.
"""

from __future__ import annotations

import asyncio
from collections import deque

from logcluster.model.errors import LogClusterError, RequestTimedOut


class CommitWaiter:
    """One produce request that waits until everything below `next_offset` is committed."""

    __slots__ = ("deadline_ms", "future", "next_offset")

    def __init__(self, next_offset: int, deadline_ms: int, future: asyncio.Future[None]) -> None:
        self.next_offset = next_offset
        self.deadline_ms = deadline_ms
        self.future = future


class CommitWaiters:
    """The waiters of one partition, ascending in `next_offset`."""

    __slots__ = ("_queue",)

    def __init__(self) -> None:
        self._queue: deque[CommitWaiter] = deque()

    def __len__(self) -> int:
        return len(self._queue)

    def add(self, next_offset: int, deadline_ms: int) -> asyncio.Future[None]:
        """Wait until everything below `next_offset` is committed, at most until `deadline_ms` (monotonic).

        Cancelling the future gives up the answer only.
        """
        queue = self._queue
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiter = CommitWaiter(next_offset, deadline_ms, future)
        if not queue or queue[-1].next_offset <= next_offset:
            queue.append(waiter)
        else:
            queue.insert(sum(1 for other in queue if other.next_offset <= next_offset), waiter)
        return future

    def complete_to(self, high_watermark: int) -> None:
        """Everything below `high_watermark` is committed."""
        queue = self._queue
        while queue and queue[0].next_offset <= high_watermark:
            future = queue.popleft().future
            if not future.done():
                future.set_result(None)

    def fail_all(self, error: LogClusterError) -> None:
        """Nobody will know here whether the records get committed."""
        queue, self._queue = self._queue, deque()
        for waiter in queue:
            if not waiter.future.done():
                waiter.future.set_exception(type(error)(error.message, hint=error.hint, **error.facts))

    def expire(self, now_ms: int, **facts: object) -> bool:
        """Fail who waited until its deadline; returns whether anybody still waits."""
        if any(waiter.deadline_ms <= now_ms for waiter in self._queue):
            staying: deque[CommitWaiter] = deque()
            for waiter in self._queue:
                if waiter.deadline_ms > now_ms:
                    staying.append(waiter)
                elif not waiter.future.done():
                    waiter.future.set_exception(RequestTimedOut("the replicas did not acknowledge in time", **facts))
            self._queue = staying
        return bool(self._queue)
