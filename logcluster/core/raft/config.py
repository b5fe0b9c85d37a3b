"""Settings of one voter. Times in milliseconds, sizes in bytes; every bound has a reason."""

from __future__ import annotations

from dataclasses import dataclass

from logcluster.core.raft.messages import ANY_DIRECTORY, Voter
from logcluster.model.invariants import invariant
from logcluster.model.limits import KIB, MIB

ABLATIONS = frozenset(
    {"vote-persistence", "log-freshness", "own-term-commit", "append-durability", "resigned-restart", "founding"}
)
"""Safeguards that a test may switch off to prove that the checks notice."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RaftConfig:
    """Settings of one voter.

    Args:
        node_id: this node.
        directory_id: 16 random bytes of this node's disk.
        bootstrap_voters: voters of a cluster that has none stored yet; empty for a node that waits to be added. Unless
            all of them name their disks, they first have to agree on the disks (`founding`).
        heartbeat_ms: a leader that sent nothing for this long says that it lives.
        election_timeout_ms_min, election_timeout_ms_max: silence before a follower asks for pre-votes.
        stickiness_ms: a voter that heard its leader within this time refuses pre-votes.
        hint_delay_ms_min, hint_delay_ms_max: instead of the election timeout, after the leader's connection broke.
        check_quorum_ms: a leader that heard no majority for this long steps down.
        disk_stall_ms_max: a leader whose oldest write takes longer steps down.
        request_timeout_ms: after this an unanswered request no longer fills the window.
        catch_up_ms_max: how long a new voter may take before the change is refused.
        append_size_bytes_max, append_entries_max: bounds of one append request; one entry may exceed the size.
        in_flight_requests_max: append requests under way to one peer.
        uncommitted_size_bytes_max: above this, proposals are refused as overloaded.
        trailing_entries: entries kept behind a snapshot so that a slightly late follower needs no snapshot.
        ablations: safeguards that are off; for tests only.
    """

    node_id: int
    directory_id: bytes
    bootstrap_voters: tuple[Voter, ...] = ()
    heartbeat_ms: int = 50
    election_timeout_ms_min: int = 600
    election_timeout_ms_max: int = 1_200
    stickiness_ms: int = 200
    hint_delay_ms_min: int = 20
    hint_delay_ms_max: int = 100
    check_quorum_ms: int = 900
    disk_stall_ms_max: int = 3_000
    request_timeout_ms: int = 1_000
    catch_up_ms_max: int = 30_000
    append_size_bytes_max: int = 512 * KIB
    append_entries_max: int = 1_000
    in_flight_requests_max: int = 8
    uncommitted_size_bytes_max: int = 64 * MIB
    trailing_entries: int = 1_000
    ablations: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        invariant(len(self.directory_id) == 16, "a directory id has 16 bytes", size=len(self.directory_id))
        invariant(self.directory_id != ANY_DIRECTORY, "a disk has an id of its own")
        invariant(0 < self.heartbeat_ms < self.stickiness_ms, "a live leader is heard within the stickiness")
        invariant(self.stickiness_ms <= self.election_timeout_ms_min, "stickiness ends before elections begin")
        invariant(self.election_timeout_ms_min < self.election_timeout_ms_max, "election timeouts differ")
        invariant(0 < self.hint_delay_ms_min < self.hint_delay_ms_max, "hint delays differ")
        invariant(self.heartbeat_ms * 2 <= self.check_quorum_ms, "one lost heartbeat does not end a leadership")
        invariant(self.in_flight_requests_max > 0, "a leader may send")
        invariant(self.append_entries_max > 0, "an append request may carry an entry")
        invariant(self.ablations <= ABLATIONS, "the ablations exist", unknown=sorted(self.ablations - ABLATIONS))
