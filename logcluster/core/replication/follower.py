"""What a follower of one partition decides: where it goes on, what it cuts, what it knows to be committed.

Truncation is by leader epochs only and never by the high watermark (KIP-101); when leader and follower do not know the
same epoch, the follower cuts to the end of its largest smaller one and asks again (KIP-279). The high watermark is the
leader's, bounded by this log's end; it only goes back together with a truncation.

Neighbours: `model.epochs` holds the history, `broker.replica_stream` talks to the leader, `core.replication.leader` is
the other role. Sources: protocols.md (a), KAFKA-7414 (out of range is never fatal).
"""

from __future__ import annotations

from dataclasses import dataclass

from logcluster.model.epochs import EpochEnd, LeaderEpochHistory
from logcluster.model.invariants import InvariantViolation
from logcluster.model.probes import probe


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """Where a follower asks to go on: its log end and the epoch of its last record (None: nothing there)."""

    fetch_offset: int
    last_epoch: int | None
    log_start_offset: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Truncate:
    """Cut the log to `offset`, then ask again; `is_below_high_watermark` is possible only after an unclean election."""

    offset: int
    is_below_high_watermark: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Restart:
    """Drop everything and begin at `offset`: the leader no longer has what comes next."""

    offset: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AskAgain:
    """Nothing to change: the answer was overtaken by events."""


FollowerDecision = Truncate | Restart | AskAgain


class FollowerState:
    """The follower role of one partition in one leader epoch."""

    __slots__ = ("high_watermark", "leader_end_offset", "leader_epoch", "leader_id", "partition_epoch")

    def __init__(self, *, leader_id: int, leader_epoch: int, partition_epoch: int, high_watermark: int) -> None:
        self.leader_id = leader_id
        self.leader_epoch = leader_epoch
        self.partition_epoch = partition_epoch
        self.high_watermark = high_watermark
        self.leader_end_offset = 0
        """The leader's log end as last heard, for lag."""

    def position(self, history: LeaderEpochHistory, *, log_start_offset: int, log_end_offset: int) -> Position:
        """Say where to go on.

        The epoch is that of the last record *in the log*: an epoch assigned at the log end wrote nothing yet.
        """
        last_epoch = history.epoch_at(log_end_offset - 1) if log_end_offset > log_start_offset else None
        return Position(fetch_offset=log_end_offset, last_epoch=last_epoch, log_start_offset=log_start_offset)

    def on_leader_high_watermark(self, high_watermark: int, log_end_offset: int) -> bool:
        """Learn what is committed; returns whether this replica's knowledge moved. It never goes back."""
        known = high_watermark if high_watermark < log_end_offset else log_end_offset
        if known <= self.high_watermark:
            return False
        self.high_watermark = known
        return True

    def on_diverging_epoch(
        self, leader_end: EpochEnd, history: LeaderEpochHistory, *, log_start_offset: int, log_end_offset: int
    ) -> FollowerDecision:
        """The leader's history differs after `leader_end`: find the cut. Whether it was final shows when asking again.

        Neither the high watermark nor the log start may be taken from such an answer.
        """
        offset, _ = history.truncation_offset(leader_end, log_end_offset)
        if offset < log_start_offset:
            probe("replication.follower.diverged_below_log_start")
            return Restart(offset=leader_end.end_offset)
        if offset >= log_end_offset:
            probe("replication.follower.divergence_overtaken")
            return AskAgain()
        probe("replication.follower.truncated_by_diverging_epoch")
        return self._truncate(offset)

    def on_out_of_range(
        self, *, leader_log_start_offset: int, leader_log_end_offset: int, log_end_offset: int
    ) -> FollowerDecision:
        """The leader has nothing at this log's end: cut to its end, or start over at its start, or it was a race."""
        if log_end_offset > leader_log_end_offset:
            probe("replication.follower.truncated_beyond_leader_end")
            return self._truncate(leader_log_end_offset)
        if log_end_offset < leader_log_start_offset:
            probe("replication.follower.restarted_at_leader_start")
            return Restart(offset=leader_log_start_offset)
        return AskAgain()

    def on_truncated(self, log_end_offset: int) -> None:
        """The log was cut or restarted; nothing beyond its end is known to be committed here."""
        self.high_watermark = min(self.high_watermark, log_end_offset)

    def on_metadata(self, *, partition_epoch: int) -> None:
        """Committed metadata of the same leader epoch; an older version is ignored."""
        self.partition_epoch = max(self.partition_epoch, partition_epoch)

    def _truncate(self, offset: int) -> Truncate:
        if offset < self.high_watermark:
            probe("replication.follower.truncated_below_high_watermark")
        return Truncate(offset=offset, is_below_high_watermark=offset < self.high_watermark)

    def check(self, log_end_offset: int) -> None:
        """Check everything that must hold between calls.

        Raises:
            InvariantViolation: the high watermark is beyond the log.
        """
        if self.high_watermark > log_end_offset:
            raise InvariantViolation(
                "the high watermark is within the log", state=self.describe(), log_end_offset=log_end_offset
            )

    def describe(self) -> str:
        """One line for transcripts."""
        return (
            f"follower of {self.leader_id} epoch={self.leader_epoch}/{self.partition_epoch} hw={self.high_watermark} "
            f"leader_end={self.leader_end_offset}"
        )
