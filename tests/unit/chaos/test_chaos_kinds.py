"""Kinds of faults, on a target that only writes down what it is asked: each strikes whom it should, and is undone."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, cast

import pytest

from chaos.interfaces import CLIENTS, Target
from chaos.kinds import KINDS, Strike
from chaos.processes import ClientProcesses
from chaos.roles import ROLES, ClusterState


class FakeTarget:
    """Three brokers; every call is noted."""

    def __init__(self) -> None:
        self.broker_ids: Sequence[int] = [0, 1, 2]
        self.down: set[int] = set()
        self.paused: set[int] = set()
        self.cuts: set[tuple[Any, Any]] = set()
        self.calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []

    def is_running(self, broker_id: int) -> bool:
        return broker_id not in self.down

    def __getattr__(self, name: str) -> Any:
        async def call(*arguments: Any, **options: Any) -> str:
            self.calls.append((name, arguments, options))
            if name in ("kill", "terminate"):
                self.down.add(arguments[0])
            elif name == "power_loss":
                self.down |= set(arguments[0])
            elif name == "start_broker":
                self.down.discard(arguments[0])
            elif name in ("pause", "resume"):
                (self.paused.add if name == "pause" else self.paused.discard)(arguments[0])
            elif name == "cut":
                self.cuts.add(arguments)
            elif name == "heal_links":
                self.cuts.clear()
            return "a bit was flipped"

        return call

    def named(self, name: str) -> list[tuple[Any, ...]]:
        return [arguments for called, arguments, _ in self.calls if called == name]


class FakeClients:
    async def kill(self, rng: random.Random, count: int) -> list[str]:
        return ["append-0"] * count

    def pause(self, rng: random.Random, count: int) -> list[str]:
        return ["append-0"]

    async def resume(self, names: Sequence[str]) -> None:
        assert names == ["append-0"]


async def strike(kind: str, brokers: Sequence[int], target: FakeTarget, **options: Any) -> Strike:
    made = Strike(
        cast("Target", target),
        cast("ClientProcesses", FakeClients()),
        brokers,
        {**KINDS[kind].options, "pause_s": 0.0, **options},
        random.Random(1),
    )
    assert await KINDS[kind].begin(made)
    return made


@pytest.mark.parametrize("kind", sorted(KINDS))
async def test_every_kind_is_undone(kind: str) -> None:
    target = FakeTarget()
    made = await strike(kind, [1], target)
    for undo in made.undo:
        await undo()
    assert not target.down and not target.paused and not target.cuts
    slowed = [options["delay_ms"] for name, _, options in target.calls if name == "slow_disk"]
    assert not slowed or slowed[-1] == 0
    jumps = [options["by_ms"] for name, _, options in target.calls if name == "jump_clock"]
    assert sum(jumps) == 0


async def test_who_is_isolated_hears_nobody_and_is_heard_by_nobody() -> None:
    target = FakeTarget()
    await strike("isolate", [1], target)
    assert target.cuts == {(1, 0), (0, 1), (1, 2), (2, 1)}
    for direction, expected in (("out", {(1, 0), (1, 2)}), ("in", {(0, 1), (2, 1)})):
        target = FakeTarget()
        await strike("isolate", [1], target, direction=direction)
        assert target.cuts == expected
    target = FakeTarget()
    await strike("isolate", [1], target, clients=True)
    assert {(1, CLIENTS), (CLIENTS, 1)} <= target.cuts


async def test_in_a_majority_ring_everybody_sees_a_majority_and_no_two_the_same() -> None:
    target = FakeTarget()
    target.broker_ids = [0, 1, 2, 3, 4]
    await strike("majority-ring", [], target)
    views = {
        broker_id: frozenset(
            other
            for other in target.broker_ids
            if other == broker_id or ((broker_id, other) not in target.cuts and (other, broker_id) not in target.cuts)
        )
        for broker_id in target.broker_ids
    }
    assert all(len(view) >= 3 for view in views.values())
    assert len(set(views.values())) > 1


async def test_a_replaced_disk_is_that_of_a_broker_which_was_killed() -> None:
    target = FakeTarget()
    await strike("wipe", [2], target)
    assert [name for name, _, _ in target.calls] == ["kill", "wipe"]
    assert target.named("wipe") == [(2,)]


STATE = ClusterState(
    broker_ids=[0, 1, 2],
    running=[0, 1, 2],
    leaders={"orders-0": 1, "orders-1": 1},
    in_sync={"orders-0": [0, 1], "orders-1": [1, 2]},
    controller_id=2,
    coordinators={"billing": 0},
)


@pytest.mark.parametrize(
    ("role", "allowed"),
    [
        ("leader", [[1]]),
        ("follower", [[0], [2]]),
        ("controller", [[2]]),
        ("not-controller", [[0], [1]]),
        ("coordinator", [[0]]),
        ("all", [[0, 1, 2]]),
        ("majority", [[0, 1], [0, 2], [1, 2]]),
        ("random", [[0], [1], [2]]),
        ("clients", [[]]),
    ],
)
def test_roles_are_bound_from_what_the_cluster_says(role: str, allowed: list[list[int]]) -> None:
    assert all(ROLES[role](STATE, random.Random(seed)) in allowed for seed in range(20))
    assert (
        role in ("all", "clients")
        or ROLES[role](ClusterState(broker_ids=[0, 1, 2], running=[]), random.Random(1)) == []
    )


async def test_brokers_that_fell_together_are_started_without_waiting_for_one_another() -> None:
    """One alone is not ready before a majority is there."""
    target = FakeTarget()
    made = await strike("kill", [0, 1, 2], target)
    for undo in made.undo:
        await undo()
    started = [(arguments[0], options) for name, arguments, options in target.calls if name == "start_broker"]
    assert started == [(broker_id, {"wait": False}) for broker_id in (0, 1, 2)]
