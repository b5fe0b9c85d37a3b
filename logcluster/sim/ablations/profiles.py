"""Profiles: plans of faults in which a safeguard matters, so that its loss is found within few seeds.

The swarm draws from everything; most of it has nothing to do with one given safeguard. A profile names the few kinds of
faults, and the stories, that an ablation's author thinks of, with their own weights, aims and lengths. It is a hint for
the hunt, no condition: everything in it is drawn by the swarm too, only more rarely, and it keeps within the promises.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from logcluster.sim.faults import choreographies as stories
from logcluster.sim.faults.kinds import KINDS, ArgumentValue, FaultKind
from logcluster.sim.faults.plan import Fault, Plan
from logcluster.sim.faults.swarm import RECIPES, log_uniform

STORY_PROBABILITY: Final = 0.6
START_MS: Final = 300
"""Nothing happens before: something must have been written."""


@dataclass(frozen=True, slots=True)
class Ingredient:
    """A kind of fault in a profile.

    Args:
        weight: against the other ingredients.
        aims: selectors to choose from, evenly; None as the swarm does.
        duration_ms: bounds; None as the swarm does.
        arguments: fixed ones; the others are drawn.
    """

    kind: FaultKind
    weight: int = 1
    aims: Sequence[str] | None = None
    duration_ms: tuple[int, int] | None = None
    arguments: Mapping[str, ArgumentValue] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Profile:
    """A way to draw plans.

    Args:
        faults_per_s: bounds of the rate; each plan has one of its own.
        tales: one of these is told in most of the plans.
    """

    ingredients: Sequence[Ingredient]
    faults_per_s: tuple[float, float] = (0.5, 2.5)
    tales: Sequence[stories.Choreography] = ()


def last_replica_loses_its_disk(rng: random.Random, start_ms: int, end_ms: int, number: int) -> list[Fault]:
    """The followers fall back until the leader is alone in sync; it loses its disk, and they return (KIP-966)."""
    span_ms = end_ms - start_ms
    slots = ("slot:last=leader", "slot:first", "slot:second")
    away_ms = [start_ms + int(span_ms * rng.uniform(0.02, 0.2)), start_ms + int(span_ms * rng.uniform(0.25, 0.45))]
    back_ms = start_ms + int(span_ms * 0.75)
    faults = [
        Fault(start_ms, FaultKind.DELAY, (slots[0],), {"delay_ms_min": 1, "delay_ms_max": 2}, 10, number),
        Fault(start_ms + span_ms // 2, FaultKind.WIPE, ("slot:last",), {}, rng.randint(50, 500), number + 3),
    ]
    for index in range(2):
        kind = rng.choice((FaultKind.CRASH, FaultKind.PAUSE))
        faults.append(
            Fault(away_ms[index], kind, (slots[1 + index],), {}, back_ms - away_ms[index], number + 1 + index)
        )
    return faults


_K = FaultKind
_LEADER = ("leader",)
_ANY = ("leader", "follower", "random")

PROFILES: Final[Mapping[str, Profile]] = MappingProxyType(
    {
        "power-loss": Profile(
            [
                Ingredient(_K.POWER_LOSS, 3, ("all", "leader", "leader", "follower", "random:2"), (20, 800)),
                Ingredient(_K.QUICK_RESTART, 1, _ANY, arguments={"power_loss": True}),
                Ingredient(_K.SLOW_DISK, 1, _ANY),
                Ingredient(_K.PAUSE, 1, _ANY, (100, 1_500)),
            ],
            tales=(stories.one_power_failure, stories.power_cut_of_all_but_late_ones),
        ),
        "fsync-failure": Profile(
            [
                Ingredient(_K.SYNC_ERROR, 2, _ANY, (100, 800), {"repair": "process"}),
                Ingredient(_K.SYNC_ERROR, 2, _ANY, (100, 800), {"repair": "machine"}),
                Ingredient(_K.POWER_LOSS, 2, ("all", "leader", "follower"), (20, 500)),
            ],
            tales=(stories.failed_sync_then_power_loss,),
        ),
        "isolation": Profile(
            [
                Ingredient(_K.ISOLATE, 3, _LEADER, (200, 4_000), {"clients": False}),
                Ingredient(_K.ISOLATE_ONE_WAY, 2, ("leader", "controller"), (200, 4_000), {"clients": False}),
                Ingredient(_K.CUT_LINK, 2, duration_ms=(200, 3_000)),
                Ingredient(_K.PAUSE, 2, _ANY, (200, 3_000)),
                Ingredient(_K.ISOLATE, 1, ("follower", "controller"), (200, 3_000), {"clients": False}),
            ]
        ),
        "failover": Profile(
            [
                Ingredient(_K.CRASH, 4, _LEADER, (20, 800)),
                Ingredient(_K.CRASH, 1, ("follower", "random"), (20, 800)),
                Ingredient(_K.PAUSE, 2, _LEADER, (300, 2_500)),
                Ingredient(_K.ISOLATE, 3, _LEADER, (300, 2_500), {"clients": False}),
                Ingredient(_K.DELAY, 1, _ANY, (200, 2_000)),
                Ingredient(_K.SHUTDOWN, 1, _LEADER, (50, 500)),
            ],
            faults_per_s=(1, 4),
            tales=(stories.double_failover,),
        ),
        "flapping": Profile(
            [
                Ingredient(_K.QUICK_RESTART, 4, ("leader", "follower", "random", "all"), (1, 60)),
                Ingredient(_K.SHUTDOWN, 3, ("leader", "follower"), (1, 60)),
                Ingredient(_K.CRASH, 3, ("leader", "follower", "random:2"), (1, 150)),
                Ingredient(_K.ISOLATE, 2, ("leader", "follower"), (50, 600), {"clients": False}),
                Ingredient(_K.RESETS, 2, ("leader", "all"), (100, 1_000)),
            ],
            faults_per_s=(4, 10),
        ),
        "double-failover": Profile(
            [
                Ingredient(_K.QUICK_RESTART, 2, ("leader", "random")),
                Ingredient(_K.CRASH, 3, _LEADER, (20, 400)),
                Ingredient(_K.ISOLATE, 3, ("leader", "follower"), (100, 1_200), {"clients": False}),
                Ingredient(_K.CUT_LINK, 2, duration_ms=(100, 1_500)),
                Ingredient(_K.DELAY, 2, ("leader", "follower", "all"), (300, 2_000)),
            ],
            faults_per_s=(3, 7),
            tales=(stories.double_failover, stories.restart_in_the_same_epoch),
        ),
        "last-replica": Profile(
            [
                Ingredient(_K.CRASH, 3, ("leader", "follower", "random:2"), (300, 2_500)),
                Ingredient(_K.POWER_LOSS, 2, ("leader", "random:2"), (200, 2_000)),
                Ingredient(_K.PAUSE, 1, ("follower", "random:2"), (500, 3_000)),
            ],
            faults_per_s=(1, 3),
            tales=(stories.last_replica_standing, stories.power_cut_of_all_but_late_ones),
        ),
        "lost-disk": Profile(
            [
                Ingredient(_K.WIPE, 3, _ANY, (50, 1_000)),
                Ingredient(_K.CRASH, 3, ("random:2", "follower", "leader"), (200, 2_000)),
                Ingredient(_K.PAUSE, 1, ("random:2", "follower"), (300, 2_000)),
            ],
            faults_per_s=(1, 3),
        ),
        "last-disk": Profile(
            [
                Ingredient(_K.CRASH, 2, ("follower", "random"), (200, 1_500)),
                Ingredient(_K.ISOLATE, 1, ("follower", "random"), (200, 1_500), {"clients": False}),
            ],
            faults_per_s=(0.2, 0.6),
            tales=(last_replica_loses_its_disk,),
        ),
        "torn-writes": Profile(
            [
                Ingredient(_K.POWER_LOSS, 4, ("leader", "follower", "random:2", "all"), (20, 600), {"torn": True}),
                Ingredient(_K.SLOW_DISK, 3, ("all", "leader", "follower"), (500, 4_000)),
            ],
            faults_per_s=(1, 3),
        ),
        "votes": Profile(
            [
                Ingredient(_K.DELAY, 2, ("all",), (500, 4_000), {"delay_ms_min": 5, "delay_ms_max": 150}),
                Ingredient(_K.QUICK_RESTART, 8, ("all", "random", "random:2", "controller"), (1, 20)),
                Ingredient(_K.LEADERSHIP_TRANSFER, 3, ("random", "not-controller")),
                Ingredient(_K.PAUSE, 2, ("controller",), (300, 1_500)),
            ],
            faults_per_s=(3, 9),
        ),
        "figure-eight": Profile(
            [
                Ingredient(_K.CRASH, 6, ("controller",), (1, 40)),
                Ingredient(_K.ISOLATE, 4, ("controller",), (50, 900)),
                Ingredient(_K.CUT_LINK, 4, duration_ms=(50, 900)),
                Ingredient(_K.CRASH, 2, ("random", "random:2"), (1, 300)),
                Ingredient(_K.DELAY, 2, ("all", "random"), (300, 3_000), {"delay_ms_min": 2, "delay_ms_max": 60}),
                Ingredient(_K.SLOW_DISK, 2, ("all", "random"), (300, 3_000)),
            ],
            faults_per_s=(3, 10),
        ),
        "laggards": Profile(
            [
                Ingredient(_K.CUT_LINK, 4, duration_ms=(500, 4_000)),
                Ingredient(_K.ISOLATE_ONE_WAY, 1, ("follower", "random"), (200, 2_000), {"clients": False}),
                Ingredient(_K.SLOW_DISK, 2, ("follower", "controller", "random"), (500, 4_000)),
                Ingredient(_K.DELAY, 1, ("controller", "all"), (300, 3_000)),
            ],
            faults_per_s=(0.7, 2.5),
        ),
        "quick-reboot": Profile(
            [
                Ingredient(_K.QUICK_RESTART, 4, ("leader", "follower", "all"), (1, 200), {"power_loss": True}),
                Ingredient(_K.POWER_LOSS, 1, ("all",), (1, 200)),
                Ingredient(_K.SLOW_DISK, 2, _ANY),
                Ingredient(_K.DELAY, 1, _ANY, (200, 2_000)),
            ],
            faults_per_s=(1, 4),
            tales=(stories.restart_in_the_same_epoch,),
        ),
        "delays": Profile(
            [
                Ingredient(_K.DELAY, 2, ("controller", "leader", "all"), (300, 3_000)),
                Ingredient(_K.SLOW_TAIL, 2, ("controller", "all"), (500, 4_000)),
                Ingredient(_K.ISOLATE_ONE_WAY, 3, ("controller", "leader", "follower"), (100, 1_500)),
                Ingredient(_K.CUT_LINK, 3, duration_ms=(100, 1_500)),
                Ingredient(_K.PAUSE, 3, ("controller", "leader", "follower"), (100, 1_500)),
            ],
            faults_per_s=(1.5, 5),
        ),
        "quorum": Profile(
            [
                Ingredient(_K.CRASH, 4, ("controller", "controller", "random", "random:2", "all"), (5, 500)),
                Ingredient(_K.QUICK_RESTART, 3, ("controller", "not-controller", "all"), (1, 50)),
                Ingredient(_K.POWER_LOSS, 2, ("controller", "random:2", "all"), (5, 300)),
                Ingredient(_K.ISOLATE, 3, ("controller", "random"), (100, 1_500)),
                Ingredient(_K.CUT_LINK, 2, duration_ms=(100, 1_500)),
                Ingredient(_K.LEADERSHIP_TRANSFER, 2, ("random", "not-controller")),
                Ingredient(_K.SLOW_DISK, 2, ("controller", "random", "all"), (200, 2_000)),
            ],
            faults_per_s=(2, 6),
            tales=(stories.controller_falls_and_all_crash, stories.one_power_failure),
        ),
        "bit-flips": Profile(
            [
                Ingredient(_K.BIT_FLIP, 3, _ANY, arguments={"part": "checked"}),
                Ingredient(_K.OVERWRITE, 1, _ANY),
                Ingredient(_K.CRASH, 3, ("leader", "follower", "random:2", "all"), (50, 1_000)),
                Ingredient(_K.POWER_LOSS, 1, ("all", "random"), (50, 1_000)),
            ],
            tales=(stories.damage_then_restart,),
        ),
        "restarts": Profile(
            [
                Ingredient(_K.ROLLING_RESTART, 2),
                Ingredient(_K.RESTART_STORM, 2),
                Ingredient(_K.CRASH, 3, ("leader", "follower", "random:2", "all"), (20, 1_000)),
                Ingredient(_K.SHUTDOWN, 2, ("leader", "random"), (50, 3_000)),
            ],
            faults_per_s=(0.5, 2),
        ),
        "groups": Profile(
            [
                Ingredient(_K.CRASH, 3, ("random", "leader"), (20, 1_500)),
                Ingredient(_K.QUICK_RESTART, 2, ("random", "leader")),
                Ingredient(_K.SHUTDOWN, 2, ("random",), (50, 800)),
                Ingredient(_K.PAUSE, 3, ("random", "leader"), (300, 3_000)),
                Ingredient(_K.ISOLATE, 3, ("random", "leader"), (300, 3_000), {"clients": False}),
                Ingredient(_K.CLIENTS_CUT, 2, ("random", "leader", "all"), (100, 2_500)),
                Ingredient(_K.DELAY, 2, ("random", "all"), (300, 3_000)),
                Ingredient(_K.SLOW_TAIL, 1, ("all",), (500, 3_000)),
                Ingredient(_K.RESETS, 2, ("all",), (100, 1_000)),
            ],
            faults_per_s=(1, 4),
        ),
        "connections": Profile(
            [
                Ingredient(_K.RESETS, 3, ("leader", "all")),
                Ingredient(_K.RESET_STORM, 3, ("leader", "all")),
                Ingredient(_K.CLIENTS_CUT, 3, ("leader", "all"), (50, 2_500)),
                Ingredient(_K.SLOW_TAIL, 1, ("all",)),
                Ingredient(_K.PAUSE, 2, _LEADER, (100, 2_500)),
                Ingredient(_K.CRASH, 1, _LEADER, (20, 500)),
            ],
            faults_per_s=(1, 4),
        ),
    }
)
"""By name; an ablation's `profile` is one of these."""


def draw_profile_plan(name: str, rng: random.Random, *, brokers: int, duration_ms: int) -> Plan:
    """Draw a plan after the profile of this name; within the promises, all faults over before the end.

    Raises:
        KeyError: there is no such profile.
    """
    profile = PROFILES[name]
    count = max(1, round(rng.uniform(*profile.faults_per_s) * duration_ms / 1_000))
    weights = [ingredient.weight for ingredient in profile.ingredients]
    faults: list[Fault] = []
    for number in range(count):
        (ingredient,) = rng.choices(profile.ingredients, weights)
        faults.append(_draw_fault(ingredient, rng, duration_ms, number))
    if profile.tales and rng.random() < STORY_PROBABILITY:
        start_ms = rng.randint(START_MS, duration_ms // 2)
        end_ms = rng.randint(start_ms + duration_ms // 4, duration_ms)
        faults += rng.choice(profile.tales)(rng, start_ms, end_ms, count)
    return Plan(tuple(faults), duration_ms=duration_ms, brokers=brokers)


def _draw_fault(ingredient: Ingredient, rng: random.Random, duration_ms: int, number: int) -> Fault:
    kind, recipe = ingredient.kind, RECIPES[ingredient.kind]
    at_ms = rng.randrange(START_MS, duration_ms)
    lasts_ms = 0
    if KINDS[kind].lasts:
        drawn_ms = log_uniform(rng, *(ingredient.duration_ms or recipe.duration_ms))
        lasts_ms = max(1, min(drawn_ms, duration_ms - at_ms))
    drawn = recipe.arguments(rng) if recipe.arguments is not None else {}
    aims = list(ingredient.aims or recipe.aims)
    if kind is FaultKind.CUT_LINK:
        targets: tuple[str, ...] = (rng.choice(("leader", "controller", "random")), "random:2")
    else:
        targets = (rng.choice(aims),) if KINDS[kind].targets_min else ()
    return Fault(at_ms, kind, targets, {**drawn, **ingredient.arguments}, lasts_ms, number)
