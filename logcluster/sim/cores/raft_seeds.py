"""One seed of the Raft simulator: draw, storm, calm, result."""

from __future__ import annotations

from random import Random
from typing import Final

from logcluster.model.probes import observe
from logcluster.sim.cores.raft_faults import RaftStorm
from logcluster.sim.cores.raft_options import RaftOptions, draw_raft_options
from logcluster.sim.cores.raft_world import RaftWorld
from logcluster.sim.cores.result import CoreResult, Notebook

RAFT_ABLATIONS: Final = {
    "vote-persistence": "election-safety",
    "log-freshness": "leader-completeness",
    "own-term-commit": "leader-completeness",
    "append-durability": "leader-completeness",
    "resigned-restart": "election-safety",
}
"""Safeguards of `RaftConfig.ablations`, each with the damage that must show when it is off."""

RAFT_PROBES: Final = tuple(
    f"core.raft.{name}"
    for name in (
        "all_lost_power",
        "crash_lost_writes",
        "disk_stalled",
        "disk_wiped",
        "former_leader_truncated",
        "leader_left",
        "leader_paused",
        "leader_resigned_in_its_term",
        "leadership_handed_over",
        "proposal_outcome_unknown",
        "refused: another voter change is not finished",
        "refused: handing leadership over",
        "request_very_late",
        "restarted_after_own_vote",
        "snapshot_installed",
        "truncated_on_conflict",
        "two_nodes_believe_to_lead",
        "voter_joining",
        "voter_left",
        "wiped_voter_replaced",
        "wrong_directory_refused",
    )
)
"""Rare states that a few hundred seeds must reach, or they prove little."""


def run_raft_seed(
    seed: int,
    *,
    ablations: frozenset[str] = frozenset(),
    options: RaftOptions | None = None,
    transcript: list[str] | None = None,
) -> CoreResult:
    """Run one seed; a pure function of its arguments.

    Args:
        ablations: safeguards to switch off.
        options: instead of what the seed would draw.
        transcript: filled with a line per step.
    """
    rng = Random(f"raft-{seed}")
    drawn = draw_raft_options(rng)
    options = drawn if options is None else options
    book = Notebook(transcript)
    previous = observe(book.probe)
    try:
        world = RaftWorld(rng, options, ablations, book)
        RaftStorm(world).run()
    finally:
        observe(previous)
    return book.result(seed=seed, virtual_ms=world.now_ms, options=repr(options))
