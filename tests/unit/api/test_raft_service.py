"""The quorum's calls from our messages through protobuf to a servicer and back."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from logcluster.api.raft_service import RaftService
from logcluster.broker import raft_peer
from logcluster.broker.raft_driver import RaftDriver
from logcluster.broker.raft_peer import StubRaftPeer
from logcluster.core.raft.messages import (
    ANY_DIRECTORY,
    AppendRequest,
    AppendResponse,
    CensusRequest,
    CensusResponse,
    Entry,
    EntryKind,
    Snapshot,
    SnapshotRequest,
    SnapshotResponse,
    TimeoutNowRequest,
    TimeoutNowResponse,
    Voter,
    VoteRequest,
    VoteResponse,
    VoterId,
)
from logcluster.model.errors import Disconnected, InconsistentClusterId, InvalidRequest
from logcluster.wire.gen.logcluster.internal.v1 import raft_pb2
from logcluster.wire.raft_messages import (
    append_request_from_pb,
    append_request_to_pb,
    census_request_from_pb,
    census_response_from_pb,
    directory_from_pb,
)

DISK = bytes(range(16))
VOTER = VoterId(2, DISK)


class Decider:
    """Stands for the driver: keeps the last request, gives the prepared answer."""

    def __init__(self) -> None:
        self.term = 5
        self.requests: list[Any] = []
        self.answer: Any = None

    async def handle_request(self, request: Any) -> Any:
        self.requests.append(request)
        return self.answer


class World:
    """A peer, a stub that hands protobuf bytes over, and a servicer."""

    def __init__(self, *, cluster_id: str = "c") -> None:
        self.decider = Decider()
        self.service = RaftService(cast(RaftDriver, self.decider), cluster_id="c")
        self.forget_after: int | None = None
        stub = SimpleNamespace(
            **{name: self.carry(name) for name in ("Vote", "AppendEntries", "InstallSnapshot", "TimeoutNow", "Census")}
        )
        self.peer = StubRaftPeer(lambda: stub, cluster_id=cluster_id)

    def carry(self, name: str) -> Any:
        async def call(message: Any, *, timeout: float) -> Any:
            assert timeout > 0
            if self.forget_after is not None:
                self.forget_after -= 1
                if self.forget_after < 0:
                    self.forget_after = None
                    self.service = RaftService(cast(RaftDriver, self.decider), cluster_id="c")
            received = type(message).FromString(message.SerializeToString())
            answer = await getattr(self.service, name)(received, None)
            return type(answer).FromString(answer.SerializeToString())

        return call


def append_request(*entries: Entry) -> AppendRequest:
    return AppendRequest(
        term=5,
        leader_id=1,
        voter=VOTER,
        prev_log_index=7,
        prev_log_term=4,
        commit_index=6,
        entries=entries,
        round=3,
    )


def entry(index: int, term: int, kind: EntryKind = EntryKind.DATA) -> Entry:
    return Entry(index=index, term=term, kind=kind, payload=b"payload")


async def test_votes_travel_unchanged() -> None:
    world = World()
    request = VoteRequest(
        term=6,
        candidate=VoterId(1, DISK),
        voter=VoterId(2, ANY_DIRECTORY),
        last_log_index=9,
        last_log_term=5,
        pre_vote=True,
        leadership_transfer=True,
    )
    world.decider.answer = VoteResponse(term=5, granted=True, pre_vote=True, voter_directory_id=DISK)
    assert await world.peer.vote(request, timeout_ms=100) == world.decider.answer
    assert world.decider.requests == [request]


async def test_entries_of_every_kind_travel_unchanged() -> None:
    world = World()
    request = append_request(entry(8, 4), entry(9, 5, EntryKind.NOOP), entry(10, 5, EntryKind.VOTERS))
    world.decider.answer = AppendResponse(
        term=5, success=False, match_index=0, conflict_term=3, conflict_index=4, voter_directory_id=DISK
    )
    assert await world.peer.append_entries(request, timeout_ms=100) == world.decider.answer
    assert world.decider.requests == [request]


async def test_timeout_now_travels_without_a_disk() -> None:
    world = World()
    world.decider.answer = TimeoutNowResponse(term=5)
    request = TimeoutNowRequest(term=5, leader_id=1, voter=VOTER)
    assert await world.peer.timeout_now(request, timeout_ms=100) == world.decider.answer
    assert world.decider.requests == [TimeoutNowRequest(term=5, leader_id=1, voter=VoterId(2, ANY_DIRECTORY))]


CENSUS = CensusRequest(boot_id=2**63 - 1, asker=VoterId(1, DISK), voter=VoterId(2, ANY_DIRECTORY), voters=())


@pytest.mark.parametrize("voters", [(), (VoterId(1, DISK), VOTER)])
async def test_the_census_travels_unchanged(voters: tuple[VoterId, ...]) -> None:
    world = World()
    world.decider.answer = CensusResponse(term=0, boot_id=CENSUS.boot_id, voter=VOTER, voters=voters)
    request = replace(CENSUS, voters=voters)
    assert await world.peer.census(request, timeout_ms=100) == world.decider.answer
    assert world.decider.requests == [request]


@pytest.mark.parametrize(
    "message",
    [
        raft_pb2.CensusRequest(boot_id=1, asker_id=1, voter_id=2),
        raft_pb2.CensusRequest(boot_id=1, asker_id=1, asker_directory_id=b"short", voter_id=2),
        raft_pb2.CensusRequest(
            boot_id=1,
            asker_id=1,
            asker_directory_id=DISK,
            voters=raft_pb2.VoterSet(voters=[raft_pb2.Voter(node_id=1, directory_id=DISK)] * 2),
        ),
        raft_pb2.CensusRequest(
            boot_id=1,
            asker_id=1,
            asker_directory_id=DISK,
            voters=raft_pb2.VoterSet(voters=[raft_pb2.Voter(node_id=n, directory_id=DISK) for n in range(1_000)]),
        ),
    ],
)
def test_a_census_without_a_disk_or_with_no_voter_set_is_refused(message: raft_pb2.CensusRequest) -> None:
    with pytest.raises(InvalidRequest):
        census_request_from_pb(message)


@pytest.mark.parametrize(
    "message",
    [
        raft_pb2.CensusResponse(term=0, boot_id=1, voter_id=2),
        raft_pb2.CensusResponse(term=-1, boot_id=1, voter_id=2, voter_directory_id=DISK),
    ],
)
def test_an_answer_to_the_census_shows_a_disk_and_a_term(message: raft_pb2.CensusResponse) -> None:
    with pytest.raises(InvalidRequest):
        census_response_from_pb(message)


def snapshot_request(size_bytes: int, term: int = 5) -> SnapshotRequest:
    voters = (Voter(1, DISK, "one", 1), Voter(2))
    snapshot = Snapshot(index=9, term=4, voters=voters, payload=bytes(number % 251 for number in range(size_bytes)))
    return SnapshotRequest(term=term, leader_id=1, voter=VOTER, snapshot=snapshot)


@pytest.mark.parametrize("size_bytes", [0, 1, 10, 11, 35])
async def test_snapshot_is_cut_and_put_together(size_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(raft_peer, "SNAPSHOT_CHUNK_SIZE_BYTES", 10)
    world = World()
    world.decider.answer = SnapshotResponse(term=5, match_index=9)
    request = snapshot_request(size_bytes)
    assert await world.peer.install_snapshot(request, timeout_ms=100) == SnapshotResponse(term=5, match_index=9)
    assert world.decider.requests == [request]


async def test_snapshot_starts_over_when_the_receiver_lost_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(raft_peer, "SNAPSHOT_CHUNK_SIZE_BYTES", 10)
    world = World()
    world.forget_after = 2
    world.decider.answer = SnapshotResponse(term=5, match_index=9)
    request = snapshot_request(35)
    assert (await world.peer.install_snapshot(request, timeout_ms=100)).match_index == 9
    assert world.decider.requests == [request]


async def test_snapshot_of_an_old_term_is_not_collected() -> None:
    world = World()
    request = snapshot_request(10, term=4)
    assert await world.peer.install_snapshot(request, timeout_ms=100) == SnapshotResponse(term=5, match_index=0)
    assert world.decider.requests == []


async def test_receiver_that_always_forgets_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(raft_peer, "SNAPSHOT_CHUNK_SIZE_BYTES", 10)
    world = World()
    monkeypatch.setattr(world.service, "_collect", lambda request: None)
    with pytest.raises(Disconnected):
        await world.peer.install_snapshot(snapshot_request(35), timeout_ms=100)


async def test_another_cluster_is_refused_on_every_call() -> None:
    world = World(cluster_id="other")
    vote = VoteRequest(term=6, candidate=VOTER, voter=VOTER, last_log_index=9, last_log_term=5, pre_vote=False)
    for call in (
        world.peer.vote(vote, timeout_ms=1),
        world.peer.append_entries(append_request(), timeout_ms=1),
        world.peer.install_snapshot(snapshot_request(1), timeout_ms=1),
        world.peer.timeout_now(TimeoutNowRequest(term=5, leader_id=1, voter=VOTER), timeout_ms=1),
        world.peer.census(CENSUS, timeout_ms=1),
    ):
        with pytest.raises(InconsistentClusterId):
            await call
    assert world.decider.requests == []


@pytest.mark.parametrize(
    "entries",
    [(entry(9, 5),), (entry(8, 5), entry(8, 5)), (entry(8, 6),), (entry(8, 3),), (entry(8, 5), entry(9, 4))],
)
def test_entries_that_do_not_follow_one_another_are_refused(entries: tuple[Entry, ...]) -> None:
    message = append_request_to_pb(append_request(*entries), cluster_id="c")
    with pytest.raises(InvalidRequest):
        append_request_from_pb(message)


def test_directory_ids_have_sixteen_bytes() -> None:
    assert directory_from_pb(b"") == ANY_DIRECTORY
    with pytest.raises(InvalidRequest):
        directory_from_pb(b"short")
