"""Groups: a store that does not say what the log says, and a group in memory that is not in order, are found."""

from __future__ import annotations

from typing import Any

import pytest
from invariants_support import Scene, play

from logcluster.broker.coordinators.shard import Shard
from logcluster.model.ids import TopicPartition
from logcluster.sim.invariants.coordinators import Coordinators


async def commit(scene: Scene) -> None:
    """Let a group have offsets, and every broker take them over."""
    offsets = {TopicPartition("orders", 0): 3}
    await scene.administer(lambda client: client.admin.groups.alter_offsets("billing", offsets))
    await scene.world.wait(lambda: len(stores_in_step(scene)) == 3, timeout_ms=10_000, what="the standbys")


def shards(scene: Scene) -> list[Shard]:
    return [
        shard
        for machine in scene.world.nodes.values()
        for shard in scene.node(machine).groups.runtime.shards  # type: ignore[union-attr]
    ]


def stores_in_step(scene: Scene) -> list[Shard]:
    return [
        shard
        for shard in shards(scene)
        if shard.standby.position.key_count and shard.standby.position.next_offset == shard.partition.high_watermark
    ]


def findings(scene: Scene) -> list[str]:
    scene.invariants.check_at_rest()
    return [finding.name for finding in scene.invariants.findings]


def test_stores_that_say_what_the_log_says_are_compared_and_pass() -> None:
    async def act(scene: Scene) -> None:
        await commit(scene)
        assert findings(scene) == []
        coordinators: Coordinators = scene.invariants._coordinators
        assert coordinators.compared_count >= 3

    play(act)


@pytest.mark.parametrize("change", ["another value", "one more key", "a key is gone"])
def test_a_store_that_differs_is_found(change: str) -> None:
    async def act(scene: Scene) -> None:
        await commit(scene)
        shard = stores_in_step(scene)[0]
        store, key, position = shard.standby._store, shard.partition.topic_id_partition, shard.standby.position
        first, value = store.page(key, b"", count_max=1)[0]
        planted: Any = {
            "another value": (first, value + b"x"),
            "one more key": (first + b"x", value),
            "a key is gone": (first, None),
        }[change]
        store.apply(key, [planted], next_offset=position.next_offset, leader_epoch=position.leader_epoch)
        assert findings(scene) == ["coordinator-store-mismatch"]

    play(act)


def test_a_group_that_is_not_in_order_is_found() -> None:
    async def act(scene: Scene) -> None:
        await commit(scene)
        for shard in shards(scene):
            for held in shard.held.values():
                held.entity.unsettled.add("nobody")
        assert set(findings(scene)) == {"core-check"}

    play(act)
