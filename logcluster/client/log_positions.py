"""Where logs begin and end, and how old the record at an offset is: what the administration of groups asks leaders.

Partitions without a leader, and topics that do not exist (any more), are left out of the answers instead of failing
the others: a group is looked at above all when something is wrong.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

from logcluster.client.connections import call
from logcluster.client.context import Context
from logcluster.client.metadata import answer_from_wire
from logcluster.client.metadata_cache import TopicFacts
from logcluster.client.offsets import Query, look_up_offsets
from logcluster.client.retry import retry
from logcluster.model.errors import LogClusterError
from logcluster.model.ids import TopicPartition
from logcluster.record.batch import decode_records
from logcluster.record.header import iterate_headers
from logcluster.wire.gen.logcluster.v1 import data_pb2, metadata_pb2

_FETCH_MS_MAX = 5_000
_FETCH_PARTITIONS_MAX = 32
"""In one fetch: a broker gives at least a whole batch of each, which may be a MiB."""
_FETCH_ROUNDS_MAX = 4
"""How often to go on behind batches that hold no record for readers."""


class LogRange(NamedTuple):
    """What of a log can be read."""

    start: int
    end: int
    """High watermark."""


async def existing_topics(context: Context, names: Iterable[str]) -> dict[str, TopicFacts]:
    """Those of the topics that exist, by name, as a broker knows them now; later refreshes ask about them, too.

    Raises:
        LogClusterError: no broker answered, or one said what is wrong with a topic.
    """
    wanted = sorted(set(names))
    if not wanted:
        return {}
    request = metadata_pb2.GetMetadataRequest(topics=wanted, include_internal=True)
    response = await context.connections.ask_any(
        lambda stubs: stubs.metadata.GetMetadata, request, timeout_ms=context.options.request_timeout_ms
    )
    answer = answer_from_wire(response)
    found = {topic.name: topic for topic in answer.topics}
    context.metadata.add_topics(*found)
    context.cache.apply(answer)
    return found


async def log_ranges(context: Context, partitions: Collection[TopicPartition]) -> dict[TopicPartition, LogRange]:
    """Begin and end of the logs that have a leader; the topics must be known.

    Raises:
        LogClusterError: a leader did not answer within the client's request timeout.
    """
    starts = await ask_leaders(context, dict.fromkeys(partitions, "earliest"))
    ends = await ask_leaders(context, dict.fromkeys(partitions, "latest"))
    return {
        name: LogRange(min(starts[name], ends[name]), ends[name])
        for name in partitions
        if name in starts and name in ends
    }


async def ask_leaders(context: Context, queries: Mapping[TopicPartition, Query]) -> dict[TopicPartition, int]:
    """Offsets by position or time, of the partitions that have a leader.

    Raises:
        LogClusterError: a leader did not answer within the client's request timeout.
    """

    async def attempt(left_ms: int) -> dict[TopicPartition, int]:
        led = {name: query for name, query in queries.items() if _leader_id(context, name) is not None}
        return await look_up_offsets(led, context=context, timeout_ms=left_ms) if led else {}

    return await retry(
        attempt,
        clock=context.clock,
        generator=context.generator,
        policy=context.policy,
        timeout_ms=context.options.request_timeout_ms,
    )


def _leader_id(context: Context, name: TopicPartition) -> int | None:
    leader = context.cache.leader(*name)
    return None if leader is None else leader.broker_id


async def record_times_ms(context: Context, offsets: Mapping[TopicPartition, int]) -> dict[TopicPartition, int]:
    """Timestamps of the first records at or after these offsets; the offsets must lie within the logs.

    There is no call for this, so one batch of each partition is fetched. What a broker does not give is left out,
    and so are partitions with nothing but control records for a long way.
    """
    found: dict[TopicPartition, int] = {}
    positions = dict(offsets)
    for _ in range(_FETCH_ROUNDS_MAX):
        by_leader: dict[int, list[TopicPartition]] = {}
        for name in positions:
            leader_id = _leader_id(context, name)
            if leader_id is not None:
                by_leader.setdefault(leader_id, []).append(name)
        before = dict(positions)
        for broker_id, names in by_leader.items():
            for index in range(0, len(names), _FETCH_PARTITIONS_MAX):
                await _fetch(context, broker_id, names[index : index + _FETCH_PARTITIONS_MAX], positions, found)
        if positions == before or not positions:
            break
    return found


async def _fetch(
    context: Context,
    broker_id: int,
    names: Iterable[TopicPartition],
    positions: dict[TopicPartition, int],
    found: dict[TopicPartition, int],
) -> None:
    """Move what one broker gives from `positions` to `found`, or its position forward."""
    request = data_pb2.FetchRequest(min_bytes=1, format=data_pb2.FETCH_FORMAT_BATCHES)
    for name in names:
        request.partitions.add(
            topic=name.topic,
            partition=name.partition,
            fetch_offset=positions[name],
            max_bytes=1,  # a batch comes whole all the same
            topic_id=context.cache.topic_id(name.topic) or None,
        )
    timeout_ms = min(context.options.request_timeout_ms, _FETCH_MS_MAX)
    try:
        stub = context.connections.stubs(broker_id).data
        response: data_pb2.FetchResponse = await call(stub.Fetch, request, timeout_ms=timeout_ms)
        for answer in response.partitions:
            name = TopicPartition(answer.topic, answer.partition)
            if name not in positions or (answer.HasField("error") and answer.error.code):
                continue
            time_ms, next_offset = _first_time_ms(answer.batches, positions[name])
            if time_ms is not None:
                found[name] = time_ms
                del positions[name]
            else:
                positions[name] = max(positions[name], next_offset, answer.next_offset)
    except LogClusterError as error:
        # An age that cannot be told is no reason to withhold the rest.
        if error.refresh_metadata:
            context.metadata.request_refresh()


def _first_time_ms(batches: bytes, offset: int) -> tuple[int | None, int]:
    """The time of the first record at or after an offset, and the offset behind the batches."""
    next_offset = offset
    for position, header in iterate_headers(batches):
        next_offset = header.next_offset
        if header.is_control or header.next_offset <= offset:
            continue
        for record in decode_records(batches[position : position + header.size_bytes]):
            if record.offset >= offset:
                return record.timestamp, next_offset
    return None, next_offset
