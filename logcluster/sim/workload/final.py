"""What fresh clients do when the faults are over: prove that every partition takes writes, and read everything.

The reader assigns every partition, begins at the beginning and polls until it has passed the highest offset that
anybody saw committed and the high watermark; every ten virtual seconds it is replaced by another one that begins again,
which rules out that only a client is stuck (Jepsen's final polls). Topics that may lose acknowledged records, because
they ask for fewer than two synced copies, are read up to their high watermark only.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Final

from logcluster.check.payload import encode
from logcluster.client.client import Client
from logcluster.client.consumer import Consumer
from logcluster.client.producer import Producer
from logcluster.model.errors import LogClusterError
from logcluster.runtime.scope import TaskScope
from logcluster.sim.invariants.view import hosted_partitions
from logcluster.sim.workload.actor import Actor
from logcluster.sim.workload.books import Books, KeyState, SentRecord, Speaker, TopicState
from logcluster.sim.workload.consuming import polled, positions_of

if TYPE_CHECKING:
    from logcluster.sim.process import Process
    from logcluster.sim.world import World

POLL_MS: Final = 200
RECORDS_PER_POLL_MAX: Final = 500
PROBE_DELIVERY_TIMEOUT_MS: Final = 2_000
STRICT_MIN_ISR: Final = 2


def _promised_keys(books: Books) -> list[KeyState]:
    return [state for topic in books.promised_topics() for state in topic.keys]


class DrainingActor(Actor):
    """Reads every partition from its beginning, once, and then is `is_complete`."""

    def __init__(self, world: World, books: Books, rng: random.Random, name: str) -> None:
        super().__init__(world, books, rng, name)
        self.is_complete = False
        self.missing: dict[str, str] = {}
        """Partitions that are not read to their end, with how far they are."""

    def begin(self) -> None:
        self._voice = self.speaker()
        self.missing = {state.key: "not looked at" for state in _promised_keys(self.books)}

    async def work(self, client: Client, process: Process) -> None:
        targets: dict[str, int] = {}
        topics = self.books.promised_topics()
        unknown: dict[str, str] = {}
        for topic in topics:
            try:
                targets |= await self._targets_of(client, topic)
            except LogClusterError as error:
                unknown |= {state.key: f"{type(error).__name__}: {error.message}" for state in topic.keys}
        if targets:
            await self._read(
                client, [state for topic in topics for state in topic.keys if state.key in targets], targets
            )
        self.missing = unknown
        if unknown:
            await process.clock.sleep_ms(POLL_MS)
            return  # and look again, with another connection
        for topic in topics:
            if topic.options.is_trimmed:
                await self._note_retention(client, topic)
        self.is_complete = self.is_stopping = True

    async def _targets_of(self, client: Client, topic: TopicState) -> dict[str, int]:
        """Up to where each partition must be readable."""
        ends = await client.admin.list_offsets(topic.name, "latest")
        topic.grow(len(ends))
        is_strict = topic.options.is_durable and topic.options.min_isr >= STRICT_MIN_ISR
        return {
            state.key: max(end, state.committed_next_offset) if is_strict else end
            for state, end in zip(topic.keys, ends, strict=False)
        }

    async def _read(self, client: Client, states: list[KeyState], targets: dict[str, int]) -> None:
        voice = self._voice
        assign = voice.invoke("assign", {state.key: "earliest" for state in states}, drain=True)
        try:
            async with client.consumer(
                *dict.fromkeys(state.topic.name for state in states),
                partitions=[(state.topic.name, state.partition) for state in states],
                start="earliest",
                max_wait_ms=POLL_MS,
            ) as consumer:
                voice.ok(assign, positions_of(consumer))
                while not self._has_passed(consumer, targets):
                    await self._poll(consumer, voice)
                # Also of partitions where nothing was: they have been drained, too.
                voice.ok(voice.invoke("poll", {}, drain=True), {key: [] for key in targets})
        except LogClusterError as error:
            voice.refused(assign, assign.value, error)
            raise

    async def _note_retention(self, client: Client, topic: TopicState) -> None:
        """What retention deleted nobody has asked for; tell the checker where the logs begin.

        Every replica deletes for itself, and the leader that was read from may be none any more: the latest beginning
        that any replica has counts.
        """
        starts = await client.admin.list_offsets(topic.name, "earliest")
        value = {
            state.key: max(start, self._latest_start(state)) for state, start in zip(topic.keys, starts, strict=False)
        }
        self._voice.ok(self._voice.invoke("delete_records", value, retention=True), value)

    def _latest_start(self, state: KeyState) -> int:
        return max(
            (
                partition.log.log_start_offset
                for machine in self.world.nodes.values()
                if machine.node is not None
                for partition in hosted_partitions(machine.node).values()
                if (partition.topic, partition.index) == (state.topic.name, state.partition)
            ),
            default=0,
        )

    async def _poll(self, consumer: Consumer, voice: Speaker) -> None:
        poll = voice.invoke("poll", {}, drain=True)
        try:
            records = await consumer.read(RECORDS_PER_POLL_MAX, timeout_ms=POLL_MS)
        except LogClusterError as error:
            voice.refused(poll, {}, error)
            raise
        voice.ok(poll, polled(self.books, records))

    def _has_passed(self, consumer: Consumer, targets: dict[str, int]) -> bool:
        positions = positions_of(consumer)
        self.missing = {
            key: f"at {positions.get(key)} of {target}"
            for key, target in targets.items()
            if positions.get(key, -1) < target
        }
        return not self.missing


class ProbingActor(Actor):
    """Writes one record to every partition with `acks=all`, and then is `is_complete`."""

    def __init__(self, world: World, books: Books, rng: random.Random, name: str) -> None:
        super().__init__(world, books, rng, name)
        self.is_complete = False
        self.missing: dict[str, str] = {state.key: "not tried" for state in _promised_keys(books)}
        self._sent_count = 0

    async def work(self, client: Client, process: Process) -> None:
        states = [state for state in self.books.usable_keys() if state.key in self.missing]
        async with (
            client.producer(delivery_timeout_ms=PROBE_DELIVERY_TIMEOUT_MS) as producer,
            TaskScope(self.name, on_fault=self.note_fault) as scope,
        ):
            for state in states:
                scope.spawn(self._write(producer, process, state, self.speaker()), name=state.key)
            while self.missing:
                await process.clock.sleep_ms(20)
        self.is_complete = self.is_stopping = True

    async def _write(self, producer: Producer, process: Process, state: KeyState, voice: Speaker) -> None:
        while not state.topic.is_deleted:
            self._sent_count += 1
            value = f"{self.name}-{self._sent_count}"
            self.books.sent[value] = SentRecord(None, None, ())
            send = voice.invoke("send", [state.key, None, value], acks="all", idempotent=True)
            try:
                ack = await producer.send(state.topic.name, encode(value), partition=state.partition)
            except LogClusterError as error:
                voice.failed(send, send.value, error)
                self.missing[state.key] = f"{type(error).__name__}: {error.message}"
                await process.clock.sleep_ms(50)
                continue
            voice.ok(send, [state.key, ack.offset, value])
            self.books.note_acked(ack.topic, ack.partition, ack.offset)
            break
        self.missing.pop(state.key, None)
