"""A tool outside of the group that asks for its committed offsets again and again: what it is told must not be stale.

It keeps to the coordinator it knows for as long as that answers, so it is the first to meet one that was replaced and
has not heard of it.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Final

from logcluster.client.client import Client
from logcluster.client.group.commits import Position
from logcluster.client.group.coordinator import CoordinatorCalls
from logcluster.client.group.membership import AssignedPartition, to_assignment
from logcluster.model.errors import LogClusterError
from logcluster.sim.workload.actor import Actor
from logcluster.sim.workload.books import Books
from logcluster.sim.workload.group_books import GroupBooks
from logcluster.wire.gen.logcluster.v1 import groups_pb2 as pb

if TYPE_CHECKING:
    from logcluster.sim.process import Process
    from logcluster.sim.world import World

INTERVAL_MS_MAX: Final = 150
CALL_TIMEOUT_MS: Final = 1_500


class OffsetWatchingActor(Actor):
    """Asks, and has the books compare."""

    def __init__(self, world: World, books: Books, rng: random.Random, name: str, group_books: GroupBooks) -> None:
        super().__init__(world, books, rng, name)
        self._group_books = group_books

    async def work(self, client: Client, process: Process) -> None:
        calls = CoordinatorCalls(client._open())
        while not self.is_stopping:
            await self.rest(process, self.rng.randint(1, INTERVAL_MS_MAX))
            before = self._group_books.acknowledged(self._group_books.partitions())
            if not before:
                continue
            request = pb.FetchOffsetsRequest(group=self._group_books.group, topics=to_assignment(before).topics)
            try:
                response: pb.FetchOffsetsResponse = await calls.call(
                    request.group, lambda stub: stub.FetchOffsets, request, timeout_ms=CALL_TIMEOUT_MS
                )
            except LogClusterError as error:
                self.books.count("group-fetch", type(error).__name__)
                continue
            self.books.count("group-fetch", "ok")
            found = {
                AssignedPartition(item.topic, item.topic_id, item.partition): Position(item.offset, None)
                for item in response.offsets
                if item.HasField("offset")
            }
            # Of a topic that was deleted the offsets may be gone.
            self._group_books.note_fetched({key: offset for key, offset in before.items() if key in found}, found)
