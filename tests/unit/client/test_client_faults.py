"""Bugs planted in the client's own tasks and callbacks: whoever waits is told, and nobody hangs."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from fake_cluster import FakeCluster, ModelPartition

from logcluster.client.metadata import Metadata
from logcluster.client.metadata_cache import MetadataCache
from logcluster.client.sender import Sender
from logcluster.model import errors
from logcluster.record.builder import build_batch
from logcluster.runtime.clock import SystemClock
from logcluster.runtime.scope import TaskScope


def fill(partition: ModelPartition, count: int) -> None:
    partition.append(build_batch([(index, None, b"%d" % index, ()) for index in range(count)]))


def one_topic(count: int = 5) -> FakeCluster:
    cluster = FakeCluster()
    fill(cluster.add_topic("t")[0], count)
    return cluster


def explode_in(cluster: FakeCluster, *methods: str, after: int = 0) -> None:
    """Let calls of these methods raise what no carrier raises, after some that do not."""
    left = after

    async def explode(broker_id: int, method: str, request: Any) -> None:
        nonlocal left
        if method in methods:
            if left == 0:
                raise ZeroDivisionError
            left -= 1

    cluster.before = explode


def explode(*_: Any, **__: Any) -> Any:
    raise ZeroDivisionError


# The consumer.


async def test_bug_in_a_fetch_reaches_whoever_reads_and_stays() -> None:
    cluster = one_topic()
    async with asyncio.timeout(5), cluster.client() as client:
        explode_in(cluster, "Fetch")
        async with client.consumer("t", start="earliest") as consumer:
            for _ in range(2):
                with pytest.raises(errors.UnknownServerError, match="the consumer failed: ZeroDivisionError") as caught:
                    await consumer.read(5)
                assert isinstance(caught.value.__cause__, ZeroDivisionError)
            with pytest.raises(errors.UnknownServerError):
                await anext(aiter(consumer))
            with pytest.raises(errors.UnknownServerError):
                await anext(consumer.batches(max_wait_ms=10))
            assert isinstance(consumer._scope.failure, ZeroDivisionError), "and whoever looks at the scope sees it"


async def test_what_was_fetched_before_the_bug_is_handed_out_first() -> None:
    cluster = one_topic()
    async with asyncio.timeout(5), cluster.client() as client:
        explode_in(cluster, "Fetch", after=1)
        async with client.consumer("t", start="earliest") as consumer:
            assert len(await consumer.read(100)) == 5
            with pytest.raises(errors.UnknownServerError):
                await consumer.read(100)


@pytest.mark.parametrize("name", ["_leader_of", "_answered"])
async def test_bug_in_a_callback_of_the_fetcher_reaches_whoever_reads(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = one_topic()
    async with asyncio.timeout(5), cluster.client() as client, client.consumer("t", start="earliest") as consumer:
        assert len(await consumer.read(5)) == 5
        assert consumer._fetcher is not None
        monkeypatch.setattr(consumer._fetcher, name, explode)
        fill(cluster.topics["t"][0], 5)
        with pytest.raises(errors.UnknownServerError):
            while True:  # what a fetch on its way brings comes first
                assert await consumer.read(100)


async def test_bug_while_looking_up_a_position_reaches_whoever_reads() -> None:
    cluster = one_topic()
    cluster.topics["t"][0].log_start_offset = 3
    async with asyncio.timeout(5), cluster.client() as client:
        explode_in(cluster, "ListOffsets")
        async with client.consumer("t", start=1, on_out_of_range="earliest") as consumer:
            with pytest.raises(errors.UnknownServerError):
                await consumer.read(1)


async def test_bug_while_following_topics_reaches_whoever_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = one_topic()
    async with (
        asyncio.timeout(5),
        cluster.client(metadata_age_ms_max=20) as client,
        client.consumer("t", start="latest") as consumer,
    ):
        monkeypatch.setattr(consumer, "_add_partitions", explode)
        with pytest.raises(errors.UnknownServerError):
            await consumer.read(1)


# The producer.


async def test_bug_while_finding_a_topic_fails_the_records_that_wait_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = FakeCluster()
    cluster.add_topic("t")
    async with asyncio.timeout(5), cluster.client() as client, client.producer() as producer:
        with monkeypatch.context() as patch:
            patch.setattr(Metadata, "topic", explode)
            future = producer.send_nowait("t", b"v")
            with pytest.raises(errors.UnknownServerError, match="ZeroDivisionError"):
                await future
        assert producer.buffered_size_bytes == 0
        assert (await producer.send("t", b"v")).offset == 0


async def test_bug_while_records_find_their_partitions_fails_them(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = FakeCluster()
    cluster.add_topic("t")
    async with asyncio.timeout(5), cluster.client() as client, client.producer() as producer:
        with monkeypatch.context() as patch:
            patch.setattr(producer, "_rotate", explode)
            future = producer.send_nowait("t", b"v")
            with pytest.raises(errors.UnknownServerError):
                await future
        assert producer.buffered_size_bytes == 0
        assert (await producer.send("t", b"v")).offset == 0


async def test_bug_while_asking_for_a_producer_id_fails_the_records() -> None:
    cluster = FakeCluster()
    cluster.add_topic("t")
    async with asyncio.timeout(5), cluster.client() as client:
        explode_in(cluster, "InitProducerId")
        async with client.producer() as producer:
            with pytest.raises(errors.UnknownServerError):
                await producer.send("t", b"v")


@pytest.mark.parametrize("name", ["_launch", "_fly"])
async def test_bug_in_a_callback_of_the_sender_fails_the_records(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = FakeCluster()
    cluster.add_topic("t")
    async with asyncio.timeout(5), cluster.client() as client, client.producer() as producer:
        await producer.send("t", b"0")
        with monkeypatch.context() as patch:
            patch.setattr(Sender, name, explode)
            with pytest.raises(errors.UnknownServerError):
                await producer.send("t", b"lost")
        assert (await producer.send("t", b"1")).offset == 1


async def test_bug_when_metadata_changes_fails_the_records(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = FakeCluster()
    cluster.add_topic("t")
    async with asyncio.timeout(5), cluster.client() as client, client.producer() as producer:
        await producer.send("t", b"0")
        cluster.elect("t", 0, None)
        future = producer.send_nowait("t", b"lost")
        with monkeypatch.context() as patch:
            patch.setattr(Sender, "wake_all", explode)
            with pytest.raises(errors.UnknownServerError):
                await future
        cluster.elect("t", 0, 1)
        assert (await producer.send("t", b"1")).offset == 1


async def test_bug_lets_nobody_wait_for_space_in_vain() -> None:
    cluster = FakeCluster()
    cluster.add_topic("t")
    entered, go_on = asyncio.Event(), asyncio.Event()

    async def hold(broker_id: int, method: str, request: Any) -> None:
        if method == "Produce" and not go_on.is_set():
            entered.set()
            await go_on.wait()
            raise ZeroDivisionError

    async with asyncio.timeout(5), cluster.client() as client, client.producer(buffer_size_bytes=1000) as producer:
        await producer.send("t", b"0")
        cluster.before = hold
        future = producer.send_nowait("t", b"x" * 900)
        waiting = asyncio.create_task(producer.send("t", b"y" * 900))
        await entered.wait()
        go_on.set()
        assert (await waiting).offset == 1
        with pytest.raises(errors.UnknownServerError):
            await future


async def test_answer_to_a_request_that_was_given_up_for_a_bug_in_another_is_ignored() -> None:
    cluster = FakeCluster()
    cluster.add_topic("t", 2)
    slow = asyncio.Event()
    is_armed = True

    async def plan(broker_id: int, method: str, request: Any) -> None:
        if method == "Produce" and is_armed:
            if request.partitions[0].partition == 0:
                raise ZeroDivisionError
            await slow.wait()

    async with asyncio.timeout(5), cluster.client() as client, client.producer() as producer:
        for partition in range(2):
            await producer.send("t", b"0", partition=partition)
        cluster.before = plan
        futures = [producer.send_nowait("t", b"1", partition=partition) for partition in (1, 0)]
        for future in futures:
            with pytest.raises(errors.UnknownServerError):
                await future
        is_armed = False
        later = [producer.send_nowait("t", b"2", partition=partition) for partition in range(2)]
        slow.set()
        for future in later:
            await future


# Metadata.


class Exploding:
    """A connection with a bug."""

    def __init__(self) -> None:
        self.is_broken = True

    async def ask_metadata(self, _request: object) -> Any:
        if self.is_broken:
            raise ZeroDivisionError
        raise errors.BrokerNotAvailable


def metadata_on(connections: Any, scope: TaskScope) -> Metadata:
    return Metadata(connections, MetadataCache(), clock=SystemClock(), scope=scope, topic_wait_ms=50)


async def test_bug_in_a_refresh_reaches_whoever_waits_for_it_and_the_next_one_begins() -> None:
    connections = Exploding()
    async with asyncio.timeout(5), TaskScope("test") as scope:
        metadata = metadata_on(connections, scope)
        waiting = [asyncio.create_task(metadata.refresh()) for _ in range(2)]
        for task in waiting:
            with pytest.raises(errors.UnknownServerError, match="ZeroDivisionError"):
                await task
        with pytest.raises(errors.UnknownServerError):
            await metadata.topic("t")
        connections.is_broken = False
        with pytest.raises(errors.BrokerNotAvailable):
            await metadata.refresh()


async def test_bug_in_a_listener_keeps_nobody_else_from_hearing() -> None:
    connections = Exploding()
    connections.is_broken = False
    heard = []
    async with asyncio.timeout(5), TaskScope("test") as scope:
        metadata = metadata_on(connections, scope)
        metadata.listen(explode)
        metadata.listen(lambda: heard.append(1))
        for _ in range(2):
            with pytest.raises(errors.BrokerNotAvailable):
                await metadata.refresh()
    assert heard == [1, 1]


async def test_refresh_that_is_cancelled_with_its_scope_lets_nobody_wait() -> None:
    class Silent:
        async def ask_metadata(self, _request: object) -> Any:
            await asyncio.Event().wait()

    async with asyncio.timeout(5):
        scope = TaskScope("test")
        metadata = metadata_on(Silent(), scope)
        waiting = asyncio.create_task(metadata.refresh())
        await asyncio.sleep(0.01)
        await scope.close()
        with pytest.raises(errors.ShuttingDown):
            await waiting
        with pytest.raises(errors.ShuttingDown):
            await metadata.refresh()
