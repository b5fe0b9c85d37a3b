"""Consumers by assignment: they take some partitions, read on in order, seek, give up and take others.

An `assign` names where each partition begins, as the client resolved it; what follows until the next `assign` is read
in order. A poll that failed may have taken records that nobody got, so the consumer is always opened anew after one.
A third of the time partitions with unread records are chosen (Jepsen's PollUnseen).
"""

from __future__ import annotations

import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Final, cast

from logcluster.check.payload import corrupt_value, decode_or_mark, is_corrupt
from logcluster.client.client import Client
from logcluster.client.consumer import Consumer
from logcluster.client.records import ConsumerRecord, Point
from logcluster.model.errors import LogClusterError
from logcluster.sim.workload.actor import Actor
from logcluster.sim.workload.books import Books, KeyState, Operation, Speaker
from logcluster.sim.workload.options import ConsumerOptions

if TYPE_CHECKING:
    from logcluster.sim.process import Process
    from logcluster.sim.world import World

UNREAD_SHARE: Final = 0.34
EARLIEST_SHARE: Final = 0.12
"""Also of the end, and of some offset; otherwise a consumer goes on where the furthest one was."""
BATCHES_SHARE: Final = 0.5
REASSIGN_DELAY_MS: Final = 30


def read_value(books: Books, record: ConsumerRecord) -> str:
    """The value of a record for the history: a mark of corruption when anything differs from what was sent."""
    value = decode_or_mark(record.value)
    if is_corrupt(value):
        return value
    sent = books.sent.get(value)
    if sent is None:
        return value  # the checker says that nobody sent it
    if record.key != sent.key:
        return corrupt_value(f"key of {value} is {record.key!r}, was {sent.key!r}")
    if sent.timestamp_ms is not None and record.timestamp_ms != sent.timestamp_ms:
        return corrupt_value(f"timestamp of {value} is {record.timestamp_ms}, was {sent.timestamp_ms}")
    if tuple(record.headers) != sent.headers:
        return corrupt_value(f"headers of {value} are {record.headers!r}, were {sent.headers!r}")
    return value


def polled(books: Books, records: Sequence[ConsumerRecord]) -> dict[str, list[list[object]]]:
    """A poll's value; notes in the books what was read."""
    found: dict[str, list[list[object]]] = {}
    for record in records:
        key = books.note_read(record.topic, record.partition, record.offset)
        found.setdefault(key, []).append([record.offset, read_value(books, record)])
    return found


def positions_of(consumer: Consumer) -> dict[str, int]:
    """Where each partition goes on, as an `assign` names it."""
    return {f"{name.topic}-{name.partition}": offset for name, offset in consumer.positions().items()}


class ConsumingActor(Actor):
    """One consuming client."""

    def __init__(self, world: World, books: Books, rng: random.Random, options: ConsumerOptions) -> None:
        super().__init__(world, books, rng, options.name)
        self._options = options

    def begin(self) -> None:
        self._voice = self.speaker()

    async def work(self, client: Client, process: Process) -> None:
        # One connection serves some assignments; then the client is made anew.
        for _ in range(self.rng.randint(1, 6)):
            if self.is_stopping:
                return
            keys = self._choose_keys()
            if not keys:
                await process.clock.sleep_ms(REASSIGN_DELAY_MS)
                continue
            await self._read(client, keys)
            await self.rest(process, self.rng.randint(1, self._options.idle_ms_max))

    # -- one assignment -------------------------------------------------------------------------------------------

    def _choose_keys(self) -> list[KeyState]:
        keys = list(self.books.usable_keys())
        unread = [state for state in keys if state.has_unread]
        if unread and self.rng.random() < UNREAD_SHARE:
            keys = unread
        return self.rng.sample(keys, self.rng.randint(1, len(keys))) if keys else []

    def _choose_start(self, state: KeyState) -> Point:
        choice = self.rng.random()
        if choice < EARLIEST_SHARE:
            return "earliest"
        if choice < 2 * EARLIEST_SHARE:
            return "latest"
        if choice < 3 * EARLIEST_SHARE and not state.topic.options.is_trimmed:
            return self.rng.randint(0, state.committed_next_offset)
        return state.read_next_offset

    async def _read(self, client: Client, keys: list[KeyState]) -> None:
        options = self._options
        voice = self._voice
        start = {(state.topic.name, state.partition): self._choose_start(state) for state in keys}
        assign = voice.invoke("assign", {state.key: start[state.topic.name, state.partition] for state in keys})
        try:
            async with client.consumer(
                *dict.fromkeys(state.topic.name for state in keys),
                partitions=list(start),
                start=start,
                isolation="read_committed" if options.isolation == "read_committed" else "read_uncommitted",
                max_wait_ms=options.max_wait_ms,
                partition_size_bytes_max=options.partition_size_bytes_max,
                buffer_size_bytes=options.buffer_size_bytes,
            ) as consumer:
                voice.ok(assign, positions_of(consumer))
                try:
                    await self._poll_some(consumer, voice)
                finally:
                    self.look_at(consumer._scope)
        except LogClusterError as error:
            voice.refused(assign, assign.value, error)  # unless it had succeeded, and a poll failed

    async def _poll_some(self, consumer: Consumer, voice: Speaker) -> None:
        options = self._options
        if self.rng.random() >= BATCHES_SHARE:
            await self._poll_with(
                consumer,
                voice,
                lambda: consumer.read(
                    options.records_per_poll_max, timeout_ms=self.rng.randint(1, options.poll_ms_max)
                ),
            )
            return
        wait_ms = self.rng.randint(1, options.poll_ms_max)
        batches = consumer.batches(max_records=options.records_per_poll_max, max_wait_ms=wait_ms)
        async with aclosing(cast("AsyncGenerator[list[ConsumerRecord], None]", batches)) as generator:
            await self._poll_with(consumer, voice, lambda: anext(generator))

    async def _poll_with(
        self, consumer: Consumer, voice: Speaker, take: Callable[[], Awaitable[list[ConsumerRecord]]]
    ) -> None:
        for _ in range(self.rng.randint(1, self._options.polls_max)):
            if self.is_stopping:
                return
            if self.rng.random() < self._options.seek_probability:
                await self._seek(consumer, voice)
            poll = voice.invoke("poll", {})
            try:
                records = await take()
            except LogClusterError as error:
                voice.refused(poll, {}, error)
                raise
            voice.ok(poll, polled(self.books, records))

    async def _seek(self, consumer: Consumer, voice: Speaker) -> None:
        """Move one partition to another place."""
        name = self.rng.choice(consumer.assignment)
        state = self.books.key_state(name.topic, name.partition)
        point = self._choose_start(state)
        seek: Operation = voice.invoke("seek", {state.key: point})
        try:
            await consumer.seek(point, partition=(name.topic, name.partition))
        except LogClusterError as error:
            voice.refused(seek, seek.value, error)
            raise
        voice.ok(seek, {state.key: positions_of(consumer).get(state.key)})
