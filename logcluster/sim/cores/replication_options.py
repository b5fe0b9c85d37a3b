"""What one seed of the replication simulator draws: the topic's settings, and which faults, how often."""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicationOptions:
    """Probabilities per message or per action; times in milliseconds.

    Attributes:
        is_synced: `flush.mode=sync`; with async nobody loses power but one broker at a time.
        late: an in-sync change arrives after its sender gave up on the answer.
        power_loss: share of crashes that take the unflushed part of the log along.
        crash_on_expand: a newcomer dies, and perhaps loses its copy, just when its leader proposes it for the set.
        fence_on_expand: the controller loses sight of a newcomer for a moment, just when its leader proposes it.
        disk_lost: a broker comes back with an empty disk; one at a time.
        uncommitted_lost: share of controller failovers that drop what was not committed.
    """

    mood: str = "swarm"
    broker_count: int = 3
    replication_factor: int = 3
    min_in_sync: int = 2
    is_synced: bool = True
    producer_count: int = 2
    plain_producer_count: int = 1
    pipeline_max: int = 3
    produce_interval_ms: int = 25
    delay_ms_max: int = 6
    slow_message: float = 0.0
    disk_ms_max: int = 6
    drop: float = 0.0
    late: float = 0.0
    stream_reset: float = 0.0
    crash: float = 0.0
    power_loss: float = 0.5
    blackout: float = 0.0
    restart_ms_max: int = 200
    clean_stop: float = 0.0
    disk_lost: float = 0.0
    cut: float = 0.0
    controller_cut: float = 0.0
    pause: float = 0.0
    controller_failover: float = 0.0
    uncommitted_lost: float = 0.5
    elect: float = 0.0
    double_failover: float = 0.0
    crash_on_expand: float = 0.0
    fence_on_expand: float = 0.0
    delete_records: float = 0.0
    lag_time_ms_max: int = 120
    duration_ms: int = 1_600
    action_ms_max: int = 50


_SHORT_MEMORY = ReplicationOptions(
    mood="double failover",
    crash=0.10,
    power_loss=0.9,
    double_failover=0.15,
    elect=0.05,
    cut=0.05,
    restart_ms_max=80,
    disk_ms_max=12,
    produce_interval_ms=12,
)


_UNLUCKY_JOINERS = ReplicationOptions(
    mood="unlucky joiners",
    crash_on_expand=0.3,
    fence_on_expand=0.5,
    crash=0.06,
    pause=0.06,
    late=0.6,
    restart_ms_max=30,
    lag_time_ms_max=60,
    cut=0.05,
    produce_interval_ms=15,
)


def draw_replication_options(rng: Random) -> ReplicationOptions:
    """Draw the options of one seed."""
    mood = rng.random()
    if mood < 0.08:
        return replace(_UNLUCKY_JOINERS, is_synced=rng.random() < 0.5, slow_message=rng.choice((0.0, 0.05)))
    if mood < 0.20:
        return replace(_SHORT_MEMORY, min_in_sync=rng.choice((1, 2, 2)), delay_ms_max=rng.choice((3, 10)))

    def some(probability: float, low: float, high: float) -> float:
        return rng.uniform(low, high) if rng.random() < probability else 0.0

    replication_factor = rng.choice((2, 3, 3, 3, 3))
    return ReplicationOptions(
        broker_count=max(replication_factor, rng.choice((3, 3, 4))),
        replication_factor=replication_factor,
        min_in_sync=rng.choice((1, 2, 2, 2, 2)),
        is_synced=rng.random() < 0.75,
        producer_count=rng.randint(1, 2),
        plain_producer_count=rng.randint(0, 1),
        pipeline_max=rng.choice((1, 3, 5)),
        produce_interval_ms=rng.choice((10, 20, 40)),
        delay_ms_max=rng.choice((1, 5, 12)),
        slow_message=some(0.4, 0.01, 0.05),
        disk_ms_max=rng.choice((1, 5, 15)),
        drop=some(0.4, 0.01, 0.10),
        late=some(0.5, 0.05, 0.4),
        stream_reset=some(0.5, 0.02, 0.10),
        crash=some(0.7, 0.03, 0.15),
        power_loss=rng.random(),
        blackout=some(0.2, 0.005, 0.03),
        restart_ms_max=rng.choice((40, 200, 400)),
        clean_stop=some(0.4, 0.02, 0.08),
        disk_lost=some(0.4, 0.02, 0.08),
        cut=some(0.5, 0.02, 0.10),
        controller_cut=some(0.4, 0.02, 0.08),
        pause=some(0.4, 0.02, 0.08),
        controller_failover=some(0.4, 0.02, 0.08),
        uncommitted_lost=rng.random(),
        elect=some(0.5, 0.02, 0.10),
        double_failover=some(0.3, 0.02, 0.08),
        crash_on_expand=some(0.3, 0.1, 0.6),
        delete_records=some(0.25, 0.02, 0.05),
        lag_time_ms_max=rng.choice((60, 120, 250)),
    )
