"""`logcluster sim`: seeds, replay files, ablations, scenarios, exit codes; with workers that simulate nothing."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer
from click.testing import Result
from typer.testing import CliRunner

from logcluster.cli import sim_work
from logcluster.cli.app import app
from logcluster.cli.sim import seed_range
from logcluster.cli.sim_text import print_problems
from logcluster.sim.faults.kinds import FaultKind
from logcluster.sim.faults.plan import Fault, Plan
from logcluster.sim.report import FoundProblem

FAKE_WORKER = """
import os
from dataclasses import dataclass
from typing import Any
from logcluster.sim.faults.kinds import FaultKind
from logcluster.sim.faults.plan import Fault, Plan
from logcluster.sim.report import core_result_to_json, result_to_json
from logcluster.sim.worker import serve
from types import SimpleNamespace as Fields

# Seeds that are multiples of 5 fail when a crash is in the plan; 13 kills its worker; without fsync 7 loses a write.
def plan_of(job):
    if job["plan"] is not None:
        return Plan.from_json(job["plan"])
    kinds = [FaultKind.PAUSE, FaultKind.CRASH, FaultKind.ISOLATE]
    return Plan(tuple(Fault(100 * n, kind, ("node:1",), duration_ms=50, number=n) for n, kind in enumerate(kinds, 1)))

def run_cluster(job):
    seed, plan = job["seed"], plan_of(job)
    if seed == 13:
        os._exit(9)
    findings = []
    if seed % 5 == 0 and any(fault.kind is FaultKind.CRASH for fault in plan.faults):
        findings.append(Fields(name="lost-write", detail="a-17 is gone", at_ms=6412, source="history"))
    ablation = job["options"].get("ablation")
    if ablation == "fsync" and seed in (7, 8):
        findings.append(Fields(name="durability-gap", detail="d", at_ms=1, source="invariant"))
    result = Fields(
        seed=seed, findings=findings, trace_hash=f"hash-{seed}-{len(plan.faults)}", virtual_ms=8000, wall_ms=500,
        event_count=1000, probes={"raft.vote.refused_stale_log": seed % 2}, plan=plan,
        statistics={"faults": {"crash": 1, "pause": 2}, "records_acked": 10, "note": "text"},
        timeline=[Fields(at_ms=n, kind="tick", facts={"n": n}) for n in range(100)],
        derived=("link delay 1 ms",), log=("node-0 started",),
    )
    options = {"ablation": ablation, "mode": "promised", **job["options"]}
    return result_to_json(result, options=options, with_timeline=job["timeline"])

def run_core(job):
    findings = (("election-safety", "two leaders"),) if (job["kind"], job["seed"]) == ("raft", 3) else ()
    return core_result_to_json(
        Fields(seed=job["seed"], options="3 nodes", findings=findings, trace_hash="h", virtual_ms=10, steps=4,
               probes={"own": 1}),
        kind=job["kind"], options=job["options"], transcript=["  3 n1 votes", "FOUND two leaders"] if findings else [],
    )

def run_scenario(job):
    finding = {"name": "lost-write", "detail": "gone"}
    sides = {"good": ([], [finding]), "harmless": ([], []), "broken": ([finding], [finding])}[job["name"]]
    return {"with_safeguard": sides[0], "without_safeguard": sides[1]}

def run(job):
    return {"cluster": run_cluster, "scenario": run_scenario}.get(job["kind"], run_core)(job)

serve(run)
"""

Invoke = Callable[..., Result]


@dataclass(frozen=True)
class FakeAblation:
    safeguard: str
    expected: frozenset[str]


@pytest.fixture
def sim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Invoke:
    """Runs `logcluster sim …` in an empty directory, with fake workers and small catalogues."""
    script = tmp_path / "fake_worker.py"
    script.write_text(FAKE_WORKER)
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    monkeypatch.setattr("logcluster.sim.campaign.worker_command", lambda: [sys.executable, str(script)])
    fakes: dict[str, dict[str, Any]] = {
        "ablations": {
            "fsync": FakeAblation("on disk before the ack", frozenset({"durability-gap"})),
            "harmless": FakeAblation("nothing | at all", frozenset({"duplicate"})),
        },
        "scenarios": {
            name: SimpleNamespace(name=name, title=f"the {name} one", source="KIP-101")
            for name in ("good", "harmless", "broken")
        },
    }
    real = sim_work.catalogue
    monkeypatch.setattr(sim_work, "catalogue", lambda what: fakes.get(what) or real(what))
    return lambda *arguments: CliRunner().invoke(app, ["sim", *arguments])


def test_seed_range_includes_both_ends() -> None:
    assert list(seed_range("3..5")) == [3, 4, 5]
    assert list(seed_range("7..7")) == [7]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("1-500", "write 1..500"),
        ("7", "--seed 7"),
        ("500..1", "write 1..500"),
        ("a..b", "not a range"),
        ("-1..5", "not a range"),
        ("0..1000000", "in parts"),
        (f"{2**63}..{2**63}", "at most"),
    ],
)
def test_seed_range_says_what_is_wrong(text: str, says: str) -> None:
    with pytest.raises(typer.BadParameter, match=says):
        seed_range(text)


@pytest.mark.parametrize(
    "arguments",
    [
        ("run",),
        ("run", "--seed", "1", "--seeds", "1..2"),
        ("run", "--seed", "-1"),
        ("run", "--seeds", "5"),
        ("run", "--seed", "1", "--ablate", "nonsense"),
        ("run", "--seed", "1", "--mode", "wild"),
        ("run", "--seed", "1", "--jobs", "0"),
        ("run", "--replay", "missing.json"),
        ("run", "--replay", "x.json", "--brokers", "5"),
        ("ablate", "nonsense"),
        ("scenario", "nonsense"),
        ("list", "nonsense"),
        ("cores",),
        ("cores", "--seeds", "1"),
        ("cores", "--seeds", "1..2", "--ablate", "log-freshness"),
        ("cores", "--seeds", "1..2", "--kind", "raft", "--ablate", "nonsense"),
    ],
)
def test_misuse_is_exit_code_2(sim: Invoke, arguments: tuple[str, ...]) -> None:
    shown = sim(*arguments)

    assert shown.exit_code == 2
    assert "Error" in shown.stderr
    assert "Traceback" not in shown.output


def test_single_seed_that_passes_shows_plan_speed_and_trace(sim: Invoke) -> None:
    shown = sim("run", "--seed", "1")

    assert shown.exit_code == 0
    assert "3 faults in 8000 ms" in shown.stdout
    assert "crash node:1" in shown.stdout
    assert "16.0 x real time" in shown.stdout
    assert "hash-1-3" in shown.stdout
    assert "drawn      link delay 1 ms" in shown.stdout
    assert "passed" in shown.stdout
    assert "timeline" not in shown.stdout
    assert not Path("sim-failures").exists()


def test_trace_shows_the_timeline_of_a_seed_that_passes(sim: Invoke) -> None:
    lines = sim("run", "--seed", "1", "--trace").stdout.splitlines()

    assert lines.count("timeline") == 1
    assert "node-0 started" in lines
    assert sum(" tick " in line for line in lines) == 100


def test_single_seed_that_fails_shows_how_to_see_it_again(sim: Invoke) -> None:
    shown = sim("run", "--seed", "5", "--brokers", "3", "--save", "out")

    assert shown.exit_code == 1
    assert "the last 60 of 100" in shown.stdout
    assert "finding  lost-write at 6.412 s (history)" in shown.stdout
    assert shown.stdout.index(" tick ") < shown.stdout.index("a-17 is gone") < shown.stdout.index("failed: lost-write")
    assert "logcluster sim run --seed 5 --mode promised --brokers 3" in shown.stdout
    assert "logcluster sim run --replay out/seed-5.json" in shown.stdout
    document = json.loads(Path("out/seed-5.json").read_text())
    assert document["findings"] == ["lost-write"]
    assert document["options"]["brokers"] == 3
    assert Plan.from_json(document["plan"]).faults[1].kind is FaultKind.CRASH
    assert set(document["versions"]) == {"logcluster", "python"}


def test_replay_says_that_finding_and_trace_are_the_same(sim: Invoke) -> None:
    sim("run", "--seed", "5")

    shown = sim("run", "--replay", "sim-failures/seed-5.json")

    assert shown.exit_code == 1
    assert "the same as in the file: lost-write" in shown.stdout
    assert "hash       the same" in shown.stdout


def test_replay_says_what_differs(sim: Invoke) -> None:
    sim("run", "--seed", "5")
    path = Path("sim-failures/seed-5.json")
    document = json.loads(path.read_text())
    document["plan"] = Plan((Fault(1, FaultKind.PAUSE, ("node:0",), duration_ms=5, number=1),)).to_json()
    path.write_text(json.dumps(document))

    shown = sim("run", "--replay", str(path))
    compared = json.loads(sim("run", "--replay", str(path), "-o", "json").stdout)

    assert shown.exit_code == 0
    assert "nothing; in the file: lost-write" in shown.stdout
    assert "differs from the file's (hash-5-3" in shown.stdout
    assert (compared["same_findings"], compared["same_trace"]) == (False, False)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": "logcluster-sim-replay-1"}'])
def test_file_that_is_no_replay_file_is_refused(sim: Invoke, text: str) -> None:
    Path("x.json").write_text(text)

    assert sim("run", "--replay", "x.json").exit_code == 2


def test_many_seeds_that_pass_are_summed_up(sim: Invoke) -> None:
    shown = sim("run", "--seeds", "1..4", "--jobs", "2")
    summary = json.loads(sim("run", "--seeds", "1..4", "--jobs", "2", "-o", "json").stdout)

    assert shown.exit_code == 0
    assert "no failures" in shown.stdout
    assert "4 of 4 seeds" in shown.stdout
    assert "faults     pause=8 crash=4" in shown.stdout, "the most frequent comes first"
    assert (summary["seeds"], summary["failures"], summary["interrupted"]) == (4, 0, False)
    assert summary["virtual_per_wall"] == 16.0
    assert summary["statistics"] == {"faults": {"crash": 4, "pause": 8}, "records_acked": 40}
    assert summary["probes"] == {"raft.vote.refused_stale_log": 2}
    assert "raft.vote.refused_stale_log" not in summary["probes_never_hit"]
    assert summary["probes_never_hit"]


def test_many_seeds_stop_at_the_first_failure(sim: Invoke) -> None:
    summary = json.loads(sim("run", "--seeds", "1..12", "--jobs", "1", "-o", "json").stdout)

    assert summary["seeds"] == 5
    assert summary["failed_seeds"] == [5]


def test_keep_going_runs_them_all_and_a_dead_worker_is_a_finding(sim: Invoke) -> None:
    shown = sim("run", "--seeds", "1..16", "--jobs", "2", "--keep-going", "-o", "json")
    summary = json.loads(shown.stdout)

    assert shown.exit_code == 1
    assert summary["seeds"] == 16
    assert summary["failed_seeds"] == [5, 10, 13, 15]
    assert summary["findings"] == {"lost-write": [5, 10, 15], "crash": [13]}
    assert [failure["replay_file"] for failure in summary["failed"]] == [
        f"sim-failures/seed-{seed}.json" for seed in (5, 10, 13, 15)
    ]
    assert summary["failed"][2]["findings"][0]["source"] == "crash"
    assert all(Path(failure["replay_file"]).exists() for failure in summary["failed"])


def test_table_names_every_failure_in_the_order_of_seeds(sim: Invoke) -> None:
    lines = sim("run", "--seeds", "1..16", "--jobs", "2", "--keep-going").stdout.splitlines()

    rows = [line.split() for line in lines if line.endswith(".json") and "--replay" not in line]
    assert [row[0] for row in rows] == ["5", "10", "13", "15"]
    assert lines[-1] == "failed: 4 of 16"


def test_shrink_saves_and_shows_the_small_plan(sim: Invoke) -> None:
    shown = sim("run", "--seed", "5", "--shrink")

    assert shown.exit_code == 1
    assert "3 faults made 1 in" in shown.stderr
    assert "1 faults in 8000 ms" in shown.stdout
    assert "hash-5-1" in shown.stdout
    document = json.loads(Path("sim-failures/seed-5.json").read_text())
    assert [fault["kind"] for fault in document["plan"]["faults"]] == ["crash"]
    assert document["trace_hash"] == "hash-5-1"
    assert "the same as in the file: lost-write" in sim("run", "--replay", "sim-failures/seed-5.json").stdout


def test_shrink_of_a_campaign_takes_the_first_failure_of_each_name(sim: Invoke) -> None:
    shown = sim("run", "--seeds", "1..16", "--jobs", "1", "--keep-going", "--shrink")

    plans = {seed: json.loads(Path(f"sim-failures/seed-{seed}.json").read_text())["plan"] for seed in (5, 10, 13)}
    assert [len(plans[5]["faults"]), len(plans[10]["faults"]), plans[13]] == [1, 3, None]
    assert "seed 13: the run gave no plan" in shown.stderr


def test_interrupt_sums_up_what_was_done(sim: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(tally: Any) -> None:
        if tally.seeds >= 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(sim_work._Tally, "show", interrupt)

    shown = sim("run", "--seeds", "1..4000", "--jobs", "1")

    assert shown.exit_code == 130
    assert "3 of 4,000 seeds, interrupted" in shown.stdout
    assert "interrupted" in shown.stderr


def test_ablations_are_caught_as_expected_or_reported(sim: Invoke) -> None:
    shown = sim("ablate", "--seeds", "12", "--jobs", "2", "--markdown", "table.md", "-o", "json")
    fsync, harmless = json.loads(shown.stdout)

    assert shown.exit_code == 1, "one is not caught"
    assert (fsync["seeds_needed"], fsync["found_as"], fsync["seconds"]) == (7, ["durability-gap"], fsync["seconds"])
    assert fsync["other_findings"] == {"lost-write": 1}
    assert (harmless["caught"], harmless["seeds_tried"]) == (False, 12)
    assert harmless["other_findings"] == {"lost-write": 2}
    table = Path("table.md").read_text()
    assert "| `fsync` | on disk before the ack | durability-gap | 7 |" in table
    assert "nothing \\| at all" in table
    assert "**not caught**" in table


def test_ablation_alone_that_is_caught_is_exit_code_0(sim: Invoke) -> None:
    shown = sim("ablate", "fsync", "--seeds", "12", "--jobs", "2")

    assert shown.exit_code == 0
    assert "harmless" not in shown.stdout


def test_scenarios_pass_with_and_fail_without_their_safeguard(sim: Invoke) -> None:
    shown = sim("scenario", "--jobs", "1", "-o", "json")
    rows = {row["name"]: row for row in json.loads(shown.stdout)}

    assert shown.exit_code == 1
    assert {name: row["passed"] for name, row in rows.items()} == {"good": True, "harmless": False, "broken": False}
    assert rows["broken"]["detail"] == "lost-write: gone"
    assert "nothing is found" in rows["harmless"]["detail"]
    assert sim("scenario", "good").exit_code == 0


def test_cores_run_both_kinds_and_name_the_one_that_fails(sim: Invoke) -> None:
    shown = sim("cores", "--seeds", "1..4", "--jobs", "1", "--keep-going")

    assert shown.exit_code == 1
    assert "8 of 8 seeds" in shown.stdout
    assert "election-safety (raft)" in shown.stdout
    assert "0.003 s  n1 votes" in shown.stdout
    assert "logcluster sim cores --seeds 3..3 --kind raft" in shown.stdout
    assert sim("cores", "--seeds", "1..4", "--kind", "replication").exit_code == 0


@pytest.mark.parametrize(
    ("what", "name"),
    [
        ("faults", "power-loss"),
        ("probes", "raft.vote.refused_stale_log"),
        ("anomalies", "lost-write"),
        ("invariants", "durability-gap"),
        ("failpoints", "storage.log.append.after_write"),
    ],
)
def test_catalogues_are_listed(sim: Invoke, what: str, name: str) -> None:
    rows = json.loads(sim("list", what, "-o", "json").stdout)

    assert name in {row["name"] for row in rows}
    assert all(len(row) > 1 for row in rows)


def test_missing_server_packages_are_said_with_what_to_install(sim: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("logcluster.cli.server_extra.find_spec", lambda name: None if name == "msgspec" else object())

    for arguments in (["sim", "run", "--seed", "1"], ["serve", "--config", "x.toml"]):
        shown = CliRunner().invoke(app, arguments)
        assert shown.exit_code == 1
        assert "not installed: msgspec" in shown.stderr
        assert "pip install 'logcluster[server]'" in shown.stderr


def test_many_findings_of_one_name_are_counted_not_printed(capsys: pytest.CaptureFixture[str]) -> None:
    problems = [FoundProblem("unseen", f"record {number}", None, "history") for number in range(5)]

    print_problems([*problems, FoundProblem("duplicate", "twice", 5, "history")])

    shown = capsys.readouterr().out
    assert "record 2" in shown
    assert "record 3" not in shown
    assert "and 2 more of unseen" in shown
    assert "twice" in shown
