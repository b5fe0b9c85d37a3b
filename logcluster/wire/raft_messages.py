"""Protobuf <-> the quorum's messages. What comes in is checked here, so that a broken peer cannot break the core.

Each `..._to_pb` adds the cluster id; each `..._from_pb` raises `InvalidRequest` for what no correct peer sends.
An empty directory id on the wire stands for a voter whose disk is not known yet.
"""

from __future__ import annotations

from collections.abc import Iterable

from logcluster.core.raft.messages import (
    ANY_DIRECTORY,
    AppendRequest,
    AppendResponse,
    CensusRequest,
    CensusResponse,
    Entry,
    EntryKind,
    TimeoutNowRequest,
    Voter,
    VoteRequest,
    VoteResponse,
    VoterId,
)
from logcluster.model.errors import InvalidRequest
from logcluster.model.limits import VOTERS_MAX
from logcluster.wire.gen.logcluster.internal.v1 import raft_pb2


def directory_to_pb(directory_id: bytes) -> bytes:
    """Bytes of a directory id on the wire."""
    return b"" if directory_id == ANY_DIRECTORY else directory_id


def directory_from_pb(raw: bytes) -> bytes:
    """Read a directory id."""
    if not raw:
        return ANY_DIRECTORY
    if len(raw) != len(ANY_DIRECTORY):
        raise InvalidRequest("a directory id has 16 bytes", size_bytes=len(raw))
    return raw


def voters_to_pb(voters: Iterable[Voter]) -> raft_pb2.VoterSet:
    """A voter set on the wire."""
    return raft_pb2.VoterSet(
        voters=[
            raft_pb2.Voter(
                node_id=voter.node_id,
                directory_id=directory_to_pb(voter.directory_id),
                host=voter.host,
                port=voter.port,
            )
            for voter in voters
        ]
    )


def voters_from_pb(message: raft_pb2.VoterSet) -> tuple[Voter, ...]:
    """Read a voter set, in order of node id."""
    return tuple(
        sorted(
            Voter(voter.node_id, directory_from_pb(voter.directory_id), voter.host, voter.port)
            for voter in message.voters
        )
    )


def vote_request_to_pb(request: VoteRequest, *, cluster_id: str) -> raft_pb2.VoteRequest:
    """A vote request on the wire."""
    return raft_pb2.VoteRequest(
        cluster_id=cluster_id,
        term=request.term,
        candidate_id=request.candidate.node_id,
        candidate_directory_id=request.candidate.directory_id,
        last_log_index=request.last_log_index,
        last_log_term=request.last_log_term,
        pre_vote=request.pre_vote,
        leadership_transfer=request.leadership_transfer,
        voter_id=request.voter.node_id,
        voter_directory_id=directory_to_pb(request.voter.directory_id),
    )


def vote_request_from_pb(message: raft_pb2.VoteRequest) -> VoteRequest:
    """Read a vote request."""
    if message.term < 1 or message.last_log_index < 0 or message.last_log_term < 0:
        raise InvalidRequest("a vote request names a term and the end of a log", term=message.term)
    return VoteRequest(
        term=message.term,
        candidate=VoterId(message.candidate_id, directory_from_pb(message.candidate_directory_id)),
        voter=VoterId(message.voter_id, directory_from_pb(message.voter_directory_id)),
        last_log_index=message.last_log_index,
        last_log_term=message.last_log_term,
        pre_vote=message.pre_vote,
        leadership_transfer=message.leadership_transfer,
    )


def vote_response_to_pb(response: VoteResponse) -> raft_pb2.VoteResponse:
    """An answer to a vote request on the wire."""
    return raft_pb2.VoteResponse(
        term=response.term,
        granted=response.granted,
        pre_vote=response.pre_vote,
        voter_directory_id=response.voter_directory_id,
    )


def vote_response_from_pb(message: raft_pb2.VoteResponse) -> VoteResponse:
    """Read an answer to a vote request."""
    return VoteResponse(
        term=message.term,
        granted=message.granted,
        pre_vote=message.pre_vote,
        voter_directory_id=directory_from_pb(message.voter_directory_id),
    )


def append_request_to_pb(request: AppendRequest, *, cluster_id: str) -> raft_pb2.AppendEntriesRequest:
    """An append request on the wire."""
    return raft_pb2.AppendEntriesRequest(
        cluster_id=cluster_id,
        term=request.term,
        leader_id=request.leader_id,
        prev_log_index=request.prev_log_index,
        prev_log_term=request.prev_log_term,
        commit_index=request.commit_index,
        entries=[
            raft_pb2.LogEntry(
                index=entry.index,
                term=entry.term,
                kind=raft_pb2.EntryKind.ValueType(int(entry.kind)),
                payload=entry.payload,
            )
            for entry in request.entries
        ],
        voter_id=request.voter.node_id,
        voter_directory_id=directory_to_pb(request.voter.directory_id),
        round=request.round,
    )


def append_request_from_pb(message: raft_pb2.AppendEntriesRequest) -> AppendRequest:
    """Read an append request, whose entries follow one another up to its term."""
    if message.term < 1 or message.prev_log_index < 0 or message.commit_index < 0:
        raise InvalidRequest("an append request names a term and a place in the log", term=message.term)
    entries: list[Entry] = []
    index, term = message.prev_log_index, message.prev_log_term
    for raw in message.entries:
        index += 1
        if raw.index != index or not term <= raw.term <= message.term or raw.kind not in (1, 2, 3):
            raise InvalidRequest("entries do not follow one another", index=raw.index, term=raw.term)
        term = raw.term
        entries.append(Entry(index=index, term=term, kind=EntryKind(raw.kind), payload=raw.payload))
    return AppendRequest(
        term=message.term,
        leader_id=message.leader_id,
        voter=VoterId(message.voter_id, directory_from_pb(message.voter_directory_id)),
        prev_log_index=message.prev_log_index,
        prev_log_term=message.prev_log_term,
        commit_index=message.commit_index,
        entries=tuple(entries),
        round=message.round,
    )


def append_response_to_pb(response: AppendResponse, *, round_number: int) -> raft_pb2.AppendEntriesResponse:
    """An answer to an append request on the wire."""
    return raft_pb2.AppendEntriesResponse(
        term=response.term,
        success=response.success,
        match_index=response.match_index,
        conflict_term=response.conflict_term,
        conflict_index=response.conflict_index,
        round=round_number,
        voter_directory_id=response.voter_directory_id,
    )


def append_response_from_pb(message: raft_pb2.AppendEntriesResponse) -> AppendResponse:
    """Read an answer to an append request."""
    return AppendResponse(
        term=message.term,
        success=message.success,
        match_index=message.match_index,
        conflict_term=message.conflict_term,
        conflict_index=message.conflict_index,
        voter_directory_id=directory_from_pb(message.voter_directory_id),
    )


def timeout_now_request_to_pb(request: TimeoutNowRequest, *, cluster_id: str) -> raft_pb2.TimeoutNowRequest:
    """The order to campaign on the wire."""
    return raft_pb2.TimeoutNowRequest(
        cluster_id=cluster_id, term=request.term, leader_id=request.leader_id, voter_id=request.voter.node_id
    )


def timeout_now_request_from_pb(message: raft_pb2.TimeoutNowRequest) -> TimeoutNowRequest:
    """Read the order to campaign; it does not name a disk."""
    return TimeoutNowRequest(
        term=message.term, leader_id=message.leader_id, voter=VoterId(message.voter_id, ANY_DIRECTORY)
    )


def census_request_to_pb(request: CensusRequest, *, cluster_id: str) -> raft_pb2.CensusRequest:
    """A question of the census on the wire."""
    return raft_pb2.CensusRequest(
        cluster_id=cluster_id,
        boot_id=request.boot_id,
        asker_id=request.asker.node_id,
        asker_directory_id=request.asker.directory_id,
        voter_id=request.voter.node_id,
        voters=_voter_ids_to_pb(request.voters),
    )


def census_request_from_pb(message: raft_pb2.CensusRequest) -> CensusRequest:
    """Read a question of the census, whose asker knows its disk."""
    return CensusRequest(
        boot_id=message.boot_id,
        asker=_known_disk(message.asker_id, message.asker_directory_id),
        voter=VoterId(message.voter_id, ANY_DIRECTORY),
        voters=_voter_ids_from_pb(message.voters),
    )


def census_response_to_pb(response: CensusResponse) -> raft_pb2.CensusResponse:
    """An answer to the census on the wire."""
    return raft_pb2.CensusResponse(
        term=response.term,
        boot_id=response.boot_id,
        voter_id=response.voter.node_id,
        voter_directory_id=response.voter.directory_id,
        voters=_voter_ids_to_pb(response.voters),
    )


def census_response_from_pb(message: raft_pb2.CensusResponse) -> CensusResponse:
    """Read an answer to the census, which shows a disk."""
    if message.term < 0:
        raise InvalidRequest("an answer to the census names a term", term=message.term)
    return CensusResponse(
        term=message.term,
        boot_id=message.boot_id,
        voter=_known_disk(message.voter_id, message.voter_directory_id),
        voters=_voter_ids_from_pb(message.voters),
    )


def _known_disk(node_id: int, raw_directory_id: bytes) -> VoterId:
    voter_id = VoterId(node_id, directory_from_pb(raw_directory_id))
    if voter_id.directory_id == ANY_DIRECTORY:
        raise InvalidRequest("a node in the census shows its disk", node_id=node_id)
    return voter_id


def _voter_ids_to_pb(voters: Iterable[VoterId]) -> raft_pb2.VoterSet:
    return voters_to_pb(Voter(voter.node_id, voter.directory_id) for voter in voters)


def _voter_ids_from_pb(message: raft_pb2.VoterSet) -> tuple[VoterId, ...]:
    voters = voters_from_pb(message)
    if len(voters) > VOTERS_MAX or len({voter.node_id for voter in voters}) != len(voters):
        raise InvalidRequest("not a voter set", voters=len(voters))
    return tuple(voter.voter_id for voter in voters)
