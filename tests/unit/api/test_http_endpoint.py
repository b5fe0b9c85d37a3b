"""The HTTP port answers its pages and survives whatever is sent to it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from logcluster.api.http_endpoint import REQUEST_SIZE_BYTES_MAX, HttpEndpoint, json_page


@pytest.fixture
async def port() -> AsyncIterator[int]:
    endpoint = HttpEndpoint({"/livez": lambda: json_page(200, {"ok": True}), "/readyz": lambda: json_page(503, {})})
    yield await endpoint.start("127.0.0.1", 0)
    await endpoint.stop()


async def exchange(port: int, data: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(data)
        writer.write_eof()
        return await asyncio.wait_for(reader.read(), 5)
    except ConnectionError:
        return b""  # a reset, because the server did not read everything that it refused
    finally:
        writer.close()


async def test_a_page_is_served_with_its_status(port: int) -> None:
    answer = await exchange(port, b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200")
    assert answer.endswith(b'{"ok": true}\n')
    assert (await exchange(port, b"GET /readyz?x=1 HTTP/1.1\r\nHost: x\r\n\r\n")).startswith(b"HTTP/1.1 503")


async def test_several_requests_share_a_connection(port: int) -> None:
    answer = await exchange(port, b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for _ in range(3):
        writer.write(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        assert await asyncio.wait_for(reader.readexactly(len(answer)), 5) == answer
    writer.close()


async def test_an_unknown_page_names_the_known_ones(port: int) -> None:
    answer = await exchange(port, b"GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 404")
    assert b"/livez" in answer


async def test_other_methods_are_refused(port: int) -> None:
    assert (await exchange(port, b"DELETE /livez HTTP/1.1\r\nHost: x\r\n\r\n")).startswith(b"HTTP/1.1 405")


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x00\xff\x13garbage\r\n\r\n",
        b"GET\r\n\r\n",
        b"A" * (2 * REQUEST_SIZE_BYTES_MAX),
        b"",
        b"PRI * HTTP/2.0\r\n\r\nSM",
    ],
)
async def test_garbage_harms_nobody_else(port: int, garbage: bytes) -> None:
    answer = await exchange(port, garbage)
    assert not answer.startswith(b"HTTP/1.1 200")
    assert (await exchange(port, b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")).startswith(b"HTTP/1.1 200")
