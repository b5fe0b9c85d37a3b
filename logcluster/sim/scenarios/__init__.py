"""Scripted histories: real bugs of other systems, retold on this one, each with the safeguard that prevents it.

`SCENARIOS` is the catalogue, one file per kind of damage; `stage` is the vocabulary they are written in. Each must pass
with every safeguard and fail without its own; tests/unit/sim/test_scenarios.py holds them to both.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from logcluster.sim.scenarios import durability, elections, groups, producers, quorum, readers, storage, truncation
from logcluster.sim.scenarios.scenario import OFF_SCRIPT, Scenario

__all__ = ["OFF_SCRIPT", "SCENARIOS", "Scenario"]

_KINDS: Final = (durability, elections, truncation, quorum, storage, producers, readers, groups)

SCENARIOS: Final[Mapping[str, Scenario]] = MappingProxyType(
    {scenario.name: scenario for kind in _KINDS for scenario in kind.SCENARIOS}
)
"""All scenarios by name, in the order of their kinds."""
