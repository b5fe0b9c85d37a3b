"""`read`: reads partitions by assignment, from their beginning, and follows their ends.

An `assign` names where each partition begins, as the client resolved it; what follows until the next one is read in
order. After an error the consumer is made anew and goes on behind the last record that was written down. Now and then
it is given up for another one, which goes on, or begins again: what was read once must be there for good.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Any, ClassVar, Final, Literal, cast

from chaos.workloads.recording import Voice
from chaos.workloads.records import key_of, names_of, polled, positions_of
from chaos.workloads.worker import Count, Options, Positive, Probability, Worker
from logcluster.client.client import Client
from logcluster.client.consumer import Consumer
from logcluster.client.records import ConsumerRecord, Point
from logcluster.model.errors import LogClusterError, OffsetOutOfRange

BATCHES_SHARE: Final = 0.15
"""Of assignments that are read batch by batch; the others take what comes within some time."""


class ReadOptions(Options, frozen=True, kw_only=True):
    """Options of `read`.

    `partitions`: only these, of each topic. `reassign_ms`: so long one assignment lasts, on average; 0: for ever.
    `rewind_probability`: share of assignments that begin again at the beginning.
    """

    partitions: tuple[Count, ...] | None = None
    isolation: Literal["read_uncommitted", "read_committed"] = "read_uncommitted"
    poll_ms: Positive = 100
    records_per_poll_max: Positive = 500
    max_wait_ms: Positive = 200
    partition_size_bytes_max: Positive = 262_144
    buffer_size_bytes: Positive = 4 * 1024 * 1024
    reassign_ms: Count = 15_000
    rewind_probability: Probability = 0.2

    def problem(self) -> str | None:
        return "partitions names none; leave it out for all" if self.partitions == () else None


class ReadWorker(Worker):
    """See the top of the file."""

    options_type: ClassVar[type[Options]] = ReadOptions

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self._reached: dict[str, int] = {}
        """The offset behind the last record that was written down, by partition."""

    @property
    def options(self) -> ReadOptions:
        options = self._common
        assert isinstance(options, ReadOptions)
        return options

    async def work(self, client: Client) -> None:
        voice = self.voice()
        try:
            while not self.is_over:
                keys = await self._find_keys(client)
                if self.rng.random() < self.options.rewind_probability:
                    self._reached.clear()
                await self._read(client, voice, keys)
        finally:
            self.release(voice)

    async def _find_keys(self, client: Client) -> list[str]:
        counts = await self.find_topics(client)
        wanted = self.options.partitions
        return [
            key_of(topic, partition)
            for topic, count in counts.items()
            for partition in range(count)
            if wanted is None or partition in wanted
        ]

    async def _read(self, client: Client, voice: Voice, keys: list[str]) -> None:
        """One assignment."""
        options = self.options
        start: dict[tuple[str, int], Point] = {}
        for key, name in zip(keys, names_of(keys), strict=True):
            start[name] = self._reached.get(key, "earliest")
        deadline_ms = self.clock.monotonic_ms() + (self.pause_ms(options.reassign_ms) or 1 << 62)
        assign = voice.invoke("assign", {key: self._reached.get(key, "earliest") for key in keys})
        try:
            async with client.consumer(
                *dict.fromkeys(topic for topic, _ in start),
                partitions=list(start),
                start=start,
                isolation=options.isolation,
                max_wait_ms=options.max_wait_ms,
                partition_size_bytes_max=options.partition_size_bytes_max,
                buffer_size_bytes=options.buffer_size_bytes,
            ) as consumer:
                voice.ok(assign, positions_of(consumer))
                await self._poll_until(consumer, voice, deadline_ms)
        except LogClusterError as error:
            voice.refused(assign, error)  # unless it had succeeded, and a poll failed
            if isinstance(error, OffsetOutOfRange):
                self._reached.clear()
            raise

    async def _poll_until(self, consumer: Consumer, voice: Voice, deadline_ms: float) -> None:
        options = self.options
        if self.rng.random() >= BATCHES_SHARE:
            await self._poll_with(
                lambda: consumer.read(options.records_per_poll_max, timeout_ms=options.poll_ms), voice, deadline_ms
            )
            return
        batches = consumer.batches(max_records=options.records_per_poll_max, max_wait_ms=options.poll_ms)
        async with aclosing(cast("AsyncGenerator[list[ConsumerRecord], None]", batches)) as generator:
            await self._poll_with(lambda: anext(generator), voice, deadline_ms)

    async def _poll_with(
        self,
        take: Callable[[], Awaitable[list[ConsumerRecord]]],
        voice: Voice,
        deadline_ms: float,
    ) -> None:
        while not self.is_over and self.clock.monotonic_ms() < deadline_ms:
            poll = voice.invoke("poll", {})
            try:
                records = await take()
            except LogClusterError as error:
                voice.refused(poll, error)
                raise
            voice.ok(poll, polled(records))
            for record in records:
                self._reached[key_of(record.topic, record.partition)] = record.offset + 1
