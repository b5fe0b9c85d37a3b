"""What a broker says at /metrics, read back: the text format of Prometheus, as far as `logcluster top` needs it.

Pure. prometheus-client belongs to the server; the command line reads the few lines it needs itself. Lines that cannot
be read are skipped: a newer broker may say more than this code knows.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

Labels = tuple[tuple[str, str], ...]
"""Names and values, in order of name."""

_SAMPLE: Final = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? +(\S+)(?: +-?\d+)?")
_LABEL: Final = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\]|\\.)*)"')
_ESCAPED: Final = re.compile(r"\\(.)")
_TYPE_PREFIX: Final = "# TYPE "

START_TIME: Final = "process_start_time_seconds"
EVENT_LOOP_LAG: Final = "logcluster_event_loop_lag_seconds"
REQUESTS: Final = "logcluster_broker_requests_total"
REQUEST_BYTES: Final = "logcluster_broker_request_bytes_total"
RESPONSE_BYTES: Final = "logcluster_broker_response_bytes_total"
CPU_SECONDS: Final = "process_cpu_seconds_total"
MEMORY: Final = "process_resident_memory_bytes"
DISK_FREE: Final = "logcluster_log_directory_free_bytes"
DISK_SIZE: Final = "logcluster_log_directory_disk_bytes"
DISK_FAILED: Final = "logcluster_log_directory_failed"
REPLICAS_FAILED: Final = "logcluster_log_replicas_failed"
UNDER_MIN_IN_SYNC: Final = "logcluster_partitions_under_min_in_sync"
END_OFFSET: Final = "logcluster_partition_log_end_offset"
PARTITION_BYTES: Final = "logcluster_partition_appended_bytes_total"
WANTED: Final = frozenset({
    START_TIME, f"{EVENT_LOOP_LAG}_bucket", f"{EVENT_LOOP_LAG}_count", f"{EVENT_LOOP_LAG}_sum", REQUESTS, REQUEST_BYTES,
    RESPONSE_BYTES, CPU_SECONDS, MEMORY, DISK_FREE, DISK_SIZE, DISK_FAILED, REPLICAS_FAILED,
    UNDER_MIN_IN_SYNC, END_OFFSET, PARTITION_BYTES,
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class Metrics:
    """The series of one answer.

    Args:
        series: by metric name, then by labels.
        declared: metrics that the answer names, also those without a series yet.
    """

    series: Mapping[str, Mapping[Labels, float]] = field(default_factory=dict)
    declared: frozenset[str] = frozenset()

    def total(self, name: str, **labels: str) -> float | None:
        """Sum of the series that have these labels, whatever others they have.

        None: the metric is not there at all. One that is declared, and has no such series, counts as 0: labels appear
        with the first event.
        """
        if name not in self.series and name not in self.declared:
            return None
        wanted = set(labels.items())
        return sum(value for found, value in self.series.get(name, {}).items() if wanted <= set(found))

    def partition(self, name: str, topic: str, partition: int) -> float | None:
        """The one series of a partition."""
        return self.series.get(name, {}).get((("partition", str(partition)), ("topic", topic)))

    def buckets(self, name: str) -> Iterator[tuple[float, float]]:
        """Upper bounds and cumulated counts of a histogram without other labels, in order."""
        found = [(dict(labels).get("le"), count) for labels, count in self.series.get(f"{name}_bucket", {}).items()]
        yield from sorted((float(bound), count) for bound, count in found if bound is not None)


def parse_metrics(text: str) -> Metrics:
    """Read an answer; only the metrics in `WANTED` are kept."""
    series: dict[str, dict[Labels, float]] = {}
    declared = set()
    for line in text.splitlines():
        if line.startswith(_TYPE_PREFIX):
            name = line[len(_TYPE_PREFIX) :].partition(" ")[0]
            if name in WANTED:
                declared.add(name)
            continue
        if line.partition("{")[0].partition(" ")[0] not in WANTED:
            continue
        match = _SAMPLE.fullmatch(line.rstrip())
        if match is None:
            continue
        try:
            value = float(match[3])
        except ValueError:
            continue
        if math.isfinite(value):
            series.setdefault(match[1], {})[_labels(match[2] or "")] = value
    return Metrics(series, frozenset(declared))


def _labels(text: str) -> Labels:
    return tuple(sorted((name, _ESCAPED.sub(_unescaped, value)) for name, value in _LABEL.findall(text)))


def _unescaped(match: re.Match[str]) -> str:
    return "\n" if match[1] == "n" else match[1]


def increase(before: Metrics, after: Metrics, name: str, **labels: str) -> float | None:
    """How far a counter went between two answers; None: it began anew, or is not known."""
    earlier, later = before.total(name, **labels), after.total(name, **labels)
    if earlier is None or later is None or is_restart(before, after) or later < earlier:
        return None
    return later - earlier


def is_restart(before: Metrics, after: Metrics) -> bool:
    """Whether the answers are of two processes, one after the other."""
    # The start time is worked out from the machine's uptime, and may differ by a clock tick.
    earlier, later = before.total(START_TIME), after.total(START_TIME)
    return earlier is not None and later is not None and abs(later - earlier) > 0.5


def event_loop_lag(before: Metrics, after: Metrics) -> tuple[float | None, float | None]:
    """Mean lag between two answers, and a bound that the worst one kept; seconds.

    What is worse than the last bound counts as that bound. None: nothing was measured in between.
    """
    count = increase(before, after, f"{EVENT_LOOP_LAG}_count")
    seconds = increase(before, after, f"{EVENT_LOOP_LAG}_sum")
    if not count or seconds is None:
        return None, None
    earlier = dict(before.buckets(EVENT_LOOP_LAG))
    worst: float | None = None
    cumulated = 0.0
    for bound, later in after.buckets(EVENT_LOOP_LAG):
        grown = later - earlier.get(bound, 0.0)
        if grown > cumulated:
            worst = bound if math.isfinite(bound) else _last_bound(after)
        cumulated = max(cumulated, grown)
    return seconds / count, worst


def _last_bound(metrics: Metrics) -> float | None:
    """The last bound of the event loop's histogram that is a number."""
    return max((bound for bound, _ in metrics.buckets(EVENT_LOOP_LAG) if math.isfinite(bound)), default=None)
