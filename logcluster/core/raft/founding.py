"""Founding: how the voters of a new cluster make sure that it is new (docs/adr/0008).

A voter whose store is empty cannot tell a new cluster from one whose disks were lost. So nobody campaigns or votes
before all bootstrap voters have shown their disks and every one of these disks has accepted exactly this set of
(node, disk) as the first voters. A disk accepts once, durably, before its node says so. Hence two sets that could
both elect share no disk: a second history needs every bootstrap voter to have lost its disk.

    empty      term 0, no voters: no vote, no campaign
    accepted   term 0, voters in a snapshot of index 0: votes for a member, who knows more; does not campaign
    founded    term 1 and up: as ever

Whoever finds that all have accepted, or hears from a leader, is founded. A question also tells what its sender has
accepted; a disk counts as empty only by an answer to a question of this process.
"""

from __future__ import annotations

from logcluster.core.raft.census import Census, Neighbour, Obstacle, first_voters
from logcluster.core.raft.effects import StrangerNoticed
from logcluster.core.raft.messages import ANY_DIRECTORY, CensusRequest, CensusResponse, VoterId
from logcluster.core.raft.roles import Follower
from logcluster.core.raft.state import ReplicaState
from logcluster.model.probes import probe

_BACK_OFF_DOUBLINGS_MAX = 6


def begin(state: ReplicaState) -> None:
    """Ask all others, or, in a quorum of one, be done."""
    census = state.census
    if census is None:
        return
    if census.neighbours:
        on_deadline(state)
        return
    _accept(state, census, (state.own_id,))
    _settle(state, census)


def on_deadline(state: ReplicaState) -> None:
    """Ask whoever is due."""
    census = state.census
    if census is None:
        return
    for node_id, neighbour in census.neighbours.items():
        if neighbour.asked_ms is None and neighbour.ask_at_ms <= state.now_ms:
            _ask(state, census, node_id, neighbour)


def on_census_request(state: ReplicaState, request: CensusRequest, causality_id: int) -> None:
    """Learn what the asker has accepted, and tell what this disk has."""
    census = state.census
    if census is None:
        _notice_stranger(state, request.asker)
    elif request.asker.node_id in census.neighbours:
        neighbour = census.neighbours[request.asker.node_id]
        if request.voters:
            _hear_voters(state, census, neighbour, request.voters)
        question = (request.boot_id, request.asker, request.voters)
        if neighbour.last_question != question:
            neighbour.last_question = question
            _ask_soon(state, neighbour)
        _settle(state, census)
        on_deadline(state)
    response = CensusResponse(term=state.term, boot_id=request.boot_id, voter=state.own_id, voters=_accepted(state))
    state.send_after_durable(request.asker.node_id, response, causality_id)


def on_census_response(state: ReplicaState, peer_id: int, request: CensusRequest, response: CensusResponse) -> None:
    """Count an answer to a question of this process."""
    census = state.census
    neighbour = census.neighbours.get(peer_id) if census is not None else None
    if census is None or neighbour is None:
        return
    neighbour.asked_ms = None
    if response.boot_id != census.boot_id or response.voter.node_id != peer_id:
        probe("raft.founding.foreign_answer_ignored")
        return
    neighbour.ask_at_ms = state.now_ms + state.config.election_timeout_ms_max
    neighbour.misses = 0
    neighbour.has_answered = True
    neighbour.empty_directory_id = neighbour.obstacle = None
    if response.term > 0:
        _hear_of_history(state, neighbour, response.voters)
    elif response.voters:
        _hear_voters(state, census, neighbour, response.voters)
    else:
        _hear_of_empty_disk(state, neighbour, request, response.voter)
    if state.census is not None:
        _settle(state, census)
        on_deadline(state)


def on_census_failed(state: ReplicaState, peer_id: int) -> None:
    """No answer: ask again soon, later and later."""
    neighbour = state.census.neighbours.get(peer_id) if state.census is not None else None
    if neighbour is None:
        return
    config = state.config
    delay_ms = state.rng.randint(config.hint_delay_ms_min, config.hint_delay_ms_max)
    delay_ms <<= min(neighbour.misses, _BACK_OFF_DOUBLINGS_MAX)
    neighbour.misses += 1
    neighbour.asked_ms = None
    neighbour.ask_at_ms = state.now_ms + min(delay_ms, config.election_timeout_ms_max)


def may_vote_for(state: ReplicaState, candidate: VoterId) -> bool:
    """Whether this node may answer a candidate at all: one without history only if it has accepted it as voter.

    Only who knows that all have accepted campaigns, so such a candidate's request says that they have.
    """
    if state.census is not None:
        return candidate in _accepted(state)
    return state.term > 0 or bool(state.voters.current)


def _accepted(state: ReplicaState) -> tuple[VoterId, ...]:
    return tuple(voter.voter_id for voter in state.voters.current)


def _ask(state: ReplicaState, census: Census, node_id: int, neighbour: Neighbour) -> None:
    neighbour.asked_ms = state.now_ms
    request = CensusRequest(
        boot_id=census.boot_id,
        asker=state.own_id,
        voter=VoterId(node_id, ANY_DIRECTORY),
        voters=_accepted(state),
    )
    state.send_after_durable(node_id, request)


def _ask_soon(state: ReplicaState, neighbour: Neighbour) -> None:
    """Ask at once who shows that it is there; a question under way for long may have gone to where nobody listens."""
    neighbour.misses = 0
    neighbour.ask_at_ms = state.now_ms
    if neighbour.asked_ms is not None and state.now_ms - neighbour.asked_ms > state.config.hint_delay_ms_max:
        neighbour.asked_ms = None


def _hear_of_history(state: ReplicaState, neighbour: Neighbour, voters: tuple[VoterId, ...]) -> None:
    """Another voter took part in something: in what this disk has accepted, or in what it knows nothing of."""
    if state.own_id not in voters:
        neighbour.obstacle = Obstacle.NOT_A_VOTER
    elif state.voters.current:
        _found(state)
    else:
        neighbour.obstacle = Obstacle.LOST_STORE


def _hear_voters(state: ReplicaState, census: Census, neighbour: Neighbour, voters: tuple[VoterId, ...]) -> None:
    """Another disk has accepted first voters: so does this one if it can, and it can once."""
    if not state.voters.current and state.own_id in voters:
        _accept(state, census, voters)
    if _accepted(state) == voters:
        neighbour.has_accepted = True
        neighbour.obstacle = None
    else:
        neighbour.obstacle = Obstacle.OTHER_VOTERS


def _hear_of_empty_disk(state: ReplicaState, neighbour: Neighbour, request: CensusRequest, voter: VoterId) -> None:
    accepted = _accepted(state)
    neighbour.empty_directory_id = voter.directory_id
    if not accepted:
        return
    if voter not in accepted:
        neighbour.obstacle = Obstacle.OTHER_DISK
    elif request.voters == accepted:
        neighbour.obstacle = Obstacle.NOT_ACCEPTED
    else:
        neighbour.ask_at_ms = state.now_ms  # It was asked before this node had accepted them.


def _accept(state: ReplicaState, census: Census, voters: tuple[VoterId, ...]) -> None:
    """Accept these first voters for good, if they are the configured ones, and propose them to all others."""
    founders = first_voters(state.config, voters)
    if founders is None:
        probe("raft.founding.other_voters_refused")
        return
    probe("raft.founding.accepted")
    state.accept_voters(founders)
    for neighbour in census.neighbours.values():
        neighbour.ask_at_ms = state.now_ms


def _settle(state: ReplicaState, census: Census) -> None:
    """Accept once all disks are known to be empty; be founded once all have accepted."""
    neighbours = census.neighbours
    if not state.voters.current:
        disks = [
            VoterId(node_id, neighbour.empty_directory_id)
            for node_id, neighbour in neighbours.items()
            if neighbour.empty_directory_id is not None
        ]
        if len(disks) == len(neighbours):
            _accept(state, census, tuple(sorted((state.own_id, *disks))))
    if state.voters.current and all(neighbour.has_accepted for neighbour in neighbours.values()):
        _found(state)


def _found(state: ReplicaState) -> None:
    """Leave term 0, durably, and soon ask for votes: all voters are there."""
    probe("raft.founding.founded")
    state.set_hard_state(term=1, voted_for=None)
    config = state.config
    wait_ms = state.rng.randint(config.hint_delay_ms_min, config.hint_delay_ms_max)
    is_alone = len(state.voters.current) == 1
    state.become(Follower(leader_id=None, election_deadline_ms=state.now_ms + (0 if is_alone else wait_ms)))


def _notice_stranger(state: ReplicaState, asker: VoterId) -> None:
    """A voter came back with another disk; tell once per disk."""
    voter = state.voters.find(asker.node_id)
    is_strange = voter is not None and not voter.accepts_directory(asker.directory_id)
    if is_strange and state.strangers.get(asker.node_id) != asker.directory_id:
        probe("raft.founding.voter_with_new_disk")
        state.strangers[asker.node_id] = asker.directory_id
        state.emit(StrangerNoticed(node_id=asker.node_id))
