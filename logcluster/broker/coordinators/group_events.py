"""What is told of groups: their partitions were given out anew, and why; once for each change, when it is committed.

The whole history of a group, with every member that came and went, is in the group itself: `logcluster group events`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from logcluster.core.coordinators.groups.records import EventRecord
from logcluster.runtime.event_log import get_logger

log = get_logger("groups")


def tell_rebalances(partition: str, records: Iterable[Any]) -> None:
    """Tell what of a shard's committed records is a rebalance; `partition` is the shard."""
    for record in records:
        if isinstance(record, EventRecord) and record.value is not None and record.value.kind == "rebalanced":
            log.info(
                "group_rebalanced",
                group=record.group,
                partition=partition,
                group_epoch=record.value.group_epoch,
                members=len(record.value.partition_counts),
                moved_partitions=record.value.moved,
                reason=record.value.reason,
            )
