"""The figures of a run as data that JSON can hold; result.py documents the keys, and they only ever grow."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from chaos.report.analysis import PROBE_NS_MAX, Figures, Tally
from chaos.report.cluster import Fault
from chaos.report.reading import Record
from chaos.report.wording import percent
from logcluster.check.registry import Anomaly

FORMAT = 1
_MS_NS = 1_000_000


def facts_of(record: Record, figures: Figures) -> dict[str, Any]:
    """Everything but verdict and anomalies."""
    run = record.run
    availabilities = figures.availabilities
    longest = figures.longest_gap
    return {
        "format": FORMAT,
        "scenario": run.scenario,
        "description": run.description,
        "seed": run.seed,
        "target": run.target,
        "machine": run.machine,
        "versions": dict(run.versions),
        "command": run.command,
        "ablations": list(run.ablations),
        "missing": list(record.notes),
        "begin_wall_ns": run.begin_wall_ns,
        "duration_ms": (figures.scale.end_ns - figures.scale.begin_ns) // _MS_NS,
        "faults": _faults(record.faults),
        "not_supported": dict(run.skipped),
        "operations": _operations(figures),
        "clients": [
            {"client": client, "operation": operation, **_tally(tally)}
            for (client, operation), tally in figures.clients.items()
        ],
        "partitions": _partitions(figures),
        "availability": {
            "worst": availabilities[0] if availabilities else None,
            "mean": sum(availabilities) / len(availabilities) if availabilities else None,
            "probe_ms_max": PROBE_NS_MAX // _MS_NS,
            "bound": run.bounds.availability_min,
        },
        "gaps": [
            {
                "partition": gap.key,
                "begin_ms": (gap.begin_ns - figures.scale.begin_ns) // _MS_NS,
                "length_ms": gap.length_ms,
                "is_open": gap.is_open,
                "kind": gap.kind,
                "faults": list(gap.faults),
            }
            for gap in figures.gaps
        ],
        "gaps_by_kind": [{**dataclasses.asdict(line), "is_met": line.is_met} for line in figures.kinds],
        "longest_gap_ms": None if longest is None else longest.length_ms,
        "leader_changes": figures.leader_changes,
        "controller_changes": figures.controller_changes,
        "is_drained": figures.is_drained,
    }


def headline(facts: Mapping[str, Any]) -> dict[str, int | str | None]:
    """The few for a terminal: `faults`, `acked_writes`, `availability` of the worst partition, `longest_gap_ms`,
    and for each kind of fault that stopped writes `gap_p99_ms_KIND`, over faults with the longest gap of each.
    """
    told: dict[str, int | str | None] = {
        "faults": sum(facts["faults"]["done"].values()),
        "acked_writes": facts["operations"]["writes_ok"],
        "availability": percent(facts["availability"]["worst"]),
        "longest_gap_ms": facts["longest_gap_ms"],
    }
    for line in facts["gaps_by_kind"]:
        if line["gaps"]:
            told[f"gap_p99_ms_{line['kind'].replace(' + ', '_')}"] = line["worst_p99_ms"]
    return told


def done_by_kind(faults: list[Fault]) -> dict[str, int]:
    """How many faults of each kind were done."""
    counted: dict[str, int] = {}
    for fault in faults:
        if fault.status == "done":
            counted[fault.kind] = counted.get(fault.kind, 0) + 1
    return dict(sorted(counted.items()))


def anomaly_facts(anomaly: Anomaly, rules: Mapping[str, str]) -> dict[str, Any]:
    """One anomaly, with why it is illegal."""
    return {
        "name": anomaly.name,
        "key": anomaly.key,
        "why": rules.get(anomaly.name, ""),
        "detail": anomaly.detail,
        "events": list(anomaly.events),
        "offsets": list(anomaly.offsets),
    }


def _faults(faults: list[Fault]) -> dict[str, Any]:
    told: dict[str, Any] = {"done": done_by_kind(faults), "skipped": [], "failed": []}
    for fault in faults:
        if fault.status != "done":
            told[fault.status].append(
                {"number": fault.number, "kind": fault.kind, "role": fault.role, "reason": fault.detail}
            )
    return told


def _operations(figures: Figures) -> dict[str, int]:
    return {
        "events": figures.events,
        "ok": figures.total("ok"),
        "fail": figures.total("fail"),
        "unknown": figures.total("unknown"),
        "never_completed": figures.total("never_completed"),
        "writes_ok": sum(figures.writes_ok),
        "writes_fail": sum(figures.writes_fail),
        "writes_unknown": sum(figures.writes_unknown),
        "records_read": sum(figures.records_read),
    }


def _tally(tally: Tally) -> dict[str, int | None]:
    return {
        "ok": tally.ok,
        "fail": tally.fail,
        "unknown": tally.unknown,
        "never_completed": tally.never_completed,
        "p50_us": tally.latency_us(0.50),
        "p99_us": tally.latency_us(0.99),
        "max_us": tally.latency_us(1.0),
    }


def _partitions(figures: Figures) -> list[dict[str, Any]]:
    return [
        {
            "partition": part.key,
            **_tally(part.tally),
            "seconds_good": part.good,
            "seconds_bad": part.bad,
            "availability": part.availability,
            "longest_gap_ms": None if part.longest_gap_ns is None else part.longest_gap_ns // _MS_NS,
            "leader_changes": len(part.history.leader_changes_ns),
            "in_sync_min": part.history.smallest,
        }
        for part in figures.partitions.values()
    ]
