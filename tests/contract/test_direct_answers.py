"""Methods that the lane may answer without a task behave to their callers as any other, on every carrier."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import echo_carriers
import grpc
import pytest
from echo_carriers import EchoRequest, EchoResponse

from logcluster.model import errors
from logcluster.rpc.interceptors import answered_directly_by
from logcluster.rpc.lane.server import LaneServer
from logcluster.wire.status import error_from_rpc

CARRIERS = ["lane", "loopback", "grpc"]


class DirectServicer(echo_carriers.EchoServicer):
    """Answers now, later or never, as the request says."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting: list[Callable[[], None]] = []
        self.direct_calls = 0

    @answered_directly_by("unary_directly")
    async def Unary(self, request: Any, context: Any) -> Any:
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.start(request, lambda response: future.done() or future.set_result(response))
        return await future

    def unary_directly(self, request: Any, answer: Callable[[Any], None]) -> None:
        self.direct_calls += 1
        self.start(request, answer)

    def start(self, request: Any, answer: Callable[[Any], None]) -> None:
        response = EchoResponse(payload=request.payload)
        match request.behaviour:
            case "refuse":
                raise errors.NotLeaderOrFollower("broker 2 leads it", leader_id=2)
            case "bug":
                raise RuntimeError("the secret password is 1234")
            case "later":
                self.waiting.append(lambda: answer(response))
            case "twice":
                answer(response)
                answer(response)
            case _:
                answer(response)


@pytest.fixture(params=CARRIERS)
async def carrier(request: pytest.FixtureRequest) -> AsyncIterator[Any]:
    carrier = echo_carriers.Carrier(request.param)
    carrier.servicer = DirectServicer()
    yield carrier
    await carrier.close()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.001)


def open_calls(carrier: Any) -> int:
    return sum(server.statistics()["calls_open"] for server in carrier.servers if isinstance(server, LaneServer))


async def test_an_answer_now_and_later(carrier: Any) -> None:
    stub = await carrier.connect()
    assert (await stub.Unary(EchoRequest(payload=b"a"), timeout=5)).payload == b"a"
    assert (await stub.Unary(EchoRequest(payload=b"b", behaviour="twice"), timeout=5)).payload == b"b"
    call = stub.Unary(EchoRequest(payload=b"c", behaviour="later"), timeout=5)
    waiter = asyncio.ensure_future(_result(call))
    await until(lambda: bool(carrier.servicer.waiting))
    carrier.servicer.waiting.pop()()
    assert (await waiter).payload == b"c"
    assert open_calls(carrier) == 0


async def test_the_lane_really_takes_the_short_way() -> None:
    carrier = echo_carriers.Carrier("lane")
    carrier.servicer = DirectServicer()
    stub = await carrier.connect()
    await stub.Unary(EchoRequest(), timeout=5)
    assert carrier.servicer.direct_calls == 1
    await carrier.close()


async def test_a_refusal_keeps_its_facts(carrier: Any) -> None:
    stub = await carrier.connect()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Unary(EchoRequest(behaviour="refuse"), timeout=5)
    error = error_from_rpc(caught.value)
    assert isinstance(error, errors.NotLeaderOrFollower)
    assert error.facts["leader_id"] == "2"
    assert open_calls(carrier) == 0


async def test_a_bug_gives_an_incident_and_no_secret(carrier: Any) -> None:
    stub = await carrier.connect()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Unary(EchoRequest(behaviour="bug"), timeout=5)
    assert caught.value.code() is grpc.StatusCode.INTERNAL
    assert "1234" not in str(caught.value.details())
    assert (await stub.Unary(EchoRequest(payload=b"x"), timeout=5)).payload == b"x"


async def test_a_deadline_frees_the_place_and_a_late_answer_is_dropped(carrier: Any) -> None:
    stub = await carrier.connect()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Unary(EchoRequest(behaviour="later"), timeout=0.1)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await until(lambda: open_calls(carrier) == 0)
    carrier.servicer.waiting.pop()()
    assert (await stub.Unary(EchoRequest(payload=b"x"), timeout=5)).payload == b"x"


async def test_a_cancelled_call_frees_its_place(carrier: Any) -> None:
    stub = await carrier.connect()
    call = stub.Unary(EchoRequest(behaviour="later"), timeout=5)
    waiter = asyncio.ensure_future(_result(call))
    await until(lambda: bool(carrier.servicer.waiting))
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiter
    await until(lambda: open_calls(carrier) == 0)
    carrier.servicer.waiting.pop()()
    assert (await stub.Unary(EchoRequest(payload=b"x"), timeout=5)).payload == b"x"


async def _result(call: Any) -> Any:
    return await call
