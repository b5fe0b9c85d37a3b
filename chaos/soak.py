"""A long run: leaders are killed at a steady pace, and other faults fall in between, all drawn from the seed."""

from __future__ import annotations

from random import Random
from typing import Final

from chaos.scenario import Bounds, Clients, Fault, Scenario, Topic

KILL_EVERY_S: Final = 20.0
BESIDE: Final = (
    ("pause", "leader", 2.0),
    ("pause", "controller", 2.0),
    ("isolate", "leader", 3.0),
    ("isolate", "controller", 3.0),
    ("clients-cut", "leader", 2.0),
    ("resets", "leader", 1.0),
    ("delay", "random", 4.0),
    ("slow-disk", "leader", 4.0),
    ("terminate", "leader", 2.0),
    ("kill", "coordinator", 2.0),
    ("kill", "controller", 2.0),
    ("clock-jump", "random", 2.0),
    ("client-kill", "clients", 0.1),
    ("client-pause", "clients", 3.0),
)
"""Kind, role, seconds."""


def soak_scenario(hours: float, seed: int, *, beside_every_s: float = 60.0, rate: int = 100) -> Scenario:
    """A run of this length: a leader is killed every 20 s, and every minute something else happens.

    Args:
        rate: records per second of each of the three producers.
    """
    duration_s = hours * 3_600
    rng = Random(f"{seed}/soak")
    faults = [Fault(kind="kill", role="leader", at_s=10.0, every_s=KILL_EVERY_S, lasts_s=3.0, jitter_s=1.0)]
    at_s = 20.0 + beside_every_s / 2
    while at_s < duration_s - 20:
        kind, role, lasts_s = rng.choice(BESIDE)
        faults.append(Fault(kind=kind, role=role, at_s=at_s, lasts_s=lasts_s, jitter_s=2.0))
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
        bounds=Bounds(availability_percent_min=99.9, acked_records_min=1_000),
        settle_s_max=120.0,
    )
