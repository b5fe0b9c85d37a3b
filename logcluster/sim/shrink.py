"""Makes the plan of a failing run as small as it can be made in so many runs: fewer faults, shorter, on fewer nodes.

Delta debugging (Zeller's ddmin) over the faults first, since a plan without a fault says most; then, fault by fault:
shorter durations, lower counts and sizes, fewer targets. What stays fails in the same way as the whole did, as
`fails` sees it: the same finding under the same seed. The search is deterministic and knows nothing of worlds.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from logcluster.sim.faults.kinds import KINDS, ArgumentValue, FaultKind
from logcluster.sim.faults.plan import Fault, Plan

RUNS_MAX_DEFAULT: Final = 200

Fails = Callable[[Plan], bool]
"""Runs a plan; whether the finding shows again."""
Progress = Callable[["ShrinkProgress"], None]


@dataclass(frozen=True, slots=True)
class ShrinkProgress:
    """After each run.

    Args:
        step: what is being tried.
        fault_count: faults of the smallest failing plan so far.
    """

    runs: int
    runs_max: int
    step: str
    fault_count: int


@dataclass(frozen=True, slots=True)
class Shrunk:
    """The smallest plan found.

    Args:
        runs: how often `fails` was asked.
        is_minimal: nothing more could be left out; False when the runs were used up before.
    """

    plan: Plan
    runs: int
    is_minimal: bool


class _RunsUsedUp(Exception):
    pass


def shrink(plan: Plan, fails: Fails, *, runs_max: int = RUNS_MAX_DEFAULT, progress: Progress | None = None) -> Shrunk:
    """Find a smaller plan that still fails.

    Args:
        plan: one that fails; it is not run again.
        runs_max: how often `fails` may be asked.
    """
    search = _Search(plan, fails, runs_max, progress)
    try:
        search.drop_faults()
        while search.simplify():
            search.drop_faults()
    except _RunsUsedUp:
        return Shrunk(search.best, search.runs, is_minimal=False)
    return Shrunk(search.best, search.runs, is_minimal=True)


class _Search:
    def __init__(self, plan: Plan, fails: Fails, runs_max: int, progress: Progress | None) -> None:
        self.best = plan
        self.runs = 0
        self._fails = fails
        self._runs_max = runs_max
        self._progress = progress
        self._known: dict[str, bool] = {_key(plan): True}

    def _try(self, faults: Sequence[Fault], step: str) -> bool:
        """Run with these faults; when it still fails, they are the best known.

        Raises:
            _RunsUsedUp: no run is left.
        """
        plan = self.best.with_faults(faults)
        key = _key(plan)
        if key not in self._known:
            if self.runs >= self._runs_max:
                raise _RunsUsedUp
            self.runs += 1
            self._known[key] = self._fails(plan)
            if self._known[key]:
                self.best = plan
            if self._progress is not None:
                self._progress(ShrinkProgress(self.runs, self._runs_max, step, len(self.best.faults)))
        elif self._known[key]:
            self.best = plan
        return self._known[key]

    def drop_faults(self) -> None:
        """Leave out ever smaller parts, until no single fault can go."""
        if self.best.faults and self._try((), "no fault at all"):
            return
        parts = 2
        while len(self.best.faults) > 1:
            faults = self.best.faults
            parts = min(parts, len(faults))
            if self._drop_a_part(faults, parts):
                parts = max(2, parts - 1)
            elif parts == len(faults):
                return
            else:
                parts *= 2

    def _drop_a_part(self, faults: Sequence[Fault], parts: int) -> bool:
        bounds = [len(faults) * index // parts for index in range(parts + 1)]
        # The first faults are the likelier to be needless: what fails, fails because of what came last.
        for begin, end in itertools.pairwise(bounds):
            step = f"without {end - begin} of {len(faults)} faults"
            if self._try([*faults[:begin], *faults[end:]], step):
                return True
        return False

    def simplify(self) -> bool:
        """Make each fault shorter and smaller as far as it goes; returns whether anything became simpler."""
        before = self.best
        for number in [fault.number for fault in self.best.faults]:
            while self._simplify_one(number):
                pass
        return self.best != before

    def _simplify_one(self, number: int) -> bool:
        faults = self.best.faults
        index = next(index for index, fault in enumerate(faults) if fault.number == number)
        for simpler, step in _simpler(faults[index], self.best.brokers):
            if self._try([*faults[:index], simpler, *faults[index + 1 :]], f"#{number}: {step}"):
                return True
        return False


def _key(plan: Plan) -> str:
    return repr([fault.to_json() for fault in plan.faults])


def _simpler(fault: Fault, brokers: int) -> Iterator[tuple[Fault, str]]:
    """Faults that are simpler in one respect, the boldest first; each is smaller in a measure that ends."""
    for duration_ms in (fault.duration_ms // 4, fault.duration_ms // 2):
        if 0 < duration_ms < fault.duration_ms:
            yield replace(fault, duration_ms=duration_ms), f"{duration_ms} ms instead of {fault.duration_ms}"
    for targets in _fewer_targets(fault, brokers):
        yield replace(fault, targets=targets), f"on {' and '.join(targets)}"
    for name, value in fault.arguments.items():
        for smaller in _smaller(fault.kind, name, value):
            yield replace(fault, arguments={**fault.arguments, name: smaller}), f"{name} = {smaller}"


_NARROWER: Final = {"all": ("majority", "random"), "majority": ("random:2", "random"), "minority": ("random",)}


def _fewer_targets(fault: Fault, brokers: int) -> Iterator[tuple[str, ...]]:
    if len(fault.targets) > KINDS[fault.kind].targets_min:
        for index in range(len(fault.targets)):
            yield (*fault.targets[:index], *fault.targets[index + 1 :])
    if KINDS[fault.kind].targets_min != 1:
        return
    for index, target in enumerate(fault.targets):
        name, _, count_text = target.partition(":")
        narrower = list(_NARROWER.get(target, ()))
        if name == "random" and count_text and int(count_text) > 1:
            narrower = [f"random:{int(count_text) - 1}"] if int(count_text) > 2 else ["random"]
        if len(fault.targets) == 1 and narrower:
            narrower += [f"node:{node_id}" for node_id in range(brokers)]
        for other in narrower:
            yield (*fault.targets[:index], other, *fault.targets[index + 1 :])


_LEFT_ALONE: Final = frozenset({"down_ms", "free_bytes", "hit", "writes", "factor", "delay_ms_min", "latency_ms_min"})
"""Where less is not simpler, only different."""


def _smaller(kind: FaultKind, name: str, value: ArgumentValue) -> Iterator[ArgumentValue]:
    """Simpler values of one argument: false for true, half of a number down to its least."""
    spec = KINDS[kind].arguments[name]
    if isinstance(value, bool):
        if value != spec.default:
            yield spec.default
        return
    if name in _LEFT_ALONE or isinstance(value, str):
        return
    if isinstance(value, int):
        least = int(max(spec.low, 1))
        halves = (least, value // 2) if value > 0 else (int(value / 2),)
        for smaller in dict.fromkeys(halves):
            if abs(smaller) < abs(value) and spec.problem(smaller) is None:
                yield smaller
