"""Results as data: one seed's run as JSON and back, and the summary of many.

A run happens in a worker process, its result is wanted in another; so a result becomes plain JSON in the worker and a
`SeedReport` here. This file reads results by attribute only and imports neither the world nor the node, so that the
command line can count failures without loading a broker. Times are milliseconds, virtual ones since the world began.
"""

from __future__ import annotations

import json
import platform
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

CLUSTER_KIND: Final = "cluster"
"""A seed of whole nodes; the pure cores have kinds of their own ("raft", "replication")."""
CRASH: Final = "crash"
"""Name and source of the finding that the run itself broke: an exception, a dead worker, a hang."""
TRANSCRIPT_LINES_MAX: Final = 500
REPLAY_FORMAT: Final = "logcluster-sim-replay-1"


@dataclass(frozen=True, slots=True)
class FoundProblem:
    """One finding; `at_ms` is None when it belongs to no moment."""

    name: str
    detail: str
    at_ms: int | None
    source: str


@dataclass(frozen=True, slots=True)
class TimelineLine:
    """One entry of the timeline, its facts as JSON values."""

    at_ms: int
    kind: str
    facts: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class SeedReport:
    """What one seed gave. Empty findings: it passed.

    Args:
        options: keyword arguments of the run besides seed and plan.
        derived: what was drawn from the seed, a line each, for people.
        trace_hash: None when the run did not get far enough to have one.
        plan: JSON of the plan of faults; None when the run has none or broke.
        plan_lines: the plan for people, a fault a line.
        timeline: empty unless the run failed or a timeline was asked for.
        log: last lines that nodes and clients logged; empty when the timeline is.
        history_file: where the history of the clients was written; None when it was not.
    """

    kind: str
    seed: int
    options: Mapping[str, Any] = field(default_factory=dict)
    derived: tuple[str, ...] = ()
    findings: tuple[FoundProblem, ...] = ()
    trace_hash: str | None = None
    virtual_ms: int = 0
    wall_ms: int = 0
    event_count: int = 0
    probes: Mapping[str, int] = field(default_factory=dict)
    statistics: Mapping[str, Any] = field(default_factory=dict)
    plan: Any = None
    plan_lines: tuple[str, ...] = ()
    timeline: tuple[TimelineLine, ...] = ()
    log: tuple[str, ...] = ()
    history_file: str | None = None

    @property
    def passed(self) -> bool:
        return not self.findings

    @property
    def finding_names(self) -> list[str]:
        """Names of the findings, each once, in the order they were found."""
        return list(dict.fromkeys(finding.name for finding in self.findings))


def result_to_json(result: Any, *, options: Mapping[str, Any], with_timeline: bool) -> dict[str, Any]:
    """The result of a seed of whole nodes (`run.RunResult`) as JSON.

    Args:
        options: the run's, with defaults filled in.
        with_timeline: also when it passed; the timeline of a failure is always kept.
    """
    document: dict[str, Any] = {
        "kind": CLUSTER_KIND,
        "seed": result.seed,
        "options": jsonable(options),
        "derived": list(result.derived),
        "findings": [
            {"name": finding.name, "detail": finding.detail, "at_ms": finding.at_ms, "source": finding.source}
            for finding in result.findings
        ],
        "trace_hash": result.trace_hash,
        "virtual_ms": result.virtual_ms,
        "wall_ms": result.wall_ms,
        "event_count": result.event_count,
        "probes": {name: count for name, count in sorted(result.probes.items()) if count},
        "statistics": jsonable(result.statistics),
        "plan": result.plan.to_json(),
        "plan_lines": list(result.plan.describe()),
    }
    if with_timeline or document["findings"]:
        document["timeline"] = [[entry.at_ms, entry.kind, jsonable(entry.facts)] for entry in result.timeline]
        document["log"] = list(result.log)
    return document


def core_result_to_json(
    result: Any, *, kind: str, options: Mapping[str, Any], transcript: Sequence[str] = ()
) -> dict[str, Any]:
    """The result of a seed of a pure core (`cores.CoreResult`) as JSON; its findings belong to no moment.

    Args:
        transcript: a step a line, most of which begin with their time in milliseconds; the end of it is kept.
    """
    timeline: list[list[Any]] = []
    for line in transcript[-TRANSCRIPT_LINES_MAX:]:
        time_text, _, text = line.strip().partition(" ")
        is_timed = time_text.isdecimal()
        at_ms = int(time_text) if is_timed else timeline[-1][0] if timeline else 0
        timeline.append([at_ms, text if is_timed else line, {}])
    return {
        "kind": kind,
        "seed": result.seed,
        "options": jsonable(options),
        "derived": [result.options],
        "findings": [
            {"name": name, "detail": detail, "at_ms": None, "source": kind} for name, detail in result.findings
        ],
        "trace_hash": result.trace_hash,
        "virtual_ms": result.virtual_ms,
        "wall_ms": 0,
        "event_count": result.steps,
        "probes": dict(result.probes),
        "statistics": {},
        "plan": None,
        "plan_lines": [],
        "timeline": timeline,
    }


def result_from_json(document: Mapping[str, Any]) -> SeedReport:
    """The report that one of the functions above wrote.

    Raises:
        KeyError, TypeError: the document is not one.
    """
    return SeedReport(
        kind=document["kind"],
        seed=document["seed"],
        options=document["options"],
        derived=tuple(document["derived"]),
        findings=tuple(FoundProblem(**finding) for finding in document["findings"]),
        trace_hash=document["trace_hash"],
        virtual_ms=document["virtual_ms"],
        wall_ms=document["wall_ms"],
        event_count=document["event_count"],
        probes=document["probes"],
        statistics=document["statistics"],
        plan=document["plan"],
        plan_lines=tuple(document["plan_lines"]),
        timeline=tuple(TimelineLine(*entry) for entry in document.get("timeline", ())),
        log=tuple(document.get("log", ())),
        history_file=document.get("history_file"),
    )


def crashed(*, kind: str, seed: int, detail: str, wall_ms: int, options: Mapping[str, Any] | None = None) -> SeedReport:
    """The report of a run that gave no result: its worker died, hung or met an exception."""
    problem = FoundProblem(CRASH, detail, None, CRASH)
    return SeedReport(kind=kind, seed=seed, options=dict(options or {}), findings=(problem,), wall_ms=wall_ms)


def jsonable(value: Any) -> Any:
    """`value` with everything JSON does not know turned into text; mappings keep their order."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, set | frozenset):
        return sorted((jsonable(item) for item in value), key=str)
    if isinstance(value, list | tuple):
        return [jsonable(item) for item in value]
    return str(value)


@dataclass(frozen=True, slots=True)
class Summary:
    """Many seeds in figures.

    Args:
        elapsed_ms: wall time of the whole campaign; `wall_ms` is the sum over its seeds, so of all workers.
        findings: seeds by name of the finding.
        statistics: numbers summed over the seeds, also within maps (`faults`, `failpoints`).
    """

    seeds_asked: int
    seeds_done: int
    failed_seeds: tuple[int, ...]
    virtual_ms: int
    wall_ms: int
    elapsed_ms: int
    event_count: int
    findings: Mapping[str, tuple[int, ...]]
    probes: Mapping[str, int]
    statistics: Mapping[str, Any]
    is_interrupted: bool

    @property
    def seeds_per_s(self) -> float:
        return self.seeds_done * 1000 / self.elapsed_ms if self.elapsed_ms else 0.0

    @property
    def speed(self) -> float:
        """Virtual milliseconds for each millisecond of one core."""
        return self.virtual_ms / self.wall_ms if self.wall_ms else 0.0

    def to_json(self, probes_known: Iterable[str]) -> dict[str, Any]:
        """For scripts; `probes_known` are the names that could have been hit."""
        return {
            "seeds_asked": self.seeds_asked,
            "seeds": self.seeds_done,
            "failures": len(self.failed_seeds),
            "failed_seeds": list(self.failed_seeds),
            "interrupted": self.is_interrupted,
            "virtual_hours": round(self.virtual_ms / 3_600_000, 3),
            "virtual_per_wall": round(self.speed, 2),
            "seeds_per_s": round(self.seeds_per_s, 3),
            "elapsed_s": round(self.elapsed_ms / 1000, 1),
            "events": self.event_count,
            "findings": {name: list(seeds) for name, seeds in self.findings.items()},
            "probes": dict(self.probes),
            "probes_never_hit": self.never_hit(probes_known),
            "statistics": dict(self.statistics),
        }

    def never_hit(self, known: Iterable[str]) -> list[str]:
        """Those of the known probes that no seed hit."""
        return [name for name in known if not self.probes.get(name)]


def summarise(
    reports: Iterable[SeedReport], *, seeds_asked: int, elapsed_ms: int, is_interrupted: bool = False
) -> Summary:
    """The summary of reports in any order."""
    in_order = sorted(reports, key=lambda report: (report.seed, report.kind))
    findings: dict[str, list[int]] = {}
    probes: Counter[str] = Counter()
    statistics: dict[str, Any] = {}
    for report in in_order:
        for name in report.finding_names:
            findings.setdefault(name, []).append(report.seed)
        probes.update(report.probes)
        add_statistics(statistics, report.statistics)
    return Summary(
        seeds_asked=seeds_asked,
        seeds_done=len(in_order),
        failed_seeds=tuple(report.seed for report in in_order if not report.passed),
        virtual_ms=sum(report.virtual_ms for report in in_order),
        wall_ms=sum(report.wall_ms for report in in_order),
        elapsed_ms=elapsed_ms,
        event_count=sum(report.event_count for report in in_order),
        findings={
            name: tuple(findings[name]) for name in sorted(findings, key=lambda name: (-len(findings[name]), name))
        },
        probes=dict(sorted(probes.items())),
        statistics=statistics,
        is_interrupted=is_interrupted,
    )


def add_statistics(total: dict[str, Any], more: Mapping[str, Any]) -> None:
    """Add the numbers of `more` to `total`, maps key by key; what is no number is not summed and left out."""
    for name, value in more.items():
        if isinstance(value, Mapping):
            below = total.setdefault(name, {})
            if isinstance(below, dict):
                add_statistics(below, value)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            before = total.get(name, 0)
            if not isinstance(before, dict):
                total[name] = before + value


def replay_document(report: SeedReport) -> dict[str, Any]:
    """What a replay file holds; `read_replay` reads it."""
    from logcluster import __version__

    return {
        "format": REPLAY_FORMAT,
        "kind": report.kind,
        "seed": report.seed,
        "options": dict(report.options),
        "plan": report.plan,
        "findings": report.finding_names,
        "trace_hash": report.trace_hash,
        "versions": {"logcluster": __version__, "python": platform.python_version()},
    }


@dataclass(frozen=True, slots=True)
class Replay:
    """A run to repeat, and what it gave when it was written."""

    kind: str
    seed: int
    options: Mapping[str, Any]
    plan: Any
    findings: tuple[str, ...]
    trace_hash: str | None
    versions: Mapping[str, str]


def read_replay(path: Path) -> Replay:
    """Read a replay file.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no replay file.
    """
    document = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(document, dict) or document.get("format") != REPLAY_FORMAT:
        raise ValueError(f"{path} is not a replay file of this version ({REPLAY_FORMAT})")
    try:
        return Replay(
            kind=document["kind"],
            seed=int(document["seed"]),
            options=dict(document["options"]),
            plan=document["plan"],
            findings=tuple(document["findings"]),
            trace_hash=document["trace_hash"],
            versions=dict(document["versions"]),
        )
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged: {error!r}") from error


def write_replay(directory: Path, report: SeedReport) -> Path:
    """Write the replay file of a failure into `directory`, which is made when it is missing; returns its path."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / (file_stem(report.kind, report.seed, report.options) + ".json")
    path.write_text(json.dumps(replay_document(report), indent=1) + "\n", encoding="utf-8")
    return path


def file_stem(kind: str, seed: int, options: Mapping[str, Any]) -> str:
    """What files about a run are named after, without directory and ending."""
    parts = ["" if kind == CLUSTER_KIND else kind, f"seed-{seed}", str(options.get("ablation") or "")]
    return "-".join(part for part in parts if part)
