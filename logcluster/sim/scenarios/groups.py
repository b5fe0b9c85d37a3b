"""Stories of coordinators: offsets that were committed and forgotten (P6).

A tool commits and asks, as a consumer outside of any group would; what it was told is judged by the checker.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from logcluster.client.client import Client
from logcluster.client.group.coordinator import CoordinatorCalls
from logcluster.core.coordinators.groups.coordinator import GROUP_TOPIC
from logcluster.model.errors import LogClusterError
from logcluster.model.ids import TopicPartition
from logcluster.sim.scenarios.actors import CLIENT_OPTIONS, Actor
from logcluster.sim.scenarios.scenario import Scenario
from logcluster.sim.scenarios.stage import Stage, StageOptions
from logcluster.sim.workload.consuming import polled, positions_of
from logcluster.wire.gen.logcluster.v1 import groups_pb2 as pb
from logcluster.wire.status import error_from_detail

if TYPE_CHECKING:
    from logcluster.sim.workload.books import Books
    from logcluster.sim.world import World

GROUP: Final = "billing"
ONE_SHARD: Final = StageOptions(settings={"groups.partitions": 1})


class Tool(Actor):
    """Commits and reads the offset of one partition of a group without members."""

    _calls: CoordinatorCalls | None = None

    async def _use(self, client: Client) -> None:
        self._calls = CoordinatorCalls(client._open())
        await self._stay()

    async def commit(
        self, topic: str, offset: int, *, leader_epoch: int | None = None, timeout_ms: int = 5_000
    ) -> bool:
        """Commit; returns whether it was acknowledged."""
        return await self.process.spawn(self._commit(topic, offset, leader_epoch, timeout_ms), name="commit")

    async def _commit(self, topic: str, offset: int, leader_epoch: int | None, timeout_ms: int) -> bool:
        assert self._calls is not None, "open it first"
        request = pb.CommitOffsetsRequest(group=GROUP, member_epoch=-1)
        request.offsets.add(topic=topic, partition=0, offset=offset, leader_epoch=leader_epoch)
        operation = self.voice.invoke("commit", {f"{topic}-0": offset}, group=GROUP)
        try:
            response: pb.CommitOffsetsResponse = await self._calls.call(
                GROUP, lambda stub: stub.CommitOffsets, request, timeout_ms=timeout_ms
            )
            if response.results[0].error.code:
                raise error_from_detail(response.results[0].error)
        except LogClusterError as error:
            self.voice.failed(operation, operation.value, error)
            return False
        self.voice.ok(operation, operation.value)
        return True

    async def fetch(self, topic: str) -> int | None:
        """Ask what is committed; None: nothing, or nobody said."""
        return await self.process.spawn(self._fetch(topic), name="fetch")

    async def _fetch(self, topic: str) -> int | None:
        assert self._calls is not None, "open it first"
        request = pb.FetchOffsetsRequest(group=GROUP, topics=[pb.TopicPartitions(topic=topic, partitions=[0])])
        operation = self.voice.invoke("fetch_offsets", [f"{topic}-0"], group=GROUP)
        try:
            response: pb.FetchOffsetsResponse = await self._calls.call(
                GROUP, lambda stub: stub.FetchOffsets, request, timeout_ms=20_000
            )
        except LogClusterError as error:
            self.voice.refused(operation, operation.value, error)
            return None
        found = response.offsets[0]
        offset = found.offset if found.HasField("offset") else None
        self.voice.ok(operation, {f"{topic}-0": offset})
        return offset


class Member(Actor):
    """Comes to know who leads a topic, and joins the group and reads much later, without having asked again."""

    def __init__(self, world: World, books: Books, name: str, topic: str) -> None:
        super().__init__(world, books, name)
        self._topic = topic
        self._client: Client | None = None

    async def _live(self) -> None:
        options = replace(CLIENT_OPTIONS, metadata_age_ms_max=600_000)
        async with self.world.connect(self.process, options=options) as client:
            self._client = client
            await client._open().metadata.topic(self._topic)
            await self._stay()

    async def read(self, *, timeout_ms: int) -> None:
        """Join, and read on from what is committed."""
        await self.process.spawn(self._read(timeout_ms), name="read")

    async def _read(self, timeout_ms: int) -> None:
        assert self._client is not None, "open it first"
        meta = {"group": GROUP, "member": self.name}
        resume = self.voice.invoke("resume", [f"{self._topic}-0"], **meta)

        def begun(_: Sequence[TopicPartition]) -> None:
            self.voice.ok(resume, positions_of(consumer), why="committed", **meta)

        consumer = self._client.consumer(self._topic, group=GROUP, on_assigned=begun, max_wait_ms=50)
        async with consumer:
            poll = self.voice.invoke("poll", {}, **meta)
            try:
                records = await consumer.read(100, timeout_ms=timeout_ms)
            except LogClusterError as error:
                self.voice.refused(poll, {}, error, **meta)
                return
            self.voice.ok(poll, polled(self.books, records), **meta)


async def _prepared(stage: Stage) -> tuple[Tool, int, list[int]]:
    """A topic with records, a first commit, the tool, the coordinator and the other nodes."""
    await stage.create_topic("orders", sorted(stage.world.nodes))
    writer = await stage.writer()
    await stage.send(writer, "orders", 10)
    tool = Tool(stage.world, stage.books, "tool")
    await tool.open()
    assert await tool.commit("orders", 3)
    coordinator = stage.leader_of(GROUP_TOPIC)
    assert coordinator is not None
    await stage.wait_until(
        lambda: stage.in_sync(GROUP_TOPIC) == tuple(sorted(stage.world.nodes)), "all have the offsets"
    )
    return tool, coordinator, stage.others(coordinator)


async def _half_loaded(stage: Stage) -> None:
    tool, coordinator, others = await _prepared(stage)
    for other in others:
        stage.slow_link(coordinator, other, 60)  # they have the record, and do not know yet that it is committed
    assert await tool.commit("orders", 7)
    for source, target in (others, reversed(others)):
        stage.slow_link(source, target, 60)  # so that the next leader learns that slowly too
    stage.crash(coordinator)
    askers = [Tool(stage.world, stage.books, f"asker-{number}") for number in range(20)]
    questions = []
    for asker in askers:
        await asker.open()
        questions.append(stage.world.driver.spawn(asker.fetch("orders"), name=asker.name))
        await stage.sleep(20)
    for question in questions:
        await question
    await stage.running(coordinator)


async def _answered_early(stage: Stage) -> None:
    tool, coordinator, others = await _prepared(stage)
    for other in others:
        stage.hold(coordinator, other)
    commit = stage.world.driver.spawn(tool.commit("orders", 7, timeout_ms=1_000), name="commit")
    await stage.sleep(100)
    stage.crash(coordinator)
    for other in others:
        stage.release(coordinator, other)
    await commit
    await stage.wait_until(lambda: stage.leader_of(GROUP_TOPIC) in others, "another one coordinates")
    await tool.fetch("orders")
    await stage.running(coordinator)


async def _asked_the_old_one(stage: Stage) -> None:
    tool, coordinator, others = await _prepared(stage)
    other = Tool(stage.world, stage.books, "other")
    await other.open()
    stage.isolate(coordinator)
    stage.cut(coordinator, other.host)
    await stage.wait_until(lambda: stage.leader_of(GROUP_TOPIC) in others, "another one coordinates")
    assert await other.commit("orders", 9)
    asked = stage.world.driver.spawn(tool.fetch("orders"), name="fetch")  # it knows the old one only
    await stage.sleep(300)
    stage.heal()
    await asked


async def _read_from_a_deposed_leader(stage: Stage) -> None:
    tool, coordinator, others = await _prepared(stage)
    leader, follower = others
    await stage.create_topic("flights", [leader, follower, coordinator])
    writer = await stage.writer("traveller")
    await stage.send(writer, "flights", 10)
    member = Member(stage.world, stage.books, "member", "flights")
    await member.open()
    stage.isolate(leader)
    await stage.wait_until(lambda: stage.leader_of("flights") not in (leader, None), "another one leads")
    later = await stage.writer("later")
    await stage.acked(later.send_many("flights", 10))
    leader_epoch = stage.partition("flights").leader_epoch
    assert await tool.commit("flights", 20, leader_epoch=leader_epoch)
    reading = stage.world.driver.spawn(member.read(timeout_ms=10_000), name="reading")
    await stage.sleep(1_000)
    stage.heal()
    await stage.send(later, "flights", 2)
    await reading


SCENARIOS: Final = (
    Scenario(
        name="judged-by-a-deposed-leader",
        title="A member goes on from a committed offset, and a replaced leader sends it back to its own log's end",
        source="KIP-320; found by the chaos suite",
        safeguard="a leader says where logs differ only for readers that come from no later epoch than its own",
        ablation="deposed-leader-judges-nobody",
        expected=frozenset({"resumed-elsewhere"}),
        play=_read_from_a_deposed_leader,
        options=ONE_SHARD,
    ),
    Scenario(
        name="offsets-half-loaded",
        title="A coordinator takes over and serves before it has read what its predecessor committed last",
        source="Kafka pull request 2436, KAFKA-4362",
        safeguard="a coordinator serves when it has taken over everything from before its leadership",
        ablation="load-to-the-epoch-start",
        expected=frozenset({"commit-lost"}),
        play=_half_loaded,
        options=ONE_SHARD,
    ),
    Scenario(
        name="commit-answered-early",
        title="A commit is acknowledged although it was not stored, and the group begins again far back",
        source="SeaweedFS's Kafka gateway (28 % of a group's records again or never)",
        safeguard="a coordinator answers when the records behind the answer are committed",
        ablation="answer-after-commit",
        expected=frozenset({"commit-lost"}),
        play=_answered_early,
        options=ONE_SHARD,
    ),
    Scenario(
        name="offsets-of-a-deposed-coordinator",
        title="A coordinator that was replaced answers from memory what is committed",
        source="KAFKA-7447; Raft paper §8",
        safeguard="a coordinator that tells committed offsets proves first that it leads still",
        ablation="fetch-is-not-stale",
        expected=frozenset({"commit-lost"}),
        play=_asked_the_old_one,
        options=ONE_SHARD,
    ),
)
