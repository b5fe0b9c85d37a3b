"""The real `RaftPeer`: generated stubs over whatever carrier the stub was built on; cuts snapshots into chunks."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final, Protocol, TypeVar

import grpc

from logcluster.core.raft.messages import (
    AppendRequest,
    AppendResponse,
    CensusRequest,
    CensusResponse,
    SnapshotRequest,
    SnapshotResponse,
    TimeoutNowRequest,
    TimeoutNowResponse,
    VoteRequest,
    VoteResponse,
)
from logcluster.model.errors import Disconnected, LogClusterError
from logcluster.model.limits import MIB
from logcluster.wire.gen.logcluster.internal.v1 import raft_pb2
from logcluster.wire.raft_messages import (
    append_request_to_pb,
    append_response_from_pb,
    census_request_to_pb,
    census_response_from_pb,
    directory_to_pb,
    timeout_now_request_to_pb,
    vote_request_to_pb,
    vote_response_from_pb,
    voters_to_pb,
)

SNAPSHOT_CHUNK_SIZE_BYTES: Final = 1 * MIB
_SNAPSHOT_RESTARTS_MAX: Final = 3

Answer = TypeVar("Answer")


class RaftStub(Protocol):
    """What is used of the generated `RaftServiceStub`; each takes a request and `timeout` in seconds."""

    Vote: Callable[..., Any]
    AppendEntries: Callable[..., Any]
    InstallSnapshot: Callable[..., Any]
    TimeoutNow: Callable[..., Any]
    Census: Callable[..., Any]


def disconnected(error: grpc.RpcError) -> LogClusterError:
    """The default translation of a failed call: whether the request arrived is unknown."""
    return Disconnected(f"the call to a quorum peer failed: {error}")


class StubRaftPeer:
    """Calls one node through generated stubs.

    Args:
        stub: gives the stub for each call, so that the connection may be replaced.
        cluster_id: sent with every request and checked by the peer.
        translate: turns a carrier's error into ours.
    """

    def __init__(
        self,
        stub: Callable[[], RaftStub],
        *,
        cluster_id: str,
        translate: Callable[[grpc.RpcError], LogClusterError] = disconnected,
    ) -> None:
        self._stub = stub
        self._cluster_id = cluster_id
        self._translate = translate

    async def vote(self, request: VoteRequest, *, timeout_ms: int) -> VoteResponse:
        message = vote_request_to_pb(request, cluster_id=self._cluster_id)
        answer: raft_pb2.VoteResponse = await self._await(self._stub().Vote(message, timeout=timeout_ms / 1000))
        return vote_response_from_pb(answer)

    async def append_entries(self, request: AppendRequest, *, timeout_ms: int) -> AppendResponse:
        message = append_request_to_pb(request, cluster_id=self._cluster_id)
        answer: raft_pb2.AppendEntriesResponse = await self._await(
            self._stub().AppendEntries(message, timeout=timeout_ms / 1000)
        )
        return append_response_from_pb(answer)

    async def timeout_now(self, request: TimeoutNowRequest, *, timeout_ms: int) -> TimeoutNowResponse:
        message = timeout_now_request_to_pb(request, cluster_id=self._cluster_id)
        answer: raft_pb2.TimeoutNowResponse = await self._await(
            self._stub().TimeoutNow(message, timeout=timeout_ms / 1000)
        )
        return TimeoutNowResponse(term=answer.term)

    async def census(self, request: CensusRequest, *, timeout_ms: int) -> CensusResponse:
        message = census_request_to_pb(request, cluster_id=self._cluster_id)
        answer: raft_pb2.CensusResponse = await self._await(self._stub().Census(message, timeout=timeout_ms / 1000))
        return census_response_from_pb(answer)

    async def install_snapshot(self, request: SnapshotRequest, *, timeout_ms: int) -> SnapshotResponse:
        """Send the snapshot chunk by chunk, from where the peer wants it.

        Raises:
            Disconnected: the peer lost its place too often.
        """
        payload = request.snapshot.payload
        position = 0
        restarts = 0
        while True:
            chunk = payload[position : position + SNAPSHOT_CHUNK_SIZE_BYTES]
            end = position + len(chunk)
            message = self._snapshot_chunk(request, position=position, chunk=chunk, done=end == len(payload))
            answer: raft_pb2.InstallSnapshotResponse = await self._await(
                self._stub().InstallSnapshot(message, timeout=timeout_ms / 1000)
            )
            if answer.term > request.term:
                return SnapshotResponse(term=answer.term, match_index=0)
            if answer.next_position == end and message.done:
                return SnapshotResponse(term=answer.term, match_index=request.snapshot.index)
            if answer.next_position != end:
                restarts += 1
                if restarts > _SNAPSHOT_RESTARTS_MAX or not 0 <= answer.next_position <= len(payload):
                    raise Disconnected("the peer lost its place in a snapshot", position=position)
            position = answer.next_position

    def _snapshot_chunk(
        self, request: SnapshotRequest, *, position: int, chunk: bytes, done: bool
    ) -> raft_pb2.InstallSnapshotRequest:
        return raft_pb2.InstallSnapshotRequest(
            cluster_id=self._cluster_id,
            term=request.term,
            leader_id=request.leader_id,
            last_included_index=request.snapshot.index,
            last_included_term=request.snapshot.term,
            voters=voters_to_pb(request.snapshot.voters),
            position=position,
            chunk=chunk,
            done=done,
            voter_id=request.voter.node_id,
            voter_directory_id=directory_to_pb(request.voter.directory_id),
        )

    async def _await(self, call: Awaitable[Answer]) -> Answer:
        try:
            return await call
        except grpc.RpcError as error:
            raise self._translate(error) from error
