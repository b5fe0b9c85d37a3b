"""Produce requests that wait for the high watermark, in the order of the offsets they need.

Offsets of appends grow, so the queue is a FIFO and one sweep from the left completes all that a moved watermark
covers; only the retry of an older batch is put in between. Failures here are never definite refusals: the records are
in the log.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from logcluster.model.errors import LogClusterError, RequestTimedOut
from logcluster.model.probes import probe

Notify = Callable[[LogClusterError | None], None]
"""Told once: None when committed, otherwise why that is unknown. Called while the watermark moves; must not wait."""


class CommitWaiter:
    """One produce request that waits until everything below `next_offset` is committed."""

    __slots__ = ("deadline_ms", "next_offset", "notify")

    def __init__(self, next_offset: int, deadline_ms: int, notify: Notify) -> None:
        self.next_offset = next_offset
        self.deadline_ms = deadline_ms
        self.notify = notify


class CommitWaiters:
    """The waiters of one partition, ascending in `next_offset`."""

    __slots__ = ("_queue",)

    def __init__(self) -> None:
        self._queue: deque[CommitWaiter] = deque()

    def __len__(self) -> int:
        return len(self._queue)

    def add(self, next_offset: int, deadline_ms: int, notify: Notify) -> None:
        """Call `notify` when all below `next_offset` is committed, at the latest at `deadline_ms` (monotonic)."""
        queue = self._queue
        waiter = CommitWaiter(next_offset, deadline_ms, notify)
        if not queue or queue[-1].next_offset <= next_offset:
            queue.append(waiter)
        else:
            queue.insert(sum(1 for other in queue if other.next_offset <= next_offset), waiter)

    def complete_to(self, high_watermark: int) -> None:
        """Everything below `high_watermark` is committed."""
        queue = self._queue
        while queue and queue[0].next_offset <= high_watermark:
            queue.popleft().notify(None)

    def fail_all(self, error: LogClusterError) -> None:
        """Nobody will know here whether the records get committed."""
        queue, self._queue = self._queue, deque()
        for waiter in queue:
            waiter.notify(type(error)(error.message, hint=error.hint, **error.facts))

    def expire(self, now_ms: int, *, topic: str, partition: int) -> bool:
        """Fail who waited until its deadline; returns whether anybody still waits."""
        if any(waiter.deadline_ms <= now_ms for waiter in self._queue):
            staying: deque[CommitWaiter] = deque()
            late: list[CommitWaiter] = []
            for waiter in self._queue:
                if waiter.deadline_ms > now_ms:
                    staying.append(waiter)
                else:
                    late.append(waiter)
            probe("produce.timed_out_before_commit")
            self._queue = staying
            for waiter in late:
                waiter.notify(
                    RequestTimedOut("the replicas did not acknowledge in time", topic=topic, partition=partition)
                )
        return bool(self._queue)
