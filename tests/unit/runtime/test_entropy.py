"""Randomness by stream: repeatable with a seed, independent between concerns."""

from __future__ import annotations

from logcluster.runtime.entropy import SeededEntropy, SystemEntropy


def test_the_same_seed_gives_the_same_values() -> None:
    first, second = SeededEntropy(1), SeededEntropy(1)
    assert first.stream("a").random() == second.stream("a").random()
    assert first.random_id() == second.random_id()


def test_streams_do_not_disturb_one_another() -> None:
    entropy = SeededEntropy(1)
    alone = entropy.stream("a").random()
    entropy.stream("b").random()
    assert entropy.stream("a").random() == alone
    assert entropy.stream("a").random() != entropy.stream("b").random()


def test_random_ids_differ() -> None:
    entropy = SystemEntropy()
    assert len({entropy.random_id() for _ in range(100)}) == 100
    assert len(entropy.random_id()) == 16
