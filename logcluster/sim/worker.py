"""A worker process of a campaign: reads a job a line, runs it, answers with a line of JSON.

`python -m logcluster.sim.worker`, started by `campaign.WorkerPool` only. Standard output carries answers and nothing
else: what the code under test prints goes to standard error, which the pool keeps for the report of a crash. A job
that takes too long ends the process, with the stack of where it was on standard error: the watchdog is the
interpreter's own thread (faulthandler), so it fires also when Python code never yields. The end of standard input ends
the worker, so none outlives its campaign by more than one job.
"""

from __future__ import annotations

import faulthandler
import json
import os
import sys
import traceback
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

from logcluster.runtime.clock import perf_counter_ns
from logcluster.sim.report import CLUSTER_KIND, core_result_to_json, file_stem, result_to_json

JobFunction = Callable[[dict[str, Any]], dict[str, Any]]
READY = {"ready": True}


def serve(run: JobFunction) -> None:
    """Answer jobs from standard input until it ends.

    Args:
        run: gives the answer to a job; an exception of it is answered as `{"error": traceback}`.
    """
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    faulthandler.enable()
    _say(answers, READY)
    for line in sys.stdin:
        job = json.loads(line)
        started_ns = perf_counter_ns()
        faulthandler.dump_traceback_later(job["wall_ms_max"] / 1000, exit=True)
        try:
            answer: dict[str, Any] = {"value": run(job)}
        except Exception:  # noqa: BLE001  (whatever breaks is the finding)
            answer = {"error": traceback.format_exc()}
        faulthandler.cancel_dump_traceback_later()
        _say(answers, {**answer, "id": job["id"], "wall_ms": (perf_counter_ns() - started_ns) // 1_000_000})


def _say(answers: Any, message: dict[str, Any]) -> None:
    answers.write(json.dumps(message, separators=(",", ":")) + "\n")
    answers.flush()


def run_job(job: dict[str, Any]) -> dict[str, Any]:
    """Run a job of any kind: a seed of the cluster or of a core, or a scenario."""
    if job["kind"] == CLUSTER_KIND:
        return run_cluster(job)
    if job["kind"] == "scenario":
        return run_scenario(job)
    return run_core(job)


def run_cluster(job: dict[str, Any]) -> dict[str, Any]:
    """One seed of whole nodes, `run.run_seed`; the history of a failure becomes a file if that is wanted."""
    from logcluster.check.history import write_history
    from logcluster.sim.faults.plan import Plan
    from logcluster.sim.run import RunOptions, run_seed

    plan = None if job["plan"] is None else Plan.from_json(job["plan"])
    options = RunOptions(seed=job["seed"], plan=plan, **job["options"])
    resolved = {name.name: getattr(options, name.name) for name in fields(options) if name.name not in {"seed", "plan"}}
    result = run_seed(options)
    answer = result_to_json(result, options=resolved, with_timeline=job["timeline"])
    if result.findings and job["history_directory"] is not None:
        path = Path(job["history_directory"]) / (file_stem(CLUSTER_KIND, options.seed, resolved) + ".history.jsonl")
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", encoding="utf-8") as file:
            write_history(result.history, file)
        answer["history_file"] = str(path)
    return answer


def run_core(job: dict[str, Any]) -> dict[str, Any]:
    """One seed of the Raft core or of the replication core; a failure runs again for its transcript."""
    run = _core_function(job["kind"])
    ablation = job["options"].get("ablation")
    ablations = frozenset() if ablation is None else frozenset({ablation})
    result = run(job["seed"], ablations=ablations)
    transcript: list[str] = []
    if job["timeline"] or result.findings:
        result = run(job["seed"], ablations=ablations, transcript=transcript)
    return core_result_to_json(result, kind=job["kind"], options=job["options"], transcript=transcript)


def _core_function(kind: str) -> Callable[..., Any]:
    from logcluster.sim.cores import raft_seeds, replication_seeds

    functions: dict[str, Callable[..., Any]] = {
        "raft": raft_seeds.run_raft_seed,
        "replication": replication_seeds.run_replication_seed,
    }
    return functions[kind]


def run_scenario(job: dict[str, Any]) -> dict[str, Any]:
    """A scripted history with its safeguard in place, and with it taken away."""
    from logcluster.sim.scenarios import SCENARIOS

    scenario = SCENARIOS[job["name"]]
    return {
        side: [{"name": finding.name, "detail": finding.detail} for finding in scenario.run(ablated=is_ablated)]
        for side, is_ablated in (("with_safeguard", False), ("without_safeguard", True))
    }


if __name__ == "__main__":
    serve(run_job)
