"""What a `RaftNode` wants done: values, carried out by the driver in the order given.

The order contract: writes are carried out in order of `write_id`; a `SendAfterDurable` leaves only when its
`write_id` is on disk; a `Send` may leave at once, even while writes are pending. `Apply` never names an entry
that is not on the own disk, so what a node has shown survives its restart.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from logcluster.core.raft.census import FoundingReport
from logcluster.core.raft.messages import Entry, HardState, Request, Response, Snapshot


@dataclass(frozen=True, slots=True, kw_only=True)
class Persist:
    """One atomic, synced write, to be answered by `Persisted(write_id)`.

    Done in this order: drop entries from `truncate_from` on; drop entries up to `base` (index, term); store
    `snapshot`, `hard_state`, `entries`. None or empty means unchanged.
    """

    write_id: int
    hard_state: HardState | None
    truncate_from: int | None
    base: tuple[int, int] | None
    snapshot: Snapshot | None
    entries: tuple[Entry, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Send:
    """Send now: a request to `to`, or (with `causality_id`) the answer to a received request."""

    to: int
    message: Request | Response
    causality_id: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SendAfterDurable:
    """Send once the write `write_id` is on disk: the message promises what that write holds."""

    write_id: int
    to: int
    message: Request | Response
    causality_id: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Apply:
    """These entries, following on what was applied before, are committed and on the own disk."""

    entries: tuple[Entry, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ApplySnapshot:
    """Replace the application's state by this snapshot."""

    snapshot: Snapshot


@dataclass(frozen=True, slots=True, kw_only=True)
class LeadershipChanged:
    """Who leads, as far as this node knows.

    `is_leader` becomes True only when the own term's first entry is applied: the state is then complete.
    """

    term: int
    leader_id: int | None
    is_leader: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundingChanged:
    """What keeps this voter from the first election has changed; None: nothing does any more."""

    report: FoundingReport | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StrangerNoticed:
    """The voter `node_id` came back with an empty store on another disk: it is no voter now."""

    node_id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """A proposal or voter change became the log entry (`index`, `term`); not committed yet.

    For a transfer: the hand-over has begun, `index` is the last index.
    """

    causality_id: int
    index: int
    term: int


class RefusalReason(StrEnum):
    """Why nothing was done; every reason is definite."""

    NOT_LEADER = "not leader"
    TRANSFERRING = "handing leadership over"
    OVERLOADED = "too much uncommitted data"
    CHANGE_IN_PROGRESS = "another voter change is not finished"
    ALREADY_VOTER = "already a voter"
    UNKNOWN_VOTER = "no such voter"
    LAST_VOTER = "the last voter cannot leave"
    TOO_MANY_VOTERS = "the voter set is full"
    NOT_CAUGHT_UP = "the new voter did not catch up in time"
    WRONG_DIRECTORY = "meant for another disk"


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """A proposal, change or request with this causality id was not carried out; `leader_id` if known."""

    causality_id: int
    reason: RefusalReason
    leader_id: int | None


Effect = (
    Persist
    | Send
    | SendAfterDurable
    | Apply
    | ApplySnapshot
    | LeadershipChanged
    | FoundingChanged
    | StrangerNoticed
    | Accepted
    | Refused
)
