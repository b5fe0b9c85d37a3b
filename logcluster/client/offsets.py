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
    """Ask the leaders; once for all partitions, so retries are the caller's.

    A time after the last record gives the end of the log.

    Args:
        topic_ids: which topic is meant, by name; by default the one that is known under the name now.

    Raises:
        LogClusterError: some partition could not be asked; stale leaders are noted and a refresh is on its way.
    """
    metadata = context.metadata
    if topic_ids is None:
        topic_ids = {name.topic: metadata.cache.topic_id(name.topic) for name in queries}
    found: dict[TopicPartition, int] = {}
    timeout_ms = min(timeout_ms, _ATTEMPT_MS_MAX)
    by_leader: dict[int, list[TopicPartition]] = {}
    try:
        for name in queries:
            by_leader.setdefault(_leader_of(metadata, name), []).append(name)
        after_last: list[TopicPartition] = []
        for broker_id, names in by_leader.items():
            request = _request(queries, names, metadata, isolation, topic_ids)
            response = await call(context.connections.stubs(broker_id).data.ListOffsets, request, timeout_ms=timeout_ms)
            for name, answer in _answers(names, response, metadata, topic_ids):
                if answer.HasField("offset"):
                    found[name] = answer.offset
                else:
                    after_last.append(name)
    except LogClusterError as error:
        if error.retriable:
            metadata.request_refresh()
        raise
    if after_last:
        latest: dict[TopicPartition, Query] = dict.fromkeys(after_last, "latest")
        if all(queries[name] == "latest" for name in after_last):
            raise UnknownServerError("a broker did not say where the log ends")
        found |= await look_up_offsets(
            latest, context=context, isolation=isolation, timeout_ms=timeout_ms, topic_ids=topic_ids
        )
    return found


def _leader_of(metadata: Metadata, name: TopicPartition) -> int:
    leader = metadata.cache.leader(name.topic, name.partition)
    if leader is None or leader.broker_id is None:
        raise LeaderNotAvailable(f"{name} has no leader", topic=name.topic, partition=name.partition)
    return leader.broker_id


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
) -> list[tuple[TopicPartition, data_pb2.PartitionOffset]]:
    """Pair answers with questions; raises the first error."""
    by_name = {TopicPartition(answer.topic, answer.partition): answer for answer in response.partitions}
    pairs = []
    for name in names:
        answer = by_name.get(name)
        if answer is None:
            raise UnknownServerError(f"the answer leaves out {name}")
        if answer.HasField("error") and answer.error.code:
            if answer.HasField("leader"):
                metadata.cache.note_leader(
                    name.topic,
                    name.partition,
                    leader_id=answer.leader.leader_id,
                    leader_epoch=answer.leader.leader_epoch,
                    topic_id=topic_ids[name.topic],
                )
            raise error_from_detail(answer.error)
        pairs.append((name, answer))
    return pairs
