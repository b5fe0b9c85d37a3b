"""Each invariant about replicas fires when its violation is planted in a running cluster, and not before."""

from __future__ import annotations

import pytest
from invariants_support import Scene, found

from logcluster.core.metadata.records import PartitionChangeRecord
from logcluster.model.epochs import LeaderEpochHistory
from logcluster.record.header import read_header
from logcluster.storage.log_flush import PendingFlush


def change(scene: Scene, **values: object) -> PartitionChangeRecord:
    """The next change of the partition; what is not named stays as it is."""
    before = scene.context.image.partition(*scene.key)
    assert before is not None
    fields = {
        "topic_id": before.topic_id,
        "partition": before.partition,
        "in_sync_replicas": before.in_sync_replicas,
        "eligible_leader_replicas": before.eligible_leader_replicas,
        "last_known_leaders": before.last_known_leaders,
        "leader_id": before.leader_id,
        "leader_epoch": before.leader_epoch,
        "partition_epoch": before.partition_epoch + 1,
        "recovering": before.is_recovering,
        "reason": "planted",
    }
    return PartitionChangeRecord(**{**fields, **values})  # type: ignore[arg-type]


# -- elections --------------------------------------------------------------------------------------------------------


def test_two_leaders_in_one_epoch_are_a_split_brain() -> None:
    async def act(scene: Scene) -> None:
        follower = scene.followers[0]
        scene.lead_in(follower, scene.replica(scene.leader).leader_epoch or 0)
        scene.look(follower)

    assert found(act)[0] == "split-brain"


def test_a_leader_of_a_later_epoch_is_none() -> None:
    async def act(scene: Scene) -> None:
        follower = scene.followers[0]
        scene.lead_in(follower, 1)
        scene.look(follower)

    assert found(act) == []


def test_a_role_in_an_older_epoch_is_a_regression() -> None:
    async def act(scene: Scene) -> None:
        follower = scene.followers[0]
        scene.lead_in(follower, 1)
        scene.look(follower)
        assert scene.invariants.findings == []
        scene.lead_in(follower, 0)
        scene.look(follower)

    assert "epoch-regression" in found(act)


def test_a_leader_whose_log_ends_too_early_has_lost_records() -> None:
    async def act(scene: Scene) -> None:
        follower = scene.followers[0]
        scene.history.exposed_by_epoch[0] = scene.history.end_offset + 1
        scene.lead_in(follower, 1)
        scene.look(follower)

    assert found(act) == ["committed-record-lost"]


def test_a_leader_with_other_records_is_incomplete() -> None:
    async def act(scene: Scene) -> None:
        follower = scene.followers[0]
        offset, batch = next(iter(scene.history.batches.items()))
        scene.history.batches[offset] = batch._replace(leader_epoch=7)
        scene.copy(follower).look_again()
        scene.lead_in(follower, 1)
        scene.look(follower)

    assert "leader-completeness" in found(act)


def test_a_late_leader_of_an_earlier_epoch_need_not_have_what_its_successor_exposed() -> None:
    async def act(scene: Scene) -> None:
        scene.history.exposed_by_epoch[5] = scene.history.end_offset + 10
        follower = scene.followers[0]
        scene.lead_in(follower, 1)
        scene.look(follower)

    assert found(act) == []


def test_a_deposed_leader_that_exposes_what_its_successor_lacks() -> None:
    async def act(scene: Scene) -> None:
        scene.history.exposed_by_epoch.clear()
        scene.history.start_by_epoch[1] = scene.history.end_offset - 1
        scene.forget_seen_high_watermark(scene.leader)
        scene.look(scene.leader)

    assert found(act) == ["ack-by-deposed-leader"]


def test_a_deposed_leader_may_expose_what_its_successor_has() -> None:
    async def act(scene: Scene) -> None:
        scene.history.exposed_by_epoch.clear()
        scene.history.start_by_epoch[1] = scene.history.end_offset
        scene.forget_seen_high_watermark(scene.leader)
        scene.look(scene.leader)

    assert found(act) == []


# -- high watermarks --------------------------------------------------------------------------------------------------


def test_a_falling_high_watermark() -> None:
    async def act(scene: Scene) -> None:
        scene.replica(scene.leader).high_watermark -= 1
        scene.look(scene.leader)

    assert found(act) == ["high-watermark-regression"]


def test_a_high_watermark_beyond_the_log() -> None:
    async def act(scene: Scene) -> None:
        follower = scene.replica(scene.followers[0]).follower
        assert follower is not None
        follower.high_watermark += 1
        scene.forget_seen_high_watermark(scene.followers[0])
        scene.look(scene.followers[0])

    assert found(act) == ["high-watermark-beyond-log-end"]


def test_a_high_watermark_that_no_leader_had() -> None:
    async def act(scene: Scene) -> None:
        scene.history.exposed_by_epoch[0] -= 1
        scene.forget_seen_high_watermark(scene.followers[0])
        scene.look(scene.followers[0])

    assert found(act) == ["high-watermark-invented"]


def test_a_commitment_that_is_not_on_the_disks(monkeypatch: pytest.MonkeyPatch) -> None:
    async def act(scene: Scene) -> None:
        monkeypatch.setattr(PendingFlush, "run", lambda self: None)
        await scene.write(1)

    assert found(act)[0] == "high-watermark-not-replicated"


def test_page_caches_are_enough_with_flush_mode_async(monkeypatch: pytest.MonkeyPatch) -> None:
    async def act(scene: Scene) -> None:
        monkeypatch.setattr(PendingFlush, "run", lambda self: None)
        await scene.write(1)

    assert found(act, flush_mode="async") == []


def test_a_commitment_below_the_minimum() -> None:
    async def act(scene: Scene) -> None:
        leader = scene.replica(scene.leader).leader
        assert leader is not None
        leader.in_sync_replicas = (scene.leader.node_id,)
        scene.forget_seen_high_watermark(scene.leader)
        scene.look(scene.leader)

    assert found(act) == ["min-isr-violation"]


def test_one_replica_is_enough_where_there_is_only_one() -> None:
    async def act(scene: Scene) -> None:
        assert await scene.write(3) == 3
        scene.invariants.at_checkpoint()

    assert found(act, replication_factor=1) == []


# -- in-sync sets -----------------------------------------------------------------------------------------------------


def test_a_leader_that_waits_for_too_few() -> None:
    async def act(scene: Scene) -> None:
        leader = scene.replica(scene.leader).leader
        assert leader is not None
        leader._in_sync_remotes = leader._in_sync_remotes[:1]
        scene.invariants.at_checkpoint()

    assert "isr-divergence" in found(act)


def test_a_leader_may_wait_for_members_that_the_controller_has_taken_out() -> None:
    async def act(scene: Scene) -> None:
        scene.commit(change(scene, in_sync_replicas=(scene.leader.node_id,)))
        scene.invariants.at_checkpoint()

    assert found(act) == []


def test_a_member_without_the_records_is_no_member() -> None:
    async def act(scene: Scene) -> None:
        follower = scene.followers[0]
        scene.segment(follower).durable.clear()
        scene.copy(follower).look_again()
        members = (scene.leader.node_id, follower.node_id)
        scene.commit(change(scene, in_sync_replicas=members))

    assert found(act) == ["isr-member-incomplete"]


def test_a_damaged_member_is_excused() -> None:
    async def act(scene: Scene) -> None:
        follower = scene.followers[0]
        follower.disk.flip_bit(f"{scene.copy(follower).directory}/{0:020d}.log", 600)
        scene.commit(change(scene, in_sync_replicas=(scene.leader.node_id, follower.node_id)))
        scene.invariants.at_checkpoint()

    assert found(act) == []


def test_damage_among_deleted_records_excuses_what_is_written_behind_it() -> None:
    """A reader of the files cannot pass the damage, so the member is excused until its log is fetched anew."""

    async def act(scene: Scene) -> None:
        await scene.administer(lambda client: client.admin.delete_records({("orders", 0): 12}))
        follower = scene.followers[0]
        follower.disk.flip_bit(f"{scene.copy(follower).directory}/{0:020d}.log", 600)
        scene.invariants.at_checkpoint()
        assert scene.copy(follower).excuse is not None
        assert await scene.write(3) == 3
        scene.invariants.at_checkpoint()

    assert found(act) == []


def test_damage_excuses_what_the_node_had_reported_before_it_was_committed() -> None:
    async def act(scene: Scene) -> None:
        follower = scene.followers[0]
        copy = scene.copy(follower)
        content = scene.segment(follower).durable
        position = 0
        while (header := read_header(content, position)).next_offset < copy.log_end_offset:
            position += header.size_bytes
        copy.history.end_offset = header.base_offset  # as if the last batch were not committed yet
        follower.disk.flip_bit(f"{copy.directory}/{0:020d}.log", 8 * (position + header.size_bytes) - 1)
        durability = scene.invariants._durability

        assert durability.reach(copy, header.base_offset) == header.base_offset, "nothing committed is damaged"
        copy.history.end_offset = header.next_offset
        assert durability.reach(copy, header.next_offset) == header.base_offset
        assert durability.is_held(copy, header.next_offset)

    assert found(act) == []


# -- logs -------------------------------------------------------------------------------------------------------------


def test_a_replica_that_holds_another_record_diverges() -> None:
    async def act(scene: Scene) -> None:
        follower = scene.followers[0]
        scene.segment(follower).volatile[15] = 9  # the leader epoch, which no checksum covers
        scene.copy(follower).look_again()
        scene.invariants.at_checkpoint()

    assert "log-divergence" in found(act)


def test_cutting_committed_records() -> None:
    async def act(scene: Scene) -> None:
        follower = scene.followers[0]
        scene.replica(follower).truncate_to(3)
        scene.look(follower)

    assert found(act) == ["truncation-below-high-watermark"]


def test_cutting_records_that_were_never_committed() -> None:
    async def act(scene: Scene) -> None:
        others = scene.followers
        old_leader = scene.leader
        for other in others:
            scene.world.cut(old_leader.name, other.name)
            scene.world.cut(other.name, old_leader.name)
        before = scene.replica(old_leader).log.log_end_offset
        partition = scene.replica(old_leader)
        from logcluster.record.batch import validate_batch
        from logcluster.record.builder import build_batch

        batch = build_batch([(5, None, b"never committed", [])])
        assert old_leader.process is not None
        old_leader.process.call(
            lambda: partition.append_as_leader(batch, validate_batch(batch, size_bytes_max=1 << 20), acks_all=False)
        )
        assert partition.log.log_end_offset == before + 1
        await scene.world.wait(
            lambda: any(scene.replica(other).leader is not None for other in others), timeout_ms=10_000, what="failover"
        )
        assert await scene.write(5) == 5
        scene.world.heal_all()
        await scene.settle()
        assert partition.log.leader_epochs.latest != 0
        scene.invariants.check_at_rest()

    assert found(act) == []


def test_a_history_of_epochs_that_is_not_the_log_s() -> None:
    async def act(scene: Scene) -> None:
        follower = scene.followers[0]
        scene.replica(follower).log.leader_epochs = LeaderEpochHistory([(5, 0)])
        scene.copy(follower).look_again()
        scene.invariants.at_checkpoint()

    assert "epoch-history-disorder" in found(act)


def test_a_forgotten_producer() -> None:
    async def act(scene: Scene) -> None:
        scene.replica(scene.followers[0]).producers.clear()
        scene.invariants.at_checkpoint()

    assert found(act) == ["producer-state-mismatch"]


def test_an_expired_producer_is_forgotten_rightly() -> None:
    async def act(scene: Scene) -> None:
        producers = scene.replica(scene.followers[0]).producers
        assert producers.expire(2**60, expiration_ms=0) == 1
        scene.invariants.at_checkpoint()

    assert found(act) == []


def test_a_component_that_is_not_in_order() -> None:
    async def act(scene: Scene) -> None:
        scene.replica(scene.followers[0]).log.flushed_offset += 1
        scene.invariants.at_checkpoint()

    assert "core-check" in found(act)


# -- at rest ----------------------------------------------------------------------------------------------------------


def test_replicas_at_rest_hold_the_same_bytes() -> None:
    async def act(scene: Scene) -> None:
        scene.invariants.check_at_rest()
        assert scene.invariants.findings == []
        scene.segment(scene.followers[0]).volatile[70] ^= 1
        scene.invariants.check_at_rest()

    assert found(act) == ["replicas-differ-at-rest"]
