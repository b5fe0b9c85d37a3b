"""A key-value store that loses unsynced batches at a kill -9: everything in memory, synced batches in a journal.

It stands in for RocksDB where the disk is lazy. RocksDB's files lie outside of the filesystem port, and what it wrote
unsynced is in the page cache, which a kill does not empty; so under it the state of coordinators would survive a power
loss that their logs do not. The quorum's store syncs every batch and loses nothing either way.

    journal: size (4 bytes), CRC-32 (4 bytes), then operations: kind (1), size of key (4), size of value (4), key, value

A torn record at the end is dropped. The journal is written anew when it is opened, when the store is closed, and when
unsynced batches have grown beyond a bound. One store has one process; any thread may call.
"""

from __future__ import annotations

import os
import struct
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from logcluster.model.errors import StorageFailure
from logcluster.model.limits import MIB
from logcluster.storage.kv_store import Batch, Delete, DeleteRange, MemoryKeyValueStore, Put

JOURNAL_FILE: Final = "journal"
PENDING_OPERATIONS_MAX: Final = 10_000
SNAPSHOT_SIZE_BYTES: Final = 1 * MIB
_RECORD: Final = struct.Struct(">II")
_OPERATION: Final = struct.Struct(">BII")
_PUT, _DELETE, _DELETE_RANGE = 1, 2, 3
_KEY_BEHIND_ALL: Final = b"\xff" * 64


class JournalStore:
    """The `KeyValueStore` port.

    Raises:
        StorageFailure: the directory cannot be read or written.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._path = directory / JOURNAL_FILE
        self._lock = threading.Lock()
        self._memory = MemoryKeyValueStore()
        self._pending: list[Batch] = []
        self._pending_operations = 0
        self._descriptor = -1
        try:
            directory.mkdir(parents=True, exist_ok=True)
            if self._path.exists():
                for batch in _decode(self._path.read_bytes()):
                    self._memory.write(batch, sync=True)
            self._write_anew()
        except OSError as error:
            raise StorageFailure(f"the journal {self._path} cannot be opened: {error}", path=self._path) from error

    def get(self, key: bytes) -> bytes | None:
        with self._lock:
            return self._memory.get(key)

    def scan(self, start: bytes, end: bytes, *, reverse: bool = False) -> Iterator[tuple[bytes, bytes]]:
        with self._lock:
            return iter(list(self._memory.scan(start, end, reverse=reverse)))

    def write(self, batch: Batch, *, sync: bool) -> None:
        with self._lock:
            # Its own notion of syncing would keep the past of everything unsynced.
            self._memory.write(batch, sync=True)
            self._pending.append(batch)
            self._pending_operations += len(batch)
            try:
                if sync:
                    self._sync()
            except OSError as error:
                raise StorageFailure(f"the journal {self._path} cannot be written: {error}", path=self._path) from error
            if self._pending_operations > 2 * PENDING_OPERATIONS_MAX:
                # The next sync writes everything; until then only the count matters.
                self._pending.clear()

    def close(self) -> None:
        """Write everything, as a clean end does; idempotent."""
        with self._lock:
            if self._descriptor < 0:
                return
            try:
                self._write_anew()
            except OSError as error:
                raise StorageFailure(f"the journal {self._path} cannot be closed: {error}", path=self._path) from error
            finally:
                self._memory.close()
                if self._descriptor >= 0:
                    os.close(self._descriptor)
                self._descriptor = -1

    def _sync(self) -> None:
        if self._pending_operations > PENDING_OPERATIONS_MAX:
            self._write_anew()
            return
        os.write(self._descriptor, b"".join(_encode(batch) for batch in self._pending))
        os.fdatasync(self._descriptor)
        self._pending.clear()
        self._pending_operations = 0

    def _write_anew(self) -> None:
        """Replace the journal by one that holds what is in memory now."""
        temporary = self._path.with_suffix(".new")
        descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        batch = Batch()
        size_bytes = 0
        for key, value in self._memory.scan(b"", _KEY_BEHIND_ALL):
            batch.put(key, value)
            size_bytes += len(key) + len(value)
            if size_bytes > SNAPSHOT_SIZE_BYTES:
                os.write(descriptor, _encode(batch))
                batch, size_bytes = Batch(), 0
        os.write(descriptor, _encode(batch))
        os.fsync(descriptor)
        os.rename(temporary, self._path)
        folder = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY)
        os.fsync(folder)
        os.close(folder)
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor = descriptor
        self._pending.clear()
        self._pending_operations = 0


def _encode(batch: Batch) -> bytes:
    parts = []
    for operation in batch.operations:
        match operation:
            case Put(key=key, value=value):
                parts += [_OPERATION.pack(_PUT, len(key), len(value)), key, value]
            case Delete(key=key):
                parts += [_OPERATION.pack(_DELETE, len(key), 0), key]
            case DeleteRange(start=start, end=end):
                parts += [_OPERATION.pack(_DELETE_RANGE, len(start), len(end)), start, end]
    body = b"".join(parts)
    return _RECORD.pack(len(body), zlib.crc32(body)) + body


def _decode(data: bytes) -> Iterator[Batch]:
    """Whole batches from the beginning on, up to the first that is torn."""
    position = 0
    while position + _RECORD.size <= len(data):
        size_bytes, checksum = _RECORD.unpack_from(data, position)
        position += _RECORD.size
        body = data[position : position + size_bytes]
        if len(body) < size_bytes or zlib.crc32(body) != checksum:
            return
        position += size_bytes
        yield _decode_batch(body)


def _decode_batch(body: bytes) -> Batch:
    batch = Batch()
    position = 0
    while position < len(body):
        kind, key_size, value_size = _OPERATION.unpack_from(body, position)
        position += _OPERATION.size
        key = body[position : position + key_size]
        value = body[position + key_size : position + key_size + value_size]
        position += key_size + value_size
        if kind == _PUT:
            batch.put(key, value)
        elif kind == _DELETE:
            batch.delete(key)
        else:
            batch.delete_range(key, value)
    return batch
