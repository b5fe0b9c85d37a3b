"""The receiving end of replication (Raft paper §5.3, §7): match, truncate, append, commit, install.

A success promises durability, so it leaves after the disk has everything it speaks of. Whatever lies at or
below the own commit index is equal on every later leader and never compared again.
"""

from __future__ import annotations

from logcluster.core.raft.messages import AppendRequest, AppendResponse, Entry, SnapshotRequest, SnapshotResponse
from logcluster.core.raft.roles import Leader
from logcluster.core.raft.state import ReplicaState
from logcluster.model.invariants import invariant
from logcluster.model.probes import probe


def on_append_request(state: ReplicaState, request: AppendRequest, causality_id: int) -> None:
    """Bring the log in line with the leader's, or say where they may agree."""
    if not _follow(state, term=request.term, leader_id=request.leader_id):
        probe("raft.append.refused_old_leader")
        _answer(state, request, causality_id, success=False)
        return
    if request.prev_log_index > state.commit_index:
        own_term = state.log.term_at(request.prev_log_index)
        if own_term is None:
            probe("raft.append.refused_gap")
            _answer(state, request, causality_id, success=False, conflict_index=state.log.last_index + 1)
            return
        if own_term != request.prev_log_term:
            probe("raft.append.refused_conflict")
            first = state.log.first_index_of_term_at(request.prev_log_index)
            _answer(state, request, causality_id, success=False, conflict_term=own_term, conflict_index=first)
            return
    _take(state, request.entries)
    last_matching = request.prev_log_index + len(request.entries)
    state.commit_to(min(request.commit_index, last_matching))
    _answer(state, request, causality_id, success=True, match_index=max(last_matching, state.commit_index))


def on_snapshot_request(state: ReplicaState, request: SnapshotRequest, causality_id: int) -> None:
    """Install a snapshot that is ahead of the own commit index; an older one is only confirmed."""
    if not _follow(state, term=request.term, leader_id=request.leader_id):
        state.send(request.leader_id, SnapshotResponse(term=state.term, match_index=0), causality_id)
        return
    snapshot = request.snapshot
    if snapshot.index > state.commit_index:
        if state.log.term_at(snapshot.index) == snapshot.term:
            probe("raft.snapshot.already_in_log")
            state.commit_to(snapshot.index)
        else:
            probe("raft.snapshot.installed")
            state.install_snapshot(snapshot)
    response = SnapshotResponse(term=state.term, match_index=state.commit_index)
    state.send_after_durable(request.leader_id, response, causality_id)


def _follow(state: ReplicaState, *, term: int, leader_id: int) -> bool:
    """Follow the sender unless its term is over; say whether it is followed."""
    if term < state.term:
        return False
    invariant(
        term > state.term or not isinstance(state.role, Leader),
        "a term has one leader",
        term=term,
        leaders=(state.node_id, leader_id),
    )
    state.become_follower(term=term, leader_id=leader_id)
    return True


def _take(state: ReplicaState, entries: tuple[Entry, ...]) -> None:
    """Append what is new; from the first entry of another term on, the own tail gives way."""
    for position, entry in enumerate(entries):
        if entry.index <= state.commit_index:
            continue
        own_term = state.log.term_at(entry.index)
        if own_term == entry.term:
            continue
        if own_term is not None:
            probe("raft.log.conflicting_suffix_truncated")
            state.truncate_from(entry.index)
        state.append(entries[position:])
        return


def _answer(
    state: ReplicaState,
    request: AppendRequest,
    causality_id: int,
    *,
    success: bool,
    match_index: int = 0,
    conflict_term: int = 0,
    conflict_index: int = 0,
) -> None:
    response = AppendResponse(
        term=state.term,
        success=success,
        match_index=match_index,
        conflict_term=conflict_term,
        conflict_index=conflict_index,
        voter_directory_id=state.config.directory_id,
    )
    state.send_after_durable(request.leader_id, response, causality_id)
