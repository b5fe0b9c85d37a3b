"""Reads what a run left behind, and says what is missing instead of failing: a report is most wanted after a bad end.

Owns the fields of run.json, faults.jsonl and states.jsonl that reports rely on. `Record.problems` are reasons why the
run is not what it says it is (exit status 2), `Record.notes` only leave something out of the page.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chaos.interfaces import RunFiles
from chaos.report.cluster import Fault, PartitionStates, pair_faults
from chaos.report.gaps import GapBounds
from logcluster.check.history import Event, HistoryFormatError, decode_event


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a scenario promises; what is absent is not judged.

    `availability_min`: share of good seconds of each probed partition, 0 to 1. `acked_records_min`: writes that must
    have been acknowledged, or else the run has shown nothing.
    """

    gaps: GapBounds = field(default_factory=GapBounds)
    availability_min: float | None = None
    acked_records_min: int = 1

    @classmethod
    def parse(cls, raw: Mapping[str, Any]) -> Bounds:
        """From `gap_s_max`, `gap_s_max_of` (kind of fault -> seconds), `availability_percent_min`,
        `acked_records_min`; 0 stands for no bound.
        """
        gap_ms = _milliseconds(raw.get("gap_s_max"))
        of_kind = {str(kind): _milliseconds(bound) for kind, bound in _mapping(raw.get("gap_s_max_of")).items()}
        percent = raw.get("availability_percent_min")
        acked = _integer(raw.get("acked_records_min"))
        return cls(
            GapBounds(gap_ms, {kind: bound for kind, bound in of_kind.items() if bound is not None}),
            round(percent / 100, 9) if isinstance(percent, int | float) and percent > 0 else None,
            1 if acked is None else acked,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """run.json.

    Args:
        begin_ns, end_ns: CLOCK_MONOTONIC, of `began` and `ended`.
        begin_wall_ns: the wall clock at `begin_ns`, since 1970.
        command: does the same again.
        skipped: what the target cannot do here -> why.
        ablations: safeguards that were off.
        expected_anomalies: at least one of these must be found, and then the run passes.
        fault_count: how many were meant to strike; None when not said.
    """

    scenario: str = "unknown"
    description: str = ""
    seed: str = "unknown"
    target: str = "unknown"
    brokers: tuple[str, ...] = ()
    begin_ns: int | None = None
    begin_wall_ns: int | None = None
    end_ns: int | None = None
    command: str = ""
    machine: str = "unknown"
    versions: Mapping[str, str] = field(default_factory=dict)
    skipped: Mapping[str, str] = field(default_factory=dict)
    ablations: tuple[str, ...] = ()
    expected_anomalies: tuple[str, ...] = ()
    fault_count: int | None = None
    bounds: Bounds = field(default_factory=Bounds)


@dataclass
class Record:
    """A run as its files tell it."""

    run: Run
    faults: list[Fault] = field(default_factory=list)
    states: PartitionStates = field(default_factory=PartitionStates)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def read_record(files: RunFiles) -> Record:
    """Everything but the history. Never raises for what the files hold."""
    record = Record(Run())
    _read_run(files.run, record)
    record.faults = pair_faults(_objects(files.faults, record))
    for line in _objects(files.states, record):
        record.states.add(line)
    return record


def read_events(path: Path, record: Record) -> Iterator[Event]:
    """The events of a history one after the other; lines that are none are counted among problems or notes."""
    if not path.is_file():
        record.problems.append(f"{path.name} is missing: nothing is known of what clients saw")
        return
    bad: list[int] = []
    is_torn = False
    with path.open(encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                event = decode_event(line)
                is_sound = type(event.t_ns) is int and type(event.index) is int and isinstance(event.meta, dict)
            except HistoryFormatError:
                is_sound = False
            if is_sound:
                yield event
            elif line.endswith("\n"):
                bad.append(number)
            else:
                is_torn = True
    if bad:
        record.problems.append(f"{path.name}: {len(bad)} lines are no events, the first is line {bad[0]}")
    if is_torn:
        record.notes.append(f"{path.name}: the last line is torn and was left out")


def _read_run(path: Path, record: Record) -> None:
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        record.problems.append(f"{path.name} is missing: scenario, seed and clocks are unknown")
        return
    except (OSError, ValueError) as error:
        record.problems.append(f"{path.name} cannot be read: {error}")
        return
    if not isinstance(raw, dict):
        record.problems.append(f"{path.name} holds no object")
        return
    record.run = _run_of(raw)
    if record.run.begin_ns is None or record.run.begin_wall_ns is None:
        record.notes.append(f"{path.name} holds no pair of clocks: log lines cannot be placed")


def _run_of(raw: Mapping[str, Any]) -> Run:
    began, ended = _mapping(raw.get("began")), _mapping(raw.get("ended"))
    command, machine = raw.get("command", ""), raw.get("machine", "unknown")
    named = {"logcluster": raw.get("version"), "python": raw.get("python"), **_mapping(raw.get("versions"))}
    return Run(
        scenario=str(raw.get("scenario", "unknown")),
        description=str(raw.get("description", "")),
        seed=str(raw.get("seed", "unknown")),
        target=str(raw.get("target", "unknown")),
        brokers=_texts(raw.get("brokers")),
        begin_ns=_integer(began.get("monotonic_ns")),
        begin_wall_ns=_integer(began.get("wall_ns")),
        end_ns=_integer(ended.get("monotonic_ns")),
        command=" ".join(map(str, command)) if isinstance(command, list) else str(command),
        machine=", ".join(f"{name} {fact}" for name, fact in machine.items())
        if isinstance(machine, dict)
        else str(machine),
        versions={name: str(version) for name, version in named.items() if version},
        skipped={str(name): str(reason) for name, reason in _mapping(raw.get("skipped")).items()},
        ablations=_texts(raw.get("ablations")),
        expected_anomalies=_texts(raw.get("expected_anomalies")),
        fault_count=_integer(raw.get("fault_count")),
        bounds=Bounds.parse(_mapping(raw.get("bounds"))),
    )


def _objects(path: Path, record: Record) -> Iterator[dict[str, Any]]:
    """The objects of a file of JSON lines that have a time."""
    if not path.is_file():
        record.notes.append(f"{path.name} is missing: {_WITHOUT[path.name]}")
        return
    bad = 0
    is_torn = False
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            if not line.strip():
                continue
            try:
                raw = json.loads(line)
            except ValueError:
                raw = None
            if isinstance(raw, dict) and _integer(raw.get("t_ns")) is not None:
                yield raw
            elif line.endswith("\n"):
                bad += 1
            else:
                is_torn = True
    if bad:
        record.problems.append(f"{path.name}: {bad} lines cannot be read")
    if is_torn:
        record.notes.append(f"{path.name}: the last line is torn and was left out")


_WITHOUT = {
    "faults.jsonl": "no fault is on record",
    "states.jsonl": "leaders and in-sync replicas are unknown",
}


def _mapping(raw: Any) -> Mapping[str, Any]:
    return raw if isinstance(raw, dict) else {}


def _texts(raw: Any) -> tuple[str, ...]:
    return tuple(map(str, raw)) if isinstance(raw, list) else ()


def _milliseconds(raw: Any) -> int | None:
    """Of seconds; None for 0 and for what is no number."""
    return round(raw * 1000) if isinstance(raw, int | float) and raw > 0 else None


def _integer(raw: Any) -> int | None:
    return raw if isinstance(raw, int) and not isinstance(raw, bool) else None
