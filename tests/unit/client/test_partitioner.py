"""Partitioning by key as Kafka does, and sticky partitioning without one."""

from __future__ import annotations

import random
from collections import Counter

from aiokafka.partitioner import murmur2 as kafka_murmur2

from logcluster.client.partitioner import StickyPartition, key_hash
from logcluster.model.hashing import murmur2


def test_murmur2_agrees_with_kafka_for_every_length() -> None:
    generator = random.Random(1)
    for length in range(300):
        key = generator.randbytes(length)
        assert murmur2(key) == kafka_murmur2(key) & 0xFFFFFFFF


def test_known_hashes_of_the_java_client() -> None:
    assert murmur2(b"21") == -973932308 & 0xFFFFFFFF
    assert murmur2(b"foobar") == -790332482 & 0xFFFFFFFF
    assert murmur2(b"a-little-bit-long-string") == -985981536 & 0xFFFFFFFF


def test_key_hash_is_not_negative_and_does_not_depend_on_the_kind_of_buffer() -> None:
    for key in (b"", b"21", b"x" * 1000):
        assert key_hash(key) == murmur2(key) & 0x7FFFFFFF
        assert key_hash(bytearray(key)) == key_hash(key) == key_hash(memoryview(key))  # type: ignore[arg-type]


def test_sticky_partition_always_leaves_the_current_one() -> None:
    sticky = StickyPartition(random.Random(1))
    seen = []
    for _ in range(100):
        before = sticky.current
        assert sticky.rotate([0, 1, 2]) != before
        seen.append(sticky.current)
    assert min(Counter(seen).values()) > 20


def test_sticky_partition_stays_when_there_is_only_one() -> None:
    sticky = StickyPartition(random.Random(1))
    assert [sticky.rotate([4]) for _ in range(3)] == [4, 4, 4]
