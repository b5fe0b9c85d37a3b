"""A peer that is far away: connecting takes two round trips, which are no sign of trouble."""

from __future__ import annotations

import asyncio

from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

from logcluster.model.ids import Endpoint
from logcluster.rpc.grpc_carrier import build_grpc_server, grpc_channel
from logcluster.runtime.clock import SystemClock

ROUND_TRIP_S = 0.25


async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, delay_s: float) -> None:
    while data := await reader.read(65_536):
        await asyncio.sleep(delay_s)
        writer.write(data)
        await writer.drain()


async def test_a_connection_that_takes_its_time_comes_about() -> None:
    server = build_grpc_server(clock=SystemClock())
    port = await server.start("127.0.0.1", 0)
    relays: list[asyncio.Task[None]] = []

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", port)

        async def both_ways() -> None:
            try:
                await asyncio.wait(
                    [
                        asyncio.create_task(relay(reader, back, delay_s=ROUND_TRIP_S / 2)),
                        asyncio.create_task(relay(there, writer, delay_s=ROUND_TRIP_S / 2)),
                    ],
                    return_when=asyncio.FIRST_COMPLETED,
                )
            finally:
                for end in (back, writer):
                    end.close()
                for end in (back, writer):
                    await end.wait_closed()

        relays.append(asyncio.create_task(both_ways()))

    far = await asyncio.start_server(accept, "127.0.0.1", 0)
    channel = grpc_channel(Endpoint("127.0.0.1", far.sockets[0].getsockname()[1]))
    try:
        answer = await HealthStub(channel).Check(HealthCheckRequest(), timeout=5)
        assert answer.status == HealthCheckResponse.SERVING
    finally:
        await channel.close()
        far.close()
        await asyncio.wait(relays)
        await server.stop(0)
