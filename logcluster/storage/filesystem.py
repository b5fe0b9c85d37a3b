"""The port through which every file of a log directory is touched.

What a caller may rely on, and nothing more, is what a journaling POSIX filesystem promises after a power cut:

* bytes written are visible to readers at once and durable after `File.sync`; before that, any subset of them, in
  pieces of a sector, may have reached the disk;
* a file's name, its removal and its renaming are durable after `Filesystem.sync_dir` of its directory;
  a rename happens wholly or not at all;
* after a failed `sync` what was written before it counts as lost, even when a later `sync` succeeds.

Two adapters pass the same contract tests: `storage.posix_filesystem` and `sim.disk`. All failures are `OSError`
with an `errno`. Paths are strings with `/`. One file may be read, written and synced from several threads at once;
opening, renaming and removing is safe from any thread.
"""

from __future__ import annotations

from typing import Protocol

Data = bytes | bytearray | memoryview


class File(Protocol):
    """An open file."""

    def write_at(self, position: int, data: Data) -> None:
        """Write all of `data` at `position`; beyond the end the file grows and a gap reads as zeros.

        Raises:
            OSError: some unknown part of `data` may have been written.
        """
        ...

    def read_at(self, position: int, size_bytes: int) -> bytes:
        """Read up to `size_bytes` bytes; fewer only where the file ends."""
        ...

    def sync(self) -> None:
        """Make everything written durable, and the size needed to read it back (fdatasync)."""
        ...

    def truncate(self, size_bytes: int) -> None:
        """Set the size; what is added reads as zeros."""
        ...

    def preallocate(self, size_bytes: int) -> None:
        """Reserve blocks and grow the file to at least `size_bytes`; what is added reads as zeros."""
        ...

    def size(self) -> int:
        """The size in bytes, preallocated zeros included."""
        ...

    def close(self) -> None:
        """Release the file without syncing it; idempotent."""
        ...


class DirectoryLock(Protocol):
    """An exclusive lock that lasts until `release` or the death of the process."""

    def release(self) -> None:
        """Give the lock up; idempotent."""
        ...


class Filesystem(Protocol):
    """Names: opening, listing, renaming and removing files and directories."""

    def open(self, path: str, *, create: bool = False) -> File:
        """Open for reading and writing.

        Raises:
            FileNotFoundError: there is no such file and `create` is false, or its directory is missing.
        """
        ...

    def exists(self, path: str) -> bool:
        """Whether a file or directory has this name."""
        ...

    def is_dir(self, path: str) -> bool:
        """Whether a directory has this name."""
        ...

    def list(self, path: str) -> list[str]:
        """Names in a directory, sorted.

        Raises:
            FileNotFoundError: there is no such directory.
        """
        ...

    def make_dir(self, path: str) -> None:
        """Create a directory and those above it; one that exists is left as it is."""
        ...

    def rename(self, old: str, new: str) -> None:
        """Give a file or directory another name in the same directory; an existing file `new` is replaced."""
        ...

    def remove(self, path: str) -> None:
        """Remove a file.

        Raises:
            FileNotFoundError: there is no such file.
        """
        ...

    def remove_tree(self, path: str) -> None:
        """Remove a directory and everything in it; a missing one is fine."""
        ...

    def sync_dir(self, path: str) -> None:
        """Make the names in a directory durable."""
        ...

    def free_bytes(self, path: str) -> int:
        """How many bytes can still be written on the filesystem of `path`."""
        ...

    def lock(self, path: str) -> DirectoryLock:
        """Take the exclusive lock that the file `path` stands for, creating the file if needed.

        Raises:
            BlockingIOError: another holder has it.
        """
        ...

    def boot_id(self) -> str:
        """An id that changes whenever unsynced data may have been forgotten: with every boot of the machine.

        When it is unchanged, a process that died lost nothing that it had written.
        """
        ...


def join(directory: str, name: str) -> str:
    """The path of `name` in `directory`."""
    return f"{directory}/{name}"
