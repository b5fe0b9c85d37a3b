"""The clients on stage: real ones, in processes of their own, told what to do by the script and noting what they learn.

Everything is written to the history in the same instant in which the client is told or learns it, so that the checker
can judge a scenario as it judges a run. The script runs in the driver's process and survives any client.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from logcluster.check.payload import encode
from logcluster.client.client import Client
from logcluster.client.consumer import Consumer
from logcluster.client.context import ClientOptions
from logcluster.client.futures import RecordFuture
from logcluster.client.producer import Producer
from logcluster.client.records import ConsumerRecord, Point
from logcluster.model.errors import LogClusterError
from logcluster.sim.workload.books import Books, Operation, SentRecord, Speaker
from logcluster.sim.workload.consuming import polled, positions_of

if TYPE_CHECKING:
    from logcluster.sim.process import Process
    from logcluster.sim.world import World

CLIENT_OPTIONS: Final = ClientOptions(
    connect_timeout_ms=4_000,
    request_timeout_ms=10_000,
    topic_wait_ms=2_000,
    metadata_age_ms_max=2_000,
    stall_ms=500,
)
OPEN_TIMEOUT_MS: Final = 10_000


@dataclass(slots=True)
class Sent:
    """One record that a writer was given."""

    value: str
    key: str
    """The partition, "topic-number"."""
    offset: int | None = None
    """Where it was written; None before the acknowledgement."""
    error: LogClusterError | None = None
    is_done: bool = False

    @property
    def is_acked(self) -> bool:
        return self.is_done and self.error is None


class Actor:
    """A client in a process of its own; `open` it, and `kill` it if the script says so."""

    def __init__(self, world: World, books: Books, name: str) -> None:
        self.name = name
        self.world = world
        self.books = books
        self.process: Process = world.process(f"client-{name}")
        self.voice = Speaker(books, name)
        self._leave: asyncio.Event = asyncio.Event()
        self._is_open = False
        self._failure: BaseException | None = None

    @property
    def host(self) -> str:
        """Its name on the network."""
        return self.process.name

    async def open(self) -> None:
        """Connect, and return once the client can be used.

        Raises:
            LogClusterError: it cannot connect.
            SimulationError: it did not in time.
        """
        task = self.process.spawn(self._live(), name="live")
        task.add_done_callback(self._ended)
        await self.world.wait(
            lambda: self._is_open or task.done(), timeout_ms=OPEN_TIMEOUT_MS, what=f"{self.name} connects", poll_ms=2
        )
        if self._failure is not None:
            raise self._failure

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._failure = None if task.cancelled() else task.exception()

    def kill(self) -> None:
        """End its process; what it has open will never be known."""
        self.process.kill()
        self.voice.abandon("the client was killed")

    async def _live(self) -> None:
        async with self.world.connect(self.process, options=CLIENT_OPTIONS) as client:
            await self._use(client)

    async def _use(self, client: Client) -> None:
        raise AssertionError(f"{type(self).__name__} does nothing: {client}")

    async def _stay(self) -> None:
        self._is_open = True
        await self._leave.wait()


class Writer(Actor):
    """A producer.

    Args:
        options: of `Client.producer`.
    """

    def __init__(self, world: World, books: Books, name: str, options: dict[str, Any]) -> None:
        super().__init__(world, books, name)
        self._options = options
        self._producer: Producer | None = None
        self._count = 0
        self._meta = {
            "acks": options.get("acks", "all"),
            "idempotent": options.get("idempotent", options.get("acks", "all") == "all"),
        }

    async def _use(self, client: Client) -> None:
        async with client.producer(**self._options) as producer:
            self._producer = producer
            await self._stay()

    def send(self, topic: str, partition: int = 0, *, size_bytes: int = 0) -> Sent:
        """Give the client one record; its outcome appears in what is returned."""
        assert self._producer is not None, "open it first"
        self._count += 1
        sent = Sent(f"{self.name}-{self._count}", f"{topic}-{partition}")
        self.books.sent[sent.value] = SentRecord(None, None, ())
        operation = self.voice.invoke("send", [sent.key, None, sent.value], **self._meta)
        payload = encode(sent.value, size_bytes)
        try:
            future = self.process.call(self._producer.send_nowait, topic, payload, None, (), partition)
        except LogClusterError as error:
            self._failed(operation, sent, error)
        else:
            self.world.driver.spawn(self._settle(operation, sent, future), name=f"settle {sent.value}")
        return sent

    def send_many(self, topic: str, count: int, partition: int = 0, *, size_bytes: int = 0) -> list[Sent]:
        """Give the client several records at once; they may share a batch."""
        return [self.send(topic, partition, size_bytes=size_bytes) for _ in range(count)]

    async def _settle(self, operation: Operation, sent: Sent, future: RecordFuture) -> None:
        try:
            ack = await future
        except LogClusterError as error:
            self._failed(operation, sent, error)
            return
        sent.is_done = True
        sent.offset = ack.offset if ack.offset >= 0 else None
        self.voice.ok(operation, [sent.key, sent.offset, sent.value])
        if self._meta["acks"] == "all" and ack.offset >= 0:
            self.books.note_acked(ack.topic, ack.partition, ack.offset)

    def _failed(self, operation: Operation, sent: Sent, error: LogClusterError) -> None:
        sent.is_done, sent.error = True, error
        self.voice.failed(operation, operation.value, error)


class Reader(Actor):
    """A consumer of one partition."""

    def __init__(self, world: World, books: Books, name: str, topic: str, partition: int, start: Point) -> None:
        super().__init__(world, books, name)
        self._topic = topic
        self._partition = partition
        self._start = start
        self._client: Client | None = None
        self._consumer: Consumer | None = None

    async def _use(self, client: Client) -> None:
        self._client = client
        key = f"{self._topic}-{self._partition}"
        assign = self.voice.invoke("assign", {key: self._start})
        async with client.consumer(
            self._topic, partitions=[self._partition], start=self._start, max_wait_ms=50
        ) as consumer:
            self.voice.ok(assign, positions_of(consumer))
            self._consumer = consumer
            await self._stay()

    async def poll(self, count_max: int = 100, *, timeout_ms: int = 300) -> list[ConsumerRecord]:
        """Read on; an empty list when there is nothing in time, or the read failed."""
        return await self.process.spawn(self._poll(count_max, timeout_ms), name="poll")

    async def _poll(self, count_max: int, timeout_ms: int) -> list[ConsumerRecord]:
        assert self._consumer is not None, "open it first"
        poll = self.voice.invoke("poll", {})
        try:
            records = await self._consumer.read(count_max, timeout_ms=timeout_ms)
        except LogClusterError as error:
            self.voice.refused(poll, {}, error)
            return []
        self.voice.ok(poll, polled(self.books, records))
        return records

    async def latest(self) -> int | None:
        """Ask for the end of the partition; None when the broker would not say."""
        return await self.process.spawn(self._latest(), name="latest")

    async def _latest(self) -> int | None:
        assert self._client is not None, "open it first"
        key = f"{self._topic}-{self._partition}"
        ask = self.voice.invoke("list_offsets", [key])
        try:
            ends = await self._client.admin.list_offsets(self._topic, "latest")
        except LogClusterError as error:
            self.voice.refused(ask, [key], error)
            return None
        self.voice.ok(ask, {key: ends[self._partition]})
        return ends[self._partition]
