"""Worker processes: every job comes back exactly once, whatever becomes of the worker that had it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from logcluster.sim.campaign import CampaignFailed, Job, JobList, Outcome, WorkerPool

FAKE_WORKER = """
import os, signal
from logcluster.sim.worker import serve

def run(job):
    seed, how = job["seed"], job["options"].get("how", {}).get(str(job["seed"]), "passes")
    print("noise on standard output of", seed)
    if how == "dies":
        os.write(2, b"last words of %d\\n" % seed)
        os._exit(7)
    if how == "stops":
        os.kill(os.getpid(), signal.SIGSTOP)
    if how == "hangs":
        while True:
            pass
    if how == "raises":
        raise RuntimeError(f"seed {seed} broke")
    findings = [{"name": how, "detail": "d", "at_ms": 5, "source": "history"}] if how != "passes" else []
    return {
        "kind": job["kind"], "seed": seed, "options": job["options"], "derived": [],
        "findings": findings, "trace_hash": f"{seed:x}", "virtual_ms": 8000,
        "wall_ms": 10, "event_count": 3, "probes": {"p": 1}, "statistics": {"pid": os.getpid()}, "plan": job["plan"],
        "plan_lines": [],
    }

serve(run)
"""


@pytest.fixture
def worker(tmp_path: Path) -> list[str]:
    script = tmp_path / "fake_worker.py"
    script.write_text(FAKE_WORKER)
    return [sys.executable, str(script)]


def run_all(worker: list[str], jobs: list[Job], *, workers: int = 2, **options: int) -> list[Outcome]:
    source = JobList(jobs)
    with WorkerPool(workers, command=worker, **options) as pool:
        pool.run(source)
    return source.outcomes


def seeds(numbers: range, **how: str) -> list[Job]:
    return [Job(seed=seed, options={"how": {name[1:]: value for name, value in how.items()}}) for seed in numbers]


def test_every_seed_comes_back_once_and_two_workers_share_them(worker: list[str]) -> None:
    reports = [outcome.report() for outcome in run_all(worker, seeds(range(1, 41)))]

    assert sorted(report.seed for report in reports) == list(range(1, 41))
    assert all(report.passed and report.trace_hash == f"{report.seed:x}" for report in reports)
    assert len({report.statistics["pid"] for report in reports}) <= 2


def test_findings_arrive_with_the_seed_that_has_them(worker: list[str]) -> None:
    reports = [outcome.report() for outcome in run_all(worker, seeds(range(1, 6), _3="lost-write"))]

    assert {report.seed: report.finding_names for report in reports if not report.passed} == {3: ["lost-write"]}


def test_worker_that_dies_is_a_crash_of_its_seed_and_the_others_go_on(worker: list[str]) -> None:
    reports = {outcome.job.seed: outcome.report() for outcome in run_all(worker, seeds(range(1, 9), _4="dies"))}

    assert len(reports) == 8
    assert [seed for seed, report in reports.items() if not report.passed] == [4]
    (problem,) = reports[4].findings
    assert (problem.name, problem.source) == ("crash", "crash")
    assert "exit code 7" in problem.detail
    assert "last words of 4" in problem.detail


def test_worker_that_hangs_is_ended_and_says_where_it_was(worker: list[str]) -> None:
    outcomes = run_all(worker, seeds(range(1, 4), _2="hangs"), wall_ms_max=1_000)
    reports = {outcome.job.seed: outcome.report() for outcome in outcomes}

    assert [seed for seed, report in reports.items() if not report.passed] == [2]
    (problem,) = reports[2].findings
    assert problem.name == "crash"
    assert "no result within 1 s" in problem.detail
    assert "fake_worker.py" in problem.detail, "the stack of the loop"


def test_worker_that_stands_still_is_killed_from_outside(worker: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("logcluster.sim.campaign.GRACE_MS", 0)
    monkeypatch.setattr("logcluster.sim.campaign.TICK_MS", 20)
    (outcome,) = run_all(worker, seeds(range(1, 2), _1="stops"), wall_ms_max=300)

    assert "no result within 0.3 s" in outcome.report().findings[0].detail


def test_exception_is_a_crash_with_its_traceback_and_the_worker_goes_on(worker: list[str]) -> None:
    outcomes = run_all(worker, seeds(range(1, 4), _2="raises"), workers=1)
    reports = {outcome.job.seed: outcome.report() for outcome in outcomes}

    assert "RuntimeError: seed 2 broke" in reports[2].findings[0].detail
    assert reports[1].statistics["pid"] == reports[3].statistics["pid"]


def test_worker_is_replaced_after_its_share_of_jobs(worker: list[str]) -> None:
    source = JobList(seeds(range(1, 8)))
    with WorkerPool(1, command=worker, jobs_per_worker=3) as pool:
        pool.run(source)
        started = pool.started

    assert started == 3
    assert len({outcome.report().statistics["pid"] for outcome in source.outcomes}) == 3


@pytest.mark.parametrize(("keeps_going", "expected"), [(False, 3), (True, 30)])
def test_stops_after_the_first_failure_unless_told_to_keep_going(
    worker: list[str], keeps_going: bool, expected: int
) -> None:
    is_bad: Callable[[Outcome], bool] = lambda outcome: not keeps_going and not outcome.report().passed  # noqa: E731
    source = JobList(seeds(range(1, 31), _3="unseen"), is_bad=is_bad)
    with WorkerPool(1, command=worker) as pool:
        pool.run(source)

    assert len(source.outcomes) == expected


def test_worker_that_cannot_start_is_an_error_that_shows_why() -> None:
    command = [sys.executable, "-c", "raise SystemExit('no module named world')"]

    with WorkerPool(1, command=command) as pool, pytest.raises(CampaignFailed, match="no module named world"):
        pool.run(JobList(seeds(range(1, 5))))


def test_interrupt_ends_the_workers_and_keeps_what_was_done(worker: list[str]) -> None:
    def interrupt(outcome: Outcome) -> None:
        if outcome.job.seed == 2:
            raise KeyboardInterrupt

    source = JobList(seeds(range(1, 100), _3="hangs"), on_each=interrupt)
    with pytest.raises(KeyboardInterrupt), WorkerPool(2, command=worker) as pool:
        try:
            pool.run(source)
        finally:
            pids = pool.process_ids

    assert len(pids) == 2
    assert 2 in {outcome.job.seed for outcome in source.outcomes}
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
