"""Where clusters under chaos run; another target is one entry."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from chaos.interfaces import Target
from chaos.targets.containers import ContainerTarget
from chaos.targets.namespaces import NamespaceTarget
from chaos.targets.pods import PodTarget
from chaos.targets.processes import ProcessTarget

TARGETS: Final[Mapping[str, Callable[[], Target]]] = {
    "processes": ProcessTarget,
    "netns": NamespaceTarget,
    "containers": ContainerTarget,
    "pods": PodTarget,
}


def make_target(name: str) -> Target:
    """A target by its name.

    Raises:
        KeyError: there is none.
    """
    return TARGETS[name]()
