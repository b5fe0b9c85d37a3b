"""The public gRPC port of a broker under chaos: every byte goes through a link, and on to gRPC's own port.

gRPC's sockets belong to its C core, where nothing of ours can hold them up. So it listens on 127.0.0.1, which nobody is
told, and the address that clients learn is this gate's. Only clients use gRPC; brokers speak over the lane.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any, cast

from chaos.node_transport import BUFFER_SIZE_BYTES, LinkNetwork
from logcluster.model.ids import Endpoint
from logcluster.rpc.lane.network import LaneProtocol, Listener
from logcluster.runtime.scope import TaskScope


class Gate:
    """Listens at the broker's own address and relays to `upstream`; `async with`."""

    def __init__(self, network: LinkNetwork, *, port: int, upstream: Endpoint) -> None:
        self._network = network
        self._port = port
        self._upstream = upstream
        self._scope = TaskScope("gate", on_fault=lambda _name, _error: None)
        self._listener: Listener | None = None

    async def __aenter__(self) -> Gate:
        factory = partial(_GateConnection, self._scope, self._upstream)
        self._listener = await self._network.listen(factory, "", self._port, ssl_context=None)
        return self

    async def __aexit__(self, *_details: object) -> None:
        if self._listener is not None:
            self._listener.close()
        await self._scope.close()


class _GateConnection(LaneProtocol):
    """One client's connection, and the one to gRPC that belongs to it."""

    def __init__(self, scope: TaskScope, upstream: Endpoint) -> None:
        self._scope = scope
        self._endpoint = upstream
        self._buffer = bytearray(BUFFER_SIZE_BYTES)
        self._client: asyncio.Transport | None = None
        self._upstream: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._client = cast(asyncio.Transport, transport)
        self._client.pause_reading()
        self._scope.spawn(self._connect(self._client), name="connect")

    async def _connect(self, client: asyncio.Transport) -> None:
        loop = asyncio.get_running_loop()
        try:
            upstream, _ = await loop.create_connection(
                lambda: _UpstreamConnection(client), self._endpoint.host, self._endpoint.port
            )
        except OSError:
            client.abort()
            return
        self._upstream = upstream
        if client.is_closing():
            upstream.abort()
        else:
            client.resume_reading()

    def get_buffer(self, sizehint: int) -> Any:
        return memoryview(self._buffer)

    def buffer_updated(self, nbytes: int) -> None:
        if self._upstream is not None:
            self._upstream.write(bytes(self._buffer[:nbytes]))
            if self._client is not None and self._upstream.get_write_buffer_size() > BUFFER_SIZE_BYTES:
                self._client.pause_reading()

    def pause_writing(self) -> None:
        if self._upstream is not None:
            self._upstream.pause_reading()

    def resume_writing(self) -> None:
        if self._upstream is not None and not self._upstream.is_closing():
            self._upstream.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._upstream is not None:
            if exc is None:
                self._upstream.close()
            else:
                self._upstream.abort()


class _UpstreamConnection(asyncio.Protocol):
    """The connection to gRPC."""

    def __init__(self, client: asyncio.Transport) -> None:
        self._client = client

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast(asyncio.Transport, transport)
        transport.set_write_buffer_limits(high=BUFFER_SIZE_BYTES)

    def data_received(self, data: bytes) -> None:
        self._client.write(data)

    def resume_writing(self) -> None:
        if not self._client.is_closing():
            self._client.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self._client.close()
