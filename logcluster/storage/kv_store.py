"""Key-value storage for what is keyed rather than appended: the port, RocksDB behind it, and a store in memory.

A batch is applied completely or not at all. A synced batch is on disk when `write` returns, together with every
batch before it; what was written unsynced since may be lost in a crash, but never out of order. Keys sort as
bytes. Methods block: call them through the disk executor. One store is used by one thread at a time for writes;
reads may run beside them.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

import rocksdict

from logcluster.model.errors import StorageFailure
from logcluster.model.limits import MIB

_WRITE_BUFFER_SIZE_BYTES: Final = 4 * MIB
_OPEN_FILES_MAX: Final = 64


@dataclass(frozen=True, slots=True)
class Put:
    key: bytes
    value: bytes


@dataclass(frozen=True, slots=True)
class Delete:
    key: bytes


@dataclass(frozen=True, slots=True)
class DeleteRange:
    """Every key in `[start, end)`."""

    start: bytes
    end: bytes


Operation = Put | Delete | DeleteRange


@dataclass(slots=True)
class Batch:
    """Changes that are applied together, in order."""

    operations: list[Operation] = field(default_factory=list)

    def put(self, key: bytes, value: bytes) -> None:
        self.operations.append(Put(key, value))

    def delete(self, key: bytes) -> None:
        self.operations.append(Delete(key))

    def delete_range(self, start: bytes, end: bytes) -> None:
        """Delete every key in `[start, end)`."""
        self.operations.append(DeleteRange(start, end))

    def __len__(self) -> int:
        return len(self.operations)


class KeyValueStore(Protocol):
    """Port for ordered key-value storage with atomic batches."""

    def get(self, key: bytes) -> bytes | None:
        """Return the value, or None if there is none.

        Raises:
            StorageFailure: the store is closed or cannot be read.
        """
        ...

    def scan(self, start: bytes, end: bytes, *, reverse: bool = False) -> Iterator[tuple[bytes, bytes]]:
        """Yield the pairs with `start <= key < end` in order of key, or from the end with `reverse`.

        Writes during the scan may or may not be seen.

        Raises:
            StorageFailure: the store is closed or cannot be read.
        """
        ...

    def write(self, batch: Batch, *, sync: bool) -> None:
        """Apply a batch; with `sync`, return once it and all before it are on disk. An empty synced batch syncs.

        Raises:
            StorageFailure: the outcome is unknown and the store must not be used further.
        """
        ...

    def close(self) -> None:
        """Release the store; idempotent. Later calls of the other methods raise StorageFailure."""
        ...


class RocksKeyValueStore:
    """RocksDB, kept small: two write buffers of 4 MiB, 64 open files, no compression of what is small and short-lived.

    A torn record at the end of the write-ahead log was never synced and is dropped; damage before the end is an
    error, where RocksDB's default would silently stop reading there. That mode forgoes recycled log files.
    After a sync that failed a record may be in the page cache only. Opening writes what the log holds into a new table
    and syncs it before the log is dropped (avoid_flush_during_recovery is off), so what a restart reads is durable.
    `rocksdict` raises the bare `Exception`, so that is what is caught here, and always translated.

    Raises:
        StorageFailure: the directory cannot be opened, is in use, or is damaged.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        try:
            self._database: rocksdict.Rdict | None = rocksdict.Rdict(
                str(directory), options=_options(), access_type=rocksdict.AccessType.read_write()
            )
        except Exception as error:
            raise StorageFailure("the key-value store cannot be opened", directory=directory, cause=error) from error
        self._synced = rocksdict.WriteOptions()
        self._synced.sync = True
        self._unsynced = rocksdict.WriteOptions()

    def get(self, key: bytes) -> bytes | None:
        database = self._open_database()
        try:
            value = database.get(key)
        except Exception as error:
            raise StorageFailure("the key-value store cannot be read", directory=self._directory) from error
        return None if value is None else bytes(value)

    def scan(self, start: bytes, end: bytes, *, reverse: bool = False) -> Iterator[tuple[bytes, bytes]]:
        iterator = self._open_database().iter()
        if reverse:
            iterator.seek_for_prev(end)
        else:
            iterator.seek(start)
        while iterator.valid():
            key = bytes(iterator.key())
            if (key < start) if reverse else (key >= end):
                break
            if key < end:
                yield key, bytes(iterator.value())
            if reverse:
                iterator.prev()
            else:
                iterator.next()
        try:
            iterator.status()
        except Exception as error:
            raise StorageFailure("the key-value store cannot be read", directory=self._directory) from error

    def write(self, batch: Batch, *, sync: bool) -> None:
        database = self._open_database()
        try:
            if batch.operations:
                database.write(_raw_batch(batch), self._synced if sync else self._unsynced)
            elif sync:
                database.flush_wal(True)
        except Exception as error:
            raise StorageFailure("the key-value store cannot be written", directory=self._directory) from error

    def close(self) -> None:
        database, self._database = self._database, None
        if database is not None:
            database.close()

    def _open_database(self) -> rocksdict.Rdict:
        if self._database is None:
            raise StorageFailure("the key-value store is closed", directory=self._directory)
        return self._database


def _options() -> rocksdict.Options:
    options = rocksdict.Options(raw_mode=True)
    options.create_if_missing(True)
    options.set_write_buffer_size(_WRITE_BUFFER_SIZE_BYTES)
    options.set_max_write_buffer_number(2)
    options.set_max_open_files(_OPEN_FILES_MAX)
    options.set_keep_log_file_num(2)
    options.set_max_background_jobs(2)
    options.set_wal_recovery_mode(rocksdict.DBRecoveryMode.tolerate_corrupted_tail_records())
    options.set_compression_type(rocksdict.DBCompressionType.none())
    options.set_max_total_wal_size(4 * _WRITE_BUFFER_SIZE_BYTES)
    options.set_stats_dump_period_sec(0)
    options.set_paranoid_checks(True)
    return options


def _raw_batch(batch: Batch) -> rocksdict.WriteBatch:
    raw = rocksdict.WriteBatch(raw_mode=True)
    for operation in batch.operations:
        match operation:
            case Put(key=key, value=value):
                raw.put(key, value)
            case Delete(key=key):
                raw.delete(key)
            case DeleteRange(start=start, end=end):
                if start < end:
                    raw.delete_range(start, end)
    return raw


class MemoryKeyValueStore:
    """The same contract in memory, for tests and the simulator: `crash` forgets every batch since the last sync.

    Of the two outcomes of a failed write it knows one: nothing is applied.
    """

    def __init__(self) -> None:
        self._values: dict[bytes, bytes] = {}
        self._keys: list[bytes] = []
        self._undo: list[tuple[bytes, bytes | None]] = []
        self._is_closed = False
        self._writes_before_failure: int | None = None
        self.synced_write_count = 0

    def get(self, key: bytes) -> bytes | None:
        self._check_open()
        return self._values.get(key)

    def scan(self, start: bytes, end: bytes, *, reverse: bool = False) -> Iterator[tuple[bytes, bytes]]:
        self._check_open()
        keys = self._keys[bisect_left(self._keys, start) : bisect_left(self._keys, end)]
        for key in reversed(keys) if reverse else keys:
            value = self._values.get(key)
            if value is not None:
                yield key, value

    def write(self, batch: Batch, *, sync: bool) -> None:
        self._check_open()
        if self._writes_before_failure is not None:
            if self._writes_before_failure == 0:
                raise StorageFailure("a write failed on purpose")
            self._writes_before_failure -= 1
        for operation in batch.operations:
            match operation:
                case Put(key=key, value=value):
                    self._set(key, value)
                case Delete(key=key):
                    self._set(key, None)
                case DeleteRange(start=start, end=end):
                    for key in self._keys[bisect_left(self._keys, start) : bisect_left(self._keys, end)]:
                        self._set(key, None)
        if sync:
            self._undo.clear()
            self.synced_write_count += 1

    def close(self) -> None:
        self._is_closed = True

    def crash(self) -> None:
        """Lose what was not synced, and open again as after a power cut."""
        while self._undo:
            key, value = self._undo.pop()
            self._replace(key, value)
        self._is_closed = False
        self._writes_before_failure = None

    def fail_after(self, write_count: int) -> None:
        """Let every write after the next `write_count` ones fail, until `crash`."""
        self._writes_before_failure = write_count

    def _check_open(self) -> None:
        if self._is_closed:
            raise StorageFailure("the key-value store is closed")

    def _set(self, key: bytes, value: bytes | None) -> None:
        self._undo.append((key, self._values.get(key)))
        self._replace(key, value)

    def _replace(self, key: bytes, value: bytes | None) -> None:
        if value is None:
            if self._values.pop(key, None) is not None:
                del self._keys[bisect_left(self._keys, key)]
            return
        if key not in self._values:
            insort(self._keys, key)
        self._values[key] = value
