"""Seeds that once failed: the JSON files beside this one, and running them all again.

A regression is a replay file (`report.replay_document`) with three more fields: `was` says what was wrong, `fixed_in`
is the subject of the commit that repaired it, `finding` is the name under which the simulator saw it. It holds the
plan of faults, not only the seed, so it keeps its meaning when the way plans are drawn changes. To add one: copy the
replay file of the failure here, minimised (`--shrink`), named after what was wrong, and fill in the three fields.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from logcluster.sim.campaign import Job, Outcome, WorkerPool
from logcluster.sim.report import CLUSTER_KIND, SeedReport

DIRECTORY: Final = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Regression:
    """A run that failed once and must pass now.

    Args:
        name: of the file, without ".json".
        options: keyword arguments of `run.RunOptions` besides seed and plan.
        plan: JSON of the plan; None derives it from the seed (the cores have none).
    """

    name: str
    seed: int
    was: str
    fixed_in: str
    finding: str
    kind: str = CLUSTER_KIND
    options: Mapping[str, Any] = field(default_factory=dict)
    plan: Any = None

    @property
    def job(self) -> Job:
        return Job(kind=self.kind, seed=self.seed, options=self.options, plan=self.plan)


def load_regressions(directory: Path = DIRECTORY) -> list[Regression]:
    """All regressions, by name.

    Raises:
        ValueError: a file is not one.
    """
    return list(_read(sorted(directory.glob("*.json"))))


def _read(paths: list[Path]) -> Iterator[Regression]:
    for path in paths:
        document = json.loads(path.read_text(encoding="utf-8"))
        try:
            if not all(isinstance(document[name], str) and document[name] for name in ("was", "fixed_in", "finding")):
                raise ValueError(f"{path}: was, fixed_in and finding are texts that say something")
            if document["options"].get("ablation"):
                raise ValueError(f"{path}: a regression runs with every safeguard")
            yield Regression(
                name=path.stem,
                seed=document["seed"],
                was=document["was"],
                fixed_in=document["fixed_in"],
                finding=document["finding"],
                kind=document.get("kind", CLUSTER_KIND),
                options=document["options"],
                plan=document["plan"],
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} is not a regression file: {error!r}") from error


def run_regressions(
    *,
    directory: Path = DIRECTORY,
    run_one: Callable[[Job], Outcome] | None = None,
) -> list[tuple[Regression, SeedReport]]:
    """Run every regression again; each report must have no findings.

    Args:
        run_one: runs a job; a worker process of its own by default.

    Raises:
        ValueError: a file is not a regression.
    """
    regressions = load_regressions(directory)
    if run_one is not None:
        return [(regression, run_one(regression.job).report()) for regression in regressions]
    with WorkerPool(1) as pool:
        return [(regression, pool.run_one(regression.job).report()) for regression in regressions]
