"""White-box invariants of a simulated cluster: observers that read running nodes and their disks after every event.

Start at `observer` (when what is looked at), then `history` (what is compared with what); `catalogue` names them all,
and each class says which races are legal and therefore not reported. `view` holds every access to private state.
"""

from __future__ import annotations

from logcluster.sim.findings import Finding
from logcluster.sim.invariants.catalogue import INVARIANTS
from logcluster.sim.invariants.observer import Invariants
from logcluster.sim.world import World

__all__ = ["INVARIANTS", "Invariants", "check_at_rest"]


def check_at_rest(world: World) -> list[Finding]:
    """Compare what has come to rest, in a world observed by `Invariants`; returns what they find now."""
    return [
        finding
        for observer in world.observers
        if isinstance(observer, Invariants)
        for finding in observer.check_at_rest()
    ]
