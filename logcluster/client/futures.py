"""Awaitables for records on their way: a batch and a place in it, instead of a future per record.

Invariants: asking for an outcome claims the record, so that the producer does not report it as lost a second time;
cancelling whoever waits changes nothing for the record.
"""

from __future__ import annotations

import asyncio
from collections.abc import Generator, Iterator, Sequence
from typing import Any, overload

from logcluster.client.batch import Batch, error_of
from logcluster.client.records import RecordAck, RecordsLost
from logcluster.model.errors import LogClusterError


class RecordFuture:
    """The outcome of one record; await it, any number of times, from any number of tasks."""

    __slots__ = ("_batch", "_index", "_timestamp_ms")

    def __init__(self, batch: Batch, index: int, timestamp_ms: int) -> None:
        self._batch = batch
        self._index = index
        self._timestamp_ms = timestamp_ms

    def _move(self, batch: Batch, index: int) -> None:
        """The record has found its partition."""
        if self._index in self._batch.claimed:
            batch.claimed.add(index)
        self._batch = batch
        self._index = index

    def done(self) -> bool:
        """Whether the outcome is known."""
        return self._batch.is_done

    def result(self) -> RecordAck:
        """The acknowledgement.

        Raises:
            LogClusterError: the record was not written, or (`definite` false) may not have been.
            asyncio.InvalidStateError: the outcome is not known yet.
        """
        batch = self._batch
        if not batch.is_done:
            raise asyncio.InvalidStateError("the record has no outcome yet")
        if batch.error is not None:
            batch.claimed.add(self._index)
            raise batch.error
        offset = batch.base_offset
        timestamp_ms = batch.log_append_time_ms
        return RecordAck(
            batch.topic,
            batch.partition,
            offset + self._index if offset >= 0 else -1,
            timestamp_ms if timestamp_ms >= 0 else self._timestamp_ms,
        )

    def exception(self) -> LogClusterError | None:
        """Why the record was not written, or None.

        Raises:
            asyncio.InvalidStateError: the outcome is not known yet.
        """
        if not self._batch.is_done:
            raise asyncio.InvalidStateError("the record has no outcome yet")
        if self._batch.error is not None:
            self._batch.claimed.add(self._index)
        return self._batch.error

    def __await__(self) -> Generator[Any, None, RecordAck]:
        while not (batch := self._batch).is_done:
            batch.claimed.add(self._index)
            waiter = asyncio.get_running_loop().create_future()
            batch.waiters.append(waiter)
            yield from waiter
        return self.result()


class SentRecords(Sequence[RecordAck]):
    """The acknowledgements of many records, in the order they were sent; made when looked at."""

    def __init__(self, futures: list[RecordFuture]) -> None:
        self._futures = futures

    def __len__(self) -> int:
        return len(self._futures)

    @overload
    def __getitem__(self, index: int) -> RecordAck: ...

    @overload
    def __getitem__(self, index: slice) -> SentRecords: ...

    def __getitem__(self, index: int | slice) -> RecordAck | SentRecords:
        if isinstance(index, slice):
            return SentRecords(self._futures[index])
        return self._futures[index].result()

    def __iter__(self) -> Iterator[RecordAck]:
        return (future.result() for future in self._futures)


def batches_of(futures: list[RecordFuture]) -> list[Batch]:
    """The batches that hold these records, each once, in order."""
    return list(dict.fromkeys(future._batch for future in futures))


async def wait_for(batch: Batch) -> None:
    """Wait until the batch has its outcome. Cancellation: atomic."""
    while not batch.is_done:
        waiter = asyncio.get_running_loop().create_future()
        batch.waiters.append(waiter)
        await waiter


def lost_records(batches: list[Batch], *, count_all: bool = False) -> RecordsLost | None:
    """One error that names what these batches lost, by partition and reason; None when nothing was.

    Args:
        count_all: count records too whose outcome somebody asked for.
    """
    groups: dict[tuple[str, int, type[LogClusterError], str], tuple[LogClusterError, int]] = {}
    for batch in batches:
        count = batch.record_count if count_all else batch.lost_count
        if batch.error is None or count == 0:
            continue
        key = (batch.topic, batch.partition, type(batch.error), batch.error.message)
        groups[key] = (batch.error, groups.get(key, (batch.error, 0))[1] + count)
    if not groups:
        return None
    errors = []
    for (topic, partition, error_type, message), (error, count) in groups.items():
        place = f"{topic}-{partition}" if partition >= 0 else topic
        certainty = "not written" if error.definite else "perhaps not written"
        text = f"{place}: {count} record{'s' if count != 1 else ''} {certainty}: {message}"
        errors.append(error_of(error_type, text, error, topic=topic, partition=partition, record_count=count))
    total = sum(count for _, count in groups.values())
    details = "; ".join(error.message for error in errors[:10])
    return RecordsLost(f"{total} record{'s' if total != 1 else ''} not acknowledged: {details}", errors)
