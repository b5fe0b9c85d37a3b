"""Whether what was exposed stays on disks: counted over the bytes that a power cut would leave, nodes up or down.

With `flush.mode=sync` the durable bytes count, each batch with its checksum; a partition that ever had `async` only
promises page caches, and a copy that lost power then is excused. A copy whose disk was replaced or damaged on purpose
counts as a holder until it has caught up: what the fault took is the fault plan's to answer for, and the plan keeps
within RF - min.insync.replicas copies. Promise P1; reliability rules after Jepsen's NATS 2.12.1 and Kafka's KIP-966.
"""

from __future__ import annotations

from functools import partial

from logcluster.sim.invariants.context import Context
from logcluster.sim.invariants.history import Copy, PartitionHistory
from logcluster.sim.invariants.view import NodeView, damaged_logs, watch_damage, watch_io_faults

WIPED = "its disk was replaced"
DAMAGED = "its files were damaged on purpose"
SET_ASIDE = "its log was set aside"
REFETCHED = "its log is being fetched again"
POWERLESS = "it lost power with flush.mode=async"
RETENTION_KEYS = {"retention.ms", "retention.bytes"}


class Durability:
    """durability-gap, restart-lost-records; also keeps the copies in line with the machines' disks."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._disks: dict[int, object] = {}
        self._has_failing_disk: dict[int, None] = {}

    # -- disks ----------------------------------------------------------------------------------------------------

    def follow_disks(self) -> None:
        """Notice replaced disks."""
        for machine in self._context.world.nodes.values():
            disk = machine.disk
            node_id = machine.node_id
            if self._disks.get(node_id) is disk:
                continue
            is_replaced = node_id in self._disks
            self._disks[node_id] = disk
            watch_damage(disk, partial(self.note_damage, node_id))
            watch_io_faults(disk, partial(self.note_io_fault, node_id))
            if is_replaced:
                for copy in self._context.copies_on(node_id):
                    copy.was_damaged = False
                    reported_to = copy.log_end_offset
                    copy.begin(disk, copy.directory)
                    copy.forgive(WIPED, below=reported_to)

    def note_damage(self, node_id: int, path: str) -> None:
        """A file of a node is damaged on purpose; damage to files that can be rebuilt excuses nothing."""
        if not path.endswith(".log"):
            return
        for copy in self._context.copies_on(node_id):
            if path.startswith(copy.directory + "/"):
                copy.look_again()
                copy.was_damaged = True
                copy.forgive(DAMAGED, below=copy.log_end_offset)

    def note_io_fault(self, node_id: int) -> None:
        """Operations of a node's disk fail on purpose: it may set logs aside that it cannot read."""
        self._has_failing_disk[node_id] = None

    def note_set_aside(self, machine: NodeView) -> None:
        """The node has set logs aside; without damage or failing reads it had no reason to.

        A read error (EIO) makes a log count as damaged too, so a node whose disk was told to fail is not judged.
        """
        node = machine.node
        assert node is not None
        for key, error in damaged_logs(node).items():
            copy = self._context.copy(key, machine.node_id)
            if copy is None or copy.excuse == SET_ASIDE:
                continue
            if not copy.was_damaged and copy.excuse is None and machine.node_id not in self._has_failing_disk:
                self._context.report(
                    "restart-lost-records",
                    (key, machine.node_id),
                    f"{copy.history.name}: {machine.name} set its log aside, undamaged: {error.message}",
                )
            copy.forgive(SET_ASIDE)

    # -- who holds what -------------------------------------------------------------------------------------------

    def reach(self, copy: Copy, limit: int) -> int:
        """Below which offset, up to `limit`, the copy holds what was committed; ends its excuse when that is all.

        Deleted records count as held, but end no excuse: damage among them hides what is written behind it. A log that
        was set aside is about to be replaced by an empty one, whatever is in its files.
        """
        history = copy.history
        if history.was_async:
            copy.look(limit)
            reach, seen_to = copy.held_to, copy.matched_to
        else:
            reach = copy.look_durable(limit)
            seen_to = copy.durable_to
        if (
            copy.excuse not in {None, SET_ASIDE}
            and seen_to >= limit >= max(history.end_offset, copy.excused_below)
            and limit > 0
            and (copy.excused_broker_epoch is None or copy.excused_broker_epoch != self._broker_epoch(copy.node_id))
        ):
            copy.excuse = None
        return reach

    def _broker_epoch(self, node_id: int) -> int | None:
        """Of the node's committed registration."""
        broker = self._context.image.brokers.get(node_id)
        return None if broker is None else broker.broker_epoch

    def is_held(self, copy: Copy, limit: int) -> bool:
        """Whether the copy holds everything below `limit`, or is excused."""
        return self.reach(copy, limit) >= limit or copy.excuse is not None

    def check_all(self) -> None:
        """Count the holders of every partition; a deleted topic has none, and needs none."""
        for key, history in self._context.histories.items():
            if history.holders_required and not history.is_tainted and key.topic_id in self._context.image.topics:
                self._check_holders(history)

    def _check_holders(self, history: PartitionHistory) -> None:
        copies = self._context.copies.get(history.key, {})
        end = history.end_offset
        if sum(1 for copy in copies.values() if self.is_held(copy, end)) >= history.holders_required:
            return
        held = {copy.node_id: copy.excuse or self.reach(copy, end) for copy in copies.values()}
        self._context.report(
            "durability-gap",
            history.key,
            f"{history.name}: committed to {end}, wanted on {history.holders_required} disks, held: {held}",
        )

    def _note_retention(self, copy: Copy) -> None:
        """A process that died while it deleted old segments had not told anybody yet where the log begins now."""
        first = copy.visible.first_base_offset()
        if first is not None and copy.last_start_offset < first <= copy.history.exposed_to:
            copy.last_start_offset = first

    # -- stops and starts -----------------------------------------------------------------------------------------

    def on_node_down(self, machine: NodeView, *, power_loss: bool) -> None:
        """After a power cut the disk is read again from the beginning; page caches are gone, so that is excused.

        The leader may go on to commit what the process had reported from its page cache, until the controller knows of
        the next process.
        """
        for copy in self._context.copies_on(machine.node_id):
            copy.leave()
            if power_loss:
                copy.look_again()
                if copy.history.was_async:
                    copy.held_at_stop = 0
                    copy.forgive(POWERLESS, broker_epoch=self._broker_epoch(machine.node_id))

    def on_node_running(self, machine: NodeView) -> None:
        """The node has recovered its logs: whatever was durable before must be so again.

        Its memory is not asked, only its files: a log that recovery cut too far, or removed, is shorter there. Files
        of deleted topics may be gone; they are not looked at, once the deletion is committed.
        """
        node = machine.node
        if node is not None and damaged_logs(node):
            self.note_set_aside(machine)
        for copy in self._context.copies_on(machine.node_id):
            copy.look_again()
            topic = self._context.image.topics.get(copy.history.key.topic_id)
            if copy.history.is_tainted or topic is None:
                continue
            if RETENTION_KEYS & topic.config.keys():
                self._note_retention(copy)
            before = copy.held_at_stop
            reach = self.reach(copy, before)
            if reach < before and copy.excuse is None:
                self._context.report(
                    "restart-lost-records",
                    (copy.history.key, machine.node_id),
                    f"{copy.history.name}: {machine.name} held [0, {before}) before it stopped, after its start "
                    f"only [0, {reach})",
                )
