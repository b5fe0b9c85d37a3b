"""Safeguards of the metadata quorum. Five are settings of the Raft core for tests; here a node is built with them."""

from __future__ import annotations

from typing import Final

from logcluster.core.raft import following, state
from logcluster.node import Node
from logcluster.sim.ablations.ablation import Ablation
from logcluster.sim.ablations.commit import LOSS
from logcluster.sim.ablations.editing import Edit, Patch
from logcluster.storage.raft_store import RaftStore

DISAGREEMENT: Final = frozenset(
    {
        "split-brain",
        "epoch-regression",
        "metadata-divergence",
        "metadata-regression",
        "raft-log-matching",
        "raft-leader-completeness",
        "raft-commit-not-durable",
    }
)
"""How two truths about the metadata show."""


def _core(name: str, also: str = "") -> Patch:
    """A node builds its quorum with this safeguard of the core off, and `also` set: what lets the loss show sooner."""
    return Patch(
        Edit(
            Node._raft_config,
            "check_quorum_ms=timeout_ms * 3 // 2,",
            f"check_quorum_ms=timeout_ms * 3 // 2, ablations=frozenset({{{name!r}}}),{also}",
        )
    )


ABLATIONS: Final = (
    Ablation(
        name="vote-persistence",
        safeguard="a vote is on disk before the answer leaves",
        promise="P2",
        source="Raft paper §5.1, figure 2",
        expected=DISAGREEMENT,
        profile="votes",
        patch=_core("vote-persistence"),
    ),
    Ablation(
        name="log-freshness",
        safeguard="a vote goes only to a candidate whose log is at least as fresh",
        promise="P2",
        source="Raft paper §5.4.1",
        expected=DISAGREEMENT,
        profile="quorum",
        patch=_core("log-freshness"),
    ),
    Ablation(
        name="own-term-commit",
        safeguard="only an entry of the own term is committed by counting",
        promise="P2",
        source="Raft paper §5.4.2, figure 8",
        expected=DISAGREEMENT,
        profile="figure-eight",
        dormant="a leader's first own entry travels with the older ones; the simulator of the Raft core finds it",
        patch=_core("own-term-commit", " append_entries_max=1,"),
    ),
    Ablation(
        name="append-durability",
        safeguard="an entry counts for a commit when it is on disk",
        promise="P1",
        source="Raft paper §5.1; NATS #7567",
        expected=DISAGREEMENT,
        profile="quorum",
        patch=_core("append-durability"),
    ),
    Ablation(
        name="resigned-restart",
        safeguard="a leader that restarted does not go on in its old term",
        promise="P2",
        source="Raft paper §5.2; KAFKA-15021",
        expected=DISAGREEMENT,
        profile="quorum",
        patch=_core("resigned-restart"),
    ),
    Ablation(
        name="quorum-store-sync",
        safeguard="term, vote and entries of the quorum are written with a sync",
        promise="P1",
        source="NATS #7564, #7567",
        expected=DISAGREEMENT,
        profile="power-loss",
        patch=Patch(Edit(RaftStore.save, "sync=True", "sync=False")),
    ),
    Ablation(
        name="append-consistency-check",
        safeguard="a follower takes entries only behind one that its leader also has there",
        promise="P2",
        source="Raft paper §5.3, log matching",
        expected=DISAGREEMENT,
        profile="quorum",
        patch=Patch(Edit(following.on_append_request, "own_term != request.prev_log_term", "False")),
    ),
    Ablation(
        name="own-entry-before-serving",
        safeguard="a new leader serves when it has applied an entry of its own term",
        promise="P2",
        source="Raft paper §8; Redpanda #5090",
        expected=DISAGREEMENT | LOSS | frozenset({"core-check"}),
        profile="quorum",
        patch=Patch(
            Edit(
                state.ReplicaState.is_ready_leader,
                "isinstance(self.role, Leader) and self.role.noop_index <= self.applied_index",
                "isinstance(self.role, Leader)",
            )
        ),
    ),
)
