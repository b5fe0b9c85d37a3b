"""Which partitions a consumer reads and how far it is in each.

Pure. Invariants: a position is a place in one topic, not in whichever has the name; an answer to an older position is
ignored (`generation` grows with every seek and pause); `fetch_offset` never lies before `position`; a partition whose
`end_offset` is reached is not asked for any more.
"""

from __future__ import annotations

from collections.abc import Iterable

from logcluster.client.records import Point
from logcluster.model.errors import InvalidRequest
from logcluster.model.ids import TopicPartition


class PartitionState:
    """One partition of a consumer."""

    __slots__ = (
        "attempts",
        "buffered_size_bytes",
        "end_offset",
        "fetch_offset",
        "generation",
        "high_watermark",
        "is_bound",
        "is_fetching",
        "is_paused",
        "last_epoch",
        "log_start_offset",
        "moves",
        "not_before_ms",
        "partition",
        "position",
        "refused_since_ms",
        "start",
        "topic",
        "topic_id",
    )

    def __init__(self, topic: str, partition: int, *, start: Point) -> None:
        self.topic = topic
        self.partition = partition
        self.topic_id = b""
        """Which topic of this name is read; empty: not known yet."""
        self.is_bound = False
        """A broker has answered for this topic, so the position is a place in it and in no other one."""
        self.start = start
        """Where to begin, as long as `position` is not known."""
        self.position: int | None = None
        """The next record to hand out; None until it was looked up."""
        self.fetch_offset = 0
        self.end_offset: int | None = None
        """Where to stop (exclusive); None: never."""
        self.last_epoch: int | None = None
        """Leader epoch of the last record before `fetch_offset`."""
        self.high_watermark: int | None = None
        self.log_start_offset: int | None = None
        self.generation = 0
        self.moves = 0
        """How often the position was set otherwise than by reading."""
        self.is_fetching = False
        self.is_paused = False
        self.buffered_size_bytes = 0
        self.attempts = 0
        self.not_before_ms = 0
        self.refused_since_ms: int | None = None

    @property
    def name(self) -> TopicPartition:
        return TopicPartition(self.topic, self.partition)

    @property
    def is_finished(self) -> bool:
        """Everything before `end_offset` was handed out."""
        return self.end_offset is not None and self.position is not None and self.position >= self.end_offset

    @property
    def lag(self) -> int | None:
        """Records between the position and the high watermark as last heard."""
        if self.high_watermark is None or self.position is None:
            return None
        return max(0, self.high_watermark - self.position)

    def move(self, position: int) -> None:
        """Go on from `position`; what was fetched or is being fetched counts no more."""
        self.moves += 1
        self.position = position
        self.fetch_offset = position
        self.last_epoch = None
        self.forget_fetched()

    def adopt(self, topic_id: bytes) -> None:
        """Read the topic with this id from now on, if it is another one."""
        if topic_id and topic_id != self.topic_id:
            self.topic_id = topic_id
            self.is_bound = False
            self.last_epoch = None
            self.forget_fetched()

    def go_back(self, position: int) -> None:
        """What was handed out from `position` on was not taken; what was fetched or is being fetched counts no more."""
        self.position = position
        self.forget_fetched()

    def forget_fetched(self) -> None:
        """What was fetched or is being fetched counts no more; the position stays."""
        self.generation += 1
        self.is_fetching = False
        self.buffered_size_bytes = 0
        if self.position is not None:
            self.fetch_offset = self.position

    def fetched(self, *, next_offset: int, last_epoch: int | None, size_bytes: int) -> None:
        """An answer reaches up to `next_offset`."""
        self.fetch_offset = max(self.fetch_offset, next_offset)
        if last_epoch is not None:
            self.last_epoch = last_epoch
        self.buffered_size_bytes += size_bytes
        self.attempts = 0
        self.refused_since_ms = None

    def handed_out(self, next_offset: int) -> None:
        """The user has everything before `next_offset`."""
        if self.position is None or next_offset > self.position:
            self.position = next_offset

    def wants_data(self, now_ms: int, *, buffered_size_bytes_max: int) -> bool:
        """Whether to ask for more now."""
        return (
            self.position is not None
            and not self.is_fetching
            and not self.is_paused
            and now_ms >= self.not_before_ms
            and self.buffered_size_bytes < buffered_size_bytes_max
            and (self.end_offset is None or self.fetch_offset < self.end_offset)
        )


class Subscription:
    """All partitions of a consumer, in a fixed order."""

    def __init__(self) -> None:
        self._states: dict[TopicPartition, PartitionState] = {}

    def add(self, topic: str, partition: int, *, start: Point) -> PartitionState:
        """Read this partition, too; the state it has already, if it is there."""
        name = TopicPartition(topic, partition)
        state = self._states.get(name)
        if state is None:
            state = self._states[name] = PartitionState(topic, partition, start=start)
        return state

    def remove(self, name: TopicPartition) -> None:
        """Read a partition no more; answers that are on their way for it count no more."""
        state = self._states.pop(name, None)
        if state is not None:
            state.forget_fetched()

    @property
    def states(self) -> Iterable[PartitionState]:
        return tuple(self._states.values())

    @property
    def topics(self) -> list[str]:
        return list(dict.fromkeys(state.topic for state in self._states.values()))

    @property
    def is_finished(self) -> bool:
        """Every partition has an end and has reached it."""
        return all(state.is_finished for state in self._states.values())

    def __contains__(self, name: TopicPartition) -> bool:
        return name in self._states

    def __len__(self) -> int:
        return len(self._states)

    def state(self, topic: str | None, partition: int) -> PartitionState:
        """The state of a partition; `topic` may be None when there is only one.

        Raises:
            InvalidRequest: the consumer does not read this partition.
        """
        if topic is None:
            topics = self.topics
            if len(topics) != 1:
                raise InvalidRequest("the consumer reads several topics", hint="name the topic: ('orders', 0)")
            topic = topics[0]
        state = self._states.get(TopicPartition(topic, partition))
        if state is None:
            raise InvalidRequest(f"the consumer does not read {topic}-{partition}", topic=topic, partition=partition)
        return state
