"""Builds one record batch, record by record, with exact accounting of its size.

Wraps aiokafka's compiled builder, which writes records uncompressed; compression is ours (`compression`), because
aiokafka's is slow for lz4. Invariants: offsets run from 0 to n-1; `build` never yields more than `size_bytes` bytes
(records that compression would enlarge are sent as they are); a failed `append` changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from aiokafka.record.default_records import DefaultRecordBatchBuilder

from logcluster.model.errors import InvalidRecord, InvalidTimestamp, MessageTooLarge
from logcluster.model.invariants import InvariantViolation
from logcluster.model.limits import BATCH_SIZE_BYTES_MAX, HEADERS_PER_RECORD_MAX, RECORDS_PER_BATCH_MAX
from logcluster.record.compression import Compression, compress
from logcluster.record.header import HEADER_SIZE_BYTES, MAGIC, TRANSACTIONAL_FLAG, read_header, seal

Headers = Sequence[tuple[str, bytes | None]]
Record = tuple[int, bytes | None, bytes | None, Headers]
"""Timestamp in ms, key, value, headers."""

_NO_HEADERS: Final[list[tuple[str, bytes | None]]] = []


class BatchBuilder:
    """One batch in the making.

    Args:
        compression: applied by `build`.
        size_bytes_max: of the batch before compression, header included; a first record may exceed it.
    """

    __slots__ = ("_append", "_inner", "_size", "compression", "record_count", "size_bytes_max")

    def __init__(self, *, compression: Compression, size_bytes_max: int) -> None:
        self.compression = compression
        self.size_bytes_max = size_bytes_max
        self.record_count = 0
        # aiokafka refuses a record that would make the batch as large as its bound.
        self._inner = DefaultRecordBatchBuilder(MAGIC, Compression.NONE, 0, -1, -1, -1, size_bytes_max + 1)
        self._append = self._inner.append
        self._size = self._inner.size

    @property
    def size_bytes(self) -> int:
        """Exact size of the batch before compression, header included."""
        return self._size()

    def append(self, timestamp_ms: int, key: bytes | None, value: bytes | None, headers: Headers) -> bool:
        """Add a record; False when it does not fit any more and belongs in the next batch.

        Raises:
            MessageTooLarge: the record alone exceeds the largest batch that any topic accepts.
            InvalidRecord: types or headers are not what a record can hold.
            InvalidTimestamp: the timestamp is negative.
        """
        count = self.record_count
        if timestamp_ms < 0:
            raise InvalidTimestamp(f"timestamp {timestamp_ms} is negative", timestamp_ms=timestamp_ms)
        if not headers:
            headers = _NO_HEADERS
        elif len(headers) > HEADERS_PER_RECORD_MAX:
            raise InvalidRecord(f"a record has {len(headers)} headers", header_count_max=HEADERS_PER_RECORD_MAX)
        elif type(headers) is not list:
            headers = list(headers)
        try:
            if count == 0:
                self._check_first(timestamp_ms, key, value, headers)
            elif count >= RECORDS_PER_BATCH_MAX:
                return False
            if self._append(count, timestamp_ms, key, value, headers) is None:
                return False
        except (TypeError, ValueError, AttributeError, BufferError, OverflowError) as error:
            raise InvalidRecord(f"not a record: {error}") from error
        self.record_count = count + 1
        return True

    def _check_first(
        self, timestamp_ms: int, key: bytes | None, value: bytes | None, headers: list[tuple[str, bytes | None]]
    ) -> None:
        """The first record is allowed beyond `size_bytes_max`, so the hard bound is checked here."""
        size_bytes = HEADER_SIZE_BYTES + self._inner.size_in_bytes(0, timestamp_ms, key, value, headers)
        if size_bytes > BATCH_SIZE_BYTES_MAX:
            raise MessageTooLarge(
                f"a record of {size_bytes} bytes exceeds the largest batch",
                size_bytes=size_bytes,
                size_bytes_max=BATCH_SIZE_BYTES_MAX,
            )

    def build(
        self,
        *,
        producer_id: int = -1,
        producer_epoch: int = -1,
        base_sequence: int = -1,
        is_transactional: bool = False,
    ) -> bytes:
        """Return the batch with base offset 0 and no leader epoch; may be called again, also after more appends.

        Raises:
            InvariantViolation: there is no record.
        """
        if self.record_count == 0:
            raise InvariantViolation("a batch holds at least one record")
        inner = self._inner
        inner.set_producer_state(producer_id, producer_epoch, base_sequence)
        plain = inner.build()
        if self.compression is Compression.NONE and not is_transactional:
            return bytes(plain)
        header = read_header(plain)
        attributes = TRANSACTIONAL_FLAG if is_transactional else 0
        with memoryview(plain) as view, view[HEADER_SIZE_BYTES:] as records:
            if self.compression is not Compression.NONE:
                compressed = compress(self.compression, records)
                if len(compressed) < len(records):
                    return seal(header._replace(attributes=attributes | self.compression), compressed)
            return seal(header._replace(attributes=attributes), records)


def build_batch(
    records: Iterable[Record],
    *,
    compression: Compression = Compression.NONE,
    producer_id: int = -1,
    producer_epoch: int = -1,
    base_sequence: int = -1,
    is_transactional: bool = False,
) -> bytes:
    """Build one batch of all `records`.

    Raises:
        MessageTooLarge: they do not fit into the largest batch.
        InvalidRecord, InvalidTimestamp: as `BatchBuilder.append`.
    """
    builder = BatchBuilder(compression=compression, size_bytes_max=BATCH_SIZE_BYTES_MAX)
    for timestamp_ms, key, value, headers in records:
        if not builder.append(timestamp_ms, key, value, headers):
            raise MessageTooLarge("the records do not fit into one batch", record_count=builder.record_count)
    return builder.build(
        producer_id=producer_id,
        producer_epoch=producer_epoch,
        base_sequence=base_sequence,
        is_transactional=is_transactional,
    )
