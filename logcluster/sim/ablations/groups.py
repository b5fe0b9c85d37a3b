"""Safeguards of consumer groups: who may commit, who may read, what a coordinator must know before it answers (P6)."""

from __future__ import annotations

from typing import Final

from logcluster.broker.coordinators.rewriting import Rewriter
from logcluster.broker.coordinators.shard import Shard
from logcluster.broker.coordinators.turn import Turn
from logcluster.client.group.consumer import GroupConsumer
from logcluster.core.coordinators.groups import leading, offsets, reconcile
from logcluster.sim.ablations.ablation import Ablation
from logcluster.sim.ablations.editing import Edit, Patch

ZOMBIE: Final = frozenset({"commit-went-back", "commit-lost"})
"""How a commit shows that should have been refused."""
FORGOTTEN: Final = frozenset({"commit-lost", "commit-went-back", "core-check", "coordinator-store-mismatch"})
"""How a commit shows that was acknowledged and is gone."""
SHARED: Final = frozenset({"double-ownership", "core-check"})
"""How a partition shows that two members may read."""

ABLATIONS: Final = (
    Ablation(
        name="commit-by-members-only",
        safeguard="a commit under the id of a member that the group does not have is refused",
        promise="P6",
        source="KIP-848; KAFKA-5600",
        expected=ZOMBIE,
        profile="groups",
        patch=Patch(
            Edit(
                offsets._committer,
                "    if current is None:\n        raise UnknownMemberId(",
                "    if current is None:\n        return None\n        raise UnknownMemberId(",
            )
        ),
    ),
    Ablation(
        name="commit-fence",
        safeguard="a member commits only for partitions that it has, in the epoch in which it got them or later",
        promise="P6",
        source="KIP-848, KIP-1251",
        expected=ZOMBIE,
        profile="groups",
        patch=Patch(Edit(offsets._commit_one, "_check_fence(partition, topic, current, request.member_epoch)", "pass")),
    ),
    Ablation(
        name="commit-order",
        safeguard="a commit that was held up cannot undo a later one of the same member",
        promise="P6",
        source="reliability rules 1.3; KAFKA-8104",
        expected=ZOMBIE,
        dormant="requests of one connection keep their order, and a coordinator that was replaced appends nothing",
        patch=Patch(Edit(offsets._check_order, "0 < request.sequence < session.commit_sequence", "False")),
    ),
    Ablation(
        name="answer-after-commit",
        safeguard="a coordinator answers when the records behind the answer are committed",
        promise="P6",
        source="KIP-98, KIP-848",
        expected=FORGOTTEN,
        profile="groups",
        patch=Patch(
            Edit(
                Turn._when_committed,
                "if not self._host.partition.when_committed(next_offset, request.deadline_ms, notify):",
                "if True:",
            )
        ),
    ),
    Ablation(
        name="fetch-is-not-stale",
        safeguard="a coordinator that tells committed offsets proves first that it leads still",
        promise="P6",
        source="KIP-447; Raft paper, section 8",
        expected=FORGOTTEN,
        profile="groups",
        patch=Patch(
            Edit(
                Turn.handle,
                "self._questions.append(_Question(request, partial(self._settle, request, result)))",
                "self._answer_later(request, result, held.last_offset)",
            )
        ),
    ),
    Ablation(
        name="load-to-the-epoch-start",
        safeguard="a coordinator serves when it has taken over everything from before its leadership",
        promise="P6",
        source="KAFKA-4362, KAFKA-5600",
        expected=FORGOTTEN,
        profile="groups",
        patch=Patch(
            Edit(
                Shard._activate,
                "if self.partition.high_watermark < self._load_target or self.standby.is_behind:",
                "if False:",
            )
        ),
    ),
    Ablation(
        name="rewriting-keeps-newer-values",
        safeguard="a rewritten log never has an older value of a key behind a newer one",
        promise="P6",
        source="LevelDB's compaction; KAFKA-9203",
        expected=FORGOTTEN,
        profile="groups",
        patch=Patch(Edit(Rewriter._copy, "for key, value in page if key not in appended]", "for key, value in page]")),
    ),
    Ablation(
        name="partition-is-free-first",
        safeguard="a partition is given to a member only when nobody else holds it",
        promise="P6",
        source="KIP-848",
        expected=SHARED,
        profile="groups",
        patch=Patch(
            Edit(
                leading.lead,
                "is_free=lambda partition: holders.get(partition, member_id) == member_id,",
                "is_free=lambda partition: (holders, member_id) != (),",
            )
        ),
    ),
    Ablation(
        name="two-step-revocation",
        safeguard="a partition leaves its holder when the holder says that it has let go",
        promise="P6",
        source="KIP-848, KIP-429",
        expected=SHARED | ZOMBIE,
        profile="groups",
        patch=Patch(
            Edit(
                reconcile.reconcile,
                "        (partition, epoch) for partition, epoch in current.assigned.items() if partition not in "
                "target.partitions\n",
                "        (partition, epoch) for partition, epoch in current.assigned.items() if False\n",
            )
        ),
    ),
    Ablation(
        name="owned-of-the-newest-assignment",
        safeguard="a heartbeat from before its sender's newest assignment gives nothing up",
        promise="P6",
        source="KIP-848; found by the model of groups",
        expected=SHARED,
        profile="groups",
        dormant="a client has one heartbeat under way at a time, and its connection repeats nothing",
        patch=Patch(Edit(leading.lead, "if version is not None and version != current.version:", "if False:")),
    ),
    Ablation(
        name="commit-what-came-back",
        safeguard="automatic commits stop below the records that the application has not come back from",
        promise="P6",
        source="KIP-41; reliability rules 1.3",
        expected=frozenset({"skipped-records"}),
        profile="groups",
        patch=Patch(
            Edit(
                GroupConsumer._offset_come_back_from,
                "return state.position if offset is None else offset",
                "return state.position",
            )
        ),
    ),
    Ablation(
        name="commit-what-was-handed-out",
        safeguard="what a read gathers is not committed before the read has returned",
        promise="P6",
        source="reliability rules 1.3; found by the simulator",
        expected=frozenset({"skipped-records"}),
        profile="groups",
        patch=Patch(Edit(GroupConsumer._offset_come_back_from, "if self._floor is not None:", "if False:")),
    ),
)
