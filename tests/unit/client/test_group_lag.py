"""How far a group is behind and when nothing is left: arithmetic over one look, and over two."""

from __future__ import annotations

import pytest

from logcluster.client.lag import (
    LagReport,
    LagSample,
    PartitionLag,
    compare,
    partition_lag,
    total_lag,
    unread_records,
)
from logcluster.model.ids import TopicPartition

NOW_MS = 1_700_000_000_000


def look(committed: int | None, end: int | None, *, partition: int = 0, start: int = 0) -> PartitionLag:
    return partition_lag(
        TopicPartition("orders", partition),
        committed=committed,
        log_start_offset=start,
        end_offset=end,
        now_ms=NOW_MS,
        first_unread_ms=NOW_MS - 5_000,
    )


def report(before: list[PartitionLag], after: list[PartitionLag], *, elapsed_ms: int = 2_000) -> LagReport:
    return compare(LagSample(at_ms=10_000, lags=tuple(before)), LagSample(at_ms=10_000 + elapsed_ms, lags=tuple(after)))


@pytest.mark.parametrize(
    ("committed", "start", "end", "expected"),
    [
        (40, 0, 100, 60),
        (100, 0, 100, 0),
        (40, 70, 100, 30),  # retention deleted 30 that were never read
        (120, 0, 100, 0),  # beyond the end
        (0, 0, 0, 0),
        (None, 0, 100, None),
        (40, 0, None, None),
        (40, None, 100, 60),
    ],
)
def test_unread_records_are_those_that_can_still_be_read(
    committed: int | None, start: int | None, end: int | None, expected: int | None
) -> None:
    assert unread_records(committed, start, end) == expected


def test_age_is_that_of_the_first_unread_record() -> None:
    assert look(40, 100).seconds == 5.0


def test_without_lag_the_age_is_zero_whatever_the_records_say() -> None:
    assert look(100, 100).seconds == 0


def test_age_that_cannot_be_known_is_none() -> None:
    without_time = partition_lag(
        TopicPartition("orders", 0), committed=1, log_start_offset=0, end_offset=2, now_ms=NOW_MS, first_unread_ms=None
    )
    without_stamp = partition_lag(
        TopicPartition("orders", 0), committed=1, log_start_offset=0, end_offset=2, now_ms=NOW_MS, first_unread_ms=-1
    )

    assert (without_time.records, without_time.seconds) == (1, None)
    assert without_stamp.seconds is None
    assert look(None, 100).seconds is None


def test_record_from_the_future_is_no_time_behind() -> None:
    lag = partition_lag(
        TopicPartition("orders", 0),
        committed=1,
        log_start_offset=0,
        end_offset=2,
        now_ms=NOW_MS,
        first_unread_ms=NOW_MS + 60_000,
    )

    assert lag.seconds == 0


def test_reader_behind_the_start_of_the_log_is_marked() -> None:
    assert look(40, 100, start=70).is_behind_log_start
    assert not look(70, 100, start=70).is_behind_log_start
    assert not look(None, 100, start=70).is_behind_log_start


def test_total_sums_records_and_takes_the_oldest_time() -> None:
    old = partition_lag(
        TopicPartition("orders", 1),
        committed=0,
        log_start_offset=0,
        end_offset=7,
        now_ms=NOW_MS,
        first_unread_ms=NOW_MS - 90_000,
    )

    total = total_lag([look(40, 100), old, look(None, 3, partition=2)])

    assert (total.records, total.seconds, total.unknown_count) == (67, 90.0, 1)


def test_total_of_nothing_known_is_not_zero() -> None:
    total = total_lag([look(None, 100), look(5, None, partition=1)])

    assert (total.records, total.seconds, total.unknown_count) == (None, None, 2)


def test_lag_that_shrinks_is_cleared_after_lag_over_difference_of_rates() -> None:
    # 200 in and 600 out within 2 s: 100/s against 300/s, and 1000 are left.
    found = report([look(0, 1_400)], [look(600, 1_600)])

    trend = found.trends[0]
    assert (trend.produced_per_second, trend.consumed_per_second) == (100.0, 300.0)
    assert trend.direction == "shrinking"
    assert trend.clear_seconds == pytest.approx(5.0)
    assert not trend.is_never


def test_falling_behind_never_clears() -> None:
    trend = report([look(0, 1_000)], [look(100, 2_000)]).trend

    assert (trend.direction, trend.clear_seconds, trend.is_never) == ("growing", None, True)


def test_keeping_pace_never_clears_either() -> None:
    trend = report([look(0, 1_000)], [look(1_000, 2_000)]).trend

    assert (trend.direction, trend.clear_seconds, trend.is_never) == ("steady", None, True)


def test_without_lag_there_is_nothing_to_clear_even_while_records_come_in() -> None:
    trend = report([look(1_000, 1_000)], [look(2_000, 2_000)]).trend

    assert (trend.direction, trend.clear_seconds, trend.is_never) == ("none", 0.0, False)
    assert trend.produced_per_second == 500.0


def test_partition_that_commits_nothing_is_stalled_though_the_group_is_not() -> None:
    found = report([look(0, 1_000), look(7, 9, partition=1)], [look(900, 1_000), look(7, 9, partition=1)])

    assert [trend.direction for trend in found.trends] == ["shrinking", "stalled"]
    assert found.stalled_count == 1
    assert found.trend.direction == "shrinking"
    assert found.trend.clear_seconds == pytest.approx(102 / 450)


def test_group_whose_partitions_all_stand_still_is_stalled() -> None:
    trend = report([look(0, 1_000)], [look(0, 1_000)]).trend

    assert (trend.direction, trend.is_never) == ("stalled", True)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (look(500, 1_000), look(0, 1_000)),  # set back
        (look(500, 1_000), look(0, 10)),  # the topic was created again
        (look(None, 1_000), look(5, 1_000)),  # the first commit
        (look(5, None), look(5, 1_000)),  # no leader a moment ago
    ],
)
def test_partition_that_went_back_or_appeared_has_no_rates(before: PartitionLag, after: PartitionLag) -> None:
    found = report([before], [after])

    assert found.trends[0].produced_per_second is None
    assert found.trends[0].direction == "unknown"
    assert not found.trend.is_never


def test_partition_without_rates_does_not_spoil_those_of_the_group() -> None:
    found = report([look(500, 1_000), look(0, 10, partition=1)], [look(0, 1_000), look(4, 10, partition=1)])

    assert found.trend.consumed_per_second == 2.0
    assert found.total.records == 1_006


def test_partition_that_came_only_now_is_known_without_a_trend() -> None:
    found = report([look(0, 10)], [look(5, 10), look(0, 3, partition=1)])

    assert [trend.direction for trend in found.trends] == ["shrinking", "unknown"]


def test_one_look_compared_with_itself_gives_no_rates() -> None:
    sample = LagSample(at_ms=1, lags=(look(0, 10),))

    found = compare(sample, sample)

    assert (found.trend.direction, found.trend.produced_per_second) == ("unknown", None)
    assert found.total.records == 10
