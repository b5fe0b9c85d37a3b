"""Compression codecs of the record batch, each with a bound on what decompression may yield.

Invariants: `decompress` never returns, and never allocates in proportion to, more than `size_bytes_max`; what this
module writes every Kafka client reads; output depends on the input only (no clock in a gzip header).
Source: codec numbers of Kafka's record batch attributes; KIP-57 (lz4 frames with independent blocks), KIP-110 (zstd);
the block framing of xerial's snappy-java:

    0        8         12        16       20
    | magic  | version | compat  | length | raw snappy block | length | raw snappy block | ...
      \\x82SNAPPY\\0   int32 1   int32 1   int32
"""

from __future__ import annotations

import struct
import zlib
from enum import IntEnum
from typing import Final, Protocol

import cramjam
import zstandard
from lz4.frame import (  # type: ignore[attr-defined]  # lz4 declares no exports
    LZ4FrameDecompressor,
    compress as _lz4_compress,
    get_frame_info as _lz4_frame_info,
)

from logcluster.model.errors import CorruptMessage, MessageTooLarge, UnsupportedCompression

Buffer = bytes | bytearray | memoryview

_ZSTD_LEVEL: Final = 3
_GZIP_LEVEL: Final = 6
_GZIP_WINDOW_BITS: Final = 31
"""zlib's way to say: 32 KiB window, gzip header and trailer."""
_ZSTD_WINDOW_SIZE_BYTES_MAX: Final = 1 << 27
"""What level 22 uses; a frame that asks for more is refused."""
_FIRST_GUESS_RATIO: Final = 8
_CONTEXTS_KEPT_MAX: Final = 8
_SCRATCH_SIZE_BYTES: Final = 256 * 1024

_XERIAL_MAGIC: Final = b"\x82SNAPPY\x00"
_XERIAL_HEADER: Final = _XERIAL_MAGIC + struct.pack(">ii", 1, 1)
_XERIAL_BLOCK_SIZE_BYTES: Final = 32 * 1024
_BLOCK_LENGTH: Final = struct.Struct(">i")

# Contexts of zstd cost more than a small batch and are not thread-safe. A list's append and pop are atomic, so a
# context belongs to one caller between the two, whatever thread runs it.
_zstd_compressors: list[zstandard.ZstdCompressor] = []
_zstd_decompressors: list[zstandard.ZstdDecompressor] = []


class Compression(IntEnum):
    """A codec, numbered as in the low three bits of the batch attributes."""

    NONE = 0
    GZIP = 1
    SNAPPY = 2
    LZ4 = 3
    ZSTD = 4

    @property
    def config_name(self) -> str:
        """The name in configuration and on the command line, for example `zstd`."""
        return self.name.lower()

    @classmethod
    def from_config_name(cls, name: str) -> Compression:
        """Read a name from configuration.

        Raises:
            UnsupportedCompression: no codec has this name.
        """
        for codec in cls:
            if codec.config_name == name:
                return codec
        raise UnsupportedCompression(f"no compression codec is called {name!r}", name=name)


def compress(codec: Compression, payload: Buffer) -> bytes:
    """Compress the records of one batch; `NONE` copies them."""
    match codec:
        case Compression.NONE:
            return bytes(payload)
        case Compression.ZSTD:
            return _compress_zstd(payload)
        case Compression.LZ4:
            # Kafka's reader refuses linked blocks. The content size lets readers decompress in one step.
            framed: bytes = _lz4_compress(payload, block_linked=False, store_size=True)
            return framed
        case Compression.SNAPPY:
            return _compress_snappy(payload)
        case Compression.GZIP:
            return zlib.compress(payload, _GZIP_LEVEL, _GZIP_WINDOW_BITS)


def decompress(codec: Compression, payload: Buffer, *, size_bytes_max: int) -> bytes:
    """Decompress the records of one batch, at most `size_bytes_max` bytes.

    Raises:
        MessageTooLarge: the result would be larger; it was not built.
        CorruptMessage: the payload is not one complete stream of this codec.
    """
    try:
        match codec:
            case Compression.NONE:
                result = bytes(payload)
            case Compression.ZSTD:
                result = _decompress_zstd(payload, size_bytes_max)
            case Compression.LZ4:
                result = _decompress_lz4(payload, size_bytes_max)
            case Compression.SNAPPY:
                result = _decompress_snappy(payload, size_bytes_max)
            case Compression.GZIP:
                result = _decompress_gzip(payload, size_bytes_max)
    except (
        zstandard.ZstdError,
        zlib.error,
        cramjam.DecompressionError,
        struct.error,
        RuntimeError,
        ValueError,
    ) as error:
        raise CorruptMessage(f"the batch's {codec.config_name} data is damaged", codec=codec.config_name) from error
    except MemoryError as error:
        raise MessageTooLarge("no memory to decompress the batch", codec=codec.config_name) from error
    if len(result) > size_bytes_max:
        raise _too_large(codec, size_bytes_max)
    return result


def _too_large(codec: Compression, size_bytes_max: int) -> MessageTooLarge:
    return MessageTooLarge(
        f"the batch would decompress to more than {size_bytes_max} bytes",
        codec=codec.config_name,
        size_bytes_max=size_bytes_max,
    )


def _incomplete(codec: Compression) -> CorruptMessage:
    return CorruptMessage(f"the batch's {codec.config_name} data is not one complete stream", codec=codec.config_name)


def _compress_zstd(payload: Buffer) -> bytes:
    try:
        compressor = _zstd_compressors.pop()
    except IndexError:  # asking first whether there is one would race with other threads
        compressor = zstandard.ZstdCompressor(level=_ZSTD_LEVEL)
    compressed = compressor.compress(payload)
    if len(_zstd_compressors) < _CONTEXTS_KEPT_MAX:
        _zstd_compressors.append(compressor)
    return compressed


def _decompress_zstd(payload: Buffer, size_bytes_max: int) -> bytes:
    declared = zstandard.frame_content_size(payload)
    if declared > size_bytes_max:
        raise _too_large(Compression.ZSTD, size_bytes_max)
    if declared >= 0:
        return _decompress_zstd_frame(payload, declared)
    # Kafka's Java client streams and declares no size. Most batches are within a guess; the rest are measured first,
    # through a reader that keeps nothing.
    guess = min(size_bytes_max, len(payload) * _FIRST_GUESS_RATIO)
    try:
        return _decompress_zstd_frame(payload, guess)
    except zstandard.ZstdError:
        return _decompress_zstd_frame(payload, _measure_zstd(payload, size_bytes_max))


def _decompress_zstd_frame(payload: Buffer, size_bytes: int) -> bytes:
    """Decompress exactly one frame of at most `size_bytes`; anything else is a ZstdError."""
    try:
        decompressor = _zstd_decompressors.pop()
    except IndexError:
        decompressor = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW_SIZE_BYTES_MAX)
    result = decompressor.decompress(payload, max_output_size=size_bytes, allow_extra_data=False)
    # After an error the context is dropped, not kept.
    if len(_zstd_decompressors) < _CONTEXTS_KEPT_MAX:
        _zstd_decompressors.append(decompressor)
    return result


def _measure_zstd(payload: Buffer, size_bytes_max: int) -> int:
    reader = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW_SIZE_BYTES_MAX).stream_reader(payload)
    scratch = bytearray(_SCRATCH_SIZE_BYTES)
    size_bytes = 0
    while count := reader.readinto(scratch):
        size_bytes += count
        if size_bytes > size_bytes_max:
            raise _too_large(Compression.ZSTD, size_bytes_max)
    return size_bytes


class _Lz4Decompressor(Protocol):
    """The part used here of a class that has no types of its own."""

    eof: bool
    unused_data: bytes | None

    def decompress(self, data: Buffer, max_length: int) -> bytes: ...


def _decompress_lz4(payload: Buffer, size_bytes_max: int) -> bytes:
    declared: int = _lz4_frame_info(payload)["content_size"]
    if declared > size_bytes_max:
        raise _too_large(Compression.LZ4, size_bytes_max)
    # `lz4.frame.decompress` grows past a declared size that lies; the decompressor object honours its bound.
    decompressor: _Lz4Decompressor = LZ4FrameDecompressor()  # type: ignore[no-untyped-call]
    limit = declared or min(size_bytes_max, len(payload) * _FIRST_GUESS_RATIO)
    result = decompressor.decompress(payload, max_length=limit)
    chunks = [result]
    size_bytes = len(result)
    while not decompressor.eof:
        if size_bytes > size_bytes_max:
            raise _too_large(Compression.LZ4, size_bytes_max)
        chunk = decompressor.decompress(b"", max_length=min(_SCRATCH_SIZE_BYTES, size_bytes_max + 1 - size_bytes))
        if not chunk and not decompressor.eof:
            raise _incomplete(Compression.LZ4)
        chunks.append(chunk)
        size_bytes += len(chunk)
    if decompressor.unused_data:
        raise _incomplete(Compression.LZ4)
    return result if len(chunks) == 1 else b"".join(chunks)


def _decompress_gzip(payload: Buffer, size_bytes_max: int) -> bytes:
    decompressor = zlib.decompressobj(_GZIP_WINDOW_BITS)
    result = decompressor.decompress(payload, size_bytes_max + 1)
    if len(result) > size_bytes_max:
        raise _too_large(Compression.GZIP, size_bytes_max)
    if not decompressor.eof or decompressor.unused_data:
        raise _incomplete(Compression.GZIP)
    return result


def _compress_snappy(payload: Buffer) -> bytes:
    """Frame raw blocks as xerial does: Kafka's Java client reads no unframed snappy."""
    view = memoryview(payload)
    parts: list[bytes] = [_XERIAL_HEADER]
    for position in range(0, len(view), _XERIAL_BLOCK_SIZE_BYTES):
        block = cramjam.snappy.compress_raw(view[position : position + _XERIAL_BLOCK_SIZE_BYTES])
        parts.append(_BLOCK_LENGTH.pack(len(block)))
        parts.append(bytes(block))
    return b"".join(parts)


def _decompress_snappy(payload: Buffer, size_bytes_max: int) -> bytes:
    view = memoryview(payload)
    if bytes(view[: len(_XERIAL_MAGIC)]) != _XERIAL_MAGIC:
        # librdkafka sends one raw block.
        return _decompress_snappy_block(view, size_bytes_max, size_bytes_max)
    if len(view) < len(_XERIAL_HEADER):
        raise _incomplete(Compression.SNAPPY)
    chunks: list[bytes] = []
    rest_size_bytes = size_bytes_max
    position = len(_XERIAL_HEADER)
    while position < len(view):
        (length,) = _BLOCK_LENGTH.unpack_from(view, position)
        position += _BLOCK_LENGTH.size
        if not 0 < length <= len(view) - position:
            raise _incomplete(Compression.SNAPPY)
        chunk = _decompress_snappy_block(view[position : position + length], rest_size_bytes, size_bytes_max)
        rest_size_bytes -= len(chunk)
        position += length
        chunks.append(chunk)
    return b"".join(chunks)


def _decompress_snappy_block(block: memoryview, rest_size_bytes: int, size_bytes_max: int) -> bytes:
    declared = cramjam.snappy.decompress_raw_len(block)
    if declared > rest_size_bytes:
        raise _too_large(Compression.SNAPPY, size_bytes_max)
    return bytes(cramjam.snappy.decompress_raw(block))
