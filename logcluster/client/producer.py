"""The asynchronous producer: records in, acknowledgements out.

The path of one record is synchronous and short: find the partition, append to its open batch, hand out a
`RecordFuture`. Batches, order and retries belong to `accumulator`, requests to `sender`. Records are taken in the order
of the calls, by whatever method: while the topic is not known yet, they are held in one line.

Cancellation: a cancelled `send` has either not taken the record (it waited for metadata or space), or the record
still goes out and only the answer is lost.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping
from itertools import islice
from types import TracebackType
from typing import Literal, Self

from logcluster.client.accumulator import Accumulator, AccumulatorOptions, PartitionQueue
from logcluster.client.batch import Batch
from logcluster.client.context import Context
from logcluster.client.futures import Outcomes, RecordFuture, SentRecords, has_failed, lost_records, wait_for
from logcluster.client.partitioner import StickyPartition, key_hash
from logcluster.client.records import Headers, RecordAck
from logcluster.client.sender import Sender
from logcluster.model.errors import (
    BufferFull,
    InvalidRecord,
    LogClusterError,
    ShuttingDown,
    UnknownServerError,
    UnknownTopicId,
    UnknownTopicOrPartition,
)
from logcluster.model.probes import probe
from logcluster.runtime.scope import TaskScope

logger = logging.getLogger("logcluster.client")

Acks = Literal["all", "leader", "none", 1, 0, -1]
RECORD_OVERHEAD_BYTES = 24
"""Counted for each record beside key and value: its frame in the batch."""
CANCELLED_FLUSH_MS_MAX = 5_000
_TURN_RECORDS_MAX = 2_000
"""After so many records without a pause, `send_many` lets the loop send."""


ATTEMPT_MS_MAX = 10_000
"""One request waits no longer for the replicas; then the batch is sent again."""


class _Route:
    """A topic as the producer sees it: its queues by partition number."""

    __slots__ = ("partition_count", "queues", "sticky", "sticky_queue", "topic", "topic_id")

    def __init__(self, topic: str, topic_id: bytes, queues: list[PartitionQueue], sticky: StickyPartition) -> None:
        self.topic = topic
        self.topic_id = topic_id
        self.queues = queues
        self.partition_count = len(queues)
        self.sticky = sticky
        self.sticky_queue: PartitionQueue | None = None


class _Unrouted:
    """Records for a topic whose partitions are not known yet, in the order they came."""

    __slots__ = ("batch", "records")

    def __init__(self, batch: Batch) -> None:
        self.batch = batch
        self.records: list[tuple[RecordFuture, bytes | None, bytes | None, Headers, int | None, int]] = []


class Producer:
    """Writes records; made by `Client.producer`, used with `async with`.

    Leaving the block flushes. If records that nobody awaited were lost, it raises `RecordsLost`.
    """

    def __init__(self, options: AccumulatorOptions, *, context: Context, acks: int) -> None:
        self._options = options
        self._accumulator = Accumulator(options)
        self._context = context
        self._acks = acks
        self._metadata = context.metadata
        self._clock = context.clock
        self._now_ms = context.clock.now_ms
        self._generator = context.generator
        self._scope = TaskScope("client/producer", on_fault=self._on_fault)
        self._sender: Sender | None = None
        self._routes: dict[str, _Route] = {}
        self._unrouted: dict[str, _Unrouted] = {}
        self._buffer_size_bytes = options.buffer_size_bytes
        self._is_open = False

    async def __aenter__(self) -> Self:
        self._sender = Sender(
            self._accumulator,
            context=self._context,
            scope=self._scope,
            on_fault=self._on_fault,
            acks=self._acks,
            timeout_ms=min(self._context.options.request_timeout_ms, ATTEMPT_MS_MAX),
        )
        self._metadata.listen(self._metadata_changed)
        self._is_open = True
        self._sender.start()
        return self

    async def __aexit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            await self._finish(is_hurried=error_type is not None and issubclass(error_type, asyncio.CancelledError))
        finally:
            await self._stop()
        lost = lost_records((batch, batch.lost_count) for batch in self._accumulator.failed)
        self._accumulator.failed.clear()
        if lost is None:
            return
        if error is None:
            raise lost
        error.add_note(str(lost))

    async def close(self) -> None:
        """Flush and stop, as leaving the block does; calling again does nothing.

        Raises:
            RecordsLost: records that nobody awaited were not written.
        """
        if self._is_open:
            await self.__aexit__(None, None, None)

    @property
    def buffered_size_bytes(self) -> int:
        """What is held in records without an outcome."""
        return self._accumulator.buffered_size_bytes

    # Sending.

    async def send(  # the record's fields
        self,
        topic: str,
        value: bytes | None,
        key: bytes | None = None,
        headers: Headers | Mapping[str, bytes | None] | None = None,
        partition: int | None = None,
        timestamp_ms: int | None = None,
    ) -> RecordAck:
        """Write one record and wait for its acknowledgement; waits for space when the buffer is full.

        Raises:
            LogClusterError: it was not written; with `definite` false, that is not certain.
            BufferFull: there was no space within `delivery_timeout_ms`.
        Cancellation: the record was not taken, or is still written.
        """
        try:
            future = self._take(topic, value, key, headers, partition, timestamp_ms)
        except BufferFull:
            await self._wait_for_space(_size_bytes(value, key))
            future = self._take(topic, value, key, headers, partition, timestamp_ms)
        return await future

    def send_nowait(  # the record's fields
        self,
        topic: str,
        value: bytes | None,
        key: bytes | None = None,
        headers: Headers | Mapping[str, bytes | None] | None = None,
        partition: int | None = None,
        timestamp_ms: int | None = None,
    ) -> RecordFuture:
        """Take one record; the returned future, awaited now, later or never, gives its acknowledgement.

        Args:
            value: None writes a tombstone.
            key: decides the partition, as in Kafka; None lets the producer choose.
            headers: pairs of name and value, in order.
            timestamp_ms: since 1970; by default now.

        Raises:
            BufferFull: `buffer_size_bytes` are waiting for acknowledgement.
            RequestError: this is no record, or the partition does not exist.
        """
        route = self._routes.get(topic)
        if timestamp_ms is None:
            timestamp_ms = self._now_ms()
        try:
            size_bytes = RECORD_OVERHEAD_BYTES + (len(value) if value else 0) + (len(key) if key else 0)
        except TypeError:
            raise InvalidRecord("key and value of a record are bytes or None", hint="encode them first") from None
        accumulator = self._accumulator
        buffered_size_bytes = accumulator.buffered_size_bytes + size_bytes
        if buffered_size_bytes > self._buffer_size_bytes:
            self._refuse(size_bytes)
        pairs = _pairs(headers) if headers else ()
        if route is None:
            return self._hold(topic, value, key, pairs, partition, timestamp_ms, size_bytes)
        is_free = key is None and partition is None
        queue = route.sticky_queue if is_free else self._queue_of(route, key, partition)
        if queue is None or (is_free and queue.open_batch is None):
            queue = self._rotate(route)
        batch = queue.open_batch
        index = 0
        if batch is not None:
            index = batch.builder.record_count
            if not batch.append(timestamp_ms, key, value, pairs):
                batch = None
        if batch is None:
            batch, index = self._append_to_new(
                self._rotate(route) if is_free and queue.open_batch is not None else queue,
                timestamp_ms,
                key,
                value,
                pairs,
            )
        batch.buffered_size_bytes += size_bytes
        accumulator.buffered_size_bytes = buffered_size_bytes
        return RecordFuture(batch, index, timestamp_ms)

    _take = send_nowait
    """For calls from here: what a subclass adds to `send_nowait` is for calls of the user alone."""

    async def send_many(
        self,
        topic: str,
        records: Iterable[bytes | tuple[bytes | None, bytes | None]],
        *,
        partition: int | None = None,
        headers: Headers | Mapping[str, bytes | None] = (),
    ) -> SentRecords:
        """Write many records, values or pairs of key and value, and wait for all; waits when the buffer is full.

        Args:
            headers: of every one of them.

        Raises:
            RecordsLost: some were not written; says how many, where and why, and `outcomes` which ones.
            RequestError: one is no record; those before it are still written.
            LogClusterError: the topic could not be found; nothing was written.
        Cancellation: the records taken so far are still written.
        """
        sent = SentRecords()
        remaining = iter(records)
        pairs = list(_pairs(headers))
        self._check_open()
        while chunk := list(islice(remaining, _TURN_RECORDS_MAX)):
            begin = 0
            while (begin := self._append_chunk(topic, chunk, begin, partition, pairs, sent)) < len(chunk):
                record = chunk[begin]
                await sent.find_held()
                await self._wait_for_space(_size_bytes(*record) if isinstance(record, tuple) else _size_bytes(record))
            await self._clock.sleep_ms(0)
            await sent.find_held()
        batches = sent.batches
        for batch in batches:
            await wait_for(batch)
        if any(map(has_failed, batches)):
            lost = lost_records(sent.losses())
            if lost is not None:
                lost.outcomes = Outcomes(sent)
                raise lost
        return sent

    async def flush(self) -> None:
        """Wait until every record taken so far has its outcome; failures are left to whoever awaits the records.

        Cancellation: the records are still written.
        """
        while True:
            held = [unrouted.batch for unrouted in self._unrouted.values()]
            if not held:
                break
            for batch in held:
                await wait_for(batch)
        self._accumulator.close_batches()
        if self._sender is not None:
            self._sender.wake_all()
        for batch in self._accumulator.unresolved:
            await wait_for(batch)

    def _append_chunk(
        self,
        topic: str,
        chunk: list[bytes | tuple[bytes | None, bytes | None]],
        begin: int,
        partition: int | None,
        headers: Headers,
        sent: SentRecords,
    ) -> int:
        """Append records of the chunk from `begin` on until the buffer is full; returns where to go on."""
        timestamp_ms = self._now_ms()
        if topic not in self._routes and not self._add_known_route(topic):
            return self._hold_chunk(topic, chunk, begin, partition, headers, sent)
        accumulator = self._accumulator
        batch: Batch | None = None
        first = count = size_bytes = 0
        position = begin
        try:
            for record in islice(chunk, begin, None):
                if batch is not None and type(record) is bytes:
                    # The common case, without a call per record: the next value of the batch that is open.
                    added_size_bytes = RECORD_OVERHEAD_BYTES + len(record)
                    if accumulator.buffered_size_bytes + size_bytes + added_size_bytes > self._buffer_size_bytes:
                        break
                    if batch.append(timestamp_ms, None, record, headers):
                        size_bytes += added_size_bytes
                        count += 1
                        position += 1
                        continue
                if batch is not None:
                    sent.add(batch, first, count, timestamp_ms)
                    batch.buffered_size_bytes += size_bytes
                    accumulator.buffered_size_bytes += size_bytes
                    batch, size_bytes = None, 0
                key, value = record if isinstance(record, tuple) else (None, record)
                future = self._take(topic, value, key, headers, partition, timestamp_ms)
                position += 1
                if key is None:
                    batch, first, count = future._batch, future._index, 1
                else:
                    sent.add(future._batch, future._index, 1, timestamp_ms)
        except BufferFull:
            pass
        finally:
            if batch is not None:
                sent.add(batch, first, count, timestamp_ms)
                batch.buffered_size_bytes += size_bytes
                accumulator.buffered_size_bytes += size_bytes
        return position

    def _hold_chunk(
        self,
        topic: str,
        chunk: list[bytes | tuple[bytes | None, bytes | None]],
        begin: int,
        partition: int | None,
        headers: Headers,
        sent: SentRecords,
    ) -> int:
        """As `_append_chunk`, of a topic that is not known yet."""
        timestamp_ms = self._now_ms()
        for position in range(begin, len(chunk)):
            record = chunk[position]
            key, value = record if isinstance(record, tuple) else (None, record)
            try:
                sent.add_held(self._take(topic, value, key, headers, partition, timestamp_ms), timestamp_ms)
            except BufferFull:
                return position
        return len(chunk)

    # Finding the partition.

    def _rotate(self, route: _Route) -> PartitionQueue:
        """Choose another partition for records without a key."""
        led = self._metadata.cache.led_partitions(route.topic)
        candidates = [partition for partition in led if partition < route.partition_count]
        partition = route.sticky.rotate(candidates or range(route.partition_count))
        route.sticky_queue = route.queues[partition]
        return route.sticky_queue

    def _queue_of(self, route: _Route, key: bytes | None, partition: int | None) -> PartitionQueue:
        if partition is None:
            return route.queues[key_hash(key or b"") % route.partition_count]
        if not 0 <= partition < route.partition_count:
            self._metadata.request_refresh()
            raise UnknownTopicOrPartition(
                f"topic {route.topic!r} has partitions 0 to {route.partition_count - 1}, not {partition}",
                hint="choose one of its partitions, or none",
                topic=route.topic,
                partition=partition,
            )
        return route.queues[partition]

    def _append_to_new(
        self, queue: PartitionQueue, timestamp_ms: int, key: bytes | None, value: bytes | None, headers: Headers
    ) -> tuple[Batch, int]:
        """The open batch is full or there is none; returns where the record went."""
        batch = queue.open_batch
        if batch is not None:
            index = batch.record_count
            if batch.append(timestamp_ms, key, value, headers):
                return batch, index
        batch = queue.begin_batch(self._clock.monotonic_ms())
        try:
            batch.append(timestamp_ms, key, value, headers)
        finally:
            queue.discard_if_empty(batch)
        assert self._sender is not None
        self._sender.wake(queue)
        return batch, 0

    def _refuse(self, size_bytes: int) -> None:
        self._check_open()
        raise BufferFull(
            f"{self._accumulator.buffered_size_bytes} bytes wait for acknowledgement",
            size_bytes=size_bytes,
            buffer_size_bytes=self._buffer_size_bytes,
        )

    async def _wait_for_space(self, size_bytes: int) -> None:
        deadline_ms = self._clock.monotonic_ms() + self._options.delivery_timeout_ms
        while self._accumulator.buffered_size_bytes + size_bytes > self._buffer_size_bytes:
            self._check_open()
            if size_bytes > self._buffer_size_bytes or self._clock.monotonic_ms() >= deadline_ms:
                self._refuse(size_bytes)
            assert self._sender is not None
            await self._sender.wait_for_space()

    # Topics not known yet.

    def _hold(
        self,
        topic: str,
        value: bytes | None,
        key: bytes | None,
        headers: Headers,
        partition: int | None,
        timestamp_ms: int,
        size_bytes: int,
    ) -> RecordFuture:
        """Keep the record until the topic's partitions are known, behind those that came before it."""
        self._check_open()
        if self._add_known_route(topic):
            return self._take(topic, value, key, headers, partition, timestamp_ms)
        try:
            for field in (key, value):
                memoryview(field or b"")
        except TypeError:
            raise InvalidRecord("key and value of a record are bytes or None", hint="encode them first") from None
        unrouted = self._unrouted.get(topic)
        if unrouted is None:
            now_ms = self._clock.monotonic_ms()
            options = self._options
            batch = Batch(
                topic,
                -1,
                compression=options.compression,
                size_bytes_max=options.batch_size_bytes,
                created_ms=now_ms,
                deadline_ms=now_ms + options.delivery_timeout_ms,
            )
            unrouted = self._unrouted[topic] = _Unrouted(batch)
            self._scope.spawn(self._find_route(topic, unrouted), name=f"find-{topic}")
        future = RecordFuture(unrouted.batch, len(unrouted.records), timestamp_ms)
        unrouted.records.append((future, value, key, headers, partition, size_bytes))
        unrouted.batch.buffered_size_bytes += size_bytes
        self._accumulator.buffered_size_bytes += size_bytes
        return future

    async def _find_route(self, topic: str, unrouted: _Unrouted) -> None:
        try:
            await self._metadata.topic(topic)
        except LogClusterError as error:
            self._fail_unrouted(unrouted, error)
            return
        self._add_route(topic)
        batch = unrouted.batch
        self._accumulator.buffered_size_bytes -= batch.buffered_size_bytes
        batch.buffered_size_bytes = 0
        for future, value, key, headers, partition, _ in unrouted.records:
            try:
                routed = self._take(topic, value, key, headers, partition, future._timestamp_ms)
            except LogClusterError as error:
                self._fail_one(topic, future, error)
                continue
            future._move(routed._batch, routed._index)
        del self._unrouted[topic]
        batch.succeed(-1, -1)

    def _fail_unrouted(self, unrouted: _Unrouted, error: LogClusterError) -> None:
        """The records that still wait for their topic are given up."""
        batch = unrouted.batch
        del self._unrouted[batch.topic]
        batch.fail(error, record_count=len(unrouted.records))
        self._accumulator.finished(batch)
        if self._sender is not None:
            self._sender.free_space()

    def _fail_one(self, topic: str, future: RecordFuture, error: LogClusterError) -> None:
        """A held record turned out to be none: give it a failed batch of its own."""
        batch = Batch(
            topic,
            -1,
            compression=self._options.compression,
            size_bytes_max=self._options.batch_size_bytes,
            created_ms=0,
            deadline_ms=0,
        )
        batch.fail(error, record_count=1)
        self._accumulator.finished(batch)
        future._move(batch, 0)

    def _add_known_route(self, topic: str) -> bool:
        """Whether the topic's partitions are known, and no record waits for them any more."""
        facts = self._metadata.cache.topic(topic)
        if facts is None or not facts.partitions or topic in self._unrouted:
            return False
        self._add_route(topic)
        return True

    def _add_route(self, topic: str) -> None:
        cache = self._metadata.cache
        topic_id = cache.topic_id(topic)
        self._metadata.add_topics(topic)
        self._routes[topic] = _Route(topic, topic_id, self._queues(topic, topic_id), StickyPartition(self._generator))

    def _queues(self, topic: str, topic_id: bytes) -> list[PartitionQueue]:
        count = self._metadata.cache.partition_count(topic)
        return [self._accumulator.queue(topic, partition, topic_id) for partition in range(count)]

    def _metadata_changed(self) -> None:
        try:
            self._follow_topics()
        except Exception as error:  # noqa: BLE001  # a bug must not leave anybody waiting
            self._on_fault("metadata-changed", error)

    def _follow_topics(self) -> None:
        """Follow partitions that were added, and give up what was meant for topics that are gone.

        Another topic of the same name gets only records that were taken after it had been noticed.
        """
        cache = self._metadata.cache
        for topic, route in list(self._routes.items()):
            if cache.is_gone(topic, route.topic_id):
                probe("client.producer.topic_gone")
                text = f"topic {topic!r} does not exist any more"
                error: LogClusterError = UnknownTopicOrPartition(text)
                if cache.topic(topic) is not None:
                    text = f"topic {topic!r} was deleted and created again; the record was meant for the one before"
                    hint = "send it again if it belongs into the new topic, too"
                    error = UnknownTopicId(text, hint=hint)
                self._leave_topic(topic, error)
            elif cache.partition_count(topic) not in {0, route.partition_count}:
                route.queues = self._queues(topic, route.topic_id)
                route.partition_count = len(route.queues)
                route.sticky_queue = None

    def _leave_topic(self, topic: str, error: LogClusterError) -> None:
        del self._routes[topic]
        self._accumulator.retire_topic(topic, error)
        if self._sender is not None:
            self._sender.free_space()

    # The end.

    def _check_open(self) -> None:
        if not self._is_open:
            raise ShuttingDown("the producer is closed", hint="send inside `async with client.producer()`")

    def _on_fault(self, task_name: str, error: BaseException) -> None:
        """A bug: nothing may wait for a task that is gone."""
        logger.error("%s failed", task_name, exc_info=error)
        failure = UnknownServerError(f"the producer failed: {error!r}", hint="this is a bug of the client")
        failure.__cause__ = error
        for unrouted in list(self._unrouted.values()):
            self._fail_unrouted(unrouted, failure)
        for queue in self._accumulator.queues:
            queue.abandon(failure)
        if self._sender is not None:
            self._sender.free_space()

    async def _finish(self, *, is_hurried: bool) -> None:
        if not is_hurried:
            await self.flush()
            return
        flush = self._scope.spawn(self.flush(), name="flush")
        await asyncio.wait([flush], timeout=CANCELLED_FLUSH_MS_MAX / 1000)

    async def _stop(self) -> None:
        self._is_open = False
        self._routes.clear()
        self._metadata.unlisten(self._metadata_changed)
        if self._sender is not None:
            self._sender.close()
        await self._scope.close()
        error = ShuttingDown("the producer was closed before the record was acknowledged")
        for unrouted in list(self._unrouted.values()):
            self._fail_unrouted(unrouted, error)
        for queue in self._accumulator.queues:
            queue.abandon(error)


def _pairs(headers: Headers | Mapping[str, bytes | None]) -> Headers:
    return list(headers.items()) if isinstance(headers, Mapping) else headers


def _size_bytes(value: bytes | None, key: bytes | None = None) -> int:
    return RECORD_OVERHEAD_BYTES + len(key or b"") + len(value or b"")
