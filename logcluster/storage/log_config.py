"""Settings of one partition log; a frozen value that may be swapped at run time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from logcluster.model.limits import (
    BATCH_SIZE_BYTES_MAX,
    INDEX_INTERVAL_BYTES,
    KIB,
    LOG_TAIL_CACHE_SIZE_BYTES_MAX,
    MESSAGE_SIZE_BYTES_DEFAULT,
    MIB,
    SEGMENT_BATCHES_MAX,
    SEGMENT_SIZE_BYTES_DEFAULT,
)

_DAY_MS: Final = 24 * 60 * 60 * 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class LogConfig:
    """Settings of one partition log.

    Args:
        segment_bytes: a segment is closed before it would grow beyond this.
        segment_batches_max: a segment is closed when it holds so many batches, which bounds how long recovery takes.
        segment_ms: a segment is closed when its records span more time than this.
        retention_ms: a segment whose newest record is older may be deleted; None keeps for ever.
        retention_bytes: the oldest segments may be deleted while the rest holds this much; None for no bound.
        max_message_bytes: the largest batch a client may append; not checked here.
        index_interval_bytes: distance of two entries of the sparse index.
        preallocate: reserve blocks ahead of appends, which makes them and their fdatasync cheaper.
        preallocate_bytes_min: the first reservation; each later one doubles.
        preallocate_bytes_max: the largest reservation ahead of the end.
        tail_cache_bytes_max: recently appended bytes that this log keeps in memory.
    """

    segment_bytes: int = SEGMENT_SIZE_BYTES_DEFAULT
    segment_batches_max: int = SEGMENT_BATCHES_MAX
    segment_ms: int = 7 * _DAY_MS
    retention_ms: int | None = 7 * _DAY_MS
    retention_bytes: int | None = None
    max_message_bytes: int = MESSAGE_SIZE_BYTES_DEFAULT
    index_interval_bytes: int = INDEX_INTERVAL_BYTES
    preallocate: bool = True
    preallocate_bytes_min: int = 64 * KIB
    preallocate_bytes_max: int = 16 * MIB
    tail_cache_bytes_max: int = LOG_TAIL_CACHE_SIZE_BYTES_MAX

    def __post_init__(self) -> None:
        for name in ("segment_bytes", "segment_batches_max", "segment_ms", "max_message_bytes", "index_interval_bytes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is at least 1")
        if self.max_message_bytes > BATCH_SIZE_BYTES_MAX:
            raise ValueError(f"max_message_bytes is at most {BATCH_SIZE_BYTES_MAX}")
