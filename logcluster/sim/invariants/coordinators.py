"""What brokers keep of groups: every group in memory checks itself, and the standby stores say what the log says.

A store is filled piece by piece and thrown away when it is not believed; here it is compared with one plain replay of
the log as it lies on the same broker's disk. A store that has not come to the high watermark yet is not compared.
"""

from __future__ import annotations

from logcluster.broker.coordinators.shard import Shard
from logcluster.broker.coordinators.standby import BARRIER_KEY
from logcluster.model.invariants import InvariantViolation
from logcluster.record.batch import decode_records
from logcluster.sim.invariants.context import Context, Watch
from logcluster.sim.invariants.stored_log import StoredLogWalk
from logcluster.sim.invariants.view import log_failure


class Coordinators:
    """core-check (of groups), coordinator-store-mismatch."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self.compared_count = 0
        """How many stores were compared with their logs."""

    def check_node(self, watch: Watch) -> None:
        """Every group that a leader holds in memory."""
        groups = watch.node.groups
        if groups is None:
            return
        for shard in groups.runtime.shards:
            try:
                shard.check()
            except InvariantViolation as violation:
                subject = f"{shard.partition.topic_partition} on {watch.name}"
                self._context.report("core-check", subject, f"{subject}: {violation}")

    def check_at_rest(self) -> None:
        """Every store that has taken over all that is committed."""
        for watch in self._context.watches.values():
            groups = watch.node.groups
            for shard in () if groups is None else groups.runtime.shards:
                self._compare(watch, shard)

    def _compare(self, watch: Watch, shard: Shard) -> None:
        partition, key = shard.partition, shard.partition.topic_id_partition
        copy = self._context.copy(key, watch.node_id)
        position = shard.standby.position
        if copy is None or copy.was_damaged or copy.excuse is not None or log_failure(partition) is not None:
            return
        if position.next_offset != partition.high_watermark:
            return
        assert watch.node.groups is not None
        store = watch.node.groups.runtime.store
        held = dict(store.read(key, b""))
        walk = StoredLogWalk(copy.disk, copy.directory, durable=False)
        expected: dict[bytes, bytes] = {}
        while walk.next_offset is None or walk.next_offset < position.next_offset:
            header = walk.next()
            if header is None:
                return  # damage that nobody has read yet
            if header.is_control:
                continue
            for record in decode_records(walk.bytes_of_last(), check_crc=False):
                if record.offset < partition.log.log_start_offset or record.key is None:
                    continue
                if record.value is None:
                    expected.pop(record.key, None)
                elif not record.key.startswith(BARRIER_KEY):
                    expected[record.key] = record.value
        self.compared_count += 1
        wrong = sorted(name for name in {*held, *expected} if held.get(name) != expected.get(name))
        if wrong or position.key_count != len(expected):
            self._context.report(
                "coordinator-store-mismatch",
                (key, watch.node_id),
                f"{partition.topic_partition} on {watch.name}: at offset {position.next_offset} {len(wrong)} of "
                f"{len(expected)} keys differ from the log, the first is {wrong[:1]}; counted {position.key_count}",
            )
