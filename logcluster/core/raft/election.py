"""Elections: who may campaign, who gets a vote, and what a lost round costs (Raft paper §5.2, §5.4.1).

Pre-votes (dissertation §9.6) keep a node that was cut off from toppling a healthy leader with an inflated term:
asking changes no term and no vote, and whoever heard the leader within `stickiness_ms` refuses. A broken
connection only shortens the wait before asking and lifts the asker's own loyalty, so a live leader whose other
followers still hear it stays. A vote leaves after term and vote are on disk, a candidate's own vote counts then.
"""

from __future__ import annotations

from logcluster.core.raft.founding import may_vote_for
from logcluster.core.raft.leading import become_leader
from logcluster.core.raft.messages import TimeoutNowRequest, TimeoutNowResponse, VoteRequest, VoteResponse
from logcluster.core.raft.quorum import majority
from logcluster.core.raft.roles import Ballot, Candidate, Follower, Leader, PreCandidate, Resigned
from logcluster.core.raft.state import ReplicaState
from logcluster.model.probes import probe

_BACK_OFF_DOUBLINGS_MAX = 6


def on_election_deadline(state: ReplicaState) -> None:
    """The wait for a leader, or for a round of votes, is over."""
    role = state.role
    if isinstance(role, Leader) or role.election_deadline_ms is None or state.now_ms < role.election_deadline_ms:
        return
    if not state.may_campaign:
        state.become_follower(term=state.term, leader_id=None)
        return
    start_pre_vote(state)


def on_peer_unreachable(state: ReplicaState, peer_id: int) -> None:
    """A connection broke: a follower of that peer soon asks for pre-votes unless it hears from it again."""
    role = state.role
    if not isinstance(role, Follower) or role.leader_id != peer_id or role.election_deadline_ms is None:
        return
    config = state.config
    probe("raft.election.hint_shortened_wait")
    state.is_leader_suspected = True
    hint_ms = state.rng.randint(config.hint_delay_ms_min, config.hint_delay_ms_max)
    role.election_deadline_ms = min(role.election_deadline_ms, state.now_ms + hint_ms)


def start_pre_vote(state: ReplicaState) -> None:
    """Ask the voters whether they would vote for this node in the next term."""
    state.become(
        PreCandidate(election_deadline_ms=_round_deadline_ms(state), ballot=Ballot(answers={state.node_id: True}))
    )
    _ask(state, term=state.term + 1, pre_vote=True, leadership_transfer=False)
    _settle(state)


def start_election(state: ReplicaState, *, leadership_transfer: bool) -> None:
    """Campaign in the next term, voting for itself."""
    state.set_hard_state(term=state.term + 1, voted_for=state.own_id)
    _campaign(state, leadership_transfer=leadership_transfer)


def _campaign(state: ReplicaState, *, leadership_transfer: bool) -> None:
    state.become(
        Candidate(election_deadline_ms=_round_deadline_ms(state), ballot=Ballot(), vote_write_id=state.barrier() or 0)
    )
    _ask(state, term=state.term, pre_vote=False, leadership_transfer=leadership_transfer)
    count_own_vote(state)


def count_own_vote(state: ReplicaState) -> None:
    """Count a candidate's vote for itself once it is on disk."""
    role = state.role
    if isinstance(role, Candidate) and state.durability.durable_write_id >= role.vote_write_id:
        role.ballot.answers[state.node_id] = True
        _settle(state)


def on_vote_request(state: ReplicaState, request: VoteRequest, causality_id: int) -> None:
    """Answer a candidate; a granted vote is on disk before the answer leaves."""
    if request.candidate.node_id == state.leader_id:
        on_peer_unreachable(state, request.candidate.node_id)  # who campaigns leads no more: it restarted, say
    if _is_known_disk(state, request):
        state.strangers.pop(request.candidate.node_id, None)
    granted = False
    if not may_vote_for(state, request.candidate):
        probe("raft.vote.refused_without_history")
    elif request.pre_vote:
        granted = _would_vote(state, request)
    else:
        granted = _vote(state, request)
    response = VoteResponse(
        term=state.term,
        granted=granted,
        pre_vote=request.pre_vote,
        voter_directory_id=state.config.directory_id,
    )
    if request.pre_vote:
        state.send(request.candidate.node_id, response, causality_id)
    else:
        state.send_after_durable(request.candidate.node_id, response, causality_id)


def on_vote_response(state: ReplicaState, peer_id: int, request: VoteRequest, response: VoteResponse) -> None:
    """Count an answer of the running round; an older round's answer is ignored."""
    if response.term > state.term and not (response.pre_vote and response.granted):
        _step_up(state, response.term)
        return
    voter = state.voters.find(peer_id)
    is_its_disk = voter is not None and voter.accepts_directory(response.voter_directory_id)
    _count(state, peer_id, request, granted=response.granted and is_its_disk)


def on_vote_failed(state: ReplicaState, peer_id: int, request: VoteRequest) -> None:
    """No answer counts as a refusal, so that a hopeless round ends early."""
    _count(state, peer_id, request, granted=False)


def on_timeout_now(state: ReplicaState, request: TimeoutNowRequest, causality_id: int) -> None:
    """Campaign at once if the leader of the own term asks for it; without pre-vote, since the leader agrees."""
    state.send(request.leader_id, TimeoutNowResponse(term=state.term), causality_id)
    if request.term == state.term and state.is_voter and state.census is None and not isinstance(state.role, Leader):
        probe("raft.election.by_transfer")
        start_election(state, leadership_transfer=True)


def _ask(state: ReplicaState, *, term: int, pre_vote: bool, leadership_transfer: bool) -> None:
    for voter in state.voters.current:
        if voter.node_id == state.node_id:
            continue
        request = VoteRequest(
            term=term,
            candidate=state.own_id,
            voter=voter.voter_id,
            last_log_index=state.log.last_index,
            last_log_term=state.log.last_term,
            pre_vote=pre_vote,
            leadership_transfer=leadership_transfer,
        )
        if pre_vote:
            state.send(voter.node_id, request)
        else:
            state.send_after_durable(voter.node_id, request)


def _has_fresh_log(state: ReplicaState, request: VoteRequest) -> bool:
    if "log-freshness" in state.config.ablations:
        return True
    return state.log.is_covered_by(last_index=request.last_log_index, last_term=request.last_log_term)


def _is_known_disk(state: ReplicaState, request: VoteRequest) -> bool:
    voter = state.voters.find(request.candidate.node_id)
    if voter is not None and not voter.accepts_directory(request.candidate.directory_id):
        probe("raft.vote.refused_other_disk")
    return voter is None or voter.accepts_directory(request.candidate.directory_id)


def _would_vote(state: ReplicaState, request: VoteRequest) -> bool:
    if isinstance(state.role, Leader) or request.term <= state.term or not _is_known_disk(state, request):
        return False
    contact_ms = state.last_leader_contact_ms
    hears_leader = contact_ms is not None and state.now_ms - contact_ms < state.config.stickiness_ms
    if hears_leader and not state.is_leader_suspected:
        probe("raft.pre_vote.refused_hears_leader")
        return False
    if not _has_fresh_log(state, request):
        probe("raft.pre_vote.refused_stale_log")
    return _has_fresh_log(state, request)


def _vote(state: ReplicaState, request: VoteRequest) -> bool:
    if request.term > state.term:
        deadline_ms = None if isinstance(state.role, Leader) else state.role.election_deadline_ms
        state.become_follower(term=request.term, leader_id=None)
        if deadline_ms is not None and isinstance(state.role, Follower):
            state.role.election_deadline_ms = deadline_ms
    voted_for = state.hard_state.voted_for
    granted = (
        request.term == state.term
        and state.leader_id is None
        and voted_for in (None, request.candidate)
        and _is_known_disk(state, request)
        and _has_fresh_log(state, request)
    )
    if not granted and not _has_fresh_log(state, request):
        probe("raft.vote.refused_stale_log")
    if not granted and voted_for not in (None, request.candidate):
        probe("raft.vote.refused_voted_otherwise")
    if granted:
        if voted_for is None:
            state.set_hard_state(term=state.term, voted_for=request.candidate)
        state.become_follower(term=state.term, leader_id=None)
    return granted


def _count(state: ReplicaState, peer_id: int, request: VoteRequest, *, granted: bool) -> None:
    match state.role:
        case PreCandidate(ballot=ballot) if request.pre_vote and request.term == state.term + 1:
            ballot.answers[peer_id] = granted
            _settle(state)
        case Candidate(ballot=ballot) if not request.pre_vote and request.term == state.term:
            ballot.answers[peer_id] = granted
            _settle(state)
        case _:
            pass


def _settle(state: ReplicaState) -> None:
    """Win or lose the round if the answers so far decide it."""
    role = state.role
    if not isinstance(role, PreCandidate | Candidate):
        return
    voters = state.voters.current
    needed = majority(len(voters))
    granted = role.ballot.granted_count(voters)
    if granted >= needed:
        if isinstance(role, PreCandidate):
            start_election(state, leadership_transfer=False)
        else:
            become_leader(state)
    elif granted + role.ballot.open_count(voters) < needed and not role.is_lost:
        probe("raft.election.round_lost")
        role.is_lost = True
        role.election_deadline_ms = min(role.election_deadline_ms, _back_off_deadline_ms(state))


def _step_up(state: ReplicaState, term: int) -> None:
    """Enter a later term that an answer told of; one that was campaigning tries again soon."""
    was_campaigning = isinstance(state.role, PreCandidate | Candidate)
    if was_campaigning:
        probe("raft.election.overtaken_by_term")
    state.become_follower(term=term, leader_id=None)
    if was_campaigning and isinstance(state.role, Follower) and state.role.election_deadline_ms is not None:
        state.role.election_deadline_ms = _back_off_deadline_ms(state)


def _round_deadline_ms(state: ReplicaState) -> int:
    config = state.config
    return state.now_ms + state.rng.randint(config.election_timeout_ms_min, config.election_timeout_ms_max)


def _back_off_deadline_ms(state: ReplicaState) -> int:
    """Short and random after a lost round, so that a split vote is resolved soon; doubling, so that it ends."""
    config = state.config
    delay_ms = state.rng.randint(config.hint_delay_ms_min, config.hint_delay_ms_max)
    delay_ms <<= min(state.lost_rounds, _BACK_OFF_DOUBLINGS_MAX)
    state.lost_rounds += 1
    return state.now_ms + min(delay_ms, config.election_timeout_ms_max)


def arm(state: ReplicaState) -> None:
    """Set the first election deadline after a start: sooner than usual, since a live leader soon shows itself."""
    role = state.role
    if not isinstance(role, Follower | Resigned):
        return
    if isinstance(role, Resigned):
        probe("raft.start.resigned")
    if isinstance(role, Resigned) and "resigned-restart" in state.config.ablations:
        _campaign(state, leadership_transfer=False)
        return
    deadline_ms = state.election_deadline_ms()
    if deadline_ms is not None:
        config = state.config
        early_ms = state.rng.randint(config.stickiness_ms, config.election_timeout_ms_min)
        deadline_ms = min(deadline_ms, state.now_ms + early_ms)
    role.election_deadline_ms = deadline_ms
