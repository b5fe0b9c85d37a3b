"""Whole runs with faults that the product must survive: nothing is found, and watching changes nothing."""

from __future__ import annotations

import random

import pytest
from invariants_support import Scene, found, play

from logcluster.model.errors import LogClusterError
from logcluster.sim.invariants import Invariants
from logcluster.sim.invariants.view import hosted_partitions
from logcluster.sim.world import World, WorldOptions


async def trouble(scene: Scene, rng: random.Random, rounds: int) -> None:
    """One fault after the other, at random, with writes before each."""
    world = scene.world
    for _ in range(rounds):
        machine = world.nodes[rng.randrange(3)]
        write = scene.client_process.spawn(_write(scene), name="background")
        await world.sleep_ms(rng.randrange(20, 300))
        kind = rng.randrange(6)
        if kind == 0:
            machine.crash()
        elif kind == 1:
            for each in world.nodes.values():
                each.crash(power_loss=True)
        elif kind == 2:
            machine.pause()
            await world.sleep_ms(rng.randrange(100, 2_500))
            machine.resume()
        elif kind == 3:
            for other in world.nodes.values():
                if other is not machine:
                    world.cut(machine.name, other.name)
                    world.cut(other.name, machine.name)
            await world.sleep_ms(rng.randrange(100, 2_500))
        elif kind == 4:
            await machine.stop()
            machine.start()
        else:
            machine.crash(power_loss=True)
        world.heal_all()
        await world.wait(write.done, timeout_ms=60_000, what="writes")


async def _write(scene: Scene) -> None:
    async with scene.world.connect(scene.client_process) as client, client.producer(linger_ms=0) as producer:
        for number in range(10):
            try:
                await producer.send("orders", b"in trouble %d" % number)
            except LogClusterError:
                continue


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("flush_mode", ["sync", "async"])
def test_faults_within_the_promises_violate_nothing(seed: int, flush_mode: str) -> None:
    async def act(scene: Scene) -> None:
        await trouble(scene, scene.world.stream("trouble"), 6)
        await scene.world.wait(
            lambda: all(machine.is_active for machine in scene.world.nodes.values()), timeout_ms=30_000, what="recovery"
        )
        await scene.write(5)
        await scene.settle()
        scene.invariants.check_at_rest()
        assert scene.history.end_offset > 12
        assert scene.history.was_async == (flush_mode == "async")

    assert found(act, seed=seed, flush_mode=flush_mode) == []


def test_an_unclean_election_where_it_is_allowed_begins_the_history_anew() -> None:
    async def act(scene: Scene) -> None:
        machine = next(m for m in scene.world.nodes.values() if hosted_partitions(scene.node(m)))
        machine.keep_down = True
        machine.crash()
        machine.wipe()
        machine.start()
        await scene.settle()
        assert scene.history.is_tainted
        assert scene.history.end_offset == 0
        assert await scene.write(5) == 5
        scene.invariants.check_at_rest()
        assert scene.history.end_offset == 5

    assert found(act, replication_factor=1, unclean_leader_election_enable="true") == []


def test_watching_changes_nothing_in_the_world() -> None:
    def run(*, watched: bool) -> tuple[int, int]:
        world = World(3, WorldOptions())
        if watched:
            world.observers.append(Invariants(world))

        async def main() -> None:
            await world.start()
            world.nodes[1].crash(power_loss=True)
            await world.wait(lambda: world.nodes[1].is_active, timeout_ms=20_000, what="restart")

        world.run(main)
        return world.now_ms, sum(node.disk.counters.counts.get("read", 0) for node in world.nodes.values())

    assert run(watched=True) == run(watched=False)


def test_what_is_remembered_of_a_run() -> None:
    async def act(scene: Scene) -> None:
        assert scene.history.end_offset == 12
        assert scene.history.holders_required == 2
        assert scene.history.exposed_by_epoch == {0: 12}
        assert scene.history.start_by_epoch == {0: 0}
        for machine in scene.world.nodes.values():
            copy = scene.copy(machine)
            assert copy.held_to == 12
            assert copy.log_start_offset == 0

    assert play(act).invariants.findings == []
