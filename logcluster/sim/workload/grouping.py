"""Members of a consumer group: they join, read, commit, pause, leave for good or are killed, and join again.

One actor is one process with one member at a time. What each was handed and what was committed goes into `GroupBooks`,
which sees all members and so knows what a group must never do.
"""

from __future__ import annotations

import random
from collections.abc import Collection
from typing import TYPE_CHECKING, Any, Final

from logcluster.client.client import Client
from logcluster.client.group.consumer import GroupConsumer
from logcluster.client.group.membership import AssignedPartition
from logcluster.client.records import ConsumerRecord
from logcluster.client.subscription import PartitionState
from logcluster.core.coordinators.groups.group import Group
from logcluster.model.errors import LogClusterError
from logcluster.sim.workload.actor import Actor
from logcluster.sim.workload.books import Books
from logcluster.sim.workload.consuming import read_value
from logcluster.sim.workload.group_books import GroupBooks, WatchedCommits
from logcluster.sim.workload.options import GroupMemberOptions

if TYPE_CHECKING:
    from logcluster.sim.process import Process
    from logcluster.sim.world import World


RECORDS_PER_READ_MAX: Final = 500


class GroupActor(Actor):
    """One process that is a member of a group, most of the time."""

    def __init__(
        self, world: World, books: Books, rng: random.Random, options: GroupMemberOptions, group_books: GroupBooks
    ) -> None:
        super().__init__(world, books, rng, options.name)
        self._options = options
        self._group_books = group_books
        self.is_hurrying = False
        """The faults are over: read as fast as it goes."""

    async def work(self, client: Client, process: Process) -> None:
        options = self._options
        topics = [topic.name for topic in self.books.usable_topics() if topic.options.is_read_by_group]
        if not topics:
            await process.clock.sleep_ms(100)
            return
        chosen: dict[str, Any] = {"pattern": "topic-.*"} if options.by_pattern else {}
        if options.instance_id:
            chosen["instance_id"] = options.instance_id
        consumer = client.consumer(
            *(() if options.by_pattern else topics),
            group=self._group_books.group,
            start="earliest",
            on_out_of_range="earliest",
            assignor=options.assignor,
            auto_commit_interval_ms=options.auto_commit_interval_ms,
            session_timeout_ms=options.session_timeout_ms,
            rebalance_timeout_ms=options.rebalance_timeout_ms,
            max_wait_ms=options.max_wait_ms,
            **chosen,
        )
        assert isinstance(consumer, GroupConsumer)
        consumer._commits = WatchedCommits(consumer._commits, self._group_books, self.name)
        beginnings = Beginnings(consumer)
        async with consumer:
            try:
                await self._read(consumer, beginnings, process)
            finally:
                self.look_at(consumer._scope)
        await self.rest(process, self.rng.randint(1, options.idle_ms_max))

    async def _read(self, consumer: GroupConsumer, beginnings: Beginnings, process: Process) -> None:
        options = self._options
        rounds = self.rng.randint(1, options.reads_max)
        while not self.is_stopping and (rounds > 0 or self.is_hurrying):
            rounds -= 1
            count_max = RECORDS_PER_READ_MAX if self.is_hurrying else options.records_per_read_max
            records = await consumer.read(count_max, timeout_ms=options.read_ms_max)
            self._note(consumer, records)
            for item, told, first in beginnings.seen():
                self._group_books.note_begun(self.name, item, told=told, first=first)
            handling_ms = self.rng.randint(0, options.handling_ms_max)
            await process.clock.sleep_ms(0 if self.is_hurrying else handling_ms)
            self._group_books.note_handled(topic_ids(consumer), records)
            self._group_books.note_owned(
                self.name, consumer._membership, group_in_memory(self.world, self._group_books.group)
            )
            if records and self.rng.random() < options.commit_probability:
                try:
                    await consumer.commit()
                    self.books.count("group-commit", "ok")
                except LogClusterError as error:
                    self.books.count("group-commit", type(error).__name__)

    def _note(self, consumer: GroupConsumer, records: list[ConsumerRecord]) -> None:
        for record in records:
            self.books.note_read(record.topic, record.partition, record.offset)
            value = read_value(self.books, record)
            if value.startswith("corrupt"):
                self.books.find("corrupt-read", f"{self.name} in a group: {value}", "history")
        self.books.count("group-read", "ok")


class Beginnings:
    """Where a consumer was told to begin in each partition that it was given, until it was handed something of it."""

    def __init__(self, consumer: GroupConsumer) -> None:
        self._consumer = consumer
        self._told: dict[PartitionState, tuple[AssignedPartition, int]] = {}
        self._take_on = consumer.take_on
        consumer.take_on = self._take_on_and_look  # type: ignore[method-assign]

    async def _take_on_and_look(self, partitions: Collection[AssignedPartition]) -> None:
        await self._take_on(partitions)
        for item in partitions:
            state = self._consumer._states.get(item)
            if state is not None and state.position is not None:
                self._told[state] = item, state.position

    def seen(self) -> list[tuple[AssignedPartition, int, int]]:
        """Partition, where to begin, first record: of those that the application has in hand for the first time."""
        return [
            (*self._told.pop(state), first) for state, first in self._consumer._in_hand.items() if state in self._told
        ]


def topic_ids(consumer: GroupConsumer) -> dict[str, bytes]:
    """Which topics the names mean that the consumer reads."""
    return {item.topic: item.topic_id for item in consumer._states}


def group_in_memory(world: World, name: str) -> tuple[int, Group] | None:
    """The group as its newest coordinator knows it, and in which leader epoch; None while that one does not serve it.

    A coordinator that was replaced and has not heard of it knows an old group, and is none.
    """
    nodes = [machine.node for machine in world.nodes.values() if machine.node is not None]
    shards = [shard for node in nodes if node.groups is not None for shard in node.groups.runtime.shards]
    serving = [shard for shard in shards if shard.state == "active" and name in shard.held]
    newest = max(serving, key=lambda shard: shard.epoch or 0, default=None)
    if newest is None or newest.epoch is None:
        return None
    key = newest.partition.topic_id_partition
    known = [node.loader.image.partition(*key) for node in nodes]
    if any(registration is not None and registration.leader_epoch > newest.epoch for registration in known):
        return None
    return newest.epoch, newest.held[name].entity
