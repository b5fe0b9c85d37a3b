"""What workloads send and how readers know it again: unique values that say what else their record carries.

A value is `ORIGIN-NUMBER|KIND|TIMESTAMP_MS`. The origin names one life of one client, so no value ever comes twice. The
kind is the number of the record's key, if it has one, and `h` if it has a header; a reader in another process can tell
from the value alone whether key, headers or timestamp were changed on the way.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from logcluster.check.payload import corrupt_value, decode_or_mark, encode, is_corrupt
from logcluster.client.consumer import Consumer
from logcluster.client.records import ConsumerRecord
from logcluster.runtime.clock import Clock

KEY_COUNT: Final = 24
Pairs = tuple[tuple[str, bytes], ...]


class Companions(NamedTuple):
    """What a record carries beside its value."""

    key: bytes | None
    headers: Pairs
    timestamp_ms: int


class OutgoingRecord(NamedTuple):
    """A record to be sent."""

    value: str
    payload: bytes
    key: bytes | None
    headers: Pairs
    timestamp_ms: int


class RecordMaker:
    """Makes records with values that are unique in the run.

    Args:
        origin: unique for each life of each client.
    """

    def __init__(self, origin: str, rng: random.Random, clock: Clock) -> None:
        self._origin = origin
        self._rng = rng
        self._clock = clock
        self._count = 0

    def make(
        self, *, size_bytes: int = 0, keyed_probability: float = 0.0, header_probability: float = 0.0
    ) -> OutgoingRecord:
        """The next record; its payload has at least this size."""
        self._count += 1
        kind = str(self._rng.randrange(KEY_COUNT)) if self._rng.random() < keyed_probability else ""
        if self._rng.random() < header_probability:
            kind += "h"
        value = f"{self._origin}-{self._count}|{kind}|{self._clock.now_ms()}"
        companions = companions_of(value)
        assert companions is not None
        return OutgoingRecord(value, encode(value, size_bytes), *companions)

    def make_plain(self, size_bytes: int = 0) -> tuple[str, bytes]:
        """Value and payload of the next record where neither key nor timestamp can be given."""
        self._count += 1
        value = f"{self._origin}-{self._count}"
        return value, encode(value, size_bytes)


def companions_of(value: str) -> Companions | None:
    """What the record of a value must carry; None for values that were made otherwise."""
    parts = value.split("|")
    if len(parts) != 3 or not parts[2].isdigit():
        return None
    identity, kind, timestamp_ms = parts
    number = kind.removesuffix("h")
    return Companions(
        key=f"k{number}".encode() if number else None,
        headers=(("id", identity.encode()),) if kind.endswith("h") else (),
        timestamp_ms=int(timestamp_ms),
    )


def read_value(record: ConsumerRecord) -> str:
    """The value of a record for the history: a mark of corruption when anything differs from what was sent."""
    value = decode_or_mark(record.value)
    companions = None if is_corrupt(value) else companions_of(value)
    if companions is None:
        return value
    if record.key != companions.key:
        return corrupt_value(f"key of {value} is {record.key!r}")
    if record.timestamp_ms != companions.timestamp_ms:
        return corrupt_value(f"timestamp of {value} is {record.timestamp_ms}")
    if tuple(record.headers) != companions.headers:
        return corrupt_value(f"headers of {value} are {record.headers!r}")
    return value


def key_of(topic: str, partition: int) -> str:
    """A partition as histories name it."""
    return f"{topic}-{partition}"


def polled(records: Iterable[ConsumerRecord]) -> dict[str, list[list[object]]]:
    """A poll's value."""
    found: dict[str, list[list[object]]] = {}
    for record in records:
        found.setdefault(key_of(record.topic, record.partition), []).append([record.offset, read_value(record)])
    return found


def positions_of(consumer: Consumer) -> dict[str, int]:
    """Where each partition goes on, as an `assign` names it."""
    return {key_of(name.topic, name.partition): offset for name, offset in consumer.positions().items()}


def names_of(keys: Sequence[str]) -> list[tuple[str, int]]:
    """Topics and partitions of keys."""
    return [(key.rpartition("-")[0], int(key.rpartition("-")[2])) for key in keys]
