"""The recently appended bytes of all logs of a broker, held in memory within one budget.

Consumers and followers that keep up are served from here without touching a file. What is dropped is the oldest entry
over all logs, or of one log when it exceeds its own bound. An entry is what one append brought: one or more batches.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from typing import Final

from logcluster.model.limits import TAIL_CACHE_SIZE_BYTES_MAX
from logcluster.storage.batch_scan import LogRead, take_batches

_ENTRY_OVERHEAD_BYTES: Final = 200
"""What an entry costs beside its bytes, so that many small appends count too."""
_COMPACT_AFTER: Final = 1024


class TailCache:
    """The budget that the logs of a broker share, and the order in which their entries were added."""

    __slots__ = ("_order", "entry_count", "size_bytes", "size_bytes_max")

    def __init__(self, *, size_bytes_max: int = TAIL_CACHE_SIZE_BYTES_MAX) -> None:
        self.size_bytes_max = size_bytes_max
        self.size_bytes = 0
        self.entry_count = 0
        self._order: deque[tuple[LogTail, int]] = deque()

    def added(self, tail: LogTail, serial: int, size_bytes: int) -> None:
        """Note a new entry of `tail` and drop the oldest ones beyond the budget."""
        self.size_bytes += size_bytes
        self.entry_count += 1
        order = self._order
        order.append((tail, serial))
        while self.size_bytes > self.size_bytes_max and order:
            oldest, oldest_serial = order.popleft()
            oldest.drop_through(oldest_serial)
        if len(order) > 2 * self.entry_count + _COMPACT_AFTER:
            self._order = deque(item for item in order if item[0].holds(item[1]))

    def removed(self, entry_count: int, size_bytes: int) -> None:
        """Note that entries left a tail."""
        self.entry_count -= entry_count
        self.size_bytes -= size_bytes


class LogTail:
    """The newest appends of one log, contiguous up to its end."""

    __slots__ = ("_bases", "_cache", "_data", "_head", "_next_offsets", "_serial_base", "size_bytes", "size_bytes_max")

    def __init__(self, cache: TailCache, *, size_bytes_max: int) -> None:
        self._cache = cache
        self._bases: list[int] = []
        self._next_offsets: list[int] = []
        self._data: list[bytes] = []
        self._head = 0  # entries before it are dropped
        self._serial_base = 0  # serial of the entry at index 0
        self.size_bytes = 0
        self.size_bytes_max = size_bytes_max

    def append(self, data: bytes, base_offset: int, next_offset: int, *, previous_end: int) -> None:
        """Add what was appended to a log that ended at `previous_end`; what does not reach there is forgotten."""
        size_bytes = len(data) + _ENTRY_OVERHEAD_BYTES
        if size_bytes > self.size_bytes_max:
            self.clear()
            return
        if self._next_offsets and self._next_offsets[-1] != previous_end:
            self.clear()
        self._bases.append(base_offset)
        self._next_offsets.append(next_offset)
        self._data.append(data)
        self.size_bytes += size_bytes
        while self.size_bytes > self.size_bytes_max:
            self._drop_oldest()
        self._cache.added(self, self._serial_base + len(self._data) - 1, size_bytes)

    def read(self, start_offset: int, *, size_bytes_max: int, end_offset: int) -> LogRead | None:
        """Whole batches from the one that holds `start_offset`; None when it is not in memory.

        Nothing at or after `end_offset` is returned; at least one batch is, even when it is larger.
        """
        bases, next_offsets, data = self._bases, self._next_offsets, self._data
        head, count = self._head, len(bases)
        if head == count or start_offset < bases[head]:
            return None
        index = count - 1 if start_offset >= bases[-1] else bisect_right(bases, start_offset, head) - 1
        if next_offsets[index] <= start_offset:  # in a gap between two entries
            index += 1
            if index == count:
                return None
        first = data[index]
        if bases[index] < start_offset or next_offsets[index] > end_offset or len(first) > size_bytes_max:
            taken, next_offset = take_batches(first, start_offset, size_bytes_max=size_bytes_max, end_offset=end_offset)
            return LogRead(taken, next_offset, True)
        last = index + 1
        size_bytes = len(first)
        while last < count and next_offsets[last] <= end_offset:
            size_bytes += len(data[last])
            if size_bytes > size_bytes_max:
                break
            last += 1
        if last == index + 1:
            return LogRead(first, next_offsets[index], True)
        return LogRead(b"".join(data[index:last]), next_offsets[last - 1], True)

    def truncate_to(self, offset: int) -> None:
        """Forget entries that reach beyond `offset`.

        Of an entry of several batches some may stay in the log; the next append finds that the rest ends too early.
        """
        while len(self._bases) > self._head and self._next_offsets[-1] > offset:
            size_bytes = len(self._data.pop()) + _ENTRY_OVERHEAD_BYTES
            self._bases.pop()
            self._next_offsets.pop()
            self.size_bytes -= size_bytes
            self._cache.removed(1, size_bytes)
        # The serials of what was cut may be given again: what stays noted under them is dropped a little early.

    def clear(self) -> None:
        """Forget everything."""
        self._cache.removed(len(self._data) - self._head, self.size_bytes)
        self._serial_base += len(self._data)
        self._bases, self._next_offsets, self._data = [], [], []
        self._head = 0
        self.size_bytes = 0

    def drop_through(self, serial: int) -> None:
        """Forget entries up to the one with this serial; for the cache."""
        while self._serial_base + self._head <= serial and self._head < len(self._data):
            self._drop_oldest()

    def holds(self, serial: int) -> bool:
        """Whether the entry with this serial is still here; for the cache."""
        return self._serial_base + self._head <= serial < self._serial_base + len(self._data)

    def _drop_oldest(self) -> None:
        head = self._head
        size_bytes = len(self._data[head]) + _ENTRY_OVERHEAD_BYTES
        self._data[head] = b""
        self._head = head = head + 1
        self.size_bytes -= size_bytes
        self._cache.removed(1, size_bytes)
        if head > _COMPACT_AFTER and head * 2 > len(self._data):
            del self._bases[:head], self._next_offsets[:head], self._data[:head]
            self._serial_base += head
            self._head = 0
