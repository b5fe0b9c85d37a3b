"""The five roles, each holding only the data that lives and dies with it, and the table of legal transitions.

    Follower     -> Follower, PreCandidate, Candidate (told to by TimeoutNow)
    PreCandidate -> Follower, PreCandidate, Candidate (majority of pre-votes)
    Candidate    -> Follower, PreCandidate (lost or late), Leader (majority of votes), Candidate (TimeoutNow)
    Leader       -> Follower (higher term), Resigned (no quorum, left the voter set)
    Resigned     -> Follower, PreCandidate, Candidate (TimeoutNow)

Only a PreCandidate, or a voter that its leader told to, becomes a Candidate. Resigned keeps the vote for itself
in its term: it neither votes for another nor leads again in it. A voter that restarts after voting for itself
starts as Resigned, since its lost unsynced entries may have reached others under that term.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from logcluster.core.raft.messages import Voter
from logcluster.core.raft.progress import Progress


@dataclass(slots=True, kw_only=True)
class Follower:
    """Accepts entries. `election_deadline_ms` is None for a node that may not campaign."""

    leader_id: int | None
    election_deadline_ms: int | None


@dataclass(slots=True, kw_only=True)
class Ballot:
    """Answers to a round of (pre-)votes: True granted, False refused or unreachable."""

    answers: dict[int, bool] = field(default_factory=dict)

    def granted_count(self, voters: tuple[Voter, ...]) -> int:
        return sum(self.answers.get(voter.node_id, False) for voter in voters)

    def open_count(self, voters: tuple[Voter, ...]) -> int:
        """Voters that may still grant."""
        return sum(voter.node_id not in self.answers for voter in voters)


@dataclass(slots=True, kw_only=True)
class PreCandidate:
    """Asks whether it would be elected, without touching its term or vote."""

    election_deadline_ms: int
    ballot: Ballot
    is_lost: bool = False


@dataclass(slots=True, kw_only=True)
class Candidate:
    """Asks for votes; its own counts once `vote_write_id` is on disk."""

    election_deadline_ms: int
    ballot: Ballot
    vote_write_id: int
    is_lost: bool = False


@dataclass(slots=True, kw_only=True)
class Transfer:
    """A hand-over under way: no proposals until it is done or `deadline_ms` has passed."""

    target_id: int
    deadline_ms: int
    is_told: bool = False


@dataclass(slots=True, kw_only=True)
class JoiningVoter:
    """A node that catches up before it becomes a voter."""

    voter: Voter
    causality_id: int
    deadline_ms: int


@dataclass(slots=True, kw_only=True)
class Leader:
    """Replicates its log.

    Args:
        noop_index: its first entry; once applied, everything before it is known to be committed.
        peers: every other voter, a joining one, and one that is being removed; by node id, in order.
    """

    noop_index: int
    heartbeat_deadline_ms: int
    peers: dict[int, Progress]
    uncommitted_size_bytes: int = 0
    transfer: Transfer | None = None
    joining: JoiningVoter | None = None
    learned_directories: dict[int, bytes] = field(default_factory=dict)


@dataclass(slots=True, kw_only=True)
class Resigned:
    """Gave up leading, or restarted after voting for itself; waits for a leader or its own next term."""

    election_deadline_ms: int | None


Role = Follower | PreCandidate | Candidate | Leader | Resigned

TRANSITIONS: dict[type[Role], frozenset[type[Role]]] = {
    Follower: frozenset({Follower, PreCandidate, Candidate}),
    PreCandidate: frozenset({Follower, PreCandidate, Candidate}),
    Candidate: frozenset({Follower, PreCandidate, Candidate, Leader}),
    Leader: frozenset({Follower, Resigned}),
    Resigned: frozenset({Follower, PreCandidate, Candidate}),
}
"""Which role may follow which; anything else is a bug."""
