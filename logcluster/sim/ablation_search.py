"""The search that proves a safeguard needed: take it away, and run seeds until the expected finding turns up.

An ablation is caught by the first seed, counted from the first one tried, with a finding that its catalogue expects;
anything else it provokes is kept aside. Workers finish in any order, so a catch counts only when all smaller seeds
have ended: the number of seeds needed is the same for any number of workers. Source: the ablation tests of simloop,
and etcd's scripts that find its old bugs again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from logcluster.sim.campaign import Job, Outcome
from logcluster.sim.report import CLUSTER_KIND


@dataclass(frozen=True, slots=True)
class Target:
    """An ablation to be caught: its name, the safeguard it takes away, and findings any of which proves it missing."""

    name: str
    safeguard: str
    expected: tuple[str, ...]
    kind: str = CLUSTER_KIND
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class Search:
    """How far the search for one ablation is."""

    target: Target
    next_seed: int
    seeds_end: int
    seeds_first: int
    running: set[int] = field(default_factory=set)
    caught_by: dict[int, list[str]] = field(default_factory=dict)
    """Expected findings by seed; the smallest seed counts."""
    others: Counter[str] = field(default_factory=Counter)
    _walls_ms: list[tuple[int, int]] = field(default_factory=list)

    @property
    def seed(self) -> int | None:
        """The seed that caught it."""
        return min(self.caught_by, default=None)

    @property
    def seeds_needed(self) -> int | None:
        return None if self.seed is None else self.seed - self.seeds_first + 1

    @property
    def is_decided(self) -> bool:
        """Caught with no smaller seed still running, or out of seeds."""
        if self.seed is not None:
            return all(seed > self.seed for seed in self.running)
        return self.next_seed >= self.seeds_end and not self.running

    @property
    def wall_ms(self) -> int:
        """Wall time of the seeds that were needed, one after another."""
        return sum(wall_ms for seed, wall_ms in self._walls_ms if self.seed is None or seed <= self.seed)

    @property
    def found_as(self) -> list[str]:
        """Expected findings of the catching seed."""
        return [] if self.seed is None else self.caught_by[self.seed]

    def record(self, seed: int, findings: Sequence[str], wall_ms: int) -> None:
        """A seed ended."""
        self.running.discard(seed)
        self._walls_ms.append((seed, wall_ms))
        expected = [name for name in findings if name in self.target.expected]
        if expected:
            self.caught_by[seed] = expected
        self.others.update(name for name in findings if name not in self.target.expected)

    def to_json(self) -> dict[str, Any]:
        """A row of the table."""
        return {
            "ablation": self.target.name,
            "safeguard": self.target.safeguard,
            "expected": list(self.target.expected),
            "found_as": self.found_as,
            "seeds_needed": self.seeds_needed,
            "seeds_tried": len(self._walls_ms),
            "seconds": round(self.wall_ms / 1000, 1),
            "caught": self.seed is not None,
            "seed": self.seed,
            "other_findings": dict(sorted(self.others.items())),
        }


class AblationSearch:
    """The searches for several ablations as one source of jobs, first things first."""

    def __init__(self, targets: Sequence[Target], *, seeds_first: int, seeds_max: int) -> None:
        self.searches = [Search(target, seeds_first, seeds_first + seeds_max, seeds_first) for target in targets]
        self._by_name = {search.target.name: search for search in self.searches}

    def next_job(self) -> Job | None:
        for search in self.searches:
            if search.seed is None and search.next_seed < search.seeds_end:
                seed = search.next_seed
                search.next_seed += 1
                search.running.add(seed)
                options = {**search.target.options, "ablation": search.target.name}
                return Job(kind=search.target.kind, seed=seed, options=options)
        return None

    def on_outcome(self, outcome: Outcome) -> None:
        report = outcome.report()
        self._by_name[outcome.job.options["ablation"]].record(report.seed, report.finding_names, outcome.wall_ms)

    @property
    def decided(self) -> int:
        """How many ablations are caught or given up."""
        return sum(search.is_decided for search in self.searches)

    def describe(self) -> str:
        """Where it is, for a progress line."""
        for search in self.searches:
            if not search.is_decided:
                return f"{search.target.name}, seed {search.next_seed - 1}"
        return ""

    @property
    def all_caught(self) -> bool:
        return all(search.seed is not None for search in self.searches)


def markdown_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows of the searches as a table for docs/simulation.md."""
    lines = ["| ablation | the safeguard that is away | found as | seeds needed |", "|---|---|---|---|"]
    for row in rows:
        cells = [
            f"`{row['ablation']}`",
            str(row["safeguard"]).replace("|", "\\|"),
            ", ".join(row["found_as"]) or "**not caught**",
            "-" if row["seeds_needed"] is None else str(row["seeds_needed"]),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
