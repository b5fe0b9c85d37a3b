"""The search for what an ablation breaks: seeds needed do not depend on which worker is done first."""

from __future__ import annotations

from typing import Any

import pytest

from logcluster.sim.ablation_search import AblationSearch, Target, markdown_table
from logcluster.sim.campaign import Job, Outcome

FSYNC = Target("fsync", "on disk before the ack", ("durability-gap", "lost-write"))
CRC = Target("crc", "damage is noticed", ("corrupt-value",))


def ended(job: Job, *findings: str) -> Outcome:
    value: dict[str, Any] = {
        "kind": job.kind, "seed": job.seed, "options": dict(job.options), "derived": [],
        "findings": [{"name": name, "detail": "", "at_ms": 1, "source": "history"} for name in findings],
        "trace_hash": "", "virtual_ms": 0, "wall_ms": 1, "event_count": 0, "probes": {}, "statistics": {},
        "plan": None, "plan_lines": [],
    }  # fmt: skip
    return Outcome(job, value, "", 1_000)


def take(search: AblationSearch, count: int) -> list[Job]:
    jobs = [search.next_job() for _ in range(count)]
    return [job for job in jobs if job is not None]


def test_smallest_seed_counts_whatever_ends_first() -> None:
    search = AblationSearch([FSYNC], seeds_first=1, seeds_max=100)
    jobs = take(search, 4)
    (found,) = search.searches

    search.on_outcome(ended(jobs[3], "lost-write"))
    search.on_outcome(ended(jobs[0]))
    assert (found.seeds_needed, found.is_decided, search.next_job()) == (4, False, None)
    search.on_outcome(ended(jobs[1], "durability-gap", "unseen"))
    assert (found.seeds_needed, found.is_decided) == (2, True)
    search.on_outcome(ended(jobs[2], "durability-gap"))

    assert found.seeds_needed == 2
    assert found.found_as == ["durability-gap"]
    assert found.wall_ms == 2_000, "of the two seeds that were needed"
    assert found.others == {"unseen": 1}
    assert search.all_caught


def test_next_ablation_is_searched_while_the_last_seeds_of_the_one_before_run() -> None:
    search = AblationSearch([FSYNC, CRC], seeds_first=1, seeds_max=100)
    first, second = take(search, 2)

    search.on_outcome(ended(second, "lost-write"))
    (following,) = take(search, 1)

    assert following.options["ablation"] == "crc"
    assert following.seed == 1
    assert search.decided == 0
    search.on_outcome(ended(first))
    assert search.decided == 1


@pytest.mark.parametrize("finding", ["unseen", "crash"])
def test_other_findings_are_no_catch(finding: str) -> None:
    search = AblationSearch([FSYNC], seeds_first=1, seeds_max=3)
    for job in take(search, 10):
        search.on_outcome(ended(job, finding))

    assert search.next_job() is None
    assert (search.all_caught, search.decided) == (False, 1)
    assert search.searches[0].to_json()["other_findings"] == {finding: 3}
    assert "**not caught**" in markdown_table([search.searches[0].to_json()])


def test_worker_that_dies_is_no_catch_and_no_lost_seed() -> None:
    search = AblationSearch([FSYNC], seeds_first=1, seeds_max=1)
    (job,) = take(search, 1)

    search.on_outcome(Outcome(job, None, "hung", 120_000))

    assert search.searches[0].to_json()["other_findings"] == {"crash": 1}
    assert search.searches[0].is_decided
