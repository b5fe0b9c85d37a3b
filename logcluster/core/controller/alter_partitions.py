"""The leader's proposals of in-sync replicas: the checks, in their fixed order, and what becomes of them. Pure.

Order and errors follow Kafka's AlterPartition: unknown partition; epochs ahead of ours (then we are the stale one:
KAFKA-14154); leader epoch behind; sender not the leader; partition epoch behind; impossible sets; members that may
not be in sync. Only the last proves to the leader that this copy of its request was not and will not be applied.

A proposal of the set that is committed already changes nothing but the partition epoch. It asks nobody to be eligible,
and no copy of an earlier proposal is accepted after it: so a leader gets rid of a doubt.
"""

from __future__ import annotations

from logcluster.core.controller.partitions import LiveBrokers, PartitionRules, change_partition
from logcluster.core.controller.requests import AlterPartition, AlterPartitionResult, AlterPartitions
from logcluster.core.controller.state import ControllerState
from logcluster.core.metadata.image import BrokerRegistration, PartitionRegistration
from logcluster.core.metadata.records import MetadataRecord, PartitionChangeRecord
from logcluster.model.errors import (
    FencedLeaderEpoch,
    IneligibleReplica,
    InvalidRequest,
    InvalidUpdateVersion,
    LogClusterError,
    NotController,
    StaleBrokerEpoch,
    UnknownTopicId,
    UnknownTopicOrPartition,
)
from logcluster.model.ids import TopicId
from logcluster.model.probes import probe


def alter_partitions(
    request: AlterPartitions, state: ControllerState, *, trust_synced_logs: bool
) -> tuple[list[MetadataRecord], tuple[AlterPartitionResult, ...]]:
    """Check every proposal and say what each would change; a repeated partition is refused.

    Raises:
        StaleBrokerEpoch: the sender is not the registered process.
    """
    check_broker_epoch(state, request.broker_id, request.broker_epoch)
    live = LiveBrokers.of(state.image.brokers)
    records: list[MetadataRecord] = []
    results: list[AlterPartitionResult] = []
    seen: set[tuple[TopicId, int]] = set()
    for item in request.partitions:
        before = state.image.partition(item.topic_id, item.partition)
        key = (item.topic_id, item.partition)
        try:
            if key in seen:
                raise InvalidRequest("the partition stands twice in the request")
            seen.add(key)
            if before is None:
                raise _unknown(state, item)
            _check(item, before, request, state)
            rules = PartitionRules.of(state.config_of(item.topic_id), trust_synced_logs=trust_synced_logs)
            record = change_partition(
                before,
                in_sync=tuple(member.broker_id for member in item.new_in_sync_replicas),
                live=live,
                rules=rules,
                is_recovering=item.recovering,
                reason=f"asked for by leader {request.broker_id}",
            )
        except LogClusterError as error:
            results.append(_result(item, before, error))
            continue
        if record is None:
            probe("controller.alter.confirmed")
            record = _confirmation(before, f"confirmed for leader {request.broker_id}")
        records.append(record)
        results.append(_result(item, record, None))
    return records, tuple(results)


def check_broker_epoch(state: ControllerState, broker_id: int, broker_epoch: int) -> BrokerRegistration:
    """Return the registration that a broker's request belongs to.

    Raises:
        StaleBrokerEpoch: it is not the current one, or there is none.
    """
    broker = state.broker(broker_id)
    if broker is None or broker.broker_epoch != broker_epoch:
        probe("controller.request.stale_broker_epoch")
        raise StaleBrokerEpoch(
            f"broker {broker_id} is not registered with epoch {broker_epoch}",
            broker_id=broker_id,
            broker_epoch=broker_epoch,
            current_broker_epoch=None if broker is None else broker.broker_epoch,
        )
    return broker


def _confirmation(before: PartitionRegistration, reason: str) -> PartitionChangeRecord:
    """The partition as it is, under the next partition epoch."""
    return PartitionChangeRecord(
        topic_id=before.topic_id,
        partition=before.partition,
        in_sync_replicas=before.in_sync_replicas,
        eligible_leader_replicas=before.eligible_leader_replicas,
        last_known_leaders=before.last_known_leaders,
        leader_id=before.leader_id,
        leader_epoch=before.leader_epoch,
        partition_epoch=before.partition_epoch + 1,
        recovering=before.is_recovering,
        reason=reason,
    )


def _unknown(state: ControllerState, item: AlterPartition) -> LogClusterError:
    if item.topic_id not in state.image.topics:
        return UnknownTopicId(topic_id=item.topic_id.hex())
    return UnknownTopicOrPartition(topic_id=item.topic_id.hex(), partition=item.partition)


def _check(
    item: AlterPartition, before: PartitionRegistration, request: AlterPartitions, state: ControllerState
) -> None:
    leader_epoch, partition_epoch = before.leader_epoch, before.partition_epoch
    if item.leader_epoch > leader_epoch or item.partition_epoch > partition_epoch:
        probe("controller.alter.sender_knows_newer_epochs")
        raise NotController(
            "the request knows newer epochs than this controller",
            leader_epoch=leader_epoch,
            partition_epoch=partition_epoch,
        )
    if item.leader_epoch < leader_epoch:
        probe("controller.alter.stale_leader_epoch")
        raise FencedLeaderEpoch(leader_id=before.leader_id, leader_epoch=leader_epoch)
    if request.broker_id != before.leader_id:
        raise InvalidRequest(f"broker {request.broker_id} does not lead the partition", leader_id=before.leader_id)
    if item.partition_epoch < partition_epoch:
        probe("controller.alter.stale_partition_epoch")
        raise InvalidUpdateVersion(leader_epoch=leader_epoch, partition_epoch=partition_epoch)
    _check_set(item, before)
    if frozenset(member.broker_id for member in item.new_in_sync_replicas) != frozenset(before.in_sync_replicas):
        _check_eligible(item, state)


def _check_set(item: AlterPartition, before: PartitionRegistration) -> None:
    members = [member.broker_id for member in item.new_in_sync_replicas]
    if len(frozenset(members)) != len(members):
        raise InvalidRequest("an in-sync replica stands twice", members=members)
    strangers = [member for member in members if member not in before.replicas]
    if strangers:
        raise InvalidRequest("in-sync replicas must be replicas", strangers=strangers)
    if before.leader_id not in members:
        raise InvalidRequest("the leader must stay in sync", leader_id=before.leader_id)
    if item.recovering and len(members) > 1:
        raise InvalidRequest("a recovering leader is in sync alone", members=members)
    if item.recovering and not before.is_recovering:
        raise InvalidRequest("a recovered partition does not start to recover")


def _check_eligible(item: AlterPartition, state: ControllerState) -> None:
    ineligible: dict[int, str] = {}
    for member in item.new_in_sync_replicas:
        broker = state.broker(member.broker_id)
        if broker is None:
            ineligible[member.broker_id] = "not registered"
        elif broker.is_fenced:
            ineligible[member.broker_id] = "fenced"
        elif broker.in_controlled_shutdown:
            ineligible[member.broker_id] = "shutting down"
        elif broker.broker_epoch != member.broker_epoch:
            ineligible[member.broker_id] = f"registered with epoch {broker.broker_epoch}, not {member.broker_epoch}"
    if ineligible:
        probe("controller.alter.ineligible_member")
        reasons = "; ".join(f"broker {broker_id} is {why}" for broker_id, why in ineligible.items())
        raise IneligibleReplica(reasons, broker_ids=sorted(ineligible))


def _result(
    item: AlterPartition,
    known: PartitionRegistration | PartitionChangeRecord | None,
    error: LogClusterError | None,
) -> AlterPartitionResult:
    if known is None:
        return AlterPartitionResult(topic_id=item.topic_id, partition=item.partition, error=error)
    return AlterPartitionResult(
        topic_id=item.topic_id,
        partition=item.partition,
        error=error,
        leader_id=known.leader_id,
        leader_epoch=known.leader_epoch,
        partition_epoch=known.partition_epoch,
        in_sync_replicas=known.in_sync_replicas,
        recovering=known.recovering if isinstance(known, PartitionChangeRecord) else known.is_recovering,
    )
