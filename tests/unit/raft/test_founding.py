"""The first voters of a cluster: what a disk may say before there is any history, message by message."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import replace

import pytest

from logcluster.core.raft.census import FoundingReport, Obstacle
from logcluster.core.raft.config import RaftConfig
from logcluster.core.raft.effects import Effect, FoundingChanged, Persist, Send, SendAfterDurable, StrangerNoticed
from logcluster.core.raft.inputs import (
    Input,
    Persisted,
    RequestFailed,
    RequestReceived,
    ResponseReceived,
    Started,
    Tick,
)
from logcluster.core.raft.messages import (
    ANY_DIRECTORY,
    AppendRequest,
    CensusRequest,
    CensusResponse,
    Entry,
    EntryKind,
    HardState,
    PersistedState,
    Snapshot,
    TimeoutNowRequest,
    Voter,
    VoteRequest,
    VoteResponse,
    VoterId,
)
from logcluster.core.raft.node import RaftNode

UNKNOWN = tuple(Voter(node_id, host=f"host-{node_id}", port=7071) for node_id in (1, 2, 3))


def disk(node_id: int, generation: int = 0) -> VoterId:
    return VoterId(node_id, bytes([node_id, generation]) * 8)


DISKS = (disk(1), disk(2), disk(3))


class Bench:
    """One node; its writes are done at once."""

    def __init__(
        self,
        node_id: int = 1,
        persisted: PersistedState | None = None,
        *,
        generation: int = 0,
        voters: tuple[Voter, ...] = UNKNOWN,
        ablations: frozenset[str] = frozenset(),
    ) -> None:
        self.persisted = persisted or PersistedState()
        config = RaftConfig(
            node_id=node_id,
            directory_id=disk(node_id, generation).directory_id,
            bootstrap_voters=voters,
            ablations=ablations,
        )
        self.node = RaftNode(config, self.persisted, rng=random.Random(7))
        self.now_ms = 0
        self.questions: dict[int, CensusRequest] = {}
        self.effects = self.step(Started())

    def step(self, event: Input) -> list[Effect]:
        effects = self.node.step(event, self.now_ms)
        self.node.check()
        for effect in effects:  # It grows while it is walked.
            if isinstance(effect, Persist):
                self.persisted = replace(
                    self.persisted,
                    hard_state=effect.hard_state or self.persisted.hard_state,
                    snapshot=effect.snapshot or self.persisted.snapshot,
                )
                effects += self.node.step(Persisted(write_id=effect.write_id), self.now_ms)
            if isinstance(effect, Send | SendAfterDurable) and isinstance(effect.message, CensusRequest):
                self.questions[effect.to] = effect.message
        return effects

    def advance(self, duration_ms: int) -> list[Effect]:
        end_ms = self.now_ms + duration_ms
        effects: list[Effect] = []
        while (deadline_ms := self.node.next_deadline_ms()) is not None and deadline_ms <= end_ms:
            self.now_ms = max(self.now_ms, deadline_ms)
            effects += self.step(Tick())
        self.now_ms = end_ms
        return effects

    def answer(
        self,
        peer: VoterId,
        voters: tuple[VoterId, ...] = (),
        *,
        term: int = 0,
        boot_id: int | None = None,
        peer_id: int | None = None,
    ) -> list[Effect]:
        """Answer the last question to a peer."""
        asked = peer.node_id if peer_id is None else peer_id
        request = self.questions[asked]
        response = CensusResponse(
            term=term, boot_id=request.boot_id if boot_id is None else boot_id, voter=peer, voters=voters
        )
        return self.step(ResponseReceived(peer_id=asked, request=request, response=response))

    def ask(self, asker: VoterId, voters: tuple[VoterId, ...] = (), *, boot_id: int = 1) -> list[Effect]:
        voter = VoterId(self.node_id, ANY_DIRECTORY)
        request = CensusRequest(boot_id=boot_id, asker=asker, voter=voter, voters=voters)
        return self.step(RequestReceived(request=request, causality_id=1))

    def request_vote(self, candidate: VoterId, *, term: int, pre_vote: bool = False) -> VoteResponse:
        request = VoteRequest(
            term=term,
            candidate=candidate,
            voter=VoterId(self.node_id, self.own.directory_id),
            last_log_index=0,
            last_log_term=0,
            pre_vote=pre_vote,
        )
        (response,) = sent(self.step(RequestReceived(request=request, causality_id=2)), VoteResponse)
        return response

    @property
    def node_id(self) -> int:
        return self.own.node_id

    @property
    def own(self) -> VoterId:
        return self.node._state.own_id

    @property
    def voters(self) -> tuple[VoterId, ...]:
        return tuple(voter.voter_id for voter in self.node.voters)


def sent(effects: Iterable[Effect], kind: type, *, to: int | None = None) -> list:
    return [
        effect.message
        for effect in effects
        if isinstance(effect, Send | SendAfterDurable) and isinstance(effect.message, kind) and to in (None, effect.to)
    ]


def accepted_state(disks: tuple[VoterId, ...] = DISKS) -> PersistedState:
    voters = tuple(Voter(node_id, directory_id) for node_id, directory_id in disks)
    return PersistedState(snapshot=Snapshot(index=0, term=0, voters=voters, payload=b""))


def founded_state() -> PersistedState:
    return replace(accepted_state(), hard_state=HardState(term=1))


def heartbeat(to: VoterId, *, leader_id: int = 2, term: int = 5) -> AppendRequest:
    return AppendRequest(
        term=term, leader_id=leader_id, voter=to, prev_log_index=0, prev_log_term=0, commit_index=0, entries=(), round=1
    )


# -- an empty disk ----------------------------------------------------------------------------------------------------


def test_nobody_is_elected_while_a_voter_is_silent() -> None:
    bench = Bench()
    bench.answer(disk(2))
    effects = []
    for _ in range(50):
        effects += bench.advance(200)
        for peer_id in (2, 3):
            effects += bench.step(RequestFailed(peer_id=peer_id, request=bench.questions[peer_id]))
    assert sent(effects, CensusRequest, to=3)
    assert not sent(effects, VoteRequest)
    assert (bench.node.term, bench.voters) == (0, ())
    assert bench.node.founding == FoundingReport(silent=(3,), obstacles=())


def test_an_empty_disk_neither_votes_nor_takes_a_term() -> None:
    bench = Bench()
    for pre_vote in (True, False):
        response = bench.request_vote(disk(2), term=7, pre_vote=pre_vote)
        assert (response.granted, response.term) == (False, 0)
    assert bench.node.term == 0
    assert bench.persisted == PersistedState()


def test_without_the_safeguard_it_votes_for_anybody() -> None:
    bench = Bench(ablations=frozenset({"founding"}))
    assert bench.node.founding is None
    assert bench.request_vote(disk(2), term=7).granted


def test_a_node_that_waits_to_be_added_does_not_vote() -> None:
    bench = Bench(4, voters=())
    assert not bench.request_vote(disk(2), term=7).granted
    assert bench.node.founding is None


def test_disks_are_accepted_once_all_of_them_are_known_to_be_empty() -> None:
    bench = Bench()
    bench.answer(disk(3))
    assert bench.voters == ()
    effects = bench.answer(disk(2))
    assert bench.voters == DISKS
    assert [voter.host for voter in bench.node.voters] == ["host-1", "host-2", "host-3"]
    assert [request.voters for request in sent(effects, CensusRequest)] == [DISKS, DISKS]
    assert bench.persisted.snapshot is not None
    assert not any(isinstance(effect, Send) and isinstance(effect.message, CensusRequest) for effect in effects), (
        "what is accepted is told when it is on disk"
    )


def test_an_answer_to_an_earlier_process_does_not_count() -> None:
    bench = Bench()
    bench.answer(disk(2))
    bench.answer(disk(3), boot_id=bench.questions[3].boot_id + 1)
    assert bench.voters == ()
    assert bench.node.founding == FoundingReport(silent=(3,), obstacles=())


def test_an_answer_of_another_node_does_not_count() -> None:
    bench = Bench()
    bench.answer(disk(2))
    bench.answer(disk(2), peer_id=3)
    assert bench.voters == ()


def test_a_question_is_no_answer() -> None:
    """It may come from an earlier process, whose disk is gone by now."""
    bench = Bench()
    bench.ask(disk(2))
    bench.ask(disk(3))
    assert bench.voters == ()


def test_the_last_answer_names_the_disk() -> None:
    bench = Bench()
    bench.answer(disk(2))
    bench.advance(2_000)
    bench.answer(disk(2, 1))
    bench.answer(disk(3))
    assert bench.voters == (disk(1), disk(2, 1), disk(3))


def test_who_shows_up_is_asked_at_once_and_only_for_news() -> None:
    bench = Bench()
    bench.step(RequestFailed(peer_id=2, request=bench.questions[2]))
    assert sent(bench.ask(disk(2)), CensusRequest, to=2)
    bench.answer(disk(2))
    assert not sent(bench.ask(disk(2)), CensusRequest, to=2)
    assert sent(bench.ask(disk(2, 1), boot_id=2), CensusRequest, to=2)


def test_a_quorum_of_one_is_founded_alone() -> None:
    bench = Bench(voters=UNKNOWN[:1])
    assert (bench.node.term, bench.voters) == (1, (disk(1),))
    bench.advance(0)
    assert bench.node.is_leader
    assert bench.node.term == 2


def test_voters_that_the_configuration_names_with_their_disks_need_no_founding() -> None:
    bench = Bench(voters=tuple(Voter(*voter_id) for voter_id in DISKS))
    assert bench.node.founding is None
    assert sent(bench.advance(600), VoteRequest)


# -- a cluster that exists --------------------------------------------------------------------------------------------


def test_a_new_disk_beside_a_history_reports_and_waits() -> None:
    bench = Bench(generation=1)
    bench.answer(disk(3, 1))
    effects = bench.answer(disk(2), DISKS, term=4)
    assert FoundingChanged(report=FoundingReport(silent=(), obstacles=((2, Obstacle.NOT_A_VOTER),))) in effects
    assert not sent(bench.advance(10_000), VoteRequest)
    assert (bench.node.term, bench.voters) == (0, ())


def test_a_lost_store_on_a_known_disk_is_not_begun_anew() -> None:
    bench = Bench()
    bench.answer(disk(3))
    bench.answer(disk(2), DISKS, term=4)
    assert bench.node.founding == FoundingReport(silent=(), obstacles=((2, Obstacle.LOST_STORE),))
    assert bench.voters == ()


def test_a_voter_that_knows_a_term_and_no_voters_is_not_empty() -> None:
    bench = Bench()
    bench.answer(disk(3))
    bench.answer(disk(2), term=4)
    assert bench.voters == ()
    assert bench.node.founding == FoundingReport(silent=(), obstacles=((2, Obstacle.NOT_A_VOTER),))


def test_a_leader_that_adds_the_new_disk_ends_the_wait() -> None:
    bench = Bench(generation=1)
    bench.answer(disk(2), DISKS, term=4)
    effects = bench.step(RequestReceived(request=heartbeat(disk(1, 1)), causality_id=1))
    assert FoundingChanged(report=None) in effects
    assert (bench.node.term, bench.node.leader_id, bench.node.founding) == (5, 2, None)
    assert bench.voters == (), "it is no voter before the leader's log says so"


def test_a_new_disk_that_was_being_added_is_no_bootstrap_voter_after_a_restart() -> None:
    """Two such disks must not elect each other with half a log."""
    entries = (Entry(index=1, term=5, kind=EntryKind.NOOP, payload=b""),)
    bench = Bench(persisted=PersistedState(hard_state=HardState(term=5), entries=entries), generation=1)
    assert bench.voters == ()
    assert bench.node.next_deadline_ms() is None


def test_a_voter_says_once_that_another_came_back_with_an_empty_disk() -> None:
    bench = Bench(persisted=founded_state())
    assert StrangerNoticed(node_id=2) in bench.ask(disk(2, 1))
    assert not any(isinstance(effect, StrangerNoticed) for effect in bench.ask(disk(2, 1), boot_id=2))
    assert not any(isinstance(effect, StrangerNoticed) for effect in bench.ask(disk(3)))
    (answer,) = sent(bench.ask(disk(2, 1), boot_id=9), CensusResponse)
    assert (answer.term, answer.boot_id, answer.voter, answer.voters) == (1, 9, disk(1), DISKS)


# -- a disk that has accepted -----------------------------------------------------------------------------------------


def test_all_acceptances_found_the_cluster_durably() -> None:
    bench = Bench(persisted=accepted_state())
    bench.answer(disk(2), DISKS)
    assert (bench.node.term, bench.node.founding) == (0, FoundingReport(silent=(3,), obstacles=()))
    bench.answer(disk(3), DISKS)
    assert (bench.node.term, bench.node.founding) == (1, None)
    assert bench.persisted.hard_state == HardState(term=1)
    assert sent(bench.advance(100), VoteRequest)


def test_a_question_tells_of_an_acceptance() -> None:
    bench = Bench(persisted=accepted_state())
    bench.answer(disk(2), DISKS)
    bench.ask(disk(3), DISKS)
    assert bench.node.term == 1


def test_an_empty_disk_accepts_what_another_has_accepted() -> None:
    bench = Bench()
    (answer,) = sent(bench.ask(disk(2), DISKS), CensusResponse)
    assert bench.voters == answer.voters == DISKS
    assert bench.persisted.snapshot is not None


@pytest.mark.parametrize(
    "voters",
    [
        pytest.param((disk(1, 1), disk(2), disk(3)), id="another disk of this node"),
        pytest.param((disk(1), disk(2)), id="a voter is missing"),
        pytest.param((*DISKS, disk(4)), id="a voter too many"),
        pytest.param((disk(1), disk(2), disk(4)), id="another voter"),
        pytest.param((disk(1), disk(2), VoterId(3, ANY_DIRECTORY)), id="a disk is not known"),
    ],
)
def test_other_voters_than_the_configured_ones_are_not_accepted(voters: tuple[VoterId, ...]) -> None:
    bench = Bench()
    bench.ask(disk(2), voters)
    assert bench.voters == ()
    bench.answer(disk(2), voters)
    assert bench.voters == ()
    assert (2, Obstacle.OTHER_VOTERS) in bench.node.founding.obstacles  # type: ignore[union-attr]


def test_a_disk_accepts_once() -> None:
    bench = Bench(persisted=accepted_state())
    others = (disk(1), disk(2), disk(3, 1))
    bench.ask(disk(3, 1), others)
    bench.answer(disk(2), others)
    assert bench.voters == DISKS
    assert bench.node.founding == FoundingReport(
        silent=(3,), obstacles=((2, Obstacle.OTHER_VOTERS), (3, Obstacle.OTHER_VOTERS))
    )
    bench.answer(disk(3, 1))
    assert (3, Obstacle.OTHER_DISK) in bench.node.founding.obstacles  # type: ignore[union-attr]
    assert bench.node.term == 0


def test_who_does_not_accept_is_named() -> None:
    bench = Bench()
    bench.answer(disk(2))
    bench.answer(disk(3))
    bench.answer(disk(2))
    assert bench.node.founding == FoundingReport(silent=(), obstacles=((2, Obstacle.NOT_ACCEPTED),))
    bench.answer(disk(2), DISKS)
    assert bench.node.founding == FoundingReport(silent=(), obstacles=())


def test_it_votes_for_a_voter_it_accepted_and_for_nobody_else() -> None:
    bench = Bench(persisted=accepted_state())
    assert not bench.request_vote(disk(2, 1), term=2).granted
    assert not bench.request_vote(disk(4), term=2).granted
    assert bench.node.term == 0
    assert bench.request_vote(disk(2), term=2, pre_vote=True).granted
    assert bench.request_vote(disk(2), term=2).granted
    assert (bench.node.term, bench.node.founding) == (2, None)


def test_it_does_not_campaign_although_told_to() -> None:
    bench = Bench(persisted=accepted_state())
    order = TimeoutNowRequest(term=0, leader_id=2, voter=VoterId(1, ANY_DIRECTORY))
    assert not sent(bench.step(RequestReceived(request=order, causality_id=1)), VoteRequest)
    assert bench.node.role_name == "Follower"


def test_a_history_that_knows_its_disk_is_its_own() -> None:
    bench = Bench(persisted=accepted_state())
    bench.answer(disk(2), (*DISKS, disk(4)), term=9)
    assert bench.node.founding is None
    assert bench.node.term == 1


def test_a_history_without_its_disk_is_not() -> None:
    bench = Bench(persisted=accepted_state())
    bench.answer(disk(2), (disk(2), disk(3)), term=9)
    assert bench.node.founding == FoundingReport(silent=(3,), obstacles=((2, Obstacle.NOT_A_VOTER),))
    assert bench.node.term == 0


def test_it_asks_the_voters_it_accepted_whatever_the_configuration_says_by_now() -> None:
    bench = Bench(persisted=accepted_state(), voters=(UNKNOWN[0], Voter(7), Voter(8)))
    assert sorted(bench.questions) == [2, 3]


def test_who_is_founded_asks_nobody_and_campaigns_after_a_restart() -> None:
    bench = Bench(persisted=founded_state())
    assert not bench.questions
    assert sent(bench.advance(600), VoteRequest)
