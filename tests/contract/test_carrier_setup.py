"""TLS on the lane, and what only a grpc server has: health, reflection, exclusive ports."""

from __future__ import annotations

import asyncio
import shutil
import ssl
import subprocess
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import echo_pb2
import echo_pb2_grpc
import grpc
import pytest
from echo_carriers import Carrier, EchoRequest
from grpc.aio import AioRpcError
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from logcluster.model.ids import Endpoint
from logcluster.rpc.grpc_carrier import build_grpc_server, grpc_channel
from logcluster.rpc.lane.channel import LaneChannel
from logcluster.rpc.lane.server import LaneServer
from logcluster.runtime.clock import SystemClock
from logcluster.runtime.disk import ThreadedDisk

SERVICE = echo_pb2.DESCRIPTOR.services_by_name["EchoService"].full_name


@pytest.fixture
async def lane() -> AsyncIterator[Carrier]:
    made = Carrier("lane")
    yield made
    await made.close()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A self-signed certificate for localhost and its key."""
    if shutil.which("openssl") is None:
        pytest.skip("needs the openssl command to make a certificate")
    directory = tmp_path_factory.mktemp("tls")
    certificate, key = directory / "cert.pem", directory / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-keyout", str(key), "-out", str(certificate), "-subj", "/CN=localhost",
         "-addext", "subjectAltName=DNS:localhost"],
        check=True,
        capture_output=True,
    )  # fmt: skip
    return certificate, key


def tls_contexts(certificate: Path, key: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(certificate))
    server.load_cert_chain(certificate, key)
    server.verify_mode = ssl.CERT_OPTIONAL
    client = ssl.create_default_context(cafile=str(certificate))
    client.load_cert_chain(certificate, key)
    return server, client


async def test_the_lane_runs_over_tls_and_knows_the_peers_name(lane: Carrier, certificate: tuple[Path, Path]) -> None:
    server_context, client_context = tls_contexts(*certificate)
    seen: list[Any] = []

    async def unary(request: Any, context: Any) -> Any:
        seen.append((context.peer_identity_key(), list(context.peer_identities())))
        return echo_pb2.EchoResponse(payload=request.payload)

    lane.servicer.Unary = unary  # type: ignore[method-assign]
    server = LaneServer(clock=lane.clock, ssl=server_context)
    echo_pb2_grpc.add_EchoServiceServicer_to_server(lane.servicer, server)
    port = await server.start("localhost", 0)
    lane.servers.append(server)
    channel = LaneChannel(Endpoint("localhost", port), clock=lane.clock, ssl=client_context)
    lane.channels.append(channel)
    stub = echo_pb2_grpc.EchoServiceStub(channel)
    payload = bytes(range(256)) * 4_000
    assert (await stub.Unary(EchoRequest(payload=payload), timeout=10)).payload == payload
    assert seen == [("x509_common_name", [b"localhost"])]
    assert (await stub.Collect(iter([EchoRequest(payload=payload)] * 10), timeout=10)).index == 10


async def test_a_certificate_that_is_not_trusted_is_refused(lane: Carrier, certificate: tuple[Path, Path]) -> None:
    server_context, _client = tls_contexts(*certificate)
    server = LaneServer(clock=lane.clock, ssl=server_context)
    port = await server.start("localhost", 0)
    lane.servers.append(server)
    channel = LaneChannel(Endpoint("localhost", port), clock=lane.clock, ssl=ssl.create_default_context())
    lane.channels.append(channel)
    with pytest.raises(AioRpcError) as caught:
        await channel.unary_unary("/x/Y")(b"", timeout=10)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert "certificate" in str(caught.value.details()).lower()


async def test_a_grpc_server_answers_health_and_reflection() -> None:
    server = build_grpc_server(clock=SystemClock(), reflected_services=(SERVICE,))
    endpoint = Endpoint("127.0.0.1", await server.start("127.0.0.1", 0))
    async with grpc_channel(endpoint) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        await server.set_serving("", True)
        status = (await health.Check(health_pb2.HealthCheckRequest(), timeout=10)).status
        assert status == health_pb2.HealthCheckResponse.SERVING
        await server.set_serving("", False)
        status = (await health.Check(health_pb2.HealthCheckRequest(), timeout=10)).status
        assert status == health_pb2.HealthCheckResponse.NOT_SERVING
        asked = reflection_pb2.ServerReflectionRequest(list_services="")
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        async for response in stub.ServerReflectionInfo(iter([asked]), timeout=10):
            names = {service.name for service in response.list_services_response.service}
        assert {SERVICE, "grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"} <= names
    await server.stop(0)


async def test_two_grpc_servers_cannot_share_a_port() -> None:
    first, second = build_grpc_server(clock=SystemClock()), build_grpc_server(clock=SystemClock())
    port = await first.start("127.0.0.1", 0)
    with pytest.raises(OSError, match="cannot bind"):
        await second.start("127.0.0.1", port)
    await first.stop(0)
    await second.stop(0)


async def test_cancelling_a_handler_does_not_stop_its_thread(carrier: Carrier) -> None:
    # The thread of an executor goes on when the awaiting task is cancelled: work handed over completes.
    disk = ThreadedDisk(threads_max=1)
    started, release, finished = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        started.set()
        release.wait(10)
        finished.set()

    async def unary(request: Any, context: Any) -> Any:
        await disk.run(work)
        return echo_pb2.EchoResponse()

    carrier.servicer.Unary = unary  # type: ignore[method-assign]
    stub = await carrier.connect()
    call = stub.Unary(EchoRequest(), timeout=10)
    while not started.is_set():
        await asyncio.sleep(0.005)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert not finished.is_set()
    release.set()
    disk.close()
    assert finished.is_set()
