"""`admin`: topics of its own come, grow, change their settings, take a few records, and go, while others work.

A name is never used twice, because a partition's name is its identity in a history. What may have been done counts as
done. Shared topics, those of the options, are only looked at, unless options allow more.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, ClassVar, Final

import msgspec

from chaos.workloads.records import key_of
from chaos.workloads.worker import Count, Options, Positive, TopicSpec, Worker
from logcluster.client.client import Client
from logcluster.model.errors import LogClusterError

SEGMENT_MS_CHOICES: Final = (100, 1_000, 10_000, 3_600_000)
ACTIONS: Final = (
    "create_topic",
    "delete_topic",
    "create_partitions",
    "alter_topic",
    "list_topics",
    "list_offsets",
    "elect_leaders",
    "delete_records",
    "grow_shared",
)
WEIGHTS: Final = {
    "create_topic": 3,
    "delete_topic": 2,
    "create_partitions": 2,
    "alter_topic": 3,
    "list_topics": 3,
    "list_offsets": 4,
}


class AdminOptions(Options, frozen=True, kw_only=True):
    """Options of `admin`.

    `weights`: how often each action is done, beside those named also `elect_leaders` (of shared topics), `grow_shared`
    (adds a partition to a shared topic) and `delete_records` (of shared topics named in `trimmed_topics`).
    `topics_max`: so many of its own at a time. `new_topic`: what they are like; the name is given.
    """

    interval_ms: Positive = 500
    weights: dict[str, Count] = msgspec.field(default_factory=lambda: dict(WEIGHTS))
    topics_max: Positive = 5
    partitions_max: Positive = 6
    new_topic: TopicSpec = msgspec.field(default_factory=lambda: TopicSpec(name="own", partitions=2))
    trimmed_topics: tuple[str, ...] = ()

    def problem(self) -> str | None:
        unknown = sorted(self.weights.keys() - set(ACTIONS))
        if unknown:
            return f"weights names {unknown[0]!r}; there are {', '.join(ACTIONS)}"
        return None if any(self.weights.values()) else "all weights are 0"


class AdminWorker(Worker):
    """See the top of the file."""

    options_type: ClassVar[type[Options]] = AdminOptions

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self._own: dict[str, int] = {}
        """Its topics with their partition counts, as far as it was told."""
        self._shared: dict[str, int] = {}
        self._made = 0
        self._voice = self.voice()

    @property
    def options(self) -> AdminOptions:
        options = self._common
        assert isinstance(options, AdminOptions)
        return options

    async def work(self, client: Client) -> None:
        self._shared = await self.find_topics(client)
        actions: dict[str, Callable[[Client], Awaitable[None]]] = {
            name: getattr(self, f"_{name}") for name, weight in self.options.weights.items() if weight
        }
        weights = [self.options.weights[name] for name in actions]
        while not self.is_over:
            await self.rest(self.pause_ms(self.options.interval_ms))
            if not self.is_over:
                (name,) = self.rng.choices(list(actions), weights=weights)
                await actions[name](client)

    async def _do(self, f: str, value: Any, call: Awaitable[Any]) -> Any:
        """One call whose result is not part of the history; None when it did not succeed."""
        operation = self._voice.invoke(f, value)
        try:
            result = await call
        except LogClusterError as error:
            self._voice.failed(operation, error)
            return None
        self._voice.ok(operation, value)
        return result or True

    def _pick(self, topics: dict[str, int]) -> str | None:
        return self.rng.choice(list(topics)) if topics else None

    # -- what it does ---------------------------------------------------------------------------------------------

    async def _create_topic(self, client: Client) -> None:
        if len(self._own) >= self.options.topics_max:
            await self._delete_topic(client)
            return
        self._made += 1
        spec = self.options.new_topic
        name = f"{spec.name}.{self.life}.{self._made}"
        value = {"topic": name, "partitions": spec.partitions, "config": dict(spec.config)}
        call = client.admin.create_topic(
            name, partitions=spec.partitions, replication_factor=spec.replication_factor, config=spec.config
        )
        if await self._do("create_topic", value, call) is not None:
            self._own[name] = spec.partitions
            await self._write(client, name)

    async def _write(self, client: Client, topic: str) -> None:
        """A record into each partition: the topic is one."""
        records = [self.records.make() for _ in range(self._own[topic])]
        meta: dict[str, Any] = {"acks": "all", "idempotent": True}
        sends = [
            self._voice.invoke("send", [key_of(topic, partition), None, record.value], **meta)
            for partition, record in enumerate(records)
        ]
        async with client.producer(delivery_timeout_ms=self.options.request_timeout_ms) as producer:
            for partition, (record, send) in enumerate(zip(records, sends, strict=True)):
                try:
                    acked = await producer.send(
                        topic, record.payload, record.key, record.headers, partition, record.timestamp_ms
                    )
                except LogClusterError as error:
                    self._voice.failed(send, error)
                else:
                    self._voice.ok(send, [key_of(topic, partition), acked.offset, record.value])

    async def _delete_topic(self, client: Client) -> None:
        topic = self._pick(self._own)
        if topic is not None:
            del self._own[topic]
            await self._do("delete_topic", topic, client.admin.delete_topic(topic))

    async def _create_partitions(self, client: Client) -> None:
        await self._grow(client, self._own)

    async def _grow_shared(self, client: Client) -> None:
        await self._grow(client, self._shared)

    async def _grow(self, client: Client, topics: dict[str, int]) -> None:
        topic = self._pick(topics)
        if topic is None or topics[topic] >= self.options.partitions_max:
            return
        count = topics[topic] + 1
        call = client.admin.create_partitions(topic, count)
        if await self._do("create_partitions", {"topic": topic, "partitions": count}, call) is not None:
            topics[topic] = count

    async def _alter_topic(self, client: Client) -> None:
        topic = self._pick(self._own)
        if topic is not None:
            config = {"segment.ms": str(self.rng.choice(SEGMENT_MS_CHOICES))}
            await self._do("alter_topic", {"topic": topic, "config": config}, client.admin.alter_topic(topic, config))

    async def _list_topics(self, client: Client) -> None:
        operation = self._voice.invoke("list_topics", None)
        try:
            found = await client.admin.list_topics()
        except LogClusterError as error:
            self._voice.refused(operation, error)
        else:
            self._voice.ok(operation, {name: len(facts.partitions) for name, facts in found.items()})

    async def _list_offsets(self, client: Client) -> None:
        await self._ends(client, self._pick(self._shared))

    async def _ends(self, client: Client, topic: str | None) -> list[int]:
        if topic is None:
            return []
        keys = {key_of(topic, partition): None for partition in range(self._shared[topic])}
        operation = self._voice.invoke("list_offsets", keys, spec="latest")
        try:
            ends = await client.admin.list_offsets(topic, "latest")
        except LogClusterError as error:
            self._voice.refused(operation, error)
            return []
        self._voice.ok(operation, {key_of(topic, partition): end for partition, end in enumerate(ends)})
        return ends

    async def _elect_leaders(self, client: Client) -> None:
        topic = self._pick(self._shared)
        if topic is not None:
            names = [(topic, partition) for partition in range(self._shared[topic])]
            value = {"keys": [key_of(*name) for name in names]}
            await self._do("elect_leaders", value, client.admin.elect_leaders(names))

    async def _delete_records(self, client: Client) -> None:
        topic = self._pick({name: count for name, count in self._shared.items() if name in self.options.trimmed_topics})
        ends = await self._ends(client, topic)
        choices = [partition for partition, end in enumerate(ends) if end > 1]
        if topic is not None and choices:
            partition = self.rng.choice(choices)
            offset = self.rng.randrange(1, ends[partition])
            await self._do(
                "delete_records",
                {key_of(topic, partition): offset},
                client.admin.delete_records({(topic, partition): offset}),
            )
