"""What the simulator found, as people read it: one seed, many seeds, the end of a timeline."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import typer

from logcluster.cli.output import cell, print_table

if TYPE_CHECKING:
    from pathlib import Path

    from logcluster.sim.report import FoundProblem, Replay, SeedReport, Summary, TimelineLine

TIMELINE_LINES: Final = 60
"""How much of a failure's timeline is shown without --trace."""
LOG_LINES: Final = 20
SAME_NAME_SHOWN: Final = 3
NAMES_SHOWN: Final = 12
OPTION_NAMES: Final = {
    "ablation": "--ablate",
    "mode": "--mode",
    "duration_ms": "--duration-ms",
    "brokers": "--brokers",
}


def print_report(report: SeedReport, *, with_trace: bool, replay_file: Path | None) -> None:
    """One seed: what it was, what came out; for a failure also how it came about and how to see it again."""
    is_cluster = report.kind == "cluster"
    lines_max = None if with_trace else TIMELINE_LINES
    _fact("seed", f"{report.seed}" if is_cluster else f"{report.seed} ({report.kind})")
    _fact("options", cell({name: value for name, value in report.options.items() if value is not None}))
    for line in report.derived:
        _fact("drawn", line)
    for number, line in enumerate(report.plan_lines):
        _fact("plan" if number == 0 else "", line)
    if report.wall_ms:
        speed = report.virtual_ms / report.wall_ms
        virtual, wall = seconds(report.virtual_ms), seconds(report.wall_ms)
        _fact("time", f"{virtual} s virtual in {wall} s: {speed:.1f} x real time, {report.event_count:,} events")
    _fact("trace", report.trace_hash or "-")
    print_statistics(report.statistics)
    if with_trace or not report.passed:
        print_lines("log", report.log, lines_max=lines_max and LOG_LINES)
        print_lines("timeline", [timeline_text(line) for line in report.timeline], lines_max=lines_max)
    print_problems(report.findings)
    _verdict(report)
    if report.history_file is not None:
        _fact("history", report.history_file)
    if not report.passed:
        _fact("again", shlex.join(again(report)))
        if replay_file is not None:
            _fact("replay", shlex.join(["logcluster", "sim", "run", "--replay", str(replay_file)]))


def _verdict(report: SeedReport) -> None:
    if report.passed:
        typer.secho("passed", fg="green", bold=True)
    else:
        typer.secho(f"failed: {', '.join(report.finding_names)}", fg="red", bold=True)


def again(report: SeedReport) -> list[str]:
    """The command that runs the seed with the plan it derives."""
    if report.kind != "cluster":
        words = ["logcluster", "sim", "cores", "--seeds", f"{report.seed}..{report.seed}", "--kind", report.kind]
    else:
        words = ["logcluster", "sim", "run", "--seed", str(report.seed)]
    for name, option in OPTION_NAMES.items():
        if report.options.get(name) is not None:
            words += [option, str(report.options[name])]
    return words


def print_statistics(statistics: Mapping[str, Any]) -> None:
    """Plain numbers together, then each map of counts, the most frequent first."""
    numbers = {name: value for name, value in statistics.items() if not isinstance(value, dict)}
    if numbers:
        _fact("counts", "  ".join(f"{name}={cell(value)}" for name, value in numbers.items()))
    for name, value in statistics.items():
        if isinstance(value, dict) and value:
            _fact(name, cell(dict(sorted(value.items(), key=_by_count))))


def _by_count(item: tuple[str, Any]) -> tuple[float, str]:
    return (-item[1] if isinstance(item[1], int | float) else 0, item[0])


def print_lines(title: str, lines: Sequence[str], *, lines_max: int | None) -> None:
    """The end of a log or a timeline; all of it without `lines_max`."""
    if not lines:
        return
    shown = lines if lines_max is None else lines[-lines_max:]
    is_cut = len(shown) < len(lines)
    typer.secho(f"{title} (the last {len(shown)} of {len(lines)}; --trace shows all)" if is_cut else title, bold=True)
    for line in shown:
        typer.echo(line)


def timeline_text(line: TimelineLine) -> str:
    """An entry of a timeline."""
    facts = " ".join(f"{name}={cell(value)}" for name, value in line.facts.items())
    return f"{seconds(line.at_ms):>11} s  {line.kind:<24} {facts}".rstrip()


def print_problems(problems: Sequence[FoundProblem]) -> None:
    """Findings in their order; of those with one name the first few."""
    seen: dict[str, int] = {}
    for problem in problems:
        seen[problem.name] = seen.get(problem.name, 0) + 1
        if seen[problem.name] <= SAME_NAME_SHOWN:
            print_problem(problem)
    for name, count in seen.items():
        if count > SAME_NAME_SHOWN:
            typer.echo(f"         and {count - SAME_NAME_SHOWN} more of {name}")


def print_problem(problem: FoundProblem) -> None:
    """One finding."""
    when = "" if problem.at_ms is None else f" at {seconds(problem.at_ms)} s"
    typer.secho(f"finding  {problem.name}{when} ({problem.source})", fg="red")
    for line in problem.detail.splitlines():
        typer.echo(f"         {line}")


def print_replay_verdict(replay: Replay, report: SeedReport) -> None:
    """Whether the run was the same as when the file was written."""
    comparison = compare(replay, report)
    was = ", ".join(replay.findings) or "nothing"
    now = ", ".join(report.finding_names) or "nothing"
    _fact(
        "findings", f"the same as in the file: {was}" if comparison["same_findings"] else f"{now}; in the file: {was}"
    )
    if comparison["same_trace"]:
        _fact("hash", "the same as in the file")
    else:
        versions = ", ".join(f"{name} {version}" for name, version in replay.versions.items())
        _fact("hash", f"differs from the file's ({replay.trace_hash or '-'}, written by {versions})")


def compare(replay: Replay, report: SeedReport) -> dict[str, bool]:
    """Whether findings and trace are those of the file."""
    return {
        "same_findings": set(replay.findings) == set(report.finding_names),
        "same_trace": replay.trace_hash == report.trace_hash,
    }


def print_summary(
    summary: Summary, failures: Sequence[SeedReport], files: Mapping[tuple[str, int], Path], known_probes: Sequence[str]
) -> None:
    """Many seeds: the failures in a table, then the figures."""
    if failures:
        rows: list[dict[str, Any]] = [
            {
                "seed": report.seed,
                "kind": report.kind,
                "findings": report.finding_names,
                "replay": str(files.get((report.kind, report.seed), "-")),
            }
            for report in failures
        ]
        print_table(["seed", "kind", "findings", "replay"], rows)
        typer.echo()
    print_statistics(summary.statistics)
    if known_probes:
        never = summary.never_hit(known_probes)
        _fact("probes", f"{len(known_probes) - len(never)} of {len(known_probes)} hit")
        if never:
            _fact("never hit", shortened(never))
    for name, seeds in summary.findings.items():
        share = f"{len(seeds)} of {summary.seeds_done}"
        _fact("finding", f"{name} in {share}: seed {shortened([str(seed) for seed in seeds])}")
    done = f"{summary.seeds_done:,} of {summary.seeds_asked:,} seeds"
    _fact("seeds", done + (", interrupted" if summary.is_interrupted else ""))
    _fact(
        "time",
        f"{summary.virtual_ms / 3_600_000:.2f} virtual h in {summary.elapsed_ms / 1000:,.1f} s: "
        f"{summary.seeds_per_s:.2f} seeds/s, {summary.speed:.1f} x real time per core",
    )
    if summary.failed_seeds:
        typer.secho(f"failed: {len(summary.failed_seeds)} of {summary.seeds_done}", fg="red", bold=True)
    else:
        typer.secho("no failures", fg="green", bold=True)


def shortened(names: Sequence[str]) -> str:
    """The first names and how many more."""
    more = len(names) - NAMES_SHOWN
    return ", ".join(names[:NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")


def seconds(time_ms: int) -> str:
    """Milliseconds as seconds."""
    return f"{time_ms / 1000:,.3f}"


def _fact(name: str, text: str) -> None:
    typer.echo(f"{name.replace('_', ' '):<10} {text}".rstrip())
