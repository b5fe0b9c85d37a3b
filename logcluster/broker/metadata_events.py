"""What the active controller tells of each entry it committed: brokers that come and go, leaders that are elected.

It tells what is committed, not what was decided, so that a story never has a step that did not happen. A failover of
thousands of partitions is one line with sums; which partitions, says DEBUG. What partitions make of it on their
brokers, `role_events` tells.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

from logcluster.core.metadata.image import BrokerRegistration, MetadataDelta, MetadataImage, PartitionRegistration
from logcluster.core.metadata.records import MetadataRecord, PartitionChangeRecord
from logcluster.runtime.event_log import get_logger

log = get_logger("controller")

NAMES_SHOWN_MAX: Final = 10
"""Partitions that are named where all of them would make an endless line."""


class Commit(NamedTuple):
    """A committed entry of the active controller.

    Args:
        reason: why the request was made, as far as it says so.
        duration_ms: from the decision to the commit.
    """

    records: tuple[MetadataRecord, ...]
    reason: str
    duration_ms: int


def tell(before: MetadataImage, after: MetadataImage, delta: MetadataDelta, commit: Commit) -> None:
    """Tell what an entry changed."""
    for broker_id in delta.changed_broker_ids:
        _tell_broker(before.brokers.get(broker_id), after.brokers.get(broker_id), commit.reason)
    created = dict.fromkeys(topic.topic_id for topic in delta.created_topics)
    for topic in delta.created_topics:
        log.info("topic_created", topic=topic.name, partitions=len(topic.partitions))
    for topic in delta.removed_topics:
        log.info("topic_deleted", topic=topic.name, partitions=len(topic.partitions))
    changed = [partition for partition in delta.changed_partitions if partition.topic_id not in created]
    if changed:
        _tell_elections(before, after, changed, commit)


def _tell_broker(before: BrokerRegistration | None, after: BrokerRegistration | None, reason: str) -> None:
    if after is None:
        if before is not None:
            log.info("broker_unregistered", broker_id=before.broker_id, broker_epoch=before.broker_epoch)
        return
    broker_id, broker_epoch = after.broker_id, after.broker_epoch
    if before is None or before.broker_epoch != broker_epoch:
        log.info(
            "broker_registered",
            broker_id=broker_id,
            broker_epoch=broker_epoch,
            previous_broker_epoch=None if before is None else before.broker_epoch,
            host=after.host,
            lane_port=after.lane_port,
        )
        return
    if after.in_controlled_shutdown and not before.in_controlled_shutdown:
        log.info("broker_shutting_down", broker_id=broker_id, broker_epoch=broker_epoch)
    if after.is_fenced and not before.is_fenced:
        if before.in_controlled_shutdown:
            log.info("broker_left", broker_id=broker_id, broker_epoch=broker_epoch, reason=reason)
        else:
            log.warning("broker_fenced", broker_id=broker_id, broker_epoch=broker_epoch, reason=reason)
    elif before.is_fenced and not after.is_fenced:
        log.info("broker_unfenced", broker_id=broker_id, broker_epoch=broker_epoch)
    if after.is_draining != before.is_draining:
        log.info("broker_drain_changed", broker_id=broker_id, is_draining=after.is_draining)


class _Election(NamedTuple):
    before: PartitionRegistration
    after: PartitionRegistration

    @property
    def is_unclean(self) -> bool:
        """A leader that may lack acknowledged records begins as recovering: so an unclean election shows."""
        return self.after.is_recovering and not self.before.is_recovering


def _tell_elections(
    before: MetadataImage, after: MetadataImage, changed: Iterable[PartitionRegistration], commit: Commit
) -> None:
    elections = []
    for partition in changed:
        earlier = before.partition(partition.topic_id, partition.partition)
        if earlier is not None and earlier.leader_epoch != partition.leader_epoch:
            elections.append(_Election(earlier, partition))
    if not elections:
        return
    reasons = {
        (record.topic_id, record.partition): record.reason
        for record in commit.records
        if isinstance(record, PartitionChangeRecord)
    }

    def name(partition: PartitionRegistration) -> str:
        return f"{after.topics[partition.topic_id].name}-{partition.partition}"

    without = [election.after for election in elections if election.after.leader_id is None]
    log.info(
        "leaders_elected",
        partitions=len(elections),
        without_leader=len(without),
        reason=next(iter(reasons.values()), ""),
        duration_ms=commit.duration_ms,
    )
    if without:
        log.warning(
            "partitions_without_leader",
            partitions=len(without),
            first=[name(item) for item in without[:NAMES_SHOWN_MAX]],
        )
    tells_each = log.tells_each(len(elections))
    for election in elections:
        now = election.after
        if not tells_each and not election.is_unclean:
            continue
        reason = reasons.get((now.topic_id, now.partition), "")
        if election.is_unclean:
            log.warning(
                "leader_elected_uncleanly",
                partition=name(now),
                leader_id=now.leader_id,
                leader_epoch=now.leader_epoch,
                in_sync_replicas=now.in_sync_replicas,
                previous_leader_id=election.before.leader_id,
                reason=reason,
            )
        else:
            log.each(
                "leader_elected",
                of=len(elections),
                partition=name(now),
                leader_id=now.leader_id,
                leader_epoch=now.leader_epoch,
                in_sync_replicas=now.in_sync_replicas,
                previous_leader_id=election.before.leader_id,
                reason=reason,
            )
