"""The fault atlas: who has lost what, and what may still be damaged within the promises (P1, P8).

Pure bookkeeping. With replication factor R and min.insync.replicas M, an acknowledged record is on at least M disks,
so copies on min(R - M, M - 1) nodes may be damaged or lost at a time, 1 of 3 by default; the next node only once this
one is repaired. All nodes may lose power at once, since what is acknowledged is synced; a crash, an error or a full
disk costs no copy. What each kind of damage counts as:

    synced batches (below the recovery point)      a copy, until the damaged bytes are gone and all is in sync again
    checkpoint of the log directory                a copy: without it a cut tail is not told from a torn one; therefore
                                                   never on a node whose batches are damaged, nor the other way round
    indexes, epochs, snapshots, markers            nothing: derived, rebuilt, never trusted alone
    a failed sync                                  a copy, until the directory was restarted and all is in sync again
    a lost disk                                    a copy, and for good a voter: a node with a new disk is another
                                                   voter, and a majority of the voters must keep theirs

Beyond the recovery point a damaged batch looks like a torn write that nobody was told of, and is cut: that is not
promised to be noticed, so `damage` never strikes there. An identity file that is damaged stops its node until somebody
repairs it by hand; that, too, is not done here. The idea of an atlas is TigerBeetle's.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class DamageClass(StrEnum):
    """What was damaged, as far as the promises tell it apart."""

    BATCHES = "batches"
    CHECKPOINT = "checkpoint"
    DERIVED = "derived"
    SYNC_FAILED = "sync-failed"
    DISK_LOST = "disk-lost"


@dataclass(frozen=True, slots=True)
class DamagedBytes:
    """Where damage can be seen on a disk: `found` stands at `position`, and does not belong there.

    Empty `found` means that nothing stands there any more.
    """

    path: str
    position: int
    found: bytes
    is_removed: bool = False
    """The whole file was removed: the damage lasts until it is there again."""


@dataclass(frozen=True, slots=True)
class Damage:
    """One damage that was done.

    Args:
        evidence: where it can still be seen; empty when only the state of the cluster tells.
    """

    node_id: int
    damage_class: DamageClass
    at_ms: int
    evidence: tuple[DamagedBytes, ...] = ()


_EXCLUDES: Final = {DamageClass.BATCHES: DamageClass.CHECKPOINT, DamageClass.CHECKPOINT: DamageClass.BATCHES}


class Atlas:
    """What is damaged now; see the top of the file.

    Args:
        voters: node ids of the metadata quorum.
        damaged_nodes_max: nodes whose copies may be damaged at a time; None for no bound (mode "beyond").
    """

    def __init__(self, voters: Iterable[int], *, damaged_nodes_max: int | None = 1) -> None:
        self._voters = sorted(voters)
        self._damaged_nodes_max = damaged_nodes_max
        self._outstanding: list[Damage] = []
        self._lost_voters: list[int] = []
        self.history: list[Damage] = []
        """All damage ever done, in order."""

    @property
    def outstanding(self) -> tuple[Damage, ...]:
        """Damage that is not known to be repaired."""
        return tuple(self._outstanding)

    @property
    def damaged_node_ids(self) -> list[int]:
        """Nodes with outstanding damage that costs a copy, ascending."""
        return sorted(
            {damage.node_id for damage in self._outstanding if damage.damage_class is not DamageClass.DERIVED}
        )

    @property
    def lost_voter_ids(self) -> list[int]:
        """Voters that lost their disk, ascending; they vote no more."""
        return sorted(self._lost_voters)

    def refusal(self, node_ids: Iterable[int], damage_class: DamageClass) -> str | None:
        """Why these nodes may not be damaged so now; None when they may."""
        if self._damaged_nodes_max is None or damage_class is DamageClass.DERIVED:
            return None
        wanted = sorted(set(node_ids))
        damaged = sorted({*self.damaged_node_ids, *wanted})
        if len(damaged) > self._damaged_nodes_max:
            return f"nodes {self.damaged_node_ids} are not repaired yet, {wanted} would be too much"
        excluded = _EXCLUDES.get(damage_class)
        for damage in self._outstanding:
            if damage.node_id in wanted and damage.damage_class is excluded:
                return f"{damage.damage_class} and {damage_class} of one node together are not told from a torn tail"
        if damage_class is DamageClass.DISK_LOST:
            lost = sorted({*self._lost_voters, *(node_id for node_id in wanted if node_id in self._voters)})
            if len(lost) > (len(self._voters) - 1) // 2:
                return f"voters {lost} without their disks would be no minority"
        return None

    def note(self, damage: Damage) -> None:
        """Damage was done; whether it was allowed is the caller's matter."""
        self.history.append(damage)
        if damage.damage_class is DamageClass.DISK_LOST:
            # What stood on the old disk is no matter any more.
            self._outstanding = [other for other in self._outstanding if other.node_id != damage.node_id]
            if damage.node_id in self._voters and damage.node_id not in self._lost_voters:
                self._lost_voters.append(damage.node_id)
        self._outstanding.append(damage)

    def repaired(self, damage: Damage) -> None:
        """This damage is known to be repaired."""
        self._outstanding.remove(damage)
