"""What surrounds every handler, once, on every carrier: error mapping, deadline cap, concurrency limit.

`Boundary` is the outermost wrapper. It turns a `LogClusterError` into its status (`wire.status`), any other exception
into INTERNAL with an incident id whose text stays in our log, and takes care of a stray `CancelledError`: grpc.aio
(1.85.1) never answers a call whose handler lets one escape (grpc/grpc issue 29248). It is re-raised only when this
task is really being cancelled; otherwise the caller gets UNAVAILABLE. A cancellation that the handler lost is raised
again.

A further interceptor is an object with `intercept(method, handler) -> handler`, called once per method; `handler` is
what the generated code registered, and may be replaced with `replace_behaviour`.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, Final, Protocol, TypeVar, cast

import grpc

from logcluster.model import errors, limits
from logcluster.model.errors import LogClusterError
from logcluster.runtime.event_log import get_logger
from logcluster.wire.status import status_from_error

log = get_logger("rpc")

Behaviour = Callable[[Any, Any], Any]
"""A handler: (request or request iterator, context) -> awaitable, or async iterator of responses."""
DirectBehaviour = Callable[[Any, Callable[[Any], None]], None]
"""`behaviour(request, answer)`: no coroutine; see `answered_directly_by`."""
Servicer = TypeVar("Servicer", bound=Callable[..., Any])
Handler = Any
"""A `grpc.RpcMethodHandler`: behaviours, serializers and the two streaming flags."""
CANCELLED_DETAILS: Final = "the handler was cancelled before it answered"


class Interceptor(Protocol):
    """Wraps handlers; the same object may serve all carriers."""

    def intercept(self, method: str, handler: Handler) -> Handler:
        """Return the handler to use for `method` (`/package.Service/Name`), `handler` itself if nothing is to do."""
        ...


class CallMeasure(Protocol):
    """Measures the calls of one method; see `metrics.requests`.

    Attributes:
        request_size_bytes, response_size_bytes: sums over unary messages.
    """

    request_size_bytes: int
    response_size_bytes: int

    def ended(self, code: int, seconds: float) -> None:
        """A call ended with this status so long after it began."""


class CallMeasures(Protocol):
    """Gives each method its measure, when the method is bound."""

    def measure_of(self, path: str, *, is_stream: bool) -> CallMeasure: ...


def behaviour_of(handler: Handler) -> Behaviour:
    """Return the one of the four behaviours that the handler's flags name."""
    if handler.response_streaming:
        behaviour = handler.stream_stream if handler.request_streaming else handler.unary_stream
    else:
        behaviour = handler.stream_unary if handler.request_streaming else handler.unary_unary
    return cast(Behaviour, behaviour)


def replace_behaviour(handler: Handler, behaviour: Behaviour) -> Handler:
    """Return a handler like `handler` that runs `behaviour`."""
    if handler.response_streaming:
        make = (
            grpc.stream_stream_rpc_method_handler if handler.request_streaming else grpc.unary_stream_rpc_method_handler
        )
    else:
        make = (
            grpc.stream_unary_rpc_method_handler if handler.request_streaming else grpc.unary_unary_rpc_method_handler
        )
    return make(
        behaviour,
        request_deserializer=handler.request_deserializer,
        response_serializer=handler.response_serializer,
    )


def intercept_all(interceptors: Sequence[Interceptor], method: str, handler: Handler) -> Handler:
    """Wrap a handler; the first interceptor ends up outermost."""
    for interceptor in reversed(interceptors):
        handler = interceptor.intercept(method, handler)
    return handler


def answered_directly_by(name: str) -> Callable[[Servicer], Servicer]:
    """Mark a unary servicer method: a carrier that can may call the method `name` of the same servicer instead.

    That one is no coroutine: `name(request, answer)` calls `answer(response)` once, now or later, and raises what the
    marked method would raise before its first await. It spares a task per call, and callers cannot tell.
    """

    def mark(method: Servicer) -> Servicer:
        method._answered_directly_by = name  # type: ignore[attr-defined]  # a note for `direct_behaviour_of`
        return method

    return mark


def direct_behaviour_of(handler: Handler) -> DirectBehaviour | None:
    """Return what `answered_directly_by` names, for a handler that nothing wraps yet; None without the mark."""
    method = handler.unary_unary
    name = getattr(method, "_answered_directly_by", None)
    return None if name is None else cast(DirectBehaviour, getattr(method.__self__, name))


class Boundary:
    """The outermost interceptor of one server.

    Args:
        calls_max: calls running at once in this server, over all connections; None leaves it to the carrier.
        deadline_ms_max: a unary call without a deadline, or with a later one, is ended after so long.
            Streams may live on.
    """

    def __init__(self, *, calls_max: int | None = None, deadline_ms_max: int = limits.DEADLINE_MS_MAX) -> None:
        self.calls_max = calls_max
        self.deadline_ms_max = deadline_ms_max
        self.calls_running = 0
        self.calls_refused = 0
        self.incidents = 0

    def intercept(self, method: str, handler: Handler) -> Handler:
        behaviour = behaviour_of(handler)
        if handler.response_streaming:
            return replace_behaviour(handler, self._streaming(method, behaviour))
        return replace_behaviour(handler, self._single(method, behaviour, is_capped=not handler.request_streaming))

    def statistics(self) -> dict[str, int]:
        return {
            "handlers_running": self.calls_running,
            "handlers_refused": self.calls_refused,
            "incidents": self.incidents,
        }

    def run_directly(
        self,
        method: str,
        behaviour: DirectBehaviour,
        request: Any,
        *,
        answer: Callable[[Any], None],
        fail: Callable[[grpc.StatusCode, str, Any], None],
    ) -> None:
        """Run a direct behaviour; its errors go to `fail` as code, message and trailing metadata."""
        try:
            behaviour(request, answer)
        except LogClusterError as error:
            fail(*status_from_error(error))
        except Exception as error:  # noqa: BLE001 - this is the outermost interceptor
            fail(*self._incident(method, error))

    def _incident(self, method: str, error: BaseException) -> tuple[grpc.StatusCode, str, Any]:
        """Log an unexpected error under an id of which only the id leaves this process."""
        self.incidents += 1
        incident = f"{id(self) & 0xFFFF:04x}-{self.incidents}"
        log.error("unexpected_error", incident=incident, method=method, error=repr(error), exc_info=error)
        return status_from_error(errors.UnknownServerError(f"unexpected error, incident {incident}", incident=incident))

    def _single(self, method: str, behaviour: Behaviour, *, is_capped: bool) -> Behaviour:
        deadline_max = self.deadline_ms_max / 1000

        async def run(request: Any, context: Any) -> Any:
            if self.calls_max is not None and self.calls_running >= self.calls_max:
                await self._refuse(context)
            self.calls_running += 1
            try:
                if is_capped:
                    remaining = context.time_remaining()
                    if remaining is None or remaining > deadline_max:
                        return await self._capped(behaviour, request, context)
                response = await behaviour(request, context)
                _raise_lost_cancellation()
                return response
            except (Exception, asyncio.CancelledError) as error:
                await self._answer_error(method, error, context)
                raise
            finally:
                self.calls_running -= 1

        return run

    def _streaming(self, method: str, behaviour: Behaviour) -> Behaviour:
        is_generator = inspect.isasyncgenfunction(behaviour)

        async def run(request: Any, context: Any) -> None:
            if self.calls_max is not None and self.calls_running >= self.calls_max:
                await self._refuse(context)
            self.calls_running += 1
            try:
                produced = behaviour(request, context)
                if is_generator or hasattr(produced, "__aiter__"):
                    await _write_all(produced, context)
                else:
                    await produced
                _raise_lost_cancellation()
            except (Exception, asyncio.CancelledError) as error:
                await self._answer_error(method, error, context)
                raise
            finally:
                self.calls_running -= 1

        return run

    async def _capped(self, behaviour: Behaviour, request: Any, context: Any) -> Any:
        timer = asyncio.timeout(self.deadline_ms_max / 1000)
        try:
            async with timer:
                return await behaviour(request, context)
        except TimeoutError:
            if not timer.expired():
                raise
            await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, f"the server's limit is {self.deadline_ms_max} ms")
            raise

    async def _refuse(self, context: Any) -> None:
        self.calls_refused += 1
        code, message, trailing = status_from_error(errors.Overloaded(calls_max=self.calls_max))
        await context.abort(code, message, trailing)

    async def _answer_error(self, method: str, error: BaseException, context: Any) -> None:
        """Abort the call with what `error` stands for; returns if `error` itself must travel on."""
        if isinstance(error, grpc.aio.AbortError | grpc.aio.InternalError):
            # The second is what a write raises whose caller has gone; grpc.aio knows what to do with it.
            return
        if isinstance(error, asyncio.CancelledError):
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                return
            # Not this call was cancelled, something it waited for was; the outcome is unknown.
            await context.abort(grpc.StatusCode.UNAVAILABLE, CANCELLED_DETAILS)
        if isinstance(error, LogClusterError):
            code, message, trailing = status_from_error(error)
            await context.abort(code, message, trailing)
        if isinstance(error, NotImplementedError) and context.code() in {
            grpc.StatusCode.UNIMPLEMENTED,
            grpc.StatusCode.UNIMPLEMENTED.value[0],
        }:
            # A method that the servicer leaves to the generated base class.
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, "Method not implemented!")
        code, message, trailing = self._incident(method, error)
        await context.abort(code, message, trailing)


def _raise_lost_cancellation() -> None:
    """Cancel a handler that has answered although it was cancelled.

    On Python 3.11 a TaskGroup under `except*` can lose its task's cancellation (python/cpython issue 116720).
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


async def _write_all(responses: AsyncIterator[Any], context: Any) -> None:
    """Write what an async generator yields; it is closed also when this task is cancelled or the write fails."""
    try:
        async for response in responses:
            await context.write(response)
    finally:
        close: Callable[[], Awaitable[None]] | None = getattr(responses, "aclose", None)
        if close is not None:
            await close()


class GrpcInterceptor(grpc.aio.ServerInterceptor):
    """Runs our interceptors in a grpc.aio server."""

    def __init__(self, interceptors: Sequence[Interceptor]) -> None:
        self._interceptors = tuple(interceptors)
        self._handlers: dict[str, tuple[Handler, Handler]] = {}

    async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Handler:
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        method = handler_call_details.method
        if isinstance(method, bytes):
            method = method.decode()
        known = self._handlers.get(method)
        if known is None or known[0] is not handler:
            # Methods are those of registered services, so this table is bounded by them.
            known = (handler, intercept_all(self._interceptors, method, handler))
            self._handlers[method] = known
        return known[1]
