"""What a seed makes of a cluster besides its faults: configuration of the nodes, speed of links and disks.

Rare branches become common ones by small bounds: segments of a few records, snapshots after a few entries, short
sessions. Every value is one that an operator could set, so whatever is found can happen.
"""

from __future__ import annotations

import random
from typing import Any

from logcluster.sim.world import WorldOptions


def draw_world_options(rng: random.Random, *, brokers: int) -> WorldOptions:
    """The options of one seed's world; always the same draws, so that one more value moves no other stream."""
    election_timeout_ms = rng.choice((300, 600, 1_000))
    heartbeat_ms = rng.choice((100, 200, 400))
    settings: dict[str, Any] = {
        "quorum.heartbeat_interval_ms": election_timeout_ms // rng.choice((3, 6)),
        "quorum.election_timeout_ms": election_timeout_ms,
        "quorum.snapshot_interval_entries": rng.choice((10, 25, 100, 10_000)),
        "data.checkpoint_interval_ms": rng.choice((200, 1_000, 5_000)),
        "data.segment_bytes_max": rng.choice((2_048, 8_192, 32_768, 262_144)),
        "data.tail_cache_bytes_max": rng.choice((0, 4_096, 1 << 20)),
        "broker.heartbeat_interval_ms": heartbeat_ms,
        "broker.session_timeout_ms": heartbeat_ms * rng.choice((3, 5, 8)),
        "broker.disconnect_grace_ms": rng.choice((50, 300, 1_000)),
        "broker.replica_lag_time_max_ms": rng.choice((500, 1_500, 4_000, 10_000)),
        "broker.retention_check_interval_ms": rng.choice((300, 2_000, 300_000)),
        "broker.leader_rebalance_interval_ms": rng.choice((500, 2_000, 10_000)),
        "broker.producer_id_expiration_ms": rng.choice((60_000, 24 * 60 * 60 * 1000)),
    }
    settings["quorum.trailing_entries"] = rng.choice((0, 5, 1_000))
    slowest_link_ms = rng.choice((0.3, 1.0, 5.0, 20.0))
    slowest_disk_ms = rng.choice((0.2, 1.5, 10.0))
    restart_delay_ms = rng.choice((50, 500, 2_000))
    settings |= {
        "groups.partitions": rng.choice((1, 2, 4)),
        "groups.heartbeat_interval_ms": rng.choice((100, 300, 500)),
        "groups.session_timeout_ms": 2_000,
        "groups.disconnect_grace_ms": rng.choice((50, 500)),
        "groups.cache_keys_max": rng.choice((0, 50_000)),
        "groups.rewrite_bytes_min": rng.choice((1_024, 16_384, 4 << 20)),
    }
    return WorldOptions(
        brokers=brokers,
        settings=settings,
        link_delay_ms=(0.05, slowest_link_ms),
        disk_latency_ms=(0.02, slowest_disk_ms),
        restart_delay_ms=restart_delay_ms,
    )
