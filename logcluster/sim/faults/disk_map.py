"""Where on a simulated disk stands what: partition directories, synced batches, files that can be rebuilt.

Reads the disk from outside, as a forensic tool would: no injected error is met and no operation counted, and the node
need not run. Only batches below the recovery point of a durable checkpoint are offered for damage (see `atlas`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from logcluster.model.errors import CorruptLog, CorruptMessage, UnsupportedVersion
from logcluster.record.header import HEADER_SIZE_BYTES, read_header
from logcluster.sim.disk import SimulatedDisk
from logcluster.storage.checkpoints import (
    BOOT_FILE,
    CHECKPOINT_FILE,
    IDENTITY_FILE,
    LEADER_EPOCHS_FILE,
    PARTITION_METADATA_FILE,
    PartitionCheckpoint,
    PartitionMetadata,
    decode_checked,
)
from logcluster.storage.producer_snapshots import SNAPSHOT_SUFFIX
from logcluster.storage.segment import INDEX_SUFFIX, LOG_SUFFIX

_OF_DIRECTORY: Final[Mapping[str, str]] = {"boot": BOOT_FILE, "checkpoint": CHECKPOINT_FILE}
_OF_PARTITION: Final[Mapping[str, str]] = {
    "epochs": LEADER_EPOCHS_FILE,
    "metadata": PARTITION_METADATA_FILE,
    "index": INDEX_SUFFIX,
    "snapshot": SNAPSHOT_SUFFIX,
}


@dataclass(frozen=True, slots=True)
class StoredBatch:
    """A batch that is synced, committed, and known to be so after every restart."""

    path: str
    position: int
    size_bytes: int
    base_offset: int

    @property
    def end_position(self) -> int:
        return self.position + self.size_bytes


class DiskMap:
    """Looks at one disk; makes no copies of its own, so every call tells what is there now."""

    def __init__(self, disk: SimulatedDisk) -> None:
        self._disk = disk

    def log_directory(self) -> str | None:
        """The directory with an identity; None before the first start."""
        return next((path for path in self._walk("") if self._disk.exists(f"{path}/{IDENTITY_FILE}")), None)

    def _walk(self, path: str) -> Iterator[str]:
        yield path
        for name in self._disk.list(path):
            below = f"{path}/{name}"
            if self._disk.is_dir(below):
                yield from self._walk(below)

    def partition_directories(self) -> list[str]:
        """Paths of the partitions' logs that are in use; quarantined and deleted ones are not."""
        directory = self.log_directory()
        if directory is None:
            return []
        return [
            f"{directory}/{name}"
            for name in self._disk.list(directory)
            if PartitionMetadata.from_directory_name(name) is not None
        ]

    def segment_paths(self) -> list[str]:
        """Segment files of all partitions, by directory and base offset."""
        return [
            f"{directory}/{name}"
            for directory in self.partition_directories()
            for name in self._disk.list(directory)
            if name.endswith(LOG_SUFFIX)
        ]

    def settled_batches(self) -> list[StoredBatch]:
        """Batches below the recovery points, whose bytes a power loss would leave as they are."""
        points = self._recovery_points()
        found: list[StoredBatch] = []
        for path in self.segment_paths():
            recovery_point = points.get(path.split("/")[-2], 0)
            found.extend(self._batches(path, recovery_point))
        return found

    def _recovery_points(self) -> dict[str, int]:
        directory = self.log_directory()
        path = f"{directory}/{CHECKPOINT_FILE}"
        if directory is None or not self._disk.exists(path):
            return {}
        try:
            content = decode_checked(self._disk.durable_content(path), path=path)
        except CorruptLog:
            return {}
        return {name: PartitionCheckpoint(*values).recovery_point for name, values in content["partitions"].items()}

    def _batches(self, path: str, recovery_point: int) -> Iterator[StoredBatch]:
        if recovery_point == 0:
            return
        durable, volatile = self._disk.durable_content(path), self._disk.content(path)
        position = 0
        while position + HEADER_SIZE_BYTES <= len(durable):
            try:
                header = read_header(durable, position)
            except (CorruptMessage, UnsupportedVersion):
                return
            end = position + header.size_bytes
            if end > len(durable) or header.next_offset > recovery_point:
                return
            if durable[position:end] == volatile[position:end]:
                yield StoredBatch(path, position, header.size_bytes, header.base_offset)
            position = end

    def derived_files(self, which: str) -> list[str]:
        """Files of one of the sorts in `kinds.DERIVED_FILES`."""
        in_directory = _OF_DIRECTORY.get(which)
        if in_directory is not None:
            path = f"{self.log_directory()}/{in_directory}"
            return [path] if self._disk.exists(path) else []
        ending = _OF_PARTITION[which]
        return [
            f"{directory}/{name}"
            for directory in self.partition_directories()
            for name in self._disk.list(directory)
            if name.endswith(ending)
        ]
