"""One call on the serving side: runs the handler and is the context object that the handler sees.

Behaves like `grpc.aio.ServicerContext`. The final status leaves exactly once; afterwards the call is inactive and
nothing of it is sent, though its handler may still be on its way out.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import grpc
from google.protobuf.message import DecodeError, EncodeError

from logcluster.rpc.interceptors import CallMeasure, CallMeasures, DirectBehaviour
from logcluster.rpc.lane import frames
from logcluster.rpc.lane.streams import NUMBER_BY_STATUS, STATUS_BY_NUMBER, MessageStream, MessageTooBig
from logcluster.runtime.clock import perf_counter

if TYPE_CHECKING:
    from logcluster.rpc.lane.server import ServerConnection

StatusCode = grpc.StatusCode
CODEC_ERRORS = (DecodeError, EncodeError, ValueError, TypeError, AttributeError)


class Metadatum(NamedTuple):
    """One entry of the invocation metadata."""

    key: str
    value: str | bytes


class BoundMethod:
    """A registered method as the server calls it."""

    __slots__ = ("behaviour", "deserialize", "direct", "measure", "path", "request_streaming", "response_streaming",
                 "serialize")  # fmt: skip

    def __init__(
        self, path: str, handler: Any, behaviour_of: Callable[[Any], Any], direct: DirectBehaviour | None = None
    ) -> None:
        self.path = path
        self.behaviour = behaviour_of(handler)
        self.direct = direct
        """Runs instead of the behaviour, without a task."""
        self.request_streaming = bool(handler.request_streaming)
        self.response_streaming = bool(handler.response_streaming)
        self.deserialize: Callable[[Any], Any] = handler.request_deserializer or bytes
        self.serialize: Callable[[Any], bytes] = handler.response_serializer or bytes
        self.measure: CallMeasure | None = None

    def measure_with(self, measures: CallMeasures) -> None:
        """Measure every call from now on."""
        is_stream = self.request_streaming or self.response_streaming
        self.measure = measures.measure_of(self.path, is_stream=is_stream)


class ServerCall(MessageStream):
    """State of one call, and the `context` of its handler."""

    __slots__ = ("_callbacks", "_code", "_connection", "_details", "_has_ended", "_headers_sent", "_is_cancelled",
                 "_measure", "_method", "_started", "_task", "_trailing", "is_active", "metadata_block")  # fmt: skip

    def __init__(self, connection: ServerConnection, call_id: int, method: BoundMethod) -> None:
        super().__init__()
        self.connection = connection
        self.call_id = call_id
        self.is_active = True
        self.metadata_block: frames.Buffer = b""
        self._connection = connection
        self._method = method
        self._send_credit = connection.peer_credit_bytes
        self._task: asyncio.Task[None] | None = None
        self._code: grpc.StatusCode | int | None = None
        self._details = ""
        self._trailing: frames.MetadataItems = ()
        self._callbacks: list[Callable[[Any], None]] | None = None
        self._has_ended = False
        self._headers_sent = False
        self._is_cancelled = False
        self._measure = method.measure
        self._started = 0.0 if method.measure is None else perf_counter()

    # The life of the call.

    def start(self, message: Any) -> None:
        """Run the handler; `message` is a unary request still encoded."""
        method = self._method
        request: Any = None
        if not method.request_streaming:
            if self._measure is not None:
                self._measure.request_size_bytes += len(message)
            try:
                request = method.deserialize(message)
            except CODEC_ERRORS as error:
                self._connection.calls.pop(self.call_id, None)
                self._finish(StatusCode.INTERNAL, f"Exception deserializing request! {error}")
                return
            if method.direct is not None:
                self._run_directly(method.direct, request)
                return
        else:
            request = _Requests(self)
        work = self._run_stream(request) if method.response_streaming else self._run_single(request)
        self._task = self._connection.server.run(work)

    def _run_directly(self, behaviour: DirectBehaviour, request: Any) -> None:
        server = self._connection.server
        server.direct_calls += 1
        server.boundary.run_directly(
            self._method.path, behaviour, request, answer=self._answered_directly, fail=self._failed_directly
        )

    def _answered_directly(self, response: Any) -> None:
        if self._has_ended:
            return
        if self.is_active:
            self._answer(response)
        self._direct_ended()

    def _failed_directly(self, code: grpc.StatusCode, details: str, trailing: frames.MetadataItems) -> None:
        if self._has_ended:
            return
        self._trailing = trailing
        self._finish(code, details)
        self._direct_ended()

    def _direct_ended(self) -> None:
        """Free the call's place; what the behaviour still says later is not sent."""
        if not self._has_ended:
            self._has_ended = True
            self._connection.calls.pop(self.call_id, None)
            self._connection.server.direct_calls -= 1
            self._connection.server.finished(None)

    async def _run_single(self, request: Any) -> None:
        try:
            response = await self._method.behaviour(request, self)
            if self.is_active:
                self._answer(response)
        except grpc.aio.AbortError:
            pass
        finally:
            self._handler_ended()

    async def _run_stream(self, request: Any) -> None:
        try:
            # The boundary has made a coroutine of every streaming handler; it writes to this context.
            await self._method.behaviour(request, self)
            self._finish(self._status_code(), self._details)
        except grpc.aio.AbortError:
            pass
        finally:
            self._handler_ended()

    def _handler_ended(self, _task: object = None) -> None:
        if self._has_ended:
            return
        self._has_ended = True
        if self.is_active:
            self._finish(StatusCode.UNKNOWN, "the handler ended without a status")
        self._connection.calls.pop(self.call_id, None)
        self._connection.server.finished(self._task)
        if self._callbacks:
            callbacks, self._callbacks = self._callbacks, None
            for callback in callbacks:
                callback(self)

    def _answer(self, response: Any) -> None:
        try:
            payload = self._method.serialize(response)
        except CODEC_ERRORS as error:
            self._finish(StatusCode.INTERNAL, f"Failed to serialize response! {type(error).__name__}")
            return
        size_max = self._connection.message_size_bytes_max
        if len(payload) > size_max:
            error_text = str(MessageTooBig(len(payload), size_max))
            self._finish(StatusCode.RESOURCE_EXHAUSTED, f"the answer is too large: {error_text}")
        elif self._code is None and not self._trailing and not self._details:
            self.is_active = False
            if self._measure is not None:
                self._measure.response_size_bytes += len(payload)
                self._measure.ended(0, perf_counter() - self._started)
            self._connection.send(frames.ANSWER, self.call_id, payload)
        else:
            if self._status_code() is StatusCode.OK:
                self._connection.send(frames.MESSAGE, self.call_id, payload)
            self._finish(self._status_code(), self._details)

    def _finish(self, code: grpc.StatusCode, details: str) -> None:
        if not self.is_active:
            return
        self.is_active = False
        self._measured(NUMBER_BY_STATUS[code])
        block = frames.encode_metadata(self._trailing)
        if len(block) > self._connection.options.metadata_size_bytes_max:
            block = b""
        if not self._connection.is_closed:
            payload = frames.encode_status(NUMBER_BY_STATUS[code], details, block)
            self._connection.send(frames.STATUS, self.call_id, payload)
        if self._send_waiters:
            self.wake_senders()

    def _measured(self, code: int) -> None:
        if self._measure is not None:
            self._measure.ended(code, perf_counter() - self._started)

    def _status_code(self) -> grpc.StatusCode:
        code = self._code
        if code is None:
            return StatusCode.OK
        return code if isinstance(code, StatusCode) else STATUS_BY_NUMBER.get(code, StatusCode.UNKNOWN)

    # What the connection calls.

    def is_over(self) -> bool:
        return not self.is_active

    def cancelled_by_peer(self) -> None:
        """The caller gave up; it wants no answer."""
        if self.is_active:
            self._measured(NUMBER_BY_STATUS[StatusCode.CANCELLED])
        self._is_cancelled = True
        self.is_active = False
        self._cancel_handler()

    def connection_ended(self, error: Exception | None) -> None:
        self.cancelled_by_peer()

    def expire(self) -> None:
        self.deadline = None
        self.stop_now(StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded")

    def stop_now(self, code: grpc.StatusCode, details: str) -> None:
        """Answer for the handler and cancel it."""
        self._is_cancelled = True
        self._trailing = ()
        self._finish(code, details)
        self._cancel_handler()

    def _cancel_handler(self) -> None:
        if self._send_waiters:
            self.wake_senders()
        if self._task is not None and not self._task.done():
            # A task that is cancelled before its first step never runs a line of its coroutine.
            self._task.add_done_callback(self._handler_ended)
            self._task.cancel()
        elif self._task is None and self._method.direct is not None:
            self._direct_ended()

    # What handlers use: grpc.aio.ServicerContext.

    async def read(self) -> Any:
        """Return the next request of a request stream, or `grpc.aio.EOF` after the last."""
        payload = await self.next_message()
        if payload is None:
            return grpc.aio.EOF
        return await self._decode(payload)

    async def _decode(self, payload: frames.Buffer) -> Any:
        try:
            return self._method.deserialize(payload)
        except CODEC_ERRORS as error:
            await self.abort(StatusCode.INTERNAL, f"Exception deserializing request! {error}")

    async def write(self, message: Any) -> None:
        """Send one response of a response stream; waits for the reader's credit.

        Raises:
            asyncio.CancelledError: the caller has gone.
        """
        try:
            payload = self._method.serialize(message)
            sent = await self.send_message(payload)
        except CODEC_ERRORS as error:
            await self.abort(StatusCode.INTERNAL, f"Failed to serialize response! {type(error).__name__}")
        except MessageTooBig as error:
            await self.abort(StatusCode.RESOURCE_EXHAUSTED, str(error))
        if not sent:
            # The task is being cancelled for the same reason; let that arrive here.
            if self._task is not None:
                self._task.cancel()
            await asyncio.Event().wait()

    async def send_initial_metadata(self, initial_metadata: Iterable[tuple[str, str | bytes]]) -> None:
        """Send response headers now, once.

        Raises:
            grpc.aio.UsageError: they were sent before.
        """
        if self._headers_sent:
            raise grpc.aio.UsageError("Send initial metadata failed: already sent")
        self._headers_sent = True
        if self.is_active:
            self._connection.send(frames.HEADERS, self.call_id, frames.encode_metadata(initial_metadata))

    async def abort(
        self,
        code: grpc.StatusCode,
        details: str = "",
        trailing_metadata: Iterable[tuple[str, str | bytes]] = (),
    ) -> NoReturn:
        """End the call with an error status; always raises."""
        if not self.is_active:
            if self._is_cancelled:
                raise grpc.aio.AbortError("The call is over.")
            raise grpc.aio.UsageError("Abort already called!")
        trailing = tuple(trailing_metadata)
        if trailing:
            self._trailing = trailing
        self._code = code
        self._details = details
        self._finish(StatusCode.UNKNOWN if code is StatusCode.OK else code, details)
        raise grpc.aio.AbortError("Locally aborted.")

    def set_trailing_metadata(self, trailing_metadata: Iterable[tuple[str, str | bytes]]) -> None:
        self._trailing = tuple((key, value) for key, value in trailing_metadata)

    def invocation_metadata(self) -> tuple[Metadatum, ...]:
        return tuple(Metadatum(key, value) for key, value in frames.decode_metadata(self.metadata_block))

    def set_code(self, code: grpc.StatusCode | int) -> None:
        self._code = code

    def set_details(self, details: str) -> None:
        self._details = details

    def code(self) -> grpc.StatusCode | int | None:
        return self._code

    def details(self) -> str:
        return self._details

    def trailing_metadata(self) -> frames.MetadataItems:
        return self._trailing

    def time_remaining(self) -> float | None:
        """Seconds until the caller's deadline, not below zero; None without one."""
        if self.deadline is None:
            return None
        return max(0.0, self.deadline - self._connection.loop.time())

    def peer(self) -> str:
        return self._connection.peer

    def peer_identities(self) -> list[bytes] | None:
        identity = self._connection.peer_identity
        return None if identity is None else [identity]

    def peer_identity_key(self) -> str | None:
        return None if self._connection.peer_identity is None else "x509_common_name"

    def auth_context(self) -> dict[str, list[bytes]]:
        identity = self._connection.peer_identity
        return {} if identity is None else {"x509_common_name": [identity]}

    def cancelled(self) -> bool:
        return self._is_cancelled

    def done(self) -> bool:
        return not self.is_active

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        """Call `callback(context)` when the handler has ended."""
        if self._callbacks is None:
            self._callbacks = []
        self._callbacks.append(callback)

    def set_compression(self, compression: object) -> None:
        """Accepted for likeness with grpc.aio; the lane does not compress (batches are compressed end to end)."""

    def disable_next_message_compression(self) -> None:
        """Accepted for likeness with grpc.aio."""


class _Requests:
    """The request iterator of a handler."""

    __slots__ = ("_call",)

    def __init__(self, call: ServerCall) -> None:
        self._call = call

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        call = self._call
        payload = await call.next_message()
        if payload is None:
            raise StopAsyncIteration
        try:
            return call._method.deserialize(payload)
        except CODEC_ERRORS as error:
            await call.abort(StatusCode.INTERNAL, f"Exception deserializing request! {error}")
