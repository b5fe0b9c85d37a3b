"""Assignors by name, and which one a group uses."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Final

from logcluster.core.coordinators.groups.assignors.ranges import range_assign
from logcluster.core.coordinators.groups.assignors.reader import Assignor
from logcluster.core.coordinators.groups.assignors.uniform import uniform
from logcluster.model.errors import UnsupportedAssignor

ASSIGNORS: Final[Mapping[str, Assignor]] = {"range": range_assign, "uniform": uniform}


def check_assignor(name: str) -> None:
    """Check that there is an assignor of this name; the empty name is "the group's".

    Raises:
        UnsupportedAssignor: there is none.
    """
    if name and name not in ASSIGNORS:
        raise UnsupportedAssignor(f"there is no assignor {name!r}", assignor=name)


def wished_assignor(wishes: Iterable[str], present: str) -> str:
    """The name that most members wish for; at a tie the group's present one, then the first by name.

    Members without a wish (empty names) leave it to the others; nobody's wish leaves the present one.
    """
    counts = Counter(wish for wish in wishes if wish in ASSIGNORS)
    if not counts:
        return present if present in ASSIGNORS else "uniform"
    return min(counts, key=lambda name: (-counts[name], name != present, name))
