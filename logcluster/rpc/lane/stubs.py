"""What a lane channel gives the generated stubs: one callable per method, of the method's shape."""

from __future__ import annotations

from collections.abc import AsyncIterable, Iterable
from typing import TYPE_CHECKING, Any

from logcluster.rpc.lane.calls import StreamStreamCall, StreamUnaryCall, UnaryStreamCall, UnaryUnaryCall
from logcluster.rpc.lane.streams import Deserializer, Serializer

if TYPE_CHECKING:
    from logcluster.rpc.lane.channel import LaneChannel

Metadata = Iterable[tuple[str, str | bytes]]


class _MultiCallable:
    __slots__ = ("_channel", "_deserialize", "_path", "_serialize")

    def __init__(
        self, channel: LaneChannel, path: str, serialize: Serializer | None, deserialize: Deserializer | None
    ) -> None:
        self._channel = channel
        self._path = path
        self._serialize = serialize
        self._deserialize = deserialize


class UnaryUnaryMultiCallable(_MultiCallable):
    """What a stub holds for a unary method; `timeout` is in seconds, as in grpc.aio."""

    __slots__ = ()

    def __call__(
        self,
        request: Any,
        *,
        timeout: float | None = None,
        metadata: Metadata | None = None,
        credentials: object = None,
        wait_for_ready: bool | None = None,
        compression: object = None,
    ) -> UnaryUnaryCall:
        call = UnaryUnaryCall(self._channel, self._serialize, self._deserialize)
        message = request if self._serialize is None else self._serialize(request)
        self._channel.start(
            call, self._path, message, timeout=timeout, metadata=metadata, wait_for_ready=wait_for_ready
        )
        return call


class UnaryStreamMultiCallable(_MultiCallable):
    """One request, a stream of answers."""

    __slots__ = ()

    def __call__(
        self,
        request: Any,
        *,
        timeout: float | None = None,
        metadata: Metadata | None = None,
        credentials: object = None,
        wait_for_ready: bool | None = None,
        compression: object = None,
    ) -> UnaryStreamCall:
        call = UnaryStreamCall(self._channel, self._serialize, self._deserialize)
        message = request if self._serialize is None else self._serialize(request)
        self._channel.start(
            call, self._path, message, timeout=timeout, metadata=metadata, wait_for_ready=wait_for_ready
        )
        return call


class StreamUnaryMultiCallable(_MultiCallable):
    """A stream of requests, one answer."""

    __slots__ = ()

    def __call__(
        self,
        request_iterator: AsyncIterable[Any] | Iterable[Any] | None = None,
        timeout: float | None = None,
        metadata: Metadata | None = None,
        credentials: object = None,
        wait_for_ready: bool | None = None,
        compression: object = None,
    ) -> StreamUnaryCall:
        call = StreamUnaryCall(self._channel, self._serialize, self._deserialize)
        self._channel.start(call, self._path, None, timeout=timeout, metadata=metadata, wait_for_ready=wait_for_ready)
        if request_iterator is not None:
            call.feed(request_iterator)
        return call


class StreamStreamMultiCallable(_MultiCallable):
    """Streams both ways."""

    __slots__ = ()

    def __call__(
        self,
        request_iterator: AsyncIterable[Any] | Iterable[Any] | None = None,
        timeout: float | None = None,
        metadata: Metadata | None = None,
        credentials: object = None,
        wait_for_ready: bool | None = None,
        compression: object = None,
    ) -> StreamStreamCall:
        call = StreamStreamCall(self._channel, self._serialize, self._deserialize)
        self._channel.start(call, self._path, None, timeout=timeout, metadata=metadata, wait_for_ready=wait_for_ready)
        if request_iterator is not None:
            call.feed(request_iterator)
        return call
