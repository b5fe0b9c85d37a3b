"""How far a group is behind, and where that is going: pure arithmetic.

One look at a group gives, per partition, what it has committed and where the log ends. Two looks give rates: what
came in and what was worked off per second, and from these the time until nothing is left, if that ever comes.

Invariant: what cannot be known is None, never a guess. In particular a partition without a committed offset has no
lag (where its reader would begin is the reader's affair), and one whose committed offset or end went back between two
looks (a reset, a topic created again) has no rates.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from logcluster.model.ids import TopicPartition

Direction = Literal["unknown", "none", "shrinking", "steady", "growing", "stalled"]
"""Where a lag is going. "none": there is none; "unknown": nothing can be said; "stalled": nothing was committed between
the two looks, which also happens when commits are rarer than looks."""
_STEADY_SHARE = 0.01
"""Rates that differ by less than this share of the incoming one are called equal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionLag:
    """How far a group is behind in one partition, at one time."""

    topic: str
    partition: int
    committed: int | None
    """The next offset the group will read; None: nothing is committed."""
    log_start_offset: int | None
    end_offset: int | None
    """High watermark: what is below it can be read. None: no leader said."""
    records: int | None
    """Records that can be read and were not; those that retention has deleted are not among them."""
    seconds: float | None
    """Age of the first unread record; 0 when there is none, None when it cannot be known."""
    member_id: str | None = None
    """Who reads the partition."""

    @property
    def is_behind_log_start(self) -> bool:
        """Whether records were deleted before the group read them."""
        return (
            self.committed is not None and self.log_start_offset is not None and self.committed < self.log_start_offset
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class LagTotal:
    """Sums over partitions; of what is known."""

    records: int | None
    """None: of no partition a lag is known."""
    seconds: float | None
    """The largest one."""
    unknown_count: int
    """Partitions whose lag is not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LagTrend:
    """Where the lag of one partition, or of a group, is going.

    Args:
        produced_per_second, consumed_per_second: records; None when two looks do not tell.
        clear_seconds: until nothing is left if both rates stay; 0 when there is no lag; None when that never comes
            (`is_never`), or is not known.
    """

    direction: Direction
    produced_per_second: float | None = None
    consumed_per_second: float | None = None
    clear_seconds: float | None = None

    @property
    def is_never(self) -> bool:
        """Whether the lag does not go away at these rates."""
        return self.direction in {"steady", "growing", "stalled"}


UNKNOWN_TREND = LagTrend(direction="unknown")


@dataclass(frozen=True, slots=True, kw_only=True)
class LagSample:
    """One look at a group; `at_ms` is of a clock that does not go back."""

    at_ms: int
    lags: tuple[PartitionLag, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class LagReport:
    """Two looks at a group, compared. The trends are in the order of the lags."""

    lags: tuple[PartitionLag, ...]
    trends: tuple[LagTrend, ...]
    total: LagTotal
    trend: LagTrend
    """Of the group; one partition that is stalled does not show here."""

    @property
    def stalled_count(self) -> int:
        """Partitions with a lag in which nothing was committed."""
        return sum(trend.direction == "stalled" for trend in self.trends)


def partition_lag(
    name: TopicPartition,
    *,
    committed: int | None,
    log_start_offset: int | None,
    end_offset: int | None,
    now_ms: int,
    first_unread_ms: int | None,
    member_id: str | None = None,
) -> PartitionLag:
    """Work out one partition's lag.

    Args:
        now_ms: wall clock.
        first_unread_ms: timestamp of the first record at or after the committed offset; None: not known.
    """
    records = unread_records(committed, log_start_offset, end_offset)
    seconds: float | None = None
    if records == 0:
        seconds = 0.0
    elif records is not None and first_unread_ms is not None and first_unread_ms >= 0:
        # Producers stamp records by clocks of their own, which may be ahead.
        seconds = max(0, now_ms - first_unread_ms) / 1000
    return PartitionLag(
        topic=name.topic,
        partition=name.partition,
        committed=committed,
        log_start_offset=log_start_offset,
        end_offset=end_offset,
        records=records,
        seconds=seconds,
        member_id=member_id,
    )


def unread_records(committed: int | None, log_start_offset: int | None, end_offset: int | None) -> int | None:
    """How many offsets can be read from the committed one on; None: something is not known.

    A committed offset beyond the end (the log was truncated, or somebody insisted) leaves nothing to read.
    """
    if committed is None or end_offset is None:
        return None
    return max(0, end_offset - max(committed, log_start_offset or 0))


def total_lag(lags: Iterable[PartitionLag]) -> LagTotal:
    """Sum up partitions; one whose time is not known, but whose records are, does not count for the time."""
    known: list[int] = []
    seconds: list[float] = []
    unknown_count = 0
    for lag in lags:
        if lag.records is None:
            unknown_count += 1
        else:
            known.append(lag.records)
        if lag.seconds is not None:
            seconds.append(lag.seconds)
    return LagTotal(
        records=sum(known) if known else None, seconds=max(seconds, default=None), unknown_count=unknown_count
    )


def compare(before: LagSample, after: LagSample) -> LagReport:
    """Rates and directions, per partition and in all.

    The group's rates are the sums over the partitions that have rates; its lag is that of all.
    """
    elapsed_ms = after.at_ms - before.at_ms
    earlier = {(lag.topic, lag.partition): lag for lag in before.lags}
    moves = [_moved(earlier.get((lag.topic, lag.partition)), lag) for lag in after.lags]
    total = total_lag(after.lags)
    return LagReport(
        lags=after.lags,
        trends=tuple(
            _trend(lag.records, [] if move is None else [move], elapsed_ms)
            for lag, move in zip(after.lags, moves, strict=True)
        ),
        total=total,
        trend=_trend(total.records, [move for move in moves if move is not None], elapsed_ms),
    )


def _moved(before: PartitionLag | None, after: PartitionLag) -> tuple[int, int] | None:
    """Records that came in and that were worked off between two looks; None: that cannot be said."""
    if before is None or before.committed is None or before.end_offset is None:
        return None
    if after.committed is None or after.end_offset is None:
        return None
    produced, consumed = after.end_offset - before.end_offset, after.committed - before.committed
    return None if produced < 0 or consumed < 0 else (produced, consumed)


def _trend(records: int | None, moves: Sequence[tuple[int, int]], elapsed_ms: int) -> LagTrend:
    if records is None:
        return UNKNOWN_TREND
    has_rates = bool(moves) and elapsed_ms > 0
    produced = sum(move[0] for move in moves) * 1000 / elapsed_ms if has_rates else None
    consumed = sum(move[1] for move in moves) * 1000 / elapsed_ms if has_rates else None
    direction: Direction
    clear_seconds: float | None = None
    if records == 0:
        direction, clear_seconds = "none", 0.0
    elif produced is None or consumed is None:
        direction = "unknown"
    elif consumed == 0:
        direction = "stalled"
    elif consumed - produced > produced * _STEADY_SHARE:
        direction, clear_seconds = "shrinking", records / (consumed - produced)
    else:
        direction = "growing" if produced - consumed > produced * _STEADY_SHARE else "steady"
    return LagTrend(
        direction=direction, produced_per_second=produced, consumed_per_second=consumed, clear_seconds=clear_seconds
    )
