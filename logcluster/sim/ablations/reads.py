"""Safeguards of readers: only what is committed, and never less than was seen before (P3)."""

from __future__ import annotations

from typing import Final

from logcluster.broker.fetch import FetchHandler
from logcluster.core.replication.leader import LeaderState
from logcluster.sim.ablations.ablation import Ablation
from logcluster.sim.ablations.commit import LOSS
from logcluster.sim.ablations.editing import Edit, Patch

ABLATIONS: Final = (
    Ablation(
        name="reads-below-high-watermark",
        safeguard="consumers are given committed records only",
        promise="P3",
        source="Kafka's replication design; Redpanda #14794, #15330",
        expected=frozenset({"G1a", "G1c-realtime", "nonmonotonic-poll", "phantom"}) | LOSS,
        profile="failover",
        patch=Patch(
            Edit(FetchHandler._read, "high_watermark = partition.high_watermark", "high_watermark = log.log_end_offset")
        ),
    ),
    Ablation(
        name="deposed-leader-judges-nobody",
        safeguard="a leader says where logs differ only for readers that come from no later epoch than its own",
        promise="P6",
        source="KIP-320; found by the chaos suite",
        expected=frozenset({"resumed-elsewhere"}),
        dormant="members of a run read all the time, and so know who leads; the scenario judged-by-a-deposed-leader",
        patch=Patch(Edit(FetchHandler._read, "if item.last_fetched_epoch > leader.leader_epoch:", "if False:")),
    ),
    Ablation(
        name="latest-offset-of-own-epoch",
        safeguard="a new leader names its latest offset only once it knows all that was committed before it",
        promise="P3",
        source="KIP-207",
        expected=frozenset({"stale-list-offsets"}),
        profile="failover",
        patch=Patch(Edit(LeaderState.latest_offset, "if self.high_watermark < self.epoch_start_offset:", "if False:")),
    ),
)
