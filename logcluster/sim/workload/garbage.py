"""Produce requests that no broker may accept, each broken in one way; pure.

A broker must refuse every one of them with an error of the request (never by failing itself) and append nothing. The
damage is only where a checksum or a rule covers it: base offset and leader epoch, which a leader stamps anyway, stay.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from logcluster.record.builder import build_batch
from logcluster.record.header import CONTROL_FLAG, HEADER_SIZE_BYTES, read_header, seal
from logcluster.wire.gen.logcluster.v1 import data_pb2 as pb

LENGTH_POSITION: Final = 8
LENGTH_SIZE_BYTES: Final = 4
MAGIC_POSITION: Final = 16


@dataclass(frozen=True, slots=True)
class Garbage:
    """A request and what is wrong with it."""

    name: str
    request: pb.ProduceRequest


def make_garbage(rng: random.Random, topic: str, partition: int, value: bytes) -> Garbage:
    """Draw one; `value` is what a record of it would say if it were accepted."""
    name = rng.choice(list(_BATCHES))
    batch = _BATCHES[name](rng, build_batch([(1_000, None, value, []), (1_001, b"key", value, [])]))
    request = pb.ProduceRequest(acks=pb.ACKS_ALL, timeout_ms=500)
    request.partitions.add(topic=topic, partition=partition, batch=batch)
    return Garbage(name, request)


def _noise(rng: random.Random, batch: bytes) -> bytes:
    return rng.randbytes(len(batch))


def _flip_bit(rng: random.Random, batch: bytes) -> bytes:
    damaged = bytearray(batch)
    damaged[rng.randrange(MAGIC_POSITION, len(batch))] ^= 1 << rng.randrange(8)
    return bytes(damaged)


def _wrong_length(rng: random.Random, batch: bytes) -> bytes:
    damaged = bytearray(batch)
    damaged[rng.randrange(LENGTH_POSITION, LENGTH_POSITION + LENGTH_SIZE_BYTES)] ^= 1 << rng.randrange(8)
    return bytes(damaged)


def _cut(rng: random.Random, batch: bytes) -> bytes:
    return batch[: rng.randrange(1, len(batch))]


def _two_in_one(_rng: random.Random, batch: bytes) -> bytes:
    return batch + batch


def _control(_rng: random.Random, batch: bytes) -> bytes:
    header = read_header(batch)
    return seal(header._replace(attributes=header.attributes | CONTROL_FLAG), batch[HEADER_SIZE_BYTES:])


def _wrong_count(rng: random.Random, batch: bytes) -> bytes:
    header = read_header(batch)
    count = header.record_count + rng.choice([-1, 1, 1000])
    lie = header._replace(record_count=count, last_offset_delta=count - 1)
    return seal(lie, batch[HEADER_SIZE_BYTES:])


def _no_sequence(_rng: random.Random, batch: bytes) -> bytes:
    lie = read_header(batch)._replace(producer_id=77, producer_epoch=0, base_sequence=-1)
    return seal(lie, batch[HEADER_SIZE_BYTES:])


def _unknown_codec(_rng: random.Random, batch: bytes) -> bytes:
    header = read_header(batch)
    return seal(header._replace(attributes=header.attributes | 7), batch[HEADER_SIZE_BYTES:])


def _not_compressed(_rng: random.Random, batch: bytes) -> bytes:
    """Says that it is compressed; a valid checksum over records that no codec can read."""
    header = read_header(batch)
    return seal(header._replace(attributes=header.attributes | 4), batch[HEADER_SIZE_BYTES:])


_BATCHES: Final[dict[str, Callable[[random.Random, bytes], bytes]]] = {
    "noise": _noise,
    "flipped-bit": _flip_bit,
    "wrong-length": _wrong_length,
    "cut": _cut,
    "two-in-one": _two_in_one,
    "control": _control,
    "wrong-count": _wrong_count,
    "no-sequence": _no_sequence,
    "unknown-codec": _unknown_codec,
    "not-compressed": _not_compressed,
}
GARBAGE_NAMES: Final = tuple(_BATCHES)
