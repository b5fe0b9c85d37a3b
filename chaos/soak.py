"""A long run: leaders are killed at a steady pace, and other faults fall in between, all drawn from the seed."""

from __future__ import annotations

from random import Random
from typing import Any, Final

from chaos.scenario import Bounds, Clients, Fault, Scenario, Topic

KILL_EVERY_S: Final = 20.0
BESIDE: Final = (
    ("terminate", "leader", 2.0),
    ("kill", "coordinator", 2.0),
    ("kill", "controller", 2.0),
    ("resets", "leader", 1.0),
    ("delay", "random", 4.0),
    ("slow-disk", "leader", 4.0),
    ("clock-jump", "random", 2.0),
    ("client-kill", "clients", 0.1),
    ("client-pause", "clients", 3.0),
)
"""Kind, role, seconds. Pauses and cuts are not among them: nobody can tell them from slowness before the session is
over, so a minute with one cannot be available for 99.9 %. The scenario `pauses-and-cuts` bounds them by themselves."""
OPTIONS: Final[dict[str, dict[str, Any]]] = {"slow-disk": {"delay_ms": 3}}
"""Slow, but not too slow for the rate: of writes that take 30 ms, one after the other, a second has 33."""


def soak_scenario(hours: float, seed: int, *, beside_every_s: float = 60.0, rate: int = 40) -> Scenario:
    """A run of this length: a leader is killed every 20 s, and every minute something else happens.

    Args:
        rate: records per second of each of the three producers; the whole history is judged in memory at the end.
    """
    duration_s = hours * 3_600
    rng = Random(f"{seed}/soak")
    faults = [Fault(kind="kill", role="leader", at_s=10.0, every_s=KILL_EVERY_S, lasts_s=3.0, jitter_s=1.0)]
    at_s = KILL_EVERY_S + beside_every_s  # halfway between two kills, so that a gap has one cause
    while at_s < duration_s - 20:
        kind, role, lasts_s = rng.choice(BESIDE)
        options = OPTIONS.get(kind, {})
        faults.append(Fault(kind=kind, role=role, at_s=at_s, lasts_s=lasts_s, jitter_s=1.0, options=options))
        at_s += beside_every_s
    config = {"min.insync.replicas": "2", "retention.bytes": str(1 << 30)}
    return Scenario(
        name="soak",
        description=f"{hours:g} h with a leader killed every {KILL_EVERY_S:.0f} s",
        duration_s=duration_s,
        topics={"orders": Topic(partitions=6, config=config)},
        clients=[
            Clients(workload="append", count=3, options={"rate": rate, "compression": "mixed"}),
            Clients(workload="read"),
            Clients(workload="group", count=2, options={"group": "billing"}),
        ],
        faults=faults,
        bounds=Bounds(
            gap_s_max_of={"kill": 2.0, "terminate": 2.0}, availability_percent_min=99.9, acked_records_min=1_000
        ),
        settle_s_max=120.0,
    )
