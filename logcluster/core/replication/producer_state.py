"""What one replica of a partition remembers of its producers, so that a retry never appends twice.

For every producer id: the producer epoch and the last five batches (sequence range, offsets, timestamp). The leader
checks against it before an append; every replica records what was appended, so that a failover knows the same. It is
rebuilt by replaying batch headers, shortened by a snapshot beside the log that keeps all five batches.

Invariants: batches of a producer are ascending in offset; a known epoch never goes back except by truncation; memory is
bounded (`producers_max`, least recently used first out, counted in `evicted_count`).

Order of checks and the reasons: protocols.md (c); KIP-98, KIP-360, KAFKA-9144 (expiry must not lower a known epoch
while a batch may be under way: it is by the time since this process last saw the producer, a day by default). That time
is on the monotonic clock and never leaves the process: a wall clock that jumps, as when NTP corrects one that began in
1970, would forget everyone at once, and a retry would be appended twice. A later transaction layer adds fields to
`ProducerEntry` and its own check before `check_append`; `is_pinned` keeps an entry from being dropped.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable
from itertools import pairwise
from typing import Final, NamedTuple

from logcluster.model.errors import CorruptLog, InvalidProducerEpoch, OutOfOrderSequenceNumber
from logcluster.model.invariants import InvariantViolation
from logcluster.model.limits import PRODUCER_BATCHES_REMEMBERED, PRODUCER_IDS_PER_PARTITION_MAX, SEQUENCE_MAX
from logcluster.model.probes import probe

NO_PRODUCER_ID: Final = -1
_SEQUENCE_MODULUS: Final = SEQUENCE_MAX + 1
_SNAPSHOT_MAGIC: Final = b"LCPS"
_SNAPSHOT_VERSION: Final = 1
_SNAPSHOT_HEADER: Final = struct.Struct(">4sHIqI")
"""Magic, version, CRC-32 of what follows the CRC, offset up to which it speaks, number of producers."""
_SNAPSHOT_CRC_START: Final = 10
_SNAPSHOT_ENTRY: Final = struct.Struct(">qhqB")
"""Producer id, epoch, 0 (older versions: a wall-clock time, which is ignored), number of batches."""
_SNAPSHOT_BATCH: Final = struct.Struct(">iiqqq")


class ProducerBatch(NamedTuple):
    """One remembered batch; all ends are inclusive, sequences wrap from 2^31-1 to 0."""

    first_sequence: int
    last_sequence: int
    base_offset: int
    last_offset: int
    timestamp_ms: int
    """Largest timestamp in the batch."""


class ProducerEntry:
    """What is known of one producer id."""

    __slots__ = ("batches", "is_pinned", "last_seen_ms", "producer_epoch")

    def __init__(self, producer_epoch: int, last_seen_ms: int) -> None:
        self.producer_epoch = producer_epoch
        self.last_seen_ms = last_seen_ms
        """Monotonic time of the last append, or of reading it back from the disk."""
        self.batches: list[ProducerBatch] = []
        self.is_pinned = False
        """Neither expiry nor eviction may drop it (an open transaction)."""


def advance_sequence(sequence: int, count: int) -> int:
    """The sequence number `count` records after `sequence`."""
    return (sequence + count) % _SEQUENCE_MODULUS


class ProducerStates:
    """Producers of one partition replica, least recently used first."""

    __slots__ = ("_entries", "_producers_max", "evicted_count", "expired_count")

    def __init__(self, *, producers_max: int = PRODUCER_IDS_PER_PARTITION_MAX) -> None:
        self._entries: dict[int, ProducerEntry] = {}
        self._producers_max = producers_max
        self.evicted_count = 0
        self.expired_count = 0

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, producer_id: int) -> ProducerEntry | None:
        """What is known of this producer, or None."""
        return self._entries.get(producer_id)

    def check_append(
        self, producer_id: int, producer_epoch: int, base_sequence: int, record_count: int
    ) -> ProducerBatch | None:
        """Judge a client's batch, in the order of protocols.md (c).

        Returns:
            The batch as it was first appended when this is a retry of it: answer with its offset and append nothing.
            None when the batch is the next one.

        Raises:
            InvalidProducerEpoch: a newer instance of the producer has written.
            OutOfOrderSequenceNumber: a batch is missing before it, or it is older than the window of five.
        """
        entry = self._entries.get(producer_id)
        if entry is None:
            if base_sequence:
                probe("producer.unknown_in_mid_sequence")
            return None  # the state may have expired, or been deleted with the data
        known_epoch = entry.producer_epoch
        batches = entry.batches
        if producer_epoch == known_epoch:
            expected = advance_sequence(batches[-1].last_sequence, 1) if batches else 0
            if base_sequence == expected:
                # The common case. No remembered batch starts here: five batches do not go round 2^31 sequences.
                return None
            last_sequence = advance_sequence(base_sequence, record_count - 1)
            for batch in reversed(batches):
                if batch.first_sequence == base_sequence and batch.last_sequence == last_sequence:
                    return batch
            probe("producer.out_of_order_refused")
            raise OutOfOrderSequenceNumber(
                producer_id=producer_id, base_sequence=base_sequence, expected_sequence=expected
            )
        if producer_epoch < known_epoch:
            probe("producer.epoch_fenced")
            raise InvalidProducerEpoch(
                producer_id=producer_id, producer_epoch=producer_epoch, current_producer_epoch=known_epoch
            )
        if base_sequence != 0:
            probe("producer.new_epoch_refused_in_mid_sequence")
            raise OutOfOrderSequenceNumber(
                "a new producer epoch starts at sequence 0", producer_id=producer_id, base_sequence=base_sequence
            )
        return None

    def record(
        self,
        producer_id: int,
        producer_epoch: int,
        base_sequence: int,
        *,
        base_offset: int,
        last_offset: int,
        timestamp_ms: int,
        now_ms: int,
    ) -> None:
        """Remember a batch that is in the log; never refuses, because it is there.

        Args:
            base_sequence: negative for a batch without one (a marker): it counts as activity only.
            now_ms: monotonic clock of this process; expiry counts from here, not from what a client wrote into the
                batch.
        """
        entries = self._entries
        entry = entries.pop(producer_id, None)
        if entry is None:
            entry = ProducerEntry(producer_epoch, now_ms)
            if len(entries) >= self._producers_max:
                self._evict()
        elif producer_epoch != entry.producer_epoch:
            probe("producer.new_epoch_accepted")
            entry.producer_epoch = producer_epoch
            entry.batches = []
        entries[producer_id] = entry
        entry.last_seen_ms = now_ms
        if base_sequence < 0:
            return
        batches = entry.batches
        if len(batches) >= PRODUCER_BATCHES_REMEMBERED:
            del batches[0]
        last_sequence = base_sequence + last_offset - base_offset
        if last_sequence > SEQUENCE_MAX:
            probe("producer.sequence_wrapped")
            last_sequence -= _SEQUENCE_MODULUS
        batches.append(ProducerBatch(base_sequence, last_sequence, base_offset, last_offset, timestamp_ms))

    def _evict(self) -> None:
        for producer_id, entry in self._entries.items():
            if not entry.is_pinned:
                probe("producer.state.evicted")
                del self._entries[producer_id]
                self.evicted_count += 1
                return

    def expire(self, now_ms: int, *, expiration_ms: int) -> int:
        """Forget producers that were not seen for `expiration_ms`; returns how many. `now_ms` as for `record`."""
        limit_ms = now_ms - expiration_ms
        due = [
            producer_id
            for producer_id, entry in self._entries.items()
            if entry.last_seen_ms < limit_ms and not entry.is_pinned
        ]
        for producer_id in due:
            probe("producer.state.expired")
            del self._entries[producer_id]
        self.expired_count += len(due)
        return len(due)

    def must_rebuild_after_truncation(self, offset: int) -> bool:
        """Whether anything remembered lies at or after `offset`.

        Then the state before it is lost (older batches left the window) and must be read from snapshot and log again.
        """
        return any(entry.batches and entry.batches[-1].last_offset >= offset for entry in self._entries.values())

    def clear(self) -> None:
        """Forget everyone."""
        self._entries.clear()

    # -- snapshot ------------------------------------------------------------------------------------------------

    def encode_snapshot(self, offset: int) -> bytes:
        """Write everything remembered below `offset`, the end of the log, as checksummed bytes."""
        parts = [struct.pack(">qI", offset, len(self._entries))]
        for producer_id, entry in self._entries.items():
            parts.append(_SNAPSHOT_ENTRY.pack(producer_id, entry.producer_epoch, 0, len(entry.batches)))
            parts.extend(_SNAPSHOT_BATCH.pack(*batch) for batch in entry.batches)
        body = b"".join(parts)
        return struct.pack(">4sHI", _SNAPSHOT_MAGIC, _SNAPSHOT_VERSION, zlib.crc32(body)) + body

    def load_snapshot(self, data: bytes, *, now_ms: int) -> int:
        """Replace everything by what a snapshot says; returns the offset it speaks up to.

        Everyone in it counts as seen at `now_ms` (as for `record`).

        Raises:
            CorruptLog: it is damaged; nothing was changed. The log can rebuild what it said.
        """
        if len(data) < _SNAPSHOT_HEADER.size:
            raise CorruptLog("a producer snapshot is cut short", size_bytes=len(data))
        magic, version, crc, offset, count = _SNAPSHOT_HEADER.unpack_from(data)
        if magic != _SNAPSHOT_MAGIC or version != _SNAPSHOT_VERSION or zlib.crc32(data[_SNAPSHOT_CRC_START:]) != crc:
            raise CorruptLog("a producer snapshot is damaged", size_bytes=len(data))
        entries: dict[int, ProducerEntry] = {}
        position = _SNAPSHOT_HEADER.size
        for _ in range(count):
            producer_id, producer_epoch, _, batch_count = _SNAPSHOT_ENTRY.unpack_from(data, position)
            position += _SNAPSHOT_ENTRY.size
            entry = ProducerEntry(producer_epoch, now_ms)
            for _ in range(batch_count):
                entry.batches.append(ProducerBatch(*_SNAPSHOT_BATCH.unpack_from(data, position)))
                position += _SNAPSHOT_BATCH.size
            entries[producer_id] = entry
        self._entries = entries
        return int(offset)

    # -- self-check ----------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Check bounds and order.

        Raises:
            InvariantViolation: a window is too long or its batches are not ascending.
        """
        if len(self._entries) > self._producers_max and not any(entry.is_pinned for entry in self._entries.values()):
            raise InvariantViolation("producers are bounded", producer_count=len(self._entries))
        for producer_id, entry in self._entries.items():
            if len(entry.batches) > PRODUCER_BATCHES_REMEMBERED:
                raise InvariantViolation("five batches are remembered", producer_id=producer_id)
            for before, after in pairwise(entry.batches):
                if after.base_offset <= before.last_offset:
                    raise InvariantViolation("batches ascend", producer_id=producer_id, before=before, after=after)

    def describe(self) -> str:
        """One line for transcripts."""
        return f"producers={_describe_entries(self._entries.items())} evicted={self.evicted_count}"


def _describe_entries(entries: Iterable[tuple[int, ProducerEntry]]) -> str:
    shown = [
        f"{producer_id}/{entry.producer_epoch}:{entry.batches[-1].last_sequence if entry.batches else '-'}"
        for producer_id, entry in entries
    ]
    return "[" + " ".join(shown[:8]) + (" …" if len(shown) > 8 else "") + "]"
