"""Input by lines, from files and pipes."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from logcluster.cli import lines as lines_module
from logcluster.cli.lines import read_lines


async def lines_of(path: Path | None) -> list[bytes]:
    return [line async for chunk in read_lines(path) for line in chunk]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", []),
        (b"a\nb\n", [b"a", b"b"]),
        (b"a\nb", [b"a", b"b"]),
        (b"\n\n", [b"", b""]),
        (b"no utf-8: \xff\x00\r\n", [b"no utf-8: \xff\x00\r"]),
    ],
)
async def test_every_line_is_one_record(tmp_path: Path, data: bytes, expected: list[bytes]) -> None:
    path = tmp_path / "input"
    path.write_bytes(data)

    assert await lines_of(path) == expected


async def test_lines_across_chunks_are_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines_module, "CHUNK_BYTES", 7)
    path = tmp_path / "input"
    expected = [b"x" * length for length in range(40)]
    path.write_bytes(b"\n".join(expected))

    assert await lines_of(path) == expected


async def test_endless_line_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines_module, "CHUNK_BYTES", 16)
    monkeypatch.setattr(lines_module, "LINE_BYTES_MAX", 100)
    path = tmp_path / "input"
    path.write_bytes(b"x" * 1000)

    with pytest.raises(ValueError, match="longer than 100 bytes"):
        await lines_of(path)


async def test_pipe_is_read_to_its_end_and_left_blocking(monkeypatch: pytest.MonkeyPatch) -> None:
    read_end, write_end = os.pipe()
    os.write(write_end, b"one\ntwo")
    os.close(write_end)
    with os.fdopen(read_end) as pipe:
        monkeypatch.setattr(sys, "stdin", pipe)

        assert await lines_of(None) == [b"one", b"two"]
