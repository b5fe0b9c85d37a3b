"""Producer state of replicas, against the batch headers of their own logs read from the disk.

The headers are followed by `ProducerShadow`, a second implementation of the rule (the last five batches of the newest
producer epoch; KIP-98), so that an error in the product's is seen too. The same walk compares the log's epoch history
with the epochs of its batches (KAFKA-15608: a derived file must say what the log says).

Legal and therefore not reported: producers that expired or were evicted; batches before the log's start, which a
snapshot keeps when retention deletes them, and which a restart without a snapshot forgets.
"""

from __future__ import annotations

from logcluster.broker.partition import Partition
from logcluster.core.replication.producer_state import ProducerEntry
from logcluster.record.batch import BatchHeader
from logcluster.sim.invariants.context import Context, Seen, Watch
from logcluster.sim.invariants.history import Copy
from logcluster.sim.invariants.view import producer_entries


class Producers:
    """producer-state-mismatch, epoch-history-disorder."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def check(self, watch: Watch, seen: Seen, partition: Partition) -> None:
        """Read on to the log's end, and compare."""
        copy = seen.copy
        log = partition.log
        if copy.was_damaged or copy.excuse is not None:
            return
        walk = copy.shadow_walk
        while walk.next_offset is None or walk.next_offset < log.log_end_offset:
            header = walk.next()
            if header is None:
                break
            copy.shadow.note(header)
            self._check_epoch(watch, copy, partition, header)
        if walk.next_offset == log.log_end_offset:
            self._compare(watch, copy, partition)

    def _check_epoch(self, watch: Watch, copy: Copy, partition: Partition, header: BatchHeader) -> None:
        log = partition.log
        if header.base_offset < max(log.log_start_offset, copy.last_start_offset):
            return  # a log start that was not checkpointed before a crash goes back; the history need not
        known = log.leader_epochs.epoch_at(header.base_offset)
        if known != header.leader_epoch:
            self._context.report(
                "epoch-history-disorder",
                (copy.history.key, watch.node_id),
                f"{copy.history.name} on {watch.name}: batch at {header.base_offset} is of epoch "
                f"{header.leader_epoch}, the history says {known}: {log.leader_epochs}",
            )

    def _compare(self, watch: Watch, copy: Copy, partition: Partition) -> None:
        producers = partition.producers
        entries = producer_entries(producers)
        if producers.expired_count or producers.evicted_count:
            copy.has_forgotten_producers = True
        for producer_id, (epoch, batches) in copy.shadow.entries.items():
            entry = entries.get(producer_id)
            stored = [batch for batch in batches if batch[3] >= copy.log_start_offset]
            if entry is None:
                if stored and not copy.has_forgotten_producers:
                    self._report(watch, copy, producer_id, f"unknown, the log has epoch {epoch} {stored}")
                continue
            remembered = [tuple(batch) for batch in entry.batches]
            if stored and (entry.producer_epoch != epoch or not self._agree(copy, remembered, stored)):
                self._report(watch, copy, producer_id, f"{_text(entry)}, the log has epoch {epoch} {stored}")
        if partition.log.log_start_offset == 0:
            for producer_id in entries:
                if producer_id not in copy.shadow.entries:
                    self._report(watch, copy, producer_id, f"{_text(entries[producer_id])}, the log has nothing of it")

    @staticmethod
    def _agree(copy: Copy, remembered: list[tuple[int, ...]], stored: list[tuple[int, int, int, int, int]]) -> bool:
        """Whether both say the same of the newest batches, of which `stored` are those not deleted.

        A producer that expired begins with an empty memory; one whose first batches were deleted may still be known
        whole, from memory or from a snapshot, or not at all, after a restart without one.
        """
        if remembered == stored:
            return True
        common = min(len(remembered), len(stored))
        is_same = remembered[len(remembered) - common :] == stored[len(stored) - common :]
        if copy.has_forgotten_producers:
            return is_same
        return is_same and copy.log_start_offset > 0 and len(remembered) > common

    def _report(self, watch: Watch, copy: Copy, producer_id: int, detail: str) -> None:
        self._context.report(
            "producer-state-mismatch",
            (copy.history.key, watch.node_id),
            f"{copy.history.name} on {watch.name}: producer {producer_id} is {detail}",
        )


def _text(entry: ProducerEntry) -> str:
    return f"remembered with epoch {entry.producer_epoch} {[tuple(batch) for batch in entry.batches]}"
