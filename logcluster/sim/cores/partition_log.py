"""One replica's log as plain values: batches, what of them is on disk, epochs and producer snapshots derived from them.

It behaves as `storage.log` promises: appends go to memory, a flush makes a prefix durable, a crash of the process keeps
what was appended, a power loss keeps what was flushed and some prefix of the rest, a truncation is durable at once and
takes epochs and snapshots along, and a start rebuilds both from the batches.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from typing import NamedTuple

from logcluster.core.replication.producer_state import ProducerStates
from logcluster.model.epochs import LeaderEpochHistory
from logcluster.model.invariants import InvariantViolation

BATCHES_PER_SEGMENT = 7
"""A segment begins after so many batches, and with it a producer snapshot."""


class Batch(NamedTuple):
    """One record batch; `value` names its content, unique in the run. A producer id below 0 means none."""

    base_offset: int
    record_count: int
    leader_epoch: int
    producer_id: int
    base_sequence: int
    value: int

    @property
    def next_offset(self) -> int:
        return self.base_offset + self.record_count


class SimulatedLog:
    """The log of one replica; outlives its process."""

    def __init__(self) -> None:
        self.batches: list[Batch] = []
        self._bases: list[int] = []
        self.log_start_offset = 0
        self.log_end_offset = 0
        self.flushed_offset = 0
        self.epochs = LeaderEpochHistory()
        self.snapshots: list[tuple[int, bytes]] = []
        self.stored_high_watermark = 0
        self.clean_broker_epoch: int | None = None
        """The clean-shutdown marker; a start takes it away."""

    def append(self, batch: Batch, producers: ProducerStates) -> None:
        """Append a stamped batch, and remember its producer.

        Raises:
            InvariantViolation: it does not continue the log.
        """
        if batch.base_offset != self.log_end_offset:
            raise InvariantViolation("an append continues the log", batch=batch, log_end_offset=self.log_end_offset)
        if len(self.batches) % BATCHES_PER_SEGMENT == 0 and self.batches:
            self.snapshots.append((self.log_end_offset, producers.encode_snapshot(self.log_end_offset)))
        self.epochs.assign(batch.leader_epoch, batch.base_offset)
        self.batches.append(batch)
        self._bases.append(batch.base_offset)
        self.log_end_offset = batch.next_offset
        record(producers, batch)

    def append_across_start(self, batch: Batch, producers: ProducerStates) -> None:
        """Begin an empty log with the batch that holds its start and begins below it; the start stays.

        Raises:
            InvariantViolation: the log is not empty, or the batch does not hold its start.
        """
        start_offset = self.log_start_offset
        if self.batches or not batch.base_offset < start_offset < batch.next_offset:
            raise InvariantViolation("only an empty log begins below its start", batch=batch, log_start=start_offset)
        self.restart_at(batch.base_offset)
        self.append(batch, producers)
        self.advance_start(start_offset)

    def _position(self, offset: int) -> int:
        """Index of the batch that holds `offset`, or the number of batches when it is at or beyond the end."""
        if offset >= self.log_end_offset:
            return len(self.batches)
        return max(0, bisect_right(self._bases, offset) - 1)

    def read(self, offset: int, *, end_offset: int, batches_max: int) -> list[Batch]:
        """Whole batches from the one that holds `offset`, below `end_offset`."""
        position = self._position(offset)
        found = self.batches[position : position + batches_max]
        while found and found[-1].next_offset > end_offset:
            found.pop()
        return found

    def batch_at(self, offset: int) -> Batch | None:
        """The batch that holds `offset`; None where there is nothing."""
        position = self._position(offset)
        if position >= len(self.batches) or offset < self._bases[position]:
            return None
        return self.batches[position]

    def truncate_to(self, offset: int) -> list[Batch]:
        """Cut every batch that reaches beyond `offset`, durably; returns what was cut. The log start stays."""
        position = self._position(offset)
        cut = self.batches[position:]
        if not cut:
            return cut
        del self.batches[position:]
        del self._bases[position:]
        if cut[0].base_offset < self.log_start_offset:
            self.restart_at(self.log_start_offset)
            return cut
        self.log_end_offset = cut[0].base_offset
        self._after_cut()
        return cut

    def _after_cut(self) -> None:
        end = self.log_end_offset
        self.flushed_offset = end
        self.epochs.truncate_from_end(end)
        self.snapshots = [each for each in self.snapshots if each[0] <= end]
        self.stored_high_watermark = min(self.stored_high_watermark, end)

    def restart_at(self, offset: int) -> None:
        """Drop everything and begin at `offset`."""
        self.batches.clear()
        self._bases.clear()
        self.log_start_offset = self.log_end_offset = self.flushed_offset = offset
        self.epochs.clear()
        self.snapshots.clear()
        self.stored_high_watermark = min(self.stored_high_watermark, offset)

    def advance_start(self, offset: int) -> None:
        """Hide everything below `offset`; whole batches below it go."""
        if offset <= self.log_start_offset:
            return
        self.log_start_offset = offset
        position = self._position(offset)
        del self.batches[:position]
        del self._bases[:position]
        self.epochs.truncate_from_start(offset)

    def lose_power(self, kept_batches: int) -> int:
        """Forget what was not flushed, but for `kept_batches` of it; returns how many batches are gone."""
        first = self._position(self.flushed_offset) + kept_batches
        gone = len(self.batches) - first
        if gone <= 0:
            return 0
        del self.batches[first:]
        del self._bases[first:]
        self.log_end_offset = self.batches[-1].next_offset if self.batches else self.log_start_offset
        return gone

    def recover(self, *, is_clean: bool) -> None:
        """What a start does: everything found counts as synced; epochs and snapshots that do not fit go."""
        self.flushed_offset = self.log_end_offset
        if not is_clean:
            rebuilt = LeaderEpochHistory()
            for batch in self.batches:
                rebuilt.assign(batch.leader_epoch, max(batch.base_offset, self.log_start_offset))
            self.epochs = rebuilt
        self.snapshots = [each for each in self.snapshots if each[0] <= self.log_end_offset]
        self.stored_high_watermark = min(max(self.stored_high_watermark, self.log_start_offset), self.log_end_offset)

    def load_producers(self, producers: ProducerStates) -> None:
        """Rebuild the producer state: the newest snapshot, then the batches after it."""
        producers.clear()
        known_offset = 0
        if self.snapshots:
            known_offset = producers.load_snapshot(self.snapshots[-1][1], now_ms=0)
        for batch in self.batches[self._position(max(self.log_start_offset, known_offset)) :]:
            if batch.base_offset >= known_offset:
                record(producers, batch)

    def replay_producers(self) -> ProducerStates:
        """The producer state that every batch of the log gives, without snapshots."""
        producers = ProducerStates()
        for batch in self.batches:
            record(producers, batch)
        return producers


def record(producers: ProducerStates, batch: Batch) -> None:
    """Note an appended batch, as every replica does."""
    if batch.producer_id >= 0:
        producers.record(
            batch.producer_id,
            0,
            batch.base_sequence,
            base_offset=batch.base_offset,
            last_offset=batch.next_offset - 1,
            timestamp_ms=0,
            now_ms=0,
        )


def describe_batches(batches: Iterable[Batch]) -> str:
    """Short words for findings."""
    return " ".join(
        f"{batch.base_offset}+{batch.record_count}@{batch.leader_epoch}=v{batch.value}" for batch in batches
    )
