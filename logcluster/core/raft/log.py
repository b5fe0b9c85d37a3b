"""The in-memory view of the log, and how much of it is on the own disk.

`RaftLog` holds the entries after a base (index, term); what lies below is in the snapshot. `Durability` knows
which writes are pending. A completion counts only for entries that were not truncated since: truncation lowers
the end of every pending write, so a late completion cannot claim entries that replaced its own.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from logcluster.core.raft.messages import Entry
from logcluster.model.invariants import InvariantViolation, invariant


class RaftLog:
    """Entries `base_index + 1 .. last_index`, without gaps."""

    __slots__ = ("_entries", "base_index", "base_term")

    def __init__(self, *, base_index: int, base_term: int, entries: Iterable[Entry]) -> None:
        self.base_index = base_index
        self.base_term = base_term
        self._entries: list[Entry] = []
        self.append(entries)

    @property
    def last_index(self) -> int:
        return self.base_index + len(self._entries)

    @property
    def last_term(self) -> int:
        return self._entries[-1].term if self._entries else self.base_term

    def term_at(self, index: int) -> int | None:
        """Term of the entry `index`; None if it is compacted away or beyond the end."""
        position = index - self.base_index - 1
        if position < 0:
            return self.base_term if position == -1 else None
        return self._entries[position].term if position < len(self._entries) else None

    def append(self, entries: Iterable[Entry]) -> None:
        """Add entries that follow on the last one."""
        last_index, last_term = self.last_index, self.last_term
        for entry in entries:
            if entry.index != last_index + 1 or entry.term < last_term:
                raise InvariantViolation(
                    "entries follow one another", index=entry.index, term=entry.term, after=(last_index, last_term)
                )
            self._entries.append(entry)
            last_index, last_term = entry.index, entry.term

    def truncate_from(self, index: int) -> None:
        """Drop the entries `index` and above."""
        invariant(index > self.base_index, "a compacted entry is not truncated", index=index, base=self.base_index)
        del self._entries[index - self.base_index - 1 :]

    def compact(self, index: int) -> None:
        """Drop the entries up to and including `index`, which becomes the base."""
        term = self.term_at(index)
        invariant(term is not None, "the new base is in the log", index=index, base=self.base_index)
        assert term is not None
        del self._entries[: index - self.base_index]
        self.base_index, self.base_term = index, term

    def reset(self, *, base_index: int, base_term: int) -> None:
        """Forget all entries and start after a snapshot."""
        self._entries.clear()
        self.base_index, self.base_term = base_index, base_term

    def entries_from(self, start: int, *, end: int | None = None) -> tuple[Entry, ...]:
        """The entries `[start, end)`, by default to the end of the log."""
        position = start - self.base_index - 1
        invariant(position >= 0, "the entries are in the log", start=start, base=self.base_index)
        return tuple(self._entries[position : None if end is None else end - self.base_index - 1])

    def batch_from(self, start: int, *, entries_max: int, size_bytes_max: int) -> tuple[Entry, ...]:
        """Entries from `start` within both bounds; the first is included whatever its size."""
        position = start - self.base_index - 1
        size_bytes = 0
        stop = position
        limit = min(position + entries_max, len(self._entries))
        while stop < limit:
            size_bytes += len(self._entries[stop].payload)
            if size_bytes > size_bytes_max and stop > position:
                break
            stop += 1
        return tuple(self._entries[position:stop])

    def first_index_of_term_at(self, index: int) -> int:
        """First index in the log of the run of entries that have the term of the entry `index`."""
        term = self.term_at(index)
        while index > self.base_index + 1 and self.term_at(index - 1) == term:
            index -= 1
        return index

    def last_index_of_term(self, term: int, *, at_most: int) -> int | None:
        """Last index not above `at_most` whose entry has `term`; None if there is none."""
        index = min(at_most, self.last_index)
        while index >= self.base_index:
            found = self.term_at(index)
            if found == term:
                return index
            if found is None or found < term:
                return None
            index -= 1
        return None

    def is_covered_by(self, *, last_index: int, last_term: int) -> bool:
        """Say whether a log that ends so is at least as up to date as this one (Raft paper §5.4.1)."""
        return (last_term, last_index) >= (self.last_term, self.last_index)


class Durability:
    """Pending writes and the end of what is on disk."""

    __slots__ = ("_pending", "durable_index", "durable_write_id", "last_write_id")

    def __init__(self, *, durable_index: int) -> None:
        self.durable_index = durable_index
        self.durable_write_id = 0
        self.last_write_id = 0
        self._pending: deque[tuple[int, int, int]] = deque()

    @property
    def is_pending(self) -> bool:
        return self.durable_write_id < self.last_write_id

    def oldest_pending_since_ms(self) -> int | None:
        """When the oldest pending write was issued."""
        return self._pending[0][2] if self._pending else None

    def issue(self, *, last_index: int, now_ms: int) -> int:
        """Number a write that brings the log on disk up to `last_index`."""
        self.last_write_id += 1
        self._pending.append((self.last_write_id, last_index, now_ms))
        return self.last_write_id

    def truncated_from(self, index: int) -> None:
        """Entries `index` and above were cut or replaced: neither disk nor pending writes count for them."""
        self.durable_index = min(self.durable_index, index - 1)
        self._pending = deque((write_id, min(last, index - 1), since) for write_id, last, since in self._pending)

    def completed(self, write_id: int) -> None:
        """All writes up to `write_id` are on disk; an old completion changes nothing."""
        invariant(write_id <= self.last_write_id, "a completed write was issued", write_id=write_id)
        while self._pending and self._pending[0][0] <= write_id:
            done, last_index, _ = self._pending.popleft()
            self.durable_write_id = done
            self.durable_index = max(self.durable_index, last_index)
