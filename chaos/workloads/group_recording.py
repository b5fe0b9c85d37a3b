"""What a member of a group does behind its application's back, written down: assignments, starts, commits, goodbyes.

The client library is as it is; the parts of a `GroupConsumer` that talk to one another are replaced by ones that write
what passes, and do the same. docs/checking.md says which event means what. A member's name is of one life: after it was
fenced or forgotten it is another member. All of it is written in the step in which it happens, so no answer of the
coordinator, no poll and no commit can come in between.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping
from typing import Any

from chaos.workloads.doubts import DoubtfulCalls
from chaos.workloads.recording import Operation, Voice
from chaos.workloads.records import key_of
from logcluster.client.group.commits import COMMIT_TIMEOUT_MS, Commits, Position
from logcluster.client.group.consumer import GroupConsumer
from logcluster.client.group.membership import LEAVE_EPOCH, AssignedPartition
from logcluster.client.subscription import PartitionState
from logcluster.model.errors import LogClusterError, OffsetOutOfRange
from logcluster.wire.gen.logcluster.v1 import groups_pb2 as pb


def item_key(item: AssignedPartition) -> str:
    return key_of(item.topic, item.partition)


class MemberRecorder:
    """Writes what one consumer does in its group; a reader of its membership (`member.Reader`) in the consumer's place.

    Args:
        consumer: not entered yet.
        life: names this consumer, in the run.
        marks, commits: voices; commits run beside the rest.
        on_lost: told, before anything else, that this life of the member is over.
    """

    def __init__(
        self,
        consumer: GroupConsumer,
        *,
        life: str,
        marks: Voice,
        commits: Voice,
        on_lost: Callable[[], None],
    ) -> None:
        self.consumer = consumer
        self._group = consumer._group_options.member.group
        self._life = life
        self._lives = 0
        self._marks = marks
        self._on_lost = on_lost
        self._starting: dict[PartitionState, Operation] = {}
        """Partitions whose first position is being looked up."""
        consumer._commits = RecordedCommits(consumer, self, commits=commits, fetches=marks)
        consumer._member._reader = self
        consumer._member._calls = RecordedCalls(consumer, self)

    @property
    def meta(self) -> dict[str, Any]:
        """Group and member, for the events of the present life."""
        return {"group": self._group, "member": f"{self._life}.{self._lives}"}

    def watch_positions(self) -> None:
        """Hear of positions that are looked up; once the consumer is entered."""
        fetcher = self.consumer._fetcher
        assert fetcher is not None
        resolve, goes_on_elsewhere = fetcher.resolve, fetcher.goes_on_elsewhere

        async def resolve_and_tell(
            states: list[PartitionState], *, timeout_ms: int
        ) -> dict[PartitionState, LogClusterError]:
            failures = await resolve(states, timeout_ms=timeout_ms)
            self._found_positions()
            return failures

        def note_and_go_on(state: PartitionState, error: LogClusterError) -> bool:
            position = state.position
            is_going_on = goes_on_elsewhere(state, error)
            if is_going_on and isinstance(error, OffsetOutOfRange):
                key = key_of(state.topic, state.partition)
                meta = self.meta | {"why": "out_of_range", "from": {key: position}}
                self._starting[state] = self._marks.invoke("resume", [key], **meta)
            return is_going_on

        fetcher.resolve = resolve_and_tell  # type: ignore[method-assign]
        fetcher.goes_on_elsewhere = note_and_go_on  # type: ignore[method-assign]

    def _found_positions(self) -> None:
        for state, resume in list(self._starting.items()):
            if state.position is not None:
                del self._starting[state]
                self._marks.ok(resume, {key_of(state.topic, state.partition): state.position})

    def _end_starts(self, reason: str) -> None:
        """Positions that are still being looked up are nobody's any more."""
        for resume in self._starting.values():
            self._marks.refused(resume, reason)
        self._starting.clear()

    # -- the reader of the membership -------------------------------------------------------------------------------

    @property
    def processing_since_ms(self) -> int:
        return self.consumer.processing_since_ms

    async def take_on(self, partitions: Collection[AssignedPartition]) -> None:
        """As `GroupConsumer.take_on`; one `resume` for each partition, since they may begin for different reasons."""
        consumer, meta = self.consumer, self.meta
        keys = [item_key(item) for item in sorted(partitions)]
        self._marks.mark("assigned", keys, member_epoch=consumer._membership.member_epoch, **meta)
        resumes = {item: self._marks.invoke("resume", [item_key(item)], **meta) for item in sorted(partitions)}
        try:
            await consumer.take_on(partitions)
        except BaseException:
            for resume in resumes.values():
                self._marks.refused(resume, "the membership ended meanwhile")
            raise
        for item, resume in resumes.items():
            state = consumer._states[item]
            if state.position is not None:
                self._marks.ok(resume, {item_key(item): state.position}, why="committed")
                continue
            self._starting[state] = Operation(
                resume.invoked, resume.process, resume.f, resume.value, {**resume.meta, "why": "policy"}
            )

    async def give_up(self, partitions: Collection[AssignedPartition]) -> None:
        """As `GroupConsumer.give_up`; the coordinator is told afterwards."""
        meta = self.meta
        await self.consumer.give_up(partitions)
        given_up = {item_key(item) for item in partitions}
        for state in [state for state in self._starting if key_of(state.topic, state.partition) in given_up]:
            self._marks.refused(self._starting.pop(state), "given up before")
        self._marks.mark("revoked", sorted(given_up), **meta)

    async def lose(self, partitions: Collection[AssignedPartition]) -> None:
        """As `GroupConsumer.lose`; from here on it is another member."""
        self._end_starts("lost before")
        self._marks.mark("lost", None, **self.meta)
        self._lives += 1
        self._on_lost()
        await self.consumer.lose(partitions)

    def fail(self, error: LogClusterError) -> None:
        self.consumer.fail(error)

    # -- the goodbye ------------------------------------------------------------------------------------------------

    def leaves(self) -> None:
        """The coordinator is about to be told."""
        self._end_starts("the consumer was closed")
        self._marks.mark("revoked", None, **self.meta)

    def left(self) -> None:
        """The coordinator took the goodbye."""
        self._marks.mark("leave", None, **self.meta)


class RecordedCalls(DoubtfulCalls):
    """What a member says to its coordinator beside heartbeats: the goodbye."""

    def __init__(self, consumer: GroupConsumer, recorder: MemberRecorder) -> None:
        super().__init__(consumer._context)
        self._broker_ids = consumer._calls._broker_ids
        self._recorder = recorder

    async def call(self, group: str, method: Any, request: object, **options: Any) -> Any:
        """As `CoordinatorCalls.call`."""
        if not isinstance(request, pb.HeartbeatRequest):
            return await super().call(group, method, request, **options)
        self._recorder.leaves()
        answer = await super().call(group, method, request, **options)
        if request.member_epoch == LEAVE_EPOCH:  # A static member only goes for a while.
            self._recorder.left()
        return answer


class RecordedCommits(Commits):
    """The commits of one member, and what it is told to be committed."""

    def __init__(self, consumer: GroupConsumer, recorder: MemberRecorder, *, commits: Voice, fetches: Voice) -> None:
        self._doubts = DoubtfulCalls(consumer._context)
        self._doubts._broker_ids = consumer._calls._broker_ids
        super().__init__(consumer._membership, self._doubts)
        self._recorder = recorder
        self._commit_voice = commits
        self._fetch_voice = fetches

    async def _commit(
        self, positions: Mapping[AssignedPartition, Position], timeout_ms: int
    ) -> dict[AssignedPartition, LogClusterError]:
        voice = self._commit_voice
        value = {item_key(item): position.offset for item, position in sorted(positions.items())}
        epoch = self._membership.member_epoch
        commit = voice.invoke("commit", value, member_epoch=epoch, **self._recorder.meta)
        self._doubts.begin()
        try:
            refused = await super()._commit(positions, timeout_ms)
        except asyncio.CancelledError:
            voice.doubted(commit, "the consumer was closed")
            raise
        except LogClusterError as error:
            voice.failed(commit, error, is_doubtful=self._doubts.has_doubt)
            raise
        outcomes = {
            item_key(item): "fail" if error.definite and not self._doubts.has_doubt else "info"
            for item, error in refused.items()
        }
        voice.ok(commit, value, **({"outcomes": outcomes} if outcomes else {}))
        return refused

    async def fetch(
        self, partitions: Collection[AssignedPartition], *, timeout_ms: int = COMMIT_TIMEOUT_MS
    ) -> dict[AssignedPartition, Position]:
        """As `Commits.fetch`."""
        voice = self._fetch_voice
        wanted = sorted(partitions)
        fetch = voice.invoke("fetch_offsets", [item_key(item) for item in wanted], **self._recorder.meta)
        try:
            found = await super().fetch(wanted, timeout_ms=timeout_ms)
        except asyncio.CancelledError:
            voice.refused(fetch, "the membership ended meanwhile")
            raise
        except LogClusterError as error:
            voice.refused(fetch, error)
            raise
        voice.ok(fetch, {item_key(item): found[item].offset if item in found else None for item in wanted})
        return found
