"""Garbage on every port, half-open connections, addresses where nobody listens."""

from __future__ import annotations

import asyncio
import json
import random

import pytest
from e2e_support import Raw, run_cli

from logcluster.devcluster.layout import free_ports
from logcluster.record.builder import build_batch
from logcluster.testing import SyncCluster

pytestmark = pytest.mark.cluster

GARBAGE = {
    "noise": random.Random(1).randbytes(4096),
    "zeros": bytes(4096),
    "ones": b"\xff" * 4096,
    "http": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "endless-line": b"A" * 200_000,
    "tls-hello": bytes.fromhex("1603010200010001fc0303") + bytes(200),
    "http2-preface-and-noise": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + random.Random(2).randbytes(500),
}


async def send_garbage(port: int, data: bytes) -> None:
    """Send, and wait until the other side closes or the bytes are away; a reset is an answer, too."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(data)
        await writer.drain()
        writer.write_eof()
        await asyncio.wait_for(reader.read(-1), timeout=15)
    except OSError:
        pass
    finally:
        writer.close()


@pytest.mark.parametrize("kind", list(GARBAGE))
async def test_garbage_on_each_port_ends_that_connection_only(raw: Raw, cluster: SyncCluster, kind: str) -> None:
    topic = f"garbage-{kind}"
    await raw.create_topic(topic)

    for broker_id in cluster.broker_ids:
        for port in cluster.node(broker_id).ports:
            await send_garbage(port, GARBAGE[kind])

    ack = await raw.produce_batch(topic, build_batch([(1, None, b"still here", ())]))
    assert not ack.error.code, ack.error
    assert await raw.fetch_values(topic) == [b"still here"]
    assert all(cluster.pid(broker_id) is not None for broker_id in cluster.broker_ids)


def test_bootstrap_where_nobody_listens_is_unavailable_and_says_so() -> None:
    port = free_ports(1, random.Random())[0].grpc

    finished = run_cli("--bootstrap", f"127.0.0.1:{port}", "--timeout", "3s", "topic", "ls")

    assert finished.returncode in {5, 7}, finished.stderr
    assert str(port) in finished.stderr
    assert "next:" in finished.stderr
    assert "Traceback" not in finished.stderr
    assert finished.stdout == ""


def test_bootstrap_error_is_json_when_json_is_asked_for() -> None:
    port = free_ports(1, random.Random())[0].grpc

    finished = run_cli("topic", "ls", "-o", "json", "--timeout", "2s", bootstrap=f"127.0.0.1:{port}")

    error = json.loads(finished.stderr)["error"]
    assert finished.returncode in {5, 7}
    assert error["message"]
    assert error["name"]


@pytest.mark.parametrize("text", ["nonsense", "host:", "host:99999", ":7070"])
def test_bootstrap_that_is_no_address_is_a_usage_error(text: str) -> None:
    finished = run_cli("--bootstrap", text, "topic", "ls")

    assert finished.returncode == 2
    assert "HOST:PORT" in finished.stderr or "port" in finished.stderr
