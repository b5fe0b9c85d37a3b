"""The small HTTP port of a node: `/livez`, `/readyz`, `/metrics`.

Parsing is h11's. One request at a time per connection; GET and HEAD only; requests are bounded in size and time,
so that garbage on the port harms nobody. Answers are computed when asked, never stored.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Final

import h11

from logcluster.runtime.scope import TaskScope

REQUEST_SIZE_BYTES_MAX: Final = 16 * 1024
REQUEST_TIMEOUT_MS: Final = 10_000
CONNECTIONS_MAX: Final = 256

Page = Callable[[], tuple[int, str, bytes]]
"""Gives status, content type and body of one path."""


def json_page(status: int, value: object) -> tuple[int, str, bytes]:
    """A page with `value` as JSON."""
    return status, "application/json", json.dumps(value).encode() + b"\n"


class HttpEndpoint:
    """Serves fixed paths from callables. `async with` is not needed: `start` and `stop`."""

    def __init__(self, pages: dict[str, Page]) -> None:
        self._pages = pages
        self._server: asyncio.Server | None = None
        self._scope = TaskScope("http", on_fault=lambda _name, _error: None)

    async def start(self, host: str, port: int) -> int:
        """Listen; returns the port bound.

        Raises:
            OSError: the port is in use or the address is not ours.
        """
        self._server = await asyncio.start_server(self._accept, host, port, limit=REQUEST_SIZE_BYTES_MAX)
        bound: int = self._server.sockets[0].getsockname()[1]
        return bound

    async def stop(self) -> None:
        """Close the port and every connection."""
        if self._server is not None:
            self._server.close()
        await self._scope.close()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._scope.is_closed or self._scope.task_count >= CONNECTIONS_MAX:
            writer.close()
            return
        self._scope.spawn(self._serve(reader, writer), name="connection")

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await self._answer_one(h11.Connection(h11.SERVER), reader, writer):
                pass
        except (OSError, TimeoutError, h11.RemoteProtocolError, h11.LocalProtocolError):
            pass
        finally:
            writer.close()

    async def _answer_one(
        self, connection: h11.Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        """Answer one request; False when the connection is to be closed."""
        try:
            async with asyncio.timeout(REQUEST_TIMEOUT_MS / 1000):
                request = await self._read_request(connection, reader)
        except h11.RemoteProtocolError as error:
            writer.write(
                _response(connection, error.error_status_hint, "text/plain", b"not an HTTP request\n", head=False)
            )
            await writer.drain()
            return False
        if request is None:
            return False
        status, content_type, body = self._page(request)
        writer.write(_response(connection, status, content_type, body, head=request.method == b"HEAD"))
        await writer.drain()
        return connection.our_state is h11.DONE and connection.their_state is h11.DONE

    async def _read_request(self, connection: h11.Connection, reader: asyncio.StreamReader) -> h11.Request | None:
        request: h11.Request | None = None
        received_bytes = 0
        while True:
            event = connection.next_event()
            if isinstance(event, h11.Request):
                request = event
            elif isinstance(event, h11.EndOfMessage):
                return request
            elif isinstance(event, h11.ConnectionClosed) or event is h11.PAUSED:
                return None
            elif event is h11.NEED_DATA:
                data = await reader.read(4096)
                received_bytes += len(data)
                if received_bytes > REQUEST_SIZE_BYTES_MAX:
                    raise h11.RemoteProtocolError("request too large", error_status_hint=413)
                connection.receive_data(data)

    def _page(self, request: h11.Request) -> tuple[int, str, bytes]:
        if request.method not in (b"GET", b"HEAD"):
            return 405, "text/plain", b"only GET and HEAD\n"
        page = self._pages.get(request.target.partition(b"?")[0].decode("ascii", "replace"))
        if page is None:
            return 404, "text/plain", ("try " + " ".join(sorted(self._pages)) + "\n").encode()
        return page()


def _response(connection: h11.Connection, status: int, content_type: str, body: bytes, *, head: bool) -> bytes:
    if connection.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
        return b""
    headers = [("content-type", content_type), ("content-length", str(len(body))), ("cache-control", "no-store")]
    parts = [connection.send(h11.Response(status_code=status, headers=headers)) or b""]
    if not head:
        parts.append(connection.send(h11.Data(data=body)) or b"")
    parts.append(connection.send(h11.EndOfMessage()) or b"")
    return b"".join(parts)
