"""Stories of replicas that led, or counted as in sync, without holding what was acknowledged (P1).

Most of them are Kafka's own: what an in-sync set of one is worth, who may follow it, and whose word a set is built on.
"""

from __future__ import annotations

from typing import Final

from logcluster.broker.replica_manager import ReplicaManager
from logcluster.core.controller import alter_partitions
from logcluster.sim.ablations.editing import Edit, Patch
from logcluster.sim.scenarios.scenario import Scenario
from logcluster.sim.scenarios.stage import Stage, StageOptions


async def _last_replica_standing(stage: Stage) -> None:
    leader, follower = stage.others(stage.controller())
    await stage.create_topic("orders", [leader, follower], flush_mode="async")
    writer = await stage.writer()
    await stage.send(writer, "orders")
    stage.slow_disk(leader, 200)
    await stage.acked(writer.send_many("orders", 20))
    await stage.wait_until(lambda: stage.log_end(follower, "orders") == 21, "the follower holds everything")
    await stage.machine(follower).stop()
    await stage.wait_until(lambda: stage.in_sync("orders") == (leader,), "the leader is alone")
    stage.power_off(leader)
    await stage.running(leader)
    await stage.sleep(500)
    await stage.running(follower)


async def _leader_acks_alone(stage: Stage) -> None:
    leader, follower = stage.others(stage.controller())
    await stage.create_topic("orders", [leader, follower])
    writer = await stage.writer(delivery_timeout_ms=1_500)
    await stage.send(writer, "orders")
    stage.cut(leader, follower)
    doubtful = writer.send_many("orders", 5)
    await stage.wait_until(lambda: stage.in_sync("orders") == (leader,), "the leader has dropped its follower")
    late = writer.send_many("orders", 5)
    await stage.wait_until(lambda: all(record.is_done for record in (*doubtful, *late)), "an outcome")
    stage.crash(leader)
    await stage.wait_until(lambda: stage.leader_of("orders") == follower, "the follower leads")
    stage.join(leader, follower)
    await stage.running(leader)


async def _quick_reboot(stage: Stage) -> None:
    controller = stage.controller()
    leader, follower, *_quorum = stage.others(controller)
    await stage.create_topic("orders", [leader, follower], min_insync_replicas=1)
    writer = await stage.writer()
    await stage.send(writer, "orders", 3)
    stage.crash(follower)
    await stage.wait_until(lambda: stage.in_sync("orders") == (leader,), "the follower is out of sync")
    await stage.send(writer, "orders", 5)
    stage.hold(leader, controller)
    await stage.running(follower)
    await stage.wait_until(lambda: _proposes(stage, leader), "the leader wants it back")
    stage.crash(follower)
    stage.machine(follower).wipe()
    stage.cut(leader, follower)
    await stage.running(follower)
    stage.release(leader, controller)
    await stage.sleep(100)
    stage.crash(leader)
    await stage.sleep(1_000)


async def _in_sync_while_leaving(stage: Stage) -> None:
    controller = stage.controller()
    leader, leaving, slow = stage.others(controller)
    await stage.create_topic("orders", [leader, leaving])
    writer = await stage.writer()
    await stage.send(writer, "orders", 3)
    stage.slow_link(controller, slow, 300)  # everybody must know of the shutdown before it goes on
    stage.world.driver.spawn(stage.machine(leaving).stop(), name="stop")
    await stage.wait_until(lambda: stage.in_sync("orders") == (leader,), "it has left the in-sync set")
    is_back = False
    while stage.machine(leaving).state == "stopping":
        is_back = is_back or leaving in stage.in_sync("orders")
        await stage.sleep(1)
    stage.expect(not is_back, "script-in-sync-while-leaving", f"node-{leaving} is in sync again while it shuts down")


def _proposes(stage: Stage, leader: int) -> bool:
    state = stage.replica(leader, "orders").leader
    return state is not None and state.pending is not None


async def _disk_replaced(stage: Stage) -> None:
    leader, follower = stage.others(stage.controller())
    await stage.create_topic("orders", [leader, follower])
    writer = await stage.writer()
    await stage.send(writer, "orders", 5)
    stage.crash(follower)
    await stage.wait_until(lambda: stage.in_sync("orders") == (leader,), "the leader is alone")
    stage.cut(leader, follower)
    stage.machine(follower).wipe()
    await stage.running(follower)
    stage.crash(leader)
    await stage.sleep(1_000)


SCENARIOS: Final = (
    Scenario(
        name="last-replica-standing",
        title="The in-sync set is one replica, which loses its page cache with its power and is elected again",
        source="KIP-966",
        safeguard="who leaves below min.insync.replicas stays eligible, and leads before a last replica in doubt",
        ablation="eligible-leader-replicas",
        expected=frozenset({"lost-write", "unsafe-election"}),
        play=_last_replica_standing,
    ),
    Scenario(
        name="leader-acks-alone",
        title="A leader drops everybody from its in-sync set, acknowledges alone, and dies",
        source="Jepsen on Kafka 0.8, 2013",
        safeguard="fewer than min.insync.replicas in sync take no write with acks=all and commit nothing",
        ablation="min-insync-replicas",
        expected=frozenset({"lost-write"}),
        play=_leader_acks_alone,
        options=StageOptions(settings={"broker.replica_lag_time_max_ms": 300}),
    ),
    Scenario(
        name="kip-903",
        title="A broker reboots with an empty disk while its leader's wish to have it in sync is on the way",
        source="KIP-903; KAFKA-14139",
        safeguard="a process joins the in-sync set only under the registration for which its leader speaks",
        ablation="progress-per-process",
        expected=frozenset({"lost-write"}),
        play=_quick_reboot,
        options=StageOptions(brokers=5, settings={"broker.session_timeout_ms": 6_000}),
    ),
    Scenario(
        name="in-sync-while-leaving",
        title="A broker that shuts down fetches on, is taken back into the in-sync set, and is gone",
        source="KAFKA-15021; KIP-841",
        safeguard="a broker that is fenced or shuts down does not join an in-sync set, by its leader or the controller",
        ablation="shutting-down-stays-out",
        expected=frozenset({"core-check", "script-in-sync-while-leaving"}),
        play=_in_sync_while_leaving,
        options=StageOptions(brokers=4),
        patch=Patch(
            Edit(alter_partitions._check_eligible, "broker.in_controlled_shutdown", "False"),
            Edit(ReplicaManager.on_metadata, "if broker.is_active:", "if not broker.is_fenced:"),
        ),
    ),
    Scenario(
        name="replaced-disk",
        title="A replica comes back with an empty disk in place of the old one, and is elected",
        source="KIP-858; Jepsen on TigerBeetle 0.16.11 (a replica whose data is lost)",
        safeguard="a replica on another disk than before counts as empty, whatever its broker held",
        ablation="lost-disk-detection",
        expected=frozenset({"lost-write"}),
        play=_disk_replaced,
    ),
)
