"""What only the lane has: its preface, its refusals of broken peers, keepalive, TLS and counters."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from echo_carriers import Carrier, EchoRequest
from grpc.aio import AioRpcError

from logcluster.model import errors
from logcluster.model.ids import Endpoint
from logcluster.rpc.channels import ChannelPool, is_connection_refused
from logcluster.rpc.lane import frames
from logcluster.rpc.lane.channel import LaneChannel
from logcluster.rpc.lane.network import LaneOptions
from logcluster.wire.status import error_from_rpc

StatusCode = grpc.StatusCode
PREFACE = frames.encode_preface(stream_credit_bytes=1 << 20, frame_size_bytes_max=1 << 20)
UNARY = "/logcluster.test.v1.EchoService/Unary"
COLLECT = "/logcluster.test.v1.EchoService/Collect"


@pytest.fixture
async def lane() -> AsyncIterator[Carrier]:
    made = Carrier("lane")
    yield made
    await made.close()


async def raw_exchange(endpoint: Endpoint, data: bytes) -> bytes:
    """Send bytes and return everything until the server closes."""
    reader, writer = await asyncio.open_connection(endpoint.host, endpoint.port)
    writer.write(data)
    try:
        return await asyncio.wait_for(reader.read(), 10)
    except ConnectionResetError:
        return b""
    finally:
        writer.close()


def opening(path: str, call_id: int = 1, **changes: Any) -> bytes:
    arguments: dict[str, Any] = {"metadata": b"", "message_size": 0, "deadline_ms": 0, "method_id": 0, "name": path}
    return frames.encode_open(call_id=call_id, **(arguments | changes))


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x00" * 64,
        frames.MAGIC[:3] + b"X" * 40,
        frames.MAGIC + b"\x63" + bytes(8),
        frames.PREFACE.pack(frames.MAGIC, frames.VERSION, 0, 0),
    ],
    ids=["http1", "http2", "zeros", "almost", "version", "no-room"],
)
async def test_garbage_and_wrong_versions_are_cut_at_once(lane: Carrier, data: bytes) -> None:
    stub = lane.stub(endpoint := await lane.serve())
    answer = await raw_exchange(endpoint, data)
    assert answer in {b"", answer[:16]}  # At most our own preface, by which the peer learns our version.
    assert (await stub.Unary(EchoRequest(payload=b"fine"), timeout=10)).payload == b"fine"


@pytest.mark.parametrize(
    "broken",
    [
        frames.FRAME_HEADER.pack(0xFFFFFFFF, 1, frames.OPEN),
        frames.encode_frame(99, 1),
        frames.encode_frame(frames.OPEN, 1, b"ab"),
        frames.encode_frame(frames.OPEN, 1, frames.OPEN_FIELDS.pack(frames.HAS_NAME, 0, 0) + b"\xff\xffx"),
        frames.encode_frame(frames.OPEN, 1, frames.OPEN_FIELDS.pack(frames.HAS_METADATA, 0, 0) + b"\x00\x00\x00\x09x"),
        frames.encode_frame(frames.OPEN, 1, frames.OPEN_FIELDS.pack(frames.HAS_MESSAGE, 7, 0)),
        opening(COLLECT, message_size=None) + opening(COLLECT, message_size=None),
        opening(COLLECT, message_size=None) + frames.encode_frame(frames.CREDIT, 1, b"abc"),
        opening(UNARY, metadata=b"\x00\xffbroken!"),
        frames.encode_frame(frames.GOAWAY, 0),
    ],
    ids=["oversized", "kind", "cut-open", "cut-name", "cut-metadata", "undefined-method", "reused-id", "credit",
         "metadata", "goaway"],
)  # fmt: skip
async def test_a_peer_that_breaks_the_protocol_is_told_and_cut(lane: Carrier, broken: bytes) -> None:
    stub = lane.stub(endpoint := await lane.serve())
    answer = await raw_exchange(endpoint, PREFACE + broken)
    kinds = [kind for kind, _call, _payload in frames_of(answer)]
    assert kinds[-1] == frames.GOAWAY
    assert (await stub.Unary(EchoRequest(payload=b"fine"), timeout=10)).payload == b"fine"
    await until(lambda: lane.servers[0].statistics()["connections"] == 1)
    assert lane.servicer.running == 0


def frames_of(answer: bytes) -> list[frames.Frame]:
    decoder = frames.FrameDecoder(frame_size_bytes_max=1 << 24)
    data = answer[frames.PREFACE.size :]
    decoder.buffer()[: len(data)] = data
    return decoder.received(len(data))


async def until(condition: Any) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


async def test_a_peer_that_ignores_its_credit_is_cut(lane: Carrier) -> None:
    lane.options = LaneOptions(stream_credit_bytes=10_000)
    endpoint = await lane.serve()
    message = EchoRequest(behaviour="wait").SerializeToString() + b"\x0a" + b"\x7f" + bytes(127)
    flood = opening(COLLECT, message_size=None) + frames.encode_frame(frames.MESSAGE, 1, message) * 1_000
    answer = await raw_exchange(endpoint, PREFACE + flood)
    # Unread bytes make TCP reset the connection, which may overtake the reason.
    assert answer == b"" or frames_of(answer)[-1][0] == frames.GOAWAY
    assert lane.servicer.received < 100


async def test_empty_messages_use_credit_as_well(lane: Carrier) -> None:
    lane.options = LaneOptions(stream_credit_bytes=10_000)
    stub = lane.stub(await lane.serve())
    written = 0

    async def generate() -> Any:
        nonlocal written
        yield EchoRequest(behaviour="wait")
        for _ in range(2_000):
            yield EchoRequest()
            written += 1

    call = stub.Collect(generate(), timeout=20)
    await asyncio.wait_for(lane.servicer.entered.wait(), 10)
    for _ in range(50):
        await asyncio.sleep(0.001)
    assert written <= 2 * 10_000 // frames.MESSAGE_OVERHEAD_BYTES
    lane.servicer.release.set()
    assert (await call).index == 2_001


async def serve_raw(answer: bytes, *, close: bool = False) -> tuple[asyncio.Server, Endpoint]:
    """A port that is not a lane: says `answer`, then is silent or closes."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        if not close:
            await reader.read()
        writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    return server, Endpoint(*server.sockets[0].getsockname()[:2])


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x00\x00\x12\x04" + bytes(20)])
async def test_a_port_that_is_no_lane_gives_a_clear_error_fast(lane: Carrier, answer: bytes) -> None:
    server, endpoint = await serve_raw(answer)
    async with server:
        with pytest.raises(AioRpcError) as caught:
            await asyncio.wait_for(lane.stub(endpoint).Unary(EchoRequest()), 2)
        assert caught.value.code() is StatusCode.UNAVAILABLE
        assert "does not speak the lane" in str(caught.value.details())
        assert not is_connection_refused(caught.value)
        assert error_from_rpc(caught.value).definite
        await lane.channels.pop().close()


async def test_a_silent_port_fails_within_the_connect_timeout(lane: Carrier) -> None:
    server, endpoint = await serve_raw(b"")
    async with server:
        channel = lane.channel(endpoint, connect_timeout_ms=200)
        with pytest.raises(AioRpcError) as caught:
            await asyncio.wait_for(channel.unary_unary(UNARY)(b""), 5)
        assert caught.value.code() is StatusCode.UNAVAILABLE
        assert type(error_from_rpc(caught.value)) is errors.BrokerNotAvailable
        await channel.close()


async def test_a_port_that_closes_at_once_fails_at_once(lane: Carrier) -> None:
    server, endpoint = await serve_raw(b"", close=True)
    async with server:
        with pytest.raises(AioRpcError) as caught:
            await asyncio.wait_for(lane.stub(endpoint).Unary(EchoRequest()), 2)
        assert type(error_from_rpc(caught.value)) is errors.BrokerNotAvailable


async def test_another_version_is_named_and_not_retriable(lane: Carrier) -> None:
    server, endpoint = await serve_raw(frames.MAGIC + b"\x07" + bytes(8))
    async with server:
        with pytest.raises(AioRpcError) as caught:
            await asyncio.wait_for(lane.stub(endpoint).Unary(EchoRequest()), 2)
        error = error_from_rpc(caught.value)
        assert type(error) is errors.UnsupportedVersion
        assert error.facts["peer_version"] == "7"
        assert not error.retriable


async def test_a_server_that_gets_no_preface_closes(lane: Carrier) -> None:
    lane.options = LaneOptions(handshake_timeout_ms=100)
    endpoint = await lane.serve()
    assert len(await raw_exchange(endpoint, b"")) <= frames.PREFACE.size
    assert len(await raw_exchange(endpoint, PREFACE[:9])) <= frames.PREFACE.size


async def test_a_deadline_holds_while_connecting(lane: Carrier) -> None:
    server, endpoint = await serve_raw(b"")
    async with server:
        with pytest.raises(AioRpcError) as caught:
            await asyncio.wait_for(lane.stub(endpoint).Unary(EchoRequest(), timeout=0.1), 2)
        assert caught.value.code() is StatusCode.DEADLINE_EXCEEDED
        await lane.channels.pop().close()


async def test_an_idle_connection_is_kept_alive(lane_carrier: Carrier) -> None:
    lane_carrier.options = LaneOptions(keepalive_idle_ms=30, keepalive_timeout_ms=1_000)
    ended: list[Exception | None] = []
    endpoint = await lane_carrier.serve()
    channel = lane_carrier.channel(endpoint, on_disconnect=ended.append)
    await channel.connect()
    await asyncio.sleep(0.3)
    assert channel.is_connected
    assert ended == []
    await channel.close()
    assert ended == [None]


async def test_a_silent_peer_is_found_dead(lane: Carrier) -> None:
    lane.options = LaneOptions(keepalive_idle_ms=50, keepalive_timeout_ms=50)
    server, endpoint = await serve_raw(PREFACE)
    ended: list[Exception | None] = []
    async with server:
        channel = lane.channel(endpoint, on_disconnect=ended.append)
        with pytest.raises(AioRpcError) as caught:
            await asyncio.wait_for(channel.unary_unary(UNARY)(b"", timeout=10), 5)
        assert caught.value.code() is StatusCode.UNAVAILABLE
        assert not error_from_rpc(caught.value).definite
        assert isinstance(ended[0], TimeoutError)
        await channel.close()


async def test_a_killed_connection_tells_the_channel_and_its_calls(lane_carrier: Carrier) -> None:
    ended: list[Exception | None] = []
    endpoint = await lane_carrier.serve()
    channel = lane_carrier.channel(endpoint, on_disconnect=ended.append)
    call = channel.unary_unary(UNARY, EchoRequest.SerializeToString)(EchoRequest(behaviour="hang"), timeout=10)
    await asyncio.wait_for(lane_carrier.servicer.entered.wait(), 10)
    for connection in list(lane_carrier.servers[0]._connections):
        connection.abort()
    with pytest.raises(AioRpcError) as caught:
        await asyncio.wait_for(call, 5)
    assert type(error_from_rpc(caught.value)) is errors.Disconnected
    assert len(ended) == 1
    assert not channel.is_connected
    await asyncio.wait_for(lane_carrier.servicer.cancelled.wait(), 10)


async def test_a_caller_that_does_not_read_its_answers_cannot_fill_the_server(lane: Carrier) -> None:
    endpoint = await lane.serve()
    _reader, writer = await asyncio.open_connection(endpoint.host, endpoint.port, limit=1)
    request = EchoRequest(payload=bytes(100_000)).SerializeToString()
    writer.write(PREFACE + opening(UNARY, 1, message_size=len(request)) + request)
    sent = 1
    with pytest.raises(TimeoutError):
        while sent < 2_000:
            sent += 1
            writer.write(opening(UNARY, sent, name=None, message_size=len(request)) + request)
            await asyncio.wait_for(writer.drain(), 1)
    answered = lane.servers[0].statistics()["calls_total"]
    assert answered < 400, "the server went on taking requests whose answers nobody reads"
    writer.transport.abort()


async def test_metadata_with_upper_case_keys_is_refused_here(lane: Carrier) -> None:
    stub = lane.stub(await lane.serve())
    with pytest.raises(ValueError, match="lower-case"):
        stub.Unary(EchoRequest(), metadata=(("Bad", "x"),))


async def test_call_ids_wrap_around_without_meeting_open_calls(lane: Carrier) -> None:
    channel = lane.channel(await lane.serve())
    method = channel.unary_unary(UNARY, EchoRequest.SerializeToString)
    waiting = method(EchoRequest(behaviour="wait", payload=b"first"), timeout=20)
    await asyncio.wait_for(lane.servicer.entered.wait(), 10)
    channel._connection._last_call_id = 2**32 - 3
    for _ in range(5):
        await method(EchoRequest(), timeout=10)
    assert channel._connection._last_call_id < 10
    lane.servicer.release.set()
    assert b"first" in await waiting


async def test_a_pool_shares_one_channel_per_peer(lane: Carrier) -> None:
    endpoint = await lane.serve()
    for transport in ("lane", "grpc"):
        pool = ChannelPool(clock=lane.clock, transport=transport)  # type: ignore[arg-type]
        assert pool.channel(endpoint) is pool.channel(Endpoint(*endpoint))
        await pool.close()
        with pytest.raises(RuntimeError):
            pool.channel(endpoint)
    with pytest.raises(errors.InvalidConfig):
        ChannelPool(clock=lane.clock, transport="carrier-pigeon")  # type: ignore[arg-type]


async def test_connecting_without_a_call(lane_carrier: Carrier) -> None:
    endpoint = await lane_carrier.serve()
    channel = lane_carrier.channel(endpoint)
    assert isinstance(channel, LaneChannel)
    await channel.connect()
    assert channel.is_connected
    await lane_carrier.servers.pop().stop(0)
    await until(lambda: not channel.is_connected)
    with pytest.raises(AioRpcError) as caught:
        await channel.connect()
    assert is_connection_refused(caught.value)


async def test_too_many_connections_are_refused(lane: Carrier) -> None:
    lane.options = LaneOptions(connections_max=1)
    endpoint = await lane.serve()
    await lane.stub(endpoint).Unary(EchoRequest(), timeout=10)
    with pytest.raises(AioRpcError) as caught:
        await lane.stub(endpoint).Unary(EchoRequest(), timeout=10)
    assert caught.value.code() is StatusCode.UNAVAILABLE
