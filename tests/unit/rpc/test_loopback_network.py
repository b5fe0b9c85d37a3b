"""The simulated network: delays, cuts, resets and crashes by seed, with the lane's own code above."""

from __future__ import annotations

import asyncio
import heapq
import random
import selectors
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import pytest
from grpc.aio import AioRpcError

from logcluster.model import errors
from logcluster.model.ids import Endpoint
from logcluster.rpc.lane.channel import LaneChannel, is_connection_refused
from logcluster.rpc.lane.network import LaneOptions
from logcluster.rpc.lane.server import LaneServer
from logcluster.runtime.clock import SystemClock
from logcluster.sim.loopback import Link, LoopbackNetwork
from logcluster.wire.status import error_from_rpc

SERVER = Endpoint("127.0.0.1", 7071)


class VirtualLoop(asyncio.SelectorEventLoop):
    """Time jumps to the next timer as soon as nothing is left to do."""

    def __init__(self) -> None:
        super().__init__(selectors.SelectSelector())
        self.virtual_time = 0.0

    def time(self) -> float:
        return self.virtual_time

    def _run_once(self) -> None:
        while self._scheduled and self._scheduled[0]._cancelled:
            heapq.heappop(self._scheduled)._scheduled = False
        if not self._ready and self._scheduled:
            self.virtual_time = max(self.virtual_time, self._scheduled[0]._when)
        super()._run_once()


class EchoHandlers(grpc.GenericRpcHandler):
    """Raw bytes in and out, without protobuf."""

    def __init__(self) -> None:
        self.log: list[tuple[float, bytes]] = []

    async def unary(self, request: bytes, context: Any) -> bytes:
        self.log.append((round(asyncio.get_running_loop().time(), 6), request[:8]))
        return request

    async def stream(self, requests: Any, context: Any) -> AsyncIterator[bytes]:
        async for request in requests:
            yield request

    def service(self, handler_call_details: Any) -> Any:
        if handler_call_details.method == "/t/Unary":
            return grpc.unary_unary_rpc_method_handler(self.unary)
        if handler_call_details.method == "/t/Stream":
            return grpc.stream_stream_rpc_method_handler(self.stream)
        return None


class World:
    """A server node `s` and a client node `c`."""

    def __init__(self, seed: int = 1, options: LaneOptions | None = None) -> None:
        self.clock = SystemClock()
        self.network = LoopbackNetwork(self.clock, random.Random(seed))
        self.handlers = EchoHandlers()
        self.options = options or LaneOptions()
        self.server = self.new_server()
        self.ended: list[Exception | None] = []
        self.channel = LaneChannel(
            SERVER,
            clock=self.clock,
            network=self.network.node("c"),
            options=self.options,
            on_disconnect=self.ended.append,
        )
        self.unary = self.channel.unary_unary("/t/Unary")
        self.stream = self.channel.stream_stream("/t/Stream")

    def new_server(self) -> LaneServer:
        server = LaneServer(clock=self.clock, network=self.network.node("s"), options=self.options)
        server.add_generic_rpc_handlers((self.handlers,))
        return server

    async def __aenter__(self) -> World:
        await self.server.start(*SERVER)
        return self

    async def __aexit__(self, *_error: object) -> None:
        self.network.heal_all()
        await self.channel.close()
        await self.server.stop(0)
        await asyncio.sleep(60)
        assert self.network.connection_count == 0


def run_virtual(scenario: Callable[[], Any]) -> Any:
    loop = VirtualLoop()
    try:
        return loop.run_until_complete(scenario())
    finally:
        loop.close()


async def failure_of(call: Any) -> AioRpcError:
    try:
        await call
    except AioRpcError as error:
        return error
    raise AssertionError("the call did not fail")


def test_the_same_seed_gives_the_same_history_and_another_seed_another() -> None:
    async def scenario(seed: int) -> list[tuple[float, bytes]]:
        world = World(seed)
        world.network.default_link = Link(delay_ms_min=1, delay_ms_max=50)
        async with world:

            async def caller(number: int) -> None:
                for index in range(10):
                    await world.unary(b"%d-%d" % (number, index), timeout=30)

            await asyncio.gather(*[caller(number) for number in range(5)])
            return world.handlers.log

    first = run_virtual(lambda: scenario(1))
    assert first == run_virtual(lambda: scenario(1))
    assert first != run_virtual(lambda: scenario(2))
    assert len(first) == 50


def test_delay_is_virtual_time() -> None:
    async def scenario() -> float:
        world = World()
        world.network.default_link = Link(delay_ms_min=100, delay_ms_max=100)
        async with world:
            await world.channel.connect()
            start = asyncio.get_running_loop().time()
            await world.unary(b"x", timeout=10)
            return asyncio.get_running_loop().time() - start

    assert run_virtual(scenario) == pytest.approx(0.2, abs=0.01)


def test_a_cut_holds_bytes_back_until_it_heals() -> None:
    async def scenario() -> None:
        async with World() as world:
            await world.unary(b"before", timeout=10)
            world.network.cut("c", "s")
            call = world.unary(b"held", timeout=30)
            await asyncio.sleep(5)
            assert not call.done()
            assert len(world.handlers.log) == 1
            world.network.heal("c", "s")
            assert await call == b"held"

    run_virtual(scenario)


def test_a_cut_one_way_loses_the_answer_only() -> None:
    async def scenario() -> None:
        async with World() as world:
            await world.unary(b"before", timeout=10)
            world.network.cut("s", "c")
            error = await failure_of(world.unary(b"applied", timeout=3))
            assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            assert not error_from_rpc(error).definite
            assert world.handlers.log[-1][1] == b"applied"

    run_virtual(scenario)


def test_keepalive_ends_a_connection_over_a_long_cut() -> None:
    async def scenario() -> None:
        world = World(options=LaneOptions(keepalive_idle_ms=1_000, keepalive_timeout_ms=500))
        async with world:
            await world.channel.connect()
            world.network.cut("s", "c")
            error = await failure_of(world.unary(b"x", timeout=60))
            assert error.code() is grpc.StatusCode.UNAVAILABLE
            assert asyncio.get_running_loop().time() < 4
            assert isinstance(world.ended[0], TimeoutError)

    run_virtual(scenario)


def test_connecting_over_a_cut_ends_with_the_connect_timeout() -> None:
    async def scenario() -> None:
        async with World() as world:
            world.network.cut("c", "s")
            error = error_from_rpc(await failure_of(world.unary(b"x", timeout=60)))
            assert type(error) is errors.BrokerNotAvailable
            assert 2.9 < asyncio.get_running_loop().time() < 3.2
            world.network.heal("c", "s")
            assert await world.unary(b"y", timeout=10) == b"y"

    run_virtual(scenario)


def test_a_reset_ends_both_sides_and_a_later_call_reconnects() -> None:
    async def scenario() -> None:
        async with World() as world:
            call = world.stream()
            await call.write(b"a")
            assert await call.read() == b"a"
            world.network.reset("c", "s")
            error = await failure_of(call.read())
            assert type(error_from_rpc(error)) is errors.Disconnected
            assert isinstance(world.ended[0], ConnectionResetError)
            assert world.server.statistics()["calls_open"] == 0
            assert await world.unary(b"again", timeout=10) == b"again"

    run_virtual(scenario)


def test_random_resets_lose_calls_but_never_mix_answers_up() -> None:
    async def scenario() -> tuple[int, int]:
        world = World(seed=3)
        async with world:
            world.network.link("c", "s").reset_probability = 0.05
            world.network.link("s", "c").reset_probability = 0.05
            good = bad = 0
            for index in range(300):
                try:
                    assert await world.unary(b"%d" % index, timeout=5) == b"%d" % index
                    good += 1
                except AioRpcError as error:
                    assert error.code() is grpc.StatusCode.UNAVAILABLE
                    bad += 1
            world.network.link("c", "s").reset_probability = 0
            world.network.link("s", "c").reset_probability = 0
            return good, bad

    good, bad = run_virtual(scenario)
    assert good > 200
    assert bad > 5


def test_a_crashed_node_refuses_connections_until_it_listens_again() -> None:
    async def scenario() -> None:
        async with World() as world:
            await world.unary(b"x", timeout=10)
            world.network.crash("s")
            assert not is_connection_refused(await failure_of(world.unary(b"y", timeout=10)))
            error = await failure_of(world.unary(b"z", timeout=10))
            assert is_connection_refused(error)
            world.server = world.new_server()
            await world.server.start(*SERVER)
            assert await world.unary(b"back", timeout=10) == b"back"

    run_virtual(scenario)


def test_large_streams_pass_with_bounded_memory_on_the_link() -> None:
    async def scenario() -> None:
        async with World() as world:
            payload = bytes(300_000)

            async def requests() -> AsyncIterator[bytes]:
                for _ in range(40):
                    yield payload

            sizes = []
            async for response in world.stream(requests()):
                sizes.append(len(response))
                for transport in world.network._transports:
                    assert transport.get_write_buffer_size() <= 3 * 1024 * 1024
            assert sizes == [300_000] * 40

    run_virtual(scenario)


def test_an_address_in_use_cannot_be_bound_again() -> None:
    async def scenario() -> None:
        async with World() as world:
            with pytest.raises(OSError, match="in use"):
                await world.new_server().start(*SERVER)

    run_virtual(scenario)
