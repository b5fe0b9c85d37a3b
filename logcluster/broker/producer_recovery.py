"""Bringing back the producer state of a log after a start or a truncation: newest sound snapshot, then headers."""

from __future__ import annotations

from logcluster.core.replication.producer_state import ProducerStates
from logcluster.model.errors import CorruptLog
from logcluster.model.probes import probe
from logcluster.storage.log import PartitionLog


def load_producers(log: PartitionLog, producers: ProducerStates, *, now_ms: int) -> None:
    """Rebuild the producer state of a log from its newest sound snapshot and the batch headers after it. Blocks.

    All producers count as seen at `now_ms`, on the monotonic clock.

    Raises:
        CorruptLog: the log is damaged.
    """
    producers.clear()
    offset = log.log_start_offset
    known_offset = 0  # the snapshot speaks for everything below
    snapshot = log.latest_producer_snapshot()
    if snapshot is not None:
        try:
            known_offset = producers.load_snapshot(snapshot[1], now_ms=now_ms)
            offset = max(offset, known_offset)
        except CorruptLog:
            probe("producer.state.snapshot_damaged")
            producers.clear()  # derived data: the log knows everything it said
    if offset >= log.log_end_offset:
        return
    probe("producer.state.replayed_from_log")
    for header in log.headers_from(offset):
        # The first one may begin below the log start: what is left of it can be sent again, too.
        if header.producer_id >= 0 and header.base_offset >= known_offset:
            producers.record(
                header.producer_id,
                header.producer_epoch,
                header.base_sequence,
                base_offset=header.base_offset,
                last_offset=header.last_offset,
                timestamp_ms=header.max_timestamp_ms,
                now_ms=now_ms,
            )
