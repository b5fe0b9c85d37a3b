"""A voter's log as its writes build it: once in memory, as issued, and once on the disk, as far as synced.

Does what the store does with `Persist`, in the same order. The copy of a wiped disk is kept by the world, so that the
checks can say what it had held when it was counted.
"""

from __future__ import annotations

from logcluster.core.raft.effects import Persist
from logcluster.core.raft.messages import Entry, HardState, PersistedState, Snapshot


class RaftDisk:
    """Hard state, snapshot and entries after a base; mutable."""

    __slots__ = ("base_index", "base_term", "entries", "hard_state", "snapshot")

    def __init__(self) -> None:
        self.hard_state = HardState()
        self.snapshot: Snapshot | None = None
        self.base_index = 0
        self.base_term = 0
        self.entries: list[Entry] = []

    @property
    def last_index(self) -> int:
        return self.base_index + len(self.entries)

    def copy(self) -> RaftDisk:
        """An independent copy."""
        other = RaftDisk()
        other.hard_state = self.hard_state
        other.snapshot = self.snapshot
        other.base_index = self.base_index
        other.base_term = self.base_term
        other.entries = self.entries.copy()
        return other

    def persisted(self) -> PersistedState:
        """What a node finds when it starts."""
        return PersistedState(
            hard_state=self.hard_state,
            snapshot=self.snapshot,
            base_index=self.base_index,
            base_term=self.base_term,
            entries=tuple(self.entries),
        )

    def write(self, write: Persist) -> int:
        """Carry out one write; returns how many entries it cut off the end."""
        entries = self.entries
        last_index = self.last_index
        cut = 0
        if write.truncate_from is not None and write.truncate_from <= last_index:
            keep = max(0, write.truncate_from - self.base_index - 1)
            cut = len(entries) - keep
            del entries[keep:]
        if write.base is not None:
            base_index = write.base[0]
            if base_index > self.base_index:
                del entries[: base_index - self.base_index]
            self.base_index, self.base_term = write.base
        if write.snapshot is not None:
            self.snapshot = write.snapshot
        if write.hard_state is not None:
            self.hard_state = write.hard_state
        if write.entries:
            del entries[write.entries[0].index - self.base_index - 1 :]
            entries.extend(write.entries)
        return cut

    def term_at(self, index: int) -> int | None:
        """Term of an entry that is still in the log; None elsewhere."""
        position = index - self.base_index - 1
        if position < 0:
            return self.base_term if position == -1 else None
        return self.entries[position].term if position < len(self.entries) else None

    def holds(self, index: int, term: int) -> bool:
        """Whether the entry (index, term) is here, in the log or in the snapshot that replaced it."""
        if index < self.base_index:
            return True
        return self.term_at(index) == term
