"""Texts that users type on the command line, read into values: durations, times, places in a log, settings.

Times without a zone are local, as in every other tool on the machine; all values are integers in milliseconds.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final

import typer

_UNITS_MS: Final = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "": 1_000}
_DURATION: Final = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d|)")
_SIZES: Final = {"": 1, "b": 1, "k": 1_000, "kb": 1_000, "kib": 1024, "m": 10**6, "mb": 10**6, "mib": 1024**2,
                 "g": 10**9, "gb": 10**9, "gib": 1024**3}  # fmt: skip
_SIZE: Final = re.compile(r"(\d+(?:\.\d+)?)\s*([a-z]*)")


def duration_ms(text: str) -> int:
    """Read `500ms`, `10s`, `2m`, `1h`, `7d`; a bare number is seconds.

    Raises:
        typer.BadParameter: it is none of these.
    """
    match = _DURATION.fullmatch(text.strip().lower())
    if match is None:
        raise typer.BadParameter(f"{text!r} is not a duration; write 500ms, 10s, 2m, 1h or 7d")
    return round(float(match[1]) * _UNITS_MS[match[2]])


def size_bytes(text: str) -> int:
    """Read `100`, `64KiB`, `10MB`.

    Raises:
        typer.BadParameter: it is none of these.
    """
    match = _SIZE.fullmatch(text.strip().lower())
    if match is None or match[2] not in _SIZES:
        raise typer.BadParameter(f"{text!r} is not a size; write 100, 64KiB or 10MB")
    return round(float(match[1]) * _SIZES[match[2]])


class PlaceKind(StrEnum):
    """What a place in a log is given by."""

    BEGINNING = "beginning"
    END = "end"
    OFFSET = "offset"
    TIMESTAMP = "timestamp"


@dataclass(frozen=True, slots=True)
class Place:
    """A place in every partition: its beginning, its end, an offset, or the first record from a time on."""

    kind: PlaceKind
    value: int = 0
    """Offset, or milliseconds since 1970."""


def place(text: str, *, now_ms: int) -> Place:
    """Read `beginning`, `end`, an offset, or a time (`-15m`, `@1700000000000`, `2026-11-22T08:00`, `now`).

    Raises:
        typer.BadParameter: it is none of these.
    """
    word = text.strip().lower()
    if word in {"beginning", "earliest", "start"}:
        return Place(PlaceKind.BEGINNING)
    if word in {"end", "latest"}:
        return Place(PlaceKind.END)
    if word.isascii() and word.isdigit():
        return Place(PlaceKind.OFFSET, int(word))
    return Place(PlaceKind.TIMESTAMP, time_ms(word, now_ms=now_ms))


def time_ms(text: str, *, now_ms: int) -> int:
    """Read a time: `now`, `-15m` (that long ago), `@` and milliseconds since 1970, or ISO 8601.

    Raises:
        typer.BadParameter: it is none of these.
    """
    if text == "now":
        return now_ms
    if text.startswith("-") and text[-1:].isalpha():
        return now_ms - duration_ms(text[1:])
    if text.startswith("@") and text[1:].isdigit():
        return int(text[1:])
    try:
        # A time without zone is read as local time by astimezone().
        return int(datetime.fromisoformat(text.upper()).astimezone().timestamp() * 1000)
    except ValueError as error:
        raise typer.BadParameter(
            f"{text!r} is neither beginning, end, an offset, nor a time; "
            "times are -15m, @1700000000000 (milliseconds), 2026-11-22T08:00 or now"
        ) from error


def settings_map(pairs: list[str] | None) -> dict[str, str]:
    """Read a list of `key=value`.

    Raises:
        typer.BadParameter: one has no `=` or no key, or a key stands twice.
    """
    found: dict[str, str] = {}
    for pair in pairs or []:
        key, separator, value = pair.partition("=")
        if not separator or not key:
            raise typer.BadParameter(f"{pair!r} is not key=value; for example -c retention.ms=86400000")
        if key in found:
            raise typer.BadParameter(f"{key} is given twice")
        found[key] = value
    return found


def separator_bytes(text: str) -> bytes:
    r"""Read a separator, with the escapes `\t`, `\n`, `\xNN`.

    Raises:
        typer.BadParameter: it is empty or an escape is unknown.
    """
    separator = unescape(text)
    if not separator:
        raise typer.BadParameter("the separator is empty")
    return separator


_ESCAPES: Final = {"n": b"\n", "t": b"\t", "r": b"\r", "0": b"\0", "\\": b"\\"}


def unescape(text: str) -> bytes:
    r"""Bytes of `text` in UTF-8, with `\n \t \r \0 \\ \xNN` replaced.

    Raises:
        typer.BadParameter: another escape, or one that is cut off.
    """
    result = bytearray()
    position = 0
    while position < len(text):
        if text[position] != "\\":
            result += text[position].encode()
            position += 1
            continue
        letter = text[position + 1 : position + 2]
        digits = text[position + 2 : position + 4]
        if letter in _ESCAPES:
            result += _ESCAPES[letter]
            position += 2
        elif letter == "x" and re.fullmatch(r"[0-9a-fA-F]{2}", digits):
            result.append(int(digits, 16))
            position += 4
        else:
            raise typer.BadParameter(rf"unknown escape \{letter} in {text!r}; known: \n \t \r \0 \\ \xNN")
    return bytes(result)
