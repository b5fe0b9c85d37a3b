"""Two of three voters lose their disks while the third has the metadata: no new history may begin (P8, NATS #7556)."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from logcluster.node import Node
from logcluster.sim.ablations.editing import Edit, Patch
from logcluster.sim.faults.kinds import FaultKind
from logcluster.sim.faults.plan import Fault, Plan
from logcluster.sim.findings import Finding
from logcluster.sim.invariants import Invariants
from logcluster.sim.invariants.view import raft_state
from logcluster.sim.log_capture import captured
from logcluster.sim.run import RunOptions, run_seed
from logcluster.sim.simulated_node import SimulatedNode
from logcluster.sim.world import World

LONG_MS = 6_000
"""Ten election timeouts."""

NO_LEADER = "the metadata quorum has no leader"

Main = Callable[[World], Coroutine[Any, Any, None]]

WITHOUT_FOUNDING = Patch(
    Edit(
        Node._raft_config,
        "check_quorum_ms=timeout_ms * 3 // 2,",
        "check_quorum_ms=timeout_ms * 3 // 2, ablations=frozenset({'founding'}),",
    )
)


def run(main: Main, *, seed: int = 1) -> tuple[list[Finding], list[str]]:
    """Play `main`; returns the broken invariants and what was logged as a warning or worse."""
    world = World(seed)
    findings: list[Finding] = []
    world.observers.append(Invariants(world, on_finding=findings.append))
    with captured(world) as log:
        world.run(lambda: main(world))
    return findings, list(log.lines)


async def started_with_topic(world: World) -> None:
    await world.start()
    process = world.process("client")

    async def create() -> None:
        async with world.connect(process) as client:
            await client.admin.create_topic("orders", partitions=1, replication_factor=3)

    task = process.spawn(create(), name="create")
    await world.wait(task.done, timeout_ms=10_000, what="a topic")
    task.result()
    await world.wait(
        lambda: all(has_topic(machine) for machine in world.nodes.values()), timeout_ms=5_000, what="it is everywhere"
    )


def lose_disks(world: World, *node_ids: int) -> None:
    """All nodes lose power; these lose their disks, too. All stay down."""
    for machine in world.nodes.values():
        machine.keep_down = True
        machine.crash(power_loss=True)
        machine.keep_down = True
    for node_id in node_ids:
        world.nodes[node_id].wipe()


def has_topic(machine: SimulatedNode) -> bool:
    return machine.node is not None and machine.node.loader.image.topic_by_name("orders") is not None


def term_and_leader(machine: SimulatedNode) -> tuple[int, int | None]:
    assert machine.node is not None
    state = raft_state(machine.node)
    assert state is not None
    return state.term, state.leader_id


def reasons(machine: SimulatedNode) -> list[str]:
    assert machine.node is not None
    return list(machine.node.observer.facts().reasons)


async def two_disks_lost(world: World) -> None:
    await started_with_topic(world)
    lose_disks(world, 0, 1)
    for node_id in (0, 1):
        world.nodes[node_id].start()
    await world.sleep_ms(LONG_MS)
    for node_id in (0, 1):
        assert term_and_leader(world.nodes[node_id]) == (0, None)
        assert f"{NO_LEADER}: waiting for voter 2 to appear for the first election" in reasons(world.nodes[node_id])
    world.nodes[2].start()
    await world.sleep_ms(LONG_MS)
    for node_id in (0, 1):
        assert term_and_leader(world.nodes[node_id]) == (0, None)
        assert any("voter 2: its cluster has a history" in reason for reason in reasons(world.nodes[node_id]))
    assert term_and_leader(world.nodes[2])[1] is None
    assert f"{NO_LEADER}: voters 0, 1 came back with empty disks and cannot vote" in reasons(world.nodes[2])


def test_a_majority_with_empty_disks_begins_no_new_history() -> None:
    findings, log = run(two_disks_lost)
    assert not findings
    for node_id in (0, 1):
        assert any(f"node-{node_id} " in line and "reason=voter 2: its cluster has a history" in line for line in log)
        assert any("node-2 " in line and f"voter {node_id} came back with an empty disk" in line for line in log)


def test_without_the_founding_the_cluster_is_silently_replaced_by_an_empty_one() -> None:
    async def main(world: World) -> None:
        await started_with_topic(world)
        lose_disks(world, 0, 1)
        for machine in world.nodes.values():
            machine.start()
        await world.sleep_ms(LONG_MS)

    with WITHOUT_FOUNDING():
        findings, _ = run(main)
    assert {"raft-leader-completeness", "split-brain"} & {finding.name for finding in findings}


@pytest.mark.parametrize("seed", range(4))
def test_a_lost_minority_is_no_voter_and_hinders_nobody(seed: int) -> None:
    async def main(world: World) -> None:
        await started_with_topic(world)
        lose_disks(world, 1)
        for machine in world.nodes.values():
            machine.start()
        await world.wait(lambda: has_topic(world.nodes[1]), timeout_ms=20_000, what="the broker is back")
        assert world.nodes[1].is_active
        term, leader_id = term_and_leader(world.nodes[0])
        assert leader_id in (0, 2)
        assert term > 2
        assert term_and_leader(world.nodes[1]) == (0, None)

    findings, log = run(main, seed=seed)
    assert not findings
    assert any("voter 1 came back with an empty disk" in line for line in log)


def test_a_node_that_starts_late_is_waited_for_by_name() -> None:
    async def main(world: World) -> None:
        world.nodes[0].start()
        await world.sleep_ms(LONG_MS)
        assert f"{NO_LEADER}: waiting for voters 1, 2 to appear for the first election" in reasons(world.nodes[0])
        world.nodes[2].start()
        await world.sleep_ms(LONG_MS)
        assert f"{NO_LEADER}: waiting for voter 1 to appear for the first election" in reasons(world.nodes[0])
        world.nodes[1].start()
        before_ms = world.now_ms
        await world.wait(
            lambda: all(machine.is_active for machine in world.nodes.values()),
            timeout_ms=5_000,
            what="all brokers active",
        )
        assert world.now_ms - before_ms < 2_000

    findings, _ = run(main)
    assert not findings


def test_all_disks_lost_is_a_new_cluster() -> None:
    async def main(world: World) -> None:
        await started_with_topic(world)
        lose_disks(world, 0, 1, 2)
        for machine in world.nodes.values():
            machine.start()
        await world.wait(
            lambda: all(machine.is_active for machine in world.nodes.values()),
            timeout_ms=20_000,
            what="all brokers active",
        )
        assert not any(has_topic(machine) for machine in world.nodes.values())

    run(main)  # Whoever remembers what no disk does finds a lot.


PLAN = Plan(
    faults=(
        Fault(1_000, FaultKind.CRASH, ("node:2",), {}, 3_000, 1),
        Fault(1_200, FaultKind.WIPE, ("node:0", "node:1"), {}, 800, 2),
    ),
    mode="beyond",
)
"""The two come back with empty disks while the third is still down."""


@pytest.mark.parametrize("seed", range(2))
def test_under_load_nothing_wrong_is_served_either(seed: int) -> None:
    result = run_seed(RunOptions(seed=seed, plan=PLAN, mode="beyond"))
    assert result.passed, result.findings
    assert result.probes["raft.founding.voter_with_new_disk"] == 2


def test_under_load_a_silent_reset_is_found() -> None:
    with WITHOUT_FOUNDING():
        result = run_seed(RunOptions(seed=0, plan=PLAN, mode="beyond"))
    assert result.findings
