"""Connections that obey the rules of their link: a network port around TCP, for the lane and for `node_gate`.

Between the socket's transport and the protocol object stands a `LinkTransport`. With a clear rule it passes everything
on; otherwise chunks go through queues, and back-pressure is passed on in both directions.

A cut is silent. What is sent is held and passes when the link is healed, as TCP would send it again; a new connection
over the link waits; and closing a connection is held too, so that the peer does not learn of it: the socket stays open,
unread, until the link is healed, and is then reset. What this cannot hide: the kernel goes on acknowledging what the
peer sends, accepts its connections, and closes all sockets of a process that dies.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
from collections.abc import Callable
from typing import Any, Final

from chaos.interfaces import CLIENTS
from chaos.node_links import LinkQueue, Links, Peer, peer_at
from logcluster.model.ids import Endpoint
from logcluster.rpc.lane.network import ConnectionType, LaneProtocol, Listener
from logcluster.runtime.clock import SystemClock

QUEUE_SIZE_BYTES_MAX: Final = 1024 * 1024
"""A queue that is longer asks whoever fills it to pause."""
BUFFER_SIZE_BYTES: Final = 64 * 1024
_LINGER_RESET: Final = struct.pack("ii", 1, 0)


class LinkTransport(asyncio.Transport):
    """What a protocol object gets in place of the socket's transport."""

    def __init__(self, real: asyncio.Transport, inner: LaneProtocol, links: Links, peer: Peer) -> None:
        super().__init__()
        self.peer = peer
        self._real = real
        self._inner = inner
        self._links = links
        self._loop = asyncio.get_running_loop()
        self.outbound = LinkQueue(links, (peer, "out"), deliver=real.write, on_change=self._outbound_moved)
        self.inbound = LinkQueue(links, (peer, "in"), deliver=self._feed, on_change=self.settle)
        self._is_reading_wanted = True
        self._is_closing = False
        self._is_lingering = False
        self._is_real_full = False
        self._has_told_full = False
        self._has_told_lost = False
        self._eof_is_due = False
        self._reset_error: ConnectionResetError | None = None
        if self._is_cut_in:
            # Nothing of the peer could have arrived, so it must not hear an answer to its connecting either.
            self.outbound.stop(True)
        links.add(self)

    # -- the protocol's side ----------------------------------------------------------------------------------------

    def write(self, data: Any) -> None:
        if self._is_closing:
            return
        if self.outbound.is_passing:
            self._real.write(data)
        else:
            self.outbound.put(bytes(data))
            self._tell_fullness()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._real.get_extra_info(name, default)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._real.set_write_buffer_limits(high, low)

    def get_write_buffer_size(self) -> int:
        return self.outbound.size_bytes + self._real.get_write_buffer_size()

    def pause_reading(self) -> None:
        self._is_reading_wanted = False
        self.inbound.stop(True)
        self.settle()

    def resume_reading(self) -> None:
        self._is_reading_wanted = True
        self.inbound.stop(False)
        self.settle()

    def is_reading(self) -> bool:
        return self._is_reading_wanted and not self._is_closing

    def is_closing(self) -> bool:
        return self._is_closing

    def close(self) -> None:
        if not self._is_closing:
            self._is_closing = True
            self.inbound.clear()
            self.settle()

    def abort(self) -> None:
        self._is_closing = True
        self.inbound.clear()
        self.outbound.clear()
        self.settle()

    # -- the link's side --------------------------------------------------------------------------------------------

    def rules_changed(self) -> None:
        self.outbound.rules_changed()
        self.inbound.rules_changed()
        if not self._is_cut_in:
            self.outbound.stop(False)
        if self._is_lingering and not self._is_cut_out:
            self._real.abort()
        self.settle()

    def reset(self) -> None:
        self._reset_error = ConnectionResetError("the connection was reset (injected)")
        sock = self._real.get_extra_info("socket")
        if sock is not None:
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_RESET)
        self.outbound.clear()
        self.inbound.clear()
        self._real.abort()

    def describe(self) -> tuple[int, int]:
        return self.outbound.size_bytes, self.inbound.size_bytes

    # -- the socket's side ------------------------------------------------------------------------------------------

    def real_full(self, is_full: bool) -> None:
        """The socket's buffer is full, or is not any more."""
        self._is_real_full = is_full
        self._tell_fullness()

    def real_eof(self) -> bool:
        """The peer has sent everything; true where that is kept for later."""
        if self.inbound.size_bytes:
            self._eof_is_due = True
            return True
        return bool(self._inner.eof_received())

    def real_lost(self, error: Exception | None) -> None:
        """The socket is gone."""
        self._links.remove(self)
        self.outbound.clear()
        self._is_closing = True
        self._tell_lost(self._reset_error or error)

    # -- inside -----------------------------------------------------------------------------------------------------

    @property
    def _is_cut_out(self) -> bool:
        return self._links.rule((self.peer, "out")).is_cut

    @property
    def _is_cut_in(self) -> bool:
        return self._links.rule((self.peer, "in")).is_cut

    def _feed(self, chunk: bytes) -> None:
        view = memoryview(chunk)
        while view and not self._is_closing:
            buffer = memoryview(self._inner.get_buffer(len(view)))
            size = min(len(buffer), len(view))
            buffer[:size] = view[:size]
            view = view[size:]
            self._inner.buffer_updated(size)

    def _outbound_moved(self) -> None:
        self._tell_fullness()
        self.settle()

    def _tell_fullness(self) -> None:
        """Ask the protocol to pause writing, or to go on, once each time it changes."""
        is_full = self._is_real_full or self.outbound.size_bytes > QUEUE_SIZE_BYTES_MAX
        if is_full != self._has_told_full and not self._has_told_lost:
            self._has_told_full = is_full
            if is_full:
                self._inner.pause_writing()
            else:
                self._inner.resume_writing()

    def settle(self) -> None:
        """Bring the socket into line with what is wanted and what the rules allow."""
        if self._real.is_closing():
            return
        if self._is_closing:
            self._close_real()
            return
        wants = self._is_reading_wanted and not self._is_cut_in and self.inbound.size_bytes < QUEUE_SIZE_BYTES_MAX
        if wants and not self._real.is_reading():
            self._real.resume_reading()
        elif not wants and self._real.is_reading():
            self._real.pause_reading()
        if self._eof_is_due and not self.inbound.size_bytes:
            self._eof_is_due = False
            if not self._inner.eof_received():
                self.close()

    def _close_real(self) -> None:
        if self.outbound.size_bytes:
            return
        if not self._is_cut_out:
            self._real.close()
        elif not self._is_lingering:
            self._is_lingering = True
            if self._real.is_reading():
                self._real.pause_reading()
            self._loop.call_soon(self._tell_lost, None)

    def _tell_lost(self, error: Exception | None) -> None:
        if not self._has_told_lost:
            self._has_told_lost = True
            self._inner.connection_lost(error)


class LinkProtocol(LaneProtocol):
    """Passes on what the socket's transport says.

    Args:
        peer: who is at the other end; None: whoever's address it is.
    """

    def __init__(self, inner: LaneProtocol, links: Links, peer: Peer | None) -> None:
        self.inner = inner
        self._links = links
        self._peer = peer
        self._link: LinkTransport | None = None
        self._buffer: bytearray | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        peer = self._peer
        if peer is None:
            name = transport.get_extra_info("peername")
            peer = peer_at(name[0]) if isinstance(name, tuple) else CLIENTS
        self._link = LinkTransport(transport, self.inner, self._links, peer)
        self.inner.connection_made(self._link)
        self._link.rules_changed()

    def get_buffer(self, sizehint: int) -> Any:
        if self._link is None or self._link.inbound.is_passing:
            self._buffer = None
            return self.inner.get_buffer(sizehint)
        self._buffer = bytearray(BUFFER_SIZE_BYTES)
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        if self._buffer is None or self._link is None:
            self.inner.buffer_updated(nbytes)
        else:
            self._link.inbound.put(bytes(self._buffer[:nbytes]))
            self._link.settle()

    def eof_received(self) -> bool | None:
        return self.inner.eof_received() if self._link is None else self._link.real_eof()

    def pause_writing(self) -> None:
        if self._link is not None:
            self._link.real_full(True)

    def resume_writing(self) -> None:
        if self._link is not None:
            self._link.real_full(False)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._link is not None:
            self._link.real_lost(exc)


class _Listener:
    def __init__(self, server: asyncio.Server) -> None:
        self._server = server
        self.port: int = server.sockets[0].getsockname()[1]

    def close(self) -> None:
        self._server.close()


class LinkNetwork:
    """The lane's network port: TCP from and to this broker's own address, under the rules of its links.

    Args:
        address: where it listens, whatever host it is told, and where its connections come from.
    """

    def __init__(self, links: Links, *, address: str) -> None:
        self._links = links
        self._address = address
        self._clock = SystemClock()

    async def listen(
        self, factory: Callable[[], LaneProtocol], host: str, port: int, *, ssl_context: ssl.SSLContext | None
    ) -> Listener:
        del host
        loop = asyncio.get_running_loop()
        server = await loop.create_server(
            lambda: LinkProtocol(factory(), self._links, None),
            self._address,
            port,
            ssl=ssl_context,
            backlog=1024,
            reuse_address=True,
        )
        return _Listener(server)

    async def connect(
        self, factory: Callable[[], ConnectionType], endpoint: Endpoint, *, ssl_context: ssl.SSLContext | None
    ) -> ConnectionType:
        peer = peer_at(endpoint.host)
        await self._links.wait_uncut(peer)
        delay_ms = self._links.rule((peer, "out")).delay_ms
        if delay_ms:
            await self._clock.sleep_ms(delay_ms)
        loop = asyncio.get_running_loop()
        inner: list[ConnectionType] = []

        def make() -> LinkProtocol:
            inner.append(factory())
            return LinkProtocol(inner[-1], self._links, peer)

        await loop.create_connection(make, endpoint.host, endpoint.port, ssl=ssl_context, local_addr=(self._address, 0))
        return inner[-1]
