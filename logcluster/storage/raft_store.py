"""The quorum's durable state over a `KeyValueStore`: term and vote, entries, snapshot; one synced batch per save.

Keys under the store's prefix: `h` term and vote; `b` base (index, term); `s` snapshot; `e` + index (8 bytes, big
endian) an entry: term, kind, payload. Several `Persist` effects become one batch (group commit), so truncating a
tail and writing its replacement are never seen apart. What is read back is checked: entries follow one another
from the base, terms do not go down, nothing is newer than the stored term.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final

from logcluster.core.raft.effects import Persist
from logcluster.core.raft.messages import Entry, EntryKind, HardState, PersistedState, Snapshot, VoterId
from logcluster.core.raft.quorum import decode_voters, encode_voters
from logcluster.model.errors import CorruptLog
from logcluster.runtime.failpoints import failpoint
from logcluster.storage.kv_store import Batch, KeyValueStore

_INDEX: Final = struct.Struct(">Q")
_ENTRY: Final = struct.Struct(">QB")
_BASE: Final = struct.Struct(">QQ")
_TERM: Final = struct.Struct(">Q")
_VOTE: Final = struct.Struct(">Qq16s")
_SNAPSHOT: Final = struct.Struct(">QQI")
_INDEX_MAX: Final = 2**64 - 1


class RaftStore:
    """Durable state of one voter.

    Args:
        store: where it lives; other owners may use other prefixes.
        prefix: of every key.
    """

    def __init__(self, store: KeyValueStore, *, prefix: bytes = b"raft/") -> None:
        self._store = store
        self._hard_state_key = prefix + b"h"
        self._base_key = prefix + b"b"
        self._snapshot_key = prefix + b"s"
        self._entry_prefix = prefix + b"e"

    def load(self) -> PersistedState:
        """Read everything; an empty store gives the state of a node that never ran.

        Raises:
            CorruptLog: what is stored contradicts itself.
            StorageFailure: it cannot be read.
        """
        try:
            hard_state = self._load_hard_state()
            snapshot = self._load_snapshot()
            raw_base = self._store.get(self._base_key)
            base_index, base_term = _BASE.unpack(raw_base) if raw_base is not None else (0, 0)
            entries = self._load_entries(base_index=base_index, base_term=base_term)
        except (struct.error, ValueError) as error:
            raise CorruptLog("the quorum's stored state cannot be read", cause=error) from error
        last_term = entries[-1].term if entries else base_term
        last_index = base_index + len(entries)
        if last_term > hard_state.term:
            raise CorruptLog("the stored term is older than the log", term=hard_state.term, last_term=last_term)
        if base_index > 0 and (snapshot is None or not base_index <= snapshot.index <= last_index):
            raise CorruptLog("no snapshot covers the beginning of the log", base_index=base_index)
        return PersistedState(
            hard_state=hard_state,
            snapshot=snapshot,
            base_index=base_index,
            base_term=base_term,
            entries=entries,
        )

    def save(self, writes: Sequence[Persist]) -> None:
        """Carry out `Persist` effects, in order, as one synced batch.

        Raises:
            StorageFailure: the outcome is unknown; the node must stop.
        """
        batch = Batch()
        for write in writes:
            self._add(batch, write)
        failpoint("raft.store.before_write")
        self._store.write(batch, sync=True)
        failpoint("raft.store.after_write")

    def _add(self, batch: Batch, write: Persist) -> None:
        if write.truncate_from is not None:
            batch.delete_range(self._entry_key(write.truncate_from), self._entry_key(_INDEX_MAX))
        if write.base is not None:
            batch.delete_range(self._entry_key(0), self._entry_key(write.base[0] + 1))
            batch.put(self._base_key, _BASE.pack(*write.base))
        if write.snapshot is not None:
            batch.put(self._snapshot_key, _encode_snapshot(write.snapshot))
        if write.hard_state is not None:
            batch.put(self._hard_state_key, _encode_hard_state(write.hard_state))
        for entry in write.entries:
            batch.put(self._entry_key(entry.index), _ENTRY.pack(entry.term, entry.kind) + entry.payload)

    def _entry_key(self, index: int) -> bytes:
        return self._entry_prefix + _INDEX.pack(index)

    def _load_hard_state(self) -> HardState:
        raw = self._store.get(self._hard_state_key)
        if raw is None:
            return HardState()
        if len(raw) == _TERM.size:
            return HardState(term=_TERM.unpack(raw)[0])
        term, node_id, directory_id = _VOTE.unpack(raw)
        return HardState(term=term, voted_for=VoterId(node_id, directory_id))

    def _load_snapshot(self) -> Snapshot | None:
        raw = self._store.get(self._snapshot_key)
        if raw is None:
            return None
        index, term, voters_size = _SNAPSHOT.unpack_from(raw)
        voters_end = _SNAPSHOT.size + voters_size
        voters = decode_voters(raw[_SNAPSHOT.size : voters_end])
        return Snapshot(index=index, term=term, voters=voters, payload=raw[voters_end:])

    def _load_entries(self, *, base_index: int, base_term: int) -> tuple[Entry, ...]:
        entries: list[Entry] = []
        last_index, last_term = base_index, base_term
        prefix_size = len(self._entry_prefix)
        for key, value in self._store.scan(self._entry_key(0), self._entry_key(_INDEX_MAX)):
            index = _INDEX.unpack_from(key, prefix_size)[0]
            term, kind = _ENTRY.unpack_from(value)
            if index != last_index + 1 or term < last_term:
                raise CorruptLog("the quorum's log has a gap or goes back in time", index=index, after=last_index)
            entries.append(Entry(index=index, term=term, kind=EntryKind(kind), payload=value[_ENTRY.size :]))
            last_index, last_term = index, term
        return tuple(entries)


def _encode_hard_state(hard_state: HardState) -> bytes:
    voted_for = hard_state.voted_for
    if voted_for is None:
        return _TERM.pack(hard_state.term)
    return _VOTE.pack(hard_state.term, voted_for.node_id, voted_for.directory_id)


def _encode_snapshot(snapshot: Snapshot) -> bytes:
    voters = encode_voters(snapshot.voters)
    return _SNAPSHOT.pack(snapshot.index, snapshot.term, len(voters)) + voters + snapshot.payload
