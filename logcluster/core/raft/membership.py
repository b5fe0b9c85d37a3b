"""Voter changes, one at a time, and handing leadership over (Raft dissertation §3.10, §4.1 to §4.2.2).

A change starts only when no other is under way and the leader has committed an entry of its own term; the
published correction to single-server changes demands the latter. A new voter first catches up as a peer that does
not count. A leader that removes itself leads until the change is committed, without counting itself, and then
hands over. Should it fail before that, its log may be the only one fresh enough, so it may campaign until it knows
of the commit (`ReplicaState.may_campaign`). Bootstrap voters get their disks' ids from the first leader that hears
from them.
"""

from __future__ import annotations

from logcluster.core.raft.effects import Accepted, RefusalReason
from logcluster.core.raft.messages import Entry, EntryKind, TimeoutNowRequest, Voter
from logcluster.core.raft.progress import Progress
from logcluster.core.raft.quorum import encode_voters
from logcluster.core.raft.roles import JoiningVoter, Leader, Transfer
from logcluster.core.raft.state import ReplicaState
from logcluster.model.limits import VOTERS_MAX
from logcluster.model.probes import probe


def is_change_under_way(state: ReplicaState, leader: Leader) -> bool:
    """Whether another change must wait."""
    return leader.joining is not None or state.voters.current_index > state.commit_index


def start_adding(state: ReplicaState, voter: Voter, causality_id: int) -> Progress | None:
    """Begin to bring a new voter up to date; None if refused."""
    leader = _ready_for_change(state, causality_id)
    if leader is None:
        return None
    if state.voters.find(voter.node_id) is not None:
        state.refuse(causality_id, RefusalReason.ALREADY_VOTER)
        return None
    if len(state.voters.current) >= VOTERS_MAX:
        state.refuse(causality_id, RefusalReason.TOO_MANY_VOTERS)
        return None
    leader.joining = JoiningVoter(
        voter=voter, causality_id=causality_id, deadline_ms=state.now_ms + state.config.catch_up_ms_max
    )
    progress = Progress(peer=voter, next_index=state.log.last_index + 1, last_contact_ms=state.now_ms)
    leader.peers[voter.node_id] = progress
    return progress


def start_removing(state: ReplicaState, node_id: int, causality_id: int) -> tuple[Voter, ...] | None:
    """The voter set without the node; None if refused."""
    leader = _ready_for_change(state, causality_id)
    if leader is None:
        return None
    if state.voters.find(node_id) is None:
        state.refuse(causality_id, RefusalReason.UNKNOWN_VOTER)
        return None
    if len(state.voters.current) == 1:
        state.refuse(causality_id, RefusalReason.LAST_VOTER)
        return None
    return tuple(voter for voter in state.voters.current if voter.node_id != node_id)


def change_voters(
    state: ReplicaState, leader: Leader, voters: tuple[Voter, ...], causality_id: int | None = None
) -> None:
    """Append the new set, which takes effect at once; removed voters stay peers until it is committed."""
    probe("raft.voters.changed")
    index = state.log.last_index + 1
    payload = encode_voters(voters)
    state.append((Entry(index=index, term=state.term, kind=EntryKind.VOTERS, payload=payload),))
    leader.uncommitted_size_bytes += len(payload)
    for voter in state.voters.current:
        progress = leader.peers.get(voter.node_id)
        if progress is not None:
            progress.peer = voter
        elif voter.node_id != state.node_id:
            leader.peers[voter.node_id] = Progress(peer=voter, next_index=index, last_contact_ms=state.now_ms)
    if causality_id is None and leader.joining is not None:
        causality_id = leader.joining.causality_id
        leader.joining = None
    if causality_id is not None:
        state.emit(Accepted(causality_id=causality_id, index=index, term=state.term))


def on_progress(state: ReplicaState, leader: Leader, progress: Progress) -> tuple[Voter, ...] | None:
    """A peer got further: tell a transfer's target when it has everything; give the set that a caught-up voter
    joins."""
    tell_target(state, leader)
    joining = leader.joining
    if joining is None or progress.peer.node_id != joining.voter.node_id:
        return None
    if progress.match_index < state.commit_index or state.voters.current_index > state.commit_index:
        return None
    return (*state.voters.current, joining.voter)


def after_commit(state: ReplicaState, leader: Leader) -> None:
    """Let go of voters whose removal is committed; a leader that is one of them hands over and resigns."""
    if state.voters.current_index > state.commit_index:
        return
    if not state.is_voter:
        probe("raft.leader.removed_itself")
        target = most_advanced_voter(state, leader)
        if target is not None:
            _send_timeout_now(state, leader.peers[target].peer)
        state.resign()
        return
    joining_id = leader.joining.voter.node_id if leader.joining is not None else None
    for node_id in [node_id for node_id in leader.peers if state.voters.find(node_id) is None]:
        progress = leader.peers[node_id]
        is_silent = progress.last_contact_ms < state.now_ms - state.config.check_quorum_ms
        is_told = progress.commit_sent >= state.voters.current_index
        if node_id != joining_id and (is_told or is_silent):
            del leader.peers[node_id]


def forget_late_changes(state: ReplicaState, leader: Leader) -> None:
    """Give up a hand-over or a joining voter whose time is over, and peers that were told of their removal."""
    after_commit(state, leader)
    if leader.transfer is not None and leader.transfer.deadline_ms <= state.now_ms:
        probe("raft.transfer.expired")
        leader.transfer = None
    joining = leader.joining
    if joining is not None and joining.deadline_ms <= state.now_ms:
        probe("raft.voters.joiner_gave_up")
        leader.joining = None
        leader.peers.pop(joining.voter.node_id, None)
        state.refuse(joining.causality_id, RefusalReason.NOT_CAUGHT_UP)


def pin_directories(state: ReplicaState, leader: Leader) -> tuple[Voter, ...] | None:
    """The voter set with the disks' ids learned so far, if that is news and no change is under way."""
    if not state.is_ready_leader or is_change_under_way(state, leader):
        return None
    learned = {**leader.learned_directories, state.node_id: state.config.directory_id}
    pinned = tuple(
        voter._replace(directory_id=learned[voter.node_id])
        if voter.node_id in learned and voter.directory_id != learned[voter.node_id]
        else voter
        for voter in state.voters.current
    )
    return pinned if pinned != state.voters.current else None


def start_transfer(state: ReplicaState, to: int | None, causality_id: int) -> None:
    """Begin to hand over; the target campaigns once it has the whole log."""
    leader = state.role
    if not isinstance(leader, Leader) or not state.is_ready_leader:
        state.refuse(causality_id, RefusalReason.NOT_LEADER)
        return
    if leader.transfer is not None:
        state.refuse(causality_id, RefusalReason.TRANSFERRING)
        return
    target_id = most_advanced_voter(state, leader) if to is None else to
    if target_id is None or state.voters.find(target_id) is None:
        state.refuse(causality_id, RefusalReason.UNKNOWN_VOTER)
        return
    if target_id != state.node_id:
        leader.transfer = Transfer(target_id=target_id, deadline_ms=state.now_ms + state.config.election_timeout_ms_max)
    state.emit(Accepted(causality_id=causality_id, index=state.log.last_index, term=state.term))
    tell_target(state, leader)


def tell_target(state: ReplicaState, leader: Leader) -> None:
    """Tell the target of a hand-over to campaign once it holds everything."""
    transfer = leader.transfer
    if transfer is None or transfer.is_told:
        return
    progress = leader.peers.get(transfer.target_id)
    if progress is not None and progress.match_index == state.log.last_index:
        probe("raft.transfer.target_told")
        transfer.is_told = True
        _send_timeout_now(state, progress.peer)


def most_advanced_voter(state: ReplicaState, leader: Leader) -> int | None:
    """The other voter that holds most of the log, among those heard from lately; None if there is none."""
    oldest_ms = state.now_ms - state.config.check_quorum_ms
    best: Progress | None = None
    for progress in leader.peers.values():
        if state.voters.find(progress.peer.node_id) is None or progress.last_contact_ms < oldest_ms:
            continue
        if best is None or progress.match_index > best.match_index:
            best = progress
    return None if best is None else best.peer.node_id


def _ready_for_change(state: ReplicaState, causality_id: int) -> Leader | None:
    leader = state.role
    if not isinstance(leader, Leader) or not state.is_ready_leader:
        state.refuse(causality_id, RefusalReason.NOT_LEADER)
        return None
    if leader.transfer is not None:
        state.refuse(causality_id, RefusalReason.TRANSFERRING)
        return None
    if is_change_under_way(state, leader):
        state.refuse(causality_id, RefusalReason.CHANGE_IN_PROGRESS)
        return None
    return leader


def _send_timeout_now(state: ReplicaState, voter: Voter) -> None:
    request = TimeoutNowRequest(term=state.term, leader_id=state.node_id, voter=voter.voter_id)
    state.send(voter.node_id, request)
