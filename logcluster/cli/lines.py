"""Lines of a file or of standard input, in chunks, without blocking the event loop on a slow pipe or a terminal."""

from __future__ import annotations

import asyncio
import os
import stat
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

CHUNK_BYTES: Final = 1024 * 1024
LINE_BYTES_MAX: Final = 64 * 1024 * 1024


async def read_lines(path: Path | None) -> AsyncIterator[list[bytes]]:
    """Lists of lines without their line feeds; a last line without one counts.

    Args:
        path: a file; None is standard input.

    Raises:
        OSError: the file cannot be read.
        ValueError: a line is longer than 64 MiB.
    """
    rest = b""
    async for chunk in _read_chunks(path):
        lines = (rest + chunk).split(b"\n")
        rest = lines.pop()
        if len(rest) > LINE_BYTES_MAX:
            raise ValueError(f"a line is longer than {LINE_BYTES_MAX} bytes")
        if lines:
            yield lines
    if rest:
        yield [rest]


async def _read_chunks(path: Path | None) -> AsyncIterator[bytes]:
    if path is not None:
        with path.open("rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                yield chunk
        return
    source = sys.stdin.buffer
    mode = os.fstat(source.fileno()).st_mode
    if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or source.isatty():
        async for chunk in _read_pipe(source.fileno()):
            yield chunk
        return
    while chunk := source.read(CHUNK_BYTES):
        yield chunk


async def _read_pipe(descriptor: int) -> AsyncIterator[bytes]:
    """Read a pipe or terminal through the event loop; it is left blocking again, as others may share it."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=CHUNK_BYTES)
    with os.fdopen(os.dup(descriptor), "rb", buffering=0) as pipe:
        transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), pipe)
        try:
            while chunk := await reader.read(CHUNK_BYTES):
                yield chunk
        finally:
            transport.close()
            os.set_blocking(descriptor, True)


def size_bytes_of(path: Path | None) -> int | None:
    """Size of a regular file; None for pipes and terminals."""
    status = path.stat() if path is not None else os.fstat(sys.stdin.fileno())
    return status.st_size if stat.S_ISREG(status.st_mode) else None
