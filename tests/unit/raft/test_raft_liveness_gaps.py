"""Two stalls of the quorum that seeds of the core simulator found, reduced to a handful of steps each."""

from __future__ import annotations

import random
from collections.abc import Iterable

from logcluster.core.raft.config import RaftConfig
from logcluster.core.raft.effects import Effect, LeadershipChanged, Persist, Send, SendAfterDurable
from logcluster.core.raft.inputs import Persisted, Propose, RequestReceived, ResponseReceived, Started, Tick
from logcluster.core.raft.messages import (
    AppendRequest,
    AppendResponse,
    Entry,
    EntryKind,
    HardState,
    PersistedState,
    TimeoutNowRequest,
    Voter,
    VoteRequest,
    VoteResponse,
    VoterId,
)
from logcluster.core.raft.node import RaftNode
from logcluster.core.raft.quorum import encode_voters

VOTERS = tuple(Voter(node_id, bytes([node_id]) * 16) for node_id in (1, 2, 3))


def sent(effects: Iterable[Effect], kind: type, to: int) -> list:
    return [
        effect.message
        for effect in effects
        if isinstance(effect, Send | SendAfterDurable) and effect.to == to and isinstance(effect.message, kind)
    ]


class Bench:
    """One node whose disk is instant and whose clock is moved by hand."""

    def __init__(self, node_id: int, persisted: PersistedState, voters: tuple[Voter, ...]) -> None:
        config = RaftConfig(node_id=node_id, directory_id=VOTERS[node_id - 1].directory_id, bootstrap_voters=voters)
        self.node = RaftNode(config, persisted, rng=random.Random(1))
        self.now_ms = 0
        self.step(Started())

    def step(self, event) -> list[Effect]:
        effects = self.node.step(event, self.now_ms)
        for effect in [*effects]:
            if isinstance(effect, Persist):
                effects += self.node.step(Persisted(write_id=effect.write_id), self.now_ms)
        return effects

    def tick(self) -> list[Effect]:
        deadline_ms = self.node.next_deadline_ms()
        assert deadline_ms is not None, f"waits for nothing: {self.node.describe()}"
        self.now_ms = deadline_ms
        return self.step(Tick())

    def grant(self, peer_id: int, request: VoteRequest) -> list[Effect]:
        response = VoteResponse(
            term=request.term,
            granted=True,
            pre_vote=request.pre_vote,
            voter_directory_id=VOTERS[peer_id - 1].directory_id,
        )
        return self.step(ResponseReceived(peer_id=peer_id, request=request, response=response))

    def win(self, peer_id: int) -> list[Effect]:
        """Campaign, with the votes of one peer."""
        (pre_vote,) = sent(self.tick(), VoteRequest, peer_id)
        (vote,) = sent(self.grant(peer_id, pre_vote), VoteRequest, peer_id)
        effects = self.grant(peer_id, vote)
        assert self.node.role_name == "Leader"
        return effects

    def answer(self, peer_id: int, request: AppendRequest, **outcome: object) -> list[Effect]:
        response = AppendResponse(term=request.term, voter_directory_id=VOTERS[peer_id - 1].directory_id, **outcome)
        return self.step(ResponseReceived(peer_id=peer_id, request=request, response=response))


def test_an_append_that_overtook_the_one_before_it_is_sent_again() -> None:
    """Seed 1403: the refusal came after the append before was acknowledged, and the entry was never sent again."""
    bench = Bench(1, PersistedState(), VOTERS)
    (noop,) = sent(bench.win(2), AppendRequest, 2)
    bench.answer(2, noop, success=True, match_index=1)
    (first,) = sent(bench.step(Propose(payload=b"a", causality_id=1)), AppendRequest, 2)
    (second,) = sent(bench.step(Propose(payload=b"b", causality_id=2)), AppendRequest, 2)
    assert (first.entries[0].index, second.entries[0].index) == (2, 3)
    bench.answer(2, first, success=True, match_index=2)
    again = sent(bench.answer(2, second, success=False, conflict_index=2), AppendRequest, 2)
    assert [entry.index for request in again for entry in request.entries] == [3]
    bench.answer(2, again[0], success=True, match_index=3)
    assert bench.node.commit_index == 3


def test_a_refused_heartbeat_whose_place_is_matched_already_sends_nothing() -> None:
    bench = Bench(1, PersistedState(), VOTERS)
    (noop,) = sent(bench.win(2), AppendRequest, 2)
    bench.answer(2, noop, success=True, match_index=1)
    (first,) = sent(bench.step(Propose(payload=b"a", causality_id=1)), AppendRequest, 2)
    bench.answer(2, first, success=True, match_index=2)
    assert not sent(bench.answer(2, first, success=False, conflict_index=1), AppendRequest, 2)


def leaving_leader() -> Bench:
    """Node 2 led, appended its own removal, and restarted before node 1 had heard of it."""
    two = VOTERS[:2]
    entries = (
        Entry(index=1, term=1, kind=EntryKind.NOOP, payload=b""),
        Entry(index=2, term=1, kind=EntryKind.VOTERS, payload=encode_voters(VOTERS[:1])),
    )
    persisted = PersistedState(
        hard_state=HardState(term=1, voted_for=VoterId(2, VOTERS[1].directory_id)), entries=entries
    )
    return Bench(2, persisted, two)


def test_a_voter_that_only_its_own_log_removes_can_still_be_elected() -> None:
    """Seeds 292, 344, 345; figure 4.6 of the Raft dissertation: it alone has the entry that removes it."""
    bench = leaving_leader()
    effects = bench.win(1)
    (append,) = sent(effects, AppendRequest, 1)
    back = sent(bench.answer(1, append, success=False, conflict_index=2), AppendRequest, 1)
    assert [entry.index for entry in back[0].entries] == [2, 3]
    effects = bench.answer(1, back[0], success=True, match_index=3)
    assert sent(effects, TimeoutNowRequest, 1)
    assert bench.node.role_name == "Resigned"
    assert bench.node.next_deadline_ms() is None


def test_its_own_vote_counts_for_nothing() -> None:
    bench = leaving_leader()
    bench.tick()
    assert bench.node.role_name == "PreCandidate"
    deadlines = [bench.node.next_deadline_ms()]
    for _ in range(5):
        bench.tick()
        assert bench.node.role_name == "PreCandidate"
        deadlines.append(bench.node.next_deadline_ms())
    assert len(set(deadlines)) == len(deadlines), "it waits between its rounds"


def test_a_voter_whose_removal_is_committed_waits_for_nothing() -> None:
    bench = leaving_leader()
    heartbeat = AppendRequest(
        term=2,
        leader_id=1,
        voter=VoterId(2, VOTERS[1].directory_id),
        prev_log_index=2,
        prev_log_term=1,
        commit_index=2,
        entries=(),
        round=1,
    )
    effects = bench.step(RequestReceived(request=heartbeat, causality_id=1))
    assert any(isinstance(effect, LeadershipChanged) for effect in effects)
    if bench.node.next_deadline_ms() is not None:
        bench.tick()
    assert bench.node.role_name == "Follower"
    assert bench.node.next_deadline_ms() is None
