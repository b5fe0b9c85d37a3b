"""The asynchronous consumer: reads partitions from wherever the user says, in order, and ends by itself when told to.

`fetcher` reads ahead; this file hands out. Records of a partition come in offset order; partitions take turns batch by
batch. Positions are what the user has been given: leaving a loop and entering another one skips and repeats nothing.

Errors and cancellation: nothing is lost and nothing comes twice; a record is handed out or still to come. An error of
one partition is raised once, when nothing else is in hand; the partition then waits for a `seek`, the others go on.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import length_hint
from types import TracebackType
from typing import Self

from logcluster.client.chunk import Chunk
from logcluster.client.context import Context
from logcluster.client.fetcher import Fetcher, FetchOptions
from logcluster.client.offsets import look_up_offsets
from logcluster.client.records import ConsumerRecord, PartitionKey, Point, Points, Timestamp, normalize_point
from logcluster.client.resumable import Renew, Resumable
from logcluster.client.retry import retry
from logcluster.client.subscription import PartitionState, Subscription
from logcluster.model.errors import InvalidRequest, LogClusterError, ShuttingDown, UnknownTopicOrPartition
from logcluster.model.ids import TopicPartition
from logcluster.runtime.scope import TaskScope


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadRange:
    """What a consumer reads; see `Client.consumer`."""

    topics: Sequence[str]
    start: Points
    until: Points | None
    partitions: Sequence[PartitionKey] | None
    max_records: int | None


Firsts = dict[PartitionState, tuple[int, int]]
"""By partition, the offset of the first of some records, and the partition's `moves` then."""


class Consumer:
    """Reads records; made by `Client.consumer`, used with `async with` and `async for`."""

    def __init__(self, read_range: ReadRange, *, context: Context, options: FetchOptions) -> None:
        self._topics = tuple(read_range.topics)
        self._start = read_range.start
        self._until = read_range.until
        self._partitions = read_range.partitions
        self._left = read_range.max_records
        self._context = context
        self._metadata = context.metadata
        self._clock = context.clock
        self._options = options
        self._scope = TaskScope("client/consumer")
        self._subscription = Subscription()
        self._fetcher: Fetcher | None = None
        self._chunk: Chunk | None = None
        self._ready: list[ConsumerRecord] = []
        self._ready_iterator: Iterator[ConsumerRecord] = iter(())
        self._ready_state: PartitionState | None = None
        self._ready_next_offset = 0

    async def __aenter__(self) -> Self:
        self._fetcher = Fetcher(
            self._subscription,
            context=self._context,
            scope=self._scope,
            options=self._options,
            discard=self._discard,
        )
        try:
            await self._begin(self._fetcher)
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Stop fetching; calling again does nothing."""
        if self._fetcher is not None:
            self._fetcher.close()
        await self._scope.close()

    # Reading.

    def __aiter__(self) -> Resumable[ConsumerRecord]:
        """Iterate over records; `anext` may be cancelled, or raise, and be called again: the next record comes then."""
        return Resumable(self._records)

    async def _records(self, renew: Renew) -> AsyncGenerator[ConsumerRecord, None]:
        try:
            while True:
                for record in self._ready_iterator:
                    yield record
                if not await self._load():
                    return
        except GeneratorExit:
            raise
        except BaseException:
            renew()
            raise

    def batches(
        self, *, max_records: int | None = None, max_wait_ms: int | None = None
    ) -> Resumable[list[ConsumerRecord]]:
        """Iterate over lists of records of one partition each, as fetched; much cheaper per record than one by one.

        Args:
            max_records: of a list; by default what a batch in the log holds.
            max_wait_ms: yield an empty list when nothing came for so long; by default wait.
        Cancellation: of `anext`: nothing was taken; call it again.
        """
        return Resumable(lambda renew: self._batches(renew, max_records, max_wait_ms))

    async def _batches(
        self, renew: Renew, max_records: int | None, max_wait_ms: int | None
    ) -> AsyncGenerator[list[ConsumerRecord], None]:
        try:
            while True:
                deadline_ms = None if max_wait_ms is None else self._clock.monotonic_ms() + max_wait_ms
                records = self._take_ready(max_records)
                if not records:
                    if not await self._load(deadline_ms):
                        return
                    records = self._take_ready(max_records)
                if records or deadline_ms is not None:
                    yield records
        except GeneratorExit:
            raise
        except BaseException:
            renew()
            raise

    async def take_batch(self, max_records: int) -> list[ConsumerRecord] | None:
        """The next records of one partition, at least one; None at the end. For whoever iterates in another thread."""
        while True:
            records = self._take_ready(max_records)
            if records:
                return records
            if not await self._load():
                return None

    def give_back(self, records: Sequence[ConsumerRecord]) -> None:
        """Take back records of one partition that `take_batch` gave last and nobody has looked at."""
        if not records:
            return
        state = self._subscription.state(records[0].topic, records[0].partition)
        self._take_back(len(records), {state: (records[0].offset, state.moves)})
        if self._fetcher is not None:
            self._fetcher.pump()

    def _take_back(self, count: int, firsts: Firsts) -> None:
        """Undo that records were handed out: `count` of all partitions."""
        if self._left is not None:
            self._left += count
        for state, (offset, moves) in firsts.items():
            if state.position is not None and state.moves == moves:  # else the user has gone elsewhere meanwhile
                self._discard(state)
                state.go_back(offset)

    async def read(self, max_records: int, *, timeout_ms: int | None = None) -> list[ConsumerRecord]:
        """Read up to `max_records`; fewer when the consumer's end, the time or an error comes first.

        An error that comes after some records is raised by the next call, once these have been returned.

        Args:
            timeout_ms: how long to wait for all of them; None: as long as it takes; 0: what is there already.

        Raises:
            LogClusterError: a partition cannot be read on.
            UnknownServerError: the consumer has failed for good, for a bug.
        Cancellation: nothing was taken; the records come again with the next call. To get what came within some time,
            give `timeout_ms`.
        """
        records, _ = await self._gather(max_records, timeout_ms)
        return records

    async def _gather(self, max_records: int, timeout_ms: int | None) -> tuple[list[ConsumerRecord], Firsts]:
        """As `read`; also says where the records of each partition begin, as which it was read then."""
        deadline_ms = None if timeout_ms is None else self._clock.monotonic_ms() + timeout_ms
        records: list[ConsumerRecord] = []
        firsts: Firsts = {}
        try:
            while len(records) < max_records:
                state = self._ready_state
                more = self._take_ready(max_records - len(records))
                if more:
                    if state is not None and state not in firsts:
                        firsts[state] = (more[0].offset, state.moves)
                    records += more
                elif not await self._load(deadline_ms, has_some=bool(records)) or (
                    not self._has_ready() and self._is_late(deadline_ms)
                ):
                    break
        except GeneratorExit:  # nobody will ever read on
            raise
        except BaseException:
            self._take_back(len(records), firsts)
            raise
        return records, firsts

    def _is_late(self, deadline_ms: int | None) -> bool:
        return deadline_ms is not None and self._clock.monotonic_ms() >= deadline_ms

    def _has_ready(self) -> bool:
        return length_hint(self._ready_iterator) > 0

    def _take_ready(self, count_max: int | None) -> list[ConsumerRecord]:
        if count_max is None:
            return list(self._ready_iterator)
        return [record for _, record in zip(range(count_max), self._ready_iterator, strict=False)]

    async def _load(self, deadline_ms: int | None = None, *, has_some: bool = False) -> bool:
        """Make more records ready; False when there will be none. With a deadline it may return with none ready.

        Args:
            has_some: the caller holds records already: false is returned before an error, which the next call raises.

        Raises:
            LogClusterError: a partition cannot be read on.
        """
        self._settle()
        fetcher = self._fetcher
        if fetcher is None:
            raise InvalidRequest("the consumer is not open", hint="use `async with client.consumer(...) as consumer`")
        while not self._has_ready():
            if self._left == 0:
                return False
            if self._chunk is None:
                self._chunk = fetcher.take()
                if self._chunk is not None:
                    # However fast records come, the loop gets its turn, and the next fetch goes out meanwhile.
                    await self._clock.sleep_ms(0)
            if self._chunk is not None:
                if has_some and self._chunk.error is not None:
                    return False
                self._open_next_batch(self._chunk)
                continue
            if self._is_finished():
                return False
            if fetcher.failure is not None or self._scope.is_closed:
                if has_some:
                    return False
                raise fetcher.failure or ShuttingDown("the consumer is closed")
            if self._is_late(deadline_ms):
                return True
            await self._wait(fetcher, deadline_ms)
        return True

    def _is_finished(self) -> bool:
        """Has everything been handed out that ever will be?"""
        return self._subscription.is_finished

    async def _wait(self, fetcher: Fetcher, deadline_ms: int | None) -> None:
        fetcher.pump()
        if deadline_ms is None:
            await fetcher.wait()
            return
        left_ms = max(0, deadline_ms - self._clock.monotonic_ms())
        try:
            async with asyncio.timeout(left_ms / 1000):
                await fetcher.wait()
        except TimeoutError:
            return

    def _open_next_batch(self, chunk: Chunk) -> None:
        """Decode one more batch of the chunk, or drop the chunk when nothing of it is left."""
        state = chunk.state
        if not chunk.is_current:
            self._chunk = None
            return
        if chunk.error is not None:
            self._chunk = None
            if self._fetcher is not None and self._fetcher.goes_on_elsewhere(state, chunk.error):
                return
            raise chunk.error
        try:
            opened = chunk.next_records()
        except LogClusterError as error:
            # Read from here again after the error was raised: never past it.
            state.forget_fetched()
            self._chunk = Chunk(state, b"", next_offset=0, error=error)
            return
        if opened is None:
            self._chunk = None
            return
        records, next_offset = opened
        if self._left is not None:
            if len(records) > self._left:
                del records[self._left :]
                next_offset = records[-1].offset + 1
            self._left -= len(records)
        self._ready = records
        self._ready_iterator = iter(records)
        self._ready_state = state
        self._ready_next_offset = next_offset
        if not records:
            self._settle()

    def _settle(self) -> None:
        """Bring the position of the batch in hand up to what was handed out."""
        state = self._ready_state
        if state is None:
            return
        left = length_hint(self._ready_iterator)
        if left:
            state.handed_out(self._ready[len(self._ready) - left].offset)
        else:
            state.handed_out(self._ready_next_offset)
            self._ready_state = None

    # Positions.

    @property
    def assignment(self) -> list[TopicPartition]:
        """The partitions that are read."""
        return [state.name for state in self._subscription.states]

    def positions(self) -> dict[TopicPartition, int]:
        """The offset of the next record to come, for each partition whose position is known."""
        self._settle()
        return {state.name: state.position for state in self._subscription.states if state.position is not None}

    def position(self, partition: PartitionKey) -> int | None:
        """The offset of the next record to come; None while it is not known yet."""
        self._settle()
        return self._state(partition).position

    def lag(self) -> dict[TopicPartition, int]:
        """Records between position and end, by what the last answers said."""
        self._settle()
        return {state.name: lag for state in self._subscription.states if (lag := state.lag) is not None}

    async def seek(self, point: Points, *, partition: PartitionKey | None = None) -> None:
        """Go on from another place: of all partitions, of one, or with a mapping of several.

        Raises:
            InvalidRequest: the consumer does not read a partition that is named.
            LogClusterError: a leader could not be asked for an offset.
        """
        if isinstance(point, Mapping):
            targets = [(self._state(key), place) for key, place in point.items()]
        else:
            states = list(self._subscription.states) if partition is None else [self._state(partition)]
            targets = [(state, point) for state in states]
        for state, place in targets:
            normalize_point(place)
            self._discard(state)
            state.start = place
            state.position = None
            state.not_before_ms = 0
        await self._resolve([state for state, _ in targets])
        if self._fetcher is not None:
            self._fetcher.pump()

    def pause(self, *partitions: PartitionKey) -> None:
        """Hand out nothing more of these partitions (all, if none is named) until `resume`."""
        for state in self._named(partitions):
            self._discard(state)
            state.is_paused = True

    def resume(self, *partitions: PartitionKey) -> None:
        """Go on where `pause` stopped."""
        for state in self._named(partitions):
            state.is_paused = False
        if self._fetcher is not None:
            self._fetcher.pump()

    def _named(self, partitions: Sequence[PartitionKey]) -> list[PartitionState]:
        return [self._state(key) for key in partitions] if partitions else list(self._subscription.states)

    def _state(self, key: PartitionKey) -> PartitionState:
        if isinstance(key, int):
            return self._subscription.state(None, key)
        return self._subscription.state(key[0], key[1])

    def _discard(self, state: PartitionState) -> None:
        """Forget what was fetched of a partition beyond what was handed out."""
        self._settle()
        if self._ready_state is state:
            if self._left is not None:
                self._left += length_hint(self._ready_iterator)
            self._ready.clear()  # ends the iterator that a loop of the user may hold
            self._ready_state = None
        if self._chunk is not None and self._chunk.state is state:
            self._chunk = None
        state.forget_fetched()

    # The beginning.

    async def _begin(self, fetcher: Fetcher) -> None:
        for topic in self._topics:
            await self._metadata.topic(topic)
        self._metadata.add_topics(*self._topics)
        states = self._add_partitions(self._start)
        for state in states:
            normalize_point(state.start)
        await self._resolve(states)
        await self._resolve_ends(states)
        if self._partitions is None and self._until is None:
            fetcher.spawn(self._follow_topics(), name="new-partitions")
        fetcher.pump()

    def _add_partitions(self, start: Points) -> list[PartitionState]:
        """Subscribe to what the user named, or to every partition that exists; returns the new ones."""
        names: list[TopicPartition] = []
        for key in self._partitions if self._partitions is not None else ():
            topic, partition = (self._only_topic(), key) if isinstance(key, int) else key
            count = self._metadata.cache.partition_count(topic)
            if not 0 <= partition < count:
                raise UnknownTopicOrPartition(
                    f"topic {topic!r} has partitions 0 to {count - 1}, not {partition}",
                    topic=topic,
                    partition=partition,
                )
            names.append(TopicPartition(topic, partition))
        if self._partitions is None:
            for topic in self._topics:
                names += [TopicPartition(topic, index) for index in range(self._metadata.cache.partition_count(topic))]
        added: list[PartitionState] = []
        points = {} if not isinstance(start, Mapping) else {self._full_name(key): point for key, point in start.items()}
        for name in names:
            if name in self._subscription:
                continue
            if isinstance(start, Mapping):
                if self._partitions is None and name not in points:
                    continue
                point: Point = points.get(name, "earliest")
            else:
                point = start
            added.append(self._subscription.add(name.topic, name.partition, start=point))
        missing = [name for name in points if name not in self._subscription]
        if missing:
            raise UnknownTopicOrPartition(f"there is no partition {missing[0]}")
        return added

    def _only_topic(self) -> str:
        if len(self._topics) != 1:
            raise InvalidRequest("the consumer reads several topics", hint="name the topic: ('orders', 0)")
        return self._topics[0]

    def _full_name(self, key: PartitionKey) -> TopicPartition:
        return TopicPartition(self._only_topic(), key) if isinstance(key, int) else TopicPartition(*key)

    async def _resolve(self, states: list[PartitionState]) -> None:
        fetcher = self._fetcher
        if fetcher is None:
            raise InvalidRequest("the consumer is not open", hint="use `async with client.consumer(...) as consumer`")

        async def attempt(left_ms: int) -> None:
            failures = await fetcher.resolve([state for state in states if state.position is None], timeout_ms=left_ms)
            for error in failures.values():
                raise error

        await retry(
            attempt,
            clock=self._clock,
            generator=self._context.generator,
            policy=self._context.policy,
            timeout_ms=self._context.options.request_timeout_ms,
        )

    async def _resolve_ends(self, states: list[PartitionState]) -> None:
        until = self._until
        if until is None:
            return
        points = {self._full_name(key): point for key, point in until.items()} if isinstance(until, Mapping) else None
        queries: dict[TopicPartition, str | Timestamp] = {}
        for state in states:
            if points is not None and state.name not in points:
                raise InvalidRequest(f"`until` says nothing about {state.name}")
            point = normalize_point(points[state.name] if points is not None else until)  # type: ignore[arg-type]
            if isinstance(point, int) and not isinstance(point, Timestamp):
                state.end_offset = point
            else:
                queries[state.name] = point
        if not queries:
            return
        found = await retry(
            lambda left_ms: look_up_offsets(
                queries,  # type: ignore[arg-type]  # only names and times are left
                context=self._context,
                isolation=self._options.isolation,
                timeout_ms=left_ms,
                topic_ids={state.topic: state.topic_id for state in states},
            ),
            clock=self._clock,
            generator=self._context.generator,
            policy=self._context.policy,
            timeout_ms=self._context.options.request_timeout_ms,
        )
        for state in states:
            if state.name in found:
                state.end_offset = found[state.name]
                state.is_bound = True

    async def _follow_topics(self) -> None:
        """Read partitions that are added later, from their beginning, because nothing of them was there before."""
        while True:
            await self._clock.sleep_ms(self._context.options.metadata_age_ms_max)
            self._metadata.request_refresh()
            if not isinstance(self._start, Mapping):
                self._add_partitions("earliest")
            if self._fetcher is not None:
                self._fetcher.pump()
