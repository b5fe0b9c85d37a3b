"""The produce path: check the batch, append it on the led partition, wait for the replicas as `acks` asks.

Everything between looking at a partition and appending is synchronous, so requests of one connection are appended in
the order they came. Batches stay opaque bytes; typed records are packed into one here. An error speaks for its
partition only. What was appended is never refused definitely (P9). A request that names a topic id never reaches
another topic of the same name (KIP-516), nor learns who leads that one.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Final, Protocol

from logcluster.broker.partition import Appended, Partition
from logcluster.model.errors import (
    InvalidRequest,
    InvalidRequiredAcks,
    InvalidTopic,
    LogClusterError,
    MessageTooLarge,
    NotLeaderOrFollower,
    UnknownTopicId,
    UnsupportedVersion,
)
from logcluster.model.ids import TopicId
from logcluster.model.internal_topics import is_internal
from logcluster.model.limits import DEADLINE_MS_MAX, REQUEST_DEADLINE_MS_DEFAULT
from logcluster.record.batch import validate_batch, validate_records
from logcluster.record.builder import build_batch
from logcluster.record.compression import Compression
from logcluster.runtime.clock import Clock
from logcluster.runtime.failpoints import failpoint
from logcluster.wire.gen.logcluster.v1 import data_pb2 as pb, record_pb2
from logcluster.wire.status import error_detail

_ACKS_ALL: Final = (pb.ACKS_UNSPECIFIED, pb.ACKS_ALL)
_ACKS_KNOWN: Final = (pb.ACKS_UNSPECIFIED, pb.ACKS_NONE, pb.ACKS_LEADER, pb.ACKS_ALL)
_COMPRESSION_OF_PACKED: Final = {
    "producer": Compression.ZSTD,
    "none": Compression.NONE,
    "gzip": Compression.GZIP,
    "snappy": Compression.SNAPPY,
    "lz4": Compression.LZ4,
    "zstd": Compression.ZSTD,
}


class PartitionFinder(Protocol):
    """Where hosted partitions are found."""

    def partition(self, topic: str, index: int) -> Partition:
        """Raises UnknownTopicOrPartition, NotLeaderOrFollower."""
        ...

    def partition_by_id(self, topic_id: TopicId, index: int) -> Partition:
        """Raises UnknownTopicId, NotLeaderOrFollower."""
        ...


class NamesPartition(Protocol):
    """A part of a request that speaks of one partition."""

    topic: str
    partition: int
    topic_id: bytes
    """Empty: of whichever topic has the name."""


def find_partition(partitions: PartitionFinder, item: NamesPartition) -> Partition:
    """The hosted replica of the partition that a client means.

    Raises:
        UnknownTopicId: the topic of this name is another one than the client believes.
        UnknownTopicOrPartition, NotLeaderOrFollower: see `PartitionFinder`.
    """
    topic_id = item.topic_id
    if not topic_id:
        return partitions.partition(item.topic, item.partition)
    try:
        partition = partitions.partition(item.topic, item.partition)
    except NotLeaderOrFollower:
        # Who leads another topic must not be told: its leader epochs say nothing about this one's.
        with contextlib.suppress(NotLeaderOrFollower):
            partitions.partition_by_id(TopicId(topic_id), item.partition)
        raise
    if partition.topic_id != topic_id:
        raise UnknownTopicId(
            f"topic {item.topic!r} is not the one that the request was made for",
            topic=item.topic,
            topic_id=topic_id.hex(),
        )
    return partition


class _Waiting:
    """One request whose partitions are committed one by one; answers when the last one is settled."""

    __slots__ = ("_answer", "_errors", "_response", "count")

    def __init__(
        self, response: pb.ProduceResponse, answer: Callable[[pb.ProduceResponse], None], errors: Counter[str]
    ) -> None:
        self._response = response
        self._answer = answer
        self._errors = errors
        self.count = 1
        """Partitions that are not settled, and one for the request while it is being appended."""

    def settle(self, ack: pb.PartitionAck, error: LogClusterError | None) -> None:
        """One partition is committed, or its outcome is unknown."""
        if error is not None:
            set_error(ack, error)
            self._errors[type(error).__name__] += 1
        self.release()

    def release(self) -> None:
        self.count -= 1
        if not self.count:
            failpoint("produce.before_answer")
            self._answer(self._response)


class ProduceHandler:
    """Serves produce requests.

    Args:
        deep_check: walk every record of each batch, not only its header and checksum.
    """

    def __init__(self, partitions: PartitionFinder, *, clock: Clock, deep_check: bool = True) -> None:
        self._partitions = partitions
        self._clock = clock
        self._deep_check = deep_check
        self.errors: Counter[str] = Counter()
        """Partitions that were refused, by the error's name."""

    async def produce(self, request: pb.ProduceRequest) -> pb.ProduceResponse:
        """Append and wait; one answer per partition, in the order of the request.

        Raises:
            InvalidRequiredAcks: the acks value is unknown; nothing was done.
        Cancellation: what was appended stays.
        """
        future: asyncio.Future[pb.ProduceResponse] = asyncio.get_running_loop().create_future()

        def answer(response: pb.ProduceResponse) -> None:
            if not future.done():
                future.set_result(response)

        self.start(request, answer)
        return await future

    def start(self, request: pb.ProduceRequest, answer: Callable[[pb.ProduceResponse], None]) -> None:
        """As `produce`, without a task: append now, and call `answer` once, perhaps before this returns.

        Raises:
            InvalidRequiredAcks: the acks value is unknown; nothing was done and `answer` is not called.
        """
        acks = request.acks
        if acks not in _ACKS_KNOWN:
            raise InvalidRequiredAcks(acks=acks)
        acks_all = acks in _ACKS_ALL
        response = pb.ProduceResponse()
        deadline_ms = -1
        waiting = _Waiting(response, answer, self.errors)
        for item in request.partitions:
            topic, index = item.topic, item.partition
            try:
                partition, appended = self._append(item, acks_all=acks_all)
            except LogClusterError as error:
                set_error(response.partitions.add(topic=topic, partition=index), error)
                self.errors[type(error).__name__] += 1
                continue
            ack = response.partitions.add(
                topic=topic,
                partition=index,
                base_offset=appended.base_offset,
                log_append_time_ms=appended.log_append_time_ms,
                log_start_offset=partition.log.log_start_offset,
            )
            if acks_all:
                if deadline_ms < 0:
                    timeout_ms = min(request.timeout_ms or REQUEST_DEADLINE_MS_DEFAULT, DEADLINE_MS_MAX)
                    deadline_ms = self._clock.monotonic_ms() + timeout_ms
                waiting.count += 1
                if not partition.when_committed(appended.next_offset, deadline_ms, partial(waiting.settle, ack)):
                    waiting.count -= 1
        waiting.release()

    def _append(self, item: pb.PartitionProduce, *, acks_all: bool) -> tuple[Partition, Appended]:
        if is_internal(item.topic):
            raise InvalidTopic(f"{item.topic!r} is a topic of the cluster's own: only brokers write to it")
        partition = find_partition(self._partitions, item)
        if partition.leader is None or item.HasField("leader_epoch"):
            partition.require_leader(item.leader_epoch if item.HasField("leader_epoch") else None)
        batch = item.batch or self._pack(item, partition)
        header = validate_batch(batch, size_bytes_max=partition.config.max_message_bytes)
        if header.is_transactional:
            raise UnsupportedVersion("transactions are not supported yet")
        if self._deep_check:
            validate_records(batch, header)
        return partition, partition.append_as_leader(batch, header, acks_all=acks_all)

    def _pack(self, item: pb.PartitionProduce, partition: Partition) -> bytes:
        """Make a batch of typed records.

        Raises:
            InvalidRequest: there is nothing to append.
            MessageTooLarge, InvalidRecord, InvalidTimestamp: see `build_batch`.
        """
        records = item.records.records
        if not records:
            raise InvalidRequest("a produce request carries a batch or at least one record")
        size_bytes_max = partition.config.max_message_bytes
        batch = build_batch(
            [_typed_record(record, now_ms=self._clock.now_ms()) for record in records],
            compression=_COMPRESSION_OF_PACKED[partition.config.compression_type],
        )
        if len(batch) > size_bytes_max:
            raise MessageTooLarge(size_bytes=len(batch), size_bytes_max=size_bytes_max)
        return batch


def _typed_record(
    record: record_pb2.Record, *, now_ms: int
) -> tuple[int, bytes | None, bytes | None, list[tuple[str, bytes | None]]]:
    return (
        record.timestamp_ms if record.HasField("timestamp_ms") else now_ms,
        record.key if record.HasField("key") else None,
        record.value if record.HasField("value") else None,
        [(header.key, header.value if header.HasField("value") else None) for header in record.headers],
    )


def set_error(answer: pb.PartitionAck | pb.PartitionFetch | pb.PartitionOffset, error: LogClusterError) -> None:
    """Put an error, and who leads as far as the error knows, into a partition's answer."""
    answer.error.CopyFrom(error_detail(error))
    leader_id = error.facts.get("leader_id")
    leader_epoch = error.facts.get("leader_epoch")
    if isinstance(leader_id, int) and isinstance(leader_epoch, int):
        answer.leader.leader_id = leader_id
        answer.leader.leader_epoch = leader_epoch
