"""Deadlines, cancellation, back-pressure, limits, death and drain: the same on every carrier."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import grpc
import pytest
from echo_carriers import Carrier, EchoRequest
from grpc.aio import AioRpcError

from logcluster.model import errors, limits
from logcluster.rpc.channels import is_connection_refused
from logcluster.rpc.interceptors import Boundary
from logcluster.wire.status import error_from_rpc

StatusCode = grpc.StatusCode


async def failure_of(call: Any) -> AioRpcError:
    with pytest.raises(AioRpcError) as caught:
        await asyncio.wait_for(_awaited(call), 15)
    return caught.value


async def _awaited(call: Any) -> Any:
    return await call


async def until(condition: Any) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


async def test_a_deadline_ends_the_call_and_its_handler(carrier: Carrier) -> None:
    stub = await carrier.connect()
    error = await failure_of(stub.Unary(EchoRequest(behaviour="hang"), timeout=0.2))
    assert error.code() is StatusCode.DEADLINE_EXCEEDED
    assert type(error_from_rpc(error)) is errors.RequestTimedOut
    await asyncio.wait_for(carrier.servicer.cancelled.wait(), 10)


async def test_deadlines_of_many_calls_are_kept_apart(carrier: Carrier) -> None:
    stub = await carrier.connect()
    late = stub.Unary(EchoRequest(behaviour="wait", payload=b"late"), timeout=30)
    early = [stub.Unary(EchoRequest(behaviour="hang"), timeout=0.1 + 0.05 * index) for index in range(5)]
    for call in early:
        assert (await failure_of(call)).code() is StatusCode.DEADLINE_EXCEEDED
    carrier.servicer.release.set()
    assert (await late).payload == b"late"


async def test_a_deadline_ends_a_stream(carrier: Carrier) -> None:
    stub = await carrier.connect()
    call = stub.Expand(EchoRequest(count=3, behaviour="hang"), timeout=0.5)
    seen = []
    with pytest.raises(AioRpcError) as caught:
        async for response in call:
            seen.append(response.index)
    assert seen == [0, 1, 2]
    assert caught.value.code() is StatusCode.DEADLINE_EXCEEDED
    await asyncio.wait_for(carrier.servicer.cancelled.wait(), 10)


async def test_the_handler_sees_the_time_that_remains(carrier: Carrier) -> None:
    stub = await carrier.connect()
    response = await stub.Unary(EchoRequest(behaviour="deadline"), timeout=20)
    assert 10_000 < response.index <= 21_000  # grpc rounds up


async def test_a_deadline_in_the_past_fails_at_once(carrier: Carrier) -> None:
    stub = await carrier.connect()
    assert (
        await failure_of(stub.Unary(EchoRequest(behaviour="hang"), timeout=-1))
    ).code() is StatusCode.DEADLINE_EXCEEDED


async def test_a_unary_call_without_deadline_gets_the_servers_limit(carrier: Carrier) -> None:
    stub = carrier.stub(await carrier.serve(boundary=Boundary(deadline_ms_max=200)))
    error = await failure_of(stub.Unary(EchoRequest(behaviour="hang")))
    assert error.code() is StatusCode.DEADLINE_EXCEEDED
    await asyncio.wait_for(carrier.servicer.cancelled.wait(), 10)


async def test_cancelling_a_call_cancels_its_handler(carrier: Carrier) -> None:
    stub = await carrier.connect()
    call = stub.Unary(EchoRequest(behaviour="hang"), timeout=30)
    await asyncio.wait_for(carrier.servicer.entered.wait(), 10)
    assert call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert call.cancelled()
    assert await call.code() is StatusCode.CANCELLED
    await asyncio.wait_for(carrier.servicer.cancelled.wait(), 10)


async def test_cancelling_the_awaiting_task_cancels_the_call(carrier: Carrier) -> None:
    stub = await carrier.connect()
    call = stub.Unary(EchoRequest(behaviour="hang"), timeout=30)
    task = asyncio.create_task(_awaited(call))
    await asyncio.wait_for(carrier.servicer.entered.wait(), 10)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert call.cancelled()
    await asyncio.wait_for(carrier.servicer.cancelled.wait(), 10)


async def test_cancelling_a_reader_cancels_the_stream(carrier: Carrier) -> None:
    stub = await carrier.connect()
    call = stub.Expand(EchoRequest(behaviour="hang", count=1), timeout=30)
    assert (await call.read()).index == 0
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call.read()
    await asyncio.wait_for(carrier.servicer.cancelled.wait(), 10)


async def test_cancelling_one_call_leaves_the_others_alone(carrier: Carrier) -> None:
    stub = await carrier.connect()
    calls = [stub.Unary(EchoRequest(behaviour="wait", payload=b"%d" % index), timeout=30) for index in range(10)]
    await asyncio.wait_for(carrier.servicer.entered.wait(), 10)
    for call in calls[::2]:
        call.cancel()
    carrier.servicer.release.set()
    assert [(await call).payload for call in calls[1::2]] == [b"1", b"3", b"5", b"7", b"9"]


async def test_a_failing_request_iterator_cancels_the_call(carrier: Carrier, caplog: pytest.LogCaptureFixture) -> None:
    async def generate() -> Any:
        yield EchoRequest()
        raise RuntimeError("the iterator broke")

    caplog.set_level(logging.CRITICAL, "logcluster.scope")
    stub = await carrier.connect()
    call = stub.Collect(generate(), timeout=10)
    with pytest.raises((asyncio.CancelledError, AioRpcError)):
        await call
    assert await call.code() is StatusCode.CANCELLED


async def test_a_slow_reader_bounds_the_sender(carrier: Carrier) -> None:
    stub = await carrier.connect()
    message = bytes(64 * 1024)
    total = 12 * limits.STREAM_CREDIT_BYTES // len(message)
    call = stub.Expand(EchoRequest(payload=message, count=total), timeout=30)
    assert (await call.read()).index == 0
    stalled = await _settled(lambda: carrier.servicer.sent)
    assert stalled * len(message) <= _in_flight_max(carrier)
    read = 1
    while await call.read() is not grpc.aio.EOF:
        read += 1
    assert read == total


async def test_a_slow_handler_bounds_the_caller(carrier: Carrier) -> None:
    stub = await carrier.connect()
    message = bytes(64 * 1024)
    total = 12 * limits.STREAM_CREDIT_BYTES // len(message)
    written = 0

    async def generate() -> Any:
        nonlocal written
        for _ in range(total):
            yield EchoRequest(payload=message, behaviour="wait")
            written += 1

    call = stub.Collect(generate(), timeout=30)
    await asyncio.wait_for(carrier.servicer.entered.wait(), 10)
    stalled = await _settled(lambda: written)
    assert 0 < stalled * len(message) <= _in_flight_max(carrier)
    carrier.servicer.release.set()
    assert (await call).index == total


def _in_flight_max(carrier: Carrier) -> int:
    # HTTP/2 windows and socket buffers of grpc grow as they like; credit does not.
    return (8 if carrier.kind == "grpc" else 2) * limits.STREAM_CREDIT_BYTES


async def _settled(count: Any) -> int:
    """Return a count that has stopped growing."""
    quiet = 0
    last = -1
    while quiet < 20:
        await asyncio.sleep(0.01)
        quiet = quiet + 1 if count() == last else 0
        last = count()
    return last


async def test_a_blocked_stream_does_not_block_other_calls(carrier: Carrier) -> None:
    stub = await carrier.connect()
    call = stub.Expand(EchoRequest(payload=bytes(64 * 1024), count=1_000), timeout=30)
    assert (await call.read()).index == 0
    for _ in range(20):
        await stub.Unary(EchoRequest(payload=bytes(1_000)), timeout=10)
    call.cancel()
    await until(lambda: carrier.servicer.running == 0)
    assert carrier.servicer.sent < 1_000


async def test_a_call_cancelled_before_its_handler_ran_leaves_nothing_behind(carrier: Carrier) -> None:
    stub = await carrier.connect()
    await stub.Unary(EchoRequest(), timeout=10)
    for _ in range(20):
        stub.Unary(EchoRequest(behaviour="hang"), timeout=10).cancel()
    await stub.Unary(EchoRequest(), timeout=10)
    await until(lambda: carrier.servicer.running == 0)
    await asyncio.wait_for(carrier.servers.pop().stop(20_000), 10)


async def test_an_oversized_request_is_refused_and_the_connection_lives(carrier: Carrier) -> None:
    stub = await carrier.connect()
    error = await failure_of(stub.Unary(EchoRequest(payload=bytes(limits.FRAME_SIZE_BYTES_MAX + 1)), timeout=30))
    assert error.code() is StatusCode.RESOURCE_EXHAUSTED
    assert not error_from_rpc(error).retriable
    assert (await stub.Unary(EchoRequest(payload=b"next"), timeout=10)).payload == b"next"


async def test_an_oversized_answer_is_refused_and_the_connection_lives(carrier: Carrier) -> None:
    stub = await carrier.connect()
    request = EchoRequest(behaviour="huge", count=limits.FRAME_SIZE_BYTES_MAX + 1)
    error = await failure_of(stub.Unary(request, timeout=30))
    assert error.code() is StatusCode.RESOURCE_EXHAUSTED
    # The handler ran: that must not be called "not applied".
    assert not error_from_rpc(error).definite
    assert (await stub.Unary(EchoRequest(payload=b"next"), timeout=10)).payload == b"next"


async def test_calls_beyond_the_limit_are_refused_and_the_others_succeed(carrier: Carrier) -> None:
    limit = 100 if carrier.kind == "grpc" else limits.CALLS_PER_CONNECTION_MAX
    count = 150 if carrier.kind == "grpc" else 10_000
    stub = carrier.stub(await carrier.serve(calls_max=limit))
    await stub.Unary(EchoRequest(), timeout=30)
    calls = [stub.Unary(EchoRequest(behaviour="wait"), timeout=50) for _ in range(count)]
    outcomes = [asyncio.create_task(_outcome(call)) for call in calls]
    while sum(outcome.done() for outcome in outcomes) < count - limit:
        await asyncio.sleep(0.01)
    carrier.servicer.release.set()
    results = [await outcome for outcome in outcomes]
    assert results.count("ok") == limit
    assert results.count("Overloaded") == count - limit
    assert (await stub.Unary(EchoRequest(payload=b"after"), timeout=10)).payload == b"after"


async def _outcome(call: Any) -> str:
    try:
        await call
    except AioRpcError as error:
        assert error.code() is StatusCode.RESOURCE_EXHAUSTED
        return type(error_from_rpc(error)).__name__
    return "ok"


async def test_nobody_listening_is_told_as_refused(carrier: Carrier) -> None:
    endpoint = await carrier.serve()
    await carrier.servers.pop().stop(0)
    stub = carrier.stub(endpoint)
    error = await failure_of(stub.Unary(EchoRequest(), timeout=10))
    assert error.code() is StatusCode.UNAVAILABLE
    assert is_connection_refused(error)
    meaning = error_from_rpc(error)
    assert type(meaning) is errors.BrokerNotAvailable
    assert meaning.definite


async def test_wait_for_ready_waits_for_the_server(carrier: Carrier) -> None:
    endpoint = await carrier.serve()
    await carrier.servers.pop().stop(0)
    call = carrier.stub(endpoint).Unary(EchoRequest(payload=b"early"), timeout=20, wait_for_ready=True)
    await asyncio.sleep(0.05)
    await carrier.serve(port=endpoint.port)
    assert (await call).payload == b"early"


async def test_a_killed_server_ends_calls_without_claiming_they_were_not_applied(carrier: Carrier) -> None:
    endpoint = await carrier.serve()
    stub = carrier.stub(endpoint)
    unary = stub.Unary(EchoRequest(behaviour="hang"), timeout=30)
    stream = stub.Expand(EchoRequest(behaviour="hang", count=1), timeout=30)
    assert (await stream.read()).index == 0
    await asyncio.wait_for(carrier.servicer.entered.wait(), 10)
    await carrier.servers.pop().stop(0)
    for call in (unary, stream.read()):
        error = await failure_of(call)
        assert error.code() in {StatusCode.UNAVAILABLE, StatusCode.CANCELLED}
        assert not error_from_rpc(error).definite
    await asyncio.wait_for(carrier.servicer.cancelled.wait(), 10)


async def test_a_channel_reconnects_after_the_server_came_back(carrier: Carrier) -> None:
    endpoint = await carrier.serve()
    stub = carrier.stub(endpoint)
    await stub.Unary(EchoRequest(), timeout=10)
    await carrier.servers.pop().stop(0)
    assert (await failure_of(stub.Unary(EchoRequest(), timeout=10))).code() is StatusCode.UNAVAILABLE
    await carrier.serve(port=endpoint.port)
    response = await stub.Unary(EchoRequest(payload=b"again"), timeout=10, wait_for_ready=True)
    assert response.payload == b"again"


async def test_a_vanished_caller_cancels_its_handlers(carrier: Carrier) -> None:
    stub = await carrier.connect()
    call = stub.Unary(EchoRequest(behaviour="hang"), timeout=30)
    await asyncio.wait_for(carrier.servicer.entered.wait(), 10)
    await carrier.channels.pop().close()
    await asyncio.wait_for(carrier.servicer.cancelled.wait(), 10)
    assert call.done()


async def test_a_drain_finishes_open_calls_and_refuses_new_ones(carrier: Carrier) -> None:
    endpoint = await carrier.serve()
    stub = carrier.stub(endpoint)
    open_call = stub.Unary(EchoRequest(behaviour="wait", payload=b"kept"), timeout=30)
    await asyncio.wait_for(carrier.servicer.entered.wait(), 10)
    stopping = asyncio.create_task(carrier.servers.pop().stop(20_000))
    await asyncio.sleep(0.05)
    assert not stopping.done()
    error = await failure_of(carrier.stub(endpoint).Unary(EchoRequest(), timeout=5))
    assert error.code() is StatusCode.UNAVAILABLE
    carrier.servicer.release.set()
    assert (await open_call).payload == b"kept"
    await asyncio.wait_for(stopping, 10)


async def test_a_drain_ends_when_its_grace_is_over(carrier: Carrier) -> None:
    endpoint = await carrier.serve()
    call = carrier.stub(endpoint).Unary(EchoRequest(behaviour="hang"), timeout=30)
    await asyncio.wait_for(carrier.servicer.entered.wait(), 10)
    await asyncio.wait_for(carrier.servers.pop().stop(100), 10)
    assert carrier.servicer.cancelled.is_set()
    assert (await failure_of(call)).code() in {StatusCode.UNAVAILABLE, StatusCode.CANCELLED}


async def test_too_much_metadata_is_refused(carrier: Carrier) -> None:
    stub = await carrier.connect()
    metadata = (("x-long", "v" * (4 * limits.METADATA_SIZE_BYTES_MAX)),)
    error = await failure_of(stub.Unary(EchoRequest(), metadata=metadata, timeout=10))
    assert error.code() is StatusCode.RESOURCE_EXHAUSTED
    assert (await stub.Unary(EchoRequest(payload=b"next"), timeout=10)).payload == b"next"


async def test_a_closed_channel_refuses_calls(carrier: Carrier) -> None:
    stub = await carrier.connect()
    await carrier.channels.pop().close()
    with pytest.raises((AioRpcError, grpc.aio.UsageError)):
        await stub.Unary(EchoRequest(), timeout=10)
