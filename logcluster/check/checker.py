"""Judges a history: builds the index once, runs every check over it, returns a report.

Owns the list of check families. A new family (transactions, queues) is a module with `CHECKS` and a line here.
Cost: one pass over events and records, a sort of offsets per key; linear in practice (bench/checker.py).
"""

from __future__ import annotations

from collections.abc import Sequence

from logcluster.check import cycles, group_checks, log_loss, log_order, log_service, log_values
from logcluster.check.build import build_index
from logcluster.check.history import Event, collector_paused
from logcluster.check.registry import Check, CheckOptions, Findings
from logcluster.check.report import Report

FAMILIES: tuple[tuple[Check, ...], ...] = (
    log_values.CHECKS,
    log_loss.CHECKS,
    log_order.CHECKS,
    log_service.CHECKS,
    cycles.CHECKS,
    group_checks.CHECKS,
)


def rules() -> dict[str, str]:
    """Every anomaly that can be reported, with why it is illegal. Raises ValueError when two checks claim one name."""
    known: dict[str, str] = {}
    for checks in FAMILIES:
        for check_ in checks:
            for name, why in check_.rules.items():
                if name in known:
                    raise ValueError(f"two checks report {name!r}")
                known[name] = why
    return known


def check(events: Sequence[Event], options: CheckOptions | None = None) -> Report:
    """The report on a whole history, whose events are in order of index and time."""
    chosen = options or CheckOptions()
    findings = Findings(chosen, rules())
    with collector_paused():
        index = build_index(events)
        for checks in FAMILIES:
            for check_ in checks:
                check_.run(index, findings)
    return Report(
        anomalies=[anomaly for anomaly in findings.anomalies if anomaly.name not in chosen.tolerated],
        tolerated=[anomaly for anomaly in findings.anomalies if anomaly.name in chosen.tolerated],
        counts=findings.counts,
        metrics=findings.metrics,
        rules=findings.rules,
        events={event.index: event for event in index.events} if findings.anomalies else {},
    )
