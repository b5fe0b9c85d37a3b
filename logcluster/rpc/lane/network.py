"""Where lane connections come from: the port, and its TCP adapter. The simulator brings another.

A network connects a protocol object to a peer and listens for peers; everything above works on asyncio
transports and cannot tell TCP from the simulator's memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final, Protocol, TypeVar

from logcluster.model import limits
from logcluster.model.ids import Endpoint

WRITE_BUFFER_SIZE_BYTES: Final = 1024 * 1024
CONNECT_TIMEOUT_MS_DEFAULT: Final = 3_000
HANDSHAKE_TIMEOUT_S: Final = 5.0
SHUTDOWN_TIMEOUT_S: Final = 2.0
"""How long the end of a TLS connection waits for the peer's consent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneOptions:
    """Bounds of one side's connections; what the peer needs to know travels in the preface."""

    stream_credit_bytes: int = limits.STREAM_CREDIT_BYTES
    frame_size_bytes_max: int = limits.FRAME_SIZE_BYTES_MAX
    metadata_size_bytes_max: int = limits.METADATA_SIZE_BYTES_MAX
    calls_max: int = limits.CALLS_PER_CONNECTION_MAX
    connections_max: int = 4_096
    handshake_timeout_ms: int = 5_000
    keepalive_idle_ms: int = 10_000
    """A connection silent for so long is asked for a sign of life."""
    keepalive_timeout_ms: int = 5_000
    """A connection that stays silent for so long after that is dead."""

    def with_calls_max(self, calls_max: int) -> LaneOptions:
        """The same options with another bound on open calls."""
        return replace(self, calls_max=calls_max)


class Listener(Protocol):
    """A bound port."""

    @property
    def port(self) -> int: ...

    def close(self) -> None:
        """Take no more connections; the existing ones go on."""
        ...


class LaneProtocol(asyncio.BufferedProtocol):
    """What a network attaches to a transport."""


ConnectionType = TypeVar("ConnectionType", bound=LaneProtocol)


class LaneNetwork(Protocol):
    """Port: connections to and from peers."""

    async def listen(
        self, factory: Callable[[], LaneProtocol], host: str, port: int, *, ssl_context: ssl.SSLContext | None
    ) -> Listener:
        """Listen; port 0 takes any free one.

        Raises:
            OSError: the address cannot be bound.
        """
        ...

    async def connect(
        self, factory: Callable[[], ConnectionType], endpoint: Endpoint, *, ssl_context: ssl.SSLContext | None
    ) -> ConnectionType:
        """Connect and return the protocol object made by `factory`.

        Raises:
            OSError: refused (`ConnectionRefusedError`), unreachable, unknown host, failed TLS handshake.
            Cancellation: no connection is left behind.
        """
        ...


class _TcpListener:
    def __init__(self, server: asyncio.Server) -> None:
        self._server = server
        self.port: int = server.sockets[0].getsockname()[1]

    def close(self) -> None:
        self._server.close()


class TcpNetwork:
    """Real sockets of the running loop."""

    async def listen(
        self, factory: Callable[[], LaneProtocol], host: str, port: int, *, ssl_context: ssl.SSLContext | None
    ) -> Listener:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(
            factory,
            host,
            port,
            ssl=ssl_context,
            backlog=1024,
            reuse_address=True,
            # Without a context asyncio refuses them; its own are a minute, and half of one.
            ssl_handshake_timeout=HANDSHAKE_TIMEOUT_S if ssl_context else None,
            ssl_shutdown_timeout=SHUTDOWN_TIMEOUT_S if ssl_context else None,
        )
        return _TcpListener(server)

    async def connect(
        self, factory: Callable[[], ConnectionType], endpoint: Endpoint, *, ssl_context: ssl.SSLContext | None
    ) -> ConnectionType:
        loop = asyncio.get_running_loop()
        _transport, protocol = await loop.create_connection(
            factory,
            endpoint.host,
            endpoint.port,
            ssl=ssl_context,
            ssl_handshake_timeout=HANDSHAKE_TIMEOUT_S if ssl_context else None,
            ssl_shutdown_timeout=SHUTDOWN_TIMEOUT_S if ssl_context else None,
        )
        return protocol


def prepare_transport(transport: asyncio.Transport) -> None:
    """Set what the lane wants of a fresh transport: no Nagle delay, and a write buffer that fits large frames."""
    sock = transport.get_extra_info("socket")
    if sock is not None and getattr(sock, "family", None) in {socket.AF_INET, socket.AF_INET6}:
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    transport.set_write_buffer_limits(high=WRITE_BUFFER_SIZE_BYTES)
