"""Awaitables for records on their way: a batch and a place in it, instead of a future per record.

Invariants: asking for an outcome claims the record, so that the producer does not report it as lost a second time;
cancelling whoever waits changes nothing for the record.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import Generator, Iterable, Sequence
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

    def _leaf(self) -> Batch:
        """The batch the record is in now."""
        batch = self._batch
        if batch.parts:
            batch, self._index = batch.leaf(self._index)
            self._batch = batch
        return batch

    def done(self) -> bool:
        """Whether the outcome is known."""
        return self._leaf().is_done

    def result(self) -> RecordAck:
        """The acknowledgement.

        Raises:
            LogClusterError: the record was not written, or (`definite` false) may not have been.
            asyncio.InvalidStateError: the outcome is not known yet.
        """
        batch = self._leaf()
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
        batch = self._leaf()
        if not batch.is_done:
            raise asyncio.InvalidStateError("the record has no outcome yet")
        if batch.error is not None:
            batch.claimed.add(self._index)
        return batch.error

    def __await__(self) -> Generator[Any, None, RecordAck]:
        while not (batch := self._leaf()).is_done:
            batch.claimed.add(self._index)
            waiter = asyncio.get_running_loop().create_future()
            batch.waiters.append(waiter)
            yield from waiter
        return self.result()


class SentRecords(Sequence[RecordAck]):
    """The acknowledgements of many records, in the order they were sent; made when looked at.

    Holds runs of records that lie side by side in a batch, so that a million records cost a few hundred entries.
    """

    def __init__(self) -> None:
        self._runs: list[tuple[Batch, int, int]] = []
        """Batch, place of the first record in it, timestamp."""
        self._starts: list[int] = []
        self._count = 0
        self._held: list[tuple[int, RecordFuture]] = []
        """Records that wait for their topic, with the number of their run."""

    def add(self, batch: Batch, index: int, count: int, timestamp_ms: int) -> None:
        """`count` records from place `index` of the batch on; they share a timestamp."""
        self._runs.append((batch, index, timestamp_ms))
        self._starts.append(self._count)
        self._count += count

    def add_held(self, future: RecordFuture, timestamp_ms: int) -> None:
        """One record more, which has no partition yet; see `find_held`."""
        self._held.append((len(self._runs), future))
        self.add(future._batch, future._index, 1, timestamp_ms)

    async def find_held(self) -> None:
        """Wait until the records that were held have partitions, and note where they are.

        Raises:
            LogClusterError: why one of them has none, and was not written.
        Cancellation: the records are still written.
        """
        held, self._held = self._held, []
        failure: LogClusterError | None = None
        for run, future in held:
            if future._batch.partition < 0:
                await wait_for(future._batch)
            batch, index = future._batch, future._index
            if batch.partition < 0 and batch.error is not None:
                batch.claimed.add(index)
                failure = failure or batch.error
            self._runs[run] = (batch, index, self._runs[run][2])
        if failure is not None:
            raise failure

    @property
    def batches(self) -> list[Batch]:
        """The batches that hold the records, each once, in order."""
        return list(dict.fromkeys(batch for batch, _, _ in self._runs))

    def losses(self) -> list[tuple[Batch, int]]:
        """Batches and how many of these records each holds; whoever asks has asked for the outcome of all."""
        ends = [*self._starts[1:], self._count]
        found = []
        for (batch, first, _), start, end in zip(self._runs, self._starts, ends, strict=True):
            if not batch.parts:
                batch.claimed.update(range(first, first + end - start))
                found.append((batch, end - start))
                continue
            for index in range(first, first + end - start):
                leaf, leaf_index = batch.leaf(index)
                leaf.claimed.add(leaf_index)
                found.append((leaf, 1))
        return found

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> RecordAck: ...

    @overload
    def __getitem__(self, index: slice) -> list[RecordAck]: ...

    def __getitem__(self, index: int | slice) -> RecordAck | list[RecordAck]:
        if isinstance(index, slice):
            return [self[number] for number in range(self._count)[index]]
        return self.future(index).result()

    def future(self, index: int) -> RecordFuture:
        """One record; negative numbers count from the end."""
        number = range(self._count)[index]
        run = bisect_right(self._starts, number) - 1
        batch, first, timestamp_ms = self._runs[run]
        return RecordFuture(batch, first + number - self._starts[run], timestamp_ms)


class Outcomes(Sequence[RecordAck | LogClusterError]):
    """What became of each of these records: its acknowledgement, or the error; made when looked at."""

    def __init__(self, sent: SentRecords) -> None:
        self._sent = sent

    def __len__(self) -> int:
        return len(self._sent)

    @overload
    def __getitem__(self, index: int) -> RecordAck | LogClusterError: ...

    @overload
    def __getitem__(self, index: slice) -> list[RecordAck | LogClusterError]: ...

    def __getitem__(self, index: int | slice) -> RecordAck | LogClusterError | list[RecordAck | LogClusterError]:
        if isinstance(index, slice):
            return [self[number] for number in range(len(self))[index]]
        future = self._sent.future(index)
        return future.exception() or future.result()


async def wait_for(batch: Batch) -> None:
    """Wait until the batch, with all it was split into, has its outcome. Cancellation: atomic."""
    while not batch.is_done:
        waiter = asyncio.get_running_loop().create_future()
        batch.waiters.append(waiter)
        await waiter
    for _, part in batch.parts:
        await wait_for(part)


def has_failed(batch: Batch) -> bool:
    """Whether some record of a finished batch was not written."""
    return batch.error is not None or any(has_failed(part) for _, part in batch.parts)


def lost_records(losses: Iterable[tuple[Batch, int]]) -> RecordsLost | None:
    """One error that names what was lost, by partition and reason; None when nothing was.

    Args:
        losses: batches, and how many of their records count; those that did not fail do not.
    """
    groups: dict[tuple[str, int, type[LogClusterError], str], tuple[LogClusterError, int]] = {}
    for batch, count in losses:
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
