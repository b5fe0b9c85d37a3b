"""The follower's rules of protocols.md (a)."""

from __future__ import annotations

import pytest

from logcluster.core.replication.follower import AskAgain, FollowerState, Restart, Truncate
from logcluster.model.epochs import EpochEnd, LeaderEpochHistory
from logcluster.model.invariants import InvariantViolation


def make_follower(high_watermark: int = 0) -> FollowerState:
    return FollowerState(leader_id=2, leader_epoch=7, partition_epoch=1, high_watermark=high_watermark)


def test_high_watermark_is_the_leaders_but_within_the_own_log() -> None:
    follower = make_follower()
    assert follower.on_leader_high_watermark(10, 6)
    assert follower.high_watermark == 6
    assert not follower.on_leader_high_watermark(5, 20)
    assert follower.high_watermark == 6, "it never goes back by itself"
    follower.check(6)


def test_position_names_the_epoch_of_the_last_record_not_of_an_empty_epoch() -> None:
    history = LeaderEpochHistory([(1, 0), (4, 10)])
    position = make_follower().position(history, log_start_offset=0, log_end_offset=10)
    assert (position.fetch_offset, position.last_epoch) == (10, 1)
    assert make_follower().position(history, log_start_offset=10, log_end_offset=10).last_epoch is None


def test_follower_truncates_to_divergence_point() -> None:
    follower = make_follower(high_watermark=3)
    history = LeaderEpochHistory([(1, 0), (2, 5)])
    decision = follower.on_diverging_epoch(EpochEnd(2, 8), history, log_start_offset=0, log_end_offset=12)
    assert decision == Truncate(offset=8, is_below_high_watermark=False)


def test_follower_cuts_an_epoch_the_leader_does_not_know_and_asks_again() -> None:
    """KIP-279: the follower wrote epochs 2 and 3, the leader only knows 1 and 4."""
    follower = make_follower()
    history = LeaderEpochHistory([(1, 0), (2, 5), (3, 9)])
    decision = follower.on_diverging_epoch(EpochEnd(1, 7), history, log_start_offset=0, log_end_offset=12)
    assert decision == Truncate(offset=5, is_below_high_watermark=False)


def test_truncating_below_the_high_watermark_is_told_not_fatal() -> None:
    follower = make_follower(high_watermark=10)
    decision = follower.on_diverging_epoch(
        EpochEnd(1, 6), LeaderEpochHistory([(1, 0)]), log_start_offset=0, log_end_offset=12
    )
    assert decision == Truncate(offset=6, is_below_high_watermark=True)
    follower.on_truncated(6)
    assert follower.high_watermark == 6
    follower.check(6)


def test_divergence_before_the_log_start_starts_over() -> None:
    decision = make_follower().on_diverging_epoch(
        EpochEnd(1, 6), LeaderEpochHistory([(3, 10)]), log_start_offset=10, log_end_offset=12
    )
    assert decision == Restart(offset=6)


@pytest.mark.parametrize(
    ("own_end", "decision"),
    [
        (30, Truncate(offset=20, is_below_high_watermark=False)),
        (3, Restart(offset=10)),
        (15, AskAgain()),
    ],
)
def test_out_of_range_is_never_fatal(own_end: int, decision: object) -> None:
    assert (
        make_follower().on_out_of_range(leader_log_start_offset=10, leader_log_end_offset=20, log_end_offset=own_end)
        == decision
    )


def test_check_notices_a_high_watermark_beyond_the_log() -> None:
    with pytest.raises(InvariantViolation):
        make_follower(high_watermark=5).check(4)
