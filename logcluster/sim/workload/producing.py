"""Producers: singles that wait for their acknowledgement, bursts that do not, every way of asking for it.

A record's `send` is written to the history in the same instant in which the client takes the record, before the loop
can send anything of it, because only then is the partition known that the client chose. Its value says who sent it and
carries a checksum; key, timestamp and headers are noted in the books, to be compared with what readers get.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Final

from logcluster.check.payload import encode
from logcluster.client.client import Client
from logcluster.client.futures import RecordFuture
from logcluster.client.producer import Producer
from logcluster.model.errors import LogClusterError
from logcluster.runtime.scope import TaskScope
from logcluster.sim.workload.actor import Actor
from logcluster.sim.workload.books import Books, Operation, SentRecord, Speaker, TopicState
from logcluster.sim.workload.options import ProducerOptions

if TYPE_CHECKING:
    from logcluster.client.records import RecordAck
    from logcluster.sim.process import Process
    from logcluster.sim.world import World

BURSTS_OPEN_MAX: Final = 3
SEND_MANY_SHARE: Final = 0.25
BUFFER_SIZE_BYTES: Final = 2 * 1024 * 1024
KEYS: Final = tuple(f"k{number}".encode() for number in range(12))
NO_TOPIC_PAUSE_MS: Final = 50
_SIZES_BYTES: Final = {
    "small": (0, 60, 120),
    "mixed": (0, 60, 200, 1_000, 3_000),
    "large": (0, 500, 2_500, 9_000),
}


class ProducingActor(Actor):
    """One producing client."""

    def __init__(self, world: World, books: Books, rng: random.Random, options: ProducerOptions) -> None:
        super().__init__(world, books, rng, options.name)
        self._options = options
        self._sent_count = 0
        self._rounds = 0
        records_per_round = 1 + options.burst_probability * (options.burst_records_max / 2)
        self._round_interval_ms = 1000 * records_per_round / max(1, options.records_per_s)
        self._burst_records_open_max = BURSTS_OPEN_MAX * options.burst_records_max
        self._meta = {"acks": options.acks, "idempotent": options.idempotent}

    def begin(self) -> None:
        self._single = self.speaker()
        self._burst = self.speaker()

    async def work(self, client: Client, process: Process) -> None:
        options = self._options
        self._rounds = 0
        async with (
            client.producer(
                acks=options.acks,
                idempotent=options.idempotent,
                compression=options.compression,
                linger_ms=options.linger_ms,
                batch_size_bytes=options.batch_size_bytes,
                max_in_flight=options.max_in_flight,
                delivery_timeout_ms=options.delivery_timeout_ms,
                buffer_size_bytes=BUFFER_SIZE_BYTES,
            ) as producer,
            TaskScope(self.name, on_fault=self.note_fault) as scope,
        ):
            scope.spawn(self._send_bursts(producer, process, scope), name="bursts")
            await self._send_singles(producer, process)
            while self.has_open_operations:
                await process.clock.sleep_ms(20)

    @property
    def _is_over(self) -> bool:
        return self.is_stopping or self._rounds >= self._options.renew_after_sends

    async def _send_singles(self, producer: Producer, process: Process) -> None:
        share = 1.0 - self._options.burst_probability
        while not self._is_over:
            await self.rest(process, self.pause_ms(self._round_interval_ms / max(share, 0.05)))
            topic = self._pick_topic()
            if topic is None or self._is_over:
                await process.clock.sleep_ms(NO_TOPIC_PAUSE_MS)
                continue
            self._rounds += 1
            sent = self._send(producer, process, topic, self._single)
            if sent is not None:
                await self._settle(self._single, *sent)

    async def _send_bursts(self, producer: Producer, process: Process, scope: TaskScope) -> None:
        share = self._options.burst_probability
        while share and not self._is_over:
            await self.rest(process, self.pause_ms(self._round_interval_ms / share))
            topic = self._pick_topic()
            if topic is None or self._is_over or self._burst.open_count >= self._burst_records_open_max:
                continue
            self._rounds += 1
            count = self.rng.randint(1, self._options.burst_records_max)
            if self.rng.random() < SEND_MANY_SHARE:
                scope.spawn(self._send_many(producer, topic, count), name="many")
                continue
            sent = [self._send(producer, process, topic, self._burst) for _ in range(count)]
            scope.spawn(self._settle_burst([one for one in sent if one is not None]), name="burst")

    async def _settle_burst(self, sent: list[tuple[Operation, RecordFuture]]) -> None:
        for operation, future in sent:
            await self._settle(self._burst, operation, future)

    async def _send_many(self, producer: Producer, topic: TopicState, count: int) -> None:
        """The bulk call; when some records are lost it does not say which, so then all are in doubt."""
        state = self.rng.choice(topic.keys)
        values = [self._new_value() for _ in range(count)]
        payloads = [encode(value, self.rng.choice(_SIZES_BYTES[self._options.sizes])) for value in values]
        for value in values:
            self.books.sent[value] = SentRecord(None, None, ())
        speaker = self.speaker()  # it runs beside the bursts, and may wait while they do not
        operations = [speaker.invoke("send", [state.key, None, value], **self._meta) for value in values]
        try:
            acks = await producer.send_many(topic.name, payloads, partition=state.partition)
        except LogClusterError as error:
            for operation in operations:
                speaker.doubted(operation, error)
        else:
            for operation, ack in zip(operations, acks, strict=True):
                self._acked(speaker, operation, ack)
        self.release(speaker)

    # -- one record -----------------------------------------------------------------------------------------------

    def _pick_topic(self) -> TopicState | None:
        topics = self.books.usable_topics()
        return self.rng.choice(topics) if topics else None

    def _send(
        self, producer: Producer, process: Process, topic: TopicState, speaker: Speaker
    ) -> tuple[Operation, RecordFuture] | None:
        """Give one record to the client and write down where it goes; None when the client did not take it."""
        value = self._new_value()
        rng = self.rng
        record = SentRecord(
            key=rng.choice(KEYS) if rng.random() < self._options.keyed_probability else None,
            timestamp_ms=process.clock.now_ms(),
            headers=(("id", value.encode()),) if rng.random() < self._options.header_probability else (),
        )
        # A partition that is not the client's choice is known even while the client does not know the topic yet.
        is_chosen_here = not producer_knows(producer, topic.name) or rng.random() < 0.2
        partition = rng.randrange(len(topic.keys)) if is_chosen_here else None
        payload = encode(value, rng.choice(_SIZES_BYTES[self._options.sizes]))
        self.books.sent[value] = record
        try:
            future = producer.send_nowait(
                topic.name, payload, record.key, record.headers, partition, record.timestamp_ms
            )
        except LogClusterError as error:
            key = f"{topic.name}-{partition or 0}"
            operation = speaker.invoke("send", [key, None, value], **self._meta)
            speaker.failed(operation, [key, None, value], error)
            return None
        index = partition if partition is not None else future._batch.partition
        key = self.books.key_state(topic.name, index).key
        return speaker.invoke("send", [key, None, value], **self._meta), future

    def _new_value(self) -> str:
        self._sent_count += 1
        return f"{self.name}-{self._sent_count}"

    async def _settle(self, speaker: Speaker, operation: Operation, future: RecordFuture) -> None:
        try:
            ack = await future
        except LogClusterError as error:
            speaker.failed(operation, operation.value, error)
        else:
            self._acked(speaker, operation, ack)

    def _acked(self, speaker: Speaker, operation: Operation, ack: RecordAck) -> None:
        key = f"{ack.topic}-{ack.partition}"
        speaker.ok(operation, [key, ack.offset if ack.offset >= 0 else None, operation.value[2]])
        if self._options.acks == "all" and ack.offset >= 0:
            self.books.note_acked(ack.topic, ack.partition, ack.offset)


def producer_knows(producer: Producer, topic: str) -> bool:
    """Whether a record without a partition gets one at once."""
    return topic in producer._routes
