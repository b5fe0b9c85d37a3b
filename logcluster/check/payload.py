"""The payload that carries a value through the log: the value's id, padding, and a checksum over both.

Owns the bytes that test clients send, so that a reader can tell a damaged record from a strange one without asking
the producer. Layout: magic (4 bytes), CRC-32 of the rest (4), length of the id (2), id (UTF-8), padding derived from
the id. The checksum is another one than the log's own (CRC-32C): damage that slips through the log's check is still
seen here. A reader that cannot decode a record, or finds its key, headers or timestamp changed, writes
`corrupt_value(...)` in the place of the value, which the checker reports as corrupt-value.
"""

from __future__ import annotations

import struct
import zlib

MAGIC = b"LCv1"
CORRUPT_PREFIX = "!corrupt"
_HEADER = struct.Struct(">4sIH")
_ID_BYTES_MAX = 1 << 10


class CorruptPayload(ValueError):
    """The bytes are not what `encode` made; says what differs."""


def encode(value_id: str, size_bytes: int = 0) -> bytes:
    """The payload for a value, `size_bytes` long or as long as it must be, whichever is more.

    Raises ValueError for an empty or overlong id, or one that looks like a corruption mark.
    """
    identity = value_id.encode()
    if not identity or len(identity) > _ID_BYTES_MAX or value_id.startswith(CORRUPT_PREFIX):
        raise ValueError(f"not a value id: {value_id[:40]!r}")
    body = struct.pack(">H", len(identity)) + identity
    body += _padding(identity, size_bytes - 8 - len(body))
    return MAGIC + struct.pack(">I", zlib.crc32(body)) + body


def decode(payload: bytes) -> str:
    """The value's id. Raises CorruptPayload when a byte is missing, added or changed."""
    if len(payload) < _HEADER.size:
        raise CorruptPayload(f"{len(payload)} bytes are too few")
    magic, crc, id_bytes = _HEADER.unpack_from(payload)
    if magic != MAGIC:
        raise CorruptPayload(f"begins with {magic.hex()}")
    if zlib.crc32(memoryview(payload)[8:]) != crc:
        raise CorruptPayload(f"checksum differs in {len(payload)} bytes")
    identity = bytes(payload[_HEADER.size : _HEADER.size + id_bytes])
    if len(identity) != id_bytes or not identity:
        raise CorruptPayload("the id is cut off")
    return identity.decode()


def decode_or_mark(payload: bytes | None) -> str:
    """For a poll's value: the id, or the mark of a corrupt payload."""
    if payload is None:
        return corrupt_value("no payload")
    try:
        return decode(payload)
    except CorruptPayload as error:
        return corrupt_value(str(error))


def corrupt_value(reason: str) -> str:
    """What a reader records in the place of a value it cannot trust (bad checksum, changed key or headers)."""
    return f"{CORRUPT_PREFIX}: {reason}"


def is_corrupt(value: str) -> bool:
    """Whether a polled value is the mark of a corrupt record."""
    return value.startswith(CORRUPT_PREFIX)


def _padding(identity: bytes, size_bytes: int) -> bytes:
    """Bytes that differ from value to value, so that a payload stitched from two records cannot look whole."""
    if size_bytes <= 0:
        return b""
    pattern = struct.pack(">I", zlib.crc32(identity)) + identity
    return (pattern * (size_bytes // len(pattern) + 1))[:size_bytes]
