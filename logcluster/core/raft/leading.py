"""Leading: replicate, count, commit, stay in touch with a majority (Raft paper §5.3, §5.4.2).

A leader sends its entries while its own disk still writes them; its own copy counts when durable, like any other.
Only an entry of the own term is committed by counting (figure 8 of the paper), older ones with it; hence the
NOOP at the start of each term. Voter changes and hand-over are in `membership`.
"""

from __future__ import annotations

from logcluster.core.raft.effects import Accepted, RefusalReason
from logcluster.core.raft.membership import (
    after_commit,
    change_voters,
    forget_late_changes,
    on_progress,
    pin_directories,
)
from logcluster.core.raft.messages import (
    AppendRequest,
    AppendResponse,
    Entry,
    EntryKind,
    SnapshotRequest,
    SnapshotResponse,
)
from logcluster.core.raft.progress import Mode, Progress
from logcluster.core.raft.quorum import index_on_majority, majority
from logcluster.core.raft.roles import Leader
from logcluster.core.raft.state import ReplicaState
from logcluster.model.probes import probe

_HEARTBEATS_MISSED_BEFORE_RESEND = 4


def become_leader(state: ReplicaState) -> None:
    """Start leading with a NOOP of the own term."""
    noop_index = state.log.last_index + 1
    peers = {
        voter.node_id: Progress(peer=voter, next_index=noop_index, last_contact_ms=state.now_ms)
        for voter in state.voters.current
        if voter.node_id != state.node_id
    }
    uncommitted = state.log.entries_from(state.commit_index + 1) if state.commit_index < noop_index - 1 else ()
    if uncommitted:
        probe("raft.leader.inherited_uncommitted")
    leader = Leader(
        noop_index=noop_index,
        heartbeat_deadline_ms=state.now_ms + state.config.heartbeat_ms,
        peers=peers,
        uncommitted_size_bytes=sum(len(entry.payload) for entry in uncommitted),
    )
    state.become(leader)
    state.is_leader_suspected = False
    state.lost_rounds = 0
    state.append((Entry(index=noop_index, term=state.term, kind=EntryKind.NOOP, payload=b""),))
    replicate(state, leader)
    advance_commit(state, leader)


def propose(state: ReplicaState, payload: bytes, causality_id: int) -> None:
    """Append a DATA entry, or say why not."""
    leader = state.role
    if not isinstance(leader, Leader) or not state.is_ready_leader:
        state.refuse(causality_id, RefusalReason.NOT_LEADER)
        return
    if leader.transfer is not None:
        probe("raft.propose.refused_while_transferring")
        state.refuse(causality_id, RefusalReason.TRANSFERRING)
        return
    size_bytes = leader.uncommitted_size_bytes + len(payload)
    if leader.uncommitted_size_bytes > 0 and size_bytes > state.config.uncommitted_size_bytes_max:
        probe("raft.propose.refused_overloaded")
        state.refuse(causality_id, RefusalReason.OVERLOADED)
        return
    leader.uncommitted_size_bytes = size_bytes
    index = state.log.last_index + 1
    state.append((Entry(index=index, term=state.term, kind=EntryKind.DATA, payload=payload),))
    state.emit(Accepted(causality_id=causality_id, index=index, term=state.term))
    replicate(state, leader)
    advance_commit(state, leader)


def replicate(state: ReplicaState, leader: Leader) -> None:
    """Send every peer what its window allows."""
    for progress in leader.peers.values():
        send_appends(state, progress)


def send_appends(state: ReplicaState, progress: Progress) -> None:
    """Send entries, a snapshot if they are cut, or the news of a commit if nothing else carries it."""
    config = state.config
    log = state.log
    while progress.may_send(config.in_flight_requests_max):
        if progress.next_index <= log.base_index:
            _send_snapshot(state, progress)
            return
        entries = log.batch_from(
            progress.next_index, entries_max=config.append_entries_max, size_bytes_max=config.append_size_bytes_max
        )
        is_commit_news = progress.commit_sent < min(state.commit_index, progress.match_index)
        if not entries and progress.mode is Mode.REPLICATE and (progress.in_flight or not is_commit_news):
            return
        round_number = _send_append(state, progress, prev_log_index=progress.next_index - 1, entries=entries)
        progress.in_flight[round_number] = state.now_ms
        if progress.mode is Mode.REPLICATE:
            progress.next_index += len(entries)


def on_append_response(
    state: ReplicaState, leader: Leader, peer_id: int, request: AppendRequest, response: AppendResponse
) -> None:
    """Count what a peer holds; on a conflict go back to where the logs may agree."""
    progress = leader.peers.get(peer_id)
    if progress is None or request.term != state.term or not _is_its_disk(leader, progress, response):
        return
    progress.heard(state.now_ms)
    was_in_flight = progress.in_flight.pop(request.round, None) is not None
    if progress.heartbeat_round == request.round:
        progress.heartbeat_round = None
    if not response.success:
        _on_conflict(state, progress, request, response, was_in_flight=was_in_flight)
        return
    is_news = progress.matched(response.match_index)
    if was_in_flight and progress.mode is Mode.PROBE:
        progress.mode = Mode.REPLICATE
    if progress.snapshot_index is not None and progress.match_index >= progress.snapshot_index:
        progress.probe_from(progress.match_index + 1)
    _after_progress(state, leader, progress, is_news=is_news)


def on_snapshot_response(state: ReplicaState, leader: Leader, peer_id: int, response: SnapshotResponse) -> None:
    """A snapshot is installed: go on after it."""
    progress = leader.peers.get(peer_id)
    if progress is None or response.term != state.term:
        return
    progress.heard(state.now_ms)
    is_news = progress.matched(min(response.match_index, state.log.last_index))
    if progress.mode is Mode.SNAPSHOT:
        progress.probe_from(progress.match_index + 1)
    _after_progress(state, leader, progress, is_news=is_news)


def on_append_failed(leader: Leader, peer_id: int, request: AppendRequest) -> None:
    """A request is lost: only heartbeats follow until one is answered, so that a dead peer costs little."""
    progress = leader.peers.get(peer_id)
    if progress is None:
        return
    if progress.heartbeat_round == request.round:
        progress.heartbeat_round = None
    if progress.in_flight.pop(request.round, None) is not None:
        progress.lost()


def on_snapshot_failed(leader: Leader, peer_id: int) -> None:
    """A snapshot did not arrive: start over once the peer answers again."""
    progress = leader.peers.get(peer_id)
    if progress is not None and progress.mode is Mode.SNAPSHOT:
        progress.lost()


def on_leader_deadline(state: ReplicaState, leader: Leader) -> None:
    """Step down without a majority or with a stuck disk; otherwise say that the leader lives."""
    if state.now_ms < leader.heartbeat_deadline_ms:
        return
    leader.heartbeat_deadline_ms = state.now_ms + state.config.heartbeat_ms
    if not _hears_majority(state, leader) or _is_disk_stuck(state):
        if _hears_majority(state, leader):
            probe("raft.leader.resigned_with_stuck_disk")
        else:
            probe("raft.leader.resigned_without_majority")
        state.resign()
        return
    forget_late_changes(state, leader)
    if state.role is not leader:
        return
    pinned = pin_directories(state, leader)
    if pinned is not None:
        change_voters(state, leader, pinned)
    for progress in leader.peers.values():
        progress.expire(now_ms=state.now_ms, request_timeout_ms=state.config.request_timeout_ms)
        send_appends(state, progress)
        _send_heartbeat(state, progress)
    advance_commit(state, leader)


def advance_commit(state: ReplicaState, leader: Leader) -> None:
    """Commit what a majority holds durably, if the last of it is of the own term."""
    matches = [
        state.durable_index if voter.node_id == state.node_id else leader.peers[voter.node_id].match_index
        for voter in state.voters.current
    ]
    index = index_on_majority(matches)
    if index <= state.commit_index:
        return
    if state.log.term_at(index) != state.term and "own-term-commit" not in state.config.ablations:
        probe("raft.commit.waits_for_own_term")
        return
    for entry in state.log.entries_from(state.commit_index + 1, end=index + 1):
        leader.uncommitted_size_bytes -= len(entry.payload)
    state.commit_to(index)
    after_commit(state, leader)
    if state.role is leader:
        replicate(state, leader)


def _after_progress(state: ReplicaState, leader: Leader, progress: Progress, *, is_news: bool) -> None:
    if is_news:
        advance_commit(state, leader)
        if state.role is not leader:
            return
        voters = on_progress(state, leader, progress)
        if voters is not None:
            change_voters(state, leader, voters)
            replicate(state, leader)
            advance_commit(state, leader)
    send_appends(state, progress)


def _on_conflict(
    state: ReplicaState, progress: Progress, request: AppendRequest, response: AppendResponse, *, was_in_flight: bool
) -> None:
    """Back up past the whole conflicting term at once; an answer to an abandoned request is ignored.

    A request that overtook the one before it is refused although both logs agree by now; what it carried was not taken.
    """
    if response.term != state.term or not was_in_flight:
        return
    if request.prev_log_index <= progress.match_index:
        if request.prev_log_index + len(request.entries) > progress.match_index:
            progress.probe_from(progress.match_index + 1)
            send_appends(state, progress)
        return
    probe("raft.leader.backed_up_after_conflict")
    next_index = response.conflict_index
    if response.conflict_term > 0:
        shared = state.log.last_index_of_term(response.conflict_term, at_most=request.prev_log_index)
        if shared is not None:
            next_index = shared + 1
    progress.probe_from(min(next_index, request.prev_log_index))
    send_appends(state, progress)


def _is_its_disk(leader: Leader, progress: Progress, response: AppendResponse) -> bool:
    if not progress.peer.accepts_directory(response.voter_directory_id):
        return False
    leader.learned_directories[progress.peer.node_id] = response.voter_directory_id
    return True


def _send_append(state: ReplicaState, progress: Progress, *, prev_log_index: int, entries: tuple[Entry, ...]) -> int:
    prev_log_term = state.log.term_at(prev_log_index)
    if prev_log_term is None:
        prev_log_index = prev_log_term = 0
    round_number = progress.next_round()
    request = AppendRequest(
        term=state.term,
        leader_id=state.node_id,
        voter=progress.peer.voter_id,
        prev_log_index=prev_log_index,
        prev_log_term=prev_log_term,
        commit_index=state.commit_index,
        entries=entries,
        round=round_number,
    )
    state.send(progress.peer.node_id, request)
    progress.last_sent_ms = state.now_ms
    progress.commit_sent = max(progress.commit_sent, min(state.commit_index, prev_log_index + len(entries)))
    return round_number


def _send_heartbeat(state: ReplicaState, progress: Progress) -> None:
    """Say that the leader lives unless something was just sent; one unanswered heartbeat at a time."""
    silent_ms = state.now_ms - progress.last_sent_ms
    if progress.last_sent_ms >= 0 and 2 * silent_ms < state.config.heartbeat_ms:
        return
    resend_ms = state.config.heartbeat_ms * _HEARTBEATS_MISSED_BEFORE_RESEND
    if progress.heartbeat_round is not None and silent_ms < resend_ms:
        return
    progress.heartbeat_round = _send_append(state, progress, prev_log_index=progress.match_index, entries=())


def _send_snapshot(state: ReplicaState, progress: Progress) -> None:
    snapshot = state.snapshot
    assert snapshot is not None, "what was cut from the log is in a snapshot"
    probe("raft.snapshot.sent")
    progress.mode = Mode.SNAPSHOT
    progress.snapshot_index = snapshot.index
    request = SnapshotRequest(term=state.term, leader_id=state.node_id, voter=progress.peer.voter_id, snapshot=snapshot)
    state.send(progress.peer.node_id, request)


def _hears_majority(state: ReplicaState, leader: Leader) -> bool:
    oldest_ms = state.now_ms - state.config.check_quorum_ms
    heard = sum(
        voter.node_id == state.node_id or leader.peers[voter.node_id].last_contact_ms >= oldest_ms
        for voter in state.voters.current
    )
    return heard >= majority(len(state.voters.current))


def _is_disk_stuck(state: ReplicaState) -> bool:
    since_ms = state.durability.oldest_pending_since_ms()
    is_alone = len(state.voters.current) == 1
    return since_ms is not None and not is_alone and state.now_ms - since_ms > state.config.disk_stall_ms_max
