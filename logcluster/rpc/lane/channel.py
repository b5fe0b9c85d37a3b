"""The caller's side of the lane: a channel that the generated stubs take in place of a grpc.aio one.

A channel has at most one connection that takes new calls. It connects on the first call and again on a later call
after a drop; calls made meanwhile wait for the attempt and share its outcome. A call that cannot be sent fails at
once with UNAVAILABLE, as `CallNotSentError`, unless it was made with `wait_for_ready=True`.
"""

from __future__ import annotations

import asyncio
import ssl as ssl_module
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

import grpc
from google.protobuf.message import DecodeError

from logcluster.model import errors
from logcluster.model.ids import Endpoint
from logcluster.model.probes import probe
from logcluster.rpc.lane import frames
from logcluster.rpc.lane.calls import DEADLINE_EXCEEDED_DETAILS, ClientCall, UnaryUnaryCall
from logcluster.rpc.lane.client_connection import ClientConnection
from logcluster.rpc.lane.connection import DeadlineWatch
from logcluster.rpc.lane.network import CONNECT_TIMEOUT_MS_DEFAULT, LaneNetwork, LaneOptions, TcpNetwork
from logcluster.rpc.lane.streams import Deserializer, Serializer
from logcluster.rpc.lane.stubs import (
    Metadata,
    StreamStreamMultiCallable,
    StreamUnaryMultiCallable,
    UnaryStreamMultiCallable,
    UnaryUnaryMultiCallable,
)
from logcluster.rpc.tls import CLOSED_AFTER_HANDSHAKE, ContextSource, handshake_failure
from logcluster.runtime.clock import Clock
from logcluster.runtime.scope import TaskScope
from logcluster.wire.status import is_connection_refused, status_from_error

__all__ = ["LaneChannel", "is_connection_refused"]

StatusCode = grpc.StatusCode
DisconnectCallback = Callable[[Exception | None], None]
RETRY_CONNECT_MS: Final = 100


class _PendingCall:
    """A call that waits for a connection."""

    __slots__ = ("call", "message", "metadata", "path", "wait_for_ready")

    def __init__(self, call: ClientCall, path: str, message: bytes | None, metadata: bytes, wait: bool) -> None:
        self.call = call
        self.path = path
        self.message = message
        self.metadata = metadata
        self.wait_for_ready = wait


class LaneChannel:
    """One peer, reached over the lane. Not safe across threads or loops.

    Args:
        endpoint: where the peer's lane listens.
        ssl: context of the client side, or what gives the one for the next connection; None for plain TCP.
        connect_timeout_ms: bound of one attempt, TCP, TLS and preface together.
        on_disconnect: told when an established connection has ended: with the reason, or None if this side closed.
        network: TCP by default; the simulator gives its own.
    """

    decode_errors = (DecodeError, ValueError, TypeError)

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        clock: Clock,
        ssl: ContextSource | None = None,
        connect_timeout_ms: int = CONNECT_TIMEOUT_MS_DEFAULT,
        on_disconnect: DisconnectCallback | None = None,
        options: LaneOptions | None = None,
        network: LaneNetwork | None = None,
    ) -> None:
        self.endpoint = endpoint
        self.options = options or LaneOptions()
        self.scope = TaskScope(f"lane-channel-{endpoint}")
        self._clock = clock
        self._ssl = ssl
        self._connect_timeout_ms = connect_timeout_ms
        self._on_disconnect = on_disconnect
        self._network = network or TcpNetwork()
        self._connection: ClientConnection | None = None
        self._connections: dict[ClientConnection, None] = {}
        self._pending: dict[int, _PendingCall] = {}
        self._pending_calls: dict[int, ClientCall] = {}
        self._pending_deadlines: DeadlineWatch[ClientCall] | None = None
        self._pending_id = 0
        self._connecting: asyncio.Task[None] | None = None
        self._is_closed = False
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def is_connected(self) -> bool:
        """Whether a connection is established that takes new calls."""
        connection = self._connection
        return connection is not None and not connection.is_closed and not connection.is_draining

    async def connect(self) -> None:
        """Have a connection, now.

        Raises:
            AioRpcError: it cannot be had; `is_connection_refused` tells whether nobody listens.
        """
        call = UnaryUnaryCall(self, None, None)
        if self.is_connected:
            return
        self._wait(call, _PendingCall(call, "", None, b"", False))
        await call

    async def channel_ready(self) -> None:
        """Wait until a connection is established, trying again and again."""
        while not self.is_connected:
            try:
                await self.connect()
            except grpc.aio.AioRpcError:
                await self._clock.sleep_ms(RETRY_CONNECT_MS)

    async def close(self, grace: float | None = None) -> None:
        """End all calls with CANCELLED and close. Idempotent. `grace` is taken for likeness with grpc.aio only."""
        self._is_closed = True
        for pending in list(self._pending.values()):
            pending.call.cancel()
        for connection in list(self._connections):
            for call in list(connection.calls.values()):
                call.cancel()
            connection.close()
        if self._pending_deadlines is not None:
            self._pending_deadlines.close()
        await self.scope.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    def statistics(self) -> dict[str, int]:
        """Connections, open and waiting calls."""
        return {
            "connections": len(self._connections),
            "calls_open": sum(len(connection.calls) for connection in self._connections),
            "calls_waiting": len(self._pending),
        }

    # What the generated stubs call.

    def unary_unary(
        self,
        method: str,
        request_serializer: Serializer | None = None,
        response_deserializer: Deserializer | None = None,
        _registered_method: bool | None = False,
    ) -> UnaryUnaryMultiCallable:
        return UnaryUnaryMultiCallable(self, method, request_serializer, response_deserializer)

    def unary_stream(
        self,
        method: str,
        request_serializer: Serializer | None = None,
        response_deserializer: Deserializer | None = None,
        _registered_method: bool | None = False,
    ) -> UnaryStreamMultiCallable:
        return UnaryStreamMultiCallable(self, method, request_serializer, response_deserializer)

    def stream_unary(
        self,
        method: str,
        request_serializer: Serializer | None = None,
        response_deserializer: Deserializer | None = None,
        _registered_method: bool | None = False,
    ) -> StreamUnaryMultiCallable:
        return StreamUnaryMultiCallable(self, method, request_serializer, response_deserializer)

    def stream_stream(
        self,
        method: str,
        request_serializer: Serializer | None = None,
        response_deserializer: Deserializer | None = None,
        _registered_method: bool | None = False,
    ) -> StreamStreamMultiCallable:
        return StreamStreamMultiCallable(self, method, request_serializer, response_deserializer)

    # What calls use.

    def loop_time(self) -> float:
        return self.loop().time()

    def loop(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        return self._loop

    def start(
        self,
        call: ClientCall,
        path: str,
        message: bytes | None,
        *,
        timeout: float | None,
        metadata: Metadata | None,
        wait_for_ready: bool | None,
    ) -> None:
        """Send the opening of `call`, or let it wait for a connection."""
        loop = self._loop or self.loop()
        if timeout is not None:
            call.deadline = loop.time() + timeout
            if timeout <= 0:
                call.never_sent(StatusCode.DEADLINE_EXCEEDED, DEADLINE_EXCEEDED_DETAILS)
                return
        block = b""
        if metadata is not None:
            block = frames.encode_metadata(checked_metadata(metadata))
            if len(block) > self.options.metadata_size_bytes_max:
                call.never_sent(
                    StatusCode.RESOURCE_EXHAUSTED,
                    f"metadata of {len(block)} bytes exceeds the limit of {self.options.metadata_size_bytes_max}",
                )
                return
        connection = self._connection
        if connection is None or connection.is_closed or connection.is_draining:
            self._wait(call, _PendingCall(call, path, message, block, bool(wait_for_ready)))
        elif message is None or self._fits(call, connection, message):
            connection.open_call(call, path, message, block)

    def forget(self, call: ClientCall) -> None:
        """A waiting call has ended."""
        if self._pending_calls.pop(call.call_id, None) is not None:
            self._pending.pop(call.call_id, None)

    # Connecting.

    def _fits(self, call: ClientCall, connection: ClientConnection, message: bytes) -> bool:
        # The opening frame holds the metadata and the method name as well.
        size_max = min(connection.peer_frame_size_bytes_max, self.options.frame_size_bytes_max)
        size_max -= self.options.metadata_size_bytes_max + 1_024
        if len(message) <= size_max:
            return True
        call.never_sent(
            StatusCode.RESOURCE_EXHAUSTED,
            f"message of {len(message)} bytes exceeds the limit of {size_max} (FRAME_SIZE_BYTES_MAX)",
        )
        return False

    def _wait(self, call: ClientCall, pending: _PendingCall) -> None:
        if self._is_closed:
            call.never_sent(StatusCode.UNAVAILABLE, "the channel is closed")
            return
        self._pending_id += 1
        call.call_id = self._pending_id
        self._pending[call.call_id] = pending
        self._pending_calls[call.call_id] = call
        if call.deadline is not None:
            if self._pending_deadlines is None:
                self._pending_deadlines = DeadlineWatch(self.loop(), self._pending_calls)
            self._pending_deadlines.watch(call.deadline)
        if self._connecting is None:
            self._connecting = self.scope.spawn(self._connect(), name="connect")

    async def _connect(self) -> None:
        try:
            while self._pending:
                if await self._connect_once():
                    return
                if self._pending:
                    await self._clock.sleep_ms(RETRY_CONNECT_MS)
        finally:
            self._connecting = None

    async def _connect_once(self) -> bool:
        """Try once; on failure end the calls that do not want to wait, and return False."""
        connection: ClientConnection | None = None
        try:
            async with asyncio.timeout(self._connect_timeout_ms / 1000):
                ssl = self._ssl() if callable(self._ssl) else self._ssl
                connection = await self._network.connect(self._new_connection, self.endpoint, ssl_context=ssl)
                await connection.ready
        except frames.VersionMismatch as error:
            self._refuse_waiting(error)
            return False
        except frames.FrameError as error:
            self._refuse_waiting(error)
            return False
        except TimeoutError:
            if connection is not None:
                connection.abort()
            probe("lane.connection.not_in_time")
            self._refuse_waiting(TimeoutError(f"not connected within {self._connect_timeout_ms} ms"))
            return False
        except OSError as error:
            probe("lane.connection.refused")
            self._refuse_waiting(error, is_after_handshake=connection is not None and self._ssl is not None)
            return False
        except asyncio.CancelledError:
            if connection is not None:
                connection.abort()
            raise
        self._connection = connection
        self._connections[connection] = None
        self._send_waiting(connection)
        return True

    def _new_connection(self) -> ClientConnection:
        return ClientConnection(options=self.options, on_end=self._connection_ended)

    def _send_waiting(self, connection: ClientConnection) -> None:
        waiting = list(self._pending.values())
        self._pending.clear()
        self._pending_calls.clear()
        for pending in waiting:
            call = pending.call
            if not pending.path:
                call.finish(StatusCode.OK, "")
            elif pending.message is None or self._fits(call, connection, pending.message):
                connection.open_call(call, pending.path, pending.message, pending.metadata)

    def _refuse_waiting(self, error: Exception, *, is_after_handshake: bool = False) -> None:
        code, trailing = StatusCode.UNAVAILABLE, ()
        details = f"cannot connect to {self.endpoint}: {_reason(error)}"
        trouble = _tls_trouble(error, is_after_handshake=is_after_handshake)
        if trouble is not None:
            code, details, trailing = status_from_error(  # type: ignore[assignment]  # a longer tuple than ()
                errors.TlsHandshakeFailed(f"cannot connect to {self.endpoint}: {trouble}")
            )
        elif isinstance(error, frames.VersionMismatch):
            code, details, trailing = status_from_error(  # type: ignore[assignment]  # a longer tuple than ()
                errors.UnsupportedVersion(details, peer_version=error.peer_version)
            )
        for call_id, pending in list(self._pending.items()):
            if not pending.wait_for_ready:
                del self._pending[call_id]
                del self._pending_calls[call_id]
                pending.call.never_sent(
                    code, details, is_refused=isinstance(error, ConnectionRefusedError), trailing=trailing
                )

    def _connection_ended(self, connection: ClientConnection, error: Exception | None) -> None:
        if self._connection is connection:
            self._connection = None
        if connection in self._connections:
            del self._connections[connection]
            if self._on_disconnect is not None:
                self._on_disconnect(error)


def checked_metadata(metadata: Metadata) -> list[tuple[str, str | bytes]]:
    """Return the entries as a list.

    Raises:
        ValueError: a key is not lower case, or a value is of the wrong type for its key.
    """
    items: list[tuple[str, str | bytes]] = []
    for key, value in metadata:
        if not key or key != key.lower() or not key.isascii():
            raise ValueError(f"metadata key {key!r} is not lower-case ASCII")
        if isinstance(value, bytes) and not key.endswith("-bin"):
            value = value.decode("ascii")
        elif isinstance(value, str) and key.endswith("-bin"):
            raise ValueError(f"metadata {key!r} must be bytes")
        items.append((key, value))
    return items


def _tls_trouble(error: Exception, *, is_after_handshake: bool) -> str | None:
    """What TLS has to do with a failed attempt, if anything."""
    if isinstance(error, ssl_module.SSLError):
        return handshake_failure(error)
    if isinstance(error, frames.TlsMismatch):
        return str(error)
    if is_after_handshake and isinstance(error, ConnectionError):
        # TLS 1.3 lets a client send before the server has looked at its certificate.
        return CLOSED_AFTER_HANDSHAKE
    return None


def _reason(error: Exception) -> str:
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    return str(error) or type(error).__name__
