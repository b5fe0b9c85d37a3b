"""A second look at a log that stepped aside: what could not be read then may be sound, and readable, now.

A read error (a loose cable, a controller that resets) makes a replica step aside as damage does, since nobody can tell
them apart while they last. With another replica to fetch from that costs a copy of the log; without one, the partition
is offline, and only a second look can bring it back. It accepts nothing less than everything: every batch is read and
verified, below the recovery point too, and the log must reach as far as it did when it stepped aside. Promise P8.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from logcluster.model.errors import CorruptLog, LogClusterError, StorageFailure
from logcluster.runtime.failpoints import failpoint
from logcluster.storage.checkpoints import QUARANTINE_FILE
from logcluster.storage.filesystem import Filesystem, join
from logcluster.storage.log import PartitionLog
from logcluster.storage.log_state import storage_failure

READ_SIZE_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class SecondLook:
    """One attempt, to be `run` on a thread; made by `LogManager.prepare_second_look`.

    Args:
        error: why the log stepped aside; a later reason makes the attempt void.
        end_offset_min: how far the log reached then.
        open_for_trial: opens it so that nobody hears of what is found.
        open_for_use: opens it as any other log of the directory.
        fail: stops the directory.
    """

    filesystem: Filesystem
    directory: str
    error: CorruptLog
    end_offset_min: int
    open_for_trial: Callable[[], PartitionLog]
    open_for_use: Callable[[], PartitionLog]
    fail: Callable[[StorageFailure], StorageFailure]

    def run(self) -> PartitionLog | None:
        """Read everything; returns the log, open and no longer marked as damaged, or None if it is not sound.

        Raises:
            StorageFailure: the mark cannot be removed; the directory has stopped.
        """
        try:
            if not self._is_sound():
                return None
            log = self.open_for_use()
        except (CorruptLog, StorageFailure):
            return None
        try:
            failpoint("storage.second_look.before_remove_mark")
            self.filesystem.remove(join(self.directory, QUARANTINE_FILE))
            failpoint("storage.second_look.after_remove_mark")
            self.filesystem.sync_dir(self.directory)
        except OSError as error:
            log.close(clean=False)
            raise self.fail(storage_failure(error, self.directory)) from error
        return log

    def _is_sound(self) -> bool:
        log = self.open_for_trial()
        try:
            offset = log.log_start_offset
            while offset < log.log_end_offset:
                offset = log.read(offset, size_bytes_max=READ_SIZE_BYTES, end_offset=log.log_end_offset).next_offset
            return log.log_end_offset >= self.end_offset_min
        except LogClusterError:
            return False
        finally:
            log.close(clean=False)
