"""Codecs: what other libraries write is read, what we write they read, and no bound is exceeded on the way."""

from __future__ import annotations

import gzip
import struct
import subprocess
import sys
import tracemalloc
import zlib

import cramjam
import lz4.frame
import pytest
import zstandard
from aiokafka import codec as aiokafka_codec

from logcluster.model.errors import CorruptMessage, MessageTooLarge, UnsupportedCompression
from logcluster.model.limits import MIB
from logcluster.record.compression import Compression, compress, decompress

CODECS = list(Compression)
REAL_CODECS = [codec for codec in CODECS if codec is not Compression.NONE]
TEXT = b"".join(b"line %d of some text that repeats\n" % i for i in range(4_000))
LIMIT = 64 * MIB


def zstd_without_size(payload: bytes) -> bytes:
    stream = zstandard.ZstdCompressor().compressobj()
    return stream.compress(payload) + stream.flush()


FOREIGN = {
    "gzip": (Compression.GZIP, gzip.compress(TEXT)),
    "gzip aiokafka": (Compression.GZIP, aiokafka_codec.gzip_encode(TEXT)),
    "snappy raw": (Compression.SNAPPY, bytes(cramjam.snappy.compress_raw(TEXT))),
    "snappy aiokafka": (Compression.SNAPPY, aiokafka_codec.snappy_encode(TEXT)),
    "snappy large blocks": (Compression.SNAPPY, aiokafka_codec.snappy_encode(TEXT, xerial_blocksize=100_000)),
    "lz4 aiokafka": (Compression.LZ4, aiokafka_codec.lz4_encode(TEXT)),
    "lz4 linked, checksummed, no size": (
        Compression.LZ4,
        lz4.frame.compress(TEXT, block_linked=True, content_checksum=True, block_checksum=True, store_size=False),
    ),
    "zstd aiokafka": (Compression.ZSTD, aiokafka_codec.zstd_encode(TEXT)),
    "zstd streamed": (Compression.ZSTD, zstd_without_size(TEXT)),
    "zstd streamed, beyond the first guess": (Compression.ZSTD, zstd_without_size(TEXT + bytes(2 * MIB))),
    "zstd level 22": (Compression.ZSTD, zstandard.ZstdCompressor(level=22, write_checksum=True).compress(TEXT)),
}


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("payload", [b"", b"x", TEXT, bytes(100_000), TEXT * 10])
def test_round_trip(codec: Compression, payload: bytes) -> None:
    assert decompress(codec, compress(codec, payload), size_bytes_max=len(payload)) == payload


@pytest.mark.parametrize("codec", CODECS)
def test_any_buffer_is_taken(codec: Compression) -> None:
    packed = compress(codec, memoryview(b"--" + TEXT)[2:])
    assert packed == compress(codec, bytearray(TEXT))
    assert decompress(codec, memoryview(b"--" + packed)[2:], size_bytes_max=LIMIT) == TEXT
    assert decompress(codec, bytearray(packed), size_bytes_max=LIMIT) == TEXT


@pytest.mark.parametrize("name", FOREIGN)
def test_streams_of_other_writers_are_read(name: str) -> None:
    codec, packed = FOREIGN[name]
    assert decompress(codec, packed, size_bytes_max=LIMIT)[: len(TEXT)] == TEXT


def test_other_readers_read_our_streams() -> None:
    assert gzip.decompress(compress(Compression.GZIP, TEXT)) == TEXT
    assert aiokafka_codec.snappy_decode(compress(Compression.SNAPPY, TEXT)) == TEXT
    assert aiokafka_codec.lz4_decode(compress(Compression.LZ4, TEXT)) == TEXT
    assert aiokafka_codec.zstd_decode(compress(Compression.ZSTD, TEXT)) == TEXT


def test_lz4_blocks_are_independent_as_kafka_demands() -> None:
    assert not lz4.frame.get_frame_info(compress(Compression.LZ4, TEXT))["block_linked"]


def test_snappy_has_the_frame_of_xerial() -> None:
    packed = compress(Compression.SNAPPY, TEXT)
    assert packed[:16] == b"\x82SNAPPY\x00\x00\x00\x00\x01\x00\x00\x00\x01"


def test_gzip_holds_no_clock() -> None:
    assert compress(Compression.GZIP, TEXT)[4:8] == bytes(4)


@pytest.mark.parametrize("name", FOREIGN)
def test_bound_is_inclusive_for_every_writer(name: str) -> None:
    codec, packed = FOREIGN[name]
    size_bytes = len(decompress(codec, packed, size_bytes_max=LIMIT))
    decompress(codec, packed, size_bytes_max=size_bytes)
    with pytest.raises(MessageTooLarge):
        decompress(codec, packed, size_bytes_max=size_bytes - 1)


@pytest.mark.parametrize("name", FOREIGN)
def test_cut_or_lengthened_stream_is_corrupt(name: str) -> None:
    codec, packed = FOREIGN[name]
    for cut in (1, len(packed) // 2, len(packed) - 3, len(packed)):
        with pytest.raises(CorruptMessage):
            decompress(codec, packed[:-cut], size_bytes_max=LIMIT)
    with pytest.raises(CorruptMessage):
        decompress(codec, packed + b"\x01", size_bytes_max=LIMIT)


@pytest.mark.parametrize("codec", REAL_CODECS)
@pytest.mark.parametrize(
    "payload", [b"", b"\x07", b"\x82SNAPPY\x00", b"\x82SNAPPY\x00" + bytes(7), b"nothing of this kind" * 5, bytes(100)]
)
def test_garbage_is_corrupt(codec: Compression, payload: bytes) -> None:
    with pytest.raises(CorruptMessage):
        decompress(codec, payload, size_bytes_max=LIMIT)


def test_context_is_usable_after_damage() -> None:
    packed = compress(Compression.ZSTD, TEXT)
    for _ in range(20):
        with pytest.raises(CorruptMessage):
            decompress(Compression.ZSTD, packed[:-5], size_bytes_max=LIMIT)
        assert decompress(Compression.ZSTD, packed, size_bytes_max=LIMIT) == TEXT


def test_snappy_block_that_promises_more_than_it_holds_is_corrupt() -> None:
    lie = b"\xff\xff\xff\x1f" + bytes(10)  # 64 MiB - 1 from ten bytes
    assert cramjam.snappy.decompress_raw_len(lie) == LIMIT - 1
    with pytest.raises(CorruptMessage):
        decompress(Compression.SNAPPY, lie, size_bytes_max=LIMIT)


@pytest.mark.parametrize("change", [1, 1_000, -(2**31), 2**31 - 1])
def test_snappy_block_that_ends_elsewhere_than_it_says_is_corrupt(change: int) -> None:
    packed = bytearray(compress(Compression.SNAPPY, b"one block"))
    (length,) = struct.unpack_from(">i", packed, 16)
    struct.pack_into(">i", packed, 16, max(-(2**31), min(2**31 - 1, length + change)))
    with pytest.raises(CorruptMessage):
        decompress(Compression.SNAPPY, packed, size_bytes_max=LIMIT)


def lz4_with_false_size(payload: bytes, size_bytes: int) -> bytes:
    """A frame whose declared size is wrong and whose header checksum is right."""
    frame = bytearray(lz4.frame.compress(payload, block_linked=False, store_size=True))
    frame[6:14] = size_bytes.to_bytes(8, "little")
    for checksum in range(256):
        frame[14] = checksum
        try:
            lz4.frame.get_frame_info(bytes(frame))
        except RuntimeError:
            continue
        return bytes(frame)
    raise AssertionError("no header checksum fits")


@pytest.mark.parametrize("size_bytes", [1_000, 9 * MIB])
def test_lz4_frame_with_a_false_size_is_corrupt(size_bytes: int) -> None:
    with pytest.raises((CorruptMessage, MessageTooLarge)):
        decompress(Compression.LZ4, lz4_with_false_size(bytes(8 * MIB), size_bytes), size_bytes_max=LIMIT)


ZEROS = bytes(48 * MIB)
BOMBS = {
    "gzip": (Compression.GZIP, zlib.compress(ZEROS, 9, 31)),
    "snappy": (Compression.SNAPPY, compress(Compression.SNAPPY, ZEROS)),
    "snappy raw": (Compression.SNAPPY, bytes(cramjam.snappy.compress_raw(ZEROS))),
    "lz4": (Compression.LZ4, compress(Compression.LZ4, ZEROS)),
    "lz4 no size": (Compression.LZ4, lz4.frame.compress(ZEROS, block_linked=False, store_size=False)),
    "lz4 false size": (Compression.LZ4, lz4_with_false_size(ZEROS, 1_000)),
    "zstd": (Compression.ZSTD, compress(Compression.ZSTD, ZEROS)),
    "zstd streamed": (Compression.ZSTD, zstd_without_size(ZEROS)),
}


@pytest.mark.parametrize("name", BOMBS)
def test_bomb_is_refused_within_its_bound(name: str) -> None:
    codec, bomb = BOMBS[name]
    bound = 2 * MIB
    tracemalloc.start()
    try:
        with pytest.raises((MessageTooLarge, CorruptMessage)) as caught:
            decompress(codec, bomb, size_bytes_max=bound)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert caught.value.definite
    assert peak < 2 * bound + MIB


CHILD = """
import pathlib, resource, sys
from logcluster.model.errors import CorruptMessage, MessageTooLarge
from logcluster.record.compression import Compression, decompress
def resident():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
bomb = pathlib.Path(sys.argv[1]).read_bytes()
before = resident()
try:
    decompress(Compression(int(sys.argv[2])), bomb, size_bytes_max=2 * 1024 * 1024)
except (CorruptMessage, MessageTooLarge):
    print(resident() - before)
"""


@pytest.mark.parametrize("name", BOMBS)
def test_bomb_takes_no_memory_that_python_does_not_see(name: str, tmp_path: object) -> None:
    codec, bomb = BOMBS[name]
    path = f"{tmp_path}/bomb"
    with open(path, "wb") as file:
        file.write(bomb)
    result = subprocess.run(
        [sys.executable, "-c", CHILD, path, str(int(codec))], capture_output=True, text=True, check=True, timeout=30
    )
    assert int(result.stdout) < 16 * 1024  # KiB; the bomb holds three times as much


def test_names_for_configuration() -> None:
    assert [codec.config_name for codec in CODECS] == ["none", "gzip", "snappy", "lz4", "zstd"]
    for codec in CODECS:
        assert Compression.from_config_name(codec.config_name) is codec
    for name in ("ZSTD", "brotli", ""):
        with pytest.raises(UnsupportedCompression):
            Compression.from_config_name(name)
