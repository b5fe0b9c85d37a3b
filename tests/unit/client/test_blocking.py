"""The blocking face: the same names and results, on a loop of its own."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from fake_cluster import FakeCluster

from logcluster import sync
from logcluster.client.records import RecordAck
from logcluster.model import errors


def open_fake(partitions: int = 2) -> tuple[FakeCluster, Any]:
    cluster = FakeCluster()
    cluster.max_wait_ms = 5
    # The model's events belong to the loop of the client, so the topic is added there.
    client = sync.Blocking(cluster.client())
    return cluster, client


def test_records_go_in_and_come_out() -> None:
    _, client = open_fake()
    with client:
        facts = client.admin.create_topic("t", partitions=2)
        assert len(facts.partitions) == 2
        with client.producer() as producer:
            assert producer.send("t", b"0", key=b"k").offset == 0
            future = producer.send_nowait("t", b"1", key=b"k")
            assert isinstance(future.result(), RecordAck)
            assert future.done()
            assert future.exception() is None
            assert len(producer.send_many("t", [(b"k", b"%d" % index) for index in range(2, 100)])) == 98
        with client.consumer("t", start="earliest", until="end") as consumer:
            assert [int(record.value) for record in consumer] == list(range(100))
        with client.consumer("t", start="earliest", until="end") as consumer:
            assert sum(len(records) for records in consumer.batches()) == 100
            assert consumer.read(5) == []


def test_leaving_a_loop_early_gives_back_what_was_not_looked_at() -> None:
    _, client = open_fake()
    with client:
        client.admin.create_topic("t", partitions=1)
        with client.producer() as producer:
            producer.send_many("t", [b"%d" % index for index in range(50)])
        with client.consumer("t", start="earliest", until="end", max_records=40) as consumer:
            found = []
            for record in consumer:
                found.append(record.offset)
                if len(found) == 7:
                    break
            assert consumer.position(0) == 7
            found += [record.offset for record in consumer]
    assert found == list(range(40))


def test_errors_are_raised_as_they_are() -> None:
    _, client = open_fake()
    with client:
        with pytest.raises(errors.UnknownTopicOrPartition):
            client.admin.describe_topic("nowhere")
        with pytest.raises(errors.UnsupportedVersion):
            client.queue("t", group="g")


def test_lost_records_are_reported_when_the_block_is_left() -> None:
    cluster, client = open_fake()

    async def refuse(broker_id: int, method: str, request: Any) -> None:
        if method == "Produce":
            raise errors.InvalidRecord("no")

    with client:
        client.admin.create_topic("t")
        with pytest.raises(errors.LogClusterError, match="1 record not acknowledged"), client.producer() as producer:
            cluster.before = refuse
            producer.send_nowait("t", b"v")


def test_the_thread_ends_with_the_last_client() -> None:
    _, first = open_fake()
    _, second = open_fake()
    with first:
        with second:
            assert "logcluster" in {thread.name for thread in threading.enumerate()}
        first.admin.list_brokers()
    assert "logcluster" not in {thread.name for thread in threading.enumerate()}
    with pytest.raises(errors.InvalidRequest):
        first.admin.list_brokers()


def test_several_threads_may_share_a_producer() -> None:
    cluster, client = open_fake()
    with client:
        client.admin.create_topic("t", partitions=1)
        with client.producer() as producer:
            threads = [threading.Thread(target=lambda: [producer.send("t", b"v") for _ in range(20)]) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
    assert cluster.topics["t"][0].end_offset == 80
