"""A simulated disk behind the `Filesystem` port: forgets what was not synced, tears, fails, fills up, rots.

Every file has durable bytes and volatile bytes, and the list of operations between the two; every directory has
durable names and volatile names. `crash(power_loss=True)` keeps a seeded subset of a file's unsynced operations,
the last of them perhaps torn at a sector, and a seeded prefix of a directory's unsynced renames, so that a caller
survives only if it relies on nothing but what `storage.filesystem` promises. A failed sync drops what it should have
made durable, as Linux does, so that a caller who retries is caught.
"""

from __future__ import annotations

import errno
import os
import random
from dataclasses import dataclass, field

from logcluster.storage.filesystem import Data

SECTOR_SIZE_BYTES = 512
TEAR_PROBABILITY_DEFAULT = 0.3


@dataclass(slots=True)
class _Write:
    position: int
    data: bytes


@dataclass(slots=True)
class _Resize:
    size_bytes: int
    grow_only: bool


_FileOperation = _Write | _Resize


def _apply(content: bytearray, operation: _FileOperation) -> None:
    match operation:
        case _Write(position, data):
            if position > len(content):
                content.extend(bytes(position - len(content)))
            content[position : position + len(data)] = data
        case _Resize(size_bytes, grow_only):
            if size_bytes > len(content):
                content.extend(bytes(size_bytes - len(content)))
            elif not grow_only:
                del content[size_bytes:]


class _FileNode:
    __slots__ = ("durable", "pending", "volatile")

    def __init__(self) -> None:
        self.durable = bytearray()
        self.volatile = bytearray()
        self.pending: list[_FileOperation] = []

    def change(self, operation: _FileOperation) -> None:
        _apply(self.volatile, operation)
        self.pending.append(operation)

    def sync(self) -> None:
        for operation in self.pending:
            _apply(self.durable, operation)
        self.pending.clear()

    def lose_power(self, rng: random.Random, tear_probability: float) -> None:
        mode = rng.randrange(4)  # nothing, everything, a prefix, a subset
        pending = self.pending
        if mode == 0:
            pending = []
        elif mode == 2:
            pending = pending[: rng.randrange(len(pending) + 1)]
        for operation in pending:
            if mode == 3 and rng.random() < 0.5:
                continue
            if isinstance(operation, _Write) and mode != 1 and rng.random() < tear_probability:
                kept = _torn(operation, rng)
                if kept is not None:
                    _apply(self.durable, kept)
                continue
            _apply(self.durable, operation)
        self.pending = []
        self.volatile = bytearray(self.durable)


def _torn(write: _Write, rng: random.Random) -> _Write | None:
    """What is left of a write of which only some leading or trailing sectors reached the disk."""
    first_boundary = SECTOR_SIZE_BYTES - write.position % SECTOR_SIZE_BYTES
    boundaries = list(range(first_boundary, len(write.data), SECTOR_SIZE_BYTES))
    if not boundaries:
        return None
    cut = rng.choice(boundaries)
    if rng.random() < 0.7:
        return _Write(write.position, write.data[:cut])
    return _Write(write.position + cut, write.data[cut:])


class _DirectoryNode:
    __slots__ = ("durable", "pending", "volatile")

    def __init__(self) -> None:
        self.durable: dict[str, _Node] = {}
        self.volatile: dict[str, _Node] = {}
        self.pending: list[dict[str, _Node | None]] = []

    def change(self, names: dict[str, _Node | None]) -> None:
        """Apply one atomic change: each name gets a node, or (None) is removed."""
        _rename(self.volatile, names)
        self.pending.append(names)

    def sync(self) -> None:
        self.durable = dict(self.volatile)
        self.pending.clear()

    def lose_power(self, rng: random.Random, tear_probability: float) -> None:
        for names in self.pending[: rng.randrange(len(self.pending) + 1)]:
            _rename(self.durable, names)
        self.pending.clear()
        self.volatile = dict(self.durable)
        for name in sorted(self.volatile):
            self.volatile[name].lose_power(rng, tear_probability)


_Node = _FileNode | _DirectoryNode


def _rename(entries: dict[str, _Node], names: dict[str, _Node | None]) -> None:
    for name, node in names.items():
        if node is None:
            entries.pop(name, None)
        else:
            entries[name] = node


@dataclass(slots=True)
class _Fault:
    operation: str
    error_number: int
    path_contains: str
    count: int


class SimulatedFile:
    """A handle on a simulated file; dead after a crash of its disk."""

    __slots__ = ("_disk", "_incarnation", "_node", "_open", "path")

    def __init__(self, disk: SimulatedDisk, path: str, node: _FileNode) -> None:
        self.path = path
        self._disk = disk
        self._node = node
        self._incarnation = disk.incarnation
        self._open = True

    def _use(self, operation: str) -> None:
        if not self._open or self._incarnation != self._disk.incarnation:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF), self.path)
        self._disk.check_fault(operation, self.path)

    def write_at(self, position: int, data: Data) -> None:
        self._use("write")
        self._disk.reserve(max(0, position + len(data) - len(self._node.volatile)), self.path)
        self._node.change(_Write(position, bytes(data)))

    def read_at(self, position: int, size_bytes: int) -> bytes:
        self._use("read")
        return bytes(self._node.volatile[position : position + size_bytes])

    def sync(self) -> None:
        try:
            self._use("sync")
        except OSError as error:
            if error.errno != errno.EBADF:
                self._node.pending.clear()
            raise
        self._node.sync()

    def truncate(self, size_bytes: int) -> None:
        self._use("truncate")
        self._node.change(_Resize(size_bytes, grow_only=False))

    def preallocate(self, size_bytes: int) -> None:
        self._use("preallocate")
        self._disk.reserve(max(0, size_bytes - len(self._node.volatile)), self.path)
        self._node.change(_Resize(size_bytes, grow_only=True))

    def size(self) -> int:
        self._use("size")
        return len(self._node.volatile)

    def close(self) -> None:
        self._open = False


class SimulatedLock:
    """A lock that a crash of the disk's node releases."""

    __slots__ = ("_disk", "_path")

    def __init__(self, disk: SimulatedDisk, path: str) -> None:
        self._disk = disk
        self._path = path

    def release(self) -> None:
        if self._disk.locks.get(self._path) is self:
            del self._disk.locks[self._path]


@dataclass(slots=True)
class DiskCounters:
    """How often each operation was asked for."""

    counts: dict[str, int] = field(default_factory=dict)

    def add(self, operation: str) -> None:
        self.counts[operation] = self.counts.get(operation, 0) + 1


class SimulatedDisk:
    """The disk of one simulated node; outlives the node's crashes.

    Args:
        capacity_bytes: beyond this, writes fail with ENOSPC; None for no bound.

    Attributes:
        tear_probability: of each unsynced write that a power loss keeps, that only a part of it is kept.
    """

    def __init__(self, *, capacity_bytes: int | None = None) -> None:
        self.capacity_bytes = capacity_bytes
        self.tear_probability = TEAR_PROBABILITY_DEFAULT
        self.incarnation = 0
        self.locks: dict[str, SimulatedLock] = {}
        self.counters = DiskCounters()
        self._boots = 1
        self._root = _DirectoryNode()
        self._faults: list[_Fault] = []

    # -- the port ---------------------------------------------------------------------------------------------------

    def open(self, path: str, *, create: bool = False) -> SimulatedFile:
        self.check_fault("open", path)
        directory, name = self._parent(path)
        node = directory.volatile.get(name)
        if node is None:
            if not create:
                raise _not_found(path)
            node = _FileNode()
            directory.change({name: node})
        if isinstance(node, _DirectoryNode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        return SimulatedFile(self, path, node)

    def exists(self, path: str) -> bool:
        return self._find(path) is not None

    def is_dir(self, path: str) -> bool:
        return isinstance(self._find(path), _DirectoryNode)

    def list(self, path: str) -> list[str]:
        return sorted(self._directory(path).volatile)

    def make_dir(self, path: str) -> None:
        self.check_fault("make_dir", path)
        directory = self._root
        for name in _parts(path):
            node = directory.volatile.get(name)
            if node is None:
                node = _DirectoryNode()
                directory.change({name: node})
            if isinstance(node, _FileNode):
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)
            directory = node

    def rename(self, old: str, new: str) -> None:
        self.check_fault("rename", old)
        directory, old_name = self._parent(old)
        new_directory, new_name = self._parent(new)
        if directory is not new_directory:
            raise OSError(errno.EXDEV, "a rename stays in its directory", new)
        node = directory.volatile.get(old_name)
        if node is None:
            raise _not_found(old)
        target = directory.volatile.get(new_name)
        if isinstance(target, _DirectoryNode) and target.volatile:
            raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), new)
        if old_name != new_name:
            directory.change({old_name: None, new_name: node})

    def remove(self, path: str) -> None:
        self.check_fault("remove", path)
        directory, name = self._parent(path)
        node = directory.volatile.get(name)
        if node is None:
            raise _not_found(path)
        if isinstance(node, _DirectoryNode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        directory.change({name: None})

    def remove_tree(self, path: str) -> None:
        self.check_fault("remove", path)
        if not self.exists(path):
            return
        directory, name = self._parent(path)
        directory.change({name: None})

    def sync_dir(self, path: str) -> None:
        self.check_fault("sync_dir", path)
        self._directory(path).sync()

    def free_bytes(self, path: str) -> int:
        del path
        return 2**40 if self.capacity_bytes is None else max(0, self.capacity_bytes - self.used_bytes())

    def lock(self, path: str) -> SimulatedLock:
        self.open(path, create=True).close()
        if path in self.locks:
            raise BlockingIOError(errno.EWOULDBLOCK, "another holder has the lock", path)
        lock = SimulatedLock(self, path)
        self.locks[path] = lock
        return lock

    def boot_id(self) -> str:
        return f"boot-{self._boots}"

    # -- faults -----------------------------------------------------------------------------------------------------

    def crash(self, *, power_loss: bool, rng: random.Random) -> None:
        """End the node: every handle and lock dies; with `power_loss`, unsynced changes survive only by luck."""
        self.incarnation += 1
        self.locks.clear()
        self._faults.clear()
        if power_loss:
            self._boots += 1
            self._root.lose_power(rng, self.tear_probability)

    def fail_next(self, operation: str, error_number: int, *, path_contains: str = "", count: int = 1) -> None:
        """Let the next `count` operations of this name, on paths that contain the text, raise the error.

        Names: open, read, write, sync, sync_dir, truncate, preallocate, size, rename, remove, make_dir.
        """
        self._faults.append(_Fault(operation, error_number, path_contains, count))

    def forget_failures(self) -> None:
        """Let every operation succeed again that `fail_next` was to fail."""
        self._faults.clear()

    def content(self, path: str) -> bytes:
        """What a file holds as its node would read it; meets no injected error and counts as no operation.

        Raises:
            FileNotFoundError: there is no such file.
        """
        return bytes(self._file(path).volatile)

    def durable_content(self, path: str) -> bytes:
        """What a file would surely hold after a power loss; as `content`."""
        return bytes(self._file(path).durable)

    def flip_bit(self, path: str, bit: int) -> None:
        """Change one stored bit of a file, durably."""
        node = self._file(path)
        for content in (node.durable, node.volatile):
            if bit // 8 < len(content):
                content[bit // 8] ^= 1 << bit % 8

    def cut_file(self, path: str, size_bytes: int) -> None:
        """Lose the end of a file, durably."""
        node = self._file(path)
        node.pending.clear()
        del node.durable[size_bytes:]
        del node.volatile[size_bytes:]

    def overwrite(self, path: str, position: int, data: bytes) -> None:
        """Change stored bytes of a file, durably."""
        node = self._file(path)
        for content in (node.durable, node.volatile):
            _apply(content, _Write(position, data))

    def check_fault(self, operation: str, path: str) -> None:
        """Count the operation, and raise the injected error if one is due. For handles of this disk."""
        self.counters.add(operation)
        for fault in self._faults:
            if fault.operation == operation and fault.path_contains in path:
                fault.count -= 1
                if fault.count == 0:
                    self._faults.remove(fault)
                raise OSError(fault.error_number, os.strerror(fault.error_number), path)

    def reserve(self, size_bytes: int, path: str) -> None:
        """Raise ENOSPC unless `size_bytes` more bytes fit. For handles of this disk."""
        if self.capacity_bytes is not None and size_bytes and self.used_bytes() + size_bytes > self.capacity_bytes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)

    def used_bytes(self) -> int:
        """Bytes in all files."""
        return _used_bytes(self._root)

    # -- names ------------------------------------------------------------------------------------------------------

    def _find(self, path: str) -> _Node | None:
        node: _Node | None = self._root
        for name in _parts(path):
            if not isinstance(node, _DirectoryNode):
                return None
            node = node.volatile.get(name)
        return node

    def _directory(self, path: str) -> _DirectoryNode:
        node = self._find(path)
        if node is None:
            raise _not_found(path)
        if isinstance(node, _FileNode):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)
        return node

    def _file(self, path: str) -> _FileNode:
        node = self._find(path)
        if not isinstance(node, _FileNode):
            raise _not_found(path)
        return node

    def _parent(self, path: str) -> tuple[_DirectoryNode, str]:
        *directories, name = _parts(path)
        return self._directory("/".join(directories)), name


def _parts(path: str) -> list[str]:
    return [part for part in path.split("/") if part]


def _not_found(path: str) -> FileNotFoundError:
    return FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)


def _used_bytes(node: _Node) -> int:
    if isinstance(node, _FileNode):
        return len(node.volatile)
    return sum(_used_bytes(child) for child in node.volatile.values())
