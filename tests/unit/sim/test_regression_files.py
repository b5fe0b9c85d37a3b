"""Regression files: every seed that failed once passes now, and a file that says too little is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from logcluster.sim.campaign import Job, Outcome, WorkerPool
from logcluster.sim.regressions import Regression, load_regressions, run_regressions

REGRESSIONS = load_regressions()
GOOD: dict[str, Any] = {
    "seed": 7,
    "options": {"brokers": 3},
    "plan": {"faults": []},
    "was": "an empty segment was taken for a missing one",
    "fixed_in": "storage: keep empty segments",
    "finding": "lost-write",
}


@pytest.fixture(scope="module")
def pool() -> Iterator[WorkerPool]:
    with WorkerPool(1) as started:
        yield started


@pytest.mark.parametrize("regression", REGRESSIONS, ids=lambda regression: regression.name)
def test_seed_that_failed_once_passes(pool: WorkerPool, regression: Regression) -> None:
    report = pool.run_one(regression.job).report()

    assert report.passed, f"{regression.was} (fixed in {regression.fixed_in!r}): {report.findings}"


def write(directory: Path, name: str, **changes: object) -> None:
    (directory / f"{name}.json").write_text(json.dumps(GOOD | changes))


def test_files_are_read_in_the_order_of_their_names(tmp_path: Path) -> None:
    write(tmp_path, "b", seed=2, kind="raft")
    write(tmp_path, "a")
    (tmp_path / "notes.txt").write_text("not one")

    first, second = load_regressions(tmp_path)

    assert (first.name, first.job) == ("a", Job(seed=7, options={"brokers": 3}, plan={"faults": []}))
    assert (second.name, second.job.kind, second.job.seed) == ("b", "raft", 2)
    assert first.finding == "lost-write"


@pytest.mark.parametrize(
    "changes",
    [{"was": ""}, {"fixed_in": None}, {"finding": 3}, {"options": None}, {"options": {"ablation": "fsync"}}],
    ids=str,
)
def test_file_that_says_too_little_is_refused(tmp_path: Path, changes: dict[str, object]) -> None:
    write(tmp_path, "a", **changes)

    with pytest.raises(ValueError, match=r"a\.json"):
        load_regressions(tmp_path)


def test_file_without_a_field_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps({name: value for name, value in GOOD.items() if name != "plan"}))

    with pytest.raises(ValueError, match="plan"):
        load_regressions(tmp_path)


def test_each_is_run_and_reported_beside_its_file(tmp_path: Path) -> None:
    write(tmp_path, "a")
    write(tmp_path, "b", seed=8)

    def run_one(job: Job) -> Outcome:
        return Outcome(job, None, "boom", 5)

    results = run_regressions(directory=tmp_path, run_one=run_one)

    assert [(regression.name, report.seed, report.finding_names) for regression, report in results] == [
        ("a", 7, ["crash"]),
        ("b", 8, ["crash"]),
    ]
