"""Everything that can happen to a `RaftNode`: the closed set of arguments of `step`.

`causality_id` ties an input to the effects that answer it; the driver chooses it and never reuses it.
"""

from __future__ import annotations

from dataclasses import dataclass

from logcluster.core.raft.messages import Request, Response, Voter


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """The first input after construction: announces the stored snapshot and arms the timers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    """Time has passed; sent when `next_deadline_ms` is reached, harmless at any other time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestReceived:
    """A peer asks; exactly one `Send`, `SendAfterDurable` or `Refused` with this causality id follows, at once or
    later."""

    request: Request
    causality_id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponseReceived:
    """A peer answered `request`."""

    peer_id: int
    request: Request
    response: Response


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestFailed:
    """`request` got no answer: it may or may not have arrived."""

    peer_id: int
    request: Request


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerUnreachable:
    """The connection with a peer broke: a hint, never proof, that the peer is gone."""

    peer_id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Persisted:
    """The `Persist` effect `write_id` and all before it are on disk."""

    write_id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Propose:
    """Append `payload` as a DATA entry; answered by `Accepted` or `Refused` in the same step."""

    payload: bytes
    causality_id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AddVoter:
    """Let `voter` catch up, then make it a voter; `Accepted` names the entry that does so."""

    voter: Voter
    causality_id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoveVoter:
    """Take the voter out of the set; a leader that removes itself hands over after the commit."""

    node_id: int
    causality_id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferLeadership:
    """Hand leadership to `to`, or to the most advanced peer if None."""

    to: int | None
    causality_id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotTaken:
    """The application's state as of the applied entry `index`; the log may be cut."""

    index: int
    payload: bytes


Input = (
    Started
    | Tick
    | RequestReceived
    | ResponseReceived
    | RequestFailed
    | PeerUnreachable
    | Persisted
    | Propose
    | AddVoter
    | RemoveVoter
    | TransferLeadership
    | SnapshotTaken
)
