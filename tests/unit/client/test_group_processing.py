"""Handlers in parallel: lanes that keep the order of keys, what counts as done, and what a failure leaves."""

from __future__ import annotations

import asyncio
import functools
import random
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar, cast

import pytest

from logcluster.client.group.processing import BATCH_RECORDS_MAX, RECORDS_PER_LANE_MAX, Unfinished, process
from logcluster.client.records import ConsumerRecord
from logcluster.client.subscription import PartitionState
from logcluster.sim.event_loop import SimulatedEventLoop

Case = TypeVar("Case", bound=Callable[..., Coroutine[Any, Any, None]])


def in_virtual_time(test: Case) -> Case:
    """Run a test on a loop whose clock jumps from timer to timer; one that waits for nothing fails at once."""

    @functools.wraps(test)
    def run(*arguments: Any, **options: Any) -> None:
        with asyncio.Runner(loop_factory=lambda: SimulatedEventLoop(random.Random(1))) as runner:
            runner.run(test(*arguments, **options))

    return cast(Case, run)


# -- what is not done yet ----------------------------------------------------------------------------------------


def state(partition: int = 0) -> PartitionState:
    return PartitionState("t", partition, start="earliest")


def test_a_partition_is_done_below_its_first_record_that_is_not_handled() -> None:
    told: list[None] = []
    unfinished = Unfinished(lambda: told.append(None))
    first, second = state(0), state(1)
    for offset in (3, 4, 7):
        unfinished.add(first, offset)
    unfinished.add(second, 50)
    seen: list[int | None] = []
    for offset in (4, 3, 7):
        seen.append(unfinished.first(first))
        unfinished.done(first, offset)
    assert seen == [3, 3, 7]
    assert unfinished.first(first) is None
    assert unfinished.left() == {second: 50}
    assert len(told) == 3


def test_what_is_done_twice_or_was_never_begun_does_no_harm() -> None:
    unfinished = Unfinished(lambda: None)
    unfinished.add(here := state(), 1)
    unfinished.done(here, 9)
    assert unfinished.first(here) == 1
    unfinished.done(here, 1)
    unfinished.done(here, 1)
    assert unfinished.left() == {}


# -- lanes -------------------------------------------------------------------------------------------------------


class FakeConsumer:
    """Hands out records in batches, noted as unfinished as the real one does; then the end, or nothing any more."""

    def __init__(self, keys: list[bytes | None], *, batch: int = 20, ends: bool = True) -> None:
        self.state = state()
        self.unfinished = Unfinished(lambda: None)
        self.handed_out = 0
        self.asked_for: list[int] = []
        self._keys = keys
        self._batch = batch
        self._ends = ends

    async def take_for_processing(
        self, max_records: int, unfinished: Unfinished
    ) -> list[tuple[PartitionState, ConsumerRecord]] | None:
        self.asked_for.append(max_records)
        await asyncio.sleep(0)
        offsets = range(self.handed_out, min(len(self._keys), self.handed_out + self._batch))
        if not offsets and not self._ends:
            await asyncio.Event().wait()
        if not offsets:
            return None
        self.handed_out = offsets.stop
        for offset in offsets:
            unfinished.add(self.state, offset)
        return [(self.state, ConsumerRecord("t", 0, offset, 0, self._keys[offset], b"", ())) for offset in offsets]

    async def process(self, handler: Callable[[ConsumerRecord], Any], *, concurrency: int) -> None:
        await process(cast(Any, self), handler, self.unfinished, concurrency=concurrency)

    def first(self) -> int | None:
        return self.unfinished.first(self.state)


@in_virtual_time
async def test_records_of_one_key_are_handled_in_order_and_one_at_a_time() -> None:
    generator = random.Random(5)
    consumer = FakeConsumer([b"key-%d" % generator.randrange(6) for _ in range(200)])
    handled: dict[bytes | None, list[int]] = {}
    busy: set[bytes | None] = set()
    most = 0

    async def handle(record: ConsumerRecord) -> None:
        nonlocal most
        assert record.key not in busy
        busy.add(record.key)
        most = max(most, len(busy))
        await asyncio.sleep(generator.random())
        busy.remove(record.key)
        handled.setdefault(record.key, []).append(record.offset)

    await consumer.process(handle, concurrency=4)
    assert sorted(offset for offsets in handled.values() for offset in offsets) == list(range(200))
    assert all(offsets == sorted(offsets) for offsets in handled.values())
    assert 1 < most <= 4
    assert consumer.unfinished.left() == {}
    assert set(consumer.asked_for) == {BATCH_RECORDS_MAX}


@in_virtual_time
async def test_records_without_a_key_take_turns_over_all_lanes() -> None:
    consumer = FakeConsumer([None] * 12)
    started = 0

    async def handle(record: ConsumerRecord) -> None:
        nonlocal started
        started += 1
        await asyncio.sleep(1)

    loop = asyncio.get_running_loop()
    begun = loop.time()
    await consumer.process(handle, concurrency=3)
    assert started == 12 and loop.time() - begun == pytest.approx(4)


@in_virtual_time
async def test_a_slow_record_holds_up_the_commit_and_its_own_key_only() -> None:
    consumer = FakeConsumer([b"slow", b"quick", b"slow", b"quick", b"quick"], ends=False)
    go_on = asyncio.Event()
    handled: list[int] = []

    async def handle(record: ConsumerRecord) -> None:
        if record.key == b"slow":
            await go_on.wait()
        handled.append(record.offset)

    processing = asyncio.ensure_future(consumer.process(handle, concurrency=8))
    await asyncio.sleep(1)
    assert handled == [1, 3, 4]
    assert consumer.first() == 0, "nothing may be committed"
    go_on.set()
    await asyncio.sleep(1)
    assert handled == [1, 3, 4, 0, 2] and consumer.first() is None
    processing.cancel()


@in_virtual_time
async def test_a_lane_that_is_full_stops_the_reading() -> None:
    consumer = FakeConsumer([b"one"] * 1_000, ends=False)
    processing = asyncio.ensure_future(consumer.process(lambda _: asyncio.sleep(10_000), concurrency=4))
    await asyncio.sleep(1)
    assert RECORDS_PER_LANE_MAX < consumer.handed_out <= RECORDS_PER_LANE_MAX + 2 * 20
    processing.cancel()


@in_virtual_time
async def test_the_end_waits_for_every_handler() -> None:
    consumer = FakeConsumer([b"a", b"b", b"c"])
    done: list[int] = []

    async def handle(record: ConsumerRecord) -> None:
        await asyncio.sleep(3 - record.offset)
        done.append(record.offset)

    await consumer.process(handle, concurrency=3)
    assert sorted(done) == [0, 1, 2]


@pytest.mark.parametrize("place", ["while reading", "while a lane is full", "at the end"])
@in_virtual_time
async def test_the_first_failure_ends_everything_and_what_was_not_handled_stays_unfinished(place: str) -> None:
    bad = 500 if place == "while a lane is full" else 3
    keys: list[bytes | None] = [*[b"good"] * 3, *[b"bad"] * bad]
    consumer = FakeConsumer(keys, ends=place == "at the end")
    cancelled: list[int] = []

    async def handle(record: ConsumerRecord) -> None:
        if record.key == b"bad":
            await asyncio.sleep(1)
            raise ZeroDivisionError(record.offset)
        if record.offset == 1:
            try:
                await asyncio.sleep(1_000)
            except asyncio.CancelledError:
                cancelled.append(record.offset)
                raise

    with pytest.raises(ZeroDivisionError, match="3"):
        await consumer.process(handle, concurrency=8)
    assert cancelled == [1], "the other handlers are ended before the error comes out"
    assert consumer.unfinished.left() == {consumer.state: 1}
    consumer.unfinished.done(consumer.state, 1)
    consumer.unfinished.done(consumer.state, 2)  # it was behind the other one
    assert consumer.first() == 3, "nor is what failed done"


@in_virtual_time
async def test_when_processing_is_cancelled_its_handlers_are_too() -> None:
    consumer = FakeConsumer([b"a", b"b"], ends=False)
    running = 0

    async def handle(record: ConsumerRecord) -> None:
        nonlocal running
        running += 1
        try:
            await asyncio.sleep(1_000)
        finally:
            running -= 1

    processing = asyncio.ensure_future(consumer.process(handle, concurrency=4))
    await asyncio.sleep(1)
    assert running == 2
    processing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await processing
    assert running == 0 and consumer.first() == 0


@in_virtual_time
async def test_a_handler_that_meets_a_cancelled_task_of_its_own_does_not_stop_the_processing_for_ever() -> None:
    consumer = FakeConsumer([b"a", b"a", b"a"])

    async def handle(record: ConsumerRecord) -> None:
        inner = asyncio.ensure_future(asyncio.sleep(1))
        inner.cancel()
        await inner

    processing = asyncio.ensure_future(consumer.process(handle, concurrency=2))
    await asyncio.wait({processing}, timeout=60)
    is_done = processing.done()
    processing.cancel()
    assert is_done, "it failed, or went on"
