"""What coordinators keep of committed records: the newest value of every key, and how far a shard has come.

A shard is a partition of an internal topic. Its keys, its position and its count of keys change in one batch of the
key-value store, so that they always agree. Nothing is synced: the log is the truth, and whatever a crash takes away is
read from it again. Methods block: call them through the disk executor, writes one at a time.

    "d" shard key -> value      "p" shard -> position

where `shard` is the topic id and the partition number, 20 bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

from logcluster.model.errors import StorageFailure
from logcluster.model.ids import TopicId, TopicIdPartition
from logcluster.storage.kv_store import Batch, KeyValueStore

Change = tuple[bytes, bytes | None]
"""A key and its new value; None removes the key."""
_POSITION = struct.Struct(">qiq")
_NO_EPOCH = -1


class ShardPosition(NamedTuple):
    """How far a shard has come."""

    next_offset: int
    """Everything committed below is in the store."""
    leader_epoch: int | None
    """Of the record before it, to be compared with the log's own history; None: nothing was read yet."""
    key_count: int
    """How many keys the shard has."""


class ShardStore:
    """Shards in one key-value store."""

    def __init__(self, store: KeyValueStore) -> None:
        self._store = store

    def position(self, shard: TopicIdPartition) -> ShardPosition | None:
        """How far the shard has come; None: it is not in the store.

        Raises:
            StorageFailure: the store cannot be read.
        """
        value = self._store.get(b"p" + _shard_bytes(shard))
        if value is None:
            return None
        if len(value) != _POSITION.size:
            raise StorageFailure("a coordinator's position is damaged", size_bytes=len(value))
        next_offset, leader_epoch, key_count = _POSITION.unpack(value)
        return ShardPosition(next_offset, None if leader_epoch == _NO_EPOCH else leader_epoch, key_count)

    def apply(
        self, shard: TopicIdPartition, changes: Sequence[Change], *, next_offset: int, leader_epoch: int | None
    ) -> ShardPosition:
        """Take over what the log says up to `next_offset`; returns the new position.

        Raises:
            StorageFailure: the store cannot be used any further.
        """
        before = self.position(shard)
        key_count = 0 if before is None else before.key_count
        prefix = b"d" + _shard_bytes(shard)
        batch = Batch()
        for key, value in dict(changes).items():
            stored_key = prefix + key
            was_there = self._store.get(stored_key) is not None
            key_count += (value is not None) - was_there
            if value is not None:
                batch.put(stored_key, value)
            elif was_there:
                batch.delete(stored_key)
        position = ShardPosition(next_offset, leader_epoch, key_count)
        self._put_position(batch, shard, position)
        self._store.write(batch, sync=False)
        return position

    def reset(self, shard: TopicIdPartition, *, next_offset: int) -> ShardPosition:
        """Forget the shard's keys; it is to be read anew from `next_offset` on.

        Raises:
            StorageFailure: the store cannot be used any further.
        """
        batch = Batch()
        self._delete_keys(batch, shard)
        position = ShardPosition(next_offset, None, 0)
        self._put_position(batch, shard, position)
        self._store.write(batch, sync=False)
        return position

    def drop(self, shard: TopicIdPartition) -> None:
        """Forget the shard.

        Raises:
            StorageFailure: the store cannot be used any further.
        """
        batch = Batch()
        self._delete_keys(batch, shard)
        batch.delete(b"p" + _shard_bytes(shard))
        self._store.write(batch, sync=False)

    def read(self, shard: TopicIdPartition, prefix: bytes) -> list[tuple[bytes, bytes]]:
        """Every key of the shard that begins with `prefix`, in order, and its value.

        Raises:
            StorageFailure: the store cannot be read.
        """
        start = b"d" + _shard_bytes(shard)
        found = self._store.scan(start + prefix, _after(start + prefix))
        return [(key[len(start) :], value) for key, value in found]

    def first_key(self, shard: TopicIdPartition, start: bytes, end: bytes | None = None) -> bytes | None:
        """The first key of the shard in `[start, end)`; None: there is none. `end=None` is the shard's end.

        Raises:
            StorageFailure: the store cannot be read.
        """
        prefix = b"d" + _shard_bytes(shard)
        stop = _after(prefix) if end is None else prefix + end
        for key, _ in self._store.scan(prefix + start, stop):
            return key[len(prefix) :]
        return None

    def page(self, shard: TopicIdPartition, start: bytes, *, count_max: int) -> list[tuple[bytes, bytes]]:
        """The first `count_max` keys of the shard from `start` on, and their values.

        Raises:
            StorageFailure: the store cannot be read.
        """
        prefix = b"d" + _shard_bytes(shard)
        found: list[tuple[bytes, bytes]] = []
        for key, value in self._store.scan(prefix + start, _after(prefix)):
            found.append((key[len(prefix) :], value))
            if len(found) == count_max:
                break
        return found

    def shards(self) -> list[TopicIdPartition]:
        """Every shard that is in the store.

        Raises:
            StorageFailure: the store cannot be read.
        """
        return [_shard(key[1:]) for key, _ in self._store.scan(b"p", b"q")]

    def close(self) -> None:
        """Release the store."""
        self._store.close()

    def _put_position(self, batch: Batch, shard: TopicIdPartition, position: ShardPosition) -> None:
        leader_epoch = _NO_EPOCH if position.leader_epoch is None else position.leader_epoch
        batch.put(b"p" + _shard_bytes(shard), _POSITION.pack(position.next_offset, leader_epoch, position.key_count))

    def _delete_keys(self, batch: Batch, shard: TopicIdPartition) -> None:
        prefix = b"d" + _shard_bytes(shard)
        batch.delete_range(prefix, _after(prefix))


def _shard_bytes(shard: TopicIdPartition) -> bytes:
    return shard.topic_id + shard.partition.to_bytes(4, "big")


def _shard(data: bytes) -> TopicIdPartition:
    return TopicIdPartition(TopicId(data[:-4]), int.from_bytes(data[-4:], "big"))


def _after(prefix: bytes) -> bytes:
    """The first key behind all that begin with `prefix`, which is not all 0xff."""
    stripped = prefix.rstrip(b"\xff")
    return stripped[:-1] + bytes([stripped[-1] + 1])
