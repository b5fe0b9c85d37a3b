"""A small simulated cluster with some committed records, in which a test plants one violation."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from logcluster.broker.partition import Partition
from logcluster.client.client import Client
from logcluster.core.metadata.records import MetadataRecord
from logcluster.core.raft.state import ReplicaState
from logcluster.core.replication.in_sync import LeaderSettings
from logcluster.core.replication.leader import LeaderState
from logcluster.model.errors import LogClusterError
from logcluster.node import Node
from logcluster.sim.disk import _FileNode
from logcluster.sim.invariants import Invariants
from logcluster.sim.invariants.history import Copy, PartitionHistory
from logcluster.sim.invariants.view import PartitionKey, _find, hosted_partitions, raft_state
from logcluster.sim.simulated_node import SimulatedNode
from logcluster.sim.world import World, WorldOptions
from logcluster.wire.records import encode_batch

Act = Callable[["Scene"], Coroutine[Any, Any, None]]
SETTINGS = {"broker.replica_lag_time_max_ms": 1_000}


class Scene:
    """What a test needs to find its way in the cluster; the topic is `orders`, with one partition."""

    def __init__(self, world: World, invariants: Invariants) -> None:
        self.world = world
        self.invariants = invariants
        self.context = invariants._context
        self.client_process = world.process("client")
        self.replication_factor = 3

    # -- where things are -----------------------------------------------------------------------------------------

    def node(self, machine: SimulatedNode) -> Node:
        assert machine.node is not None
        return machine.node

    def replica(self, machine: SimulatedNode) -> Partition:
        return next(iter(hosted_partitions(self.node(machine)).values()))

    def voter(self, machine: SimulatedNode) -> ReplicaState:
        state = raft_state(self.node(machine))
        assert state is not None
        return state

    @property
    def leader(self) -> SimulatedNode:
        return next(m for m in self.world.nodes.values() if self.replica(m).leader is not None)

    @property
    def followers(self) -> list[SimulatedNode]:
        return [m for m in self.world.nodes.values() if self.replica(m).leader is None]

    @property
    def controller(self) -> SimulatedNode:
        return next(m for m in self.world.nodes.values() if self.node(m).raft.is_leader)  # type: ignore[union-attr]

    @property
    def standbys(self) -> list[SimulatedNode]:
        return [m for m in self.world.nodes.values() if m is not self.controller]

    @property
    def key(self) -> PartitionKey:
        return next(iter(self.context.histories))

    @property
    def history(self) -> PartitionHistory:
        return self.context.histories[self.key]

    def copy(self, machine: SimulatedNode) -> Copy:
        copy = self.context.copy(self.key, machine.node_id)
        assert copy is not None
        return copy

    def segment(self, machine: SimulatedNode) -> _FileNode:
        """The first segment of the partition on a machine's disk, to be changed without anybody being told."""
        found = _find(machine.disk, f"{self.copy(machine).directory}/{0:020d}.log", durable=False)
        assert isinstance(found, _FileNode)
        return found

    # -- what can be done -----------------------------------------------------------------------------------------

    def look(self, machine: SimulatedNode) -> None:
        """As if a callback of the machine's node had just run."""
        self.invariants.after_event(machine.process)

    def forget_seen_high_watermark(self, machine: SimulatedNode) -> None:
        """Let the next look find that the high watermark has moved."""
        self.context.watches[machine.node_id].rows[0].high_watermark = 0

    def lead_in(self, machine: SimulatedNode, leader_epoch: int) -> LeaderState:
        """Make the machine's replica a leader, whatever the metadata says."""
        from dataclasses import replace

        partition = self.replica(machine)
        registration = self.context.image.partition(*self.key)
        assert registration is not None
        settings = LeaderSettings(
            local_broker_id=machine.node_id,
            local_broker_epoch=1,
            min_in_sync_replicas=2,
            replica_lag_time_ms_max=1_000,
            active_broker_epochs={},
        )
        leader = LeaderState(
            replace(registration, leader_id=machine.node_id, leader_epoch=leader_epoch),
            settings,
            log_end_offset=partition.log.log_end_offset,
            reported_offset=partition.log.log_end_offset,
            high_watermark=partition.high_watermark,
            now_ms=0,
        )
        partition.leader, partition.follower = leader, None
        return leader

    def commit(self, *records: MetadataRecord) -> None:
        """Let the independent replay see one more committed entry."""
        image = self.context.image
        self.invariants._metadata.replay(image.offset + 1, image.term, encode_batch(records))

    async def write(self, count: int) -> int:
        """Write records with acks=all; returns how many were acknowledged."""
        acknowledged = 0

        async def work() -> None:
            nonlocal acknowledged
            async with self.world.connect(self.client_process) as client, client.producer(linger_ms=0) as producer:
                for number in range(count):
                    try:
                        await producer.send("orders", b"value-%d" % number)
                        acknowledged += 1
                    except LogClusterError:
                        continue

        task = self.client_process.spawn(work(), name="write")
        await self.world.wait(task.done, timeout_ms=60_000, what="the writes")
        task.result()
        return acknowledged

    async def administer(self, work: Callable[[Client], Coroutine[Any, Any, object]]) -> None:
        async def run() -> None:
            async with self.world.connect(self.client_process) as client:
                await work(client)

        task = self.client_process.spawn(run(), name="admin")
        await self.world.wait(task.done, timeout_ms=60_000, what="the admin call")
        task.result()

    async def settle(self) -> None:
        """Wait until every node is active, in sync, and as far as its leader."""

        def is_settled() -> bool:
            if not all(machine.is_active for machine in self.world.nodes.values()):
                return False
            registration = self.context.image.partition(*self.key)
            if registration is None or len(registration.in_sync_replicas) < self.replication_factor:
                return False
            hosts = [m for m in self.world.nodes.values() if hosted_partitions(self.node(m))]
            return len({self.replica(m).high_watermark for m in hosts}) == 1

        await self.world.wait(is_settled, timeout_ms=30_000, what="a settled cluster")


def play(act: Act, *, seed: int = 1, count: int = 12, replication_factor: int = 3, **config: str) -> Scene:
    """Run a cluster with some committed records, then `act` in it; nothing may have been found before."""
    world = World(seed, WorldOptions(settings=SETTINGS))
    invariants = Invariants(world)
    world.observers.append(invariants)
    scene = Scene(world, invariants)
    scene.replication_factor = replication_factor

    async def main() -> None:
        await world.start()
        settings = {name.replace("_", "."): value for name, value in config.items()}
        await scene.administer(
            lambda client: client.admin.create_topic(
                "orders", partitions=1, replication_factor=replication_factor, config=settings
            )
        )
        assert await scene.write(count) == count
        await scene.settle()
        invariants.at_checkpoint()
        assert invariants.findings == []
        await act(scene)

    world.run(main)
    return scene


def found(act: Act, **options: Any) -> list[str]:
    """Names of what was found after `act`, which did not fire before it."""
    return [finding.name for finding in play(act, **options).invariants.findings]
