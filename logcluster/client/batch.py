"""One batch of a producer from its first record to its outcome.

Pure. Invariants: records are added only while it is open; its records and their order never change afterwards, so a
retry has exactly the range of the first attempt; it is finished once.
"""

from __future__ import annotations

from bisect import bisect_right
from operator import itemgetter
from typing import Final, Protocol

from logcluster.model.errors import LogClusterError
from logcluster.model.invariants import InvariantViolation
from logcluster.record.batch import decode_records
from logcluster.record.builder import BatchBuilder
from logcluster.record.compression import Compression


class Waiter(Protocol):
    """Somebody who waits for a batch; an asyncio future is one."""

    def done(self) -> bool: ...

    def set_result(self, result: None, /) -> None: ...


def error_of(
    error_type: type[LogClusterError], message: str, source: LogClusterError, **facts: object
) -> LogClusterError:
    """An error like `source` with another message and more facts."""
    error = error_type(message, hint=source.hint)
    error.facts = {**source.facts, **facts}
    error.__cause__ = source.__cause__
    return error


COMPRESSED_SIZE_BYTES_MIN: Final = 2048
"""Smaller batches gain little from compression and would wait for it."""
_SPENT = BatchBuilder(compression=Compression.NONE, size_bytes_max=0)


class Batch:
    """Records of one partition that are written together.

    Args:
        created_ms, deadline_ms: monotonic; after the deadline it is given up.
        size_bytes_max: before compression; see `BatchBuilder`.
    """

    __slots__ = (
        "_final_count",
        "append",
        "attempts",
        "base_offset",
        "base_sequence",
        "buffered_size_bytes",
        "builder",
        "claimed",
        "compression",
        "created_ms",
        "deadline_ms",
        "error",
        "is_closed",
        "is_done",
        "last_error",
        "leader_epoch",
        "log_append_time_ms",
        "not_before_ms",
        "order",
        "partition",
        "parts",
        "producer_epoch",
        "producer_id",
        "reset_count",
        "topic",
        "unknown_error",
        "waiters",
    )

    def __init__(
        self,
        topic: str,
        partition: int,
        *,
        compression: Compression,
        size_bytes_max: int,
        created_ms: int,
        deadline_ms: int,
    ) -> None:
        self.topic = topic
        self.partition = partition
        self.compression = compression
        self.builder = BatchBuilder(compression=compression, size_bytes_max=size_bytes_max)
        self.append = self.builder.append
        self.created_ms = created_ms
        self.deadline_ms = deadline_ms
        self.buffered_size_bytes = 0
        self.is_closed = False
        self.is_done = False
        self.waiters: list[Waiter] = []
        self.claimed: set[int] = set()
        """Records whose outcome somebody asked for."""
        self.attempts = 0
        self.reset_count = 0
        self.order: tuple[int, ...] = ()
        """Place among the batches of its partition that were sent, parts after their whole; empty before."""
        self.parts: list[tuple[int, Batch]] = []
        """After a split: smaller batches and the place of their first record in this one."""
        self.not_before_ms = 0
        self.leader_epoch = -1
        """Of the last attempt."""
        self.producer_id = -1
        self.producer_epoch = -1
        self.base_sequence = -1
        self.last_error: LogClusterError | None = None
        self._final_count = 0
        self.unknown_error: LogClusterError | None = None
        """The first error after which the batch may have been applied."""
        self.error: LogClusterError | None = None
        self.base_offset = -1
        self.log_append_time_ms = -1

    @property
    def record_count(self) -> int:
        return self._final_count if self.is_done else self.builder.record_count

    @property
    def is_outcome_unknown(self) -> bool:
        """An attempt may have been applied without our knowing."""
        return self.unknown_error is not None

    @property
    def lost_count(self) -> int:
        """Records that were not written and nobody asked about."""
        return self.record_count - len(self.claimed) if self.error is not None else 0

    def payload(self, *, is_transactional: bool = False) -> bytes:
        """The bytes to send, with the present producer identity and sequence."""
        if self.builder.size_bytes < COMPRESSED_SIZE_BYTES_MIN:
            self.builder.compression = Compression.NONE
        return self.builder.build(
            producer_id=self.producer_id,
            producer_epoch=self.producer_epoch,
            base_sequence=self.base_sequence,
            is_transactional=is_transactional,
        )

    def succeed(self, base_offset: int, log_append_time_ms: int) -> None:
        """The batch is written; `base_offset` -1 when the broker was not asked to say."""
        self.base_offset = base_offset
        self.log_append_time_ms = log_append_time_ms
        self._finish()

    def fail(self, error: LogClusterError, *, record_count: int | None = None) -> None:
        """The batch is given up.

        The error says that nothing was written only when no earlier attempt may have been applied.

        Args:
            record_count: how many records it stands for, when they never were in it.
        """
        unknown = self.unknown_error
        message, raised = error.message, error
        if unknown is not None and error.definite:
            raised = unknown
            message = f"{unknown.message} (the last attempt ended with {type(error).__name__}: {error.message})"
        # A copy of its own, because one error may end many batches.
        self.error = error_of(type(raised), message, raised, topic=self.topic, partition=self.partition)
        self._finish()
        if record_count is not None:
            self._final_count = record_count

    def split(self, size_bytes_max: int) -> list[Batch]:
        """End this batch, which was certainly not written, in favour of smaller ones with the same records in order."""
        records = decode_records(self.builder.build(), check_crc=False)
        parts: list[tuple[int, Batch]] = []
        part: Batch | None = None
        share_bytes = self.buffered_size_bytes // len(records)
        for index, record in enumerate(records):
            fields = (record.timestamp, record.key, record.value, record.headers)
            if part is None or not part.append(*fields):
                part = Batch(
                    self.topic,
                    self.partition,
                    compression=self.compression,
                    size_bytes_max=size_bytes_max,
                    created_ms=self.created_ms,
                    deadline_ms=self.deadline_ms,
                )
                part.is_closed = True
                part.order = (*self.order, len(parts))
                part.append(*fields)
                parts.append((index, part))
            if index in self.claimed:
                part.claimed.add(index - parts[-1][0])
            part.buffered_size_bytes += share_bytes
        parts[0][1].buffered_size_bytes += self.buffered_size_bytes - share_bytes * len(records)
        self.parts = parts
        self._finish()
        return [part for _, part in parts]

    def leaf(self, index: int) -> tuple[Batch, int]:
        """Where the record at `index` is after splits: the batch, and the place in it."""
        batch = self
        while batch.parts:
            first, part = batch.parts[bisect_right(batch.parts, index, key=itemgetter(0)) - 1]
            batch, index = part, index - first
        return batch, index

    def _finish(self) -> None:
        if self.is_done:
            raise InvariantViolation("a batch is finished once", topic=self.topic, partition=self.partition)
        self._final_count = self.builder.record_count
        self.is_done = self.is_closed = True
        self.builder = _SPENT  # futures keep the batch; the records need not be kept with it
        self.append = _SPENT.append
        waiters, self.waiters = self.waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)
