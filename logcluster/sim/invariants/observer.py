"""All invariants as one observer of a world: after every event it looks at the one process that ran, for changes.

What is looked at per event is a handful of attributes per hosted replica; whatever changed is handed to the invariants
it concerns. What is expensive runs at checkpoints, when a node starts, and when one stops.
"""

from __future__ import annotations

from collections.abc import Callable

from logcluster.broker.partition import Partition
from logcluster.sim.findings import Finding
from logcluster.sim.invariants.context import Context, Seen, Watch
from logcluster.sim.invariants.coordinators import Coordinators
from logcluster.sim.invariants.durability import REFETCHED, SET_ASIDE, Durability
from logcluster.sim.invariants.election import Election
from logcluster.sim.invariants.metadata import Metadata
from logcluster.sim.invariants.producers import Producers
from logcluster.sim.invariants.quorum import Quorum
from logcluster.sim.invariants.replication import Replication
from logcluster.sim.invariants.storage import Storage
from logcluster.sim.invariants.view import (
    NodeView,
    PartitionKey,
    WorldView,
    damaged_logs,
    raft_state,
    reign_of,
)


class Invariants:
    """Implements `world.Observer`; made before the world runs.

    Args:
        world: read only, except that a listener is put in front of the methods that damage disks.
        on_finding: told of every violation at once, within the event that caused it; may raise, to end the run.
    """

    def __init__(self, world: WorldView, on_finding: Callable[[Finding], None] = lambda finding: None) -> None:
        context = self._context = Context(world, on_finding)
        self._world = world
        self._durability = Durability(context)
        self._replication = Replication(context, self._durability)
        self._election = Election(context)
        self._metadata = Metadata(context, self._durability, self._election)
        self._quorum = Quorum(context, self._metadata)
        self._producers = Producers(context)
        self._storage = Storage(context)
        self._coordinators = Coordinators(context)
        self._machines: dict[str, NodeView] = {machine.name: machine for machine in world.nodes.values()}
        self._watches = context.watches
        self._durability.follow_disks()

    @property
    def findings(self) -> list[Finding]:
        """Everything found so far, in order."""
        return self._context.findings

    def note_damage(self, node_id: int, path: str) -> None:
        """A file of a node was damaged by other means than the methods of `SimulatedDisk`."""
        self._durability.note_damage(node_id, path)

    # -- Observer -------------------------------------------------------------------------------------------------

    def after_event(self, process: object | None) -> None:
        """Look at the node whose process has just run a callback."""
        machine = self._machines.get(getattr(process, "name", ""))
        if machine is None or machine.process is not process:
            return
        watch = self._watches.get(machine.node_id)
        if watch is None or watch.process is not process:
            return  # it is starting: nothing of it is complete yet
        raft = watch.raft
        if raft is not None and (
            raft.commit_index != watch.commit_index
            or raft.role is not watch.role
            or raft.hard_state is not watch.hard_state
        ):
            self._quorum.on_change(watch, raft)
        node = watch.node
        if len(node.logs.quarantined) != watch.damaged_count:
            watch.damaged_count = len(node.logs.quarantined)
            self._durability.note_set_aside(machine)
        hosted, rows = watch.hosted, watch.rows
        if len(hosted) != len(rows):
            rows = self._align(watch)
        for partition, row in zip(hosted.values(), rows, strict=True):
            if partition is not row.partition:
                self._align(watch)
                break
            if (
                partition.high_watermark != row.high_watermark
                or row.log.log_end_offset != row.log_end_offset
                or partition.leader is not row.leader
                or partition.follower is not row.follower
            ):
                self._changed(watch, row, partition)
        if node.loader.image is not watch.image:
            self._on_broker_image(watch)
        controller = node.controller
        if controller is not None and (
            controller.committed is not watch.committed or reign_of(node) is not watch.reign
        ):
            self._on_controller(watch)

    def on_node_running(self, node: NodeView) -> None:
        """A process of a node has come up: from here on it is looked at."""
        running = node.node
        if running is None:
            return
        self._durability.follow_disks()
        self._durability.on_node_running(node)
        watch = self._watches[node.node_id] = Watch(node, running, raft_state(running))
        watch.damaged_count = len(damaged_logs(running))
        self.after_event(node.process)

    def on_node_down(self, node: NodeView, *, power_loss: bool) -> None:
        """A process of a node has gone; its disk is about to forget what it may."""
        self._watches.pop(node.node_id, None)
        self._durability.on_node_down(node, power_loss=power_loss)

    def at_checkpoint(self) -> None:
        """Look at everything."""
        self._durability.follow_disks()
        for watch in list(self._watches.values()):
            self._storage.check_node(watch)
            self._coordinators.check_node(watch)
            for row in self._align(watch):
                self._look_closely(watch, row, row.partition)
        self._durability.check_all()

    def check_at_rest(self) -> list[Finding]:
        """At the end of a run, when faults are healed and replicas had time to catch up.

        Returns what is found now; `on_finding` is told of it too.
        """
        known = len(self.findings)
        self.at_checkpoint()
        self._storage.check_at_rest()
        self._coordinators.check_at_rest()
        return self.findings[known:]

    # -- changes --------------------------------------------------------------------------------------------------

    def _align(self, watch: Watch) -> list[Seen]:
        """Other replicas are hosted than before: forget those that are gone, begin with those that are new."""
        known = {row.partition.topic_id_partition: row for row in watch.rows}
        watch.rows = []
        for key, partition in watch.hosted.items():
            row = known.get(key)
            watch.rows.append(
                row if row is not None and row.partition is partition else self._begin(watch, key, partition)
            )
        return watch.rows

    def _begin(self, watch: Watch, key: PartitionKey, partition: Partition) -> Seen:
        copy, is_new = self._context.adopt(watch, key, partition)
        if copy.excuse == SET_ASIDE and not is_new:
            copy.was_damaged = False
            copy.begin(watch.machine.disk, partition.log.directory)
            copy.forgive(REFETCHED)
        seen = Seen(partition, copy)
        copy.log = partition.log
        if partition.log.log_end_offset < copy.durable_to and copy.excuse is None and not copy.history.is_tainted:
            self._context.report(
                "restart-lost-records",
                (key, watch.node_id),
                f"{partition.topic_partition}: the log of {watch.name} ends at {partition.log.log_end_offset}, on its "
                f"disk are committed records up to {copy.durable_to}",
            )
        self._changed(watch, seen, partition)
        return seen

    def _changed(self, watch: Watch, seen: Seen, partition: Partition) -> None:
        """Something of a replica is not as it was; order matters: first what was lost, then who leads, then how far."""
        log_end_offset = partition.log.log_end_offset
        if log_end_offset < seen.log_end_offset:
            self._replication.on_truncated(watch, seen, partition)
        if partition.leader is not seen.leader or partition.follower is not seen.follower:
            self._election.on_role(watch, seen, partition)
            if partition.leader is not None:
                self._producers.check(watch, seen, partition)
            self._storage.check_partition(watch, partition)
        if (
            partition.high_watermark != seen.high_watermark
            or partition.leader is not seen.leader
            or log_end_offset < seen.log_end_offset
        ):
            self._replication.on_high_watermark(watch, seen, partition)
        self._replication.check_bounds(watch, seen, partition)
        seen.high_watermark = partition.high_watermark
        seen.log_end_offset = log_end_offset
        seen.leader = partition.leader
        seen.follower = partition.follower

    def _on_broker_image(self, watch: Watch) -> None:
        before, image = watch.image, watch.node.loader.image
        watch.image = image
        self._metadata.on_image(watch, before, image, "broker")
        self._metadata.check_topics(watch, image)

    def _on_controller(self, watch: Watch) -> None:
        controller = watch.node.controller
        assert controller is not None
        before, committed = watch.committed, controller.committed
        if committed is not before:
            watch.committed = committed
            self._metadata.on_image(watch, before, committed, "controller")
        reign = reign_of(watch.node)
        if reign is not watch.reign:
            watch.reign = reign
            if reign is not None:
                self._election.on_reign(watch, reign)

    def _look_closely(self, watch: Watch, seen: Seen, partition: Partition) -> None:
        copy = seen.copy
        self._context.note_flush_mode(copy.history, partition)
        if partition.leader is not None:
            self._replication.check_maximal_set(watch, copy, partition.leader)
        self._storage.check_partition(watch, partition)
        if partition.log.failure is None:
            self._producers.check(watch, seen, partition)
        if partition.leader is None:
            self._replication.check_follower(watch, copy, partition)
