"""The quorum's durable state: what is saved is loaded again, whole or not at all, and nonsense is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from logcluster.core.raft.effects import Persist
from logcluster.core.raft.messages import Entry, EntryKind, HardState, PersistedState, Snapshot, Voter, VoterId
from logcluster.model.errors import CorruptLog, StorageFailure
from logcluster.storage.kv_store import Batch, MemoryKeyValueStore, RocksKeyValueStore
from logcluster.storage.raft_store import RaftStore

VOTE = VoterId(2, bytes(range(16)))
NOTHING = Persist(write_id=1, hard_state=None, truncate_from=None, base=None, snapshot=None, entries=())


def entry(index: int, term: int = 1, payload: bytes = b"x") -> Entry:
    return Entry(index=index, term=term, kind=EntryKind.DATA, payload=payload)


def entries(first: int, last: int, term: int = 1) -> tuple[Entry, ...]:
    return tuple(entry(index, term) for index in range(first, last + 1))


def snapshot_at(index: int) -> Snapshot:
    return Snapshot(index=index, term=1, voters=(Voter(1, b"d" * 16, "host", 7),), payload=b"state")


def filled() -> tuple[MemoryKeyValueStore, RaftStore]:
    memory = MemoryKeyValueStore()
    store = RaftStore(memory)
    store.save([replace(NOTHING, hard_state=HardState(term=1), entries=entries(1, 10))])
    return memory, store


def test_empty_store_is_a_node_that_never_ran() -> None:
    assert RaftStore(MemoryKeyValueStore()).load() == PersistedState()


def test_everything_saved_is_loaded_from_rocks(tmp_path: Path) -> None:
    rocks = RocksKeyValueStore(tmp_path / "db")
    hard_state = HardState(term=3, voted_for=VOTE)
    RaftStore(rocks).save(
        [
            replace(NOTHING, hard_state=hard_state, entries=(*entries(1, 300), entry(301, 3, b""))),
            replace(NOTHING, write_id=2, base=(200, 1), snapshot=snapshot_at(250)),
        ]
    )
    rocks.close()
    rocks = RocksKeyValueStore(tmp_path / "db")
    assert RaftStore(rocks).load() == PersistedState(
        hard_state=hard_state,
        snapshot=snapshot_at(250),
        base_index=200,
        base_term=1,
        entries=(*entries(201, 300), entry(301, 3, b"")),
    )
    rocks.close()


def test_tail_is_replaced_in_one_synced_batch() -> None:
    memory, store = filled()
    writes_before = memory.synced_write_count
    store.save([replace(NOTHING, hard_state=HardState(term=2), truncate_from=5, entries=entries(5, 6, term=2))])
    assert memory.synced_write_count == writes_before + 1
    memory.crash()
    assert store.load().entries == (*entries(1, 4), *entries(5, 6, term=2))


def test_several_writes_become_one_batch() -> None:
    memory, store = filled()
    writes_before = memory.synced_write_count
    store.save([replace(NOTHING, entries=entries(11, 12)), replace(NOTHING, write_id=2, truncate_from=12)])
    assert memory.synced_write_count == writes_before + 1
    assert store.load().entries == entries(1, 11)


def test_installed_snapshot_replaces_the_whole_log() -> None:
    _, store = filled()
    store.save([replace(NOTHING, truncate_from=1, base=(50, 1), snapshot=snapshot_at(50), entries=entries(51, 52))])
    loaded = store.load()
    assert (loaded.base_index, loaded.snapshot, loaded.entries) == (50, snapshot_at(50), entries(51, 52))


def test_failed_write_changes_nothing() -> None:
    memory, store = filled()
    memory.fail_after(0)
    with pytest.raises(StorageFailure):
        store.save([replace(NOTHING, truncate_from=1)])
    memory.crash()
    assert store.load().entries == entries(1, 10)


def test_other_prefixes_are_left_alone() -> None:
    memory, store = filled()
    RaftStore(memory, prefix=b"other/").save([replace(NOTHING, hard_state=HardState(term=9), truncate_from=1)])
    assert store.load().entries == entries(1, 10)


def remove_entry(store: RaftStore, batch: Batch) -> None:
    batch.delete(store._entry_key(5))


def forget_term(store: RaftStore, batch: Batch) -> None:
    batch.delete(store._hard_state_key)


def cut_entry(store: RaftStore, batch: Batch) -> None:
    batch.put(store._entry_key(10), b"short")


def unknown_kind(store: RaftStore, batch: Batch) -> None:
    batch.put(store._entry_key(10), bytes(7) + b"\x01\x09")


def base_without_snapshot(store: RaftStore, batch: Batch) -> None:
    for index in range(1, 6):
        batch.delete(store._entry_key(index))
    batch.put(store._base_key, (5).to_bytes(8, "big") + (1).to_bytes(8, "big"))


def cut_snapshot(store: RaftStore, batch: Batch) -> None:
    batch.put(store._snapshot_key, b"\0" * 24)


@pytest.mark.parametrize(
    "damage", [remove_entry, forget_term, cut_entry, unknown_kind, base_without_snapshot, cut_snapshot]
)
def test_contradictions_are_refused(damage: Callable[[RaftStore, Batch], None]) -> None:
    memory, store = filled()
    batch = Batch()
    damage(store, batch)
    memory.write(batch, sync=True)
    with pytest.raises(CorruptLog):
        store.load()
