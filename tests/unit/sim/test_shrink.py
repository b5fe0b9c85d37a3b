"""Shrinking finds the faults that matter, makes them small, and stops when its runs are used up."""

import random

import pytest

from logcluster.sim.faults.kinds import FaultKind
from logcluster.sim.faults.plan import Fault, Plan
from logcluster.sim.faults.swarm import draw_plan
from logcluster.sim.shrink import ShrinkProgress, shrink


def crash(number: int, *, duration_ms: int = 400, targets: tuple[str, ...] = ("all",)) -> Fault:
    return Fault(10 * number, FaultKind.CRASH, targets, {}, duration_ms, number)


TWENTY = Plan(faults=tuple(crash(number) for number in range(20)))


def numbers(plan: Plan) -> set[int]:
    return {fault.number for fault in plan.faults}


@pytest.mark.parametrize("needed", [{0}, {19}, {3, 4}, {0, 19}, {2, 9, 17}, set(range(0, 20, 3))])
def test_only_the_faults_that_matter_are_left(needed: set[int]) -> None:
    shrunk = shrink(TWENTY, lambda plan: needed <= numbers(plan), runs_max=500)
    assert numbers(shrunk.plan) == needed
    assert shrunk.is_minimal


def test_a_failure_without_any_fault_needs_one_run() -> None:
    shrunk = shrink(TWENTY, lambda _plan: True)
    assert shrunk.plan.faults == ()
    assert shrunk.runs == 1


def test_a_plan_that_cannot_be_smaller_stays_as_it_is() -> None:
    plan = Plan(faults=(crash(1, duration_ms=1, targets=("node:0",)),))
    shrunk = shrink(plan, lambda tried: bool(tried.faults))
    assert shrunk.plan == plan
    assert shrunk.is_minimal


def test_durations_become_short_and_targets_few() -> None:
    def fails(plan: Plan) -> bool:
        return any(fault.number == 7 and fault.duration_ms >= 50 for fault in plan.faults)

    (fault,) = shrink(TWENTY, fails).plan.faults
    assert fault.number == 7
    assert 50 <= fault.duration_ms < 100
    assert fault.targets == ("node:0",) or fault.targets == ("random",)


def test_a_target_that_matters_is_found_among_the_nodes() -> None:
    def fails(plan: Plan) -> bool:
        return any(fault.targets[0] in ("all", "node:2") for fault in plan.faults)

    (fault,) = shrink(TWENTY, fails).plan.faults
    assert fault.targets == ("node:2",)


def test_counts_sizes_and_flags_become_small() -> None:
    flips = Fault(5, FaultKind.BIT_FLIP, ("leader",), {"bits": 40, "part": "checked"}, number=1)
    skew = Fault(9, FaultKind.CLOCK_SKEW, ("leader",), {"skew_ms": -5_000}, 100, number=2)
    torn = Fault(9, FaultKind.POWER_LOSS, ("leader",), {"torn": True}, 100, number=3)

    def fails(plan: Plan) -> bool:
        by_number = {fault.number: fault for fault in plan.faults}
        return by_number.keys() == {1, 2, 3} and by_number[1].integer("bits") >= 3

    plan = shrink(Plan(faults=(flips, skew, torn)), fails).plan
    by_number = {fault.number: fault for fault in plan.faults}
    assert by_number[1].integer("bits") in (3, 4, 5)
    assert by_number[1].text("part") == "checked"
    assert by_number[2].integer("skew_ms") == 0
    assert by_number[3].flag("torn") is False


def test_a_fault_that_becomes_needless_by_simplifying_goes_too() -> None:
    """The second fault is needed only as long as the first one lasts long."""

    def fails(plan: Plan) -> bool:
        by_number = {fault.number: fault for fault in plan.faults}
        return 1 in by_number and (2 in by_number or by_number[1].duration_ms < 50)

    shrunk = shrink(Plan(faults=(crash(1), crash(2))), fails)
    assert numbers(shrunk.plan) == {1}


def test_the_result_always_fails_and_no_run_is_repeated() -> None:
    for seed in range(30):
        plan = draw_plan(random.Random(seed), brokers=3, duration_ms=8_000)
        if not plan.faults:
            continue
        rng = random.Random(seed)
        needed = {fault.number for fault in rng.sample(plan.faults, min(2, len(plan.faults)))}
        asked: list[str] = []

        def fails(tried: Plan, needed: set[int] = needed, asked: list[str] = asked) -> bool:
            asked.append(repr(tried.to_json()))
            return needed <= numbers(tried)

        shrunk = shrink(plan, fails, runs_max=1_000)
        assert numbers(shrunk.plan) == needed
        assert shrunk.runs == len(asked) == len(set(asked))
        assert Plan.from_json(shrunk.plan.to_json()) == shrunk.plan


def test_runs_are_bounded_and_the_best_so_far_is_given() -> None:
    shrunk = shrink(TWENTY, lambda plan: 13 in numbers(plan), runs_max=4)
    assert shrunk.runs == 4
    assert not shrunk.is_minimal
    assert 13 in numbers(shrunk.plan)
    assert 1 < len(shrunk.plan.faults) < 20


def test_progress_is_told_after_every_run() -> None:
    told: list[ShrinkProgress] = []
    shrunk = shrink(TWENTY, lambda plan: {4, 11} <= numbers(plan), progress=told.append)
    assert [progress.runs for progress in told] == list(range(1, shrunk.runs + 1))
    counts = [progress.fault_count for progress in told]
    assert counts == sorted(counts, reverse=True)
    assert all(progress.step for progress in told)


def test_the_search_is_deterministic() -> None:
    def steps() -> list[ShrinkProgress]:
        told: list[ShrinkProgress] = []
        shrink(TWENTY, lambda plan: {1, 18} <= numbers(plan), progress=told.append)
        return told

    assert steps() == steps()
