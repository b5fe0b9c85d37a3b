"""What is worked out from a group's description and the logs it reads: its lag, and what a reset would change.

Both look at the topics of this moment. Offsets of a topic that was deleted, or created again under its name, are left
out: they say nothing about the one that has the name now.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from logcluster.client.context import Context
from logcluster.client.group_descriptions import CommittedOffset, GroupFacts, OffsetChange, ResetPoint
from logcluster.client.group_reset import chosen_partitions, reset_change
from logcluster.client.lag import PartitionLag, partition_lag, unread_records
from logcluster.client.log_positions import ask_leaders, existing_topics, log_ranges, record_times_ms
from logcluster.client.metadata_cache import TopicFacts
from logcluster.client.records import Timestamp
from logcluster.model.errors import LeaderNotAvailable
from logcluster.model.ids import TopicPartition


async def group_lags(context: Context, facts: GroupFacts) -> list[PartitionLag]:
    """How far a group is behind in all it has committed or is assigned, in order of topic and partition.

    Raises:
        LogClusterError: leaders did not answer within the client's request timeout. Of a partition without leader
            nothing is known, which is no error.
    """
    readers = {name: member.member_id for member in facts.members for name in member.assignment}
    names = {offset.topic for offset in facts.offsets} | {name.topic for name in readers}
    known = await existing_topics(context, names)
    committed = offsets_by_partition(facts.offsets, known)
    partitions = sorted({*committed, *(name for name in readers if name.topic in known)})
    ranges = await log_ranges(context, partitions)
    unread: dict[TopicPartition, int] = {}
    for name, offset in committed.items():
        found = ranges.get(name)
        if found is not None and unread_records(offset.offset, found.start, found.end):
            unread[name] = max(offset.offset, found.start)
    times_ms = await record_times_ms(context, unread)
    now_ms = context.clock.now_ms()
    lags = []
    for name in partitions:
        found = ranges.get(name)
        lags.append(
            partition_lag(
                name,
                committed=committed[name].offset if name in committed else None,
                log_start_offset=None if found is None else found.start,
                end_offset=None if found is None else found.end,
                now_ms=now_ms,
                first_unread_ms=times_ms.get(name),
                member_id=readers.get(name),
            )
        )
    return lags


async def plan_reset(
    context: Context,
    offsets: Sequence[CommittedOffset],
    point: ResetPoint,
    wanted: Mapping[str, Sequence[int] | None] | None,
) -> tuple[list[OffsetChange], dict[str, bytes]]:
    """What a reset changes, in order of topic and partition, and the ids of the topics that it was planned for.

    Args:
        offsets: what is committed.
        point: as `normalize_reset_point` gives it.
        wanted: as `wanted_topics` gives it.

    Raises:
        UnknownTopicOrPartition: something that was named does not exist.
        LeaderNotAvailable: a partition has no leader that could say where its log begins and ends.
        InvalidRequest: a shift of a partition without a committed offset.
    """
    known = await existing_topics(context, (offset.topic for offset in offsets) if wanted is None else wanted)
    committed = offsets_by_partition(offsets, known)
    chosen = chosen_partitions(wanted, committed, known)
    ranges = await log_ranges(context, chosen)
    times = await ask_leaders(context, dict.fromkeys(chosen, point)) if isinstance(point, Timestamp) else {}
    changes = []
    for name in chosen:
        if name not in ranges:
            raise LeaderNotAvailable(
                f"{name} has no leader, so where its log begins and ends is not known; nothing was changed",
                topic=name.topic,
                partition=name.partition,
            )
        before = committed[name].offset if name in committed else None
        changes.append(reset_change(name, point, before, times.get(name), ranges[name]))
    return changes, {name: facts.topic_id for name, facts in known.items()}


def offsets_by_partition(
    offsets: Iterable[CommittedOffset], known: Mapping[str, TopicFacts]
) -> dict[TopicPartition, CommittedOffset]:
    """Those offsets that belong to topics as they are now."""
    return {
        TopicPartition(offset.topic, offset.partition): offset
        for offset in offsets
        if offset.topic in known and offset.topic_id in {b"", known[offset.topic].topic_id}
    }
