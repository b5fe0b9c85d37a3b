"""One seed of the replication simulator: draw, storm, calm, result."""

from __future__ import annotations

from random import Random
from typing import Final

from logcluster.model.probes import observe
from logcluster.sim.cores.replication_ablations import WorldAblations, patched
from logcluster.sim.cores.replication_faults import ReplicationStorm
from logcluster.sim.cores.replication_options import ReplicationOptions, draw_replication_options
from logcluster.sim.cores.replication_world import ReplicationWorld
from logcluster.sim.cores.result import CoreResult, Notebook

REPLICATION_PROBES: Final = tuple(
    f"core.{name}"
    for name in (
        "controller.change_arrived_late",
        "controller.eligible_leader_replicas",
        "controller.failover",
        "controller.operator_elected_unclean",
        "controller.uncommitted_dropped",
        "replication.all_crashed",
        "replication.began_inside_batch",
        "replication.change_retry",
        "replication.change_rolled_back",
        "replication.change_settle",
        "replication.change_wait_for_metadata",
        "replication.clean_stop",
        "replication.disk_lost",
        "replication.double_failover",
        "replication.empty_epoch_forgotten",
        "replication.histories_diverged",
        "replication.in_sync_below_minimum",
        "replication.in_sync_expand",
        "replication.in_sync_recovered",
        "replication.in_sync_shrink",
        "replication.late_data_dropped",
        "replication.latest_not_available",
        "replication.leader_paused",
        "replication.newcomer_died",
        "replication.other_epoch_refused",
        "replication.out_of_range",
        "replication.outdated_leader_began",
        "replication.power_loss_lost_records",
        "replication.producer_began_anew",
        "replication.records_deleted",
        "replication.retry_answered",
        "replication.started_over",
        "replication.truncated",
        "replication.unclean_election_lost_records",
    )
)
"""Rare states that a few hundred seeds must reach, or they prove little."""


def run_replication_seed(
    seed: int,
    *,
    ablations: frozenset[str] = frozenset(),
    options: ReplicationOptions | None = None,
    transcript: list[str] | None = None,
) -> CoreResult:
    """Run one seed; a pure function of its arguments.

    Args:
        ablations: safeguards to take away; see `replication_ablations`.
        options: instead of what the seed would draw.
        transcript: filled with a line per step.

    Raises:
        ValueError: an ablation is unknown.
    """
    rng = Random(f"replication-{seed}")
    drawn = draw_replication_options(rng)
    options = drawn if options is None else options
    book = Notebook(transcript)
    with patched(ablations):
        previous = observe(book.probe)
        try:
            world = ReplicationWorld(rng, options, WorldAblations.of(ablations), book)
            ReplicationStorm(world).run()
        finally:
            observe(previous)
    if world.acked_count == 0:
        book.probe("core.replication.nothing_acknowledged")
    return book.result(seed=seed, virtual_ms=world.now_ms, options=repr(options))
