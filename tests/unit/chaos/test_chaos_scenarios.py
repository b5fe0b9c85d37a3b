"""Scenarios: what is refused when one is read, that all of the suite make sense, and that a seed is a seed."""

from __future__ import annotations

import itertools
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import msgspec
import pytest

from chaos.interfaces import CAPABILITIES, Target
from chaos.kinds import KINDS
from chaos.matrix import generated
from chaos.runner import Run
from chaos.scenario import Scenario, ScenarioError, load, parse, written
from chaos.soak import soak_scenario
from chaos.workloads import WORKLOADS
from logcluster.check import checker
from logcluster.sim import ablations

GOOD = """
name = "small"
description = "a small one"
[topics.orders]
[[clients]]
workload = "append"
[[faults]]
kind = "kill"
role = "leader"
at_s = 2
every_s = 3
until_s = 9
jitter_s = 0.5
"""
EVERY = {**generated(), **written()}


def test_a_scenario_is_read_with_defaults() -> None:
    scenario = parse(GOOD, where="here")
    assert (scenario.brokers, scenario.topics["orders"].partitions, scenario.clients[0].count) == (3, 6, 1)
    assert scenario.capabilities() == ["kill"]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('"kill"', '"explode"', "there is no kind 'explode'"),
        ('"leader"', '"king"', "there is no role 'king'"),
        ("at_s = 2", "at_s = -2", "times cannot be negative"),
        ("at_s = 2", "at_s = 2\noptions = { force = 9 }", "kill has no option 'force'"),
        ('name = "small"', 'name = "small"\nduration = 3', "duration"),
        ('name = "small"', 'name = "small"\nduration_s = 0', "duration_s is 0.0"),
        ("[topics.orders]", "", "at least one topic"),
        ("[[clients]]", "[[clients", "here"),
    ],
)
def test_what_makes_no_sense_is_refused_and_named(old: str, new: str, said: str) -> None:
    with pytest.raises(ScenarioError) as caught:
        parse(GOOD.replace(old, new), where="here")
    assert said in str(caught.value) and str(caught.value).startswith("here")


def test_a_shorter_run_has_no_faults_after_its_end() -> None:
    scenario = msgspec.structs.replace(parse(GOOD, where="here"), duration_s=6.0)
    assert [round(at_s / 3) for at_s, _ in scenario.strikes(1)] == [1, 2], "at 2 and at 5, each moved by up to 0.5"


def test_a_seed_gives_the_same_strikes_and_another_one_others() -> None:
    scenario = parse(GOOD, where="here")
    first = scenario.strikes(1)
    assert first == scenario.strikes(1) != scenario.strikes(2)
    assert len(first) == 3
    assert all(abs(at_s - planned) <= 0.5 for (at_s, _), planned in zip(first, (2, 5, 8), strict=True))


def test_there_are_many_and_all_make_sense() -> None:
    assert len(generated()) >= 80
    for name, scenario in EVERY.items():
        assert scenario.name == name and scenario.description
        assert {item.workload for item in scenario.clients} <= WORKLOADS.keys(), name
        assert {fault.kind for fault in scenario.faults} <= KINDS.keys(), name
        assert set(scenario.ablations) <= ablations.ABLATIONS.keys(), name
        assert set(scenario.expected_anomalies) <= checker.rules().keys(), name
        assert bool(scenario.ablations) == bool(scenario.expected_anomalies), name
        needs_lazy_disk = any(fault.kind == "power-loss" for fault in scenario.faults)
        assert scenario.lazy_disk or not needs_lazy_disk, f"{name}: a power loss needs a lazy disk"
        assert all(at_s < scenario.duration_s for at_s, _ in scenario.strikes(1)), name


def test_every_kind_and_every_role_is_used_by_some_scenario() -> None:
    assert {fault.kind for scenario in EVERY.values() for fault in scenario.faults} == KINDS.keys()
    assert {KINDS[kind].capability for kind in KINDS} <= set(CAPABILITIES)


def test_at_least_five_safeguards_are_proved() -> None:
    assert sum(1 for scenario in written().values() if scenario.ablations) >= 5


def test_an_unknown_name_says_how_to_find_the_others(tmp_path) -> None:
    with pytest.raises(ScenarioError, match="python -m chaos list"):
        load("no-such-scenario")
    with pytest.raises(ScenarioError, match="there is no scenario"):
        load(str(tmp_path / "absent.toml"))
    path = tmp_path / "mine.toml"
    path.write_text(GOOD)
    assert isinstance(load(str(path)), Scenario)
    assert load("append.calm") == generated()["append.calm"]


def test_a_soak_kills_a_leader_every_twenty_seconds() -> None:
    scenario = soak_scenario(2.0, 7)
    kills = [at_s for at_s, fault in scenario.strikes(7) if (fault.kind, fault.role) == ("kill", "leader")]
    assert len(kills) >= 350
    assert scenario.duration_s == 7_200
    assert soak_scenario(2.0, 7) == scenario != soak_scenario(2.0, 8)


def test_a_soak_does_one_thing_at_a_time() -> None:
    """So that a gap has one cause, and the bound on kills is about kills."""
    moments = sorted((at_s, at_s + fault.lasts_s) for at_s, fault in soak_scenario(2.0, 7).strikes(7))
    assert all(end_s + 2.0 < next_s for (_, end_s), (next_s, _) in itertools.pairwise(moments))
    assert soak_scenario(2.0, 7).bounds.gap_s_max_of["kill"] == 2.0


@pytest.mark.parametrize("scenario", {**generated(), **written()}.values(), ids=lambda scenario: scenario.name)
def test_whoever_aims_at_a_coordinator_has_a_group_with_one(scenario: Scenario) -> None:
    run = Run(scenario, cast("Target", SimpleNamespace()), Path("unused"), seed=1)
    is_aimed = any(fault.role == "coordinator" for fault in scenario.faults)
    assert run._groups() or not is_aimed
