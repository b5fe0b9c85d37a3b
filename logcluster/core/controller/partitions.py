"""Who leads a partition and who is in sync: elections, in-sync changes, eligible leader replicas. Pure.

Everything that changes a partition goes through `change_partition`: the caller names the new in-sync replicas, this
file decides eligible leader replicas (ELR), leader and epochs together, so that no rule can be forgotten on one path.

Election order: the current leader while it is in sync and active; the in-sync replicas in assignment order; if nobody
is in sync, the eligible leader replicas; if there are none either, the last known leader; then, only if the topic
allows it, any active replica. A replica that is not active is never elected, on any row (KAFKA-19522).

ELR: while fewer than min(min.insync.replicas, replicas) are in sync, the high watermark stands still, so whoever
leaves then holds all that is committed. It empties when enough are in sync again (KIP-966).

Unclean stops. A replica whose process stopped without notice may lack what it acknowledged from its page cache: it
leaves in-sync replicas and ELR. With `flush.mode=sync` it acknowledged only what was on disk; it still may be the
last one to know, so it stays in the ELR, behind all members that stopped cleanly. A replica whose directory is
another one (a new disk) or failed holds nothing and is dropped everywhere.

Damage. A replica that found its own log damaged leaves in-sync replicas and ELR, and is never elected before it has
fetched everything again. If it is the last one that was in sync or eligible, it stays in the ELR: the partition has no
leader then, rather than one with damaged data, and what is left is not forgotten.

The leader epoch grows when the leader changes (to nobody, too), the partition epoch with every change. A plain
change of the in-sync replicas leaves the leader epoch alone (KAFKA-15021). A damaged replica's leaving is not plain:
what it reported to the leader of this epoch must not let its new, still empty log back in, as a new broker epoch
ensures it for a restarted one (KIP-903).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple

from logcluster.core.controller.sessions import DamagedReplicas
from logcluster.core.metadata.image import BrokerRegistration, PartitionRegistration
from logcluster.core.metadata.records import PartitionChangeRecord
from logcluster.core.metadata.topic_config import TopicConfig
from logcluster.model.probes import probe


class CopyState(Enum):
    """What is known of a leaving replica's copy."""

    CLEAN = "clean"
    UNCLEAN_STOP = "unclean-stop"
    """The process stopped without notice: what it had not synced may be gone."""
    DAMAGED = "damaged"
    """A checksum is wrong somewhere: the broker serves nothing of it, and will fetch it again."""
    LOST = "lost"
    """The disk is another one, or failed."""


@dataclass(frozen=True, slots=True)
class LiveBrokers:
    """Who can lead and be in sync, as of the batch being written; draining ones lead only for want of others.

    Attributes:
        damaged: copies that cannot lead. Not needed where the leader stays in sync, and so leads on.
    """

    active: frozenset[int]
    draining: frozenset[int]
    damaged: DamagedReplicas = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        brokers: Mapping[int, BrokerRegistration],
        *,
        damaged: DamagedReplicas | None = None,
        activated: int | None = None,
        deactivated: int | None = None,
        drained: int | None = None,
    ) -> LiveBrokers:
        """Read the registrations, as they will be once the named broker is in its new state."""
        active = {broker_id for broker_id, broker in brokers.items() if broker.is_active}
        draining = {broker_id for broker_id, broker in brokers.items() if broker.is_draining}
        if activated is not None:
            active.add(activated)
        if deactivated is not None:
            active.discard(deactivated)
        if drained is not None:
            draining.add(drained)
        return cls(frozenset(active), frozenset(draining), {} if damaged is None else damaged)

    def able_to_lead(self, partition: PartitionRegistration) -> frozenset[int]:
        """Active brokers, less those with a damaged copy; whoever is in sync has fetched a new one since it said so."""
        damaged = self.damaged.get((partition.topic_id, partition.partition))
        if not damaged:
            return self.active
        return self.active.difference(member for member in damaged if member not in partition.in_sync_replicas)


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionRules:
    """What a topic's settings say about elections."""

    min_in_sync: int
    is_unclean_allowed: bool
    is_synced: bool

    @classmethod
    def of(cls, config: TopicConfig, *, trust_synced_logs: bool = True) -> PartitionRules:
        """Read the settings; without `trust_synced_logs` an unclean stop counts the same in both flush modes."""
        return cls(
            min_in_sync=config.min_insync_replicas,
            is_unclean_allowed=config.unclean_leader_election_enable,
            is_synced=trust_synced_logs and config.flush_mode == "sync",
        )

    def effective_min_in_sync(self, partition: PartitionRegistration) -> int:
        """How many in-sync replicas make writes commit."""
        return min(self.min_in_sync, len(partition.replicas))


class Election(NamedTuple):
    """Outcome of an election: the leader, the in-sync replicas it implies, and whether records may be lost."""

    leader_id: int | None
    in_sync_replicas: tuple[int, ...]
    is_unclean: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What the caller of an election would like beyond the normal order.

    Attributes:
        preferred: elect this one if it is in sync and active.
        avoid: elect this one only for want of others.
        allow_unclean: an operator asked for an unclean election.
    """

    preferred: int | None = None
    avoid: int | None = None
    allow_unclean: bool = False


NO_WISH = Wish()


def elect(
    before: PartitionRegistration,
    *,
    in_sync: tuple[int, ...],
    eligible: tuple[int, ...],
    last_known: tuple[int, ...],
    live: LiveBrokers,
    rules: PartitionRules,
    wish: Wish = NO_WISH,
) -> Election:
    """Choose a leader in the order given at the top of this file; the leader is None when nobody qualifies."""
    active = live.able_to_lead(before)
    if wish.preferred is not None and wish.preferred in in_sync and wish.preferred in active:
        return Election(wish.preferred, in_sync)
    current = before.leader_id
    if current is not None and current != wish.avoid and current in in_sync and current in active:
        return Election(current, in_sync)
    candidates = [member for member in before.replicas if member in in_sync and member in active]
    if candidates:
        probe("controller.election.in_sync_replica")
        return Election(_most_wanted(candidates, live, wish), in_sync)
    if in_sync:
        probe("controller.election.in_sync_replicas_inactive")
        return Election(None, in_sync)
    for member in eligible:
        if member in active:
            probe("controller.election.eligible_replica")
            return Election(member, (member,))
    if not eligible:
        for member in last_known:
            if member in active:
                probe("controller.election.last_known_leader")
                return Election(member, (member,), is_unclean=not rules.is_synced)
    if rules.is_unclean_allowed or wish.allow_unclean:
        survivors = [member for member in before.replicas if member in active]
        if survivors:
            probe("controller.election.unclean")
            chosen = _most_wanted(survivors, live, wish)
            return Election(chosen, (chosen,), is_unclean=True)
    return Election(None, ())


def _most_wanted(candidates: list[int], live: LiveBrokers, wish: Wish) -> int:
    return min(candidates, key=lambda member: (member == wish.avoid, member in live.draining))


def change_partition(
    before: PartitionRegistration,
    *,
    in_sync: tuple[int, ...],
    live: LiveBrokers,
    rules: PartitionRules,
    reason: str,
    wish: Wish = NO_WISH,
    leaving: int | None = None,
    leaving_copy: CopyState = CopyState.CLEAN,
    is_recovering: bool | None = None,
    clears_eligible: bool = False,
) -> PartitionChangeRecord | None:
    """Decide everything that follows when the in-sync replicas become `in_sync`; None when nothing changes.

    Args:
        leaving: the broker whose copy `leaving_copy` speaks of; it must not be in `in_sync`.
        is_recovering: the leader's own word about its recovery; None leaves it.
        clears_eligible: forget the ELR (min.insync.replicas was written).
    """
    eligible = () if clears_eligible else _eligible_after(before, in_sync, leaving, leaving_copy, rules)
    last_known = before.last_known_leaders if before.leader_id is None else (before.leader_id,)
    if leaving_copy is CopyState.LOST:
        probe("controller.copy.lost")
        last_known = tuple(member for member in last_known if member != leaving)
    election = elect(
        before, in_sync=in_sync, eligible=eligible, last_known=last_known, live=live, rules=rules, wish=wish
    )
    if election.leader_id is None and any(member in live.active for member in before.replicas):
        probe("controller.election.unclean_refused")
    if election.is_unclean or len(election.in_sync_replicas) >= rules.effective_min_in_sync(before):
        eligible = ()
    elif len(election.in_sync_replicas) < len(before.in_sync_replicas):
        probe("controller.in_sync.shrunk_below_min")
    leads_anew = (
        election.leader_id != before.leader_id
        or election.is_unclean
        or (leaving_copy is CopyState.DAMAGED and before.leader_id is not None)
    )
    recovering = election.is_unclean or (before.is_recovering if is_recovering is None else is_recovering)
    record = PartitionChangeRecord(
        topic_id=before.topic_id,
        partition=before.partition,
        in_sync_replicas=tuple(member for member in before.replicas if member in election.in_sync_replicas),
        eligible_leader_replicas=tuple(member for member in eligible if member not in election.in_sync_replicas),
        last_known_leaders=last_known if election.leader_id is None else (),
        leader_id=election.leader_id,
        leader_epoch=before.leader_epoch + (1 if leads_anew else 0),
        partition_epoch=before.partition_epoch + 1,
        recovering=recovering,
        reason=reason,
    )
    return record if _differs(record, before) else None


def _eligible_after(
    before: PartitionRegistration,
    in_sync: tuple[int, ...],
    leaving: int | None,
    leaving_copy: CopyState,
    rules: PartitionRules,
) -> tuple[int, ...]:
    """Members that leave now, then those that were eligible; a doubtful one last, a worthless one not at all.

    A damaged one only when there is nobody else.
    """
    members = [
        member for member in (*before.in_sync_replicas, *before.eligible_leader_replicas) if member not in in_sync
    ]
    if leaving is not None and leaving in members and leaving_copy is not CopyState.CLEAN:
        members.remove(leaving)
        is_last = not in_sync and not members
        if (leaving_copy is CopyState.UNCLEAN_STOP and rules.is_synced) or (
            leaving_copy is CopyState.DAMAGED and is_last
        ):
            probe("controller.eligible.doubtful_kept")
            members.append(leaving)
    return tuple(members)


def _differs(record: PartitionChangeRecord, before: PartitionRegistration) -> bool:
    return (
        record.leader_id != before.leader_id
        or record.leader_epoch != before.leader_epoch
        or record.recovering != before.is_recovering
        or frozenset(record.in_sync_replicas) != frozenset(before.in_sync_replicas)
        or record.eligible_leader_replicas != before.eligible_leader_replicas
        or record.last_known_leaders != before.last_known_leaders
    )


def without(members: tuple[int, ...], broker_id: int) -> tuple[int, ...]:
    """`members` without one."""
    return tuple(member for member in members if member != broker_id)
