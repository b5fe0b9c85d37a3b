"""What a leader knows about one peer: how far its log matches, what is under way to it, when it was last heard.

Invariant: `match_index < next_index`. Modes: PROBE looks for the point where the logs agree, one request at a
time; REPLICATE sends ahead within a window; SNAPSHOT waits for a snapshot to arrive.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from logcluster.core.raft.messages import Voter
from logcluster.model.invariants import invariant


class Mode(StrEnum):
    """How a leader sends to a peer."""

    PROBE = "probe"
    REPLICATE = "replicate"
    SNAPSHOT = "snapshot"


@dataclass(slots=True, kw_only=True)
class Progress:
    """One peer as its leader sees it.

    Args:
        next_index: first entry to send next.
        last_contact_ms: when the peer's last answer arrived.
        heartbeat_round: an unanswered heartbeat, which keeps the next one back.
        is_doubtful: a request got lost and nothing was heard since; only heartbeats are sent until then.
    """

    peer: Voter
    next_index: int
    last_contact_ms: int
    match_index: int = 0
    mode: Mode = Mode.PROBE
    commit_sent: int = 0
    last_sent_ms: int = -1
    last_round: int = 0
    heartbeat_round: int | None = None
    snapshot_index: int | None = None
    is_doubtful: bool = False
    in_flight: dict[int, int] = field(default_factory=dict)
    """Round of each unanswered append request, and when it was sent."""

    def next_round(self) -> int:
        """Number a request to this peer."""
        self.last_round += 1
        return self.last_round

    def may_send(self, in_flight_requests_max: int) -> bool:
        """Say whether another append request fits the window."""
        if self.is_doubtful:
            return False
        if self.mode is Mode.PROBE:
            return not self.in_flight
        return self.mode is Mode.REPLICATE and len(self.in_flight) < in_flight_requests_max

    def matched(self, index: int) -> bool:
        """Take note that the peer holds the log up to `index`; say whether that is news."""
        is_news = index > self.match_index
        if is_news:
            self.match_index = index
        self.next_index = max(self.next_index, self.match_index + 1)
        return is_news

    def probe_from(self, next_index: int) -> None:
        """Look for the point of agreement again; requests under way no longer count."""
        self.mode = Mode.PROBE
        self.snapshot_index = None
        self.next_index = max(next_index, self.match_index + 1)
        self.in_flight.clear()
        self.heartbeat_round = None

    def lost(self) -> None:
        """A request got no answer: what was sent ahead of it is in doubt, and perhaps the peer is gone."""
        self.probe_from(self.next_index if self.mode is Mode.PROBE else self.match_index + 1)
        self.is_doubtful = True

    def heard(self, now_ms: int) -> None:
        """The peer answered."""
        self.last_contact_ms = now_ms
        self.is_doubtful = False

    def expire(self, *, now_ms: int, request_timeout_ms: int) -> None:
        """Give up on requests that are too old."""
        if any(sent_ms + request_timeout_ms <= now_ms for sent_ms in self.in_flight.values()):
            self.lost()

    def check(self, last_index: int) -> None:
        """Check the invariants against the end of the leader's log."""
        invariant(self.match_index < self.next_index, "a match is below what is sent next", peer=self.peer.node_id)
        invariant(self.match_index <= last_index, "a peer matches no more than there is", peer=self.peer.node_id)

    def describe(self) -> str:
        """One readable word group for transcripts."""
        under_way = f" in_flight={len(self.in_flight)}" if self.in_flight else ""
        return f"n{self.peer.node_id}:{self.mode} match={self.match_index} next={self.next_index}{under_way}"
