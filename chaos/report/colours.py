"""Colours and lanes of faults, the same on pages and pictures. Red is kept for harm done to data or writes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

_COLOURS: Final = {
    "kill": "#5b2a86",
    "restart-storm": "#7d4fb0",
    "terminate": "#9b7fc4",
    "rolling-restart": "#b39ad4",
    "power-loss": "#2f1a4a",
    "wipe": "#43307a",
    "pause": "#1f6fb2",
    "isolate": "#0b7a75",
    "clients-cut": "#3a9d8f",
    "majority-ring": "#14605c",
    "delay": "#8a6d1f",
    "bandwidth": "#a8842c",
    "resets": "#6e5a1e",
    "slow-disk": "#7a4a21",
    "io-error": "#96592a",
    "disk-full": "#5f3a1a",
    "bit-flip": "#3d3d3d",
    "clock-jump": "#55707f",
    "client-kill": "#6b7785",
    "client-pause": "#8c97a3",
}
_OTHERS: Final = ("#3f6b3a", "#2d4f8e", "#7a3f63", "#4d4d7a")
UNEXPLAINED_COLOUR: Final = "#222222"


def colour_of(kind: str) -> str:
    """Of a kind of fault; mixtures take that of their first, unknown ones any that stays the same."""
    first = kind.split(" + ", maxsplit=1)[0]
    if first == "none":
        return UNEXPLAINED_COLOUR
    return _COLOURS.get(first) or _OTHERS[sum(map(ord, first)) % len(_OTHERS)]


def lanes(spans: Iterable[tuple[int, int]]) -> list[int]:
    """For spans in order of their beginning: a lane for each, so that no two in one lane overlap."""
    ends: list[int] = []
    chosen: list[int] = []
    for begin, end in spans:
        lane = next((number for number, taken in enumerate(ends) if taken <= begin), len(ends))
        if lane == len(ends):
            ends.append(end)
        else:
            ends[lane] = end
        chosen.append(lane)
    return chosen
