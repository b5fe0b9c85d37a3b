"""Fetches ahead of the user within a byte budget: one request per leader, for all its partitions that want data.

`pump` launches requests; an answer becomes chunks in the order it names the partitions, and pumps again, so the next
request is on its way while the user works through the last answer. Errors that pass are retried here with a fresh
leader; others take the records' place in the queue, so that the user meets them in order. A bug in a task or a
callback ends all fetching, and the user is told after the records that are there already.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Literal

from logcluster.client.chunk import Chunk
from logcluster.client.connections import call
from logcluster.client.context import Context
from logcluster.client.metadata_cache import Leader
from logcluster.client.offsets import isolation_to_wire, look_up_each
from logcluster.client.records import Timestamp, normalize_point
from logcluster.client.subscription import PartitionState, Subscription
from logcluster.model.errors import (
    LogClusterError,
    OffsetOutOfRange,
    UnknownServerError,
    UnknownTopicId,
    UnknownTopicOrPartition,
)
from logcluster.model.ids import TopicPartition
from logcluster.model.probes import probe
from logcluster.runtime.scope import TaskScope
from logcluster.wire.gen.logcluster.v1 import data_pb2
from logcluster.wire.status import error_from_detail

logger = logging.getLogger("logcluster.client")

FETCHES_PER_BROKER_MAX = 3
"""More than one only after seeks and resumes, which need not wait for a long poll to end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchOptions:
    """How a consumer fetches; see `Client.consumer`."""

    max_wait_ms: int
    min_bytes: int
    fetch_size_bytes_max: int
    partition_size_bytes_max: int
    buffer_size_bytes: int
    isolation: str
    on_out_of_range: Literal["earliest", "latest", "error"]
    rack: str
    grace_ms: int
    """Beyond `max_wait_ms`: an answer later than this is not waited for, because the broker may be gone."""


class Fetcher:
    """The fetches of one consumer.

    Args:
        discard: lets the consumer forget what it has of a partition beyond what was handed out.
    """

    def __init__(
        self,
        subscription: Subscription,
        *,
        context: Context,
        scope: TaskScope,
        options: FetchOptions,
        discard: Callable[[PartitionState], None],
    ) -> None:
        self._subscription = subscription
        self._context = context
        self._connections = context.connections
        self._metadata = context.metadata
        self._clock = context.clock
        self._generator = context.generator
        self._policy = context.policy
        self._scope = scope
        self._options = options
        self._discard = discard
        self._loop = asyncio.get_running_loop()
        self._chunks: deque[Chunk] = deque()
        self._buffered_size_bytes = 0
        self._fetches: dict[int, int] = {}
        self._waiters: list[asyncio.Future[None]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._is_looking_up = False
        self._is_pump_due = False
        self._is_closed = False
        self.failure: LogClusterError | None = None
        """What ended all fetching: a bug."""
        self._metadata.listen(self.pump)

    def close(self) -> None:
        """Fetch no more; the scope ends what is on its way."""
        self._is_closed = True
        self._metadata.unlisten(self.pump)
        if self._timer is not None:
            self._timer.cancel()
        self.tell()

    def spawn(self, work: Coroutine[Any, Any, None], *, name: str) -> None:
        """Run a task of the consumer, whose failure is the consumer's."""
        self._scope.spawn(work, name=name).add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        if self.failure is None:
            hint = "this is a bug of the client; another consumer may read on from the last position"
            self.failure = UnknownServerError(f"the consumer failed: {error!r}", hint=hint)
            self.failure.__cause__ = error
        self.close()

    def end(self, error: LogClusterError) -> None:
        """Fetch no more, and let whoever reads meet this error."""
        if self.failure is None:
            self.failure = error
        self.close()

    # For the consumer.

    def take(self) -> Chunk | None:
        """The next chunk that still counts; its bytes are free for other fetches from now on."""
        while self._chunks:
            chunk = self._chunks.popleft()
            self._buffered_size_bytes -= chunk.size_bytes
            if not chunk.is_current:
                continue
            chunk.state.buffered_size_bytes -= chunk.size_bytes
            self._pump_soon()
            return chunk
        return None

    async def wait(self) -> None:
        """Wait until there may be something to take, or everything has ended. Cancellation: atomic.

        What came before the call counts: a `pump` may itself meet an error, and nobody is told of it twice.
        """
        if self._chunks or self.failure is not None:
            return
        waiter = self._loop.create_future()
        self._waiters.append(waiter)
        await waiter

    def tell(self) -> None:
        """Wake whoever waits."""
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    def _pump_soon(self) -> None:
        if not self._is_pump_due:
            self._is_pump_due = True
            self._loop.call_soon(self.pump)

    def pump(self) -> None:
        """Launch what fetches the budget and the partitions allow."""
        self._is_pump_due = False
        if self._is_closed:
            return
        try:
            self._launch_all()
        except Exception as error:  # a bug, of which whoever reads must hear
            logger.exception("a consumer failed")
            self._fail(error)

    def _launch_all(self) -> None:
        now_ms = self._clock.monotonic_ms()
        options = self._options
        by_leader: dict[int, list[tuple[PartitionState, int]]] = {}
        due: list[int] = []
        for state in self._subscription.states:
            if state.wants_data(now_ms, buffered_size_bytes_max=options.partition_size_bytes_max):
                leader = self._leader_of(state, now_ms)
                if leader is not None and leader.broker_id is not None:
                    by_leader.setdefault(leader.broker_id, []).append((state, leader.leader_epoch))
            if now_ms < state.not_before_ms:
                due.append(state.not_before_ms)
        for broker_id, states in by_leader.items():
            has_room = self._buffered_size_bytes < options.buffer_size_bytes
            if has_room and self._fetches.get(broker_id, 0) < FETCHES_PER_BROKER_MAX:
                self._launch(broker_id, states)
        if not self._is_looking_up and self._without_position(now_ms):
            self._is_looking_up = True
            self.spawn(self._look_up_positions(), name="positions")
        if due:
            self._arm(min(due) - now_ms)

    def _leader_of(self, state: PartitionState, now_ms: int) -> Leader | None:
        """Whom to ask; None while nobody leads, and then the partition backs off."""
        topic_id = self._metadata.cache.topic_id(state.topic)
        if topic_id and topic_id != state.topic_id:
            if state.is_bound:
                self._created_again(state)
                return None
            state.adopt(topic_id)
        leader = self._metadata.cache.leader(state.topic, state.partition)
        if leader is not None and leader.broker_id is not None:
            return leader
        if self._metadata.cache.is_missing(state.topic):
            self._failed(state, UnknownTopicOrPartition(f"topic {state.topic!r} does not exist any more"))
        else:
            self._back_off(state, now_ms)
            self._metadata.request_refresh()
        return None

    def _created_again(self, state: PartitionState) -> None:
        """The topic was deleted, and another one has its name: the position means nothing there."""
        text = f"topic {state.topic!r} was deleted and created again; offset {state.fetch_offset} is of the one before"
        hint = "seek to a place in the new topic" if state.end_offset is None else "make another consumer"
        self._show(state, UnknownTopicId(text, hint=hint))

    # Requests.

    def _launch(self, broker_id: int, states: list[tuple[PartitionState, int]]) -> None:
        options = self._options
        request = data_pb2.FetchRequest(
            max_wait_ms=options.max_wait_ms,
            min_bytes=options.min_bytes,
            max_bytes=min(options.fetch_size_bytes_max, options.buffer_size_bytes),
            isolation=isolation_to_wire(options.isolation),
            format=data_pb2.FETCH_FORMAT_BATCHES,
            rack_id=options.rack,
        )
        asked: dict[TopicPartition, tuple[PartitionState, int]] = {}
        # Whoever is first gets the most of `max_bytes`, so everybody is first in turn.
        first = self._generator.randrange(len(states))
        for state, leader_epoch in states[first:] + states[:first]:
            item = request.partitions.add(
                topic=state.topic,
                partition=state.partition,
                fetch_offset=state.fetch_offset,
                leader_epoch=leader_epoch,
                max_bytes=options.partition_size_bytes_max,
                topic_id=state.topic_id or None,
            )
            if state.last_epoch is not None:
                item.last_fetched_epoch = state.last_epoch
            state.is_fetching = True
            asked[state.name] = (state, state.generation)
        self._fetches[broker_id] = self._fetches.get(broker_id, 0) + 1
        self.spawn(self._fetch(broker_id, request, asked), name=f"fetch-{broker_id}")

    async def _fetch(
        self, broker_id: int, request: data_pb2.FetchRequest, asked: dict[TopicPartition, tuple[PartitionState, int]]
    ) -> None:
        error: LogClusterError | None = None
        response = data_pb2.FetchResponse()
        try:
            stub = self._connections.stubs(broker_id).data
            # Short at first, because a broker that fell silent may have been replaced; longer if it is only slow.
            attempts = max(state.attempts for state, _ in asked.values())
            timeout_ms = self._options.max_wait_ms + (self._options.grace_ms << min(attempts, 4))
            response = await call(stub.Fetch, request, timeout_ms=timeout_ms)
        except LogClusterError as raised:
            error = raised
        finally:
            self._fetches[broker_id] -= 1
            for state, generation in asked.values():
                if state.generation == generation:
                    state.is_fetching = False
        if error is None:
            for state, _ in asked.values():
                state.attempts = 0
        else:
            self._connections.note_failure(broker_id)
            for state, generation in asked.values():
                if state.generation == generation:
                    self._failed(state, error)
        for answer in response.partitions:
            known = asked.get(TopicPartition(answer.topic, answer.partition))
            if known is not None and known[0].generation == known[1]:
                self._answered(known[0], answer)
        self.pump()
        self.tell()

    def _answered(self, state: PartitionState, answer: data_pb2.PartitionFetch) -> None:
        if answer.HasField("error") and answer.error.code:
            if answer.HasField("leader"):
                self._metadata.cache.note_leader(
                    state.topic,
                    state.partition,
                    leader_id=answer.leader.leader_id,
                    leader_epoch=answer.leader.leader_epoch,
                    topic_id=state.topic_id,
                )
            state.log_start_offset = answer.log_start_offset
            self._failed(state, error_from_detail(answer.error))
            return
        state.is_bound = True
        if answer.HasField("diverging_epoch"):
            probe("client.fetch.moved_back_by_diverging_epoch")
            # Only after an unclean election: what was read from here on is not in the log any more. What was fetched
            # and not handed out is fetched again, as far as it is.
            self._discard(state)
            offset = min(state.fetch_offset, answer.diverging_epoch.end_offset)
            logger.warning("%s was cut to offset %d; reading on from there", state.name, offset)
            state.move(offset)
            return
        state.high_watermark = answer.high_watermark
        state.log_start_offset = answer.log_start_offset
        aborted = None
        if self._options.isolation == "read_committed":
            aborted = [(item.producer_id, item.first_offset) for item in answer.aborted_transactions]
        try:
            chunk = Chunk(state, answer.batches, next_offset=answer.next_offset, aborted=aborted)
        except LogClusterError as error:
            self._failed(state, error)
            return
        if chunk.next_offset <= state.fetch_offset and not chunk.size_bytes:
            state.attempts = 0
            return
        self._keep(chunk)

    def _keep(self, chunk: Chunk) -> None:
        chunk.state.fetched(next_offset=chunk.next_offset, last_epoch=chunk.last_epoch, size_bytes=chunk.size_bytes)
        self._buffered_size_bytes += chunk.size_bytes
        self._chunks.append(chunk)

    # Failures.

    def _failed(self, state: PartitionState, error: LogClusterError) -> None:
        now_ms = self._clock.monotonic_ms()
        self._back_off(state, now_ms)
        is_retried = error.retriable
        is_beyond_end = isinstance(error, OffsetOutOfRange) and state.fetch_offset > (state.log_start_offset or 0)
        if is_beyond_end or isinstance(error, UnknownTopicOrPartition):
            probe("client.fetch.refusal_doubted")
            # A new leader may not know the topic, or the end of its log, for a moment.
            state.refused_since_ms = now_ms if state.refused_since_ms is None else state.refused_since_ms
            is_retried = now_ms - state.refused_since_ms < self._context.options.topic_wait_ms
        if is_retried:
            if error.refresh_metadata:
                probe("client.fetch.metadata_refreshed")
            self._metadata.request_refresh()
            return
        self._show(state, error)

    def _show(self, state: PartitionState, error: LogClusterError) -> None:
        """Let the user meet the error, after the records that are there already."""
        error.facts = {**error.facts, "topic": state.topic, "partition": state.partition}
        state.not_before_ms = 1 << 62  # until the user seeks
        self._chunks.append(Chunk(state, b"", next_offset=0, error=error))
        self.tell()

    def goes_on_elsewhere(self, state: PartitionState, error: LogClusterError) -> bool:
        """The user has met the error of a partition: whether it is read on from a place that was named in advance.

        A partition of which nothing was read yet may lose its beginning to retention between look-up and fetch. A range
        of a topic means nothing in another topic of its name.
        """
        policy = self._options.on_out_of_range
        if isinstance(error, OffsetOutOfRange):
            is_untouched = state.last_epoch is None and normalize_point(state.start) in {"earliest", "latest"}
            if policy == "error" and not is_untouched:
                return False
            probe("client.fetch.out_of_range_reset")
        elif not isinstance(error, UnknownTopicId) or policy == "error" or state.end_offset is not None:
            return False
        if policy != "error":
            logger.warning("%s: %s; going to %s", state.name, error.message, policy)
            state.start = policy
        state.forget_fetched()
        state.position = None
        state.not_before_ms = 0
        return True

    def _back_off(self, state: PartitionState, now_ms: int) -> None:
        state.attempts += 1
        state.not_before_ms = now_ms + self._policy.delay_ms(state.attempts, self._generator)

    def _arm(self, delay_ms: int) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if delay_ms < 1 << 40:
            self._timer = self._loop.call_later(max(1, delay_ms) / 1000, self.pump)

    # Positions.

    async def _look_up_positions(self) -> None:
        """Find where partitions begin that were added or reset while reading; each that fails backs off by itself."""
        try:
            while not self._is_closed and (states := self._without_position(self._clock.monotonic_ms())):
                failures = await self.resolve(states, timeout_ms=5_000)
                for state, error in failures.items():
                    if state.position is not None:
                        continue  # the user has named another place meanwhile
                    if error.retriable:
                        self._back_off(state, self._clock.monotonic_ms())
                    else:
                        state.move(0)
                        self._failed(state, error)
                self.pump()
        finally:
            self._is_looking_up = False
            self.pump()
            self.tell()

    def _without_position(self, now_ms: int) -> list[PartitionState]:
        """Partitions whose position is to be looked up, and whose time to do it has come."""
        return [
            state for state in self._subscription.states if state.position is None and state.not_before_ms <= now_ms
        ]

    async def resolve(self, states: list[PartitionState], *, timeout_ms: int) -> dict[PartitionState, LogClusterError]:
        """Give each state its first position, from its `start`; one attempt. Returns why, of those that have none yet.

        One partition without a leader holds up no other.
        """
        points = {state.name: normalize_point(state.start) for state in states}
        topic_ids = {state.topic: self._metadata.cache.topic_id(state.topic) for state in states}
        for state in states:
            state.adopt(topic_ids[state.topic])
        found: dict[TopicPartition, int] = {
            name: int(point)
            for name, point in points.items()
            if isinstance(point, int) and not isinstance(point, Timestamp)
        }
        queries = {
            name: point for name, point in points.items() if isinstance(point, Timestamp) or not isinstance(point, int)
        }
        failures: dict[TopicPartition, LogClusterError] = {}
        if queries:
            looked_up, failures = await look_up_each(
                queries,
                context=self._context,
                isolation=self._options.isolation,
                timeout_ms=timeout_ms,
                topic_ids=topic_ids,
            )
            found |= looked_up
        for state in states:
            if state.name in failures:
                continue
            if state.position is None:
                state.move(found[state.name])
            state.is_bound = state.is_bound or state.name in queries
        return {state: failures[state.name] for state in states if state.name in failures}
