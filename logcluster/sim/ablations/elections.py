"""Safeguards of elections and of the controller: who may lead, what a restart proves, when an answer is given."""

from __future__ import annotations

from typing import Final

from logcluster.broker.controller_driver import ControllerDriver
from logcluster.core.controller import brokers, partitions
from logcluster.sim.ablations.ablation import Ablation
from logcluster.sim.ablations.commit import LOSS
from logcluster.sim.ablations.editing import Edit, Patch

ABLATIONS: Final = (
    Ablation(
        name="election-from-isr",
        safeguard="leaders are elected from the in-sync set",
        promise="P1",
        source="Kafka's replication design",
        expected=frozenset({"unsafe-election", "truncation-below-high-watermark"}) | LOSS,
        profile="failover",
        patch=Patch(
            Edit(partitions.elect, "if member in in_sync and member in active]", "if member in active]"),
            Edit(
                partitions.elect,
                "return Election(_most_wanted(candidates, live, wish), in_sync)",
                "chosen = candidates[-1]\n        return Election(chosen, (*in_sync, chosen))",
            ),
        ),
    ),
    Ablation(
        name="unclean-election-off",
        safeguard="a replica that is neither in sync nor eligible does not lead unless the topic allows it",
        promise="P1",
        source="Kafka's unclean.leader.election.enable; Jepsen on Kafka 0.8",
        expected=frozenset({"unsafe-election", "truncation-below-high-watermark"}) | LOSS,
        profile="last-replica",
        patch=Patch(Edit(partitions.elect, "if rules.is_unclean_allowed or wish.allow_unclean:", "if True:")),
    ),
    Ablation(
        name="eligible-leader-replicas",
        safeguard="who leaves below min.insync.replicas stays eligible, and leads before a last replica in doubt",
        promise="P1",
        source="KIP-966",
        expected=frozenset({"unsafe-election", "unseen", "partition-not-writable", "no-convergence"}),
        profile="last-disk",
        patch=Patch(Edit(partitions._eligible_after, "return tuple(members)", "return ()")),
    ),
    Ablation(
        name="lost-disk-detection",
        safeguard="a replica on another disk than before counts as empty, whatever its broker held",
        promise="P1",
        source="KIP-858; TigerBeetle's Jepsen report",
        expected=frozenset({"unsafe-election", "isr-member-incomplete"}) | LOSS,
        profile="lost-disk",
        patch=Patch(Edit(brokers._copy_after_restart, "request.directory_id != before.directory_id", "False")),
    ),
    Ablation(
        name="unclean-restart-detection",
        safeguard="a process that did not stop cleanly is taken out of sync when it registers again",
        promise="P1",
        source="KIP-966; KAFKA-18635; NATS #7567",
        expected=frozenset({"unsafe-election", "isr-member-incomplete"}) | LOSS,
        profile="power-loss",
        patch=Patch(
            Edit(
                brokers._copy_after_restart,
                "    return CopyState.UNCLEAN_STOP",
                "    return CopyState.CLEAN",
            )
        ),
    ),
    Ablation(
        name="commit-before-answer",
        safeguard="the controller answers when what it decided is committed",
        promise="P1",
        source="Raft paper §8; Kafka's QuorumController purgatory",
        expected=frozenset({"isr-divergence", "isr-member-incomplete", "unsafe-election"}) | LOSS,
        profile="laggards",
        patch=Patch(
            Edit(
                ControllerDriver._commit,
                "        reign.last_proposed = index\n",
                "        reign.last_proposed = index\n        future.set_result(result.response)\n",
            )
        ),
    ),
)
