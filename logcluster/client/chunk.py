"""One partition's part of a fetch answer, decoded batch by batch when the user gets there.

Checks every batch's checksum; leaves out control records, records before the position, and, reading committed
records only, those of aborted transactions. Source: Kafka's fetch protocol, KIP-98.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence

from logcluster.client.records import ConsumerRecord
from logcluster.client.subscription import PartitionState
from logcluster.model.errors import LogClusterError
from logcluster.record.batch import decode_records
from logcluster.record.control import ControlType, decode_control
from logcluster.record.header import BatchHeader, iterate_headers

_new = tuple.__new__
AbortedTransactions = Sequence[tuple[int, int]]
"""Producer id and first offset of each."""


class Chunk:
    """Batches of one partition as they came, or an error in their place.

    Args:
        next_offset: where the partition goes on after all of it.
        aborted: None unless only committed records are wanted.
    """

    __slots__ = (
        "_aborted",
        "_aborted_now",
        "_batches",
        "_data",
        "error",
        "generation",
        "last_epoch",
        "next_offset",
        "size_bytes",
        "state",
    )

    def __init__(
        self,
        state: PartitionState,
        data: bytes,
        *,
        next_offset: int,
        aborted: AbortedTransactions | None = None,
        error: LogClusterError | None = None,
    ) -> None:
        self.state = state
        self.generation = state.generation
        self.error = error
        self.size_bytes = len(data)
        self._data = data
        headers = list(iterate_headers(data))
        self.last_epoch: int | None = headers[-1][1].leader_epoch if headers else None
        self.next_offset = max([next_offset, *(header.next_offset for _, header in headers[-1:])])
        self._batches: Iterator[tuple[int, BatchHeader]] = iter(headers)
        self._aborted = None if aborted is None else sorted(aborted, key=lambda item: item[1], reverse=True)
        self._aborted_now: set[int] = set()

    @property
    def is_current(self) -> bool:
        """Whether the user has not moved the position or paused since."""
        return self.generation == self.state.generation

    def next_records(self) -> tuple[list[ConsumerRecord], int] | None:
        """Decode the next batch: its records and the offset after it; None when nothing is left.

        Raises:
            CorruptMessage: its checksum is wrong, or it is damaged.
        """
        for position, header in self._batches:
            next_offset = header.next_offset
            if self._is_hidden(position, header):
                return [], next_offset
            return self._decode(position, header), next_offset
        if self.next_offset > (self.state.position or 0):
            return [], self.next_offset
        return None

    def _decode(self, position: int, header: BatchHeader) -> list[ConsumerRecord]:
        state = self.state
        topic, partition = state.topic, state.partition
        record_type = ConsumerRecord
        data = self._data
        whole = data if header.size_bytes == len(data) else data[position : position + header.size_bytes]
        # Thousands of records are made at once, each of several objects. The cycle collector would look at all of them
        # again and again while none can be garbage, at up to half of the cost of reading.
        was_collecting = gc.isenabled()
        gc.disable()
        try:
            records = [
                _new(record_type, (topic, partition, r.offset, r.timestamp, r.key, r.value, r.headers))
                for r in decode_records(whole)
            ]
        finally:
            if was_collecting:
                gc.enable()
        begin = state.position or 0
        end = state.end_offset
        if header.base_offset < begin or (end is not None and header.next_offset > end):
            records = [r for r in records if r.offset >= begin and (end is None or r.offset < end)]
        return records

    def _is_hidden(self, position: int, header: BatchHeader) -> bool:
        aborted = self._aborted
        if aborted is not None:
            while aborted and aborted[-1][1] <= header.last_offset:
                self._aborted_now.add(aborted.pop()[0])
        if header.is_control:
            if aborted is not None and header.producer_id in self._aborted_now:
                marker = decode_control(self._data[position : position + header.size_bytes])
                if marker.control_type is ControlType.ABORT:
                    self._aborted_now.discard(header.producer_id)
            return True
        return aborted is not None and header.is_transactional and header.producer_id in self._aborted_now
