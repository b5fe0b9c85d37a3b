"""The catalogue as a whole: every ablation fits the product as it is, is fully described, and has a proof."""

from __future__ import annotations

import random
import re
from pathlib import Path
from types import CodeType

import pytest

from logcluster.check import checker
from logcluster.sim import ablations
from logcluster.sim.ablations import ABLATIONS, DORMANT, Ablation
from logcluster.sim.ablations.editing import Patch
from logcluster.sim.ablations.profiles import PROFILES, draw_profile_plan
from logcluster.sim.faults.plan import Plan
from logcluster.sim.invariants.catalogue import INVARIANTS
from logcluster.sim.workload.group_books import ANOMALIES as GROUP_ANOMALIES

EVERY = {**ABLATIONS, **DORMANT}
CASES = [pytest.param(ablation, id=name) for name, ablation in EVERY.items()]
LIVENESS = {"no-convergence", "partition-not-readable", "partition-not-writable"}
"""Findings of a run that no catalogue of checks lists."""


def does(code: CodeType) -> tuple[object, ...]:
    return code.co_code, code.co_consts, code.co_names


@pytest.mark.parametrize("ablation", CASES)
def test_patch_changes_the_code_and_restores_it(ablation: Ablation) -> None:
    assert isinstance(ablation.patch, Patch)
    functions = ablation.patch.functions
    before = [function.__code__ for function in functions]
    with ablations.apply(ablation.name):
        for function, code in zip(functions, before, strict=True):
            assert does(function.__code__) != does(code)
    assert [function.__code__ for function in functions] == before


@pytest.mark.parametrize("ablation", CASES)
def test_description_is_whole(ablation: Ablation) -> None:
    assert re.fullmatch(r"[a-z]+(-[a-z]+)+", ablation.name)
    assert re.fullmatch(r"P[1-9]", ablation.promise)
    assert ablation.safeguard and ablation.source and ablation.expected
    assert not ablation.safeguard.endswith(".")
    for name in (*ablation.expected, *filter(None, [ablation.profile])):
        assert re.fullmatch(r"[A-Za-z0-9]+(-[a-z0-9]+)*", name), name


@pytest.mark.parametrize("ablation", CASES)
def test_what_is_expected_can_be_found(ablation: Ablation) -> None:
    assert ablation.expected <= {*INVARIANTS, *checker.rules(), *LIVENESS, *GROUP_ANOMALIES}


@pytest.mark.parametrize("name", PROFILES)
def test_profiles_draw_plans_that_are_repeatable_and_keep_their_time(name: str) -> None:
    for seed in range(20):
        plan, again = (draw_profile_plan(name, random.Random(seed), brokers=3, duration_ms=8_000) for _ in range(2))
        assert plan == again
        assert plan == Plan.from_json(plan.to_json())
        assert plan.faults and all(fault.at_ms >= 300 and fault.end_ms <= 8_000 for fault in plan.faults)


def test_a_plan_is_drawn_after_the_profile_of_an_ablation() -> None:
    drawn = ablations.draw_plan("failed-fsync-stops", random.Random(1), brokers=3, duration_ms=8_000)
    assert drawn == draw_profile_plan("fsync-failure", random.Random(1), brokers=3, duration_ms=8_000)
    assert ablations.draw_plan("high-watermark-covers-isr", random.Random(1), brokers=3, duration_ms=8_000) is None
    assert {ablation.profile for ablation in EVERY.values()} - {None} <= set(PROFILES)


def test_names_are_unique_and_areas_are_complete() -> None:
    areas = [ablation for area in ablations._AREAS for ablation in area.ABLATIONS]
    assert len({ablation.name for ablation in areas}) == len(areas)
    assert {ablation.name for ablation in areas} == set(EVERY)
    assert len(ABLATIONS) >= 40
    assert all(ablation.dormant for ablation in DORMANT.values()) and not ABLATIONS.keys() & DORMANT.keys()


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(KeyError):
        ablations.apply("no-such-safeguard")


def test_every_ablation_is_proved_to_take_its_safeguard_away() -> None:
    folder = Path(__file__).parent
    text = "".join(path.read_text(encoding="utf-8") for path in sorted(folder.glob("test_ablations_*.py")))
    proved = set(re.findall(r'proves(?:_async)?\(\s*"([a-z-]+)"', text))
    assert proved == set(EVERY)
