"""Which segments of a log may be deleted: a pure rule over what the segments say of themselves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from logcluster.storage.segment import Segment


class DeletedSegment(NamedTuple):
    """A segment that retention removed."""

    base_offset: int
    next_offset: int
    size_bytes: int


def count_deletable(
    segments: Sequence[Segment],
    *,
    now_ms: int,
    high_watermark: int,
    log_start_offset: int,
    retention_ms: int | None,
    retention_bytes: int | None,
) -> int:
    """How many of the oldest segments may go; all of them means that the active one is to be rolled first.

    A segment goes when it is wholly below the high watermark and either its newest record is older than `retention_ms`,
    or those behind it hold `retention_bytes`, or it lies below the log start. A segment whose records have no timestamp
    never gets too old.
    """
    size_bytes = sum(segment.size_bytes for segment in segments)
    count = 0
    for segment in segments:
        if segment.next_offset > high_watermark or segment.size_bytes == 0:
            break
        size_bytes -= segment.size_bytes
        is_too_old = retention_ms is not None and 0 <= segment.max_timestamp_ms < now_ms - retention_ms
        is_too_much = retention_bytes is not None and size_bytes >= retention_bytes
        if not (is_too_old or is_too_much or segment.next_offset <= log_start_offset):
            break
        count += 1
    return count
