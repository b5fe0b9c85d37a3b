"""Plans carried out in a world of whole nodes: faults strike when and whom they should, and everything is undone."""

import random
from collections.abc import Callable
from typing import Any

import pytest

from logcluster.client.client import Client
from logcluster.model.errors import LogClusterError
from logcluster.sim.faults.atlas import Atlas, DamageClass
from logcluster.sim.faults.injector import ACTIONS, Injector
from logcluster.sim.faults.kinds import KINDS, FaultKind
from logcluster.sim.faults.plan import Fault, Plan
from logcluster.sim.timeline import TimelineEntry
from logcluster.sim.world import World, WorldOptions

SETTINGS = {"data.checkpoint_interval_ms": 200, "broker.session_timeout_ms": 1_000}


class Stage:
    """A world with a topic, a client that writes to it all the time, and an injector."""

    def __init__(
        self, *faults: Fault, duration_ms: int = 3_000, damaged_nodes_max: int | None = 1, seed: int = 1
    ) -> None:
        self.world = World(seed, WorldOptions(brokers=3, settings=SETTINGS))
        self.plan = Plan(faults=faults, duration_ms=duration_ms)
        self.atlas = Atlas(range(3), damaged_nodes_max=damaged_nodes_max)
        self.client = self.world.process("client-1")
        self.injector = Injector(self.world, self.plan, self.atlas, lambda: ["client-1"], self.world.stream("faults"))
        self.seen: dict[str, Any] = {}
        self.acked = 0

    def run(self, look: Callable[["Stage", int], None] | None = None, *, every_ms: int = 10) -> "Stage":
        """Run the plan; `look` is told the time since it began."""

        async def watch() -> None:
            begin_ms = self.world.now_ms
            while look is not None:
                look(self, self.world.now_ms - begin_ms)
                await self.world.sleep_ms(every_ms)

        async def main() -> None:
            await self.world.start()
            await self.client.spawn(self._create(), name="create")
            self.client.spawn(self._write(), name="write")
            await self.world.sleep_ms(600)
            watching = self.world.driver.spawn(watch(), name="watch")
            await self.injector.run()
            watching.cancel()
            await self.world.wait(self.is_well, timeout_ms=20_000, what="all replicas in sync")

        self.world.run(main)
        return self

    def is_well(self) -> bool:
        return self.injector._tools.view.is_fully_in_sync()

    async def _create(self) -> None:
        async with self.world.connect(self.client) as client:
            await client.admin.create_topic("t", partitions=2, replication_factor=3)

    async def _write(self) -> None:
        async with self.world.connect(self.client) as client:
            while True:
                await self._write_some(client)

    async def _write_some(self, client: Client) -> None:
        try:
            async with client.producer() as producer:
                while True:
                    await producer.send("t", b"v" * 200, partition=self.acked % 2)
                    self.acked += 1
                    await self.client.clock.sleep_ms(15)
        except LogClusterError:
            await self.client.clock.sleep_ms(20)

    def notes(self, kind: str) -> list[TimelineEntry]:
        return [entry for entry in self.world.timeline.entries if entry.kind == kind]


def fault(
    kind: FaultKind, *targets: str, at_ms: int = 100, duration_ms: int = 500, number: int = 1, **arguments: Any
) -> Fault:
    return Fault(at_ms, kind, targets, arguments, duration_ms if KINDS[kind].lasts else 0, number)


def test_every_kind_has_an_action() -> None:
    assert set(ACTIONS) == set(FaultKind)


@pytest.mark.parametrize("kind", [kind for kind in FaultKind if kind is not FaultKind.FAILPOINT])
def test_each_kind_strikes_and_the_cluster_recovers(kind: FaultKind) -> None:
    targets = ("node:1", "node:2") if KINDS[kind].targets_min == 2 else ("node:1",) if KINDS[kind].targets_min else ()
    arguments = {"file": "epochs"} if kind is FaultKind.DERIVED_DAMAGE else {}
    stage = Stage(fault(kind, *targets, duration_ms=300, **arguments), duration_ms=900).run()
    assert stage.injector.applied == [1], stage.injector.skipped
    assert stage.injector.statistics()["faults"] == {kind.value: 1}
    assert stage.acked > 20
    assert len(stage.notes("fault")) == 1
    assert len(stage.notes("healed")) == 1
    assert all(not link.is_cut for link in stage.world.network._links.values())


def test_the_same_seed_and_plan_give_the_same_run() -> None:
    faults = (fault(FaultKind.POWER_LOSS, "leader"), fault(FaultKind.BIT_FLIP, "random", at_ms=800, number=2))
    first, second = Stage(*faults, seed=7).run(), Stage(*faults, seed=7).run()
    assert first.world.loop.trace_hash() == second.world.loop.trace_hash()


def test_faults_begin_and_end_at_their_times() -> None:
    def look(stage: Stage, at_ms: int) -> None:
        if stage.world.nodes[1].state == "down":
            stage.seen.setdefault("from", at_ms)
            stage.seen["until"] = at_ms

    stage = Stage(fault(FaultKind.CRASH, "node:1", at_ms=300, duration_ms=700)).run(look)
    assert 300 <= stage.seen["from"] <= 320
    assert 980 <= stage.seen["until"] <= 1_000


def test_leader_is_bound_when_the_fault_strikes() -> None:
    def look(stage: Stage, at_ms: int) -> None:
        if at_ms < 1_000:
            stage.seen["leader"] = dict(stage.injector._tools.view.partitions())["t-0"].leader_id

    stage = Stage(
        fault(FaultKind.CRASH, "leader:t-0", at_ms=50, duration_ms=2_000),
        fault(FaultKind.PAUSE, "leader:t-0", at_ms=1_000, duration_ms=100, number=2),
    ).run(look)
    first, second = (entry.facts["nodes"] for entry in stage.notes("fault"))
    assert first != second
    assert second == [stage.seen["leader"]]


@pytest.mark.parametrize("clients", [False, True])
def test_isolation_cuts_both_ways_and_clients_only_if_told(clients: bool) -> None:
    def look(stage: Stage, at_ms: int) -> None:
        if 100 < at_ms < 600:
            link = stage.world.network.link
            assert link("node-1", "node-0").is_cut
            assert link("node-2", "node-1").is_cut
            assert not link("node-0", "node-2").is_cut
            assert link("client-1", "node-1").is_cut == link("node-1", "client-1").is_cut == clients
            stage.seen["looked"] = True

    assert Stage(fault(FaultKind.ISOLATE, "node:1", clients=clients)).run(look).seen["looked"]


@pytest.mark.parametrize(("direction", "cut", "open_link"), [("out", (1, 0), (0, 1)), ("in", (0, 1), (1, 0))])
def test_one_way_cuts_leave_the_other_way_open(
    direction: str, cut: tuple[int, int], open_link: tuple[int, int]
) -> None:
    def look(stage: Stage, at_ms: int) -> None:
        if 100 < at_ms < 600:
            link = stage.world.network.link
            assert link(*(f"node-{node_id}" for node_id in cut)).is_cut
            assert not link(*(f"node-{node_id}" for node_id in open_link)).is_cut
            stage.seen["looked"] = True

    assert Stage(fault(FaultKind.ISOLATE_ONE_WAY, "node:1", direction=direction)).run(look).seen["looked"]


def test_swizzled_nodes_are_cut_and_healed_one_by_one() -> None:
    counts: list[int] = []

    def look(stage: Stage, _at_ms: int) -> None:
        counts.append(sum(link.is_cut for link in stage.world.network._links.values()))

    stage = Stage(fault(FaultKind.SWIZZLE, duration_ms=1_000, nodes=2)).run(look)
    assert [count for index, count in enumerate(counts) if index == 0 or counts[index - 1] != count] in (
        [0, 4, 6, 2, 0],
        [0, 4, 6, 4, 0],
    )
    assert len(stage.notes("swizzle_cut")) == len(stage.notes("swizzle_heal")) == 2


def test_overlapping_faults_of_one_node_nest() -> None:
    def look(stage: Stage, at_ms: int) -> None:
        if 310 < at_ms < 1_290:
            assert stage.world.nodes[1].state == "down", at_ms

    Stage(
        fault(FaultKind.CRASH, "node:1", at_ms=300, duration_ms=500),
        fault(FaultKind.POWER_LOSS, "node:1", at_ms=600, duration_ms=700, number=2),
    ).run(look)


def test_what_the_atlas_refuses_is_skipped_noted_and_counted() -> None:
    stage = Stage(
        fault(FaultKind.WIPE, "node:1", at_ms=100),
        fault(FaultKind.WIPE, "node:2", at_ms=150, number=2),
        fault(FaultKind.BIT_FLIP, "node:0", at_ms=200, number=3),
    ).run()
    assert stage.injector.applied == [1]
    assert sorted(stage.injector.skipped) == [2, 3]
    assert all("atlas" in why for why in stage.injector.skipped.values())
    assert stage.injector.statistics()["faults_skipped"] == {"wipe": 1, "bit-flip": 1}
    assert [entry.facts["number"] for entry in stage.notes("fault_skipped")] == [2, 3]


def test_a_target_that_does_not_exist_is_skipped() -> None:
    stage = Stage(fault(FaultKind.CRASH, "leader:nothing-0")).run()
    assert list(stage.injector.skipped) == [1]


def test_the_next_node_may_be_damaged_after_the_repair_of_the_first() -> None:
    stage = Stage(
        fault(FaultKind.SYNC_ERROR, "node:1", at_ms=100, duration_ms=300),
        fault(FaultKind.SYNC_ERROR, "node:2", at_ms=2_900, duration_ms=50, number=2),
    ).run()
    assert stage.injector.applied == [1, 2], stage.injector.skipped
    assert next(entry.facts["node"] for entry in stage.notes("damage_repaired")) == 1


def test_a_wiped_node_comes_back_with_another_disk_and_is_repaired() -> None:
    ids: list[bytes] = []

    def look(stage: Stage, _at_ms: int) -> None:
        node = stage.injector._tools.view.running(1)
        if node is not None and node.logs.identity.directory_id not in ids:
            ids.append(node.logs.identity.directory_id)

    stage = Stage(fault(FaultKind.WIPE, "node:1", duration_ms=50)).run(look)
    assert len(ids) == 2
    assert stage.atlas.lost_voter_ids == [1]
    stage.injector._tools.refresh_atlas()
    assert stage.atlas.outstanding == ()


def test_beyond_the_promises_all_may_be_damaged() -> None:
    stage = Stage(fault(FaultKind.BIT_FLIP, "all"), damaged_nodes_max=None)

    async def main() -> None:
        await stage.world.start()
        await stage.client.spawn(stage._create(), name="create")
        stage.client.spawn(stage._write(), name="write")
        await stage.world.sleep_ms(600)
        await stage.injector.run()

    stage.world.run(main)
    assert [damage.node_id for damage in stage.atlas.history] == [0, 1, 2]


@pytest.mark.parametrize("kind", [FaultKind.WRITE_ERROR, FaultKind.SYNC_ERROR, FaultKind.DISK_FULL])
@pytest.mark.parametrize("repair", ["process", "machine", "disk"])
def test_a_stopped_log_directory_is_repaired(kind: FaultKind, repair: str) -> None:
    arguments = {} if kind is FaultKind.DISK_FULL else {"repair": repair}
    stage = Stage(fault(kind, "node:1", duration_ms=400, **arguments)).run()
    (entry,) = stage.notes("repair")
    assert entry.facts["by"] == ("process" if kind is FaultKind.DISK_FULL else repair)
    lost = [damage for damage in stage.atlas.history if damage.damage_class is DamageClass.DISK_LOST]
    assert bool(lost) == (entry.facts["by"] == "disk")


def test_an_armed_failpoint_kills_its_node_in_the_middle_and_it_returns() -> None:
    stage = Stage(
        fault(
            FaultKind.FAILPOINT,
            "node:1",
            duration_ms=1_500,
            name="storage.log.append.after_write",
            hit=3,
            down_ms=100,
            power_loss=True,
        )
    ).run()
    assert [entry.facts["node"] for entry in stage.notes("failpoint_struck")] == [1]
    assert stage.injector.statistics()["failpoints"] == {"storage.log.append.after_write": 1}
    assert [entry.facts["node"] for entry in stage.notes("power_loss")] == ["node-1"]
    assert not stage.notes("unexpected")


def test_a_failpoint_that_nobody_hits_is_noted() -> None:
    stage = Stage(
        fault(FaultKind.FAILPOINT, "node:1", name="storage.log.append.after_write", hit=900_000, duration_ms=300)
    ).run()
    assert len(stage.notes("failpoint_not_hit")) == 1


def test_everything_is_healed_when_the_plan_is_cut_short() -> None:
    stage = Stage(
        fault(FaultKind.PAUSE, "node:0", at_ms=100, duration_ms=5_000, number=1),
        fault(FaultKind.CRASH, "node:1", at_ms=100, duration_ms=5_000, number=2),
        fault(FaultKind.ISOLATE, "node:2", at_ms=100, duration_ms=5_000, number=3),
        fault(FaultKind.DISK_FULL, "node:2", at_ms=100, duration_ms=5_000, number=4),
        fault(FaultKind.CLOCK_JUMP, "node:2", at_ms=100, number=5, jump_ms=700),
        fault(FaultKind.STORE_ERROR, "node:2", at_ms=150, duration_ms=5_000, number=6),
        duration_ms=1_000,
    ).run()
    assert stage.world.nodes[2].clock.skew_ms == 0
    assert stage.world.nodes[2].disk.capacity_bytes is None


def test_leaving_a_fault_out_leaves_the_choices_of_the_others_alone() -> None:
    def bound(*faults: Fault) -> dict[object, object]:
        stage = Stage(*faults, duration_ms=500, seed=3).run()
        return {entry.facts["number"]: entry.facts["nodes"] for entry in stage.notes("fault")}

    faults = [fault(FaultKind.CLOCK_JUMP, "random", at_ms=100 + number, number=number) for number in range(8)]
    whole, part = bound(*faults), bound(*faults[3:])
    assert part == {number: nodes for number, nodes in whole.items() if number in part}
    assert len({str(nodes) for nodes in whole.values()}) > 1


def test_a_draw_is_from_the_rng_that_was_given() -> None:
    stage = Stage()
    other = Injector(stage.world, stage.plan, stage.atlas, list, random.Random(99))
    assert other._stream_seed != stage.injector._stream_seed
    stage.world.loop.close()
