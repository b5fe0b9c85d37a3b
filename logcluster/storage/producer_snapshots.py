"""Producer-state snapshots beside a log: opaque payloads named by the offset they were taken at.

    magic 4 | offset 8 | crc32 of the payload 4 | payload

A snapshot is derived data, so it is not synced: one that is missing or damaged only means more batch headers to replay
from an earlier one. One that a truncation removed must never return, so the log syncs the directory then.
"""

from __future__ import annotations

import struct
import zlib
from typing import Final

from logcluster.model.probes import probe
from logcluster.runtime.failpoints import failpoint
from logcluster.storage.checkpoints import read_whole, write_whole
from logcluster.storage.filesystem import Filesystem, join
from logcluster.storage.segment import segment_stem

SNAPSHOT_SUFFIX: Final = ".snapshot"
_MAGIC: Final = b"LCP1"
_HEADER: Final = struct.Struct(">4sqI")


class ProducerSnapshots:
    """The snapshots of one partition directory. Failures are `OSError`."""

    __slots__ = ("_directory", "_filesystem")

    def __init__(self, filesystem: Filesystem, directory: str) -> None:
        self._filesystem = filesystem
        self._directory = directory

    def offsets(self) -> list[int]:
        """The offsets that have a snapshot, ascending."""
        if not self._filesystem.exists(self._directory):
            return []
        return [
            int(name[: -len(SNAPSHOT_SUFFIX)])
            for name in self._filesystem.list(self._directory)
            if name.endswith(SNAPSHOT_SUFFIX) and name[: -len(SNAPSHOT_SUFFIX)].isdigit()
        ]

    def write(self, offset: int, payload: bytes) -> None:
        """Keep `payload` as the state after all batches below `offset`."""
        failpoint("storage.producer_snapshot.before_write")
        data = _HEADER.pack(_MAGIC, offset, zlib.crc32(payload)) + payload
        write_whole(self._filesystem, self._directory, _name(offset), data, durable=False)

    def latest(self, offset_max: int) -> tuple[int, bytes] | None:
        """The newest sound snapshot at or below `offset_max`."""
        for offset in reversed(self.offsets()):
            if offset <= offset_max:
                payload = self._read(offset)
                if payload is not None:
                    return offset, payload
        return None

    def remove_above(self, offset: int) -> bool:
        """Remove snapshots taken above `offset`; returns whether there were any."""
        return self._remove([taken for taken in self.offsets() if taken > offset])

    def remove_below(self, offset: int) -> bool:
        """Remove snapshots below `offset`, except the newest snapshot of all; returns whether there were any."""
        return self._remove([taken for taken in self.offsets()[:-1] if taken < offset])

    def _read(self, offset: int) -> bytes | None:
        data = read_whole(self._filesystem, join(self._directory, _name(offset)))
        if data is None or len(data) < _HEADER.size:
            return None
        magic, stored_offset, crc = _HEADER.unpack_from(data)
        payload = data[_HEADER.size :]
        if magic != _MAGIC or stored_offset != offset or crc != zlib.crc32(payload):
            probe("storage.producer_snapshot.damaged")
            return None
        return payload

    def _remove(self, offsets: list[int]) -> bool:
        for offset in offsets:
            failpoint("storage.producer_snapshot.before_remove")
            self._filesystem.remove(join(self._directory, _name(offset)))
        return bool(offsets)


def _name(offset: int) -> str:
    return segment_stem(offset) + SNAPSHOT_SUFFIX
