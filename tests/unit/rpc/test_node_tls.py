"""A node's certificate: what is refused at the start, and what happens when its files change under a running node."""

from __future__ import annotations

import asyncio
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from grpc_health.v1 import health_pb2, health_pb2_grpc

from logcluster.config import TlsSection
from logcluster.metrics.catalogue import CATALOGUE
from logcluster.metrics.exposition import Sink
from logcluster.metrics.node_sources import tls_source
from logcluster.model.errors import InvalidConfig
from logcluster.model.ids import Endpoint
from logcluster.model.tls import Tls
from logcluster.rpc.grpc_carrier import build_grpc_server, grpc_channel
from logcluster.rpc.lane.channel import LaneChannel
from logcluster.rpc.lane.server import LaneServer
from logcluster.rpc.node_tls import NodeTls, expiry, load_tls
from logcluster.rpc.tls import ClientTls, client_context
from logcluster.runtime.clock import SystemClock
from logcluster.runtime.disk import InlineDisk


class Folder:
    """The three files of a node, and the means to write others over them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.cert_file, self.key_file, self.ca_file = path / "tls.crt", path / "tls.key", path / "ca.crt"

    def write(self, authority: trustme.CA, **options: Any) -> trustme.LeafCert:
        issued = authority.issue_cert("localhost", **options)
        self.cert_file.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        self.key_file.write_bytes(issued.private_key_pem.bytes())
        self.ca_file.write_bytes(authority.cert_pem.bytes())
        return issued

    def section(self, **more: Any) -> TlsSection:
        return TlsSection(cert_file=str(self.cert_file), key_file=str(self.key_file), ca_file=str(self.ca_file), **more)

    def tls(self) -> Tls:
        return Tls(ca_file=self.ca_file, cert_file=self.cert_file, key_file=self.key_file)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def other() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def folder(tmp_path: Path, authority: trustme.CA) -> Folder:
    made = Folder(tmp_path)
    made.write(authority)
    return made


def node_tls(folder: Folder, **more: Any) -> NodeTls:
    return NodeTls(folder.section(**more), clock=SystemClock(), disk=InlineDisk())


def shown(tls: NodeTls) -> dict[str, float]:
    sink = Sink(CATALOGUE.values())
    tls_source(tls)(sink)
    return {sample.name: sample.value for family in sink.families for sample in family.samples}


async def serial_number(port: int, context: ssl.SSLContext) -> int:
    """Of the certificate that a listener shows."""
    _, writer = await asyncio.open_connection("localhost", port, ssl=context)
    encoded = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.transport.abort()
    return x509.load_der_x509_certificate(encoded).serial_number


def serial_of(issued: trustme.LeafCert) -> int:
    return x509.load_pem_x509_certificate(issued.cert_chain_pems[0].bytes()).serial_number


@pytest.mark.parametrize("name", ["cert_file", "key_file", "ca_file"])
def test_a_missing_or_empty_file_is_named(folder: Folder, name: str) -> None:
    path: Path = getattr(folder, name)
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(InvalidConfig, match=rf"tls\.{name}: {path} holds no .* in PEM form"):
        load_tls(folder.section())
    path.unlink()
    with pytest.raises(InvalidConfig, match=rf"tls\.{name}: cannot read {path}: No such file"):
        load_tls(folder.section())


def test_a_key_of_another_certificate_is_named(folder: Folder, authority: trustme.CA) -> None:
    folder.key_file.write_bytes(authority.issue_cert("localhost").private_key_pem.bytes())
    with pytest.raises(InvalidConfig, match=r"tls\.key_file: .* is not the key of the certificate in") as caught:
        load_tls(folder.section())
    assert caught.value.definite
    assert caught.value.hint


def test_an_encrypted_key_is_named_and_nobody_is_asked_for_a_password(folder: Folder) -> None:
    key = serialization.load_pem_private_key(folder.key_file.read_bytes(), None)
    folder.key_file.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    with pytest.raises(InvalidConfig, match="is encrypted"):
        load_tls(folder.section())


def test_a_certificate_in_pieces_is_refused(folder: Folder) -> None:
    folder.cert_file.write_bytes(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    with pytest.raises(InvalidConfig, match=r"tls\.cert_file"):
        load_tls(folder.section())


def test_what_expires_first_of_a_chain_counts(authority: trustme.CA) -> None:
    soon = datetime(2027, 3, 4, 5, 6, 7, tzinfo=UTC)
    late = authority.issue_cert("localhost").cert_chain_pems[0].bytes()
    early = authority.issue_cert("localhost", not_after=soon).cert_chain_pems[0].bytes()
    assert expiry(late + early) == expiry(early) == soon.timestamp()


async def test_renewed_files_serve_new_connections_and_the_old_ones_go_on(
    folder: Folder, authority: trustme.CA, other: trustme.CA
) -> None:
    clock = SystemClock()
    first = serial_of(folder.write(authority, not_after=datetime.now(UTC) + timedelta(days=3)))
    tls = node_tls(folder, client_auth="required")
    server = LaneServer(clock=clock, ssl=tls.server_context)
    port = await server.start("localhost", 0)
    old = client_context(folder.tls())
    assert await serial_number(port, old) == first
    channel = LaneChannel(Endpoint("localhost", port), clock=clock, ssl=old)
    await channel.connect()
    before = tls.expires_at_s

    second = serial_of(folder.write(other))
    await tls.look()
    new = client_context(folder.tls())
    assert await serial_number(port, new) == second
    assert tls.expires_at_s > before
    assert tls.client_context() is not old
    assert channel.is_connected
    # Both authorities changed: who knows the old one is out, in either direction.
    with pytest.raises(ssl.SSLCertVerificationError):
        await serial_number(port, old)
    stranger = Folder(folder.path / "old")
    stranger.path.mkdir()
    stranger.write(authority)
    stranger.ca_file.write_bytes(other.cert_pem.bytes())
    late = LaneChannel(Endpoint("localhost", port), clock=clock, ssl=client_context(stranger.tls()))
    with pytest.raises(Exception, match="refuses this side's certificate"):
        await late.connect()

    for closing in (channel, late):
        await closing.close()
    await server.stop(0)
    assert server.statistics()["connections"] == 0


async def test_a_broken_renewal_keeps_the_old_certificate_and_shows(folder: Folder, authority: trustme.CA) -> None:
    tls = node_tls(folder)
    expires, context = tls.expires_at_s, tls.client_context()
    good = folder.key_file.read_bytes()
    folder.key_file.write_bytes(authority.issue_cert("localhost").private_key_pem.bytes())
    await tls.look()
    await tls.look()
    assert (tls.expires_at_s, tls.client_context()) == (expires, context)
    assert shown(tls) == {
        "logcluster_tls_certificate_expiry_timestamp_seconds": expires,
        "logcluster_tls_reload_failures_total": 2,
    }
    folder.key_file.write_bytes(good)
    await tls.look()
    assert tls.reload_failures == 2


async def test_failed_handshakes_leave_no_connection_behind(folder: Folder) -> None:
    server = LaneServer(clock=SystemClock(), ssl=node_tls(folder, client_auth="required").server_context)
    port = await server.start("localhost", 0)
    for _ in range(3):
        reader, writer = await asyncio.open_connection("localhost", port)
        writer.write(b"\x93LCLANE and no TLS at all")
        assert await reader.read() == b""
        writer.close()
    assert server.statistics()["connections"] == 0
    await server.stop(0)


async def test_a_closed_channel_leaves_no_socket_to_a_loop_that_ends(folder: Folder) -> None:
    clock = SystemClock()
    server = LaneServer(clock=clock, ssl=node_tls(folder).server_context)
    port = await server.start("localhost", 0)
    channel = LaneChannel(Endpoint("localhost", port), clock=clock, ssl=ClientTls(folder.tls()).context)
    await channel.connect()
    (connection,) = channel._connections
    assert connection._transport is not None
    sock = connection._transport.get_extra_info("socket")
    await channel.close()
    await asyncio.sleep(0)
    assert sock.fileno() == -1
    await server.stop(0)


async def test_a_lane_without_tls_says_so_to_a_client_with_it(folder: Folder) -> None:
    clock = SystemClock()
    server = LaneServer(clock=clock)
    port = await server.start("localhost", 0)
    channel = LaneChannel(Endpoint("localhost", port), clock=clock, ssl=ClientTls(folder.tls()).context)
    with pytest.raises(Exception, match="the peer does not speak TLS"):
        async with asyncio.timeout(2):
            await channel.connect()
    await channel.close()
    await server.stop(0)


def test_a_client_uses_renewed_files_and_keeps_the_old_ones_while_they_are_broken(
    folder: Folder, other: trustme.CA
) -> None:
    tls = ClientTls(folder.tls())
    first = tls.context()
    assert tls.context() is first
    folder.ca_file.write_bytes(b"half of a fi")
    assert tls.context() is first
    folder.write(other)
    assert tls.context() is not first


def test_a_certificate_needs_its_key() -> None:
    with pytest.raises(InvalidConfig, match="cert_file is given without key_file"):
        Tls(cert_file="a.crt")
    with pytest.raises(InvalidConfig, match="key_file is given without cert_file"):
        Tls(key_file="a.key")


async def test_a_grpc_channel_waits_for_a_slow_handshake(folder: Folder) -> None:
    clock, tls = SystemClock(), node_tls(folder)
    server = build_grpc_server(clock=clock, credentials=tls.grpc_credentials())
    port = await server.start("127.0.0.1", 0)

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            writer.write(data)
        writer.close()

    async def late(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # Longer than the shortest time between two attempts, which bounds an attempt, too.
        await clock.sleep_ms(300)
        behind, ahead = await asyncio.open_connection("127.0.0.1", port)
        async with asyncio.TaskGroup() as group:
            group.create_task(forward(reader, ahead))
            group.create_task(forward(behind, writer))

    proxy = await asyncio.start_server(late, "127.0.0.1", 0)
    endpoint = Endpoint("localhost", proxy.sockets[0].getsockname()[1])
    async with grpc_channel(endpoint, credentials=ClientTls(folder.tls()).credentials()) as channel:
        await server.set_serving("", True)
        answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=10)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    proxy.close()
    await server.stop(0)
