"""Words of the in-sync set: the progress of a remote replica, a proposed change, what an answer to it means.

Used by `core.replication.leader`, which decides, and by the rim, which sends. Sources: KIP-497, Kafka's Replica.scala
(behaviour only).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum


class ReplicaProgress:
    """How far one remote replica is, as it reported itself.

    `last_caught_up_ms` is the latest time known at which the replica held everything the leader had *at that time*.
    A mark (leader's end, time) is kept until the replica reaches it; this is Kafka's rule of the previous fetch, made
    independent of how many reports are under way at once. Without it a healthy follower under steady writes, which is
    never exactly at the end, would drop out.
    """

    __slots__ = (
        "broker_epoch",
        "broker_id",
        "is_subscribed",
        "last_caught_up_ms",
        "log_end_offset",
        "log_start_offset",
        "mark_ms",
        "mark_offset",
        "reported_offset",
    )

    def __init__(self, broker_id: int, *, last_caught_up_ms: int | None, mark_offset: int, now_ms: int) -> None:
        self.broker_id = broker_id
        self.broker_epoch: int | None = None
        """Registration of the process that reports; None until its first report to this leader epoch."""
        self.is_subscribed = False
        """Whether it reports now; one that does not is not in sync just because nothing is written."""
        self.reported_offset = 0
        self.log_end_offset = 0
        self.log_start_offset = 0
        self.last_caught_up_ms = last_caught_up_ms
        self.mark_offset = mark_offset
        self.mark_ms = now_ms


class ProposalKind(Enum):
    """Why the in-sync set shall change."""

    EXPAND = "expand"
    SHRINK = "shrink"
    RECOVERED = "recovered"
    SETTLE = "settle"
    """Nothing: the committed set again, for the newer partition epoch that no copy of an earlier proposal survives."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IsrProposal:
    """A change of the in-sync set on its way to the controller; `partition_epoch` is the version it builds on."""

    kind: ProposalKind
    leader_epoch: int
    partition_epoch: int
    members: tuple[tuple[int, int], ...]
    """(broker id, broker epoch) of the whole new set, in assignment order."""


class AlterReaction(Enum):
    """What the driver does after the controller answered a proposal."""

    APPLIED = "applied"
    RETRY = "retry"
    WAIT_FOR_METADATA = "wait for metadata"
    ROLLED_BACK = "rolled back"
    SETTLE = "settle"
    """Refused, but an earlier copy may still be applied: the leader's new `pending` is to be sent instead."""
    IGNORED = "ignored"


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaderSettings:
    """What the leader role needs to know besides the partition itself.

    Args:
        active_broker_epochs: a live view (the caller keeps it current) of the brokers that are neither fenced nor
            shutting down, with the epochs of their registrations.
    """

    local_broker_id: int
    local_broker_epoch: int
    min_in_sync_replicas: int
    replica_lag_time_ms_max: int
    active_broker_epochs: Mapping[int, int]
