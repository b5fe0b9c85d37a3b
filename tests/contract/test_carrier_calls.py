"""What a caller sees of a call, the same on every carrier."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest
from echo_carriers import Carrier, EchoRequest
from grpc.aio import AioRpcError

from logcluster.model import errors
from logcluster.wire.status import error_from_rpc

StatusCode = grpc.StatusCode


async def test_unary_answers(carrier: Carrier) -> None:
    stub = await carrier.connect()
    call = stub.Unary(EchoRequest(payload=b"hello"), timeout=10)
    response = await call
    assert response.payload == b"hello"
    assert await call.code() is StatusCode.OK
    assert call.done()
    assert not call.cancelled()
    assert (await call) is response


async def test_unary_carries_empty_and_large_messages(carrier: Carrier) -> None:
    stub = await carrier.connect()
    for size in (0, 1, 47_000, 48 * 1024 - 9, 48 * 1024, 70_000, 131_072, 3_000_000):
        payload = bytes([size % 251]) * size
        assert (await stub.Unary(EchoRequest(payload=payload), timeout=10)).payload == payload


async def test_a_call_sent_without_awaiting_it_still_runs(carrier: Carrier) -> None:
    stub = await carrier.connect()
    call = stub.Unary(EchoRequest(payload=b"x"), timeout=10)
    await asyncio.wait_for(carrier.servicer.entered.wait(), 10)
    assert (await call).payload == b"x"


async def test_unary_stream_by_iteration(carrier: Carrier) -> None:
    stub = await carrier.connect()
    call = stub.Expand(EchoRequest(payload=b"p", count=500), timeout=10)
    assert [response.index async for response in call] == list(range(500))
    assert await call.code() is StatusCode.OK


async def test_unary_stream_by_read(carrier: Carrier) -> None:
    stub = await carrier.connect()
    call = stub.Expand(EchoRequest(count=2), timeout=10)
    assert (await call.read()).index == 0
    assert (await call.read()).index == 1
    assert await call.read() is grpc.aio.EOF
    assert await call.read() is grpc.aio.EOF


async def test_an_empty_stream_ends(carrier: Carrier) -> None:
    stub = await carrier.connect()
    assert [response async for response in stub.Expand(EchoRequest(count=0), timeout=10)] == []


@pytest.mark.parametrize("is_async", [True, False])
async def test_stream_unary_from_an_iterator(carrier: Carrier, is_async: bool) -> None:
    async def generate() -> Any:
        for _ in range(300):
            yield EchoRequest(payload=b"x")

    stub = await carrier.connect()
    requests = generate() if is_async else iter([EchoRequest(payload=b"x")] * 300)
    assert (await stub.Collect(requests, timeout=10)).index == 300


async def test_stream_unary_by_writing(carrier: Carrier) -> None:
    stub = await carrier.connect()
    call = stub.Collect(timeout=10)
    for _ in range(5):
        await call.write(EchoRequest())
    await call.done_writing()
    assert (await call).index == 5
    with pytest.raises(asyncio.InvalidStateError):
        await call.write(EchoRequest())


async def test_writing_after_done_writing_is_refused(carrier: Carrier) -> None:
    stub = await carrier.connect()
    call = stub.Chat(timeout=10)
    await call.done_writing()
    await call.done_writing()
    with pytest.raises(asyncio.InvalidStateError):
        await call.write(EchoRequest())
    assert (await call.read()).payload == b"bye"


async def test_writing_beside_an_iterator_is_refused(carrier: Carrier) -> None:
    stub = await carrier.connect()
    call = stub.Collect(iter([EchoRequest()]), timeout=10)
    with pytest.raises(grpc.aio.UsageError):
        await call.write(EchoRequest())
    assert (await call).index == 1


async def test_a_server_may_answer_before_the_requests_end(carrier: Carrier) -> None:
    stub = await carrier.connect()
    call = stub.Collect(timeout=10)
    await call.write(EchoRequest(behaviour="enough"))
    assert (await call).payload == b"enough"


async def test_both_directions_alternate(carrier: Carrier) -> None:
    stub = await carrier.connect()
    call = stub.Chat(timeout=10)
    for index in range(20):
        await call.write(EchoRequest(payload=b"%d" % index))
        assert (await call.read()).payload == b"%d" % index
    await call.done_writing()


async def test_half_close_leaves_the_other_direction_open(carrier: Carrier) -> None:
    stub = await carrier.connect()
    call = stub.Chat(timeout=10)
    await call.write(EchoRequest(payload=b"last"))
    await call.done_writing()
    assert [response.payload async for response in call] == [b"last", b"bye"]
    assert await call.code() is StatusCode.OK


async def test_metadata_travels_both_ways(carrier: Carrier) -> None:
    stub = await carrier.connect()
    sent = (("x-name", "value"), ("x-blob-bin", b"\x00\x01\xff"))
    call = stub.Unary(EchoRequest(behaviour="metadata"), metadata=sent, timeout=10)
    response = await call
    assert dict(response.seen) == {"x-name": "value", "x-blob-bin": "0001ff"}
    assert dict(await call.initial_metadata())["x-first"] == "1"
    trailing = dict(await call.trailing_metadata())
    assert trailing["x-last"] == "2"
    assert trailing["x-raw-bin"] == b"\x01\xfe"


async def test_abort_gives_code_details_and_trailing_metadata(carrier: Carrier) -> None:
    stub = await carrier.connect()
    call = stub.Unary(EchoRequest(behaviour="abort"), timeout=10)
    with pytest.raises(AioRpcError) as caught:
        await call
    assert caught.value.code() is StatusCode.OUT_OF_RANGE
    assert caught.value.details() == "too far"
    trailing = dict(caught.value.trailing_metadata())
    assert trailing["why"] == "because"
    assert trailing["raw-bin"] == b"\x00\xff"
    assert await call.code() is StatusCode.OUT_OF_RANGE
    assert await call.details() == "too far"


async def test_set_code_makes_the_call_fail(carrier: Carrier) -> None:
    stub = await carrier.connect()
    with pytest.raises(AioRpcError) as caught:
        await stub.Unary(EchoRequest(behaviour="code"), timeout=10)
    assert (caught.value.code(), caught.value.details()) == (StatusCode.DATA_LOSS, "by set_code")


async def test_typed_errors_arrive_as_they_were_raised(carrier: Carrier) -> None:
    stub = await carrier.connect()
    with pytest.raises(AioRpcError) as caught:
        await stub.Unary(EchoRequest(behaviour="refuse"), timeout=10)
    assert caught.value.code() is StatusCode.FAILED_PRECONDITION
    error = error_from_rpc(caught.value)
    assert type(error) is errors.NotLeaderOrFollower
    assert (error.message, error.facts) == ("broker 2 leads it", {"leader_id": "2", "leader_epoch": "7"})
    assert error.definite


async def test_a_stream_that_fails_gives_its_messages_first(carrier: Carrier) -> None:
    stub = await carrier.connect()
    for behaviour, code in (("abort", StatusCode.ABORTED), ("refuse", StatusCode.OUT_OF_RANGE)):
        seen = []
        with pytest.raises(AioRpcError) as caught:
            async for response in stub.Expand(EchoRequest(count=50, behaviour=behaviour), timeout=10):
                seen.append(response.index)
        assert seen == list(range(50))
        assert caught.value.code() is code


@pytest.mark.parametrize("shape", ["Unary", "Expand"])
async def test_a_bug_answers_with_an_incident_and_keeps_its_text(
    carrier: Carrier, shape: str, caplog: pytest.LogCaptureFixture
) -> None:
    stub = await carrier.connect()
    with pytest.raises(AioRpcError) as caught:
        call = getattr(stub, shape)(EchoRequest(behaviour="bug"), timeout=10)
        await (call if shape == "Unary" else call.read())
    assert caught.value.code() is StatusCode.INTERNAL
    assert "incident" in (caught.value.details() or "")
    assert "password" not in repr(caught.value) + str(caught.value.trailing_metadata())
    assert "password" in caplog.text
    incident = error_from_rpc(caught.value).facts["incident"]
    assert str(incident) in caplog.text


async def test_a_handler_that_leaks_cancelled_error_does_not_hang_its_caller(carrier: Carrier) -> None:
    stub = await carrier.connect()
    with pytest.raises(AioRpcError) as caught:
        await asyncio.wait_for(stub.Unary(EchoRequest(behaviour="stray-cancel"), timeout=30), 10)
    assert caught.value.code() is StatusCode.UNAVAILABLE
    assert not error_from_rpc(caught.value).definite


async def test_an_unknown_method_is_unimplemented(carrier: Carrier) -> None:
    channel = carrier.channel(await carrier.serve())
    method = channel.unary_unary("/logcluster.test.v1.EchoService/Nothing", _registered_method=True)
    with pytest.raises(AioRpcError) as caught:
        await method(b"", timeout=10)
    assert caught.value.code() is StatusCode.UNIMPLEMENTED


async def test_a_method_left_out_by_the_servicer_is_unimplemented(carrier: Carrier) -> None:
    import echo_pb2_grpc

    class Partial(echo_pb2_grpc.EchoServiceServicer):
        pass

    partial = Partial()
    carrier.servicer.Unary = partial.Unary  # type: ignore[method-assign]
    stub = await carrier.connect()
    with pytest.raises(AioRpcError) as caught:
        await stub.Unary(EchoRequest(), timeout=10)
    assert caught.value.code() is StatusCode.UNIMPLEMENTED


async def test_a_request_that_cannot_be_decoded_is_internal(carrier: Carrier) -> None:
    channel = carrier.channel(await carrier.serve())
    method = channel.unary_unary("/logcluster.test.v1.EchoService/Unary", _registered_method=True)
    with pytest.raises(AioRpcError) as caught:
        await method(b"\xff\xff\xff", timeout=10)
    assert caught.value.code() in {StatusCode.INTERNAL, StatusCode.UNKNOWN}


async def test_done_callbacks_run(carrier: Carrier) -> None:
    stub = await carrier.connect()
    seen = []
    call = stub.Unary(EchoRequest(), timeout=10)
    call.add_done_callback(lambda ended: seen.append(ended))
    await call
    await asyncio.sleep(0)
    assert seen == [call]
