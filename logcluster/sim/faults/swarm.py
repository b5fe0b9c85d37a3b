"""Draws a plan of faults from a seed, the swarm way: each seed has its own few kinds, rates, sizes, favourite targets.

A run that mixes everything evenly finds less than many runs that each overdo a few things (swarm testing, Groce et al.;
TigerBeetle's VOPR). The safety phase is cut into windows, a quarter of them quiet, so that recovery is exercised too.
Faults of neighbouring busy windows may overlap and nest. Some plans also tell a story whose order matters
(`choreographies`).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from logcluster.runtime.failpoints import FAILPOINTS
from logcluster.sim.faults.choreographies import CHOREOGRAPHIES
from logcluster.sim.faults.kinds import DERIVED_FILES, KINDS, REPAIRS, ArgumentValue, FaultGroup, FaultKind
from logcluster.sim.faults.plan import Fault, Mode, Plan, Window

Arguments = dict[str, ArgumentValue]

WINDOW_MS_MIN: Final = 500
WINDOW_MS_MAX: Final = 1_500
QUIET_PLAN_PROBABILITY: Final = 0.03
"""Some seeds have no faults at all: what fails then is no matter of faults."""
CHOREOGRAPHY_PROBABILITY: Final = 0.15
FAULTS_PER_WINDOW_MAX: Final = 4
DAMAGE_FAULTS_MAX: Final = 3

# Whom faults are aimed at, and how often (relative weights): roles more than random nodes.
AIMS: Final[Mapping[str, int]] = {
    "leader": 6,
    "follower": 4,
    "controller": 4,
    "random": 4,
    "not-controller": 2,
    "outsider": 1,
    "random:2": 2,
    "minority": 1,
    "majority": 1,
}
CRASH_AIMS: Final[Mapping[str, int]] = {**AIMS, "all": 2}
DAMAGE_AIMS: Final[Mapping[str, int]] = {"leader": 3, "follower": 3, "random": 2}


@dataclass(frozen=True, slots=True)
class Recipe:
    """How faults of one kind are drawn.

    Args:
        duration_ms: bounds; drawn so that short ones are as likely as long ones.
        arguments: draws them; None for the defaults.
    """

    aims: Mapping[str, int]
    duration_ms: tuple[int, int] = (0, 0)
    arguments: Callable[[random.Random], Arguments] | None = None
    weight: int = 4


def _power(rng: random.Random) -> Arguments:
    return {"power_loss": rng.random() < 0.5}


def _repair(rng: random.Random) -> Arguments:
    return {"count": rng.choice((1, 1, 2, 5)), "repair": rng.choice(REPAIRS)}


def _failpoint(rng: random.Random) -> Arguments:
    return {
        "name": rng.choice(list(FAILPOINTS)),
        "hit": rng.choice((1, 1, 2, 3, rng.randint(1, 50))),
        "down_ms": log_uniform(rng, 10, 2_000),
        "power_loss": rng.random() < 0.5,
    }


def _delay(rng: random.Random) -> Arguments:
    low = log_uniform(rng, 1, 100)
    return {"delay_ms_min": low, "delay_ms_max": low + log_uniform(rng, 1, 300)}


def _latency(rng: random.Random) -> Arguments:
    low = log_uniform(rng, 1, 100)
    return {"latency_ms_min": low, "latency_ms_max": low + log_uniform(rng, 1, 1_000)}


RECIPES: Final[Mapping[FaultKind, Recipe]] = {
    FaultKind.CRASH: Recipe(CRASH_AIMS, (50, 3_000), weight=8),
    FaultKind.POWER_LOSS: Recipe({**AIMS, "all": 8}, (50, 3_000), lambda rng: {"torn": rng.random() < 0.5}, weight=8),
    FaultKind.QUICK_RESTART: Recipe(CRASH_AIMS, (1, 300), _power, weight=6),
    FaultKind.SHUTDOWN: Recipe(AIMS, (300, 3_000)),
    FaultKind.PAUSE: Recipe(CRASH_AIMS, (20, 4_000), weight=6),
    FaultKind.SLOW_NODE: Recipe(AIMS, (200, 3_000), lambda rng: {"factor": round(rng.uniform(1.2, 8), 1)}),
    FaultKind.FAILPOINT: Recipe(
        {"leader": 4, "follower": 3, "controller": 4, "random": 2, "all": 4}, (500, 4_000), _failpoint, weight=10
    ),
    FaultKind.ROLLING_RESTART: Recipe(
        {},
        (2_000, 6_000),
        lambda rng: {"controlled": rng.random() < 0.7, "down_ms": log_uniform(rng, 10, 800)},
        weight=2,
    ),
    FaultKind.RESTART_STORM: Recipe(
        {}, (500, 4_000), lambda rng: {"restarts": rng.randint(2, 12), **_power(rng)}, weight=2
    ),
    FaultKind.LEADERSHIP_TRANSFER: Recipe({"random": 3, "not-controller": 4, "controller": 1}),
    FaultKind.CLOCK_SKEW: Recipe(CRASH_AIMS, (100, 4_000), lambda rng: {"skew_ms": _signed(rng, 10, 600_000)}),
    FaultKind.CLOCK_JUMP: Recipe(CRASH_AIMS, (0, 0), lambda rng: {"jump_ms": _signed(rng, 10, 600_000)}),
    FaultKind.CLOCK_DRIFT: Recipe(AIMS, (500, 4_000), lambda rng: {"drift": round(rng.uniform(-0.5, 1.0), 3)}),
    FaultKind.ISOLATE: Recipe(AIMS, (50, 4_000), lambda rng: {"clients": rng.random() < 0.3}, weight=8),
    FaultKind.ISOLATE_ONE_WAY: Recipe(
        AIMS,
        (50, 4_000),
        lambda rng: {"direction": rng.choice(("in", "out")), "clients": rng.random() < 0.3},
        weight=6,
    ),
    FaultKind.CUT_LINK: Recipe({}, (50, 4_000), lambda rng: {"one_way": rng.random() < 0.5}, weight=6),
    FaultKind.MAJORITY_RING: Recipe({}, (200, 4_000)),
    FaultKind.SWIZZLE: Recipe({}, (300, 4_000), lambda rng: {"nodes": rng.randint(1, 3)}),
    FaultKind.CLIENTS_CUT: Recipe(
        {**AIMS, "all": 3},
        (50, 3_000),
        lambda rng: {"percent": rng.choice((25, 50, 100)), "one_way": rng.random() < 0.5},
    ),
    FaultKind.DELAY: Recipe({**AIMS, "all": 4}, (200, 4_000), _delay),
    FaultKind.SLOW_TAIL: Recipe(
        {**AIMS, "all": 6},
        (500, 5_000),
        lambda rng: {"probability": rng.choice((0.001, 0.01, 0.05)), "delay_ms_max": log_uniform(rng, 50, 2_000)},
    ),
    FaultKind.RESETS: Recipe(
        {**AIMS, "all": 4}, (200, 3_000), lambda rng: {"probability": rng.choice((0.001, 0.01, 0.05))}
    ),
    FaultKind.RESET_STORM: Recipe({**AIMS, "all": 4}, (100, 2_000), lambda rng: {"times": rng.randint(1, 10)}),
    FaultKind.SLOW_DISK: Recipe({**AIMS, "all": 2}, (200, 4_000), _latency),
    FaultKind.READ_ERROR: Recipe(AIMS, (50, 1_500), _repair, weight=2),
    FaultKind.WRITE_ERROR: Recipe(AIMS, (50, 1_500), _repair, weight=2),
    FaultKind.SYNC_ERROR: Recipe(DAMAGE_AIMS, (50, 1_500), _repair),
    FaultKind.STORE_ERROR: Recipe(AIMS, (50, 1_500), lambda rng: {"writes": rng.choice((0, 0, 1, 5, 20))}, weight=2),
    FaultKind.DISK_FULL: Recipe(AIMS, (100, 2_000), lambda rng: {"free_bytes": rng.choice((0, 100, 5_000, 100_000))}),
    FaultKind.BIT_FLIP: Recipe(
        DAMAGE_AIMS,
        (0, 0),
        lambda rng: {"bits": rng.choice((1, 1, 1, 3)), "part": rng.choice(("any", "checked"))},
        weight=6,
    ),
    FaultKind.TRUNCATE_FILE: Recipe(DAMAGE_AIMS, (0, 0), lambda rng: {"between": rng.random() < 0.5}),
    FaultKind.OVERWRITE: Recipe(
        DAMAGE_AIMS,
        (0, 0),
        lambda rng: {
            "size_bytes": log_uniform(rng, 1, 4_096),
            "content": rng.choice(("random", "zeros", "elsewhere")),
        },
    ),
    FaultKind.STALE_BLOCK: Recipe(
        DAMAGE_AIMS, (300, 4_000), lambda rng: {"size_bytes": rng.choice((512, 4_096, 16_384))}
    ),
    FaultKind.DERIVED_DAMAGE: Recipe(
        AIMS,
        (0, 0),
        lambda rng: {"file": rng.choice(DERIVED_FILES), "how": rng.choice(("flip", "cut", "remove"))},
    ),
    FaultKind.WIPE: Recipe(DAMAGE_AIMS, (50, 2_000)),
}
"""How each kind is drawn: one entry for every kind (a test)."""


def log_uniform(rng: random.Random, low: int, high: int) -> int:
    """A whole number between the bounds, its magnitude drawn evenly."""
    return min(high, max(low, round(float(low * (high / low) ** rng.random()))))


def _signed(rng: random.Random, low: int, high: int) -> int:
    return log_uniform(rng, low, high) * rng.choice((-1, 1))


def draw_plan(rng: random.Random, *, brokers: int, duration_ms: int, mode: Mode = "promised") -> Plan:
    """Draw the plan of one seed.

    Args:
        rng: a stream for this alone.
        duration_ms: of the safety phase; all faults are over before its end.
        mode: "beyond" draws more damage, and on several nodes at once.
    """
    windows = _draw_windows(rng, duration_ms)
    plan = Plan(windows=windows, duration_ms=duration_ms, brokers=brokers, mode=mode)
    if mode == "promised" and rng.random() < QUIET_PLAN_PROBABILITY:
        return plan
    swarm = _Swarm(rng, brokers, mode)
    faults: list[Fault] = []
    stretches = _busy_stretches(windows)
    for start_ms, end_ms in stretches:
        faults.extend(swarm.draw(start_ms, end_ms, len(faults)))
    longest = max(stretches, key=lambda stretch: stretch[1] - stretch[0], default=None)
    if longest is not None and (not faults or rng.random() < CHOREOGRAPHY_PROBABILITY):
        story = rng.choice(CHOREOGRAPHIES)
        faults.extend(story(rng, longest[0], longest[1], len(faults)))
    return plan.with_faults(faults)


def _draw_windows(rng: random.Random, duration_ms: int) -> tuple[Window, ...]:
    """Windows of drawn lengths; a quarter of them, rounded, are quiet, at least one where there are three."""
    bounds = [0]
    while duration_ms - bounds[-1] > WINDOW_MS_MAX:
        bounds.append(bounds[-1] + rng.randint(WINDOW_MS_MIN, WINDOW_MS_MAX))
    if duration_ms > bounds[-1]:
        bounds.append(duration_ms)
    count = len(bounds) - 1
    quiet_count = max(round(count / 4), 1 if count >= 3 else 0)
    quiet = rng.sample(range(count), quiet_count)
    return tuple(Window(bounds[index], bounds[index + 1], index in quiet) for index in range(count))


def _busy_stretches(windows: Sequence[Window]) -> list[tuple[int, int]]:
    stretches: list[tuple[int, int]] = []
    for window in windows:
        if window.is_quiet:
            continue
        if stretches and stretches[-1][1] == window.start_ms:
            stretches[-1] = (stretches[-1][0], window.end_ms)
        else:
            stretches.append((window.start_ms, window.end_ms))
    return stretches


class _Swarm:
    """What one seed prefers."""

    def __init__(self, rng: random.Random, brokers: int, mode: Mode) -> None:
        self._rng = rng
        self._brokers = brokers
        self._mode = mode
        groups = [group for group in FaultGroup if rng.random() < 0.6]
        if mode == "beyond" and FaultGroup.DAMAGE not in groups:
            groups.append(FaultGroup.DAMAGE)
        groups = groups or [rng.choice(list(FaultGroup))]
        candidates = [kind for kind in FaultKind if KINDS[kind].group in groups]
        self.kinds = [kind for kind in candidates if rng.random() < 0.5] or [rng.choice(candidates)]
        self._weights = [RECIPES[kind].weight * rng.choice((1, 1, 2, 4)) for kind in self.kinds]
        self._rate = rng.choice((0.5, 1, 1, 2, 3))
        self._length = rng.choice((0.3, 1, 1, 2))
        self._favourite_aim = rng.choice((None, None, "leader", "controller", "follower", "random"))
        self._damage_left = 100 if mode == "beyond" else DAMAGE_FAULTS_MAX

    def draw(self, start_ms: int, end_ms: int, first_number: int) -> list[Fault]:
        """The faults of one busy stretch."""
        rng = self._rng
        mean = self._rate * (end_ms - start_ms) / 1_000
        count = min(round(rng.uniform(0.3, 1.7) * mean), FAULTS_PER_WINDOW_MAX * (1 + (end_ms - start_ms) // 1_000))
        drawn: list[Fault] = []
        for _ in range(count):
            kind = rng.choices(self.kinds, self._weights)[0]
            if KINDS[kind].group is FaultGroup.DAMAGE:
                if self._damage_left == 0:
                    continue
                self._damage_left -= 1
            drawn.append(self._draw_one(kind, start_ms, end_ms, first_number + len(drawn)))
        return drawn

    def _draw_one(self, kind: FaultKind, start_ms: int, end_ms: int, number: int) -> Fault:
        rng, recipe = self._rng, RECIPES[kind]
        at_ms = rng.randrange(start_ms, end_ms)
        duration_ms = 0
        if KINDS[kind].lasts:
            drawn_ms = log_uniform(rng, *recipe.duration_ms) * self._length
            duration_ms = max(1, min(int(drawn_ms), end_ms - at_ms))
        return Fault(
            at_ms=at_ms,
            kind=kind,
            targets=self._draw_targets(kind, recipe),
            arguments=recipe.arguments(rng) if recipe.arguments is not None else {},
            duration_ms=duration_ms,
            number=number,
        )

    def _draw_targets(self, kind: FaultKind, recipe: Recipe) -> tuple[str, ...]:
        rng = self._rng
        if kind is FaultKind.CUT_LINK:
            return ("random:2", "random:2") if self._favourite_aim is None else (self._favourite_aim, "random:2")
        if KINDS[kind].targets_min == 0:
            return ()
        aims = dict(recipe.aims)
        if self._mode == "beyond" and KINDS[kind].group is FaultGroup.DAMAGE:
            aims |= {"random:2": 4, "majority": 2, "all": 2}
        if self._favourite_aim in aims and rng.random() < 0.5:
            return (str(self._favourite_aim),)
        return (rng.choices(list(aims), list(aims.values()))[0],)
