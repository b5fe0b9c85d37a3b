"""`python -m chaos`: run scenarios against a cluster of real processes, and read what came of them."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from chaos.interfaces import FaultFailed, RunFiles, Target
from chaos.matrix import generated
from chaos.report import write_index
from chaos.runner import Outcome, Run, judge
from chaos.scenario import Scenario, ScenarioError, load, written
from chaos.soak import soak_scenario
from chaos.targets import TARGETS, make_target

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Kill, pause, cut and damage a real cluster under load, and judge what its clients saw.",
)
TargetName = Annotated[str, typer.Option("--target", help=f"Where the cluster runs: {', '.join(TARGETS)}.")]
Seed = Annotated[int, typer.Option("--seed", help="Decides times, victims and what clients send.")]
Out = Annotated[Path, typer.Option("--out", help="Where the files of the runs go.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object per run instead of text.")]
RESULTS = Path("chaos-results")
EXIT_TERMINATED = 128 + signal.SIGTERM
REASON_LENGTH_MAX = 300
"""On a terminal; the report has all of it, with the end of a broker's log."""


def _say(line: str) -> None:
    print(f"  {time.strftime('%H:%M:%S')}  {line}", file=sys.stderr, flush=True)


async def _run_one(scenario: Scenario, target: Target, directory: Path, seed: int) -> Outcome:
    this = asyncio.current_task()
    assert this is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, this.cancel)
    try:
        return await Run(scenario, target, directory, seed=seed, progress=_say).execute()
    except FaultFailed as error:
        return Outcome(scenario.name, 2, [str(error)])


def _run_all(scenarios: Sequence[Scenario], target: str, seed: int, out: Path, *, as_json: bool) -> int:
    """Run one after the other; returns the worst status, or `EXIT_TERMINATED` when told to end before the end."""
    stamp = time.strftime("%Y%m%d-%H%M%S")
    worst = 0
    outcomes: list[Outcome] = []
    for number, scenario in enumerate(scenarios, 1):
        print(f"[{number}/{len(scenarios)}] {scenario.name}: {scenario.description}", file=sys.stderr, flush=True)
        directory = (out / f"{stamp}-{scenario.name}").resolve()
        try:
            outcome = asyncio.run(_run_one(scenario, make_target(target), directory, seed))
        except asyncio.CancelledError:
            print("ended by SIGTERM: everything that was started is undone, there is no verdict", file=sys.stderr)
            return EXIT_TERMINATED
        outcomes.append(outcome)
        worst = max(worst, outcome.status)
        _print(outcome, as_json=as_json)
    if len(outcomes) > 1:
        page = write_index(out)
        passed = sum(1 for outcome in outcomes if outcome.status == 0)
        print(f"{passed} of {len(outcomes)} passed; all of them: {page}", file=sys.stderr)
    return worst


def _print(outcome: Outcome, *, as_json: bool) -> None:
    page = str(outcome.files.report) if outcome.files is not None else None
    facts: Mapping[str, Any] = {
        "scenario": outcome.scenario,
        "status": outcome.status,
        "reasons": outcome.reasons,
        "anomalies": outcome.anomalies,
        "figures": outcome.figures,
        "report": page,
    }
    if as_json:
        print(json.dumps(facts), flush=True)
        return
    verdict = {0: "passed", 1: "FAILED", 2: "DID NOT RUN AS ASKED"}[outcome.status]
    figures = "  ".join(f"{name}={value}" for name, value in outcome.figures.items())
    print(f"{outcome.scenario}: {verdict}  {figures}", flush=True)
    for reason in outcome.reasons:
        print(f"    {reason[:REASON_LENGTH_MAX]}", flush=True)
    if page is not None:
        print(f"    {page}", flush=True)


@app.command()
def run(
    scenarios: Annotated[list[str], typer.Argument(metavar="SCENARIO…", help="Names, or paths of TOML files.")],
    target: TargetName = "processes",
    seed: Seed = 1,
    out: Out = RESULTS,
    duration_s: Annotated[
        float, typer.Option("--duration-s", help="Another duration than the scenario's; 0: its own.")
    ] = 0,
    as_json: AsJson = False,
) -> None:
    """Run scenarios; exit status 0 passed, 1 anomalies or missed bounds, 2 it could not be run as asked."""
    try:
        chosen = [load(name) for name in scenarios]
    except ScenarioError as error:
        raise typer.BadParameter(str(error)) from None
    raise typer.Exit(_run_all([_lasting(item, duration_s) for item in chosen], target, seed, out, as_json=as_json))


def _lasting(scenario: Scenario, duration_s: float) -> Scenario:
    import msgspec

    return scenario if duration_s <= 0 else msgspec.structs.replace(scenario, duration_s=duration_s)


@app.command()
def matrix(
    target: TargetName = "processes",
    seed: Seed = 1,
    out: Out = RESULTS,
    only: Annotated[str, typer.Option("--only", help="Names that contain this text.")] = "",
    as_json: AsJson = False,
) -> None:
    """Run every generated scenario, and the written ones."""
    every = {**generated(), **written()}
    chosen = [scenario for name, scenario in every.items() if only in name]
    if not chosen:
        raise typer.BadParameter(f"no scenario has {only!r} in its name")
    raise typer.Exit(_run_all(chosen, target, seed, out, as_json=as_json))


@app.command()
def soak(
    hours: Annotated[float, typer.Option("--hours", min=0.01, help="How long.")] = 2.0,
    target: TargetName = "processes",
    seed: Seed = 1,
    out: Out = RESULTS,
    as_json: AsJson = False,
) -> None:
    """Kill a leader every 20 s for hours, with other faults in between."""
    raise typer.Exit(_run_all([soak_scenario(hours, seed)], target, seed, out, as_json=as_json))


@app.command()
def report(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Of one run, or of many.", exists=True)],
) -> None:
    """Make the pages of finished runs anew."""
    for path in sorted({*directory.glob("run.json"), *directory.glob("*/run.json")}):
        _print(judge(RunFiles(path.parent)), as_json=False)
    if not (directory / "run.json").exists():
        print(write_index(directory))


@app.command("list")
def list_scenarios(
    as_json: AsJson = False,
) -> None:
    """Name all scenarios."""
    for name, scenario in sorted({**generated(), **written()}.items()):
        if as_json:
            print(json.dumps({"name": name, "description": scenario.description, "duration_s": scenario.duration_s}))
        else:
            print(f"{name:32} {scenario.description}")


@app.command()
def preflight(target: TargetName = "processes") -> None:
    """Say which faults can be done here."""
    for item in make_target(target).preflight():
        print(f"{'yes' if item.is_supported else 'no ':4} {item.name:16} {item.reason}")


if __name__ == "__main__":
    app(prog_name="python -m chaos")
