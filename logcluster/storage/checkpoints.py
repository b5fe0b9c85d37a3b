"""Small files that are replaced atomically and carry a checksum.

A file is written under a temporary name, synced, renamed over the old one, and its directory synced: a reader sees the
old content or the new one, whole. Content is JSON behind one line `logcluster 1 <crc32 of the rest, 8 hex digits>`.

Owned here: the format, and the typed contents of the files of a log directory (`LogDirectoryIdentity`,
`PartitionMetadata`, `PartitionCheckpoint`, the clean-shutdown and the boot marker).
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from logcluster.model.errors import CorruptLog
from logcluster.model.ids import TopicId, TopicPartition
from logcluster.runtime.failpoints import failpoint
from logcluster.storage.filesystem import Filesystem, join

IDENTITY_FILE: Final = "identity.json"
LOCK_FILE: Final = "lock"
CHECKPOINT_FILE: Final = "checkpoint.json"
CLEAN_SHUTDOWN_FILE: Final = "clean-shutdown.json"
BOOT_FILE: Final = "boot.json"
PARTITION_METADATA_FILE: Final = "partition.json"
LEADER_EPOCHS_FILE: Final = "leader-epochs.json"
QUARANTINE_FILE: Final = "quarantined.json"
TEMPORARY_SUFFIX: Final = ".tmp"

_MAGIC: Final = b"logcluster 1 "
_HEADER_SIZE_BYTES: Final = len(_MAGIC) + 8 + 1


def encode_checked(content: Mapping[str, Any]) -> bytes:
    """The bytes of a small file."""
    body = json.dumps(content, separators=(",", ":"), sort_keys=True).encode()
    return b"%s%08x\n%s" % (_MAGIC, zlib.crc32(body), body)


def decode_checked(data: bytes, *, path: str) -> dict[str, Any]:
    """Read what `encode_checked` wrote.

    Raises:
        CorruptLog: the bytes are damaged.
    """
    header, body = data[:_HEADER_SIZE_BYTES], data[_HEADER_SIZE_BYTES:]
    if header != b"%s%08x\n" % (_MAGIC, zlib.crc32(body)):
        raise CorruptLog(f"{path} is damaged", path=path)
    content = json.loads(body)
    if not isinstance(content, dict):
        raise CorruptLog(f"{path} is damaged", path=path)
    return content


def write_whole(
    filesystem: Filesystem, directory: str, name: str, data: bytes, *, durable: bool = True, writer: str = ""
) -> None:
    """Replace the file `name` by `data`, atomically.

    With `durable` false nothing is synced: after a power cut the file may be old, missing or damaged. `writer` tells
    apart the temporary files of two threads that may replace the same file at once.
    """
    temporary = join(directory, name + writer + TEMPORARY_SUFFIX)
    file = filesystem.open(temporary, create=True)
    try:
        file.truncate(0)
        file.write_at(0, data)
        failpoint("storage.small_file.before_sync")
        if durable:
            file.sync()
    finally:
        file.close()
    failpoint("storage.small_file.before_rename")
    filesystem.rename(temporary, join(directory, name))
    failpoint("storage.small_file.after_rename")
    if durable:
        filesystem.sync_dir(directory)


def read_whole(filesystem: Filesystem, path: str) -> bytes | None:
    """All bytes of a file, or None when it does not exist."""
    try:
        file = filesystem.open(path)
    except FileNotFoundError:
        return None
    try:
        return file.read_at(0, file.size())
    finally:
        file.close()


def write_checked(
    filesystem: Filesystem, directory: str, name: str, content: Mapping[str, Any], *, writer: str = ""
) -> None:
    """Replace a small file, atomically and durably."""
    write_whole(filesystem, directory, name, encode_checked(content), writer=writer)


def read_checked(filesystem: Filesystem, directory: str, name: str) -> dict[str, Any] | None:
    """Read a small file; None when it does not exist.

    Raises:
        CorruptLog: it is damaged.
    """
    path = join(directory, name)
    data = read_whole(filesystem, path)
    return None if data is None else decode_checked(data, path=path)


@dataclass(frozen=True, slots=True)
class LogDirectoryIdentity:
    """Whose directory this is."""

    cluster_id: str
    node_id: int
    directory_id: bytes

    def to_content(self) -> dict[str, Any]:
        return {"cluster_id": self.cluster_id, "node_id": self.node_id, "directory_id": self.directory_id.hex()}

    @classmethod
    def from_content(cls, content: Mapping[str, Any]) -> LogDirectoryIdentity:
        return cls(str(content["cluster_id"]), int(content["node_id"]), bytes.fromhex(content["directory_id"]))


@dataclass(frozen=True, slots=True)
class PartitionMetadata:
    """Which partition of which incarnation of a topic a directory holds.

    `has_gaps` is set once a batch was appended beyond the log end, as happens to followers of compacted logs; only
    then may a scan meet gaps.
    """

    topic_partition: TopicPartition
    topic_id: TopicId
    has_gaps: bool = False

    @property
    def directory_name(self) -> str:
        """The name of the partition's directory."""
        return f"{self.topic_partition}.{self.topic_id.hex()}"

    def to_content(self) -> dict[str, Any]:
        return {
            "topic": self.topic_partition.topic,
            "partition": self.topic_partition.partition,
            "topic_id": self.topic_id.hex(),
            "has_gaps": self.has_gaps,
        }

    @classmethod
    def from_content(cls, content: Mapping[str, Any]) -> PartitionMetadata:
        return cls(
            TopicPartition(str(content["topic"]), int(content["partition"])),
            TopicId(bytes.fromhex(content["topic_id"])),
            bool(content["has_gaps"]),
        )

    @classmethod
    def from_directory_name(cls, name: str) -> PartitionMetadata | None:
        """Read a directory's name; None when it is no partition's."""
        stem, dot, id_text = name.rpartition(".")
        topic, dash, index = stem.rpartition("-")
        if not (dot and dash and topic and index.isascii() and index.isdigit() and len(id_text) == 32):
            return None
        try:
            topic_id = bytes.fromhex(id_text)
        except ValueError:
            return None
        return cls(TopicPartition(topic, int(index)), TopicId(topic_id))


class PartitionCheckpoint(NamedTuple):
    """What is remembered of a log between two runs, besides its own files.

    Args:
        recovery_point: everything below was synced and committed; a scan after a crash starts here, and damage
            below it is damage, not a torn tail.
        high_watermark: as last known; only a lower bound.
        log_start_offset: as last known; only a lower bound.
    """

    recovery_point: int = 0
    high_watermark: int = 0
    log_start_offset: int = 0


def write_partition_checkpoints(
    filesystem: Filesystem, directory: str, checkpoints: Mapping[str, PartitionCheckpoint], *, writer: str = ""
) -> None:
    """Replace the checkpoints of all logs of a directory, keyed by the name of the partition's directory."""
    content = {name: list(checkpoint) for name, checkpoint in checkpoints.items()}
    write_checked(filesystem, directory, CHECKPOINT_FILE, {"partitions": content}, writer=writer)


def read_partition_checkpoints(filesystem: Filesystem, directory: str) -> dict[str, PartitionCheckpoint] | None:
    """Read them back; None when there is no file.

    Raises:
        CorruptLog: the file is damaged.
    """
    content = read_checked(filesystem, directory, CHECKPOINT_FILE)
    if content is None:
        return None
    return {name: PartitionCheckpoint(*values) for name, values in content["partitions"].items()}
