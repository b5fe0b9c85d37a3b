"""Leader epoch history: where epochs end and where two logs part (KIP-101, KIP-279)."""

import random

import pytest

from logcluster.model.epochs import EpochEnd, EpochEntry, LeaderEpochHistory
from logcluster.model.invariants import InvariantViolation


def test_assigning_the_newest_epoch_again_changes_nothing() -> None:
    history = LeaderEpochHistory([(1, 0), (3, 10)])
    assert not history.assign(3, 25)
    assert history.entries == (EpochEntry(1, 0), EpochEntry(3, 10))


def test_newer_epoch_replaces_epochs_that_wrote_nothing() -> None:
    history = LeaderEpochHistory([(1, 0), (3, 10), (4, 20)])
    assert history.assign(6, 10)
    assert history.entries == (EpochEntry(1, 0), EpochEntry(6, 10))
    assert history.latest == 6


def test_older_epoch_is_refused() -> None:
    history = LeaderEpochHistory([(3, 10)])
    with pytest.raises(InvariantViolation, match="never decrease"):
        history.assign(2, 20)


def test_start_of_an_epoch_never_moves_back() -> None:
    history = LeaderEpochHistory([(3, 10)])
    with pytest.raises(InvariantViolation, match="does not move back"):
        history.assign(3, 9)


@pytest.mark.parametrize(
    ("epoch", "expected"),
    [(0, (0, 5)), (1, (1, 10)), (2, (1, 10)), (3, (3, 20)), (7, (7, 50)), (9, (7, 50))],
)
def test_end_offset_is_that_of_the_largest_known_epoch_not_above(epoch: int, expected: tuple[int, int]) -> None:
    history = LeaderEpochHistory([(1, 5), (3, 10), (7, 20)])
    assert history.end_offset_for(epoch, 50) == expected


def test_empty_history_knows_no_end() -> None:
    assert LeaderEpochHistory().end_offset_for(3, 0) is None
    assert LeaderEpochHistory().divergence(last_epoch=2, position=9, log_end_offset=0) is None


def test_follower_that_agrees_does_not_diverge() -> None:
    leader = LeaderEpochHistory([(1, 0), (2, 10)])
    assert leader.divergence(last_epoch=1, position=10, log_end_offset=30) is None
    assert leader.divergence(last_epoch=2, position=30, log_end_offset=30) is None
    assert leader.divergence(last_epoch=None, position=0, log_end_offset=30) is None


def test_follower_beyond_the_end_of_its_epoch_diverges() -> None:
    leader = LeaderEpochHistory([(1, 0), (3, 10)])
    assert leader.divergence(last_epoch=1, position=12, log_end_offset=30) == EpochEnd(1, 10)
    assert leader.divergence(last_epoch=2, position=10, log_end_offset=30) == EpochEnd(1, 10)
    assert leader.divergence(last_epoch=3, position=31, log_end_offset=30) == EpochEnd(3, 30)


def test_unknown_leader_epoch_cuts_to_the_smaller_one_and_asks_again() -> None:
    follower = LeaderEpochHistory([(1, 0), (4, 10)])
    assert follower.truncation_offset(EpochEnd(3, 15), 20) == (10, False)
    assert follower.truncation_offset(EpochEnd(1, 8), 20) == (8, True)
    assert follower.truncation_offset(EpochEnd(4, 99), 20) == (20, True)


def test_cut_of_the_start_keeps_the_epoch_that_covers_it() -> None:
    history = LeaderEpochHistory([(1, 0), (3, 10), (7, 20)])
    assert history.truncate_from_start(15)
    assert history.entries == (EpochEntry(3, 15), EpochEntry(7, 20))
    assert not history.truncate_from_start(15)
    assert history.epoch_at(14) is None
    assert history.epoch_at(19) == 3


def test_cut_of_the_end_drops_epochs_that_start_there() -> None:
    history = LeaderEpochHistory([(1, 0), (3, 10)])
    assert history.truncate_from_end(10)
    assert history.entries == (EpochEntry(1, 0),)
    assert not history.truncate_from_end(10)


def test_disordered_entries_are_refused() -> None:
    with pytest.raises(InvariantViolation):
        LeaderEpochHistory([(1, 0), (1, 5)])
    with pytest.raises(InvariantViolation):
        LeaderEpochHistory([(1, 5), (2, 5)])


@pytest.mark.parametrize("seed", range(200))
def test_rounds_of_truncation_always_reach_the_common_prefix(seed: int) -> None:
    """Two logs that share a prefix and then went their own ways: the loop ends exactly where they part, or below."""
    rng = random.Random(seed)
    epoch, common = 0, []
    for _ in range(rng.randrange(6)):
        epoch += rng.randrange(2)
        common += [epoch] * rng.randrange(1, 4)
    # An epoch has one leader, so it continues in at most one of the two logs.
    leader, follower = list(common), list(common)
    for _ in range(rng.randrange(6)):
        epoch += rng.randrange(1, 3)
        (leader if rng.random() < 0.5 else follower).extend([epoch] * rng.randrange(1, 4))
    leader_history, follower_history = history_of(leader), history_of(follower)
    leader_history.assign(epoch + 1, len(leader))
    for _ in range(20):
        answer = leader_history.divergence(
            last_epoch=follower_history.latest, position=len(follower), log_end_offset=len(leader)
        )
        if answer is None:
            break
        offset, _ = follower_history.truncation_offset(answer, len(follower))
        del follower[offset:]
        follower_history.truncate_from_end(offset)
    assert answer is None
    assert follower == leader[: len(follower)]
    assert len(follower) >= len(common)


def history_of(epochs: list[int]) -> LeaderEpochHistory:
    history = LeaderEpochHistory()
    for offset, leader_epoch in enumerate(epochs):
        history.assign(leader_epoch, offset)
    return history
