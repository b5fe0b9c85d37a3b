"""What surrounds a `RaftDriver`: the application it tells, the peers it calls, and how its refusals read as errors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from logcluster.core.raft.census import FoundingReport, Obstacle
from logcluster.core.raft.effects import RefusalReason, Refused
from logcluster.core.raft.messages import (
    AppendRequest,
    AppendResponse,
    CensusRequest,
    CensusResponse,
    Snapshot,
    SnapshotRequest,
    SnapshotResponse,
    TimeoutNowRequest,
    TimeoutNowResponse,
    VoteRequest,
    VoteResponse,
)
from logcluster.model.errors import (
    InconsistentVoterSet,
    InvalidRequest,
    LogClusterError,
    NotController,
    Overloaded,
    RequestTimedOut,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class CommittedEntry:
    """A committed DATA entry."""

    index: int
    term: int
    payload: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Leadership:
    """Who leads the quorum; `is_leader` means this node leads and its applied state is complete."""

    term: int
    leader_id: int | None
    is_leader: bool


class RaftListener(Protocol):
    """The application of the log. Called synchronously on the event loop, in order; must not block or raise.

    It may call `propose_nowait` and `compact` of the driver from within a call.
    """

    def on_committed(self, entries: Sequence[CommittedEntry]) -> None:
        """These DATA entries are committed and on the own disk; indexes grow, with gaps where other kinds lie."""
        ...

    def on_applied(self, index: int) -> None:
        """Everything up to `index` was handed over, entries without data included."""
        ...

    def on_snapshot(self, snapshot: Snapshot) -> None:
        """Replace the whole state by the snapshot's; at a start, or on a follower that was far behind."""
        ...

    def on_leadership(self, leadership: Leadership) -> None:
        """The term, the leader, or this node's being it has changed."""
        ...


class RaftPeer(Protocol):
    """Calls to one other node.

    All raise LogClusterError or OSError if no answer came within `timeout_ms`, whether or not the request arrived.
    Cancellation: the request may have arrived.
    """

    async def vote(self, request: VoteRequest, *, timeout_ms: int) -> VoteResponse: ...

    async def append_entries(self, request: AppendRequest, *, timeout_ms: int) -> AppendResponse: ...

    async def install_snapshot(self, request: SnapshotRequest, *, timeout_ms: int) -> SnapshotResponse: ...

    async def timeout_now(self, request: TimeoutNowRequest, *, timeout_ms: int) -> TimeoutNowResponse: ...

    async def census(self, request: CensusRequest, *, timeout_ms: int) -> CensusResponse: ...


_REFUSAL_ERRORS: dict[RefusalReason, type[LogClusterError]] = {
    RefusalReason.NOT_LEADER: NotController,
    RefusalReason.TRANSFERRING: NotController,
    RefusalReason.OVERLOADED: Overloaded,
    RefusalReason.CHANGE_IN_PROGRESS: InvalidRequest,
    RefusalReason.ALREADY_VOTER: InvalidRequest,
    RefusalReason.UNKNOWN_VOTER: InvalidRequest,
    RefusalReason.LAST_VOTER: InvalidRequest,
    RefusalReason.TOO_MANY_VOTERS: InvalidRequest,
    RefusalReason.NOT_CAUGHT_UP: RequestTimedOut,
    RefusalReason.WRONG_DIRECTORY: InconsistentVoterSet,
}


def refusal_error(refused: Refused) -> LogClusterError:
    """The error that tells a caller of a refusal; names the leader if one is known."""
    error_type = _REFUSAL_ERRORS[refused.reason]
    if refused.leader_id is None:
        return error_type(refused.reason.value)
    return error_type(refused.reason.value, leader_id=refused.leader_id)


def founding_reason(report: FoundingReport) -> str:
    """Why this voter takes no part in elections yet, for people."""
    if report.obstacles:
        return "; ".join(f"voter {node_id}: {obstacle.value}" for node_id, obstacle in report.obstacles)
    if report.silent:
        return f"waiting for {_voters(report.silent)} to appear for the first election"
    return "waiting for all voters to accept one another for the first election"


def hindrance(report: FoundingReport | None, strangers: Sequence[int]) -> str | None:
    """What may keep the quorum without a leader, for people; None if nothing is known."""
    if report is not None:
        return founding_reason(report)
    return f"{_voters(strangers)} came back with empty disks and cannot vote" if strangers else None


def _voters(node_ids: Sequence[int]) -> str:
    return f"voter{'s' if len(node_ids) > 1 else ''} {', '.join(str(node_id) for node_id in node_ids)}"


_NEXT_STEPS: dict[Obstacle, str] = {
    Obstacle.NOT_A_VOTER: (
        "nothing is started anew; put the old disk back, or let the voters that have theirs replace this one; if a"
        " majority lost its disks, stop the empty ones and restore a majority"
    ),
    Obstacle.LOST_STORE: "restore the directory `quorum` below `data.dir`, or empty `data.dir` and replace this voter",
    Obstacle.OTHER_VOTERS: "compare `quorum.voters` of all voters; if none ever had a leader, empty all their disks",
    Obstacle.OTHER_DISK: "put that disk back; if no voter ever had a leader, empty all their disks and start again",
    Obstacle.NOT_ACCEPTED: "compare `quorum.voters` of all voters",
}


def next_steps(report: FoundingReport) -> str:
    """What an operator can do about the obstacles."""
    return "; ".join(dict.fromkeys(_NEXT_STEPS[obstacle] for _, obstacle in report.obstacles))


def stranger_warning(node_id: int) -> str:
    """What to know of a voter that came back with another, empty disk."""
    return (
        f"voter {node_id} came back with an empty disk and does not count towards a majority with it;"
        " next: put its old disk back, or replace the voter"
    )
