"""Task scopes: leaving the block means that nothing of it runs."""

from __future__ import annotations

import asyncio

import pytest

from logcluster.runtime.scope import TaskScope


async def test_leaving_the_block_cancels_and_waits() -> None:
    ended = []

    async def work(name: str) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(name)

    async with TaskScope("test") as scope:
        scope.spawn(work("first"), name="first")
        scope.spawn(work("second"), name="second")
        await asyncio.sleep(0)
    assert sorted(ended) == ["first", "second"]
    assert scope.task_count == 0


async def test_a_failed_task_reaches_the_fault_handler() -> None:
    faults: list[tuple[str, BaseException]] = []

    async def fail() -> None:
        raise ValueError("broken")

    async with TaskScope("test", on_fault=lambda name, error: faults.append((name, error))) as scope:
        scope.spawn(fail(), name="failing")
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    assert [(name, str(error)) for name, error in faults] == [("test/failing", "broken")]


async def test_without_a_handler_the_failure_is_raised_when_the_block_is_left() -> None:
    async def fail() -> None:
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        async with TaskScope("test") as scope:
            scope.spawn(fail(), name="failing")
            await asyncio.sleep(0)
            await asyncio.sleep(0)


async def test_a_closed_scope_takes_no_task() -> None:
    scope = TaskScope("test")
    await scope.close()

    async def work() -> None:
        await asyncio.Event().wait()

    with pytest.raises(RuntimeError, match="closed"):
        scope.spawn(work(), name="late")


async def test_a_task_may_close_its_own_scope() -> None:
    scope = TaskScope("test")
    done = asyncio.Event()

    async def work() -> None:
        await scope.close()
        done.set()

    scope.spawn(work(), name="closer")
    await asyncio.wait_for(done.wait(), 1)
    assert scope.is_closed


async def test_a_task_that_resists_the_first_cancellation_is_cancelled_again() -> None:
    async def stubborn() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await asyncio.Event().wait()

    async with TaskScope("test") as scope:
        scope.spawn(stubborn(), name="stubborn")
        await asyncio.sleep(0)
        closing = asyncio.ensure_future(scope.close())
        for _ in range(3):
            await asyncio.sleep(0)
        for task in list(scope._tasks):
            task.cancel()
        await closing
    assert scope.task_count == 0


def test_without_a_loop_the_work_is_closed_and_not_left_behind() -> None:
    async def work() -> None:
        raise AssertionError("it must not run")

    coroutine = work()
    scope = TaskScope("test")
    with pytest.raises(RuntimeError, match="no running event loop"):
        scope.spawn(coroutine, name="work")
    with pytest.raises(RuntimeError, match="cannot reuse"):
        coroutine.send(None)
    assert scope.task_count == 0
