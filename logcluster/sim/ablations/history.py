"""Safeguards of one history: leader epochs, truncation, and who may still speak after a leader changed (P2)."""

from __future__ import annotations

from typing import Final

from logcluster.broker.partition import Partition
from logcluster.broker.replica_feed import ReplicaFeed
from logcluster.broker.replica_manager import ReplicaManager
from logcluster.broker.replica_stream import ReplicaStream
from logcluster.core.controller import alter_partitions, partitions
from logcluster.model.epochs import LeaderEpochHistory
from logcluster.sim.ablations.ablation import Ablation
from logcluster.sim.ablations.commit import LOSS
from logcluster.sim.ablations.editing import Edit, Patch

DIVERGENCE: Final = frozenset({"log-divergence", "replicas-differ-at-rest", "offset-reassigned"})
"""How two replicas with different records at one offset show."""

ABLATIONS: Final = (
    Ablation(
        name="truncation-by-epoch",
        safeguard="a follower cuts its log where its leader's history parts from its own, not at its high watermark",
        promise="P2",
        source="KIP-101",
        expected=frozenset({"truncation-below-high-watermark"}) | DIVERGENCE | LOSS,
        profile="failover",
        patch=Patch(
            Edit(
                Partition.follow,
                "        high_watermark=self.high_watermark,\n    )\n",
                "        high_watermark=self.high_watermark,\n    )\n    self.truncate_to(self.high_watermark)\n",
            ),
            Edit(ReplicaFeed._subscribe, "if diverging is not None:", "if False:"),
        ),
    ),
    Ablation(
        name="truncation-before-data",
        safeguard="a follower is sent nothing before what its leader does not have is cut off",
        promise="P2",
        source="KIP-101; Raft paper §5.3",
        expected=DIVERGENCE | LOSS,
        profile="failover",
        patch=Patch(Edit(ReplicaFeed._subscribe, "if diverging is not None:", "if False:")),
    ),
    Ablation(
        name="epoch-in-lookup-reply",
        safeguard="a leader says of which epoch it names the end, so that a follower cuts to the largest common one",
        promise="P2",
        source="KIP-279",
        expected=DIVERGENCE | LOSS,
        profile="double-failover",
        patch=Patch(
            Edit(
                LeaderEpochHistory.divergence,
                "    if end is None or (end.leader_epoch >= last_epoch and end.end_offset >= position):\n"
                "        return None\n"
                "    return end\n",
                "    if end is None or end.end_offset >= position:\n"
                "        return None\n"
                "    return EpochEnd(last_epoch, end.end_offset)\n",
            )
        ),
    ),
    Ablation(
        name="deposed-leader-stream",
        safeguard="what a deposed leader still sends is dropped, and its subscription ended",
        promise="P2",
        source="Kafka's fetch sessions with leader epochs, KIP-320",
        expected=DIVERGENCE | LOSS,
        profile="isolation",
        patch=Patch(
            Edit(
                ReplicaStream._on_response,
                "if subscription is None:",
                "if subscription is None or subscription.partition.follower is None:",
            ),
            Edit(
                ReplicaStream._drop_subscription,
                "        self._by_handle.pop(subscription.handle, None)\n",
                "",
            ),
            Edit(ReplicaStream._drop_subscription, "self._to_unsubscribe.append(subscription.handle)", "pass"),
            Edit(ReplicaStream._on_end, "    self._to_unsubscribe.pop()", "    self._by_handle.pop(data.handle, None)"),
        ),
    ),
    Ablation(
        name="stale-leader-fencing",
        safeguard="the controller takes changes of the in-sync set only from the leader of the present epoch",
        promise="P2",
        source="KIP-497; Kafka's AlterPartition",
        expected=frozenset({"isr-divergence", "isr-member-incomplete", "unsafe-election"}) | DIVERGENCE | LOSS,
        profile="isolation",
        patch=Patch(
            Edit(alter_partitions._check, "item.leader_epoch < leader_epoch", "False"),
            Edit(alter_partitions._check, "request.broker_id != before.leader_id", "False"),
            Edit(alter_partitions._check, "item.partition_epoch < partition_epoch", "False"),
            Edit(alter_partitions._check_set, "before.leader_id not in members", "False"),
        ),
    ),
    Ablation(
        name="partition-epoch-check",
        safeguard="the controller takes a change of the in-sync set only if it builds on the committed one",
        promise="P1",
        source="KIP-497",
        expected=frozenset({"isr-divergence", "isr-member-incomplete"}) | LOSS,
        profile="delays",
        dormant="who left meanwhile is refused as fenced or registered anew; the replication core's simulator finds it",
        patch=Patch(Edit(alter_partitions._check, "item.partition_epoch < partition_epoch", "False")),
    ),
    Ablation(
        name="new-epoch-after-restart",
        safeguard="a leader that restarted leads again only in a new epoch, and a broker refuses to lead one twice",
        promise="P2",
        source="KAFKA-15021; NATS #7567; Raft paper §5.2",
        expected=frozenset({"split-brain"}) | DIVERGENCE | LOSS,
        profile="quick-reboot",
        patch=Patch(
            Edit(
                partitions.change_partition,
                "election.leader_id != before.leader_id\n",
                "election.leader_id not in (None, before.leader_id, *before.last_known_leaders)\n",
            ),
            Edit(ReplicaManager._lead, "if is_new and ", "if False and "),
        ),
    ),
)
