"""Three real brokers that speak TLS and want certificates: what works as without, and who is kept out, and told why."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import pytest
import pytest_asyncio
import trustme
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

import logcluster
from logcluster import sync
from logcluster.rpc.tls import client_context
from logcluster.testing import Cluster

pytestmark = [pytest.mark.cluster, pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(120)]

Transport = Literal["lane", "grpc"]
CARRIERS: tuple[Transport, ...] = ("lane", "grpc")
both_carriers = pytest.mark.parametrize("transport", CARRIERS)
CLEAR_ERROR_S = 1.5
"""On two busy cores; alone it takes some 50 ms."""


class Files:
    """An authority, and certificates of it, in a directory."""

    def __init__(self, directory: Path) -> None:
        self.authority = trustme.CA()
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self.ca_file = directory / "ca.crt"
        self.authority.cert_pem.write_to_path(self.ca_file)

    def issue(self, name: str, *hosts: str, **options: Any) -> tuple[Path, Path]:
        """Write NAME.crt and NAME.key, over what stands there."""
        issued = self.authority.issue_cert(*hosts, common_name=name, **options)
        cert_file, key_file = self.directory / f"{name}.crt", self.directory / f"{name}.key"
        chain = b"".join(blob.bytes() for blob in issued.cert_chain_pems)
        for path, content in ((cert_file, chain), (key_file, issued.private_key_pem.bytes())):
            new = path.with_suffix(f"{path.suffix}.new")
            new.write_bytes(content)
            new.replace(path)
        return cert_file, key_file

    def tls(self, name: str | None = None) -> logcluster.Tls:
        """How a client of this authority connects, with a certificate of that name."""
        if name is None:
            return logcluster.Tls(ca_file=self.ca_file)
        cert_file, key_file = self.issue(name, f"{name}.example")
        return logcluster.Tls(ca_file=self.ca_file, cert_file=cert_file, key_file=key_file)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return Files(tmp_path_factory.mktemp("tls") / "ours")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def strangers(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return Files(tmp_path_factory.mktemp("tls") / "theirs")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster(files: Files) -> AsyncIterator[Cluster]:
    cert_file, key_file = files.issue("node", "127.0.0.1", "localhost")
    section = {
        "cert_file": str(cert_file),
        "key_file": str(key_file),
        "ca_file": str(files.ca_file),
        "client_auth": "required",
        "reload_interval_s": 1,
    }
    async with Cluster(brokers=3, settings={"tls": section}, tls=files.tls("tester")) as running:
        async with running.client() as client:
            for topic in ("orders", "renewal"):
                await client.admin.create_topic(topic, partitions=1, replication_factor=3)
        yield running


async def refused(cluster: Cluster, transport: Transport, tls: logcluster.Tls | bool) -> str:
    """Why a client cannot connect; it must be told at once."""
    with pytest.raises(logcluster.TlsHandshakeFailed) as caught:
        async with asyncio.timeout(CLEAR_ERROR_S):
            await enter(cluster.client(transport=transport, tls=tls, connect_timeout_ms=30_000))
    assert caught.value.definite
    return caught.value.message


async def enter(client: Any) -> None:
    async with client:
        pass


async def test_a_leader_may_die_under_producers_of_both_carriers(cluster: Cluster) -> None:
    sent = {transport: [b"%s-%d" % (transport.encode(), number) for number in range(40)] for transport in CARRIERS}
    half_sent = asyncio.Barrier(3)

    async def produce(transport: Transport) -> None:
        async with cluster.client(transport=transport) as client, client.producer() as producer:
            for value in sent[transport][:20]:
                await producer.send("orders", value)
            await half_sent.wait()
            for value in sent[transport][20:]:
                await producer.send("orders", value)

    async with asyncio.TaskGroup() as group:
        for transport in CARRIERS:
            group.create_task(produce(transport))
        leader = await cluster.leader_of("orders", 0)
        await half_sent.wait()
        await cluster.kill(leader)
    for transport in CARRIERS:
        async with (
            cluster.client(transport=transport) as client,
            client.consumer("orders", start="earliest", until="end") as consumer,
        ):
            values = [record.value async for record in consumer]
        for other in CARRIERS:
            assert [value for value in values if value in sent[other]] == sent[other]
        assert len(values) == 80
    await cluster.start(leader)


@both_carriers
async def test_a_certificate_of_another_authority_is_refused(
    cluster: Cluster, files: Files, strangers: Files, transport: Transport
) -> None:
    assert "not signed by a trusted authority" in await refused(cluster, transport, strangers.tls("tester"))
    theirs = strangers.tls("tester")
    mixed = logcluster.Tls(ca_file=files.ca_file, cert_file=theirs.cert_file, key_file=theirs.key_file)
    assert "refuses this side's certificate" in await refused(cluster, transport, mixed)


@both_carriers
async def test_who_shows_no_certificate_is_refused(cluster: Cluster, files: Files, transport: Transport) -> None:
    assert "or wants one" in await refused(cluster, transport, files.tls())


@both_carriers
async def test_a_plain_client_is_told_that_the_port_speaks_tls(cluster: Cluster, transport: Transport) -> None:
    assert "the peer speaks TLS, and this side does not" in await refused(cluster, transport, False)


async def test_the_blocking_client_takes_the_same_argument(cluster: Cluster, files: Files) -> None:
    def ask() -> int:
        with sync.connect(cluster.bootstrap, tls=files.tls("tester")) as client:
            return len(client.admin.list_brokers())

    assert await asyncio.to_thread(ask) == 3


async def test_the_command_line_in_a_nodes_environment_speaks_tls_by_itself(cluster: Cluster, files: Files) -> None:
    tls = files.tls("tester")
    environment = {
        **os.environ,
        "LOGCLUSTER_TLS_CA_FILE": str(tls.ca_file),
        "LOGCLUSTER_TLS_CERT_FILE": str(tls.cert_file),
        "LOGCLUSTER_TLS_KEY_FILE": str(tls.key_file),
    }
    command = [sys.executable, "-m", "logcluster", "broker", "ls", "-o", "json", "--bootstrap", cluster.bootstrap]

    def run(*more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*command, *more], env=environment, capture_output=True, text=True, timeout=60, check=False
        )

    done = await asyncio.to_thread(run)
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)) == 3
    done = await asyncio.to_thread(run, "--no-tls")
    assert done.returncode == 5
    error = json.loads(done.stderr)["error"]
    assert error["name"] == "TlsHandshakeFailed"
    assert "the peer speaks TLS" in error["message"]


async def served(port: int, tls: logcluster.Tls) -> bytes:
    """The certificate that a port shows."""
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=client_context(tls))
    encoded: bytes = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.transport.abort()
    return encoded


async def test_a_renewed_certificate_is_served_on_both_ports_without_a_restart(cluster: Cluster, files: Files) -> None:
    tls, ports = files.tls("tester"), cluster.node(0).ports
    async with cluster.client() as client, client.producer() as producer:
        await producer.send("renewal", b"before")
        soon = (datetime.now(UTC) + timedelta(days=5)).replace(microsecond=0)
        cert_file, _ = files.issue("node", "127.0.0.1", "localhost", not_after=soon)
        wanted = x509.load_pem_x509_certificates(cert_file.read_bytes())[0].public_bytes(Encoding.DER)
        async with asyncio.timeout(20):
            while await served(ports.lane, tls) != wanted or await served(ports.grpc, tls) != wanted:
                await asyncio.sleep(0.1)
        # Over the connections that were there before, and over new ones.
        await producer.send("renewal", b"after")
    async with cluster.client(transport="grpc", tls=tls) as client:
        assert len(await client.admin.list_brokers()) == 3
    page = await asyncio.to_thread(
        lambda: urllib.request.urlopen(f"http://127.0.0.1:{ports.http}/metrics", timeout=10).read().decode()
    )
    lines = [line for line in page.splitlines() if line.startswith("logcluster_tls_certificate_expiry")]
    assert [float(line.split()[1]) for line in lines] == [soon.timestamp()]
    assert "tls_certificate_reloaded" in cluster.logs(0)
