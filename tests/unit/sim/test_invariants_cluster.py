"""Each invariant about metadata, quorum and disks fires when its violation is planted in a running cluster."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from dataclasses import replace

import invariants_support
import pytest
from invariants_support import Scene, found

from logcluster.broker.controller_driver import Reign
from logcluster.core.metadata.image import MetadataImage, PartitionRegistration
from logcluster.core.metadata.records import (
    BrokerChangeRecord,
    MetadataRecord,
    PartitionChangeRecord,
    RegisterBrokerRecord,
)
from logcluster.core.raft.messages import HardState, VoterId
from logcluster.core.raft.roles import Leader
from logcluster.model.errors import CorruptLog
from logcluster.sim.invariants import INVARIANTS
from logcluster.sim.invariants.metadata import Metadata
from logcluster.sim.invariants.view import hosted_partitions, reign_of
from logcluster.sim.simulated_node import SimulatedNode
from logcluster.storage.raft_store import RaftStore

# -- metadata ---------------------------------------------------------------------------------------------------------


def registration(scene: Scene) -> PartitionRegistration:
    found = scene.context.image.partition(*scene.key)
    assert found is not None
    return found


def change(scene: Scene, **values: object) -> PartitionChangeRecord:
    before = registration(scene)
    fields: Mapping[str, object] = {
        "topic_id": before.topic_id,
        "partition": before.partition,
        "in_sync_replicas": before.in_sync_replicas,
        "eligible_leader_replicas": before.eligible_leader_replicas,
        "last_known_leaders": before.last_known_leaders,
        "leader_id": before.leader_id,
        "leader_epoch": before.leader_epoch + 1,
        "partition_epoch": before.partition_epoch + 1,
        "recovering": False,
        "reason": "planted",
    }
    return PartitionChangeRecord(**{**fields, **values})  # type: ignore[arg-type]


def leaderless(scene: Scene, **values: object) -> PartitionChangeRecord:
    return change(scene, **{"in_sync_replicas": (), "leader_id": None, **values})


def elected(scene: Scene, node_id: int, **values: object) -> PartitionChangeRecord:
    return change(scene, **{"leader_id": node_id, "in_sync_replicas": (node_id,), **values})


@pytest.mark.parametrize(
    ("before", "is_unclean", "expected"),
    [
        ({"eligible_leader_replicas": (2,)}, False, []),
        ({"last_known_leaders": (2,)}, False, []),
        ({"eligible_leader_replicas": (1,)}, False, ["unsafe-election"]),
        ({"eligible_leader_replicas": (1,), "last_known_leaders": (2,)}, False, ["unsafe-election"]),
        ({"eligible_leader_replicas": (1,)}, True, []),
    ],
    ids=["eligible", "last known", "neither", "last known before the eligible", "unclean and says so"],
)
def test_who_may_be_elected(before: dict[str, object], is_unclean: bool, expected: list[str]) -> None:
    async def act(scene: Scene) -> None:
        scene.commit(leaderless(scene, **before))
        scene.commit(elected(scene, 2, recovering=is_unclean))

    assert found(act) == expected


def test_a_fenced_broker_is_not_elected() -> None:
    async def act(scene: Scene) -> None:
        epoch = scene.context.image.brokers[2].broker_epoch
        scene.commit(
            BrokerChangeRecord(broker_id=2, broker_epoch=epoch, fenced=True),
            change(scene, leader_id=2),
        )

    assert found(act) == ["unsafe-election"]


def register(scene: Scene, node_id: int, directory_id: bytes) -> RegisterBrokerRecord:
    broker = scene.context.image.brokers[node_id]
    return RegisterBrokerRecord(
        broker_id=node_id,
        broker_epoch=scene.context.image.offset + 1,
        incarnation_id=b"i" * 16,
        directory_id=directory_id,
        host=broker.host,
        grpc_port=broker.grpc_port,
        lane_port=broker.lane_port,
        http_port=broker.http_port,
        rack=broker.rack,
        fenced=True,
    )


@pytest.mark.parametrize("stays", [True, False])
def test_a_broker_with_another_disk_counts_no_longer(stays: bool) -> None:
    async def act(scene: Scene) -> None:
        records: list[MetadataRecord] = [register(scene, 2, b"d" * 16)]
        if not stays:
            records.append(change(scene, in_sync_replicas=(0, 1), leader_id=0))
        scene.commit(*records)

    assert set(found(act)) == ({"unsafe-election"} if stays else set())


def replace_image(scene: Scene, machine: SimulatedNode, **values: object) -> None:
    loader = scene.node(machine).loader
    image: MetadataImage = replace(loader.image, **values)  # type: ignore[arg-type]
    loader._image = image
    scene.look(machine)


def test_a_node_with_another_state() -> None:
    async def act(scene: Scene) -> None:
        replace_image(scene, scene.leader, next_producer_id=77)

    assert found(act) == ["metadata-divergence"]


def test_a_controller_with_another_state() -> None:
    async def act(scene: Scene) -> None:
        controller = scene.node(scene.standbys[0]).controller
        assert controller is not None
        controller.committed = replace(controller.committed, topics={}, topic_ids={})
        scene.look(scene.standbys[0])

    assert found(act) == ["metadata-divergence"]


def test_metadata_that_goes_back() -> None:
    async def act(scene: Scene) -> None:
        scene.node(scene.leader).loader._image = scene.invariants._metadata._images[3]
        scene.look(scene.leader)

    assert "metadata-regression" in found(act)


def test_a_deleted_topic_that_lives_on() -> None:
    async def act(scene: Scene) -> None:
        offset = scene.context.image.offset
        scene.invariants._metadata._images.pop(offset)
        replace_image(scene, scene.leader, deleted_topic_ids={scene.key.topic_id: None})

    assert found(act) == ["topic-resurrection"]


def test_a_topic_that_is_deleted_and_made_again() -> None:
    async def act(scene: Scene) -> None:
        await scene.administer(lambda client: client.admin.delete_topic("orders"))
        await scene.administer(lambda client: client.admin.create_topic("orders", partitions=1, replication_factor=3))
        assert await scene.write(5) == 5
        for machine in scene.world.nodes.values():
            machine.crash(power_loss=True)
        await scene.world.wait(
            lambda: all(machine.is_active for machine in scene.world.nodes.values()), timeout_ms=20_000, what="restart"
        )
        assert await scene.write(5) == 5
        scene.invariants.check_at_rest()
        assert len(scene.context.histories) == 2

    assert found(act) == []


# -- the quorum -------------------------------------------------------------------------------------------------------


def test_a_term_that_falls() -> None:
    async def act(scene: Scene) -> None:
        state = scene.voter(scene.standbys[0])
        state.hard_state = HardState(term=state.term - 1)
        scene.look(scene.standbys[0])

    assert "epoch-regression" in found(act)


def test_a_vote_that_changes() -> None:
    async def act(scene: Scene) -> None:
        machine = scene.controller
        state = scene.voter(machine)
        state.hard_state = HardState(term=state.term, voted_for=VoterId(9, b"x" * 16))
        scene.look(machine)

    assert "epoch-regression" in found(act)


def test_a_vote_that_was_never_durable_may_be_forgotten() -> None:
    async def act(scene: Scene) -> None:
        machine = scene.standbys[0]
        state = scene.voter(machine)
        stored = state.hard_state
        state.hard_state = HardState(term=state.term + 1, voted_for=VoterId(9, b"x" * 16))
        write_id = state.durability.issue(last_index=state.log.last_index, now_ms=state.now_ms)
        scene.look(machine)
        state.hard_state = stored
        state.durability.completed(write_id)
        scene.look(machine)

    assert found(act) == []


def test_two_voters_that_lead_in_one_term() -> None:
    async def act(scene: Scene) -> None:
        machine = scene.standbys[0]
        scene.voter(machine).role = Leader(noop_index=1, heartbeat_deadline_ms=0, peers={})
        scene.look(machine)

    assert found(act) == ["split-brain"]


def test_two_active_controllers_in_one_term() -> None:
    async def act(scene: Scene) -> None:
        reign = reign_of(scene.node(scene.controller))
        assert reign is not None
        driver = scene.node(scene.standbys[0]).controller
        assert driver is not None
        driver._reign = Reign(reign.controller, term=reign.term, first_index=1)
        scene.look(scene.standbys[0])

    assert found(act) == ["split-brain"]


def test_a_new_controller_in_a_later_term() -> None:
    async def act(scene: Scene) -> None:
        before = scene.controller
        raft = scene.node(before).raft
        assert raft is not None
        before.crash()
        await scene.world.wait(lambda: before.is_active, timeout_ms=20_000, what="another controller")
        await scene.settle()
        scene.invariants.check_at_rest()

    assert found(act) == []


def test_two_entries_at_one_committed_index() -> None:
    async def act(scene: Scene) -> None:
        machine = scene.standbys[0]
        log = scene.voter(machine).log
        log._entries[2] = replace(log._entries[2], payload=b"another")
        scene.context.watches[machine.node_id].commit_index = 0
        scene.look(machine)

    assert found(act) == ["raft-log-matching"]


def test_a_commit_index_that_falls() -> None:
    async def act(scene: Scene) -> None:
        scene.voter(scene.standbys[0]).commit_index -= 1
        scene.look(scene.standbys[0])

    assert found(act) == ["raft-commit-regression"]


@pytest.mark.parametrize("is_missing", [True, False])
def test_a_leader_of_the_quorum_has_what_was_committed(is_missing: bool) -> None:
    async def act(scene: Scene) -> None:
        machine = scene.standbys[0]
        state = scene.voter(machine)
        state.hard_state = HardState(term=state.term + 1)
        if is_missing:
            state.log._entries.pop()
        state.role = Leader(noop_index=1, heartbeat_deadline_ms=0, peers={})
        scene.look(machine)

    assert found(act) == (["raft-leader-completeness"] if is_missing else [])


@pytest.mark.parametrize(("lost_count", "expected"), [(1, []), (2, ["raft-commit-not-durable"])])
def test_a_committed_entry_is_in_the_stores_of_a_majority(lost_count: int, expected: list[str]) -> None:
    async def act(scene: Scene) -> None:
        machine = scene.controller
        index = scene.voter(machine).commit_index
        for standby in scene.standbys[:lost_count]:
            standby.store._values.pop(RaftStore(standby.store)._entry_key(index))
        scene.context.watches[machine.node_id].commit_index = index - 1
        scene.look(machine)

    assert found(act) == expected


# -- disks ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("lost_count", "expected"), [(1, []), (2, ["durability-gap"])])
def test_records_stay_on_as_many_disks_as_were_asked_for(lost_count: int, expected: list[str]) -> None:
    async def act(scene: Scene) -> None:
        for follower in scene.followers[:lost_count]:
            del scene.segment(follower).durable[200:]
            scene.copy(follower).look_again()
        scene.invariants.at_checkpoint()

    assert found(act) == expected


def test_a_name_that_is_not_durable_holds_nothing() -> None:
    async def act(scene: Scene) -> None:
        for follower in scene.followers:
            directory = follower.disk._directory(scene.copy(follower).directory)
            directory.durable.clear()
            scene.copy(follower).look_again()
        scene.invariants.at_checkpoint()

    assert found(act) == ["durability-gap"]


def test_a_restart_that_loses_records() -> None:
    async def act(scene: Scene) -> None:
        machine = scene.followers[0]
        segment = scene.segment(machine)
        machine.crash()
        for content in (segment.durable, segment.volatile):
            del content[400:]
        await scene.world.wait(lambda: machine.is_active, timeout_ms=20_000, what="a restart")

    assert "restart-lost-records" in found(act)


def test_a_log_set_aside_for_no_reason() -> None:
    async def act(scene: Scene) -> None:
        machine = scene.followers[0]
        segment = scene.segment(machine)
        machine.crash()
        for content in (segment.durable, segment.volatile):
            content[100] ^= 1  # behind the listener's back, as if a sound log were taken for damaged
        await scene.world.wait(lambda: machine.is_active, timeout_ms=20_000, what="a restart")
        await scene.settle()

    assert found(act)[0] == "restart-lost-records"


@pytest.mark.parametrize("fault", ["power", "wipe", "damage", "process"])
def test_restarts_within_the_promises_lose_nothing(fault: str) -> None:
    async def act(scene: Scene) -> None:
        machine = scene.followers[0]
        path = f"{scene.copy(machine).directory}/{0:020d}.log"
        machine.keep_down = True
        machine.crash(power_loss=fault == "power")
        assert await scene.write(3) == 3
        if fault == "wipe":
            machine.wipe()
        if fault == "damage":
            machine.disk.flip_bit(path, 1_000)
        machine.start()
        await scene.settle()
        assert await scene.write(3) == 3
        await scene.settle()
        scene.invariants.check_at_rest()
        assert scene.copy(machine).excuse is None

    assert found(act) == []


def test_a_log_that_cannot_be_read_is_fetched_again() -> None:
    async def act(scene: Scene) -> None:
        machine = scene.followers[0]
        partition = scene.replica(machine)
        machine.disk.fail_next("read", errno.EIO)
        with pytest.raises(CorruptLog):
            list(partition.log.headers_from(0))
        scene.look(machine)
        scene.invariants.at_checkpoint()
        assert scene.copy(machine).excuse is not None
        await scene.world.wait(
            lambda: partition not in hosted_partitions(scene.node(machine)).values(),
            timeout_ms=5_000,
            what="stepping aside",
        )
        await scene.world.sleep_ms(1_000)
        await scene.settle()
        assert scene.replica(machine) is not partition
        scene.invariants.check_at_rest()
        assert scene.copy(machine).excuse is None

    assert found(act) == []


def test_the_catalogue_names_every_finding_and_nothing_else() -> None:
    async def act(scene: Scene) -> None:
        with pytest.raises(AssertionError):
            scene.context.report("no-such-thing", None, "")
        for name in INVARIANTS:
            scene.context.report(name, None, "planted")
            scene.context.report(name, None, "again")

    names = found(act)
    assert names == list(INVARIANTS)
    assert all(name == name.lower() and " " not in name for name in names)


def test_a_finding_ends_the_run_when_the_listener_raises() -> None:
    async def act(scene: Scene) -> None:
        def stop(finding: object) -> None:
            raise RuntimeError(str(finding))

        scene.context._on_finding = stop
        scene.replica(scene.leader).high_watermark += 1
        await scene.world.sleep_ms(500)

    with pytest.raises(RuntimeError, match="invariant high-watermark"):
        found(act)


def test_entries_that_are_compacted_when_they_are_committed_are_read_from_another_log(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A leader without trailing entries commits and compacts within one event (found by seeds 658 and 756)."""
    monkeypatch.setitem(invariants_support.SETTINGS, "quorum.snapshot_interval_entries", 10)
    monkeypatch.setitem(invariants_support.SETTINGS, "quorum.trailing_entries", 0)
    adopted: list[int] = []
    monkeypatch.setattr(Metadata, "adopt", lambda _self, image: adopted.append(image.offset))

    async def act(scene: Scene) -> None:
        before = scene.context.image.offset
        for number in range(12):
            await scene.administer(
                lambda client, name=f"more-{number}": client.admin.create_topic(name, partitions=1)  # type: ignore[misc]
            )
        assert scene.context.image.offset >= before + 12
        assert max(raft.log.base_index for m in scene.world.nodes.values() if (raft := scene.voter(m))) > before

    assert found(act) == []
    assert adopted == []
