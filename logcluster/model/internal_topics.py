"""Names of topics that the cluster keeps for itself: they begin with two underscores."""

from __future__ import annotations

from typing import Final

INTERNAL_PREFIX: Final = "__"


def is_internal(name: str) -> bool:
    """Is this the name of a topic that the cluster keeps for itself?"""
    return name.startswith(INTERNAL_PREFIX)
