"""The hurt disk and the journal: delays, injected errors, and what a store keeps after a kill."""

from __future__ import annotations

import errno
import threading
import time
from pathlib import Path

import pytest

from chaos.node_hurt_disk import DiskFaults, HurtFilesystem, HurtStore, errno_of
from chaos.node_lazy_disk import LazyFilesystem
from chaos.node_store import PENDING_OPERATIONS_MAX, JournalStore
from logcluster.model.errors import StorageFailure
from logcluster.storage.filesystem import File
from logcluster.storage.kv_store import Batch, MemoryKeyValueStore
from logcluster.storage.posix_filesystem import PosixFilesystem


@pytest.fixture
def faults() -> DiskFaults:
    return DiskFaults()


@pytest.fixture
def file(faults: DiskFaults, tmp_path: Path) -> File:
    return HurtFilesystem(PosixFilesystem(), faults).open(f"{tmp_path}/f", create=True)


def put(key: bytes, value: bytes) -> Batch:
    batch = Batch()
    batch.put(key, value)
    return batch


def test_the_next_operations_of_a_kind_fail(faults: DiskFaults, file: File) -> None:
    faults.fail_next("write", errno.EIO, count=2)
    assert file.read_at(0, 1) == b""
    file.sync()
    for _ in range(2):
        with pytest.raises(OSError, match="injected") as failure:
            file.write_at(0, b"abc")
        assert failure.value.errno == errno.EIO
    file.write_at(0, b"abc")
    assert file.read_at(0, 3) == b"abc"
    assert faults.describe() == {"failed-write": 2, "due": 0}


def test_any_hits_whatever_comes_and_zero_forgets(faults: DiskFaults, file: File, tmp_path: Path) -> None:
    disk = HurtFilesystem(PosixFilesystem(), faults)
    faults.fail_next("any", errno.ENOSPC, count=3)
    for work in (
        lambda: file.read_at(0, 1),
        lambda: disk.sync_dir(str(tmp_path)),
        lambda: disk.rename(f"{tmp_path}/f", f"{tmp_path}/g"),
    ):
        with pytest.raises(OSError, match="No space"):
            work()
    faults.fail_next("rename", errno.EIO, count=9)
    faults.fail_next("rename", errno.EIO, count=0)
    disk.rename(f"{tmp_path}/f", f"{tmp_path}/g")


def test_writes_and_syncs_are_slow_and_reads_are_not(faults: DiskFaults, file: File) -> None:
    faults.set_delay(30)
    began = time.monotonic()
    file.write_at(0, b"abc")
    file.sync()
    assert time.monotonic() - began >= 0.06
    began = time.monotonic()
    file.read_at(0, 3)
    assert time.monotonic() - began < 0.03


def test_ending_the_delay_frees_who_waits(faults: DiskFaults, file: File) -> None:
    faults.set_delay(60_000)
    thread = threading.Thread(target=file.sync)
    thread.start()
    faults.set_delay(0)
    thread.join(5)
    assert not thread.is_alive()


def test_a_failed_sync_of_a_lazy_file_loses_what_was_pending(faults: DiskFaults, tmp_path: Path) -> None:
    root = str(tmp_path / "data")
    Path(root).mkdir()
    disk = HurtFilesystem(LazyFilesystem(PosixFilesystem(), root, boot_id="1"), faults)
    file = disk.open(f"{root}/f", create=True)
    disk.sync_dir(root)
    file.write_at(0, b"lost")
    faults.fail_next("sync", errno.EIO, count=1)
    with pytest.raises(OSError, match="injected"):
        file.sync()
    file.sync()
    assert file.read_at(0, 4) == b"lost"
    again = LazyFilesystem(PosixFilesystem(), root, boot_id="2").open(f"{root}/f")
    assert again.read_at(0, 4) == bytes(4)


def test_a_store_fails_as_its_port_says(faults: DiskFaults) -> None:
    store = HurtStore("quorum", MemoryKeyValueStore(), faults)
    store.write(put(b"a", b"1"), sync=True)
    faults.fail_next("any", errno.EIO, count=1, area="logs")
    faults.fail_next("sync", errno.EIO, count=1, area="stores")
    store.write(put(b"b", b"2"), sync=False)
    with pytest.raises(StorageFailure, match="quorum"):
        store.write(put(b"c", b"3"), sync=True)
    faults.fail_next("read", errno.EIO, count=2, area="stores")
    with pytest.raises(StorageFailure):
        store.get(b"a")
    with pytest.raises(StorageFailure):
        store.scan(b"a", b"z")
    assert store.get(b"a") == b"1"
    store.close()


def test_names_of_errors() -> None:
    assert errno_of("EIO") == errno.EIO
    for name in ("EWHAT", "errorcode", ""):
        with pytest.raises(ValueError, match="errno"):
            errno_of(name)


def test_a_journal_keeps_synced_batches_and_those_before_them(tmp_path: Path) -> None:
    store = JournalStore(tmp_path)
    store.write(put(b"a", b"1"), sync=False)
    store.write(put(b"b", b"2"), sync=True)
    batch = Batch()
    batch.delete(b"a")
    batch.put(b"c", b"3")
    store.write(batch, sync=False)
    assert list(store.scan(b"a", b"z")) == [(b"b", b"2"), (b"c", b"3")]
    after_kill = JournalStore(tmp_path)
    assert list(after_kill.scan(b"a", b"z")) == [(b"a", b"1"), (b"b", b"2")]
    assert list(after_kill.scan(b"a", b"z", reverse=True)) == [(b"b", b"2"), (b"a", b"1")]


def test_a_journal_keeps_everything_when_it_is_closed(tmp_path: Path) -> None:
    store = JournalStore(tmp_path)
    batch = put(b"a", b"1")
    batch.put(b"ab", b"2")
    batch.delete_range(b"ab", b"b")
    store.write(batch, sync=False)
    store.close()
    store.close()
    with pytest.raises(StorageFailure):
        store.get(b"a")
    assert list(JournalStore(tmp_path).scan(b"", b"z")) == [(b"a", b"1")]


def test_a_torn_record_at_the_end_is_dropped(tmp_path: Path) -> None:
    store = JournalStore(tmp_path)
    store.write(put(b"a", b"1"), sync=True)
    store.write(put(b"b", b"2"), sync=True)
    journal = tmp_path / "journal"
    journal.write_bytes(journal.read_bytes()[:-1])
    again = JournalStore(tmp_path)
    assert (again.get(b"a"), again.get(b"b")) == (b"1", None)


def test_many_unsynced_batches_are_written_by_the_next_sync(tmp_path: Path) -> None:
    store = JournalStore(tmp_path)
    for number in range(2 * PENDING_OPERATIONS_MAX + 10):
        store.write(put(b"%d" % (number % 100), b"%d" % number), sync=False)
    store.write(put(b"last", b""), sync=True)
    again = JournalStore(tmp_path)
    assert again.get(b"9") == b"%d" % (2 * PENDING_OPERATIONS_MAX + 9)
    assert again.get(b"last") == b""
