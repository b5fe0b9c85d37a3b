"""Safeguards of commitment: what counts as held, what may be acknowledged, who may be in sync (P1, P2)."""

from __future__ import annotations

from typing import Final

from logcluster.broker.partition import Partition
from logcluster.broker.replica_feed import ReplicaFeed
from logcluster.core.controller import alter_partitions
from logcluster.core.replication.leader import LeaderState
from logcluster.sim.ablations.ablation import Ablation
from logcluster.sim.ablations.editing import Edit, Patch
from logcluster.storage.log_flush import PendingFlush

LOSS: Final = frozenset(
    {
        "lost-write",
        "unseen",
        "lost-on-node",
        "offset-reassigned",
        "inconsistent-offsets",
        "leader-completeness",
        "committed-record-lost",
    }
)
"""How the loss of an acknowledged record shows in a history, or at the next leader."""

ABLATIONS: Final = (
    Ablation(
        name="fsync-before-ack",
        safeguard="a replica reports what is on its disk, not what it has appended",
        promise="P1",
        source="NATS #7564; Redpanda on fsync",
        expected=frozenset({"durability-gap", "high-watermark-not-replicated"}) | LOSS,
        profile="power-loss",
        patch=Patch(Edit(Partition.set_config, 'config.flush_mode == "sync"', "False")),
    ),
    Ablation(
        name="directory-sync",
        safeguard="the name of a file is on disk before what it holds counts",
        promise="P1",
        source="ALICE, OSDI 2014; ext4 semantics of fsync",
        expected=frozenset({"durability-gap", "high-watermark-not-replicated", "restart-lost-records"}) | LOSS,
        profile="power-loss",
        patch=Patch(Edit(PendingFlush.run, "in self.directories:", "in ():")),
    ),
    Ablation(
        name="failed-fsync-stops",
        safeguard="after a failed fsync the data counts as lost and the log directory stops",
        promise="P8",
        source="Rebello et al., ATC 2020; PostgreSQL's fsync errors of 2018",
        expected=frozenset({"durability-gap", "high-watermark-not-replicated", "restart-lost-records"}) | LOSS,
        profile="fsync-failure",
        patch=Patch(
            Edit(
                PendingFlush.run,
                "            file.sync()\n",
                "            try:\n"
                "                file.sync()\n"
                "            except OSError:\n"
                "                file.sync()\n",
            )
        ),
    ),
    Ablation(
        name="min-insync-replicas",
        safeguard="fewer than min.insync.replicas in sync take no write with acks=all and commit nothing",
        promise="P1",
        source="Jepsen on Kafka 0.8, 2013",
        expected=frozenset({"min-isr-violation", "durability-gap"}) | LOSS,
        profile="isolation",
        patch=Patch(
            Edit(Partition.append_as_leader, "acks_all and leader.is_under_min", "False"),
            Edit(LeaderState._advance, "< min(self.min_in_sync_replicas, len(self.replicas))", "< 1"),
            Edit(Partition.lead, "leader.is_under_min and len(self.waiters)", "False"),
            Edit(Partition.on_isr_committed, "leader.is_under_min and len(self.waiters)", "False"),
        ),
    ),
    Ablation(
        name="high-watermark-freeze",
        safeguard="the high watermark stands still below min.insync.replicas",
        promise="P1",
        source="KIP-966",
        expected=frozenset({"min-isr-violation", "isr-member-incomplete", "durability-gap"}) | LOSS,
        profile="isolation",
        patch=Patch(Edit(LeaderState._advance, "< min(self.min_in_sync_replicas, len(self.replicas))", "< 1")),
    ),
    Ablation(
        name="high-watermark-covers-isr",
        safeguard="the high watermark waits for every member of the in-sync set",
        promise="P1",
        source="Kafka's replication design",
        expected=frozenset({"high-watermark-not-replicated", "durability-gap"}) | LOSS,
        patch=Patch(Edit(LeaderState._advance, "for remote in self._in_sync_remotes:", "for remote in ():")),
    ),
    Ablation(
        name="isr-shrink-after-commit",
        safeguard="a member leaves the in-sync set only when the controller has committed that (the maximal set)",
        promise="P1",
        source="KIP-497",
        expected=frozenset({"isr-divergence", "high-watermark-not-replicated", "durability-gap"}) | LOSS,
        profile="isolation",
        patch=Patch(
            Edit(
                LeaderState._derive_sets,
                "    if self._pending is not None:\n",
                "    if self._pending is not None:\n        members = {}\n",
            )
        ),
    ),
    Ablation(
        name="isr-join-caught-up",
        safeguard="a replica joins the in-sync set only when it holds all that may be committed",
        promise="P1",
        source="Kafka's Partition.isFollowerInSync; KIP-207",
        expected=frozenset({"isr-member-incomplete", "high-watermark-not-replicated"}) | LOSS,
        patch=Patch(
            Edit(
                LeaderState._may_join,
                "remote.reported_offset >= self.high_watermark\n"
                "        and remote.reported_offset >= self.epoch_start_offset\n"
                "        and ",
                "",
            )
        ),
    ),
    Ablation(
        name="isr-join-after-epoch-start",
        safeguard="a replica joins the in-sync set only when it holds all that its leader's epoch began with",
        promise="P1",
        source="KIP-207; Kafka's Partition.isFollowerInSync",
        expected=frozenset({"isr-member-incomplete", "high-watermark-not-replicated"}) | LOSS,
        profile="failover",
        patch=Patch(Edit(LeaderState._may_join, "and remote.reported_offset >= self.epoch_start_offset", "")),
    ),
    Ablation(
        name="progress-per-process",
        safeguard="what a follower's earlier process held does not count for the next one, nor in the in-sync set",
        promise="P1",
        source="KIP-903",
        expected=frozenset({"isr-member-incomplete", "high-watermark-not-replicated"}) | LOSS,
        profile="lost-disk",
        patch=Patch(
            Edit(alter_partitions._check_eligible, "broker.broker_epoch != member.broker_epoch", "False"),
            Edit(LeaderState._is_eligible, "== remote.broker_epoch", "is not None"),
            Edit(LeaderState.reset_replica, "remote.reported_offset = 0", "pass"),
            Edit(
                LeaderState.on_replica_report,
                "remote.reported_offset = reported_offset",
                "reported_offset = remote.reported_offset = max(remote.reported_offset, reported_offset)",
            ),
        ),
    ),
    Ablation(
        name="reports-after-agreement",
        safeguard="nothing a follower reports counts before its history was found to agree with the leader's",
        promise="P2",
        source="KIP-101; Raft paper §5.3",
        expected=frozenset({"log-divergence", "high-watermark-not-replicated"}) | LOSS,
        profile="failover",
        patch=Patch(
            Edit(
                ReplicaFeed._subscribe,
                "    log = partition.log\n",
                "    log = partition.log\n"
                "    partition.on_replica_report(\n"
                "        self.follower_id,\n"
                "        broker_epoch=self.follower_broker_epoch,\n"
                "        reported_offset=min(request.reported_offset, log.log_end_offset),\n"
                "        log_end_offset=min(request.fetch_offset, log.log_end_offset),\n"
                "        log_start_offset=request.log_start_offset,\n"
                "    )\n",
            )
        ),
    ),
)
