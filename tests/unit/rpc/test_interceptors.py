"""The boundary around handlers, without a carrier."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest

from logcluster.model import errors
from logcluster.rpc.interceptors import Boundary, behaviour_of, intercept_all, replace_behaviour
from logcluster.wire.status import DETAILS_KEY

StatusCode = grpc.StatusCode


class FakeContext:
    """Records what a handler does to its context."""

    def __init__(self, remaining: float | None = 10.0) -> None:
        self.aborted: tuple[Any, str, Any] | None = None
        self.written: list[Any] = []
        self._remaining = remaining

    async def abort(self, code: Any, details: str = "", trailing_metadata: Any = ()) -> None:
        self.aborted = (code, details, tuple(trailing_metadata))
        raise grpc.aio.AbortError

    async def write(self, message: Any) -> None:
        self.written.append(message)

    def time_remaining(self) -> float | None:
        return self._remaining

    def code(self) -> None:
        return None


def guarded(behaviour: Any, boundary: Boundary | None = None, *, streams: bool = False) -> Any:
    make = grpc.unary_stream_rpc_method_handler if streams else grpc.unary_unary_rpc_method_handler
    return behaviour_of((boundary or Boundary()).intercept("/t/M", make(behaviour)))


async def test_an_answer_passes_through() -> None:
    async def handler(request: Any, context: Any) -> Any:
        return request + 1

    assert await guarded(handler)(1, FakeContext()) == 2


async def test_a_typed_error_becomes_its_status_with_details() -> None:
    async def handler(request: Any, context: Any) -> Any:
        raise errors.TopicAlreadyExists("orders exists")

    context = FakeContext()
    with pytest.raises(grpc.aio.AbortError):
        await guarded(handler)(1, context)
    assert context.aborted is not None
    assert context.aborted[:2] == (StatusCode.ALREADY_EXISTS, "orders exists")
    assert context.aborted[2][0][0] == DETAILS_KEY


async def test_cancellation_of_the_task_travels_on_unanswered() -> None:
    entered = asyncio.Event()

    async def handler(request: Any, context: Any) -> Any:
        entered.set()
        await asyncio.Event().wait()

    context = FakeContext()
    task = asyncio.create_task(guarded(handler)(1, context))
    await entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert context.aborted is None


async def test_cancellation_of_something_else_is_answered() -> None:
    other = asyncio.get_running_loop().create_future()
    other.cancel()

    async def handler(request: Any, context: Any) -> Any:
        await other

    context = FakeContext()
    with pytest.raises(grpc.aio.AbortError):
        await guarded(handler)(1, context)
    assert context.aborted is not None
    assert context.aborted[0] is StatusCode.UNAVAILABLE


async def test_cancellation_inside_a_nested_group_is_not_lost() -> None:
    # On Python 3.11 a TaskGroup under `except*` loses its task's cancellation here (python/cpython issue 116720).
    boundary = Boundary()
    entered = asyncio.Event()

    async def fail_on_cancel() -> None:
        entered.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise ValueError("while being cancelled") from None

    async def handler(request: Any, context: Any) -> Any:
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(fail_on_cancel())
        except* ValueError:
            pass
        return "swallowed"

    task = asyncio.create_task(guarded(handler, boundary)(1, FakeContext()))
    await entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert boundary.calls_running == 0


async def test_calls_beyond_the_limit_are_refused_before_the_handler_runs() -> None:
    release = asyncio.Event()
    ran = 0

    async def handler(request: Any, context: Any) -> Any:
        nonlocal ran
        ran += 1
        await release.wait()
        return "ok"

    boundary = Boundary(calls_max=2)
    behaviour = guarded(handler, boundary)
    first = [asyncio.create_task(behaviour(1, FakeContext())) for _ in range(2)]
    await asyncio.sleep(0)
    context = FakeContext()
    with pytest.raises(grpc.aio.AbortError):
        await behaviour(1, context)
    assert context.aborted is not None
    assert context.aborted[0] is StatusCode.RESOURCE_EXHAUSTED
    release.set()
    assert [await task for task in first] == ["ok", "ok"]
    assert ran == 2
    assert boundary.statistics() == {"handlers_running": 0, "handlers_refused": 1, "incidents": 0}
    assert await behaviour(1, FakeContext()) == "ok"


@pytest.mark.parametrize("remaining", [None, 3_600.0])
async def test_a_unary_call_is_capped_at_the_servers_limit(remaining: float | None) -> None:
    async def handler(request: Any, context: Any) -> Any:
        await asyncio.Event().wait()

    context = FakeContext(remaining)
    with pytest.raises(grpc.aio.AbortError):
        await guarded(handler, Boundary(deadline_ms_max=20))(1, context)
    assert context.aborted is not None
    assert context.aborted[0] is StatusCode.DEADLINE_EXCEEDED


async def test_a_handlers_own_timeout_is_a_bug_not_a_deadline() -> None:
    async def handler(request: Any, context: Any) -> Any:
        raise TimeoutError("inner")

    context = FakeContext(None)
    with pytest.raises(grpc.aio.AbortError):
        await guarded(handler)(1, context)
    assert context.aborted is not None
    assert context.aborted[0] is StatusCode.INTERNAL
    assert "inner" not in str(context.aborted)


async def test_a_generator_is_closed_when_its_reader_goes() -> None:
    closed = asyncio.Event()

    class Gone(FakeContext):
        async def write(self, message: Any) -> None:
            raise asyncio.CancelledError

    async def handler(request: Any, context: Any) -> Any:
        try:
            yield 1
            yield 2
        finally:
            closed.set()

    task = asyncio.create_task(guarded(handler, streams=True)(1, Gone()))
    with pytest.raises(grpc.aio.AbortError):
        await task
    assert closed.is_set()


async def test_a_generator_and_a_writing_coroutine_both_stream() -> None:
    async def generator(request: Any, context: Any) -> Any:
        yield 1
        yield 2

    async def writer(request: Any, context: Any) -> None:
        await context.write(3)

    first, second = FakeContext(), FakeContext()
    await guarded(generator, streams=True)(0, first)
    await guarded(writer, streams=True)(0, second)
    assert (first.written, second.written) == ([1, 2], [3])


async def test_interceptors_nest_in_the_order_given() -> None:
    class Tag:
        def __init__(self, tag: str) -> None:
            self.tag = tag

        def intercept(self, method: str, handler: Any) -> Any:
            inner = behaviour_of(handler)

            async def run(request: Any, context: Any) -> Any:
                return self.tag + await inner(request, context)

            return replace_behaviour(handler, run)

    async def handler(request: Any, context: Any) -> str:
        return "!"

    wrapped = intercept_all([Tag("a"), Tag("b")], "/t/M", grpc.unary_unary_rpc_method_handler(handler))
    assert await behaviour_of(wrapped)(0, FakeContext()) == "ab!"
