"""One turn of a coordinator: what shares an append, what a handler sees, and when and how it is answered."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

from coordinator_bench import (
    FOR_EVER_MS,
    Note,
    Notebook,
    NoteCodec,
    Roles,
    batches,
    in_virtual_time,
    look,
    make_partition,
    write,
)

from logcluster.broker.coordinators.requests import Held, Request
from logcluster.broker.coordinators.standby import BARRIER_KEY
from logcluster.broker.coordinators.turn import Times, Turn
from logcluster.core.coordinators.machine import Result
from logcluster.model.errors import (
    Disconnected,
    GroupIdNotFound,
    LogClusterError,
    NotCoordinator,
    NotEnoughReplicas,
    NotEnoughReplicasAfterAppend,
    RequestTimedOut,
)
from logcluster.model.limits import COORDINATOR_BATCH_BYTES_MAX
from logcluster.sim.clock import SimulatedClock


class Desk:
    """What a turn asks of its shard, and turns over one partition that leads in epoch 1."""

    def __init__(self) -> None:
        self.clock = SimulatedClock(asyncio.get_running_loop())
        self.partition = make_partition(self.clock)
        self.roles = Roles(self.partition)
        self.roles.lead(1)
        self.roles.commit()
        self.held: dict[str, Held[Any]] = {key: Held(Notebook(key)) for key in ("a", "b", "c")}
        self.changed: list[str] = []
        self.appended: list[bytes] = []
        self.committed: list[tuple[str, tuple[str, ...]]] = []
        self.refused: list[str] = []

    def turn(self) -> Turn:
        return Turn(cast(Any, self), cast(Any, NoteCodec()), Times(now_ms=1_000, wall_ms=2_000))

    def ask(
        self, turn: Turn, key: str, handler: Callable[..., Any], *, deadline_ms: int = FOR_EVER_MS, fresh: bool = False
    ) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        request = Request(key, handler, deadline_ms=deadline_ms, future=future, is_linearizable=fresh)
        turn.handle(request, self.held[key])
        return future

    def ask_alone(self, key: str, handler: Callable[..., Any], *, fresh: bool = False) -> asyncio.Future[Any]:
        turn = self.turn()
        future = self.ask(turn, key, handler, fresh=fresh)
        turn.finish()
        return future

    def values(self, key: str) -> dict[str, str]:
        return cast(dict[str, str], self.held[key].entity.values)

    def on_changed(self, request: Request, held: Held[Any]) -> None:
        assert held is self.held[request.key]
        self.changed.append(request.key)

    def on_keys_appended(self, keys: list[bytes]) -> None:
        self.appended += keys

    def on_committed(self, key: str, result: Result[Any, Any]) -> None:
        self.committed.append((key, result.wake))

    def on_append_refused(self, request: Request) -> None:
        self.refused.append(request.key)


def failure(future: asyncio.Future[Any]) -> LogClusterError:
    assert future.done()
    error = future.exception()
    assert isinstance(error, LogClusterError)
    return error


def refuse(entity: Notebook, now_ms: int, wall_ms: int) -> Result[Note, None]:
    raise GroupIdNotFound(f"{sorted(entity.values)}")


# -- appends ---------------------------------------------------------------------------------------------------------


@in_virtual_time
async def test_requests_to_different_entities_share_one_append() -> None:
    desk = Desk()
    turn = desk.turn()
    answers = [desk.ask(turn, key, write(key, x="1", y="2")) for key in ("a", "b", "c")]
    assert not desk.changed, "nothing is replayed before it is appended"
    turn.finish()
    keys = [b"a/x", b"a/y", b"b/x", b"b/y", b"c/x", b"c/y"]
    assert batches(desk.partition) == [list(zip(keys, [b"1", b"2"] * 3, strict=True))]
    assert desk.appended == keys
    assert desk.changed == ["a", "b", "c"]
    assert not any(answer.done() for answer in answers)
    desk.roles.commit()
    assert [answer.result() for answer in answers] == [{}, {}, {}]


@in_virtual_time
async def test_a_handler_sees_what_was_decided_before_it_though_nothing_is_committed() -> None:
    desk = Desk()
    turn = desk.turn()
    first = desk.ask(turn, "a", write("a", x="1"))
    desk.ask(turn, "b", write("b", x="1"))
    second = desk.ask(turn, "a", write("a", x="2"))
    third = desk.ask(turn, "a", look)
    turn.finish()
    assert [[key for key, _ in batch] for batch in batches(desk.partition)] == [[b"a/x", b"b/x"], [b"a/x"]]
    assert desk.partition.high_watermark == 0
    desk.roles.commit(2)
    assert first.result() == {}
    assert not second.done(), "its record is not committed"
    assert not third.done(), "what it saw is not committed"
    desk.roles.commit(3)
    assert second.result() == {"x": "1"}
    assert third.result() == {"x": "2"}


@in_virtual_time
async def test_an_append_is_bounded() -> None:
    desk = Desk()
    turn = desk.turn()
    size = COORDINATOR_BATCH_BYTES_MAX // 2 + 100
    for key in ("a", "b", "c"):
        desk.ask(turn, key, write(key, x=key * size))
    turn.finish()
    assert [[key for key, _ in batch] for batch in batches(desk.partition)] == [[b"a/x"], [b"b/x"], [b"c/x"]]
    assert desk.values("b") == {"x": "b" * size}


@in_virtual_time
async def test_who_waits_is_told_of_the_commit_once_and_whom_to_wake() -> None:
    desk = Desk()

    def decide(entity: Notebook, now_ms: int, wall_ms: int) -> Result[Note, tuple[int, int]]:
        return Result(records=(Note("a", "x", "1"),), response=(now_ms, wall_ms), wake=("m", "n"))

    answer = desk.ask_alone("a", decide)
    assert desk.committed == []
    desk.roles.commit()
    assert desk.committed == [("a", ("m", "n"))]
    assert answer.result() == (1_000, 2_000)


@in_virtual_time
async def test_what_is_not_in_records_changes_when_they_are_appended() -> None:
    desk = Desk()
    happened: list[dict[str, str]] = []

    def decide(entity: Notebook, now_ms: int, wall_ms: int) -> Result[Note, None]:
        happened.append({"decided": "yes"})
        return Result(
            records=(Note("a", "x", "1"),),
            response=None,
            on_appended=lambda: happened.append(dict(entity.values)),
        )

    turn = desk.turn()
    desk.ask(turn, "a", decide)
    assert happened == [{"decided": "yes"}]
    turn.finish()
    assert happened[1:] == [{"x": "1"}], "after the records are replayed"


# -- refusals of the log ---------------------------------------------------------------------------------------------


@in_virtual_time
async def test_a_refused_append_has_changed_nothing_and_its_error_is_definite() -> None:
    desk = Desk()
    desk.ask_alone("a", write("a", x="1"))
    desk.roles.commit()
    desk.roles.lead(1, in_sync=1)
    happened: list[str] = []
    turn = desk.turn()
    refused = [desk.ask(turn, "a", write("a", x="2")), desk.ask(turn, "b", write("b", x="2"))]
    refused.append(
        desk.ask(
            turn,
            "c",
            lambda *_: Result(records=(Note("c", "x", "2"),), response=None, on_appended=lambda: happened.append("no")),
        )
    )
    own = Request("b", write("b", y="2"), deadline_ms=FOR_EVER_MS, future=None)
    turn.handle(own, desk.held["b"])
    turn.finish()
    for answer in refused:
        error = failure(answer)
        assert isinstance(error, NotEnoughReplicas) and error.definite
    assert desk.values("a") == {"x": "1"} and desk.values("b") == desk.values("c") == {}
    assert (desk.partition.log.log_end_offset, desk.changed, happened) == (1, ["a"], [])
    assert desk.refused == ["b"], "the runtime's own request has to be looked at again"
    assert not own.was_appended and desk.held["b"].last_offset == 0
    desk.roles.lead(1, in_sync=2)
    again = desk.ask_alone("a", write("a", x="3"))
    desk.roles.commit()
    assert again.result() == {"x": "1"}


@in_virtual_time
async def test_a_deposed_leader_says_who_leads_and_has_done_nothing() -> None:
    desk = Desk()
    desk.roles.follow(2)
    error = failure(desk.ask_alone("a", write("a", x="1")))
    assert isinstance(error, NotCoordinator) and error.definite
    assert error.facts["leader_id"] == 2
    assert desk.values("a") == {}


@in_virtual_time
async def test_what_was_appended_and_may_be_lost_is_never_refused_definitely() -> None:
    desk = Desk()
    deposed = desk.ask_alone("a", write("a", x="1"))
    desk.roles.follow(2)
    assert isinstance(failure(deposed), Disconnected) and not failure(deposed).definite
    desk = Desk()
    alone = desk.ask_alone("a", write("a", x="1"))
    desk.roles.lead(1, in_sync=1)
    assert isinstance(failure(alone), NotEnoughReplicasAfterAppend) and not failure(alone).definite
    desk = Desk()
    turn = desk.turn()
    late, patient = desk.ask(turn, "a", write("a", x="1"), deadline_ms=50), desk.ask(turn, "b", write("b", x="1"))
    turn.finish()
    desk.partition.expire_waiters(50)
    assert isinstance(failure(late), RequestTimedOut) and not failure(late).definite
    assert not patient.done()
    assert desk.committed == [], "nobody is told of what may not be"


# -- refusals of handlers --------------------------------------------------------------------------------------------


@in_virtual_time
async def test_a_refusal_waits_until_what_it_is_based_on_is_committed() -> None:
    desk = Desk()
    turn = desk.turn()
    desk.ask(turn, "a", write("a", x="1"))
    refused, elsewhere = desk.ask(turn, "a", refuse), desk.ask(turn, "b", refuse)
    turn.finish()
    assert elsewhere.done(), "it is based on nothing that is not committed"
    elsewhere.exception()
    assert not refused.done()
    desk.roles.commit()
    assert isinstance(failure(refused), GroupIdNotFound) and "['x']" in failure(refused).message


@in_virtual_time
async def test_a_handler_with_a_bug_fails_alone() -> None:
    desk = Desk()
    turn = desk.turn()
    answers = [desk.ask(turn, "a", write("a", x="1"))]
    broken = desk.ask(turn, "b", lambda *_: cast(dict[str, Any], {})["missing"])
    answers.append(desk.ask(turn, "c", write("c", x="1")))
    turn.finish()
    desk.roles.commit()
    assert isinstance(broken.exception(), KeyError)
    assert [answer.result() for answer in answers] == [{}, {}]


# -- questions -------------------------------------------------------------------------------------------------------


@in_virtual_time
async def test_a_question_appends_nothing_and_waits_for_nothing_that_it_does_not_show() -> None:
    desk = Desk()
    desk.ask_alone("a", write("a", x="1"))
    assert desk.ask_alone("b", look).result() == {}
    asked = desk.ask_alone("a", look)
    assert not asked.done(), "it shows what is not committed"
    assert desk.partition.log.log_end_offset == 1
    desk.roles.commit()
    assert asked.result() == {"x": "1"}


@in_virtual_time
async def test_questions_that_must_not_be_stale_share_a_barrier() -> None:
    desk = Desk()
    turn = desk.turn()
    asked = [desk.ask(turn, key, look, fresh=True) for key in ("a", "b", "a")]
    turn.finish()
    assert batches(desk.partition) == [[(BARRIER_KEY, None)]]
    assert not any(question.done() for question in asked)
    desk.roles.commit()
    assert [question.result() for question in asked] == [{}, {}, {}]


@in_virtual_time
async def test_records_of_the_turn_are_barrier_enough() -> None:
    desk = Desk()
    turn = desk.turn()
    asked = desk.ask(turn, "a", look, fresh=True)
    desk.ask(turn, "b", write("b", x="1"))
    turn.finish()
    assert batches(desk.partition) == [[(b"b/x", b"1")]]
    assert not asked.done()
    desk.roles.commit()
    assert asked.result() == {}


@in_virtual_time
async def test_a_question_that_was_asked_after_the_last_append_gets_one_of_its_own() -> None:
    desk = Desk()
    turn = desk.turn()
    desk.ask(turn, "a", write("a", x="1"))
    desk.ask(turn, "a", write("a", x="2"))
    turn.finish()
    asked = desk.ask_alone("b", look, fresh=True)
    assert desk.partition.log.log_end_offset == 3
    desk.roles.commit(2)
    assert not asked.done(), "commits of what was appended before prove nothing"
    desk.roles.commit(3)
    assert asked.result() == {}


@in_virtual_time
async def test_a_question_that_a_deposed_leader_could_not_answer_is_asked_elsewhere() -> None:
    """Nothing of it is in doubt, so its error is definite, unlike that of a record."""
    desk = Desk()
    desk.ask_alone("a", write("a", x="1")).add_done_callback(lambda future: future.exception())
    asked = [desk.ask_alone("b", look, fresh=True), desk.ask_alone("a", look)]
    assert not any(question.done() for question in asked)
    desk.roles.follow(2)
    for question in asked:
        assert isinstance(failure(question), NotCoordinator) and failure(question).definite


@in_virtual_time
async def test_a_refusal_of_a_question_that_must_not_be_stale_waits_for_the_barrier_too() -> None:
    desk = Desk()
    asked = desk.ask_alone("a", refuse, fresh=True)
    was_done = asked.done()
    asked.add_done_callback(lambda future: future.exception())
    assert not was_done, "another broker may lead by now, and know the group"
