"""One fdatasync of one log, in three steps: prepared on the event loop, run on a thread, completed on the loop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from logcluster.model.errors import LogClusterError
from logcluster.model.probes import probe
from logcluster.runtime.failpoints import failpoint
from logcluster.storage.checkpoints import write_checked
from logcluster.storage.filesystem import File, Filesystem
from logcluster.storage.segment import Segment


@dataclass(slots=True, kw_only=True)
class PendingFlush:
    """What must be durable before `target_offset` may be published as flushed.

    Segments are synced oldest first, so that what is durable is always a prefix of the log. Small files that describe
    the log are durable before the offset moves, because a restart trusts them below the recovery point.
    """

    filesystem: Filesystem
    directory: str
    target_offset: int
    generation: int
    files: Sequence[File]
    segments: Sequence[Segment]
    closed_segments: Sequence[Segment] = ()
    small_files: dict[str, dict[str, Any]] = field(default_factory=dict)
    directories: Sequence[str] = ()
    on_error: Callable[[OSError], LogClusterError]
    is_abandoned: Callable[[], bool]
    """Whether the log is out of use meanwhile: closed, or found damaged; it may have been moved away since."""

    def run(self) -> None:
        """Sync; on any thread, once.

        A log that was deleted or set aside meanwhile has nothing to keep, so files that are gone are no failure then.

        Raises:
            StorageFailure: the disk failed; the log is failed for good, and nothing of this flush counts.
        """
        try:
            failpoint("storage.log.flush.before_sync")
            for file in self.files:
                file.sync()
            failpoint("storage.log.flush.after_sync")
            for segment in self.closed_segments:
                segment.write_index()
            for name, content in self.small_files.items():
                write_checked(self.filesystem, self.directory, name, content, writer=".flush")
            failpoint("storage.log.flush.before_sync_dir")
            for directory in self.directories:
                self.filesystem.sync_dir(directory)
        except FileNotFoundError as error:
            if not self.is_abandoned():
                raise self.on_error(error) from error
            probe("storage.flush.of_moved_log")
        except OSError as error:
            probe("storage.flush.failed")
            raise self.on_error(error) from error
