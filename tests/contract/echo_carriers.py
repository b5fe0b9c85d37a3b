"""What the contract tests share: the echo servicer, and one object per carrier that serves and connects."""

from __future__ import annotations

import asyncio
import contextlib
import random
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent / "gen"))

import echo_pb2
import echo_pb2_grpc
import grpc

from logcluster.model import errors
from logcluster.model.ids import Endpoint
from logcluster.rpc.grpc_carrier import build_grpc_server, grpc_channel
from logcluster.rpc.interceptors import Boundary
from logcluster.rpc.lane.channel import LaneChannel
from logcluster.rpc.lane.network import LaneOptions
from logcluster.rpc.lane.server import LaneServer
from logcluster.runtime.clock import SystemClock
from logcluster.sim.loopback import LoopbackNetwork

EchoRequest = echo_pb2.EchoRequest
EchoResponse = echo_pb2.EchoResponse


class EchoServicer(echo_pb2_grpc.EchoServiceServicer):
    """Does what the requests say, and records what became of its handlers."""

    def __init__(self) -> None:
        self.entered = asyncio.Event()
        self.cancelled = asyncio.Event()
        self.release = asyncio.Event()
        self.sent = 0
        self.received = 0
        self.running = 0

    @contextlib.contextmanager
    def _watch(self) -> Any:
        self.entered.set()
        self.running += 1
        try:
            yield
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        finally:
            self.running -= 1

    async def Unary(self, request: Any, context: Any) -> Any:
        with self._watch():
            return await self._unary(request, context)

    async def _unary(self, request: Any, context: Any) -> Any:
        match request.behaviour:
            case "wait":
                await self.release.wait()
            case "hang":
                await asyncio.Event().wait()
            case "stray-cancel":
                raise asyncio.CancelledError
            case "bug":
                raise RuntimeError("the secret password is 1234")
            case "abort":
                await context.abort(
                    grpc.StatusCode.OUT_OF_RANGE, "too far", (("why", "because"), ("raw-bin", b"\x00\xff"))
                )
            case "refuse":
                raise errors.NotLeaderOrFollower("broker 2 leads it", leader_id=2, leader_epoch=7)
            case "code":
                context.set_code(grpc.StatusCode.DATA_LOSS)
                context.set_details("by set_code")
            case "metadata":
                seen = {m.key: m.value for m in context.invocation_metadata() if m.key.startswith("x-")}
                text = {key: value if isinstance(value, str) else value.hex() for key, value in seen.items()}
                await context.send_initial_metadata((("x-first", "1"),))
                context.set_trailing_metadata((("x-last", "2"), ("x-raw-bin", b"\x01\xfe")))
                return EchoResponse(seen=text)
            case "deadline":
                remaining = context.time_remaining()
                return EchoResponse(index=-1 if remaining is None else int(remaining * 1000))
            case "huge":
                return EchoResponse(payload=bytes(request.count))
        return EchoResponse(payload=request.payload)

    async def Expand(self, request: Any, context: Any) -> AsyncIterator[Any]:
        with self._watch():
            for index in range(request.count):
                yield EchoResponse(payload=request.payload, index=index)
                self.sent += 1
            if request.behaviour == "abort":
                await context.abort(grpc.StatusCode.ABORTED, "after all")
            if request.behaviour == "bug":
                raise RuntimeError("the secret password is 1234")
            if request.behaviour == "refuse":
                raise errors.OffsetOutOfRange("gone", log_start_offset=5)
            if request.behaviour == "hang":
                await asyncio.Event().wait()

    async def Collect(self, request_iterator: Any, context: Any) -> Any:
        with self._watch():
            count = 0
            async for request in request_iterator:
                if request.behaviour == "wait":
                    await self.release.wait()
                if request.behaviour == "enough":
                    return EchoResponse(index=count, payload=b"enough")
                count += 1
                self.received += 1
            return EchoResponse(index=count)

    async def Chat(self, request_iterator: Any, context: Any) -> None:
        with self._watch():
            while True:
                request = await context.read()
                if request is grpc.aio.EOF:
                    break
                await context.write(EchoResponse(payload=request.payload))
            await context.write(EchoResponse(payload=b"bye"))


class Carrier:
    """One carrier with its servers and channels; closes what it made."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.clock = SystemClock()
        self.network = LoopbackNetwork(self.clock, random.Random(1))
        self.servicer = EchoServicer()
        self.servers: list[Any] = []
        self.channels: list[Any] = []
        self.options = LaneOptions()

    async def serve(self, *, calls_max: int | None = None, boundary: Boundary | None = None, port: int = 0) -> Endpoint:
        server: Any
        if self.kind == "grpc":
            limit = {} if calls_max is None else {"calls_max": calls_max}
            server = build_grpc_server(clock=self.clock, boundary=boundary, **limit)
        else:
            network = self.network.node("server") if self.kind == "loopback" else None
            server = LaneServer(
                clock=self.clock, calls_max=calls_max, boundary=boundary, options=self.options, network=network
            )
        echo_pb2_grpc.add_EchoServiceServicer_to_server(self.servicer, server)
        bound = await server.start("127.0.0.1", port)
        self.servers.append(server)
        return Endpoint("127.0.0.1", bound)

    def channel(self, endpoint: Endpoint, **arguments: Any) -> Any:
        channel: Any
        if self.kind == "grpc":
            channel = grpc_channel(endpoint)
        else:
            network = self.network.node("client") if self.kind == "loopback" else None
            channel = LaneChannel(endpoint, clock=self.clock, network=network, options=self.options, **arguments)
        self.channels.append(channel)
        return channel

    def stub(self, endpoint: Endpoint) -> Any:
        return echo_pb2_grpc.EchoServiceStub(self.channel(endpoint))

    async def connect(self) -> Any:
        """Serve and return a stub."""
        return self.stub(await self.serve())

    async def close(self) -> None:
        for channel in self.channels:
            await channel.close()
        for server in self.servers:
            await server.stop(0)
