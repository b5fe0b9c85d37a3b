"""What users of the client hold in their hands: records read, acknowledgements, points in a log, lost records.

Plain immutable values, built a million times a second, hence named tuples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Literal, NamedTuple, Self

from logcluster.model.errors import InvalidRequest, LogClusterError

Headers = Sequence[tuple[str, bytes | None]]
"""Ordered; a key may occur more than once."""


class RecordAck(NamedTuple):
    """Where a record was written."""

    topic: str
    partition: int
    offset: int
    """-1 with `acks=0`, where nobody tells."""
    timestamp_ms: int
    """The record's own time, or the broker's when the topic stamps at append."""


class ConsumerRecord(NamedTuple):
    """One record as read."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    """None is a tombstone: the key was deleted."""
    headers: Headers


class Timestamp(int):
    """Milliseconds since 1970, where a plain number would mean an offset: `start=Timestamp(1_700_000_000_000)`."""

    @classmethod
    def of(cls, moment: datetime) -> Self:
        """The timestamp of a point in time; a naive one is local time."""
        return cls(round(moment.timestamp() * 1000))


Point = Literal["earliest", "latest", "end"] | int | Timestamp | datetime
"""A place in a log: its first record, its end, an offset, or the first record at or after a time."""

PartitionKey = int | tuple[str, int]
"""A partition by its number (when there is one topic), or by topic and number."""

Points = Point | Mapping[int, Point] | Mapping[tuple[str, int], Point]
"""One point for every partition, or one for each."""


def normalize_point(point: Point) -> Literal["earliest", "latest"] | int | Timestamp:
    """Reduce what users may write to a name, an offset or a timestamp.

    Raises:
        InvalidRequest: it is none of what `Point` lists.
    """
    if isinstance(point, datetime):
        return Timestamp.of(point)
    if isinstance(point, bool):
        raise InvalidRequest(f"{point!r} is no point in a log")
    if isinstance(point, int):
        if point < 0:
            raise InvalidRequest(f"offset or time {int(point)} is negative")
        return point
    if point in {"earliest", "beginning"}:
        return "earliest"
    if point in {"latest", "end"}:
        return "latest"
    raise InvalidRequest(
        f"{point!r} is no point in a log", hint='use "earliest", "latest", an offset, a datetime or a Timestamp'
    )


class RecordsLost(ExceptionGroup[LogClusterError], LogClusterError):  # type: ignore[override]
    """Records that a producer accepted were not acknowledged; one error per partition says how many and why.

    `definite` is true when certainly none of them was written. `outcomes` says what became of each record of a
    `send_many`, in their order: its acknowledgement, or why it has none; empty for records sent otherwise.
    """

    code = 1099
    outcomes: Sequence[RecordAck | LogClusterError] = ()

    def __new__(cls, message: str, errors: Sequence[LogClusterError]) -> Self:
        return super().__new__(cls, message, list(errors))

    def __init__(self, message: str, errors: Sequence[LogClusterError]) -> None:
        # Not the base's initialiser: `message` of a group is read-only and already there.
        self.hint = "send them again, or raise `delivery_timeout_ms`"
        self.facts = {}
        self.definite = all(error.definite for error in errors)  # type: ignore[misc]  # a fact of the instance here
        self.retriable = all(error.retriable for error in errors)  # type: ignore[misc]

    def derive(self, errors: Sequence[LogClusterError]) -> RecordsLost:  # type: ignore[override]
        return RecordsLost(self.message, errors)

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.message, list(self.exceptions)), {"outcomes": list(self.outcomes) or ()}
