"""What a member says to its coordinator: numbered commits one after the other, and heartbeats that wait for nobody."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Collection
from types import SimpleNamespace
from typing import Any, cast

import pytest

from logcluster.client.group.commits import Commits, Position
from logcluster.client.group.member import Member
from logcluster.client.group.membership import AssignedPartition, MemberOptions, Membership, to_assignment
from logcluster.client.retry import RetryPolicy
from logcluster.model.errors import (
    Disconnected,
    GroupMaxSizeReached,
    LogClusterError,
    NotCoordinator,
    PartitionNotAssigned,
    RequestTimedOut,
    StaleMemberEpoch,
    UnknownMemberId,
)
from logcluster.runtime.scope import TaskScope
from logcluster.sim.clock import SimulatedClock
from logcluster.sim.event_loop import SimulatedEventLoop
from logcluster.wire.gen.logcluster.v1 import groups_pb2 as pb
from logcluster.wire.status import error_detail

FIRST, SECOND, OTHER = (
    AssignedPartition("t", b"t" * 16, 0),
    AssignedPartition("t", b"t" * 16, 1),
    AssignedPartition("u", b"u" * 16, 0),
)


class FakeCalls:
    """The way to the coordinator: requests pile up, and a test answers them; by itself it accepts everything."""

    def __init__(self) -> None:
        self.sent: list[Any] = []
        self.options: list[tuple[str, int]] = []
        self.answers: list[Any] = []
        self.failed_attempts: list[LogClusterError] = []
        """Of the next call, before its answer."""

    async def call(
        self,
        group: str,
        method: Callable[[Any], Any],
        request: Any,
        *,
        timeout_ms: int,
        on_failure: Callable[[LogClusterError], None] = lambda error: None,
    ) -> Any:
        for failure in self.failed_attempts:
            on_failure(failure)
        self.failed_attempts = []
        self.options.append((group, timeout_ms))
        self.sent.append(request)
        answer = self.answers.pop(0) if self.answers else None
        answer = await answer if isinstance(answer, asyncio.Future) else answer
        if isinstance(answer, Exception):
            raise answer
        if answer is None:
            answer = pb.CommitOffsetsResponse()
            for offset in request.offsets:
                answer.results.add(topic=offset.topic, partition=offset.partition)
        return answer


class Scene:
    def __init__(self) -> None:
        self.membership = Membership(MemberOptions(group="g", topics=("t",)), iter(["m", "n"]).__next__)
        self.membership.member_epoch = 4
        self.calls = FakeCalls()
        self.commits = Commits(self.membership, cast(Any, self.calls))

    def numbers(self) -> list[int]:
        return [request.sequence for request in self.calls.sent]


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


# -- commits -----------------------------------------------------------------------------------------------------


async def test_a_commit_says_who_commits_what_in_order() -> None:
    scene = Scene()
    places = {OTHER: Position(7, None), SECOND: Position(5, 0, "note"), FIRST: Position(9, 3)}
    assert await scene.commits.commit(places, timeout_ms=1_234) == {}
    (request,) = scene.calls.sent
    expected = pb.CommitOffsetsRequest(group="g", member_id="m", member_epoch=4, sequence=1)
    expected.offsets.add(topic="t", topic_id=b"t" * 16, partition=0, offset=9, leader_epoch=3)
    expected.offsets.add(topic="t", topic_id=b"t" * 16, partition=1, offset=5, leader_epoch=0, metadata="note")
    expected.offsets.add(topic="u", topic_id=b"u" * 16, partition=0, offset=7)
    assert request == expected
    assert not request.offsets[2].HasField("leader_epoch"), "unknown is not epoch 0"
    assert scene.calls.options == [("g", 1_234)]


@pytest.mark.parametrize("earlier", [Disconnected("gone"), NotCoordinator("not here")])
async def test_a_refusal_after_an_attempt_without_an_answer_is_no_proof(earlier: LogClusterError) -> None:
    """The first attempt may have been carried out, and the member have been evicted before the second (P9)."""
    for answer in (UnknownMemberId("gone", member_id="m"), _refused(PartitionNotAssigned("not yours"))):
        scene = Scene()
        scene.calls.failed_attempts, scene.calls.answers = [earlier], [answer]
        try:
            outcomes = await scene.commits.commit({FIRST: Position(1, None)})
            error = outcomes[FIRST]
        except LogClusterError as raised:
            error = raised
        assert error.definite == earlier.definite
        assert isinstance(error, RequestTimedOut) != earlier.definite


def _refused(error: LogClusterError) -> pb.CommitOffsetsResponse:
    response = pb.CommitOffsetsResponse()
    response.results.add(topic="t", partition=0, error=error_detail(error))
    return response


async def test_nothing_to_commit_is_not_sent_and_takes_no_number() -> None:
    scene = Scene()
    assert await scene.commits.commit({}) == {}
    assert scene.calls.sent == []
    await scene.commits.commit({FIRST: Position(1, None)})
    assert scene.numbers() == [1]


async def test_the_next_commit_is_not_sent_before_the_last_one_is_answered() -> None:
    """Otherwise the coordinator might see them the other way round, and the older one would win."""
    scene = Scene()
    first: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    scene.calls.answers = [first]
    tasks = [asyncio.ensure_future(scene.commits.commit({FIRST: Position(offset, None)})) for offset in (1, 2, 3)]
    await settle()
    assert [request.offsets[0].offset for request in scene.calls.sent] == [1]
    first.set_result(None)
    assert await asyncio.gather(*tasks) == [{}, {}, {}]
    assert [request.offsets[0].offset for request in scene.calls.sent] == [1, 2, 3]
    assert scene.numbers() == [1, 2, 3]


async def test_a_commit_that_waited_speaks_for_the_member_as_it_is_when_it_is_sent() -> None:
    scene = Scene()
    first: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    scene.calls.answers = [first]
    tasks = [asyncio.ensure_future(scene.commits.commit({FIRST: Position(offset, None)})) for offset in (1, 2)]
    await settle()
    scene.membership.member_epoch = 5
    first.set_result(None)
    await asyncio.gather(*tasks)
    assert [request.member_epoch for request in scene.calls.sent] == [4, 5]


@pytest.mark.parametrize("error", [RequestTimedOut("unknown outcome"), UnknownMemberId(), StaleMemberEpoch()])
async def test_a_failed_commit_uses_its_number_up_and_lets_the_next_one_go(error: Exception) -> None:
    scene = Scene()
    scene.calls.answers = [error]
    with pytest.raises(type(error)):
        await scene.commits.commit({FIRST: Position(1, None)})
    assert await scene.commits.commit({FIRST: Position(2, None)}) == {}
    assert scene.numbers() == [1, 2]


async def test_a_cancelled_commit_uses_its_number_up_and_lets_the_next_one_go() -> None:
    scene = Scene()
    scene.calls.answers = [asyncio.get_running_loop().create_future()]
    task = asyncio.ensure_future(scene.commits.commit({FIRST: Position(1, None)}))
    await settle()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await scene.commits.commit({FIRST: Position(2, None)})
    assert scene.numbers() == [1, 2]


async def test_numbers_go_on_in_another_life_of_the_member() -> None:
    scene = Scene()
    await scene.commits.commit({FIRST: Position(1, None)})
    scene.membership.lose(is_forgotten=True)
    scene.membership.member_epoch = 1
    await scene.commits.commit({FIRST: Position(1, None)})
    assert [(request.member_id, request.sequence) for request in scene.calls.sent] == [("m", 1), ("n", 2)]


async def test_what_was_refused_is_told_by_partition_and_the_rest_is_durable() -> None:
    scene = Scene()
    response = pb.CommitOffsetsResponse()
    response.results.add(topic="t", partition=0)
    response.results.add(topic="t", partition=1, error=error_detail(PartitionNotAssigned("another member's")))
    response.results.add(topic="u", partition=0).error.SetInParent()  # present, and says nothing
    scene.calls.answers = [response]
    places = {OTHER: Position(3, None), SECOND: Position(2, None), FIRST: Position(1, None)}
    refused = await scene.commits.commit(places)
    assert list(refused) == [SECOND]
    assert isinstance(refused[SECOND], PartitionNotAssigned)


async def test_an_answer_of_another_length_is_not_read_as_success() -> None:
    scene = Scene()
    scene.calls.answers = [pb.CommitOffsetsResponse()]
    with pytest.raises(ValueError, match="shorter"):
        await scene.commits.commit({FIRST: Position(1, None)})


# -- fetches -------------------------------------------------------------------------------------------------------


async def test_a_fetch_asks_for_these_partitions_as_this_member() -> None:
    scene = Scene()
    scene.calls.answers = [pb.FetchOffsetsResponse()]
    assert await scene.commits.fetch([OTHER, SECOND, FIRST]) == {}
    (request,) = scene.calls.sent
    expected = pb.FetchOffsetsRequest(group="g", member_id="m", member_epoch=4)
    expected.topics.add(topic="t", topic_id=b"t" * 16, partitions=[0, 1])
    expected.topics.add(topic="u", topic_id=b"u" * 16, partitions=[0])
    assert request == expected


async def test_partitions_without_an_offset_are_left_out_and_others_are_not_taken_for_them() -> None:
    scene = Scene()
    response = pb.FetchOffsetsResponse()
    response.offsets.add(topic="t", topic_id=b"t" * 16, partition=0, offset=0, metadata="note")
    response.offsets.add(topic="t", topic_id=b"t" * 16, partition=1)
    response.offsets.add(topic="u", topic_id=b"u" * 16, partition=0, offset=8, leader_epoch=0)
    response.offsets.add(topic="t", topic_id=b"T" * 16, partition=1, offset=99)  # of a topic that had the name
    response.offsets.add(topic="t", topic_id=b"t" * 16, partition=7, offset=99)
    scene.calls.answers = [response]
    assert await scene.commits.fetch([FIRST, SECOND, OTHER]) == {
        FIRST: Position(0, None, "note"),
        OTHER: Position(8, 0),
    }


# -- heartbeats ----------------------------------------------------------------------------------------------------


class FakeCoordinator:
    """Answers heartbeats with what a test assigned; errors that a test has put in line come first."""

    def __init__(self) -> None:
        self.clock = SimulatedClock(asyncio.get_running_loop())
        self.heard: list[pb.HeartbeatRequest] = []
        self.assigned = [FIRST, SECOND]
        self.epoch = 1
        self.errors: list[LogClusterError] = []
        self.noted: list[LogClusterError] = []
        self.watched: list[str] = []
        self.streams: list[asyncio.Queue[pb.WatchMembershipResponse]] = []

    async def Heartbeat(self, request: pb.HeartbeatRequest, *, timeout: float) -> pb.HeartbeatResponse:
        self.heard.append(request)
        if self.errors:
            raise self.errors.pop(0)
        response = pb.HeartbeatResponse(member_epoch=self.epoch, heartbeat_interval_ms=100)
        response.assignment.CopyFrom(to_assignment(self.assigned))
        return response

    async def WatchMembership(self, request: pb.WatchMembershipRequest) -> AsyncIterator[pb.WatchMembershipResponse]:
        self.streams.append(messages := asyncio.Queue[pb.WatchMembershipResponse]())
        self.watched.append(request.member_id)
        try:
            while True:
                yield await messages.get()
        finally:
            self.watched.remove(request.member_id)

    async def stub(self, group: str, *, timeout_ms: int) -> Any:
        return self

    def note(self, group: str, error: LogClusterError) -> None:
        self.noted.append(error)

    async def call(self, group: str, method: Callable[[Any], Any], request: Any, *, timeout_ms: int) -> Any:
        return await method(self)(request, timeout=1)


class FakeReader:
    """The consumer: notes what it is told; while `busy`, its application holds on to what is to be given up."""

    def __init__(self) -> None:
        self.processing_since_ms = 0
        self.done: list[tuple[str, list[AssignedPartition]]] = []
        self.failures: list[LogClusterError] = []
        self.is_free = asyncio.Event()
        self.is_free.set()
        self.has_places = asyncio.Event()
        self.has_places.set()

    async def take_on(self, partitions: Collection[AssignedPartition]) -> None:
        await self.has_places.wait()
        self.done.append(("take on", list(partitions)))

    async def give_up(self, partitions: Collection[AssignedPartition]) -> None:
        await self.is_free.wait()
        self.done.append(("give up", list(partitions)))

    async def lose(self, partitions: Collection[AssignedPartition]) -> None:
        self.done.append(("lose", list(partitions)))

    def fail(self, error: LogClusterError) -> None:
        self.failures.append(error)


class Process:  # a member at work
    def __init__(self, scope: TaskScope) -> None:
        self.coordinator = FakeCoordinator()
        self.clock = self.coordinator.clock
        self.reader = FakeReader()
        self.membership = Membership(MemberOptions(group="g", topics=("t",)), iter(["m", "n", "o"]).__next__)
        context = SimpleNamespace(clock=self.clock, generator=random.Random(1), policy=RetryPolicy())
        calls = cast(Any, self.coordinator)
        self.member = Member(self.membership, self.reader, calls=calls, context=cast(Any, context), scope=scope)
        self.heard = self.coordinator.heard
        self.member.start()


def play(work: Callable[[Process], Any]) -> None:
    async def main() -> None:
        async with TaskScope("member") as scope:
            process = Process(scope)
            await process.clock.sleep_ms(350)
            assert process.membership.owned == {FIRST, SECOND}
            await work(process)

    with asyncio.Runner(loop_factory=lambda: SimulatedEventLoop(random.Random(1))) as runner:
        runner.run(main())


def test_heartbeats_go_on_while_the_application_holds_on_to_a_partition() -> None:
    async def work(process: Process) -> None:
        process.reader.is_free.clear()
        process.reader.processing_since_ms = 77
        process.coordinator.assigned = [SECOND]
        count = len(process.heard)
        await process.clock.sleep_ms(2_000)
        requests = process.heard[count:]
        assert 15 <= len(requests) <= 21
        assert not any(request.HasField("owned") for request in requests), "it has given nothing up yet"
        assert {request.processing_since_ms for request in requests} == {77}
        process.reader.is_free.set()
        await process.clock.sleep_ms(1)
        assert process.reader.done == [("take on", [FIRST, SECOND]), ("give up", [FIRST])]
        assert process.heard[-1].owned == to_assignment([SECOND]), "and says so at once"

    play(work)


def test_what_is_being_taken_on_counts_as_owned_from_the_beginning() -> None:
    """It may be called back meanwhile, and an `owned` without it would free it at the moment when reading begins."""

    async def work(process: Process) -> None:
        process.reader.has_places.clear()
        process.coordinator.assigned = [FIRST, SECOND, OTHER]
        await process.clock.sleep_ms(300)
        process.coordinator.assigned = [FIRST, SECOND]
        await process.clock.sleep_ms(300)
        said = [request.owned for request in process.heard if request.HasField("owned")]
        assert said[-1] == to_assignment([FIRST, SECOND, OTHER])
        process.reader.has_places.set()
        await process.clock.sleep_ms(300)
        assert process.reader.done[1:] == [("take on", [OTHER]), ("give up", [OTHER])]
        said = [request.owned for request in process.heard if request.HasField("owned")]
        assert said[-1] == to_assignment([FIRST, SECOND])

    play(work)


def test_a_change_is_one_step_after_the_other_and_goes_by_what_was_assigned_last() -> None:
    async def work(process: Process) -> None:
        process.reader.is_free.clear()
        process.coordinator.assigned = [SECOND]
        await process.clock.sleep_ms(300)
        process.coordinator.assigned = [OTHER]
        await process.clock.sleep_ms(300)
        process.reader.is_free.set()
        await process.clock.sleep_ms(300)
        assert process.reader.done[1:] == [("give up", [FIRST]), ("give up", [SECOND]), ("take on", [OTHER])]

    play(work)


def test_a_membership_that_is_over_ends_the_step_that_was_begun_and_everything_is_lost() -> None:
    async def work(process: Process) -> None:
        process.reader.is_free.clear()
        process.coordinator.assigned = [SECOND]
        await process.clock.sleep_ms(300)
        process.coordinator.errors = [UnknownMemberId()]
        await process.clock.sleep_ms(300)
        process.reader.is_free.set()
        await process.clock.sleep_ms(300)
        assert process.reader.done[1:] == [("lose", [FIRST, SECOND]), ("take on", [SECOND])]
        assert process.membership.member_id == "n" and process.membership.owned == {SECOND}
        assert process.coordinator.watched == ["n"], "nobody watches the old one"

    play(work)


@pytest.mark.parametrize("error", [NotCoordinator(), Disconnected(), RequestTimedOut()])
def test_failures_that_pass_take_nothing_and_are_tried_again_soon(error: LogClusterError) -> None:
    async def work(process: Process) -> None:
        process.coordinator.errors = [error] * 5
        await process.clock.sleep_ms(1_000)
        assert process.reader.done == [("take on", [FIRST, SECOND])] and process.reader.failures == []
        assert process.coordinator.noted == [error] * 5, "the coordinator may have moved"
        assert process.membership.is_member

    play(work)


def test_a_member_that_can_be_none_says_so_and_stops() -> None:
    async def work(process: Process) -> None:
        process.coordinator.errors = [GroupMaxSizeReached()]
        await process.clock.sleep_ms(300)
        assert [type(error) for error in process.reader.failures] == [GroupMaxSizeReached]
        assert process.reader.done[1:] == [("lose", [FIRST, SECOND])]
        count = len(process.heard)
        await process.clock.sleep_ms(1_000)
        assert len(process.heard) == count

    play(work)


def test_a_word_on_the_stream_brings_a_heartbeat_at_once_and_its_end_is_looked_into() -> None:
    async def work(process: Process) -> None:
        (stream,) = process.coordinator.streams
        count = len(process.heard)
        for _ in range(5):
            stream.put_nowait(pb.WatchMembershipResponse(heartbeat_now=True))
            await process.clock.sleep_ms(2)
        assert count + 5 <= len(process.heard) <= count + 6
        stream.put_nowait(pb.WatchMembershipResponse(ended=error_detail(UnknownMemberId())))
        process.coordinator.errors = [UnknownMemberId()]
        await process.clock.sleep_ms(2)
        assert ("lose", [FIRST, SECOND]) in process.reader.done
        assert len(process.coordinator.streams) == 2, "the next life has a stream of its own"

    play(work)


def test_who_leaves_while_the_membership_is_being_lost_is_not_held_up() -> None:
    """What was being taken on takes its time to end, and the heartbeats wait for it when they are told to end, too."""

    async def work(process: Process) -> None:
        async def take_on(partitions: Collection[AssignedPartition]) -> None:
            try:
                await asyncio.Event().wait()
            finally:
                await process.clock.sleep_ms(1_000)

        process.reader.take_on = take_on  # type: ignore[method-assign]
        process.coordinator.assigned = [FIRST, SECOND, OTHER]
        await process.clock.sleep_ms(200)
        process.coordinator.errors = [UnknownMemberId("gone", member_id="m")]
        await process.clock.sleep_ms(200)
        begun_ms = process.clock.monotonic_ms()
        async with asyncio.timeout(10):
            await process.member.leave()
        assert process.clock.monotonic_ms() - begun_ms < 2_000

    play(work)


def test_who_leaves_says_so_once_and_is_silent_from_then_on() -> None:
    async def work(process: Process) -> None:
        await process.member.leave()
        count = len(process.heard)
        assert process.heard[-1].member_epoch == -1
        await process.clock.sleep_ms(1_000)
        assert len(process.heard) == count

    play(work)
