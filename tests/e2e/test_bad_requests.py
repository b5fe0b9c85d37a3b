"""Bad input through the public services: a clear, definite error, and the broker keeps serving others."""

from __future__ import annotations

from collections.abc import AsyncIterator

import grpc
import pytest
import zstandard
from e2e_support import Raw

from logcluster.record.builder import build_batch
from logcluster.record.compression import Compression
from logcluster.record.header import read_header, seal
from logcluster.wire.gen.logcluster.v1 import admin_pb2, data_pb2

pytestmark = pytest.mark.cluster

MAGIC_POSITION = 16
CRC_POSITION = 17
HEADER_SIZE_BYTES = 61


def good_batch(count: int = 3, value: bytes = b"value") -> bytes:
    return build_batch([(1_700_000_000_000, None, value, ()) for _ in range(count)])


def resealed(batch: bytes, payload: bytes | None = None, **fields: int) -> bytes:
    """The batch with other header fields or records, and the right length and checksum for them."""
    header = read_header(batch)._replace(**fields)
    return seal(header, batch[HEADER_SIZE_BYTES:] if payload is None else payload)


@pytest.fixture
async def topic(raw: Raw, request: pytest.FixtureRequest) -> AsyncIterator[str]:
    """A topic of the test's own; afterwards its leader must still take and give back good records."""
    name = "bad-" + request.node.name.replace("[", "-").replace("]", "").replace("_", "-")[:200]
    await raw.create_topic(name)
    yield name
    before = await raw.fetch_values(name)
    ack = await raw.produce_batch(name, good_batch(1, b"after"))
    assert not ack.error.code, ack.error
    assert await raw.fetch_values(name) == [*before, b"after"]


def bit_flipped() -> bytes:
    batch = bytearray(good_batch())
    batch[-1] ^= 0x01
    return bytes(batch)


def wrong_magic() -> bytes:
    batch = bytearray(good_batch())
    batch[MAGIC_POSITION] = 1
    return bytes(batch)


BAD_BATCHES = {
    "wrong-checksum": (bit_flipped, "CorruptMessage"),
    "wrong-magic": (wrong_magic, "UnsupportedVersion|CorruptMessage"),
    "truncated-records": (lambda: good_batch()[:-5], "CorruptMessage"),
    "truncated-header": (lambda: good_batch()[:40], "CorruptMessage"),
    "bytes-behind-the-batch": (lambda: good_batch() + b"\0\0\0", "CorruptMessage|InvalidRecord"),
    "two-batches": (lambda: good_batch() * 2, "CorruptMessage|InvalidRecord"),
    "empty": (lambda: b"", "CorruptMessage|InvalidRecord|InvalidRequest"),
    "record-count-too-high": (
        lambda: resealed(good_batch(3), record_count=4, last_offset_delta=3),
        "InvalidRecord|CorruptMessage",
    ),
    "record-count-too-low": (
        lambda: resealed(good_batch(3), record_count=2, last_offset_delta=1),
        "InvalidRecord|CorruptMessage",
    ),
    "record-count-against-last-offset": (lambda: resealed(good_batch(3), last_offset_delta=9), "InvalidRecord"),
    "records-that-are-noise": (
        lambda: resealed(good_batch(3), payload=b"\xff" * 40),
        "InvalidRecord|CorruptMessage",
    ),
    "control-batch-from-a-client": (lambda: resealed(good_batch(), attributes=0x20), "InvalidRecord"),
    "unknown-codec": (
        lambda: resealed(good_batch(), attributes=7),
        "UnsupportedCompression|CorruptMessage|InvalidRecord",
    ),
    "compressed-noise": (
        lambda: resealed(good_batch(), attributes=int(Compression.ZSTD), payload=b"no zstd frame"),
        "CorruptMessage",
    ),
    "decompression-bomb": (
        lambda: resealed(
            good_batch(), attributes=int(Compression.ZSTD), payload=zstandard.compress(bytes(512 * 1024 * 1024))
        ),
        "MessageTooLarge",
    ),
    "larger-than-the-topic-allows": (lambda: good_batch(1, b"x" * (1024 * 1024 + 1)), "MessageTooLarge"),
    "larger-than-any-batch": (
        lambda: good_batch(1, b"x" * (7 * 1024 * 1024)) + b"x" * (2 * 1024 * 1024),
        "MessageTooLarge|CorruptMessage",
    ),
}


@pytest.mark.parametrize("name", list(BAD_BATCHES))
async def test_bad_batch_is_refused_for_certain(raw: Raw, topic: str, name: str) -> None:
    make, expected = BAD_BATCHES[name]

    ack = await raw.produce_batch(topic, make())

    assert ack.error.name in expected.split("|"), ack.error
    assert ack.error.definite
    assert ack.error.message
    assert await raw.fetch_values(topic) == []


async def test_unknown_topic_and_partition_out_of_range(raw: Raw, topic: str) -> None:
    stub = await raw.data(topic)
    parts = [
        data_pb2.PartitionProduce(topic="no-such-topic", batch=good_batch()),
        data_pb2.PartitionProduce(topic=topic, partition=7, batch=good_batch()),
        data_pb2.PartitionProduce(topic=topic, partition=-1, batch=good_batch()),
        data_pb2.PartitionProduce(topic=topic, batch=good_batch(1)),
    ]

    response = await stub.Produce(data_pb2.ProduceRequest(acks=data_pb2.ACKS_ALL, partitions=parts), timeout=15)

    names = [ack.error.name for ack in response.partitions]
    assert names[:2] == ["UnknownTopicOrPartition"] * 2
    assert names[2] in {"UnknownTopicOrPartition", "InvalidRequest"}
    assert not response.partitions[3].error.code, "a bad partition must not spoil a good one"
    assert response.partitions[0].error.hint


async def test_stale_and_future_leader_epochs_are_told_apart(raw: Raw, topic: str) -> None:
    _, leader_epoch = await raw.leader(topic)

    future = await raw.produce_batch(topic, good_batch(), leader_epoch=leader_epoch + 5)
    assert future.error.name == "UnknownLeaderEpoch"

    stale = await raw.produce_batch(topic, good_batch(), leader_epoch=leader_epoch - 1)
    assert stale.error.name == "FencedLeaderEpoch"
    assert stale.leader.leader_epoch == leader_epoch
    assert stale.error.refresh_metadata


async def test_fetch_with_stale_epoch_or_impossible_offset_is_refused(raw: Raw, topic: str) -> None:
    _, leader_epoch = await raw.leader(topic)
    stub = await raw.data(topic)
    parts = [
        data_pb2.FetchPartition(topic=topic, fetch_offset=0, leader_epoch=leader_epoch - 1),
        data_pb2.FetchPartition(topic="no-such-topic", fetch_offset=0),
        data_pb2.FetchPartition(topic=topic, partition=9, fetch_offset=0),
        data_pb2.FetchPartition(topic=topic, fetch_offset=10**12),
    ]

    names = []
    for part in parts:
        response = await stub.Fetch(data_pb2.FetchRequest(max_wait_ms=10, partitions=[part]), timeout=15)
        names.append(response.partitions[0].error.name)

    assert names == ["FencedLeaderEpoch", "UnknownTopicOrPartition", "UnknownTopicOrPartition", "OffsetOutOfRange"]


BAD_TOPICS = {
    "illegal-name": (admin_pb2.NewTopic(name="no/slash", partitions=1), "InvalidTopic"),
    "dot-dot": (admin_pb2.NewTopic(name="..", partitions=1), "InvalidTopic"),
    "empty-name": (admin_pb2.NewTopic(name="", partitions=1), "InvalidTopic"),
    "long-name": (admin_pb2.NewTopic(name="x" * 250, partitions=1), "InvalidTopic"),
    "replication-above-brokers": (
        admin_pb2.NewTopic(name="rf", partitions=1, replication_factor=4),
        "InvalidReplicationFactor",
    ),
    "negative-replication": (
        admin_pb2.NewTopic(name="rf", partitions=1, replication_factor=-2),
        "InvalidReplicationFactor",
    ),
    "negative-partitions": (admin_pb2.NewTopic(name="p", partitions=-1), "InvalidPartitions"),
    "too-many-partitions": (admin_pb2.NewTopic(name="p", partitions=2_000_000), "InvalidPartitions"),
    "unknown-key": (admin_pb2.NewTopic(name="c", partitions=1, config={"retention.msec": "1"}), "InvalidConfig"),
    "bad-value": (admin_pb2.NewTopic(name="c", partitions=1, config={"retention.ms": "soon"}), "InvalidConfig"),
    "value-out-of-range": (admin_pb2.NewTopic(name="c", partitions=1, config={"segment.bytes": "1"}), "InvalidConfig"),
}


@pytest.mark.parametrize("name", list(BAD_TOPICS))
async def test_impossible_topic_is_refused_for_certain(raw: Raw, name: str) -> None:
    topic, expected = BAD_TOPICS[name]

    response = await raw.admin.CreateTopics(admin_pb2.CreateTopicsRequest(topics=[topic]), timeout=10)

    error = response.topics[0].error
    assert (error.name, error.definite) == (expected, True), error
    assert error.message


async def test_topic_that_exists_is_not_created_again(raw: Raw, topic: str) -> None:
    request = admin_pb2.CreateTopicsRequest(topics=[admin_pb2.NewTopic(name=topic, partitions=9)])

    response = await raw.admin.CreateTopics(request, timeout=10)

    assert response.topics[0].error.name == "TopicAlreadyExists"


async def test_request_larger_than_a_frame_is_refused_and_the_connection_survives(raw: Raw, topic: str) -> None:
    stub = await raw.data(topic)
    part = data_pb2.PartitionProduce(topic=topic, batch=bytes(80 * 1024 * 1024))

    with pytest.raises(grpc.aio.AioRpcError) as error:
        await stub.Produce(data_pb2.ProduceRequest(partitions=[part]), timeout=30)

    assert error.value.code() in {grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.INVALID_ARGUMENT}
