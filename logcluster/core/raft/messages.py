"""Vocabulary of the quorum: entries, voters, snapshots, and the messages voters exchange.

Everything is a frozen value. `term` and `index` are plain integers that start at 1; term 0 and index 0
stand for "before everything", and an entry (index, term) names its whole prefix (Raft paper §5.3, Log Matching).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

ANY_DIRECTORY = bytes(16)
"""Directory id of a bootstrap voter whose disk is not known yet; the first leader replaces it by the real one."""


class EntryKind(IntEnum):
    """What an entry is for; only DATA reaches the application."""

    NOOP = 1
    DATA = 2
    VOTERS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One entry of the log; `payload` is opaque unless the kind is VOTERS."""

    index: int
    term: int
    kind: EntryKind
    payload: bytes


class VoterId(NamedTuple):
    """A voter is a node together with its disk: a wiped disk is another voter, since it forgot its vote."""

    node_id: int
    directory_id: bytes


class Voter(NamedTuple):
    """A member of the voter set and where it listens."""

    node_id: int
    directory_id: bytes = ANY_DIRECTORY
    host: str = ""
    port: int = 0

    @property
    def voter_id(self) -> VoterId:
        return VoterId(self.node_id, self.directory_id)

    def accepts_directory(self, directory_id: bytes) -> bool:
        """Say whether a node that shows `directory_id` is this voter; a voter without a known disk accepts any."""
        return self.directory_id in (ANY_DIRECTORY, directory_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class HardState:
    """What must survive a crash before any message that relies on it leaves."""

    term: int = 0
    voted_for: VoterId | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """Application state after applying everything up to and including `index`, and the voters as of then."""

    index: int
    term: int
    voters: tuple[Voter, ...]
    payload: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class PersistedState:
    """What the store holds: `entries` follow directly on (`base_index`, `base_term`)."""

    hard_state: HardState = HardState()
    snapshot: Snapshot | None = None
    base_index: int = 0
    base_term: int = 0
    entries: tuple[Entry, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class VoteRequest:
    """Ask for a vote, or (`pre_vote`) whether one would be given; a pre-vote names the term after the sender's."""

    term: int
    candidate: VoterId
    voter: VoterId
    last_log_index: int
    last_log_term: int
    pre_vote: bool
    leadership_transfer: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class VoteResponse:
    """`term` is the responder's own term when it answered."""

    term: int
    granted: bool
    pre_vote: bool
    voter_directory_id: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class AppendRequest:
    """Entries after (`prev_log_index`, `prev_log_term`), or a heartbeat without any.

    `round` numbers the requests of one leader to one voter, so that the leader can match answers.
    """

    term: int
    leader_id: int
    voter: VoterId
    prev_log_index: int
    prev_log_term: int
    commit_index: int
    entries: tuple[Entry, ...]
    round: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AppendResponse:
    """On success everything up to `match_index` equals the leader's log and is durable.

    On a conflict: the term of the entry at `prev_log_index` and the first index of that term; if the log is too
    short, `conflict_term` is 0 and `conflict_index` the index after its last entry.
    """

    term: int
    success: bool
    match_index: int = 0
    conflict_term: int = 0
    conflict_index: int = 0
    voter_directory_id: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotRequest:
    """A whole snapshot; the carrier cuts it into chunks and puts them together again."""

    term: int
    leader_id: int
    voter: VoterId
    snapshot: Snapshot


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotResponse:
    """`match_index` is at least the snapshot's index if the term was current; durable."""

    term: int
    match_index: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeoutNowRequest:
    """Campaign at once: the leader hands over (Raft dissertation §3.10)."""

    term: int
    leader_id: int
    voter: VoterId


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeoutNowResponse:
    """Only tells the term."""

    term: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CensusRequest:
    """Ask a bootstrap voter which disk it has and which first voters that disk has accepted (`founding`).

    Args:
        boot_id: drawn by the asking process; only an answer that repeats it counts.
        voters: the first voters that the asker's disk has accepted; empty if it has accepted none.
    """

    boot_id: int
    asker: VoterId
    voter: VoterId
    voters: tuple[VoterId, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CensusResponse:
    """Term 0 means that the disk `voter` never took part in anything.

    `voters` are the ones it has accepted, later the voters in force; empty if it knows none.
    """

    term: int
    boot_id: int
    voter: VoterId
    voters: tuple[VoterId, ...]


Request = VoteRequest | AppendRequest | SnapshotRequest | TimeoutNowRequest | CensusRequest
Response = VoteResponse | AppendResponse | SnapshotResponse | TimeoutNowResponse | CensusResponse
