"""A filesystem that forgets at a kill -9 what was not synced, as a machine without power does.

Below `root`, unsynced bytes (`node_lazy_file`) and unsynced names are in the memory of this process only. A new file or
directory lies under a side name on the disk until `sync_dir` gives it its own; a renaming or removal is done on the
disk when its directory is synced, in the order in which it was asked for. So the disk always holds what a power loss
would leave, at its harshest: of what is unsynced, nothing. A kill in the middle of a sync leaves a part of it, which is
legal too, because that sync has not returned.

Not lazy: what is outside of `root`, `root` itself, lock files, and RocksDB, which does not use this port
(`node_store` stands in for it). Torn sectors do not occur. One instance is one boot: its `boot_id` is never seen again.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Final

from chaos.node_lazy_file import LazyContent, LazyFile
from logcluster.storage.filesystem import DirectoryLock, File, Filesystem, join

SIDE_PREFIX: Final = ".unsynced-"
"""Of names on the disk that no reader sees; whatever has one at a start was lost."""
Names = list[str]
"""Spelled here, because `LazyFilesystem` has a method called list."""


class _Entry:
    """Something with a name: where it is on the disk."""

    def __init__(self, parent: _Directory | None, real_name: str) -> None:
        self.parent = parent
        self.real_name = real_name

    @property
    def real_path(self) -> str:
        return self.real_name if self.parent is None else join(self.parent.real_path, self.real_name)


class _FileEntry(_Entry):
    content: LazyContent


class _Directory(_Entry):
    """A directory: its names as readers see them, and the changes that its disk has not seen.

    A change gives an entry a name, or (None) removes it.
    """

    def __init__(self, parent: _Directory | None, real_name: str) -> None:
        super().__init__(parent, real_name)
        self.names: dict[str, _Entry] | None = None
        self.pending: list[tuple[_Entry, str | None]] = []


class LazyFilesystem:
    """The `Filesystem` port with a memory that a kill erases.

    Args:
        inner: the disk.
        root: what is below it is lazy; what was left under side names there is removed.
        boot_id: differs from that of every other start.
    """

    def __init__(self, inner: Filesystem, root: str, *, boot_id: str) -> None:
        self._inner = inner
        self._prefix = root.rstrip("/") + "/"
        self._root = _Directory(None, root.rstrip("/"))
        self._boot_id = boot_id
        self._lock = threading.RLock()
        self._side_count = 0
        if inner.is_dir(root):
            self._remove_side_names(root)

    def open(self, path: str, *, create: bool = False) -> File:
        with self._lock:
            if not self._is_lazy(path):
                return self._inner.open(path, create=create)
            directory, name = self._parent(path)
            entry = self._names(directory).get(name)
            if entry is None:
                if not create:
                    raise _error(errno.ENOENT, path)
                side_name = self._side_name()
                self._inner.open(join(directory.real_path, side_name), create=True).close()
                entry = self._file_entry(directory, side_name)
                self._give_name(directory, name, entry)
            if not isinstance(entry, _FileEntry):
                raise _error(errno.EISDIR, path)
            return LazyFile(path, entry.content)

    def exists(self, path: str) -> bool:
        with self._lock:
            return self._find(path) is not None if self._is_lazy(path) else self._inner.exists(path)

    def is_dir(self, path: str) -> bool:
        with self._lock:
            return isinstance(self._find(path), _Directory) if self._is_lazy(path) else self._inner.is_dir(path)

    def list(self, path: str) -> Names:
        with self._lock:
            return sorted(self._names(self._directory(path))) if self._is_within(path) else self._inner.list(path)

    def make_dir(self, path: str) -> None:
        with self._lock:
            if not self._is_lazy(path):
                self._inner.make_dir(path)
                return
            directory = self._root
            for name in self._parts(path):
                entry = self._names(directory).get(name)
                if entry is None:
                    entry = _Directory(directory, self._side_name())
                    self._inner.make_dir(entry.real_path)
                    self._give_name(directory, name, entry)
                if not isinstance(entry, _Directory):
                    raise _error(errno.EEXIST, path)
                directory = entry

    def rename(self, old: str, new: str) -> None:
        with self._lock:
            if not self._is_lazy(old):
                self._inner.rename(old, new)
                return
            directory, old_name = self._parent(old)
            new_directory, new_name = self._parent(new)
            if directory is not new_directory:
                raise OSError(errno.EXDEV, "a rename stays in its directory", new)
            names = self._names(directory)
            entry = names.get(old_name)
            if entry is None:
                raise _error(errno.ENOENT, old)
            target = names.get(new_name)
            if isinstance(target, _Directory) and target is not entry and self._names(target):
                raise _error(errno.ENOTEMPTY, new)
            if old_name != new_name:
                del names[old_name]
                self._give_name(directory, new_name, entry)

    def remove(self, path: str) -> None:
        with self._lock:
            if not self._is_lazy(path):
                self._inner.remove(path)
                return
            if isinstance(self._find(path), _Directory):
                raise _error(errno.EISDIR, path)
            self._take_name(path)

    def remove_tree(self, path: str) -> None:
        with self._lock:
            if not self._is_lazy(path):
                self._inner.remove_tree(path)
            elif self._find(path) is not None:
                self._take_name(path)

    def sync_dir(self, path: str) -> None:
        with self._lock:
            if not self._is_within(path):
                self._inner.sync_dir(path)
                return
            directory = self._directory(path)
            while directory.pending:
                entry, name = directory.pending[0]
                self._carry_out(directory, entry, name)
                del directory.pending[0]
            self._inner.sync_dir(directory.real_path)

    def free_bytes(self, path: str) -> int:
        return self._inner.free_bytes(path)

    def lock(self, path: str) -> DirectoryLock:
        return self._inner.lock(path)

    def boot_id(self) -> str:
        return self._boot_id

    @property
    def pending_bytes(self) -> int:
        """How many bytes of files that have a name would be gone after a kill."""
        with self._lock:
            return sum(entry.content.pending_bytes for entry in _files(self._root))

    # -- names ------------------------------------------------------------------------------------------------------

    def _is_lazy(self, path: str) -> bool:
        return path.startswith(self._prefix) and bool(path[len(self._prefix) :].strip("/"))

    def _is_within(self, path: str) -> bool:
        return (path.rstrip("/") + "/").startswith(self._prefix)

    def _parts(self, path: str) -> Sequence[str]:
        return [part for part in path[len(self._prefix) :].split("/") if part]

    def _inner_names(self, path: str) -> Sequence[str]:
        return self._inner.list(path)

    def _names(self, directory: _Directory) -> dict[str, _Entry]:
        """Its names; read from the disk at first, when nothing in it can be pending."""
        if directory.names is None:
            names: dict[str, _Entry] = {}
            if directory is self._root and not self._inner.is_dir(directory.real_path):
                return names
            for name in self._inner_names(directory.real_path):
                if not name.startswith(SIDE_PREFIX):
                    is_dir = self._inner.is_dir(join(directory.real_path, name))
                    names[name] = _Directory(directory, name) if is_dir else self._file_entry(directory, name)
            directory.names = names
        return directory.names

    def _file_entry(self, directory: _Directory, real_name: str) -> _FileEntry:
        entry = _FileEntry(directory, real_name)

        def open_durable() -> File:
            return self._inner.open(entry.real_path)

        file = open_durable()
        try:
            entry.content = LazyContent(open_durable, size_bytes=file.size())
        finally:
            file.close()
        return entry

    def _find(self, path: str) -> _Entry | None:
        entry: _Entry | None = self._root
        for name in self._parts(path):
            if not isinstance(entry, _Directory):
                return None
            entry = self._names(entry).get(name)
        return entry

    def _directory(self, path: str) -> _Directory:
        entry = self._find(path)
        if entry is None:
            raise _error(errno.ENOENT, path)
        if not isinstance(entry, _Directory):
            raise _error(errno.ENOTDIR, path)
        if entry is self._root and not self._inner.is_dir(entry.real_path):
            raise _error(errno.ENOENT, path)
        return entry

    def _parent(self, path: str) -> tuple[_Directory, str]:
        directory, _, name = path.rstrip("/").rpartition("/")
        return self._directory(directory + "/"), name

    def _give_name(self, directory: _Directory, name: str, entry: _Entry) -> None:
        self._names(directory)[name] = entry
        directory.pending.append((entry, name))

    def _take_name(self, path: str) -> None:
        directory, name = self._parent(path)
        entry = self._names(directory).pop(name, None)
        if entry is None:
            raise _error(errno.ENOENT, path)
        directory.pending.append((entry, None))

    # -- the disk ---------------------------------------------------------------------------------------------------

    def _side_name(self) -> str:
        self._side_count += 1
        return f"{SIDE_PREFIX}{self._side_count}"

    def _carry_out(self, directory: _Directory, entry: _Entry, name: str | None) -> None:
        """Do one change on the disk."""
        if name is None:
            self._remove_real(entry.real_path)
            return
        if entry.real_name == name:
            return
        target = join(directory.real_path, name)
        if self._inner.is_dir(target):
            self._inner.remove_tree(target)
        self._inner.rename(entry.real_path, target)
        entry.real_name = name

    def _remove_real(self, real_path: str) -> None:
        if self._inner.is_dir(real_path):
            self._inner.remove_tree(real_path)
        else:
            with suppress(FileNotFoundError):
                self._inner.remove(real_path)

    def _remove_side_names(self, path: str) -> None:
        for name in self._inner_names(path):
            child = join(path, name)
            if name.startswith(SIDE_PREFIX):
                self._remove_real(child)
            elif self._inner.is_dir(child):
                self._remove_side_names(child)


def _files(directory: _Directory) -> Iterator[_FileEntry]:
    for entry in (directory.names or {}).values():
        if isinstance(entry, _FileEntry):
            yield entry
        elif isinstance(entry, _Directory):
            yield from _files(entry)


def _error(number: int, path: str) -> OSError:
    return OSError(number, os.strerror(number), path)
