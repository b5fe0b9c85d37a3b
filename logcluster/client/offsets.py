"""Looking up offsets: the beginning, the end, or the first record at or after a time, of many partitions at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from logcluster.client.connections import call
from logcluster.client.context import Context
from logcluster.client.metadata import Metadata
from logcluster.client.records import Timestamp
from logcluster.model.errors import InvalidRequest, LeaderNotAvailable, LogClusterError, UnknownServerError
from logcluster.model.ids import TopicPartition
from logcluster.wire.gen.logcluster.v1 import data_pb2
from logcluster.wire.status import error_from_detail

Isolation = Literal["read_uncommitted", "read_committed"]
Query = Literal["earliest", "latest"] | Timestamp

_ISOLATION = {
    "read_uncommitted": data_pb2.ISOLATION_READ_UNCOMMITTED,
    "read_committed": data_pb2.ISOLATION_READ_COMMITTED,
}
_ATTEMPT_MS_MAX = 5_000


def isolation_to_wire(isolation: str) -> data_pb2.Isolation.ValueType:
    """The enum's value.

    Raises:
        InvalidRequest: it is neither "read_committed" nor "read_uncommitted".
    """
    value = _ISOLATION.get(isolation)
    if value is None:
        raise InvalidRequest(f"isolation {isolation!r} is unknown", hint='use "read_committed" or "read_uncommitted"')
    return value


async def look_up_offsets(
    queries: Mapping[TopicPartition, Query],
    *,
    context: Context,
    isolation: str = "read_uncommitted",
    timeout_ms: int,
    topic_ids: Mapping[str, bytes] | None = None,
) -> dict[TopicPartition, int]:
    """As `look_up_each`, where one partition's failure is everybody's.

    Raises:
        LogClusterError: some partition could not be asked; stale leaders are noted and a refresh is on its way.
    """
    found, failures = await look_up_each(
        queries, context=context, isolation=isolation, timeout_ms=timeout_ms, topic_ids=topic_ids
    )
    for error in failures.values():
        raise error
    return found


async def look_up_each(
    queries: Mapping[TopicPartition, Query],
    *,
    context: Context,
    isolation: str = "read_uncommitted",
    timeout_ms: int,
    topic_ids: Mapping[str, bytes] | None = None,
) -> tuple[dict[TopicPartition, int], dict[TopicPartition, LogClusterError]]:
    """Ask the leaders; once for all partitions, so retries are the caller's. Returns what was found, and what was not.

    A time after the last record gives the end of the log. Where somebody else should be asked, stale leaders are noted
    and a refresh is on its way.

    Args:
        timeout_ms: of the question to each leader.
        topic_ids: which topic is meant, by name; by default the one that is known under the name now.
    """
    metadata = context.metadata
    if topic_ids is None:
        topic_ids = {name.topic: metadata.cache.topic_id(name.topic) for name in queries}
    found: dict[TopicPartition, int] = {}
    failures: dict[TopicPartition, LogClusterError] = {}
    timeout_ms = min(timeout_ms, _ATTEMPT_MS_MAX)
    by_leader: dict[int, list[TopicPartition]] = {}
    for name in queries:
        leader = metadata.cache.leader(name.topic, name.partition)
        if leader is None or leader.broker_id is None:
            failures[name] = LeaderNotAvailable(f"{name} has no leader", topic=name.topic, partition=name.partition)
        else:
            by_leader.setdefault(leader.broker_id, []).append(name)
    after_last: dict[TopicPartition, Query] = {}
    for broker_id, names in by_leader.items():
        request = _request(queries, names, metadata, isolation, topic_ids)
        try:
            response = await call(context.connections.stubs(broker_id).data.ListOffsets, request, timeout_ms=timeout_ms)
        except LogClusterError as error:
            failures |= dict.fromkeys(names, error)
            continue
        for name, answer in _answers(names, response, metadata, topic_ids):
            if isinstance(answer, LogClusterError):
                failures[name] = answer
            elif answer.HasField("offset"):
                found[name] = answer.offset
            elif queries[name] == "latest":
                failures[name] = UnknownServerError("a broker did not say where the log ends")
            else:
                after_last[name] = "latest"
    if any(error.retriable for error in failures.values()):
        metadata.request_refresh()
    if after_last:
        found_too, failed_too = await look_up_each(
            after_last, context=context, isolation=isolation, timeout_ms=timeout_ms, topic_ids=topic_ids
        )
        found |= found_too
        failures |= failed_too
    return found, failures


def _request(
    queries: Mapping[TopicPartition, Query],
    names: Sequence[TopicPartition],
    metadata: Metadata,
    isolation: str,
    topic_ids: Mapping[str, bytes],
) -> data_pb2.ListOffsetsRequest:
    request = data_pb2.ListOffsetsRequest(isolation=isolation_to_wire(isolation))
    for name in names:
        query = queries[name]
        item = request.partitions.add(
            topic=name.topic, partition=name.partition, topic_id=topic_ids[name.topic] or None
        )
        leader = metadata.cache.leader(name.topic, name.partition)
        if leader is not None:
            item.leader_epoch = leader.leader_epoch
        if isinstance(query, int):
            item.timestamp_ms = int(query)
        elif query == "earliest":
            item.position = data_pb2.OFFSET_POSITION_EARLIEST
        else:
            item.position = data_pb2.OFFSET_POSITION_LATEST
    return request


def _answers(
    names: Sequence[TopicPartition],
    response: data_pb2.ListOffsetsResponse,
    metadata: Metadata,
    topic_ids: Mapping[str, bytes],
) -> list[tuple[TopicPartition, data_pb2.PartitionOffset | LogClusterError]]:
    """Pair answers with questions."""
    by_name = {TopicPartition(answer.topic, answer.partition): answer for answer in response.partitions}
    pairs: list[tuple[TopicPartition, data_pb2.PartitionOffset | LogClusterError]] = []
    for name in names:
        answer = by_name.get(name)
        if answer is None:
            pairs.append((name, UnknownServerError(f"the answer leaves out {name}")))
        elif answer.HasField("error") and answer.error.code:
            if answer.HasField("leader"):
                metadata.cache.note_leader(
                    name.topic,
                    name.partition,
                    leader_id=answer.leader.leader_id,
                    leader_epoch=answer.leader.leader_epoch,
                    topic_id=topic_ids[name.topic],
                )
            pairs.append((name, error_from_detail(answer.error)))
        else:
            pairs.append((name, answer))
    return pairs
