"""Roles: whom a fault strikes, bound when it strikes, from what the cluster says then. Another one is one entry."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final


@dataclass(frozen=True, slots=True)
class ClusterState:
    """What the cluster says of itself at one moment.

    Args:
        leaders: by "topic-partition"; partitions without a leader are left out.
        in_sync: by "topic-partition".
        coordinators: by group.
    """

    broker_ids: Sequence[int]
    running: Sequence[int]
    leaders: Mapping[str, int] = field(default_factory=dict)
    in_sync: Mapping[str, Sequence[int]] = field(default_factory=dict)
    controller_id: int | None = None
    coordinators: Mapping[str, int] = field(default_factory=dict)


Bind = Callable[[ClusterState, random.Random], list[int]]


def _leader(state: ClusterState, rng: random.Random) -> list[int]:
    """The leader of a partition drawn by chance, so that who leads more is struck oftener."""
    return [state.leaders[rng.choice(sorted(state.leaders))]] if state.leaders else []


def _follower(state: ClusterState, rng: random.Random) -> list[int]:
    if not state.leaders:
        return []
    name = rng.choice(sorted(state.leaders))
    followers = sorted(set(state.in_sync.get(name, ())) - {state.leaders[name]})
    return [rng.choice(followers)] if followers else []


def _controller(state: ClusterState, rng: random.Random) -> list[int]:
    return [] if state.controller_id is None else [state.controller_id]


def _not_controller(state: ClusterState, rng: random.Random) -> list[int]:
    others = [broker_id for broker_id in state.running if broker_id != state.controller_id]
    return [rng.choice(others)] if others else []


def _coordinator(state: ClusterState, rng: random.Random) -> list[int]:
    return [state.coordinators[rng.choice(sorted(state.coordinators))]] if state.coordinators else []


def _random(state: ClusterState, rng: random.Random) -> list[int]:
    return [rng.choice(sorted(state.running))] if state.running else []


def _all(state: ClusterState, rng: random.Random) -> list[int]:
    return sorted(state.running)


def _majority(state: ClusterState, rng: random.Random) -> list[int]:
    count = len(state.broker_ids) // 2 + 1
    return sorted(rng.sample(sorted(state.running), count)) if len(state.running) >= count else []


def _nobody(state: ClusterState, rng: random.Random) -> list[int]:
    """For faults that strike clients."""
    return []


ROLES: Final[Mapping[str, Bind]] = {
    "leader": _leader,
    "follower": _follower,
    "controller": _controller,
    "not-controller": _not_controller,
    "coordinator": _coordinator,
    "random": _random,
    "all": _all,
    "majority": _majority,
    "clients": _nobody,
}
