"""The bytes of the lane: preface, frames, metadata blocks and the incremental decoder. Pure.

    preface   magic 7 bytes | version u8 | stream credit u32 | largest frame accepted u32
    frame     payload length u32 | call id u32 | kind u8 | payload

    OPEN      flags u8 | method id u16 | deadline ms u32 (0 = none)
              | name length u16, name         if HAS_NAME: defines the id on this connection
              | block length u32, block       if HAS_METADATA
              | message                       if HAS_MESSAGE: a unary request, the caller sends nothing more
    MESSAGE   message of a stream, paid for with credit     ANSWER  unary response: status OK, ends the call
    END       the caller has sent all its messages          STATUS  code u8 | details length u16, details | block
    HEADERS   initial metadata block                        CREDIT  u32 more bytes for the sender of messages
    CANCEL    the caller gave up                            PING, PONG  8 opaque bytes; keepalive
    GOAWAY    reason: no new calls here, the open ones go on

All integers are big-endian. The first eight bytes of the preface never change, so that two versions can refuse
each other politely. Calls are opened by the side that connected; connection-wide frames use call id 0.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from typing import Final

MAGIC: Final = b"\x93LCLANE"
VERSION: Final = 1
PREFACE: Final = struct.Struct("!7sBII")
FRAME_HEADER: Final = struct.Struct("!IIB")
OPEN_FIELDS: Final = struct.Struct("!BHI")
FRAME_AND_OPEN: Final = struct.Struct("!IIBBHI")
STATUS_FIELDS: Final = struct.Struct("!BH")
SIZE_U32: Final = struct.Struct("!I")
SIZE_U16: Final = struct.Struct("!H")
METADATA_ENTRY: Final = struct.Struct("!HI")

OPEN: Final = 1
MESSAGE: Final = 2
ANSWER: Final = 3
END: Final = 4
STATUS: Final = 5
HEADERS: Final = 6
CREDIT: Final = 7
CANCEL: Final = 8
PING: Final = 9
PONG: Final = 10
GOAWAY: Final = 11

HAS_NAME: Final = 1
HAS_METADATA: Final = 2
HAS_MESSAGE: Final = 4

FRAME_HEADER_SIZE_BYTES: Final = FRAME_HEADER.size
MESSAGE_OVERHEAD_BYTES: Final = 64
"""What a stream message costs in credit beyond its own size, so that empty messages are bounded as well."""
LARGE_FRAME_SIZE_BYTES: Final = 48 * 1024
"""A payload from here on is received straight into its own buffer."""
UNJOINED_SIZE_BYTES: Final = 256 * 1024
"""A payload from here on is sent by itself; smaller ones are joined into writes of at most this size."""
READ_BUFFER_SIZE_BYTES: Final = 128 * 1024
STATUS_DETAILS_SIZE_BYTES_MAX: Final = 4 * 1024

Buffer = bytes | bytearray
TLS_RECORD_KINDS: Final = (b"\x15", b"\x16")
"""First bytes of a TLS alert and of a handshake; the version's 3 comes next (RFC 8446, 5.1)."""
MetadataItems = Sequence[tuple[str, str | bytes]]
Frame = tuple[int, int, Buffer]
"""Kind, call id, payload."""


class FrameError(Exception):
    """The peer broke the protocol; the connection cannot go on."""


class VersionMismatch(FrameError):
    """The peer speaks another version of the lane."""

    def __init__(self, peer_version: int) -> None:
        super().__init__(f"the peer speaks lane version {peer_version}, this side version {VERSION}")
        self.peer_version = peer_version


class TlsMismatch(FrameError):
    """The peer speaks TLS where plain text was expected."""


def encode_preface(*, stream_credit_bytes: int, frame_size_bytes_max: int) -> bytes:
    """Build what each side sends first."""
    return PREFACE.pack(MAGIC, VERSION, stream_credit_bytes, frame_size_bytes_max)


def check_preface_start(data: Buffer) -> None:
    """Refuse a peer as early as its first bytes allow; `data` may be shorter than a preface.

    Raises:
        FrameError: these are not the first bytes of a lane connection.
        TlsMismatch: they are those of TLS.
        VersionMismatch: they are, of another version.
    """
    if data[:1] in TLS_RECORD_KINDS and data[1:2] == b"\x03":
        raise TlsMismatch("the peer speaks TLS, and this side does not")
    if not MAGIC.startswith(data[: len(MAGIC)]):
        raise FrameError("the peer does not speak the lane protocol")
    if len(data) > len(MAGIC) and data[len(MAGIC)] != VERSION:
        raise VersionMismatch(data[len(MAGIC)])


def decode_preface(data: Buffer) -> tuple[int, int]:
    """Read the peer's stream credit and largest frame, both in bytes.

    Raises:
        FrameError: not a lane preface, another version, or impossible sizes.
    """
    check_preface_start(data)
    _magic, _version, stream_credit_bytes, frame_size_bytes_max = PREFACE.unpack_from(data)
    if stream_credit_bytes < 1 or frame_size_bytes_max < 1024:
        raise FrameError("the peer's preface leaves no room for messages")
    return stream_credit_bytes, frame_size_bytes_max


def encode_frame(kind: int, call_id: int, payload: Buffer = b"") -> bytes:
    """Build one small frame in one piece."""
    return FRAME_HEADER.pack(len(payload), call_id, kind) + payload


def encode_open(
    *, call_id: int, method_id: int, name: str | None, deadline_ms: int, metadata: bytes, message_size: int | None
) -> bytes:
    """Build an opening frame up to its message, whose bytes must follow at once; None opens a stream.

    `name` is given the first time `method_id` is used on a connection; `metadata` is an encoded block or empty.
    """
    flags = 0
    middle = b""
    if name is not None:
        encoded = name.encode()
        flags |= HAS_NAME
        middle = SIZE_U16.pack(len(encoded)) + encoded
    if metadata:
        flags |= HAS_METADATA
        middle += SIZE_U32.pack(len(metadata)) + metadata
    if message_size is not None:
        flags |= HAS_MESSAGE
    length = OPEN_FIELDS.size + len(middle) + (message_size or 0)
    return FRAME_AND_OPEN.pack(length, call_id, OPEN, flags, method_id, deadline_ms) + middle


def read_sized(payload: Buffer, position: int, size_format: struct.Struct) -> tuple[int, Buffer]:
    """Read a length and that many bytes; returns the position behind them and the bytes.

    Raises:
        FrameError: they are cut off.
    """
    start = position + size_format.size
    if start > len(payload):
        raise FrameError("an opening frame is cut off")
    end = start + size_format.unpack_from(payload, position)[0]
    if end > len(payload):
        raise FrameError("an opening frame is cut off")
    return end, bytes(payload[start:end])


def encode_status(code: int, details: str, metadata: bytes) -> bytes:
    """Build the payload of a STATUS frame; over-long details are cut."""
    encoded = details.encode("utf-8", "replace")[:STATUS_DETAILS_SIZE_BYTES_MAX]
    return STATUS_FIELDS.pack(code, len(encoded)) + encoded + metadata


def decode_status(payload: Buffer) -> tuple[int, str, Buffer]:
    """Read code, details and the metadata block of a STATUS payload.

    Raises:
        FrameError: the payload is cut off.
    """
    if len(payload) < STATUS_FIELDS.size:
        raise FrameError("a status frame is cut off")
    code, length = STATUS_FIELDS.unpack_from(payload)
    end = STATUS_FIELDS.size + length
    if end > len(payload):
        raise FrameError("the details of a status frame are cut off")
    return code, bytes(payload[STATUS_FIELDS.size : end]).decode("utf-8", "replace"), payload[end:]


def decode_credit(payload: Buffer) -> int:
    """Read how many bytes a CREDIT frame grants.

    Raises:
        FrameError: the payload is not a number.
    """
    if len(payload) != SIZE_U32.size:
        raise FrameError("a credit frame has the wrong size")
    size_bytes: int = SIZE_U32.unpack(payload)[0]
    return size_bytes


def encode_metadata(items: Iterable[tuple[str, str | bytes]]) -> bytes:
    """Build a metadata block; keys ending in `-bin` carry bytes, all others text. No items give no bytes."""
    parts: list[bytes] = []
    for key, value in items:
        encoded_key = key.encode()
        encoded = value if isinstance(value, bytes) else value.encode()
        parts += (METADATA_ENTRY.pack(len(encoded_key), len(encoded)), encoded_key, encoded)
    return b"".join(parts)


def decode_metadata(block: Buffer) -> tuple[tuple[str, str | bytes], ...]:
    """Read a metadata block.

    Raises:
        FrameError: an entry is cut off or is not text where it must be.
    """
    items: list[tuple[str, str | bytes]] = []
    position, end = 0, len(block)
    try:
        while position < end:
            key_size, value_size = METADATA_ENTRY.unpack_from(block, position)
            position += METADATA_ENTRY.size
            if position + key_size + value_size > end:
                raise FrameError("a metadata entry is cut off")
            key = bytes(block[position : position + key_size]).decode()
            position += key_size
            value = bytes(block[position : position + value_size])
            position += value_size
            items.append((key, value if key.endswith("-bin") else value.decode()))
    except (struct.error, UnicodeDecodeError) as error:
        raise FrameError(f"a metadata block is malformed: {error}") from error
    return tuple(items)


class FrameDecoder:
    """Turns received bytes into frames; the reader writes straight into the buffer this object hands out.

    Small frames are parsed in place and copied once, to `bytes`, which protobuf parses faster than views. A frame
    from `LARGE_FRAME_SIZE_BYTES` on whose rest is still to come gets a buffer of its own, which the socket
    fills; its payload is that `bytearray`.
    """

    __slots__ = ("_end", "_filled", "_frame_size_bytes_max", "_large", "_large_call_id", "_large_kind", "_large_view",
                 "_start", "_view")  # fmt: skip

    def __init__(self, *, frame_size_bytes_max: int) -> None:
        self._frame_size_bytes_max = frame_size_bytes_max
        self._view = memoryview(bytearray(READ_BUFFER_SIZE_BYTES))
        self._start = 0
        self._end = 0
        self._large: bytearray | None = None
        self._large_view = self._view
        self._filled = 0
        self._large_call_id = 0
        self._large_kind = 0

    def buffer(self) -> memoryview:
        """Where the next bytes belong; never empty."""
        if self._large is not None:
            return self._large_view[self._filled :]
        if self._end:
            return self._view[self._end :]
        return self._view

    def written(self, size_bytes: int) -> None:
        """Say that so many bytes were written to `buffer()`, without reading frames yet."""
        self._end += size_bytes

    def peek(self, size_bytes: int) -> bytes:
        """Return up to so many of the bytes not read yet: for the preface."""
        return bytes(self._view[self._start : min(self._end, self._start + size_bytes)])

    def skip(self, size_bytes: int) -> None:
        """Drop bytes that were looked at with `peek`."""
        self._start += size_bytes

    def received(self, size_bytes: int) -> list[Frame]:
        """Say that so many bytes were written to `buffer()`; returns the frames they complete.

        Raises:
            FrameError: a frame is larger than allowed.
        """
        if self._large is None:
            self._end += size_bytes
            return self._read()
        self._filled += size_bytes
        if self._filled < len(self._large):
            return []
        payload = self._large
        self._large = None
        self._large_view = self._view
        return [(self._large_kind, self._large_call_id, payload)]

    def _read(self) -> list[Frame]:
        frames: list[Frame] = []
        view = self._view
        position, end = self._start, self._end
        unpack = FRAME_HEADER.unpack_from
        size_max = self._frame_size_bytes_max
        while end - position >= FRAME_HEADER_SIZE_BYTES:
            length, call_id, kind = unpack(view, position)
            body = position + FRAME_HEADER_SIZE_BYTES
            stop = body + length
            if stop <= end and length <= size_max:
                frames.append((kind, call_id, view[body:stop].tobytes()))
                position = stop
                continue
            if length > size_max:
                raise FrameError(f"a frame of {length} bytes exceeds the limit of {size_max}")
            if length >= LARGE_FRAME_SIZE_BYTES:
                self._start_large(length, call_id, kind, view[body:end])
                position = end
            break
        if position == end:
            self._start = self._end = 0
        else:
            self._start = position
            if READ_BUFFER_SIZE_BYTES - position < LARGE_FRAME_SIZE_BYTES + FRAME_HEADER_SIZE_BYTES:
                # The rest of a small frame might not fit behind what is here: move it to the front.
                rest = end - position
                view[:rest] = view[position:end]
                self._start, self._end = 0, rest
        return frames

    def _start_large(self, length: int, call_id: int, kind: int, start: memoryview) -> None:
        self._large = bytearray(length)
        self._large_view = memoryview(self._large)
        self._large_view[: len(start)] = start
        self._filled = len(start)
        self._large_call_id = call_id
        self._large_kind = kind
