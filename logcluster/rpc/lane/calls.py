"""The caller's view of a call on the lane: behaves like the call objects of `grpc.aio`.

A call ends once, in `finish`; from then on its status is known. Awaiting or reading a call that ended with another
status than OK raises `grpc.aio.AioRpcError`; one that was cancelled here raises `CancelledError`. Cancelling a task
that awaits a call cancels the call.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterable, AsyncIterator, Callable, Generator, Iterable
from typing import TYPE_CHECKING, Any, Final

import grpc

from logcluster.rpc.lane import frames
from logcluster.rpc.lane.streams import STATUS_BY_NUMBER, Deserializer, MessageStream, MessageTooBig, Serializer
from logcluster.wire.status import CallNotSentError

if TYPE_CHECKING:
    from logcluster.rpc.lane.channel import LaneChannel
    from logcluster.rpc.lane.client_connection import ClientConnection

StatusCode = grpc.StatusCode
AioRpcError = grpc.aio.AioRpcError
DEADLINE_EXCEEDED_DETAILS: Final = "Deadline Exceeded"
CANCELLED_DETAILS: Final = "Locally cancelled by application!"
DoneCallback = Callable[[Any], None]


class ClientCall(MessageStream):
    """State of one call on the caller's side; the four shapes below add their ways of reading and writing."""

    __slots__ = ("_callbacks", "_channel", "_code", "_deserialize", "_details", "_done_waiter", "_error",
                 "_initial_metadata", "_is_refused", "_not_sent", "_serialize",
                 "_trailing_metadata", "has_iterator", "writing_ended")  # fmt: skip
    answers_once = True

    def __init__(self, channel: LaneChannel, serialize: Serializer | None, deserialize: Deserializer | None) -> None:
        super().__init__()
        self._channel = channel
        self._serialize = serialize
        self._deserialize = deserialize
        self._code: grpc.StatusCode | None = None
        self._details: str | None = None
        self._initial_metadata: frames.MetadataItems = ()
        self._trailing_metadata: frames.MetadataItems = ()
        self._done_waiter: asyncio.Future[None] | None = None
        self._callbacks: list[DoneCallback] | None = None
        self.has_iterator = False
        self.writing_ended = False
        self._not_sent = False
        self._is_refused = False

    # What grpc.aio.RpcContext and Call offer.

    def done(self) -> bool:
        return self._code is not None

    def cancelled(self) -> bool:
        return self._code is StatusCode.CANCELLED

    def time_remaining(self) -> float | None:
        """Seconds until the deadline, not below zero; None without one."""
        if self.deadline is None:
            return None
        return max(0.0, self.deadline - self._channel.loop_time())

    def add_done_callback(self, callback: DoneCallback) -> None:
        """Call `callback(self)` when the call has ended, at once if it has."""
        if self._code is not None:
            callback(self)
            return
        if self._callbacks is None:
            self._callbacks = []
        self._callbacks.append(callback)

    def cancel(self) -> bool:
        """Give the call up; False if it had ended already."""
        if self._code is not None:
            return False
        self._abandon()
        self.finish(StatusCode.CANCELLED, CANCELLED_DETAILS)
        return True

    async def initial_metadata(self) -> grpc.aio.Metadata:
        if not self._initial_metadata:
            await self._wait_done()
        return grpc.aio.Metadata(*self._initial_metadata)

    async def trailing_metadata(self) -> grpc.aio.Metadata:
        await self._wait_done()
        return grpc.aio.Metadata(*self._trailing_metadata)

    async def code(self) -> grpc.StatusCode:
        await self._wait_done()
        assert self._code is not None
        return self._code

    async def details(self) -> str:
        await self._wait_done()
        return self._details or ""

    async def wait_for_connection(self) -> None:
        """Return when the call is on its way. Raises: AioRpcError if it cannot be."""
        await self._wait_attached()
        if self._code is not None:
            self._raise_for_status()

    # What the connection calls.

    def is_over(self) -> bool:
        return self._code is not None

    def attached(self, connection: ClientConnection, call_id: int) -> None:
        """The opening frame is queued on `connection`."""
        self.connection = connection
        self.call_id = call_id
        self._send_credit += connection.peer_credit_bytes
        if self._send_waiters:
            self.wake_senders()

    def on_message(self, payload: frames.Buffer) -> None:
        self.deliver(payload)

    def on_headers(self, payload: frames.Buffer) -> None:
        self._initial_metadata = frames.decode_metadata(payload)

    def on_answer(self, payload: frames.Buffer) -> None:
        raise frames.FrameError("a unary answer came for a streaming call")

    def on_status(self, payload: frames.Buffer) -> None:
        number, details, block = frames.decode_status(payload)
        self._trailing_metadata = frames.decode_metadata(block)
        self.finish(STATUS_BY_NUMBER.get(number, StatusCode.UNKNOWN), details)

    def expire(self) -> None:
        if self._code is None:
            self._abandon()
            self.finish(StatusCode.DEADLINE_EXCEEDED, DEADLINE_EXCEEDED_DETAILS)

    def connection_ended(self, error: Exception | None) -> None:
        if isinstance(error, frames.FrameError):
            self.finish(StatusCode.UNAVAILABLE, f"the lane connection was cut: {error}")
        else:
            self.finish(StatusCode.UNAVAILABLE, f"the connection ended before the answer came: {error or 'closed'}")

    def never_sent(
        self, code: grpc.StatusCode, details: str, *, is_refused: bool = False, trailing: frames.MetadataItems = ()
    ) -> None:
        """The call ends without a byte of it having left."""
        self._not_sent = True
        self._is_refused = is_refused
        self._trailing_metadata = trailing
        self.finish(code, details)

    def finish(self, code: grpc.StatusCode, details: str | None) -> None:
        """Set the final status, once; later ones are ignored."""
        if self._code is not None:
            return
        self._code = code
        self._details = details
        if self._inbox is not None:
            if code is StatusCode.CANCELLED or code is StatusCode.DEADLINE_EXCEEDED:
                # Like grpc: what arrived before a failure is still read, what the caller gave up is not.
                self._inbox.clear()
            self.end_inbox()
        if self._send_waiters:
            self.wake_senders()
        waiter = self._done_waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)
        if self._callbacks:
            callbacks, self._callbacks = self._callbacks, None
            for callback in callbacks:
                callback(self)

    # Helpers of the shapes.

    def _abandon(self) -> None:
        """Take the call off its connection and tell the server."""
        connection = self.connection
        if connection is None:
            self._channel.forget(self)
        elif connection.calls.pop(self.call_id, None) is not None and not connection.is_closed:
            connection.send(frames.CANCEL, self.call_id)

    async def _wait_attached(self) -> None:
        while self.connection is None and self._code is None:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            if self._send_waiters is None:
                self._send_waiters = []
            self._send_waiters.append(waiter)
            await waiter

    async def _wait_done(self) -> None:
        while self._code is None:
            waiter = self._done_waiter
            if waiter is None or waiter.cancelled():
                waiter = self._done_waiter = asyncio.get_running_loop().create_future()
            await asyncio.shield(waiter)

    def _rpc_error(self) -> AioRpcError:
        code = self._code or StatusCode.UNKNOWN
        initial = grpc.aio.Metadata(*self._initial_metadata)
        trailing = grpc.aio.Metadata(*self._trailing_metadata)
        if self._not_sent:
            return CallNotSentError(code, initial, trailing, self._details, connection_refused=self._is_refused)
        return AioRpcError(code, initial, trailing, self._details)

    def _raise_for_status(self) -> None:
        if self._code is StatusCode.OK or self._code is None:
            return
        if self._code is StatusCode.CANCELLED and self._details == CANCELLED_DETAILS:
            raise asyncio.CancelledError
        raise self._rpc_error()

    def decode(self, payload: frames.Buffer) -> Any:
        """Decode an answer.

        Raises:
            AioRpcError: it is broken; the call has ended with INTERNAL.
        """
        if self._deserialize is None:
            return bytes(payload)
        try:
            return self._deserialize(payload)
        except self._channel.decode_errors as error:
            self._abandon()
            self._code = None
            self.finish(StatusCode.INTERNAL, f"Exception deserializing response! {error}")
            raise self._rpc_error() from error


class UnaryAnswer(ClientCall):
    """A call that is awaited for one answer."""

    __slots__ = ("_response", "_waiter")

    def __init__(self, channel: LaneChannel, serialize: Serializer | None, deserialize: Deserializer | None) -> None:
        super().__init__(channel, serialize, deserialize)
        self._response: Any = None
        self._waiter: asyncio.Future[None] | None = None

    def on_answer(self, payload: frames.Buffer) -> None:
        self.on_message(payload)
        self.finish(StatusCode.OK, "")

    def on_message(self, payload: frames.Buffer) -> None:
        # A broken answer has ended the call; whoever awaits it is told.
        with contextlib.suppress(AioRpcError):
            self._response = self.decode(payload)

    def on_status(self, payload: frames.Buffer) -> None:
        if payload[0] == 0 and self._response is None:
            self.finish(StatusCode.INTERNAL, "the server answered OK without an answer")
        else:
            super().on_status(payload)

    def finish(self, code: grpc.StatusCode, details: str | None) -> None:
        super().finish(code, details)
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def __await__(self) -> Generator[Any, None, Any]:
        if self._code is None:
            try:
                while self._code is None:
                    waiter = self._waiter
                    if waiter is None or waiter.done():
                        waiter = self._waiter = asyncio.get_running_loop().create_future()
                    yield from waiter
            except asyncio.CancelledError:
                self.cancel()
                raise
        if self._code is not StatusCode.OK:
            self._raise_for_status()
        return self._response


class StreamAnswer(ClientCall):
    """A call that is read as a stream: `async for` or `read()`."""

    __slots__ = ()
    answers_once = False

    def __init__(self, channel: LaneChannel, serialize: Serializer | None, deserialize: Deserializer | None) -> None:
        super().__init__(channel, serialize, deserialize)
        self.open_inbox(channel.options.stream_credit_bytes)

    async def read(self) -> Any:
        """Return the next message, or `grpc.aio.EOF` after the last.

        Raises:
            AioRpcError: the call has failed.
        """
        try:
            payload = await self.next_message()
        except asyncio.CancelledError:
            self.cancel()
            raise
        if payload is not None:
            return self.decode(payload)
        self._raise_for_status()
        return grpc.aio.EOF

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        try:
            payload = await self.next_message()
        except asyncio.CancelledError:
            self.cancel()
            raise
        if payload is not None:
            return self.decode(payload)
        self._raise_for_status()
        raise StopAsyncIteration


class StreamRequest(ClientCall):
    """A call whose requests are written one by one, or taken from an iterator."""

    __slots__ = ()

    async def write(self, request: Any) -> None:
        """Send one request; waits for credit.

        Raises:
            asyncio.InvalidStateError: the call has ended, or `done_writing` was called.
            AioRpcError: the call ended while waiting.
        """
        if self.has_iterator:
            raise grpc.aio.UsageError("requests of this call come from its iterator")
        await self._write(request)

    async def done_writing(self) -> None:
        """Say that no more requests follow. Idempotent."""
        if self.has_iterator:
            raise grpc.aio.UsageError("requests of this call come from its iterator")
        await self._end_writing()

    async def _write(self, request: Any) -> None:
        if self._code is not None:
            if self.cancelled():
                self._raise_for_status()
            raise asyncio.InvalidStateError("RPC already finished.")
        if self.writing_ended:
            raise asyncio.InvalidStateError('RPC is half closed after calling "done_writing".')
        payload = request if self._serialize is None else self._serialize(request)
        try:
            await self._wait_attached()
            if self.connection is None or not await self.send_message(payload):
                self._raise_for_status()
        except MessageTooBig as error:
            self._abandon()
            self.finish(StatusCode.RESOURCE_EXHAUSTED, str(error))
            raise self._rpc_error() from error
        except asyncio.CancelledError:
            self.cancel()
            raise

    async def _end_writing(self) -> None:
        if self.writing_ended or self._code is not None:
            return
        self.writing_ended = True
        await self._wait_attached()
        if self.connection is not None and self._code is None:
            self.connection.send(frames.END, self.call_id)

    def feed(self, requests: AsyncIterable[Any] | Iterable[Any]) -> None:
        """Send what the iterator gives, in a task of the channel that ends with the call."""
        self.has_iterator = True
        task = self._channel.scope.spawn(self._feed(requests), name="requests")

        def stop(_call: object) -> None:
            task.cancel()

        self.add_done_callback(stop)

    async def _feed(self, requests: AsyncIterable[Any] | Iterable[Any]) -> None:
        try:
            if isinstance(requests, AsyncIterable):
                async for request in requests:
                    await self._write(request)
            else:
                for request in requests:
                    await self._write(request)
            await self._end_writing()
        except (AioRpcError, asyncio.InvalidStateError):
            return
        finally:
            # The iterator raised, or this task was cancelled: nobody will send the rest.
            if not self.writing_ended:
                self.cancel()


class UnaryUnaryCall(UnaryAnswer):
    """One request, one answer."""

    __slots__ = ()


class UnaryStreamCall(StreamAnswer):
    """One request, many answers."""

    __slots__ = ()


class StreamUnaryCall(StreamRequest, UnaryAnswer):
    """Many requests, one answer."""

    __slots__ = ()


class StreamStreamCall(StreamRequest, StreamAnswer):
    """Many requests, many answers."""

    __slots__ = ()
