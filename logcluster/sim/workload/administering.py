"""Admin churn: topics come, grow, change their settings, lose their beginning and go, while others write to them.

Every call is in the history. What may have been done counts as done for the books where that makes the checks weaker: a
topic whose deletion was asked for is not written to or read any more, records whose deletion was asked for need not be
found. A name is never used twice, because a partition's name is its identity in the history.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final

from logcluster.client.client import Client
from logcluster.model.errors import LogClusterError
from logcluster.sim.workload.actor import Actor
from logcluster.sim.workload.books import Books, Speaker, TopicState
from logcluster.sim.workload.options import AdminOptions, TopicOptions

if TYPE_CHECKING:
    from logcluster.sim.process import Process
    from logcluster.sim.world import World

SEGMENT_MS_CHOICES: Final = (20, 100, 1_000, 100_000)
RETENTION_MS_CHOICES: Final = (300, 1_000, 5_000)


async def create_topic(client: Client, speaker: Speaker, topic: TopicState, *, exist_ok: bool = False) -> None:
    """Create a topic of the run, and know of it when it is there.

    Raises:
        LogClusterError: it may not have been created.
    """
    options = topic.options
    value = {"topic": topic.name, "partitions": options.partitions, "config": dict(options.config)}
    operation = speaker.invoke(
        "create_topic", value, durable=options.is_durable, trimmed=options.is_trimmed, rf=options.replication_factor
    )
    try:
        await client.admin.create_topic(
            topic.name,
            partitions=options.partitions,
            replication_factor=options.replication_factor,
            config=options.config,
            exist_ok=exist_ok,
        )
    except LogClusterError as error:
        speaker.failed(operation, value, error)
        raise
    topic.grow(options.partitions)
    topic.is_created = True
    speaker.ok(operation, value)


class AdministeringActor(Actor):
    """The client that changes topics."""

    def __init__(self, world: World, books: Books, rng: random.Random, options: AdminOptions, *, brokers: int) -> None:
        super().__init__(world, books, rng, options.name)
        self._options = options
        self._brokers = brokers
        self._created_count = 0
        self._actions: dict[str, Callable[[Client], Awaitable[None]]] = {
            "create_topic": self._create_topic,
            "delete_topic": self._delete_topic,
            "create_partitions": self._create_partitions,
            "alter_topic": self._alter_topic,
            "delete_records": self._delete_records,
            "elect_leaders": self._elect_leaders,
            "list_offsets": self._list_offsets,
        }

    def begin(self) -> None:
        self._voice = self.speaker()

    async def work(self, client: Client, process: Process) -> None:
        while not self.is_stopping:
            await self.rest(process, self.pause_ms(self._options.interval_ms))
            if not self.is_stopping:
                await self._actions[self.pick_weighted(self._options.actions)](client)

    async def _do(self, name: str, value: Any, call: Awaitable[Any]) -> Any:
        """One call whose result is not part of the history; None when it did not succeed."""
        operation = self._voice.invoke(name, value)
        try:
            result = await call
        except LogClusterError as error:
            self._voice.failed(operation, value, error)
            return None
        self._voice.ok(operation, value)
        return result

    def _pick(self, *, is_trimmed: bool = False) -> TopicState | None:
        topics = [topic for topic in self.books.usable_topics() if not is_trimmed or topic.options.is_trimmed]
        return self.rng.choice(topics) if topics else None

    # -- what it does ---------------------------------------------------------------------------------------------

    async def _create_topic(self, client: Client) -> None:
        if self._created_count >= self._options.topics_max:
            return
        self._created_count += 1
        options = TopicOptions.draw(
            self.rng, f"{self.name}-topic-{self._created_count}", brokers=self._brokers, is_strict=False
        )
        try:
            await create_topic(client, self._voice, self.books.add_topic(options))
        except LogClusterError:
            return  # in the history; nobody uses the topic

    async def _delete_topic(self, client: Client) -> None:
        """One of those that came during the run; the run's own stay."""
        topics = [topic for topic in self.books.usable_topics() if topic.name.startswith(self.name)]
        if topics:
            topic = self.rng.choice(topics)
            topic.is_deleted = True
            await self._do("delete_topic", topic.name, client.admin.delete_topic(topic.name))

    async def _create_partitions(self, client: Client) -> None:
        topic = self._pick()
        if topic is None or len(topic.keys) >= self._options.partitions_max:
            return
        count = self.rng.randint(len(topic.keys) + 1, self._options.partitions_max)
        value = {"topic": topic.name, "partitions": count}
        facts = await self._do("create_partitions", value, client.admin.create_partitions(topic.name, count))
        if facts is not None:
            topic.grow(len(facts.partitions))

    async def _alter_topic(self, client: Client) -> None:
        topic = self._pick()
        if topic is None:
            return
        config: dict[str, str | None] = {"segment.ms": str(self.rng.choice(SEGMENT_MS_CHOICES))}
        if topic.options.is_trimmed and self.rng.random() < 0.5:
            config["retention.ms"] = self.rng.choice([None, *map(str, RETENTION_MS_CHOICES)])
        if self.rng.random() < 0.2:
            config["max.message.bytes"] = self.rng.choice([None, "4096", "20000"])
        value = {"topic": topic.name, "config": config}
        await self._do("alter_topic", value, client.admin.alter_topic(topic.name, config))

    async def _delete_records(self, client: Client) -> None:
        topic = self._pick(is_trimmed=True)
        if topic is None:
            return
        state = self.rng.choice(topic.keys)
        if state.read_next_offset == 0:
            return
        offset = self.rng.randint(1, state.read_next_offset)
        state.trimmed_offset = max(state.trimmed_offset, offset)
        await self._do(
            "delete_records",
            {state.key: offset},
            client.admin.delete_records({(topic.name, state.partition): offset}),
        )

    async def _elect_leaders(self, client: Client) -> None:
        topic = self._pick()
        if topic is not None:
            partitions = [(topic.name, state.partition) for state in topic.keys]
            value = {"keys": [state.key for state in topic.keys]}
            await self._do("elect_leaders", value, client.admin.elect_leaders(partitions))

    async def _list_offsets(self, client: Client) -> None:
        topic = self._pick()
        if topic is None:
            return
        voice = self._voice
        operation = voice.invoke("list_offsets", {state.key: None for state in topic.keys}, spec="latest")
        try:
            offsets = await client.admin.list_offsets(topic.name, "latest")
        except LogClusterError as error:
            voice.refused(operation, operation.value, error)
            return
        voice.ok(operation, {f"{topic.name}-{index}": offset for index, offset in enumerate(offsets)})
