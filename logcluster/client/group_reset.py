"""Where a reset leads each partition: pure decisions; looking up and committing are in `group_admin`.

Invariant: an offset that is chosen here lies within its log, so that the group's next reader finds it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

from logcluster.client.group_descriptions import OffsetChange, ResetPoint, Shift
from logcluster.client.log_positions import LogRange
from logcluster.client.metadata_cache import TopicFacts
from logcluster.client.records import Timestamp, normalize_point
from logcluster.model.errors import InvalidRequest, UnknownTopicOrPartition
from logcluster.model.ids import TopicPartition

ResetTopics = Sequence[str] | Mapping[str, Sequence[int] | None]
"""Names, each for all partitions of its topic; or partitions by topic, None for all."""
_SHIFT = re.compile(r"[+-]\d+")


def normalize_reset_point(point: ResetPoint | str) -> ResetPoint:
    """Reduce what users may write to "earliest", "latest", an offset, a `Timestamp` or a `Shift`.

    Raises:
        InvalidRequest: it is none of what `ResetPoint` lists, and no text such as "+10" either.
    """
    if isinstance(point, Shift):
        return point
    if isinstance(point, str):
        if _SHIFT.fullmatch(point):
            return Shift(point)
        if point not in {"beginning", "earliest", "end", "latest"}:
            raise InvalidRequest(
                f"{point!r} is no place to reset to",
                hint='use "beginning", "end", an offset, a datetime, a Timestamp or a Shift',
            )
    if isinstance(point, str | int | datetime):
        return normalize_point(point)  # type: ignore[arg-type]  # the texts were checked above
    raise InvalidRequest(f"{point!r} is no place to reset to")


def wanted_topics(topics: ResetTopics | None) -> dict[str, Sequence[int] | None] | None:
    """Partitions by topic, None for all of them; None when no topic was named.

    Raises:
        InvalidRequest: a single text, where a list of names is meant.
    """
    if topics is None:
        return None
    if isinstance(topics, str):
        raise InvalidRequest("topics is a list of names", hint=f"topics=[{topics!r}]")
    return dict(topics) if isinstance(topics, Mapping) else dict.fromkeys(topics)


def chosen_partitions(
    wanted: Mapping[str, Sequence[int] | None] | None,
    committed: Iterable[TopicPartition],
    known: Mapping[str, TopicFacts],
) -> list[TopicPartition]:
    """The partitions that a reset is about, in order; without `wanted` those with a committed offset.

    Raises:
        UnknownTopicOrPartition: a topic or partition that was named does not exist.
    """
    if wanted is None:
        return sorted(committed)
    chosen: set[TopicPartition] = set()
    for topic, numbers in wanted.items():
        facts = known.get(topic)
        if facts is None:
            raise UnknownTopicOrPartition(f"topic {topic!r} does not exist", topic=topic)
        existing = {partition.partition for partition in facts.partitions}
        for number in existing if numbers is None else numbers:
            if number not in existing:
                raise UnknownTopicOrPartition(
                    f"topic {topic!r} has {len(existing)} partitions, and none with the number {number}",
                    hint=f"`logcluster topic describe {topic}` lists them",
                    topic=topic,
                    partition=number,
                )
            chosen.add(TopicPartition(topic, number))
    return sorted(chosen)


def reset_change(
    name: TopicPartition, point: ResetPoint, before: int | None, found: int | None, log: LogRange
) -> OffsetChange:
    """What becomes of one partition.

    Args:
        point: as `normalize_reset_point` gives it.
        before: what is committed.
        found: the offset that belongs to a time; for other points it does not matter.

    Raises:
        InvalidRequest: a shift of a partition without a committed offset.
    """
    if isinstance(point, Shift):
        if before is None:
            raise InvalidRequest(
                f"{name} has no committed offset that could be shifted by {int(point):+}",
                hint="reset it to beginning, end, an offset or a time",
                topic=name.topic,
                partition=name.partition,
            )
        asked = before + point
    elif isinstance(point, Timestamp):
        asked = log.end if found is None else found
    elif isinstance(point, int):
        asked = point
    else:
        asked = log.start if point == "earliest" else log.end
    after = int(min(max(asked, log.start), log.end))
    return OffsetChange(
        topic=name.topic, partition=name.partition, before=before, after=after, is_clamped=after != asked
    )
