"""The key-value port: both adapters keep the same contract; the one in memory forgets what was not synced."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from logcluster.model.errors import StorageFailure
from logcluster.storage.kv_store import Batch, KeyValueStore, MemoryKeyValueStore, RocksKeyValueStore


@pytest.fixture(params=["memory", "rocks"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[KeyValueStore]:
    makers: dict[str, Callable[[], KeyValueStore]] = {
        "memory": MemoryKeyValueStore,
        "rocks": lambda: RocksKeyValueStore(tmp_path / "db"),
    }
    store = makers[request.param]()
    yield store
    store.close()


def batch_of(**pairs: bytes) -> Batch:
    batch = Batch()
    for key, value in pairs.items():
        batch.put(key.encode(), value)
    return batch


def test_batch_is_applied_in_order(store: KeyValueStore) -> None:
    batch = batch_of(a=b"1", b=b"2", c=b"3", d=b"")
    batch.delete(b"a")
    batch.delete_range(b"b", b"c")
    batch.put(b"b", b"again")
    store.write(batch, sync=True)
    assert [store.get(key) for key in (b"a", b"b", b"c", b"d", b"e")] == [None, b"again", b"3", b"", None]


def test_scan_is_half_open_and_ordered_both_ways(store: KeyValueStore) -> None:
    store.write(batch_of(b=b"2", a=b"1", d=b"4", c=b"3"), sync=False)
    assert list(store.scan(b"a", b"c")) == [(b"a", b"1"), (b"b", b"2")]
    assert list(store.scan(b"b", b"z", reverse=True)) == [(b"d", b"4"), (b"c", b"3"), (b"b", b"2")]
    assert list(store.scan(b"b", b"d", reverse=True)) == [(b"c", b"3"), (b"b", b"2")]
    assert list(store.scan(b"x", b"z")) == []


def test_empty_ranges_and_batches_change_nothing(store: KeyValueStore) -> None:
    batch = batch_of(a=b"1")
    batch.delete_range(b"a", b"a")
    batch.delete_range(b"b", b"a")
    store.write(batch, sync=True)
    store.write(Batch(), sync=True)
    store.write(Batch(), sync=False)
    assert store.get(b"a") == b"1"


def test_closed_store_refuses_and_closes_twice(store: KeyValueStore) -> None:
    store.close()
    store.close()
    with pytest.raises(StorageFailure):
        store.get(b"a")
    with pytest.raises(StorageFailure):
        store.write(batch_of(a=b"1"), sync=True)


def test_rocks_keeps_data_across_reopening(tmp_path: Path) -> None:
    store = RocksKeyValueStore(tmp_path / "db")
    store.write(batch_of(a=b"1"), sync=True)
    store.close()
    again = RocksKeyValueStore(tmp_path / "db")
    assert again.get(b"a") == b"1"
    again.close()


def test_rocks_writes_what_it_finds_in_its_log_anew_when_it_opens(tmp_path: Path) -> None:
    """A record that a failed sync left in the page cache is trusted after a restart, so it must not stay there only."""
    store = RocksKeyValueStore(tmp_path / "db")
    store.write(batch_of(a=b"1" * 100), sync=True)
    killed = shutil.copytree(tmp_path / "db", tmp_path / "killed")  # a database that nobody closed
    store.close()
    assert not list(killed.glob("*.sst"))
    logs = {path.name for path in killed.glob("*.log")}
    again = RocksKeyValueStore(killed)
    assert again.get(b"a") == b"1" * 100
    assert b"1" * 100 in b"".join(path.read_bytes() for path in killed.glob("*.sst"))
    assert not logs & {path.name for path in killed.glob("*.log")}
    again.close()


def test_rocks_directory_in_use_is_refused(tmp_path: Path) -> None:
    store = RocksKeyValueStore(tmp_path / "db")
    with pytest.raises(StorageFailure):
        RocksKeyValueStore(tmp_path / "db")
    store.close()


def test_rocks_drops_a_torn_write_ahead_log_tail_only(tmp_path: Path) -> None:
    store = RocksKeyValueStore(tmp_path / "db")
    store.write(batch_of(a=b"1"), sync=True)
    store.write(batch_of(b=b"2" * 1000), sync=True)
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in (tmp_path / "db").iterdir():
        if file.name != "LOCK":
            (copy / file.name).write_bytes(file.read_bytes())
    store.close()
    (log,) = copy.glob("*.log")
    log.write_bytes(log.read_bytes().rstrip(b"\0")[:-500])
    torn = RocksKeyValueStore(copy)
    assert (torn.get(b"a"), torn.get(b"b")) == (b"1", None)
    torn.close()


def test_rocks_reports_damage_before_the_tail(tmp_path: Path) -> None:
    store = RocksKeyValueStore(tmp_path / "db")
    for number in range(200):
        store.write(batch_of(**{f"k{number}": b"v" * 1000}), sync=True)
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in (tmp_path / "db").iterdir():
        if file.name != "LOCK":
            (copy / file.name).write_bytes(file.read_bytes())
    store.close()
    (log,) = copy.glob("*.log")
    damaged = bytearray(log.read_bytes())
    damaged[5_000] ^= 0xFF
    log.write_bytes(damaged)
    with pytest.raises(StorageFailure):
        RocksKeyValueStore(copy)


def test_crash_forgets_what_was_not_synced() -> None:
    store = MemoryKeyValueStore()
    store.write(batch_of(a=b"1", b=b"2"), sync=True)
    unsynced = batch_of(a=b"changed", c=b"new")
    unsynced.delete(b"b")
    store.write(unsynced, sync=False)
    store.crash()
    assert list(store.scan(b"", b"\xff")) == [(b"a", b"1"), (b"b", b"2")]


def test_synced_batch_takes_earlier_ones_along() -> None:
    store = MemoryKeyValueStore()
    store.write(batch_of(a=b"1"), sync=False)
    store.write(Batch(), sync=True)
    store.write(batch_of(b=b"2"), sync=False)
    store.crash()
    assert list(store.scan(b"", b"\xff")) == [(b"a", b"1")]


def test_planned_failure_leaves_the_store_unchanged_after_a_crash() -> None:
    store = MemoryKeyValueStore()
    store.fail_after(1)
    store.write(batch_of(a=b"1"), sync=True)
    with pytest.raises(StorageFailure):
        store.write(batch_of(a=b"2"), sync=True)
    store.crash()
    assert store.get(b"a") == b"1"
