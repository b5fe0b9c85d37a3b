"""`group`: a process that is a member of a consumer group, most of the time.

It joins, reads, handles, commits by itself beside the automatic commits, leaves, and joins again; killing it without a
goodbye is the runner's part. A poll is written when its records are with the application. When the membership is lost
a poll that is under way is given up, so that no poll is of two lives.
"""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, ClassVar, Literal

import msgspec

from chaos.workloads.group_recording import MemberRecorder
from chaos.workloads.recording import Voice
from chaos.workloads.records import polled
from chaos.workloads.worker import Count, Options, Positive, Probability, Worker
from logcluster.client.client import Client
from logcluster.client.group.consumer import GroupConsumer
from logcluster.client.records import ConsumerRecord
from logcluster.model.errors import LogClusterError
from logcluster.runtime.scope import TaskScope


class GroupOptions(Options, frozen=True, kw_only=True):
    """Options of `group`.

    `pattern`: RE2, beside the topics. `instance_id`: makes a static member. `auto_commit_interval_ms` null: only
    commits of its own. `membership_ms`: so long it stays, on average, before it leaves; 0: until the end.
    `idle_ms_max`: so long it stays away.
    """

    group: Annotated[str, msgspec.Meta(min_length=1)] = "group"
    pattern: str | None = None
    instance_id: str | None = None
    assignor: Literal["uniform", "range"] = "uniform"
    start: Literal["earliest", "latest"] = "earliest"
    session_timeout_ms: Positive = 6_000
    rebalance_timeout_ms: Positive = 5_000
    auto_commit_interval_ms: Positive | None = 500
    commit_probability: Probability = 0.2
    records_per_poll_max: Positive = 200
    poll_ms: Positive = 100
    handling_ms_max: Count = 20
    max_wait_ms: Positive = 200
    membership_ms: Count = 15_000
    idle_ms_max: Count = 1_000

    def coordinated_groups(self) -> tuple[str, ...]:
        return (self.group,)


class GroupWorker(Worker):
    """See the top of the file."""

    options_type: ClassVar[type[Options]] = GroupOptions

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self._joins = 0
        self._poll: asyncio.Task[list[ConsumerRecord]] | None = None

    @property
    def options(self) -> GroupOptions:
        options = self._common
        assert isinstance(options, GroupOptions)
        return options

    async def work(self, client: Client) -> None:
        topics = list(await self.find_topics(client))
        marks, commits = self.voice(), self.voice()
        try:
            while not self.is_over:
                await self._take_part(client, topics, marks, commits)
                await self.rest(self.rng.randint(0, self.options.idle_ms_max))
        finally:
            for voice in (marks, commits):
                voice.abandon("the client was closed")
                self.release(voice)

    async def _take_part(self, client: Client, topics: list[str], marks: Voice, commits: Voice) -> None:
        """One membership, or several if the coordinator ends some."""
        self._joins += 1
        consumer = self._consumer(client, topics)
        recorder = MemberRecorder(
            consumer, life=f"{self.life}.{self._joins}", marks=marks, commits=commits, on_lost=self._give_up_poll
        )
        deadline_ms = self.clock.monotonic_ms() + (self.pause_ms(self.options.membership_ms) or 1 << 62)
        async with TaskScope("group", on_fault=self._note_fault) as scope, consumer:
            recorder.watch_positions()
            while not self.is_over and self.clock.monotonic_ms() < deadline_ms:
                records = await self._poll_once(scope, recorder, marks)
                if records:
                    await self.clock.sleep_ms(self.rng.randint(0, self.options.handling_ms_max))
                if records and self.rng.random() < self.options.commit_probability:
                    try:
                        await consumer.commit()
                    except LogClusterError:
                        continue  # The recorder has written it; what was refused is another member's.

    def _consumer(self, client: Client, topics: list[str]) -> GroupConsumer:
        options = self.options
        more: dict[str, Any] = {}
        if options.pattern is not None:
            more["pattern"] = options.pattern
        if options.instance_id is not None:
            more["instance_id"] = options.instance_id
        consumer = client.consumer(
            *topics,
            group=options.group,
            start=options.start,
            on_out_of_range="earliest",
            max_wait_ms=options.max_wait_ms,
            assignor=options.assignor,
            session_timeout_ms=options.session_timeout_ms,
            rebalance_timeout_ms=options.rebalance_timeout_ms,
            auto_commit_interval_ms=options.auto_commit_interval_ms,
            **more,
        )
        assert isinstance(consumer, GroupConsumer)
        return consumer

    async def _poll_once(self, scope: TaskScope, recorder: MemberRecorder, voice: Voice) -> list[ConsumerRecord]:
        options = self.options
        poll = voice.invoke("poll", {}, **recorder.meta)
        read = recorder.consumer.read(options.records_per_poll_max, timeout_ms=options.poll_ms)
        task = self._poll = scope.spawn(read, name="poll")
        try:
            await asyncio.wait([task])
        finally:
            self._poll = None
        if task.cancelled():
            voice.refused(poll, "the membership was lost")
            return []
        error = task.exception()
        if isinstance(error, LogClusterError):
            voice.refused(poll, error)
        if error is not None:
            raise error
        records: list[ConsumerRecord] = task.result()
        voice.ok(poll, polled(records))
        return records

    def _give_up_poll(self) -> None:
        """What a poll has gathered comes again, to whoever is the next owner: nothing of it was handed out."""
        if self._poll is not None:
            self._poll.cancel()

    def _note_fault(self, name: str, error: BaseException) -> None:
        """Answers of the cluster end a poll, and are met by whoever waits for it."""
        if not isinstance(error, LogClusterError):
            self.crashed(name, error)
