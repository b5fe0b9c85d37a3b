"""What a voter that never took part in anything knows of the other bootstrap voters, until the first election.

Pure bookkeeping; the rules are in `founding`. Invariant: a census is held in term 0 only.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from enum import StrEnum

from logcluster.core.raft.config import RaftConfig
from logcluster.core.raft.messages import ANY_DIRECTORY, PersistedState, Voter, VoterId


class Obstacle(StrEnum):
    """Why another voter's answer keeps this one from the first election."""

    NOT_A_VOTER = "its cluster has a history, and this disk is none of its voters"
    LOST_STORE = "its cluster has a history in which this disk took part, but the quorum's store here is empty"
    OTHER_VOTERS = "its disk has accepted other first voters"
    OTHER_DISK = "its disk is not the one that was accepted as first voter"
    NOT_ACCEPTED = "it does not accept these first voters; its `quorum.voters` may differ"


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundingReport:
    """What still keeps a voter from the first election.

    Args:
        silent: bootstrap voters that this process has not heard from, ascending.
        obstacles: those whose last word forbids it, ascending, with the reason.
    """

    silent: tuple[int, ...]
    obstacles: tuple[tuple[int, Obstacle], ...]


@dataclass(slots=True, kw_only=True)
class Neighbour:
    """Another bootstrap voter.

    Args:
        ask_at_ms: when to ask it (again), unless a question is under way.
        asked_ms: when the question left that is not answered yet; None if none is under way.
        misses: questions in a row that got no answer.
        has_answered: it answered a question of this process.
        empty_directory_id: its disk, if its last answer said that it has accepted no voters.
        has_accepted: its disk has accepted the same first voters as this one.
        last_question: what it asked last, so that only news makes this node ask back.
    """

    ask_at_ms: int
    asked_ms: int | None = None
    misses: int = 0
    has_answered: bool = False
    empty_directory_id: bytes | None = None
    has_accepted: bool = False
    obstacle: Obstacle | None = None
    last_question: tuple[int, VoterId, tuple[VoterId, ...]] | None = None


@dataclass(slots=True, kw_only=True)
class Census:
    """The other bootstrap voters by node id, ascending; empty for a quorum of one.

    Args:
        boot_id: ties answers to the questions of this process.
    """

    boot_id: int
    neighbours: dict[int, Neighbour]

    def deadline_ms(self) -> int | None:
        """When the next question is due; None while all are under way."""
        return min(
            (neighbour.ask_at_ms for neighbour in self.neighbours.values() if neighbour.asked_ms is None), default=None
        )

    def report(self) -> FoundingReport:
        """What still keeps this voter from the first election."""
        return FoundingReport(
            silent=tuple(node_id for node_id, neighbour in self.neighbours.items() if not neighbour.has_answered),
            obstacles=tuple(
                (node_id, neighbour.obstacle)
                for node_id, neighbour in self.neighbours.items()
                if neighbour.obstacle is not None
            ),
        )


def census_of(config: RaftConfig, persisted: PersistedState, rng: random.Random) -> Census | None:
    """The census that a process on this store has to hold; None if it took part already, or is no bootstrap voter."""
    if persisted.hard_state.term > 0:
        return None
    accepted = persisted.snapshot.voters if persisted.snapshot is not None else ()
    own = VoterId(config.node_id, config.directory_id)
    voters = accepted or (config.bootstrap_voters if needs_founding(config) else ())
    if not any(voter.node_id == own.node_id and voter.accepts_directory(own.directory_id) for voter in voters):
        return None
    others = sorted(voter.node_id for voter in voters if voter.node_id != own.node_id)
    return Census(boot_id=rng.getrandbits(63), neighbours={node_id: Neighbour(ask_at_ms=0) for node_id in others})


def needs_founding(config: RaftConfig) -> bool:
    """Whether the bootstrap voters have to agree on their disks; not if the configuration names all of them."""
    if "founding" in config.ablations:
        return False
    return any(voter.directory_id == ANY_DIRECTORY for voter in config.bootstrap_voters)


def first_voters(config: RaftConfig, disks: tuple[VoterId, ...]) -> tuple[Voter, ...] | None:
    """The bootstrap voters with these disks; None if these are others than the configured ones."""
    by_id = {voter_id.node_id: voter_id.directory_id for voter_id in disks}
    voters = config.bootstrap_voters
    if len(by_id) != len(disks) or sorted(by_id) != sorted(voter.node_id for voter in voters):
        return None
    if any(
        by_id[voter.node_id] == ANY_DIRECTORY or not voter.accepts_directory(by_id[voter.node_id]) for voter in voters
    ):
        return None
    return tuple(voter._replace(directory_id=by_id[voter.node_id]) for voter in voters)
