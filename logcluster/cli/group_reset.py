"""What `logcluster group reset` is told: where to, and which partitions; read into what the client takes."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

import typer

from logcluster.cli.values import PlaceKind, place

if TYPE_CHECKING:
    from logcluster.client.group_descriptions import ResetPoint

_SHIFT: Final = re.compile(r"[+-]\d+")
_TOPIC: Final = re.compile(r"([^:\s]+)(?::(\d+(?:,\d+)*))?")


def reset_point(text: str, *, now_ms: int) -> ResetPoint:
    """Read `beginning`, `end`, an offset, a time as `consume --from` takes it, or a shift such as `+10` and `-10`.

    Raises:
        typer.BadParameter: it is none of these.
    """
    from logcluster.client.group_descriptions import Shift
    from logcluster.client.records import Timestamp

    if _SHIFT.fullmatch(text.strip()):
        return Shift(int(text))
    try:
        found = place(text, now_ms=now_ms)
    except typer.BadParameter as error:
        raise typer.BadParameter(f"--to: {error.message}; or +N and -N to shift by records") from error
    if found.kind is PlaceKind.BEGINNING:
        return "beginning"
    if found.kind is PlaceKind.END:
        return "end"
    return found.value if found.kind is PlaceKind.OFFSET else Timestamp(found.value)


def reset_topics(texts: list[str] | None) -> dict[str, list[int] | None] | None:
    """Read a list of `TOPIC` and `TOPIC:0,3`; a topic without numbers means all of its partitions.

    Returns:
        Partitions by topic (None: all of them); None when nothing was named.

    Raises:
        typer.BadParameter: one of them is neither.
    """
    if not texts:
        return None
    found: dict[str, list[int] | None] = {}
    for text in texts:
        match = _TOPIC.fullmatch(text.strip())
        if match is None:
            raise typer.BadParameter(f"--topic: {text!r} is neither TOPIC nor TOPIC:0,3")
        topic = match[1]
        numbers = None if match[2] is None else [int(number) for number in match[2].split(",")]
        known = found.get(topic, [])
        found[topic] = None if numbers is None or known is None else sorted({*known, *numbers})
    return found
