"""The quorum keeps its promises under faults, and the checks notice when a safeguard is missing."""

from __future__ import annotations

from typing import Any

import pytest
from raft_simulation import SafetyViolation, Simulation, Weather

from logcluster.model.invariants import InvariantViolation

HARSH = Weather(crash=0.06, drop=0.15, duplicate=0.1, crash_on_commit=0.05, crash_on_election=0.1, crash_on_vote=0.05)


def run(seeds: range, **settings: Any) -> None:
    for seed in seeds:
        try:
            Simulation(seed, **settings).run()
        except (SafetyViolation, InvariantViolation) as violation:
            raise AssertionError(f"seed {seed}: {violation}") from violation


def breaks(promise: str, *, ablation: str, seeds: range, **settings: Any) -> bool:
    """Say whether a run without the safeguard breaks the promise."""
    for seed in seeds:
        try:
            Simulation(seed, ablations=frozenset({ablation}), **settings).run()
        except (SafetyViolation, InvariantViolation) as violation:
            if promise in str(violation):
                return True
    return False


@pytest.mark.parametrize("block", range(4))
def test_three_voters_keep_every_promise(block: int) -> None:
    run(range(block * 40, block * 40 + 40))


@pytest.mark.parametrize("block", range(2))
def test_promises_hold_in_harsh_weather(block: int) -> None:
    run(range(1_000 + block * 40, 1_000 + block * 40 + 40), weather=HARSH)


@pytest.mark.parametrize("block", range(2))
def test_promises_hold_while_voters_come_and_go(block: int) -> None:
    run(range(2_000 + block * 30, 2_000 + block * 30 + 30), spare_count=2)


def test_five_voters_keep_every_promise() -> None:
    run(range(3_000, 3_030), voter_count=5, weather=HARSH)


def test_forgotten_vote_elects_two_leaders() -> None:
    weather = Weather(
        crash=0.02,
        drop=0.02,
        delay_ms_max=25,
        restart_ms_max=6,
        disk_ms_max=3,
        crash_on_election=0.5,
        crash_on_vote=0.7,
        crash_loses_messages=0.0,
    )
    settings = {
        "election_timeout_ms_min": 70,
        "election_timeout_ms_max": 74,
        "hint_delay_ms_min": 2,
        "hint_delay_ms_max": 4,
    }
    assert breaks("election safety", ablation="vote-persistence", seeds=range(40), weather=weather, **settings)
    run(range(10), weather=weather, **settings)


def test_vote_for_a_stale_log_loses_committed_entries() -> None:
    assert breaks("leader completeness", ablation="log-freshness", seeds=range(20))


def test_commit_of_an_old_term_by_counting_loses_entries() -> None:
    """Figure 8 of the Raft paper."""
    weather = Weather(
        crash=0.01,
        drop=0.05,
        crash_on_commit=0.8,
        crash_on_election=0.7,
        crash_loses_messages=1.0,
        cut=0.0,
        duration_ms=5_000,
        restart_ms_max=150,
    )
    settings = {"voter_count": 5, "append_entries_max": 1, "in_flight_requests_max": 1}
    assert breaks("leader completeness", ablation="own-term-commit", seeds=range(20), weather=weather, **settings)
    run(range(10), weather=weather, **settings)


def test_answer_before_the_disk_loses_committed_entries() -> None:
    weather = Weather(crash=0.1, drop=0.1, action_ms_max=8, disk_ms_max=20, crash_on_commit=0.05)
    assert breaks("leader completeness", ablation="append-durability", seeds=range(60), weather=weather)
    run(range(10), weather=weather)


def test_candidate_that_resumes_its_old_term_leads_it_twice() -> None:
    weather = Weather(crash=0.06, drop=0.1, action_ms_max=8)
    assert breaks("election safety", ablation="resigned-restart", seeds=range(20), weather=weather)
