"""What the swarm draws: the same for a seed, different between seeds, quiet where it says so."""

import random
from collections import Counter

import pytest

from logcluster.runtime.failpoints import FAILPOINTS
from logcluster.sim.faults.choreographies import CHOREOGRAPHIES
from logcluster.sim.faults.kinds import KINDS, FaultGroup, FaultKind
from logcluster.sim.faults.plan import Plan
from logcluster.sim.faults.swarm import RECIPES, draw_plan, log_uniform

PLANS = [draw_plan(random.Random(seed), brokers=3, duration_ms=8_000) for seed in range(400)]


def test_a_seed_draws_the_same_plan_again() -> None:
    assert draw_plan(random.Random(5), brokers=3, duration_ms=8_000) == PLANS[5]


def test_a_quarter_of_the_time_is_quiet_and_no_fault_reaches_into_it() -> None:
    quiet = 0
    for plan in PLANS:
        assert plan.windows[0].start_ms == 0
        assert plan.windows[-1].end_ms == plan.duration_ms
        for window in plan.windows:
            if window.is_quiet:
                quiet += window.end_ms - window.start_ms
                for fault in plan.faults:
                    assert fault.end_ms <= window.start_ms or fault.at_ms >= window.end_ms
    assert 0.2 < quiet / sum(plan.duration_ms for plan in PLANS) < 0.33


def test_all_faults_are_over_at_the_end() -> None:
    assert all(fault.end_ms <= plan.duration_ms for plan in PLANS for fault in plan.faults)


def test_every_kind_has_a_recipe_and_is_drawn() -> None:
    assert set(RECIPES) == set(FaultKind)
    drawn = Counter(fault.kind for plan in PLANS for fault in plan.faults)
    assert set(drawn) == set(FaultKind)


def test_seeds_differ_in_kinds_and_some_have_no_fault() -> None:
    kinds = [frozenset(fault.kind for fault in plan.faults) for plan in PLANS]
    assert len(set(kinds)) > 300
    assert frozenset() in kinds
    assert max(len(of_one) for of_one in kinds) < len(FaultKind) * 2 / 3


def test_faults_overlap_in_many_plans() -> None:
    def overlaps(plan: Plan) -> bool:
        return any(
            first.at_ms <= second.at_ms < first.end_ms
            for first in plan.faults
            for second in plan.faults
            if first != second
        )

    assert sum(overlaps(plan) for plan in PLANS) > len(PLANS) / 2


def test_beyond_the_promises_more_is_damaged() -> None:
    def damage(mode: str) -> int:
        plans = [draw_plan(random.Random(seed), brokers=3, duration_ms=8_000, mode=mode) for seed in range(100)]  # type: ignore[arg-type]
        return sum(KINDS[fault.kind].group is FaultGroup.DAMAGE for plan in plans for fault in plan.faults)

    assert damage("beyond") > 1.5 * damage("promised")


@pytest.mark.parametrize("duration_ms", [50, 600, 2_000, 60_000])
def test_any_duration_can_be_filled(duration_ms: int) -> None:
    for seed in range(30):
        plan = draw_plan(random.Random(seed), brokers=5, duration_ms=duration_ms)
        assert plan.windows[-1].end_ms == duration_ms


def test_stories_fit_their_stretch() -> None:
    for story in CHOREOGRAPHIES:
        for seed in range(50):
            faults = story(random.Random(seed), 1_000, 3_000, 7)
            assert len(faults) >= 3 or story.__name__ == "failed_sync_then_power_loss"
            assert [fault.number for fault in faults] == list(range(7, 7 + len(faults)))
            assert all(fault.at_ms >= 1_000 and fault.end_ms <= 3_000 for fault in faults), story.__name__
            Plan(faults=tuple(faults), duration_ms=3_000)


def test_failpoints_are_drawn_from_the_catalogue() -> None:
    names = {fault.text("name") for plan in PLANS for fault in plan.faults if fault.kind is FaultKind.FAILPOINT}
    assert names <= set(FAILPOINTS)
    assert len(names) > 10


def test_magnitudes_are_drawn_evenly() -> None:
    rng = random.Random(1)
    drawn = [log_uniform(rng, 1, 10_000) for _ in range(2_000)]
    assert min(drawn) >= 1
    assert max(drawn) <= 10_000
    assert 0.4 < sum(value < 100 for value in drawn) / len(drawn) < 0.6
