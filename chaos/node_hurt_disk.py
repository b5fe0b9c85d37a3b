"""A disk that is slow, and that fails the next operations of a kind: around the filesystem port and the stores.

Kinds of operations, as `chaos.interfaces.DiskOperation` names them:

    read     read_at, listing; get and scan of a store
    write    write_at, truncate, preallocate, creating a file or directory; a batch of a store
    sync     sync of a file, sync_dir; a synced batch of a store
    rename   rename, remove, remove_tree
    any      each of them

A failed sync of a lazy file loses what was pending; of a file of the operating system it cannot, so those bytes may
still become durable. Failures are aimed at an area, logs or stores: a node whose quorum store fails ends at once, so
one kind of failure would hide the other. RocksDB reads and writes its files by itself: `HurtStore` slows down and fails
the calls to it, not what it does in its background.
"""

from __future__ import annotations

import errno
import os
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

from chaos.interfaces import DiskOperation
from chaos.node_lazy_file import LazyFile
from logcluster.model.errors import StorageFailure
from logcluster.storage.filesystem import Data, DirectoryLock, File, Filesystem
from logcluster.storage.kv_store import Batch, KeyValueStore

OPERATIONS: Final[tuple[DiskOperation, ...]] = ("read", "write", "sync", "rename", "any")
Area = Literal["logs", "stores"]
"""What fails: what goes through the filesystem port, or the key-value stores."""
AREAS: Final[tuple[Area, ...]] = ("logs", "stores")
SLOW_OPERATIONS: Final[frozenset[DiskOperation]] = frozenset({"write", "sync"})


@dataclass(slots=True)
class _Failure:
    area: Area
    operation: DiskOperation
    number: int
    count: int


class DiskFaults:
    """What is wrong with a disk now; used from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._delay_ms = 0
        self._delay_ended = threading.Event()
        self._failures: list[_Failure] = []
        self._met: Counter[str] = Counter()

    def set_delay(self, delay_ms: int) -> None:
        """Make every write and sync take so much longer from now on; 0 ends it, also for those that wait."""
        with self._lock:
            ended, self._delay_ended = self._delay_ended, threading.Event()
            self._delay_ms = delay_ms
        ended.set()

    def fail_next(self, operation: DiskOperation, number: int, *, count: int, area: Area = "logs") -> None:
        """Let the next `count` operations of this kind fail with this errno; a count of 0 forgets all that are due."""
        with self._lock:
            if count:
                self._failures.append(_Failure(area, operation, number, count))
            else:
                self._failures.clear()

    def meet(self, operation: DiskOperation, path: str, *, area: Area = "logs") -> None:
        """An operation is about to be done: wait if the disk is slow, and fail if it is due.

        Raises:
            OSError: it fails; nothing was done.
        """
        with self._lock:
            delay_ms, ended = self._delay_ms, self._delay_ended
            number = self._take(operation, area)
            if number is not None:
                self._met[f"failed-{operation}"] += 1
        if delay_ms and operation in SLOW_OPERATIONS:
            ended.wait(delay_ms / 1000)
            with self._lock:
                self._met[f"delayed-{operation}"] += 1
        if number is not None:
            raise OSError(number, f"{os.strerror(number)} (injected)", path)

    def describe(self) -> dict[str, int]:
        """How many operations were delayed and failed, by kind, and how many failures are still due."""
        with self._lock:
            return {**self._met, "due": sum(failure.count for failure in self._failures)}

    def _take(self, operation: DiskOperation, area: Area) -> int | None:
        for failure in self._failures:
            if failure.area == area and failure.operation in {operation, "any"}:
                failure.count -= 1
                if failure.count == 0:
                    self._failures.remove(failure)
                return failure.number
        return None


class HurtFile:
    """A file on such a disk."""

    __slots__ = ("_faults", "_inner", "path")

    def __init__(self, path: str, inner: File, faults: DiskFaults) -> None:
        self.path = path
        self._inner = inner
        self._faults = faults

    def write_at(self, position: int, data: Data) -> None:
        self._faults.meet("write", self.path)
        self._inner.write_at(position, data)

    def read_at(self, position: int, size_bytes: int) -> bytes:
        self._faults.meet("read", self.path)
        return self._inner.read_at(position, size_bytes)

    def sync(self) -> None:
        try:
            self._faults.meet("sync", self.path)
        except OSError:
            if isinstance(self._inner, LazyFile):
                self._inner.lose_pending()
            raise
        self._inner.sync()

    def truncate(self, size_bytes: int) -> None:
        self._faults.meet("write", self.path)
        self._inner.truncate(size_bytes)

    def preallocate(self, size_bytes: int) -> None:
        self._faults.meet("write", self.path)
        self._inner.preallocate(size_bytes)

    def size(self) -> int:
        return self._inner.size()

    def close(self) -> None:
        self._inner.close()


class HurtFilesystem:
    """The `Filesystem` port over such a disk."""

    def __init__(self, inner: Filesystem, faults: DiskFaults) -> None:
        self._inner = inner
        self._faults = faults

    def open(self, path: str, *, create: bool = False) -> File:
        if create:
            self._faults.meet("write", path)
        return HurtFile(path, self._inner.open(path, create=create), self._faults)

    def exists(self, path: str) -> bool:
        return self._inner.exists(path)

    def is_dir(self, path: str) -> bool:
        return self._inner.is_dir(path)

    def list(self, path: str) -> list[str]:
        self._faults.meet("read", path)
        return self._inner.list(path)

    def make_dir(self, path: str) -> None:
        self._faults.meet("write", path)
        self._inner.make_dir(path)

    def rename(self, old: str, new: str) -> None:
        self._faults.meet("rename", old)
        self._inner.rename(old, new)

    def remove(self, path: str) -> None:
        self._faults.meet("rename", path)
        self._inner.remove(path)

    def remove_tree(self, path: str) -> None:
        self._faults.meet("rename", path)
        self._inner.remove_tree(path)

    def sync_dir(self, path: str) -> None:
        self._faults.meet("sync", path)
        self._inner.sync_dir(path)

    def free_bytes(self, path: str) -> int:
        return self._inner.free_bytes(path)

    def lock(self, path: str) -> DirectoryLock:
        return self._inner.lock(path)

    def boot_id(self) -> str:
        return self._inner.boot_id()


class HurtStore:
    """A key-value store on such a disk; after a failed write it must not be used further, as its port says."""

    def __init__(self, path: str, inner: KeyValueStore, faults: DiskFaults) -> None:
        self._path = path
        self._inner = inner
        self._faults = faults

    def get(self, key: bytes) -> bytes | None:
        self._meet("read")
        return self._inner.get(key)

    def scan(self, start: bytes, end: bytes, *, reverse: bool = False) -> Iterator[tuple[bytes, bytes]]:
        self._meet("read")
        return self._inner.scan(start, end, reverse=reverse)

    def write(self, batch: Batch, *, sync: bool) -> None:
        self._meet("write")
        if sync:
            self._meet("sync")
        self._inner.write(batch, sync=sync)

    def close(self) -> None:
        self._inner.close()

    def _meet(self, operation: DiskOperation) -> None:
        try:
            self._faults.meet(operation, self._path, area="stores")
        except OSError as error:
            raise StorageFailure(f"the store {self._path} failed: {error}", path=self._path) from error


def errno_of(name: str) -> int:
    """The number of an errno by its name, such as "EIO".

    Raises:
        ValueError: there is none.
    """
    number = getattr(errno, name, None)
    if not isinstance(number, int):
        raise ValueError(f"{name!r} is not the name of an errno")
    return number
