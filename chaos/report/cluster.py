"""What was done to the cluster and what it looked like: faults as intervals, leaders and in-sync replicas as changes.

Pure. A fault is one number in faults.jsonl, from its `begin` to its `end`; one that never ends is in force until the
run is over. Of states only changes are kept, so that hours of samples cost little.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

FaultStatus = Literal["done", "skipped", "failed"]
NO_LEADER = 0
"""The size of in-sync replicas that stands for a partition without a leader in pictures."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One fault. `begin_ns` is when it was noted first; `end_ns` is None when no end was noted.

    `nodes` are broker ids, or names of clients; `role` what was aimed at; `detail` text for people, or why it was
    skipped or failed.
    """

    number: int
    kind: str
    status: FaultStatus
    nodes: tuple[str, ...]
    role: str
    detail: str
    begin_ns: int
    end_ns: int | None

    def in_force_at(self, t_ns: int) -> bool:
        """Whether it was being done then."""
        return self.status == "done" and self.begin_ns <= t_ns and (self.end_ns is None or t_ns <= self.end_ns)


def pair_faults(lines: Iterable[Mapping[str, Any]]) -> list[Fault]:
    """The faults of lines of faults.jsonl, in order of their beginning."""
    grouped: dict[object, list[Mapping[str, Any]]] = {}
    for position, line in enumerate(lines):
        number = line.get("number")
        grouped.setdefault(number if isinstance(number, int) else f"line {position}", []).append(line)
    faults = [_pair(number if isinstance(number, int) else 0, parts) for number, parts in grouped.items()]
    return sorted(faults, key=lambda fault: (fault.begin_ns, fault.number))


def _pair(number: int, parts: list[Mapping[str, Any]]) -> Fault:
    first = parts[0]
    phases = {str(part.get("phase")): part for part in parts}
    status: FaultStatus = "failed" if "failed" in phases else "skipped" if "skipped" in phases else "done"
    told = [phases.get(status, first), phases.get("end", first), first]
    nodes: object = next((part["nodes"] for part in parts if part.get("nodes")), [])
    end = phases.get("end")
    return Fault(
        number=number,
        kind=str(first.get("kind", "unknown")),
        status=status,
        nodes=tuple(str(node) for node in (nodes if isinstance(nodes, list) else [nodes])),
        role=_text(next((part["role"] for part in parts if part.get("role")), "")),
        detail=next((_text(part["detail"]) for part in told if part.get("detail")), ""),
        begin_ns=int(first["t_ns"]),
        end_ns=None if end is None else int(end["t_ns"]),
    )


def _text(raw: Any) -> str:
    """Details may be text or data."""
    if raw is None:
        return ""
    return raw if isinstance(raw, str) else json.dumps(raw, ensure_ascii=False, default=str)


@dataclass
class PartitionHistory:
    """Of one partition: when in-sync replicas changed (times and sizes), and when another leader was seen."""

    times_ns: list[int] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    leader_changes_ns: list[int] = field(default_factory=list)
    leader: object = None
    epoch: object = None

    @property
    def smallest(self) -> int | None:
        """The fewest in-sync replicas while there was a leader."""
        return min((size for size in self.sizes if size != NO_LEADER), default=None)


@dataclass
class PartitionStates:
    """All of states.jsonl."""

    partitions: dict[str, PartitionHistory] = field(default_factory=dict)
    controller_changes: int = 0
    samples: int = 0
    _controller: object = None

    def add(self, line: Mapping[str, Any]) -> None:
        """Take in one sample; samples ascend in time."""
        self.samples += 1
        t_ns = int(line["t_ns"])
        controller = line.get("controller")
        if controller is not None:
            self.controller_changes += self._controller not in (None, controller)
            self._controller = controller
        partitions = line.get("partitions")
        for key, state in partitions.items() if isinstance(partitions, dict) else ():
            if isinstance(state, dict):
                self._add_partition(self.partitions.setdefault(str(key), PartitionHistory()), t_ns, state)

    @staticmethod
    def _add_partition(history: PartitionHistory, t_ns: int, state: Mapping[str, Any]) -> None:
        leader, epoch, replicas = state.get("leader"), state.get("epoch"), state.get("isr")
        has_leader = leader is not None and leader != -1
        size = len(replicas) if has_leader and isinstance(replicas, list) else NO_LEADER
        if not history.sizes or history.sizes[-1] != size:
            history.times_ns.append(t_ns)
            history.sizes.append(size)
        if has_leader:
            if history.leader is not None and (history.leader, history.epoch) != (leader, epoch):
                history.leader_changes_ns.append(t_ns)
            history.leader, history.epoch = leader, epoch
