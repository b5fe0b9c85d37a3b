"""Which leader epoch wrote which offsets of a partition, and where two histories part.

A history is a list of (leader epoch, first offset written in it), strictly increasing in both. It answers where an
epoch ends, which is all that is needed to cut a follower's log back to what it shares with its leader
(KIP-101, KIP-279). The high watermark is never used for truncation.

The log that the history describes owns it; the history can always be rebuilt from the batch headers.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from itertools import pairwise
from typing import NamedTuple

from logcluster.model.invariants import InvariantViolation


class EpochEntry(NamedTuple):
    """The first offset that was, or will be, written in a leader epoch."""

    leader_epoch: int
    start_offset: int


class EpochEnd(NamedTuple):
    """A leader epoch and the offset after its last record."""

    leader_epoch: int
    end_offset: int


class LeaderEpochHistory:
    """Ordered (leader epoch, start offset) entries of one log."""

    __slots__ = ("_epochs", "_starts")

    def __init__(self, entries: Iterable[tuple[int, int]] = ()) -> None:
        self._epochs: list[int] = []
        self._starts: list[int] = []
        for leader_epoch, start_offset in entries:
            self._epochs.append(leader_epoch)
            self._starts.append(start_offset)
        self.check()

    @property
    def entries(self) -> tuple[EpochEntry, ...]:
        """All entries, oldest first."""
        return tuple(map(EpochEntry, self._epochs, self._starts))

    @property
    def latest(self) -> int | None:
        """The newest leader epoch, or None when nothing was ever assigned."""
        return self._epochs[-1] if self._epochs else None

    @property
    def latest_entry(self) -> EpochEntry | None:
        """The newest entry, or None when nothing was ever assigned."""
        return EpochEntry(self._epochs[-1], self._starts[-1]) if self._epochs else None

    def assign(self, leader_epoch: int, start_offset: int) -> bool:
        """Note that `leader_epoch` starts at `start_offset`; returns whether anything changed.

        The newest epoch again changes nothing. A newer epoch drops entries that start at or after `start_offset`:
        those epochs wrote nothing that is still in the log.

        Raises:
            InvariantViolation: `leader_epoch` is older than the newest one; the log must be truncated first.
        """
        if self._epochs:
            latest = self._epochs[-1]
            if leader_epoch == latest:
                if start_offset < self._starts[-1]:
                    raise InvariantViolation(
                        "an epoch's start does not move back",
                        leader_epoch=leader_epoch,
                        start_offset=start_offset,
                        known_start_offset=self._starts[-1],
                    )
                return False
            if leader_epoch < latest:
                raise InvariantViolation(
                    "leader epochs of a log never decrease", leader_epoch=leader_epoch, latest_leader_epoch=latest
                )
        self.truncate_from_end(start_offset)
        self._epochs.append(leader_epoch)
        self._starts.append(start_offset)
        return True

    def epoch_at(self, offset: int) -> int | None:
        """The leader epoch in which the record at `offset` was written; None when that is before the first entry."""
        index = bisect_right(self._starts, offset) - 1
        return self._epochs[index] if index >= 0 else None

    def end_offset_for(self, leader_epoch: int, log_end_offset: int) -> EpochEnd | None:
        """Find the largest known epoch not above `leader_epoch` and the offset after its last record.

        The newest epoch (or a newer one that is not known) ends at `log_end_offset`. An epoch older than all known
        ones ends where the first known one starts, and is returned itself. None when the history is empty.
        """
        if not self._epochs:
            return None
        index = bisect_right(self._epochs, leader_epoch) - 1
        if index < 0:
            return EpochEnd(leader_epoch, self._starts[0])
        if index + 1 == len(self._epochs):
            return EpochEnd(self._epochs[index], log_end_offset)
        return EpochEnd(self._epochs[index], self._starts[index + 1])

    def divergence(self, *, last_epoch: int | None, position: int, log_end_offset: int) -> EpochEnd | None:
        """As the leader: say where the history of a follower parts from this one, or None when it does not.

        Args:
            last_epoch: the newest epoch in the follower's log; None when its log is empty.
            position: the follower's log end offset.
            log_end_offset: this log's end.
        """
        if last_epoch is None:
            return None
        end = self.end_offset_for(last_epoch, log_end_offset)
        if end is None or (end.leader_epoch >= last_epoch and end.end_offset >= position):
            return None
        return end

    def truncation_offset(self, leader_end: EpochEnd, log_end_offset: int) -> tuple[int, bool]:
        """As a follower: find the offset to cut this log to, from the leader's answer.

        Returns:
            The offset, never above `log_end_offset`, and whether the cut is final. It is not final when this log
            does not know the leader's epoch: cut to the end of the largest smaller one and ask again (KIP-279).
        """
        own_end = self.end_offset_for(leader_end.leader_epoch, log_end_offset)
        if own_end is None:
            return min(leader_end.end_offset, log_end_offset), True
        if own_end.leader_epoch != leader_end.leader_epoch:
            return min(own_end.end_offset, log_end_offset), False
        return min(own_end.end_offset, leader_end.end_offset, log_end_offset), True

    def truncate_from_end(self, end_offset: int) -> bool:
        """Drop entries that start at or after `end_offset`; returns whether any did."""
        starts = self._starts
        if not starts or starts[-1] < end_offset:
            return False
        while starts and starts[-1] >= end_offset:
            starts.pop()
            self._epochs.pop()
        return True

    def truncate_from_start(self, start_offset: int) -> bool:
        """Forget what was before `start_offset`; the epoch that covers it now starts there.

        Returns whether anything changed.
        """
        index = bisect_right(self._starts, start_offset) - 1
        if index < 0 or (index == 0 and self._starts[0] == start_offset):
            return False
        del self._starts[:index]
        del self._epochs[:index]
        self._starts[0] = start_offset
        return True

    def clear(self) -> None:
        """Forget everything."""
        self._epochs.clear()
        self._starts.clear()

    def copy(self) -> LeaderEpochHistory:
        """An independent copy."""
        return LeaderEpochHistory(self.entries)

    def check(self) -> None:
        """Check that both columns are strictly increasing.

        Raises:
            InvariantViolation: they are not.
        """
        for name, column in (("leader epochs", self._epochs), ("start offsets", self._starts)):
            for before, after in pairwise(column):
                if after <= before:
                    raise InvariantViolation(f"{name} strictly increase", before=before, after=after)

    def __len__(self) -> int:
        return len(self._epochs)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, LeaderEpochHistory):
            return NotImplemented
        return self._epochs == other._epochs and self._starts == other._starts

    __hash__ = None  # type: ignore[assignment]  # mutable

    def __repr__(self) -> str:
        return f"LeaderEpochHistory({list(zip(self._epochs, self._starts, strict=True))})"
