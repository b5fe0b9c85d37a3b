"""The inbound side of the quorum's calls: checks the cluster, translates, asks the driver; puts snapshots together.

Raises our own errors; the interceptors turn them into statuses. One snapshot is received at a time: a chunk of
another one, or out of place, is answered with the position that is wanted.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from logcluster.broker.raft_driver import RaftDriver
from logcluster.core.raft.messages import (
    AppendResponse,
    CensusResponse,
    Request,
    Snapshot,
    SnapshotRequest,
    SnapshotResponse,
    TimeoutNowResponse,
    VoteResponse,
    VoterId,
)
from logcluster.model.errors import InconsistentClusterId, MessageTooLarge
from logcluster.model.invariants import InvariantViolation
from logcluster.model.limits import MIB
from logcluster.wire.gen.logcluster.internal.v1 import raft_pb2, raft_pb2_grpc
from logcluster.wire.raft_messages import (
    append_request_from_pb,
    append_response_to_pb,
    census_request_from_pb,
    census_response_to_pb,
    directory_from_pb,
    timeout_now_request_from_pb,
    vote_request_from_pb,
    vote_response_to_pb,
    voters_from_pb,
)

SNAPSHOT_SIZE_BYTES_MAX: Final = 512 * MIB

Answer = TypeVar("Answer", VoteResponse, AppendResponse, SnapshotResponse, TimeoutNowResponse, CensusResponse)


@dataclass(slots=True, kw_only=True)
class _Incoming:
    """A snapshot that is being received."""

    key: tuple[int, int, int]
    chunks: list[bytes] = field(default_factory=list)
    size_bytes: int = 0


class RaftService(raft_pb2_grpc.RaftServiceServicer):
    """Servicer of `RaftService` on one node.

    Args:
        driver: who decides.
        cluster_id: requests of another cluster are refused.
    """

    def __init__(self, driver: RaftDriver, *, cluster_id: str) -> None:
        self._driver = driver
        self._cluster_id = cluster_id
        self._incoming: _Incoming | None = None

    async def Vote(self, request: raft_pb2.VoteRequest, context: Any) -> raft_pb2.VoteResponse:  # noqa: N802
        """Answer a candidate; raises InconsistentClusterId, InconsistentVoterSet, InvalidRequest."""
        self._check_cluster(request.cluster_id)
        response = await self._ask(vote_request_from_pb(request), VoteResponse)
        return vote_response_to_pb(response)

    async def AppendEntries(  # noqa: N802
        self, request: raft_pb2.AppendEntriesRequest, context: Any
    ) -> raft_pb2.AppendEntriesResponse:
        """Take entries of the leader; raises InconsistentClusterId, InconsistentVoterSet, InvalidRequest."""
        self._check_cluster(request.cluster_id)
        response = await self._ask(append_request_from_pb(request), AppendResponse)
        return append_response_to_pb(response, round_number=request.round)

    async def TimeoutNow(  # noqa: N802
        self, request: raft_pb2.TimeoutNowRequest, context: Any
    ) -> raft_pb2.TimeoutNowResponse:
        """Campaign at once; raises InconsistentClusterId, InconsistentVoterSet."""
        self._check_cluster(request.cluster_id)
        response = await self._ask(timeout_now_request_from_pb(request), TimeoutNowResponse)
        return raft_pb2.TimeoutNowResponse(term=response.term)

    async def Census(self, request: raft_pb2.CensusRequest, context: Any) -> raft_pb2.CensusResponse:  # noqa: N802
        """Show this disk and its voters; raises InconsistentClusterId, InconsistentVoterSet, InvalidRequest."""
        self._check_cluster(request.cluster_id)
        response = await self._ask(census_request_from_pb(request), CensusResponse)
        return census_response_to_pb(response)

    async def InstallSnapshot(  # noqa: N802
        self, request: raft_pb2.InstallSnapshotRequest, context: Any
    ) -> raft_pb2.InstallSnapshotResponse:
        """Take a chunk of a snapshot; the last one installs it.

        Raises:
            InconsistentClusterId, InconsistentVoterSet, InvalidRequest: as for the other calls.
            MessageTooLarge: the snapshot is beyond `SNAPSHOT_SIZE_BYTES_MAX`.
        """
        self._check_cluster(request.cluster_id)
        if request.term < self._driver.term:
            return raft_pb2.InstallSnapshotResponse(term=self._driver.term)
        incoming = self._collect(request)
        if incoming is None:
            size_bytes = self._incoming.size_bytes if self._incoming is not None else 0
            return raft_pb2.InstallSnapshotResponse(term=request.term, next_position=size_bytes)
        if not request.done:
            return raft_pb2.InstallSnapshotResponse(term=request.term, next_position=incoming.size_bytes)
        self._incoming = None
        response = await self._ask(_snapshot_request(request, b"".join(incoming.chunks)), SnapshotResponse)
        return raft_pb2.InstallSnapshotResponse(term=response.term, next_position=incoming.size_bytes)

    def _collect(self, request: raft_pb2.InstallSnapshotRequest) -> _Incoming | None:
        """Keep the chunk; None if it is not the next one of its snapshot."""
        key = (request.leader_id, request.term, request.last_included_index)
        if request.position == 0:
            self._incoming = _Incoming(key=key)
        incoming = self._incoming
        if incoming is None or incoming.key != key:
            self._incoming = None
            return None
        if incoming.size_bytes != request.position:
            return None
        if incoming.size_bytes + len(request.chunk) > SNAPSHOT_SIZE_BYTES_MAX:
            self._incoming = None
            raise MessageTooLarge("the snapshot is too large", size_bytes_max=SNAPSHOT_SIZE_BYTES_MAX)
        incoming.chunks.append(request.chunk)
        incoming.size_bytes += len(request.chunk)
        return incoming

    def _check_cluster(self, cluster_id: str) -> None:
        if cluster_id != self._cluster_id:
            raise InconsistentClusterId(own=self._cluster_id, theirs=cluster_id)

    async def _ask(self, request: Request, answer_type: type[Answer]) -> Answer:
        response = await self._driver.handle_request(request)
        if not isinstance(response, answer_type):
            raise InvariantViolation("a request is answered in kind", request=request, response=response)
        return response


def _snapshot_request(request: raft_pb2.InstallSnapshotRequest, payload: bytes) -> SnapshotRequest:
    snapshot = Snapshot(
        index=request.last_included_index,
        term=request.last_included_term,
        voters=voters_from_pb(request.voters),
        payload=payload,
    )
    return SnapshotRequest(
        term=request.term,
        leader_id=request.leader_id,
        voter=VoterId(request.voter_id, directory_from_pb(request.voter_directory_id)),
        snapshot=snapshot,
    )
