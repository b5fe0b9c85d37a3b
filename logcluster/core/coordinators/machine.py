"""What a coordinator is: entities whose state is made of records, and handlers that return records and a response.

The runtime (`broker/coordinators`) gives a handler the entity that its request is about. The handler reads, and returns
records and a response. The runtime appends the records to the shard's partition; when that succeeded it replays them
into the entity, and lets the response go when they are committed. The same `replay` rebuilds an entity from storage,
where the newest value of every key is kept. So an entity in memory is always what its records make of it.

Rules a coordinator keeps: a handler changes nothing; time and chance come in as arguments; what a record does depends
on the record and the entity alone, not on time. What is not in records (sessions, who is connected) belongs to one
leadership, and is begun anew by `on_loaded`. Source: Kafka's coordinator runtime (KIP-848), style guide rule 8.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

Record = TypeVar("Record")
Record_contra = TypeVar("Record_contra", contravariant=True)
Response_co = TypeVar("Response_co", covariant=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Result(Generic[Record, Response_co]):
    """What a handler decides.

    Args:
        records: to be appended together, in this order; none for a question.
        response: for the caller, once the records, and all before them, are committed.
        wake: members to be told to send a heartbeat, once the records are committed.
        on_appended: called when the records were appended and replayed: what is not in records (deadlines) changes
            here. Never called when the append was refused.
    """

    records: tuple[Record, ...] = ()
    response: Response_co
    wake: tuple[str, ...] = ()
    on_appended: Callable[[], None] | None = None


class Entity(Protocol[Record_contra]):
    """Something whose state is a set of records, all under one key: a group, a transactional id, a queue."""

    @property
    def key_count(self) -> int:
        """How many keys it has in storage, for the bound of the cache; 0: it does not exist (any more)."""
        ...

    def replay(self, record: Record_contra) -> None:
        """Take over what a record says; the only way in which recorded state changes."""
        ...

    def on_loaded(self, now_ms: int) -> None:
        """All records of a new leadership are replayed: begin sessions at `now_ms` (monotonic)."""
        ...

    def next_deadline_ms(self) -> int | None:
        """When `Coordinator.expire` has something to do (monotonic); None: never by itself."""
        ...

    def is_at_rest(self) -> bool:
        """Nothing of it lives outside of its records, so that it may be forgotten and read again."""
        ...

    def check(self) -> None:
        """Check everything that must hold.

        Raises:
            InvariantViolation: something does not.
        """
        ...


AnyEntity = TypeVar("AnyEntity")


class Coordinator(Protocol[AnyEntity, Record]):
    """One kind of coordinator; one object per broker, without state of its own but for settings and metadata."""

    @property
    def topic(self) -> str:
        """The internal topic whose partitions are its shards."""
        ...

    def new_entity(self, key: str) -> AnyEntity:
        """An entity without records."""
        ...

    def expire(self, entity: AnyEntity, now_ms: int, wall_ms: int) -> Result[Record, None]:
        """What time has brought about; called when `next_deadline_ms` has come."""
        ...

    def on_metadata_changed(self, entity: AnyEntity, now_ms: int, wall_ms: int) -> Result[Record, None]:
        """Topics or partitions have changed; called for every entity in memory that is not at rest."""
        ...


class RecordCodec(Protocol[Record]):
    """Bytes of a coordinator's records. Keys sort by entity, then by kind; see `wire/group_records.py`."""

    def encode(self, record: Record) -> tuple[bytes, bytes | None]:
        """Key and value; the value is None for a record that removes its key."""
        ...

    def decode(self, key: bytes, value: bytes | None) -> Record | None:
        """The record, or None for a kind that a newer version wrote and that may be left out.

        Raises:
            CorruptMessage: the bytes are no record of this coordinator.
        """
        ...

    def entity_of(self, key: bytes) -> str:
        """The entity that a key belongs to.

        Raises:
            CorruptMessage: the bytes are no key of this coordinator.
        """
        ...

    def prefix(self, entity: str) -> bytes:
        """What all keys of an entity begin with, and no others."""
        ...

    def live_mark(self, entity: str) -> bytes:
        """What keys begin with whose presence means that the entity needs looking after (sessions) from the beginning
        of a leadership on: one seek finds out, without reading all of the entity.
        """
        ...
