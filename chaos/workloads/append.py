"""`append`: writes records in bursts, at a rate, in every way a producer can be asked to.

A record's `send` is written in the same instant in which the client takes the record, before the loop can send anything
of it, because only then is the partition known that the client chose. Each producer has a voice of its own, so that the
order of its pipelined sends can be judged; bulk calls have one each, because they run beside it.
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Final, Literal

import msgspec

from chaos.workloads.recording import Operation, Voice
from chaos.workloads.records import OutgoingRecord, key_of
from chaos.workloads.worker import Count, Options, Positive, Probability, Worker
from logcluster.client.client import Client
from logcluster.client.futures import RecordFuture
from logcluster.client.producer import Producer
from logcluster.client.records import RecordAck, RecordsLost
from logcluster.model.errors import LogClusterError
from logcluster.runtime.scope import TaskScope

COMPRESSIONS: Final = ("none", "gzip", "snappy", "lz4", "zstd")
BUFFER_PAUSE_MS: Final = 10
Sent = tuple[Operation, RecordFuture]


class AppendOptions(Options, frozen=True, kw_only=True):
    """Options of `append`.

    `idempotent` null: as the client does by default. `compression` mixed: a producer of each kind. `partitions`: only
    these; null: those that the client chooses, and now and then one that is named. `bulk_probability`: share of bursts
    that are one call of `send_many`. `open_records_max`: while so many wait for their outcome, no more are sent.
    `renew_after_records`: then the producer is closed, and another one has another identity; 0: never.
    """

    acks: Literal["all", 1, 0] = "all"
    idempotent: bool | None = None
    compression: Literal["none", "gzip", "snappy", "lz4", "zstd", "mixed"] = "mixed"
    rate: Positive = 200
    """Records per second, on average."""
    burst_records_max: Positive = 20
    bulk_probability: Probability = 0.2
    keyed_probability: Probability = 0.5
    header_probability: Probability = 0.1
    named_probability: Probability = 0.2
    partitions: tuple[Count, ...] | None = None
    size_bytes_min: Count = 0
    size_bytes_max: Annotated[int, msgspec.Meta(ge=0, le=900_000)] = 1_000
    linger_ms: Annotated[int, msgspec.Meta(ge=0, le=60_000)] = 2
    batch_size_bytes: Positive = 65_536
    max_in_flight: Annotated[int, msgspec.Meta(ge=1, le=5)] = 5
    delivery_timeout_ms: Positive = 10_000
    buffer_size_bytes: Positive = 8 * 1024 * 1024
    open_records_max: Positive = 2_000
    renew_after_records: Count = 20_000

    def problem(self) -> str | None:
        if self.idempotent and self.acks != "all":
            return f"idempotent needs acks all, not {self.acks}"
        if self.size_bytes_min > self.size_bytes_max:
            return f"size_bytes_min {self.size_bytes_min} is above size_bytes_max {self.size_bytes_max}"
        if self.partitions == ():
            return "partitions names none; leave it out for all"
        return None

    @property
    def is_idempotent(self) -> bool:
        return self.acks == "all" if self.idempotent is None else self.idempotent


@dataclass(frozen=True, slots=True)
class _Line:
    """One producer and its voice."""

    producer: Producer
    voice: Voice


class AppendWorker(Worker):
    """See the top of the file."""

    options_type: ClassVar[type[Options]] = AppendOptions

    @property
    def options(self) -> AppendOptions:
        options = self._common
        assert isinstance(options, AppendOptions)
        return options

    async def work(self, client: Client) -> None:
        options = self.options
        counts = await self.find_topics(client)
        compressions = COMPRESSIONS if options.compression == "mixed" else (options.compression,)
        meta: dict[str, Any] = {"acks": options.acks, "idempotent": options.is_idempotent}
        left = options.renew_after_records or 1 << 62
        async with AsyncExitStack() as stack:
            lines = []
            for compression in compressions:
                producer = await stack.enter_async_context(self._producer(client, compression))
                lines.append(_Line(producer, self.voice()))
            try:
                async with TaskScope("append", on_fault=self.crashed) as scope:
                    while not self.is_over and left > 0:
                        count = self.rng.randint(1, options.burst_records_max)
                        left -= count
                        await self.rest(self.pause_ms(1_000 * count / options.rate))
                        while not self.is_over and self.open_count >= options.open_records_max:
                            await self.clock.sleep_ms(BUFFER_PAUSE_MS)
                        if not self.is_over:
                            self._burst(scope, self.rng.choice(lines), counts, count, meta)
                    await self.settle()
            finally:
                for line in lines:
                    line.voice.abandon("the producer is gone")
                    self.release(line.voice)

    def _producer(self, client: Client, compression: str) -> Producer:
        options = self.options
        return client.producer(
            acks=options.acks,
            idempotent=options.idempotent,
            compression=compression,
            linger_ms=options.linger_ms,
            batch_size_bytes=options.batch_size_bytes,
            max_in_flight=options.max_in_flight,
            delivery_timeout_ms=options.delivery_timeout_ms,
            buffer_size_bytes=options.buffer_size_bytes,
        )

    def _burst(self, scope: TaskScope, line: _Line, counts: dict[str, int], count: int, meta: dict[str, Any]) -> None:
        topic = self.rng.choice(list(counts))
        if self.rng.random() < self.options.bulk_probability:
            scope.spawn(self._send_many(line.producer, topic, self._name(counts[topic]), count, meta), name="bulk")
            return
        by_key: dict[str, list[Sent]] = {}
        for _ in range(count):
            sent = self._send(line, topic, counts[topic], meta)
            if sent is not None:
                by_key.setdefault(sent[0].value[0], []).append(sent)
        self.writer.flush()
        for key, several in by_key.items():
            scope.spawn(self._settle(line.voice, several), name=key)

    def _make_record(self) -> OutgoingRecord:
        options = self.options
        return self.records.make(
            size_bytes=self.rng.randint(options.size_bytes_min, options.size_bytes_max),
            keyed_probability=options.keyed_probability,
            header_probability=options.header_probability,
        )

    def _name(self, partition_count: int) -> int:
        """A partition, to be named to the client."""
        return self.rng.choice(self.options.partitions or range(partition_count))

    def _send(self, line: _Line, topic: str, partition_count: int, meta: dict[str, Any]) -> Sent | None:
        """Give one record to the client and write down where it goes; None when the client did not take it."""
        record = self._make_record()
        # A producer that does not know the topic yet chooses only when nobody can see where.
        is_named = (
            self.options.partitions is not None
            or topic not in line.producer._routes
            or self.rng.random() < self.options.named_probability
        )
        partition = self._name(partition_count) if is_named else None
        try:
            future = line.producer.send_nowait(
                topic, record.payload, record.key, record.headers, partition, record.timestamp_ms
            )
        except LogClusterError as error:
            value = [key_of(topic, partition or 0), None, record.value]
            line.voice.failed(line.voice.invoke("send", value, is_flushed=False, **meta), error)
            return None
        key = key_of(topic, future._batch.partition if partition is None else partition)
        return line.voice.invoke("send", [key, None, record.value], is_flushed=False, **meta), future

    async def _settle(self, voice: Voice, sent: list[Sent]) -> None:
        """Wait for records of one partition, which are acknowledged in their order."""
        for operation, future in sent:
            try:
                acked = await future
            except LogClusterError as error:
                voice.failed(operation, error)
            else:
                _note_ack(voice, operation, acked)

    async def _send_many(
        self, producer: Producer, topic: str, partition: int, count: int, meta: dict[str, Any]
    ) -> None:
        options = self.options
        sizes = [self.rng.randint(options.size_bytes_min, options.size_bytes_max) for _ in range(count)]
        records = [self.records.make_plain(size_bytes) for size_bytes in sizes]
        voice = self.voice()
        key = key_of(topic, partition)
        operations = [voice.invoke("send", [key, None, value], is_flushed=False, **meta) for value, _ in records]
        self.writer.flush()
        outcomes: list[RecordAck | LogClusterError] = []
        try:
            outcomes += await producer.send_many(topic, [payload for _, payload in records], partition=partition)
        except RecordsLost as error:
            outcomes = list(error.outcomes) or [error] * count
        except LogClusterError as error:
            for operation in operations:
                voice.failed(operation, error, is_doubtful=True)
        for operation, outcome in zip(operations, outcomes, strict=False):
            if isinstance(outcome, LogClusterError):
                voice.failed(operation, outcome)
            else:
                _note_ack(voice, operation, outcome)
        self.release(voice)


def _note_ack(voice: Voice, operation: Operation, acked: RecordAck) -> None:
    """The acknowledgement says where the record is; with acks none nobody knows."""
    offset = acked.offset if acked.offset >= 0 else None
    voice.ok(operation, [key_of(acked.topic, acked.partition), offset, operation.value[2]])
