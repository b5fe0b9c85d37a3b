"""How long writes to a partition stopped, and which fault explains it.

A gap lies between two acknowledged writes of a partition. It begins with the first attempt after an acknowledgement,
or with that acknowledgement if attempts were under way: the same wait as the checker's `unavailable`. Shorter ones than
`GAP_NS_MIN` are ordinary latency. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from chaos.kinds import KINDS
from chaos.report.cluster import Fault
from chaos.report.operations import Operation

GAP_NS_MIN = 200_000_000
AFTERMATH_NS = 5_000_000_000
"""A gap that no fault overlaps belongs to the fault that ended last, if that is not longer ago."""
UNEXPLAINED = "none"
"""The kind of gaps that no fault explains."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """Writes to `key` were tried and none was acknowledged in [begin, end).

    `is_open`: no acknowledgement followed; the end is then that of the last attempt. `kind`: the kinds of its faults,
    joined by " + ", or `UNEXPLAINED`.
    """

    key: str
    begin_ns: int
    end_ns: int
    is_open: bool
    faults: tuple[int, ...] = ()
    kind: str = UNEXPLAINED

    @property
    def length_ms(self) -> int:
        return (self.end_ns - self.begin_ns) // 1_000_000


@dataclass(frozen=True, slots=True)
class GapBounds:
    """How long writes to a partition may stop, in milliseconds, judged by `KindFigures.worst_p99_ms`.

    `of_kind`: for some kinds of faults; `any_kind`: for all others, and for gaps that no fault explains.
    """

    any_kind: int | None = None
    of_kind: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class KindFigures:
    """Gaps of one kind of fault, in milliseconds; percentiles by nearest rank, None without gaps.

    `faults`: done, or for a mixture of kinds those that took part; `stopping`: of these, how many stopped writes at
    all. `p50_ms`, `p99_ms`, `max_ms` are over gaps, one per partition; `worst_p50_ms`, `worst_p99_ms` over faults that
    stopped writes, each with its longest gap, and it is this p99 that `bound_ms` is about.
    """

    kind: str
    faults: int
    stopping: int
    gaps: int
    p50_ms: int | None
    p99_ms: int | None
    max_ms: int | None
    worst_p50_ms: int | None
    worst_p99_ms: int | None
    bound_ms: int | None

    @property
    def is_met(self) -> bool | None:
        """Whether the bound is kept; None when there is none, or nothing to judge."""
        if self.bound_ms is None or (not self.faults and not self.gaps):
            return None
        return self.worst_p99_ms is None or self.worst_p99_ms <= self.bound_ms


def percentile(ordered: Sequence[int], share: float) -> int | None:
    """By nearest rank, of ascending values; None of nothing."""
    if not ordered:
        return None
    rank = -int(-(share * len(ordered)) // 1)
    return ordered[min(len(ordered), max(1, rank)) - 1]


def find_gaps(key: str, writes: Iterable[Operation], faults: Sequence[Fault], end_ns: int) -> tuple[list[Gap], int]:
    """The gaps of a partition of at least `GAP_NS_MIN`, and its longest wait, however short, in nanoseconds."""
    moments: list[tuple[int, int, bool]] = []
    for write in writes:
        if write.is_weak:
            continue
        write_end_ns = _end_of(write, faults, end_ns)
        moments.append((write.begin_ns, 1, False))
        moments.append((write_end_ns, 0 if write_end_ns > write.begin_ns else 2, write.outcome == "ok"))
    moments.sort()
    gaps: list[Gap] = []
    longest_ns = under_way = 0
    wanted_ns: int | None = None
    for t_ns, order, is_acknowledged in moments:
        if order == 1:
            under_way += 1
            wanted_ns = t_ns if wanted_ns is None else wanted_ns
            continue
        under_way -= 1
        if is_acknowledged and wanted_ns is not None:
            longest_ns = max(longest_ns, t_ns - wanted_ns)
            if t_ns - wanted_ns >= GAP_NS_MIN:
                gaps.append(explain(Gap(key=key, begin_ns=wanted_ns, end_ns=t_ns, is_open=False), faults))
            wanted_ns = t_ns if under_way else None
    if wanted_ns is not None:
        last_ns = moments[-1][0]
        longest_ns = max(longest_ns, last_ns - wanted_ns)
        if last_ns - wanted_ns >= GAP_NS_MIN:
            gaps.append(explain(Gap(key=key, begin_ns=wanted_ns, end_ns=last_ns, is_open=True), faults))
    return gaps, longest_ns


def _end_of(write: Operation, faults: Sequence[Fault], end_ns: int) -> int:
    """A write without completion was wanted until its client was killed, or else until the run was over."""
    if write.outcome != "open":
        return write.end_ns
    kills = (
        fault.begin_ns
        for fault in faults
        if fault.kind == "client-kill" and fault.status == "done" and fault.begin_ns >= write.end_ns
    )
    return max(write.begin_ns, min(kills, default=end_ns))


def explain(gap: Gap, faults: Sequence[Fault]) -> Gap:
    """The gap with the faults that were in force meanwhile, or else with the last that ended before it.

    Faults that are not supposed to stop writes (of clients, of clocks) explain only what no other fault in force does.
    """
    done = [fault for fault in faults if fault.status == "done"]
    meanwhile = [
        fault
        for fault in done
        if fault.begin_ns <= gap.end_ns and (fault.end_ns is None or fault.end_ns >= gap.begin_ns)
    ]
    chosen = [fault for fault in meanwhile if _may_stop_writes(fault.kind)] or meanwhile
    if not chosen:
        before = [
            (fault.end_ns, fault.number, fault)
            for fault in done
            if fault.end_ns is not None and gap.begin_ns - AFTERMATH_NS <= fault.end_ns < gap.begin_ns
        ]
        chosen = [max(before)[2]] if before else []
    kinds = sorted({fault.kind for fault in chosen})
    return Gap(
        key=gap.key,
        begin_ns=gap.begin_ns,
        end_ns=gap.end_ns,
        is_open=gap.is_open,
        faults=tuple(fault.number for fault in chosen),
        kind=" + ".join(kinds) or UNEXPLAINED,
    )


def _may_stop_writes(kind: str) -> bool:
    known = KINDS.get(kind)
    return known is None or known.is_availability


def figures_by_kind(gaps: Sequence[Gap], faults: Sequence[Fault], bounds: GapBounds) -> list[KindFigures]:
    """One line per kind of fault that was done, mixtures after them, unexplained gaps last."""
    done: dict[str, int] = {}
    for fault in faults:
        if fault.status == "done":
            done[fault.kind] = done.get(fault.kind, 0) + 1
    by_kind: dict[str, list[Gap]] = {kind: [] for kind in sorted(done)}
    for gap in sorted(gaps, key=lambda gap: (gap.kind == UNEXPLAINED, gap.kind)):
        by_kind.setdefault(gap.kind, []).append(gap)
    return [_figures_of(kind, found, done.get(kind), bounds) for kind, found in by_kind.items()]


def _figures_of(kind: str, gaps: Sequence[Gap], done: int | None, bounds: GapBounds) -> KindFigures:
    lengths = sorted(gap.length_ms for gap in gaps)
    worst: dict[int, int] = {}
    for gap in gaps:
        for number in gap.faults:
            worst[number] = max(worst.get(number, 0), gap.length_ms)
    per_fault = sorted(worst.values()) if kind != UNEXPLAINED else lengths
    return KindFigures(
        kind=kind,
        faults=len(worst) if done is None else done,
        stopping=len(worst),
        gaps=len(gaps),
        p50_ms=percentile(lengths, 0.50),
        p99_ms=percentile(lengths, 0.99),
        max_ms=lengths[-1] if lengths else None,
        worst_p50_ms=percentile(per_fault, 0.50),
        worst_p99_ms=percentile(per_fault, 0.99),
        bound_ms=_bound_of(kind, bounds),
    )


def _bound_of(kind: str, bounds: GapBounds) -> int | None:
    """Of a mixture: the loosest of its kinds, and none if one of them has none."""
    each = [bounds.of_kind.get(part, bounds.any_kind) for part in kind.split(" + ")]
    known = [bound for bound in each if bound is not None]
    return max(known) if len(known) == len(each) else None
