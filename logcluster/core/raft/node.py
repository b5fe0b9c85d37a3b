"""`RaftNode`: the one door into the quorum's protocol, `step(input, now_ms) -> effects`.

What the driver owes it: `Started` first; effects carried out in the order contract of `effects`; `Persisted` for
every write, in order; for every request sent, one `ResponseReceived` or `RequestFailed` in the end; a `Tick` at
`next_deadline_ms`; `now_ms` from a clock that never goes back. After a write failed, no further step.
What it promises in return (Raft paper, figure 3): one leader per term; a leader never overwrites its log; logs
that share an entry share everything before it; what was committed is in every later leader's log; no two nodes
apply different entries at one index.
"""

from __future__ import annotations

import random
from typing import assert_never

from logcluster.core.raft import election, following, founding, leading, membership
from logcluster.core.raft.census import FoundingReport
from logcluster.core.raft.config import RaftConfig
from logcluster.core.raft.effects import Effect, RefusalReason, Refused
from logcluster.core.raft.inputs import (
    AddVoter,
    Input,
    PeerUnreachable,
    Persisted,
    Propose,
    RemoveVoter,
    RequestFailed,
    RequestReceived,
    ResponseReceived,
    SnapshotTaken,
    Started,
    Tick,
    TransferLeadership,
)
from logcluster.core.raft.messages import (
    ANY_DIRECTORY,
    AppendRequest,
    AppendResponse,
    CensusRequest,
    CensusResponse,
    PersistedState,
    SnapshotRequest,
    SnapshotResponse,
    TimeoutNowRequest,
    Voter,
    VoteRequest,
    VoteResponse,
)
from logcluster.core.raft.roles import JoiningVoter, Leader
from logcluster.core.raft.state import ReplicaState
from logcluster.model.invariants import invariant
from logcluster.model.probes import probe


class RaftNode:
    """One member of the quorum, as a pure state machine.

    Args:
        config: settings and identity.
        persisted: what the store holds.
        rng: source of election timeouts.
    """

    def __init__(self, config: RaftConfig, persisted: PersistedState, *, rng: random.Random) -> None:
        self._state = ReplicaState(config=config, persisted=persisted, rng=rng)

    @property
    def term(self) -> int:
        return self._state.term

    @property
    def leader_id(self) -> int | None:
        """The leader of the own term, if known."""
        return self._state.leader_id

    @property
    def is_leader(self) -> bool:
        """Whether this node leads and its state is complete, so that proposals are accepted."""
        return self._state.is_ready_leader

    @property
    def is_transferring(self) -> bool:
        """Whether leadership is being handed over: proposals are refused until that works or is given up."""
        role = self._state.role
        return isinstance(role, Leader) and role.transfer is not None

    @property
    def commit_index(self) -> int:
        return self._state.commit_index

    @property
    def applied_index(self) -> int:
        return self._state.applied_index

    @property
    def last_log_index(self) -> int:
        return self._state.log.last_index

    @property
    def log_base_index(self) -> int:
        """The entries above this index are in the log, those up to it only in the snapshot."""
        return self._state.log.base_index

    @property
    def snapshot_index(self) -> int:
        """Last index that the newest snapshot holds; 0 without one."""
        return self._state.snapshot.index if self._state.snapshot is not None else 0

    @property
    def voters(self) -> tuple[Voter, ...]:
        """The voter set in force, in order of node id."""
        return self._state.voters.current

    @property
    def founding(self) -> FoundingReport | None:
        """What keeps this voter from the first election of a new cluster; None once it took part in anything."""
        return self._state.census.report() if self._state.census is not None else None

    @property
    def strangers(self) -> tuple[int, ...]:
        """Voters that came back with another, empty disk and do not count with it, ascending."""
        return tuple(sorted(self._state.strangers))

    @property
    def role_name(self) -> str:
        return type(self._state.role).__name__

    def peer_match_indexes(self) -> dict[int, int]:
        """On a leader, how far each peer's durable log is known to match; empty elsewhere."""
        role = self._state.role
        if not isinstance(role, Leader):
            return {}
        return {node_id: progress.match_index for node_id, progress in role.peers.items()}

    def peer_silences_ms(self, now_ms: int) -> dict[int, int]:
        """On a leader, how long ago each peer's last answer arrived; empty elsewhere."""
        role = self._state.role
        if not isinstance(role, Leader):
            return {}
        return {node_id: max(0, now_ms - progress.last_contact_ms) for node_id, progress in role.peers.items()}

    def step(self, event: Input, now_ms: int) -> list[Effect]:
        """Take one input and return what is to be done, in order.

        Raises:
            InvariantViolation: a bug, here or in a peer; the node must stop.
        """
        state = self._state
        invariant(now_ms >= state.now_ms, "time does not go back", now_ms=now_ms, before_ms=state.now_ms)
        state.now_ms = now_ms
        former = state.role
        self._dispatch(event)
        if isinstance(former, Leader) and state.role is not former:
            _drop_joining(state, former.joining)
        return state.finish_step()

    def next_deadline_ms(self) -> int | None:
        """When to send the next `Tick`; None if there is nothing to wait for."""
        role = self._state.role
        if isinstance(role, Leader):
            return role.heartbeat_deadline_ms
        if self._state.census is not None:
            return self._state.census.deadline_ms()
        return role.election_deadline_ms

    def describe(self) -> str:
        """One line for transcripts and logs."""
        return self._state.describe()

    def check(self) -> None:
        """Check the invariants of the whole state.

        Raises:
            InvariantViolation: one does not hold.
        """
        self._state.check()

    def _dispatch(self, event: Input) -> None:
        state = self._state
        match event:
            case RequestReceived():
                self._on_request(event)
            case ResponseReceived():
                self._on_response(event)
            case RequestFailed():
                self._on_failure(event)
            case Persisted(write_id=write_id):
                state.durability.completed(write_id)
                election.count_own_vote(state)
                if isinstance(state.role, Leader):
                    leading.advance_commit(state, state.role)
            case Tick():
                if isinstance(state.role, Leader):
                    leading.on_leader_deadline(state, state.role)
                elif state.census is not None:
                    founding.on_deadline(state)
                else:
                    election.on_election_deadline(state)
            case PeerUnreachable(peer_id=peer_id):
                election.on_peer_unreachable(state, peer_id)
            case Started():
                election.arm(state)
                founding.begin(state)
            case Propose() | SnapshotTaken() | AddVoter() | RemoveVoter() | TransferLeadership():
                self._on_command(event)
            case _:
                assert_never(event)

    def _on_request(self, event: RequestReceived) -> None:
        state = self._state
        request = event.request
        if request.voter.node_id != state.node_id or request.voter.directory_id not in (
            ANY_DIRECTORY,
            state.config.directory_id,
        ):
            probe("raft.request.refused_other_disk")
            state.emit(
                Refused(
                    causality_id=event.causality_id,
                    reason=RefusalReason.WRONG_DIRECTORY,
                    leader_id=state.leader_id,
                )
            )
            return
        match request:
            case AppendRequest():
                following.on_append_request(state, request, event.causality_id)
            case VoteRequest():
                election.on_vote_request(state, request, event.causality_id)
            case SnapshotRequest():
                following.on_snapshot_request(state, request, event.causality_id)
            case TimeoutNowRequest():
                election.on_timeout_now(state, request, event.causality_id)
            case CensusRequest():
                founding.on_census_request(state, request, event.causality_id)
            case _:
                assert_never(request)

    def _on_response(self, event: ResponseReceived) -> None:
        state = self._state
        request, response = event.request, event.response
        if isinstance(request, VoteRequest) and isinstance(response, VoteResponse):
            election.on_vote_response(state, event.peer_id, request, response)
            return
        if isinstance(request, CensusRequest) or isinstance(response, CensusResponse):
            if isinstance(request, CensusRequest) and isinstance(response, CensusResponse):
                founding.on_census_response(state, event.peer_id, request, response)
            return
        if response.term > state.term:
            state.become_follower(term=response.term, leader_id=None)
            return
        leader = state.role
        if not isinstance(leader, Leader) or request.term != state.term:
            return
        if isinstance(request, AppendRequest) and isinstance(response, AppendResponse):
            leading.on_append_response(state, leader, event.peer_id, request, response)
        elif isinstance(request, SnapshotRequest) and isinstance(response, SnapshotResponse):
            leading.on_snapshot_response(state, leader, event.peer_id, response)

    def _on_failure(self, event: RequestFailed) -> None:
        state = self._state
        request = event.request
        if isinstance(request, VoteRequest):
            election.on_vote_failed(state, event.peer_id, request)
            return
        if isinstance(request, CensusRequest):
            founding.on_census_failed(state, event.peer_id)
            return
        leader = state.role
        if not isinstance(leader, Leader) or request.term != state.term:
            return
        match request:
            case AppendRequest():
                leading.on_append_failed(leader, event.peer_id, request)
            case SnapshotRequest():
                leading.on_snapshot_failed(leader, event.peer_id)
            case TimeoutNowRequest():
                leader.transfer = None
            case _:
                assert_never(request)

    def _on_command(self, event: Propose | SnapshotTaken | AddVoter | RemoveVoter | TransferLeadership) -> None:
        state = self._state
        match event:
            case Propose(payload=payload, causality_id=causality_id):
                leading.propose(state, payload, causality_id)
            case SnapshotTaken(index=index, payload=payload):
                state.compact(index=index, payload=payload)
            case AddVoter(voter=voter, causality_id=causality_id):
                progress = membership.start_adding(state, voter, causality_id)
                if progress is not None:
                    leading.send_appends(state, progress)
            case RemoveVoter(node_id=node_id, causality_id=causality_id):
                voters = membership.start_removing(state, node_id, causality_id)
                leader = state.role
                if voters is not None and isinstance(leader, Leader):
                    membership.change_voters(state, leader, voters, causality_id)
                    leading.replicate(state, leader)
                    leading.advance_commit(state, leader)
            case TransferLeadership(to=to, causality_id=causality_id):
                membership.start_transfer(state, to, causality_id)
            case _:
                assert_never(event)


def _drop_joining(state: ReplicaState, joining: JoiningVoter | None) -> None:
    """A voter that was catching up is forgotten with the leadership."""
    if joining is not None:
        state.refuse(joining.causality_id, RefusalReason.NOT_LEADER)
