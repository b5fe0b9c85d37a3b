"""The names of all invariants and what each of them says; findings bear these names.

Sources: the anomaly catalogue of Kafka's and TigerBeetle's simulators, Raft's four properties (Raft paper, figure 3),
and the KIPs named in the classes that check them.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

INVARIANTS: Final[Mapping[str, str]] = MappingProxyType(
    {
        # elections
        "split-brain": "one leader per partition and leader epoch, one active controller and one Raft leader per term",
        "epoch-regression": "a node never goes back to an older leader epoch or term, nor changes its vote in a term",
        "unsafe-election": "only an active member of the in-sync or eligible replicas is elected, never one whose disk "
        "was replaced",
        "leader-completeness": "the log of a new leader agrees with everything exposed in earlier leader epochs",
        "committed-record-lost": "the log of a new leader reaches everything exposed in earlier leader epochs",
        "ack-by-deposed-leader": "a deposed leader exposes nothing that a later leader began without",
        # replication
        "high-watermark-regression": "the high watermark of a leader epoch, or of a log that was not cut, never falls",
        "high-watermark-beyond-log-end": "a high watermark lies within its log",
        "high-watermark-not-replicated": "every member of the in-sync set holds what lies below the leader's high "
        "watermark, on its disk with flush.mode=sync",
        "high-watermark-invented": "a follower knows of no high watermark that no leader had",
        "log-divergence": "below its high watermark a replica holds the batches that were committed there",
        "truncation-below-high-watermark": "no replica cuts off committed batches that it held",
        "isr-divergence": "the set a leader waits for contains the in-sync set committed at the controller",
        "isr-member-incomplete": "who is committed as in-sync or eligible holds everything exposed so far",
        "min-isr-violation": "nothing is committed while the in-sync set is below min.insync.replicas",
        # durability
        "durability-gap": "what was exposed stays on as many disks as min.insync.replicas asked for",
        "restart-lost-records": "a restart brings back every committed batch that was on the disk",
        # metadata
        "metadata-divergence": "nodes at one metadata offset have one state, also when a snapshot brought them there",
        "metadata-regression": "the metadata of a running node never goes back",
        "topic-resurrection": "no replica of a deleted topic takes part, and a topic's name leads to its own id",
        # quorum
        "raft-log-matching": "two nodes never hold different entries at one committed index",
        "raft-leader-completeness": "a new Raft leader holds every entry committed in earlier terms",
        "raft-commit-regression": "the commit index of a running node never goes back",
        "raft-commit-not-durable": "a committed entry is in the stores of a majority of the voters",
        # producers, storage
        "producer-state-mismatch": "what a replica remembers of its producers is what its log says",
        "epoch-history-disorder": "a log's epoch history ascends and agrees with its batches",
        "coordinator-store-mismatch": "what a broker keeps of groups is what a replay of the log gives",
        "core-check": "every component's own check of itself passes",
        "replicas-differ-at-rest": "at the end, replicas that caught up hold the same bytes",
    }
)
