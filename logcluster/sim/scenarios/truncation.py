"""Stories of replicas that cut their logs in the wrong place, or spoke in an epoch that was not theirs (P2).

Kafka needed two proposals to learn where a follower may cut: not at its high watermark (KIP-101), and not at an offset
of which nobody said to which epoch it belongs (KIP-279).
"""

from __future__ import annotations

from typing import Final

from logcluster.client.client import Client
from logcluster.sim.scenarios.scenario import Scenario
from logcluster.sim.scenarios.stage import ADMIN, Stage, StageOptions


async def _cut_at_high_watermark(stage: Stage) -> None:
    first, second, third = stage.others(stage.controller())
    await stage.create_topic("orders", [first, second, third])
    writer = await stage.writer()
    await stage.send(writer, "orders")
    for follower in (second, third):
        # Records arrive, and are reported at once; that they are committed is not known before the leader is dead.
        stage.slow_link(first, follower, 60)
    await stage.acked(writer.send_many("orders", 10))
    stage.cut(second, third)
    stage.cut(second, first)
    stage.crash(first)
    await stage.wait_until(lambda: stage.leader_of("orders") == second, "the second leads")
    await stage.wait_until(lambda: stage.replica(third, "orders").leader_id == second, "the third follows it")
    await stage.running(first)
    stage.crash(second)
    await stage.wait_until(lambda: stage.leader_of("orders") not in (None, second), "somebody else leads")
    await stage.send(writer, "orders")


async def _epoch_unknown_to_the_leader(stage: Stage) -> None:
    first, second = stage.others(stage.controller())
    await stage.create_topic("orders", [first, second])
    writer = await stage.writer(acks=1)
    await stage.send(writer, "orders", 3)
    await stage.wait_until(lambda: stage.log_end(second, "orders") == 3, "both have three records")
    stage.cut(first, second)
    await stage.send(writer, "orders", 2)
    stage.crash(first)
    await stage.wait_until(lambda: stage.leader_of("orders") == second, "the second leads")
    await stage.send(writer, "orders", 4)
    await stage.running(first)
    stage.crash(second)
    await stage.wait_until(lambda: stage.leader_of("orders") == first, "the first leads again")
    await stage.send(writer, "orders")
    stage.join(first, second)
    await stage.running(second)


async def _same_epoch_again(stage: Stage) -> None:
    leader, follower = stage.others(stage.controller())
    await stage.create_topic("orders", [leader, follower])
    writer = await stage.writer()
    await stage.send(writer, "orders", 5)
    stage.slow_disk(leader, 5_000)
    hasty = await stage.writer("hasty", acks=1)
    await stage.send(hasty, "orders")
    await stage.wait_until(lambda: stage.log_end(follower, "orders") == 6, "the follower has the sixth record")
    stage.crash(follower)
    stage.power_off(leader)
    stage.slow_disk(leader, 0.2)
    await stage.running(leader)
    await stage.wait_until(lambda: stage.log_is_there(leader, "orders"), "it knows its role")
    await stage.wait_until(lambda: stage.leader_of("orders") == leader, "it leads again")
    await stage.send(hasty, "orders")
    await stage.running(follower)
    await stage.sleep(300)


async def _deposed_leader_changes_the_set(stage: Stage) -> None:
    controller = stage.controller()
    new, old = stage.others(controller)
    await stage.create_topic("orders", [new, old, controller])
    writer = await stage.writer()
    await stage.send(writer, "orders")
    stage.crash(new)
    await stage.wait_until(lambda: stage.leader_of("orders") == old, "the other leads")
    await stage.running(new)
    await stage.wait_until(lambda: len(stage.in_sync("orders")) == 3, "all are in sync")
    stage.hold(old, controller)
    stage.cut(old, new)
    doubtful = writer.send("orders")
    await stage.wait_until(lambda: _has_proposal(stage, old), "the old leader wants a smaller set")

    async def elect_preferred(client: Client) -> None:
        await client.admin.elect_leaders([("orders", 0)])

    stage.cut(old, ADMIN)
    await stage.ask(elect_preferred)
    await stage.wait_until(lambda: stage.leader_of("orders") == new, "the preferred leader leads")
    await stage.acked([doubtful, *writer.send_many("orders", 5)])
    stage.release(old, controller)
    await stage.sleep(300)


def _has_proposal(stage: Stage, node: int) -> bool:
    leader = stage.replica(node, "orders").leader
    return leader is not None and leader.pending is not None


SCENARIOS: Final = (
    Scenario(
        name="kip-101",
        title="Two failovers in a row, and followers that cut at their high watermark, lose what was acknowledged",
        source="KIP-101; KAFKA-1211",
        safeguard="a follower cuts where its leader's history parts from its own, never at its high watermark",
        ablation="truncation-by-epoch",
        expected=frozenset({"lost-write"}),
        play=_cut_at_high_watermark,
        options=StageOptions(brokers=4),
    ),
    Scenario(
        name="kip-279",
        title="Fast failovers: the leader never saw the follower's epoch, and names an offset of another one",
        source="KIP-279; KAFKA-6361",
        safeguard="the leader says of which epoch it names the end, and the follower cuts to the largest common one",
        ablation="epoch-in-lookup-reply",
        expected=frozenset({"log-divergence"}),
        play=_epoch_unknown_to_the_leader,
    ),
    Scenario(
        name="same-epoch-again",
        title="A leader restarts, has forgotten what it sent, and writes other records under the same epoch",
        source="KAFKA-15021 (the discussion of epochs); Raft paper §5.2",
        safeguard="after a restart a leader leads only in a new epoch",
        ablation="new-epoch-after-restart",
        expected=frozenset({"log-divergence"}),
        play=_same_epoch_again,
    ),
    Scenario(
        name="deposed-leader-changes-the-set",
        title="A leader is deposed while its change of the in-sync set is still on the way",
        source="KIP-497; Kafka's AlterPartition",
        safeguard="the controller takes changes only from the leader of the present epoch, on the present version",
        ablation="stale-leader-fencing",
        expected=frozenset({"lost-write"}),
        play=_deposed_leader_changes_the_set,
        options=StageOptions(settings={"broker.replica_lag_time_max_ms": 300, "broker.session_timeout_ms": 6_000}),
    ),
)
