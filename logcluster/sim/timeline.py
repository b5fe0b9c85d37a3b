"""What happened in a run, for people: faults, nodes going down and coming up, findings, in virtual time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from logcluster.sim.world import World


@dataclass(frozen=True, slots=True)
class TimelineEntry:
    """One line of it."""

    at_ms: int
    kind: str
    facts: Mapping[str, object]

    def __str__(self) -> str:
        facts = " ".join(f"{name}={value}" for name, value in self.facts.items())
        return f"{self.at_ms / 1000:9.3f} s  {self.kind:<24} {facts}"


class Timeline:
    """The entries of one world; noting one is part of its trace."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.entries: list[TimelineEntry] = []

    def note(self, kind: str, **facts: object) -> None:
        """Add a line; facts must print the same in every run of the seed."""
        entry = TimelineEntry(self._world.now_ms, kind, facts)
        self.entries.append(entry)
        self._world.loop.note(str(entry).encode())

    def lines(self) -> list[str]:
        """The whole of it as text."""
        return [str(entry) for entry in self.entries]
