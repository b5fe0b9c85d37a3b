"""Safeguards of replication, each as a patch that takes it away, and the damage that must then be seen.

Production code has no such switches: a patch replaces a method, or the simulator's own imitation of the rim leaves a
step out, for the time of one run. `REPLICATION_ABLATIONS` says which finding proves that the safeguard was missed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any, Final

from logcluster.core.controller import alter_partitions, partitions
from logcluster.core.controller.partitions import Election
from logcluster.core.controller.requests import AlterPartition, IsrMember
from logcluster.core.replication.follower import AskAgain, FollowerDecision, FollowerState, Truncate
from logcluster.core.replication.in_sync import ProposalKind
from logcluster.core.replication.leader import LeaderState
from logcluster.core.replication.producer_state import ProducerStates
from logcluster.model.epochs import EpochEnd, LeaderEpochHistory

REPLICATION_ABLATIONS: Final = {
    "truncation-by-epoch": "acked-lost",
    "epoch-in-reply": "exposed-changed",
    "min-in-sync-freeze": "exposed-lost",
    "broker-epoch-in-join": "in-sync-lacks-exposed",
    "flush-before-ack": "acked-lost",
    "sequence-check": "duplicate",
    "eligible-leader-replicas": "acked-lost",
    "leader-epoch-check": "report-ahead",
    "shrink-after-commit": "high-watermark-above-in-sync",
    "partition-epoch-check": "in-sync-outside-maximal",
    "doubt-until-newer-epoch": "in-sync-outside-maximal",
}
"""Safeguard -> expected finding; KIP-101, KIP-279, KIP-966, KIP-903, P1, KIP-98, KIP-966, KIP-320, KIP-497,
KAFKA-14154 and KIP-497 again are what they are for, in this order."""


@dataclass(frozen=True, slots=True)
class WorldAblations:
    """Steps that the simulator's brokers leave out."""

    truncates_to_high_watermark: bool = False
    acks_before_flush: bool = False
    accepts_stale_epochs: bool = False

    @classmethod
    def of(cls, ablations: frozenset[str]) -> WorldAblations:
        """The flags among the names."""
        return cls(
            truncates_to_high_watermark="truncation-by-epoch" in ablations,
            acks_before_flush="flush-before-ack" in ablations,
            accepts_stale_epochs="leader-epoch-check" in ablations,
        )


@contextmanager
def patched(ablations: frozenset[str]) -> Iterator[None]:
    """Take the named safeguards away while the block runs.

    Raises:
        ValueError: a name is unknown.
    """
    unknown = sorted(ablations - REPLICATION_ABLATIONS.keys())
    if unknown:
        raise ValueError(f"no such safeguards: {', '.join(unknown)}")
    with ExitStack() as stack:
        for name in sorted(ablations):
            for owner, attribute, replacement in _PATCHES.get(name, ()):
                stack.enter_context(_replaced(owner, attribute, replacement))
        yield


@contextmanager
def _replaced(owner: Any, attribute: str, replacement: Callable[..., Any]) -> Iterator[None]:
    original = getattr(owner, attribute)
    setattr(owner, attribute, replacement)
    try:
        yield
    finally:
        setattr(owner, attribute, original)


# KIP-279: the leader answers with an offset only, and nobody asks which epoch it belongs to.


def _divergence_by_offset(
    self: LeaderEpochHistory, *, last_epoch: int | None, position: int, log_end_offset: int
) -> EpochEnd | None:
    end = None if last_epoch is None else self.end_offset_for(last_epoch, log_end_offset)
    return None if end is None or end.end_offset >= position else end


def _cut_to_offset(
    self: FollowerState,
    leader_end: EpochEnd,
    history: LeaderEpochHistory,
    *,
    log_start_offset: int,
    log_end_offset: int,
) -> FollowerDecision:
    del history, log_start_offset
    if leader_end.end_offset >= log_end_offset:
        return AskAgain()
    return Truncate(offset=leader_end.end_offset, is_below_high_watermark=leader_end.end_offset < self.high_watermark)


# KIP-966: the high watermark moves although too few are in sync.


def _advance_with_any(self: LeaderState, now_ms: int) -> bool:
    del now_ms
    held = [self.reported_offset, *(remote.reported_offset for remote in self._in_sync_remotes)]
    if min(held) <= self.high_watermark:
        return False
    self.high_watermark = min(held)
    return True


# KIP-903: whoever reports under the id of an active broker may join.


def _is_active(self: LeaderState, remote: Any) -> bool:
    return remote.broker_id in self._active


def _check_any_process(item: AlterPartition, state: Any) -> None:
    members = tuple(
        IsrMember(broker_id=member.broker_id, broker_epoch=broker.broker_epoch) if broker is not None else member
        for member in item.new_in_sync_replicas
        for broker in (state.broker(member.broker_id),)
    )
    _check_eligible(replace(item, new_in_sync_replicas=members), state)


_check_eligible = alter_partitions._check_eligible


# KIP-98: every batch is taken for the next one.


def _accept(self: ProducerStates, *arguments: Any) -> None:
    del self, arguments


# KIP-966: nobody is remembered as eligible; the last leader is elected as if it had everything.

_elect = partitions.elect


def _elect_last_leader(before: Any, *, live: Any, last_known: Any, **words: Any) -> Election:
    words["eligible"] = ()
    election = _elect(before, live=live, last_known=last_known, **words)
    if election.is_unclean and election.leader_id in last_known:
        return election._replace(is_unclean=False)
    return election


# KIP-497: a proposed leaver counts no more before the controller has said so.


def _derive_sets_at_once(self: LeaderState) -> None:
    members = dict.fromkeys(self.in_sync_replicas)
    pending = self._pending
    if pending is not None:
        proposed = dict.fromkeys(broker_id for broker_id, _ in pending.members)
        members = proposed if pending.kind is ProposalKind.SHRINK else {**members, **proposed}
    self._in_sync_remotes = tuple(remote for key, remote in self._remotes.items() if key in members)
    self._outsiders = tuple(remote for key, remote in self._remotes.items() if key not in members)


# KAFKA-14154 and its neighbours: an old proposal is as good as a new one.


def _check_members_only(item: Any, before: Any, request: Any, state: Any) -> None:
    if request.broker_id == before.leader_id:
        alter_partitions._check_set(item, before)
        alter_partitions._check_eligible(item, state)
    else:
        _check(item, before, request, state)


_check = alter_partitions._check


# KIP-497: a refusal is taken for proof about every copy of the proposal, also after an unknown outcome.

_on_ineligible = LeaderState._on_ineligible


def _roll_back_at_once(self: LeaderState, proposal: Any, now_ms: int) -> Any:
    self._has_unknown_outcome = False
    return _on_ineligible(self, proposal, now_ms)


_PATCHES: Final[dict[str, tuple[tuple[Any, str, Callable[..., Any]], ...]]] = {
    "epoch-in-reply": (
        (LeaderEpochHistory, "divergence", _divergence_by_offset),
        (FollowerState, "on_diverging_epoch", _cut_to_offset),
    ),
    "min-in-sync-freeze": ((LeaderState, "_advance", _advance_with_any),),
    "broker-epoch-in-join": (
        (LeaderState, "_is_eligible", _is_active),
        (alter_partitions, "_check_eligible", _check_any_process),
    ),
    "sequence-check": ((ProducerStates, "check_append", _accept),),
    "eligible-leader-replicas": ((partitions, "elect", _elect_last_leader),),
    "shrink-after-commit": ((LeaderState, "_derive_sets", _derive_sets_at_once),),
    "doubt-until-newer-epoch": ((LeaderState, "_on_ineligible", _roll_back_at_once),),
    "partition-epoch-check": ((alter_partitions, "_check", _check_members_only),),
}
