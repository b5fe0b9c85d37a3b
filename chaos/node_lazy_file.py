"""The content of one file whose unsynced bytes are in the memory of this process; names are `node_lazy_disk`'s.

    durable file on the disk    what a power loss leaves: bytes in [0, base_limit) still count
    extents, in order           written since the last sync; they lie over the durable bytes, the later over the earlier
    size_bytes                  what readers see; bytes below it that neither gives are zeros

`sync` carries the extents to the disk and syncs it. A sync that fails makes what was pending lost, as Linux does:
readers go on seeing it, no later sync writes it. Methods may be called from any thread; failures are `OSError`.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass

from logcluster.storage.filesystem import Data, File


@dataclass(slots=True)
class _Extent:
    """Bytes at a position; `is_due` until a sync has written them, or has failed to."""

    position: int
    data: bytearray
    is_due: bool = True

    @property
    def end(self) -> int:
        return self.position + len(self.data)


class LazyContent:
    """What a file holds, synced or not; shared by all its handles, and kept while the file has a name.

    Args:
        open_durable: opens the file on the disk that holds what is synced.
        size_bytes: of that file now.
    """

    def __init__(self, open_durable: Callable[[], File], *, size_bytes: int) -> None:
        self._open_durable = open_durable
        self._lock = threading.Lock()
        self._durable: File | None = None
        self._handle_count = 0
        self._size_bytes = size_bytes
        self._base_limit = size_bytes
        self._extents: list[_Extent] = []
        self._has_lost = False

    @property
    def pending_bytes(self) -> int:
        """How many bytes a power loss would take."""
        with self._lock:
            return sum(len(extent.data) for extent in self._extents if extent.is_due)

    def acquire(self) -> None:
        """Count one more handle; the first opens the durable file."""
        with self._lock:
            if self._durable is None:
                self._durable = self._open_durable()
            self._handle_count += 1

    def release(self) -> None:
        """Count one handle less; pending bytes stay."""
        with self._lock:
            self._handle_count -= 1
            if self._handle_count == 0 and self._durable is not None:
                self._durable.close()
                self._durable = None

    def write_at(self, position: int, data: Data) -> None:
        with self._lock:
            last = self._extents[-1] if self._extents else None
            if last is not None and last.is_due and last.end == position:
                last.data += data
            elif len(data):
                self._extents.append(_Extent(position, bytearray(data)))
            self._size_bytes = max(self._size_bytes, position + len(data))

    def read_at(self, position: int, size_bytes: int) -> bytes:
        with self._lock:
            end = min(position + size_bytes, self._size_bytes)
            if end <= position:
                return b""
            if not self._extents and end <= self._base_limit:
                return self._file.read_at(position, end - position)
            found = bytearray(end - position)
            base_end = min(end, self._base_limit)
            if base_end > position:
                base = self._file.read_at(position, base_end - position)
                found[: len(base)] = base
            for extent in self._extents:
                first, last = max(position, extent.position), min(end, extent.end)
                if first < last:
                    part = memoryview(extent.data)[first - extent.position : last - extent.position]
                    found[first - position : last - position] = part
            return bytes(found)

    def truncate(self, size_bytes: int) -> None:
        with self._lock:
            self._size_bytes = size_bytes
            self._base_limit = min(self._base_limit, size_bytes)
            self._extents = [extent for extent in self._extents if extent.position < size_bytes]
            for extent in self._extents:
                del extent.data[size_bytes - extent.position :]

    def preallocate(self, size_bytes: int) -> None:
        with self._lock:
            self._size_bytes = max(self._size_bytes, size_bytes)

    def size(self) -> int:
        with self._lock:
            return self._size_bytes

    def sync(self) -> None:
        """Carry everything that is pending to the disk, and sync it.

        Raises:
            OSError: the disk failed; what was pending is lost.
        """
        with self._lock:
            file = self._file
            try:
                self._write_due(file)
            except OSError:
                self._lose()
                raise
        # Not under the lock: whoever writes meanwhile does not wait for the disk.
        file.sync()

    def lose_pending(self) -> None:
        """A sync has failed: what was pending will never be on the disk, though readers still see it."""
        with self._lock:
            self._lose()

    @property
    def _file(self) -> File:
        if self._durable is None:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        return self._durable

    def _write_due(self, file: File) -> None:
        if self._base_limit < file.size():
            file.truncate(self._base_limit)
        for extent in self._extents:
            if extent.is_due:
                file.write_at(extent.position, extent.data)
                extent.is_due = False
        if file.size() < self._size_bytes:
            file.preallocate(self._size_bytes)
        self._base_limit = self._size_bytes
        if not self._has_lost:
            self._extents.clear()

    def _lose(self) -> None:
        for extent in self._extents:
            self._has_lost = self._has_lost or extent.is_due
            extent.is_due = False


class LazyFile:
    """A handle on a lazy file; the `File` port."""

    __slots__ = ("_content", "_is_open", "path")

    def __init__(self, path: str, content: LazyContent) -> None:
        content.acquire()
        self.path = path
        self._content = content
        self._is_open = True

    def write_at(self, position: int, data: Data) -> None:
        self._opened.write_at(position, data)

    def read_at(self, position: int, size_bytes: int) -> bytes:
        return self._opened.read_at(position, size_bytes)

    def sync(self) -> None:
        self._opened.sync()

    def truncate(self, size_bytes: int) -> None:
        self._opened.truncate(size_bytes)

    def preallocate(self, size_bytes: int) -> None:
        self._opened.preallocate(size_bytes)

    def size(self) -> int:
        return self._opened.size()

    def lose_pending(self) -> None:
        """As `LazyContent.lose_pending`."""
        self._opened.lose_pending()

    def close(self) -> None:
        if self._is_open:
            self._is_open = False
            self._content.release()

    @property
    def _opened(self) -> LazyContent:
        if not self._is_open:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF), self.path)
        return self._content
