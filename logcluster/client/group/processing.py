"""Handling records in parallel with correct commits: records of one key in order, the others as they come.

Every record goes to one of a fixed number of lanes, all records of a key to the same one, and a lane handles one at a
time. A partition is done below its first record that is not handled.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any, Final, TypeVar

from logcluster.client.records import ConsumerRecord
from logcluster.client.subscription import PartitionState
from logcluster.runtime.scope import TaskScope

if TYPE_CHECKING:
    from logcluster.client.group.consumer import GroupConsumer

Handler = Callable[[ConsumerRecord], Awaitable[object]]
Result = TypeVar("Result")
RECORDS_PER_LANE_MAX: Final = 100
BATCH_RECORDS_MAX: Final = 500


class Unfinished:
    """Records that are with handlers, by partition.

    Args:
        on_finished: told whenever a record is done.
    """

    def __init__(self, on_finished: Callable[[], None]) -> None:
        self._by_state: dict[PartitionState, dict[int, None]] = {}
        self._on_finished = on_finished

    def add(self, state: PartitionState, offset: int) -> None:
        """A record is on its way to a handler; offsets of a partition ascend."""
        self._by_state.setdefault(state, {})[offset] = None

    def done(self, state: PartitionState, offset: int) -> None:
        """A record is handled."""
        offsets = self._by_state.get(state)
        if offsets is not None:
            offsets.pop(offset, None)
            if not offsets:
                del self._by_state[state]
        self._on_finished()

    def first(self, state: PartitionState) -> int | None:
        """The first record of a partition that is not handled; None: all are."""
        return next(iter(self._by_state.get(state, ())), None)

    def left(self) -> dict[PartitionState, int]:
        """The first record that is not handled, of each partition that has one."""
        return {state: next(iter(offsets)) for state, offsets in self._by_state.items()}


Item = tuple[PartitionState, ConsumerRecord]


class _Lanes:
    """Queues with one worker each; the first failure ends everything."""

    def __init__(self, handler: Handler, unfinished: Unfinished, count: int, scope: TaskScope) -> None:
        self._scope = scope
        self._handler = handler
        self._unfinished = unfinished
        self._queues: list[asyncio.Queue[Item]] = [asyncio.Queue(RECORDS_PER_LANE_MAX) for _ in range(count)]
        self._next = 0
        self.failure: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def lane_of(self, record: ConsumerRecord) -> asyncio.Queue[Item]:
        """All records of a key have the same one; those without a key take turns."""
        if record.key is None:
            self._next = (self._next + 1) % len(self._queues)
            return self._queues[self._next]
        return self._queues[zlib.crc32(record.key) % len(self._queues)]

    def start(self) -> None:
        """Begin to work."""
        for number, queue in enumerate(self._queues):
            self._scope.spawn(self._work(queue), name=f"lane-{number}")

    async def _work(self, queue: asyncio.Queue[Item]) -> None:
        while True:
            state, record = await queue.get()
            try:
                await self._handler(record)
            except asyncio.CancelledError as error:
                task = asyncio.current_task()
                if task is None or task.cancelling():
                    raise
                self._fail(error)  # not of this lane: the handler met a cancelled task of its own
                return
            except Exception as error:  # noqa: BLE001 - the caller's of `process`, who gets it
                self._fail(error)
                return
            self._unfinished.done(state, record.offset)
            queue.task_done()

    def _fail(self, error: BaseException) -> None:
        if not self.failure.done():
            self.failure.set_exception(error)

    async def put(self, item: Item) -> None:
        """Hand a record to its lane; waits while that is full.

        Raises: what a handler raised.
        """
        await self.unless_failed(self.lane_of(item[1]).put(item))

    async def join(self) -> None:
        """Wait until everything is handled.

        Raises: what a handler raised.
        """
        for queue in self._queues:
            await self.unless_failed(queue.join())

    async def unless_failed(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Do something, but no longer than handlers go well.

        Raises: what a handler raised; what `work` raises.
        """
        task = self._scope.spawn(work, name="step")
        try:
            await asyncio.wait({task, self.failure}, return_when=asyncio.FIRST_COMPLETED)
            if self.failure.done():
                self.failure.result()
            result: Result = await task
        finally:
            task.cancel()
        return result


async def process(consumer: GroupConsumer, handler: Handler, unfinished: Unfinished, *, concurrency: int) -> None:
    """See `GroupConsumer.process`."""
    async with TaskScope("client/process", on_fault=lambda _name, _error: None) as scope:
        lanes = _Lanes(handler, unfinished, concurrency, scope)
        lanes.start()
        while True:
            items = await lanes.unless_failed(consumer.take_for_processing(BATCH_RECORDS_MAX, unfinished))
            if items is None:
                await lanes.join()
                return
            for item in items:
                await lanes.put(item)
