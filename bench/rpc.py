"""Measures the carriers: one server process, one client process, the same stubs and servicer.

    python bench/rpc.py [--seconds 2] [--carrier lane --carrier grpc] [--uvloop]

Prints one JSON object: per carrier the latency of a unary call alone, calls per second with 16 and 100 in flight,
messages per second of a stream each way, and MB/s of 64 KiB payloads each way. `…_cpu_us` is the processor time per
call of both processes together, which a busy machine distorts least.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import platform
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "contract" / "gen"))

import echo_pb2
import echo_pb2_grpc
import psutil

from logcluster.model.ids import Endpoint
from logcluster.rpc.channels import ChannelPool
from logcluster.rpc.grpc_carrier import build_grpc_server
from logcluster.rpc.lane.server import LaneServer
from logcluster.runtime.clock import SystemClock

SMALL = bytes(100)
LARGE = bytes(64 * 1024)
WARM_UP_CALLS = 300


class Servicer(echo_pb2_grpc.EchoServiceServicer):
    """Answers as little as possible."""

    async def Unary(self, request: Any, context: Any) -> Any:  # noqa: N802
        return echo_pb2.EchoResponse(payload=request.payload if len(request.payload) <= 100 else b"")

    async def Expand(self, request: Any, context: Any) -> AsyncIterator[Any]:  # noqa: N802
        response = echo_pb2.EchoResponse(payload=request.payload)
        for _ in range(request.count):
            yield response

    async def Collect(self, request_iterator: Any, context: Any) -> Any:  # noqa: N802
        count = 0
        async for _request in request_iterator:
            count += 1
        return echo_pb2.EchoResponse(index=count)


def serve(carrier: str, pipe: Connection, use_uvloop: bool) -> None:
    async def main() -> None:
        clock = SystemClock()
        server: Any = LaneServer(clock=clock) if carrier == "lane" else build_grpc_server(clock=clock)
        echo_pb2_grpc.add_EchoServiceServicer_to_server(Servicer(), server)
        pipe.send(await server.start("127.0.0.1", 0))
        await asyncio.get_running_loop().run_in_executor(None, pipe.recv)
        await server.stop(0)

    run(main(), use_uvloop)


def run(main: Any, use_uvloop: bool) -> Any:
    if use_uvloop:
        import uvloop

        return uvloop.run(main)
    return asyncio.run(main)


async def repeat(call: Callable[[], Awaitable[Any]], in_flight: int, seconds: float) -> list[float]:
    """Keep `in_flight` calls going for so long; returns the duration of each, in seconds."""
    durations: list[float] = []
    end = time.perf_counter() + seconds

    async def worker() -> None:
        while (start := time.perf_counter()) < end:
            await call()
            durations.append(time.perf_counter() - start)

    await asyncio.gather(*[worker() for _ in range(in_flight)])
    return durations


async def measure(carrier: str, port: int, server_pid: int, seconds: float) -> dict[str, float]:
    pool = ChannelPool(clock=SystemClock(), transport=carrier)  # type: ignore[arg-type]
    stub = echo_pb2_grpc.EchoServiceStub(pool.channel(Endpoint("127.0.0.1", port)))
    small = echo_pb2.EchoRequest(payload=SMALL)
    large = echo_pb2.EchoRequest(payload=LARGE)

    async def unary() -> Any:
        return await stub.Unary(small, timeout=10)

    async def unary_large() -> Any:
        return await stub.Unary(large, timeout=10)

    for _ in range(WARM_UP_CALLS):
        await unary()
    result: dict[str, float] = {}
    alone = sorted(await repeat(unary, 1, seconds))
    result["unary_1_p50_us"] = round(alone[len(alone) // 2] * 1e6, 1)
    result["unary_1_p99_us"] = round(alone[len(alone) * 99 // 100] * 1e6, 1)
    for in_flight in (16, 100):
        cpu_before = cpu_seconds(server_pid)
        count = len(await repeat(unary, in_flight, seconds))
        result[f"unary_{in_flight}_per_s"] = round(count / seconds)
        result[f"unary_{in_flight}_cpu_us"] = round((cpu_seconds(server_pid) - cpu_before) / count * 1e6, 1)
    result["unary_64k_16_mb_per_s"] = round(len(await repeat(unary_large, 16, seconds)) * len(LARGE) / seconds / 1e6, 1)
    count = 200_000 if carrier == "lane" else 10_000
    large_count = 10_000 if carrier == "lane" else 2_000
    result["stream_down_100b_per_s"] = round(count / await stream_down(stub, SMALL, count))
    result["stream_up_100b_per_s"] = round(count / await stream_up(stub, small, count))
    size = large_count * len(LARGE) / 1e6
    result["stream_down_64k_mb_per_s"] = round(size / await stream_down(stub, LARGE, large_count), 1)
    result["stream_up_64k_mb_per_s"] = round(size / await stream_up(stub, large, large_count), 1)
    await pool.close()
    return result


def cpu_seconds(server_pid: int) -> float:
    """Processor time used so far by this process and the server's."""
    return sum(sum(psutil.Process(pid).cpu_times()[:2]) for pid in (os.getpid(), server_pid))


async def stream_down(stub: Any, payload: bytes, count: int) -> float:
    start = time.perf_counter()
    seen = 0
    async for _response in stub.Expand(echo_pb2.EchoRequest(payload=payload, count=count)):
        seen += 1
    assert seen == count
    return time.perf_counter() - start


async def stream_up(stub: Any, request: Any, count: int) -> float:
    start = time.perf_counter()
    call = stub.Collect()
    for _ in range(count):
        await call.write(request)
    await call.done_writing()
    assert (await call).index == count
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=2.0, help="duration of each unary measurement")
    parser.add_argument("--carrier", action="append", choices=["lane", "grpc"])
    parser.add_argument("--uvloop", action="store_true")
    arguments = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    report: dict[str, Any] = {
        "python": platform.python_version(),
        "cpu_count": os.cpu_count(),
        "uvloop": arguments.uvloop,
        "seconds": arguments.seconds,
    }
    for carrier in arguments.carrier or ["lane", "grpc"]:
        ours, theirs = context.Pipe()
        server = context.Process(target=serve, args=(carrier, theirs, arguments.uvloop))
        server.start()
        try:
            report[carrier] = run(measure(carrier, ours.recv(), server.pid or 0, arguments.seconds), arguments.uvloop)
        finally:
            ours.send(None)
            server.join(10)
            if server.is_alive():
                server.kill()
    json.dump(report, sys.stdout, indent=2)
    print()


if __name__ == "__main__":
    main()
