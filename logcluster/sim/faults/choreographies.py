"""Stories whose order matters: a few faults in a row on the same nodes, which chance alone would rarely arrange.

Each takes a busy stretch and draws its own times within it. Nodes are bound by slots, so that "the one that was cut off
before" is the same in every fault of a story. `tag` keeps the slots of two stories apart.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Final

from logcluster.sim.faults.kinds import ArgumentValue, FaultKind
from logcluster.sim.faults.plan import Fault

Choreography = Callable[[random.Random, int, int, int], list[Fault]]
"""Draws the faults of a story between two times, numbered from the last argument on."""


class _Story:
    def __init__(self, start_ms: int, end_ms: int, first_number: int) -> None:
        self._start_ms = start_ms
        self._length_ms = end_ms - start_ms
        self._number = first_number
        self._first_number = first_number
        self.faults: list[Fault] = []

    def slot(self, name: str, selector: str = "") -> str:
        """A node of this story."""
        return f"slot:{name}{self._first_number}" + (f"={selector}" if selector else "")

    def add(
        self, kind: FaultKind, targets: Sequence[str], begin: float, end: float = 0, **arguments: ArgumentValue
    ) -> None:
        """A fault from one share of the stretch to another; without `end`, one that does not last."""
        at_ms = self._start_ms + int(begin * self._length_ms)
        duration_ms = max(1, int((end - begin) * self._length_ms)) if end else 0
        self.faults.append(Fault(at_ms, kind, tuple(targets), arguments, duration_ms, self._number))
        self._number += 1


def one_power_failure(rng: random.Random, start_ms: int, end_ms: int, number: int) -> list[Fault]:
    """A minority is away while writes build up; then one of the majority loses power, and it and the one that was away
    form the new majority without the third (Jepsen's NATS analysis: with lazy syncs, acknowledged writes are gone)."""
    story = _Story(start_ms, end_ms, number)
    away, failing, last = story.slot("a"), story.slot("b", "leader"), story.slot("c")
    middle = rng.uniform(0.35, 0.6)
    story.add(FaultKind.ISOLATE, [failing], 0, 0.01)  # binds the leader first
    story.add(rng.choice((FaultKind.ISOLATE, FaultKind.PAUSE)), [away], 0.02, middle)
    story.add(FaultKind.POWER_LOSS, [failing], middle - 0.05, middle, torn=True)
    story.add(rng.choice((FaultKind.ISOLATE, FaultKind.PAUSE, FaultKind.CRASH)), [last], middle - 0.04, 1)
    return story.faults


def last_replica_standing(rng: random.Random, start_ms: int, end_ms: int, number: int) -> list[Fault]:
    """Followers leave one after the other, the last one in sync loses its power, the followers return (KIP-966)."""
    story = _Story(start_ms, end_ms, number)
    leader, first, second = story.slot("a", "leader"), story.slot("b"), story.slot("c")
    story.add(FaultKind.QUICK_RESTART, [leader], 0, 0.01, power_loss=False)
    kind = rng.choice((FaultKind.ISOLATE, FaultKind.CRASH, FaultKind.PAUSE))
    story.add(kind, [first], 0.05, 0.75)
    story.add(kind, [second], rng.uniform(0.2, 0.4), 0.7)
    story.add(FaultKind.POWER_LOSS, [leader], rng.uniform(0.5, 0.65), rng.uniform(0.75, 0.95), torn=True)
    return story.faults


def double_failover(rng: random.Random, start_ms: int, end_ms: int, number: int) -> list[Fault]:
    """Leadership goes to a follower and back before both agree on the end of the log (KIP-101, KIP-279)."""
    story = _Story(start_ms, end_ms, number)
    leader, follower = story.slot("a", "leader"), story.slot("b", "follower")
    power_loss = rng.random() < 0.5
    begin = rng.uniform(0, 0.2)
    step = rng.uniform(0.05, 0.2)
    kinds = (FaultKind.CRASH, FaultKind.ISOLATE, FaultKind.PAUSE)
    story.add(FaultKind.DELAY, [leader], begin, begin + step, delay_ms_min=20, delay_ms_max=200)
    story.add(FaultKind.QUICK_RESTART, [follower], begin + 0.02, begin + 0.05, power_loss=power_loss)
    story.add(rng.choice(kinds), [leader], begin + step, begin + 2 * step)
    story.add(rng.choice(kinds), [follower], begin + 2.1 * step, begin + 3 * step)
    story.add(FaultKind.QUICK_RESTART, [leader], begin + 3.1 * step, begin + 3.2 * step, power_loss=not power_loss)
    return story.faults


def power_cut_of_all_but_late_ones(rng: random.Random, start_ms: int, end_ms: int, number: int) -> list[Fault]:
    """All lose power at once, and come back one by one, the leader last."""
    story = _Story(start_ms, end_ms, number)
    leader, second, third = story.slot("a", "leader"), story.slot("b"), story.slot("c")
    cut = rng.uniform(0.1, 0.4)
    for node, until in ((leader, 0.95), (second, rng.uniform(0.5, 0.9)), (third, rng.uniform(cut + 0.02, 0.9))):
        story.add(FaultKind.POWER_LOSS, [node], cut, until, torn=rng.random() < 0.5)
    return story.faults


def restart_in_the_same_epoch(rng: random.Random, start_ms: int, end_ms: int, number: int) -> list[Fault]:
    """A leader loses unsynced data and is back before anybody's session ends, while a follower holds more (KIP-903)."""
    story = _Story(start_ms, end_ms, number)
    leader, follower = story.slot("a", "leader"), story.slot("b", "follower")
    begin = rng.uniform(0.1, 0.5)
    story.add(FaultKind.SLOW_DISK, [leader], begin, begin + 0.2, latency_ms_min=50, latency_ms_max=300)
    story.add(FaultKind.DELAY, [follower], begin, begin + 0.3, delay_ms_min=20, delay_ms_max=100)
    story.add(FaultKind.QUICK_RESTART, [leader], begin + 0.1, begin + 0.12, power_loss=True)
    story.add(FaultKind.QUICK_RESTART, [follower], begin + 0.2, begin + 0.22, power_loss=rng.random() < 0.5)
    return story.faults


def failed_sync_then_power_loss(rng: random.Random, start_ms: int, end_ms: int, number: int) -> list[Fault]:
    """A sync fails, the process is restarted and still reads what never reached the disk; then the power fails."""
    story = _Story(start_ms, end_ms, number)
    node = story.slot("a", rng.choice(("leader", "follower")))
    repair = rng.choice(("process", "machine"))
    story.add(FaultKind.SYNC_ERROR, [node], 0.05, 0.2, repair=repair)
    story.add(FaultKind.POWER_LOSS, ["all"] if rng.random() < 0.5 else [node], rng.uniform(0.4, 0.8), 0.9)
    return story.faults


def damage_then_restart(rng: random.Random, start_ms: int, end_ms: int, number: int) -> list[Fault]:
    """What a disk holds goes bad under a running node; it restarts, and others lead or fetch from it."""
    story = _Story(start_ms, end_ms, number)
    node = story.slot("a", rng.choice(("leader", "follower")))
    kind = rng.choice((FaultKind.BIT_FLIP, FaultKind.TRUNCATE_FILE, FaultKind.OVERWRITE))
    damaged = rng.uniform(0.3, 0.5)
    story.add(kind, [node], damaged)
    story.add(rng.choice((FaultKind.SHUTDOWN, FaultKind.CRASH)), [node], damaged + 0.05, damaged + 0.2)
    story.add(FaultKind.POWER_LOSS, ["all"], 0.85, 0.9)
    return story.faults


def controller_falls_and_all_crash(rng: random.Random, start_ms: int, end_ms: int, number: int) -> list[Fault]:
    """The quorum hands over, the old leader is cut off with what it had not committed, everybody loses power."""
    story = _Story(start_ms, end_ms, number)
    leader = story.slot("a", "controller")
    begin = rng.uniform(0.1, 0.4)
    story.add(FaultKind.ISOLATE_ONE_WAY, [leader], begin, begin + 0.3, direction=rng.choice(("in", "out")))
    story.add(FaultKind.LEADERSHIP_TRANSFER, ["not-controller"], begin + 0.05)
    story.add(FaultKind.POWER_LOSS, ["all"], begin + 0.2, begin + 0.25, torn=True)
    story.add(FaultKind.QUICK_RESTART, ["controller"], begin + 0.5, begin + 0.52, power_loss=True)
    return story.faults


CHOREOGRAPHIES: Final[Sequence[Choreography]] = (
    one_power_failure,
    last_replica_standing,
    double_failover,
    power_cut_of_all_but_late_ones,
    restart_in_the_same_epoch,
    failed_sync_then_power_loss,
    damage_then_restart,
    controller_falls_and_all_crash,
)
