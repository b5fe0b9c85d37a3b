"""Safeguards against damage, and against deleting what nobody asked to delete (P8)."""

from __future__ import annotations

from typing import Final

from logcluster.broker import broker_sessions
from logcluster.broker.partition import Partition
from logcluster.broker.replica_manager import ReplicaManager
from logcluster.sim.ablations.ablation import Ablation
from logcluster.sim.ablations.commit import LOSS
from logcluster.sim.ablations.editing import Edit, Patch
from logcluster.sim.ablations.history import DIVERGENCE
from logcluster.storage import log_read, log_retention
from logcluster.storage.log_manager import LogManager
from logcluster.storage.recovery import LogRecovery

CORRUPTION: Final = frozenset({"corrupt-value"}) | DIVERGENCE
"""How damaged bytes show that were taken for records."""

ABLATIONS: Final = (
    Ablation(
        name="replica-checksum",
        safeguard="a replica checks every batch that it reads from disk for others or takes from its leader",
        promise="P8",
        source="Ganesan et al., FAST 2017",
        expected=CORRUPTION | frozenset({"partition-not-readable", "undrained"}),
        profile="bit-flips",
        patch=Patch(
            Edit(Partition.append_as_follower, "not check_crc(data, position, header)", "False"),
            Edit(log_read._read_segment, "not check_crc(chunk, cursor, header)", "False"),
        ),
    ),
    Ablation(
        name="recovery-checksum",
        safeguard="recovery checks every batch above the recovery point, and cuts a torn tail",
        promise="P8",
        source="Pillai et al., OSDI 2014 (torn writes)",
        expected=CORRUPTION | LOSS,
        profile="torn-writes",
        patch=Patch(Edit(LogRecovery._scan_file, "verify=True", "verify=False")),
    ),
    Ablation(
        name="middle-corruption-quarantine",
        safeguard="damage in the middle of a log sets the replica aside; nothing is cut",
        promise="P8",
        source="NATS #7549; Alagappan et al., FAST 2018 (protocol-aware recovery)",
        expected=frozenset({"restart-lost-records", "truncation-below-high-watermark"}) | LOSS,
        profile="bit-flips",
        patch=Patch(
            Edit(LogRecovery._judge, "    problem = scan.problem or", "    return\n    problem = scan.problem or"),
            Edit(LogRecovery.run, "if log.log_end_offset < (self._context.recovery_point or 0):", "if False:"),
        ),
    ),
    Ablation(
        name="topic-id-in-directories",
        safeguard="a log belongs to a topic by id, so that a topic created again under a name never meets old records",
        promise="P8",
        source="KIP-516",
        expected=frozenset({"resurrection", "topic-resurrection", "phantom", "inconsistent-offsets"}) | DIVERGENCE,
        profile="restarts",
        dormant="no client of a run creates a topic again under a name it deleted",
        patch=Patch(
            Edit(
                ReplicaManager._delete_logs_of_removed_topics,
                "if stored.topic_id in image.deleted_topic_ids:",
                "if stored.topic_id in image.deleted_topic_ids "
                "and not image.topic_by_name(stored.topic_partition.topic):",
            ),
            Edit(
                ReplicaManager._delete_topic,
                "    for index in topic.partitions:\n",
                "    if self.image.topic_by_name(topic.name) is not None:\n        return\n"
                "    for index in topic.partitions:\n",
            ),
            Edit(
                LogManager.get_or_create,
                "    log = self._logs.get(key)\n",
                "    log = self._logs.get(key)\n"
                "    for other in list(self._logs.values()):\n"
                "        if log is None and other.topic_partition == topic_partition:\n"
                "            log = self._logs[key] = self._logs.pop(other.topic_id_partition)\n"
                "            log.topic_id, log.topic_id_partition = topic_id, key\n",
            ),
        ),
    ),
    Ablation(
        name="deletion-by-tombstone",
        safeguard="a log is deleted when a deletion is committed, never because the metadata does not name it",
        promise="P8",
        source="NATS #7556",
        expected=frozenset({"restart-lost-records", "truncation-below-high-watermark", "durability-gap"}) | LOSS,
        profile="restarts",
        patch=Patch(
            Edit(
                ReplicaManager.on_metadata,
                "if own_epoch is None or self.known_broker_epoch(self.broker_id) != own_epoch:",
                "if own_epoch is None:",
            ),
            Edit(
                ReplicaManager._delete_logs_of_removed_topics,
                "        log.warning(",
                "        self._delete_log(stray.topic_id_partition)\n        log.warning(",
            ),
            Edit(broker_sessions.CommittedTail.after, "len(found) >= MESSAGE_ENTRIES_MAX", "len(found) >= 1"),
        ),
    ),
    Ablation(
        name="retention-below-high-watermark",
        safeguard="retention deletes committed records only",
        promise="P1",
        source="KAFKA-5413; Kafka's UnifiedLog.deletableSegments",
        expected=frozenset({"head-skip", "high-watermark-beyond-log-end"}) | LOSS,
        profile="last-replica",
        dormant="retention may delete these records once they are committed; nothing watches where a log starts",
        patch=Patch(Edit(log_retention.count_deletable, "segment.next_offset > high_watermark or ", "")),
    ),
)
