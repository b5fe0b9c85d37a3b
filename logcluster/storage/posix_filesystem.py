"""The `Filesystem` port over the operating system's files: pread, pwrite, fdatasync, posix_fallocate, flock."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil

from logcluster.storage.filesystem import Data

_BOOT_ID_PATH = "/proc/sys/kernel/random/boot_id"
_NO_PREALLOCATION = (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)


class PosixFile:
    """One file descriptor."""

    __slots__ = ("_descriptor", "path")

    def __init__(self, path: str, descriptor: int) -> None:
        self.path = path
        self._descriptor = descriptor

    def write_at(self, position: int, data: Data) -> None:
        written = os.pwrite(self._descriptor, data, position)
        if written != len(data):
            self._write_rest(position, memoryview(data), written)

    def _write_rest(self, position: int, data: memoryview, written: int) -> None:
        while written < len(data):
            count = os.pwrite(self._descriptor, data[written:], position + written)
            if count == 0:
                raise OSError(errno.EIO, "the write made no progress", self.path)
            written += count

    def read_at(self, position: int, size_bytes: int) -> bytes:
        data = os.pread(self._descriptor, size_bytes, position)
        if len(data) == size_bytes or not data:
            return data
        parts = [data]
        remaining = size_bytes - len(data)
        while remaining:
            data = os.pread(self._descriptor, remaining, position + size_bytes - remaining)
            if not data:
                break
            parts.append(data)
            remaining -= len(data)
        return b"".join(parts)

    def sync(self) -> None:
        os.fdatasync(self._descriptor)

    def truncate(self, size_bytes: int) -> None:
        os.ftruncate(self._descriptor, size_bytes)

    def preallocate(self, size_bytes: int) -> None:
        current = self.size()
        if size_bytes <= current:
            return
        try:
            os.posix_fallocate(self._descriptor, current, size_bytes - current)
        except OSError as error:
            if error.errno not in _NO_PREALLOCATION:
                raise
            os.ftruncate(self._descriptor, size_bytes)

    def size(self) -> int:
        return os.fstat(self._descriptor).st_size

    def close(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


class PosixLock:
    """A flock on one file; the kernel drops it when the process dies."""

    __slots__ = ("_descriptor",)

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def release(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


class PosixFilesystem:
    """The local filesystem."""

    def open(self, path: str, *, create: bool = False) -> PosixFile:
        flags = os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if create else 0)
        return PosixFile(path, os.open(path, flags, 0o644))

    def exists(self, path: str) -> bool:
        return os.path.lexists(path)

    def is_dir(self, path: str) -> bool:
        return os.path.isdir(path)

    def list(self, path: str) -> list[str]:
        return sorted(os.listdir(path))

    def make_dir(self, path: str) -> None:
        os.makedirs(path, exist_ok=True)

    def rename(self, old: str, new: str) -> None:
        if os.path.dirname(old) != os.path.dirname(new):
            raise OSError(errno.EXDEV, "a rename stays in its directory", new)
        os.rename(old, new)

    def remove(self, path: str) -> None:
        os.unlink(path)

    def remove_tree(self, path: str) -> None:
        try:
            shutil.rmtree(path)
        except FileNotFoundError:
            return

    def sync_dir(self, path: str) -> None:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def free_bytes(self, path: str) -> int:
        status = os.statvfs(path)
        return status.f_bavail * status.f_frsize

    def lock(self, path: str) -> PosixLock:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            raise
        return PosixLock(descriptor)

    def boot_id(self) -> str:
        try:
            descriptor = os.open(_BOOT_ID_PATH, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return ""  # unknown: recovery then assumes that unsynced data may be gone
        try:
            return os.read(descriptor, 64).decode("ascii").strip()
        finally:
            os.close(descriptor)
