"""A consumer that is a member of a group: it reads what the coordinator assigns, and commits what is done.

Done is a record whose loop body has ended: when the next one is asked for, or the block is left without an exception.
What is done is committed once a second or so, before a partition is given up, and when the block is left; a record
that is in hand never is. So every record is handled at least once, whoever crashes.

`member` keeps the membership alive in tasks of its own, however long the application takes.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from operator import length_hint
from types import TracebackType
from typing import Final

from logcluster.client.consumer import Consumer, ReadRange
from logcluster.client.context import Context
from logcluster.client.fetcher import Fetcher, FetchOptions
from logcluster.client.group.commits import Commits, Position
from logcluster.client.group.coordinator import CoordinatorCalls
from logcluster.client.group.member import Member
from logcluster.client.group.membership import AssignedPartition, MemberOptions, Membership
from logcluster.client.group.processing import Handler, Unfinished, process
from logcluster.client.records import ConsumerRecord, PartitionKey, Point
from logcluster.client.resumable import Renew
from logcluster.client.subscription import PartitionState
from logcluster.model.errors import InvalidRequest, LogClusterError, RequestTimedOut, UnknownTopicOrPartition
from logcluster.model.ids import TopicPartition

logger = logging.getLogger("logcluster.client")

Hook = Callable[[list[TopicPartition]], Awaitable[None] | None]
"""Told of partitions that were assigned, or are about to be given up; may be a coroutine function."""
STUCK_CHECK_MS: Final = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupOptions:
    """How a consumer behaves in its group; see `Client.consumer`. Times in milliseconds."""

    member: MemberOptions
    start: Point
    auto_commit_interval_ms: int | None = 1_000
    """None: only `commit` commits."""
    stuck_after_ms: int = 60_000
    processing_timeout_ms: int | None = None
    on_assigned: Hook | None = None
    on_revoked: Hook | None = None


class GroupConsumer(Consumer):
    """Reads what is assigned to it; made by `Client.consumer` with `group`, used like `Consumer`."""

    def __init__(
        self,
        options: GroupOptions,
        *,
        context: Context,
        fetch_options: FetchOptions,
        max_records: int | None,
    ) -> None:
        read_range = ReadRange(
            topics=options.member.topics, start=options.start, until=None, partitions=(), max_records=max_records
        )
        super().__init__(read_range, context=context, options=fetch_options)
        self._group_options = options
        self._calls = CoordinatorCalls(context)
        self._membership = Membership(options.member, lambda: _uuid(context.generator.getrandbits(128)))
        self._commits = Commits(self._membership, self._calls)
        self._member = Member(self._membership, self, calls=self._calls, context=context, scope=self._scope)
        self._states: dict[AssignedPartition, PartitionState] = {}
        self._committed: dict[AssignedPartition, int] = {}
        self._in_hand: dict[PartitionState, int] = {}
        self._said_done: dict[PartitionState, tuple[int, int]] = {}
        """What the application committed by itself, with the partition's `moves` then: automatic commits stay above."""
        self._floor: dict[PartitionState, int | None] | None = None
        self._is_in_body = False
        self._came_back = asyncio.Event()
        self._left_at_ms: int | None = None
        self._left_wall_ms = 0
        self._unfinished: Unfinished | None = None
        self._is_left_in_peace = False

    # -- facts ---------------------------------------------------------------------------------------------------

    @property
    def member_id(self) -> str:
        """Who this consumer is in its group at the moment."""
        return self._membership.member_id

    @property
    def member_epoch(self) -> int:
        """0 while it is no member."""
        return self._membership.member_epoch

    @property
    def is_settled(self) -> bool:
        """Does it read everything that it is to have?"""
        return self._membership.is_settled and not self._membership.has_news

    @property
    def processing_since_ms(self) -> int:
        """Since when the application has been with its records (wall clock), if that is long; else 0."""
        left_at_ms = self._left_at_ms
        if left_at_ms is None or self._clock.monotonic_ms() - left_at_ms < self._group_options.stuck_after_ms:
            return 0
        return self._left_wall_ms

    # -- life ----------------------------------------------------------------------------------------------------

    async def _begin(self, fetcher: Fetcher) -> None:
        self._member.start()
        if self._group_options.auto_commit_interval_ms is not None:
            fetcher.spawn(self._commit_now_and_then(self._group_options.auto_commit_interval_ms), name="commits")
        fetcher.spawn(self._watch_application(), name="stuck")

    async def __aexit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error_type is GeneratorExit:
            return  # the event loop is gone, and nothing can be waited for; the session ends by itself
        self._is_left_in_peace = error_type is None
        await self.close()

    async def close(self) -> None:
        """Commit what is done, give everything up, leave the group. Calling again does nothing.

        Cancellation: the session ends by itself, and what was not committed comes again.
        """
        if self._fetcher is None or self._scope.is_closed:
            await super().close()
            return
        if self._is_left_in_peace:
            self._is_in_body = False
            self._in_hand.clear()
        try:
            for state in self._states.values():
                state.is_paused = True
            if self._membership.is_member and self._group_options.auto_commit_interval_ms is not None:
                await self._commit_done(list(self._states))
            if self._states and self._group_options.on_revoked is not None:
                await _tell(self._group_options.on_revoked, self._names(list(self._states)))
            await self._member.leave()
        finally:
            await super().close()

    def _is_finished(self) -> bool:
        return False

    def fail(self, error: LogClusterError) -> None:
        """The consumer can be no member: whoever reads hears of it."""
        if self._fetcher is not None:
            self._fetcher.end(error)

    # -- what is in hand -------------------------------------------------------------------------------------------

    async def _records(self, renew: Renew) -> AsyncGenerator[ConsumerRecord, None]:
        try:
            while True:
                self._enter_body()
                for record in self._ready_iterator:
                    yield record
                self._leave_body()
                if not await self._load():
                    return
        except GeneratorExit:
            raise
        except BaseException:
            renew()
            raise

    async def _batches(
        self, renew: Renew, max_records: int | None, max_wait_ms: int | None
    ) -> AsyncGenerator[list[ConsumerRecord], None]:
        inner = super()._batches(renew, max_records, max_wait_ms)
        async for records in inner:
            self._hold(self._firsts_of(records))
            yield records
            self._leave_body()

    async def read(self, max_records: int, *, timeout_ms: int | None = None) -> list[ConsumerRecord]:
        """As `Consumer.read`; the records count as done when it is called again, or by `commit`."""
        self._leave_body()
        # What is gathered is not the application's before this returns, and then it is in its hand.
        self._floor = {state: state.position for state in self._subscription.states}
        try:
            records, firsts = await self._gather(max_records, timeout_ms)
            # By what they were read as: a partition may have been lost and be read anew, from elsewhere, meanwhile.
            self._hold({state: offset for state, (offset, _) in firsts.items()})
        finally:
            self._floor = None
            self._came_back.set()
        return records

    async def take_batch(self, max_records: int) -> list[ConsumerRecord] | None:
        """As `Consumer.take_batch`; the records count as done when it is called again."""
        self._leave_body()
        records = await super().take_batch(max_records)
        self._hold(self._firsts_of(records or []))
        return records

    def _firsts_of(self, records: Sequence[ConsumerRecord]) -> dict[PartitionState, int]:
        """Where records of one partition begin that were taken a moment ago."""
        if not records:
            return {}
        name = TopicPartition(records[0].topic, records[0].partition)
        return {self._subscription.state(*name): records[0].offset} if name in self._subscription else {}

    def _hold(self, firsts: Mapping[PartitionState, int]) -> None:
        """Records from these offsets on are with the application."""
        for state, offset in firsts.items():
            self._in_hand.setdefault(state, offset)
        if firsts:
            self._enter_body(is_one_by_one=False)

    def _enter_body(self, *, is_one_by_one: bool = True) -> None:
        self._is_in_body = is_one_by_one
        self._left_at_ms = self._clock.monotonic_ms()
        self._left_wall_ms = self._clock.now_ms()

    def _leave_body(self) -> None:
        """The application has come back: what it had is done."""
        self._is_in_body = False
        self._left_at_ms = None
        self._in_hand.clear()
        self._came_back.set()

    def _settle(self) -> None:
        state = self._ready_state
        if self._is_in_body and state is not None:
            self._note_in_hand(state)
        super()._settle()

    def _note_in_hand(self, state: PartitionState) -> None:
        """Of a loop over single records, the one whose body runs."""
        index = len(self._ready) - length_hint(self._ready_iterator) - 1
        if index >= 0:
            self._in_hand = {state: self._ready[index].offset}

    def _done_offset(self, state: PartitionState) -> int | None:
        """Below which offset everything is done; None while that is not known."""
        offset = self._offset_come_back_from(state)
        said, moves = self._said_done.get(state, (0, -1))
        return offset if offset is None or moves != state.moves else max(offset, said)

    def _offset_come_back_from(self, state: PartitionState) -> int | None:
        """Below which offset the application has come back from everything."""
        self._settle()
        if self._floor is not None:
            return self._floor.get(state)
        if self._unfinished is not None and (offset := self._unfinished.first(state)) is not None:
            return offset
        offset = self._in_hand.get(state)
        return state.position if offset is None else offset

    # -- the assignment --------------------------------------------------------------------------------------------

    async def take_on(self, partitions: Collection[AssignedPartition]) -> None:
        """Read these from where the group is (see `member.Reader`)."""
        committed = await self._fetch_committed(partitions)
        for topic in dict.fromkeys(item.topic for item in partitions):
            await self._get_to_know(topic)
        for item in sorted(partitions):
            place = committed.get(item)
            start = self._group_options.start if place is None else place.offset
            state = self._subscription.add(item.topic, item.partition, start=start)
            state.adopt(item.topic_id)
            if place is not None:
                state.move(place.offset)
                state.last_epoch = place.leader_epoch
                self._committed[item] = place.offset
            self._states[item] = state
        if self._group_options.on_assigned is not None:
            await _tell(self._group_options.on_assigned, self._names(partitions))
        if self._fetcher is not None:
            self._fetcher.pump()

    async def _get_to_know(self, topic: str) -> None:
        self._metadata.add_topics(topic)
        while True:
            try:
                await self._metadata.topic(topic)
                return
            except UnknownTopicOrPartition as error:
                # It was deleted meanwhile, of which the coordinator hears too; or no broker asked knows it yet.
                logger.warning("group %s: %s", self._membership.options.group, error.message)
                self._metadata.add_topics(topic)
                return
            except LogClusterError as error:
                if not error.retriable:
                    raise
                logger.warning("group %s: metadata: %s", self._membership.options.group, error.message)
                await self._clock.sleep_ms(self._context.policy.backoff_ms_max)

    async def _fetch_committed(self, partitions: Collection[AssignedPartition]) -> Mapping[AssignedPartition, Position]:
        while True:
            try:
                return await self._commits.fetch(partitions)
            except LogClusterError as error:
                # A membership that is over is noticed by the heartbeats, which end this task.
                logger.warning("group %s: committed offsets: %s", self._membership.options.group, error.message)
                await self._clock.sleep_ms(self._context.policy.backoff_ms_max)

    async def give_up(self, partitions: Collection[AssignedPartition]) -> None:
        """Finish what is in hand of these, commit it, and read them no more (see `member.Reader`)."""
        states = [self._states[item] for item in partitions if item in self._states]
        for state in states:
            self._settle()
            self._discard(state)
            state.is_paused = True
        while any(self._is_with_application(state) for state in states):
            self._came_back.clear()
            await self._came_back.wait()
        await self._commit_done(partitions)
        if self._group_options.on_revoked is not None:
            await _tell(self._group_options.on_revoked, self._names(partitions))
        self._drop(partitions)

    def _is_with_application(self, state: PartitionState) -> bool:
        self._settle()
        if self._floor is not None and state.position != self._floor.get(state):
            return True
        return state in self._in_hand or (self._unfinished is not None and self._unfinished.first(state) is not None)

    async def lose(self, partitions: Collection[AssignedPartition]) -> None:
        """Read these no more; nothing of them can be committed (see `member.Reader`).

        What was being taken on goes too: the membership does not own it yet, and never will.
        """
        partitions = sorted({*partitions, *self._states})
        for item in partitions:
            if item in self._states:
                self._discard(self._states[item])
        names = self._names(partitions)
        self._drop(partitions)
        if names and self._group_options.on_revoked is not None:
            await _tell(self._group_options.on_revoked, names)

    def _drop(self, partitions: Collection[AssignedPartition]) -> None:
        for item in partitions:
            state = self._states.pop(item, None)
            self._committed.pop(item, None)
            if state is not None:
                self._in_hand.pop(state, None)
                self._said_done.pop(state, None)
                self._subscription.remove(state.name)

    def _names(self, partitions: Collection[AssignedPartition]) -> list[TopicPartition]:
        return [TopicPartition(item.topic, item.partition) for item in sorted(partitions) if item in self._states]

    # -- commits ---------------------------------------------------------------------------------------------------

    async def commit(
        self, offsets: Mapping[PartitionKey, int] | None = None, *, metadata: str = ""
    ) -> dict[TopicPartition, int]:
        """Commit; returns what is committed now.

        Args:
            offsets: the next offset to read, by partition; None: everything that was handed out, the record in hand
                included.
            metadata: a text to be kept with each offset.

        Raises:
            StaleMemberEpoch, PartitionNotAssigned, UnknownMemberId, ...: partitions are not this consumer's any more;
                the others are committed.
            InvalidRequest: a partition that is not assigned is named.
            LogClusterError: the outcome is unknown.
        Cancellation: it may be committed.
        """
        self._settle()
        if offsets is None:
            wanted = {item: state.position for item, state in self._states.items()}
        else:
            by_state = {self._state(key): offset for key, offset in offsets.items()}
            wanted = {item: by_state[state] for item, state in self._states.items() if state in by_state}
        positions = {
            item: Position(offset, self._epoch_before(item, offset), metadata)
            for item, offset in wanted.items()
            if offset is not None
        }
        for item, place in positions.items():
            state = self._states[item]
            self._said_done[state] = (place.offset, state.moves)
        refused = await self._commits.commit(positions)
        self._committed.update((item, place.offset) for item, place in positions.items() if item not in refused)
        if refused:
            raise next(iter(refused.values()))
        return {TopicPartition(item.topic, item.partition): place.offset for item, place in positions.items()}

    def committed(self) -> dict[TopicPartition, int]:
        """What this consumer knows to be committed of its partitions."""
        return {
            TopicPartition(item.topic, item.partition): offset
            for item, offset in sorted(self._committed.items())
            if item in self._states
        }

    def _epoch_before(self, item: AssignedPartition, offset: int) -> int | None:
        """Leader epoch of the record before `offset`; known where everything fetched was handed out."""
        state = self._states[item]
        return state.last_epoch if state.fetch_offset == offset else None

    async def _commit_done(self, partitions: Collection[AssignedPartition]) -> None:
        """Commit what is done and not committed yet; what is refused is another member's now."""
        positions: dict[AssignedPartition, Position] = {}
        for item in partitions:
            state = self._states.get(item)
            offset = None if state is None else self._done_offset(state)
            if offset is not None and offset != self._committed.get(item) and self._was_read(item, offset):
                positions[item] = Position(offset, self._epoch_before(item, offset))
        try:
            refused = await self._commits.commit(positions)
        except LogClusterError as error:
            logger.warning("group %s: not committed: %s", self._membership.options.group, error.message)
            return
        for item, refusal in refused.items():
            logger.warning("group %s: %s-%d: %s", self._membership.options.group, item.topic, item.partition, refusal)
        self._committed.update(
            (item, place.offset) for item, place in positions.items() if item not in refused and item in self._states
        )

    def _was_read(self, item: AssignedPartition, offset: int) -> bool:
        """A place that was only looked up is not committed, unless it is the group's place already."""
        state = self._states[item]
        return item in self._committed or state.is_bound or offset > 0

    async def _commit_now_and_then(self, interval_ms: int) -> None:
        while True:
            await self._clock.sleep_ms(interval_ms)
            if self._membership.is_member:
                await self._commit_done(list(self._states))

    # -- the application -------------------------------------------------------------------------------------------

    async def _watch_application(self) -> None:
        """Report an application that does not come back, and leave the group when it takes too long."""
        has_warned = False
        limit_ms = self._group_options.processing_timeout_ms
        while True:
            await self._clock.sleep_ms(STUCK_CHECK_MS)
            since_ms = self.processing_since_ms
            if not since_ms:
                has_warned = False
            elif not has_warned:
                has_warned = True
                logger.warning(
                    "group %s: the application has not come back for records for %d ms; its partitions stay its own",
                    self._membership.options.group,
                    self._group_options.stuck_after_ms,
                )
            left_at_ms = self._left_at_ms
            if limit_ms is not None and left_at_ms is not None and self._clock.monotonic_ms() - left_at_ms >= limit_ms:
                # Nothing more is handed out before the coordinator gives the partitions to others.
                await self.lose(sorted(self._membership.owned))
                await self._member.leave()
                self._membership.lose(is_forgotten=True)
                self.fail(
                    RequestTimedOut(
                        f"the application did not come back for records within {limit_ms} ms, and has left the group",
                        hint="raise `processing_timeout_ms`, or do less per record",
                    )
                )
                return

    async def process(self, handler: Handler, *, concurrency: int = 1) -> None:
        """Handle records in parallel: those of one key in order, at most `concurrency` at once; until the end.

        What is committed of a partition is everything below its first record that is not handled.

        Args:
            handler: a coroutine function that takes a record; with traces on, each call of it is a span.

        Raises:
            Exception: what the handler raised first; nothing from that record on is committed of its partition.
            LogClusterError: a partition cannot be read on.
        Cancellation: handlers are cancelled, too; their records come again.
        """
        if concurrency < 1:
            raise InvalidRequest("concurrency is at least 1")
        if self._context.options.traces:
            from logcluster.client.tracing import traced

            handler = traced(handler, group=self._group_options.member.group)
        self._unfinished = Unfinished(self._came_back.set)
        try:
            await process(self, handler, self._unfinished, concurrency=concurrency)
        finally:
            # What was cancelled or failed is not done: it stays in hand.
            for state, offset in self._unfinished.left().items():
                self._in_hand[state] = offset
            self._unfinished = None

    async def take_for_processing(
        self, max_records: int, unfinished: Unfinished
    ) -> list[tuple[PartitionState, ConsumerRecord]] | None:
        """The next records of one partition, noted as unfinished; None at the end. Cancellation: nothing was taken."""
        records = await Consumer.take_batch(self, max_records)
        if records is None:
            return None
        state = self._subscription.state(records[0].topic, records[0].partition)
        for record in records:
            unfinished.add(state, record.offset)
        return [(state, record) for record in records]


async def _tell(hook: Hook, names: list[TopicPartition]) -> None:
    """Call a hook; one that fails is logged, because nothing of what happens can be undone."""
    try:
        result = hook(names)
        if inspect.isawaitable(result):
            await result
    except Exception:
        logger.exception("a hook of a group consumer failed")


def _uuid(bits: int) -> str:
    """A random UUID (version 4) of 128 bits of chance."""
    bits = bits & ~(0xF << 76) & ~(0x3 << 62) | 0x4 << 76 | 0x2 << 62
    text = f"{bits:032x}"
    return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))
