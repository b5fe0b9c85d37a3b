"""What every run of the quorum must keep (Raft paper, figure 3, and what the driver promises on top of it).

| finding | what was broken |
|---|---|
| election-safety | two leaders in one term |
| vote-changed | one disk told two candidates of one term that it votes for them |
| promise-before-disk | a vote, an acknowledgement or a leader's request left before the disk had what it promises |
| log-matching | an (index, term) stands for two entries, or for one on two predecessors |
| leader-completeness | a new leader lacks an entry that was committed |
| committed-changed | nodes disagree on the term of a committed entry |
| commit-not-durable | a leader committed what a majority of its voters does not have on disk |
| state-machine-safety | two nodes applied different things up to one index; a snapshot counts as what it replaces |
| apply-order, apply-not-durable | entries were skipped, repeated, or applied before the own disk had them |
| term-regressed, commit-regressed | within an incarnation, or (term) below what the disk held |
| acked-lost | a proposal was reported as committed and is not what was applied there |
| core-invariant | an invariant inside the core itself |
| no-progress | in calm weather the quorum did not commit, or did not agree, in time |
"""

from __future__ import annotations

import zlib
from typing import Final

from logcluster.core.raft.effects import Persist
from logcluster.core.raft.messages import (
    AppendRequest,
    AppendResponse,
    CensusRequest,
    CensusResponse,
    Entry,
    EntryKind,
    Request,
    Response,
    Snapshot,
    SnapshotRequest,
    SnapshotResponse,
    TimeoutNowRequest,
    VoteRequest,
    VoteResponse,
)
from logcluster.core.raft.node import RaftNode
from logcluster.sim.cores.raft_disk import RaftDisk
from logcluster.sim.cores.raft_member import RaftMember
from logcluster.sim.cores.result import Notebook

RAFT_FINDINGS: Final = (
    "election-safety",
    "vote-changed",
    "promise-before-disk",
    "log-matching",
    "leader-completeness",
    "committed-changed",
    "commit-not-durable",
    "state-machine-safety",
    "apply-order",
    "apply-not-durable",
    "term-regressed",
    "commit-regressed",
    "acked-lost",
    "core-invariant",
    "no-progress",
)


def encode_state(index: int, digest: int) -> bytes:
    """A snapshot's payload: the application's state is the digest of all it applied."""
    return b"%d:%d" % (index, digest)


class RaftChecks:
    """Global knowledge of one run, and the checks against it."""

    def __init__(self, book: Notebook, disks: dict[tuple[int, bytes], RaftDisk]) -> None:
        self._book = book
        self._disks = disks
        self._leaders: dict[int, tuple[int, int]] = {}
        self._entries: dict[tuple[int, int], tuple[int | None, Entry]] = {}
        self._votes: dict[tuple[int, bytes, int], int] = {}
        self._digests: dict[int, int] = {0: 0}
        self._applied: dict[int, bytes] = {}
        self._committed: dict[int, tuple[int, int]] = {}
        """By index: the entry's term, and the term in which it was committed."""
        self.acked_count = 0

    def on_persist(self, member: RaftMember, write: Persist) -> None:
        """Log matching, on what a node decided to write."""
        for entry in write.entries:
            previous = member.memory.term_at(entry.index - 1)
            known = self._entries.setdefault((entry.index, entry.term), (previous, entry))
            if known[0] != previous or (known[1] is not entry and known[1] != entry):
                self._book.find("log-matching", f"n{member.node_id}: {known} and {(previous, entry)}")

    def on_leave(self, member: RaftMember, message: Request | Response, request: Request | None) -> None:
        """A message leaves: what it promises must be on the disk."""
        disk = member.disk
        hard_state = disk.hard_state
        broken = False
        match message:
            case AppendResponse(success=True, match_index=match_index, term=term):
                broken = hard_state.term < term or disk.last_index < match_index
            case VoteResponse(granted=True, pre_vote=False, term=term):
                assert isinstance(request, VoteRequest)
                vote = hard_state.voted_for
                broken = hard_state.term < term or (hard_state.term == term and vote != request.candidate)
                self._note_vote(member, term, request.candidate.node_id)
            case SnapshotResponse(match_index=match_index, term=term) if match_index > 0:
                broken = hard_state.term < term or disk.last_index < match_index
            case AppendRequest(term=term) | SnapshotRequest(term=term) | TimeoutNowRequest(term=term):
                broken = hard_state.term < term
            case VoteRequest(term=term, pre_vote=False):
                broken = hard_state.term < term
            case CensusRequest(voters=voters) if voters:
                broken = hard_state.term == 0 and disk.snapshot is None
            case CensusResponse(term=term, voters=voters) if voters:
                broken = hard_state.term < term or (hard_state.term == 0 and disk.snapshot is None)
            case _:
                return
        if broken:
            self._book.find("promise-before-disk", f"n{member.node_id} at {hard_state}, {disk.last_index}: {message}")

    def _note_vote(self, member: RaftMember, term: int, candidate_id: int) -> None:
        known = self._votes.setdefault((member.node_id, member.directory_id, term), candidate_id)
        if known != candidate_id:
            self._book.find("vote-changed", f"n{member.node_id} term {term}: for n{known}, then for n{candidate_id}")

    def on_apply(self, member: RaftMember, entry: Entry) -> None:
        """State machine safety, entry by entry."""
        index = entry.index
        if index != member.applied + 1:
            self._book.find("apply-order", f"n{member.node_id} applied {index} after {member.applied}")
        if not member.disk.holds(index, entry.term):
            self._book.find("apply-not-durable", f"n{member.node_id} applied {index}@{entry.term} before its disk")
        member.applied = index
        content = b"%d/%d/%s" % (entry.term, entry.kind, entry.payload)
        member.digest = zlib.crc32(content, member.digest)
        self._note_digest(member)
        if entry.kind is EntryKind.DATA:
            self._applied.setdefault(index, entry.payload)

    def on_apply_snapshot(self, member: RaftMember, snapshot: Snapshot) -> None:
        """A snapshot stands for exactly what it replaces."""
        index, digest = (int(word) for word in snapshot.payload.split(b":"))
        if index != snapshot.index or index <= member.applied:
            self._book.find("apply-order", f"n{member.node_id}: snapshot {snapshot.index} after {member.applied}")
        member.applied = index
        member.digest = digest
        self._note_digest(member)

    def _note_digest(self, member: RaftMember) -> None:
        known = self._digests.setdefault(member.applied, member.digest)
        if known != member.digest:
            self._book.find("state-machine-safety", f"n{member.node_id} differs from others at {member.applied}")

    def on_acked(self, member: RaftMember, index: int, payload: bytes) -> None:
        """The driver tells a caller that its proposal is committed."""
        self.acked_count += 1
        if self._applied.get(index) != payload:
            self._book.find("acked-lost", f"n{member.node_id}: {payload!r} at {index} is {self._applied.get(index)!r}")

    def after_step(self, member: RaftMember, node: RaftNode) -> None:
        """What can be told from a node's public face; cheap, after every step."""
        term = node.term
        if term < member.term_seen:
            self._book.find("term-regressed", f"n{member.node_id}: {term} after {member.term_seen}")
        member.term_seen = term
        commit_index = node.commit_index
        if commit_index != member.commit_seen:
            self._on_commit(member, node, commit_index)
        is_leader = node.role_name == "Leader"
        if is_leader:
            own = (member.node_id, member.incarnation)
            leader = self._leaders.setdefault(term, own)
            if leader != own:
                self._book.find("election-safety", f"term {term}: leaders {leader} and {own}")
            if not member.was_leader:
                self._check_completeness(member, term)
                self._note_vote(member, term, member.node_id)

    def _on_commit(self, member: RaftMember, node: RaftNode, commit_index: int) -> None:
        if commit_index < member.commit_seen:
            self._book.find("commit-regressed", f"n{member.node_id}: {commit_index} after {member.commit_seen}")
        memory = member.memory
        for index in range(max(member.commit_seen, memory.base_index) + 1, commit_index + 1):
            term = memory.term_at(index)
            assert term is not None
            known = self._committed.setdefault(index, (term, node.term))
            if known[0] != term:
                self._book.find("committed-changed", f"n{member.node_id}: {index} is {term}, was {known[0]}")
        member.commit_seen = commit_index
        if node.role_name == "Leader":
            self._check_durable(member, node, commit_index)

    def _check_durable(self, member: RaftMember, node: RaftNode, index: int) -> None:
        """A disk that was wiped counts with what it held: it answered, and then was lost (one at a time)."""
        term = member.memory.term_at(index)
        if term is None:
            return
        voters = node.voters
        holders = 0
        for voter in voters:
            disk = self._disks.get((voter.node_id, voter.directory_id))
            if disk is None:  # its disk's id is not in the log yet: any disk this node ever had
                disks = [each for (node_id, _), each in self._disks.items() if node_id == voter.node_id]
            else:
                disks = [disk]
            holders += any(each.holds(index, term) for each in disks)
        if holders < len(voters) // 2 + 1:
            self._book.find(
                "commit-not-durable", f"n{member.node_id}: {index}@{term} is on {holders} disks of {len(voters)} voters"
            )

    def _check_completeness(self, member: RaftMember, leader_term: int) -> None:
        """What was committed in an earlier term is here; a slow winner of an old term may lack what came after."""
        memory = member.memory
        base_index = memory.base_index
        for index, (term, committed_in) in self._committed.items():
            if index > base_index and committed_in < leader_term and memory.term_at(index) != term:
                self._book.find("leader-completeness", f"n{member.node_id} leads without {index}@{term}")
                return

    def check_start(self, member: RaftMember) -> None:
        """After a restart: the term on the disk is at least what the disk ever promised."""
        promised = member.disk.hard_state.term
        if promised < member.disk_term_seen:
            self._book.find("term-regressed", f"n{member.node_id}: disk {promised} after {member.disk_term_seen}")
        member.disk_term_seen = promised

    def check_agreement(self, members: list[RaftMember]) -> str | None:
        """At the end: whoever applied the same index is in the same state; returns what is missing, if anything."""
        applied = {member.applied for member in members}
        digests = {member.digest for member in members}
        if len(applied) == 1 and len(digests) == 1:
            return None
        return f"applied {sorted(applied)}, {len(digests)} states"
