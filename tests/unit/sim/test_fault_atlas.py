"""The atlas refuses what would go beyond the promises, and nothing else."""

import pytest

from logcluster.sim.faults.atlas import Atlas, Damage, DamageClass

COSTS_A_COPY = [DamageClass.BATCHES, DamageClass.CHECKPOINT, DamageClass.SYNC_FAILED, DamageClass.DISK_LOST]


def damage(atlas: Atlas, node_id: int, damage_class: DamageClass) -> Damage:
    done = Damage(node_id, damage_class, 0)
    atlas.note(done)
    return done


@pytest.mark.parametrize("first", COSTS_A_COPY)
@pytest.mark.parametrize("second", COSTS_A_COPY)
def test_the_next_node_only_after_the_repair_of_this_one(first: DamageClass, second: DamageClass) -> None:
    atlas = Atlas(range(5))
    assert atlas.refusal([1], first) is None
    done = damage(atlas, 1, first)
    refusal = atlas.refusal([2], second)
    assert refusal is not None
    assert "[1]" in refusal
    atlas.repaired(done)
    assert atlas.refusal([2], second) is None


def test_several_nodes_at_once_are_too_many() -> None:
    assert Atlas(range(3)).refusal([0, 1], DamageClass.BATCHES) is not None
    assert Atlas(range(5), damaged_nodes_max=2).refusal([0, 1], DamageClass.BATCHES) is None


def test_the_damaged_node_itself_may_be_damaged_more() -> None:
    atlas = Atlas(range(3))
    damage(atlas, 1, DamageClass.BATCHES)
    assert atlas.refusal([1], DamageClass.BATCHES) is None
    assert atlas.refusal([1], DamageClass.DISK_LOST) is None


def test_batches_and_checkpoint_of_one_node_are_not_damaged_together() -> None:
    atlas = Atlas(range(3))
    damage(atlas, 1, DamageClass.BATCHES)
    assert "torn" in (atlas.refusal([1], DamageClass.CHECKPOINT) or "")
    atlas = Atlas(range(3))
    done = damage(atlas, 1, DamageClass.CHECKPOINT)
    assert "torn" in (atlas.refusal([1], DamageClass.BATCHES) or "")
    atlas.repaired(done)
    assert atlas.refusal([1], DamageClass.BATCHES) is None


def test_what_can_be_rebuilt_may_be_damaged_anywhere() -> None:
    atlas = Atlas(range(3))
    damage(atlas, 0, DamageClass.BATCHES)
    for node_id in range(3):
        assert atlas.refusal([node_id], DamageClass.DERIVED) is None
        damage(atlas, node_id, DamageClass.DERIVED)
    assert atlas.damaged_node_ids == [0]


def test_a_majority_of_the_voters_keeps_its_disks_for_good() -> None:
    atlas = Atlas(range(3))
    atlas.repaired(damage(atlas, 1, DamageClass.DISK_LOST))
    assert atlas.refusal([1], DamageClass.DISK_LOST) is None
    assert "minority" in (atlas.refusal([0], DamageClass.DISK_LOST) or "")
    assert atlas.refusal([0], DamageClass.BATCHES) is None
    assert atlas.lost_voter_ids == [1]


def test_a_node_that_does_not_vote_may_lose_its_disk_again_and_again() -> None:
    atlas = Atlas([0, 1, 2])
    for node_id in (3, 4, 3):
        assert atlas.refusal([node_id], DamageClass.DISK_LOST) is None
        atlas.repaired(damage(atlas, node_id, DamageClass.DISK_LOST))


def test_a_lost_disk_takes_its_older_damage_with_it() -> None:
    atlas = Atlas(range(3))
    damage(atlas, 1, DamageClass.BATCHES)
    lost = damage(atlas, 1, DamageClass.DISK_LOST)
    assert atlas.outstanding == (lost,)
    assert len(atlas.history) == 2


def test_beyond_the_promises_everything_is_allowed_and_kept_in_the_books() -> None:
    atlas = Atlas(range(3), damaged_nodes_max=None)
    for node_id in range(3):
        assert atlas.refusal([0, 1, 2], DamageClass.DISK_LOST) is None
        damage(atlas, node_id, DamageClass.DISK_LOST)
    assert atlas.damaged_node_ids == [0, 1, 2]
