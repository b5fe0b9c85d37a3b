"""`logcluster sim`: run seeds of the deterministic simulator, hunt its ablations, list what it knows.

The work is in `sim_work`, what people read in `sim_text`. Runs happen in worker processes, also a single one, so that
a run that dies or hangs is a finding like any other.
"""

from __future__ import annotations

import re
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from logcluster.cli.command import Settings, command, new_group
from logcluster.cli.output import note, print_json, print_rows, print_table, progress
from logcluster.cli.server_extra import require_server_extra

if TYPE_CHECKING:
    from logcluster.sim.campaign import Job
    from logcluster.sim.report import Replay, SeedReport

app = new_group("The deterministic simulator: whole clusters, their clients and their disks, all from one seed.")

SAVE_DEFAULT: Final = Path("sim-failures")
SEED_MAX: Final = 2**63 - 1
SEEDS_MAX: Final = 1_000_000
"""In one campaign, whose reports stay in memory."""
_RANGE: Final = re.compile(r"(\d+)\.\.(\d+)")


class Mode(StrEnum):
    """How far the faults go."""

    PROMISED = "promised"
    BEYOND = "beyond"


class Catalogue(StrEnum):
    """What can be listed."""

    ABLATIONS = "ablations"
    ANOMALIES = "anomalies"
    FAILPOINTS = "failpoints"
    FAULTS = "faults"
    INVARIANTS = "invariants"
    PROBES = "probes"
    SCENARIOS = "scenarios"


class Core(StrEnum):
    """A pure core that is simulated by itself."""

    RAFT = "raft"
    REPLICATION = "replication"
    BOTH = "both"


JobsOption = Annotated[
    int | None, typer.Option("-j", "--jobs", min=1, help="Worker processes. [default: one per processor]")
]
SaveOption = Annotated[Path, typer.Option("--save", metavar="DIR", help="Where replay files of failures go.")]
KeepGoingOption = Annotated[bool, typer.Option("--keep-going", help="Do not stop at the first seed that fails.")]


def seed_range(text: str) -> range:
    """Read `A..B`, both included.

    Raises:
        typer.BadParameter: it is not that.
    """
    match = _RANGE.fullmatch(text.strip())
    if match is None:
        hint = f"; a single one is --seed {text.strip()}" if text.strip().isdecimal() else ""
        raise typer.BadParameter(f"--seeds: {text!r} is not a range of seeds; write 1..500{hint}")
    first, last = int(match[1]), int(match[2])
    if last < first:
        raise typer.BadParameter(f"--seeds: {text!r} is empty: the first seed is above the last; write {last}..{first}")
    if last > SEED_MAX:
        raise typer.BadParameter(f"--seeds: a seed is at most {SEED_MAX}")
    if last - first >= SEEDS_MAX:
        raise typer.BadParameter(f"--seeds: {text!r} is more than {SEEDS_MAX:,} seeds; run it in parts")
    return range(first, last + 1)


@command(
    app,
    "run",
    example="logcluster sim run --seeds 1..500\n"
    "logcluster sim run --seed 42 --trace\n"
    "logcluster sim run --replay sim-failures/seed-42.json",
)
def run(  # noqa: PLR0913  (one per option)
    settings: Settings,
    seed: Annotated[int | None, typer.Option("--seed", min=0, max=SEED_MAX, help="Run this one and show it.")] = None,
    seeds: Annotated[str | None, typer.Option("--seeds", metavar="A..B", help="Run all of these.")] = None,
    replay: Annotated[
        Path | None, typer.Option("--replay", metavar="FILE", help="Repeat a run; says whether it is the same again.")
    ] = None,
    jobs: JobsOption = None,
    ablate: Annotated[str | None, typer.Option("--ablate", metavar="NAME", help="Take this safeguard away.")] = None,
    mode: Annotated[
        Mode | None,
        typer.Option("--mode", help="promised: faults that must be survived; beyond: it must stop, and serve no lie."),
    ] = None,
    duration_ms: Annotated[
        int | None, typer.Option("--duration-ms", min=1, help="Virtual length of the phase with faults.")
    ] = None,
    brokers: Annotated[int | None, typer.Option("--brokers", min=1, max=9, help="How many.")] = None,
    shrink: Annotated[bool, typer.Option("--shrink", help="Make the plan of faults of a failure small.")] = False,
    keep_going: KeepGoingOption = False,
    save: SaveOption = SAVE_DEFAULT,
    trace: Annotated[bool, typer.Option("--trace", help="Show the whole timeline, also of a run that passes.")] = False,
) -> None:
    """Run one seed, many seeds, or a replay file.

    A failure is written to a replay file. Exit code 1 when a seed fails (with --replay: when the run fails).
    """
    options = _options(ablation=ablate, mode=mode, duration_ms=duration_ms, brokers=brokers)
    if sum(given is not None for given in (seed, seeds, replay)) != 1:
        raise typer.BadParameter("give exactly one of --seed N, --seeds A..B and --replay FILE")
    if replay is not None and options:
        raise typer.BadParameter("a replay file brings its own options: leave --ablate, --mode and the like away")
    numbers = seed_range(seeds) if seeds is not None else range(0)
    require_server_extra("logcluster sim")
    if ablate is not None:
        _check_names("ablations", [ablate])
    from logcluster.sim.campaign import Job

    if replay is not None:
        _run_replay(settings, replay, shrink=shrink, save=save, trace=trace)
    elif seed is not None:
        job = Job(seed=seed, options=options, with_timeline=trace, history_directory=str(save))
        _run_single(settings, job, shrink=shrink, save=save, trace=trace)
    else:
        many = [Job(seed=number, options=options, history_directory=str(save)) for number in numbers]
        _run_many(settings, many, workers=jobs, keep_going=keep_going, shrink=shrink, save=save)


def _options(**given: object) -> dict[str, Any]:
    """Options of a run that were given; the others keep the defaults of `RunOptions`."""
    return {
        name: value.value if isinstance(value, StrEnum) else value for name, value in given.items() if value is not None
    }


def _check_names(what: str, names: list[str]) -> None:
    from logcluster.cli.sim_work import check_names

    check_names(what, names)


def _run_replay(settings: Settings, path: Path, *, shrink: bool, save: Path, trace: bool) -> None:
    from logcluster.sim.campaign import Job
    from logcluster.sim.report import read_replay

    try:
        replay = read_replay(path)
    except (OSError, ValueError) as error:
        raise typer.BadParameter(f"--replay: {error}") from error
    job = Job(
        kind=replay.kind,
        seed=replay.seed,
        options=replay.options,
        plan=replay.plan,
        with_timeline=trace,
        history_directory=str(save),
    )
    _run_single(settings, job, shrink=shrink, save=save, trace=trace, replay=replay, replay_file=path)


def _run_single(
    settings: Settings,
    job: Job,
    *,
    shrink: bool,
    save: Path,
    trace: bool,
    replay: Replay | None = None,
    replay_file: Path | None = None,
) -> None:
    """One run, shown whole. A replay file is written unless the run came from one and was not made smaller."""
    from logcluster.cli import sim_text, sim_work
    from logcluster.sim.campaign import WorkerPool

    with WorkerPool(1) as pool:
        original = pool.run_one(job).report()
        report = original if original.passed or not shrink else sim_work.shrink(pool, original)
    if not report.passed and (replay is None or report is not original):
        replay_file = sim_work.save_failures(save, [report])[report.kind, report.seed]
    if settings.is_json:
        document = _report_json(report, replay_file)
        if replay is not None:
            document |= sim_text.compare(replay, original)
        print_json(document)
    else:
        sim_text.print_report(report, with_trace=trace, replay_file=replay_file)
        if replay is not None:
            sim_text.print_replay_verdict(replay, original)
    sim_work.exit_unless_passed(has_failures=not report.passed, is_interrupted=False)


def _report_json(report: SeedReport, replay_file: Path | None) -> dict[str, Any]:
    from dataclasses import asdict

    document = asdict(report)
    document["timeline"] = [{"at_ms": line.at_ms, "kind": line.kind, **line.facts} for line in report.timeline]
    return {**document, "passed": report.passed, "replay_file": None if replay_file is None else str(replay_file)}


def _run_many(
    settings: Settings, jobs: list[Job], *, workers: int | None, keep_going: bool, shrink: bool, save: Path
) -> None:
    """A campaign: run, make failures small, save them, sum up."""
    from logcluster.cli import sim_text, sim_work
    from logcluster.model.probes import PROBES
    from logcluster.sim.campaign import JOBS_PER_WORKER, WorkerPool, processors
    from logcluster.sim.report import CLUSTER_KIND, summarise

    # Runs of the cores leave nothing behind, and are so short that starting workers would count.
    jobs_per_worker = JOBS_PER_WORKER if jobs[0].kind == CLUSTER_KIND else 100 * JOBS_PER_WORKER
    with WorkerPool(workers or processors(), jobs_per_worker=jobs_per_worker) as pool:
        done = sim_work.run_jobs(pool, jobs, title="seeds", keep_going=keep_going)
    failures = [report for report in done.reports if not report.passed]
    files = sim_work.save_failures(save, failures)
    if shrink and failures and not done.is_interrupted:
        with WorkerPool(1) as pool:
            failures = sim_work.shrink_each_kind(pool, failures)
        files = sim_work.save_failures(save, failures)
    summary = summarise(
        done.reports, seeds_asked=len(jobs), elapsed_ms=done.elapsed_ms, is_interrupted=done.is_interrupted
    )
    # The cores count probes of their own; whole nodes hit those of the catalogue.
    known = list(PROBES) if all(job.kind == CLUSTER_KIND for job in jobs) else []
    if settings.is_json:
        print_json({**summary.to_json(known), "failed": [_failure_json(report, files) for report in failures]})
    else:
        if failures:
            first = failures[0]
            sim_text.print_report(first, with_trace=False, replay_file=files[first.kind, first.seed])
            typer.echo()
        sim_text.print_summary(summary, failures, files, known)
    sim_work.exit_unless_passed(has_failures=bool(failures), is_interrupted=done.is_interrupted)


def _failure_json(report: SeedReport, files: dict[tuple[str, int], Path]) -> dict[str, Any]:
    return _report_json(replace(report, timeline=(), log=()), files.get((report.kind, report.seed)))


@command(
    app,
    "ablate",
    example="logcluster sim ablate fsync-before-ack\nlogcluster sim ablate --seeds 1000 --markdown ablations.md",
)
def ablate(
    settings: Settings,
    names: Annotated[list[str] | None, typer.Argument(metavar="[NAME]...", help="Only these; all by default.")] = None,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Seeds to try for each, from 1 on.")] = 1000,
    jobs: JobsOption = None,
    markdown: Annotated[
        Path | None, typer.Option("--markdown", metavar="FILE", help="Write the table as Markdown, too.")
    ] = None,
) -> None:
    """Take each safeguard away and count the seeds until the simulator notices as expected.

    Exit code 1 when one is not caught.
    """
    require_server_extra("logcluster sim")
    from logcluster.cli import sim_work
    from logcluster.sim.ablation_search import AblationSearch, Target, markdown_table
    from logcluster.sim.campaign import WorkerPool, processors

    known = sim_work.catalogue("ablations")
    _check_names("ablations", names or [])
    targets = [
        Target(name, entry.safeguard, tuple(sorted(entry.expected)))
        for name, entry in known.items()
        if not names or name in names
    ]
    search = AblationSearch(targets, seeds_first=1, seeds_max=seeds)
    with progress("ablations", total=len(targets), unit="ablations") as line, WorkerPool(jobs or processors()) as pool:
        is_interrupted = sim_work.run_until_interrupt(
            pool, search, on_tick=lambda: line.update(search.decided, text=search.describe())
        )
    rows = [found.to_json() for found in search.searches if found.is_decided or not is_interrupted]
    if markdown is not None:
        markdown.write_text(markdown_table(rows), encoding="utf-8")
        note(f"wrote {markdown}")
    print_rows(settings, rows, ["ablation", "found_as", "seeds_needed", "seconds", "safeguard", "expected"])
    sim_work.exit_unless_passed(has_failures=not search.all_caught, is_interrupted=is_interrupted)


@command(app, "list", example="logcluster sim list ablations\nlogcluster sim list failpoints -o json")
def catalogue(
    settings: Settings,
    what: Annotated[Catalogue, typer.Argument(help="Which catalogue.")],
) -> None:
    """List what the simulator can do and check."""
    require_server_extra("logcluster sim")
    from logcluster.cli.sim_work import catalogue_rows

    print_rows(settings, catalogue_rows(what.value))


@command(app, "scenario", example="logcluster sim scenario\nlogcluster sim scenario kip-101 -o json")
def scenario(
    settings: Settings,
    names: Annotated[list[str] | None, typer.Argument(metavar="[NAME]...", help="Only these; all by default.")] = None,
    jobs: JobsOption = None,
) -> None:
    """Play scripted histories of real bugs: each must pass with its safeguard and fail without.

    Exit code 1 when one does not.
    """
    require_server_extra("logcluster sim")
    from logcluster.cli import sim_work
    from logcluster.sim.campaign import Job, JobList, WorkerPool, processors

    known = sim_work.catalogue("scenarios")
    _check_names("scenarios", names or [])
    chosen = [name for name in known if not names or name in names]
    source = JobList([Job(kind="scenario", name=name) for name in chosen])
    with progress("scenarios", total=len(chosen), unit="scenarios") as line, WorkerPool(jobs or processors()) as pool:
        is_interrupted = sim_work.run_until_interrupt(pool, source, on_tick=lambda: line.update(len(source.outcomes)))
    outcomes = {outcome.job.name: outcome for outcome in source.outcomes}
    rows = [sim_work.scenario_row(known[name], outcomes[name]) for name in chosen if name in outcomes]
    if settings.is_json:
        print_json(rows)
    else:
        print_table(["name", "title", "with_safeguard", "without_safeguard", "passed", "source"], rows)
        for row in rows:
            if row["detail"]:
                note(f"{row['name']}: {row['detail']}")
    sim_work.exit_unless_passed(has_failures=not all(row["passed"] for row in rows), is_interrupted=is_interrupted)


@command(app, "cores", example="logcluster sim cores --seeds 1..2000 --kind raft")
def cores(
    settings: Settings,
    seeds: Annotated[str, typer.Option("--seeds", metavar="A..B", help="Run all of these.")],
    kind: Annotated[Core, typer.Option("--kind", help="Which core.")] = Core.BOTH,
    ablate: Annotated[
        str | None, typer.Option("--ablate", metavar="NAME", help="Take this safeguard of the core (--kind) away.")
    ] = None,
    jobs: JobsOption = None,
    keep_going: KeepGoingOption = False,
    save: SaveOption = SAVE_DEFAULT,
) -> None:
    """Run seeds of the pure cores, Raft and replication, without nodes, disks and sockets around them."""
    numbers = seed_range(seeds)
    if ablate is not None and kind is Core.BOTH:
        raise typer.BadParameter("--ablate takes away a safeguard of one core: say which with --kind")
    require_server_extra("logcluster sim")
    if ablate is not None:
        _check_names(f"{kind.value} ablations", [ablate])
    from logcluster.sim.campaign import Job

    options = _options(ablation=ablate)
    kinds = [Core.RAFT, Core.REPLICATION] if kind is Core.BOTH else [kind]
    many = [Job(kind=core.value, seed=number, options=options) for number in numbers for core in kinds]
    _run_many(settings, many, workers=jobs, keep_going=keep_going, shrink=False, save=save)
