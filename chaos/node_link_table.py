"""Which rule is in force on which directed link of a cluster.

A link is directed, from a source to a destination; an end is a broker id or CLIENTS, never CLIENTS at both. A table
only remembers: the target brings into force what it says, also for a broker that starts later.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace
from typing import Any

from chaos.interfaces import CLIENTS, FaultFailed
from chaos.node_links import CLEAR, LinkRule

End = int | str
LinkEnds = tuple[End, End]


class LinkTable:
    """The rules of all links of a cluster.

    Args:
        broker_ids: the ends that there are, besides CLIENTS.
    """

    def __init__(self, broker_ids: Collection[int]) -> None:
        self._broker_ids = broker_ids
        self._rules: dict[LinkEnds, LinkRule] = {}

    def change(self, source: End, destination: End, **changes: Any) -> None:
        """Change fields of a link's rule, and leave the others as they are.

        Raises:
            FaultFailed: there is no such link, or no such rule.
        """
        self.check(source, destination)
        try:
            rule = replace(self.rule(source, destination), **changes)
        except ValueError as error:
            raise FaultFailed(f"link {source} -> {destination}: {error}") from error
        self._rules[source, destination] = rule

    def heal(self, source: End, destination: End) -> None:
        """Let everything pass on this link.

        Raises:
            FaultFailed: there is no such link.
        """
        self.check(source, destination)
        self._rules.pop((source, destination), None)

    def heal_all(self) -> set[LinkEnds]:
        """Let everything pass everywhere; returns the links that had a rule."""
        healed = set(self._rules)
        self._rules.clear()
        return healed

    def rule(self, source: End, destination: End) -> LinkRule:
        return self._rules.get((source, destination), CLEAR)

    def items(self) -> Iterator[tuple[LinkEnds, LinkRule]]:
        """Every link that has a rule."""
        return iter(list(self._rules.items()))

    def check(self, source: End, destination: End) -> None:
        """Raises:
        FaultFailed: these are not the ends of a link.
        """
        for end in (source, destination):
            if end != CLIENTS and end not in self._broker_ids:
                raise FaultFailed(f"{end!r} is not an end of a link: neither a broker nor {CLIENTS!r}")
        if source == destination:
            raise FaultFailed(f"there is no link from {source} to itself")
