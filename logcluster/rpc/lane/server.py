"""The serving side of the lane: takes what the generated `add_…Servicer_to_server` functions register.

Handlers run as tasks that the connection of their call owns: `calls` holds a call until its handler has ended, so the
limit on open calls also bounds handlers that are slow to notice a cancellation. (A `TaskScope` costs 1.4 µs more per
task; this registry does its duty here.) A handler is cancelled when its caller cancels, its connection ends, its
deadline passes or the server's grace period is over.
"""

from __future__ import annotations

import asyncio
import ssl as ssl_module
from collections.abc import Sequence
from typing import Any, Final

import grpc

from logcluster.model import errors
from logcluster.rpc.interceptors import (
    Boundary,
    CallMeasures,
    Interceptor,
    behaviour_of,
    direct_behaviour_of,
    intercept_all,
)
from logcluster.rpc.lane import frames
from logcluster.rpc.lane.connection import LaneConnection
from logcluster.rpc.lane.context import BoundMethod, ServerCall
from logcluster.rpc.lane.network import LaneNetwork, LaneOptions, Listener, TcpNetwork
from logcluster.runtime.clock import Clock
from logcluster.wire.status import status_from_error

StatusCode = grpc.StatusCode
METHODS_PER_CONNECTION_MAX: Final = 4_096


class ServerConnection(LaneConnection[ServerCall]):
    """A connection whose peer opens calls."""

    def __init__(self, server: LaneServer) -> None:
        super().__init__(options=server.options, is_server=True)
        self.server = server
        self._methods: dict[int, tuple[str, BoundMethod | None]] = {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        # Not earlier: a peer that fails at the TLS handshake never gets here, and nobody would tell of its end.
        self.server.connection_opened(self)

    def on_ready(self) -> None:
        if self.server.is_stopping:
            self.send(frames.GOAWAY, 0, b"shutting down")

    def on_closed(self, error: Exception | None) -> None:
        self.server.connection_closed(self)

    def on_frame(self, kind: int, call_id: int, payload: frames.Buffer) -> None:
        if kind == frames.OPEN:
            self._open(call_id, payload)
        elif kind == frames.MESSAGE:
            call = self.calls.get(call_id)
            if call is not None and call.is_active:
                call.deliver(payload)
        elif kind == frames.END:
            call = self.calls.get(call_id)
            if call is not None:
                call.end_inbox()
        elif kind == frames.CREDIT:
            call = self.calls.get(call_id)
            if call is not None:
                call.add_credit(frames.decode_credit(payload))
        elif kind == frames.CANCEL:
            call = self.calls.get(call_id)
            if call is not None:
                call.cancelled_by_peer()
        else:
            self.on_control_frame(kind, payload)

    def _open(self, call_id: int, payload: frames.Buffer) -> None:
        if len(payload) < frames.OPEN_FIELDS.size:
            raise frames.FrameError("an opening frame is cut off")
        flags, method_id, deadline_ms = frames.OPEN_FIELDS.unpack_from(payload)
        position = frames.OPEN_FIELDS.size
        block: frames.Buffer = b""
        if flags & frames.HAS_NAME:
            position, name = frames.read_sized(payload, position, frames.SIZE_U16)
            self._define(method_id, bytes(name).decode("utf-8", "replace"))
        if flags & frames.HAS_METADATA:
            position, block = frames.read_sized(payload, position, frames.SIZE_U32)
        if call_id in self.calls:
            raise frames.FrameError(f"call id {call_id} is in use")
        known = self._methods.get(method_id)
        if known is None:
            raise frames.FrameError(f"method id {method_id} was not defined")
        path, method = known
        has_message = bool(flags & frames.HAS_MESSAGE)
        server = self.server
        refusal = self._refusal(path, method, block, has_message)
        if refusal is not None or method is None:
            self.send(frames.STATUS, call_id, refusal or b"")
            return
        server.calls_total += 1
        call = ServerCall(self, call_id, method)
        if block:
            frames.decode_metadata(block)  # A malformed one ends the connection here, not in the handler.
            call.metadata_block = block
        if deadline_ms:
            call.deadline = deadline = self.loop.time() + deadline_ms / 1000
            self.deadlines.watch(deadline)
        self.calls[call_id] = call
        if not has_message:
            call.open_inbox(self.options.stream_credit_bytes)
            call.start(None)
        elif len(payload) < frames.LARGE_FRAME_SIZE_BYTES:
            call.start(payload[position:])
        else:
            call.start(memoryview(payload)[position:])

    def _refusal(self, path: str, method: BoundMethod | None, block: frames.Buffer, has_message: bool) -> bytes | None:
        """Return the status of a call that is not to be started; None if it is."""
        server = self.server
        if len(self.calls) >= self.options.calls_max:
            server.calls_refused += 1
            return server.overloaded_status
        if server.is_stopping:
            return server.stopping_status
        if method is None:
            return _status(StatusCode.UNIMPLEMENTED, f"no method {path} here")
        if has_message is method.request_streaming:
            return _status(StatusCode.UNIMPLEMENTED, f"{path} has another call shape")
        if len(block) > self.options.metadata_size_bytes_max:
            return _status(StatusCode.RESOURCE_EXHAUSTED, f"metadata of {len(block)} bytes exceeds the limit")
        return None

    def _define(self, method_id: int, path: str) -> None:
        if method_id not in self._methods and len(self._methods) >= METHODS_PER_CONNECTION_MAX:
            raise frames.FrameError("too many method names on one connection")
        self._methods[method_id] = (path, self.server.method(path))


class LaneServer:
    """Serves registered services over the lane.

    Args:
        interceptors: outermost first, all of them inside the `Boundary`.
        calls_max: calls open at once on one connection; the next is refused with RESOURCE_EXHAUSTED.
        ssl: context of the server side, or None for plain TCP.
        boundary: error mapping and limits; by default one with default limits.
        network: TCP by default; the simulator gives its own.
    """

    def __init__(
        self,
        *,
        clock: Clock,
        interceptors: Sequence[Interceptor] = (),
        calls_max: int | None = None,
        ssl: ssl_module.SSLContext | None = None,
        name: str = "lane",
        boundary: Boundary | None = None,
        options: LaneOptions | None = None,
        network: LaneNetwork | None = None,
    ) -> None:
        options = options or LaneOptions()
        if calls_max is not None:
            options = options.with_calls_max(calls_max)
        self.options = options
        self.name = name
        self.boundary = boundary or Boundary()
        self.is_stopping = False
        self._is_stopped = False
        self.calls_total = 0
        self.calls_refused = 0
        self.connections_total = 0
        self.overloaded_status = _error_status(errors.Overloaded(calls_max=options.calls_max))
        self.stopping_status = _error_status(errors.ShuttingDown())
        self.measures: CallMeasures | None = None
        """To be set before the first call: methods are bound to their measures once."""
        self._clock = clock
        self._interceptors = (self.boundary, *interceptors)
        self._ssl = ssl
        self._network = network or TcpNetwork()
        self._listeners: list[Listener] = []
        self._connections: dict[ServerConnection, None] = {}
        self.direct_calls = 0
        """Open calls that run without a task."""
        self._running: dict[asyncio.Task[None], None] = {}
        self._registered: dict[str, Any] = {}
        self._generic: list[Any] = []
        self._bound: dict[str, BoundMethod] = {}
        self._idle_waiters: list[asyncio.Future[None]] = []

    # What the generated code calls.

    def add_generic_rpc_handlers(self, generic_rpc_handlers: Sequence[Any]) -> None:
        self._generic.extend(generic_rpc_handlers)

    def add_registered_method_handlers(self, service_name: str, method_handlers: dict[str, Any]) -> None:
        for method, handler in method_handlers.items():
            self._registered[f"/{service_name}/{method}"] = handler

    # Life.

    async def start(self, host: str, port: int) -> int:
        """Listen and return the bound port; may be called for several addresses.

        Raises:
            OSError: the address cannot be bound.
        """
        listener = await self._network.listen(self._connection_made, host, port, ssl_context=self._ssl)
        self._listeners.append(listener)
        return listener.port

    async def stop(self, grace_ms: int) -> None:
        """Refuse new calls, wait up to `grace_ms` for the open ones, cancel the rest and close. Idempotent.

        Cancellation: the server stays stopping; call again with 0 to finish at once.
        """
        self.is_stopping = True
        for listener in self._listeners:
            listener.close()
        self._listeners.clear()
        for connection in list(self._connections):
            if connection.is_ready and not connection.is_closed:
                connection.send(frames.GOAWAY, 0, b"shutting down")
        if grace_ms > 0 and (self._running or self.direct_calls):
            loop = asyncio.get_running_loop()
            waiter: asyncio.Future[None] = loop.create_future()
            self._idle_waiters.append(waiter)
            timer = loop.call_later(grace_ms / 1000, _wake, waiter)
            try:
                await waiter
            finally:
                timer.cancel()
        for connection in list(self._connections):
            for call in list(connection.calls.values()):
                call.stop_now(StatusCode.UNAVAILABLE, "the server is shutting down")
            connection.close()
        self._is_stopped = True
        while self._running:
            await asyncio.wait(list(self._running))

    def statistics(self) -> dict[str, int]:
        """Counts since the start, and what is open now."""
        return {
            "connections": len(self._connections),
            "connections_total": self.connections_total,
            "calls_open": sum(len(connection.calls) for connection in self._connections),
            "calls_total": self.calls_total,
            "calls_refused": self.calls_refused,
            **self.boundary.statistics(),
        }

    # What connections use.

    def method(self, path: str) -> BoundMethod | None:
        """Return the wrapped handler of a method path, or None."""
        bound = self._bound.get(path)
        if bound is None:
            handler = self._registered.get(path)
            if handler is None:
                details = _CallDetails(path)
                handler = next((found for one in self._generic if (found := one.service(details)) is not None), None)
            if handler is None:
                return None
            # Only the boundary knows how to surround a call without a task.
            direct = direct_behaviour_of(handler) if len(self._interceptors) == 1 else None
            bound = BoundMethod(path, intercept_all(self._interceptors, path, handler), behaviour_of, direct)
            if self.measures is not None:
                bound.measure_with(self.measures)
            self._bound[path] = bound
        return bound

    def run(self, work: Any) -> asyncio.Task[None]:
        """Start a handler task; it stays in the registry until `finished`."""
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(work)
        self._running[task] = None
        return task

    def finished(self, task: asyncio.Task[None] | None) -> None:
        if task is not None:
            self._running.pop(task, None)
        if self._idle_waiters and not self._running and not self.direct_calls:
            for waiter in self._idle_waiters:
                _wake(waiter)
            self._idle_waiters.clear()

    def connection_opened(self, connection: ServerConnection) -> None:
        """Count a connection whose transport is there, or refuse it."""
        self.connections_total += 1
        self._connections[connection] = None
        if self._is_stopped:
            connection.fail(ConnectionAbortedError("the server has stopped"))
        elif len(self._connections) > self.options.connections_max:
            connection.fail(frames.FrameError("too many connections"))

    def connection_closed(self, connection: ServerConnection) -> None:
        self._connections.pop(connection, None)

    def _connection_made(self) -> ServerConnection:
        return ServerConnection(self)


class _CallDetails(grpc.HandlerCallDetails):
    def __init__(self, method: str) -> None:
        self.method = method
        self.invocation_metadata = ()


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


def _status(code: grpc.StatusCode, details: str) -> bytes:
    return frames.encode_status(code.value[0], details, b"")


def _error_status(error: errors.LogClusterError) -> bytes:
    code, message, trailing = status_from_error(error)
    return frames.encode_status(code.value[0], message, frames.encode_metadata(trailing))
