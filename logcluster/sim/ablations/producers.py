"""Safeguards against duplicates and disorder: what brokers know of producers, and what producers keep to (P4, P9)."""

from __future__ import annotations

from typing import Final

from logcluster.broker import producer_recovery
from logcluster.broker.partition import Partition
from logcluster.client.accumulator import PartitionQueue
from logcluster.client.batch import Batch
from logcluster.core.replication.producer_state import ProducerStates
from logcluster.model.errors import NotEnoughReplicas
from logcluster.sim.ablations.ablation import Ablation
from logcluster.sim.ablations.commit import LOSS
from logcluster.sim.ablations.editing import Edit, Patch

DISORDER: Final = frozenset({"nonmonotonic-send", "int-nonmonotonic-send", "realtime-offset-regression"})
"""How records of one producer in the wrong order show."""
FORGOTTEN: Final = frozenset({"duplicate", "producer-state-mismatch"})
"""How a retry shows that was not known again."""

ABLATIONS: Final = (
    Ablation(
        name="sequence-check",
        safeguard="a batch is refused when one before it is missing",
        promise="P4",
        source="KIP-98",
        expected=DISORDER | frozenset({"duplicate"}),
        profile="failover",
        patch=Patch(
            Edit(
                ProducerStates.check_append,
                "raise OutOfOrderSequenceNumber(\n            producer_id=producer_id, base_sequence=base_sequence, "
                "expected_sequence=expected\n        )",
                "return None",
            )
        ),
    ),
    Ablation(
        name="duplicate-window",
        safeguard="a batch that is in the log already is answered with its first place",
        promise="P4",
        source="KIP-98; Redpanda #3039",
        expected=FORGOTTEN,
        profile="connections",
        patch=Patch(Edit(ProducerStates.check_append, "return batch", "return None")),
    ),
    Ablation(
        name="producer-state-on-followers",
        safeguard="every replica remembers the producers of what it appends, so that a failover knows a retry",
        promise="P4",
        source="KIP-98",
        expected=FORGOTTEN,
        profile="failover",
        patch=Patch(Edit(Partition._record_producers, "if header.producer_id >= 0:", "if False:")),
    ),
    Ablation(
        name="producer-state-at-recovery",
        safeguard="after a start the producers are read back from snapshot and log",
        promise="P4",
        source="KIP-98; KAFKA-5152",
        expected=FORGOTTEN,
        profile="restarts",
        patch=Patch(
            Edit(
                producer_recovery.load_producers,
                "    offset = log.log_start_offset\n",
                "    offset = log.log_start_offset\n    return\n",
            )
        ),
    ),
    Ablation(
        name="producer-state-after-truncation",
        safeguard="what is cut off the log is forgotten of its producers too",
        promise="P4",
        source="KIP-98; KAFKA-5431",
        expected=FORGOTTEN | LOSS,
        profile="failover",
        patch=Patch(
            Edit(
                Partition._after_truncation,
                "    if self.producers.must_rebuild_after_truncation(log_end_offset)",
                "    if False and self.producers.must_rebuild_after_truncation(log_end_offset)",
            )
        ),
    ),
    Ablation(
        name="producer-epoch-check",
        safeguard="a batch of an older epoch of its producer is refused",
        promise="P4",
        source="KIP-98, KIP-360",
        expected=DISORDER | FORGOTTEN,
        profile="connections",
        dormant="a producer raises its epoch when all it sent is resolved, and a connection repeats nothing",
        patch=Patch(
            Edit(
                ProducerStates.check_append,
                "if producer_epoch < known_epoch:\n",
                "if producer_epoch < known_epoch:\n        return None\n    if producer_epoch < known_epoch:\n",
            )
        ),
    ),
    Ablation(
        name="retry-keeps-sequence",
        safeguard="a producer sends a batch again under the sequence it had",
        promise="P4",
        source="KIP-98; Redpanda #3039, #5355",
        expected=frozenset({"duplicate"}),
        profile="connections",
        patch=Patch(
            Edit(
                PartitionQueue.take,
                "        del self.retries[0]\n",
                "        del self.retries[0]\n        self._assign_sequence(batch)\n",
            )
        ),
    ),
    Ablation(
        name="no-new-epoch-while-in-doubt",
        safeguard="a producer begins a new epoch only when every batch it sent is known to be written or not",
        promise="P4",
        source="KAFKA-14034; Redpanda #5355",
        expected=frozenset({"duplicate"}) | DISORDER,
        profile="failover",
        patch=Patch(
            Edit(PartitionQueue._is_everything_resolved, "return False", "pass"),
            Edit(
                PartitionQueue._keep_after_refusal,
                "if batch.is_outcome_unknown and not self._is_behind_gap(batch):",
                "if False:",
            ),
            Edit(
                PartitionQueue._may_retry,
                "if self._is_reset_due and not batch.is_outcome_unknown:",
                "if self._is_reset_due:",
            ),
        ),
    ),
    Ablation(
        name="first-batch-alone",
        safeguard="a producer has one batch under way until its broker knows it",
        promise="P4",
        source="KIP-360; Kafka's Sender",
        expected=DISORDER,
        profile="flapping",
        patch=Patch(
            Edit(PartitionQueue._is_ready, "(self._options.is_idempotent and not self._is_known)", "False"),
        ),
    ),
    Ablation(
        name="doubt-is-remembered",
        safeguard="a refusal after an attempt that may have been applied is reported as an unknown outcome",
        promise="P9",
        source="Jepsen on Redpanda; Redpanda #5355",
        expected=frozenset({"G1a"}),
        profile="failover",
        patch=Patch(Edit(Batch.fail, "if unknown is not None and error.definite:", "if False:")),
    ),
    Ablation(
        name="indefinite-after-append",
        safeguard="a broker that has appended a record never refuses it definitely",
        promise="P9",
        source="Jepsen on Redpanda 21.10.1: an ambiguous error name",
        expected=frozenset({"G1a", "duplicate"}),
        profile="last-replica",
        patch=Patch(
            Edit(
                Partition._leave_leadership,
                '        Disconnected(\n            "the leader changed',
                '        NotLeaderOrFollower(\n            "the leader changed',
            ),
            Edit(Partition.lead, "NotEnoughReplicasAfterAppend(", "NotEnoughReplicasDefinitely("),
            Edit(Partition.on_isr_committed, "NotEnoughReplicasAfterAppend(", "NotEnoughReplicasDefinitely("),
            names={"NotEnoughReplicasDefinitely": NotEnoughReplicas},
        ),
    ),
)
