"""Plans survive JSON and say what they hold; what cannot be carried out is refused when it is read."""

import json
import random
from typing import Any

import pytest

from logcluster.sim.faults.kinds import KINDS, ArgumentSpec, FaultKind
from logcluster.sim.faults.plan import Fault, InvalidPlan, Plan, Window
from logcluster.sim.faults.swarm import draw_plan

CRASH = Fault(100, FaultKind.CRASH, ("leader:orders-0",), {}, 500, number=3)
SKEW = Fault(40, FaultKind.CLOCK_SKEW, ("random:2",), {"skew_ms": -70}, 200, number=1)
PLAN = Plan(faults=(CRASH, SKEW), windows=(Window(0, 900), Window(900, 1_000, is_quiet=True)), duration_ms=1_000)


def test_faults_stand_in_the_order_of_their_times() -> None:
    assert PLAN.faults == (SKEW, CRASH)


@pytest.mark.parametrize("seed", range(20))
def test_plan_survives_json(seed: int) -> None:
    plan = draw_plan(random.Random(seed), brokers=5, duration_ms=9_000, mode="beyond" if seed % 2 else "promised")
    assert Plan.from_json(json.loads(json.dumps(plan.to_json()))) == plan
    assert Plan.from_json(json.dumps(plan.to_json())) == plan


def test_every_kind_reads_in_one_line_that_names_its_targets() -> None:
    for kind, spec in KINDS.items():
        targets = ("controller", "node:2")[: spec.targets_min]
        line = Fault(7, kind, targets, {}, 50 if spec.lasts else 0).describe()
        assert "\n" not in line
        assert "{" not in line
        assert all(target in line for target in targets), line
        assert not spec.lasts or "50 ms" in line, line


def test_a_plan_describes_itself_and_its_faults() -> None:
    head, *lines = PLAN.describe()
    assert head == "2 faults in 1000 ms on 3 brokers, promised, 2 windows, 1 of them quiet"
    assert "set the clock of random:2 -70 ms off for 200 ms" in lines[0]
    assert "crash leader:orders-0" in lines[1]


def test_arguments_that_are_left_out_have_defaults() -> None:
    fault = Fault(0, FaultKind.POWER_LOSS, ("all",), {}, 5)
    assert fault.flag("torn") is False
    assert Fault(0, FaultKind.SLOW_NODE, ("all",), {"factor": 2.5}, 5).number_of("factor") == 2.5


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"kind": "meteor"}, "no kind of fault 'meteor'"),
        ({"duration_ms": 0}, "needs a duration"),
        ({"kind": "clock-jump"}, "takes no duration"),
        ({"targets": []}, r"takes 1 target\(s\), not 0"),
        ({"targets": "all"}, "list of texts"),
        ({"targets": ["leader:orders"]}, "'leader:orders' is no target"),
        ({"arguments": {"torn": True}}, "no argument 'torn'"),
        ({"kind": "slow-node", "arguments": {"factor": 1_000}}, "must be from 1 to 100"),
        ({"kind": "slow-node", "arguments": {"factor": "2"}}, "must be a number"),
        ({"kind": "power-loss", "arguments": {"torn": 1}}, "must be true or false"),
        ({"kind": "isolate-one-way", "arguments": {"direction": "up"}}, "must be one of in, out"),
        ({"kind": "clock-skew", "arguments": {"skew_ms": 1.5}}, "must be a whole number"),
        ({"arguments": []}, "must be a JSON object"),
        ({"at_ms": -1}, "not negative"),
        ({"at_ms": True}, "at_ms must be a whole number"),
        ({"at_ms": 5_000}, "beyond the end"),
        ({"colour": "red"}, "unknown keys: colour"),
        ({"number": 1}, "share the number 1"),
    ],
)
def test_a_bad_fault_is_refused_with_the_reason(change: dict[str, Any], why: str) -> None:
    document = PLAN.to_json()
    document["faults"][1] |= change
    with pytest.raises(InvalidPlan, match=why):
        Plan.from_json(document)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"format": "cake"}, "not a plan of faults"),
        ({"version": 2}, "version 2 of the plan; this is for version 1"),
        ({"mode": "reckless"}, "none of promised, beyond"),
        ({"duration_ms": 0}, "above 0"),
        ({"brokers": "3"}, "brokers must be a whole number"),
        ({"faults": {}}, "must be lists"),
        ({"windows": [[5, 5, False]]}, "a window is"),
    ],
)
def test_a_bad_plan_is_refused_with_the_reason(change: dict[str, Any], why: str) -> None:
    with pytest.raises(InvalidPlan, match=why):
        Plan.from_json({**PLAN.to_json(), **change})


@pytest.mark.parametrize("text", ["", "{", "[]", "7"])
def test_what_is_no_plan_at_all_is_refused(text: str) -> None:
    with pytest.raises(InvalidPlan):
        Plan.from_json(text)


def test_every_kind_has_a_spec_whose_defaults_it_accepts() -> None:
    assert list(KINDS) == list(FaultKind)
    for kind, spec in KINDS.items():
        for name, argument in spec.arguments.items():
            assert argument.default == "" or argument.problem(argument.default) is None, (kind, name)


def test_an_argument_knows_its_bounds() -> None:
    assert ArgumentSpec(5, 1, 10).problem(10) is None
    assert ArgumentSpec(5, 1, 10).problem(11) == "must be from 1 to 10"
    assert ArgumentSpec(5, 1, 10).problem(True) == "must be a whole number"
