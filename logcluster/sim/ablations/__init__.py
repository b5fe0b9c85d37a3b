"""Ablations: every safeguard can be switched off, by the simulator only, to prove that its loss is found.

A simulator that finds nothing may be blind. So for each safeguard there is an ablation here, and running seeds with it
must find the anomaly that the safeguard prevents; another one does not count. `ABLATIONS` is the catalogue, one file
per area; `editing` does the switching, `profiles` draws faults for the hunt; nothing in the product knows of it. Where
the loss cannot be seen, because another safeguard covers for it or no client provokes it, `DORMANT` says so.

    with ablations.apply("fsync-before-ack"):
        run_seed(...)

Source: simloop's ablation tests; etcd's scripts that re-find old bugs.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from contextlib import AbstractContextManager
from types import MappingProxyType
from typing import Final

from logcluster.sim.ablations import commit, elections, groups, history, producers, quorum, reads, storage
from logcluster.sim.ablations.ablation import Ablation
from logcluster.sim.ablations.editing import AblationDoesNotFit
from logcluster.sim.ablations.profiles import PROFILES, draw_profile_plan
from logcluster.sim.faults.plan import Plan

__all__ = ["ABLATIONS", "DORMANT", "PROFILES", "Ablation", "AblationDoesNotFit", "apply", "draw_plan"]

_AREAS: Final = (commit, history, elections, quorum, producers, storage, reads, groups)

_ALL: Final[dict[str, Ablation]] = {ablation.name: ablation for area in _AREAS for ablation in area.ABLATIONS}
ABLATIONS: Final[Mapping[str, Ablation]] = MappingProxyType(
    {name: ablation for name, ablation in _ALL.items() if ablation.dormant is None}
)
"""All ablations that must be caught, by name, in the order of their areas."""
DORMANT: Final[Mapping[str, Ablation]] = MappingProxyType(
    {name: ablation for name, ablation in _ALL.items() if ablation.dormant is not None}
)
"""Those whose loss cannot be seen at present, by name; each says why."""


def apply(name: str) -> AbstractContextManager[None]:
    """The block in which the safeguard of this name is off, in the whole interpreter.

    Raises:
        KeyError: there is no such ablation.
        AblationDoesNotFit: on entering; the product has changed under it.
    """
    return _ALL[name].patch()


def draw_plan(name: str, rng: random.Random, *, brokers: int, duration_ms: int) -> Plan | None:
    """A plan of faults in which the safeguard of this name matters; None where any plan does.

    Raises:
        KeyError: there is no such ablation.
    """
    profile = _ALL[name].profile
    return None if profile is None else draw_profile_plan(profile, rng, brokers=brokers, duration_ms=duration_ms)
