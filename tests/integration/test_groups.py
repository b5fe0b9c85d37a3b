"""Consumer groups over whole nodes in virtual time: members, moves of coordinators, commits, and the shortened log."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from logcluster.client.client import Client
from logcluster.client.connections import call
from logcluster.client.group.consumer import GroupConsumer
from logcluster.model.errors import InvalidTopic, NonEmptyGroup, PartitionNotAssigned
from logcluster.sim.process import Process
from logcluster.sim.world import World, WorldOptions
from logcluster.wire.gen.logcluster.v1 import groups_pb2 as pb

SETTINGS = {
    "groups.partitions": 2,
    "groups.session_timeout_ms": 2_000,
    "groups.heartbeat_interval_ms": 300,
    "broker.leader_rebalance_interval_ms": 60_000,
}
Work = Callable[["Scene"], Coroutine[Any, Any, None]]


class Scene:
    """A cluster of three with the topic `orders`, and a client."""

    def __init__(self, world: World, process: Process, client: Client) -> None:
        self.world = world
        self.process = process
        self.client = client

    async def sleep(self, delay_ms: int) -> None:
        await self.process.clock.sleep_ms(delay_ms)

    async def write(self, count: int) -> None:
        async with self.client.producer(linger_ms=0) as producer:
            for number in range(count):
                await producer.send("orders", b"%d" % number, partition=number % 4)

    def consumer(self, **options: Any) -> GroupConsumer:
        consumer = self.client.consumer("orders", group="billing", **options)
        assert isinstance(consumer, GroupConsumer)
        return consumer

    async def committed_sum(self) -> int:
        """Of the group's offsets in all partitions."""
        offsets = await self.client.admin.groups.offsets("billing")
        return sum(found.offset for found in offsets.values())

    async def stub(self) -> tuple[int, Any]:
        """The coordinator of the group, and its service."""
        connections = self.client._open().connections
        while True:
            response = await connections.ask_any(
                lambda stubs: stubs.groups.FindCoordinators,
                pb.FindCoordinatorsRequest(groups=["billing"]),
                timeout_ms=5_000,
            )
            found = response.coordinators[0]
            if not found.error.code:
                return found.broker_id, connections.stubs(found.broker_id).groups
            await self.sleep(50)


def play(work: Work, *, seed: int = 1, **settings: Any) -> None:
    more = {name.replace("__", "."): value for name, value in settings.items()}
    world = World(seed, WorldOptions(settings={**SETTINGS, **more}))

    async def main() -> None:
        await world.start()
        process = world.process("client")

        async def run() -> None:
            async with world.connect(process) as client:
                await client.admin.create_topic("orders", partitions=4)
                await work(Scene(world, process, client))

        task = process.spawn(run(), name="work")
        await world.wait(task.done, timeout_ms=120_000, what="the work")
        task.result()

    world.run(main)


def joining(member_id: str) -> pb.HeartbeatRequest:
    return pb.HeartbeatRequest(
        group="billing", member_id=member_id, subscription=pb.Subscription(topics=["orders"]), owned=pb.Assignment()
    )


def test_members_that_join_a_new_group_at_once_share_its_partitions() -> None:
    """Requests of one turn to an entity that is not in memory see one another's effects."""

    async def work(scene: Scene) -> None:
        _, stub = await scene.stub()
        answers = await asyncio.gather(
            *(call(stub.Heartbeat, joining(f"member-{number}"), timeout_ms=5_000) for number in range(3))
        )
        assert sorted(answer.group_epoch for answer in answers) == [1, 2, 3]
        (described,) = await scene.client.admin.groups.describe("billing")
        assert len(described.members) == 3
        held = [partition for answer in answers for topic in answer.assignment.topics for partition in topic.partitions]
        assert sorted(held) == sorted(set(held)), "no partition has two owners"

    play(work)


def test_committed_offsets_and_members_survive_the_coordinator() -> None:
    async def work(scene: Scene) -> None:
        await scene.write(20)
        broker_id, stub = await scene.stub()
        answer = await call(stub.Heartbeat, joining("m"), timeout_ms=5_000)
        commit = pb.CommitOffsetsRequest(group="billing", member_id="m", member_epoch=answer.member_epoch)
        commit.offsets.add(topic="orders", partition=0, offset=3)
        commit.offsets.add(topic="orders", partition=1, offset=99)
        result = await call(stub.CommitOffsets, commit, timeout_ms=5_000)
        assert [item.error.name for item in result.results] == ["", "OffsetOutOfRange"]
        scene.world.nodes[broker_id].crash()
        while (found := await scene.stub())[0] == broker_id:
            await scene.sleep(50)
        offsets = await call(found[1].FetchOffsets, pb.FetchOffsetsRequest(group="billing"), timeout_ms=5_000)
        assert [(item.partition, item.offset) for item in offsets.offsets] == [(0, 3)]
        again = await call(
            found[1].Heartbeat,
            pb.HeartbeatRequest(group="billing", member_id="m", member_epoch=answer.member_epoch),
            timeout_ms=5_000,
        )
        assert again.member_epoch == answer.member_epoch, "the next coordinator knows the member"

    play(work)


def test_a_commit_that_was_held_up_does_not_undo_a_later_one() -> None:
    async def work(scene: Scene) -> None:
        await scene.write(20)
        _, stub = await scene.stub()
        answer = await call(stub.Heartbeat, joining("m"), timeout_ms=5_000)

        async def commit(offset: int, sequence: int) -> None:
            request = pb.CommitOffsetsRequest(
                group="billing", member_id="m", member_epoch=answer.member_epoch, sequence=sequence
            )
            request.offsets.add(topic="orders", partition=0, offset=offset)
            await call(stub.CommitOffsets, request, timeout_ms=5_000)

        await commit(2, 1)
        await commit(4, 2)
        await commit(4, 2)  # a repetition
        with pytest.raises(Exception, match="came after its commit 2"):
            await commit(2, 1)
        offsets = await scene.client.admin.groups.offsets("billing")
        assert [found.offset for found in offsets.values()] == [4]

    play(work)


def test_a_record_counts_as_done_when_the_next_one_is_asked_for() -> None:
    async def work(scene: Scene) -> None:
        await scene.write(40)
        seen = 0
        with pytest.raises(ZeroDivisionError):
            async with scene.consumer(auto_commit_interval_ms=20) as consumer:
                async for _ in consumer:
                    seen += 1
                    await scene.sleep(30)
                    if seen == 10:
                        raise ZeroDivisionError
        offsets = await scene.client.admin.groups.offsets("billing")
        assert sum(found.offset for found in offsets.values()) == 9, "all but the one that failed"
        async with scene.consumer(max_records=31) as consumer:
            rest = [record async for record in consumer]
        assert len(rest) == 31
        offsets = await scene.client.admin.groups.offsets("billing")
        assert sum(found.offset for found in offsets.values()) == 40

    play(work)


def test_what_a_read_gathers_is_not_committed_before_it_is_returned() -> None:
    """Found by the simulator: the first records lay in a list that nobody had been given, and were committed."""

    async def work(scene: Scene) -> None:
        await scene.write(4)
        async with scene.consumer(auto_commit_interval_ms=20) as consumer:
            reading = asyncio.ensure_future(consumer.read(100, timeout_ms=3_000))
            await scene.sleep(2_000)
            assert await scene.committed_sum() == 0
            assert len(await reading) == 4
            await scene.sleep(200)
            assert await scene.committed_sum() == 0, "they are in the application's hand"
            await consumer.commit()
            await scene.sleep(200)
            assert await scene.committed_sum() == 4, "no automatic commit undoes that"

    play(work)


def test_partitions_of_a_process_that_dies_are_read_again_soon() -> None:
    async def work(scene: Scene) -> None:
        world = scene.world
        other = world.process("other")

        async def read_for_ever() -> None:
            async with (
                world.connect(other) as client,
                client.consumer("orders", group="billing") as consumer,
            ):
                async for _ in consumer:
                    await other.clock.sleep_ms(1)

        other.spawn(read_for_ever(), name="member")
        assigned: list[int] = []
        async with scene.consumer(
            on_assigned=lambda names: assigned.extend(name.partition for name in names)
        ) as consumer:
            reading = asyncio.ensure_future(consumer.read(1_000, timeout_ms=60_000))
            await scene.sleep(1_500)
            assert len(consumer.assignment) == 2
            other.kill()
            killed_at_ms = world.now_ms
            while len(consumer.assignment) < 4:
                await scene.sleep(20)
            assert world.now_ms - killed_at_ms < 2_000
            events = await scene.client.admin.groups.events("billing")
            assert any(event.kind == "evicted" and "lost its connection" in event.reason for event in events)
            reading.cancel()

    play(work)


def test_processing_in_parallel_keeps_the_order_of_keys_and_commits_what_is_handled() -> None:
    async def work(scene: Scene) -> None:
        async with scene.client.producer() as producer:
            for number in range(60):
                await producer.send("orders", b"%d" % number, key=b"key-%d" % (number % 5))
        handled: dict[bytes, list[int]] = {}
        at_once = most = 0

        async def handle(record: Any) -> None:
            nonlocal at_once, most
            at_once += 1
            most = max(most, at_once)
            await scene.sleep(10)
            at_once -= 1
            handled.setdefault(record.key, []).append(int(record.value))

        async with scene.consumer(max_records=60) as consumer:
            await consumer.process(handle, concurrency=4)
        assert sum(map(len, handled.values())) == 60
        assert all(numbers == sorted(numbers) for numbers in handled.values())
        assert 1 < most <= 4
        offsets = await scene.client.admin.groups.offsets("billing")
        assert sum(found.offset for found in offsets.values()) == 60

    play(work)


def test_a_handler_that_fails_stops_the_processing_and_its_record_comes_again() -> None:
    async def work(scene: Scene) -> None:
        await scene.write(12)

        async def handle(record: Any) -> None:
            if record.value == b"5":
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            async with scene.consumer() as consumer:
                await consumer.process(handle, concurrency=2)
        values: list[bytes] = []
        async with scene.consumer() as consumer:
            while b"5" not in values:
                values += [record.value or b"" for record in await consumer.read(100, timeout_ms=500)]

    play(work)


def test_the_internal_topic_belongs_to_the_cluster_and_bad_requests_harm_nobody() -> None:
    async def work(scene: Scene) -> None:
        _, stub = await scene.stub()
        client = scene.client
        async with client.producer() as producer:
            with pytest.raises(InvalidTopic):
                await producer.send("__consumer_offsets", b"x", partition=0)
        for refused in (
            client.admin.create_topic("__mine"),
            client.admin.delete_topic("__consumer_offsets"),
            client.admin.delete_records({("__consumer_offsets", 0): 0}),
        ):
            with pytest.raises(InvalidTopic):
                await refused
        answer = await call(stub.Heartbeat, joining("m"), timeout_ms=5_000)
        stranger = pb.CommitOffsetsRequest(group="billing", member_id="m", member_epoch=answer.member_epoch)
        stranger.offsets.add(topic="orders", topic_id=b"\x07" * 16, partition=0, offset=0)
        result = await call(stub.CommitOffsets, stranger, timeout_ms=5_000)
        assert result.results[0].error.name == "UnknownTopicId"
        with pytest.raises(NonEmptyGroup):
            await client.admin.groups.alter_offsets("billing", {("orders", 0): 0})
        bad = joining("n")
        bad.subscription.topic_regex = "(a"
        with pytest.raises(Exception, match="cannot be used"):
            await call(stub.Heartbeat, bad, timeout_ms=5_000)
        still = pb.HeartbeatRequest(group="billing", member_id="m", member_epoch=answer.member_epoch)
        assert (await call(stub.Heartbeat, still, timeout_ms=5_000)).member_epoch == answer.member_epoch

    play(work)


def test_the_internal_log_is_kept_short_and_still_says_everything() -> None:
    async def work(scene: Scene) -> None:
        await scene.write(8)
        broker_id, _ = await scene.stub()
        for round_number in range(600):
            await scene.client.admin.groups.alter_offsets("billing", {("orders", 0): round_number % 3})
        await scene.client.admin.groups.alter_offsets("billing", {("orders", 0): 2, ("orders", 1): 1})
        await scene.sleep(8_000)
        for number in range(20):
            await scene.client.admin.groups.alter_offsets("billing", {("orders", 2): number % 2})
        await scene.sleep(2_000)
        node = scene.world.nodes[broker_id].node
        assert node is not None
        assert node.groups is not None
        starts = [shard.partition.log.log_start_offset for shard in node.groups.runtime.shards]
        assert max(starts) > 0
        scene.world.nodes[broker_id].crash()
        while (await scene.stub())[0] == broker_id:
            await scene.sleep(50)
        offsets = await scene.client.admin.groups.offsets("billing")
        assert {name.partition: found.offset for name, found in offsets.items()} == {0: 2, 1: 1, 2: 1}

    play(work, groups__rewrite_bytes_min=1_024)


def test_a_partition_that_is_not_assigned_cannot_be_committed() -> None:
    async def work(scene: Scene) -> None:
        await scene.write(8)
        _, stub = await scene.stub()
        first = await call(stub.Heartbeat, joining("first"), timeout_ms=5_000)
        second = await call(stub.Heartbeat, joining("second"), timeout_ms=5_000)
        assert not second.assignment.topics, "the first one has not let go yet"
        request = pb.CommitOffsetsRequest(group="billing", member_id="second", member_epoch=second.member_epoch)
        request.offsets.add(topic="orders", partition=0, offset=1)
        result = await call(stub.CommitOffsets, request, timeout_ms=5_000)
        assert result.results[0].error.name == PartitionNotAssigned.__name__
        assert first.member_epoch == 1

    play(work)
