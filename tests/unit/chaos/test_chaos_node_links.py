"""Links: silent cuts, delays, bandwidth and resets on real sockets, for the lane's protocol objects and the gate."""

from __future__ import annotations

import asyncio
import random
import socket
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from chaos.interfaces import CLIENTS
from chaos.node_gate import Gate
from chaos.node_links import LinkRule, Links, address_of, peer_at
from chaos.node_transport import LinkNetwork
from logcluster.model.ids import Endpoint
from logcluster.rpc.lane.network import LaneProtocol

CUT = LinkRule(is_cut=True)


class Talker(LaneProtocol):
    """A protocol object that remembers what it heard, and answers nothing."""

    def __init__(self) -> None:
        self.transport: Any = None
        self.heard = bytearray()
        self.changed = asyncio.Event()
        self.is_lost = False
        self.error: Exception | None = None
        self.pauses = 0
        self._buffer = bytearray(1000)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def get_buffer(self, sizehint: int) -> Any:
        return memoryview(self._buffer)

    def buffer_updated(self, nbytes: int) -> None:
        self.heard += self._buffer[:nbytes]
        self.changed.set()

    def pause_writing(self) -> None:
        self.pauses += 1

    def resume_writing(self) -> None:
        self.pauses -= 1

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_lost, self.error = True, exc
        self.changed.set()

    async def wait(self, condition: Any, seconds: float = 5) -> float:
        """Wait until the condition holds; returns how long it took, in seconds."""
        began = time.monotonic()
        async with asyncio.timeout(seconds):
            while not condition():
                self.changed.clear()
                await self.changed.wait()
        return time.monotonic() - began


class Broker:
    def __init__(self, broker_id: int) -> None:
        self.links = Links(randomness=random.Random(broker_id))
        self.network = LinkNetwork(self.links, address=address_of(broker_id))
        self.accepted: list[Talker] = []
        self.endpoint = Endpoint(address_of(broker_id), 0)
        self._listener: Any = None

    def _accept(self) -> Talker:
        self.accepted.append(Talker())
        return self.accepted[-1]

    async def listen(self) -> None:
        self._listener = await self.network.listen(self._accept, "ignored", 0, ssl_context=None)
        self.endpoint = Endpoint(self.endpoint.host, self._listener.port)

    async def connect(self, other: Broker) -> tuple[Talker, Talker]:
        mine = await self.network.connect(Talker, other.endpoint, ssl_context=None)
        while not other.accepted or other.accepted[-1].transport is None:
            await asyncio.sleep(0.001)
        return mine, other.accepted[-1]

    def close(self) -> None:
        self._listener.close()
        for talker in self.accepted:
            if talker.transport is not None:
                talker.transport.abort()


@pytest.fixture
async def brokers() -> AsyncIterator[list[Broker]]:
    found = [Broker(0), Broker(1)]
    for broker in found:
        await broker.listen()
    yield found
    for broker in found:
        broker.links.set_rules({})
        broker.close()
    await asyncio.sleep(0.02)


async def test_addresses_tell_who_is_there(brokers: list[Broker]) -> None:
    first, second = brokers
    mine, theirs = await first.connect(second)
    assert (mine.transport.peer, theirs.transport.peer) == (1, 0)
    assert second.links.describe()["0"]["connections"] == 1
    assert [peer_at(text) for text in ("127.1.0.1", "127.1.0.250", "127.0.0.1", "127.1.0.x", "::1", "127.1.0.0")] == [
        0,
        249,
        *[CLIENTS] * 4,
    ]
    with pytest.raises(ValueError, match="address"):
        address_of(250)
    mine.transport.close()


async def test_a_cut_holds_one_direction_silently_until_it_is_healed(brokers: list[Broker]) -> None:
    first, second = brokers
    mine, theirs = await first.connect(second)
    first.links.set_rules({(1, "out"): CUT})
    mine.transport.write(b"held")
    theirs.transport.write(b"passes")
    await mine.wait(lambda: mine.heard == b"passes")
    await asyncio.sleep(0.05)
    assert not theirs.heard
    assert first.links.describe()["1"]["held_out_bytes"] == 4
    first.links.set_rules({})
    mine.transport.write(b", and more")
    await theirs.wait(lambda: theirs.heard == b"held, and more")
    mine.transport.close()


async def test_a_cut_holds_what_is_sent_on_accepted_connections_too(brokers: list[Broker]) -> None:
    first, second = brokers
    mine, theirs = await first.connect(second)
    second.links.set_rules({(0, "out"): CUT})
    theirs.transport.write(b"answer")
    await asyncio.sleep(0.05)
    assert not mine.heard
    second.links.set_rules({})
    await mine.wait(lambda: mine.heard == b"answer")
    mine.transport.close()


async def test_closing_over_a_cut_link_is_not_noticed_until_it_is_healed(brokers: list[Broker]) -> None:
    first, second = brokers
    mine, theirs = await first.connect(second)
    first.links.set_rules({(1, "out"): CUT})
    mine.transport.abort()
    await mine.wait(lambda: mine.is_lost)
    await asyncio.sleep(0.05)
    assert not theirs.is_lost
    first.links.set_rules({})
    await theirs.wait(lambda: theirs.is_lost)


async def test_connecting_over_a_cut_link_waits(brokers: list[Broker]) -> None:
    first, second = brokers
    first.links.set_rules({(1, "out"): CUT})
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await first.connect(second)
    assert not second.accepted
    connecting = asyncio.create_task(first.connect(second))
    await asyncio.sleep(0.02)
    first.links.set_rules({})
    mine, _ = await connecting
    mine.transport.close()


async def test_chunks_are_delayed_in_order(brokers: list[Broker]) -> None:
    first, second = brokers
    mine, theirs = await first.connect(second)
    first.links.set_rules({(1, "out"): LinkRule(delay_ms=60, jitter_ms=30)})
    for number in range(10):
        mine.transport.write(b"%d" % number)
    assert await theirs.wait(lambda: len(theirs.heard) == 10) >= 0.055
    assert theirs.heard == b"0123456789"
    mine.transport.close()


async def test_bandwidth_is_shared_by_the_connections_of_a_link(brokers: list[Broker]) -> None:
    first, second = brokers
    pairs = [await first.connect(second) for _ in range(2)]
    first.links.set_rules({(1, "out"): LinkRule(bytes_per_s=400_000)})
    for mine, _ in pairs:
        mine.transport.write(bytes(60_000))
    took = [await theirs.wait(lambda heard=theirs.heard: len(heard) == 60_000) for _, theirs in pairs]
    assert 0.25 <= sum(took) < 2
    for mine, _ in pairs:
        mine.transport.close()


async def test_a_full_queue_pauses_who_writes(brokers: list[Broker]) -> None:
    first, second = brokers
    mine, theirs = await first.connect(second)
    first.links.set_rules({(1, "out"): CUT})
    mine.transport.write(bytes(2_000_000))
    assert mine.pauses == 1
    assert mine.transport.get_write_buffer_size() == 2_000_000
    mine.transport.close()
    assert not mine.is_lost
    first.links.set_rules({})
    await theirs.wait(lambda: theirs.is_lost)
    assert len(theirs.heard) == 2_000_000


async def test_a_reset_ends_the_connections_of_one_link_once(brokers: list[Broker]) -> None:
    first, second = brokers
    mine, theirs = await first.connect(second)
    assert first.links.reset(CLIENTS) == 0
    assert first.links.reset(1) == 1
    await theirs.wait(lambda: theirs.is_lost)
    await mine.wait(lambda: mine.is_lost)
    assert isinstance(theirs.error, ConnectionResetError)
    assert isinstance(mine.error, ConnectionResetError)
    mine, theirs = await first.connect(second)
    mine.transport.write(b"again")
    await theirs.wait(lambda: theirs.heard == b"again")
    mine.transport.close()


async def client_of(broker: Broker, port: int | None = None) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection(broker.endpoint.host, port or broker.endpoint.port)


async def test_clients_are_cut_off_in_both_directions_by_the_broker(brokers: list[Broker]) -> None:
    broker = brokers[0]
    reader, writer = await client_of(broker)
    writer.write(b"one")
    while not broker.accepted:
        await asyncio.sleep(0.001)
    theirs = broker.accepted[-1]
    await theirs.wait(lambda: theirs.heard == b"one")
    broker.links.set_rules({(CLIENTS, "in"): CUT})
    writer.write(b"two")
    await asyncio.sleep(0.05)
    assert theirs.heard == b"one"
    theirs.transport.write(b"answer")
    assert await reader.readexactly(6) == b"answer"
    broker.links.set_rules({(CLIENTS, "in"): LinkRule(delay_ms=50), (CLIENTS, "out"): CUT})
    await theirs.wait(lambda: theirs.heard == b"onetwo")
    theirs.transport.write(b"unheard")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await reader.read(1)
    broker.links.set_rules({})
    assert await reader.readexactly(7) == b"unheard"
    writer.close()


async def test_a_client_that_connects_while_it_is_cut_off_hears_nothing(brokers: list[Broker]) -> None:
    broker = brokers[0]
    broker.links.set_rules({(CLIENTS, "in"): CUT})
    reader, writer = await client_of(broker)
    while not broker.accepted or broker.accepted[-1].transport is None:
        await asyncio.sleep(0.001)
    broker.accepted[-1].transport.write(b"welcome")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await reader.read(1)
    broker.links.set_rules({})
    assert await reader.readexactly(7) == b"welcome"
    writer.close()


async def test_what_clients_send_is_delayed_and_ends_after_its_data(brokers: list[Broker]) -> None:
    broker = brokers[0]
    broker.links.set_rules({(CLIENTS, "in"): LinkRule(delay_ms=60)})
    _, writer = await client_of(broker)
    began = time.monotonic()
    writer.write(bytes(100_000))
    writer.close()
    while not broker.accepted:
        await asyncio.sleep(0.001)
    theirs = broker.accepted[-1]
    await theirs.wait(lambda: theirs.is_lost)
    assert len(theirs.heard) == 100_000
    assert time.monotonic() - began >= 0.055


async def test_the_gate_relays_under_the_rules_of_clients(brokers: list[Broker]) -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1000):
            writer.write(data)
        writer.close()

    broker = brokers[0]
    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    with socket.create_server((broker.endpoint.host, 0)) as probe:
        port = probe.getsockname()[1]
    upstream = Endpoint("127.0.0.1", server.sockets[0].getsockname()[1])
    async with server, Gate(broker.network, port=port, upstream=upstream):
        reader, writer = await client_of(broker, port)
        data = random.Random(1).randbytes(300_000)
        writer.write(data)
        assert await reader.readexactly(len(data)) == data
        broker.links.set_rules({(CLIENTS, "out"): CUT})
        writer.write(b"x")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await reader.read(1)
        broker.links.set_rules({})
        assert await reader.readexactly(1) == b"x"
        broker.links.reset(CLIENTS)
        with pytest.raises(ConnectionResetError):
            await reader.readexactly(1)
        writer.close()


async def test_the_gate_ends_connections_that_gprc_does_not_take(brokers: list[Broker]) -> None:
    broker = brokers[0]
    with socket.create_server((broker.endpoint.host, 0)) as probe:
        port = probe.getsockname()[1]
    async with Gate(broker.network, port=port, upstream=Endpoint("127.0.0.1", 1)):
        reader, writer = await client_of(broker, port)
        assert await reader.read() == b""
        writer.close()
