"""What a log directory's own files say of the run before: how it ended, and how far each log was known to be synced.

The marker of a clean shutdown is taken, that is removed, before any log is opened: a process that dies right after its
start did not end cleanly.
"""

from __future__ import annotations

from dataclasses import dataclass

from logcluster.model.errors import CorruptLog
from logcluster.model.probes import probe
from logcluster.runtime.failpoints import failpoint
from logcluster.storage.checkpoints import (
    BOOT_FILE,
    CLEAN_SHUTDOWN_FILE,
    PartitionCheckpoint,
    read_checked,
    read_partition_checkpoints,
    write_checked,
    write_partition_checkpoints,
)
from logcluster.storage.filesystem import Filesystem, join
from logcluster.storage.recovery import RecoveryContext


@dataclass(frozen=True, slots=True, kw_only=True)
class LastRun:
    """The run before this one.

    Args:
        broker_epoch: in which it ended cleanly, or None when it did not.
        checkpoints: by the name of a log's directory; None when the file is damaged.
        boot_id: of the machine now; empty when it is not known.
        last_boot_id: of the machine then; None when it is not known.
    """

    broker_epoch: int | None
    checkpoints: dict[str, PartitionCheckpoint] | None
    boot_id: str
    last_boot_id: str | None

    @classmethod
    def take(cls, filesystem: Filesystem, directory: str) -> LastRun:
        """Read everything, and remove the marker of a clean shutdown.

        Raises:
            OSError: the disk failed.
        """
        broker_epoch = _take_clean_marker(filesystem, directory)
        boot_id = filesystem.boot_id()
        last_boot_id = _read_boot_id(filesystem, directory)
        checkpoints: dict[str, PartitionCheckpoint] | None
        try:
            checkpoints = read_partition_checkpoints(filesystem, directory)
        except CorruptLog:
            probe("storage.start.checkpoint_damaged")
            checkpoints = None
        else:
            if checkpoints is None:
                checkpoints = {}
                write_partition_checkpoints(filesystem, directory, checkpoints)
        return cls(broker_epoch=broker_epoch, checkpoints=checkpoints, boot_id=boot_id, last_boot_id=last_boot_id)

    @property
    def may_have_lost_unsynced(self) -> bool:
        """The machine may have lost its power since."""
        return not self.boot_id or self.last_boot_id != self.boot_id

    def checkpoint(self, name: str) -> PartitionCheckpoint:
        """What is known of the log in the directory of this name."""
        return (self.checkpoints or {}).get(name, PartitionCheckpoint())

    def context(self, name: str) -> RecoveryContext:
        """With what to open the log in the directory of this name."""
        checkpoint = self.checkpoint(name)
        has_booted = bool(self.boot_id and self.last_boot_id) and self.last_boot_id != self.boot_id
        return RecoveryContext(
            recovery_point=None if self.checkpoints is None else checkpoint.recovery_point,
            log_start_offset=checkpoint.log_start_offset,
            is_clean=self.broker_epoch is not None,
            may_have_lost_unsynced=self.may_have_lost_unsynced,
            may_be_in_cache_only=not has_booted,
        )


def note_boot(filesystem: Filesystem, directory: str, boot_id: str) -> None:
    """Every log is open, and what was found is durable: from here on this boot counts.

    Raises:
        OSError: the disk failed.
    """
    failpoint("storage.log_manager.open.before_boot_file")
    write_checked(filesystem, directory, BOOT_FILE, {"boot_id": boot_id})


def _take_clean_marker(filesystem: Filesystem, directory: str) -> int | None:
    try:
        content = read_checked(filesystem, directory, CLEAN_SHUTDOWN_FILE)
    except CorruptLog:
        content = {}
    if content is None:
        return None
    failpoint("storage.log_manager.open.before_remove_clean_marker")
    filesystem.remove(join(directory, CLEAN_SHUTDOWN_FILE))
    failpoint("storage.log_manager.open.after_remove_clean_marker")
    filesystem.sync_dir(directory)
    epoch = content.get("broker_epoch")
    return epoch if isinstance(epoch, int) else None


def _read_boot_id(filesystem: Filesystem, directory: str) -> str | None:
    try:
        content = read_checked(filesystem, directory, BOOT_FILE)
    except CorruptLog:
        return None
    return None if content is None else str(content["boot_id"])
