"""The work behind `logcluster sim`: campaigns with progress, shrinking, replay files, catalogues.

Nothing here imports the world: runs happen in worker processes (`logcluster.sim.campaign`), and what arrives are
reports. Ctrl-C ends a campaign at once and keeps what was done.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import typer

from logcluster.cli.command import CommandFailed, ExitCode
from logcluster.cli.output import ProgressLine, note, progress

if TYPE_CHECKING:
    from logcluster.sim.campaign import Job, JobSource, Outcome, WorkerPool
    from logcluster.sim.report import SeedReport

SHRINK_RUNS_MAX: Final = 300
NOTE_EVERY_MS: Final = 60_000
"""How often a long campaign says how far it is where no progress bar can be shown."""

CATALOGUES: Final[Mapping[str, tuple[str, str]]] = {
    "ablations": ("logcluster.sim.ablations", "ABLATIONS"),
    "anomalies": ("logcluster.check.checker", "rules"),
    "failpoints": ("logcluster.runtime.failpoints", "FAILPOINTS"),
    "faults": ("logcluster.sim.faults.kinds", "KINDS"),
    "invariants": ("logcluster.sim.invariants.catalogue", "INVARIANTS"),
    "probes": ("logcluster.model.probes", "PROBES"),
    "raft ablations": ("logcluster.sim.cores.raft_seeds", "RAFT_ABLATIONS"),
    "replication ablations": ("logcluster.sim.cores.replication_seeds", "REPLICATION_ABLATIONS"),
    "scenarios": ("logcluster.sim.scenarios", "SCENARIOS"),
}
_SHOWN: Final = ("promise", "group", "title", "safeguard", "text", "meaning", "description", "expected", "source")


def catalogue(what: str) -> Mapping[str, Any]:
    """One of the simulator's catalogues: entries by name."""
    module, attribute = CATALOGUES[what]
    entries = getattr(import_module(module), attribute)
    if callable(entries):
        entries = entries()
    return {str(name): entry for name, entry in entries.items()}


def catalogue_rows(what: str) -> list[dict[str, object]]:
    """The entries of a catalogue, with what each says about itself."""
    rows: list[dict[str, object]] = []
    for name, entry in catalogue(what).items():
        row: dict[str, object] = {"name": name}
        if isinstance(entry, str):
            row["meaning"] = entry
        for attribute in _SHOWN:
            value = getattr(entry, attribute, None)
            if isinstance(value, str):
                row[attribute] = str(value)
            elif isinstance(value, set | frozenset):
                row[attribute] = sorted(value)
        rows.append(row)
    return rows


def check_names(what: str, names: Iterable[str]) -> None:
    """Raises:
    typer.BadParameter: a name is not in the catalogue.
    """
    known = catalogue(what)
    unknown = [name for name in names if name not in known]
    if unknown:
        raise typer.BadParameter(f"{', '.join(unknown)}: not among the {what}, which are {', '.join(known)}")


@dataclass(slots=True)
class Done:
    """What a campaign got through."""

    reports: list[SeedReport]
    elapsed_ms: int
    is_interrupted: bool


class _Tally:
    """Counts for the progress line."""

    def __init__(self, line: ProgressLine, total: int, started_ms: int) -> None:
        self.line = line
        self.total = total
        self.started_ms = started_ms
        self.noted_ms = started_ms
        self.seeds = 0
        self.failed = 0
        self.virtual_ms = 0

    def add(self, report: SeedReport) -> None:
        self.seeds += 1
        self.failed += not report.passed
        self.virtual_ms += report.virtual_ms

    def show(self) -> None:
        now_ms = wall_ms()
        elapsed_s = max(now_ms - self.started_ms, 1) / 1000
        text = (
            f"{self.seeds / elapsed_s:.1f} seeds/s  {self.failed} failed  {self.virtual_ms / 3_600_000:.2f} virtual h"
        )
        self.line.update(self.seeds, text=text)
        if now_ms - self.noted_ms >= NOTE_EVERY_MS and not sys.stderr.isatty():
            self.noted_ms = now_ms
            note(f"{self.seeds} of {self.total}  {text}")


def wall_ms() -> int:
    """Milliseconds for measuring."""
    from logcluster.runtime.clock import perf_counter_ns

    return perf_counter_ns() // 1_000_000


def run_jobs(pool: WorkerPool, jobs: Sequence[Job], *, title: str, keep_going: bool) -> Done:
    """Run seeds with a progress bar; Ctrl-C ends it early with what was done, in the order of the seeds."""
    from logcluster.sim.campaign import JobList

    started_ms = wall_ms()
    reports: list[SeedReport] = []
    with progress(title, total=len(jobs), unit="seeds") as line:
        tally = _Tally(line, len(jobs), started_ms)

        def on_each(outcome: Outcome) -> None:
            report = outcome.report()
            reports.append(report)
            tally.add(report)
            tally.show()

        def is_bad(outcome: Outcome) -> bool:
            return not keep_going and (outcome.value is None or bool(outcome.value["findings"]))

        is_interrupted = run_until_interrupt(pool, JobList(jobs, is_bad=is_bad, on_each=on_each), on_tick=tally.show)
    reports.sort(key=lambda report: (report.seed, report.kind))
    return Done(reports, wall_ms() - started_ms, is_interrupted)


def run_until_interrupt(pool: WorkerPool, source: JobSource, *, on_tick: Callable[[], object]) -> bool:
    """Run a source's jobs to their end; True when Ctrl-C came first."""
    try:
        pool.run(source, on_tick=on_tick)
    except KeyboardInterrupt:
        note("interrupted: here is what was done")
        return True
    return False


def shrink(pool: WorkerPool, report: SeedReport) -> SeedReport:
    """The same failure with as small a plan as is found; the report itself when it cannot be made smaller.

    Each candidate runs in a worker. It counts only when the first finding's name turns up again, so that the search
    does not slip from one bug to another.
    """
    from dataclasses import replace

    from logcluster.sim import shrink as shrinking
    from logcluster.sim.campaign import Job
    from logcluster.sim.faults.plan import Plan

    if report.plan is None:
        note(f"seed {report.seed}: the run gave no plan that could be made smaller")
        return report
    wanted = report.finding_names[0]
    job = Job(kind=report.kind, seed=report.seed, options=report.options)

    def fails(plan: Plan) -> bool:
        return wanted in pool.run_one(replace(job, plan=plan.to_json())).report().finding_names

    with progress(f"shrinking seed {report.seed}", total=SHRINK_RUNS_MAX, unit="runs") as line:

        def show(state: shrinking.ShrinkProgress) -> None:
            line.update(state.runs, text=f"{state.fault_count} faults  {state.step}")

        shrunk = shrinking.shrink(Plan.from_json(report.plan), fails, runs_max=SHRINK_RUNS_MAX, progress=show)
    count = len(shrunk.plan.faults)
    rest = "" if shrunk.is_minimal else "; more runs could make it smaller"
    note(f"seed {report.seed}: {len(report.plan['faults'])} faults made {count} in {shrunk.runs} runs{rest}")
    history_directory = None if report.history_file is None else str(Path(report.history_file).parent)
    last = replace(job, plan=shrunk.plan.to_json(), history_directory=history_directory)
    smaller = pool.run_one(last).report()
    return smaller if wanted in smaller.finding_names else report


def shrink_each_kind(pool: WorkerPool, failures: Sequence[SeedReport]) -> list[SeedReport]:
    """Shrink the first failure of each name; the others stay as they are."""
    seen: set[str] = set()
    shrunk = []
    for report in failures:
        is_new = report.finding_names[0] not in seen
        seen.add(report.finding_names[0])
        shrunk.append(shrink(pool, report) if is_new else report)
    return shrunk


def save_failures(directory: Path, failures: Iterable[SeedReport]) -> dict[tuple[str, int], Path]:
    """Write a replay file for each failure; paths by kind and seed.

    Raises:
        CommandFailed: the directory cannot be written.
    """
    from logcluster.sim.report import write_replay

    try:
        return {(report.kind, report.seed): write_replay(directory, report) for report in failures}
    except OSError as error:
        raise CommandFailed(
            f"cannot write replay files to {directory}: {error}", hint="choose another --save"
        ) from error


def exit_unless_passed(*, has_failures: bool, is_interrupted: bool) -> None:
    """End the command with the exit code of a campaign.

    Raises:
        typer.Exit: it was interrupted, or something failed.
    """
    if is_interrupted:
        raise typer.Exit(ExitCode.INTERRUPTED)
    if has_failures:
        raise typer.Exit(ExitCode.FAILED)


def scenario_row(scenario: Any, outcome: Outcome) -> dict[str, Any]:
    """A scripted history's row: what it found on either side, and whether both are as they should be."""
    row: dict[str, Any] = {"name": scenario.name, "title": scenario.title, "source": scenario.source, "detail": ""}
    if outcome.value is None:
        return {**row, "with_safeguard": None, "without_safeguard": None, "passed": False, "detail": outcome.trouble}
    sides = {side: outcome.value[side] for side in ("with_safeguard", "without_safeguard")}
    row |= {side: list(dict.fromkeys(finding["name"] for finding in found)) for side, found in sides.items()}
    row["passed"] = not sides["with_safeguard"] and bool(sides["without_safeguard"])
    if sides["with_safeguard"]:
        row["detail"] = "; ".join(f"{finding['name']}: {finding['detail']}" for finding in sides["with_safeguard"])
    elif not row["passed"]:
        row["detail"] = "nothing is found without the safeguard"
    return row
