"""What one seed of the Raft simulator draws: how many voters, which faults, how bad.

Every kind of fault is on or off per seed (swarm testing, Groce et al.): runs without a fault reach states that it
would hide. Some seeds take a whole mood instead, in which one known class of bugs shows up soonest: crashes around
votes, the dance of figure 8 of the Raft paper, slow disks.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random


@dataclass(frozen=True, slots=True, kw_only=True)
class RaftOptions:
    """Probabilities per message or per action, times in milliseconds.

    Attributes:
        late: a message arrives after its sender gave up on the answer.
        crash_on_commit, crash_on_election, crash_on_vote: an unlucky crash right after such a step.
        crash_loses_messages: what a crashed node had sent and was still under way is gone.
        power_loss: share of crashes in which nothing unsynced survives, instead of some prefix.
        clock_rate_spread: clocks run this much faster or slower.
        knows_directories: voters are configured with their disks' ids; otherwise the first leader learns them.
    """

    mood: str = "swarm"
    voter_count: int = 3
    spare_count: int = 0
    drop: float = 0.0
    duplicate: float = 0.0
    late: float = 0.0
    delay_ms_max: int = 10
    disk_ms_max: int = 8
    disk_stall: float = 0.0
    crash: float = 0.0
    power_loss: float = 0.3
    blackout: float = 0.0
    cut: float = 0.0
    pause: float = 0.0
    clock_jump: float = 0.0
    clock_rate_spread: float = 0.0
    wipe: float = 0.0
    snapshot: float = 0.05
    transfer: float = 0.02
    membership: float = 0.0
    crash_on_commit: float = 0.0
    crash_on_election: float = 0.0
    crash_on_vote: float = 0.0
    crash_loses_messages: float = 0.3
    restart_ms_max: int = 200
    duration_ms: int = 1_500
    action_ms_max: int = 30
    heartbeat_ms: int = 30
    election_timeout_ms_min: int = 120
    election_timeout_ms_max: int = 240
    hint_delay_ms_min: int = 3
    hint_delay_ms_max: int = 25
    append_entries_max: int = 4
    in_flight_requests_max: int = 4
    trailing_entries: int = 3
    knows_directories: bool = False


_MOODS = {
    "votes": RaftOptions(
        mood="votes",
        crash=0.02,
        drop=0.02,
        delay_ms_max=25,
        restart_ms_max=6,
        disk_ms_max=3,
        crash_on_election=0.5,
        crash_on_vote=0.7,
        crash_loses_messages=0.0,
        election_timeout_ms_min=70,
        election_timeout_ms_max=74,
        hint_delay_ms_min=2,
        hint_delay_ms_max=4,
    ),
    "figure 8": RaftOptions(
        mood="figure 8",
        voter_count=5,
        crash=0.01,
        drop=0.05,
        crash_on_commit=0.8,
        crash_on_election=0.7,
        crash_loses_messages=1.0,
        restart_ms_max=150,
        append_entries_max=1,
        in_flight_requests_max=1,
        heartbeat_ms=15,
        election_timeout_ms_min=70,
        election_timeout_ms_max=140,
        duration_ms=1_800,
        action_ms_max=20,
    ),
    "slow disks": RaftOptions(
        mood="slow disks",
        crash=0.15,
        drop=0.1,
        power_loss=0.8,
        disk_ms_max=25,
        crash_on_commit=0.1,
        action_ms_max=15,
        duration_ms=1_200,
    ),
}


def draw_raft_options(rng: Random) -> RaftOptions:
    """Draw the options of one seed."""
    mood = rng.random()
    if mood < 0.10:
        return _MOODS["votes"]
    if mood < 0.20:
        return _MOODS["figure 8"]
    if mood < 0.30:
        return replace(_MOODS["slow disks"], voter_count=rng.choice((3, 3, 5)))
    voter_count = rng.choice((1, 3, 3, 3, 3, 3, 5))
    has_members = rng.random() < 0.45

    def some(probability: float, low: float, high: float) -> float:
        return rng.uniform(low, high) if rng.random() < probability else 0.0

    return RaftOptions(
        voter_count=voter_count,
        spare_count=rng.randint(1, 2) if has_members else 0,
        drop=some(0.5, 0.01, 0.15),
        duplicate=some(0.4, 0.02, 0.12),
        late=some(0.3, 0.01, 0.06),
        delay_ms_max=rng.choice((2, 8, 15, 25)),
        disk_ms_max=rng.choice((0, 3, 8, 20)),
        disk_stall=some(0.2, 0.005, 0.03),
        crash=some(0.6, 0.02, 0.12),
        power_loss=rng.random(),
        blackout=some(0.2, 0.005, 0.02),
        cut=some(0.6, 0.02, 0.10),
        pause=some(0.35, 0.02, 0.06),
        clock_jump=some(0.3, 0.02, 0.06),
        clock_rate_spread=some(0.3, 0.02, 0.25),
        wipe=some(0.3, 0.02, 0.06),
        snapshot=some(0.8, 0.02, 0.15),
        transfer=some(0.5, 0.02, 0.08),
        membership=rng.uniform(0.04, 0.15) if has_members else 0.0,
        crash_on_commit=some(0.3, 0.02, 0.2),
        crash_on_election=some(0.3, 0.05, 0.4),
        crash_on_vote=some(0.3, 0.02, 0.3),
        crash_loses_messages=rng.random(),
        restart_ms_max=rng.choice((10, 100, 300)),
        duration_ms=800 if voter_count == 5 else 1_200,
        append_entries_max=rng.choice((1, 4, 100)),
        in_flight_requests_max=rng.choice((1, 4)),
        trailing_entries=rng.choice((0, 3, 20)),
        knows_directories=rng.random() < 0.3,
    )
