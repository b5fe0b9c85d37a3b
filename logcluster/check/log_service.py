"""Checks and measures of service: how long writes failed, how far readers lagged, whether the end of the log went back.

Owns stale-list-offsets, and the metrics behind availability and real-time lag, which become anomalies only where a
bound is set. Unavailability counts only while somebody wants something: from the first attempt after the last success
(or from that success, if attempts were under way) until the next success. Lag is a lower bound: a poll's invocation
minus the time when the reader's last offset stopped being the newest. Sources: Redpanda's chaos suite, Jepsen Kafka
workload.
"""

from __future__ import annotations

from logcluster.check.entries import Index
from logcluster.check.registry import Check, Findings

SERIES_POINTS = 60
_MS = 1_000_000


def check_ends(index: Index, findings: Findings) -> None:
    """list_offsets(latest) must answer above everything acknowledged or read before it was asked."""
    for key, key_index in index.keys.items():
        for stale in key_index.stale_ends:
            detail = f"answered {stale.offset}, but an end of {stale.floor} was known before the question"
            events = [stale.evidence.index, stale.event.index]
            findings.add("stale-list-offsets", key, detail, events, [stale.offset, stale.floor - 1])


def measure_service(index: Index, findings: Findings) -> None:
    """Longest unavailability and lag per key, against the bounds of the run if there are any."""
    options = findings.options
    unavailable: dict[str, int] = {}
    lag: dict[str, int] = {}
    for key, key_index in index.keys.items():
        is_deleted = key_index.topic in index.deleted_topics
        unavailable[key] = gap_ms = key_index.unavailable_ns // _MS
        lag[key] = lag_ms = key_index.lag_ns // _MS
        bound_ms = options.unavailability_max_ms
        if bound_ms is not None and gap_ms > bound_ms and key_index.unavailable_until is not None and not is_deleted:
            detail = f"no send succeeded for {gap_ms} ms while some were tried; the bound is {bound_ms} ms"
            findings.add("unavailable", key, detail, [key_index.unavailable_until.index])
        bound_ms = options.realtime_lag_max_ms
        if bound_ms is not None and lag_ms > bound_ms and key_index.lag_event is not None and not is_deleted:
            detail = f"a reader asked from a position that was {lag_ms} ms old; the bound is {bound_ms} ms"
            findings.add("lagging", key, detail, [key_index.lag_event.index])
    findings.metrics["unavailability_max_ms"] = unavailable
    findings.metrics["realtime_lag_max_ms"] = lag


def measure_counts(index: Index, findings: Findings) -> None:
    """How much the history holds; a run that did nothing must not look like one that passed."""
    outcomes = {"ok": 0, "fail": 0, "info": 0}
    for write in index.writes.values():
        outcomes[write.outcome] += 1
    findings.metrics["events"] = len(index.events)
    findings.metrics["keys"] = len(index.keys)
    findings.metrics["sends"] = outcomes
    findings.metrics["polls"] = index.poll_count
    findings.metrics["records_polled"] = index.record_count
    findings.metrics["values_read"] = sum(len(key_index.first_reader) for key_index in index.keys.values())
    findings.metrics["drained"] = index.is_drained


def measure_unseen(index: Index, findings: Findings) -> None:
    """How many acknowledged values nobody had read yet, at even moments of the run: `[[ms, count], ...]`."""
    if not index.events:
        return
    start_ns, end_ns = index.events[0].t_ns, index.events[-1].t_ns
    width_ns = max(1, -(-(end_ns - start_ns + 1) // SERIES_POINTS))
    change = [0] * SERIES_POINTS
    for key_index in index.keys.values():
        first_reader = key_index.first_reader
        for write in key_index.acked_at.values():
            if write.completion is None:
                continue
            acked_ns = write.completion.t_ns
            reader = first_reader.get(write.value)
            if reader is None:
                change[(acked_ns - start_ns) // width_ns] += 1
            elif reader.t_ns > acked_ns:
                change[(acked_ns - start_ns) // width_ns] += 1
                change[(reader.t_ns - start_ns) // width_ns] -= 1
    series = []
    unseen = 0
    for number, difference in enumerate(change):
        unseen += difference
        moment_ns = min(end_ns - start_ns, (number + 1) * width_ns)
        series.append([moment_ns // _MS, unseen])
    findings.metrics["unseen_series"] = series


CHECKS = (
    Check(
        check_ends,
        {
            "stale-list-offsets": "The end of the log was reported below a record already acknowledged or read: "
            "the high watermark that clients see never goes back."
        },
    ),
    Check(
        measure_service,
        {
            "unavailable": "A partition took no write for longer than the run allows.",
            "lagging": "A reader stayed behind the newest record for longer than the run allows.",
        },
    ),
    Check(measure_counts, {}),
    Check(measure_unseen, {}),
)
