"""A client that speaks the protocol by itself: late repetitions, wrong epochs, wrong brokers, garbage, odd fetches.

Its own sends are events like anybody's. What the history cannot show is reported here: a repetition that was appended
a second time, a leader epoch from the future that was believed, garbage that was accepted or broke the server,
records handed out from beyond the high watermark. Sequences are its own: after a definite refusal a sequence is used
again, after an unknown outcome the producer id is given up. A repetition must meet a memory of the first, so they go
only to topics whose acknowledged records no permitted fault can remove.
"""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from logcluster.check.payload import encode
from logcluster.client.client import Client
from logcluster.client.connections import Stubs, call
from logcluster.client.metadata_cache import PartitionFacts
from logcluster.model.errors import (
    LeaderNotAvailable,
    LogClusterError,
    OutOfOrderSequenceNumber,
    UnknownServerError,
)
from logcluster.record.builder import build_batch
from logcluster.rpc.channels import ChannelPool
from logcluster.sim.workload.actor import Actor
from logcluster.sim.workload.books import Books, KeyState, Operation, SentRecord
from logcluster.sim.workload.garbage import make_garbage
from logcluster.sim.workload.options import HostileOptions
from logcluster.sim.workload.peek import peek
from logcluster.wire.gen.logcluster.v1 import data_pb2 as pb
from logcluster.wire.status import error_from_detail

if TYPE_CHECKING:
    from logcluster.sim.process import Process
    from logcluster.sim.world import World

CALL_TIMEOUT_MS: Final = 1_500
REMEMBERED_MAX: Final = 24
RECORDS_MAX: Final = 4
FUTURE_EPOCHS: Final = 1_000
PEEK_SHARE: Final = 0.2
TYPED_SHARE: Final = 0.2
STRICT_MIN_ISR: Final = 2


@dataclass(slots=True)
class Identity:
    """A producer id in one partition."""

    producer_id: int
    producer_epoch: int
    next_sequence: int = 0


@dataclass(slots=True)
class RememberedBatch:
    """A request that may come again. `base_offset` is None as long as nobody said where it is."""

    state: KeyState
    batch: bytes
    due_ms: int
    base_offset: int | None = None
    values: list[str] = field(default_factory=list)


class HostileActor(Actor):
    """One hostile client."""

    def __init__(self, world: World, books: Books, rng: random.Random, options: HostileOptions) -> None:
        super().__init__(world, books, rng, options.name)
        self._options = options
        self._sent_count = 0
        self._remembered: deque[RememberedBatch] = deque(maxlen=REMEMBERED_MAX)
        """Survives the process: a repetition may come from the network long after its sender has died."""

    def begin(self) -> None:
        self._voice = self.speaker()
        self._reader = self.speaker()
        self._identities: dict[str, Identity] = {}

    async def work(self, client: Client, process: Process) -> None:
        self._client = client
        self._process = process
        self._channels = ChannelPool(clock=process.clock, network=process.network)
        self._stubs_by_broker: dict[int, Stubs] = {}
        try:
            self._brokers = {broker.broker_id: broker for broker in await client.admin.list_brokers()}
            for _ in range(self.rng.randint(5, 40)):
                if self.is_stopping:
                    return
                await self.rest(process, self.pause_ms(self._options.interval_ms))
                await self._act()
        finally:
            await self._channels.close()

    async def _act(self) -> None:
        topics = self.books.usable_topics()
        if not topics or self.is_stopping:
            return
        state = self.rng.choice(self.rng.choice(topics).keys)
        options = self._options
        choice = self.rng.random()
        if choice < options.repeat_probability:
            await self._repeat()
        elif choice < options.repeat_probability + options.garbage_probability:
            await self._send_garbage(state)
        elif self.rng.random() < PEEK_SHARE:
            await self._peek(state)
        elif self.rng.random() < TYPED_SHARE:
            await self._send_typed(state)
        else:
            await self._send_fresh(state, is_stale=self.rng.random() < options.stale_probability)

    # -- finding the broker ---------------------------------------------------------------------------------------

    async def _facts(self, state: KeyState) -> PartitionFacts:
        """The partition now.

        Raises:
            LeaderNotAvailable: it has no leader.
        """
        facts = await self._client.admin.describe_topic(state.topic.name)
        for partition in facts.partitions:
            if partition.partition == state.partition and partition.leader_id in self._brokers:
                return partition
        raise LeaderNotAvailable(f"{state.key} has no leader")

    def _stubs(self, broker_id: int) -> Stubs:
        stubs = self._stubs_by_broker.get(broker_id)
        if stubs is None:
            endpoint = self._brokers[broker_id].lane_endpoint
            stubs = self._stubs_by_broker[broker_id] = Stubs(self._channels.channel(endpoint))
        return stubs

    async def _produce(self, broker_id: int, request: pb.ProduceRequest) -> pb.PartitionAck:
        """One request with one partition, once.

        Raises:
            LogClusterError: what the call, or the partition's answer, says.
        """
        response: pb.ProduceResponse = await call(
            self._stubs(broker_id).data.Produce, request, timeout_ms=CALL_TIMEOUT_MS
        )
        ack = response.partitions[0]
        if ack.HasField("error") and ack.error.code:
            raise error_from_detail(ack.error)
        return ack

    # -- sends of its own -----------------------------------------------------------------------------------------

    def _new_values(self) -> list[str]:
        count = self.rng.randint(1, RECORDS_MAX)
        self._sent_count += count
        return [f"{self.name}-{self._sent_count - index}" for index in reversed(range(count))]

    async def _identity(self, state: KeyState, broker_id: int) -> Identity:
        identity = self._identities.get(state.key)
        if identity is None:
            response = await call(
                self._stubs(broker_id).data.InitProducerId, pb.InitProducerIdRequest(), timeout_ms=CALL_TIMEOUT_MS
            )
            identity = self._identities[state.key] = Identity(response.producer_id, response.producer_epoch)
        return identity

    async def _send_fresh(self, state: KeyState, *, is_stale: bool) -> None:
        """The next batch of its sequence; `is_stale`: with a wrong epoch, or to a broker that does not lead."""
        facts = await self._facts(state)
        broker_id, leader_epoch = facts.leader_id or 0, facts.leader_epoch
        if is_stale:
            choice = self.rng.randrange(3)
            if choice == 0:
                leader_epoch += FUTURE_EPOCHS
            elif choice == 1:
                leader_epoch = max(0, leader_epoch - self.rng.randint(1, 3))
            else:
                broker_id = self.rng.choice(sorted(self._brokers))
        identity = await self._identity(state, broker_id)
        values = self._new_values()
        batch = build_batch(
            self._records(values),
            producer_id=identity.producer_id,
            producer_epoch=identity.producer_epoch,
            base_sequence=identity.next_sequence,
        )
        request = pb.ProduceRequest(acks=pb.ACKS_ALL, timeout_ms=CALL_TIMEOUT_MS)
        request.partitions.add(
            topic=state.topic.name, partition=state.partition, leader_epoch=leader_epoch, batch=batch
        )
        operations = self._begin(state, values, idempotent=True)
        due_ms = self._process.clock.monotonic_ms() + self.rng.randrange(self._options.repeat_delay_ms_max)
        memory = RememberedBatch(state, batch, due_ms, values=values)
        try:
            ack = await self._produce(broker_id, request)
        except LogClusterError as error:
            self._failed(operations, error)
            if not error.definite or isinstance(error, OutOfOrderSequenceNumber):
                del self._identities[state.key]
            if not error.definite:
                self._remember(memory)
            return
        if leader_epoch >= facts.leader_epoch + FUTURE_EPOCHS:
            self._find("future-epoch-accepted", f"{state.key}: {leader_epoch} at offset {ack.base_offset}")
        identity.next_sequence += len(values)
        memory.base_offset = ack.base_offset
        self._succeeded(operations, state, ack.base_offset)
        self._remember(memory)

    async def _send_typed(self, state: KeyState) -> None:
        """Records that the broker packs: no producer id, no retry."""
        facts = await self._facts(state)
        values = self._new_values()
        request = pb.ProduceRequest(acks=pb.ACKS_ALL, timeout_ms=CALL_TIMEOUT_MS)
        item = request.partitions.add(topic=state.topic.name, partition=state.partition)
        for timestamp_ms, key, payload, _ in self._records(values):
            item.records.records.add(timestamp_ms=timestamp_ms, key=key, value=payload)
        operations = self._begin(state, values, idempotent=False)
        try:
            ack = await self._produce(facts.leader_id or 0, request)
        except LogClusterError as error:
            self._failed(operations, error)
            return
        self._succeeded(operations, state, ack.base_offset)

    def _records(self, values: list[str]) -> list[tuple[int, bytes | None, bytes | None, Any]]:
        now_ms = self._process.clock.now_ms()
        records: list[tuple[int, bytes | None, bytes | None, Any]] = []
        for value in values:
            key = value.encode() if self.rng.random() < 0.5 else None
            self.books.sent[value] = SentRecord(key, now_ms, ())
            records.append((now_ms, key, encode(value, self.rng.choice((0, 80, 400))), []))
        return records

    def _begin(self, state: KeyState, values: list[str], *, idempotent: bool) -> list[Operation]:
        return [
            self._voice.invoke("send", [state.key, None, value], acks="all", idempotent=idempotent) for value in values
        ]

    def _failed(self, operations: list[Operation], error: LogClusterError) -> None:
        for operation in operations:
            self._voice.failed(operation, operation.value, error)

    def _succeeded(self, operations: list[Operation], state: KeyState, base_offset: int) -> None:
        for index, operation in enumerate(operations):
            self._voice.ok(operation, [state.key, base_offset + index, operation.value[2]])
        self.books.note_acked(state.topic.name, state.partition, base_offset + len(operations) - 1)

    # -- what must be refused -------------------------------------------------------------------------------------

    def _remember(self, memory: RememberedBatch) -> None:
        options = memory.state.topic.options
        if options.is_durable and not options.is_trimmed and options.min_isr >= STRICT_MIN_ISR:
            self._remembered.append(memory)

    async def _repeat(self) -> None:
        """Send a batch of the past again, byte for byte."""
        now_ms = self._process.clock.monotonic_ms()
        due = [memory for memory in self._remembered if memory.due_ms <= now_ms and memory.state.topic.is_usable]
        if not due:
            return
        memory = self.rng.choice(due)
        state = memory.state
        facts = await self._facts(state)
        request = pb.ProduceRequest(acks=pb.ACKS_ALL, timeout_ms=CALL_TIMEOUT_MS)
        request.partitions.add(topic=state.topic.name, partition=state.partition, batch=memory.batch)
        try:
            ack = await self._produce(facts.leader_id or 0, request)
        except LogClusterError as error:
            self.books.count("repeat", "fail" if error.definite else "info")
            return
        self.books.count("repeat", "ok")
        if memory.base_offset is None:
            memory.base_offset = ack.base_offset
        elif memory.base_offset != ack.base_offset:
            self._find(
                "repeat-appended",
                f"{state.key}: {memory.values} at {memory.base_offset} and again at {ack.base_offset}",
            )

    async def _send_garbage(self, state: KeyState) -> None:
        facts = await self._facts(state)
        value = encode(f"{self.name}-garbage")
        garbage = make_garbage(self.rng, state.topic.name, state.partition, value)
        try:
            ack = await self._produce(facts.leader_id or 0, garbage.request)
        except UnknownServerError as error:
            self._find("garbage-broke-server", f"{state.key}: {garbage.name}: {error.message}")
        except LogClusterError:
            self.books.count("garbage", "fail")
        else:
            self._find("garbage-accepted", f"{state.key}: {garbage.name} at offset {ack.base_offset}")

    async def _peek(self, state: KeyState) -> None:
        facts = await self._facts(state)
        problem = await peek(
            self._stubs(facts.leader_id or 0), state, self.books, self._reader, self.rng, timeout_ms=CALL_TIMEOUT_MS
        )
        if problem is not None:
            self._find("read-beyond-high-watermark", problem)

    def _find(self, name: str, detail: str) -> None:
        self.books.find(name, detail, "history")
