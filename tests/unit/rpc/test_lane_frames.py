"""Frames, metadata blocks and the incremental decoder."""

from __future__ import annotations

import random

import pytest

from logcluster.rpc.lane import frames

SIZE_MAX = 1 << 20


def decoded(data: bytes, chunk_sizes: list[int]) -> list[frames.Frame]:
    """Feed `data` to a decoder as a socket would, in chunks of the given sizes."""
    decoder = frames.FrameDecoder(frame_size_bytes_max=SIZE_MAX)
    found: list[frames.Frame] = []
    position = 0
    index = 0
    while position < len(data):
        buffer = decoder.buffer()
        size = min(chunk_sizes[index % len(chunk_sizes)], len(buffer), len(data) - position)
        buffer[:size] = data[position : position + size]
        del buffer
        found += decoder.received(size)
        position += size
        index += 1
    return [(kind, call_id, bytes(payload)) for kind, call_id, payload in found]


def fed(decoder: frames.FrameDecoder, data: bytes) -> list[frames.Frame]:
    decoder.buffer()[: len(data)] = data
    return decoder.received(len(data))


@pytest.mark.parametrize("seed", range(20))
def test_frames_survive_any_cut_of_the_byte_stream(seed: int) -> None:
    rng = random.Random(seed)
    sizes = [0, 1, 8, 9, 10, 1_000, 48 * 1024 - 1, 48 * 1024, 48 * 1024 + 1, 200_000]
    sent = [(rng.randint(1, 11), rng.getrandbits(32), rng.randbytes(rng.choice(sizes))) for _ in range(40)]
    data = b"".join(frames.encode_frame(*frame) for frame in sent)
    chunks = [rng.choice([1, 3, 7, 100, 5_000, 60_000, 131_072]) for _ in range(50)] + [131_072]
    assert decoded(data, chunks) == sent


def test_frames_survive_single_byte_reads() -> None:
    sent = [(1, 2, b"abc"), (2, 3, b""), (3, 4, bytes(300))]
    assert decoded(b"".join(frames.encode_frame(*frame) for frame in sent), [1]) == sent


@pytest.mark.parametrize("length", [SIZE_MAX + 1, 0xFFFFFFFF])
def test_an_oversized_frame_is_refused_by_its_header(length: int) -> None:
    decoder = frames.FrameDecoder(frame_size_bytes_max=SIZE_MAX)
    with pytest.raises(frames.FrameError, match="exceeds the limit"):
        fed(decoder, frames.FRAME_HEADER.pack(length, 1, frames.MESSAGE))


def test_an_oversized_frame_is_refused_even_if_it_is_complete() -> None:
    decoder = frames.FrameDecoder(frame_size_bytes_max=100)
    with pytest.raises(frames.FrameError, match="exceeds the limit"):
        fed(decoder, frames.encode_frame(frames.MESSAGE, 1, bytes(101)))


def test_a_frame_of_exactly_the_limit_passes() -> None:
    decoder = frames.FrameDecoder(frame_size_bytes_max=100)
    assert fed(decoder, frames.encode_frame(frames.MESSAGE, 1, bytes(100))) == [(frames.MESSAGE, 1, bytes(100))]


def test_a_large_payload_is_received_into_its_own_buffer() -> None:
    decoder = frames.FrameDecoder(frame_size_bytes_max=SIZE_MAX)
    payload = bytes(range(256)) * 1_000
    data = frames.encode_frame(frames.MESSAGE, 5, payload)
    assert fed(decoder, data[:1_000]) == []
    rest = data[1_000:]
    assert len(decoder.buffer()) == len(rest)
    decoder.buffer()[:] = rest
    (frame,) = decoder.received(len(rest))
    assert isinstance(frame[2], bytearray)
    assert frame == (frames.MESSAGE, 5, payload)
    assert len(decoder.buffer()) == frames.READ_BUFFER_SIZE_BYTES


def test_metadata_round_trips() -> None:
    items = (("a", ""), ("name", "wért"), ("blob-bin", b"\x00\xff"), ("a", "twice"))
    assert frames.decode_metadata(frames.encode_metadata(items)) == items
    assert frames.encode_metadata(()) == b""
    assert frames.decode_metadata(b"") == ()


@pytest.mark.parametrize(
    "block",
    [b"\x00", b"\x00\x05\x00\x00\x00\x00ab", b"\x00\x01\x00\x00\x00\x09ax", b"\x00\x01\x00\x00\x00\x01a\xff"],
    ids=["short", "key", "value", "text"],
)
def test_malformed_metadata_is_refused(block: bytes) -> None:
    with pytest.raises(frames.FrameError):
        frames.decode_metadata(block)


def test_random_metadata_bytes_never_raise_anything_else() -> None:
    rng = random.Random(7)
    refused = 0
    for _ in range(500):
        try:
            frames.decode_metadata(rng.randbytes(rng.randint(1, 40)))
        except frames.FrameError:
            refused += 1
    assert refused > 400


def test_status_round_trips_and_long_details_are_cut() -> None:
    block = frames.encode_metadata((("k", "v"),))
    assert frames.decode_status(frames.encode_status(5, "não", block)) == (5, "não", block)
    _code, details, rest = frames.decode_status(frames.encode_status(1, "x" * 100_000, block))
    assert len(details) == frames.STATUS_DETAILS_SIZE_BYTES_MAX
    assert rest == block


@pytest.mark.parametrize("payload", [b"", b"\x01\x00", b"\x01\x00\x09abc"])
def test_a_status_that_is_cut_off_is_refused(payload: bytes) -> None:
    with pytest.raises(frames.FrameError):
        frames.decode_status(payload)


def test_a_preface_tells_version_credit_and_frame_size() -> None:
    preface = frames.encode_preface(stream_credit_bytes=5_000, frame_size_bytes_max=70_000)
    assert frames.decode_preface(preface) == (5_000, 70_000)
    for cut in range(len(preface)):
        frames.check_preface_start(preface[:cut])


def test_other_protocols_are_recognised_by_their_first_byte() -> None:
    for start in (b"G", b"P", b"\x00", b"\x16\x03\x01"):
        with pytest.raises(frames.FrameError):
            frames.check_preface_start(start)


def test_another_version_is_recognised_by_the_eighth_byte() -> None:
    with pytest.raises(frames.VersionMismatch) as caught:
        frames.check_preface_start(frames.MAGIC + bytes([frames.VERSION + 1]))
    assert caught.value.peer_version == frames.VERSION + 1
